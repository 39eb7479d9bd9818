"""Learning-rate schedules and optimizers from the configuration; frozen layers."""
from collections.abc import Set
from typing import Any

from mindspore import Tensor, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from ..model_utils.config import Config
from ..model_utils.quiet import without_warnings
from .lr_schedule import CosineDecay, MultiDecay, PolyDecay


def build_schedule(train_config: Config, steps_per_epoch: int, epochs: int) -> LearningRateSchedule:
    """Build the learning-rate cell that train_config describes."""
    options = getattr(train_config, train_config.lr_schedule)
    if train_config.lr_schedule == "MultiDecay":
        return MultiDecay(options.learning_rate, steps_per_epoch, options.multi_epochs, options.factor,
                          options.warmup_steps)
    total_steps = steps_per_epoch * epochs
    if train_config.lr_schedule == "CosineDecay":
        return CosineDecay(options.learning_rate, options.end_learning_rate, total_steps, options.warmup_steps)
    return PolyDecay(options.learning_rate, options.end_learning_rate, total_steps, options.power,
                     options.warmup_steps)


def freeze(network: nn.Cell, what: str) -> None:
    """Freeze layers of a CenterNet: "backbone", "backbone_norm" (the backbone's batch norm) or "none".

    A frozen batch norm normalizes with its moving mean and variance, which stay, too.
    """
    if what == "none":
        return
    for _, cell in network.backbone.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d):
            cell.use_batch_statistics = False
            cell.gamma.requires_grad = cell.beta.requires_grad = False
    if what == "backbone":
        for parameter in network.backbone.get_parameters():
            parameter.requires_grad = False


class _BackboneRate:
    """Mix-in for optimizers: a separate rate for the backbone, the schedule's times a factor."""

    learning_rate: Any
    global_step: Any
    parameters: Any
    is_group_lr: bool

    def set_rates(self, backbone: Set[str], factor: float) -> None:
        """Scale the rate of the parameters named in backbone by factor."""
        self.slow = tuple(parameter.name in backbone for parameter in self.parameters)
        self.factor = factor
        self.is_group_lr = True  # get_lr returns a rate for each parameter

    def get_lr(self) -> Tensor | tuple:
        rate = self.learning_rate(self.global_step).reshape(())
        if not self.is_group_lr:
            return rate
        slow = rate * self.factor
        rates = ()
        for is_slow in self.slow:
            rates += (slow if is_slow else rate,)  # type: ignore[assignment]  # MindSpore cannot compile "x: t = y"
        return rates


class Adam(_BackboneRate, nn.Adam):
    """Adam (Kingma and Ba, 2015); weight decay is an L2 penalty."""


class Momentum(_BackboneRate, nn.Momentum):
    """Gradient descent with momentum, PyTorch's SGD; weight decay is an L2 penalty."""


_shrink = ops.MultitypeFuncGraph("shrink")


@_shrink.register("Tensor", "Number", "Tensor")
def _tensor_shrink(rate: Tensor, decay: float, parameter: Tensor) -> Tensor:
    return ops.assign(parameter, parameter * (1.0 - rate * decay)) if decay else parameter


class AdamW(_BackboneRate, nn.Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): each weight shrinks by rate * decay."""

    def set_decay(self, decayed: Set[str], decay: float) -> None:
        """Set the weight decay of the parameters named in decayed."""
        self.decays = tuple(decay if parameter.name in decayed else 0.0 for parameter in self.parameters)
        self.shrink_all = ops.HyperMap()

    def construct(self, gradients: tuple) -> Any:
        rates = self.get_lr()
        if self.is_group_lr:
            shrunk = self.shrink_all(_shrink, rates, self.decays, self.parameters)
        else:
            shrunk = self.shrink_all(ops.partial(_shrink, rates), self.decays, self.parameters)
        gradients = ops.depend(gradients, shrunk)
        return super().construct(gradients)


def build_optimizer(network: nn.Cell, train_config: Config, steps_per_epoch: int, epochs: int) -> nn.Optimizer:
    """Build the optimizer that train_config describes, for the network's trainable parameters.

    Parameters with a suffix in decay_filter are not decayed. The last parameter is a head's: its rate is the
    schedule's.
    """
    schedule = build_schedule(train_config, steps_per_epoch, epochs)
    eps = getattr(train_config, train_config.lr_schedule).eps
    options = getattr(train_config, train_config.optimizer)
    exempt = tuple(options.decay_filter)
    parameters = list(network.trainable_params())
    decayed = [parameter for parameter in parameters if not parameter.name.endswith(exempt)]
    others = [parameter for parameter in parameters if parameter.name.endswith(exempt)]
    penalty = 0.0 if train_config.optimizer == "AdamW" else options.weight_decay
    groups = [group for group in ({"params": decayed, "weight_decay": penalty}, {"params": others}) if group["params"]]
    with without_warnings("FusedSparseAdam' is deprecated"):  # nn.Adam builds it for sparse gradients; unused
        if train_config.optimizer == "SGD":
            optimizer = Momentum(groups, schedule, options.momentum)
        elif train_config.optimizer == "AdamW":
            optimizer = AdamW(groups, learning_rate=schedule, eps=eps)
            optimizer.set_decay({parameter.name for parameter in decayed}, options.weight_decay)
        else:
            optimizer = Adam(groups, learning_rate=schedule, eps=eps)
    if train_config.backbone_lr_factor != 1.0:
        backbone = {parameter.name for parameter in network.backbone.get_parameters()}
        optimizer.set_rates(backbone, train_config.backbone_lr_factor)
    return optimizer
