"""Training samples of a configuration: layout, augmentation, batches. Does not need MindSpore."""
from collections.abc import Iterable
from types import ModuleType

import numpy as np

from ..model_utils.config import Config
from ..tasks import task_of
from ..tasks.augmentation import Augmentation, Layout, augmented_view, ranges_of

MAX_DRAWN_IMAGES = 16  # in the drawing of a batch


def sample_layout(config: Config, metainfo: dict) -> Layout:
    """The Layout of the task's targets for a configuration and a data set."""
    return task_of(config.net_config).targets.layout_of(config, metainfo)


def make_sample(targets: ModuleType, pixels: np.ndarray, objects: dict[str, np.ndarray], augmentation: Augmentation,
                layout: Layout, heatmaps: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """A training sample: image and color from augmented_view, and the task's targets.

    Args: targets, the task's module; pixels BGR uint8; their objects; heatmaps for targets.encode.
    """
    inputs, place = augmented_view(pixels, augmentation, layout)
    return inputs | targets.encode(targets.warp(objects, place, layout), layout, heatmaps)


def collate(columns: list[str], samples: list[dict], heatmaps: dict[str, np.ndarray]) -> tuple:
    """Stack samples into a batch, a tuple in the order of the columns; heatmaps [B, C, h, w] are already drawn."""
    return tuple(heatmaps[name] if name in heatmaps else np.stack([sample[name] for sample in samples])
                 for name in columns)


def augmented_batch(images: Iterable[tuple], count: int, epoch: int, config: Config, layout: Layout,
                    heatmaps_on_host: bool) -> tuple:
    """The batch of `count` images (BGR uint8, image id, objects), augmented for an epoch: the task's columns."""
    targets = task_of(config.net_config).targets
    heatmaps = targets.empty_heatmaps(count, layout) if heatmaps_on_host else {}
    ranges, samples = ranges_of(config), []
    for slot, (pixels, image_id, objects) in enumerate(images):
        rng = np.random.default_rng([config.seed, epoch, image_id])
        augmentation = targets.random_augmentation(rng, pixels.shape[1::-1], layout.input_size, ranges)
        own_heatmaps = {name: maps[slot] for name, maps in heatmaps.items()}
        samples.append(make_sample(targets, pixels, objects, augmentation, layout, own_heatmaps))
    return collate(targets.columns(heatmaps_on_host), samples, heatmaps)
