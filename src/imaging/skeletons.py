"""Drawing of keypoints: joints and the bones that connect them."""
import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from .drawing import drawing_side

WEAK = 0.1  # a joint's score; below it, decoding finds no peak of the joint, and keeps the position the center predicts
MIDDLE, LEFT, RIGHT = range(3)
HUES = ((0.12, 0.18), (0.36, 0.58), (-0.12, 0.08))  # middle: yellow; left: green to blue; right: pink to orange
SATURATIONS = (0.2, 0.8, 0.75)
SUBPIXELS = 4  # bits after the point in OpenCV's coordinates
DARK = (0, 0, 0)


def draw_keypoints(image: np.ndarray, keypoints: np.ndarray, skeleton: Sequence[Sequence[int]] = (),
                   flip_idx: Sequence[Sequence[int]] = (), weak: float = WEAK) -> np.ndarray:
    """Draw the joints of objects and the bones that connect them on a copy of a BGR uint8 image.

    keypoints [M, J, 3] are x, y in pixels of the image, and a score or visibility; 0, 0, 0 is an absent joint. A joint
    below `weak` is a ring, and its bones are thin: weak=2 shows the hidden joints of annotations. skeleton has pairs of
    joints (bones); without it only joints are drawn. flip_idx has pairs (left, right): left is green to blue, right
    pink to orange, everything else pale. Each object has shades of its own, and the first one is on top.

    Line widths depend on the object's size. Dark outlines make lines legible on any background and separate objects.
    """
    canvas = image.copy()
    sides = sides_of(keypoints.shape[1], flip_idx)
    for number in reversed(range(len(keypoints))):
        colors = [shade(side, number) for side in (MIDDLE, LEFT, RIGHT)]
        _draw_object(canvas, keypoints[number], skeleton, sides, colors, weak)
    return canvas


def _draw_object(canvas: np.ndarray, keypoints: np.ndarray, skeleton: Sequence[Sequence[int]], sides: Sequence[int],
                 colors: Sequence[tuple[int, int, int]], weak: float) -> None:
    """Draw the joints [J, 3] of an object on the canvas; colors are those of MIDDLE, LEFT and RIGHT."""
    present, thin = keypoints.any(1), keypoints[:, 2] < weak
    if not present.any():
        return
    longest = max(canvas.shape[:2])
    joints = np.clip(keypoints[:, :2], -longest, 2 * longest)  # OpenCV's integers overflow far outside the image
    width = line_width(float(np.ptp(joints[present], axis=0).max()), drawing_side(canvas))
    bones = [(a, b) for a, b in skeleton if present[a] and present[b]]
    for outline in (True, False):  # all outlines first: they must not cut lines of the same object
        for a, b in bones:
            ink = DARK if outline else colors[bone_side(sides[a], sides[b])]
            bone_width = max(1, width // 2) if thin[a] or thin[b] else width
            _draw_bone(canvas, joints[[a, b]], ink, bone_width, outline)
        for joint in np.flatnonzero(present):
            ink = DARK if outline else colors[sides[joint]]
            _draw_joint(canvas, joints[joint], ink, width, outline, thin[joint])


def sides_of(count: int, flip_idx: Sequence[Sequence[int]]) -> list[int]:
    """MIDDLE, LEFT or RIGHT for each of `count` joints, given pairs (left, right)."""
    sides = [MIDDLE] * count
    for left, right in flip_idx:
        sides[left], sides[right] = LEFT, RIGHT
    return sides


def bone_side(one: int, other: int) -> int:
    """The side of a bone between two joints: MIDDLE if it connects left with right."""
    return MIDDLE if {one, other} == {LEFT, RIGHT} else max(one, other)


def shade(side: int, number: int) -> tuple[int, int, int]:
    """The color (BGR, 0-255) of a side of an object; objects with neighboring numbers get different ones."""
    low, high = HUES[side]
    hue = low + (high - low) * ((0.61 * number + 0.5) % 1.0)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, SATURATIONS[side], 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


def line_width(extent: float, side: int) -> int:
    """The line width in pixels for an object of an extent in pixels, in an image of drawing_side `side`.

    It is visible where a large image is shown with 1000 pixels, unless the object is too small for such lines.
    """
    least = max(1, round(min(side / 1000, extent / 25)))
    return int(np.clip(round(extent / 70), least, max(least, round(side / 150))))


def _draw_bone(canvas: np.ndarray, ends: np.ndarray, ink: tuple[int, int, int], width: int, outline: bool) -> None:
    one, other = (ends * 2 ** SUBPIXELS).round().astype(int).tolist()
    cv2.line(canvas, one, other, ink, width + outline * max(2, width // 2 * 2), cv2.LINE_AA, SUBPIXELS)


def _draw_joint(canvas: np.ndarray, point: np.ndarray, ink: tuple[int, int, int], width: int, outline: bool,
                hollow: bool) -> None:
    center = (point * 2 ** SUBPIXELS).round().astype(int).tolist()
    radius, edge = 1.3 * width + 0.5, max(1.0, width / 2)
    for length, color in ((radius + outline * edge, ink), (hollow * (radius - edge), DARK)):
        if length:
            cv2.circle(canvas, center, round(length * 2 ** SUBPIXELS), color, -1, cv2.LINE_AA, SUBPIXELS)
