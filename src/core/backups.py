"""Ownership of existing files, and backups: nothing that a user made is overwritten."""
import fnmatch
import os
from collections.abc import Callable

from . import errors
from .console import LOG
from .errors import UserError

MARK = "CenterNet on MindSpore"  # in the files that this project writes next to a user's
NEAR = 2**16  # bytes searched at a file's start and at its end


def make_folder(folder: str, path: str) -> None:
    """Create the parent folder of path if it is missing. Raises UserError that names path."""
    with errors.writing(path):
        os.makedirs(folder or ".", exist_ok=True)


def contains_mark(*texts: str) -> Callable[[str], bool]:
    """A test for back_up_existing: a file is empty, or has one of the strings (default: MARK) near its start or end."""
    wanted = [text.encode() for text in texts or (MARK,)]

    def test(path: str) -> bool:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            found = file.read(NEAR)
            file.seek(max(0, os.path.getsize(path) - NEAR))
            found += file.read()
        return not found or any(text in found for text in wanted)

    return test


def contains_files(*patterns: str) -> Callable[[str], bool]:
    """A test for back_up_existing: a folder is empty, or holds a file that matches a pattern such as "centernet-*"."""
    def test(path: str) -> bool:
        if not os.path.isdir(path):
            return False
        names = os.listdir(path)
        return not names or any(fnmatch.filter(names, pattern) for pattern in patterns)

    return test


def never_ours(_path: str) -> bool:
    """The test for back_up_existing for files that cannot carry a mark: an existing one is never this project's."""
    return False


def has_companion(companion: Callable[[str], str], *texts: str) -> Callable[[str], bool]:
    """A test for back_up_existing: the companion file of a path exists and contains one of the strings."""
    return lambda path: contains_mark(*texts)(companion(path))


def require_ours(path: str, ours: Callable[[str], bool], companion: Callable[[str], str] | None = None,
                 option: str = "") -> None:
    """Raise UserError if path or companion(path) exists and is not this project's. Call it before long work.

    Not ours are devices and pipes such as /dev/null, the current folder and its parents, and everything that the test
    ours(path) rejects. The message suggests `option` for another place.
    """
    existing = [place for place in (path, companion and companion(path)) if place and os.path.lexists(place)]
    if not existing:
        return
    special = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    if special or os.path.commonpath([os.getcwd(), os.path.realpath(path)]) == os.path.realpath(path):
        kind = "a device or a pipe" if special else "the current folder or one of its parents"
        raise UserError(f"{path} is {kind}: it cannot be replaced by results; choose another path")
    if not ours(path):
        raise UserError(f"{' or '.join(existing)} already exists and was not written by this project: it is neither "
                        "moved nor overwritten; choose another place for the results"
                        f"{f' ({option})' if option else ''}, or move it away")


def back_up_existing(path: str, ours: Callable[[str], bool], companion: Callable[[str], str] | None = None) -> str:
    """Rename what exists at path to the first free of path.1, path.2, ... (before the extension); return path.

    The file companion(path) moves with it, to the companion path of the new name. An empty folder stays. A missing
    parent folder is created. Raises UserError as require_ours does.
    """
    require_ours(path, ours, companion)
    make_folder(os.path.dirname(path), path)
    companion_path = companion(path) if companion else path
    if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
        return path
    if os.path.lexists(path) or os.path.lexists(companion_path):
        backup = free_name(path, companion)
        for old, new in {path: backup, companion_path: companion(backup) if companion else backup}.items():
            if os.path.lexists(old):
                os.rename(old, new)
                LOG.info(f"backed up the earlier {old} as {new}")
    return path


def free_name(path: str, companion: Callable[[str], str] | None = None) -> str:
    """path, or the first of path.1, path.2, ... (before the extension) that is free, as is its companion path."""
    root, extension = os.path.splitext(path)
    number = 0
    while os.path.lexists(path) or companion and os.path.lexists(companion(path)):
        number += 1
        path = f"{root}.{number}{extension}"
    return path
