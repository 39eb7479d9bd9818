"""Stick figures with keypoints for a generated data set: random poses, sizes and colors.

A figure faces the viewer, with its head above its hip: its left limbs begin on the right of its body, and only this
tells them from the right ones. Mirroring an image with exchanged names gives another such figure. Colors cannot tell:
mirroring would have to exchange them, too.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLING = 4  # figures are drawn at this scale, for smooth edges
MIDDLE = ("head", "neck", "hip")
NAMES = (*MIDDLE, "left_elbow", "right_elbow", "left_hand", "right_hand", "left_knee", "right_knee", "left_foot",
         "right_foot")
BONES = (("hip", "left_knee"), ("left_knee", "left_foot"), ("hip", "right_knee"), ("right_knee", "right_foot"),
         ("hip", "neck"), ("neck", "head"), ("neck", "left_elbow"), ("left_elbow", "left_hand"),
         ("neck", "right_elbow"), ("right_elbow", "right_hand"))  # in the order of drawing
CATEGORY = {"id": 1, "name": "figure", "supercategory": "drawing", "keypoints": list(NAMES),
            "skeleton": [[NAMES.index(one) + 1, NAMES.index(other) + 1] for one, other in BONES]}
# In units of a standing figure's height, about; ARM and LEG are the lengths of each half.
NECK, TORSO, ARM, LEG = 0.2, 0.4, 0.23, 0.29
LIMB_WIDTH, TORSO_WIDTH, HEAD_WIDTH, TIP_WIDTH, OUTLINE = 0.1, 0.16, 0.26, 0.15, 0.012
ENDS = {"head": (HEAD_WIDTH, "skin"), **{name: (TIP_WIDTH, "skin" if "hand" in name else "dark")
                                         for name in NAMES if name.endswith(("hand", "foot"))}}
WIDTHS = {"neck": TORSO_WIDTH, "hip": TORSO_WIDTH, **{name: width for name, (width, _) in ENDS.items()}}
REACH = np.array([[WIDTHS.get(name, LIMB_WIDTH) / 2 + OUTLINE] for name in NAMES])  # of the figure around each joint


@dataclass
class Figure:
    """A drawn figure, in pixels of its image.

    joints [11, 2] are x, y in the order of NAMES; box is x, y, width, height; colors [size, size, 3] are BGR, and mask
    [size, size] is the coverage of each pixel in 0..1.
    """

    joints: np.ndarray
    box: list[float]
    colors: np.ndarray
    mask: np.ndarray

    def paint(self, image: np.ndarray) -> np.ndarray:
        """Return a BGR image with the figure on it."""
        return (image * (1 - self.mask[..., None]) + self.colors * self.mask[..., None]).astype(np.float32)

    def annotation(self, visible: np.ndarray) -> dict:
        """The COCO annotation, except ids.

        visible [size, size] is what later figures leave of the mask; joints that they cover are hidden (1).
        """
        columns, rows = self.joints.astype(int).T
        flags = np.where(visible[rows, columns] >= 0.5, 2, 1)
        keypoints = [value for (x, y), flag in zip(self.joints.tolist(), flags.tolist())
                     for value in (round(x, 2), round(y, 2), flag)]
        return {"category_id": CATEGORY["id"], "bbox": [round(side, 2) for side in self.box], "iscrowd": 0,
                "area": round(float(self.mask.sum()), 2), "num_keypoints": len(NAMES), "keypoints": keypoints}


def draw_figure(rng: np.random.Generator, size: int, smallest: float, largest: float) -> Figure:
    """A random figure inside a square of `size` pixels; its longer side is between smallest and largest."""
    joints = random_pose(rng)
    low, high = (joints - REACH).min(0), (joints + REACH).max(0)
    scale = min(rng.uniform(smallest, largest), 0.98 * size) / (high - low).max()
    corner, extent = rng.uniform(0, size - (high - low) * scale), (high - low) * scale
    joints = (joints - low) * scale + corner
    canvas, mask = _draw(joints, scale, size, random_colors(rng))
    colors = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) + rng.normal(0, 6, (size, size, 3))
    coverage = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA) / 255.0
    return Figure(joints, [*corner.tolist(), *extent.tolist()], colors, coverage)


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """Random joints [11, 2]: x to the right, y down, the neck at 0, 0; about 1.1 high when standing."""
    limbs = {}
    for side, sign in (("left", 1), ("right", -1)):
        # Angles in degrees from straight down, outwards.
        arm, thigh = rng.uniform(20, 150), rng.uniform(10, 50)
        forearm, shin = arm + rng.uniform(-15, 95), max(thigh + rng.uniform(-45, 15), -5)
        for start, one, other, angles, length in (((0, 0), "elbow", "hand", (arm, forearm), ARM),
                                                  ((0, TORSO), "knee", "foot", (thigh, shin), LEG)):
            steps = np.array([[sign * np.sin(np.radians(angle)), np.cos(np.radians(angle))] for angle in angles])
            limbs[f"{side}_{one}"], limbs[f"{side}_{other}"] = start + np.cumsum(steps * length, 0)
    joints = np.array([(0, -NECK), (0, 0), (0, TORSO), *(limbs[name] for name in NAMES[3:])])
    tilt = np.radians(rng.uniform(-25, 25))
    return joints @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])


def random_colors(rng: np.random.Generator) -> dict[str, tuple[float, ...]]:
    """Random colors (BGR, 0-255) of a figure's parts: vivid clothes, pale skin, dark shoes and outlines."""
    hue = rng.uniform(0, 180)
    parts = {"legs": (hue + rng.uniform(40, 140), rng.uniform(150, 255), rng.uniform(110, 200)),
             "body": (hue, rng.uniform(150, 255), rng.uniform(150, 255)),
             "skin": (rng.uniform(8, 18), rng.uniform(40, 110), rng.uniform(200, 255)),
             "dark": (hue, rng.uniform(50, 150), rng.uniform(15, 50))}
    hsv = np.array([[[value[0] % 180, *value[1:]] for value in parts.values()]]).astype(np.uint8)
    return dict(zip(parts, map(tuple, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0].astype(float).tolist())))


def _draw(joints: np.ndarray, scale: float, size: int, colors: dict) -> tuple[np.ndarray, np.ndarray]:
    """A figure's colors [n, n, 3] and coverage [n, n], uint8, n = size * SUPERSAMPLING; scale is the unit in pixels."""
    zoom = scale * SUPERSAMPLING
    mask = np.zeros((size * SUPERSAMPLING,) * 2, np.uint8)
    canvas = np.full((*mask.shape, 3), colors["dark"], np.uint8)
    at = dict(zip(NAMES, (joints * SUPERSAMPLING).round().astype(int).tolist()))

    def line(one: Sequence[int], other: Sequence[int], width: float, color: tuple) -> None:
        for length, ink in ((width + 2 * OUTLINE, colors["dark"]), (width, color)):
            cv2.line(canvas, one, other, ink, max(1, round(length * zoom)))
        cv2.line(mask, one, other, (255,), max(1, round((width + 2 * OUTLINE) * zoom)))

    for one, other in BONES:
        width = TORSO_WIDTH if (one, other) == ("hip", "neck") else LIMB_WIDTH
        line(at[one], at[other], width, colors["legs" if other.endswith(("knee", "foot")) else "body"])
    for name in reversed(ENDS):  # the head last
        line(at[name], at[name], ENDS[name][0], colors[ENDS[name][1]])
    up = (joints[0] - joints[1]) * SUPERSAMPLING / NECK  # a unit
    across = np.array([-up[1], up[0]])
    for sign in (-1, 1):
        eye = np.add(at["head"], sign * 0.045 * across + 0.03 * up).round().astype(int)
        cv2.circle(canvas, eye.tolist(), round(0.02 * zoom), colors["dark"], -1)
    return canvas, mask
