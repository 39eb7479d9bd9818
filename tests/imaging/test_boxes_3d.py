"""src/imaging/boxes_3d.py: 3D boxes drawn as wires, and from above beside the image."""
import time

import numpy as np
import pytest

from src.imaging import boxes_3d, camera, drawing

CALIB = np.array([[300.0, 0, 200, 0], [0, 300, 100, 0], [0, 0, 1, 0]])
GRAY = 127


def solids(*places, dims=(1.5, 1.6, 4.0), degrees=0.0):
    """The corners [M, 8, 3] of boxes at these places."""
    count = len(places)
    return camera.corners(np.tile(dims, (count, 1)), np.array(places, float).reshape(-1, 3),
                          np.full(count, np.radians(degrees)))


def drawn(corners, labels=None, size=(400, 200), scores=None, texts=None):
    """draw_boxes_3d on gray, for boxes that all have the camera CALIB."""
    image = np.full((size[1], size[0], 3), GRAY, np.uint8)
    count = len(corners)
    labels = np.zeros(count) if labels is None else np.array(labels)
    scores = np.linspace(1, 0.5, count) if scores is None else np.array(scores)
    cameras = np.tile(CALIB, (count, 1, 1))
    found = boxes_3d.draw_boxes_3d(image, camera.bounding_boxes(corners, CALIB), scores, labels,
                                   texts or [""] * count, corners, cameras)
    assert (image == GRAY).all()
    return found


def is_near(canvas, point, color, reach=2):
    """Whether a pixel near a point x, y has about this color."""
    x, y = np.round(point).astype(int)
    patch = canvas[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].astype(int)
    return bool(patch.size) and bool((np.abs(patch - color).max(-1) < 50).any())


def on_panel(points, height, far):
    """Points [..., (x, z)] in meters -> pixels of a panel that shows z from 0 to far: its camera is at the bottom."""
    return np.array(points) * (height / far, -height / far) + (0.8 * height / 2, height)


@pytest.mark.parametrize("width, height", [(400, 200), (100, 300), (64, 64), (1, 1), (1, 900), (900, 1), (37, 5)])
def test_the_panel_is_beside_the_image(width, height):
    """As high, and 0.8 times as wide, but at most 4 times the image's width; also without objects."""
    for corners in (solids((0, 1, 10)), solids()):
        found, panel = drawn(corners, size=(width, height)), max(1, round(min(0.8 * height, 4 * width)))
        assert found.dtype == np.uint8 and found.shape == (height, width + panel, 3)
    np.testing.assert_array_equal(found[:, :width], GRAY)  # nothing is drawn on the image


def test_no_objects_show_an_empty_grid():
    """Of 20 m in 200 pixels: lines at 10 and 20 m, and no color of a class."""
    panel = boxes_3d.birds_eye_view((160, 200), solids(), np.zeros(0))
    assert panel.shape == (200, 160, 3)
    lines = [y for y in range(200) if (panel[y, 60:] == boxes_3d.GRID).all()]
    assert lines == [0, 100]
    assert (np.ptp(panel.astype(int), -1) < 40).all()  # gray


@pytest.mark.parametrize("far, height, lines", [(30, 400, 3), (72, 400, 7), (100, 200, 10), (100, 150, 2), (45, 60, 0)])
def test_lines_are_10_or_50_meters_apart(far, height, lines):
    panel = boxes_3d.birds_eye_view((height, height), solids((0, 0, far / 1.1), dims=(1, 1e-3, 1e-3)), np.zeros(1))
    assert sum((panel[y, -3:] == boxes_3d.GRID).all() for y in range(height)) == lines


def test_boxes_are_at_their_places_in_the_view_from_above():
    """Two cars at z = 10 and 16 m, x = -3 and 4 m; the farther one's end is at 16.8 m, so 20 m fit in 300 pixels."""
    corners = solids((-3, 1.5, 10), (4, 1.5, 16))
    panel = boxes_3d.birds_eye_view((240, 300), corners, np.array([1, 2]))
    for own, label in zip(corners, (1, 2)):
        for start, end in zip(own[:4, [0, 2]], np.roll(own[:4, [0, 2]], -1, 0)):
            for point in on_panel([start, (start + end) / 2, end], 300, 20):
                assert is_near(panel, point, drawing.class_color(label))
                assert not is_near(panel, point, drawing.class_color(3 - label))
    left, right = (np.argwhere(np.abs(panel.astype(int) - drawing.class_color(label)).max(-1) < 30).mean(0)
                   for label in (1, 2))
    assert left[1] < 120 < right[1] and right[0] < left[0]


def test_a_line_points_to_the_front():
    """From the middle: to the right without rotation, towards the camera after a quarter turn."""
    for degrees, (x, z) in ((0, (1, 10)), (90, (0, 9)), (180, (-1, 10)), (-90, (0, 11))):
        panel = boxes_3d.birds_eye_view((240, 300), solids((0, 1.5, 10), degrees=degrees), np.zeros(1))
        behind = on_panel((-x, 20 - z), 300, 20)
        assert is_near(panel, on_panel((x, z), 300, 20), drawing.class_color(0))
        assert not is_near(panel, behind, drawing.class_color(0))


def test_the_view_reaches_to_the_farthest_box():
    """From 20 to 100 m; what is beyond is at the upper edge or not seen, and never an error."""
    for z, far in ((5, 20), (50, 55.88), (300, 100)):
        panel = boxes_3d.birds_eye_view((320, 400), solids((0, 1.5, z)), np.zeros(1))
        seen = (np.abs(panel.astype(int) - drawing.class_color(0)).max(-1) < 30).any()
        assert seen == (z < far)
        if seen:
            assert is_near(panel, on_panel((2, z), 400, far), drawing.class_color(0))


def test_the_cameras_field_of_view_is_lighter():
    """300 pixels of focal length and 200 of half a width: 2/3 m at each side for a meter forward."""
    panel = boxes_3d.birds_eye_view((240, 300), solids(), np.zeros(0), (300, 200))
    for x, z, inside in ((0, 5, True), (3, 5, True), (3.7, 5, False), (-3, 5, True), (-3.7, 5, False)):
        column, row = np.round(on_panel((x, z), 300, 20)).astype(int)
        assert panel[row, column].tolist() == list(boxes_3d.VIEW if inside else boxes_3d.GROUND)


def test_wires_touch_the_projected_corners():
    """All eight corners and the middle of each edge, in the class's color, and the cross of the front."""
    corners = solids((0.5, 1, 8), degrees=30)
    canvas = drawn(corners, [2])[:, :400]
    pixels = camera.project(corners[0], CALIB)
    for start, end in camera.EDGES:
        for point in (pixels[start], (pixels[start] + pixels[end]) / 2):
            assert is_near(canvas, point, drawing.class_color(2)), (start, end)
    cross = camera.project(corners[0, [0, 1, 4, 5]].mean(0), CALIB)
    assert is_near(canvas, cross, drawing.class_color(2))
    away = camera.project(corners[0, [2, 3, 6, 7]].mean(0), CALIB)
    assert not is_near(canvas, away, drawing.class_color(2))


def test_labels_are_drawn():
    """As filled rectangles, as wide as their text."""
    areas = [(drawn(solids((0, 1, 8)), texts=[text])[:, :400] == drawing.class_color(0)).all(-1).sum()
             for text in ("car", "car 0.25 8 m")]
    assert 100 < areas[0] < areas[1]


def test_higher_scores_are_on_top():
    corners = solids((0, 1, 8), (0, 1, 8))
    for scores, top in (([0.9, 0.1], 1), ([0.1, 0.9], 2)):
        canvas = drawn(corners, [1, 2], scores=scores)[:, :400]
        for corner in camera.project(corners[0, :4], CALIB):  # labels may hide the upper ones
            assert is_near(canvas, corner, drawing.class_color(top), 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("place, dims", [
    ((1e9, 0, 10), (1.5, 1.6, 4)), ((0, 0, -50), (1.5, 1.6, 4)), ((0, 0, 0), (1.5, 1.6, 4)), ((0, 0, 1), (9, 9, 9)),
    ((-1e9, 1e9, 1e9), (1.5, 1.6, 4)), ((0, 0, 1e6), (1e5, 1e5, 1e5)), ((0, 0, 10), (0, 0, 0)),
    ((0, 0, 0.1), (0, 0, 0)), ((1e5, 1e5, 1e-3), (1e5, 1e5, 1e5)), ((3, 0, 0.8), (1.5, 1.6, 4)),
])
def test_any_place_and_size_is_drawn(place, dims):
    """Far outside, behind, around the camera, without size; other objects are drawn as alone."""
    others = solids((0, 1.5, 14), (2, 1.5, 12))
    corners = np.concatenate([others, solids(place, dims=dims)])
    for size in ((400, 200), (3, 2)):
        found = drawn(corners, [0, 1, 2], size=size)
        assert found.shape == (size[1], size[0] + round(0.8 * size[1]), 3)
    assert is_near(drawn(corners, [0, 1, 2]), camera.project(others[0, 0], CALIB), drawing.class_color(0))


@pytest.mark.parametrize("width, height", [(1, 20_000), (20_000, 1), (4000, 2000)])
def test_large_images_are_drawn_in_time(width, height):
    rng = np.random.default_rng(0)
    corners = camera.corners(rng.uniform(1, 4, (100, 3)), rng.uniform((-40, 1, 1), (40, 2, 90), (100, 3)),
                             rng.uniform(-3, 3, 100))
    start = time.process_time()
    size = drawn(corners, rng.integers(0, 3, 100), size=(width, height)).size
    assert size <= 5 * 3 * width * height
    assert time.process_time() - start < 8
