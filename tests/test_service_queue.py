"""src/service_queue.py, with a network that is waited for."""
import asyncio
import math
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from src import service_queue
from src.predictor import as_prediction
from src.service_queue import Job, Network, Queue, QueueFull, Threads, batch_sizes, equal_sizes


class Held:
    """Stands in for a Predictor: the score of an image is its mean; `gate` holds the network; batches notes how many it got at a time."""

    classes = ["thing"]

    def __init__(self, error_from=None, batch_size=None):
        self.detector = SimpleNamespace(batch_size=batch_size)
        self.error_from, self.batches, self.gate = error_from, [], threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def prepare(self, image):
        return [(image, None)]

    def compute(self, batch):
        self.entered.set()
        self.gate.wait()
        assert len({inputs[0][0].shape for inputs in batch}) == 1
        self.batches.append(len(batch))
        if any(inputs[0][0].max() == 13 for inputs in batch):
            raise RuntimeError("thirteen")
        error = 1e-6 if self.error_from and len(batch) >= self.error_from else 0
        return [[np.array([[0, 0, 5, 5, inputs[0][0].mean() / 255 + error, 0]])] for inputs in batch]

    def finish(self, outputs, inputs):
        return as_prediction(outputs[0].astype(np.float32), self.classes)


def plain(value, size=8):
    return np.full((size, size, 3), value, np.uint8)


def started(predictor, largest=8, wait=0.0):
    """A Network that is ready."""
    network, ready = Network(predictor, largest, wait, 0.0), threading.Event()
    network.start(ready.set)
    assert ready.wait(10) and network.error is None
    predictor.batches.clear()
    return network


def submit(network, values, size=8):
    return [network.submit(Job(network.predictor.prepare(plain(value, size)))) for value in values]


def hold(predictor, network):
    """Let the network begin an image and not end it."""
    predictor.gate.clear()
    predictor.entered.clear()
    future = submit(network, [1])[0]
    assert predictor.entered.wait(10)
    return future


@pytest.mark.parametrize("largest, fixed, expected", [(1, None, [1]), (8, None, [1, 2, 4, 8]), (6, None, [1, 3, 6]),
                                                      (32, None, [1, 8, 16, 32]), (8, 1, [1]), (8, 4, [1, 2, 3, 4]), (2, 4, [1, 2])])
def test_batch_sizes(largest, fixed, expected):
    assert batch_sizes(largest, fixed) == expected


@pytest.mark.parametrize("error_from, tolerance, expected", [(None, 0, [1, 2, 4, 8]), (2, 0, [1]), (4, 0, [1, 2]), (4, 1e-5, [1, 2, 4, 8])])
def test_only_sizes_with_equal_results_are_used(error_from, tolerance, expected):
    assert equal_sizes(Held(error_from), 8, tolerance) == expected


def test_what_waits_is_computed_together_and_equal():
    predictor = Held()
    network = started(predictor)
    first = hold(predictor, network)
    others = submit(network, range(20, 27)) + submit(network, [40, 41], size=16)
    predictor.gate.set()
    scores = [future.result(10)[0][0][0, 4] for future in [first, *others]]
    np.testing.assert_array_equal(scores, np.array([1, *range(20, 27), 40, 41]) / 255)
    assert predictor.batches == [1, 4, 2, 1, 2]
    network.end()


def test_a_file_of_one_fixed_batch_is_computed_one_by_one():
    predictor = Held(batch_size=1)
    network = started(predictor)
    first = hold(predictor, network)
    others = submit(network, range(5))
    predictor.gate.set()
    for future in [first, *others]:
        future.result(10)
    assert predictor.batches == [1] * 6
    network.end()


def test_a_batch_is_waited_for():
    predictor = Held()
    network = started(predictor, wait=30.0)
    futures = submit(network, range(8))
    for future in futures:
        future.result(10)
    assert predictor.batches[-1] == 8 or sum(predictor.batches) == 8 and len(predictor.batches) < 3
    network.end()


def test_who_has_left_is_not_computed_and_an_error_ends_nothing():
    predictor = Held()
    network = started(predictor, largest=1)
    first = hold(predictor, network)
    left, wrong, last = submit(network, [2, 13, 3])
    assert left.cancel()
    predictor.gate.set()
    assert first.result(10) and last.result(10)
    with pytest.raises(RuntimeError, match="thirteen"):
        wrong.result(10)
    assert len(predictor.batches) == 3
    network.end()


def test_a_network_that_cannot_be_compiled_says_so():
    predictor, done = Held(), threading.Event()
    predictor.prepare = lambda image: 1 / 0
    network = Network(predictor, 8, 0, 0)
    network.start(done.set)
    assert done.wait(10)
    assert isinstance(network.error, ZeroDivisionError) and not network.ready


def test_the_queue_is_full_when_its_places_its_bytes_or_its_time_are():
    network = SimpleNamespace(seconds_each=0.4)
    queue = Queue(network, None, 4, 60, 1000)
    with queue.place([b"x"] * 3):
        with queue.place([b"x"]), pytest.raises(QueueFull) as full, queue.place([b"x"]):
            pass
        assert full.value.retry_after == math.ceil(4 * 0.4)
        with pytest.raises(QueueFull), queue.place([bytes(998)]):
            pass
        network.seconds_each = 12  # 4 x 12 s > 0.75 x 60 s
        with pytest.raises(QueueFull) as full, queue.place([b"x"]):
            pass
        assert full.value.retry_after == 36
    assert queue.taken == queue.bytes == 0
    with queue.place([bytes(2000)]):
        assert queue.taken == 1


def test_decoding_and_drawing_count_in_the_time_of_what_waits():
    queue = Queue(SimpleNamespace(seconds_each=0.5), None, 100, 60, 1000)
    queue.decoding.seconds_each, queue.drawing.seconds_each = 4.1, 9.0
    with queue.place([b"x"] * 6), queue.place([b"x"], drawn=True):  # 7 x 4.6 s + 9 s are within 0.75 x 60 s, 8 x 4.6 s + 9 s are not
        assert queue.taken == 7
        with pytest.raises(QueueFull) as full, queue.place([b"x"]):
            pass
        assert full.value.retry_after == math.ceil(7 * 4.6 + 9)
    with queue.place([b"x"] * 9), pytest.raises(QueueFull), queue.place([b"x"], drawn=True):
        pass
    assert queue.taken == queue.drawings == 0


def test_the_time_of_the_threads_is_noted(monkeypatch):
    times = iter([0, 3, 10, 11, 20, 21])  # 3 s, and two times 1 s, of which one ends in an error
    monkeypatch.setattr(service_queue.time, "perf_counter", lambda: next(times))
    threads = Threads(2)
    for function in (int, str):
        asyncio.run(threads.run(function))
    with pytest.raises(ValueError):
        asyncio.run(threads.run(int, "x"))
    assert threads.seconds_each == pytest.approx((1.5 * 0.8 + 0.5 * 0.2) * 0.8 + 0.5 * 0.2)


def test_an_answer_does_not_wait_for_the_decoding_of_others():
    predictor, decoded = Held(), threading.Event()
    network = started(predictor)
    queue = Queue(network, lambda body: plain(51) if body == b"fast" or decoded.wait(20) else None, 100, 60, 1000)

    async def both():
        predictor.gate.clear()
        predictor.entered.clear()
        first = asyncio.create_task(queue.detect(b"fast"))
        while not predictor.entered.is_set():
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(queue.detect(b"slow")) for _ in range(2 * os.cpu_count() + 2)]  # more than there are threads
        await asyncio.sleep(0)
        predictor.gate.set()
        try:
            found = await asyncio.wait_for(first, 10)
        finally:
            decoded.set()
        return [found, *await asyncio.gather(*others)]

    found = asyncio.run(both())
    assert all(one.prediction.scores == pytest.approx([0.2]) for one in found)
    network.end()


def test_an_image_goes_through():
    predictor = Held()
    network = started(predictor)
    queue = Queue(network, lambda body: plain(body[0]), 4, 60, 1000)
    found = asyncio.run(queue.detect(bytes([51])))
    assert found.size == (8, 8) and found.prediction.scores == pytest.approx([0.2])
    assert found.queue_seconds >= 0 and found.network_seconds > 0
    network.end()


def test_a_thread_that_dies_is_told():
    """Not ready, with the error, and whoever started it is called again; nobody would compute the images that come."""
    predictor, calls = Held(), []
    network, told = Network(predictor, 1, 0.0, 0.0), threading.Event()

    def when_done():
        calls.append(network.ready)
        if network.error:
            told.set()
        else:
            raise BrokenPipeError("nobody reads")

    network.start(when_done)
    assert told.wait(10) and calls == [True, False] and isinstance(network.error, BrokenPipeError) and not network.ready


def test_the_end_says_whether_something_is_still_computed():
    predictor = Held()
    network = started(predictor)
    future = hold(predictor, network)
    assert not network.end(0.01)
    predictor.gate.set()
    assert future.result(10) and network.end(10)
