"""src/serving/queue.py, with a network that is waited for."""
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
    """Stands in for a Predictor: the score of an image is its mean; `gate` holds the network; batches notes how many it got at a time."""

    classes = ["thing"]
    config = make_config()  # images are fitted into 8x8

    def __init__(self, error_from=None, batch_size=None):
        description = {"stride": 4, "classes": self.classes}
        self.detector = SimpleNamespace(batch_size=batch_size, input_res=[8, 8], down_ratio=4, from_bytes=True, description=description)
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
    assert reproducible_sizes(Held(error_from), 8, tolerance) == expected


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
    assert isinstance(network.error, ZeroDivisionError) and not network.sizes


def full(places):
    """The seconds after which a queue that is full says to come again."""
    with pytest.raises(HTTPException, match="503") as refused, places.take():
        pass
    assert refused.value.status_code == 503
    return int(refused.value.headers["Retry-After"])


def test_the_queue_is_full_when_its_places_its_bytes_or_its_time_are():
    places = Slots(4, 60, 1000)
    with contextlib.ExitStack() as taken:
        hold = [taken.enter_context(places.take()) for _ in range(4)][0]
        assert full(places) == 1  # nothing is known yet
        hold(600)
        hold(400)
        with pytest.raises(HTTPException, match="503"):
            hold(1)
        places.note(1.6, 4)
        assert places.seconds_each == pytest.approx(0.4) and full(places) == 2
    assert places.taken == places.bytes == 0
    places.note(58.3, 1)
    assert places.seconds_each == pytest.approx(0.8 * 0.4 + 0.2 * 58.3)
    with contextlib.ExitStack() as taken:  # 4 x 11.98 s > 0.75 x 60 s
        for _ in range(4):
            taken.enter_context(places.take())
        assert full(places) == 48
    with places.take() as hold:
        hold(1000)


def test_a_thread_that_dies_is_told():
    """Not ready, with the error, and whoever started it is called again; nobody would compute the images that come."""
    predictor, calls = Held(), []
    network, told = Network(predictor, 1, 0.0, 0.0), threading.Event()

    def when_done():
        calls.append(network.sizes)
        if network.error:
            told.set()
        else:
            raise BrokenPipeError("nobody reads")

    network.start(when_done)
    assert told.wait(10) and calls == [[1], []] and isinstance(network.error, BrokenPipeError) and not network.sizes


def test_the_end_says_whether_something_is_still_computed():
    predictor = Held()
    network = started(predictor)
    future = hold(predictor, network)
    assert not network.end(0.01)
    predictor.gate.set()
    assert future.result(10) and network.end(10)
