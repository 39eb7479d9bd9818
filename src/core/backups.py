"""Whose a file is, and keeping an earlier one: nothing that a user made is overwritten."""
import fnmatch
import os
from collections.abc import Callable

from . import errors
from .console import LOG
from .errors import UserError

MARK = "CenterNet on MindSpore"  # in the files that this project writes beside a user's
NEAR = 2**16  # bytes of a file's start, and of its end


def make_folder(folder: str, path: str) -> None:
    """Make the folder that path is to lie in, if it is missing. Raises UserError that names path."""
    with errors.writing(path):
        os.makedirs(folder or ".", exist_ok=True)


def contains_mark(*texts: str) -> Callable[[str], bool]:
    """A test for back_up_existing: whether a file is empty, or has one of the texts (else MARK) near its start or its end."""
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


def contains_files(*patterns: str) -> Callable[[str], bool]:
    """A test for back_up_existing: whether a folder is empty, or holds a file of one of these names, such as "centernet-*"."""
    def test(path):
        if not os.path.isdir(path):
            return False
        names = os.listdir(path)
        return not names or any(fnmatch.filter(names, pattern) for pattern in patterns)

    return test


def unmarked(_path: str) -> bool:
    """The test for back_up_existing of a kind of file that cannot say whose it is: none is taken for this project's."""
    return False


def has_companion(companion: Callable[[str], str], *texts: str) -> Callable[[str], bool]:
    """A test for back_up_existing: whether the file beside a path is there and says one of the texts."""
    return lambda path: contains_mark(*texts)(companion(path))


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


def back_up_existing(path: str, ours: Callable[[str], bool], companion: Callable[[str], str] | None = None) -> str:
    """Make room at path: what is there goes to the first free of path.1, path.2, ... (before the ending); returns path.

    companion(path) is the path of the file beside it, which moves with it: under the name that belongs to its new one. An empty folder
    stays. The folder that path lies in is made if it is missing. Raises UserError as require_ours does.
    """
    require_ours(path, ours, companion)
    make_folder(os.path.dirname(path), path)
    beside = companion(path) if companion else path
    if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
        return path
    if os.path.lexists(path) or os.path.lexists(beside):
        aside = free_name(path, companion)
        for old, new in {path: aside, beside: companion(aside) if companion else aside}.items():
            if os.path.lexists(old):
                os.rename(old, new)
                LOG.info(f"kept the earlier {old} as {new}")
    return path


def free_name(path: str, companion: Callable[[str], str] | None = None) -> str:
    """path, or the first of path.1, path.2, ... (before the ending) that is free, and whose companion(path) is."""
    root, ending = os.path.splitext(path)
    number = 0
    while os.path.lexists(path) or companion and os.path.lexists(companion(path)):
        number += 1
        path = f"{root}.{number}{ending}"
    return path
