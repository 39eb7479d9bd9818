"""Color: pure functions on NumPy arrays."""
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

# BT.601 gray from BGR, as in cv2.cvtColor.
GRAY_WEIGHTS = np.array([0.114, 0.587, 0.299])
COLOR_JITTER = 0.4
LIGHTING_STD = 0.1


def random_color(rng: np.random.Generator) -> tuple[list[tuple[str, float]], np.ndarray]:
    """Draw an image's color change: the three steps in random order as (name, factor), and three lighting values."""
    steps = [("brightness", "contrast", "saturation")[i] for i in rng.permutation(3)]
    factors = 1.0 + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
    return list(zip(steps, factors)), rng.normal(scale=LIGHTING_STD, size=3)


def color_matrix(steps: Iterable[tuple[str, float]], lighting: Sequence[float] | np.ndarray, mean_gray: float,
                 eig_val: Sequence[float], eig_vec: Sequence[Sequence[float]]) -> np.ndarray:
    """Color augmentation as one affine map of color vectors: float64 [3, 4] for values in [0, 1].

    Contrast blends with the image's mean gray, saturation with the pixel's gray, both of the image before any step, as
    in the original. Args: steps [(name, factor)] in order; lighting, three values that are multiplied with eig_val and
    projected by eig_vec; mean_gray of the image.
    """
    matrix = np.hstack([np.eye(3), np.zeros((3, 1))])
    for name, factor in steps:
        matrix *= factor
        if name == "contrast":
            matrix[:, 3] += (1 - factor) * mean_gray
        elif name == "saturation":
            matrix[:, :3] += (1 - factor) * GRAY_WEIGHTS
    matrix[:, 3] += np.asarray(eig_vec) @ (np.asarray(eig_val) * lighting)
    return matrix


def normalizing_matrix(matrix: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A [3, 4] color map on [0, 1] -> the map from uint8 to normalized values."""
    matrix = np.array(matrix, np.float64)
    matrix[:, :3] /= 255
    matrix[:, 3] -= mean
    return matrix / np.asarray(std, np.float64)[:, None]


def apply_color(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a [3, 4] color map to uint8 [H, W, 3]: float32 [3, H, W]."""
    out = cv2.transform(image.astype(np.float32), matrix)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def mean_gray(image: np.ndarray) -> float:
    """Mean gray of a uint8 image, in [0, 1]."""
    return float(GRAY_WEIGHTS @ np.array(cv2.mean(image)[:3])) / 255
