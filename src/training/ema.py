"""An exponential moving average of a network's weights (EMA), on the device."""
import mindspore as ms
from mindspore import Parameter, ParameterTuple, nn, ops

from ..weights.checkpoints import EMA_PREFIX

_approach = ops.MultitypeFuncGraph("approach")


@_approach.register("Tensor", "Tensor", "Tensor")
def _tensor_approach(part, average, weight):
    return ops.assign(average, average + (weight - average) * part)


class WeightAverage(nn.Cell):
    """Averages of all weights of a network, batch norm's statistics among them, in float32.

    Call it after an update with the number of updates so far, an int32 tensor: average = d * average + (1 - d) * weight with
    d = min(decay, (1 + updates) / (10 + updates)), so that the first weights, which are worth little, are soon forgotten.
    """

    def __init__(self, network, decay):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.weights = ParameterTuple(list(network.get_parameters()))
        averages = [Parameter(weight.asnumpy().copy(), name=f"{EMA_PREFIX}{weight.name}", requires_grad=False) for weight in self.weights]
        self.averages = ParameterTuple(averages)
        self.map = ops.HyperMap()

    def construct(self, updates):
        updates = updates.reshape(()).astype(ms.float32)
        part = ops.maximum((9.0 / (10.0 + updates)), ops.ones_like(updates) * (1.0 - self.decay))
        return self.map(ops.partial(_approach, part), self.averages, self.weights)

    def restart(self):
        """Let the averages be the weights as they are."""
        for average, weight in zip(self.averages, self.weights):
            average.set_data(ms.Tensor(weight.asnumpy().copy()))
