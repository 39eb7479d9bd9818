"""src/tasks/rows.py: boxes clipped to the image."""
import numpy as np

from src.tasks.rows import clipped


def test_boxes_are_clipped_to_the_image():
    """Computed by hand, in an image of 100x50: beyond each border, inside, and entirely outside."""
    boxes = [[-5, -7, 20, 30], [90, 40, 130, 60], [10, 10, 20, 20], [-9, 10, 0, 20], [100, 10, 120, 20],
             [10, -20, 30, -1], [10, 50, 20, 70]]
    rows = np.hstack([np.array(boxes), np.linspace(0.9, 0.3, 7)[:, None], np.ones((7, 1)), np.full((7, 3), -8)])
    found = clipped(rows.astype(np.float32), (100, 50))
    np.testing.assert_array_equal(found[:, :4], [[0, 0, 20, 30], [90, 40, 100, 50], [10, 10, 20, 20]])
    np.testing.assert_array_equal(found[:, 4:], rows.astype(np.float32)[:3, 4:])
    assert found.dtype == np.float32 and clipped(rows[:0], (100, 50)).shape == rows[:0].shape
