"""The network, the deformable convolution and the decoder against the original's numbers and PyTorch."""
import json
import os

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from src import torch_weights
from src.centernet_det import CenterNet, DetectionNetwork
from src.decode import decode
from src.deform_conv import deform_conv_composite, deform_conv_native, resolve_dcn_impl
from src.resnet import ResNet
from src.utils import load_weights
from tests import torch_reference
from tests.conftest import GOLDEN, load_golden
from tests.golden import recipe

RESNET18 = ("BasicBlock", (2, 2, 2, 2))


def golden_network(dcn_impl):
    golden = load_golden("network.npz")
    with open(os.path.join(GOLDEN, "state_dict_shapes.json"), encoding="utf-8") as file:
        state = recipe.make_state_dict(json.load(file), int(golden["seed"]))
    network = CenterNet(80, *RESNET18, 4, 64, False, True, dcn_impl)
    weights = {name: ms.Parameter(Tensor(value), name=name) for name, value in torch_weights.from_original(state).items()}
    load_weights(network, weights, "golden")
    return network.set_train(False), golden


@pytest.mark.parametrize("dcn_impl", ["native", "composite"])
def test_network_gives_the_originals_numbers(dcn_impl):
    network, golden = golden_network(dcn_impl)
    outputs = network(Tensor(recipe.make_input(int(golden["seed"]), (2, 3, 128, 160))))
    for name, output in zip(("hm", "wh", "reg"), outputs):
        assert np.abs(output.asnumpy() - golden[name]).max() <= 1e-4 * np.abs(golden[name]).max(), name


def test_reference_gives_the_originals_numbers():
    """The PyTorch statement that other tests compare with is itself the original's network."""
    golden = load_golden("network.npz")
    with open(os.path.join(GOLDEN, "state_dict_shapes.json"), encoding="utf-8") as file:
        state = recipe.make_state_dict(json.load(file), int(golden["seed"]))
    network = torch_reference.CenterNet(80).eval()
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    with torch.no_grad():
        outputs = network(torch.tensor(recipe.make_input(int(golden["seed"]), (2, 3, 128, 160))))
    for name, output in zip(("hm", "wh", "reg"), outputs):
        np.testing.assert_allclose(output.numpy(), golden[name], rtol=0, atol=1e-4 * np.abs(golden[name]).max())


class _Gradients(nn.Cell):
    """Gradients of sum(function(x, offset_mask, weight) * projection) with respect to its three arguments."""

    def __init__(self, function, projection):
        super().__init__()
        self.function = function
        self.projection = Tensor(projection)
        self.grad = ops.GradOperation(get_all=True)

    def construct(self, x, offset_mask, weight):
        return self.grad(self._loss)(x, offset_mask, weight)

    def _loss(self, x, offset_mask, weight):
        return (self.function(x, offset_mask, weight) * self.projection).sum()


@pytest.mark.parametrize("largest_offset", [3.0, 40.0])
@pytest.mark.parametrize("function", [deform_conv_native, deform_conv_composite])
def test_deform_conv_against_grid_sample(function, largest_offset):
    rng = np.random.default_rng(7)
    n, channels, height, width, out = 2, 5, 9, 11, 4
    x = rng.standard_normal((n, channels, height, width)).astype(np.float32)
    offset = rng.uniform(-largest_offset, largest_offset, (n, 18, height, width)).astype(np.float32)  # the original's (y, x) pairs
    mask = rng.uniform(0, 1, (n, 9, height, width)).astype(np.float32)
    weight = rng.standard_normal((out, channels, 3, 3)).astype(np.float32)
    projection = rng.standard_normal((n, out, height, width)).astype(np.float32)
    tensors = [torch.tensor(value, requires_grad=True) for value in (x, offset, mask, weight)]
    expected = torch_reference.deform_conv(*tensors)
    (expected * torch.tensor(projection)).sum().backward()

    order = torch_weights.offset_order(27)
    offset_mask = np.concatenate([offset, mask], 1)[:, order]
    arguments = [Tensor(value) for value in (x, offset_mask, weight)]
    np.testing.assert_allclose(function(*arguments).asnumpy(), expected.detach().numpy(), rtol=1e-4, atol=2e-5)
    grad_x, grad_offset_mask, grad_weight = (grad.asnumpy() for grad in _Gradients(function, projection)(*arguments))
    torch_grads = [tensor.grad.numpy() for tensor in tensors]
    expected_offset_mask = np.concatenate(torch_grads[1:3], 1)[:, order]
    for grad, reference in ((grad_x, torch_grads[0]), (grad_offset_mask, expected_offset_mask), (grad_weight, torch_grads[3])):
        np.testing.assert_allclose(grad, reference, rtol=1e-3, atol=1e-4 * np.abs(reference).max())


def test_wild_offsets_sample_nothing():
    x = Tensor(np.ones((1, 2, 5, 5), np.float32))
    offset_mask = np.full((1, 27, 5, 5), 1e30, np.float32)
    offset_mask[:, 18:] = 1
    out = deform_conv_composite(x, Tensor(offset_mask), Tensor(np.ones((3, 2, 3, 3), np.float32)))
    np.testing.assert_array_equal(out.asnumpy(), 0)


def test_dcn_impl_follows_the_device():
    assert resolve_dcn_impl("auto", "Ascend") == "native"
    assert resolve_dcn_impl("auto", "CPU") == "composite"
    assert resolve_dcn_impl("native", "CPU") == "native"


@pytest.mark.parametrize("block_class, num_stacks, weights", [
    # Weights of the classifier-free networks: those of the published models (11.69, 21.80, 25.56, 44.55 million) less fc's.
    ("BasicBlock", (2, 2, 2, 2), 11_176_512), ("BasicBlock", (3, 4, 6, 3), 21_284_672),
    ("Bottleneck", (3, 4, 6, 3), 23_508_032), ("Bottleneck", (3, 4, 23, 3), 42_500_160),
])
def test_resnet_family(block_class, num_stacks, weights):
    network = ResNet(block_class, num_stacks)
    assert sum(parameter.size for parameter in network.trainable_params()) == weights
    assert network.out_channels == (512 if block_class == "BasicBlock" else 2048)


@pytest.mark.parametrize("down_ratio", [4, 8, 16])
def test_down_ratio_and_heads(down_ratio):
    network = CenterNet(5, "BasicBlock", (1, 1, 1, 1), down_ratio, 8, True, False, "composite").set_train(False)
    hm, wh, reg = network(Tensor(np.zeros((1, 3, 64, 96), np.float32)))
    assert hm.shape == (1, 5, 64 // down_ratio, 96 // down_ratio)
    assert wh.shape == (1, 10, 64 // down_ratio, 96 // down_ratio)
    assert reg is None
    # Before training every pixel is a centre with probability 0.1: the heads' first layers see zeros here.
    np.testing.assert_allclose(1 / (1 + np.exp(-network.hm[2].bias.asnumpy())), 0.1, atol=2e-3)


@pytest.mark.parametrize("variant", ["dets", "dets_no_reg", "dets_cat"])
def test_decode_gives_the_originals_numbers(variant):
    golden = load_golden("decode.npz")
    wh = golden["wh_cat" if variant == "dets_cat" else "wh"]
    reg = None if variant == "dets_no_reg" else Tensor(golden["reg"])
    detections = decode(Tensor(golden["heat"]), Tensor(wh), reg, int(golden["k"]), variant == "dets_cat").asnumpy()
    np.testing.assert_allclose(detections, golden[variant], rtol=1e-5, atol=1e-5)


def test_k_is_what_was_asked_for():
    network = CenterNet(2, "BasicBlock", (1, 1, 1, 1), 4, 8, False, True, "composite")
    for k in (3, 150):
        detector = DetectionNetwork(network, k, False).set_train(False)
        assert detector(Tensor(np.zeros((1, 3, 64, 64), np.float32))).shape == (1, k, 6)
