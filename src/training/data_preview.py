"""A look at the data before training: the table of the boxes, warnings where the recipe does not fit them, the first batch as an image."""
import contextlib
import os

from ..core.backups import contains_mark
from ..core.console import LOG
from ..core.interrupts import INTERRUPTS
from ..data.manifest import boxes_path, read_boxes
from ..data.samples import MAX_DRAWN_IMAGES
from ..data.summary import Recipe, collect, describe, find_mismatches, sample_evenly
from ..imaging.drawing import save_image
from ..imaging.reading import header_size
from ..runs.record import is_record
from ..tasks import task_of

IMAGE = "train_batch.jpg"
SAMPLE = 2000  # images that are read where no file says their boxes' sizes


def recipe_of(config, ranks):
    """The summary.Recipe of a configuration on so many ranks."""
    given = config.resume or config.load_checkpoint_path or config.net_config.load_backbone_path
    return Recipe(tuple(config.dataset_config.input_res_train), config.train_config.batch_size, ranks, not given,
                  config.dataset_config.max_objs, config.train_config.accumulate_steps)


def report(boxes, classes, recipe):
    """Log the table of a data set, and a warning for each way in which the recipe does not fit it."""
    LOG.info(describe(boxes, classes, recipe.input_size))
    for sentence in find_mismatches(boxes, classes, recipe):
        LOG.warning(f"warning: {sentence}")


def save_batch(path, batch, image_ids, layout, net_config, metainfo):
    """Draw a batch {column: array} as DeviceInput makes it; an earlier image is kept aside."""
    names = [f"image {image_id}" for image_id in image_ids]
    drawn = task_of(net_config).preview.draw_batch(batch, names, layout, net_config, metainfo)
    save_image(path, drawn, is_first_batch)
    LOG.info(f"the first {len(image_ids)} training images, as the network gets them with their targets: {path}")


def is_first_batch(path):
    """The test for backups.back_up_existing whether an image is a training's: by its mark, or, as earlier versions set none, by the record
    beside it."""
    record = os.path.join(os.path.dirname(path), "train_record.jsonl")
    return contains_mark()(path) or os.path.exists(record) and is_record(record)


def preview_data(config, train_set, rank=0):
    """Log and draw what a training is about to learn from, on rank 0; what fails here is said and ends nothing.

    No random numbers of the training are used: a sample's depend on seed, epoch and image alone. A resumed run keeps the image of its
    start.
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
def log_failures(what):
    """Say what could not be made in the block, and why, instead of an error."""
    try:
        yield
    except Exception as error:
        LOG.warning(f"warning: {what} could not be made, and is left out ({type(error).__name__}: {error})")


def read_train_boxes(train_set):
    """The summary.Boxes of a TrainSet; of a sample of its rows if its conversion wrote none."""
    config = train_set.config
    boxes = read_boxes(boxes_path(config.mindrecord_dir, config.mindrecord_prefix), train_set.images, train_set.layout.num_classes)
    if boxes is not None:
        return boxes
    rows = map(train_set.read_row, sample_evenly(range(train_set.images), SAMPLE))
    return collect(((header_size(bytes(data)), objects["boxes"], objects["labels"]) for data, _, objects in rows), train_set.images)


def on_device(batch, config, train_set):
    """What training's DeviceInput makes of the values of columns(): {column: array}."""
    import mindspore as ms

    from .engine import build_device_input

    with INTERRUPTS.immediate():  # it compiles
        made = build_device_input(config, train_set.manifest, train_set.heatmaps_on_host)(*map(ms.Tensor, batch))
    return {name: tensor.asnumpy() for name, tensor in made.items()}
