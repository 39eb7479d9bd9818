"""What the web service does with an image's bytes, in processes that can be killed: some files occupy a decoder for minutes.

The processes load this module, and neither MindSpore nor the web service.
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
from concurrent.futures.process import BrokenProcessPool

import cv2
import pebble
from starlette.exceptions import HTTPException  # is raised with positional arguments alone: others are lost between processes

from ..core.console import LOG, print_log
from ..imaging import reading
from ..inference.pipeline import make_inputs
from ..tasks import task_of

HOW = "send an image's bytes as the body (curl --data-binary @image.jpg URL) or as a form's file (curl -F file=@image.jpg URL)"
MAX_SIDE = 65_500  # pixels of a JPEG, as OpenCV writes it
MAX_WORKERS = 8  # each has 60 MB, and decodes hundreds of photos a second
PR_SET_PDEATHSIG = 1  # of Linux' prctl.h
MAX_LOCK_SECONDS = 5  # seconds for which a process may hold what all of them share; taking an image or giving its inputs takes far less

pebble.CONSTS.term_timeout = 0  # a process that is to go is killed; by default it has 3 s to end by itself

# ---------------------------------------------------------------- in the processes


def prepare(body, max_pixels, detector, config):
    """(size (width, height), inputs as make_inputs gives them, seconds it took) of an image's bytes. Raises HTTPException."""
    start = time.perf_counter()
    image = decode(body, max_pixels)
    return image.shape[1::-1], make_inputs(image, detector, config), time.perf_counter() - start


def draw(body, max_pixels, rows, description):
    """An image's bytes with rows [M, D] of a described model drawn, as a JPEG. Raises HTTPException."""
    image = decode(body, max_pixels)
    if max(image.shape) > MAX_SIDE:
        raise HTTPException(422, f"a JPEG has at most {MAX_SIDE} pixels a side; leave format=image out")
    return cv2.imencode(".jpg", task_of(description).results.draw(image, rows, description))[1].tobytes()


def decode(body, max_pixels):
    """The image of a file's bytes. Raises HTTPException: 415 if they are none, 413 if it is too large, 422 if damaged."""
    try:
        return reading.decode_whole_image(body, max_pixels=max_pixels)
    except reading.UnknownFormat as error:
        raise HTTPException(415, f"{error} ({', '.join(reading.FORMATS)}); {HOW}") from None
    except reading.TooManyPixels:
        raise HTTPException(413, f"the image has more than {max_pixels} pixels") from None
    except (ValueError, MemoryError) as error:
        raise HTTPException(422, f"a damaged image: {error or type(error).__name__}") from None


def init_worker(level=logging.INFO):
    """A process manager that ends a service sends its signal to all of its processes: these work on until the service has ended.

    level is that of the log, which a worker prints itself.
    """
    print_log()
    LOG.setLevel(level)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != multiprocessing.parent_process().pid:  # killed while this process was loading: no signal comes any more
        os._exit(1)
    cv2.setNumThreads(1)


# ---------------------------------------------------------------- in the service


class Workers:
    """The processes that call prepare and draw."""

    def __init__(self):
        self.checking = threading.Lock()
        self.count = max(2, min(MAX_WORKERS, len(os.sched_getaffinity(0))))
        self.start()

    def start(self):
        """Start the processes. Ctrl-C, which a terminal sends to all of them, is kept from them while they load, too."""
        multiprocessing.resource_tracker.ensure_running()  # which lets the signal through
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # A process with threads is not to be forked.
            self.pool = pebble.ProcessPool(self.count, initializer=init_worker, initargs=[LOG.getEffectiveLevel()],
                                            context=multiprocessing.get_context("spawn"))
            assert self.pool.active  # asking starts it
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def run(self, function, *words):
        """Call a function of this module in one of the processes, which is killed if the caller is cancelled. Raises HTTPException."""
        if not self.pool.active:  # a process was killed from outside while it had no work
            self.end()
            self.start()
        try:
            return await asyncio.wrap_future(self.pool.schedule(function, words))
        except asyncio.CancelledError:
            self.check()
            raise
        except pebble.ProcessExpired:
            self.check()
            raise HTTPException(422, "the image ended the process that decoded it") from None
        except BrokenProcessPool:
            raise HTTPException(503, "the process that decoded the image was ended; try again", {"Retry-After": "1"}) from None

    def check(self):
        """Give up the processes, in a thread, if none of them can take an image: one that is killed from outside (as when memory is short)
        while it takes an image or gives its inputs leaves the lock of all of them taken. Pebble sees that after a minute, or never."""
        if self.checking.acquire(blocking=False):
            threading.Thread(target=self._check, args=(self.pool._pool_manager,), daemon=True).start()

    def _check(self, manager):
        try:
            with manager.worker_manager.workers_channel.lock(timeout=MAX_LOCK_SECONDS) as is_free:
                pass
            if not is_free:
                manager.handle_broken_pool(BrokenProcessPool())
        except AttributeError:  # the pool has ended meanwhile
            pass
        finally:
            self.checking.release()

    def end(self):
        """Kill the processes, whatever they do."""
        self.pool.stop()
        killing = threading.Thread(target=self.pool.join, daemon=True)
        killing.start()
        killing.join(2)
