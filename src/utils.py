"""Logging, progress, files that appear whole; what describes a model."""
import contextlib
import json
import os
import re
import sys
import tempfile
import time

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
    """Give a path to write to; what is there when the block ends well becomes path, with a new file's usual mode.

    It lies in a folder of its own beside path, .<name>.<random>.partial, since MindSpore writes to yet other names first; what is left
    there is removed. Raises UserError, with the file's name, if it cannot be written.
    """
    folder, name = os.path.split(path)
    with errors.writing(path), tempfile.TemporaryDirectory(suffix=".partial", prefix=f".{name}.", dir=folder or ".") as beside:
        partial = os.path.join(beside, name)
        yield partial
        settle(partial, path)


def settle(made, path):
    """Move a file to path, with a new file's usual mode: MindSpore leaves its files to be read by their owner alone."""
    new = f"{made}.new"
    with open(new, "w") as file:
        mode = os.stat(file.fileno()).st_mode
    os.remove(new)
    os.chmod(made, mode)
    os.replace(made, path)


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


# ---------------------------------------------------------------- side files


def side_file(checkpoint):
    """The JSON file beside a checkpoint: classes, category ids, network and input settings."""
    return os.path.splitext(checkpoint)[0] + ".json"


CHECKPOINT_NAME = re.compile(r"centernet-\d+_(\d+)(\.\d+)?\.ckpt")


def find_checkpoints(folder):
    """Paths of a run's checkpoints in a folder, in the order in which they were written."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [(os.path.join(folder, name), int(match[1])) for name in names if (match := CHECKPOINT_NAME.fullmatch(name))]
    return [path for path, step in sorted(found, key=lambda entry: (written_as(entry[0]), entry[1], entry[0]))]


def written_as(checkpoint):
    """Which of its folder's checkpoints, counted from 1 in the order of writing, its side file says it is; 0 if that does not say.

    The step in the name does not tell: a resumed run with other batches counts its steps anew. Nor do files' times, which copies change.
    """
    try:
        with open(side_file(checkpoint), encoding="utf-8") as file:
            return int(json.load(file)["written"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


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
