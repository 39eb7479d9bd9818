"""The network and the deformable convolution; parity.py compares them with the original's numbers."""
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from src.core.errors import UserError
from src.network import deform_conv
from src.network.centernet import build_detection
from src.network.deform_conv import DeformConv2d, deform_conv_composite, resolve_dcn_impl
from src.network.resnet import MaxPoolOfPositive, ResNet
from src.training.step import set_precision
from tests import parity, torch_reference
from tests.conftest import GOLDEN, load_golden, network_of
from tests.metainfo import classes_of


@pytest.mark.slow
def test_reference_gives_the_originals_numbers():
    """The PyTorch implementation that other tests compare with equals the original's network."""
    golden = load_golden("network.npz")
    seed = int(golden["seed"])
    state, recipe = parity.golden_weights(GOLDEN, seed)
    network = torch_reference.CenterNet(80).eval()
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    with torch.no_grad():
        outputs = network(torch.tensor(recipe["make_input"](seed, (2, 3, 128, 160))))
    for name, output in zip(("hm", "wh", "reg"), outputs):
        np.testing.assert_allclose(output.numpy(), golden[name], rtol=0, atol=1e-4 * np.abs(golden[name]).max())


@pytest.mark.slow
def test_deform_conv_against_grid_sample_far_out():
    """As a graph, with offsets up to 40; test_parity.py covers those up to 3."""
    rows = list(parity.deform_conv_rows(40.0))
    assert len(rows) == 10 and all(row.passed for row in rows), rows


def test_extreme_offsets_sample_nothing():
    x = Tensor(np.ones((1, 2, 5, 5), np.float32))
    offset_mask = np.full((1, 27, 5, 5), 1e30, np.float32)
    offset_mask[:, 18:] = 1
    out = deform_conv_composite(x, Tensor(offset_mask), Tensor(np.ones((3, 2, 3, 3), np.float32)))
    np.testing.assert_array_equal(out.asnumpy(), 0)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["O0", "O2", "auto"])
def test_deform_conv_samples_at_float32_coordinates(level):
    """Both forms against PyTorch in float64, far to the right, where float16 coordinates would be 1/8 of a pixel apart.

    Also with large offsets: float16 has 200.25 and 200.375, which differ between a column of zeros and one of ones. As
    graphs: operation by operation, MindSpore computes in float16 also what a float16 network keeps in float32.
    """
    rng = np.random.default_rng(2)
    x = np.cumsum(rng.choice([-1.0, 1.0], (1, 4, 6, 250)), 3).astype(np.float32)  # steep, and exact in float16
    weights = {"conv_offset_mask.bias": rng.uniform(-3, 3, 27), "weight": rng.choice([-1.0, 1.0], (3, 4, 3, 3)),
               "bias": np.zeros(3)}
    bias = weights["conv_offset_mask.bias"]
    pairs = np.stack([bias[9:18], bias[:9]], 1).reshape(18)  # the original's (y, x) of each tap
    maps = [torch.tensor(np.tile(values.reshape(1, -1, 1, 1), (1, 1, 6, 250)))
            for values in (pairs, 1 / (1 + np.exp(-bias[18:])))]
    expected = torch_reference.deform_conv(torch.tensor(x, dtype=torch.float64), *maps,
                                           torch.tensor(weights["weight"])).numpy()

    striped, to_the_right, in_the_middle = np.zeros_like(x), np.zeros(27), np.zeros((3, 4, 3, 3))
    striped[:, :, :, 1::2] = 1
    to_the_right[:9] = 200.3125
    in_the_middle[:, 0, 1, 1] = 2  # the masks are 0.5
    for dcn_impl in ("native", "composite"):
        layer = DeformConv2d(4, 3, dcn_impl=dcn_impl)
        fill(layer, weights)
        network = set_precision(without_heads(layer), level)
        out = network(Tensor(x))
        assert (out.dtype == ms.float32) == (level == "O0")
        np.testing.assert_allclose(out.asnumpy(), expected, rtol=0,
                                   atol=(1e-5 if level == "O0" else 2e-3) * np.abs(expected).max())
        fill(layer, {"conv_offset_mask.bias": to_the_right, "weight": in_the_middle})
        np.testing.assert_allclose(network(Tensor(striped)).asnumpy()[0, :, 1, :40],
                                   [[0.3125, 0.6875] * 20] * 3, atol=1e-3)


@pytest.mark.parametrize("dcn_impl", ["native", "composite"])
def test_o3_equals_o2_except_for_the_heads(dcn_impl):
    """So the graphs of deformable convolutions above are also those of O3."""
    networks = [set_precision(without_heads(DeformConv2d(4, 3, dcn_impl=dcn_impl)), level) for level in ("O2", "O3")]
    o2, o3 = ({name: cell.get_flags() for name, cell in network.cells_and_names()} for network in networks)
    assert o2 == o3 and o2["0"]["fp16"] and o2["0.conv_offset_mask"]["fp32"]


def without_heads(layer):
    """A network of one layer."""
    network = nn.SequentialCell(layer)
    network.heads = ()  # set_precision needs it
    return network


def fill(layer, values):
    """Set the given parameters of a cell, and the others to zero."""
    for parameter in layer.get_parameters():
        parameter.set_data(Tensor(np.float32(values.get(parameter.name.removeprefix("0."), np.zeros(parameter.shape)))))


def test_dcn_impl_follows_the_device(monkeypatch):
    assert resolve_dcn_impl("auto", "Ascend") == "native"
    assert resolve_dcn_impl("auto", "CPU") == "composite"
    assert resolve_dcn_impl("native", "CPU") == "native"
    monkeypatch.setattr(deform_conv, "DeformableOffsets", None)  # a later MindSpore
    assert resolve_dcn_impl("auto", "Ascend") == "composite"
    with pytest.raises(UserError, match=r"\bauto\b.*\bcomposite\b"):
        resolve_dcn_impl("native", "Ascend")


@pytest.mark.slow
@pytest.mark.parametrize("block_class, num_stacks, weights", [
    # Weights without classifier: those of the published models (11.69, 21.80, 25.56, 44.55 million) less fc's.
    ("BasicBlock", (2, 2, 2, 2), 11_176_512), ("BasicBlock", (3, 4, 6, 3), 21_284_672),
    ("Bottleneck", (3, 4, 6, 3), 23_508_032), ("Bottleneck", (3, 4, 23, 3), 42_500_160),
])
def test_resnet_family(block_class, num_stacks, weights, undrawn):
    network = ResNet(block_class, num_stacks)
    assert sum(parameter.size for parameter in network.trainable_params()) == weights
    assert network.out_channels == (512 if block_class == "BasicBlock" else 2048)


@pytest.mark.slow
@pytest.mark.parametrize("down_ratio", [4, 8, 16])
def test_down_ratio_and_heads(down_ratio, by_operation):
    options = {"num_stacks": [1, 1, 1, 1], "down_ratio": down_ratio, "head_conv": 8, "cat_spec_wh": True,
               "reg_offset": False}
    network = network_of(5, "native", **options).set_train(False)
    maps, = network(Tensor(np.zeros((1, 3, 64, 96), np.float32)))
    shapes = {name: value.shape for name, value in maps.items()}
    assert shapes == {"hm": (1, 5, 64 // down_ratio, 96 // down_ratio),
                      "wh": (1, 10, 64 // down_ratio, 96 // down_ratio)}
    # Before training every pixel is a center with probability 0.1: the heads' first layers see zeros here.
    np.testing.assert_allclose(1 / (1 + np.exp(-network.hm[2].bias.asnumpy())), 0.1, atol=2e-3)


@pytest.mark.slow
def test_the_number_of_detections_is_k(small, by_operation, make_config):
    network, net_config = network_of(2), make_config().net_config
    for k in (3, 150):
        detector = build_detection(network, net_config, classes_of(2), k, nn.Identity())
        assert detector(Tensor(np.zeros((1, 3, 64, 64), np.float32))).shape == (1, k, 6)


def test_the_stems_pooling_is_max_pooling_with_padding(by_operation):
    """After a ReLU, to the last bit, forward and backward, for sides odd and even; nn.MaxPool2d pads with -inf."""
    for height, width in ((8, 12), (7, 5), (2, 2)):
        rng, pooled = np.random.default_rng(0), (2, 3, -(-height // 2), -(-width // 2))
        features = Tensor(rng.normal(size=(2, 3, height, width)).astype(np.float32))
        weight = Tensor(rng.normal(size=pooled).astype(np.float32))
        pools = MaxPoolOfPositive(), nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)

        def loss(x, pool, weight=weight):
            return (pool(ops.relu(x)) * weight).sum()

        found = [ms.value_and_grad(lambda x, pool=pool, loss=loss: loss(x, pool))(features) for pool in pools]
        np.testing.assert_array_equal(pools[0](ops.relu(features)).asnumpy(), pools[1](ops.relu(features)).asnumpy())
        np.testing.assert_array_equal(found[0][1].asnumpy(), found[1][1].asnumpy())
