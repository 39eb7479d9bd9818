"""src/pre_process.py: an image on its way into the network, a box on its way out."""

import numpy as np
import pytest

from src import image
from src.post_process import to_image
from src.pre_process import make_input
from tests.conftest import noise_image


@pytest.mark.parametrize("height, width", [(93, 131), (480, 640), (64, 63), (1, 700)])
def test_padding_keeps_the_image_on_the_stride_grid(height, width):
    """Padding to multiples of 64 adds black right and below; the rest is pixel for pixel what padding to 32 gives."""
    image = noise_image(0, height, width)
    near, near_view = make_input(image, 1.0, True, None, 4, 32)
    far, far_view = make_input(image, 1.0, True, None, 4, 64)
    assert far.shape[0] % 64 == 0 and far.shape[1] % 64 == 0
    np.testing.assert_array_equal(far[: near.shape[0], : near.shape[1]], near)
    assert not far[near.shape[0] :].any() and not far[:, near.shape[1] :].any()
    boxes = np.array([[3.0, 4.0, 20.0, 22.0, 0.5, 1.0]], np.float32)
    np.testing.assert_allclose(to_image(boxes, far_view), to_image(boxes, near_view), atol=1e-3)


def test_a_box_survives_the_way_in_and_out():
    """An image box, put into output pixels by the sample's matrix and taken back by to_image, is where it was."""
    _, view = make_input(noise_image(0, 300, 500), 0.75, False, (384, 288), 4)
    matrix = image.affine_matrix(view.center, view.width, 0, view.out_hw[::-1])
    box = np.array([[40, 30, 200, 210.0]], np.float32)
    out = image.transform_boxes(box * 0.75, matrix)
    back = to_image(np.hstack([out, [[1, 0]]]), view)
    np.testing.assert_allclose(back[:, :4], box, atol=1e-2)
