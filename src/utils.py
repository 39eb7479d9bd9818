"""Logging, progress, files that appear whole, and what makes room for them."""
import contextlib
import fnmatch
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
def whole_file(path: str, ours: Callable[[str], bool] | None = None, companion: Callable[[str], str] | None = None) -> Iterator[str]:
    """Give a path to write to; what is there when the block ends well becomes path, with a new file's usual mode.

    It lies in a folder of its own beside path, .<name>.<random>.partial, since MindSpore writes to yet other names first; what is left
    there is removed. An earlier file makes room then, as keep_earlier has it; without ours it is replaced. Raises UserError, with the
    file's name, if it cannot be written, or if what is there is not ours.
    """
    folder, name = os.path.split(path)
    if ours:
        require_ours(path, ours, companion)
        _make_folder(folder, path)
    with errors.writing(path), tempfile.TemporaryDirectory(suffix=".partial", prefix=f".{name}.", dir=folder or ".") as beside:
        partial = os.path.join(beside, name)
        yield partial
        _give_usual_mode(partial)
        os.replace(partial, keep_earlier(path, ours, companion) if ours else path)


@contextlib.contextmanager
def whole_folder(path: str, ours: Callable[[str], bool]) -> Iterator[str]:
    """Give a new folder to write into, which becomes path when the block ends well; what lies there makes room then (keep_earlier)."""
    require_ours(path, ours)
    parent, name = os.path.split(os.path.abspath(path))
    _make_folder(parent, path)
    with tempfile.TemporaryDirectory(suffix=".partial", prefix=f".{name}.", dir=parent) as beside:
        partial = os.path.join(beside, name)
        os.mkdir(partial)
        yield partial
        with errors.writing(path):
            os.rename(partial, keep_earlier(path, ours))


def _make_folder(folder, path):
    """Make the folder that path is to lie in, if it is missing. Raises UserError that names path."""
    with errors.writing(path):
        os.makedirs(folder or ".", exist_ok=True)


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
    """Write value as JSON; the file appears whole, and an earlier one makes room as whole_file has it."""
    with whole_file(path, ours) as partial, open(partial, "w", encoding="utf-8") as file:
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


# ---------------------------------------------------------------- what lies where results go

MARK = "CenterNet on MindSpore"  # in the files that this project writes beside a user's
NEAR = 2**16  # bytes of a file's start, and of its end


def says(*texts: str) -> Callable[[str], bool]:
    """A test for keep_earlier: whether a file is empty, or has one of the texts (else MARK) near its start or its end."""
    wanted = [text.encode() for text in texts or (MARK,)]

    def test(path):
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            found = file.read(NEAR)
            file.seek(max(0, os.path.getsize(path) - NEAR))
            found += file.read()
        return not found or any(text in found for text in wanted)

    return test


def holds(*patterns: str) -> Callable[[str], bool]:
    """A test for keep_earlier: whether a folder is empty, or holds a file of one of these names, such as "centernet-*"."""
    def test(path):
        if not os.path.isdir(path):
            return False
        names = os.listdir(path)
        return not names or any(fnmatch.filter(names, pattern) for pattern in patterns)

    return test


def unmarked(_path: str) -> bool:
    """The test for keep_earlier of a kind of file that cannot say whose it is: none is taken for this project's."""
    return False


def has_companion(companion: Callable[[str], str], *texts: str) -> Callable[[str], bool]:
    """A test for keep_earlier: whether the file beside a path is there and says one of the texts."""
    return lambda path: says(*texts)(companion(path))


def require_ours(path: str, ours: Callable[[str], bool], companion: Callable[[str], str] | None = None, option: str = "") -> None:
    """Raise UserError if something lies at path, or beside it at companion(path), that is not this project's.

    That is a device or a pipe, such as /dev/null, a folder that other work stands in, such as "." and "..", and what the test
    ours(path) does not know; option is what names another place. To call before long work whose results go there.
    """
    taken = [place for place in (path, companion and companion(path)) if place and os.path.lexists(place)]
    if not taken:
        return
    special = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    if special or os.path.commonpath([os.getcwd(), os.path.realpath(path)]) == os.path.realpath(path):
        raise UserError(f"{path} is {'a device or a pipe' if special else 'the current folder or one that it lies in'}: nothing can be "
                        "written there under that name; name another")
    if not ours(path):
        raise UserError(f"{' or '.join(taken)} is there already, and is not known as this project's: it is neither moved nor overwritten; "
                        f"name another place for the results{f' ({option})' if option else ''}, or move it away")


def keep_earlier(path: str, ours: Callable[[str], bool], companion: Callable[[str], str] | None = None) -> str:
    """Make room at path: what is there goes to the first free of path.1, path.2, ... (before the ending); returns path.

    companion(path) is the path of the file beside it, which moves with it: under the name that belongs to its new one. An empty folder
    stays. The folder that path lies in is made if it is missing. Raises UserError as require_ours does.
    """
    require_ours(path, ours, companion)
    _make_folder(os.path.dirname(path), path)
    beside = companion(path) if companion else path
    if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
        return path
    if os.path.lexists(path) or os.path.lexists(beside):
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
