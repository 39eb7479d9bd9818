"""src/serving/queue.py, with a network that can be held."""
import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.exceptions import HTTPException

from src.inference.predictor import as_prediction
from src.model_utils.config import make_config
from src.serving.queue import Job, Network, Slots, batch_sizes, reproducible_sizes


class Held:
    """A fake Predictor whose score for an image is its mean; `gate` holds the network, batches has the batch sizes."""

    classes = ["thing"]
    config = make_config()

    def __init__(self, error_from=None, batch_size=None):
        description = {"stride": 4, "classes": self.classes}
        self.detector = SimpleNamespace(batch_size=batch_size, input_res=[8, 8], down_ratio=4, from_bytes=True,
                                        description=description)
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
        return as_prediction(outputs[0].astype(np.float32), {"classes": self.classes})


def plain(value, size=8):
    return np.full((size, size, 3), value, np.uint8)


def started(predictor, largest=8, wait=0.0):
    """A Network, ready to compute."""
    network, ready = Network(predictor, largest, wait, 0.0), threading.Event()
    network.start(ready.set)
    assert ready.wait(10) and network.error is None
    predictor.batches.clear()
    return network


def submit(network, values, size=8):
    return [network.submit(Job(network.predictor.prepare(plain(value, size)))) for value in values]


def hold(predictor, network):
    """Let the network begin an image but not finish it."""
    predictor.gate.clear()
    predictor.entered.clear()
    future = submit(network, [1])[0]
    assert predictor.entered.wait(10)
    return future


@pytest.mark.parametrize("largest, fixed, expected", [(1, None, [1]), (8, None, [1, 2, 4, 8]), (6, None, [1, 3, 6]),
                                                      (32, None, [1, 8, 16, 32]), (8, 1, [1]), (8, 4, [1, 2, 3, 4]),
                                                      (2, 4, [1, 2])])
def test_batch_sizes(largest, fixed, expected):
    assert batch_sizes(largest, fixed) == expected


@pytest.mark.parametrize("error_from, tolerance, expected", [(None, 0, [1, 2, 4, 8]), (2, 0, [1]), (4, 0, [1, 2]),
                                                             (4, 1e-5, [1, 2, 4, 8])])
def test_only_sizes_with_equal_results_are_used(error_from, tolerance, expected):
    assert reproducible_sizes(Held(error_from), 8, tolerance) == expected


def test_waiting_images_are_batched_with_equal_results():
    predictor = Held()
    network = started(predictor)
    first = hold(predictor, network)
    others = submit(network, range(20, 27)) + submit(network, [40, 41], size=16)
    predictor.gate.set()
    scores = [future.result(10)[0][0][0, 4] for future in [first, *others]]
    np.testing.assert_array_equal(scores, np.array([1, *range(20, 27), 40, 41]) / 255)
    assert predictor.batches == [1, 4, 2, 1, 2]
    network.end()


def test_a_fixed_batch_size_of_one_gives_no_batches():
    predictor = Held(batch_size=1)
    network = started(predictor)
    first = hold(predictor, network)
    others = submit(network, range(5))
    predictor.gate.set()
    for future in [first, *others]:
        future.result(10)
    assert predictor.batches == [1] * 6
    network.end()


def test_batch_wait_fills_a_batch():
    predictor = Held()
    network = started(predictor, wait=30.0)
    futures = submit(network, range(8))
    for future in futures:
        future.result(10)
    assert predictor.batches[-1] == 8 or sum(predictor.batches) == 8 and len(predictor.batches) < 3
    network.end()


def test_cancelled_jobs_are_skipped_and_errors_do_not_stop_the_thread():
    predictor = Held()
    network = started(predictor, largest=1)
    first = hold(predictor, network)
    cancelled, wrong, last = submit(network, [2, 13, 3])
    assert cancelled.cancel()
    predictor.gate.set()
    assert first.result(10) and last.result(10)
    with pytest.raises(RuntimeError, match="thirteen"):
        wrong.result(10)
    assert len(predictor.batches) == 3
    network.end()


def test_a_network_that_cannot_be_compiled_reports_an_error():
    predictor, done = Held(), threading.Event()
    predictor.prepare = lambda image: 1 / 0
    network = Network(predictor, 8, 0, 0)
    network.start(done.set)
    assert done.wait(10)
    assert isinstance(network.error, ZeroDivisionError) and not network.sizes


def retry_after(slots):
    """The Retry-After of a full queue, in seconds."""
    with pytest.raises(HTTPException, match="503") as error, slots.take():
        pass
    assert error.value.status_code == 503
    return int(error.value.headers["Retry-After"])


def test_the_queue_is_full_without_slots_bytes_or_time():
    slots = Slots(4, 60, 1000)
    with contextlib.ExitStack() as taken:
        hold = [taken.enter_context(slots.take()) for _ in range(4)][0]
        assert retry_after(slots) == 1  # no measurement yet
        hold(600)
        hold(400)
        with pytest.raises(HTTPException, match="503"):
            hold(1)
        slots.record(1.6, 4)
        assert slots.seconds_each == pytest.approx(0.4) and retry_after(slots) == 2
    assert slots.taken == slots.bytes == 0
    slots.record(58.3, 1)
    assert slots.seconds_each == pytest.approx(0.8 * 0.4 + 0.2 * 58.3)
    with contextlib.ExitStack() as taken:  # 4 x 11.98 s > 0.75 x 60 s
        for _ in range(4):
            taken.enter_context(slots.take())
        assert retry_after(slots) == 48
    with slots.take() as hold:
        hold(1000)


def test_the_death_of_the_thread_is_reported():
    """It has an error and no batch sizes, and when_done is called again; no images would be computed."""
    predictor, calls = Held(), []
    network, reported = Network(predictor, 1, 0.0, 0.0), threading.Event()

    def when_done():
        calls.append(network.sizes)
        if network.error:
            reported.set()
        else:
            raise BrokenPipeError("nobody reads")

    network.start(when_done)
    assert reported.wait(10) and calls == [[1], []] and isinstance(network.error, BrokenPipeError) and not network.sizes


def test_end_returns_whether_all_jobs_are_done():
    predictor = Held()
    network = started(predictor)
    future = hold(predictor, network)
    assert not network.end(0.01)
    predictor.gate.set()
    assert future.result(10) and network.end(10)
