"""Time all parts of the detector on this machine, side by side with other implementations.

Another implementation is a Python file with a function peers(part) that returns {name: make}. make(case, inputs)
returns a function without arguments that does the same work as this project's row named `case`, or None.
tests/torch_peer.py is used if PyTorch is installed. Each part runs in a separate process, in which this project and its
peers take turns. Each row has the median, minimum and maximum of several runs.
"""
import argparse
import contextlib
import functools
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT

from src.core import errors
from src.core.backups import contains_mark, require_ours
from src.core.errors import UserError
from src.core.files import write_json
from src.core.timing import time_cases
from src.inference.options import OptionParser
from src.model_utils.mindspore_version import require_mindspore
from tools.benchmark_cases import PARTS

CHILD = "--part"
TIMES = contains_mark('{\n "machine": ')  # tests whether a file was written by an earlier run
PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "torch")
THREADS = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "GLOG_v")


def main(argv=None):
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), help="time only this part")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to this file")
    parser.add_argument("--runs", type=int, default=7,
                        help="timed runs per row, after a warm-up (default: %(default)s)")
    parser.add_argument("--peer", action="append", default=[], metavar="FILE.py",
                        help="file of another implementation to compare with; may be repeated")
    options = parser.parse_args(argv)
    if options.runs < 1:
        raise UserError(f"--runs is {options.runs}; expected at least 1")
    if options.json:
        require_ours(options.json, TIMES, option="--json")
    for path in options.peer:
        errors.require_file(path, "peer (--peer)")
    if importlib.util.find_spec("torch"):
        options.peer.append(os.path.join(ROOT, "tests", "torch_peer.py"))
    require_mindspore()
    print(describe_machine(), flush=True)
    rows = []
    for part in [options.only] if options.only else PARTS:
        rows += run_part(part, options)
    if options.json:
        write_json(options.json, {"machine": describe_machine(), "rows": rows}, TIMES)


def describe_machine():
    """Describe processor, cores, package versions and thread settings in one line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    settings = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    software = ", ".join([f"Python {platform.python_version()}", *versions, *settings])
    return f"{model}, {len(os.sched_getaffinity(0))} cores; {software}"


def run_part(part, options):
    """Time a part in a separate process, which prints its rows; return the rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.json")
        peers = [argument for peer in options.peer for argument in ("--peer", os.path.abspath(peer))]
        command = [sys.executable, os.path.abspath(__file__), CHILD, part, path, str(options.runs), *peers]
        if code := subprocess.run(command).returncode:
            sys.exit(code)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def load_peer(path):
    """Return the function peers of a Python file. Raises UserError if it has none."""
    spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(path))[0], path)
    if not spec:
        raise UserError(f"--peer {path}: expected a Python file, FILE.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "peers"):
        raise UserError(f"{path} has no function peers(part)")
    return module.peers


def child(argv):
    """Time one part; argv is the part, the output file, the number of runs, and --peer options."""
    part, path, runs, *peers = argv
    time_cases(part, PARTS[part](int(runs)), path, int(runs), [load_peer(peer) for peer in peers[1::2]])


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        errors.run(functools.partial(child, sys.argv[2:]))
    errors.run(main)
