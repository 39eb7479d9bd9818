"""Check this project on the devices of this machine, without a data set: parity, speed, resuming, several processes.

Prints a table. The output folder gets ascend_report.json and logs/, to be sent back with an issue.
"""
import argparse
import glob
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..core import errors
from ..core.backups import back_up_existing, contains_files
from ..core.errors import UserError
from ..core.files import atomic_write
from ..inference.options import OptionParser
from ..launch.ascend_checks import CHECKS, advice
from ..launch.device_check import FAILED, Result, Setting, run_checks, write_report
from ..model_utils.local_adapter import NPUS, has_npu

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
    parser.add_argument("--devices", metavar="IDS", help="device ids, such as 0-7 or 0,2,4 (default: all)")
    parser.add_argument("--device_target", choices=["auto", "Ascend", "CPU"], default="auto",
                        help="auto is Ascend if available, else CPU (default: auto)")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="time limit (default: 10)")
    parser.add_argument("--output", default="ascend_check", metavar="DIR",
                        help="folder to write (default: %(default)s)")
    options = parser.parse_args(argv)
    target = options.device_target if options.device_target != "auto" else "Ascend" if has_npu() else "CPU"
    if target == "Ascend" and not has_npu():
        raise UserError(f"device_target is Ascend, but this machine has no Ascend device ({NPUS}); --device_target CPU "
                        "checks the CPU")
    if options.minutes <= 0:
        raise UserError(f"--minutes {options.minutes:g}: expected a number above 0")
    ids = device_ids(options.devices, target)
    setting = prepare(options.output, target, ids, options.minutes)
    print(f"{target}, devices {','.join(map(str, ids))}; at most {options.minutes:g} minutes; output: {options.output}")
    print(f"{'check':<28} {'':<8} {'s':>6}  result", flush=True)
    results = run_checks(setting, CHECKS, lambda result: print(row(result), flush=True))
    advised = advice(setting)
    write_report(setting, results, advised)
    print(*(f"advice: {line}" for line in advised), f"report: {options.output}/ascend_report.json; send it with the "
          f"folder {options.output}/logs", sep="\n")
    if any(result.status == FAILED for result in results):
        sys.exit(1)


def device_ids(text: str | None, target: str) -> list[int]:
    """The device ids that the option --devices names; all devices without it, two processes on a CPU."""
    if text is None:
        return [0, 1] if target == "CPU" else sorted(int(path.rpartition("davinci")[2]) for path in glob.glob(NPUS))
    ids: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", word, re.ASCII)
        if not match:
            raise UserError(f"--devices {text}: expected ids such as 0-7 or 0,2,4")
        first, last = int(match[1]), int(match[2] or match[1])
        ids.extend(range(first, last + 1))
    if not ids or len(set(ids)) < len(ids):
        raise UserError(f"--devices {text}: no device, or one twice")
    return ids


def prepare(folder: str, target: str, ids: list[int], minutes: float) -> Setting:
    """The Setting, with an empty output folder and its configuration."""
    folder = os.path.abspath(folder)
    back_up_existing(folder, contains_files("ascend_report.json", "check.yaml"))
    with errors.writing(folder):
        os.makedirs(os.path.join(folder, "logs"))
    sizes: dict[str, Any] = SIZES[target]
    config = {**sizes["config"], "epoch_size": 1000, "save_checkpoint_steps": 3 * sizes["steps"],
              "eval_config": {"keep_res": False}}
    with atomic_write(os.path.join(folder, "check.yaml")) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)  # JSON is YAML
    return Setting(folder, target, ids, sizes["images"], sizes["steps"], config, time.monotonic() + 60 * minutes)


def row(result: Result) -> str:
    """A check's line of the table."""
    return f"{result.name:<28} {result.status:<8} {result.seconds:>6.0f}  {result.note}"
