"""MindSpore's warnings that are known to be harmless, kept from the terminal where they come up."""
import contextlib
import logging
import os


@contextlib.contextmanager
def without_warnings(*texts):
    """Drop the warnings of MindSpore's Python code that hold one of the texts, while the block runs; all others stay.

    Who sets GLOG_v has chosen what to see, and sees it.
    """
    if "GLOG_v" in os.environ:
        yield
        return

    def keep(record):
        message = record.getMessage()
        return record.levelno > logging.WARNING or not any(text in message for text in texts)

    logger = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")  # as MindSpore names it (mindspore/log.py)
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
