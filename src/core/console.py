"""The log and the progress of long work."""
import logging
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sized

from tqdm import tqdm

LOG = logging.getLogger("centernet")  # in a checkout, too
LOG.addHandler(logging.NullHandler())  # of a program that configures no logging, nothing is printed


def show(result: object) -> None:
    """Print what a script is asked for, at once; above the bars, if a terminal shows any."""
    with tqdm.external_write_mode(sys.stdout):
        print(result, flush=True)


class Console(logging.Handler):
    """Prints the log as `show` prints, with a label before each line."""

    def __init__(self, label: str = ""):
        super().__init__()
        self.label = label

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. What comes of it is the script's to handle: an output that nobody reads any more, a full disk."""
        show(textwrap.indent(record.getMessage(), self.label, lambda line: True))


def print_log() -> None:
    """Print the log from here on, as scripts do."""
    LOG.handlers, LOG.propagate = [Console()], False
    LOG.setLevel(logging.INFO)


def be_quiet() -> None:
    """Print only the log's warnings from here on, and no progress."""
    LOG.setLevel(logging.WARNING)


def log_skipped(problems: Iterable[str]) -> None:
    """Name what was left out, a sentence each."""
    for problem in problems:
        LOG.warning(f"skipped {problem}")


def progress(items: Iterable, what: str, total: int | None = None, every: float = 10.0) -> Iterator:
    """Iterate over items and show rate and time left, where the log shows such lines: a bar on a terminal, else a line every few seconds.

    total, for items without a length, may be None if nobody knows it.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, disable=not LOG.isEnabledFor(logging.INFO))
        return
    start = last = time.time()
    for done, item in enumerate(items, 1):
        yield item
        now = time.time()
        if now - last >= every:
            last = now
            rate = done / (now - start)
            left = f"/{total}, {rate:.2f}/s, {(total - done) / rate:.0f} s left" if total else f", {rate:.2f}/s"
            LOG.info(f"{what}: {done}{left}")
