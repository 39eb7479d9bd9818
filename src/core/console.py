"""The log, and the progress of long work."""
import contextlib
import logging
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sized

from tqdm import tqdm

LOG = logging.getLogger("centernet")  # in a checkout, too
LOG.addHandler(logging.NullHandler())  # prints nothing in a program that configures no logging


def show(result: object) -> None:
    """Print a script's result immediately, above any progress bars."""
    with tqdm.external_write_mode(sys.stdout):
        print(result, flush=True)


class Console(logging.Handler):
    """Prints the log as `show` prints, with a label before each line."""

    def __init__(self, label: str = ""):
        super().__init__()
        self.label = label

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. Errors, such as a closed pipe or a full disk, are the script's to handle."""
        show(textwrap.indent(record.getMessage(), self.label, lambda line: True))


def print_log() -> None:
    """Print the log from here on, as scripts do."""
    LOG.handlers, LOG.propagate = [Console()], False
    LOG.setLevel(logging.INFO)


def be_quiet() -> None:
    """Log only warnings from here on, and show no progress."""
    LOG.setLevel(logging.WARNING)


def log_skipped(problems: Iterable[str]) -> None:
    """Log a warning for each skipped item."""
    for problem in problems:
        LOG.warning(f"skipped {problem}")


class Compilation:
    """The seconds that this process has spent on compiling, which progress does not count."""

    seconds = 0.0


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Log that the block compiles `what`, and keep its time out of the rates and times left of progress."""
    LOG.info(f"compiling {what}")
    start = time.perf_counter()
    try:
        yield
    finally:
        Compilation.seconds += time.perf_counter() - start


def progress(items: Iterable, what: str, total: int | None = None, every: float = 10.0) -> Iterator:
    """Iterate over items and report rate and time left: as a bar on a terminal, else in the log every few seconds.

    total is for items without a length; None if it is unknown. Time in `compiling` does not count.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    compiled = Compilation.seconds
    if sys.stderr.isatty():
        bar = tqdm(items, desc=what, total=total, disable=not LOG.isEnabledFor(logging.INFO))
        for item in bar:
            if not bar.disable and (added := Compilation.seconds - compiled):
                bar.start_t, bar.last_print_t = bar.start_t + added, bar.last_print_t + added
                compiled += added
            yield item
        return
    start = last = time.perf_counter() - compiled
    for done, item in enumerate(items, 1):
        yield item
        now = time.perf_counter() - Compilation.seconds
        if now - last >= every:
            last = now
            rate = done / (now - start)
            left = f"/{total}, {rate:.2f}/s, {(total - done) / rate:.0f} s left" if total else f", {rate:.2f}/s"
            LOG.info(f"{what}: {done}{left}")
