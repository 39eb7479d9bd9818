"""Generate a small data set of 3D boxes, in place of KITTI: drawn street scenes of cars, pedestrians and cyclists.

The same options and seed give the same files; an image does not depend on the number of images. The layout is that of
KITTI for the paper's code: annotations/kitti_{train,val}.json and images/{train,val}/. Images have the field calib, and
objects dim, location, depth, rotation_y, alpha, truncated and occluded.
"""
import argparse
import os

import numpy as np

from ..core.errors import UserError
from ..data.scenes import CATEGORIES, FARTHEST, NEAREST, OBJECTS, Placement, draw_scene
from ..inference.options import OptionParser
from .make_shapes_dataset import Drawing, add_options, make_dataset, require_new_output, write_annotations, write_images

FOCAL = 0.58  # default, in image widths: KITTI's
SIDES, FOCALS = (32, 2048), (0.3, 3.0)  # limits, in pixels and in image widths
DEPTHS = 100.0  # the largest depth, in meters


def write_split(folder: str, split: str, count: int, options: argparse.Namespace) -> int:
    """Write `count` images and the annotation file of "train" or "val"; return the number of objects."""
    def draw(rng: np.random.Generator) -> Drawing:
        image, calib, objects = draw_scene(rng, options.size, options.focal, options.placement)
        return image, {"calib": calib.tolist()}, objects

    paths = [os.path.join(folder, "images", split, f"{number:06d}.png") for number in range(count)]
    images, annotations = write_images(paths, split, options.seed, draw)
    write_annotations(folder, f"kitti_{split}.json", {
        "info": {"description": f"scenes, seed {options.seed}"}, "images": images, "annotations": annotations,
        "categories": CATEGORIES})
    return len(annotations)


def main() -> None:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, train=1500, val=200)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 192), metavar=("WIDTH", "HEIGHT"),
                        help="image width and height in pixels (default: 640 192)")
    parser.add_argument("--focal", type=float, help=f"focal length in pixels (default: {FOCAL} times the width)")
    parser.add_argument("--nearest", type=float, default=NEAREST,
                        help="smallest depth in meters (default: %(default)s)")
    parser.add_argument("--farthest", type=float, default=FARTHEST,
                        help="largest depth in meters (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=OBJECTS, help="most objects per image (default: %(default)s)")
    options = parser.parse_args()
    require_new_output(options)
    width, height = options.size
    if not SIDES[0] <= min(width, height) <= max(width, height) <= SIDES[1]:
        raise UserError(f"--size is {width} {height}; expected {SIDES[0]} to {SIDES[1]} pixels")
    options.focal = FOCAL * width if options.focal is None else options.focal
    low, high = (factor * width for factor in FOCALS)
    if not low <= options.focal <= high:
        raise UserError(f"--focal is {options.focal:g}; expected {low:g} to {high:g} pixels for a width of {width}")
    if not NEAREST <= options.nearest < options.farthest <= DEPTHS:
        raise UserError(f"--nearest is {options.nearest:g}, --farthest {options.farthest:g}; expected depths from "
                        f"{NEAREST:g} to {DEPTHS:g} meters, the nearest first")
    if not 1 <= options.objects <= 20:
        raise UserError(f"--objects is {options.objects}; expected 1 to 20")
    options.placement = Placement(options.nearest, options.farthest, options.objects)
    if min(options.train, options.val) < 1 or options.seed < 0:
        raise UserError(f"--train is {options.train}, --val {options.val}, --seed {options.seed}; expected at least 1 "
                        "image of each and a seed of at least 0")
    make_dataset(options, write_split)
