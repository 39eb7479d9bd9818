"""src/image.py against hand computations."""
import numpy as np
import pytest

from src import image, image_files


def test_affine_matrix_and_its_inverse():
    matrix = image.affine_matrix((320, 240), 640, 0, (160, 160))
    np.testing.assert_allclose(matrix, [[0.25, 0, 0], [0, 0.25, 20]], atol=1e-9)
    inverse = image.affine_matrix((320, 240), 640, 0, (160, 160), inverse=True)
    np.testing.assert_allclose(image.transform_points(image.transform_points(np.array([[7.0, 9.0]]), matrix), inverse), [[7, 9]], atol=1e-5)


def test_rotation_by_a_right_angle():
    matrix = image.affine_matrix((50, 50), 100, 90, (100, 100))
    # The region's "up" points to the right of the image: what lies right of the center goes above it.
    np.testing.assert_allclose(image.transform_points(np.array([80.0, 50.0]), matrix), [50, 20], atol=1e-4)
    np.testing.assert_allclose(image.transform_boxes(np.array([[70, 40, 90, 60.0]], np.float32), matrix), [[40, 10, 60, 30]], atol=1e-3)


def test_flip_boxes():
    np.testing.assert_array_equal(image.flip_boxes(np.array([[0, 1, 10, 5.0]]), 100), [[89, 1, 99, 5]])


@pytest.mark.parametrize("size, margin", [(640, 128), (257, 128), (256, 64), (100, 32), (3, 1)])
def test_crop_border_leaves_room(size, margin):
    assert image.crop_border(128, size) == margin
    assert size - margin > margin


def test_kernel_is_cut_at_the_edges():
    heatmap = np.zeros((5, 6), np.float32)
    image.draw_gaussian(heatmap, 0, 4, image.gaussian_kernel(2, 1.0))
    assert heatmap[4, 0] == 1
    np.testing.assert_allclose(heatmap[3, 1], np.exp(-1), rtol=1e-6)
    assert heatmap[1, 0] == 0 and heatmap[4, 3] == 0


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_decode_refuses_what_is_no_image(data):
    with pytest.raises(ValueError):
        image_files.decode_image(data)
    with pytest.raises(ValueError):
        image_files.decode_whole_image(data)


def test_truncated_jpeg_is_noticed():
    import cv2

    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    image_files.decode_whole_image(data)
    with pytest.raises(ValueError):
        image_files.decode_whole_image(data[: len(data) // 2])
