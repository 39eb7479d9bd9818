"""User errors, and the frame that every entry script runs in."""
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
    """A mistake of the user's, or in the data: the message states what is wrong, where, and what to do.

    >>> raise UserError("image.txt is not an image")
    Traceback (most recent call last):
    src.core.errors.UserError: image.txt is not an image
    """


class Problems:
    """Collects the UserErrors of several checks, to report all of them at once.

    >>> problems = Problems()
    >>> with problems:
    ...     raise UserError("epoch_size is 0")
    >>> problems.found
    ['epoch_size is 0']
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> bool:
        if not isinstance(error, UserError):
            return False
        self.found += [line for line in str(error).split("\n") if line not in self.found]
        return True

    def raise_all(self) -> None:
        """Raise a UserError with a line for each problem, if there are any."""
        if self.found:
            raise UserError("\n".join(self.found))


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call main(), which may return an exit code, print the log, and exit.

    A UserError or a missing file prints one sentence and exits with 2, an interrupt with 130, and a closed output pipe
    (`| head`) silently with 141, like other programs. Characters outside the terminal's encoding are printed as escapes
    (\\u77e9). A closed standard output or standard error (`>&-`) is replaced by the null device.

    The exit code is also written to a new file if CENTERNET_EXIT_CODE_FILE names one: MindSpore may crash a process of
    a distributed run after its work is done, while it leaves the group, and the launcher still needs the code.
    """
    from .console import print_log  # while a signal still ends the process immediately, if `start` is the caller

    code_file = os.environ.pop("CENTERNET_EXIT_CODE_FILE", "")  # not for child processes
    print_log()
    INTERRUPTS.install()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _call(main)
    _discard_unread()
    if code_file:
        # Without the file, the launcher uses the process's exit code.
        with INTERRUPTS.deferred(), contextlib.suppress(OSError), open(code_file, "x", encoding="utf-8") as file:
            file.write(f"{code}\n")
    sys.exit(code)


def _call(main: Callable[[], int | None]) -> int | str:
    """Call main() and return the exit code, or the message that sys.exit was called with."""
    try:
        code: int | str | None
        try:
            code = main()
        except SystemExit as end:  # argparse, after --help
            code = end.code
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError as error:
        return 128 + signal.SIGPIPE if _discard_unread() else _print_error(f"error: {error.strerror}")
    except (Interrupted, KeyboardInterrupt) as error:
        return _print_error(f"interrupted{f': {error}' if str(error) else ''}", 130)
    except UserError as error:
        return _print_error(f"error: {error}")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _print_error(f"error: {error.strerror or error}{where}")


def reason(error: BaseException) -> str:
    """Why a file could not be used; of an OSError without its number and path, which the caller names."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _print_error(message: str, code: int = 2) -> int:
    """Print a message, unless standard error is a closed pipe; return the exit code."""
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr)
    return code


def _discard_unread() -> bool:
    """Return whether standard output or standard error is a closed pipe, and send its remaining output to the null
    device."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a caller's stream that is not a file
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                closed = True
                with open(os.devnull, "wb") as null:
                    os.dup2(null.fileno(), stream.fileno())
                stream.flush()
    return closed


@contextlib.contextmanager
def prefix_errors(path: str) -> Iterator[None]:
    """Prefix the UserErrors of the block with a file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn an OSError of the block, which writes a file, into a UserError: a failed write does not name the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} could not be written ({reason(error)})") from error


def require_file(path: str, what: str) -> str:
    """Return path if it is a file, else raise UserError with the path and its role."""
    if not path:
        raise UserError(f"no {what} given")
    if not os.path.isfile(path):
        raise UserError(f"{what} {'is a folder' if os.path.isdir(path) else 'not found'}: {path}")
    return path


def require_dir(path: str, what: str) -> str:
    """Return path if it is a folder, else raise UserError with the path and its role."""
    if not path:
        raise UserError(f"no {what} given")
    if not os.path.isdir(path):
        raise UserError(f"{what} {'is a file' if os.path.isfile(path) else 'not found'}: {path}")
    return path
