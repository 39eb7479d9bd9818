"""Preview of the data before training: a table of the boxes, warnings about the recipe, an image of the first batch."""
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.backups import contains_mark
from ..core.console import LOG
from ..core.interrupts import INTERRUPTS
from ..data.manifest import boxes_path, read_boxes
from ..data.samples import MAX_DRAWN_IMAGES
from ..data.summary import Boxes, Recipe, collect, describe, find_mismatches, sample_evenly
from ..imaging.drawing import save_image
from ..imaging.reading import header_size
from ..model_utils.config import Config
from ..runs.record import is_record
from ..tasks import task_of
from ..tasks.augmentation import Layout

if TYPE_CHECKING:
    from ..data.train_set import TrainSet

IMAGE = "train_batch.jpg"
SAMPLE = 2000  # images to read if the conversion wrote no box sizes


def recipe_of(config: Config, ranks: int) -> Recipe:
    """The summary.Recipe of a configuration on a number of ranks."""
    pretrained = config.resume or config.load_checkpoint_path or config.net_config.load_backbone_path
    return Recipe(tuple(config.dataset_config.input_res_train), config.train_config.batch_size, ranks, not pretrained,
                  config.dataset_config.max_objs, config.train_config.accumulate_steps)


def report(boxes: Boxes, classes: list[str], recipe: Recipe) -> None:
    """Log the table of a data set, and warnings where the recipe does not fit it."""
    LOG.info(describe(boxes, classes, recipe.input_size))
    for sentence in find_mismatches(boxes, classes, recipe):
        LOG.warning(f"warning: {sentence}")


def save_batch(path: str, batch: dict[str, np.ndarray], image_ids: Sequence[int], layout: Layout, net_config: Config,
               metainfo: dict) -> None:
    """Draw a batch {column: array}, as DeviceInput returns it, into an image; an earlier image is backed up."""
    names = [f"image {image_id}" for image_id in image_ids]
    drawn = task_of(net_config).preview.draw_batch(batch, names, layout, net_config, metainfo)
    save_image(path, drawn, is_first_batch)
    LOG.info(f"the first {len(image_ids)} training images with their targets, as network input: {path}")


def is_first_batch(path: str) -> bool:
    """Test for backups.back_up_existing: whether an image was written by a training run.

    It has our mark, or, from earlier versions, a training record next to it.
    """
    record = os.path.join(os.path.dirname(path), "train_record.jsonl")
    return contains_mark()(path) or os.path.exists(record) and is_record(record)


def preview_data(config: Config, train_set: "TrainSet", rank: int = 0) -> None:
    """Log and draw the training data, on rank 0. Failures are logged and do not stop training.

    The random numbers of training are not affected: a sample's depend on seed, epoch and image alone. A resumed run
    keeps the image of its start.
    """
    if rank:
        return
    with log_failures("the table of the data"):
        report(read_train_boxes(train_set), train_set.manifest["classes"], recipe_of(config, train_set.rank_size))
    path = os.path.join(config.save_result_dir, IMAGE)
    if not (config.resume and os.path.exists(path)):
        with log_failures(path):
            batch, image_ids = train_set.first_images(MAX_DRAWN_IMAGES)
            save_batch(path, on_device(batch, config, train_set), image_ids, train_set.layout, config.net_config,
                       train_set.manifest)


@contextlib.contextmanager
def log_failures(what: str) -> Iterator[None]:
    """Log errors of the block, which makes `what`, instead of raising them."""
    try:
        yield
    except Exception as error:
        LOG.warning(f"warning: skipped {what} ({type(error).__name__}: {error})")


def read_train_boxes(train_set: "TrainSet") -> Boxes:
    """The summary.Boxes of a TrainSet; from a sample of its rows if the conversion wrote none."""
    config = train_set.config
    path = boxes_path(config.mindrecord_dir, config.mindrecord_prefix)
    boxes = read_boxes(path, train_set.images, train_set.layout.num_classes)
    if boxes is not None:
        return boxes
    rows = map(train_set.read_row, sample_evenly(range(train_set.images), SAMPLE))
    sizes = ((header_size(bytes(data)), objects["boxes"], objects["labels"]) for data, _, objects in rows)
    return collect(sizes, train_set.images)


def on_device(batch: Sequence[np.ndarray], config: Config, train_set: "TrainSet") -> dict[str, np.ndarray]:
    """Run the training DeviceInput on the arrays of a batch's columns: {column: array}."""
    import mindspore as ms

    from .engine import build_device_input

    with INTERRUPTS.immediate():  # it compiles
        device_input = build_device_input(config, train_set.manifest, train_set.heatmaps_on_host)
        columns = device_input(*map(ms.Tensor, batch))
    return {name: tensor.asnumpy() for name, tensor in columns.items()}
