"""Errors that a person can act on, and the frame every entry script runs in."""
import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from .interrupts import INTERRUPTS, Interrupted


class UserError(Exception):
    """A mistake of the user's, or of the data: the message says what, where and what to do.

    >>> raise UserError("image.txt is no image")
    Traceback (most recent call last):
    src.core.errors.UserError: image.txt is no image
    """


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call main(), which may return an exit code. A UserError or a missing file ends in one sentence and code 2, an interrupt in 130, an
    output that nobody reads any more (`| head`) in 141 without a word, as in other programs. The log is printed.

    Letters that the terminal's encoding lacks are printed as their numbers (\\u77e9). Where standard output or standard error is closed
    (`>&-`), what goes there goes nowhere. A launcher gets the exit code through a new file, too, which it names in the variable
    CENTERNET_EXIT_CODE_FILE: MindSpore may crash a process of a distributed run that has done all its work, as it leaves the others.
    """
    from .console import print_log  # while a signal still ends the process at once, if `start` has called

    told = os.environ.pop("CENTERNET_EXIT_CODE_FILE", "")  # it is this process's alone
    print_log()
    INTERRUPTS.install()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _call(main)
    _unread()
    if told:
        # Without the file the process's own exit code is taken.
        with INTERRUPTS.deferred(), contextlib.suppress(OSError), open(told, "x", encoding="utf-8") as file:
            file.write(f"{code}\n")
    sys.exit(code)


def _call(main):
    """What run does with main: the exit code."""
    try:
        try:
            code = main()
        except SystemExit as end:  # of argparse, after --help
            code = end.code
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError as error:
        return 128 + signal.SIGPIPE if _unread() else _say(f"error: {error.strerror}")
    except (Interrupted, KeyboardInterrupt) as error:
        return _say(f"interrupted{f': {error}' if str(error) else ''}", 130)
    except UserError as error:
        return _say(f"error: {error}")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _say(f"error: {error.strerror or error}{where}")


def reason(error: BaseException) -> str:
    """Why a file could not be used, in words: an OSError without its number and path, which the caller names."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _say(message, code=2):
    """Print a message, if anybody reads it; returns the exit code."""
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    return code


def _unread():
    """Whether standard output or standard error is a pipe that nobody reads any more; what is left for it goes nowhere then."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream of a caller's that is no file
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                gone = True
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())
                stream.flush()
    return gone


@contextlib.contextmanager
def about(path: str) -> Iterator[None]:
    """Put a file's name before the UserErrors of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn an OSError of the block, which writes a file, into a UserError: a write's own does not name the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} could not be written ({reason(error)})") from error


def require_file(path: str, what: str) -> str:
    """Return path if it is a file, else raise UserError that names it and what it should have been."""
    if not path:
        raise UserError(f"no {what} given")
    if not os.path.isfile(path):
        raise UserError(f"{what} {'is a folder' if os.path.isdir(path) else 'not found'}: {path}")
    return path


def require_dir(path: str, what: str) -> str:
    """Return path if it is a folder, else raise UserError that names it and what it should have been."""
    if not path:
        raise UserError(f"no {what} given")
    if not os.path.isdir(path):
        raise UserError(f"{what} {'is a file' if os.path.isfile(path) else 'not found'}: {path}")
    return path
