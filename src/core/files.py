"""Atomic writing of files and folders; reading of text and JSON."""
import contextlib
import json
import os
import reprlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from . import errors
from .backups import back_up_existing, make_folder, require_ours
from .errors import UserError


@contextlib.contextmanager
def atomic_write(path: str, ours: Callable[[str], bool] | None = None,
                 companion: Callable[[str], str] | None = None) -> Iterator[str]:
    """Yield a temporary path to write to; if the block succeeds, the file is renamed to path.

    It gets a new file's usual mode. The temporary path lies in a folder of its own next to path,
    .<name>.<random>.partial, since MindSpore first writes to other names; leftovers are removed with the folder.
    An earlier file is backed up (back_up_existing), or replaced if `ours` is None. Raises UserError, with the file's
    name, if it cannot be written or if the earlier file is not this project's.
    """
    folder, name = os.path.split(path)
    if ours:
        require_ours(path, ours, companion)
        make_folder(folder, path)
    prefix, place = f".{name}.", folder or "."
    with errors.writing(path), tempfile.TemporaryDirectory(suffix=".partial", prefix=prefix, dir=place) as temporary:
        partial = os.path.join(temporary, name)
        yield partial
        _set_default_mode(partial)
        os.replace(partial, back_up_existing(path, ours, companion) if ours else path)


@contextlib.contextmanager
def atomic_folder(path: str, ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield a new folder to write into; if the block succeeds, it is renamed to path, and an earlier one backed up."""
    require_ours(path, ours)
    parent, name = os.path.split(os.path.abspath(path))
    make_folder(parent, path)
    with tempfile.TemporaryDirectory(suffix=".partial", prefix=f".{name}.", dir=parent) as temporary:
        partial = os.path.join(temporary, name)
        os.mkdir(partial)
        yield partial
        with errors.writing(path):
            os.rename(partial, back_up_existing(path, ours))


def move_into_place(made: str, path: str) -> None:
    """Move a file to path and give it a new file's usual mode."""
    _set_default_mode(made)
    os.replace(made, path)


def _set_default_mode(path: str) -> None:
    """Give a file the mode of a new one: MindSpore makes its files readable by their owner only."""
    new = f"{path}.new"
    with open(new, "w") as file:
        mode = os.stat(file.fileno()).st_mode
    os.remove(new)
    os.chmod(path, mode)


def link_or_copy(source: str, target: str) -> None:
    """Hard-link a file to target, or copy it where the file system cannot. Symbolic links are resolved first."""
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def write_json(path: str, value: object, ours: Callable[[str], bool] | None = None) -> None:
    """Write value as JSON, with atomic_write."""
    with atomic_write(path, ours) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)


def read_text(path: str, what: str) -> str:
    """The text of a file, without a byte order mark. Raises UserError if it is missing or is not text."""
    errors.require_file(path, what)
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not {what} ({error})") from error


def read_json(path: str, what: str, tests: dict[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The dictionary in a JSON file.

    Raises UserError if the file is missing or broken, lacks a key of tests {key: test}, or has a value that fails its
    test (kinds.py).
    """
    errors.require_file(path, what)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        wrong = [name for name, test in tests.items() if not test(content[name])]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not {what} ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not {what} (its content is not a dictionary)")
    if wrong:
        raise UserError(f"{path}: not {what} ({wrong[0]} cannot be {reprlib.repr(content[wrong[0]])})")
    return content
