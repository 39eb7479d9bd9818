"""Names and layouts of other sources' weights against ours. Arrays in, arrays out; neither PyTorch nor MindSpore needed.

Six kinds of weights are known. Five are PyTorch's: "original", a detector of the paper authors' code (resdcn, res, dla_34, hourglass);
"mmdet", one of MMDetection (centernet_r18-dcnv2), "mmdet_plain", one without deformable convolutions (centernet_r18); "resnet", a
ResNet classifier of torchvision, "dla", one of DLA's authors. "zoo" is a checkpoint of the MindSpore model zoo's CenterNet. Against all of
them, ours differ in the channels of conv_offset_mask: [all x, all y, mask] where theirs are [(y, x) per tap, mask]; against PyTorch's also
in the names of batch norm's parts and in what stands before the names.
MMDetection's have other names, no bias in the deformable convolutions, and a first convolution that takes red, green, blue. Where
they have a plain convolution, ours is a deformable one without offsets: its masks are a half, so its weights are doubled.
The model zoo's name conv_offset_mask conv_offset and a head hm hm_fn, and stand behind the name of a training cell, "network."; a
training's checkpoint holds the optimizer's state, too. Its training has no bias in the deformable convolutions either; what its converter
makes of the original's weights has one.
"""
import re
from dataclasses import dataclass

import numpy as np

from ..core.errors import UserError
from ..network.architectures import architecture_of, counted, hourglasses, resnet_config, resnet_of

BATCH_NORM_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
SOURCES = {"original": "the original", "mmdet": "MMDetection", "mmdet_plain": "MMDetection", "zoo": "the model zoo"}  # of detectors
WITHOUT_DCN_BIAS = ("mmdet", "mmdet_plain", "zoo")  # whose trainings write none; where a file has them, they are used
# Our names as the original's, after those of batch norm's parts; each pattern is replaced in turn.
ORIGINAL_NAMES = (
    (r"^backbone\.(?=base_layer\.|level\d\.)", "base."), (r"^backbone\.", ""), (r"^deconv_layers\.(?=dla_up\.|ida_up\.)", ""),
    (r"((?:proj|node)_\d+)\.bn\.", r"\1.actf.0."), (r"^(hm|wh|reg)\.(\d+)\.0\.(?=weight|bias)", r"\1.\2.0.conv."),
    (r"^(hm|wh|reg)\.(\d+)\.2\.(?=weight|bias)", r"\1.\2.1."),
)
ZOO_PREFIX = "network."
MMDET_HEADS = {"hm": "bbox_head.heatmap_head", "wh": "bbox_head.wh_head", "reg": "bbox_head.offset_head"}
# MMDetection's normalization, of red, green and blue values up to 255, as ours: blue, green, red, up to 1.
MMDET_MEAN = [103.53 / 255, 116.28 / 255, 123.675 / 255]
MMDET_STD = [57.375 / 255, 57.12 / 255, 58.395 / 255]

MAX_HOURGLASSES = 8  # each takes 400 MB, however small the tensors are that name it
STEP_COUNTER = "num_batches_tracked"
LAYERS_PER_STAGE = {True: 6, False: 3}  # of deconv_layers: deformable convolution, norm, ReLU if there is one; transposed one, norm, ReLU


def recognize(names):
    """Which kind of weights has these names, without_prefix. Raises UserError for any other."""
    names = set(names)
    if zoo_prefix(names) == "":
        return "zoo"
    if {"bbox_head.heatmap_head.0.weight", "neck.deconv_layers.0.conv.weight"} <= names:
        return "mmdet" if "neck.deconv_layers.0.conv.conv_offset.weight" in names else "mmdet_plain"
    if {"deconv_layers.0.weight", "hm.0.weight"} <= names or {"dla_up.ida_0.proj_1.conv.conv_offset_mask.weight", "hm.0.weight"} <= names:
        return "original"
    if {"kps.0.up1.0.conv1.weight", "hm.0.0.conv.weight"} <= names:
        return "original"
    if {"conv1.weight", "layer1.0.conv1.weight"} <= names:
        return "resnet"
    if {"base_layer.0.weight", "level5.root.conv.weight"} <= names:
        return "dla"
    raise UserError(f"names that belong to no known source ({', '.join(sorted(names)[:3])}, ...); known are detectors of the original "
                    "(resdcn, res, dla_34, hourglass), MMDetection's centernet_r18-dcnv2 and centernet_r18, the model zoo's CenterNet, and "
                    "the ImageNet classifiers that torchvision's ResNets and DLA-34 are")


def source_name(name, kind):
    """The name that our parameter has in weights of a kind."""
    if kind == "zoo":
        return re.sub(r"^(hm|wh|reg)\.", r"\1_fn.", name).replace("conv_offset_mask", "conv_offset")
    cell, _, part = name.rpartition(".")
    name = f"{cell}.{BATCH_NORM_NAMES.get(part, part)}"
    if kind in ("resnet", "dla"):
        return name.removeprefix("backbone.")
    if kind == "original":
        for pattern, replacement in ORIGINAL_NAMES:
            name = re.sub(pattern, replacement, name)
        return name
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
    """The state with what stands before every name taken off: PyTorch's DataParallel puts "module." there, the model zoo "network.".

    Raises UserError if that makes one name of two.
    """
    prefix = zoo_prefix(state) or "module."
    bare = {name.removeprefix(prefix): value for name, value in state.items()}
    if len(bare) < len(state):
        twice = next(name for name in state if f"{prefix}{name}" in state)
        raise UserError(f"it holds {twice} twice, with and without {prefix!r} before it")
    return bare


def describe_backbone(state, kind):
    """(block_class, num_stacks) of the ResNet in a state. Raises UserError if it is no ResNet."""
    block_class, stacks = resnet_of(lambda name: source_name(f"backbone.{name}", kind) in state)
    if 0 in stacks:
        first = source_name(f"backbone.layer{stacks.index(0) + 1}.0.conv1.weight", kind)
        raise UserError(f"it lacks {first}, so its backbone is no ResNet")
    return block_class, stacks


def describe_detector(state, kind):
    """(number of classes, net_config's entries for the network) of a detector's state. Raises UserError if it has no heads."""
    def get(name):
        return state.get(source_name(name, kind))

    network, stacks = _describe_features(state, kind), hourglasses(state.__contains__)
    last = f".{stacks - 1}" if stacks else ""
    for head in (f"hm{last}", f"wh{last}"):
        for layer in ("0", "2"):
            if np.ndim(get(f"{head}.{layer}.weight")) != 4:
                raise UserError(f"it lacks {source_name(f'{head}.{layer}.weight', kind)}, or it is no convolution")
    num_classes = len(get(f"hm{last}.2.weight"))
    return num_classes, {
        **network, "head_conv": len(get(f"hm{last}.0.weight")),
        "cat_spec_wh": len(get(f"wh{last}.2.weight")) == 2 * num_classes > 2,
        "reg_offset": any(get(f"reg{last}.{layer}.weight") is not None for layer in (0, 2)),
    }


def _describe_features(state, kind):
    """net_config's entries for what a detector's state has before its heads."""
    if stacks := hourglasses(state.__contains__):
        if stacks > MAX_HOURGLASSES:
            raise UserError(f"it names {stacks} stacked hourglasses, and the original stacks two")
        return {"arch": "hourglass", "block_class": "", "num_stacks": [] if stacks == 2 else [stacks], "down_ratio": 4}
    steps = counted(state.__contains__, "dla_up.ida_{}.proj_1.conv.weight", "dla_up.ida_{}.node_1.conv.weight")
    if steps or "base.base_layer.0.weight" in state:
        return {"arch": "dla_34", "block_class": "", "num_stacks": [], "down_ratio": 32 >> steps}
    offsets = source_name("deconv_layers.0.conv_offset_mask.weight", kind)
    dcn = kind == "mmdet_plain" or offsets in state or "deconv_layers.0.bias" in state  # a transposed convolution has no bias
    layers = [source_name(f"deconv_layers.{LAYERS_PER_STAGE[dcn] * stage}.weight", kind) for stage in range(3)]
    stages = max((stage for stage, name in enumerate(layers, 1) if name in state), default=0)
    return {**resnet_config(*describe_backbone(state, kind), dcn), "down_ratio": 32 >> stages}


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
    layers = _dcn_layers(shapes)
    biases, offsets = [f"{layer}.bias" for layer in layers], [name for name in shapes if ".conv_offset_mask." in name]
    absent, doubled = [], []
    if kind in WITHOUT_DCN_BIAS and not any(names[bias] in state for bias in biases):
        absent += biases
        remarks.append(f"zero, since {SOURCES[kind]}'s deformable convolutions have no bias: {', '.join(biases)}")
    if kind == "mmdet_plain":
        absent += offsets
        doubled = [f"{layer}.weight" for layer in layers]
        remarks.append(f"doubled, since they are plain convolutions there, and masks are a half here: {', '.join(doubled)}")
    used = {name: source for name, source in names.items() if name not in absent}
    missing = [source for source in used.values() if source not in state]
    if missing:
        raise UserError(f"it lacks {_some(missing)}")
    taken = set(used.values())
    left_out = {name: _reason(name, kind, state) for name in state if name not in taken}
    unknown = [name for name, reason in left_out.items() if not reason]
    if unknown:
        raise UserError(f"the network has no place for {_some(unknown)}")
    broken = [source for source in used.values() if not np.isfinite(state[source]).all()]
    if broken:
        raise UserError(f"it holds numbers that are not finite: {_some(broken)}")
    cast = [source for source in used.values() if state[source].dtype != np.float32]
    if cast:
        remarks.append(f"made float32: {_some(cast)}")
    weights = {}
    for name, shape in shapes.items():
        value = state[used[name]].astype(np.float32) if name in used else np.zeros(shape, np.float32)
        if value.shape != tuple(shape):
            raise UserError(f"{names[name]} is {value.shape}, the network wants {tuple(shape)}")
        if name in doubled:
            value = 2 * value
        if kind in ("mmdet", "mmdet_plain") and name == "backbone.conv1.weight":
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
    Raises UserError for an architecture that the model zoo's code does not have.
    """
    if not (found := architecture_of(weights)).startswith("resdcn_"):
        raise UserError(f"the model zoo's CenterNet is a ResNet with deformable convolutions, and this is {found}")
    weights, folded = dict(weights), []
    for cell in _dcn_layers(weights):
        value = weights.pop(f"{cell}.bias")
        if value.any():
            group, layer = cell.split(".")
            mean = f"{group}.{int(layer) + 1}.moving_mean"
            weights[mean] = (weights[mean] - value.astype(np.float64)).astype(np.float32)
            folded.append(f"{cell}.bias")
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


def _dcn_layers(shapes):
    """The deformable convolutions, by our names, "deconv_layers.0"."""
    return [name.removesuffix(".conv_offset_mask.weight") for name in shapes if name.endswith(".conv_offset_mask.weight")]


def _offsets_back(name, value):
    """The value of our parameter, the channels of a conv_offset_mask in the sources' order."""
    return value[np.argsort(offset_order(len(value)))] if ".conv_offset_mask." in name else value


def _reason(name, kind, state):
    """Why a tensor of the source's state has no place in ours; "" if there is no reason."""
    if name.endswith(f".{STEP_COUNTER}"):
        return "batch norm's step counter, which neither training here nor inference uses"
    if kind in ("resnet", "dla") and name in ("fc.weight", "fc.bias"):
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
