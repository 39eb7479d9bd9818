"""Pose's heads in the weights of other projects."""
from collections.abc import Callable
from typing import Any

from ..detection.weights import DATASET, SETTINGS
from .keypoints import COCO_NAMES, COCO_SKELETON

__all__ = ["DATASET", "SETTINGS"]

REQUIRED = ("hm", "wh", "hps")
MMDETECTION: dict[str, str] = {}  # its CenterNet has no pose


def describe_heads(weight: Callable[[str, int], Any]) -> tuple[int, dict]:
    """(number of classes, entries of net_config) of heads, where weight(head, layer) is a convolution's, or None."""
    heads = {"reg_offset": "reg", "hm_hp": "hm_hp", "reg_hp_offset": "hp_offset"}
    return len(weight("hm", 2)), {
        "head_conv": len(weight("hm", 0)),
        **{option: any(weight(head, layer) is not None for layer in (0, 2)) for option, head in heads.items()},
    }


def counted(weight: Callable[[str, int], Any]) -> str:
    """What heads detect, in numbers: "1 classes, 17 keypoints"."""
    return f"{len(weight('hm', 2))} classes, {len(weight('hps', 2)) // 2} keypoints"


def counted_names(metainfo: dict) -> str:
    """The same for metainfo."""
    return f"{len(metainfo['classes'])} classes, {len(metainfo['keypoints']['names'])} keypoints"


def coco_categories(weight: Callable[[str, int], Any]) -> list[dict]:
    """The categories of COCO's keypoints file, a person; none if heads detect other numbers."""
    skeleton = [[a + 1, b + 1] for a, b in COCO_SKELETON]  # counted from 1, as in the file
    person = {"id": 1, "name": "person", "keypoints": COCO_NAMES, "skeleton": skeleton}
    return [person] if (len(weight("hm", 2)), len(weight("hps", 2))) == (1, 2 * len(COCO_NAMES)) else []


def named_channels(net_config: Any, metainfo: dict) -> dict[str, tuple[list[str], set[str]]]:
    """{"classes" and "keypoints": (their names, heads with channels for each of them)}."""
    return {"classes": (metainfo["classes"], {"hm"}),
            "keypoints": (metainfo["keypoints"]["names"], {"hps", "hm_hp"})}
