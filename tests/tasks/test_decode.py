"""src/tasks/detection/device.py against loops in Python."""
import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from src.tasks.detection.device import decode
from src.tasks.points import suppress_non_peaks, top_k

pytestmark = pytest.mark.usefixtures("by_operation")


def varied_heat(shape, seed=0):
    """A heatmap without equal values."""
    values = np.arange(1, np.prod(shape) + 1, dtype=np.float32) / (np.prod(shape) + 1)
    return np.random.default_rng(seed).permutation(values).reshape(shape)


def is_peak(heat, y, x):
    """Whether a cell of heat [H, W] is the maximum of its neighborhood."""
    return heat[y, x] == heat[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()


def expected_detections(heat, wh, reg, k, cat_spec_wh):
    """The detections [k, 6] of one image, cell by cell."""
    cells = [cell for cell in itertools.product(*map(range, heat.shape)) if is_peak(heat[cell[0]], *cell[1:])]
    rows = []
    for label, y, x in sorted(cells, key=lambda cell: -heat[cell])[:k]:
        w, h = wh[2 * label : 2 * label + 2, y, x] if cat_spec_wh else wh[:, y, x]
        dx, dy = (0.5, 0.5) if reg is None else reg[:, y, x]
        rows.append([x + dx - w / 2, y + dy - h / 2, x + dx + w / 2, y + dy + h / 2, heat[label, y, x], label])
    return np.array(rows)


@pytest.mark.parametrize("with_reg, cat_spec_wh", [(True, False), (False, False), (True, True)])
def test_detections_cell_by_cell(with_reg, cat_spec_wh):
    """Three images, five classes, not square, more lines than K."""
    rng = np.random.default_rng(1)
    heat = varied_heat((3, 5, 7, 9))
    wh = rng.uniform(1, 5, (3, 10 if cat_spec_wh else 2, 7, 9)).astype(np.float32)
    reg = rng.random((3, 2, 7, 9)).astype(np.float32) if with_reg else None
    args = [Tensor(heat), Tensor(wh), None if reg is None else Tensor(reg), 11]
    found = (decode(*args, True) if cat_spec_wh else decode(*args)).asnumpy()
    expected = [expected_detections(heat[i], wh[i], None if reg is None else reg[i], 11, cat_spec_wh) for i in range(3)]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_values_that_are_not_peaks_become_zero():
    """Equal neighbors are both peaks; cells at the edges have fewer neighbors, none of another class or image."""
    heat = varied_heat((2, 2, 5, 6))
    heat[0, 0, 2, 2:4] = 1
    expected = heat.copy()
    for i, label, y, x in itertools.product(*map(range, heat.shape)):
        if not is_peak(heat[i, label], y, x):
            expected[i, label, y, x] = 0
    assert (expected[0, 0, 2, 2:4] == 1).all()
    np.testing.assert_array_equal(suppress_non_peaks(Tensor(heat)).asnumpy(), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (7, 3)])
def test_peaks_do_not_depend_on_the_type_that_pooling_computes_in(size, monkeypatch):
    """Where max-pooling computes in float16, as it may on an Ascend 910, its maximum equals hardly any float32."""
    pool = ops.MaxPool(kernel_size=3, strides=1, pad_mode="same")

    def in_float16(**settings):
        return lambda heat: pool(heat).astype(ms.float16).astype(ms.float32)

    heat = varied_heat((2, 3, *size))
    expected = (Tensor(heat) * (pool(Tensor(heat)) == Tensor(heat))).asnumpy()
    monkeypatch.setattr(ops, "MaxPool", in_float16)
    np.testing.assert_array_equal(suppress_non_peaks(Tensor(heat)).asnumpy(), expected)
    assert np.count_nonzero(expected) >= 6  # one in each map at least


@pytest.mark.parametrize("shape, k", [((3, 4, 5, 6), 7), ((3, 4, 5, 6), 19), ((3, 4, 5, 6), 20), ((3, 4, 5, 6), 21),
                                      ((2, 1, 2, 3), 6), ((2, 1, 2, 3), 9), ((2, 2, 1, 3), 1)])
def test_the_largest_values_of_each_image(shape, k):
    """K smaller and larger than the number of lines and cells; missing entries have score 0 at the last cell."""
    heat = varied_heat(shape)
    n, classes, height, width = shape
    scores, ind, labels = (value.asnumpy() for value in top_k(Tensor(heat), k))
    assert ind.dtype == labels.dtype == np.int32
    for i in range(n):
        order = np.argsort(-heat[i].ravel())[:k]
        there = len(order)
        np.testing.assert_array_equal(scores[i, :there], heat[i].ravel()[order])
        np.testing.assert_array_equal(labels[i, :there] * height * width + ind[i, :there], order)
        assert (ind[i] < height * width).all() and (ind[i] >= 0).all()
        assert not scores[i, there:].any() and (ind[i, there:] == height * width - 1).all()
        assert (labels[i, there:] == classes - 1).all()


def test_zeros_come_before_missing_entries():
    heat = np.zeros((1, 1, 2, 2), np.float32)
    heat[0, 0, 1, 0] = 0.5
    scores, ind, _ = (value.asnumpy() for value in top_k(Tensor(heat), 6))
    np.testing.assert_array_equal(scores, [[0.5, 0, 0, 0, 0, 0]])
    assert ind[0, 0] == 2 and sorted(ind[0, 1:4]) == [0, 1, 3] and list(ind[0, 4:]) == [3, 3]
