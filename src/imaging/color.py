"""Color: pure functions on NumPy arrays."""
import cv2
import numpy as np

# BT.601 gray from BGR, as cv2.cvtColor computes it.
GRAY_WEIGHTS = np.array([0.114, 0.587, 0.299])
COLOR_JITTER = 0.4
LIGHTING_STD = 0.1


def random_color(rng):
    """The random color change of one image: the three steps in their order with their factors, and three lighting draws."""
    steps = [("brightness", "contrast", "saturation")[i] for i in rng.permutation(3)]
    factors = 1.0 + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
    return list(zip(steps, factors)), rng.normal(scale=LIGHTING_STD, size=3)


def color_matrix(steps, lighting, mean_gray, eig_val, eig_vec):
    """Color augmentation as one affine map of the color vector: float64 [3, 4] on values in [0, 1].

    Contrast blends with the image's mean gray, saturation with the pixel's own gray, both of the image before any
    step, as in the original. Args: steps [(name, factor)] in order; lighting three draws, multiplied with eig_val
    and projected by eig_vec; mean_gray of the image.
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


def normalizing_matrix(matrix, mean, std):
    """A [3, 4] color map on [0, 1] -> the map from uint8 values to normalized ones."""
    matrix = np.array(matrix, np.float64)
    matrix[:, :3] /= 255
    matrix[:, 3] -= mean
    return matrix / np.asarray(std, np.float64)[:, None]


def apply_color(image, matrix):
    """uint8 [H, W, 3] through a [3, 4] color map -> float32 [3, H, W]."""
    out = cv2.transform(image.astype(np.float32), matrix)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def mean_gray(image):
    """Mean gray of a uint8 image, in [0, 1]."""
    return float(GRAY_WEIGHTS @ np.array(cv2.mean(image)[:3])) / 255
