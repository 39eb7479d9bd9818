"""Detection's heads in the weights of other projects."""
import os
from collections.abc import Callable
from typing import Any

from ...core.project import PACKAGE

REQUIRED = ("hm", "wh")
MMDETECTION = {"hm": "heatmap_head", "wh": "wh_head", "reg": "offset_head"}  # of bbox_head
DATASET = "coco2017"  # of the original's weights
SETTINGS: dict = {}  # parameters of the original's recipe that its weights need besides the defaults
COCO_CLASSES = os.path.join(PACKAGE, "weights", "names", "coco_classes.txt")


def describe_heads(weight: Callable[[str, int], Any]) -> tuple[int, dict]:
    """(number of classes, entries of net_config) of heads, where weight(head, layer) is a convolution's, or None."""
    num_classes = len(weight("hm", 2))
    return num_classes, {
        "head_conv": len(weight("hm", 0)),
        "cat_spec_wh": len(weight("wh", 2)) == 2 * num_classes > 2,
        "reg_offset": any(weight("reg", layer) is not None for layer in (0, 2)),
    }


def counted(weight: Callable[[str, int], Any]) -> str:
    """What heads detect, in numbers: "80 classes"."""
    return f"{len(weight('hm', 2))} classes"


def counted_names(metainfo: dict) -> str:
    """The same for metainfo."""
    return f"{len(metainfo['classes'])} classes"


def coco_categories(weight: Callable[[str, int], Any]) -> list[dict]:
    """The categories of COCO's annotation file, in order of their ids; none if heads detect another number."""
    with open(COCO_CLASSES, encoding="utf-8") as file:
        entries = [line.strip().split(" ", 1) for line in file]
    categories = [{"id": int(number), "name": name} for number, name in entries]
    return categories if len(categories) == len(weight("hm", 2)) else []


def named_channels(net_config: Any, metainfo: dict) -> dict[str, tuple[list[str], set[str]]]:
    """{"classes": (their names, heads with channels for each of them)}."""
    return {"classes": (metainfo["classes"], {"hm", "wh"} if net_config.cat_spec_wh else {"hm"})}
