# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Exact bilinear resampling of an image, along its axes or rotated.

OpenCV before 4.12 rounds the sampling points of warpAffine to 1/32 pixel. Later versions, from which the golden
vectors come, do not, but need NumPy 2, which MindSpore does not support. This module computes what they compute.
"""
import numpy as np
from libc.math cimport floorf, lrintf
from libc.stdlib cimport free, malloc


def resample(const unsigned char[:, :, ::1] image, float step_x, float start_x, float step_y, float start_y,
             int out_w, int out_h):
    """Sample image [H, W, 3] at (start_x + step_x * x, start_y + step_y * y) for each output pixel x, y.

    Returns uint8 [out_h, out_w, 3], rounded half to even; pixels outside the image are black.
    """
    cdef int height = image.shape[0], width = image.shape[1]
    cdef int row_length = 3 * width
    cdef int x, y, i, y0
    cdef int left, right, first = row_length, end = 0
    cdef float sample, lower, upper  # single precision throughout: the rounding of halves depends on it
    cdef unsigned char[:, :, ::1] out = np.empty((out_h, out_w, 3), np.uint8)
    # Output column x is weight[2x] * row[at[2x]] + weight[2x + 1] * row[at[2x + 1]], for each color.
    cdef int* at = <int*> malloc(2 * out_w * sizeof(int))
    cdef float* weight = <float*> malloc(2 * out_w * sizeof(float))
    cdef float* row = <float*> malloc(row_length * sizeof(float))
    cdef const unsigned char* above
    cdef const unsigned char* below
    if not at or not weight or not row:
        free(at)
        free(weight)
        free(row)
        raise MemoryError()
    with nogil:
        for x in range(out_w):
            sample = start_x + step_x * x
            left = <int> floorf(min(max(sample, -2), width + 1))
            right = left + 1
            weight[2 * x + 1] = sample - left if 0 <= right < width else 0
            weight[2 * x] = 1 - (sample - left) if 0 <= left < width else 0
            at[2 * x] = 3 * min(max(left, 0), width - 1)
            at[2 * x + 1] = 3 * min(max(right, 0), width - 1)
            first = min(first, at[2 * x])
            end = max(end, at[2 * x + 1] + 3)
        for y in range(out_h):
            sample = start_y + step_y * y
            y0 = <int> floorf(min(max(sample, -2), height + 1))
            lower = sample - y0 if 0 <= y0 + 1 < height else 0
            upper = 1 - (sample - y0) if 0 <= y0 < height else 0
            above = &image[min(max(y0, 0), height - 1), 0, 0]
            below = &image[min(max(y0 + 1, 0), height - 1), 0, 0]
            for i in range(first, end):  # samples need no other values
                row[i] = upper * above[i] + lower * below[i]
            for x in range(out_w):
                left = at[2 * x]
                right = at[2 * x + 1]
                for i in range(3):
                    out[y, x, i] = <unsigned char> lrintf(weight[2 * x] * row[left + i]
                                                          + weight[2 * x + 1] * row[right + i])
        free(at)
        free(weight)
        free(row)
    return np.asarray(out)


def resample_rotated(const unsigned char[:, :, ::1] image, const float[:, ::1] matrix, int out_w, int out_h):
    """Sample image [H, W, 3] at matrix [2, 3] times (x, y, 1) for each output pixel x, y; as resample otherwise."""
    cdef int height = image.shape[0], width = image.shape[1]
    cdef int x, y, i, left, top
    cdef float column, row, right_share, lower_share, upper_left, upper_right, lower_left, lower_right
    cdef unsigned char[:, :, ::1] out = np.zeros((out_h, out_w, 3), np.uint8)
    with nogil:
        for y in range(out_h):
            for x in range(out_w):
                column = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
                row = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
                if not (-1 < column < width and -1 < row < height):
                    continue
                left, top = <int> floorf(column), <int> floorf(row)
                right_share, lower_share = column - left, row - top
                upper_left = (1 - right_share) * (1 - lower_share) if left >= 0 and top >= 0 else 0
                upper_right = right_share * (1 - lower_share) if left + 1 < width and top >= 0 else 0
                lower_left = (1 - right_share) * lower_share if left >= 0 and top + 1 < height else 0
                lower_right = right_share * lower_share if left + 1 < width and top + 1 < height else 0
                for i in range(3):
                    out[y, x, i] = <unsigned char> lrintf(
                        upper_left * image[max(top, 0), max(left, 0), i]
                        + upper_right * image[max(top, 0), min(left + 1, width - 1), i]
                        + lower_left * image[min(top + 1, height - 1), max(left, 0), i]
                        + lower_right * image[min(top + 1, height - 1), min(left + 1, width - 1), i])
    return np.asarray(out)
