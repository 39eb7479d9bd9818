"""What training prints and records of every step."""
import contextlib
import json
import os
import reprlib
import shutil

from src import errors
from src.errors import UserError
from src.kinds import is_measure
from src.utils import free_name, keep_earlier, log, whole_file


class TrainingLog:
    """The log line of every step on standard output, and its machine-readable record, one JSON object a line."""

    FIELDS = ("epoch", "step", "loss", "hm_loss", "wh_loss", "off_loss", "lr", "images_per_second")  # what its readers use

    def __init__(self, path, done, aside="", branch=""):
        """The record at path (None: none) of a run that starts after `done` steps.

        A resumed run goes on with an earlier record's steps up to there: those of path, or of the record `branch` if that run was set
        aside once. If path has others, or the run is new, it is kept aside, in the folder `aside` if the checkpoints of the steps beyond
        are there.
        """
        self.file = None
        if path is None:
            return
        source = branch or path
        records = read_training_log(source) if done and os.path.exists(source) else []
        earlier = [record for record in records if record["step"] <= done]
        if os.path.exists(path) and (aside or branch or len(earlier) < len(records)):
            kept = free_name(os.path.join(aside, os.path.basename(path)) if aside else path)
            with whole_file(kept) as partial:
                shutil.copy2(path, partial)
            log(f"kept the earlier {path} as {kept}")
        if earlier:
            with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in earlier)
        elif aside and os.path.exists(path):
            os.remove(path)
        else:
            keep_earlier(path)
        self.file = open(path, "a", encoding="utf-8")

    def step(self, step, steps_per_epoch, values, images_per_second):
        """Write step number `step` (from 1); values are TrainStep's results as NumPy scalars."""
        loss, hm_loss, wh_loss, off_loss, overflow, scale, rate = values
        epoch, in_epoch = divmod(step - 1, steps_per_epoch)
        percent = (in_epoch + 1) / steps_per_epoch
        log(f"epoch: {epoch} | current epoch percent: {percent:.3f} | step: {step} | loss {loss!s} | "
            f"overflow {bool(overflow)} | scaling_sens {scale!s} | lr {rate!s}")
        if self.file is None:
            return
        record = {
            "epoch": epoch, "percent": round(percent, 3), "step": step, "loss": float(loss), "hm_loss": float(hm_loss),
            "wh_loss": float(wh_loss), "off_loss": float(off_loss), "overflow": bool(overflow), "scaling_sens": float(scale),
            "lr": float(rate), "images_per_second": round(images_per_second, 2),
        }
        try:
            with errors.writing(self.file.name):
                self.file.write(json.dumps(record) + "\n")
                self.file.flush()
        except UserError:
            with contextlib.suppress(OSError):
                self.file.close()  # which tries to write once more
            raise

    def close(self):
        """Close the record."""
        if self.file:
            self.file.close()


def read_training_log(path):
    """The records of a TrainingLog, a list of dictionaries; a last line that a killed run did not finish is left out.

    Raises UserError that names a line that is no record.
    """
    records = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                for name in TrainingLog.FIELDS:
                    if not is_measure(record[name]):
                        raise ValueError(f"{name} is {reprlib.repr(record[name])}")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if line.endswith("\n"):
                    raise UserError(f"{path}, line {number}: not a training record ({type(error).__name__}: {error})") from error
            else:
                records.append(record)
    return records
