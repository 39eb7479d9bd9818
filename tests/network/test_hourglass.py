"""Stacked hourglasses against the same network in PyTorch; effects of stacks on loss, export and fine-tuning."""
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from src.export.onnx_graph import Graph
from src.export.onnx_model import build_model
from src.inference.onnx_runtimes import start_session
from src.network.architectures import architecture_of
from src.network.centernet import build_detection
from src.network.folding import fold_batch_norm
from src.tasks import DETECTION
from src.training.step import set_precision
from src.weights import source_names
from src.weights.checkpoints import load_weights
from tests import parity, torch_family, torch_reference
from tests.metainfo import classes_of

pytestmark = pytest.mark.usefixtures("undrawn")  # all weights are PyTorch's
# Stacks, channels of the levels, of the stem, of the features; the original has six levels.
NARROW = (2, (8, 8, 12), (4, 8), 8)


def reference_network():
    """A small network with three classes in PyTorch."""
    torch.manual_seed(0)
    return torch_family.HourglassNet(3, *NARROW)


@pytest.mark.slow
def test_the_losses_are_means_over_the_stacks(by_operation):
    """In training mode, with gradients of both stacks' heads and of the first layers."""
    reference = reference_network().train()
    batch = parity.drawn_batch(2, 64)
    maps = reference(torch.tensor(batch["image"]))
    targets = [torch.tensor(batch[name]) for name in ("hm", "ind", "reg", "reg_mask", "wh")]
    targets[1] = targets[1].long()
    stacks = [torch_reference.detection_loss(*maps[start : start + 3], *targets) for start in (0, 3)]
    expected = [sum(losses) / 2 for losses in zip(*stacks)]
    network = parity.converted_network(parity.arrays(reference_network()), "native")
    cell = parity.with_loss(network).set_train()
    parameters = {parameter.name: parameter for parameter in network.trainable_params()}
    names = ["hm.0.0.weight", "reg.1.2.weight", "backbone.pre.0.conv.weight", "backbone.kps.0.low2.low3.1.conv2.weight",
             "backbone.inters_.0.0.weight"]

    def losses(batch):
        found = cell(batch)
        return found["loss"], found

    step = ops.value_and_grad(losses, None, ms.ParameterTuple([parameters[name] for name in names]), has_aux=True)
    (_, found), gradients = step({column: Tensor(value) for column, value in batch.items()})
    np.testing.assert_allclose([float(loss.asnumpy()) for loss in found.values()],
                               [loss.item() for loss in expected], rtol=1e-4)
    expected[0].backward()
    theirs = dict(reference.named_parameters())
    for name, gradient in zip(names, gradients):
        wanted = theirs[source_names.source_name(name, "original")].grad.numpy()
        # Rounding errors grow backward through many batch norms.
        tolerance = 0.1 if "backbone" in name else 1e-3
        assert np.linalg.norm(gradient.asnumpy() - wanted) <= tolerance * np.linalg.norm(wanted), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dla_34", "dlav0_34", "hourglass_narrow"])
def test_the_onnx_file_has_the_originals_maps(name, by_operation):
    """Those of the last stack, folded, for the golden weights and input; with the flip test, MindSpore's.

    In both forms of the deformable convolution, which need different opsets.
    """
    from tests.network.test_dla import golden_state

    state, pixels, vectors = golden_state(name)
    network = parity.converted_network({key: value.numpy() for key, value in state.items()}, "native")
    fold_batch_norm(network)
    last = max(network.stacks - 1, 0)
    heat = 1 / (1 + np.exp(-vectors[f"hm_{last}"].astype(np.float64)))
    golden = [heat, vectors[f"wh_{last}"], vectors[f"reg_{last}"]]
    for flip_test in (False, True):
        detection = build_detection(network, parity.get_config("", []).net_config, classes_of(3), 20,
                                    nn.Identity(), flip_test)
        expected = [value.asnumpy() for value in detection.maps(Tensor(pixels)).values()] if flip_test else golden
        for form in ("deform_conv", "grid_sample"):
            model = build_model(DETECTION, detection, False, Graph(form), ("batch", "height", "width"), 6, {})
            for output in ("heat", "wh", "reg"):
                model.graph.output.add().name = output
            session = start_session(model, "CPU", "a.onnx")
            found = dict(zip([end.name for end in session.get_outputs()], session.run(None, {"image": pixels})))
            for output, value in zip(("heat", "wh", "reg"), expected):
                np.testing.assert_allclose(found[output], value, rtol=0, atol=1e-4 * np.abs(value).max())


@pytest.mark.slow
@pytest.mark.parametrize("level", ["O2", "O3"])
def test_mixed_precision(level, by_operation):
    """All maps of both stacks are close to float32."""
    reference = reference_network().eval()
    pixels = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    network = set_precision(parity.converted_network(parity.arrays(reference), "native").set_train(False), level)
    with torch.no_grad():
        expected = reference(torch.tensor(pixels))
    found = [output for maps in network(Tensor(pixels)) for output in maps.values()]
    assert len(found) == 6 and (found[0].dtype == ms.float32) == (level == "O2")
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.asnumpy(), theirs.numpy(), rtol=0, atol=0.05 * theirs.abs().max().item())


@pytest.mark.slow
def test_other_classes_keep_all_but_the_heads_last_layers():
    """In each stack."""
    network = parity.converted_network(parity.arrays(torch_family.HourglassNet(5, *NARROW)), "native")
    others = parity.converted_network(parity.arrays(reference_network()), "native")
    parameters = {parameter.name: parameter for parameter in others.get_parameters()}
    kept = load_weights(network, parameters, "a.ckpt", fine_tuning=True)
    assert kept == [f"hm.{stack}.2.{name}" for stack in (0, 1) for name in ("weight", "bias")]
    assert architecture_of(parameters) == "hourglass"
    one = parity.converted_network(parity.arrays(torch_family.HourglassNet(3, 1, *NARROW[1:])), "native")
    assert architecture_of([parameter.name for parameter in one.get_parameters()]) == "hourglass with num_stacks 1"
