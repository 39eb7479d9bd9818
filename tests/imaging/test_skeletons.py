"""src/imaging/skeletons.py."""
import time

import cv2
import numpy as np
import pytest

from src.imaging.drawing import luminance
from src.imaging.skeletons import draw_keypoints

BONE = [[0, 1]]


def line(x1, y1, x2, y2, score=1.0, other_score=1.0):
    """An object of two joints."""
    return [[x1, y1, score], [x2, y2, other_score]]


def hue(pixel):
    """In degrees, by OpenCV, whose unit is two of them."""
    return 2 * int(cv2.cvtColor(np.uint8([[pixel]]), cv2.COLOR_BGR2HSV)[0, 0, 0])


def saturation(pixel):
    return int(cv2.cvtColor(np.uint8([[pixel]]), cv2.COLOR_BGR2HSV)[0, 0, 1]) / 255


def changed(drawn, value):
    return (drawn != value).any(-1)


def test_joints_and_bones_are_drawn_in_place():
    image = np.full((200, 200, 3), 127, np.uint8)
    drawn = draw_keypoints(image, np.array([line(30, 50, 170, 50)]), BONE)
    assert (image == 127).all()
    seen = np.argwhere(changed(drawn, 127))
    np.testing.assert_allclose([seen.min(0), seen.max(0)], [[50, 30], [50, 170]], atol=6)
    assert changed(drawn, 127)[50, 30:171].all()  # the bone


def test_a_bone_needs_both_joints():
    """Without one of them, and without a skeleton, only joints are drawn; an absent joint is not drawn at 0, 0."""
    image = np.full((200, 200, 3), 127, np.uint8)
    there, absent = [150, 50, 0.9], [0, 0, 0]
    for keypoints, skeleton in (([absent, there], BONE), ([[30, 50, 0.9], there], [])):
        drawn = changed(draw_keypoints(image, np.array([keypoints]), skeleton), 127)
        assert drawn[50, 150] and not drawn[:20, :20].any() and not drawn[:, 60:120].any()
    for keypoints in (np.zeros((3, 2, 3)), np.zeros((0, 2, 3))):
        assert not changed(draw_keypoints(image, keypoints, BONE), 127).any()


def test_left_and_right_have_colors():
    """Joints 0 and 1 are left, 2 and 3 right, 4 is neither. Left is green to blue, right pink to orange."""
    joints = [[40, 40, 1], [40, 160, 1], [160, 40, 1], [160, 160, 1], [100, 20, 1]]
    skeleton, pairs = [[0, 1], [2, 3], [1, 3], [0, 4], [4, 2]], [[0, 2], [1, 3]]
    for number in range(7):  # of the object
        objects = np.zeros((number + 1, 5, 3))
        objects[number] = joints
        drawn = draw_keypoints(np.zeros((200, 200, 3), np.uint8), objects, skeleton, pairs)
        for y, x in ((40, 40), (100, 40), (30, 70)):
            assert 120 <= hue(drawn[y, x]) <= 220 and saturation(drawn[y, x]) > 0.7
        for y, x in ((40, 160), (100, 160), (30, 130)):
            assert (hue(drawn[y, x]) + 60) % 360 <= 95 and saturation(drawn[y, x]) > 0.7
        for y, x in ((160, 100), (20, 100)):  # from left to right, and the joint in the middle
            assert saturation(drawn[y, x]) < 0.3
    assert saturation(draw_keypoints(drawn, np.array([joints]), skeleton)[100, 40]) < 0.3  # no pairs: no sides


def test_objects_have_different_shades_and_the_first_is_on_top():
    across, down = line(20, 100, 180, 100), line(100, 20, 100, 180)
    for objects in ([across, down], [down, across]):
        drawn = draw_keypoints(np.full((200, 200, 3), 127, np.uint8), np.array(objects), BONE, [[0, 1]])
        ends = [drawn[int(joints[0][1]), int(joints[0][0])].astype(int) for joints in objects]
        assert np.abs(ends[0] - ends[1]).max() > 50
        (x, y, _), middle = objects[0][0], drawn[100, 100]
        np.testing.assert_array_equal(middle, drawn[(int(y) + 100) // 2, (int(x) + 100) // 2])


@pytest.mark.parametrize("score, weak, is_ring", [(0.05, 0.1, True), (0.1, 0.1, False), (1, 2, True), (2, 2, False)])
def test_weak_joints_are_rings(score, weak, is_ring):
    """Weak guesses of a detector, and with weak=2 the hidden joints of annotations; their bones are thinner."""
    image, widths = np.full((400, 400, 3), 255, np.uint8), []
    for own in (score, 2):
        drawn = draw_keypoints(image, np.array([line(20, 200, 380, 200, own, 2)]), BONE, weak=weak)
        widths.append(changed(drawn, 255)[:, 150].sum())
        assert (drawn[200, 20].max() < 60) == (is_ring and own == score)
        assert drawn[200, 380].max() > 200
    assert (widths[0] < widths[1]) == is_ring


@pytest.mark.parametrize("background", [0, 60, 127, 200, 255])
@pytest.mark.parametrize("extent", [40, 100, 400])
def test_lines_stand_out_on_any_background(background, extent):
    """Across a bone, the colors next to each other reach WCAG's contrast of 3 for graphics, on both sides."""
    image = np.full((480, 640, 3), background, np.uint8)
    for pairs in ([], [[0, 1], [2, 3]]):
        joints = [[100, 40, 1], [300, 40, 1], [100, 40 + extent, 1], [300, 40 + extent, 1]]
        drawn = draw_keypoints(image, np.array([joints]), [[0, 2], [1, 3]], pairs)
        for x in (100, 300):
            levels = [luminance(color) + 0.05 for color in drawn[40 + extent // 2, x - 12 : x + 13]]
            assert levels[12] / min(levels[:12]) > 3 and levels[12] / min(levels[13:]) > 3


@pytest.mark.parametrize("height, width, extent, bone", [
    (480, 640, 40, (3, 5)), (480, 640, 400, (6, 12)), (3000, 4000, 40, (3, 6)), (3000, 4000, 2500, (25, 60)),
    (128, 128, 100, (3, 5))])
def test_widths_fit_object_and_image(height, width, extent, bone):
    """The pixels that a bone covers with its outline, at 40 as at 2500 pixels."""
    image = np.full((height, width, 3), 127, np.uint8)
    drawn = draw_keypoints(image, np.array([line(20, 10, 20, 10 + extent)]), BONE)[10 + extent // 2]
    assert bone[0] <= (np.abs(drawn.astype(int) - 127).max(-1) > 50).sum() <= bone[1]  # not the smoothed edges


@pytest.mark.parametrize("height, width", [(1, 1), (1, 30000), (61, 6500), (1500, 2000)])
def test_any_image_and_position_is_drawn_in_time(height, width):
    """100 objects of 17 joints, some far outside of the image."""
    rng = np.random.default_rng(0)
    keypoints = np.concatenate([rng.uniform(0, [width, height], (100, 17, 2)), rng.uniform(0, 1, (100, 17, 1))], -1)
    keypoints[0, :4, :2] = [[-1e9, 5], [1e9, 5], [5, -1e9], [3e5, 3e5]]
    start = time.process_time()
    drawn = draw_keypoints(np.zeros((height, width, 3), np.uint8), keypoints, [[a, a + 1] for a in range(16)])
    assert drawn.shape == (height, width, 3) and drawn.any()
    assert time.process_time() - start < 8
