"""Street scenes for a generated data set: cars, pedestrians and cyclists as 3D boxes, seen by a camera above a plane.

The world is KITTI's: the camera's coordinates, boxes, angles and labels (imaging/camera.py).
"""
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..imaging.camera import corners, project, wrapped
from ..tasks.ddd.categories import KITTI
from .scene_models import NEUTRAL, PARTS
from .stick_figures import SUPERSAMPLING

CATEGORIES = [{"id": number, "name": name} for number, name in enumerate(KITTI, 1)]
SIZES = {"Car": (1.5, 1.65, 3.9), "Pedestrian": (1.75, 0.65, 0.8), "Cyclist": (1.75, 0.6, 1.8)}  # h, w, l in meters
VARIATION = 0.08  # of each size
SHARES = {"Car": 0.66, "Pedestrian": 0.17, "Cyclist": 0.17}
ALONG_ROAD = {"Car": 0.7, "Pedestrian": 0.0, "Cyclist": 0.5}  # share of the objects; the others have any angle
HUES = {"Car": (95, 150), "Pedestrian": (6, 26), "Cyclist": (45, 80)}  # OpenCV's, 0-179
NEAREST, FARTHEST, OBJECTS = 5.0, 30.0, 5  # defaults of Placement
CAMERA_HEIGHT, OFFSET = 1.65, np.array([0.06, -0.0018, 0.005])  # meters; OFFSET is that of KITTI's camera 2
GAP = 0.3  # meters between two objects, at least
MAX_TRUNCATED = 0.5
VISIBLE = (0.95, 0.5, 0.15)  # least visible shares of the levels of `occluded`: 0, 1, 2; below, an object is DontCare


@dataclass(frozen=True)
class Placement:
    """Where objects stand: depths in meters, and the most objects per image."""

    nearest: float = NEAREST
    farthest: float = FARTHEST
    objects: int = OBJECTS


@dataclass(eq=False)
class Thing:
    """An object on the ground: its label in SIZES, dim h, w, l and location in meters, rotation_y, and colors
    (BGR) by their names in PARTS."""

    label: str
    dim: np.ndarray
    location: np.ndarray
    rotation_y: float
    colors: dict[str, tuple[float, ...]]

    @functools.cached_property
    def corners(self) -> np.ndarray:
        """The corners [8, 3] of its box."""
        return corners(self.dim[None], self.location[None], np.array([self.rotation_y]))[0]

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] (along, up, across in units of its box) -> camera coordinates [..., 3]."""
        one, right, _, behind, above = self.corners[:5]
        return self.location + points @ np.array([one - behind, above - one, one - right])


def random_calib(rng: np.random.Generator, size: tuple[int, int], focal: float) -> np.ndarray:
    """A camera [3, 4] for images of size (width, height): focal length in pixels, the principal point near the middle,
    OFFSET from KITTI's reference camera."""
    center = np.array(size) / 2 + rng.uniform(-1, 1, 2) * (size[0] / 160, size[1] / 60)
    matrix = np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])
    return np.hstack([matrix, matrix @ OFFSET[:, None]]).round(4)


def random_thing(rng: np.random.Generator, calib: np.ndarray, width: int, placement: Placement) -> Thing:
    """A random object whose bottom's center is in a column of the image; the logarithm of its depth is uniform."""
    label = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    dim = np.array(SIZES[label]) * rng.uniform(1 - VARIATION, 1 + VARIATION, 3)
    z = np.exp(rng.uniform(np.log(placement.nearest), np.log(placement.farthest)))
    x = (rng.uniform(0.03, 0.97) * width - calib[0, 2]) / calib[0, 0] * z
    angle = rng.uniform(-np.pi, np.pi)
    if rng.random() < ALONG_ROAD[label]:
        angle = rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0, 0.2)
    return Thing(label, dim.round(4), np.array([x, CAMERA_HEIGHT, z]).round(4), float(wrapped(angle).round(4)),
                 random_colors(rng, label))


def random_colors(rng: np.random.Generator, label: str) -> dict[str, tuple[float, ...]]:
    """NEUTRAL and the colors of an object's own: vivid paint in its class's hues, and muted cloth."""
    hsv = np.array([[(rng.uniform(*HUES[label]), rng.uniform(150, 235), rng.uniform(150, 255)),
                     (rng.uniform(100, 120), rng.uniform(30, 90), rng.uniform(60, 120))]]).astype(np.uint8)
    paint, cloth = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0].tolist()
    return {**NEUTRAL, "paint": tuple(paint), "cloth": tuple(cloth)}


def in_front(one: np.ndarray, other: np.ndarray) -> int:
    """Which of two bottoms [4, 3] the camera sees in front: 1 the first, -1 the other, 0 if they are closer than GAP.

    Of two convex shapes, that on the camera's side of a line between them is never hidden by the other.
    """
    for axis in (one[1] - one[0], one[2] - one[1], other[1] - other[0], other[2] - other[1]):
        axis = axis / np.linalg.norm(axis)
        for first, second, sign in ((one @ axis, other @ axis, 1), (other @ axis, one @ axis, -1)):
            if first.min() > second.max() + GAP:
                return sign if first.min() + second.max() < 0 else -sign
    return 0


def far_to_near(things: Iterable[Thing]) -> list[Thing]:
    """The objects in an order in which none hides a later one."""
    left = sorted(things, key=lambda thing: -thing.location[2])
    ordered: list[Thing] = []
    while left:
        grounds = [thing.corners[:4] for thing in left]
        last = [all(in_front(ground, other) < 0 for other in grounds if other is not ground) for ground in grounds]
        ordered.append(left.pop(last.index(True) if any(last) else 0))
    return ordered


def box_of(thing: Thing, calib: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """The rectangle x1, y1, x2, y2 around the object's corners, clipped to the image, and the share cut off."""
    pixels = project(thing.corners, calib)
    low, high = np.clip(pixels.min(0), 0, size), np.clip(pixels.max(0), 0, size)
    return np.concatenate([low, high]), 1 - float(np.prod(high - low) / np.prod(np.ptp(pixels, 0)))


def draw_thing(thing: Thing, calib: np.ndarray, size: tuple[int, int],
               sun: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An object's colors [height, width, 3], BGR, and the coverage of each pixel [height, width] in 0..1, float32.

    sun [3] is the direction to the light. The object must be entirely in front of the camera.
    """
    box = box_of(thing, calib, size)[0]
    (left, top), (right, bottom) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    canvas = np.zeros(((bottom - top) * SUPERSAMPLING, (right - left) * SUPERSAMPLING, 4), np.uint8)
    placed = [(level, [(thing.place(points), ink) for points, ink in polygons])
              for level, polygons in PARTS[thing.label]]
    placed.sort(key=lambda one: (one[0], -np.linalg.norm(np.mean([points.mean(0) for points, _ in one[1]], 0))))
    for points, ink in (polygon for _, polygons in placed for polygon in polygons):
        pixels = (project(points, calib) - (left, top)) * SUPERSAMPLING - 0.5
        if cv2.contourArea(pixels.astype(np.float32), oriented=True) < 0:
            normal = np.cross(points[1] - points[0], points[2] - points[1])
            light = 0.62 + 0.38 * max(0.0, float(normal @ sun) / float(np.linalg.norm(normal)))
            color = (*(light * np.array(thing.colors[ink])).tolist(), 255)
            cv2.fillConvexPoly(canvas, (pixels * 16).round().astype(np.int32), color, cv2.LINE_8, 4)
    colors, coverage = np.zeros((size[1], size[0], 3), np.float32), np.zeros((size[1], size[0]), np.float32)
    small = cv2.resize(canvas, (right - left, bottom - top), interpolation=cv2.INTER_AREA).astype(np.float32)
    coverage[top:bottom, left:right] = small[..., 3] / 255
    colors[top:bottom, left:right] = small[..., :3] / np.maximum(small[..., 3:] / 255, 1e-3)
    return colors, coverage


def draw_background(rng: np.random.Generator, calib: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The sky, a skyline, and a textured road to the horizon with lanes along z: float32 [height, width, 3], BGR."""
    (width, height), horizon = size, round(calib[1, 2])
    sky = np.arange(-horizon, 0)[:, None]
    image = np.empty((height, width, 3), np.float32)
    image[:horizon] = rng.uniform((205, 185, 160), (235, 215, 200)) + sky[..., None] / height * (30, 60, 90)
    hills = cv2.resize(rng.uniform(-0.09, -0.01, (1, 24)), (width, 1), interpolation=cv2.INTER_CUBIC) * height
    image[:horizon][sky > hills] = rng.uniform((120, 130, 110), (150, 155, 145))
    image[horizon:] = rng.uniform(95, 135) + rng.uniform(-6, 6, 3)
    image[horizon:] += _road(rng, calib, width, np.arange(horizon, height) + 0.5)[..., None]
    return image


def _road(rng: np.random.Generator, calib: np.ndarray, width: int, rows: np.ndarray) -> np.ndarray:
    """The ground's grain and the lanes' dashes in rows [N] below the horizon: brightness [N, width] to add."""
    below = np.maximum(rows[:, None] - calib[1, 2], 1.0)
    z = ((CAMERA_HEIGHT + OFFSET[1]) * calib[1, 1] / below).astype(np.float32)
    x = (np.arange(width, dtype=np.float32) + np.float32(0.5 - calib[0, 2])) / np.float32(calib[0, 0]) * z
    grain = cv2.GaussianBlur(rng.normal(0, 30, (256, 256)).astype(np.float32), (0, 0), 1.2)
    texture = cv2.remap(grain, x * 12, np.tile(z * 6, width), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    dashes = (abs((x + rng.uniform(0, 4)) % 4 - 2) < 0.08) & ((z + rng.uniform(0, 8)) % 8 < 4)
    return (texture + 45 * dashes) * np.minimum(10 / z, 1)  # farther away, the grain is finer than pixels


def annotations_of(things: list[Thing], coverages: list[np.ndarray], calib: np.ndarray,
                   size: tuple[int, int]) -> list[dict[str, Any]]:
    """The annotations, except ids, of objects from far to near with their coverages [height, width].

    As in KITTI, alpha is seen from the reference camera: rotation_y minus the direction of the location. `occluded`
    follows from the share of an object's pixels that nearer ones leave visible.
    """
    found, left = [], np.ones(size[::-1])
    for thing, coverage in zip(reversed(things), reversed(coverages)):
        share = float((coverage * left).sum() / max(coverage.sum(), 1e-6))
        left = left * (1 - coverage)
        found.append(annotation_of(thing, share, calib, size))
    return found[::-1]


def annotation_of(thing: Thing, share: float, calib: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """The annotation of an object of whose pixels this share is visible; DontCare with KITTI's values if it is low."""
    (x1, y1, x2, y2), truncated = box_of(thing, calib, size)
    x, y, z = thing.location.tolist()
    level = next((level for level, least in enumerate(VISIBLE) if share >= least), None)
    values: dict[str, Any] = {
        "dim": thing.dim.tolist(), "location": [x, y, z], "depth": z, "rotation_y": thing.rotation_y,
        "alpha": round(float(wrapped(thing.rotation_y - np.arctan2(x, z))), 4), "truncated": round(truncated, 4),
        "occluded": level}
    if level is None:
        values = {"dim": [-1, -1, -1], "location": [-1000, -1000, -1000], "depth": -1000, "rotation_y": -10,
                  "alpha": -10, "truncated": -1, "occluded": -1}
    name = "DontCare" if level is None else thing.label
    box = [round(float(value), 4) for value in (x1, y1, x2 - x1, y2 - y1)]
    return {"category_id": KITTI.index(name) + 1, "bbox": box, "area": round(box[2] * box[3], 4), "iscrowd": 0,
            **values}


def random_things(rng: np.random.Generator, calib: np.ndarray, size: tuple[int, int],
                  placement: Placement) -> list[Thing]:
    """One or more objects, from far to near, apart from each other and mostly inside the image."""
    things: list[Thing] = []
    for _ in range(rng.integers(1, placement.objects + 1)):
        for _ in range(20):
            one = random_thing(rng, calib, size[0], placement)
            ground = one.corners[:4]
            if box_of(one, calib, size)[1] <= MAX_TRUNCATED and all(
                    in_front(ground, other.corners[:4]) for other in things):
                things.append(one)
                break
    return far_to_near(things)


def draw_scene(rng: np.random.Generator, size: tuple[int, int], focal: float,
               placement: Placement = Placement()) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """A random scene of size (width, height) with a focal length in pixels.

    Returns (uint8 BGR image [height, width, 3], calib [3, 4], annotations without ids).
    """
    calib = random_calib(rng, size, focal)
    image = draw_background(rng, calib, size)
    azimuth = rng.uniform(0, 2 * np.pi)
    sun = np.array([0.6 * np.cos(azimuth), -0.8, 0.6 * np.sin(azimuth)])
    things = random_things(rng, calib, size, placement)
    coverages = []
    for thing in things:
        colors, coverage = draw_thing(thing, calib, size, sun)
        image = image * (1 - coverage[..., None]) + colors * coverage[..., None]
        coverages.append(coverage)
    image = image + rng.standard_normal(image.shape, np.float32) * 4
    return np.clip(image, 0, 255).astype(np.uint8), calib, annotations_of(things, coverages, calib, size)
