"""Image decoding and drawing for the web service, in processes that can be killed: some files take minutes to decode.

The processes load this module, but neither MindSpore nor the web service.
"""
import asyncio
import ctypes
import logging
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2
import numpy as np
import pebble
from starlette.exceptions import HTTPException  # with positional arguments only: pickling loses others

from ..core.console import LOG, print_log
from ..imaging import reading
from ..inference.pipeline import make_inputs
from ..model_utils.config import Config
from ..tasks import pictures, task_of

USAGE = ("send the image as the body (curl --data-binary @image.jpg URL) or as the file of a form (curl -F "
         "file=@image.jpg URL)")
MAX_SIDE = 65_500  # pixels, OpenCV's limit for JPEG
MAX_WORKERS = 8  # each takes 60 MB and decodes hundreds of photos per second
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h
MAX_LOCK_SECONDS = 5  # for a process to hold the shared lock; receiving an image or returning inputs takes far less

pebble.CONSTS.term_timeout = 0  # kill processes immediately; the default is a grace period of 3 s

# ---------------------------------------------------------------- in the processes


def prepare(body: bytes, max_pixels: int, detector: Any, config: Config,
            calib: np.ndarray | None) -> tuple[tuple[int, int], list, float]:
    """Decode an image and return ((width, height), inputs of make_inputs, seconds taken). Raises HTTPException."""
    start = time.perf_counter()
    image = decode(body, max_pixels)
    height, width = image.shape[:2]
    return (width, height), make_inputs(image, detector, config, calib), time.perf_counter() - start


def draw(body: bytes, max_pixels: int, rows: np.ndarray, description: dict) -> bytes:
    """Draw rows [M, D] of a model with this description on an image, enlarged if it is small; returns a JPEG.

    Raises HTTPException.
    """
    image = decode(body, max_pixels)
    drawn = pictures.draw(task_of(description), image, rows, description) if max(image.shape) <= MAX_SIDE else image
    if max(drawn.shape) > MAX_SIDE:
        raise HTTPException(422, f"a JPEG has at most {MAX_SIDE} pixels a side; leave out format=image")
    return cv2.imencode(".jpg", drawn)[1].tobytes()


def decode(body: bytes, max_pixels: int) -> np.ndarray:
    """Decode an image file. Raises HTTPException: 415 if it is not an image, 413 if too large, 422 if damaged."""
    try:
        return reading.decode_whole_image(body, max_pixels=max_pixels)
    except reading.UnknownFormat as error:
        raise HTTPException(415, f"{error} ({', '.join(reading.FORMATS)}); {USAGE}") from None
    except reading.TooManyPixels:
        raise HTTPException(413, f"the image has more than {max_pixels} pixels") from None
    except (ValueError, MemoryError) as error:
        raise HTTPException(422, f"damaged image: {error or type(error).__name__}") from None


def init_worker(level: int = logging.INFO) -> None:
    """Set up a worker: print its log at this level, ignore SIGTERM, die with the service.

    A process manager stops a service by a signal to all of its processes; the workers must continue until it has ended.
    """
    print_log()
    LOG.setLevel(level)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    assert parent
    if os.getppid() != parent.pid:  # it was killed while this process was loading: no signal will come
        os._exit(1)
    cv2.setNumThreads(1)


# ---------------------------------------------------------------- in the service


class Workers:
    """A pool of processes that run prepare and draw."""

    def __init__(self) -> None:
        self.checking = threading.Lock()
        self.count = max(2, min(MAX_WORKERS, len(os.sched_getaffinity(0))))
        self.start()

    def start(self) -> None:
        """Start the processes, shielded from a terminal's Ctrl-C, which goes to all of them, even while they load."""
        multiprocessing.resource_tracker.ensure_running()  # it would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # A process with threads must not be forked.
            self.pool = pebble.ProcessPool(self.count, initializer=init_worker, initargs=[LOG.getEffectiveLevel()],
                                           context=multiprocessing.get_context("spawn"))
            assert self.pool.active  # reading the property starts the pool
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def run(self, function: Callable, *args: Any) -> Any:
        """Run a function of this module in a process, which is killed if the caller is cancelled.

        Raises HTTPException.
        """
        if not self.pool.active:  # an idle process was killed from outside
            self.end()
            self.start()
        try:
            return await asyncio.wrap_future(self.pool.schedule(function, args))
        except asyncio.CancelledError:
            self.check()
            raise
        except pebble.ProcessExpired:
            self.check()
            raise HTTPException(422, "the image crashed its decoder process") from None
        except BrokenProcessPool:
            raise HTTPException(503, "the process decoding the image was killed; try again",
                                {"Retry-After": "1"}) from None

    def check(self) -> None:
        """Abandon the pool, in a thread, if its shared lock is stuck.

        A process killed from outside (out of memory, for example) while it receives an image or returns inputs leaves
        the lock held. Pebble notices after a minute, or never.
        """
        if self.checking.acquire(blocking=False):
            threading.Thread(target=self._check, args=(self.pool._pool_manager,), daemon=True).start()

    def _check(self, manager: Any) -> None:
        try:
            with manager.worker_manager.workers_channel.lock(timeout=MAX_LOCK_SECONDS) as is_free:
                pass
            if not is_free:
                manager.handle_broken_pool(BrokenProcessPool())
        except AttributeError:  # the pool has ended in the meantime
            pass
        finally:
            self.checking.release()

    def end(self) -> None:
        """Kill the processes, even busy ones."""
        self.pool.stop()
        killing = threading.Thread(target=self.pool.join, daemon=True)
        killing.start()
        killing.join(2)
