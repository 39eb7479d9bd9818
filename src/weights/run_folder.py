"""The folder of a training run: where it writes, its settings, the names and order of its checkpoints.

    runs/detection/3/   ckpt_0/, settings.yaml, train_record.jsonl, loss.png, train_batch.jpg, val/, report.html
"""
import contextlib
import glob
import json
import math
import os
import re
import shlex
from typing import Any

import yaml

from ..core import errors
from ..core.backups import MARK, back_up_existing, contains_files, contains_mark
from ..core.errors import UserError
from ..core.files import atomic_write
from ..model_utils.config import Config, load_defaults
from ..model_utils.settings import DEFAULTS, as_text
from .side_file import side_file

RUNS = "runs"  # the folder of runs whose folder nobody named, in the current folder
SETTINGS = "settings.yaml"
IS_SETTINGS = contains_mark()
OUTPUTS = ("save_checkpoint_path", "save_result_dir")
CHECKPOINTS = contains_files("centernet-*", ".centernet-*")  # a test for backups.back_up_existing
CHECKPOINT_NAME = re.compile(r"centernet-\d+_(\d+)(\.\d+)?\.ckpt")
CHECKPOINT_FOLDER = re.compile(r"ckpt_0(\.\d+)?")  # with its backups
BEST_NAME = "centernet-best.ckpt"


# ---------------------------------------------------------------- where a run's files go


def settle_outputs(config: Config, several: bool) -> bool:
    """Set those of OUTPUTS that are empty to run_dir; else to the other one; else to the folder of the run to resume,
    or, for one of several processes, to the current folder.

    An empty path is then the current folder. Returns whether they are settled; if not, the run needs a new folder
    (start_run).
    """
    given = [value for name in OUTPUTS if (value := getattr(config, name))]
    folder = config.run_dir or next(iter(given), "") or ("." if several else _resumed_folder(config))
    _set_outputs(config, folder)
    return bool(folder)


def _set_outputs(config: Config, folder: str) -> None:
    """Set those of OUTPUTS that are empty."""
    for name in OUTPUTS:
        setattr(config, name, tidy(getattr(config, name) or folder))


def tidy(folder: str) -> str:
    """A folder's path, empty for the current folder."""
    return "" if os.path.normpath(folder) == "." else folder


def _resumed_folder(config: Config) -> str:
    """The folder of the run to resume, an empty string if there is none: that of load_checkpoint_path, else the current
    one if it has checkpoints, else the task's newest."""
    if not config.resume:
        return ""
    if config.load_checkpoint_path:
        return run_of(config.load_checkpoint_path)
    return "." if os.path.isdir("ckpt_0") else newest_run(config.net_config.task)


def start_run(config: Config) -> None:
    """Create the next of the folders runs/<task>/1, 2, ... and set OUTPUTS to it. Raises UserError."""
    parent = os.path.join(RUNS, config.net_config.task)
    number = 1 + max((int(name) for name in _names(parent) if name.isdecimal()), default=0)
    with errors.writing(parent):
        os.makedirs(parent, exist_ok=True)
        while not _created(os.path.join(parent, str(number))):  # by another training at the same time
            number += 1
    _set_outputs(config, os.path.join(parent, str(number)))


def discard_if_empty(config: Config) -> None:
    """Remove the folder that start_run created if the run has written nothing."""
    folder = config.save_result_dir
    if os.path.dirname(folder) == os.path.join(RUNS, config.net_config.task):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _created(folder: str) -> bool:
    try:
        os.mkdir(folder)
    except FileExistsError:
        return False
    return True


def _names(folder: str) -> list[str]:
    """The names in a folder, which may be missing."""
    return os.listdir(folder) if os.path.isdir(folder) else []


def run_of(path: str) -> str:
    """The folder of the run that a checkpoint belongs to; an empty string if none does, and for other files."""
    if not path.endswith(".ckpt"):
        return ""
    folder = os.path.dirname(os.path.abspath(path))
    if CHECKPOINT_FOLDER.fullmatch(os.path.basename(folder)):
        folder = os.path.dirname(folder)
    return os.path.relpath(folder) if is_run(folder) else ""


def is_run(folder: str) -> bool:
    """Whether a folder is that of a run: it has the settings of one."""
    settings = os.path.join(folder, SETTINGS)
    return os.path.isfile(settings) and IS_SETTINGS(settings)


def newest_run(task: str = "*") -> str:
    """The folder runs/<task>/<n> of the run with checkpoints that started last, of any task by default; an empty string
    if there is none."""
    found = [path for path in filter(IS_SETTINGS, glob.glob(os.path.join(RUNS, task, "*", SETTINGS)))
             if in_run(os.path.dirname(path), "last") or in_run(os.path.dirname(path), "best")]
    return os.path.dirname(max(found, key=lambda path: (os.stat(path).st_mtime_ns, len(path), path), default=""))


def write_settings(config: Config) -> None:
    """Write all settings with their origins to save_result_dir. The file is a configuration file for a run like this.

    An earlier one with other settings is backed up.
    """
    path, text = os.path.join(config.save_result_dir, SETTINGS), settings_text(config)
    if os.path.isfile(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            if file.read() == text:
                return
    back_up_existing(path, IS_SETTINGS)
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(text)


def settings_text(config: Config) -> str:
    """A configuration as YAML, with the origin of each value as a comment."""
    defaults, _, _ = load_defaults()
    lines = [f"# {MARK}: all settings of a run and their origins. To start another like it: --config_path {SETTINGS}"]
    # Only of this run, so comments: another one would write to the same folder, or continue this one.
    own = (*OUTPUTS, "run_dir", "resume", *(["load_checkpoint_path"] if config.resume else []))
    section = ""
    for name, value in config.parameters().items():
        if name in OUTPUTS and config.origin(name) == DEFAULTS:  # settled
            value = defaults[name]
        *sections, last = name.split(".")
        if (outer := ".".join(sections)) != section:
            shared = len(os.path.commonprefix([sections, section.split(".")]))
            lines += ["  " * depth + f"{sections[depth]}:" for depth in range(shared, len(sections))]
            section = outer
        origin, comment = config.origin(name), "# " if name in own and value != defaults[name] else ""
        origin = origin if origin.isprintable() else ascii(origin)
        lines.append("  " * len(sections) + f"{comment}{last}: {_in_yaml(value)}  # {origin}")
    return "\n".join(lines) + "\n"


def _in_yaml(value: Any) -> str:
    """A value as YAML in one line, with escapes in texts for what YAML or UTF-8 lacks."""
    if isinstance(value, list):
        return f"[{', '.join(map(_in_yaml, value))}]"
    if isinstance(value, str):
        return yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True).strip()
    return as_text(value)


# ---------------------------------------------------------------- checkpoints by name


def resolve_checkpoint_alias(path: str, latest: bool = False) -> str:
    """The checkpoint that RUN/best, RUN/last or RUN stands for; other paths stay.

    RUN is a run's folder or its ckpt_0; RUN alone is its best checkpoint if there is one, else or with `latest` its
    latest. best and last alone are those of the current folder, else of the newest run. Raises UserError if there is
    none.
    """
    folder, name = os.path.split(path.rstrip(os.sep))
    if path and os.path.isdir(path):
        order = ("last", "best") if latest else ("best", "last")
        return next((found for kind in order if (found := in_run(path, kind))), path)
    if name not in ("best", "last") or os.path.exists(path):
        return path
    places = [folder] if folder else ["", *filter(None, [newest_run()])]
    for place in places:
        if found := in_run(place, name):
            return found
    folder = next((place for place in reversed(places) if in_run(place, "last")), folder)
    backup = _latest_backup(os.path.join(folder, "ckpt_0"))
    hint = f"; {backup} is the previous run's latest" if backup else ""
    if name == "best":
        latest_one = os.path.join(folder, "last")
        hint = "; eval_epochs keeps one" + (f"; {latest_one} is the latest" if in_run(folder, "last") else hint)
    raise UserError(f"{path} stands for the {'best' if name == 'best' else 'latest'} checkpoint in "
                    f"{folder or 'this folder'} or its ckpt_0, but there is none{hint}")


def in_run(folder: str, name: str) -> str:
    """The best or last checkpoint in a run's folder or its ckpt_0, an empty string if there is none."""
    for place in (folder or ".", os.path.join(folder, "ckpt_0")):
        if found := _best_in(place) if name == "best" else find_checkpoints(place):
            return os.path.normpath(found[-1])
    return ""


def _best_in(folder: str) -> list[str]:
    """The path of the best checkpoint in a run's folder as a list, which is empty if there is none."""
    best = os.path.join(folder, BEST_NAME)
    return [best] if os.path.isfile(best) else []


def find_checkpoints(folder: str) -> list[str]:
    """Paths of a run's checkpoints in a folder, in writing order."""
    matches = [match for name in _names(folder) if (match := CHECKPOINT_NAME.fullmatch(name))]
    found = [(os.path.join(folder, match[0]), int(match[1])) for match in matches]
    return [path for path, step in sorted(found, key=lambda entry: (write_order(entry[0]), entry[1], entry[0]))]


def checkpoints_to_resume(folder: str) -> list[str]:
    """Paths of the checkpoints in a run's folder, latest first, the best last. Raises UserError if there is none."""
    found = [*reversed(find_checkpoints(folder)), *_best_in(folder)]
    if not found:
        hint = "set --run_dir to a run's folder, or --load_checkpoint_path to a checkpoint"
        if backup := _latest_backup(folder):
            hint = f"--load_checkpoint_path {shlex.quote(backup)} resumes from the previous run's latest"
        raise UserError(f"no checkpoint in {folder} to resume from; {hint}")
    return found


def _latest_backup(folder: str) -> str:
    """The latest checkpoint in the last of the backups folder.1, folder.2, ..., or an empty string."""
    inside = {number: find_checkpoints(f"{folder}.{number}") for number in _backup_numbers(folder)}
    return next((found[-1] for _, found in sorted(inside.items(), reverse=True) if found), "")


def _backup_numbers(folder: str) -> list[int]:
    """The numbers of the backups folder.1, folder.2, ... (backups.back_up_existing)."""
    parent, name = os.path.split(folder)
    pattern = re.compile(re.escape(name) + r"\.(\d+)")
    return [int(match[1]) for other in _names(parent or ".") if (match := pattern.fullmatch(other))]


def write_order(checkpoint: str) -> int:
    """A checkpoint's position in its folder's writing order, from 1, as stated in its side file; 0 if it states none.

    Steps do not show the order, since a run that resumes with another batch size renumbers them. Nor do file times,
    which copying changes.
    """
    try:
        with open(side_file(checkpoint), encoding="utf-8") as file:
            return int(json.load(file)["written"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0
