"""Drawing of 3D boxes: as wires in the image, and from above beside it."""
import functools
from collections.abc import Sequence

import cv2
import numpy as np

from .camera import project, segments
from .drawing import class_color, line_thickness, put_labels, text_mask, whole_pixels

FRONT = ((0, 5), (1, 4))  # the diagonals of a box's front, by its corners
PANEL, WIDEST = 0.8, 4.0  # width of the bird's-eye view, relative to its height; at most, to the image's width
GROUND, GRID, VIEW = (38, 34, 30), (92, 86, 80), (60, 55, 48)  # its colors, BGR
FARTHEST = 100.0  # meters
FINE = 40  # pixels of a box in the image for each pixel of its lines' thickness


def draw_boxes_3d(image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, texts: Sequence[str],
                  corners: np.ndarray, cameras: np.ndarray) -> np.ndarray:
    """Draw 3D boxes on a copy of a BGR uint8 image [H, W, 3], with the view from above at its right: [H, W + w, 3].

    Args: boxes [M, 4] in pixels, scores [M], labels [M] and texts for them; corners [M, 8, 3] in meters, see
    camera.corners; cameras [M, 3, 4]. A cross marks the front of a box.
    """
    canvas, labels = image.copy(), np.asarray(labels).astype(int)
    for index in np.argsort(scores, kind="stable"):
        draw_wires(canvas, corners[index], cameras[index], class_color(labels[index]))
    put_labels(canvas, boxes, scores, labels, texts)
    height, width = image.shape[:2]
    focal = (cameras[0, 0, 0], width / 2) if len(cameras) else None
    size = max(1, round(min(PANEL * height, WIDEST * width))), height
    return np.hstack([canvas, birds_eye_view(size, corners, labels, focal)])


def draw_wires(canvas: np.ndarray, corners: np.ndarray, calib: np.ndarray, color: tuple[int, int, int]) -> None:
    """Draw the edges of a box with corners [8, 3], and a cross on its front, on the canvas.

    Lines are thinner on small objects, and have a dark outline on others only: it would fill them.
    """
    lines = list(segments(corners, calib))
    in_front = corners @ calib[2, :3] + calib[2, 3] > 0
    lines += [project(corners[list(pair)], calib) for pair in FRONT if in_front[list(pair)].all()]
    lines = [whole_pixels(line, canvas) for line in map(functools.partial(clipped, image=canvas), lines) if len(line)]
    extent = np.ptp(np.concatenate(lines), axis=0).max() if lines else 0
    thickness = int(np.clip(extent // FINE, 1, max(1, line_thickness(canvas) - 1)))
    outline = [((0, 0, 0), thickness + 2)] if extent >= FINE else []
    for ink, width in (*outline, (color, thickness)):
        for start, end in lines:
            cv2.line(canvas, start.tolist(), end.tolist(), ink, width, cv2.LINE_AA)


def clipped(line: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The part of a line [2, 2] near an image, which OpenCV's integers can hold: [2, 2], or [0, 2] if there is none."""
    longest = max(image.shape[:2])
    start, way = line[0], line[1] - line[0]
    first, last = 0.0, 1.0
    for axis in (0, 1):
        if abs(way[axis]) < 1e-9:
            if not -longest <= start[axis] <= 2 * longest:
                return line[:0]
            continue
        ends = sorted((limit - start[axis]) / way[axis] for limit in (-longest, 2 * longest))
        first, last = max(first, ends[0]), min(last, ends[1])
    return np.stack([start + first * way, start + last * way]) if first < last else line[:0]


def birds_eye_view(size: tuple[int, int], corners: np.ndarray, labels: np.ndarray,
                   focal: tuple[float, float] | None = None) -> np.ndarray:
    """Boxes with corners [M, 8, 3] from above, BGR uint8, of a size (width, height): the camera at the bottom looks up.

    Lines are 10 meters apart, or 50 if that is too dense. focal (focal length, half of the image's width), in pixels,
    draws the limits of the camera's view.
    """
    width, height = size
    panel = np.full((height, width, 3), GROUND, np.uint8)
    far = min(FARTHEST, max(20.0, float(corners[:, :4, 2].max(initial=0.0)) * 1.1))
    zoom = height / far

    def place(points: np.ndarray) -> np.ndarray:  # x, z in meters -> pixels
        return whole_pixels(points * (zoom, -zoom) + (width / 2, height), panel)

    if focal is not None:
        reach = far * focal[1] / focal[0]
        cv2.fillPoly(panel, [place(np.array([[0, 0], [-reach, far], [reach, far]]))], VIEW)
    step = 10 if 10 * zoom >= 20 else 50
    for distance in range(step, int(far) + 1, step):
        (_, y), = place(np.array([[0.0, distance]]))
        cv2.line(panel, (0, int(y)), (width, int(y)), GRID, 1)
        _write(panel, f"{distance} m", 2, int(y) + 1)
    thickness = max(1, line_thickness(panel) - 1)
    for own, label in zip(corners, labels):
        outline = place(own[:4, [0, 2]])
        for ink, line in (((0, 0, 0), thickness + 2), (class_color(label), thickness)):
            cv2.polylines(panel, [outline], True, ink, line, cv2.LINE_AA)
            center, front = outline.mean(0).round().astype(int), outline[:2].mean(0).round().astype(int)
            cv2.line(panel, center.tolist(), front.tolist(), ink, line, cv2.LINE_AA)
    return panel


def _write(panel: np.ndarray, text: str, x: int, y: int) -> None:
    """Write small gray text on the panel, its upper left corner at x, y."""
    mask = text_mask(text, max(10, min(16, panel.shape[0] // 25)))
    patch = panel[y : y + mask.shape[0], x : x + mask.shape[1]]
    cover = mask[: patch.shape[0], : patch.shape[1], None] / 255
    patch[:] = (patch * (1 - cover) + 190 * cover).astype(np.uint8)
