"""src/pre_process.py: an image on its way into the network, a box on its way out."""

import numpy as np
import pytest

from src import image
from src.architectures import check_detected_input
from src.errors import UserError
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


@pytest.mark.parametrize("ratio", [4, 8, 16])
@pytest.mark.parametrize("size", [(640, 640), (672, 656), (768, 640), (680, 680), (648, 696)])
def test_boxes_at_every_size_that_a_ratio_decodes(size, ratio):
    """By hand: an image's pixel lies at (x - width / 2) * zoom + input width / 2 in the input, and an output pixel is `ratio` of those.

    What the check refuses is what would be wrong, by up to half an output pixel at the far end: 42 of them would have to be 680 pixels.
    """
    width, height = 500, 300
    zoom = size[0] / max(width, height * size[0] / size[1])
    box = np.array([400.0, 200.0, 480.0, 290.0])
    output = ((box.reshape(2, 2) - (width / 2, height / 2)) * zoom + np.array(size) / 2) / ratio
    _, view = make_input(np.zeros((height, width, 3), np.uint8), 1.0, False, size, ratio)
    found = to_image(np.array([[*output.reshape(4), 1, 0]], np.float32), view)[0, :4]
    facts = {"arch": "resdcn_18", "stride": 32, "down_ratio": ratio}
    if any(side % ratio for side in size):
        assert np.abs(found - box).max() > 2
        with pytest.raises(UserError, match=rf"input_res is \[{size[0]}, {size[1]}\]; resdcn_18 with down_ratio {ratio} takes multiples"):
            check_detected_input(facts, size, "input_res")
    else:
        np.testing.assert_allclose(found, box, atol=1e-3)
        check_detected_input(facts, size, "input_res")


@pytest.mark.parametrize("ratio", [4, 8, 16])
@pytest.mark.parametrize("height, width", [(93, 131), (480, 640), (1, 700)])
def test_boxes_of_an_image_that_keeps_its_size(height, width, ratio):
    """By hand: the image lies in the middle of the next multiples of 32 above its sides, in whole pixels."""
    box = np.array([3.0, 0.5, 100.0, height - 0.25])
    left, top = (((side | 31) + 1) // 2 - side // 2 for side in (width, height))
    output = (box + (left, top, left, top)) / ratio
    _, view = make_input(np.zeros((height, width, 3), np.uint8), 1.0, True, None, ratio, 64)
    np.testing.assert_allclose(to_image(np.array([[*output, 1, 0]], np.float32), view)[0, :4], box, atol=1e-3)
