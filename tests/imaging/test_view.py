"""src/imaging/view.py: images mapped into the network's input, boxes mapped back."""
import numpy as np
import pytest

from src.core.errors import UserError
from src.imaging import geometry
from src.imaging.view import Fit, input_spec, make_input, pad_batch, padded_size, scaled_size, whole_view
from src.network.architectures import check_detected_input
from src.tasks.detection.results import to_image
from tests.conftest import noise_image


def test_region_of_a_full_image():
    """By hand: the width is the image's if it is wider in shape than the input, else it follows from the height."""
    for size, input_size, width in (((640, 480), (512, 512), 640), ((301, 401), (512, 512), 401),
                                    ((300, 500), (384, 288), 500 * 4 / 3), ((501, 300), (384, 288), 501),
                                    ((300, 400), (256, 512), 300)):
        center, found = whole_view(*size, input_size)
        np.testing.assert_array_equal(center, np.array(size) / 2)
        assert center.dtype == np.float32 and found == pytest.approx(width, rel=1e-12)


def test_sizes_by_hand():
    assert scaled_size(640, 481, 0.5) == (320, 240)
    assert scaled_size(3, 2, 0.1) == scaled_size(1, 1, 1.0) == (1, 1)
    # The next multiple of the stride is larger, also for multiples.
    assert padded_size(31, 32, 32) == (32, 64)
    assert padded_size(33, 100, 48, 32) == (96, 192)  # a multiple of 48 and 32
    assert padded_size(127, 128, 32, 128) == (128, 256)


@pytest.mark.parametrize("height, width", [(93, 131), (480, 640), (64, 63), (1, 700)])
def test_padding_keeps_the_image_on_the_stride_grid(height, width):
    """Padding to multiples of 64 adds black at the right and bottom; the remainder equals the image padded to 32."""
    image = noise_image(0, height, width)
    near, near_view = make_input(image, 1.0, Fit(True, pad_multiple=32), 4)
    far, far_view = make_input(image, 1.0, Fit(True, pad_multiple=64), 4)
    assert far.shape[0] % 64 == 0 and far.shape[1] % 64 == 0
    np.testing.assert_array_equal(far[: near.shape[0], : near.shape[1]], near)
    assert not far[near.shape[0] :].any() and not far[:, near.shape[1] :].any()
    boxes = np.array([[3.0, 4.0, 20.0, 22.0, 0.5, 1.0]], np.float32)
    np.testing.assert_allclose(to_image(boxes, far_view), to_image(boxes, near_view), atol=1e-3)


def test_a_box_maps_to_the_output_and_back():
    """A box mapped to output pixels by the sample's matrix and back by to_image is unchanged."""
    _, view = make_input(noise_image(0, 300, 500), 0.75, Fit(False, (384, 288)), 4)
    matrix = geometry.affine_matrix(view.center, view.width, 0, view.out_hw[::-1])
    box = np.array([[40, 30, 200, 210.0]], np.float32)
    out = geometry.transform_boxes(box * 0.75, matrix)
    back = to_image(np.hstack([out, [[1, 0]]]), view)
    np.testing.assert_allclose(back[:, :4], box, atol=1e-2)


@pytest.mark.parametrize("ratio", [4, 8, 16])
@pytest.mark.parametrize("size", [(640, 640), (672, 656), (768, 640), (680, 680), (648, 696)])
def test_boxes_at_all_sizes_valid_for_a_ratio(size, ratio):
    """By hand: pixel x of an image is at (x - width / 2) * zoom + input width / 2 in the input, and an output pixel
    covers `ratio` input pixels.

    At sizes that the check refuses, boxes would be wrong by up to half an output pixel: 42 output pixels would have to
    cover 680 pixels.
    """
    width, height = 500, 300
    zoom = size[0] / max(width, height * size[0] / size[1])
    box = np.array([400.0, 200.0, 480.0, 290.0])
    output = ((box.reshape(2, 2) - (width / 2, height / 2)) * zoom + np.array(size) / 2) / ratio
    _, view = make_input(np.zeros((height, width, 3), np.uint8), 1.0, Fit(False, size), ratio)
    found = to_image(np.array([[*output.reshape(4), 1, 0]], np.float32), view)[0, :4]
    facts = {"arch": "resdcn_18", "stride": 32, "down_ratio": ratio}
    if any(side % ratio for side in size):
        assert np.abs(found - box).max() > 2
        with pytest.raises(UserError, match=rf"input_res.*\[{size[0]}, {size[1]}\].*resdcn_18.*{ratio}"):
            check_detected_input(facts, size, "input_res")
    else:
        np.testing.assert_allclose(found, box, atol=1e-3)
        check_detected_input(facts, size, "input_res")


@pytest.mark.parametrize("ratio", [4, 8, 16])
@pytest.mark.parametrize("height, width", [(93, 131), (480, 640), (1, 700)])
def test_boxes_of_an_image_that_keeps_its_size(height, width, ratio):
    """By hand: the image is centered in the next larger multiples of 32, at whole pixels."""
    box = np.array([3.0, 0.5, 100.0, height - 0.25])
    left, top = (((side | 31) + 1) // 2 - side // 2 for side in (width, height))
    output = (box + (left, top, left, top)) / ratio
    _, view = make_input(np.zeros((height, width, 3), np.uint8), 1.0, Fit(True, pad_multiple=64), ratio)
    np.testing.assert_allclose(to_image(np.array([[*output, 1, 0]], np.float32), view)[0, :4], box, atol=1e-3)


def test_position_in_a_much_larger_input():
    """By hand: padding to 256 moves nothing relative to padding to 32, centered at (16, 32): 10x40 around (5, 20)."""
    pixels, view = make_input(np.full((40, 10, 3), 200, np.uint8), 1.0, Fit(True, pad_multiple=256), 4)
    assert pixels.shape == (256, 256, 3) and view.out_hw == (64, 64) and view.width == 256
    np.testing.assert_array_equal(view.center, [5 + (256 - 32) / 2, 20 + (256 - 64) / 2])
    there = np.zeros((256, 256), bool)
    there[12:52, 11:21] = True
    np.testing.assert_array_equal(pixels == 200, np.repeat(there[:, :, None], 3, 2))


def test_a_scale_zooms_in_the_fixed_input():
    """By hand: at half its size, an image of 64x64 covers the central quarter of an input of 64x64."""
    pixels, view = make_input(np.full((64, 64, 3), 200, np.uint8), 0.5, Fit(False, (64, 64)), 4)
    np.testing.assert_array_equal(view.center, [16, 16])
    assert view.width == 64 and view.out_hw == (16, 16) and view.scale == 0.5
    there = np.zeros((64, 64, 3), np.uint8)
    there[16:48, 16:48] = 200
    np.testing.assert_array_equal(pixels, there)


def test_batch_kind():
    assert input_spec(True, 2, 32, 48) == (np.uint8, [2, 32, 48, 3])
    assert input_spec(False, 2, 32, 48) == (np.float32, [2, 3, 32, 48])


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_padded_batch(count):
    batch = np.full((3, 2, 4), 9, np.uint8)
    whole = pad_batch(batch, count)
    assert whole.dtype == np.uint8 and whole.shape == (count, 2, 4)
    np.testing.assert_array_equal(whole[:3], batch)
    assert not whole[3:].any()
