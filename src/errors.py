"""Errors that a person can act on, and the frame every entry script runs in."""
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn


class UserError(Exception):
    """A mistake of the user's, or of the data: the message says what, where and what to do."""


class Interrupted(Exception):
    """The user ended the work early, and it is written: the message says what there is and which command goes on."""


class Interrupts:
    """What SIGINT (Ctrl-C) and SIGTERM do: both raise KeyboardInterrupt, but in the blocks of `noted`, `held` and `at_once`.

    MindSpore turns SIGINT into SIGTERM once a graph runs, and a launcher passes on what a terminal also sends to all: what comes within
    ECHO seconds of the first signal is the same interrupt. A later one always raises. While a library is loaded that an exception leaves
    half made, and Python then cannot end without pages of trace, the process ends at once.
    """

    ECHO = 2.0
    FRAGILE = ("mindspore", "torch")  # libraries that an exception must not end the loading of

    def __init__(self):
        self.first = None
        self.mode = "raise"

    def install(self, mode: str = "raise") -> None:
        """Take over both signals; one that the process was started to ignore stays ignored. With mode "exit" they end the process without
        a word more, for scripts that load much before they call run."""
        self.mode = mode
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, _number=None, frame=None):
        now = time.monotonic()
        if self.mode == "exit" or (self.mode == "raise" and self._loads_fragile(frame)):
            print("interrupted", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(130)
        if self.first is None:
            self.first = now
            if self.mode == "note":
                return
        elif now - self.first < self.ECHO:
            return
        raise KeyboardInterrupt

    def _loads_fragile(self, frame):
        """Whether one of the FRAGILE libraries is being imported in a frame or its callers."""
        while frame is not None:
            if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__", "").partition(".")[0] in self.FRAGILE:
                return True
            frame = frame.f_back
        return False

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.first is not None

    @contextlib.contextmanager
    def _in_mode(self, mode):
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    def noted(self) -> contextlib.AbstractContextManager[None]:
        """Let the block decide where it ends: a first signal sets `requested` and raises nothing."""
        return self._in_mode("note")

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        """End the process on a signal, without a clean-up, where there is nothing to lose: MindSpore answers an exception while it compiles
        with pages of trace and a file."""
        return self._in_mode("exit")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the end of the block if a signal comes in it: where MindSpore compiles and there is work to save."""
        came = self.first
        with self.noted():
            yield
        if self.first != came:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()


def until_interrupted(items: Iterable) -> Iterator:
    """Iterate over items until a signal comes; the block of the loop is not interrupted, and INTERRUPTS.requested says why it ended."""
    with INTERRUPTS.noted():
        for item in items:
            yield item
            if INTERRUPTS.requested:
                return


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call main(), which may return an exit code. A UserError or a missing file ends in one sentence and code 2, an interrupt in 130, an
    output that nobody reads any more (`| head`) in 141 without a word, as in other programs.

    Letters that the terminal's encoding lacks are printed as their numbers (\\u77e9). Where standard output or standard error is closed
    (`>&-`), what goes there goes nowhere. A launcher gets the exit code through a new file, too, which it names in the variable
    CENTERNET_EXIT_CODE_FILE: MindSpore may crash a process of a distributed run that has done all its work, as it leaves the others.
    """
    told = os.environ.pop("CENTERNET_EXIT_CODE_FILE", "")  # it is this process's alone
    INTERRUPTS.install()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    sys.stdout.reconfigure(errors="backslashreplace")
    code = _call(main)
    _unread()
    if told:
        # Without the file the process's own exit code is taken.
        with INTERRUPTS.noted(), contextlib.suppress(OSError), open(told, "x", encoding="utf-8") as file:
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
