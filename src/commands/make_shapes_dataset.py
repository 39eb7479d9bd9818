"""Generate a small COCO-format data set: colored rectangles, ellipses and triangles on textured backgrounds, or stick
figures with keypoints.

The same options and seed give the same files. The layout is COCO 2017's: annotations/instances_{train,val}2017.json, or
person_keypoints_{train,val}2017.json for figures, and {train,val}2017/.
"""
import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..core.errors import UserError
from ..core.project import next_steps
from ..data import stick_figures
from ..data.scenes import draw_scene
from ..data.stick_figures import SUPERSAMPLING
from ..inference.options import OptionParser

CLASSES = ("rectangle", "ellipse", "triangle")
MAX_SIZE = 4096  # pixels
MIN_VISIBLE = 0.8  # unoccluded fraction of each object
SHAPES = {"objects": 3, "smallest": 48, "largest": 72}  # defaults of options
FIGURES = {"objects": 2, "smallest": 64, "largest": 104}
SAMPLE_SEED = 3

Drawing = tuple[np.ndarray, dict[str, Any], list[dict[str, Any]]]  # BGR image, its entry's fields, annotations


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a background in muted colors (gradient, stripes, coarse and fine noise): float32 [size, size, 3]."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    ramp = (along - along.min()) / np.ptp(along)
    image = rng.uniform(60, 200) + rng.uniform(-15, 15, 3) + (ramp[..., None] - 0.5) * rng.uniform(-80, 80)
    image = image + rng.uniform(3, 25) * np.sin(2 * np.pi * rng.uniform(3, 15) * along + rng.uniform(0, 6))[..., None]
    cells = int(rng.integers(4, 16))
    noise = rng.normal(0, rng.uniform(3, 25), (cells, cells)).astype(np.float32)
    coarse = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    return (image + coarse + rng.normal(0, rng.uniform(2, 10), (size, size, 3))).astype(np.float32)


def draw_outline(rng: np.random.Generator, label: int, size: int, smallest: float, largest: float) -> np.ndarray:
    """Return a random outline of a class, a polygon [M, 2] float, inside a square of `size` pixels."""
    long_side = rng.uniform(smallest, largest)
    short_side = long_side * rng.uniform(0.75, 1.0)
    if CLASSES[label] == "rectangle":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (long_side / 2, short_side / 2)
    elif CLASSES[label] == "ellipse":
        t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        points = np.stack([np.cos(t) * long_side / 2, np.sin(t) * short_side / 2], 1)
    else:
        points = np.array([[-0.5, 0.5], [0.5, 0.5], [rng.uniform(-0.4, 0.4), -0.5]])
        points = points * (long_side, long_side * rng.uniform(0.8, 1.0))
    angle = rng.uniform(0, np.pi)
    points = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points *= min(1.0, 0.95 * size / np.ptp(points, 0).max())
    low, high = -points.min(0), size - points.max(0)
    return points + rng.uniform(low, high)


def box_of(points: np.ndarray) -> list[float]:
    """The bounding box [x, y, width, height] of a polygon."""
    low, high = points.min(0), points.max(0)
    return [*low, *(high - low)]


def mask_of(points: np.ndarray, size: int) -> np.ndarray:
    """The coverage of each pixel by a polygon: float64 [size, size] in 0..1."""
    mask = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8)
    cv2.fillPoly(mask, [np.round(points * SUPERSAMPLING).astype(np.int32)], [255])
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) / 255.0


def paint(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, label: int) -> np.ndarray:
    """Paint a mask in a vivid color from its class's third of the color wheel, with a light texture."""
    hue, saturation, value = (60 * label + rng.uniform(-20, 20)) % 180, rng.uniform(150, 255), rng.uniform(110, 255)
    color = cv2.cvtColor(np.array([[[hue, saturation, value]]]).astype(np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    fill = color + rng.normal(0, 8, image.shape)
    return (image * (1 - mask[..., None]) + fill * mask[..., None]).astype(np.float32)


@dataclass
class Shape:
    """A polygon [M, 2] of a class, in pixels, and its mask, the coverage of each pixel in 0..1."""

    rng: np.random.Generator
    label: int
    points: np.ndarray
    mask: np.ndarray

    def paint(self, image: np.ndarray) -> np.ndarray:
        """Return a BGR image with the shape on it."""
        return paint(self.rng, image, self.mask, self.label)

    def annotation(self, visible: np.ndarray) -> dict[str, Any]:
        """The COCO annotation, except ids; hidden parts are a part of it."""
        return {"category_id": self.label + 1, "bbox": [round(float(value), 2) for value in box_of(self.points)],
                "iscrowd": 0, "area": round(float(cv2.contourArea(self.points.astype(np.float32))), 2),
                "segmentation": [np.round(self.points, 2).ravel().tolist()]}


def draw_shape(rng: np.random.Generator, size: int, smallest: float, largest: float) -> Shape:
    """A random shape inside a square of `size` pixels; its longer side is between smallest and largest."""
    label = int(rng.integers(len(CLASSES)))
    points = draw_outline(rng, label, size, smallest, largest)
    return Shape(rng, label, points, mask_of(points, size))


def draw_image(rng: np.random.Generator, options: argparse.Namespace) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return (uint8 BGR image [size, size, 3], annotations without ids) with at most options.objects objects, and at
    least half of that if they fit."""
    draw = stick_figures.draw_figure if options.keypoints else draw_shape
    image = draw_background(rng, options.size)
    drawn: list[Any] = []
    visible: list[np.ndarray] = []
    for _ in range(rng.integers((options.objects + 1) // 2, options.objects + 1)):
        for _ in range(20):
            one = draw(rng, options.size, options.smallest, options.largest)
            left = [earlier * (1 - one.mask) for earlier in visible]
            if all(shown.sum() >= MIN_VISIBLE * other.mask.sum() for shown, other in zip(left, drawn, strict=True)):
                image = one.paint(image)
                drawn.append(one)
                visible = [*left, one.mask]
                break
    annotations = [one.annotation(shown) for one, shown in zip(drawn, visible)]
    return np.clip(image, 0, 255).astype(np.uint8), annotations


def sample_image(task: str) -> np.ndarray:
    """An image of a task's generated data set, always the same: shapes, stick figures or a street; BGR uint8."""
    rng = np.random.default_rng(SAMPLE_SEED)
    if task == "ddd":
        return draw_scene(rng, (640, 320), 420.0)[0]
    defaults = FIGURES if task == "pose" else SHAPES
    return draw_image(rng, argparse.Namespace(size=4 * defaults["largest"], keypoints=task == "pose", **defaults))[0]


def write_split(folder: str, split: str, count: int, options: argparse.Namespace) -> int:
    """Write `count` images and the annotation file of "train" or "val"; return the number of objects."""
    def draw(rng: np.random.Generator) -> Drawing:
        image, objects = draw_image(rng, options)
        return image, {}, objects

    paths = [os.path.join(folder, f"{split}2017", f"{number:06d}.jpg") for number in range(1, count + 1)]
    images, annotations = write_images(paths, split, options.seed, draw)
    shapes = [{"id": label + 1, "name": name, "supercategory": "shape"} for label, name in enumerate(CLASSES)]
    kind, categories = ("figures", [stick_figures.CATEGORY]) if options.keypoints else ("shapes", shapes)
    content = {"info": {"description": f"{kind}, seed {options.seed}"}, "images": images, "annotations": annotations,
               "categories": categories}
    name = f"{'person_keypoints' if options.keypoints else 'instances'}_{split}2017.json"
    write_annotations(folder, name, content)
    return len(annotations)


def write_images(paths: list[str], split: str, seed: int,
                 draw: Callable[[np.random.Generator], Drawing]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write an image to each path, whose name is the image's id; return COCO's entries of images and annotations."""
    os.makedirs(os.path.dirname(paths[0]))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path in paths:
        name = os.path.basename(path)
        number = int(os.path.splitext(name)[0])
        # Training and validation images use separate streams of random numbers.
        image, fields, objects = draw(np.random.default_rng([seed, ("train", "val").index(split), number]))
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, 92] if name.endswith(".jpg") else [])
        height, width = image.shape[:2]
        images.append({"id": number, "file_name": name, "width": width, "height": height, **fields})
        annotations += [{"id": len(annotations) + index, "image_id": number, **one}
                        for index, one in enumerate(objects, 1)]
    return images, annotations


def write_annotations(folder: str, name: str, content: dict[str, Any]) -> None:
    """Write an annotation file of a data set's folder."""
    os.makedirs(os.path.join(folder, "annotations"), exist_ok=True)
    with open(os.path.join(folder, "annotations", name), "w", encoding="utf-8") as file:
        json.dump(content, file)


def add_options(parser: argparse.ArgumentParser, train: int, val: int) -> None:
    """Add the options of every generated data set, with the default numbers of images."""
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument("--train", type=int, default=train, help="number of training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=val, help="number of validation images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: %(default)s)")


def require_new_output(options: argparse.Namespace) -> None:
    """Raise UserError if the output exists."""
    if os.path.exists(options.output):
        raise UserError(f"{options.output} exists; choose another --output, or delete it first")


def make_dataset(options: argparse.Namespace, write: Callable[[str, str, int, argparse.Namespace], int]) -> None:
    """Create the output, which appears when it is complete; write(folder, split, count, options) writes a split and
    returns the number of its objects."""
    folder, name = os.path.split(os.path.abspath(options.output))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(".partial", f".{name}.", folder) as parent:
        partial = os.path.join(parent, name)
        for split, count in (("train", options.train), ("val", options.val)):
            print(f"{split}: {count} images, {write(partial, split, count, options)} objects")
        os.replace(partial, options.output)
    print(next_steps(("src/dataset.py", "--coco_data_dir", options.output, "--mindrecord_dir", "mindrecord")))


def main() -> None:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, train=1300, val=100)
    parser.add_argument("--size", type=int, default=128, help="image width and height in pixels (default: %(default)s)")
    parser.add_argument("--keypoints", action="store_true", help="draw stick figures with keypoints instead of shapes")
    for name, kind, meaning in (("objects", int, "maximum number of objects per image"),
                                ("smallest", float, "minimum longer side of an object in pixels"),
                                ("largest", float, "maximum longer side of an object in pixels")):
        parser.add_argument(f"--{name}", type=kind,
                            help=f"{meaning} (default: {SHAPES[name]}, with --keypoints {FIGURES[name]})")
    options = parser.parse_args()
    for name, value in (FIGURES if options.keypoints else SHAPES).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    require_new_output(options)
    if not 0 < options.smallest <= options.largest <= options.size:
        raise UserError("expected 0 < --smallest <= --largest <= --size")
    if min(options.train, options.val, options.objects) < 1:
        raise UserError("--train, --val and --objects must be at least 1")
    if options.size > MAX_SIZE or options.seed < 0:
        raise UserError(f"--size is {options.size}, --seed {options.seed}; expected at most {MAX_SIZE} and at least 0")
    make_dataset(options, write_split)
