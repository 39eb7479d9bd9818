"""Files and folders that appear whole; reading text and JSON."""
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
def atomic_write(path: str, ours: Callable[[str], bool] | None = None, companion: Callable[[str], str] | None = None) -> Iterator[str]:
    """Give a path to write to; what is there when the block ends well becomes path, with a new file's usual mode.

    It lies in a folder of its own beside path, .<name>.<random>.partial, since MindSpore writes to yet other names first; what is left
    there is removed. An earlier file makes room then, as back_up_existing has it; without ours it is replaced. Raises UserError, with the
    file's name, if it cannot be written, or if what is there is not ours.
    """
    folder, name = os.path.split(path)
    if ours:
        require_ours(path, ours, companion)
        make_folder(folder, path)
    with errors.writing(path), tempfile.TemporaryDirectory(suffix=".partial", prefix=f".{name}.", dir=folder or ".") as beside:
        partial = os.path.join(beside, name)
        yield partial
        _give_usual_mode(partial)
        os.replace(partial, back_up_existing(path, ours, companion) if ours else path)


@contextlib.contextmanager
def atomic_folder(path: str, ours: Callable[[str], bool]) -> Iterator[str]:
    """Give a new folder to write into, which becomes path when the block ends well; what lies there makes room then (back_up_existing)."""
    require_ours(path, ours)
    parent, name = os.path.split(os.path.abspath(path))
    make_folder(parent, path)
    with tempfile.TemporaryDirectory(suffix=".partial", prefix=f".{name}.", dir=parent) as beside:
        partial = os.path.join(beside, name)
        os.mkdir(partial)
        yield partial
        with errors.writing(path):
            os.rename(partial, back_up_existing(path, ours))


def settle(made: str, path: str) -> None:
    """Move a file to path, with a new file's usual mode."""
    _give_usual_mode(made)
    os.replace(made, path)


def _give_usual_mode(made):
    """Give a file the mode that a new one gets: MindSpore leaves its files to be read by their owner alone."""
    new = f"{made}.new"
    with open(new, "w") as file:
        mode = os.stat(file.fileno()).st_mode
    os.remove(new)
    os.chmod(made, mode)


def link_or_copy(source: str, target: str) -> None:
    """Put a file to target, as a hard link where the file system can: of what a symbolic link means, not of the link."""
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def write_json(path: str, value: object, ours: Callable[[str], bool] | None = None) -> None:
    """Write value as JSON; the file appears whole, and an earlier one makes room as atomic_write has it."""
    with atomic_write(path, ours) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)


def read_text(path: str, what: str) -> str:
    """The text of a file, without a byte order mark. Raises UserError if it is missing or no text."""
    errors.require_file(path, what)
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not {what} ({error})") from error


def read_json(path: str, what: str, tests: dict[str, Callable[[Any], bool]]) -> dict:
    """The dictionary in a JSON file. Raises UserError if it is missing or broken, lacks one of the names of tests {name: test}, or has a
    value there that does not pass its test (kinds.py)."""
    errors.require_file(path, what)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        wrong = [name for name, test in tests.items() if not test(content[name])]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not {what} ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not {what} (it holds no dictionary)")
    if wrong:
        raise UserError(f"{path}: not {what} ({wrong[0]} cannot be {reprlib.repr(content[wrong[0]])})")
    return content
