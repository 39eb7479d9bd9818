"""What a data set's boxes look like to a recipe: their table, and warnings where both do not fit. Pure functions on arrays."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.tables import shown, some, table, truncate_middle

SMALL = (16, 20)  # pixels of a longer side at the input
MIN_BATCH = 8
MIN_BOXES = 10
MAX_SHOWN_CLASSES = 20  # that the table shows


@dataclass
class Boxes:
    """The boxes of a data set: image_sizes [N, 2], width and height of its images; counts [N], the boxes of each; sizes [M, 2], width and
    height of the boxes inside their images, image by image, in the images' pixels; labels [M]; images, N, or more if these are a sample."""

    image_sizes: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    images: int


@dataclass(frozen=True)
class Recipe:
    """What of a configuration has to fit the data: input_size (width, height) in pixels; batch_size of each of so many ranks, and how many
    such batches make a step; whether no weights are given to start from; max_objs."""

    input_size: tuple
    batch_size: int
    ranks: int
    from_scratch: bool
    max_objs: int
    accumulate_steps: int = 1

    @property
    def images_per_step(self):
        """The images of a step, of all ranks."""
        return self.batch_size * self.accumulate_steps * self.ranks

    @property
    def product(self):
        """The words for how they come together."""
        more = f" x accumulate_steps {self.accumulate_steps}" if self.accumulate_steps > 1 else ""
        return f"train_config.batch_size {self.batch_size}{more} x {self.ranks} devices"


def collect(rows, images=None):
    """The Boxes of rows ((width, height), boxes [M, 4] x1, y1, x2, y2 in pixels, labels [M]), one for each image; of a sample, if there
    are more images."""
    image_sizes, sizes, labels = [], [np.zeros((0, 2))], [np.zeros(0)]
    for image_size, of_image, its_labels in rows:
        inside = np.clip(of_image, 0, np.array([*image_size] * 2))
        image_sizes.append(image_size)
        sizes.append(inside[:, 2:] - inside[:, :2])
        labels.append(its_labels)
    image_sizes, counts = np.array(image_sizes, np.int32).reshape(-1, 2), np.array([len(part) for part in labels[1:]], np.int32)
    images = len(counts) if images is None else images
    return Boxes(image_sizes, counts, np.concatenate(sizes).astype(np.float32), np.concatenate(labels).astype(np.int32), images)


def long_sides(boxes, input_size):
    """The longer side of each box [M] in pixels of an input that shows its whole image (view.whole_view)."""
    scale = np.min(np.array(input_size) / boxes.image_sizes, 1)
    return boxes.sizes.max(1) * np.repeat(scale, boxes.counts)


def fraction_below(sides, limit):
    """The share of sides below a limit, 0 without any."""
    return float((sides < limit).mean()) if len(sides) else 0.0


def describe(boxes, classes, input_size):
    """The table of a data set, as lines of text: of each class, and of all, the boxes, the images with some, and the longer sides."""
    sides = long_sides(boxes, input_size)
    image_of_box = np.repeat(np.arange(len(boxes.counts)), boxes.counts)
    rows = []
    for label, name in enumerate(classes):
        of_class = boxes.labels == label
        rows.append(_row(name, sides[of_class], len(np.unique(image_of_box[of_class]))))
    order = np.argsort([-int(row[1]) for row in rows], kind="stable")
    rows = truncate_middle([rows[index] for index in order], MAX_SHOWN_CLASSES)
    rows.append(_row("all", sides, int((boxes.counts > 0).sum())))
    sample = f"; in {len(boxes.counts)} of them, spread over all" if len(boxes.counts) < boxes.images else ""
    head = (f"{boxes.images} images{sample}, {int((boxes.counts == 0).sum())} without boxes; {len(sides)} boxes of {len(classes)} classes; "
            f"their longer sides in pixels at the input of {input_size[0]}x{input_size[1]}:")
    columns = ["class", "boxes", "images", "10 %", "median", "90 %", *(f"below {limit}" for limit in SMALL)]
    return f"{head}\n{table(columns, rows)}"


def _row(name, sides, images):
    if not len(sides):
        return [name, "0", "0", *["-"] * 5]
    quantiles = [f"{value:.0f}" for value in np.quantile(sides, (0.1, 0.5, 0.9))]
    return [name, str(len(sides)), str(images), *quantiles, *(f"{100 * fraction_below(sides, limit):.0f} %" for limit in SMALL)]


def describe_epoch(images, recipe):
    """The line that says how many steps an epoch of so many images has, "" if they make none."""
    steps, left = divmod(images, recipe.images_per_step)
    return f"an epoch: {steps} steps of {recipe.images_per_step} images ({recipe.product}), {left} images left over" if steps else ""


def find_mismatches(boxes, classes, recipe):
    """Sentences about where a Recipe does not fit the data, each with what to change."""
    found = [_small_boxes(boxes, classes, recipe)]
    if recipe.from_scratch and recipe.batch_size < MIN_BATCH:
        found.append(f"train_config.batch_size is {recipe.batch_size}, from scratch: batch norm's statistics are noisy below {MIN_BATCH} "
                     "images; raise it, or start from a backbone (net_config.load_backbone_path), unless the images are so few that "
                     "the number of updates is what is short")
    if boxes.images < recipe.images_per_step:
        found.append(f"{boxes.images} images are fewer than a step's, {recipe.product}, and train.py refuses them: lower it, or add images")
    numbers = np.bincount(boxes.labels, minlength=len(classes))[: len(classes)]
    if len(boxes.counts) == boxes.images and (numbers < MIN_BOXES).any():
        few = [f"{shown(classes[label])} ({numbers[label]})" for label in np.flatnonzero(numbers < MIN_BOXES)]
        found.append(f"fewer than {MIN_BOXES} boxes of {some(few)}: too few to learn from; add images of them, or take the class out of "
                     "the annotation file")
    if crowded := int((boxes.counts > recipe.max_objs).sum()):
        found.append(f"{crowded} images have more boxes than dataset_config.max_objs, {recipe.max_objs}, and the rest of theirs is not "
                     f"learned: raise it, to {int(boxes.counts.max())} at most")
    return [sentence for sentence in found if sentence]


def _small_boxes(boxes, classes, recipe):
    """The sentence that most boxes, or most of some classes, are too small; "" if they are not."""
    sides, limit = long_sides(boxes, recipe.input_size), SMALL[-1]
    share, what = fraction_below(sides, limit), "boxes"
    if share <= 0.5:
        of_class = [sides[boxes.labels == label] for label in range(len(classes))]
        small = [label for label, values in enumerate(of_class) if len(values) >= MIN_BOXES and fraction_below(values, limit) > 0.5]
        if not small:
            return ""
        what = f"boxes of {some(shown(classes[label]) for label in small)}"
        share = fraction_below(np.concatenate([of_class[label] for label in small]), limit)
    width, height = recipe.input_size
    return (f"{100 * share:.0f} % of the {what} are shorter than {limit} pixels at the input of {width}x{height}, and hard to learn: raise "
            "dataset_config.input_res_train, or cut the images into parts")


def sample_evenly(items: Sequence, count: int) -> list:
    """At most count of the items, evenly spread over them, the first and the last among them."""
    count = min(count, len(items))
    step = (len(items) - 1) / max(count - 1, 1)
    return [items[round(number * step)] for number in range(count)]
