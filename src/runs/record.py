"""What training prints and records of every step."""
import collections
import contextlib
import json
import logging
import math
import os
import reprlib
import shutil
import sys

from tqdm import tqdm

from ..core import errors
from ..core.backups import MARK, back_up_existing, contains_mark, free_name
from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.kinds import dictionary_of, is_measure
from ..tasks import loss_labels, losses_of


def loss_curve(record):
    """The path of the picture of a record's losses, beside it: loss.1.png of train_record.1.jsonl."""
    folder, name = os.path.split(record)
    return os.path.join(folder, f"{os.path.splitext(name)[0].replace('train_record', 'loss')}.png")


def loss_names(record):
    """The names of the losses in a step's record or results: "loss", their sum, and those of the task."""
    return [name for name in record if name == "loss" or name.endswith("_loss")]


def is_record(path):
    """The test for backups.back_up_existing whether a record and the picture beside it are this project's, as far as they are there.

    Earlier versions' pictures say no more than that matplotlib drew them: beside a record of ours they are ours.
    """
    has_record, picture = os.path.lexists(path), loss_curve(path)
    if has_record and not contains_mark(*(f'"{name}": ' for name in loss_labels()), '"scores": ')(path):
        return False
    return not os.path.lexists(picture) or contains_mark(MARK, *["Matplotlib version"] * has_record)(picture)


class TrainingLog:
    """What a run says of its steps on standard output, and their machine-readable record, one JSON object a line.

    A terminal shows a bar; elsewhere there is a line every `interval` steps, by their number, and one for each step that overflowed and
    for the last one: the first are rare and looked for, the other says where training ended. The record has every step, and the scores
    of evaluations.
    """

    FIELDS = ("epoch", "step", "loss", "lr", "images_per_second")  # what its readers use, beside the losses of the task

    def __init__(self, path, done, aside="", branch="", interval=1, last_step=None, summaries=None):
        """The record at path (None: none) of a run that starts after `done` steps; summaries (src/runs/tensorboard.py) get the same.

        A resumed run goes on with an earlier record's steps up to there: those of path, or of the record `branch` if that run was set
        aside once. If path has others, or the run is new, it is kept aside, in the folder `aside` if the checkpoints of the steps beyond
        are there.
        """
        self.interval, self.last_step, self.summaries = interval, last_step, summaries
        self.file, self.bar = None, StepBar(last_step)
        if path is None:
            return
        source = branch or path
        records = _read_records(source) if done and os.path.exists(source) else []
        earlier = [record for record in records if record["step"] <= done]
        if os.path.exists(path) and (aside or branch or len(earlier) < len(records)):
            kept = free_name(os.path.join(aside, os.path.basename(path)) if aside else path, loss_curve)
            for old, new in {path: kept, loss_curve(path): loss_curve(kept)}.items():
                if os.path.exists(old):
                    with atomic_write(new) as partial:
                        shutil.copy2(old, partial)
                    LOG.info(f"kept the earlier {old} as {new}")
        if earlier:
            with atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in earlier)
        elif aside and os.path.exists(path):
            os.remove(path)
        else:
            back_up_existing(path, is_record, loss_curve)
        if summaries and earlier and (branch or summaries.empty):  # other files than this run's, or none
            summaries.replay(earlier)
        self.file = open(path, "a", encoding="utf-8")

    def step(self, step, steps_per_epoch, values, images_per_second):
        """Write step number `step` (from 1); values are TrainStep's results {name: NumPy scalar}."""
        loss, overflow, scale, rate = (values[name] for name in ("loss", "overflow", "scaling_sens", "lr"))
        epoch, in_epoch = divmod(step - 1, steps_per_epoch)
        percent = (in_epoch + 1) / steps_per_epoch
        if sys.stdout.isatty():
            if LOG.isEnabledFor(logging.INFO):
                self.bar.show(step, epoch, loss, images_per_second, overflow)
        elif step % self.interval == 0 or step == self.last_step or overflow:
            LOG.info(f"epoch: {epoch} | current epoch percent: {percent:.3f} | step: {step} | loss {loss!s} | "
                     f"overflow {bool(overflow)} | scaling_sens {scale!s} | lr {rate!s}")
        record = {
            "epoch": epoch, "percent": round(percent, 3), "step": step, **{name: float(values[name]) for name in loss_names(values)},
            "overflow": bool(overflow), "scaling_sens": float(scale), "lr": float(rate), "images_per_second": round(images_per_second, 2),
        }
        self._record(record)
        if self.summaries:
            self.summaries.step(step, record)

    def scores(self, step, steps_per_epoch, scores):
        """Write the scores {"AP": 0.3, ...} of an evaluation after a step; in the log's line one without objects (-1) is left out."""
        epoch = (step - 1) // steps_per_epoch
        LOG.info(f"epoch {epoch}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if not value < 0))
        self._record({"epoch": epoch, "step": step, "scores": {name: float(value) for name, value in scores.items()}})
        if self.summaries:
            self.summaries.scores(step, scores)

    def _record(self, record):
        """Add a line to the file, at once."""
        if self.file is None:
            return
        try:
            with errors.writing(self.file.name):
                self.file.write(json.dumps(record) + "\n")
                self.file.flush()
        except UserError:
            with contextlib.suppress(OSError):
                self.file.close()  # which tries to write once more
            raise

    def close(self):
        """Close bar, record and summaries."""
        self.bar.close()
        if self.file:
            self.file.close()
        if self.summaries:
            self.summaries.close()


def _columns():
    """How wide the terminal says it is, 0 if it does not."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stdout.fileno()).columns
    return 0


class StepBar:
    """A bar on a terminal: epoch, step, loss, images per second, time left.

    Loss and images per second are means of the last WINDOW steps; the time left counts with the mean time of the steps so far, with all
    that came between them, such as evaluations. The first step's time, with the compilation in it, does not count.
    """

    WINDOW = 20

    def __init__(self, last_step):
        self.losses, self.rates = (collections.deque(maxlen=self.WINDOW) for _ in range(2))
        self.overflows, self.last_step, self.bar = 0, last_step, None

    def show(self, step, epoch, loss, images_per_second, overflow):
        """Show a step, in an epoch counted from 0, as the log counts them."""
        self.losses.append(float(loss))
        self.overflows += bool(overflow)
        finite = [value for value in self.losses if math.isfinite(value)]
        parts = [f"loss {sum(finite) / len(finite):.4g}" if finite else f"loss {self.losses[-1]}"]
        if self.bar:
            self.rates.append(images_per_second)
            parts.append(f"{len(self.rates) / sum(1 / rate for rate in self.rates):.1f} images/s")
        if self.overflows:
            parts.append(f"{self.overflows} overflows")
        first = self.bar is None
        if first:  # with a delay, for nothing is to be shown yet
            self.bar = tqdm(initial=step, total=self.last_step, file=sys.stdout, smoothing=0, delay=1e-9,
                            dynamic_ncols=_columns() > 0, ncols=80,  # for a terminal that does not say how wide it is
                            bar_format="{desc} |{bar}| step {n_fmt}/{total_fmt}{postfix}, {remaining} left")
        self.bar.set_description_str(f"epoch {epoch}", refresh=False)
        self.bar.set_postfix_str(", ".join(parts), refresh=first)
        self.bar.update(step - self.bar.n)

    def close(self):
        """Leave the bar as it is, and go to the next line."""
        if self.bar:
            self.bar.close()


def read_training_log(path):
    """The steps of a TrainingLog's record, a list of dictionaries; a last line that a killed run did not finish is left out.

    Raises UserError that names a line that is no record.
    """
    return read_record(path)[0]


def read_scores(path):
    """The scores in a TrainingLog's record, a list of (step, epoch, {name: value}). Raises UserError as read_training_log does."""
    return read_record(path)[1]


def read_record(path):
    """(what read_training_log gives, what read_scores gives) of a record, which is read once."""
    records = _read_records(path)
    steps = [record for record in records if "scores" not in record]
    return steps, [(record["step"], record["epoch"], record["scores"]) for record in records if "scores" in record]


def best_score(scores):
    """The last with the highest AP of what read_scores returns; None if none has an AP. Of equals centernet-best.ckpt is the last, too."""
    return max((score for score in reversed(scores) if score[2].get("AP", -1) >= 0), key=lambda score: score[2]["AP"], default=None)


def epochs_trained(records):
    """{step: epochs trained after it, a number such as 2.5} of the records of steps."""
    return {record["step"]: record["epoch"] + (record["percent"] if is_measure(record.get("percent")) else 1) for record in records}


def _read_records(path):
    """All records, of steps and of scores, in their order."""
    records, losses = [], ()
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
                    raise UserError(f"{path}, line {number}: not a training record ({type(error).__name__}: {error})") from error
            else:
                records.append(record)
    return records
