"""Signals: when a process that is asked to end does so."""
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from types import FrameType


class Interrupted(Exception):
    """The user ended the work early, and it is saved: the message states what exists and the command to continue."""


class Interrupts:
    """Handlers of SIGINT (Ctrl-C) and SIGTERM: both raise KeyboardInterrupt, except in the blocks of `deferred`,
    `blocked` and `immediate`.

    MindSpore turns SIGINT into SIGTERM once a graph runs, and a launcher forwards what the terminal sends to every
    process as well, so signals within ECHO seconds of the first are the same interrupt. A later one always raises.
    While a library is loading that an exception would leave half initialized, so that Python could only end in pages of
    traceback, the process ends immediately.
    """

    ECHO = 2.0
    FRAGILE = ("mindspore", "torch")  # libraries whose import must not be ended by an exception

    def __init__(self) -> None:
        self.first: float | None = None  # time of the first signal
        self.mode = "raise"  # or "note", "exit"

    def install(self, mode: str = "raise") -> None:
        """Install the handlers; a signal that the process was started to ignore stays ignored.

        In mode "exit" signals end the process without a traceback, for scripts that load much before they call run.
        """
        self.mode = mode
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, _number: int = 0, frame: FrameType | None = None) -> None:
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

    def _loads_fragile(self, frame: FrameType | None) -> bool:
        """Whether a FRAGILE library is being imported in a frame or its callers."""
        while frame is not None:
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            if frame.f_code.co_name == "<module>" and package in self.FRAGILE:
                return True
            frame = frame.f_back
        return False

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.first is not None

    @contextlib.contextmanager
    def _in_mode(self, mode: str) -> Iterator[None]:
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        """Let the block decide when to end: a first signal sets `requested` and raises nothing."""
        return self._in_mode("note")

    def immediate(self) -> contextlib.AbstractContextManager[None]:
        """End the process on a signal, without cleanup, where nothing can be lost: an exception while MindSpore
        compiles makes it print pages of traceback and write a file."""
        return self._in_mode("exit")

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Raise KeyboardInterrupt only at the end of the block: for compilation with unsaved work around it."""
        before = self.first
        with self.deferred():
            yield
        if self.first != before:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()


def until_interrupted(items: Iterable) -> Iterator:
    """Iterate over items until a signal arrives. The loop's body is not interrupted; INTERRUPTS.requested tells why the
    loop ended."""
    with INTERRUPTS.deferred():
        for item in items:
            yield item
            if INTERRUPTS.requested:
                return
