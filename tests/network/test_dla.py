"""DLA-34 against the same network in PyTorch, which equals the original's."""
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from src.network.dla import DLA, DLAUpsampling, IterativeAggregation, ZooUpsampling
from src.network.resnet import bilinear_kernel
from src.weights import source_names
from src.weights.checkpoints import parameter_shapes
from tests import parity, torch_family, torch_reference
from tests.conftest import GOLDEN, load_golden, network_of


def golden_state(name):
    """The golden weights of a network of the family as PyTorch tensors, its input, and its expected outputs."""
    vectors = load_golden(f"family/{name}.npz")
    state, recipe = parity.golden_weights(GOLDEN, int(vectors["seed"]), f"family/{name}_shapes.json")
    pixels = recipe["make_input"](int(vectors["seed"]), (1, 3, *vectors["size"]))
    return {key: torch.tensor(value) for key, value in state.items()}, pixels, vectors


@pytest.mark.slow
@pytest.mark.parametrize("name, make", [
    ("dla_34", lambda: torch_family.DLANet(80)), ("dlav0_34", lambda: torch_family.PlainDLANet(80)),
    ("res_18", lambda: torch_reference.CenterNet(80, dcn=False)),
    ("hourglass_narrow", lambda: torch_family.HourglassNet(80, 2, (32, 32, 48, 48, 48, 64), (16, 32), 32)),
])
def test_the_references_give_the_originals_numbers(name, make):
    state, pixels, vectors = golden_state(name)
    network = make().eval()
    network.load_state_dict(state)
    with torch.no_grad():
        outputs = network(torch.tensor(pixels))
    for number, output in enumerate(outputs):
        expected = vectors[f"{('hm', 'wh', 'reg')[number % 3]}_{number // 3}"]
        np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("factor, height, width, groups", [(2, 5, 7, 6), (4, 3, 4, 5)])
def test_the_depthwise_transposed_convolution_is_pytorchs(factor, height, width, groups, by_operation):
    """Values and both gradients."""
    rng = np.random.default_rng(factor)
    x = rng.standard_normal((2, groups, height, width)).astype(np.float32)
    projection = rng.standard_normal((2, groups, factor * height, factor * width)).astype(np.float32)
    theirs = torch.nn.ConvTranspose2d(groups, groups, 2 * factor, factor, factor // 2, groups=groups, bias=False)
    ours = nn.Conv2dTranspose(groups, groups, 2 * factor, factor, pad_mode="pad", padding=factor // 2, group=groups)
    ours.weight.set_data(Tensor(theirs.weight.detach().numpy()))
    inputs = torch.tensor(x, requires_grad=True)
    expected = theirs(inputs)
    (expected * torch.tensor(projection)).sum().backward()
    np.testing.assert_allclose(ours(Tensor(x)).asnumpy(), expected.detach().numpy(), atol=1e-5)
    projected = Tensor(projection)

    def loss(values):
        return (ours(values) * projected).sum()

    _, (x_grad, (weight_grad,)) = ms.value_and_grad(loss, 0, ours.trainable_params())(Tensor(x))
    np.testing.assert_allclose(x_grad.asnumpy(), inputs.grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(weight_grad.asnumpy(), theirs.weight.grad.numpy(), atol=1e-4)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_upsampling_starts_bilinear(factor):
    """Equals PyTorch's interpolation away from the edges."""
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 6)).astype(np.float32)
    kernel = torch.tensor(bilinear_kernel(factor))[None, None]
    found = torch.nn.functional.conv_transpose2d(torch.tensor(x), kernel, stride=factor, padding=factor // 2).numpy()
    expected = torch.nn.functional.interpolate(torch.tensor(x), scale_factor=factor, mode="bilinear").numpy()
    np.testing.assert_allclose(found[..., factor:-factor, factor:-factor],
                               expected[..., factor:-factor, factor:-factor], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("arch, down_ratio", [("dla_34", 4), ("dla_34", 8), ("dla_34", 16), ("dlav0_34", 8),
                                              ("dlav0_34", 16), ("dlazoo_34", 4)])
def test_down_ratio(arch, down_ratio, undrawn, by_operation):
    network = network_of(3, "native", arch=arch, down_ratio=down_ratio, head_conv=8).set_train(False)
    maps, = network(Tensor(np.zeros((1, 3, 64, 96), np.float32)))
    size = (64 // down_ratio, 96 // down_ratio)
    shapes = {name: value.shape for name, value in maps.items()}
    assert shapes == {"hm": (1, 3, *size), "wh": (1, 2, *size), "reg": (1, 2, *size)}


def test_layers_unused_by_the_original_are_not_trained(undrawn):
    names = [parameter.name for parameter in DLA().get_parameters() if not parameter.requires_grad
             and "moving" not in parameter.name]
    assert names == [f"level{level}.project.{name}" for level in (3, 4) for name in ("0.weight", "1.gamma", "1.beta")]
    assert all(parameter.requires_grad for parameter in DLAUpsampling((8, 16, 32, 64), "native").trainable_params())


LAYERS = {  # of the upsampling, one of each kind
    "dla_34": ["dla_up.ida_1.proj_2.conv", "dla_up.ida_2.up_1", "ida_up.up_2"],
    "dlav0_34": ["dla_up.ida_0.up_1", "dla_up.ida_1.proj_2.0", "dla_up.ida_2.node_3.0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("arch, make", [("dla_34", torch_family.DLANet), ("dlav0_34", torch_family.PlainDLANet)])
def test_a_training_step_is_pytorchs(arch, make, undrawn, by_operation):
    """Loss and gradients in training mode."""
    torch.manual_seed(0)
    reference = make(3)
    for module in reference.modules():
        if isinstance(module, torch_reference.DCN):
            torch.nn.init.normal_(module.conv_offset_mask.weight, std=0.01)
    reference.train()
    batch = parity.drawn_batch(2, 128)
    network = parity.converted_network(parity.arrays(reference), "native").set_train()
    loss = parity.reference_loss(reference, batch)[0]
    loss.backward()
    cell = parity.with_loss(network).set_train()
    parameters = {parameter.name: parameter for parameter in network.trainable_params()}
    names = ["hm.0.weight", "backbone.base_layer.0.weight", "backbone.level3.tree2.root.conv.weight",
             "backbone.level5.project.0.weight", *(f"deconv_layers.{layer}.weight" for layer in LAYERS[arch])]

    def total(batch):
        return cell(batch)["loss"]

    values = {name: Tensor(value) for name, value in batch.items()}
    found, gradients = ops.value_and_grad(total, None, ms.ParameterTuple([parameters[name] for name in names]))(values)
    assert float(found.asnumpy()) == pytest.approx(loss.item(), rel=1e-4)
    theirs = dict(reference.named_parameters())
    for name, gradient in zip(names, gradients):
        expected = theirs[source_names.source_name(name, "original")].grad.numpy()
        # Rounding grows backward through batch norms of a few pixels, and decides on the gradient of the deformable
        # convolutions, sixteen in sequence, at offsets near integers.
        assert np.linalg.norm(gradient.asnumpy() - expected) <= 0.03 * np.linalg.norm(expected), name


def test_the_model_zoos_steps_share_their_layers(undrawn):
    """Six steps from one size to the next and three to the first map's size, with six sets of layers."""
    names = {name.rpartition(".")[0].removesuffix(".0").removesuffix(".1")
             for name in parameter_shapes(ZooUpsampling((8, 16, 32, 64)))}
    steps = [*(f"dla_up.ida_{step}.{{}}_1" for step in range(3)), *(f"ida_up.{{}}_{step}" for step in (1, 2, 3))]
    assert names == {step.format(cell) for step in steps for cell in ("proj", "up", "node")}


@pytest.mark.slow
def test_shared_layers_learn_from_all_steps(undrawn, by_operation):
    """The gradient of a shared layer is the sum of those of three layers with its weights."""
    rng = np.random.default_rng(0)
    ours, apart = (nn.SequentialCell(IterativeAggregation(4, [4, 4, 4], [2, 2, 2], None, False, shared))
                   for shared in (True, False))  # in a cell, which names the parameters
    shared, separate = ({name: child.trainable_params()[0] for name, child in cell[0].name_cells().items()}
                        for cell in (ours, apart))
    for name, parameter in shared.items():
        parameter.set_data(Tensor(rng.standard_normal(parameter.shape).astype(np.float32)))
        for step in (1, 2, 3):
            separate[f"{name[:-1]}{step}"].set_data(parameter)
    maps = [Tensor(rng.standard_normal((2, *shape)).astype(np.float32)) for shape in ((4, 8, 8), *[(4, 4, 4)] * 3)]

    def gradients(cell, parameters):
        def total(*values):
            return (cell(values)[-1] ** 2).sum()

        found = ops.grad(total, None, ms.ParameterTuple(parameters.values()))(*maps)
        return dict(zip(parameters, (gradient.asnumpy() for gradient in found), strict=True))

    found, parts = gradients(ours, shared), gradients(apart, separate)
    assert sorted(found) == ["node_1", "proj_1", "up_1"]
    for name, gradient in found.items():
        steps = [parts[f"{name[:-1]}{step}"] for step in (1, 2, 3)]
        np.testing.assert_allclose(gradient, sum(steps), atol=1e-4 * np.abs(gradient).max())
        assert all(np.abs(step).max() > 1e-3 * np.abs(gradient).max() for step in steps)
