"""Learning rates as functions of the global step (from 0), computed on the device."""
import math
from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule


def _warm_up(rate: Tensor, step: Tensor, warmup_steps: int) -> Tensor:
    """Scale a rate by (step + 1) / warmup_steps while that is below 1, so that the first step trains, too."""
    if warmup_steps <= 0:
        return rate
    return rate * ops.minimum((step + 1.0) / warmup_steps, ops.ones_like(rate))


class MultiDecay(LearningRateSchedule):
    """Divides the rate by factor after each of the given epochs (the original's lr_step)."""

    def __init__(self, learning_rate: float, steps_per_epoch: int, multi_epochs: Sequence[int], factor: float = 10,
                 warmup_steps: int = 0):
        super().__init__()
        self.learning_rate = learning_rate
        self.milestones = [epoch * steps_per_epoch for epoch in multi_epochs]
        self.factor = factor
        self.warmup_steps = warmup_steps

    def construct(self, global_step: Tensor) -> Tensor:
        step = global_step.reshape(()).astype(ms.float32)
        rate = ops.ones_like(step) * self.learning_rate
        for milestone in self.milestones:
            rate = ops.select(step >= milestone, rate / self.factor, rate)
        return _warm_up(rate, step, self.warmup_steps)


class PolyDecay(LearningRateSchedule):
    """From learning_rate to end_learning_rate over total_steps as (1 - step / total_steps) ^ power."""

    def __init__(self, learning_rate: float, end_learning_rate: float, total_steps: int, power: float = 5.0,
                 warmup_steps: int = 0):
        super().__init__()
        self.end_learning_rate = end_learning_rate
        self.span = learning_rate - end_learning_rate
        self.total_steps = total_steps
        self.power = power
        self.warmup_steps = warmup_steps

    def construct(self, global_step: Tensor) -> Tensor:
        step = global_step.reshape(()).astype(ms.float32)
        left = 1.0 - ops.minimum(step / self.total_steps, ops.ones_like(step))
        rate = self.end_learning_rate + self.span * ops.pow(left, self.power)
        return _warm_up(rate, step, self.warmup_steps)


class CosineDecay(LearningRateSchedule):
    """From learning_rate to end_learning_rate over total_steps along half a cosine period."""

    def __init__(self, learning_rate: float, end_learning_rate: float, total_steps: int, warmup_steps: int = 0):
        super().__init__()
        self.end_learning_rate = end_learning_rate
        self.half_span = (learning_rate - end_learning_rate) / 2
        self.turn = math.pi / total_steps
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def construct(self, global_step: Tensor) -> Tensor:
        step = global_step.reshape(()).astype(ms.float32)
        turned = self.turn * ops.minimum(step, ops.ones_like(step) * self.total_steps)
        rate = self.end_learning_rate + self.half_span * (1.0 + ops.cos(turned))
        return _warm_up(rate, step, self.warmup_steps)
