"""Detection's heads in the weights of other projects."""
from collections.abc import Callable
from typing import Any

REQUIRED = ("hm", "wh")
MMDETECTION = {"hm": "heatmap_head", "wh": "wh_head", "reg": "offset_head"}  # of bbox_head


def describe_heads(weight: Callable[[str, int], Any]) -> tuple[int, dict]:
    """(number of classes, entries of net_config) of heads, where weight(head, layer) is a convolution's, or None."""
    num_classes = len(weight("hm", 2))
    return num_classes, {
        "head_conv": len(weight("hm", 0)),
        "cat_spec_wh": len(weight("wh", 2)) == 2 * num_classes > 2,
        "reg_offset": any(weight("reg", layer) is not None for layer in (0, 2)),
    }
