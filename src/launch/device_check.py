"""A check of this project on a machine's devices: commands that run one after another, a table, a report.

Every check runs the project's own commands in processes of their own, so that a crash of one leaves the others.
"""
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from ..core.files import write_json
from ..core.project import ROOT
from ..model_utils.local_adapter import HCCL_CONFIG, RANK_TABLE
from ..runs.record import read_training_log

PASSED, FAILED, NOT_RUN, NO_TIME = "pass", "FAIL", "not run", "no time"
VISIBLE = "ASCEND_RT_VISIBLE_DEVICES"


class Failed(Exception):
    """A check failed, with a sentence for the table and numbers for the report."""

    def __init__(self, note: str, numbers: dict | None = None) -> None:
        super().__init__(note)
        self.numbers = numbers or {}


class NotRun(Exception):
    """A check does not apply here; with the reason for the table."""


class NoTime(Exception):
    """The time was over before a check began."""


@dataclass
class Result:
    """One check's outcome: numbers and text for the report, note for the table."""

    name: str
    status: str
    seconds: float
    note: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass
class Setting:
    """Where and how to check.

    folder gets the report, logs/ and, until the end, work/; target is Ascend or CPU; devices, their ids on the machine
    (the commands see only these, numbered from 0); steps, of a training run; images, the numbers of images to train and
    to evaluate on, and their side; config, for all commands; deadline, the time.monotonic() at which the check ends;
    limit, the seconds for one command; found, what checks leave for later ones and for the advice.
    """

    folder: str
    target: str
    devices: list[int]
    images: tuple[int, int, int]
    steps: int
    config: dict[str, Any]
    deadline: float
    limit: float
    found: dict[str, Any] = field(default_factory=dict)

    def path(self, *names: str) -> str:
        """A path in the folder."""
        return os.path.join(self.folder, *names)

    def work(self, *names: str) -> str:
        """A path in the folder for files that are removed at the end."""
        return self.path("work", *names)

    def keep(self, path: str, name: str) -> None:
        """Copy a file of work/, if it exists, to logs/NAME."""
        if os.path.exists(self.work(path)):
            os.makedirs(os.path.dirname(self.path("logs", name)), exist_ok=True)
            shutil.copyfile(self.work(path), self.path("logs", name))

    def configuration(self) -> list[str]:
        """The options that all commands share."""
        return ["--config_path", self.path("check.yaml"), "--device_target", self.target]

    def training(self, name: str, *options: object, steps: int = 0, save: bool = False) -> list[str]:
        """The command of a training run, by default of self.steps, that writes to the folder work/NAME."""
        return ["train.py", *self.configuration(), "--mindrecord_dir", self.work("mindrecord"),
                "--save_checkpoint_path", self.work(name), "--save_result_dir", self.work(name),
                "--enable_save_ckpt", str(save).lower(), "--train_steps", str(steps or self.steps), *map(str, options)]

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str] = {}, cwd: str = "") -> str:
        """Run a command, by default one of the project's scripts; return what logs/NAME.txt holds.

        Raises Failed if it fails or does not end in time, NoTime if there is none left to begin.
        """
        process = self.start(name, command, environment, cwd)
        limit = max(1.0, min(self.limit, self.deadline - time.monotonic()))
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {limit:.0f} s: {last_line(self.log(name))} (logs/{name}.txt)") from None
        finally:
            end(process)
        text = self.log(name)
        if code:
            raise Failed(f"exit code {code}: {last_line(text)} (logs/{name}.txt)")
        return text

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] = {},
              cwd: str = "") -> subprocess.Popen:
        """Start a command whose output goes to logs/NAME.txt. Raises NoTime."""
        if time.monotonic() >= self.deadline:
            raise NoTime
        if command[0].endswith(".py"):
            command = [sys.executable, os.path.join(ROOT, command[0]), *command[1:]]
        # A launcher's variables, left in the shell by another job, would change how graphs are compiled.
        inherited = {key: value for key, value in os.environ.items() if key not in (*RANK_TABLE, HCCL_CONFIG)}
        visible = {VISIBLE: ",".join(map(str, self.devices))} if self.target == "Ascend" else {}
        with open(self.path("logs", f"{name}.txt"), "a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    env={**inherited, **visible, **environment}, cwd=cwd or self.work(),
                                    start_new_session=True)

    def log(self, name: str) -> str:
        """What the commands of logs/NAME.txt printed."""
        with open(self.path("logs", f"{name}.txt"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def records(self, name: str) -> list[dict]:
        """The steps of the training run in the folder work/NAME."""
        path = self.work(name, "train_record.jsonl")
        return read_training_log(path) if os.path.exists(path) else []

    def speed(self, name: str) -> dict[str, float]:
        """A training run's numbers: images_per_second (without the first third, which compiles and warms up), overflows
        and the first and last loss. Raises Failed if a step is missing, or a loss not finite."""
        steps = self.records(name)
        self.keep(os.path.join(name, "train_record.jsonl"), f"{name}_record.jsonl")
        if len(steps) < self.steps:
            raise Failed(f"{len(steps)} of {self.steps} steps done (logs/{name}.txt)")
        overflows = sum(bool(step["overflow"]) for step in steps)
        numbers = {"overflows": overflows, "first_loss": steps[0]["loss"], "last_loss": steps[-1]["loss"]}
        unusable = sum(not math.isfinite(step["loss"]) for step in steps)
        if unusable or 2 * overflows > len(steps):
            raise Failed(f"{overflows} of {len(steps)} steps overflowed, {unusable} losses are not finite "
                         f"(logs/{name}_record.jsonl)", numbers)
        rates = [step["images_per_second"] for step in steps[self.steps // 3 :]]
        return {"images_per_second": round(len(rates) / sum(1 / rate for rate in rates), 1), **numbers}


def end(process: subprocess.Popen, seconds: float = 15) -> None:
    """End a process and all that it started, in whatever session: politely, then after some seconds by force."""
    try:
        members = [parent := psutil.Process(process.pid), *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in members:
            try:
                member.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, members = psutil.wait_procs(members, timeout=seconds)
    process.poll()


def last_line(text: str) -> str:
    """The last line with words, of an error message for example, shortened."""
    lines = [line.strip() for line in text.splitlines() if any(character.isalpha() for character in line)]
    return lines[-1][:160] if lines else "no output"


def run_checks(setting: Setting, checks: Mapping[str, Callable[[Setting], tuple[str, dict]]],
               show: Callable[[Result], None]) -> list[Result]:
    """Run {name: check} in order, show each result, and keep ascend_report.json up to date.

    A check is a function of the Setting that returns (note, numbers).
    """
    results: list[Result] = []
    for name, check in checks.items():
        start = time.monotonic()
        try:
            note, numbers, status = *check(setting), PASSED
        except NotRun as error:
            note, numbers, status = str(error), {}, NOT_RUN
        except NoTime:
            note, numbers, status = "--minutes N gives it more", {}, NO_TIME
        except Failed as error:
            note, numbers, status = str(error), error.numbers, FAILED
        except Exception as error:  # a file that is missing, or has another form than expected
            note, numbers, status = f"{type(error).__name__}: {error}", {}, FAILED
        results.append(Result(name, status, round(time.monotonic() - start, 1), note, numbers))
        show(results[-1])
        write_report(setting, results)
    return results


def write_report(setting: Setting, results: Sequence[Result], advice: Sequence[str] = ()) -> None:
    """Write ascend_report.json."""
    environment = {name: value for name, value in os.environ.items()
                   if name.startswith(("ASCEND", "HCCL", "MS_", "GLOG", "OMP")) or name in RANK_TABLE}
    write_json(setting.path("ascend_report.json"), {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"), "command": sys.argv, "target": setting.target,
        "devices": setting.devices, "steps": setting.steps, "config": setting.config, "environment": environment,
        "checks": [asdict(result) for result in results], "advice": list(advice)})
