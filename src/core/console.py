"""The log and the progress of long work."""
import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm


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
