"""Exponential moving average (EMA) of a network's weights, on the device."""
import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from ..weights.checkpoints import EMA_PREFIX

_approach = ops.MultitypeFuncGraph("approach")


@_approach.register("Tensor", "Tensor", "Tensor")
def _tensor_approach(rate: Tensor, average: Tensor, weight: Tensor) -> Tensor:
    return ops.assign(average, average + (weight - average) * rate)


class WeightAverage(nn.Cell):
    """Averages of all weights of a network, including batch norm statistics, in float32.

    Call it after each update with the number of updates so far, an int32 tensor:
    average = d * average + (1 - d) * weight with d = min(decay, (1 + updates) / (10 + updates)), so that the early
    weights are soon forgotten.
    """

    def __init__(self, network: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.weights = ParameterTuple(list(network.get_parameters()))
        averages = [Parameter(weight.asnumpy().copy(), name=f"{EMA_PREFIX}{weight.name}", requires_grad=False)
                    for weight in self.weights]
        self.averages = ParameterTuple(averages)
        self.map = ops.HyperMap()

    def construct(self, updates: Tensor) -> tuple:
        updates = updates.reshape(()).astype(ms.float32)
        rate = ops.maximum((9.0 / (10.0 + updates)), ops.ones_like(updates) * (1.0 - self.decay))
        return self.map(ops.partial(_approach, rate), self.averages, self.weights)

    def restart(self) -> None:
        """Reset the averages to the current weights."""
        for average, weight in zip(self.averages, self.weights):
            average.set_data(Tensor(weight.asnumpy().copy()))
