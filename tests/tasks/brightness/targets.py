"""light: the mean brightness of an object in each channel, in [0, 1], learned at its center."""
import numpy as np

from src.core.errors import UserError
from src.core.kinds import is_number, is_text, list_of
from src.tasks.detection import targets
from src.tasks.detection.targets import (
    check_image,
    check_same,
    configured,
    counted,
    draws_on_host,
    empty_heatmaps,
    is_consistent,
    layout_of,
    notes,
    random_augmentation,
    select,
    unused,
    warp,
)

__all__ = [
    "check_image", "check_same", "configured", "counted", "draws_on_host", "empty_heatmaps", "is_consistent",
    "layout_of", "notes", "random_augmentation", "select", "unused", "warp",
]

METAINFO = {"channels": list_of(is_text, least=1)}


def read_metainfo(categories, images=()):
    channels = categories[0].get("channels")
    if not METAINFO["channels"](channels) or any(category.get("channels") != channels for category in categories):
        raise UserError("its categories name no channels, or different ones; the task brightness needs them")
    return {"channels": channels}


def fits(content):
    return any("channels" in category for category in content["categories"])


def observed(metainfo, labels, light):
    assert len(labels) == len(light)
    return metainfo


def object_columns(metainfo):
    return {"light": len(metainfo["channels"])}


def check_annotation(entry, metainfo, image):
    if not list_of(is_number, len(metainfo["channels"]))(entry.get("light")):
        raise UserError(f"its light is {entry.get('light')!r}; expected a number for each of "
                        f"{', '.join(metainfo['channels'])}")


def read_object(annotation, metainfo):
    return {"light": annotation["light"]}


def encode(objects, layout, heatmaps=None):
    encoded = targets.encode(objects, layout, heatmaps)
    light = np.zeros((layout.max_objs, objects["light"].shape[1]), np.float32)
    count = min(len(objects["light"]), layout.max_objs)
    light[:count] = objects["light"][:count]
    return {**encoded, "light": light * encoded["reg_mask"][:, None]}


def columns(heatmaps_on_host):
    return [*targets.columns(heatmaps_on_host), "light"]
