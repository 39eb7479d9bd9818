"""src/training/ema.py: averages of the weights, compared with a computation by hand."""
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.network.device_input import NamedColumns
from src.training.ema import WeightAverage
from src.training.step import LossScaling, TrainStep
from tests.training.test_step import Quadratic, WithStatistics, results

pytestmark = pytest.mark.slow


def averaged_step(cell, decay, **options):
    average, columns = WeightAverage(cell, decay), NamedColumns(["x", "shift"][: 1 + isinstance(cell, WithStatistics)])
    optimizer = nn.SGD(cell.trainable_params(), learning_rate=0.1)
    return average, TrainStep(cell, optimizer, columns, average=average, **options).set_train()


def test_the_average_follows_the_weights(by_operation):
    """With the decay (1 + n) / (10 + n) at first, later with the configured one."""
    cell = Quadratic((3.0, 4.0))
    average, step = averaged_step(cell, 0.3)
    expected, weights = np.array([3.0, 4.0]), np.array([3.0, 4.0])
    for update in range(1, 9):
        weights = weights - 0.1 * weights
        step(Tensor([1.0, 1.0]))
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weights
        np.testing.assert_allclose(average.averages[0].asnumpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(cell.w.asnumpy(), weights, rtol=1e-5)
    average.restart()
    np.testing.assert_array_equal(average.averages[0].asnumpy(), cell.w.asnumpy())


def test_an_overflow_leaves_the_average_unchanged():
    cell = Quadratic((3.0, 4.0))
    average, step = averaged_step(cell, 0.5, scaling=LossScaling(1024.0))
    assert results(step, Tensor([1e18, 1.0]))["overflow"]
    np.testing.assert_array_equal(average.averages[0].asnumpy(), [3.0, 4.0])
    step(Tensor([1.0, 1.0]))
    assert (average.averages[0].asnumpy() < [3.0, 4.0]).all()


def test_batch_norm_statistics_are_averaged(by_operation):
    """They are no trainable parameters, but belong to the averaged weights."""
    cell = WithStatistics()
    average, step = averaged_step(cell, 0.5)
    step(Tensor(np.array([[[[1.0, 5.0]]]], np.float32)), Tensor([0.0]))
    values = {parameter.name: parameter.asnumpy() for parameter in average.averages}
    rate = 1 - 2 / 11
    mean, variance = cell.norm.moving_mean.asnumpy(), cell.norm.moving_variance.asnumpy()
    np.testing.assert_allclose(values["ema.norm.moving_mean"], rate * mean, rtol=1e-5)
    np.testing.assert_allclose(values["ema.norm.moving_variance"], (1 - rate) + rate * variance, rtol=1e-5)
    assert cell.norm.moving_mean.asnumpy()[0] != 0
