"""Logging, progress, files that appear whole."""
import contextlib
import json
import os
import reprlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from src import errors
from src.errors import UserError


def log(message: object) -> None:
    """Print one line, at once; above the bars, if a terminal shows any."""
    with tqdm.external_write_mode(sys.stdout):
        print(message, flush=True)


def log_skipped(problems: Iterable[str]) -> None:
    """Name what was left out, a sentence each."""
    for problem in problems:
        log(f"skipped {problem}")


def progress(items: Iterable, what: str, total: int | None = None, every: float = 10.0) -> Iterator:
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


def spread(items: Sequence, count: int) -> list:
    """At most count of the items, evenly spread over them, the first and the last among them."""
    count = min(count, len(items))
    step = (len(items) - 1) / max(count - 1, 1)
    return [items[round(number * step)] for number in range(count)]


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
    """Give a path to write to; what is there when the block ends well becomes path, with a new file's usual mode.

    It lies in a folder of its own beside path, .<name>.<random>.partial, since MindSpore writes to yet other names first; what is left
    there is removed. Raises UserError, with the file's name, if it cannot be written.
    """
    folder, name = os.path.split(path)
    with errors.writing(path), tempfile.TemporaryDirectory(suffix=".partial", prefix=f".{name}.", dir=folder or ".") as beside:
        partial = os.path.join(beside, name)
        yield partial
        settle(partial, path)


def settle(made: str, path: str) -> None:
    """Move a file to path, with a new file's usual mode: MindSpore leaves its files to be read by their owner alone."""
    new = f"{made}.new"
    with open(new, "w") as file:
        mode = os.stat(file.fileno()).st_mode
    os.remove(new)
    os.chmod(made, mode)
    os.replace(made, path)


def link_or_copy(source: str, target: str) -> None:
    """Put a file to target, as a hard link where the file system can: of what a symbolic link means, not of the link."""
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def write_json(path: str, value: object) -> None:
    """Write value as JSON; the file appears whole."""
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
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


def keep_earlier(path: str, companion: Callable[[str], str] | None = None) -> str:
    """Make room at path: what is there goes to the first free of path.1, path.2, ... (before the ending); returns path.

    companion(path) is the path of the file beside it, which moves with it: under the name that belongs to its new one.

    The folder that path lies in is made if it is missing. Raises UserError for a device or a pipe, such as /dev/null, and for a folder
    that other work stands in, such as "." and "..": they are nobody's earlier results.
    """
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = companion(path) if companion else path
    if os.path.lexists(path) or os.path.lexists(beside):
        special = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
        if special or os.path.commonpath([os.getcwd(), os.path.realpath(path)]) == os.path.realpath(path):
            raise UserError(f"{path} is {'a device or a pipe' if special else 'the current folder or one that it lies in'}: nothing can be "
                            "written there under that name; name another")
        aside = free_name(path, companion)
        for old, new in {path: aside, beside: companion(aside) if companion else aside}.items():
            if os.path.lexists(old):
                os.rename(old, new)
                log(f"kept the earlier {old} as {new}")
    return path


def free_name(path: str, companion: Callable[[str], str] | None = None) -> str:
    """path, or the first of path.1, path.2, ... (before the ending) that is free, and whose companion(path) is."""
    root, ending = os.path.splitext(path)
    number = 0
    while os.path.lexists(path) or companion and os.path.lexists(companion(path)):
        number += 1
        path = f"{root}.{number}{ending}"
    return path
