"""The kinds of other sources' weights, and their names for our parameters; without PyTorch or MindSpore.

Seven kinds are supported. Five are PyTorch's: "original", a detector of the paper authors' code (resdcn, res, dla_34,
dlav0_34, hourglass); "mmdet", a detector of MMDetection (centernet_r18-dcnv2); "mmdet_plain", one without deformable
convolutions (centernet_r18); "resnet", a ResNet classifier of torchvision; "dla", a DLA classifier of its authors. Two
are checkpoints of the MindSpore model zoo: "zoo" of its CenterNet for detection, "zoo_pose" of the one for pose.

PyTorch's weights differ from ours in the parameter names of batch norms and in name prefixes; MMDetection has other
names. The model zoo calls conv_offset_mask conv_offset, and a head hm hm_fn; its prefix "network." is a training cell.
"""
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.errors import UserError
from ..tasks import TASKS, head_names

BATCH_NORM_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# Replacements, in turn, of our names by the original's, after those of batch norm's parameters; HEAD: a task's head.
ORIGINAL_NAMES = (
    (r"^backbone\.(?=base_layer\.|level\d\.)", "base."), (r"^backbone\.", ""),
    (r"^deconv_layers\.(?=dla_up\.|ida_up\.)", ""), (r"((?:proj|node)_\d+)\.bn\.", r"\1.actf.0."),
    (r"^(HEAD)\.(\d+)\.0\.(?=weight|bias)", r"\1.\2.0.conv."), (r"^(HEAD)\.(\d+)\.2\.(?=weight|bias)", r"\1.\2.1."),
)
# The same for the model zoo: detection, and pose, whose steps of one size (dla_up) are numbered from the largest map.
ZOO_NAMES = ((r"^hp_offset\.", "reg_hp."), (r"^(HEAD|reg_hp)\.", r"\1_fn."), ("conv_offset_mask", "conv_offset"))
ZOO_POSE_NAMES = (
    *ZOO_NAMES,
    (r"\.conv1\.", ".conv_bn_act.conv."), (r"\.bn1\.", ".conv_bn_act.batchnorm."),
    (r"\.conv2\.", ".conv_bn.conv."), (r"\.bn2\.", ".conv_bn.batchnorm."),
    (r"^(backbone\.level[01])\.", r"\1.0."),
    (r"(base_layer|level[01]\.0|project|(?:proj|node)_\d)\.0\.", r"\1.conv."),
    (r"(base_layer|level[01]\.0|project|(?:proj|node)_\d)\.1\.", r"\1.batchnorm."),
    (r"^backbone\.", "dla_seg.dla."),
    *((rf"^deconv_layers\.dla_up\.ida_{step}\.(\w+)_1\.", rf"dla_seg.dla_up.idaup_fns.{2 - step}.\1.")
      for step in range(3)),
    *((rf"^deconv_layers\.ida_up\.(\w+)_{step}\.", rf"dla_seg.dla_up.final_idaup_fns.{step - 1}.\1.")
      for step in range(1, 4)),
)
ZOO_PREFIX = "network."
# Names in the original's detectors: ResNet, hourglass, DLA with and without deformable convolutions.
ORIGINAL_DETECTORS = ({"deconv_layers.0.weight", "hm.0.weight"}, {"kps.0.up1.0.conv1.weight", "hm.0.0.conv.weight"},
                      {"dla_up.ida_0.proj_1.conv.conv_offset_mask.weight", "hm.0.weight"},
                      {"dla_up.ida_0.proj_1.0.weight", "hm.0.weight"})


def recognize(names: Iterable[str]) -> str:
    """The kind of weights with these names, without prefixes. Raises UserError for an unknown kind."""
    names = set(names)
    if zoo_prefix(names) == "":
        return "zoo_pose" if any(name.startswith("dla_seg.") for name in names) else "zoo"
    if {"bbox_head.heatmap_head.0.weight", "neck.deconv_layers.0.conv.weight"} <= names:
        return "mmdet" if "neck.deconv_layers.0.conv.conv_offset.weight" in names else "mmdet_plain"
    if any(pair <= names for pair in ORIGINAL_DETECTORS):
        return "original"
    if {"conv1.weight", "layer1.0.conv1.weight"} <= names:
        return "resnet"
    if {"base_layer.0.weight", "level5.root.conv.weight"} <= names:
        return "dla"
    raise UserError(f"names of an unknown source ({', '.join(sorted(names)[:3])}, ...); supported are detectors of the "
                    "original (resdcn, res, dla_34, dlav0_34, hourglass), MMDetection's centernet_r18-dcnv2 and "
                    "centernet_r18, the model zoo's CenterNet, and ImageNet classifiers: torchvision's ResNets, and "
                    "DLA-34")


def source_name(name: str, kind: str) -> str:
    """The name of one of our parameters in weights of a kind."""
    if kind in ("zoo", "zoo_pose"):
        return _replaced(name, ZOO_NAMES if kind == "zoo" else ZOO_POSE_NAMES)
    cell, _, field = name.rpartition(".")
    name = f"{cell}.{BATCH_NORM_NAMES.get(field, field)}"
    if kind in ("resnet", "dla"):
        return name.removeprefix("backbone.")
    if kind == "original":
        return _replaced(name, ORIGINAL_NAMES)
    head, _, rest = name.partition(".")
    for task in TASKS.values():
        if head in task.weights.MMDETECTION:
            return f"bbox_head.{task.weights.MMDETECTION[head]}.{rest}"
    if head == "deconv_layers":
        layer, _, rest = rest.partition(".")
        module, index = divmod(int(layer), 3)  # a module is convolution, norm and ReLU
        return f"neck.deconv_layers.{module}.{('conv', 'bn')[index]}.{rest.replace('conv_offset_mask', 'conv_offset')}"
    return name


def _replaced(name: str, replacements: Iterable[tuple[str, str]]) -> str:
    """A name after replacements, in turn; HEAD in a pattern is any head of any task."""
    heads = "|".join(sorted(head_names()))
    for pattern, replacement in replacements:
        name = re.sub(pattern.replace("HEAD", heads), replacement, name)
    return name


def zoo_prefix(names: Iterable[str]) -> str | None:
    """The prefix of the network's names in a model-zoo checkpoint, "network.", "", ...; None in other files."""
    head = "hm_fn.0.weight"
    found = [name.removesuffix(head) for name in names if f".{name}".endswith(f".{head}")]
    return min(found, key=len, default=None)  # the optimizer's copies have longer prefixes


def without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefix of every name: "module." of PyTorch's DataParallel, "network." of the model zoo.

    Raises UserError if two names become equal.
    """
    prefix = zoo_prefix(state) or "module."
    bare = {name.removeprefix(prefix): value for name, value in state.items()}
    if len(bare) < len(state):
        twice = next(name for name in state if f"{prefix}{name}" in state)
        raise UserError(f"it contains {twice} twice, with and without the prefix {prefix!r}")
    return bare
