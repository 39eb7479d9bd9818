"""Check this project on the devices of this machine, without a data set: parity, speed, resuming, several processes.

Prints a table. The output folder gets ascend_report.json and logs/, to be sent back with an issue.
"""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..core import errors
from ..core.backups import back_up_existing, contains_files
from ..core.errors import UserError
from ..core.files import atomic_write
from ..inference.options import OptionParser
from ..launch.ascend_checks import CHECKS
from ..launch.device_check import FAILED, NO_TIME, VISIBLE, Result, Setting, run_checks, write_report
from ..model_utils.local_adapter import NPUS, has_npu, require_device
from ..model_utils.mindspore_version import require_mindspore

# Training at the recipe's size; on a CPU, something that takes three minutes on two cores.
SIZES = {
    "Ascend": {"images": (320, 64, 512), "steps": 60, "config": {
        "dataset_config": {"input_res_train": [512, 512], "input_res_test": [512, 512]},
        "train_config": {"batch_size": 16}, "export_config": {"input_res": [512, 512]}}},
    "CPU": {"images": (48, 8, 64), "steps": 9, "config": {
        "net_config": {"num_stacks": [1, 1, 1, 1]},
        "dataset_config": {"input_res_train": [64, 64], "input_res_test": [64, 64]},
        "train_config": {"batch_size": 4}, "export_config": {"input_res": [64, 64]}}},
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", metavar="IDS", help="device ids of this machine, such as 0-7 or 0,2,4 (default: "
                                                         f"those in {VISIBLE}, else all)")
    parser.add_argument("--device_target", choices=["auto", "Ascend", "CPU"], default="auto",
                        help="auto is Ascend if available, else CPU (default: auto)")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="time limit (default: 10)")
    parser.add_argument("--output", default="ascend_check", metavar="DIR",
                        help="folder to write (default: %(default)s)")
    options = parser.parse_args(argv)
    target = options.device_target if options.device_target != "auto" else "Ascend" if has_npu() else "CPU"
    require_device(target, "--device_target CPU checks the CPU")
    if not 0 < options.minutes < 1e6:
        raise UserError(f"--minutes {options.minutes:g}: expected a number above 0")
    ids = device_ids(options.devices, target)
    require_mindspore()
    setting = prepare(options.output, target, ids, options.minutes)
    # When the terminal closes, the running check ends as with Ctrl-C.
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    print(f"{target}, devices {','.join(map(str, ids))}; time limit: {options.minutes:g} min; output: {options.output}")
    print(f"{'check':<28} {'':<8} {'s':>6}  result", flush=True)
    try:
        results = run_checks(setting, CHECKS, lambda result: print(row(result), flush=True))
    except KeyboardInterrupt:
        print(f"the checks so far: {options.output}")
        raise
    finally:
        shutil.rmtree(setting.work(), ignore_errors=True)
    advised = advice(setting)
    write_report(setting, results, advised)
    print(*(f"advice: {line}" for line in advised), f"to send with an issue: {options.output}", sep="\n")
    if any(result.status in (FAILED, NO_TIME) for result in results):
        sys.exit(1)


def device_ids(text: str | None, target: str) -> list[int]:
    """The device ids that the option --devices names. Without it: on Ascend those in VISIBLE, else all; two processes
    on a CPU."""
    present = sorted(int(path.rpartition("davinci")[2]) for path in glob.glob(NPUS))
    if text is None and target == "Ascend":
        text = os.environ.get(VISIBLE) or ",".join(map(str, present))
    ids: list[int] = []
    for word in ("0-1" if text is None else text).split(","):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", word.strip(), re.ASCII)
        if not match:
            raise UserError(f"--devices {text}: expected ids such as 0-7 or 0,2,4")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UserError(f"--devices {text}: {word} is reversed; write {last}-{first}")
        ids.extend(range(first, last + 1))
    if len(set(ids)) < len(ids):
        raise UserError(f"--devices {text}: a device twice")
    if target == "CPU" and len(ids) > (os.cpu_count() or 1):
        raise UserError(f"--devices {text}: {len(ids)} processes, but this machine has {os.cpu_count()} processors")
    if target == "Ascend" and (missing := sorted(set(ids) - set(present))):
        raise UserError(f"--devices {text}: this machine has no device {missing[0]}, only "
                        f"{', '.join(map(str, present))}")
    return ids


def prepare(folder: str, target: str, ids: list[int], minutes: float) -> Setting:
    """The Setting, with an empty output folder and its configuration."""
    folder = os.path.abspath(folder)
    back_up_existing(folder, contains_files("ascend_report.json", "check.yaml"))
    with errors.writing(folder):
        os.makedirs(os.path.join(folder, "logs"))
        os.makedirs(os.path.join(folder, "work"))
    sizes: dict[str, Any] = SIZES[target]
    config = {**sizes["config"], "epoch_size": 1000, "save_checkpoint_steps": 10000,
              "eval_config": {"keep_res": False}}
    with atomic_write(os.path.join(folder, "check.yaml")) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)  # JSON is YAML
    return Setting(folder, target, ids, sizes["images"], sizes["steps"], config, time.monotonic() + 60 * minutes,
                   limit=20 * minutes)


def row(result: Result) -> str:
    """A check's line of the table."""
    return f"{result.name:<28} {result.status:<8} {result.seconds:>6.0f}  {result.note}"


def advice(setting: Setting) -> list[str]:
    """What the results recommend for this machine; nothing on a CPU, whose small sizes say little."""
    lines: list[str] = []
    found = setting.found
    if setting.target == "CPU":
        return lines
    if "native" in found and "composite" in found:
        lines.append(faster("--net_config.dcn_impl", {"native": found["native"], "composite": found["composite"]}))
    for alone, sunk in (("native", "sink"), ("all_devices", "all_devices_sink")):
        if alone in found and sunk in found:
            lines.append(f"{faster('--enable_data_sink', {'false': found[alone], 'true': found[sunk]})} ({alone})")
    used, total = found.get("device_memory"), found.get("total_memory")
    if used and total:
        batch = setting.config["train_config"]["batch_size"]
        lines.append(f"--train_config.batch_size up to {int(batch * 0.9 * total / 2**30 / used)}: {batch} take {used} "
                     f"of {total / 2**30:.0f} GB, if all of it grows with the batch")
    return lines


def faster(option: str, rates: dict[str, float]) -> str:
    """Which of two values {value: images/s} an option should have, if the difference exceeds the noise of such runs."""
    low, high = sorted(rates, key=rates.__getitem__)
    numbers = ", ".join(f"{value} {rate}" for value, rate in rates.items())
    if rates[high] < 1.05 * rates[low]:
        return f"{option}: no clear difference ({numbers} images/s)"
    return f"{option} {high}: {numbers} images/s"
