"""Suppression of MindSpore's harmless warnings."""
import contextlib
import logging
import os
from collections.abc import Iterator


@contextlib.contextmanager
def without_warnings(*texts: str) -> Iterator[None]:
    """Drop the warnings of MindSpore's Python code that contain one of the strings, within the block.

    With GLOG_v set, nothing is dropped: the user has chosen a log level.
    """
    if "GLOG_v" in os.environ:
        yield
        return

    def keep(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return record.levelno > logging.WARNING or not any(text in message for text in texts)

    logger = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")  # MindSpore's name for it (mindspore/log.py)
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
