"""The web service's queue: a bounded number of images waits for the network, which computes those of one size together."""
import asyncio
import collections
import contextlib
import itertools
import math
import os
import threading
import time
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from src.predictor import Prediction, Predictor

GRAPHS = 4  # batch sizes that are used: as many graphs as graphs.py holds
MARGIN = 0.75  # part of the deadline that decoding and computing what waits may take; their speed varies
UNKNOWN = 1.0  # seconds that an image is said to take before one was computed
AVERAGED = 0.2  # part of the newest image in the running average of the time of one


class QueueFull(Exception):
    """There is no place; retry_after are the seconds in which those now taken come free."""

    def __init__(self, retry_after):
        super().__init__(f"every place is taken for {retry_after} s")
        self.retry_after = retry_after


@dataclass(eq=False)
class Job:
    """The prepared inputs of an image, and the Future of (the network's outputs for it, when it began, the seconds it took)."""

    inputs: list
    future: Future = field(default_factory=Future)
    entered: float = field(default_factory=time.perf_counter)

    def shapes(self):
        """The shapes of the inputs; images of equal ones can be computed together."""
        return tuple(pixels.shape for pixels, _ in self.inputs)


def batch_sizes(largest, fixed=None):
    """The batch sizes to use up to the largest, from small to large: halves of it and 1; up to the fixed one of an exported file, any."""
    if fixed:
        return list(range(1, min(fixed, largest) + 1))
    return sorted({1, *(max(1, largest >> shift) for shift in range(GRAPHS - 1))})


def equal_sizes(predictor: Predictor, largest: int, tolerance: float) -> list[int]:
    """The batch_sizes up to the first whose outputs differ by more than the tolerance from those of one image at a time. Each has its
    graph compiled by this."""
    rng = np.random.default_rng(0)
    sizes = batch_sizes(largest, predictor.detector.batch_size)
    batch = [predictor.prepare(rng.integers(0, 256, (96, 128, 3), np.uint8)) for _ in range(sizes[-1])]
    alone = [predictor.compute([inputs])[0] for inputs in batch]
    return list(itertools.takewhile(lambda size: size == 1 or close(predictor.compute(batch[:size]), alone, tolerance), sizes))


def close(outputs, alone, tolerance):
    """Whether the first images' outputs differ by no more than the tolerance in any number."""
    return all(np.abs(one - other).max() <= tolerance for scales, others in zip(outputs, alone) for one, other in zip(scales, others))


class Network:
    """A thread in which a Predictor's network computes Jobs, the oldest first and with it others of its shapes, as many as one of the
    batch sizes; it waits batch_wait seconds for a batch to become full."""

    def __init__(self, predictor: Predictor, largest: int, batch_wait: float, tolerance: float):
        self.predictor, self.largest, self.batch_wait, self.tolerance = predictor, largest, batch_wait, tolerance
        self.sizes = []  # until it is ready
        self.seconds_each = 0.0  # of the network, for an image
        self.error = None  # what ended it
        self.images = self.batches = 0
        self._jobs = collections.deque()
        self._changed = threading.Condition()
        self._ended = False

    @property
    def ready(self):
        """Whether the graphs are compiled, and the thread has not failed since."""
        return bool(self.sizes)

    def start(self, when_done):
        """Compile the graphs and then compute, in a thread; when_done() is called when they are compiled, and when the thread fails."""
        self._thread = threading.Thread(target=self._run, args=(when_done,), name="network", daemon=True)
        self._thread.start()

    def end(self, seconds: float = 0) -> bool:
        """Let the thread end when it has no more jobs; returns whether it has within so many seconds."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def submit(self, job: Job) -> Future:
        """Give the thread a job; returns its Future."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _run(self, when_done):
        try:
            self._compile()
            when_done()
            while batch := self._next_batch():
                self._compute([job for job in batch if job.future.set_running_or_notify_cancel()])
        except BaseException as error:  # told by the main thread
            self.error, self.sizes = error, []
            when_done()

    def _compile(self):
        sizes = equal_sizes(self.predictor, self.largest, self.tolerance)
        start = time.perf_counter()
        self.predictor.compute([self.predictor.prepare(np.zeros((64, 64, 3), np.uint8))])
        self.seconds_each = time.perf_counter() - start
        self.sizes = sizes

    def _next_batch(self):
        """The jobs to compute next; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._ended)
            if not self._jobs:
                return []
            end = self._jobs[0].entered + self.batch_wait
            while len(self._jobs) < self.sizes[-1] and not self._ended and (left := end - time.perf_counter()) > 0:
                self._changed.wait(left)
            shapes = self._jobs[0].shapes()
            alike = [job for job in self._jobs if job.shapes() == shapes]
            chosen = alike[: max(size for size in self.sizes if size <= len(alike))]
            for job in chosen:
                self._jobs.remove(job)
            return chosen

    def _compute(self, batch):
        while batch:  # of which some may have been given up: in parts that are batch sizes
            part = batch[: max(size for size in self.sizes if size <= len(batch))]
            batch = batch[len(part) :]
            start = time.perf_counter()
            try:
                outputs = self.predictor.compute([job.inputs for job in part])
            except Exception as error:
                for job in part:
                    job.future.set_exception(error)
                continue
            seconds = time.perf_counter() - start
            self.images, self.batches = self.images + len(part), self.batches + 1
            self.seconds_each += AVERAGED * (seconds / len(part) - self.seconds_each)
            for job, output in zip(part, outputs):
                with contextlib.suppress(InvalidStateError, CancelledError):
                    job.future.set_result((output, start, seconds))


@dataclass(frozen=True)
class Detected:
    """What came of an image: its size (width, height), its Prediction, and the seconds it waited and was computed."""

    size: tuple
    prediction: Prediction
    queue_seconds: float
    network_seconds: float


class Threads:
    """Threads for one kind of work, so that it does not wait for other kinds; notes how long all of them need for an image."""

    def __init__(self, count: int):
        self.count, self.pool, self.lock = count, ThreadPoolExecutor(count), threading.Lock()
        self.seconds_each = 0.0

    async def run(self, function, *words):
        """Call a function in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, self._timed, function, *words)

    def _timed(self, function, *words):  # also where nobody waits for it any more
        start = time.perf_counter()
        try:
            return function(*words)
        finally:
            with self.lock:
                part = AVERAGED if self.seconds_each else 1
                self.seconds_each += part * ((time.perf_counter() - start) / self.count - self.seconds_each)


class Queue:
    """The places for images from the moment their bytes are there until they are answered, and the way through the network.

    decode(body) gives an image or raises. room bounds the bytes of all bodies in it. No more places are given than images that are
    decoded and computed before the deadline.
    """

    def __init__(self, network: Network, decode, places: int, deadline: float, room: int):
        self.network, self.decode, self.places, self.deadline, self.room = network, decode, places, deadline, room
        self.taken = self.drawings = self.bytes = 0
        threads = max(2, len(os.sched_getaffinity(0)))
        self.decoding, self.finishing, self.drawing = Threads(threads), Threads(threads), Threads(threads // 2)

    def seconds(self, images, drawings):
        """The time that so many images and drawings take, by what they took so far."""
        return images * (self.network.seconds_each + self.decoding.seconds_each) + drawings * self.drawing.seconds_each

    @contextlib.contextmanager
    def place(self, bodies: list, drawn: bool = False):
        """Places for several bodies until the block ends; drawn, where an image is to be drawn. Raises QueueFull; where all places are
        free, there is room for any."""
        images, drawings, size = len(bodies), int(drawn), sum(map(len, bodies))
        late = self.seconds(self.taken + images, self.drawings + drawings) > MARGIN * self.deadline
        if self.taken and (late or self.taken + images > self.places or self.bytes + size > self.room):
            known = self.network.seconds_each > 0
            raise QueueFull(max(1, math.ceil(self.seconds(self.taken, self.drawings) if known else self.taken * UNKNOWN)))
        self.taken, self.drawings, self.bytes = self.taken + images, self.drawings + drawings, self.bytes + size
        try:
            yield
        finally:
            self.taken, self.drawings, self.bytes = self.taken - images, self.drawings - drawings, self.bytes - size

    async def detect(self, body: bytes) -> Detected:
        """Detect in the image of a body that has a place. Raises what decode raises."""
        entered = time.perf_counter()
        size, job, began = await self.decoding.run(self._prepare, body)
        outputs, start, seconds = await asyncio.wrap_future(self.network.submit(job))
        prediction = await self.finishing.run(self.network.predictor.finish, outputs, job.inputs)
        return Detected(size, prediction, began - entered + start - job.entered, seconds)

    def _prepare(self, body):
        began = time.perf_counter()
        image = self.decode(body)
        return image.shape[1::-1], Job(self.network.predictor.prepare(image)), began
