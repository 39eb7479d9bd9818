"""The log and the record of training steps."""
import collections
import contextlib
import json
import logging
import math
import os
import reprlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from ..core import errors
from ..core.backups import MARK, back_up_existing, contains_mark, free_name
from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.kinds import dictionary_of, is_measure
from ..tasks import logged_losses, loss_labels, losses_of


def loss_chart_path(record: str) -> str:
    """The path of the chart next to a record: loss.1.png for train_record.1.jsonl."""
    folder, name = os.path.split(record)
    return os.path.join(folder, f"{os.path.splitext(name)[0].replace('train_record', 'loss')}.png")


def loss_names(record: Iterable[str]) -> list[str]:
    """The names of the losses in a step's record or results: "loss", the total, and the task's."""
    return [name for name in record if name == "loss" or name.endswith("_loss")]


def is_record(path: str) -> bool:
    """A test for backups.back_up_existing: a record and the chart next to it, if they exist, are this project's.

    Earlier versions' charts are marked by matplotlib only: next to a record of ours they are ours.
    """
    has_record, chart = os.path.lexists(path), loss_chart_path(path)
    if has_record and not contains_mark(*(f'"{name}": ' for name in loss_labels()), '"scores": ')(path):
        return False
    return not os.path.lexists(chart) or contains_mark(MARK, *["Matplotlib version"] * has_record)(chart)


class TrainingLog:
    """The steps of a run on standard output, and their machine-readable record, one JSON object per line.

    A terminal shows a progress bar. Other outputs get a line for every step number divisible by `interval`, for every
    step that overflowed, and for the last one. The record has every step, and the scores of evaluations.
    """

    FIELDS = ("epoch", "step", "loss", "lr", "images_per_second")  # used by its readers, besides the task's losses

    def __init__(self, path: str | None, done: int, aside: str = "", branch: str = "", interval: int = 1,
                 last_step: int | None = None, summaries: Any = None):
        """Start the record at path (None disables it), and the summaries (tensorboard.py), after `done` steps.

        A resumed run keeps the earlier steps up to there: those of path, or of the record `branch` of a run that was
        backed up. A record at path is backed up if it has other steps, or the run is new: to the folder `aside` if the
        later checkpoints were moved there.
        """
        self.interval, self.last_step, self.summaries = interval, last_step, summaries
        self.file: TextIO | None = None
        self.bar = StepBar(last_step)
        if path is None:
            return
        source = branch or path
        records = _read_records(source) if done and os.path.exists(source) else []
        earlier = [record for record in records if record["step"] <= done]
        if os.path.exists(path) and (aside or branch or len(earlier) < len(records)):
            backup = free_name(os.path.join(aside, os.path.basename(path)) if aside else path, loss_chart_path)
            for old, new in {path: backup, loss_chart_path(path): loss_chart_path(backup)}.items():
                if os.path.exists(old):
                    with atomic_write(new) as partial:
                        shutil.copy2(old, partial)
                    LOG.info(f"backed up the earlier {old} as {new}")
        if earlier:
            with atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in earlier)
        elif aside and os.path.exists(path):
            os.remove(path)
        else:
            back_up_existing(path, is_record, loss_chart_path)
        if summaries and earlier and (branch or summaries.empty):  # its files are another run's, or missing
            summaries.replay(earlier)
        self.file = open(path, "a", encoding="utf-8")

    def step(self, step: int, steps_per_epoch: int, values: Mapping[str, Any], images_per_second: float) -> None:
        """Log and record step number `step` (from 1); values are TrainStep's results {name: NumPy scalar}."""
        loss, overflow, scale, rate = (values[name] for name in ("loss", "overflow", "scaling_sens", "lr"))
        epoch, in_epoch = divmod(step - 1, steps_per_epoch)
        percent = (in_epoch + 1) / steps_per_epoch
        if sys.stdout.isatty():
            if LOG.isEnabledFor(logging.INFO):
                self.bar.show(step, epoch, loss, images_per_second, overflow)
        elif step % self.interval == 0 or step == self.last_step or overflow:
            parts = "".join(f"{name} {values[name]:.4g} | " for name in logged_losses(loss_names(values)[1:]))
            LOG.info(f"epoch: {epoch} | current epoch percent: {percent:.3f} | step: {step} | loss {loss!s} | {parts}"
                     f"overflow {bool(overflow)} | scaling_sens {scale!s} | lr {rate!s}")
        record = {
            "epoch": epoch, "percent": round(percent, 3), "step": step,
            **{name: float(values[name]) for name in loss_names(values)}, "overflow": bool(overflow),
            "scaling_sens": float(scale), "lr": float(rate), "images_per_second": round(images_per_second, 2),
        }
        self._record(record)
        if self.summaries:
            self.summaries.step(step, record)

    def scores(self, step: int, steps_per_epoch: int, scores: Mapping[str, float]) -> None:
        """Log and record the scores {"AP": 0.3, ...} of an evaluation after a step; -1 (no objects) is not logged."""
        epoch = (step - 1) // steps_per_epoch
        known = [f"{name} {value:.3f}" for name, value in scores.items() if not value < 0]
        LOG.info(f"epoch {epoch}: " + ", ".join(known))
        self._record({"epoch": epoch, "step": step, "scores": {name: float(value) for name, value in scores.items()}})
        if self.summaries:
            self.summaries.scores(step, scores)

    def _record(self, record: dict) -> None:
        """Append a line to the file, and flush it."""
        if self.file is None:
            return
        try:
            with errors.writing(self.file.name):
                self.file.write(json.dumps(record) + "\n")
                self.file.flush()
        except UserError:
            with contextlib.suppress(OSError):
                self.file.close()  # this tries to write again
            raise

    def close(self) -> None:
        """Close the bar, the record and the summaries."""
        self.bar.close()
        if self.file:
            self.file.close()
        if self.summaries:
            self.summaries.close()


def _columns() -> int:
    """The width of the terminal, 0 if it is unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stdout.fileno()).columns
    return 0


class StepBar:
    """A progress bar on a terminal: epoch, step, loss, images per second, time left.

    Loss and images per second are means of the last WINDOW steps. The time left is based on the mean time of the steps
    so far, including interruptions such as evaluations, but without the first step, which compiles.
    """

    WINDOW = 20

    def __init__(self, last_step: int | None):
        self.losses: collections.deque[float] = collections.deque(maxlen=self.WINDOW)
        self.rates: collections.deque[float] = collections.deque(maxlen=self.WINDOW)
        self.overflows, self.last_step = 0, last_step
        self.bar: tqdm | None = None

    def show(self, step: int, epoch: int, loss: float, images_per_second: float, overflow: bool) -> None:
        """Show a step; epoch counts from 0, as in the log."""
        self.losses.append(float(loss))
        self.overflows += bool(overflow)
        finite = [value for value in self.losses if math.isfinite(value)]
        fields = [f"loss {sum(finite) / len(finite):.4g}" if finite else f"loss {self.losses[-1]}"]
        if self.bar:
            self.rates.append(images_per_second)
            fields.append(f"{len(self.rates) / sum(1 / rate for rate in self.rates):.1f} images/s")
        if self.overflows:
            fields.append(f"{self.overflows} overflows")
        first = self.bar is None
        if self.bar is None:  # a delay, since there is nothing to show yet
            self.bar = tqdm(initial=step, total=self.last_step, file=sys.stdout, smoothing=0, delay=1e-9,
                            dynamic_ncols=_columns() > 0, ncols=80,  # if the terminal's width is unknown
                            bar_format="{desc} |{bar}| step {n_fmt}/{total_fmt}{postfix}, {remaining} left")
        self.bar.set_description_str(f"epoch {epoch}", refresh=False)
        self.bar.set_postfix_str(", ".join(fields), refresh=first)
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """Leave the bar as it is, and start a new line."""
        if self.bar:
            self.bar.close()


def read_training_log(path: str) -> list[dict]:
    """The steps of a TrainingLog's record as dictionaries, without an incomplete last line of a killed run.

    Raises UserError that names an invalid line.
    """
    return read_record(path)[0]


def read_scores(path: str) -> list[tuple[int, int, dict]]:
    """The scores in a TrainingLog's record: [(step, epoch, {name: value})]. Raises UserError like read_training_log."""
    return read_record(path)[1]


def read_record(path: str) -> tuple[list[dict], list[tuple[int, int, dict]]]:
    """(steps, scores) of a record, as read_training_log and read_scores return them."""
    records = _read_records(path)
    steps = [record for record in records if "scores" not in record]
    return steps, [(record["step"], record["epoch"], record["scores"]) for record in records if "scores" in record]


def best_score(scores: list[tuple[int, int, dict]]) -> tuple[int, int, dict] | None:
    """The last entry of read_scores with the highest AP, or None if there is no AP."""
    known = (score for score in reversed(scores) if score[2].get("AP", -1) >= 0)
    return max(known, key=lambda score: score[2]["AP"], default=None)


def epochs_trained(records: list[dict]) -> dict[int, float]:
    """{step: epochs trained up to and including it, such as 2.5} of the records of steps."""
    return {record["step"]: record["epoch"] + (record["percent"] if is_measure(record.get("percent")) else 1)
            for record in records}


def _read_records(path: str) -> list[dict]:
    """All records, of steps and of scores, in file order."""
    records: list[dict] = []
    losses: tuple[str, ...] = ()
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                of_scores = "scores" in record
                losses = losses or (() if of_scores else losses_of(record))
                for name in TrainingLog.FIELDS[:2] if of_scores else (*TrainingLog.FIELDS, *losses):
                    if not is_measure(record[name]):
                        raise ValueError(f"{name} is {reprlib.repr(record[name])}")
                if of_scores and not dictionary_of(is_measure)(record["scores"]):
                    raise ValueError(f"scores is {reprlib.repr(record['scores'])}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if line.endswith("\n"):
                    raise UserError(f"{path}, line {number}: not a training record "
                                    f"({type(error).__name__}: {error})") from error
            else:
                records.append(record)
    return records
