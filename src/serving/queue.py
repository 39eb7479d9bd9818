"""The web service's queue: which requests are taken, and the network's thread, which computes images of one size together."""
import collections
import contextlib
import itertools
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from starlette.exceptions import HTTPException

from ..inference.predictor import Predictor

GRAPHS = 4  # batch sizes that are used: as many graphs as graphs.py holds
MARGIN = 0.75  # part of the deadline that what is taken may need; speeds vary
AVERAGED = 0.2  # part of the newest image in the running average of the time of one


class Slots:
    """The places for requests: at most `most`, those that are answered before the deadline (seconds), and bodies of `room` bytes."""

    def __init__(self, most: int, deadline: float, room: int):
        self.most, self.deadline, self.room = most, deadline, room
        self.taken = self.bytes = 0
        self.seconds_each = 0.0  # between two answers, while others wait

    @contextlib.contextmanager
    def take(self):
        """A place until the block ends, which gets a function that makes room for so many bytes more. Both raise HTTPException (503)."""
        if self.taken >= self.most or self.taken * self.seconds_each > MARGIN * self.deadline:
            raise self.full()
        held = 0

        def hold(size):
            nonlocal held
            if self.bytes + size > self.room:
                raise self.full()
            self.bytes, held = self.bytes + size, held + size

        self.taken += 1
        try:
            yield hold
        finally:
            self.taken, self.bytes = self.taken - 1, self.bytes - held

    def full(self):
        """The answer that there is no place, and when there is."""
        seconds = max(1, math.ceil(self.taken * self.seconds_each))
        return HTTPException(503, f"the queue is full; try again in {seconds} s", {"Retry-After": str(seconds)})

    def note(self, seconds, taken):
        """Note that an answer took so long, where so many places were taken when it was begun."""
        self.seconds_each += (AVERAGED if self.seconds_each else 1) * (seconds / taken - self.seconds_each)


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


def reproducible_sizes(predictor: Predictor, largest: int, tolerance: float) -> list[int]:
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
        self.sizes: list[int] = []  # of batches that are in use; none until the graphs are compiled, and after the thread has failed
        self.error = None  # what ended it
        self.images = self.batches = 0
        self._jobs: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._ended = False

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
            self.sizes = reproducible_sizes(self.predictor, self.largest, self.tolerance)
            when_done()
            while batch := self._next_batch():
                self._compute([job for job in batch if job.future.set_running_or_notify_cancel()])
        except BaseException as error:  # told by the main thread
            self.error, self.sizes = error, []
            when_done()

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
            for job, output in zip(part, outputs):
                job.future.set_result((output, start, seconds))
