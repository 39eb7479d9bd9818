"""Statistics of a data set's boxes: their table, and warnings where a recipe does not fit. Pure functions on arrays."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.tables import abbreviate, shorten_name, table, truncate_middle

SMALL = (16, 20)  # pixels of a longer side at the input
MIN_BATCH = 3  # the paper's Hourglass trains with 3 per device; of 2 and 4, 2 learned less (docs/training.md)
MIN_BOXES = 10
MAX_SHOWN_CLASSES = 20  # in the table


@dataclass
class Boxes:
    """The boxes of a data set.

    image_sizes [N, 2], width and height of its images; counts [N], the boxes of each; sizes [M, 2], width and height of
    the boxes, clipped to their images, image by image, in image pixels; labels [M]; images, N, or more if these are a
    sample.
    """

    image_sizes: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    images: int


@dataclass(frozen=True)
class Recipe:
    """The settings of a configuration that have to fit the data.

    input_size (width, height) in pixels; batch_size per rank; ranks; from_scratch, whether no initial weights are
    given; max_objs; accumulate_steps, the micro-batches of a step.
    """

    input_size: tuple[int, int]
    batch_size: int
    ranks: int
    from_scratch: bool
    max_objs: int
    accumulate_steps: int = 1

    @property
    def images_per_step(self) -> int:
        """The images of a step, on all ranks."""
        return self.batch_size * self.accumulate_steps * self.ranks

    @property
    def product(self) -> str:
        """The factors of images_per_step, for messages."""
        more = f" x accumulate_steps {self.accumulate_steps}" if self.accumulate_steps > 1 else ""
        return f"train_config.batch_size {self.batch_size}{more} x {self.ranks} devices"


def collect(rows: Iterable[tuple], images: int | None = None) -> Boxes:
    """Collect Boxes from rows ((width, height), boxes [M, 4] x1, y1, x2, y2 in pixels, labels [M]), one per image.

    images is the size of the data set if the rows are a sample of it.
    """
    image_sizes, sizes, labels = [], [np.zeros((0, 2))], [np.zeros(0)]
    for image_size, image_boxes, image_labels in rows:
        inside = np.clip(image_boxes, 0, np.array([*image_size] * 2))
        image_sizes.append(image_size)
        sizes.append(inside[:, 2:] - inside[:, :2])
        labels.append(image_labels)
    counts = np.array([len(image_labels) for image_labels in labels[1:]], np.int32)
    return Boxes(np.array(image_sizes, np.int32).reshape(-1, 2), counts, np.concatenate(sizes).astype(np.float32),
                 np.concatenate(labels).astype(np.int32), len(counts) if images is None else images)


def long_sides(boxes: Boxes, input_size: tuple[int, int]) -> np.ndarray:
    """The longer side of each box [M] in pixels of an input that shows the entire image (view.whole_view)."""
    scale = np.min(np.array(input_size) / boxes.image_sizes, 1)
    return boxes.sizes.max(1) * np.repeat(scale, boxes.counts)


def fraction_below(sides: np.ndarray, limit: float) -> float:
    """The fraction of sides below a limit; 0 if there are no sides."""
    return float((sides < limit).mean()) if len(sides) else 0.0


def describe(boxes: Boxes, classes: Sequence[str], input_size: tuple[int, int]) -> str:
    """The table of a data set as text: per class and in total, its boxes, images with boxes, and longer sides."""
    sides = long_sides(boxes, input_size)
    image_of_box = np.repeat(np.arange(len(boxes.counts)), boxes.counts)
    rows = []
    for label, name in enumerate(classes):
        of_class = boxes.labels == label
        rows.append(_row(name, sides[of_class], len(np.unique(image_of_box[of_class]))))
    order = np.argsort([-int(row[1]) for row in rows], kind="stable")
    rows = truncate_middle([rows[index] for index in order], MAX_SHOWN_CLASSES)
    rows.append(_row("all", sides, int((boxes.counts > 0).sum())))
    sample = f"; in {len(boxes.counts)} evenly spaced ones" if len(boxes.counts) < boxes.images else ""
    empty = int((boxes.counts == 0).sum())
    head = (f"{boxes.images} images{sample}, {empty} without boxes; {len(sides)} boxes of {len(classes)} classes; "
            f"their longer sides in pixels at the input of {input_size[0]}x{input_size[1]}:")
    columns = ["class", "boxes", "images", "10 %", "median", "90 %", *(f"below {limit}" for limit in SMALL)]
    return f"{head}\n{table(columns, rows)}"


def _row(name: str, sides: np.ndarray, images: int) -> list[str]:
    if not len(sides):
        return [name, "0", "0", *["-"] * 5]
    quantiles = [f"{value:.0f}" for value in np.quantile(sides, (0.1, 0.5, 0.9))]
    fractions = [f"{100 * fraction_below(sides, limit):.0f} %" for limit in SMALL]
    return [name, str(len(sides)), str(images), *quantiles, *fractions]


def describe_epoch(images: int, recipe: Recipe) -> str:
    """The log line with the steps of an epoch of `images` images; "" if they are fewer than a step."""
    steps, left = divmod(images, recipe.images_per_step)
    if not steps:
        return ""
    return f"an epoch: {steps} steps of {recipe.images_per_step} images ({recipe.product}), {left} images left over"


def find_mismatches(boxes: Boxes, classes: Sequence[str], recipe: Recipe) -> list[str]:
    """Warnings where a Recipe does not fit the data, each with a remedy."""
    found = [_small_boxes(boxes, classes, recipe)]
    if recipe.from_scratch and recipe.batch_size < MIN_BATCH:
        found.append(f"train_config.batch_size is {recipe.batch_size}, from scratch: batch norm's statistics are noisy "
                     f"below {MIN_BATCH} images; raise it, or start from a backbone (net_config.load_backbone_path)")
    if boxes.images < recipe.images_per_step:
        found.append(f"{boxes.images} images are fewer than a step needs, {recipe.product}, and train.py refuses them: "
                     "lower it, or add images")
    numbers = np.bincount(boxes.labels, minlength=len(classes))[: len(classes)]
    if len(boxes.counts) == boxes.images and (numbers < MIN_BOXES).any():
        few = [f"{shorten_name(classes[label])} ({numbers[label]})" for label in np.flatnonzero(numbers < MIN_BOXES)]
        found.append(f"fewer than {MIN_BOXES} boxes of {abbreviate(few)}: too few to learn from; add images of "
                     "them, or "
                     "remove the class from the annotation file")
    if crowded := int((boxes.counts > recipe.max_objs).sum()):
        found.append(f"{crowded} images have more boxes than dataset_config.max_objs, {recipe.max_objs}, and the "
                     f"remaining ones are not learned: raise it, to {int(boxes.counts.max())} at most")
    return [warning for warning in found if warning]


def _small_boxes(boxes: Boxes, classes: Sequence[str], recipe: Recipe) -> str:
    """The warning that most boxes, or most boxes of some classes, are too small; "" if they are not."""
    sides, limit = long_sides(boxes, recipe.input_size), SMALL[-1]
    share, what = fraction_below(sides, limit), "boxes"
    if share <= 0.5:
        of_class = [sides[boxes.labels == label] for label in range(len(classes))]
        small = [label for label, values in enumerate(of_class)
                 if len(values) >= MIN_BOXES and fraction_below(values, limit) > 0.5]
        if not small:
            return ""
        what = f"boxes of {abbreviate(shorten_name(classes[label]) for label in small)}"
        share = fraction_below(np.concatenate([of_class[label] for label in small]), limit)
    width, height = recipe.input_size
    return (f"{100 * share:.0f} % of the {what} are shorter than {limit} pixels at the input of {width}x{height}, and "
            "hard to learn: raise dataset_config.input_res_train, or tile the images")


def sample_evenly(items: Sequence, count: int) -> list:
    """At most count of the items, evenly spaced, including the first and the last."""
    count = min(count, len(items))
    step = (len(items) - 1) / max(count - 1, 1)
    return [items[round(number * step)] for number in range(count)]
