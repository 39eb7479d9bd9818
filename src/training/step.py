"""The training step: network and loss, mixed precision, one update."""
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.amp import all_finite

from ..network.deform_conv import DeformConv2d

STATISTICS = ("moving_mean", "moving_variance")  # endings of the names of batch norm's
MAX_SCALE = 2.0**24  # of the loss; beyond it float32 gradients themselves may overflow


@dataclass(frozen=True)
class AcrossRanks:
    """How a training's processes work together: their number, a cell that adds a tensor up over all, one that averages gradients."""

    rank_size: int = 1
    sum_over_ranks: nn.Cell | None = None
    reduce_gradients: nn.Cell | None = None


@dataclass(frozen=True)
class LossScaling:
    """What the loss is multiplied by before the backward pass. With start None there is no scale, and no step is checked.

    With growth_interval N the scale doubles after N good steps in a row and halves, down to 1, on an overflow. With float16 a loss that
    is not finite is an overflow, too, and batch norm forgets what it saw in the step.
    """

    start: float | None = None
    growth_interval: int = 0
    float16: bool = False


def set_precision(network, amp_level):
    """Let a CenterNet compute in float16 where amp_level says so; its parameters stay float32. Returns the network.

    O0 is float32; O2 float16 but for the heads; O3 with the heads; auto leaves the choice to MindSpore, operator by
    operator. Batch norm stays float32 everywhere, the coordinates of the deformable convolutions, too, and so does all
    that follows the network: sigmoid and losses.
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
    """Network and the task's loss cell: a batch {image, and the targets} -> {name of a loss: scalar}, means over the network's stacks."""

    def __init__(self, network, loss, names):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.names = ("loss", *names)
        self.parts = loss.parts

    def construct(self, batch):
        return self.of_part(self.norms(batch), batch)

    def norms(self, batch):
        """What of_part takes, of a whole batch."""
        return self.loss.norms(batch)

    def of_part(self, norms, batch):
        """construct of a part of a batch, with the norms of the whole."""
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
def _tensor_unscale(scale, grad):
    return grad.astype(ms.float32) / scale


_flatten = ops.MultitypeFuncGraph("flatten")


@_flatten.register("Tensor")
def _tensor_flatten(x):
    return x.reshape(-1)


_copy = ops.MultitypeFuncGraph("copy")


@_copy.register("Tensor")
def _tensor_copy(parameter):
    return parameter * 1.0


_restore = ops.MultitypeFuncGraph("restore")


@_restore.register("Tensor", "Tensor", "Tensor")
def _tensor_restore(wanted, parameter, value):
    return ops.assign(parameter, ops.select(wanted, value, parameter))


_plus = ops.MultitypeFuncGraph("plus")


@_plus.register("Tensor", "Tensor")
def _tensor_plus(x, y):
    return x + y


class TrainStep(nn.Cell):
    """One training step on any device: a forward and a backward pass, gradients averaged over the devices, one update.

    A batch of several parts has a forward and a backward pass for each, one after the other, and the update of the whole: only batch norm
    sees parts.

    The loss is multiplied by the scale before the backward pass; if a gradient on any device is not finite, the step
    is skipped everywhere (weights, moments and global step stay).

    Args: scaling, a LossScaling; clip_grad_norm, the largest global norm of the gradients (0: no limit); across, an AcrossRanks;
    device_input makes NetworkWithLoss's batch of the pipeline's columns; average, a WeightAverage or None.
    construct: the columns of a batch -> a tuple of the scalars that `results` names: loss and its parts (means over the ranks), whether the
    step overflowed, scale, learning rate, and whether a rank's parameter `stop` was not 0: so all ranks end at the same step.
    """

    def __init__(self, network_with_loss, optimizer, device_input, *, scaling=LossScaling(), clip_grad_norm=0.0, across=AcrossRanks(),
                 average=None):
        super().__init__(auto_prefix=False)
        self.losses = network_with_loss.names
        self.results = (*self.losses, "overflow", "scaling_sens", "lr", "stop")
        self.device_input = device_input
        self.parts = network_with_loss.parts
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
        statistics = [parameter for parameter in network_with_loss.get_parameters() if parameter.name.endswith(STATISTICS)]
        self.statistics = ParameterTuple(statistics if self.float16 else [])
        self.clip_grad_norm = clip_grad_norm
        self.rank_size = across.rank_size
        self.reduce_gradients = across.reduce_gradients or nn.Identity()
        self.sum_over_ranks = across.sum_over_ranks or nn.Identity()
        self.map = ops.HyperMap()
        scaled_loss = self._scaled_loss if self.parts == 1 else self._scaled_loss_of_part
        self.forward_backward = ops.value_and_grad(scaled_loss, None, optimizer.parameters, has_aux=True)

    def _scaled_loss(self, batch):
        losses = self.network(batch)
        return losses["loss"] * self.scale, losses

    def _scaled_loss_of_part(self, norms, part):
        losses = self.network.of_part(norms, part)
        return losses["loss"] * self.scale, losses

    def _sum_over_parts(self, batch):
        """(losses, gradients) of a batch in parts."""
        norms = self.network.norms(batch)
        split = {name: batch[name].reshape((self.parts, -1) + batch[name].shape[1:]) for name in self.device_input.names}
        losses = ops.zeros((len(self.losses),), ms.float32)
        grads = self.map(ops.zeros_like, self.optimizer.parameters)
        index = Tensor(0, ms.int32)
        while index < self.parts:  # one graph, however many parts
            part = {name: ops.gather(split[name], index, 0) for name in self.device_input.names}
            (_, part_losses), part_grads = self.forward_backward(norms, part)
            losses = losses + self._stacked(part_losses)
            grads = self.map(_plus, grads, part_grads)
            index = index + 1
        return losses, grads

    def _stacked(self, losses):
        """{name: scalar} as a tensor, in the order of `losses`."""
        values = ()
        for name in self.losses:
            values += (losses[name],)
        return ops.stack(values)

    def construct(self, *batch):
        batch = self.device_input(*batch)
        statistics = self.map(_copy, self.statistics) if self.statistics else ()
        if self.parts == 1:
            (_, losses), grads = self.forward_backward(batch)
            losses = self._stacked(losses)
        else:
            losses, grads = self._sum_over_parts(batch)
        grads = self.reduce_gradients(grads)
        grads = self.map(ops.partial(_unscale, self.scale), grads)
        learning_rate = self.optimizer.get_lr()
        if self.optimizer.is_group_lr:
            learning_rate = learning_rate[-1]  # a head's, as optimizer.build_optimizer says
        scale = self.scale * 1.0
        overflows = ops.zeros((), ms.float32)
        if self.check_overflow:
            # all_finite knows that Ascend 910A saturates; over one axis it takes a CPU a third of the time.
            overflows = ops.logical_not(all_finite(self.map(_flatten, grads))).astype(ms.float32)
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

    def _adapt_scale(self, scale, overflow):
        """The scale for the next step."""
        good_steps = ops.select(overflow, ops.zeros_like(self.good_steps), self.good_steps + 1)
        grow = good_steps >= self.growth_interval
        grown = ops.select(grow, ops.minimum(scale * 2.0, MAX_SCALE), scale)
        ops.assign(self.scale, ops.select(overflow, ops.maximum(scale * 0.5, 1.0), grown))
        return ops.assign(self.good_steps, ops.select(grow, ops.zeros_like(good_steps), good_steps))
