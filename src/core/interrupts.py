"""Signals: when a process that is asked to end does so."""
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator


class Interrupted(Exception):
    """The user ended the work early, and it is written: the message says what there is and which command goes on."""


class Interrupts:
    """What SIGINT (Ctrl-C) and SIGTERM do: both raise KeyboardInterrupt, but in the blocks of `deferred`, `blocked` and `immediate`.

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

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        """Let the block decide where it ends: a first signal sets `requested` and raises nothing."""
        return self._in_mode("note")

    def immediate(self) -> contextlib.AbstractContextManager[None]:
        """End the process on a signal, without a clean-up, where there is nothing to lose: MindSpore answers an exception while it compiles
        with pages of trace and a file."""
        return self._in_mode("exit")

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the end of the block if a signal comes in it: where MindSpore compiles and there is work to save."""
        came = self.first
        with self.deferred():
            yield
        if self.first != came:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()


def until_interrupted(items: Iterable) -> Iterator:
    """Iterate over items until a signal comes; the block of the loop is not interrupted, and INTERRUPTS.requested says why it ended."""
    with INTERRUPTS.deferred():
        for item in items:
            yield item
            if INTERRUPTS.requested:
                return
