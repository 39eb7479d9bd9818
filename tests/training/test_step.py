"""src/training/step.py: loss, gradients, loss scale, precision, optimizer."""
import dataclasses

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.network.architectures import ARCHITECTURES
from src.network.centernet import build_network
from src.network.deform_conv import DeformConv2d
from src.network.device_input import NamedColumns
from src.network.resnet import upsampling
from src.training import engine
from src.training.lr_schedule import MultiDecay
from src.training.optimizer import build_optimizer
from src.training.step import AcrossRanks, LossScaling, TrainStep, set_precision
from src.weights import torch_weights
from src.weights.checkpoints import parameter_shapes
from tests import parity, small_network
from tests.metainfo import classes_of


class Quadratic(nn.Cell):
    """Stand-in for a network with its loss: the sum of (w * x) ** 2 / 2, with the gradient w * x * x."""

    micro_batches, names = 1, ("loss", "a_loss", "b_loss")

    def __init__(self, start):
        super().__init__()
        self.w = Parameter(Tensor(np.array(start, np.float32)), name="w")

    def construct(self, batch):
        loss = 0.5 * ops.square(self.w * batch["x"]).sum()
        return {"loss": loss, "a_loss": loss, "b_loss": ops.zeros_like(loss)}


def quadratic_step(start=(3.0, 4.0), **options):
    cell = Quadratic(start)
    optimizer = nn.SGD(cell.trainable_params(), learning_rate=0.1)
    return cell, optimizer, TrainStep(cell, optimizer, NamedColumns(["x"]), **options).set_train()


def results(step, *batch):
    """The results of a TrainStep for a batch, {name: number}."""
    return {name: value.asnumpy().item() for name, value in zip(step.results, step(*batch))}


@pytest.mark.slow
def test_a_step_is_independent_of_the_loss_scale(by_operation):
    for scale in (None, 1.0, 1024.0):
        cell, _, step = quadratic_step(scaling=LossScaling(scale))
        found = results(step, Tensor([1.0, 1.0]))
        np.testing.assert_allclose(cell.w.asnumpy(), [2.7, 3.6], rtol=1e-6)
        assert found == {"loss": pytest.approx(12.5), "a_loss": pytest.approx(12.5), "b_loss": 0, "overflow": False,
                         "scaling_sens": scale or 1.0, "lr": pytest.approx(0.1), "stop": False}


@pytest.mark.slow
def test_an_overflow_skips_the_step():
    cell, _, step = quadratic_step(scaling=LossScaling(1024.0))
    found = results(step, Tensor([1e18, 1.0]))
    assert found["overflow"] and np.isfinite(found["loss"])
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    assert not results(step, Tensor([1.0, 1.0]))["overflow"]
    np.testing.assert_allclose(cell.w.asnumpy(), [2.7, 3.6], rtol=1e-6)


@pytest.mark.slow
def test_an_overflow_keeps_adams_moments_and_step():
    cell = Quadratic((3.0, 4.0))
    optimizer = nn.Adam(cell.trainable_params(), learning_rate=MultiDecay(0.1, 1, [1], 10, 0))
    step = TrainStep(cell, optimizer, NamedColumns(["x"]), scaling=LossScaling(1024.0)).set_train()
    step(Tensor([1e18, 1.0]))
    assert int(optimizer.global_step.asnumpy()[0]) == 0
    assert optimizer.moment1[0].asnumpy().max() == 0
    assert results(step, Tensor([1.0, 1.0]))["lr"] == pytest.approx(0.1)  # the rate of the first step
    assert int(optimizer.global_step.asnumpy()[0]) == 1
    assert results(step, Tensor([1.0, 1.0]))["lr"] == pytest.approx(0.01)


class WithStatistics(Quadratic):
    """A loss with a batch norm and a term without a gradient."""

    def __init__(self):
        super().__init__((3.0,))
        self.norm = nn.BatchNorm2d(1)

    def construct(self, batch):
        loss = (self.w * self.norm(batch["x"])).sum() + ops.stop_gradient(batch["shift"]).sum()
        return {"loss": loss, "a_loss": loss, "b_loss": ops.zeros_like(loss)}


@pytest.mark.slow
def test_a_non_finite_loss_in_float16_is_an_overflow():
    """Even with finite gradients; batch norm statistics are restored. In float32 DivergenceMonitor ends training."""
    x = Tensor(np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2))
    for float16 in (True, False):
        cell = WithStatistics()
        step = TrainStep(cell, nn.SGD(cell.trainable_params(), learning_rate=0.1), NamedColumns(["x", "shift"]),
                         scaling=LossScaling(8.0, float16=float16)).set_train()
        seen = []
        for shift in (np.inf, 0.0):
            overflow = results(step, x, Tensor([shift], ms.float32))["overflow"]
            seen.append((overflow, float(cell.norm.moving_mean.asnumpy()[0])))
        assert [overflow for overflow, _ in seen] == [float16, False]
        assert [mean for _, mean in seen] == pytest.approx([0, 0.15] if float16 else [0.15, 0.285])


@pytest.mark.slow
def test_an_overflow_on_another_rank_skips_the_step():
    """A stand-in for the sum over ranks adds another rank's overflow."""
    class OtherRank(nn.Cell):
        def construct(self, x):
            return x + 1.0

    cell, _, step = quadratic_step(scaling=LossScaling(1024.0), across=AcrossRanks(2, OtherRank()))
    found = results(step, Tensor([1.0, 1.0]))
    assert found["overflow"] and found["stop"]
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    assert found["loss"] == pytest.approx((12.5 + 1) / 2)  # the mean over both


@pytest.mark.slow
def test_the_dynamic_loss_scale():
    """It doubles after two good steps and halves on an overflow, which also resets the count."""
    cell, _, step = quadratic_step(scaling=LossScaling(8.0, growth_interval=2))
    good, bad = Tensor([0.0, 0.0]), Tensor([1e19, 1.0])
    used = [results(step, x)["scaling_sens"] for x in (good, good, good, bad, good, bad, good, good, good)]
    assert used == [8, 8, 16, 16, 8, 8, 4, 4, 8]
    assert float(step.scale.asnumpy()) == 8 and int(step.good_steps.asnumpy()) == 1
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    for _ in range(5):
        step(bad)
    assert float(step.scale.asnumpy()) == 1  # and no lower


@pytest.mark.parametrize("args, expected", [((), 0), (("--train_config.dynamic_loss_scale", "true"), 7)])
def test_the_window_of_the_dynamic_loss_scale(args, expected, make_config, small):
    config = make_config("--train_config.loss_scale_window", 7, *args)
    network = build_network(config.net_config, classes_of(2), "composite")
    optimizer = build_optimizer(network, config.train_config, 10, 1)
    assert engine.build_train_step(network, config, optimizer, NamedColumns(["image"])).growth_interval == expected


@pytest.mark.slow
def test_a_fixed_loss_scale_stays(by_operation):
    _, _, step = quadratic_step(scaling=LossScaling(8.0))
    for x in (Tensor([1e19, 1.0]), Tensor([0.0, 0.0])):
        step(x)
    assert float(step.scale.asnumpy()) == 8


@pytest.mark.slow
@pytest.mark.parametrize("level, features, heads", [("O0", ms.float32, ms.float32), ("O2", ms.float16, ms.float32),
                                                    ("O3", ms.float16, ms.float16)])
def test_float16_computation(level, features, heads, make_config, small, by_operation):
    """Convolutions; heads with O3 only; never batch norm and parameters."""
    network = build_network(make_config().net_config, classes_of(2), "composite")
    set_precision(network, level).set_train(False)
    image = Tensor(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))
    convolved = network.backbone[0](image)
    assert convolved.dtype == features
    assert network.backbone[1](convolved).dtype == ms.float32
    assert [output.dtype for output in network(image)[0].values()] == [heads] * 3
    assert {parameter.dtype for parameter in network.get_parameters()} == {ms.float32}


@pytest.mark.slow
def test_clipping_limits_the_global_norm(by_operation):
    """test_every_variant_trains covers it in a graph."""
    cell, _, step = quadratic_step(scaling=LossScaling(1024.0), clip_grad_norm=1.0)
    step(Tensor([1.0, 1.0]))  # the gradient (3, 4) has norm 5
    np.testing.assert_allclose(cell.w.asnumpy(), [3 - 0.1 * 3 / 5, 4 - 0.1 * 4 / 5], rtol=1e-5)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_decay_filter_exempts_parameters_from_weight_decay(name, make_config, small):
    config = make_config("--train_config.optimizer", name, f"--train_config.{name}.weight_decay", 0.01,
                         f"--train_config.{name}.decay_filter", "[.bias, .gamma]")
    network = build_network(config.net_config, classes_of(2), "composite")
    optimizer = build_optimizer(network, config.train_config, 10, 1)
    decays = optimizer.decays if name == "AdamW" else optimizer.weight_decay
    decay = {parameter.name: float(np.asarray(value)) for parameter, value in zip(optimizer.parameters, decays)}
    assert decay["backbone.0.weight"] == pytest.approx(0.01)
    assert decay["backbone.1.beta"] == pytest.approx(0.01)
    assert decay["hm.2.bias"] == 0 and decay["backbone.1.gamma"] == 0


def random_batch(rng, size, classes, n=2, slots=4, wh_columns=2, dense=False):
    """A batch of the pipeline's columns with random targets, as NumPy arrays."""
    out = size // 4
    hm = rng.random((n, classes, out, out)).astype(np.float32) ** 6
    ind = rng.integers(0, out * out, (n, slots)).astype(np.int32)
    for row in range(n):
        hm[row, 0].reshape(-1)[ind[row]] = 1
    wh_shape = (n, 2, out, out) if dense else (n, slots, wh_columns)
    reg_mask = np.ones((n, slots), np.float32)
    return {
        "image": rng.standard_normal((n, 3, size, size)).astype(np.float32), "hm": hm, "ind": ind,
        "reg": rng.random((n, slots, 2)).astype(np.float32), "reg_mask": reg_mask,
        "wh": 10 * rng.random(wh_shape).astype(np.float32), "wh_mask": np.ones(wh_shape, np.float32),
    }


MSE = ("--net_config.mse_loss", "true", "--net_config.reg_loss", "sl1")
NORM, DENSE, CLASSES = (("--net_config.norm_wh", "true"), ("--net_config.dense_wh", "true"),
                        ("--net_config.cat_spec_wh", "true"))
CLIPPED = ("--net_config.reg_offset", "false", "--train_config.clip_grad_norm", 5, "--enable_lossscale", "false")


def build_both_forms(options, dcn_impl):
    """The network SMALL with a native deformable convolution before the composite one."""
    native = [DeformConv2d(32, 32, dcn_impl="native"), nn.BatchNorm2d(32), nn.ReLU()]
    features = nn.SequentialCell(*native, *upsampling(32, (16,), "composite"))
    features.out_channels = 16
    return small_network.small_backbone(), features


def precision(level, *args):
    return ("--train_config.amp_level", level, *args)


@pytest.mark.slow
@pytest.mark.parametrize("args", [
    precision("O2", *MSE, *DENSE), precision("O3", *NORM, "--train_config.dynamic_loss_scale", "true"),
    precision("auto", *CLASSES, *CLIPPED),
])
def test_every_variant_trains(args, make_config, monkeypatch):
    """A few steps on one batch lower its loss, for all choices of heads, losses and precision.

    The losses are always float32, so each graph tests one choice of losses, one precision, and both forms of the
    deformable convolution.
    """
    monkeypatch.setitem(ARCHITECTURES, "resdcn_18", dataclasses.replace(small_network.SMALL, build=build_both_forms))
    config = make_config(*args, "--train_config.MultiDecay.warmup_steps", 0)
    ms.set_seed(3)
    network = build_network(config.net_config, classes_of(3), "composite")
    columns = 6 if config.net_config.cat_spec_wh else 2
    batch = random_batch(np.random.default_rng(0), 64, 3, wh_columns=columns, dense=config.net_config.dense_wh)
    optimizer = build_optimizer(network, config.train_config, 100, 1)
    step = engine.build_train_step(network, config, optimizer, NamedColumns(batch))
    tensors = [Tensor(value) for value in batch.values()]
    losses = [float(step(*tensors)[0].asnumpy()) for _ in range(6)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0], losses
    assert float(step.scale.asnumpy()) == (1.0 if not config.enable_lossscale else 1024.0)


@pytest.mark.slow
def test_loss_and_gradients_equal_pytorchs(undrawn, by_operation):
    """Forward and backward pass of ResNet18-DCN in training mode, same weights and batch; parity.py compiles it."""
    reference = parity.reference_network(3)
    weights = parity.arrays(reference)
    network = parity.converted_network(weights, "composite")
    batch = random_batch(np.random.default_rng(1), 128, 3)

    expected = parity.reference_loss(reference.train(), batch)
    expected[0].backward()

    cell = parity.with_loss(network).set_train()
    parameters = network.trainable_params()

    def forward(batch):
        losses = cell(batch)
        return losses["loss"], losses

    tensors = {name: Tensor(value) for name, value in batch.items()}
    (_, losses), grads = ms.value_and_grad(forward, None, parameters, has_aux=True)(tensors)
    values = [float(value.asnumpy()) for value in losses.values()]
    np.testing.assert_allclose(values, [value.item() for value in expected], rtol=1e-4)
    gradients = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    state = {**weights, **gradients}
    names = torch_weights.from_source(state, parameter_shapes(network), "original").weights
    for parameter, grad in zip(parameters, grads):
        reference_grad = names[parameter.name]
        norm = np.linalg.norm(reference_grad)
        if norm < 1e-4:
            continue  # a bias before a batch norm: its gradient is rounding noise
        # Rounding flips single ReLUs, with a large effect on the few object centers: 1e-6 between outputs, 1e-2 between
        # gradients.
        assert np.linalg.norm(grad.asnumpy() - reference_grad) < 0.02 * norm, parameter.name


@pytest.mark.slow
@pytest.mark.parametrize("args", [
    (), ("--net_config.mse_loss", "true", "--net_config.reg_loss", "sl1", "--enable_lossscale", "false"),
])
def test_accumulated_steps_equal_those_of_the_large_batch(args, make_config, least):
    """Three micro-batches with different numbers of objects, one without any, and frozen batch norm.

    Compared are the losses, and the gradients by the changes of the weights.
    """
    batch = random_batch(np.random.default_rng(4), 64, 2, n=6)
    for row in (0, 1, 3):
        batch["hm"][row] = np.minimum(batch["hm"][row], 0.9)
        batch["reg_mask"][row] = batch["wh_mask"][row] = 0
    results = []
    for micro_batches, unroll in ((1, False), (3, False), (3, True)):
        config = make_config(*args, "--train_config.accumulate_steps", micro_batches, "--train_config.optimizer", "SGD",
                             "--train_config.MultiDecay.learning_rate", 0.1)
        ms.set_seed(3)
        network = build_network(config.net_config, classes_of(2), "composite")
        for _, cell in network.cells_and_names():
            if isinstance(cell, nn.BatchNorm2d):
                cell.use_batch_statistics = False
        optimizer = build_optimizer(network, config.train_config, 100, 1)
        step = engine.build_train_step(network, config, optimizer, NamedColumns(batch))
        step.unroll = unroll
        before = {parameter.name: parameter.asnumpy().copy() for parameter in network.trainable_params()}
        losses = [float(value.asnumpy()) for value in step(*(Tensor(value) for value in batch.values()))[:4]]
        changes = {parameter.name: parameter.asnumpy() - before[parameter.name]
                   for parameter in network.trainable_params()}
        results.append((losses, changes))
    (losses, changes), *accumulated = results
    for accumulated_losses, accumulated_changes in accumulated:
        np.testing.assert_allclose(accumulated_losses, losses, rtol=1e-5)
        for name, change in changes.items():
            assert np.linalg.norm(accumulated_changes[name] - change) <= 1e-4 * np.linalg.norm(change) + 1e-7, name
    assert max(np.abs(change).max() for change in changes.values()) > 1e-3
