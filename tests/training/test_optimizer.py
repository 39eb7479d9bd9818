"""src/training/optimizer.py: steps of each optimizer compared with PyTorch's; frozen layers."""
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn, ops

from src.network.centernet import build_network
from src.network.device_input import NamedColumns
from src.training.optimizer import build_optimizer, freeze
from src.training.step import TrainStep
from tests import parity
from tests.metainfo import classes_of
from tests.training.test_step import random_batch

RATES = [0.1, 0.1, 0.05, 0.05, 0.05]  # of MultiDecay with an epoch of two steps


class Layer(nn.Cell):
    """A weight and a bias."""

    def __init__(self, start):
        super().__init__()
        self.weight = Parameter(Tensor(start, ms.float32))
        self.bias = Parameter(Tensor(start[0], ms.float32))


class Cubic(nn.Cell):
    """Stand-in for a network with its loss: cubed weights of a backbone and a head, times a batch of factors."""

    micro_batches, names = 1, ("loss", "a_loss", "b_loss")

    def __init__(self, start):
        super().__init__()
        self.backbone, self.hm = Layer(start), Layer(start[::-1].copy())

    def construct(self, batch):
        x = batch["x"]
        loss = sum((ops.pow(layer.weight, 3) * x).sum() + (ops.pow(layer.bias, 3) * x[0]).sum()
                   for layer in (self.backbone, self.hm))
        return {"loss": loss, "a_loss": loss, "b_loss": ops.zeros_like(loss)}


def torch_steps(start, batches, make, factor):
    """The weights and biases of backbone and head after steps of the PyTorch optimizer that make builds for them."""
    values = [torch.tensor(value.copy(), requires_grad=True) for value in (start, start[0], start[::-1], start[-1])]
    optimizer = make(values, [factor, factor, 1.0, 1.0])
    for rate, batch in zip(RATES, batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        x = torch.tensor(batch)
        sum((weight**3 * (x if weight.ndim == 2 else x[0])).sum() for weight in values).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [value.detach().numpy() for value in values]


def groups(values, factors, decay):
    return [{"params": [value], "factor": factor, "weight_decay": decay if value.ndim == 2 else 0.0}
            for value, factor in zip(values, factors)]


TORCH = {
    "Adam": lambda values, factors: torch.optim.Adam(groups(values, factors, 0.3), eps=1e-8),
    "AdamW": lambda values, factors: torch.optim.AdamW(groups(values, factors, 0.3), eps=1e-8),
    "SGD": lambda values, factors: torch.optim.SGD(groups(values, factors, 0.3), lr=1.0, momentum=0.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 0.1])
@pytest.mark.parametrize("name", TORCH)
def test_steps_equal_pytorchs(name, factor, make_config):
    args = ["--train_config.optimizer", name, f"--train_config.{name}.weight_decay", 0.3,
            "--train_config.SGD.momentum", 0.8, "--train_config.backbone_lr_factor", factor,
            "--train_config.MultiDecay.eps", 1e-8, "--train_config.MultiDecay.learning_rate", 0.1,
            "--train_config.MultiDecay.factor", 2, "--train_config.MultiDecay.multi_epochs", "[1]"]
    rng = np.random.default_rng(5)
    start = rng.uniform(0.5, 1.0, (2, 3)).astype(np.float32)
    batches = rng.uniform(-0.1, 0.1, (len(RATES), 2, 3)).astype(np.float32)
    network = Cubic(start)
    optimizer = build_optimizer(network, make_config(*args).train_config, 2, 5)
    step = TrainStep(network, optimizer, NamedColumns(["x"])).set_train()
    rates = [float(step(Tensor(batch))[step.results.index("lr")].asnumpy()) for batch in batches]
    np.testing.assert_allclose(rates, RATES, rtol=1e-6)  # the heads' rate, regardless of the backbone's
    ours = [value.asnumpy() for layer in (network.backbone, network.hm) for value in (layer.weight, layer.bias)]
    for value, expected in zip(ours, torch_steps(start, batches, TORCH[name], factor)):
        np.testing.assert_allclose(value, expected, rtol=2e-5)


@pytest.mark.parametrize("schedule", ["MultiDecay", "PolyDecay", "CosineDecay"])
def test_epsilon_is_the_schedules(schedule, make_config):
    config = make_config("--train_config.lr_schedule", schedule, f"--train_config.{schedule}.eps", 0.25)
    assert build_optimizer(Cubic(np.ones((2, 3), np.float32)), config.train_config, 2, 5).eps == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("what", ["none", "backbone", "backbone_norm"])
def test_frozen_layers_stay(what, make_config, small):
    """Weights and batch norm statistics, after two steps."""
    config = make_config("--train_config.freeze", what)
    network = build_network(config.net_config, classes_of(2), "native")
    freeze(network, config.train_config.freeze)
    before = {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}
    optimizer = build_optimizer(network, config.train_config, 10, 1)
    batches = [random_batch(np.random.default_rng(seed), 64, 2) for seed in range(2)]
    step = TrainStep(parity.with_loss(network, config), optimizer, NamedColumns(batches[0])).set_train()
    for batch in batches:
        step(*map(Tensor, batch.values()))
    stays = {name for name, parameter in zip(before, network.get_parameters())
             if np.array_equal(before[name], parameter.asnumpy())}
    norms = (".gamma", ".beta", ".moving_mean", ".moving_variance")
    expected = {"none": set(), "backbone": {name for name in before if name.startswith("backbone.")},
                "backbone_norm": {name for name in before if name.startswith("backbone.") and name.endswith(norms)}}
    assert stays == expected[what]
    counts = len(expected["backbone_norm"]), len(expected["backbone"])
    assert counts == (16, 20) and len(before) > 40, before
