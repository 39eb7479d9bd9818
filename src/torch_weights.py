"""Names and layouts of other sources' weights against ours. Arrays in, arrays out; neither PyTorch nor MindSpore needed.

Four kinds of weights are known. Three are PyTorch's: "original", a detector of the paper authors' code (resdcn_18, resdcn_101);
"mmdet", one of MMDetection (centernet_r18-dcnv2); "resnet", a ResNet classifier of torchvision. "zoo" is a checkpoint of the
MindSpore model zoo's CenterNet. Against all of them, ours differ in the channels of conv_offset_mask: [all x, all y, mask] where
theirs are [(y, x) per tap, mask]; against PyTorch's also in the names of batch norm's parts and in the prefix "backbone.".
MMDetection's have other names, no bias in the deformable convolutions, and a first convolution that takes red, green, blue.
The model zoo's name conv_offset_mask conv_offset and a head hm hm_fn, have no bias in the deformable convolutions either, and stand
behind the name of a training cell, "network."; a training's checkpoint holds the optimizer's state, too.
"""
import itertools
import re
from dataclasses import dataclass

import numpy as np

from src.errors import UserError

BATCH_NORM_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
SOURCES = {"original": "the original", "mmdet": "MMDetection", "zoo": "the model zoo"}  # of detectors, in words
WITHOUT_DCN_BIAS = ("mmdet", "zoo")
ZOO_PREFIX = "network."
MMDET_HEADS = {"hm": "bbox_head.heatmap_head", "wh": "bbox_head.wh_head", "reg": "bbox_head.offset_head"}
# MMDetection's normalization, of red, green and blue values up to 255, as ours: blue, green, red, up to 1.
MMDET_MEAN = [103.53 / 255, 116.28 / 255, 123.675 / 255]
MMDET_STD = [57.375 / 255, 57.12 / 255, 58.395 / 255]

STEP_COUNTER = "num_batches_tracked"
LAYERS_PER_STAGE = 6  # of deconv_layers: deformable convolution, norm, ReLU, transposed convolution, norm, ReLU


def recognize(names):
    """Which kind of weights has these names, without_prefix: "original", "mmdet", "zoo" or "resnet". Raises UserError for any other."""
    names = set(names)
    if zoo_prefix(names) == "":
        return "zoo"
    if "bbox_head.heatmap_head.0.weight" in names:
        if "neck.deconv_layers.0.conv.conv_offset.weight" in names:
            return "mmdet"
        raise UserError("a CenterNet of MMDetection without deformable convolutions (centernet_r18); only centernet_r18-dcnv2 fits")
    if "deconv_layers.0.conv_offset_mask.weight" in names and "hm.0.weight" in names:
        return "original"
    if "deconv_layers.0.weight" in names:
        raise UserError("a detector of the original without deformable convolutions (res_18) or heads; resdcn_18 and resdcn_101 fit")
    if any(name.startswith(("base.", "ida_up.", "dla_up.")) for name in names):
        raise UserError("a DLA detector of the original; resdcn_18 and resdcn_101 fit")
    if {"conv1.weight", "layer1.0.conv1.weight"} <= names:
        return "resnet"
    raise UserError(f"names that belong to no known source ({', '.join(sorted(names)[:3])}, ...); known are the original's resdcn_18 and "
                    "resdcn_101, MMDetection's centernet_r18-dcnv2, the model zoo's CenterNet, and torchvision's ResNets")


def source_name(name, kind):
    """The name that our parameter has in weights of a kind."""
    if kind == "zoo":
        return re.sub(r"^(hm|wh|reg)\.", r"\1_fn.", name).replace("conv_offset_mask", "conv_offset")
    cell, _, part = name.rpartition(".")
    name = f"{cell}.{BATCH_NORM_NAMES.get(part, part)}"
    if kind != "mmdet":
        return name.removeprefix("backbone.")
    head, _, rest = name.partition(".")
    if head in MMDET_HEADS:
        return f"{MMDET_HEADS[head]}.{rest}"
    if head == "deconv_layers":
        layer, _, rest = rest.partition(".")
        module, index = divmod(int(layer), 3)  # convolution, norm, ReLU are one module there
        return f"neck.deconv_layers.{module}.{('conv', 'bn')[index]}.{rest.replace('conv_offset_mask', 'conv_offset')}"
    return name


def zoo_prefix(names):
    """What a model-zoo checkpoint with these names has before those of its network: "network.", "", ...; None if it is none."""
    head = "hm_fn.0.weight"
    found = [name.removesuffix(head) for name in names if f".{name}".endswith(f".{head}")]
    return min(found, key=len, default=None)  # the optimizer's copies have more before their names


def without_prefix(state):
    """The state with what stands before every name taken off: PyTorch's DataParallel puts "module." there, the model zoo "network."."""
    prefix = zoo_prefix(state) or "module."
    return {name.removeprefix(prefix): value for name, value in state.items()}


def describe_backbone(state, kind):
    """net_config's entries for the ResNet in a state: block_class, num_stacks. Raises UserError if it is no ResNet."""
    def has(name):
        return source_name(f"backbone.{name}", kind) in state

    stacks = [next(depth for depth in itertools.count() if not has(f"layer{stage}.{depth}.conv1.weight")) for stage in (1, 2, 3, 4)]
    if 0 in stacks:
        first = source_name(f"backbone.layer{stacks.index(0) + 1}.0.conv1.weight", kind)
        raise UserError(f"it lacks {first}, so its backbone is no ResNet")
    return {"block_class": "Bottleneck" if has("layer1.0.conv3.weight") else "BasicBlock", "num_stacks": stacks}


def describe_detector(state, kind):
    """(number of classes, net_config's entries for the network) of a detector's state. Raises UserError if it has no heads."""
    def get(name):
        return state.get(source_name(name, kind))

    for head in ("hm", "wh"):
        for layer in ("0", "2"):
            if np.ndim(get(f"{head}.{layer}.weight")) != 4:
                raise UserError(f"it lacks {source_name(f'{head}.{layer}.weight', kind)}, or it is no convolution")
    num_classes = len(get("hm.2.weight"))
    stages = next(stage for stage in itertools.count() if get(f"deconv_layers.{LAYERS_PER_STAGE * stage}.weight") is None)
    return num_classes, {
        **describe_backbone(state, kind), "down_ratio": 32 >> stages, "head_conv": len(get("hm.0.weight")),
        "cat_spec_wh": len(get("wh.2.weight")) == 2 * num_classes > 2, "reg_offset": get("reg.0.weight") is not None,
    }


@dataclass
class Conversion:
    """Our weights {name: float32 array}; what was not used {source name: reason}; remarks, one sentence each."""

    weights: dict
    left_out: dict
    remarks: list


def from_source(state, shapes, kind, names=None):
    """Weights of a kind as ours, every tensor used or left out with a reason.

    Args: state {source name: array}; shapes {our name: shape} of all parameters wanted; names {our name: source name}
    where source_name is not to decide. Returns a Conversion. Raises UserError that names what is missing, left over or
    of another shape.
    """
    names = names or {name: source_name(name, kind) for name in shapes}
    remarks = []
    absent = _dcn_biases(shapes) if kind in WITHOUT_DCN_BIAS else []
    if absent:
        remarks.append(f"zero, since {SOURCES[kind]}'s deformable convolutions have no bias: {', '.join(absent)}")
    missing = [source for name, source in names.items() if source not in state and name not in absent]
    if missing:
        raise UserError(f"it lacks {_some(missing)}")
    wanted = set(names.values())
    left_out = {name: _reason(name, kind, state) for name in state if name not in wanted}
    unknown = [name for name, reason in left_out.items() if not reason]
    if unknown:
        raise UserError(f"the network has no place for {_some(unknown)}")
    cast = [source for name, source in names.items() if name not in absent and state[source].dtype != np.float32]
    if cast:
        remarks.append(f"made float32: {_some(cast)}")
    weights = {}
    for name, shape in shapes.items():
        value = np.zeros(shape, np.float32) if name in absent else state[names[name]].astype(np.float32)
        if value.shape != tuple(shape):
            raise UserError(f"{names[name]} is {value.shape}, the network wants {tuple(shape)}")
        if kind == "mmdet" and name == "backbone.conv1.weight":
            value = value[:, ::-1].copy()
            remarks.append(f"{names[name]}: its input channels turned from red, green, blue to blue, green, red")
        weights[name] = value[offset_order(len(value))] if ".conv_offset_mask." in name else value
    return Conversion(weights, left_out, remarks)


def to_original(weights, counters=None):
    """Our weights {name: array} as the original's, {name: array}: from_source back, bit for bit.

    counters {name: int} are batch norm's step counters; without them all are written as 0.
    """
    state = {}
    for name, value in weights.items():
        theirs = source_name(name, "original")
        state[theirs] = _offsets_back(name, value)
        cell, _, part = theirs.rpartition(".")
        if part == "running_var" and counters is None:
            state[f"{cell}.{STEP_COUNTER}"] = np.array(0, np.int64)
    for name, count in (counters or {}).items():
        state[name] = np.array(count, np.int64)
    return state


def to_zoo(weights):
    """Our weights {name: array} as the model zoo's: (state {name: array}, remarks, one sentence each).

    It is from_source back, bit for bit, where the biases of the deformable convolutions are 0. Others, for which the model zoo has no
    place, go into the moving mean of the batch norm behind them: in inference the outputs stay the same but for rounding.
    """
    weights, folded = dict(weights), []
    for bias in _dcn_biases(weights):
        value = weights.pop(bias)
        if value.any():
            group, layer, _ = bias.split(".")
            mean = f"{group}.{int(layer) + 1}.moving_mean"
            weights[mean] = (weights[mean] - value.astype(np.float64)).astype(np.float32)
            folded.append(bias)
    remarks = [f"put into the moving mean of the batch norm behind it, since {SOURCES['zoo']}'s deformable convolutions have no bias: "
               f"{', '.join(folded)}"] if folded else []
    return {ZOO_PREFIX + source_name(name, "zoo"): _offsets_back(name, value) for name, value in weights.items()}, remarks


def step_counters(state):
    """Batch norm's step counters in a state, {name: int}: neither training here nor inference uses them, the way back does."""
    return {name: int(value) for name, value in state.items() if name.endswith(STEP_COUNTER)}


def offset_order(channels):
    """For each of our conv_offset_mask channels the original's: int64 [channels]."""
    taps = channels // 3
    return np.concatenate([np.arange(1, 2 * taps, 2), np.arange(0, 2 * taps, 2), np.arange(2 * taps, 3 * taps)])


def _dcn_biases(shapes):
    """The biases of the deformable convolutions, by our names."""
    cells = [name.removesuffix(".conv_offset_mask.weight") for name in shapes if name.endswith(".conv_offset_mask.weight")]
    return [f"{cell}.bias" for cell in cells]


def _offsets_back(name, value):
    """The value of our parameter, the channels of a conv_offset_mask in the sources' order."""
    return value[np.argsort(offset_order(len(value)))] if ".conv_offset_mask." in name else value


def _reason(name, kind, state):
    """Why a tensor of the source's state has no place in ours; "" if there is no reason."""
    if name.endswith(f".{STEP_COUNTER}"):
        return "batch norm's step counter, which neither training here nor inference uses"
    if kind == "resnet" and name in ("fc.weight", "fc.bias"):
        return "the classifier, which a detector has no use for"
    parts = name.split(".")
    if kind == "zoo" and any(".".join(parts[start:]) in state for start in range(1, len(parts))):  # moment1.<a parameter's name>
        return "the optimizer's copies of the parameters, which fine-tuning starts anew"
    if kind == "zoo" and (state[name].size == 1 or name in ("learning_rate", "global_step")):
        return "the training's numbers, which fine-tuning starts anew"
    return ""


def _some(names):
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def report(state, others, conversion):
    """What became of every tensor of a source, as text: how many are used, which are left out and why, remarks.

    Args: state {source name: array}; others, the file's entries beside it; a Conversion.
    """
    lines = [f"used: {len(state) - len(conversion.left_out)} of {len(state)} tensors"]
    for reason in sorted(set(conversion.left_out.values())):
        names = [name for name, why in conversion.left_out.items() if why == reason]
        lines.append(f"left out, {reason}: {', '.join(names)} ({len(names)} tensors)")
    if others:
        lines.append(f"left out, no weights: the entries {', '.join(map(str, others))}")
    return "\n".join(lines + conversion.remarks)
