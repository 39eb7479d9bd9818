# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Soft-NMS (Bodla et al. 2017), numerically equal to the original's external/nms.pyx."""
import numpy as np
from libc.math cimport expf

METHODS = {"hard": 0, "linear": 1, "gaussian": 2}


def soft_nms(boxes, float sigma=0.5, float Nt=0.5, float threshold=0.001, int method=2):
    """Lower the scores of boxes that overlap a better one, and drop boxes whose score falls below threshold.

    Args: boxes [M, 5 or more]: x1, y1, x2, y2, score, further columns; not modified. sigma: of the gaussian.
    Nt: overlap above which the hard and the linear method act. method: 0 hard, 1 linear, 2 gaussian.
    Returns the kept boxes, float32 [M', same columns], in selection order: by falling score, except for ties.
    """
    if method not in (0, 1, 2):
        raise ValueError(f"method is {method}; 0 is hard, 1 linear, 2 gaussian")
    kept = np.array(boxes, np.float32, order="C")
    cdef float[:, ::1] b = kept
    cdef int count
    with nogil:
        count = _soft_nms(b, sigma, Nt, threshold, method)
    return kept[:count]


cdef int _soft_nms(float[:, ::1] b, float sigma, float Nt, float threshold, int method) noexcept nogil:
    """Reorder and rescore the boxes in place; return the number of rows kept."""
    cdef int count = b.shape[0]
    cdef int i = 0, j, best, column
    cdef float width, height, overlap, weight, value
    while i < count:
        best = i
        for j in range(i + 1, count):
            if b[j, 4] > b[best, 4]:
                best = j
        for column in range(b.shape[1]):
            value = b[i, column]
            b[i, column] = b[best, column]
            b[best, column] = value
        j = i + 1
        while j < count:
            # The + 1, for boxes of whole pixels, is the original's; our corners are real-valued.
            width = min(b[i, 2], b[j, 2]) - max(b[i, 0], b[j, 0]) + 1
            height = min(b[i, 3], b[j, 3]) - max(b[i, 1], b[j, 1]) + 1
            if width > 0 and height > 0:
                overlap = width * height / (_area(b, i) + _area(b, j) - width * height)
                if method == 2:
                    weight = expf(-(overlap * overlap) / sigma)
                elif overlap > Nt:
                    weight = 1 - overlap if method == 1 else 0
                else:
                    weight = 1
                b[j, 4] = b[j, 4] * weight
                if b[j, 4] < threshold:
                    count -= 1
                    for column in range(b.shape[1]):
                        b[j, column] = b[count, column]
                    continue
            j += 1
        i += 1
    return count


cdef inline float _area(float[:, ::1] b, int i) noexcept nogil:
    return (b[i, 2] - b[i, 0] + 1) * (b[i, 3] - b[i, 1] + 1)
