"""Compare this project with golden vectors of the original: python tests/parity.py DIR

DIR is laid out as tests/golden: the arrays that the paper authors' code, or the model zoo's, computes for recorded inputs, or for inputs
made by its recipe.py; those of other networks than ResNet18-DCN lie in its folder family/, if there is one. Prints a table; exit code 1
if a comparison fails, or if an array of the folder took part in none. Where PyTorch is installed, the deformable convolution, batch norm
and ten training steps are compared with PyTorch's own, too.

Compiled, as in deployment and training, are ResNet18-DCN and the folded networks with native deformable convolutions, and the training
steps with native and with composed ones. The rest is computed operation by operation, by the same kernels: compiling all takes minutes.
"""
import argparse
import contextlib
import functools
import itertools
import json
import os
import runpy
import sys
import zipfile
from dataclasses import dataclass
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import cv2
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.core import errors
from src.core.errors import UserError
from src.data.samples import make_sample, sample_layout
from src.imaging import color, gaussians
from src.imaging.view import View, make_input, normalize, whole_view
from src.model_utils.config import Config, get_config
from src.model_utils.device_adapter import set_device
from src.native.extensions import extension
from src.network import architectures
from src.network.centernet import CenterNet, InferenceMaps, build_network
from src.network.deform_conv import deform_conv_composite, deform_conv_native
from src.network.device_input import NamedColumns
from src.network.folding import make_for_inference
from src.network.hourglass import Hourglass, StackFeatures
from src.tasks import points
from src.tasks.augmentation import Augmentation, whole_image
from src.tasks.detection import DETECTION, device, targets
from src.tasks.detection.device import decode
from src.tasks.detection.results import to_image
from src.training.engine import build_device_input, build_train_step
from src.training.optimizer import build_optimizer
from src.training.step import NetworkWithLoss
from src.weights import torch_weights
from src.weights.checkpoints import load_weights, parameter_shapes
from tests.metainfo import classes_of

USUAL = 1e-5  # tolerance, as the ones below relative to the largest value of what is compared
NETWORK = 1e-4
SOFT_NMS = 1e-6
TRAINING = 1e-3
EXACT = 0.0

# Beside the .npz files: what is no array, or makes arrays.
NO_VECTORS = {"README.md", "recipe.py", "state_dict_shapes.json", "zoo_names.json", "family", "__init__.py", "__pycache__"}


@contextlib.contextmanager
def as_a_graph():
    """What is called in the block is compiled as one graph, whatever holds around it."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


@dataclass
class Row:
    """One comparison: the largest absolute difference, the same relative to the largest expected value, the tolerance of that."""

    component: str
    difference: float
    relative: float
    tolerance: str
    passed: bool


def compare(component, ours, expected, tolerance=USUAL, step=0.0):
    """A Row for two arrays; an absolute difference up to `step` passes as well: one unit where the original rounds."""
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    text = f"{tolerance:g}" + (f" or {step:.3g}" if step else "") if tolerance else "equal"
    if ours.shape != expected.shape:
        return Row(f"{component} (shape {ours.shape}, expected {expected.shape})", np.inf, np.inf, text, False)
    difference = float(np.abs(ours - expected).max(initial=0))
    largest = float(np.abs(expected).max(initial=0))
    relative = difference / largest if largest else (0.0 if difference == 0 else np.inf)
    passed = bool(np.isfinite(ours).all() and (relative <= tolerance or difference <= step * (1 + 1e-4)))
    return Row(component, difference, relative, text, passed)


class Vectors:
    """The arrays of one .npz file by name; remembers which were asked for."""

    def __init__(self, path):
        self.path = path
        try:
            with np.load(path) as file:
                self.arrays = dict(file)
        except (ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not readable as an .npz file ({error})") from error
        self.used = set()

    def __getitem__(self, name):
        if name not in self.arrays:
            raise UserError(f"{self.path}: it has no array {name}; the folder is not laid out as tests/golden")
        self.used.add(name)
        return self.arrays[name]

    def __contains__(self, name):
        return name in self.arrays

    def cases(self, name):
        """The numbers of the cases: i of every array called name_i."""
        return [int(key.rpartition("_")[2]) for key in self.arrays if key.rpartition("_")[0] == name]


# ---------------------------------------------------------------- what the folder holds


def golden_weights(folder, seed, shapes="state_dict_shapes.json", make="make_state_dict"):
    """The weights that recipe.py makes from a seed for the names of a file, {source name: array}, and the recipe's functions."""
    recipe = runpy.run_path(os.path.join(folder, "recipe.py"))
    with open(os.path.join(folder, shapes), encoding="utf-8") as file:
        return recipe[make](json.load(file), seed), recipe


def zoo_weights(folder, seed):
    """golden_weights of the model zoo's CenterNet."""
    return golden_weights(folder, seed, "zoo_names.json", "make_zoo_state")


def converted(state, dcn_impl):
    """(a new network for another source's weights, {parameter: array} that the converter makes of them)."""
    state = torch_weights.without_prefix(state)
    kind = torch_weights.recognize(state)
    num_classes, described = torch_weights.describe_detector(state, kind)
    if described["arch"] == "hourglass":
        network = hourglass_of(state, num_classes, described)
    else:
        network = build_network(Config(described), classes_of(num_classes), dcn_impl)
    return network, torch_weights.from_source(state, parameter_shapes(network), kind).weights


def converted_network(state, dcn_impl):
    """The network with another source's weights."""
    network, weights = converted(state, dcn_impl)
    load_weights(network, {name: ms.Parameter(Tensor(value), name=name) for name, value in weights.items()}, "golden")
    return network


def weights_of(network):
    """{name: array} of a network's parameters."""
    return {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}


def hourglass_of(state, num_classes, described):
    """A network of stacked hourglasses with the channels that the original's state has."""
    def channels(name):
        return len(state[f"{name}.weight"])

    below = (f"kps.0{'.low2' * level}" for level in itertools.count())
    levels = itertools.takewhile(lambda name: f"{name}.low1.0.conv1.weight" in state, below)
    dims = [channels("kps.0.up1.0.conv1"), *(channels(f"{level}.low1.0.conv1") for level in levels)]
    stacks = architectures.hourglasses(state.__contains__)
    backbone = Hourglass(stacks, dims, (channels("pre.0.conv"), channels("pre.1.conv1")), channels("cnvs.0.conv"))
    heads = device.heads(SimpleNamespace(**described), classes_of(num_classes))
    return CenterNet(heads, backbone, StackFeatures(stacks, backbone.out_channels), head_conv=described["head_conv"])


def there_and_back(name, weights, state):
    """A Row: how many of the original's tensors differ from what the weights that were made of them give back."""
    back = torch_weights.to_original(weights, torch_weights.step_counters(state))
    wrong = [other for other in {**state, **back} if not np.array_equal(state.get(other), back.get(other))]
    return compare(f"{name}: {len(state)} tensors there and back, how many differ", len(wrong), 0, EXACT)


def counting(shapes):
    """A state for {name: shape}: no two numbers of a tensor are equal, nor two tensors; that is quicker than drawing 190 million."""
    return {name: np.int64(0) if name.endswith("num_batches_tracked") else
            np.arange(first, first + np.prod(shape), dtype=np.float32).reshape(shape) for first, (name, shape) in enumerate(shapes.items())}


def family_parts(folder):
    """folder_parts of the original's other networks: recorded maps, or names and shapes alone."""
    files = sorted(os.listdir(folder))
    for file in files:
        name = file.removesuffix(".npz").removesuffix("_shapes.json")
        path = os.path.join(folder, file)
        if file.endswith("_shapes.json"):
            if f"{name}.npz" not in files:
                yield f"family/{file}", functools.partial(names_rows, path, name)
        elif file.endswith(".npz") and name in FAMILY:
            component = functools.partial(family_rows, name=name)
            yield f"family/{file}", functools.partial(file_rows, path, component, os.path.dirname(folder))
        else:
            yield f"family/{file}", functools.partial(failed, f"family/{file} was not compared")


def names_rows(path, name):
    """The way there and back of a network of which names and shapes alone are recorded."""
    with open(path, encoding="utf-8") as file:
        state = counting(json.load(file))
    yield there_and_back(name, converted(state, "native")[1], state)


def family_rows(vectors, folder, name):
    """Heads of every stack of one of the original's other networks; the way there and back.

    With native and composed deformable convolutions, as it was converted and with its batch norm folded.
    """
    seed = int(vectors["seed"])
    state, recipe = golden_weights(folder, seed, os.path.join("family", f"{name}_shapes.json"))
    pixels = Tensor(recipe["make_input"](seed, (1, 3, *vectors["size"])))
    deformable = any("conv_offset_mask" in parameter for parameter in state)
    for dcn_impl, folded in itertools.product(("native", "composite") if deformable else ("native",), (False, True)):
        if not folded:
            network = converted_network(state, dcn_impl).set_train(False)
            if dcn_impl == "native":
                yield there_and_back(name, weights_of(network), state)
        elif left := make_for_inference(network):
            yield from failed(f"{name}: {left} batch norms were not folded")
        label = f"{name}{', ' + dcn_impl if deformable else ''}, {'folded' if folded else 'not folded'}"
        with as_a_graph() if folded and dcn_impl == "native" else contextlib.nullcontext():
            outputs = network(pixels)
        for stack, maps in enumerate(outputs):
            for head, output in maps.items():
                yield compare(f"{label}: {head}_{stack}", output.asnumpy(), vectors[f"{head}_{stack}"], NETWORK)


def network_rows(vectors, folder):
    """Heads for the recipe's weights and input, in inference mode."""
    seed = int(vectors["seed"])
    state, recipe = golden_weights(folder, seed)
    batch, _, height, width = vectors["hm"].shape
    pixels = recipe["make_input"](seed, (batch, 3, 4 * height, 4 * width))
    for dcn_impl in ("native", "composite"):
        network = converted_network(state, dcn_impl).set_train(False)
        with as_a_graph() if dcn_impl == "native" else contextlib.nullcontext():
            maps, = network(Tensor(pixels))
        for head, output in maps.items():
            yield compare(f"network, {dcn_impl}: {head}", output.asnumpy(), vectors[head], NETWORK)


def zoo_rows(vectors, folder):
    """Heat and heads of the model zoo's network for the recipe's weights and input; the way back to its names and values."""
    seed = int(vectors["seed"])
    state, recipe = zoo_weights(folder, seed)
    batch, _, height, width = vectors["hm"].shape
    pixels = Tensor(recipe["make_input"](seed, (batch, 3, 4 * height, 4 * width)))
    for dcn_impl in ("native", "composite"):
        network = converted_network(state, dcn_impl)
        heads = device.heads(get_config("", []).net_config, classes_of(network.hm[2].out_channels))
        maps = InferenceMaps(network, heads, nn.Identity()).set_train(False)(pixels)
        for head, output in maps.items():
            yield compare(f"model zoo, {dcn_impl}: {head}", output.asnumpy(), vectors[head], USUAL, USUAL)
    back, _ = torch_weights.to_zoo(weights_of(network))
    wrong = [name for name in {**state, **back} if not np.array_equal(state.get(name), back.get(name))]
    yield compare(f"model zoo: {len(state)} parameters there and back, how many differ", len(wrong), 0, EXACT)


def gray_level(options):
    """One unit of an image's values after normalization."""
    return 1 / 255 / min(options.std)


def preprocess_rows(vectors, folder):
    """Test-time input, center, size and output size."""
    options = get_config("", []).dataset_config
    for case in vectors.cases("fix_res"):
        keep_res, scale = not vectors[f"fix_res_{case}"], float(vectors[f"scale_{case}"])
        name = f"preprocessing {case} ({'original resolution' if keep_res else '128x128'}, scale {scale:g})"
        pixels, view = make_input(vectors["image"], scale, keep_res, (128, 128), 4)
        tensor = normalize(pixels, options.mean, options.std)
        yield compare(f"{name}: input", tensor[None, :, ::2, ::2], vectors[f"input_{case}"], USUAL, gray_level(options))
        region = np.array([view.width, 4 * view.out_hw[0]]) if vectors[f"s_{case}"].ndim else view.width
        ours = np.concatenate([view.center, np.ravel(region), view.out_hw])
        yield compare(f"{name}: region", ours, np.concatenate([vectors[f"{key}_{case}"].ravel() for key in ("c", "s", "out_hw")]))


def sample_rows(vectors, folder, name):
    """Input and targets of a training sample."""
    variant = next((option for option in ("dense_wh", "cat_spec_wh") if f"ret_{option}" in vectors), "wh")
    words = ["--dataset_config.input_res_train", "[128, 128]", "--net_config.mse_loss", str(name == "mse")]
    words += [] if variant == "wh" else [f"--net_config.{variant}", "true"]
    config = get_config("", words)
    pixels, boxes = vectors["image"], vectors["boxes_xywh"].copy()
    boxes[:, 2:] += boxes[:, :2]
    center, size = whole_view(pixels.shape[1], pixels.shape[0], (128, 128))
    crop_center, crop_scale, flip = vectors["crop_center"], vectors["crop_scale"], bool(vectors["flip"])
    if vectors["train"]:
        center, size = crop_center.astype(np.float32), size * crop_scale
    layout = sample_layout(config, classes_of(len(vectors["ret_hm"])))
    words = targets, pixels, {"boxes": boxes, "labels": vectors["labels"]}, Augmentation(center, size, flip=flip), layout
    sample = make_sample(*words, {"hm": np.zeros_like(vectors["ret_hm"], np.float32)})
    name = f"sample {name}"
    view = color.apply_color(sample["image"], sample["color"])
    yield compare(f"{name}: input", view[:, ::2, ::2], vectors["ret_input"], USUAL, gray_level(config.dataset_config))
    yield compare(f"{name}: heatmap", sample["hm"], vectors["ret_hm"])
    if variant != "dense_wh":
        on_device = on_the_device([make_sample(*words)], config, len(vectors["ret_hm"]), False)
        yield compare(f"{name}: input, on the device", on_device["image"][0, :, ::2, ::2], vectors["ret_input"], USUAL,
                      gray_level(config.dataset_config))
        yield compare(f"{name}: heatmap, drawn on the device", on_device["hm"][0], vectors["ret_hm"])
    yield compare(f"{name}: center indices", sample["ind"], vectors["ret_ind"], EXACT)
    yield compare(f"{name}: object mask", sample["reg_mask"], vectors["ret_reg_mask"], EXACT)
    yield compare(f"{name}: offset", sample["reg"], vectors["ret_reg"])
    yield compare(f"{name}: size", sample["wh"], vectors[f"ret_{variant}"])
    mask = {"dense_wh": "ret_dense_wh_mask", "cat_spec_wh": "ret_cat_spec_mask"}.get(variant)
    expected = vectors[mask] if mask else np.repeat(vectors["ret_reg_mask"][:, None], 2, 1)
    yield compare(f"{name}: size mask", sample["wh_mask"], expected)


def color_rows(vectors, folder):
    """Color augmentation from the recorded order and draws, before and after normalization."""
    options = get_config("", []).dataset_config
    pixels = vectors["image"]
    for case in vectors.cases("order"):
        draws = vectors[f"draws_{case}"]
        steps = [(str(name).rstrip("_"), 1 + draw) for name, draw in zip(vectors[f"order_{case}"], draws)]
        matrix = color.color_matrix(steps, draws[3:], color.mean_gray(pixels), options.eig_val, options.eig_vec)
        augmented = color.apply_color(pixels, matrix / np.array([255, 255, 255, 1]))
        normalized = color.apply_color(pixels, color.normalizing_matrix(matrix, options.mean, options.std))
        yield compare(f"color {case}: augmented", augmented.transpose(1, 2, 0), vectors[f"out_{case}"])
        yield compare(f"color {case}: normalized", normalized.transpose(1, 2, 0), vectors[f"normalized_{case}"])


def radius_rows(vectors, folder):
    """The gaussian's radius for box sizes."""
    yield compare("gaussian radius", [gaussians.gaussian_radius(height, width) for height, width in vectors["hw"]], vectors["radius"])


def loss_rows(vectors, folder):
    """Every loss and its gradient with respect to the network's output; last the weighted sum."""
    heat = Tensor(vectors["hm"])
    without_objects = Tensor(np.float32(0.9) * vectors["hm"])  # no pixel is 1
    ind = Tensor(vectors["ind"].astype(np.int32))
    mask = np.repeat(vectors["mask"].astype(np.float32)[..., None], 2, -1)

    objects = float((vectors["hm"] == 1).sum())

    def focal(logits):
        return points.focal_loss(points.clamped_sigmoid(logits), heat, objects)

    def focal_no_objects(logits):
        return points.focal_loss(points.clamped_sigmoid(logits), without_objects, 1.0)

    def mse(logits):
        return points.mse_loss(logits, heat)

    def at_centers(function, target, used, values_per_object=1):
        norm = float(used.sum()) / values_per_object + 1e-4
        target, used = Tensor(target), Tensor(used.astype(np.float32))

        def loss(maps):
            return function(points.gather_at_centers(maps, ind), target, used, norm)

        return loss

    cases = {
        "focal": (focal, "logits"), "focal_no_objects": (focal_no_objects, "logits"), "mse": (mse, "logits"),
        "l1": (at_centers(points.l1_loss, vectors["wh"], mask), "pred2"),
        "smooth_l1": (at_centers(points.smooth_l1_loss, vectors["wh"], mask, 2), "pred2"),
        "norm_l1": (at_centers(points.norm_l1_loss, vectors["wh"], mask), "pred2"),
        "cat_spec_l1": (at_centers(points.l1_loss, vectors["cat_wh"], vectors["cat_mask"]), "predc"),
        "l1_no_objects": (at_centers(points.l1_loss, vectors["wh"], 0 * mask), "pred2"),
    }
    for name, (function, prediction) in cases.items():
        value, gradient = ms.value_and_grad(function)(Tensor(vectors[prediction]))
        yield compare(f"loss {name}", value.asnumpy(), vectors[name])
        yield compare(f"loss {name}: gradient", gradient.asnumpy(), vectors[f"{name}_grad"])

    maps = Tensor(vectors["pred2"])
    batch = {"hm": vectors["hm"], "ind": vectors["ind"].astype(np.int32), "reg": vectors["reg"], "reg_mask": mask[..., 0],
             "wh": vectors["wh"], "wh_mask": mask}
    batch, cell = {name: Tensor(value) for name, value in batch.items()}, device.build_loss(get_config("", []).net_config)
    total = cell({"hm": Tensor(vectors["logits"]), "wh": maps, "reg": maps}, batch, cell.norms(batch))["loss"]
    places = np.take_along_axis(vectors["pred2"].reshape(len(mask), 2, -1), vectors["ind"][:, None], 2).transpose(0, 2, 1)
    offset = np.abs(places - vectors["reg"])[mask > 0].sum(dtype=np.float64) / (mask.sum() + 1e-4)
    yield compare("loss, weighted sum", total.asnumpy(), vectors["focal"] + 0.1 * vectors["l1"] + offset)


def decode_rows(vectors, folder):
    """Peaks to boxes in output pixels."""
    for variant in ("dets", "dets_no_reg", "dets_cat"):
        wh = vectors["wh_cat" if variant == "dets_cat" else "wh"]
        reg = None if variant == "dets_no_reg" else Tensor(vectors["reg"])
        ours = decode(Tensor(vectors["heat"]), Tensor(wh), reg, int(vectors["k"]), variant == "dets_cat").asnumpy()
        yield from detection_rows(f"decode, {variant}", ours, vectors[variant])


def detection_rows(name, ours, expected, tolerance=USUAL):
    """Rows for detections [..., 6]: their parts have other units, so each has its own largest value."""
    yield compare(f"{name}: boxes", ours[..., :4], expected[..., :4], tolerance)
    yield compare(f"{name}: scores", ours[..., 4], expected[..., 4], tolerance)
    if expected.shape[-1] > 5:
        yield compare(f"{name}: classes", ours[..., 5], expected[..., 5], EXACT)


def post_process_rows(vectors, folder):
    """Boxes back in the original image, in class order."""
    for case in vectors.cases("dets"):
        size = float(vectors[f"s_{case}"].ravel()[0])
        view = View(vectors[f"c_{case}"], size, tuple(vectors[f"out_hw_{case}"]), 1.0)
        ours = to_image(vectors[f"dets_{case}"][0], view)
        ours = ours[np.argsort(ours[:, 5], kind="stable")]
        yield from detection_rows(f"post-processing {case}", ours, vectors[f"boxes_{case}"])


def soft_nms_rows(vectors, folder):
    """Boxes kept, in the order they end in."""
    nms = extension("soft_nms")
    for case in vectors.cases("boxes"):
        for name, method in nms.METHODS.items():
            kept = nms.soft_nms(vectors[f"boxes_{case}"], sigma=0.5, Nt=0.5, threshold=0.001, method=method)
            expected = vectors[f"kept_{case}_method{method}"]
            if kept.shape != expected.shape:
                yield compare(f"soft-NMS {case}, {name}", kept, expected, SOFT_NMS)
            else:
                yield from detection_rows(f"soft-NMS {case}, {name}", kept, expected, SOFT_NMS)


FAMILY = ("res_18", "resdcn_101", "dla_34", "hourglass_narrow")
SAMPLES = ("plain", "crop", "crop_flip", "mse", "dense_wh", "cat_spec_wh")
COMPONENTS = {
    "network.npz": network_rows, "zoo_network.npz": zoo_rows, "preprocess_test.npz": preprocess_rows,
    **{f"sample_{name}.npz": functools.partial(sample_rows, name=name) for name in SAMPLES},
    "color_aug.npz": color_rows, "gaussian_radius.npz": radius_rows, "losses.npz": loss_rows, "decode.npz": decode_rows,
    "post_process.npz": post_process_rows, "soft_nms.npz": soft_nms_rows,
}


def not_compared(vectors, file):
    """A failed Row for each array of a file that took part in no comparison."""
    for name in sorted(set(vectors.arrays) - vectors.used):
        yield from failed(f"{file}: {name} was not compared")


def failed(component):
    """A Row that says what could not be compared."""
    yield Row(component, np.inf, np.inf, "", False)


def file_rows(path, component, folder):
    """Rows for a file of vectors, also for arrays that were not compared."""
    vectors = Vectors(path)
    yield from component(vectors, folder)
    yield from not_compared(vectors, os.path.basename(path))


def folder_parts(folder):
    """{file: a function that gives its rows} of all files in the folder; also of what is missing there, and of what nothing compares."""
    present = set(os.listdir(folder))
    parts = {file: functools.partial(file_rows, os.path.join(folder, file), component, folder) if file in present else
             functools.partial(failed, f"{file} is missing") for file, component in COMPONENTS.items()}
    if "family" in present:
        parts.update(family_parts(os.path.join(folder, "family")))
    unknown = sorted(present - set(COMPONENTS) - NO_VECTORS)
    return parts | {file: functools.partial(failed, f"{file} was not compared") for file in unknown}


# ---------------------------------------------------------------- against PyTorch itself


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


def deform_conv_rows(largest_offset=3.0):
    """The deformable convolution and its gradients against grid_sample's; many samples lie outside the small image."""
    import torch

    from tests import torch_reference

    rng = np.random.default_rng(7)
    n, channels, height, width, out = 2, 5, 9, 11, 4
    x = rng.standard_normal((n, channels, height, width)).astype(np.float32)
    offset = rng.uniform(-largest_offset, largest_offset, (n, 18, height, width)).astype(np.float32)  # the original's (y, x) pairs
    mask = rng.uniform(0, 1, (n, 9, height, width)).astype(np.float32)
    weight = rng.standard_normal((out, channels, 3, 3)).astype(np.float32)
    projection = rng.standard_normal((n, out, height, width)).astype(np.float32)
    # In double precision: what is compared is our rounding, not the reference's as well.
    tensors = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (x, offset, mask, weight)]
    expected = torch_reference.deform_conv(*tensors)
    (expected * torch.tensor(projection)).sum().backward()
    grad_x, grad_offset, grad_mask, grad_weight = (tensor.grad.numpy() for tensor in tensors)

    order = torch_weights.offset_order(27)
    arguments = [Tensor(value) for value in (x, np.concatenate([offset, mask], 1)[:, order], weight)]
    grad_offset = np.concatenate([grad_offset, grad_mask], 1)[:, order[:18]]
    for name, function in (("native", deform_conv_native), ("composite", deform_conv_composite)):
        name = f"DCN {name}, offsets to {largest_offset:g}"
        grads = [grad.asnumpy() for grad in _Gradients(function, projection)(*arguments)]
        yield compare(f"{name}: values", function(*arguments).asnumpy(), expected.detach().numpy())
        yield compare(f"{name}: gradient of input", grads[0], grad_x)
        yield compare(f"{name}: gradient of offsets", grads[1][:, :18], grad_offset)
        yield compare(f"{name}: gradient of masks", grads[1][:, 18:], grad_mask)
        yield compare(f"{name}: gradient of weights", grads[2], grad_weight)


def reference_network(num_classes):
    """The original's network in PyTorch, with offsets that are not zero."""
    import torch

    from tests import torch_reference

    torch.manual_seed(0)
    return with_offsets(torch_reference.CenterNet(num_classes))


def with_offsets(reference):
    """A network of torch_reference.py's parts whose offsets are not zero, and whose heatmaps start as in training; returns it."""
    import torch

    from tests import torch_reference

    for module in reference.modules():
        if isinstance(module, torch_reference.DCN):
            # Where an offset is a whole number the sampling has a kink, and rounding decides on its gradient.
            torch.nn.init.normal_(module.conv_offset_mask.weight, std=0.01)
    torch.nn.init.constant_(reference.hm[2].bias, -2.19)
    return reference


def arrays(reference):
    """A PyTorch module's state as arrays of their own."""
    return {name: value.numpy().copy() for name, value in reference.state_dict().items()}


def on_the_device(samples, config, num_classes, draw):
    """The batch, {name: array}, that the device makes of samples of the pipeline; draw says whether they come with heatmaps."""
    batch = [Tensor(np.stack([sample[name] for sample in samples])) for name in targets.columns(draw)]
    return {name: value.asnumpy() for name, value in build_device_input(config, classes_of(num_classes), draw)(*batch).items()}


def with_loss(network, config=None):
    """The NetworkWithLoss of a network, with the losses of a configuration."""
    return NetworkWithLoss(network, device.build_loss((config or get_config("", [])).net_config), DETECTION.losses)


def drawn_batch(n, size):
    """A batch as the network with its loss takes it, {name: array}: images of three colored boxes each, with their targets."""
    rng = np.random.default_rng(1)
    config = get_config("", ["--dataset_config.input_res_train", f"[{size}, {size}]", "--dataset_config.max_objs", "8"])
    samples = []
    for _ in range(n):
        pixels = cv2.resize(rng.integers(60, 200, (8, 8, 3)).astype(np.uint8), (size, size))
        labels = rng.integers(0, 3, 3)
        sides = rng.integers(size // 6, size // 2, (3, 2))
        corners = rng.integers(0, size - sides)
        boxes = np.hstack([corners, corners + sides])
        for (x1, y1, x2, y2), label in zip(boxes, labels):
            pixels[y1:y2, x1:x2] = np.eye(3)[label] * 190 + 30
        objects, hm = {"boxes": boxes.astype(np.float32), "labels": labels}, np.zeros((3, size // 4, size // 4), np.float32)
        samples.append(make_sample(targets, pixels, objects, whole_image((size, size), (size, size)), sample_layout(config, classes_of(3)),
                                   {"hm": hm}))
    return on_the_device(samples, config, 3, True)


def reference_loss(reference, batch):
    """The original's loss of its network on a batch: (loss, heatmap, size, offset) as PyTorch scalars."""
    import torch

    from tests import torch_reference

    targets = [torch.tensor(batch[name]) for name in ("hm", "ind", "reg", "reg_mask", "wh")]
    targets[1] = targets[1].long()
    return torch_reference.detection_loss(*reference(torch.tensor(batch["image"])), *targets)


def batch_norm_rows():
    """Running statistics of the whole network after three batches in training mode."""
    import torch

    reference = reference_network(3).train()
    network = converted_network(arrays(reference), "native").set_train()
    rng = np.random.default_rng(2)
    for _ in range(3):
        pixels = rng.standard_normal((2, 3, 128, 128)).astype(np.float32)
        network(Tensor(pixels))
        with torch.no_grad():
            reference(torch.tensor(pixels))
    expected = arrays(reference)
    ours = torch_weights.to_original(weights_of(network))
    for part, what in (("running_mean", "means"), ("running_var", "variances")):
        names = [name for name in expected if name.endswith(part)]
        rows = [compare(f"batch norm: running {what} after 3 steps ({len(names)} layers)", ours[name], expected[name]) for name in names]
        yield max(rows, key=lambda row: row.relative)


def whole_networks():
    """(the original's network in PyTorch, a function: (state, dcn_impl) -> ours with these weights)."""
    return reference_network(3), converted_network


def training_rows(steps=10, of=whole_networks, rate=2.5e-7):
    """The losses of ten Adam steps of the whole network on one batch, through the training cell that train.py uses.

    What `of` returns says of which network; a small one takes a larger rate to learn as much.

    The whole one's rate is that of the first step of a warm-up of 2000 steps. Adam's first steps move each of the 14 million weights by
    the rate, whatever its gradient: from 1e-5 on, the losses that PyTorch itself gives in float32 and in float64 part by
    1 % within ten steps.
    """
    import torch

    batch = drawn_batch(2, 96)
    config = get_config("", ["--train_config.MultiDecay.warmup_steps", "0", "--train_config.MultiDecay.learning_rate", str(rate)])
    options = config.train_config.MultiDecay
    reference, make_ours = of()
    start = arrays(reference.train())
    optimizer = torch.optim.Adam(reference.parameters(), options.learning_rate, eps=options.eps)
    expected = []
    for _ in range(steps):
        loss = reference_loss(reference, batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    for dcn_impl in ("native", "composite"):
        network = make_ours(start, dcn_impl)
        step = build_train_step(network, config, build_optimizer(network, config.train_config, 100, 1), NamedColumns(batch))
        tensors = [Tensor(value) for value in batch.values()]
        with as_a_graph():
            ours = [float(step(*tensors)[0].asnumpy()) for _ in range(steps)]
        # Each step against its own loss: the first ones are many times larger.
        relative = np.abs(np.array(ours) / expected - 1)
        name = f"training, {dcn_impl}: {steps} losses, {expected[0]:.4g} to {expected[-1]:.4g}"
        yield Row(name, float(np.abs(np.subtract(ours, expected)).max()), float(relative.max()), f"{TRAINING:g}",
                  bool((relative <= TRAINING).all()))


def pytorch_parts():
    """{name: a function that gives rows} of the comparisons with PyTorch; none without it."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return {}
    return {"deformable convolution": deform_conv_rows, "batch norm": batch_norm_rows, "training": training_rows}


# ---------------------------------------------------------------- the table


def main():
    """Print a table of all rows as they come; end with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="golden vectors, laid out as tests/golden")
    folder = errors.require_dir(parser.parse_args().folder, "folder of golden vectors")
    set_device("CPU", 0)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    print(f"{'component':<60} {'difference':>10} {'relative':>10} {'tolerance':>16}")
    rows, of_pytorch = [], pytorch_parts()
    for row in itertools.chain.from_iterable(part() for part in (*folder_parts(folder).values(), *of_pytorch.values())):
        verdict = "pass" if row.passed else "FAIL"
        print(f"{row.component:<60} {row.difference:>10.2e} {row.relative:>10.2e} {row.tolerance:>16} {verdict}", flush=True)
        rows.append(row)
    if not of_pytorch:
        print("PyTorch is not installed: the deformable convolution, batch norm and training were not compared with it")
    print("relative: to the largest value of what is compared (in training, to each step's loss); so are the tolerances")
    wrong = sum(not row.passed for row in rows)
    print(f"{len(rows)} comparisons, {wrong} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    errors.run(lambda: sys.exit(main()))
