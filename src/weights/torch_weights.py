"""Conversion of other sources' weights, as arrays, to our names and layouts, and back; without PyTorch or MindSpore.

source_names.py has the kinds of weights and their names. The channels of conv_offset_mask are [all x, all y, mask] in
ours, [(y, x) per tap, mask] in all others. MMDetection has no bias in deformable convolutions, and an RGB input. Its
plain convolutions become deformable ones without offsets; since their masks are 0.5, the weights are doubled. The model
zoo's checkpoints of a training include the optimizer's state. Its deformable convolutions have a bias only if its
converter wrote the checkpoint from the original's weights.
"""
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.tables import abbreviate
from ..network.architectures import architecture_of, count_modules, hourglasses, resnet_config, resnet_of
from ..tasks import TASKS
from .source_names import ZOO_PREFIX, source_name

SOURCES = {"original": "the original", "mmdet": "MMDetection", "mmdet_plain": "MMDetection", "zoo": "the model zoo",
           "zoo_pose": "the model zoo"}
# The classifiers in ImageNet's weights, and in the original's DLA detectors, which start from these.
CLASSIFIERS = {"original": ("base.fc.weight", "base.fc.bias"), "resnet": ("fc.weight", "fc.bias"),
               "dla": ("fc.weight", "fc.bias")}
WITHOUT_DCN_BIAS = ("mmdet", "mmdet_plain", "zoo")  # in training; a file's biases are used if it has any
# MMDetection's normalization of RGB values up to 255, in our form: BGR, up to 1.
MMDET_MEAN = [103.53 / 255, 116.28 / 255, 123.675 / 255]
MMDET_STD = [57.375 / 255, 57.12 / 255, 58.395 / 255]
# Convolutions of two concatenated maps, which the model zoo's pose network takes in the other order.
JOINED = re.compile(r"\.node_\d\.0\.weight$")
MAX_HOURGLASSES = 8  # each takes 400 MB, even if a file's tensors are small
STEP_COUNTER = "num_batches_tracked"
# {deformable: layers per stage of deconv_layers}: (convolution, norm, ReLU) twice, or once
LAYERS_PER_STAGE = {True: 6, False: 3}


def describe_backbone(state: Collection[str], kind: str) -> tuple[str, list[int]]:
    """(block_class, num_stacks) of the ResNet in a state. Raises UserError if there is none."""
    block_class, stacks = resnet_of(lambda name: source_name(f"backbone.{name}", kind) in state)
    if 0 in stacks:
        first = source_name(f"backbone.layer{stacks.index(0) + 1}.0.conv1.weight", kind)
        raise UserError(f"it lacks {first}, so its backbone is not a ResNet")
    return block_class, stacks


def describe_detector(state: Mapping[str, np.ndarray], kind: str) -> tuple[int, dict]:
    """(number of classes, entries of net_config) of a detector's state. Raises UserError if it has no heads."""
    network, weight = _describe_features(state, kind), head_weights(state, kind)
    # The task with the most heads in the state.
    task = max(TASKS.values(), key=lambda task: sum(weight(head, 2) is not None for head in task.heads))
    for head in task.weights.REQUIRED:
        for layer in (0, 2):
            if np.ndim(weight(head, layer)) != 4:
                name = source_name(f"{head}{_last_stack(state)}.{layer}.weight", kind)
                raise UserError(f"it lacks {name}, or that is not a convolution")
    num_classes, options = task.weights.describe_heads(weight)
    return num_classes, {"task": task.name, **network, **options}


def head_weights(state: Mapping[str, np.ndarray], kind: str) -> Callable[[str, int], Any]:
    """A function (head, layer 0 or 2) -> the weight of that convolution of the last stack in a state, or None."""
    last = _last_stack(state)
    return lambda head, layer: state.get(source_name(f"{head}{last}.{layer}.weight", kind))


def _last_stack(state: Collection[str]) -> str:
    """What follows the names of the last stack's heads: ".1" in an hourglass network, nothing in others."""
    stacks = hourglasses(state.__contains__)
    return f".{stacks - 1}" if stacks else ""


def _describe_features(state: Collection[str], kind: str) -> dict:
    """Entries of net_config for a detector's state without its heads."""
    if stacks := hourglasses(state.__contains__):
        if stacks > MAX_HOURGLASSES:
            raise UserError(f"it has {stacks} stacked hourglasses; at most {MAX_HOURGLASSES} are supported")
        return {"arch": "hourglass", "block_class": "", "num_stacks": [] if stacks == 2 else [stacks], "down_ratio": 4}
    if kind == "zoo_pose":
        return {"arch": "dlazoo_34", "block_class": "", "num_stacks": [], "down_ratio": 4}
    for arch, layer in (("dlav0_34", "0"), ("dla_34", "conv")):
        cells = [f"dla_up.ida_{{}}.{cell}_1.{layer}.weight" for cell in ("proj", "node")]
        steps = count_modules(state.__contains__, *cells)
        if steps or arch == "dla_34" and "base.base_layer.0.weight" in state:
            return {"arch": arch, "block_class": "", "num_stacks": [], "down_ratio": 32 >> steps}
    offsets = source_name("deconv_layers.0.conv_offset_mask.weight", kind)
    # A transposed convolution has no bias.
    dcn = kind == "mmdet_plain" or offsets in state or "deconv_layers.0.bias" in state
    layers = [source_name(f"deconv_layers.{LAYERS_PER_STAGE[dcn] * stage}.weight", kind) for stage in range(3)]
    stages = max((stage for stage, name in enumerate(layers, 1) if name in state), default=0)
    return {**resnet_config(*describe_backbone(state, kind), dcn), "down_ratio": 32 >> stages}


@dataclass
class Conversion:
    """Our weights {name: float32 array}; unused tensors {source name: reason}; remarks, one sentence each."""

    weights: dict[str, np.ndarray]
    left_out: dict[str, str]
    remarks: list[str]


def from_source(state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], kind: str,
                names: Mapping[str, str] | None = None) -> Conversion:
    """Convert weights of a kind to ours. Every tensor is used, or left out for a stated reason.

    Args: state {source name: array}; shapes {our name: shape} of all parameters; names {our name: source name} instead
    of source_name. Raises UserError that names missing or unexpected tensors, or a wrong shape.
    """
    names = names or {name: source_name(name, kind) for name in shapes}
    remarks = []
    layers = _dcn_layers(shapes)
    biases, offsets = [f"{layer}.bias" for layer in layers], [name for name in shapes if ".conv_offset_mask." in name]
    absent, doubled = [], []
    if kind in WITHOUT_DCN_BIAS and not any(names[bias] in state for bias in biases):
        absent += biases
        remarks.append(f"set to 0, since {SOURCES[kind]}'s deformable convolutions have no bias: {', '.join(biases)}")
    if kind == "mmdet_plain":
        absent += offsets
        doubled = [f"{layer}.weight" for layer in layers]
        remarks.append(f"doubled, since these become deformable convolutions with masks of 0.5: {', '.join(doubled)}")
    used = {name: source for name, source in names.items() if name not in absent}
    missing = [source for source in used.values() if source not in state]
    if missing:
        raise UserError(f"it lacks {abbreviate(missing, 4)}")
    taken = set(used.values())
    left_out = {name: _reason(name, kind, state) for name in state if name not in taken}
    unknown = [name for name, reason in left_out.items() if not reason]
    if unknown:
        raise UserError(f"the network lacks {abbreviate(unknown, 4)}")
    broken = [source for source in used.values() if not np.isfinite(state[source]).all()]
    if broken:
        raise UserError(f"it contains numbers that are not finite: {abbreviate(broken, 4)}")
    cast = [source for source in used.values() if state[source].dtype != np.float32]
    if cast:
        remarks.append(f"converted to float32: {abbreviate(cast, 4)}")
    weights = {}
    for name, shape in shapes.items():
        value = state[used[name]].astype(np.float32) if name in used else np.zeros(shape, np.float32)
        if value.shape != tuple(shape):
            raise UserError(f"{names[name]} has shape {value.shape}, but the network needs {tuple(shape)}")
        if name in doubled:
            value = 2 * value
        if kind in ("mmdet", "mmdet_plain") and name == "backbone.conv1.weight":
            value = value[:, ::-1].copy()
            remarks.append(f"{names[name]}: input channels reordered from RGB to BGR")
        if kind == "zoo_pose" and JOINED.search(name):
            value = _halves_swapped(value)
        weights[name] = value[offset_order(len(value))] if ".conv_offset_mask." in name else value
    return Conversion(weights, left_out, remarks)


def to_original(weights: Mapping[str, np.ndarray], counters: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Convert our weights {name: array} to the original's, the inverse of from_source but for what that leaves out.

    counters {name: int} are batch norm's step counters, 0 by default. Raises UserError for the model zoo's network.
    """
    if architecture_of(weights) == "dlazoo_34":
        raise UserError("the original's code has no dlazoo_34, only the model zoo's has")
    state = {}
    for name, value in weights.items():
        theirs = source_name(name, "original")
        state[theirs] = _offsets_back(name, value)
        cell, _, field = theirs.rpartition(".")
        if field == "running_var" and counters is None:
            state[f"{cell}.{STEP_COUNTER}"] = np.array(0, np.int64)
    for name, count in (counters or {}).items():
        state[name] = np.array(count, np.int64)
    return state


def to_zoo(weights: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Convert our weights {name: array} to the model zoo's. Returns (state {name: array}, remarks, one sentence each).

    The exact inverse of from_source if the biases of the deformable convolutions are 0. The model zoo has no such
    biases, so others are folded into the moving mean of the next batch norm: outputs in inference are equal up to
    rounding. Raises UserError for a network that the model zoo does not have.
    """
    kind, ours, folded, remarks = _zoo_kind(weights), dict(weights), list[str](), list[str]()
    for cell in _dcn_layers(weights):
        value = ours.pop(f"{cell}.bias")
        if value.any():
            group, layer = cell.split(".")
            mean = f"{group}.{int(layer) + 1}.moving_mean"
            ours[mean] = (ours[mean] - value.astype(np.float64)).astype(np.float32)
            folded.append(f"{cell}.bias")
    if folded:
        remarks.append("folded into the moving mean of the next batch norm, since the model zoo's deformable "
                       f"convolutions have no bias: {', '.join(folded)}")
    if kind == "zoo_pose":
        remarks.append("not written, since the model zoo's network has them but does not use them: the roots of level3 "
                       "and level4")
        ours |= {name: _halves_swapped(value) for name, value in ours.items() if JOINED.search(name)}
    return {ZOO_PREFIX + source_name(name, kind): _offsets_back(name, value) for name, value in ours.items()}, remarks


def _zoo_kind(weights: Collection[str]) -> str:
    """The kind of the model zoo's weights for a network with our names. Raises UserError if it has no such network."""
    found, pose = architecture_of(weights), "hps.0.weight" in weights
    if found == "dlazoo_34" and pose:
        return "zoo_pose"
    if found.startswith("resdcn_") and not pose:
        return "zoo"
    raise UserError("the model zoo's CenterNet is a ResNet with deformable convolutions for detection, or dlazoo_34 "
                    f"for pose, but this is {found}{' for pose' if pose else ''}")


def step_counters(state: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Batch norm's step counters in a state, {name: int}. Only to_original uses them."""
    return {name: int(value) for name, value in state.items() if name.endswith(STEP_COUNTER)}


def offset_order(channels: int) -> np.ndarray:
    """The original's index of each of our conv_offset_mask channels: int64 [channels]."""
    taps = channels // 3
    return np.concatenate([np.arange(1, 2 * taps, 2), np.arange(0, 2 * taps, 2), np.arange(2 * taps, 3 * taps)])


def _dcn_layers(shapes: Iterable[str]) -> list[str]:
    """Our names of the deformable convolutions, "deconv_layers.0"."""
    suffix = ".conv_offset_mask.weight"
    return [name.removesuffix(suffix) for name in shapes if name.endswith(suffix)]


def _halves_swapped(weight: np.ndarray) -> np.ndarray:
    """A convolution's weight for its two concatenated inputs in the other order; its own inverse."""
    return np.roll(weight, weight.shape[1] // 2, axis=1)


def _offsets_back(name: str, value: np.ndarray) -> np.ndarray:
    """The value of one of our parameters, with conv_offset_mask's channels in the sources' order."""
    return value[np.argsort(offset_order(len(value)))] if ".conv_offset_mask." in name else value


def _reason(name: str, kind: str, state: Mapping[str, np.ndarray]) -> str:
    """The reason to leave out a tensor of a source's state, or an empty string if there is none."""
    if name.endswith(f".{STEP_COUNTER}"):
        return "batch norm's step counter, which neither training here nor inference uses"
    if name in CLASSIFIERS.get(kind, ()):
        return "the classifier, which a detector does not use"
    if kind == "zoo_pose" and re.match(r"dla_seg\.dla\.level[34]\.root\.", name):
        return "a root that its network does not use"
    if not kind.startswith("zoo"):
        return ""
    words = name.split(".")  # moment1.<a parameter's name>
    if any(".".join(words[start:]) in state for start in range(1, len(words))):
        return "the optimizer's copies of the parameters, which fine-tuning resets"
    if (state[name].size == 1 or name in ("learning_rate", "global_step")):
        return "the training's state, which fine-tuning resets"
    return ""


def report(state: Collection[str], others: Iterable[Any], conversion: Conversion) -> str:
    """Text about the conversion of a state {source name: array}; others are the file's other entries."""
    lines = [f"used: {len(state) - len(conversion.left_out)} of {len(state)} tensors"]
    for reason in sorted(set(conversion.left_out.values())):
        names = [name for name, why in conversion.left_out.items() if why == reason]
        lines.append(f"left out, {reason}: {', '.join(names)} ({len(names)} tensors)")
    if others:
        lines.append(f"left out, not weights: the entries {', '.join(map(str, others))}")
    return "\n".join(lines + conversion.remarks)
