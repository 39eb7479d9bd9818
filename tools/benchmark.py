"""Time every part of the detector on this machine, side by side with what a reader plugs in.

A peer is a Python file with a function peers(part), which returns {name: make}. make(case, inputs) returns a function without arguments
that does what this project's row of that name does, or None. tests/torch_peer.py is one, and taken where PyTorch is installed.
Each part runs in a process of its own; this project and its peers take turns. A row is the median of several runs, with the least
and the most.
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
TIMES = contains_mark('{\n "machine": ')  # the test for write_json whether a file is of an earlier call
PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "torch")
THREADS = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "GLOG_v")


def main(argv=None):
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), help="time this part alone")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    parser.add_argument("--runs", type=int, default=7, help="runs of each row that count (default: %(default)s)")
    parser.add_argument("--peer", action="append", default=[], metavar="FILE.py",
                        help="time this file's functions beside ours; may be repeated")
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
    """Processor, cores, versions and thread settings, as a line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    settings = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    return f"{model}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, {', '.join(versions + settings)}"


def run_part(part, options):
    """Time a part in a process of its own, printing its rows as they come; returns them."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.json")
        words = [word for peer in options.peer for word in ("--peer", os.path.abspath(peer))]
        code = subprocess.run([sys.executable, os.path.abspath(__file__), CHILD, part, path, str(options.runs), *words]).returncode
        if code:
            sys.exit(code)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def load_peer(path):
    """The function peers of a Python file. Raises UserError if it has none."""
    spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(path))[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "peers"):
        raise UserError(f"{path} has no function peers(part)")
    return module.peers


def child(argv):
    """Time one part: the words are the part, the file for its rows, the runs, and --peer options."""
    part, path, runs, *peers = argv
    time_cases(part, PARTS[part](int(runs)), path, int(runs), [load_peer(peer) for peer in peers[1::2]])


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        errors.run(functools.partial(child, sys.argv[2:]))
    errors.run(main)
