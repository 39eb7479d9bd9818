"""The heads of 3D boxes in the weights of other projects."""
from collections.abc import Callable
from typing import Any

from ..detection.weights import counted, counted_names, named_channels
from .categories import CLASSES

__all__ = ["counted", "counted_names", "named_channels"]

REQUIRED = ("hm", "dep", "rot", "dim")
DATASET = "kitti"
SETTINGS = {  # see configs/kitti_ddd_3dop.yaml
    "dataset_config.mean": [0.485, 0.456, 0.406], "dataset_config.std": [0.229, 0.224, 0.225],
    "dataset_config.input_res_train": [1280, 384], "dataset_config.input_res_test": [1280, 384],
    "eval_config.keep_res": False, "eval_config.SOFT_NMS": False,
}
MMDETECTION: dict[str, str] = {}  # its CenterNet has no 3D boxes


def describe_heads(weight: Callable[[str, int], Any]) -> tuple[int, dict]:
    """(number of classes, entries of net_config) of heads, where weight(head, layer) is a convolution's, or None."""
    heads = {"reg_offset": "reg", "reg_bbox": "wh"}
    return len(weight("hm", 2)), {
        "head_conv": len(weight("hm", 0)),
        **{option: any(weight(head, layer) is not None for layer in (0, 2)) for option, head in heads.items()},
    }


def coco_categories(weight: Callable[[str, int], Any]) -> list[dict]:
    """KITTI's three classes, as in the original's annotation files; none if heads detect another number."""
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    return categories if len(weight("hm", 2)) == len(CLASSES) else []
