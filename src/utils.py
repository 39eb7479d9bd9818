"""Logging, progress, files that appear whole, checkpoints and their side files."""
import contextlib
import glob
import json
import os
import re
import shutil
import sys
import time

import mindspore as ms
from tqdm import tqdm

from src import errors
from src.errors import UserError
from src.model_utils.config import checked_section


def log(message):
    """Print one line, at once."""
    print(message, flush=True)


def progress(items, what, total=None, every=10.0):
    """Iterate over items and show rate and time left: a bar on a terminal, else a line every few seconds.

    total, for items without a length, may be None if nobody knows it.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total)
        return
    start = last = time.time()
    for done, item in enumerate(items, 1):
        yield item
        now = time.time()
        if now - last >= every:
            last = now
            rate = done / (now - start)
            left = f"/{total}, {rate:.2f}/s, {(total - done) / rate:.0f} s left" if total else f", {rate:.2f}/s"
            log(f"{what}: {done}{left}")


@contextlib.contextmanager
def whole_file(path):
    """Give a name beside path to write to; it becomes path when the block ends well, and is removed otherwise.

    Raises UserError, with the file's name, if it cannot be written.
    """
    root, ending = os.path.splitext(path)
    partial = f"{root}.partial{ending}"
    try:
        with errors.writing(path):
            yield partial
            os.replace(partial, path)
    finally:
        for leftover in glob.glob(f"{glob.escape(root)}.partial.*"):  # MindSpore writes to yet another name first
            os.remove(leftover)


def write_json(path, value):
    """Write value as JSON; the file appears whole."""
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)


def read_json(path, what, names):
    """The dictionary in a JSON file. Raises UserError if it is missing, broken or lacks one of the names."""
    errors.require_file(path, what)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        for name in names:
            content[name]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not {what} ({type(error).__name__}: {error})") from error
    return content


def keep_earlier(path):
    """Make room at path: what is there goes to the first free of path.1, path.2, ... (before the ending); returns path.

    The folder that path lies in is made if it is missing.
    """
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        aside = free_name(path)
        os.rename(path, aside)
        log(f"kept the earlier {path} as {aside}")
    return path


def free_name(path):
    """path, or the first of path.1, path.2, ... (before the ending) that is free."""
    root, ending = os.path.splitext(path)
    number = 0
    while os.path.lexists(path):
        number += 1
        path = f"{root}.{number}{ending}"
    return path


# ---------------------------------------------------------------- checkpoints


def side_file(checkpoint):
    """The JSON file beside a checkpoint: classes, category ids, network and input settings."""
    return os.path.splitext(checkpoint)[0] + ".json"


def describe_model(config, manifest):
    """What travels with a checkpoint in its side file, as a dictionary."""
    options = config.dataset_config
    return {
        "dataset": manifest["dataset"], "classes": manifest["classes"], "category_ids": manifest["category_ids"],
        "net_config": config.net_config.as_dict(), "input_res_train": options.input_res_train,
        "mean": options.mean, "std": options.std,
    }


def read_side_file(checkpoint):
    """The side file's dictionary. Raises UserError if it is missing or broken."""
    errors.require_file(checkpoint, "checkpoint")
    names = ("classes", "category_ids", "net_config", "input_res_train", "mean", "std")
    description = read_json(side_file(checkpoint), f"the side file of {checkpoint}", names)
    check_model(description, side_file(checkpoint))
    try:
        description["net_config"] = checked_section("net_config", description["net_config"], side_file(checkpoint))
        checked_section("dataset_config", {"input_res_train": description["input_res_train"]}, side_file(checkpoint))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{side_file(checkpoint)}: net_config or input_res_train is not what train.py writes ({error})") from error
    return description


def check_model(description, path):
    """Raise UserError unless a side file's classes, category ids, mean and std can be what they should."""
    classes, ids = description["classes"], description["category_ids"]
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        raise UserError(f"{path}: classes is no list of names")
    if not (isinstance(ids, list) and len(ids) == len(classes) and all(isinstance(number, int) for number in ids)):
        raise UserError(f"{path}: category_ids is no list of {len(classes)} whole numbers")
    for name in ("mean", "std"):
        values = description[name]
        if not (isinstance(values, list) and len(values) == 3 and all(isinstance(value, (int, float)) for value in values)):
            raise UserError(f"{path}: {name} is no list of three numbers")
    if min(description["std"]) <= 0:
        raise UserError(f"{path}: std is {description['std']}; expected numbers above 0")


def read_checkpoint(path, what="checkpoint (--load_checkpoint_path)"):
    """{name: Parameter} of a checkpoint file, step and epoch among them. Raises UserError that calls the file `what`.

    Where the file ends in a checksum, as this project's do, it must be right.
    """
    errors.require_file(path, what)
    try:
        return ms.load_checkpoint(path, crc_check=has_checksum(path))
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        cause = error.__cause__ or error  # MindSpore says of a wrong checksum that the file may not be read
        raise UserError(f"{path}: not a MindSpore checkpoint, or a damaged one ({str(cause).splitlines()[0]})") from error


def has_checksum(path):
    """Whether a checkpoint file ends in MindSpore's checksum: "crc_num" and ten bytes."""
    with open(path, "rb") as file:
        file.seek(-min(os.path.getsize(path), 17), os.SEEK_END)
        return file.read(7) == b"crc_num"


def load_weights(cell, parameters, source, skip_reshaped_heads=False):
    """Copy parameters {name: Parameter} into a cell; every one of the cell's must be there in its shape.

    With skip_reshaped_heads the heads' last layers may differ in shape (another number of classes): they keep their
    start values. Returns their names. Raises UserError that names the first thing that does not fit.
    """
    kept = []
    found = {}
    for parameter in cell.get_parameters():
        name = parameter.name
        if name not in parameters:
            raise UserError(f"{source}: it has no {name}; is it a checkpoint of this network (net_config)?")
        if tuple(parameters[name].shape) == tuple(parameter.shape):
            found[name] = parameters[name]
        elif skip_reshaped_heads and name.startswith(("hm.2.", "wh.2.")):
            kept.append(name)
        else:
            raise UserError(f"{source}: {name} is {tuple(parameters[name].shape)}, the network wants {tuple(parameter.shape)}; "
                            "another number of classes or another net_config?")
    ms.load_param_into_net(cell, found)
    return kept


def parameter_shapes(cell):
    """{name: shape} of all parameters of a cell."""
    return {parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()}


def as_parameters(weights):
    """{name: array} as the {name: Parameter} that load_weights takes."""
    return {name: ms.Parameter(ms.Tensor(value), name=name) for name, value in weights.items()}


def save_weights(path, weights):
    """Write {name: array} as a checkpoint; what is at path already is kept aside. Returns the path, which gets .ckpt if it lacks it."""
    path = keep_earlier(path if path.endswith(".ckpt") else f"{path}.ckpt")
    with whole_file(path) as partial:
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()], partial, crc_check=True)
    return path


class CheckpointFolder:
    """The checkpoints of one run, centernet-<epoch>_<step>.ckpt in a folder, with side files; keeps the newest.

    A new run moves what an earlier one left in the folder aside; a resumed one goes on in it, and removes what a killed one left half done.
    """

    PATTERN = re.compile(r"centernet-(\d+)_(\d+)\.ckpt")
    UNFINISHED = re.compile(r"(centernet-\d+_\d+)(\.json|\.partial\..*)")

    def __init__(self, folder, keep, description, resume):
        self.folder, self.keep, self.description = folder, keep, description
        if not resume and os.path.isdir(folder) and os.listdir(folder):
            keep_earlier(folder)
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            match = self.UNFINISHED.fullmatch(name)
            if match and not os.path.exists(os.path.join(folder, f"{match[1]}.ckpt")):
                os.remove(os.path.join(folder, name))

    @classmethod
    def find(cls, folder):
        """Paths of the checkpoints in a folder, oldest first."""
        names = os.listdir(folder) if os.path.isdir(folder) else []
        steps = sorted((int(match[2]), name) for name in names if (match := cls.PATTERN.fullmatch(name)))
        return [os.path.join(folder, name) for _, name in steps]

    def save(self, parameters, epoch, step, images_per_step):
        """Write {name: Parameter} after `step` steps of images_per_step images, in the epoch counted from 0; returns the path."""
        path = os.path.join(self.folder, f"centernet-{epoch + 1}_{step}.ckpt")
        last = self.find(self.folder)[-1:]
        try:
            write_json(side_file(path), {**self.description, "epoch": epoch, "step": step})
            with whole_file(path) as partial:
                entries = [{"name": name, "data": parameter} for name, parameter in parameters.items()]
                numbers = {"step": step, "epoch": epoch, "images_per_step": images_per_step}
                ms.save_checkpoint(entries, partial, append_dict=numbers, crc_check=True)
        except UserError as error:
            with contextlib.suppress(OSError):
                os.remove(side_file(path))
            raise UserError(f"{error}; the last checkpoint is {last[0] if last else 'none'}") from error
        for old in self.find(self.folder)[: -self.keep]:
            os.remove(old)
            os.remove(side_file(old))
        return path


# ---------------------------------------------------------------- training log


class TrainingLog:
    """The log line of every step on standard output, and its machine-readable record, one JSON object a line."""

    FIELDS = ("epoch", "step", "loss", "hm_loss", "wh_loss", "off_loss", "lr", "images_per_second")  # what its readers use

    def __init__(self, path, done):
        """The record at path (None: none) of a run that starts after `done` steps.

        A resumed run goes on with an earlier record's steps up to there; if that has more, or the run is new, it is kept aside.
        """
        self.file = None
        if path is None:
            return
        if done and os.path.exists(path):
            records = read_training_log(path)
            earlier = [record for record in records if record["step"] <= done]
            if len(earlier) < len(records):
                aside = free_name(path)
                with whole_file(aside) as partial:
                    shutil.copy2(path, partial)
                log(f"kept the earlier {path}, which goes to step {records[-1]['step']}, as {aside}")
            with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in earlier)
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
                    record[name]
            except (ValueError, KeyError, TypeError) as error:
                if line.endswith("\n"):
                    raise UserError(f"{path}, line {number}: not a training record ({type(error).__name__}: {error})") from error
            else:
                records.append(record)
    return records
