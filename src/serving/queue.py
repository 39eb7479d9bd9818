"""The web service's queue: admission of requests, and the network's thread, which batches images of the same size."""
import collections
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from ..inference.predictor import Predictor

GRAPHS = 4  # batch sizes in use, as many as graphs.py keeps compiled
MARGIN = 0.75  # fraction of the deadline that admitted requests may need; speeds vary
SMOOTHING = 0.2  # weight of the newest image in the running average


class Slots:
    """Slots for requests: at most max_requests, with max_bytes of bodies, and only as many as can meet the deadline.

    deadline, in seconds.
    """

    def __init__(self, max_requests: int, deadline: float, max_bytes: int):
        self.max_requests, self.deadline, self.max_bytes = max_requests, deadline, max_bytes
        self.taken = self.bytes = 0
        self.seconds_each = 0.0  # between two responses, under load

    @contextlib.contextmanager
    def take(self) -> Iterator[Callable[[int], None]]:
        """Take a slot for the block, which gets a function to reserve more bytes. Both raise HTTPException (503)."""
        if self.taken >= self.max_requests or self.taken * self.seconds_each > MARGIN * self.deadline:
            raise self.full()
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self.bytes + size > self.max_bytes:
                raise self.full()
            self.bytes, held = self.bytes + size, held + size

        self.taken += 1
        try:
            yield hold
        finally:
            self.taken, self.bytes = self.taken - 1, self.bytes - held

    def full(self) -> HTTPException:
        """The error for a full queue, with the time to retry after."""
        seconds = max(1, math.ceil(self.taken * self.seconds_each))
        return HTTPException(503, f"the queue is full; try again in {seconds} s", {"Retry-After": str(seconds)})

    def record(self, seconds: float, taken: int) -> None:
        """Record the duration of a response; taken, the slots taken when it was begun."""
        self.seconds_each += (SMOOTHING if self.seconds_each else 1) * (seconds / taken - self.seconds_each)


@dataclass(eq=False)
class Job:
    """The prepared inputs of an image, and the Future of (network outputs, start time, seconds taken)."""

    inputs: list
    future: Future = field(default_factory=Future)
    entered: float = field(default_factory=time.perf_counter)

    def shapes(self) -> tuple:
        """The shapes of the inputs; images with equal ones can share a batch."""
        return tuple(pixels.shape for pixels, _ in self.inputs)


def batch_sizes(largest: int, fixed: int | None = None) -> list[int]:
    """The batch sizes to use, ascending: 1, `largest` and its halves; all up to the fixed size of an exported file."""
    if fixed:
        return list(range(1, min(fixed, largest) + 1))
    return sorted({1, *(max(1, largest >> shift) for shift in range(GRAPHS - 1))})


def reproducible_sizes(predictor: Predictor, largest: int, tolerance: float) -> list[int]:
    """The batch_sizes below the first one whose outputs differ from single images' by more than the tolerance.

    Compiles the graph of each size.
    """
    rng = np.random.default_rng(0)
    sizes = batch_sizes(largest, predictor.detector.batch_size)
    batch = [predictor.prepare(rng.integers(0, 256, (96, 128, 3), np.uint8)) for _ in range(sizes[-1])]
    alone = [predictor.compute([inputs])[0] for inputs in batch]

    def is_reproducible(size: int) -> bool:
        return size == 1 or all_close(predictor.compute(batch[:size]), alone, tolerance)

    return list(itertools.takewhile(is_reproducible, sizes))


def all_close(outputs: list, alone: list, tolerance: float) -> bool:
    """Whether the outputs of the first images differ by no more than the tolerance in any number."""
    return all(np.abs(one - other).max() <= tolerance
               for scales, others in zip(outputs, alone) for one, other in zip(scales, others))


class Network:
    """A thread that runs Jobs through a Predictor's network, the oldest first, in batches of the same shapes.

    It waits up to batch_wait seconds for a batch to fill; reproducible_sizes limits the batch sizes.
    """

    def __init__(self, predictor: Predictor, largest: int, batch_wait: float, tolerance: float):
        self.predictor, self.largest, self.batch_wait, self.tolerance = predictor, largest, batch_wait, tolerance
        self.sizes: list[int] = []  # batch sizes in use; empty until the graphs are compiled and after a failure
        self.error: BaseException | None = None  # of the thread
        self.images = self.batches = 0
        self._jobs: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._ended = False

    def start(self, when_done: Callable[[], Any]) -> None:
        """Compile the graphs and process jobs in a thread; calls when_done() once compiled and if the thread fails."""
        self._thread = threading.Thread(target=self._run, args=(when_done,), name="network", daemon=True)
        self._thread.start()

    def end(self, seconds: float = 0) -> bool:
        """Let the thread end after its last job; returns whether it did so within `seconds`."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def submit(self, job: Job) -> Future:
        """Queue a job; returns its Future."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _run(self, when_done: Callable[[], Any]) -> None:
        try:
            self.sizes = reproducible_sizes(self.predictor, self.largest, self.tolerance)
            when_done()
            while batch := self._next_batch():
                self._compute([job for job in batch if job.future.set_running_or_notify_cancel()])
        except BaseException as error:  # reported by the main thread
            self.error, self.sizes = error, []
            when_done()

    def _next_batch(self) -> list[Job]:
        """The next jobs to compute; empty at the end."""
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

    def _compute(self, jobs: list[Job]) -> None:
        while jobs:  # without cancelled ones: their number may not be a batch size, so split them
            batch = jobs[: max(size for size in self.sizes if size <= len(jobs))]
            jobs = jobs[len(batch) :]
            start = time.perf_counter()
            try:
                outputs = self.predictor.compute([job.inputs for job in batch])
            except Exception as error:
                for job in batch:
                    job.future.set_exception(error)
                continue
            seconds = time.perf_counter() - start
            self.images, self.batches = self.images + len(batch), self.batches + 1
            for job, output in zip(batch, outputs):
                job.future.set_result((output, start, seconds))
