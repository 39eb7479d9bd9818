"""The training step: network and loss, mixed precision, one update."""
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.amp import all_finite

from ..network.deform_conv import DeformConv2d
from .ema import WeightAverage

STATISTICS = ("moving_mean", "moving_variance")  # suffixes of the names of batch norm statistics
MAX_SCALE = 2.0**24  # of the loss; beyond it float32 gradients themselves may overflow


@dataclass(frozen=True)
class AcrossRanks:
    """Data parallelism: the number of ranks, a cell that sums a tensor over them, and one that averages gradients."""

    rank_size: int = 1
    sum_over_ranks: nn.Cell | None = None
    reduce_gradients: nn.Cell | None = None


@dataclass(frozen=True)
class LossScaling:
    """Loss scaling. start is the first scale; None disables scaling and the check for overflows.

    With growth_interval N the scale doubles after N good steps in a row and halves, down to 1, on an overflow. With
    float16 a loss that is not finite is an overflow, too, and batch norm discards the statistics of the step.
    """

    start: float | None = None
    growth_interval: int = 0
    float16: bool = False


def set_precision(network: nn.Cell, amp_level: str) -> nn.Cell:
    """Set the mixed precision of a CenterNet, and return the network; its parameters stay float32.

    O0 is float32; O2 is float16 except for the heads; O3 is float16 with the heads; auto leaves the choice to
    MindSpore, operator by operator. Batch norm, the coordinates of the deformable convolutions, sigmoid and losses are
    always float32.
    """
    if amp_level == "O0":
        return network
    cells = [cell for _, cell in network.cells_and_names()]
    kept = [cell.conv_offset_mask for cell in cells if isinstance(cell, DeformConv2d)]
    if amp_level != "auto":
        network.to_float(ms.float16)
        kept += [cell for cell in cells if isinstance(cell, nn.BatchNorm2d)]
    if amp_level == "O2":
        kept += [getattr(network, name) for name in network.heads]
    for cell in kept:
        cell.to_float(ms.float32)
    return ms.amp.auto_mixed_precision(network, "auto") if amp_level == "auto" else network


class NetworkWithLoss(nn.Cell):
    """Network and loss cell: a batch {"image", and the targets} -> {loss name: scalar}, averaged over the stacks."""

    def __init__(self, network: nn.Cell, loss: nn.Cell, names: Iterable[str]):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.names = ("loss", *names)
        self.micro_batches = loss.micro_batches

    def construct(self, batch: dict) -> dict:
        return self.micro_batch_losses(self.norms(batch), batch)

    def norms(self, batch: dict) -> Any:
        """The normalizers of the losses, for a complete batch."""
        return self.loss.norms(batch)

    def micro_batch_losses(self, norms: Any, batch: dict) -> dict:
        """The losses of a micro-batch, with the normalizers of the complete batch."""
        stacks = self.network(batch["image"])
        losses = self.loss(stacks[0], batch, norms)
        if len(stacks) == 1:
            return losses
        for maps in stacks[1:]:
            more = self.loss(maps, batch, norms)
            losses = {name: losses[name] + more[name] for name in self.names}
        return {name: losses[name] / len(stacks) for name in self.names}


_unscale = ops.MultitypeFuncGraph("unscale")


@_unscale.register("Tensor", "Tensor")
def _tensor_unscale(scale: Tensor, grad: Tensor) -> Tensor:
    return grad.astype(ms.float32) / scale


_flatten = ops.MultitypeFuncGraph("flatten")


@_flatten.register("Tensor")
def _tensor_flatten(x: Tensor) -> Tensor:
    return x.reshape(-1)


_copy = ops.MultitypeFuncGraph("copy")


@_copy.register("Tensor")
def _tensor_copy(parameter: Tensor) -> Tensor:
    return parameter * 1.0


_restore = ops.MultitypeFuncGraph("restore")


@_restore.register("Tensor", "Tensor", "Tensor")
def _tensor_restore(condition: Tensor, parameter: Tensor, value: Tensor) -> Tensor:
    return ops.assign(parameter, ops.select(condition, value, parameter))


_finite = ops.MultitypeFuncGraph("finite")


@_finite.register("Tensor")
def _tensor_finite(x: Tensor) -> Tensor:
    return ops.isfinite(x).all().astype(ms.float32)


_plus = ops.MultitypeFuncGraph("plus")


@_plus.register("Tensor", "Tensor")
def _tensor_plus(x: Tensor, y: Tensor) -> Tensor:
    return x + y


class TrainStep(nn.Cell):
    """One training step: forward and backward pass, gradients averaged over the devices, one update.

    With gradient accumulation the batch is split into micro-batches, each with its own forward and backward pass; the
    update is that of the complete batch, but batch norm sees only micro-batches.

    The loss is multiplied by the scale before the backward pass. If a gradient on any device is not finite, the step
    is skipped on all devices: weights, moments and global step stay.

    Args: scaling, a LossScaling; clip_grad_norm, the largest global norm of the gradients (0: no limit); across, an
    AcrossRanks; device_input, a cell that turns the pipeline's columns into NetworkWithLoss's batch; average, a
    WeightAverage or None.

    Attributes: unroll, a graph without a loop over the micro-batches, which takes longer to compile, but which Ascend's
    graph engine accepts (docs/ascend-operators.md); saturates, whether the device limits values that overflow and sets
    a status register, instead of making them infinite (Ascend 910).

    construct: the columns of a batch -> a tuple of the scalars named in `results`: the losses (means over the ranks),
    overflow, scale, learning rate, and stop, which is true if any rank's parameter `stop` is set, so that all ranks end
    at the same step.
    """

    unroll = saturates = False

    def __init__(self, network_with_loss: nn.Cell, optimizer: nn.Cell, device_input: nn.Cell, *,
                 scaling: LossScaling = LossScaling(), clip_grad_norm: float = 0.0, across: AcrossRanks = AcrossRanks(),
                 average: WeightAverage | None = None):
        super().__init__(auto_prefix=False)
        self.losses = network_with_loss.names
        self.results = (*self.losses, "overflow", "scaling_sens", "lr", "stop")
        self.device_input = device_input
        self.micro_batches = network_with_loss.micro_batches
        self.average = average
        self.network = network_with_loss
        self.network.set_grad()
        self.optimizer = optimizer
        self.check_overflow = scaling.start is not None
        self.scale = Parameter(Tensor(scaling.start or 1.0, ms.float32), name="loss_scale", requires_grad=False)
        self.growth_interval = scaling.growth_interval if self.check_overflow else 0
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps", requires_grad=False)
        self.stop = Parameter(Tensor(0.0, ms.float32), name="stop", requires_grad=False)
        self.float16 = scaling.float16 and self.check_overflow
        parameters = network_with_loss.get_parameters() if self.float16 else []
        self.statistics = ParameterTuple([parameter for parameter in parameters if parameter.name.endswith(STATISTICS)])
        self.clip_grad_norm = clip_grad_norm
        self.rank_size = across.rank_size
        self.reduce_gradients = across.reduce_gradients or nn.Identity()
        self.sum_over_ranks = across.sum_over_ranks or nn.Identity()
        self.map = ops.HyperMap()
        scaled_loss = self._scaled_loss if self.micro_batches == 1 else self._scaled_micro_batch_loss
        self.forward_backward = ops.value_and_grad(scaled_loss, None, optimizer.parameters, has_aux=True)

    def _scaled_loss(self, batch: dict) -> tuple:
        losses = self.network(batch)
        return losses["loss"] * self.scale, losses

    def _scaled_micro_batch_loss(self, norms: Any, micro_batch: dict) -> tuple:
        losses = self.network.micro_batch_losses(norms, micro_batch)
        return losses["loss"] * self.scale, losses

    def _accumulate(self, batch: dict) -> tuple:
        """(losses, gradients) of a batch, summed over its micro-batches."""
        norms = self.network.norms(batch)
        split = {name: batch[name].reshape((self.micro_batches, -1) + batch[name].shape[1:])
                 for name in self.device_input.names}
        losses = ops.zeros((len(self.losses),), ms.float32)
        grads = self.map(ops.zeros_like, self.optimizer.parameters)
        if self.unroll:
            for number in range(self.micro_batches):
                losses, grads = self._add_micro_batch(norms, split, Tensor(number, ms.int32), losses, grads)
        else:
            index = Tensor(0, ms.int32)
            while index < self.micro_batches:  # one graph for any number of micro-batches
                losses, grads = self._add_micro_batch(norms, split, index, losses, grads)
                index = index + 1
        return losses, grads

    def _add_micro_batch(self, norms: Any, split: dict, index: Tensor, losses: Tensor, grads: tuple) -> tuple:
        """Add the losses and gradients of micro-batch `index` to the sums."""
        micro_batch = {name: ops.gather(split[name], index, 0) for name in self.device_input.names}
        (_, more_losses), more_grads = self.forward_backward(norms, micro_batch)
        return losses + self._stacked(more_losses), self.map(_plus, grads, more_grads)

    def _stacked(self, losses: dict) -> Tensor:
        """{name: scalar} as a tensor, in the order of `self.losses`."""
        values = ()
        for name in self.losses:
            values += (losses[name],)  # type: ignore[assignment]  # MindSpore cannot compile "x: t = y"
        return ops.stack(values)

    def construct(self, *columns: Tensor) -> tuple:
        batch = self.device_input(*columns)
        statistics = self.map(_copy, self.statistics) if self.statistics else ()
        if self.micro_batches == 1:
            (_, losses), grads = self.forward_backward(batch)
            losses = self._stacked(losses)
        else:
            losses, grads = self._accumulate(batch)
        grads = self.reduce_gradients(grads)
        grads = self.map(ops.partial(_unscale, self.scale), grads)
        learning_rate = self.optimizer.get_lr()
        if self.optimizer.is_group_lr:
            learning_rate = learning_rate[-1]  # a head's: the schedule's rate (see build_optimizer)
        scale = self.scale * 1.0
        overflows = ops.zeros((), ms.float32)
        if self.check_overflow:
            overflows = self._overflows(self.map(_flatten, grads))
        if self.float16:
            overflows = overflows + ops.logical_not(ops.isfinite(losses[0])).astype(ms.float32)
        sums = self.sum_over_ranks(ops.concat((losses, ops.stack((overflows, self.stop * 1.0)))))
        losses = tuple(sums[i] / self.rank_size for i in range(len(self.losses)))
        overflow = sums[-2] > 0
        stop = sums[-1] > 0
        if not overflow:
            if self.clip_grad_norm > 0:
                grads = ops.clip_by_global_norm(grads, self.clip_grad_norm)
            losses = ops.depend(losses, self.optimizer(grads))
            if self.average is not None:
                losses = ops.depend(losses, self.average(self.optimizer.global_step))
        if self.growth_interval > 0:
            losses = ops.depend(losses, self._adapt_scale(scale, overflow))
        if self.statistics:
            losses = ops.depend(losses, self.map(ops.partial(_restore, overflow), self.statistics, statistics))
        return losses + (overflow, scale, learning_rate, stop)

    def _overflows(self, grads: tuple) -> Tensor:
        """The number of gradients, flattened, with values that are not finite; 1 for all of a device that saturates.

        On a CPU, testing flat tensors takes a third of the time. MindSpore's all_finite, which reads and clears a
        device's status register, compiles to LessScalar elsewhere (docs/ascend-operators.md).
        """
        if self.saturates:
            return ops.logical_not(all_finite(grads)).astype(ms.float32)
        return (1.0 - ops.stack(self.map(_finite, grads))).sum()

    def _adapt_scale(self, scale: Tensor, overflow: Tensor) -> Tensor:
        """Set the scale for the next step."""
        good_steps = ops.select(overflow, ops.zeros_like(self.good_steps), self.good_steps + 1)
        grow = good_steps >= self.growth_interval
        grown = ops.select(grow, ops.minimum(scale * 2.0, MAX_SCALE), scale)
        ops.assign(self.scale, ops.select(overflow, ops.maximum(scale * 0.5, 1.0), grown))
        return ops.assign(self.good_steps, ops.select(grow, ops.zeros_like(good_steps), good_steps))
