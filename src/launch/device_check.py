"""A check of this project on a machine's devices: commands that run one after another, a table, a report.

Every check runs the project's own commands in processes of their own, so that a crash of one leaves the others.
"""
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.files import write_json
from ..core.project import ROOT

PASSED, FAILED, NOT_RUN = "pass", "FAIL", "not run"


class Failed(Exception):
    """A check failed, with a sentence for the table."""


class NotRun(Exception):
    """A check does not apply here, or had no time left; with a reason for the table."""


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

    folder gets everything; target is Ascend or CPU; devices, their ids; steps, of a training run; images, the
    numbers of images to train and to evaluate on, and their side; config, for all commands; deadline, the
    time.monotonic() at which the check ends; found, what checks leave for later ones and for the advice.
    """

    folder: str
    target: str
    devices: list[int]
    images: tuple[int, int, int]
    steps: int
    config: dict[str, Any]
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    def path(self, *names: str) -> str:
        """A path in the folder."""
        return os.path.join(self.folder, *names)

    def configuration(self, device: bool = True) -> list[str]:
        """The options that all commands share."""
        target = ["--device_target", self.target] if device else []
        return ["--config_path", self.path("check.yaml"), *target]

    def training(self, name: str, *options: object, steps: int = 0) -> list[str]:
        """The command of a training run, by default of self.steps, that writes to the folder `name`."""
        return ["train.py", *self.configuration(), "--mindrecord_dir", self.path("mindrecord"),
                "--save_checkpoint_path", self.path(name), "--save_result_dir", self.path(name),
                "--train_steps", str(steps or self.steps), *map(str, options)]

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str] = {}, cwd: str = "") -> str:
        """Run a command, by default one of the project's scripts; return what it printed, also in logs/NAME.txt.

        Raises Failed if it fails, NotRun if the deadline has passed or passes meanwhile.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise NotRun("no time left")
        process = self.start(name, command, environment, cwd)
        try:
            code = process.wait(left)
        except subprocess.TimeoutExpired:
            raise NotRun(f"stopped when the time was over, after {left:.0f} s") from None
        finally:
            end(process)
        text = self.log(name)
        if code:
            raise Failed(f"exit code {code}: {last_line(text)} (logs/{name}.txt)")
        return text

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] = {},
              cwd: str = "") -> subprocess.Popen:
        """Start a command whose output goes to logs/NAME.txt."""
        if command[0].endswith(".py"):
            command = [sys.executable, os.path.join(ROOT, command[0]), *command[1:]]
        with open(self.path("logs", f"{name}.txt"), "a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                    env={**os.environ, **environment}, cwd=cwd or self.folder, start_new_session=True)

    def log(self, name: str) -> str:
        """What the commands of logs/NAME.txt printed."""
        with open(self.path("logs", f"{name}.txt"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def records(self, name: str) -> list[dict]:
        """The steps of the training run in the folder `name`."""
        try:
            with open(self.path(name, "train_record.jsonl"), encoding="utf-8") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [line for line in lines if "loss" in line]

    def speed(self, name: str) -> float:
        """The median images per second of a training run, without the steps that compile and warm up."""
        rates = [step["images_per_second"] for step in self.records(name)]
        if len(rates) < self.steps:
            raise Failed(f"{len(rates)} of {self.steps} steps done (logs/{name}.txt)")
        return round(statistics.median(rates[self.steps // 3 :]), 1)


def end(process: subprocess.Popen) -> None:
    """End a process, if it still runs, and its children: politely, then by force."""
    if process.poll() is not None:
        return
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def last_line(text: str) -> str:
    """The last line with words, of an error message for example, shortened."""
    lines = [line.strip() for line in text.splitlines() if any(letter.isalpha() for letter in line)]
    return lines[-1][:160] if lines else "no output"


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


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
        except Failed as error:
            note, numbers, status = str(error), {}, FAILED
        except NotRun as error:
            note, numbers, status = str(error), {}, NOT_RUN
        results.append(Result(name, status, round(time.monotonic() - start, 1), note, numbers))
        show(results[-1])
        write_report(setting, results)
    return results


def write_report(setting: Setting, results: Sequence[Result], advice: Sequence[str] = ()) -> None:
    """Write ascend_report.json."""
    write_json(setting.path("ascend_report.json"), {
        "target": setting.target, "devices": setting.devices, "steps": setting.steps, "config": setting.config,
        "checks": [asdict(result) for result in results], "advice": list(advice)})
