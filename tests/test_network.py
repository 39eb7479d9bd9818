"""The network and the deformable convolution; parity.py compares them with the original's numbers."""
import numpy as np
import pytest
import torch
from mindspore import Tensor

from src.centernet_det import CenterNet, DetectionNetwork
from src.deform_conv import deform_conv_composite, resolve_dcn_impl
from src.resnet import ResNet
from tests import parity, torch_reference
from tests.conftest import GOLDEN, load_golden


def test_reference_gives_the_originals_numbers():
    """The PyTorch statement that other tests compare with is itself the original's network."""
    golden = load_golden("network.npz")
    seed = int(golden["seed"])
    state, recipe = parity.golden_weights(GOLDEN, seed)
    network = torch_reference.CenterNet(80).eval()
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    with torch.no_grad():
        outputs = network(torch.tensor(recipe["make_input"](seed, (2, 3, 128, 160))))
    for name, output in zip(("hm", "wh", "reg"), outputs):
        np.testing.assert_allclose(output.numpy(), golden[name], rtol=0, atol=1e-4 * np.abs(golden[name]).max())


@pytest.mark.parametrize("largest_offset", [3.0, 40.0])
def test_deform_conv_against_grid_sample(largest_offset):
    rows = list(parity.deform_conv_rows(largest_offset))
    assert len(rows) == 10 and all(row.passed for row in rows), rows


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


def test_k_is_what_was_asked_for():
    network = CenterNet(2, "BasicBlock", (1, 1, 1, 1), 4, 8, False, True, "composite")
    for k in (3, 150):
        detector = DetectionNetwork(network, k, False).set_train(False)
        assert detector(Tensor(np.zeros((1, 3, 64, 64), np.float32))).shape == (1, k, 6)
