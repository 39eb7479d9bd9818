"""src/imaging/geometry.py against hand computations."""
import itertools
import types

import cv2
import numpy as np
import pytest

from src.imaging import color, gaussians, geometry, reading


def draws(*values, asked=None):
    """A generator that returns these values, whatever is requested; the list `asked` records the arguments."""
    values = iter(values)

    def draw(*args, **kwargs):
        if asked is not None:
            asked.append((*args, *kwargs.values()))
        return next(values)

    return types.SimpleNamespace(random=draw, standard_normal=draw, choice=draw, integers=draw, permutation=draw,
                                 uniform=draw, normal=draw)


def test_affine_matrix_and_its_inverse():
    matrix = geometry.affine_matrix((320, 240), 640, 0, (160, 160))
    np.testing.assert_allclose(matrix, [[0.25, 0, 0], [0, 0.25, 20]], atol=1e-9)
    inverse = geometry.affine_matrix((320, 240), 640, 0, (160, 160), inverse=True)
    there = geometry.transform_points(np.array([[7.0, 9.0]]), matrix)
    np.testing.assert_allclose(geometry.transform_points(there, inverse), [[7, 9]], atol=1e-5)


def test_rotation_by_a_right_angle():
    matrix = geometry.affine_matrix((50, 50), 100, 90, (100, 100))
    # The region's "up" points right in the image: points to the right of the center map above it.
    np.testing.assert_allclose(geometry.transform_points(np.array([80.0, 50.0]), matrix), [50, 20], atol=1e-4)
    np.testing.assert_allclose(geometry.transform_boxes(np.array([[70, 40, 90, 60.0]], np.float32), matrix),
                               [[40, 10, 60, 30]], atol=1e-3)


def test_the_matrix_of_a_shifted_and_rotated_region():
    """By hand: the center maps to the middle, an output pixel covers width / out width pixels, "up" turns right."""
    matrix = geometry.affine_matrix(np.array([30, 70], np.float32), (40, 999), 30, (80, 60))
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    points = np.array([[30, 70], [30 + 10 * sin, 70 - 10 * cos], [30 + 10 * cos, 70 + 10 * sin]])
    np.testing.assert_allclose(geometry.transform_points(points, matrix), [[40, 30], [40, 10], [60, 30]], atol=1e-4)
    back = geometry.affine_matrix(np.array([30, 70], np.float32), 40, 30, (80, 60), inverse=True)
    np.testing.assert_allclose(geometry.transform_points(np.array([[40, 30], [40, 10], [60, 30.0]]), back),
                               points, atol=1e-4)


def test_a_box_around_its_rotated_corners():
    """By hand: a box of 4x2 around the origin, rotated by 30 degrees, scaled by 3 and shifted."""
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    matrix = np.array([[3 * cos, -3 * sin, 100], [3 * sin, 3 * cos, 50]])
    x, y = 3 * (2 * cos + sin), 3 * (2 * sin + cos)
    found = geometry.transform_boxes(np.array([[-2, -1, 2, 1], [0, 0, 0, 0]], np.float32), matrix)
    np.testing.assert_allclose(found, [[100 - x, 50 - y, 100 + x, 50 + y], [100, 50, 100, 50]], rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("rotation, turns", [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_warp_rotates_an_image(rotation, turns):
    """Right angles move whole pixels; without a counterpart across the center, they become black."""
    pixels = np.random.default_rng(1).integers(1, 256, (8, 8, 3), np.uint8)
    found = geometry.warp(pixels, geometry.affine_matrix((4, 4), 8, rotation, (8, 8)), (8, 8))
    expected = np.zeros((9, 9, 3), np.uint8)
    expected[:8, :8] = pixels
    expected = np.rot90(expected, turns)[:8, :8]
    np.testing.assert_array_equal(found, expected)


def test_warp_scales_each_axis():
    """By hand: every second pixel along x; along y the means of 1 and 4, and of 4 and 7; black outside."""
    pixels = np.repeat(np.array([[1, 0, 2, 0], [4, 0, 6, 0], [7, 0, 8, 0]], np.uint8)[:, :, None], 3, 2)
    matrix = np.array([[0.5, 0, 1], [0, 1, -0.5]])
    found = geometry.warp(pixels, matrix, (4, 2))
    np.testing.assert_array_equal(found[:, :, 1], [[0, 2, 4, 0], [0, 6, 7, 0]])


def test_warp_with_the_least_rotation_is_exact_too():
    """One gray level at most, for the order of the sums; OpenCV, which rounds sampling positions, is farther off."""
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
    for place in ((0, 1), (1, 0)):
        matrix = np.array([[0.7, 0, 3], [0, 0.7, 2]])
        exact = geometry.warp(pixels, matrix, (40, 40)).astype(int)
        matrix[place] = 1e-7
        assert np.abs(geometry.warp(pixels, matrix, (40, 40)) - exact).max() <= 1
        assert np.abs(cv2.warpAffine(pixels, matrix, (40, 40), flags=cv2.INTER_LINEAR) - exact).max() > 1


def test_a_rotated_warp_by_hand():
    """A quarter turn about the center: pixel (x, y) of the output is (3 - y, x) of the image; black outside."""
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    turned = geometry.warp(pixels, np.array([[0, 1.0, 0], [-1, 0, 3]]), (4, 4))
    np.testing.assert_array_equal(turned, np.rot90(pixels))
    half = geometry.warp(pixels, np.array([[0, 1.0, 0], [-1, 0, 3.5]]), (4, 4))
    np.testing.assert_array_equal(half[0], np.rint(turned[0] * 0.5))  # half of each sample is outside
    np.testing.assert_array_equal(half[1], np.rint((turned[0] + turned[1].astype(float)) / 2))


def test_flip_boxes():
    np.testing.assert_array_equal(geometry.flip_boxes(np.array([[0, 1, 10, 5.0]]), 100), [[89, 1, 99, 5]])


@pytest.mark.parametrize("size, margin", [(640, 128), (257, 128), (256, 64), (100, 32), (3, 1), (2, 0), (1, 0)])
def test_crop_border_leaves_room(size, margin):
    assert geometry.crop_border(128, size) == margin
    assert size - margin > margin


def test_a_crop_by_given_draws():
    """By hand: scales in steps of 0.1 up to the largest, exclusive; centers as far from the edges as crop_border."""
    asked = []
    center, width = geometry.random_crop(draws(0.9, 170, 99, asked=asked), (150, 100), 300.0, (300, 200),
                                         (True, 0.4, 0.1))
    np.testing.assert_array_equal(center, [170, 99])
    assert width == 270
    np.testing.assert_allclose(asked[0][0], [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3], rtol=1e-12)
    assert asked[1:] == [(128, 300 - 128), (64, 200 - 64)]
    # Without scaling, no scale is drawn.
    assert geometry.random_crop(draws(170, 99), (150, 100), 300.0, (300, 200), (True, 0.0, 0.1))[1] == 300


@pytest.mark.parametrize("normal, center, width", [
    ((0.5, -1.0, 0.5), (164 + 5, 48 - 10), 120), ((-3.0, 3.0, -5.0), (164 - 20, 48 + 20), 60),
    ((3.0, -3.0, 2.0), (164 + 20, 48 - 20), 140),
])
def test_a_shifted_view_by_given_draws(normal, center, width):
    """By hand: the center moves by width * shift * draw, at most twice the shift; the width by scale * draw."""
    given, asked = np.array([164, 48], np.float32), []
    rng = draws(np.array(normal[:2]), normal[2], asked=asked)
    found = geometry.random_crop(rng, given, 100.0, (328, 96), (False, 0.4, 0.1))
    np.testing.assert_allclose(found[0], center, rtol=1e-6)
    assert found[1] == pytest.approx(width) and asked == [(2,), ()]
    np.testing.assert_array_equal(given, [164, 48])


@pytest.mark.parametrize("drawn, angle", [
    ((0.3,), 0), ((0.31,), 0), ((0.29, 0.375), 3.75), ((0.29, -1.0), -10), ((0.29, 3.0), 20), ((0.29, -3.0), -20),
])
def test_a_rotation_by_given_draws(drawn, angle):
    """By hand: with probability 0.3, half the limit of 20 times a draw, at most the limit."""
    assert geometry.random_rotation(draws(*drawn), 0.3, 20) == angle


def test_a_color_by_given_draws():
    asked = []
    steps, lighting = color.random_color(draws([2, 0, 1], np.array([0.25, -0.25, 0.125]), "lighting", asked=asked))
    assert steps == [("saturation", 1.25), ("brightness", 0.75), ("contrast", 1.125)] and lighting == "lighting"
    assert asked == [(3,), (-0.4, 0.4, 3), (0.1, 3)]


def test_mean_gray_by_hand():
    pixels = np.zeros((2, 2, 3), np.uint8)
    # The means are 1 / 4, 1 / 10 and 1 / 10 of the range.
    pixels[0, 0], pixels[1, 1] = (255, 0, 51), (0, 102, 51)
    assert color.mean_gray(pixels) == pytest.approx(0.114 / 4 + 0.587 / 10 + 0.299 / 10, rel=1e-12)


def original_radius(height, width, overlap=0.7):
    """The original's gaussian_radius: the smallest of three roots."""
    total, area = height + width, height * width
    roots = ((1, -total, area * (1 - overlap) / (1 + overlap)), (4, -2 * total, (1 - overlap) * area),
             (4 * overlap, 2 * overlap * total, (overlap - 1) * area))
    return min((-b + np.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in roots)


@pytest.mark.parametrize("overlap", [0.05, 0.3, 0.7, 0.95])
def test_the_smallest_of_the_originals_roots_is_always_the_same(overlap):
    for size in itertools.product((0.01, 1, 2, 3, 10, 31.5, 128, 4000), repeat=2):
        assert gaussians.gaussian_radius(*size, overlap) == pytest.approx(original_radius(*size, overlap), rel=1e-9)


def test_a_kernel_by_hand():
    """Squared distances 0 to 8 over 2 sigma²; values below the precision of float64 are 0."""
    squares = np.array([[8, 5, 4, 5, 8], [5, 2, 1, 2, 5], [4, 1, 0, 1, 4], [5, 2, 1, 2, 5], [8, 5, 4, 5, 8]])
    kernel = gaussians.gaussian_kernel(2, 1.5)
    np.testing.assert_allclose(kernel, np.exp(-squares / 4.5), rtol=1e-12)
    assert kernel.dtype == np.float64
    edge = gaussians.gaussian_kernel(9, 1.0)[9]
    np.testing.assert_array_equal(edge == 0, np.abs(np.arange(-9, 10)) == 9)  # exp(-32) is 1e-14, exp(-40.5) 3e-18


@pytest.mark.parametrize("x, y", [(0, 0), (6, 0), (0, 4), (6, 4), (3, 2), (1, 3), (5, 1)])
def test_draw_gaussian_pixel_by_pixel(x, y):
    """The maximum of the heatmap and the kernel, at most two pixels away; sizes where the kernel is not smaller."""
    rng = np.random.default_rng(0)
    kernel, before = rng.random((5, 5)), rng.random((5, 7)).astype(np.float32)
    kernel[1, 3] = 0.5
    if 0 <= y - 1 and x + 1 < 7:
        before[y - 1, x + 1] = 0.5
    heat, sizes = before.copy(), np.full((2, 5, 7), -1, np.float32)
    gaussians.draw_gaussian(heat, x, y, kernel)
    gaussians.draw_dense_value(sizes, before, x, y, kernel, (3, 7))
    for row, column in itertools.product(range(5), range(7)):
        dy, dx = row - y + 2, column - x + 2
        there = kernel[dy, dx] if 0 <= dy < 5 and 0 <= dx < 5 else -1
        assert heat[row, column] == max(np.float32(there), before[row, column])
        assert tuple(sizes[:, row, column]) == ((3, 7) if there >= before[row, column] else (-1, -1))


def test_kernel_is_cut_at_the_edges():
    heatmap = np.zeros((5, 6), np.float32)
    gaussians.draw_gaussian(heatmap, 0, 4, gaussians.gaussian_kernel(2, 1.0))
    assert heatmap[4, 0] == 1
    np.testing.assert_allclose(heatmap[3, 1], np.exp(-1), rtol=1e-6)
    assert heatmap[1, 0] == 0 and heatmap[4, 3] == 0


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_decoding_refuses_other_data(data):
    with pytest.raises(ValueError):
        reading.decode_image(data)
    with pytest.raises(ValueError):
        reading.decode_whole_image(data)


def test_a_truncated_jpeg_is_refused():
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))[1].tobytes()
    reading.decode_whole_image(data)
    with pytest.raises(ValueError):
        reading.decode_whole_image(data[: len(data) // 2])
