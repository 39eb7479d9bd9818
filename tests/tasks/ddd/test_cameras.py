"""src/tasks/ddd/cameras.py: the camera of a data set, of an image, and the factor of depths."""
import copy
import json
import math
import types

import numpy as np
import pytest

from src.imaging import camera
from src.imaging.view import Fit, View, make_input
from src.tasks import check_metainfo, task_of
from src.tasks.ddd import cameras, results, targets
from tests.conftest import lines_with, user_error

MATRIX = [[200.0, 0.0, 90.0, 10.0], [0.0, 210.0, 55.0, -1.0], [0.0, 0.0, 1.0, 0.01]]
KNOWN = {"matrix": MATRIX, "size": [200, 100], "focal": 100.0}  # an input of 100 pixels
PLAIN, BY_FOCAL = (types.SimpleNamespace(depth_by_focal=value) for value in (False, True))


@pytest.fixture(autouse=True)
def new_warnings():
    cameras.warn_of_focal.cache_clear()


def view_of(width, height, size=(100, 40)):
    """The View of an image of a size in an input of another."""
    return make_input(np.zeros((height, width, 3), np.uint8), 1.0, Fit(False, size, sees_all=False), 4)[1]


def placed(view, calib=None, options=PLAIN, known=KNOWN, down_ratio=4):
    return cameras.placed(view, calib, {"camera": known, "down_ratio": down_ratio}, options)


def scaled(factor):
    """MATRIX with other focal lengths."""
    matrix = np.array(MATRIX)
    matrix[0, 0] *= factor
    matrix[1, 1] *= factor
    return matrix


# ---------------------------------------------------------------- a data set's


def test_the_median_of_the_images():
    """Of every number; images without size or calibration do not count."""
    entries = [{"calib": (np.array(MATRIX) * factor).tolist(), "width": width, "height": 100}
               for factor, width in ((1, 180), (1.1, 200), (3, 900))]
    others = [{"calib": scaled(50).tolist()}, {"width": 5, "height": 5}, {"calib": MATRIX, "width": 0, "height": 7}]
    found = targets.read_metainfo([], entries + others)["camera"]
    np.testing.assert_allclose(found["matrix"], np.array(MATRIX) * 1.1)
    assert found["size"] == [200, 100] and json.loads(json.dumps(found)) == found
    several = cameras.read_metainfo([], entries[:2])["camera"]
    np.testing.assert_allclose(several["matrix"][0][0], 210)
    assert several["size"] == [190, 100]


@pytest.mark.parametrize("images", [(), [{"width": 5, "height": 5}]])
def test_data_without_cameras_has_kittis(images):
    found = cameras.read_metainfo([], images)["camera"]
    assert found["matrix"][0][0] == 707.0493 and found["size"] == [1224, 370]


def test_cameras_of_images_without_sizes():
    """As in the paper's files: their matrices, and KITTI's size."""
    found = cameras.read_metainfo([], [{"calib": MATRIX}])["camera"]
    assert found["matrix"] == MATRIX and found["size"] == [1224, 370]


def test_the_focal_length_at_the_networks_input(make_config):
    """200 pixels in images of 200, in an input of 320: 320; the metainfo of the file stays."""
    known = {"camera": {"matrix": MATRIX, "size": [200, 100]}, "classes": ["a"]}
    before = copy.deepcopy(known)
    found = targets.configured(known, make_config("--dataset_config.input_res_train", "[320, 96]"))
    assert found["camera"]["focal"] == pytest.approx(320) and found["classes"] == ["a"] and known == before


def test_a_data_set_with_another_camera_is_no_error():
    targets.check_same({"camera": KNOWN}, {"camera": cameras.KITTI})


def test_the_camera_is_said():
    (remark,), warnings = targets.notes({"camera": KNOWN})
    assert not warnings and all(part in remark for part in ("200.0 and 210.0", "200x100", "90.0, 55.0", "100 pixels"))
    assert "input" not in targets.notes({"camera": {"matrix": MATRIX, "size": [200, 100]}})[0][0]
    for known, part in ((KNOWN, "1.000 of their width"), (cameras.KITTI, "0.578 of their width")):
        assert part in cameras.camera_note({"camera": known}) and "--calib" in cameras.camera_note({"camera": known})


@pytest.mark.parametrize("damaged", [
    None, [], "x", {}, {"matrix": MATRIX}, {"size": [5, 5]}, {**KNOWN, "matrix": MATRIX[:2]},
    {**KNOWN, "matrix": [[1, 2, 3]] * 3}, {**KNOWN, "matrix": np.zeros((3, 4)).tolist()}, {**KNOWN, "matrix": None},
    {**KNOWN, "matrix": [[math.nan] * 4] * 3}, {**KNOWN, "matrix": [["1"] * 4] * 3}, {**KNOWN, "size": [5]},
    {**KNOWN, "size": [0, 5]}, {**KNOWN, "size": ["5", 5]}, {**KNOWN, "focal": 0}, {**KNOWN, "focal": "100"},
    {**KNOWN, "focal": math.inf}, {**KNOWN, "matrix": [[1e200, 0, 1, 1], [0, 1e200, 1, 1], [0, 0, 1, 0]]},
    {**KNOWN, "matrix": [MATRIX[0], MATRIX[1], [0, 0, 0, 1]]},
])
def test_side_files_with_a_damaged_camera_are_refused(damaged):
    with user_error("camera", "damaged"):
        check_metainfo({"task": "ddd", "classes": ["a"], "camera": damaged})


@pytest.mark.parametrize("good", [KNOWN, cameras.KITTI, {"matrix": MATRIX, "size": [199.5, 100]}])
def test_side_files_with_a_camera(good):
    check_metainfo({"task": "ddd", "classes": ["a"], "camera": json.loads(json.dumps(good))})


# ---------------------------------------------------------------- an image's


def test_an_image_of_the_trainings_size_has_its_camera():
    found = placed(view_of(200, 100))
    np.testing.assert_allclose(found.camera, MATRIX)
    assert found.depth_factor == 1 and found.camera.dtype == np.float64


def test_an_image_of_another_size_has_the_same_field_of_view():
    """Twice the width: everything is doubled, but the horizon stays where it was relative to the middle of the image:
    the principal point is 5 pixels below it, now 10."""
    found = placed(view_of(400, 300)).camera
    np.testing.assert_allclose(found, [[400, 0, 180, 20], [0, 420, 150 + 2 * (55 - 50), -2], [0, 0, 1, 0.01]])
    half = placed(view_of(100, 30)).camera
    np.testing.assert_allclose(half, [[100, 0, 45, 5], [0, 105, 15 + 0.5 * (55 - 50), -0.5], [0, 0, 1, 0.01]])


def test_a_calibration_takes_precedence():
    found = placed(view_of(200, 100), scaled(1.01).tolist())
    np.testing.assert_array_equal(found.camera, scaled(1.01))
    assert found.camera.dtype == np.float64
    original = view_of(200, 100)
    placed(original, scaled(1))
    assert original.camera is None  # the View is a new one


@pytest.mark.parametrize("factor, size, expected", [
    (1, (100, 40), 1), (2, (100, 40), 2), (0.5, (100, 40), 0.5), (1, (200, 80), 2), (2, (48, 40), 0.96),
    (3, (200, 200), 6)])
def test_depths_are_multiplied_by_the_ratio_of_the_focal_lengths(factor, size, expected, console):
    """At the network's input: a camera with twice the focal length, or an input twice as wide, shows an object at 20 m
    as large as the training's one at 10 m."""
    found = placed(view_of(200, 100, size), scaled(factor), BY_FOCAL)
    assert found.depth_factor == pytest.approx(expected)
    assert not console.readouterr().out


@pytest.mark.parametrize("width", [50, 200, 777])
def test_the_default_camera_needs_no_factor(width, console):
    """Its focal length is relative to the image's width."""
    for options in (PLAIN, BY_FOCAL):
        assert placed(view_of(width, 60), options=options).depth_factor == pytest.approx(1)
    assert not console.readouterr().out


def test_another_focal_length_is_a_warning_once(console):
    """Twice as long: an object at 20 m is predicted at 10, which is 50 % off; 2 % are no warning."""
    for _ in range(3):
        assert placed(view_of(200, 100), scaled(2)).depth_factor == 1
    warnings = console.readouterr().out
    assert len(lines_with(warnings, "focal length is 200 pixels", "100 in training", "50 %", "depth_by_focal")) == 1
    placed(view_of(200, 100), scaled(0.5))
    assert lines_with(console.readouterr().out, "50 pixels", "100 in training", "100 %")
    for factor in (1, 1.019, 0.981):
        placed(view_of(200, 100), scaled(factor))
    assert not console.readouterr().out
    placed(view_of(200, 100), scaled(1.03))
    assert lines_with(console.readouterr().out, "103", "3 %")


def test_models_that_do_not_know_their_focal_length(console):
    """The side file of converted weights: no factor, and no warning."""
    known = {"matrix": MATRIX, "size": [200, 100]}
    for options in (PLAIN, BY_FOCAL):
        assert placed(view_of(200, 100), scaled(3), options, known).depth_factor == 1
    assert not console.readouterr().out


def test_an_objects_place_in_the_image_follows_the_default_camera():
    """The same scene in an image of half the size: the same pixel, halved, is the same direction."""
    point = np.array([1.0, 0.5, 8.0])
    whole, half = (placed(view_of(*size)).camera for size in ((200, 100), (100, 50)))
    np.testing.assert_allclose(camera.project(point, half), camera.project(point, whole) / 2)


@pytest.mark.parametrize("task", ["detection", "pose"])
def test_other_tasks_have_no_cameras(task):
    other = task_of({"task": task}).results
    view = view_of(200, 100)
    assert other.placed(view, MATRIX, {}, PLAIN) is view and other.camera_note({}) == ""
    assert other.camera_of({"calib": MATRIX}) is None and other.computed(np.zeros((1, 6))) == {}


def test_the_camera_of_an_annotation_file():
    np.testing.assert_array_equal(results.camera_of({"calib": MATRIX}), MATRIX)
    assert results.camera_of({"id": 1}) is None


def test_views_of_images():
    """The full width is seen, whatever the height; other tasks see everything."""
    view = view_of(200, 300, (100, 40))
    assert view.width == 200 and view.center.tolist() == [100, 150] and view.out_hw == (10, 25)
    whole = make_input(np.zeros((300, 200, 3), np.uint8), 1.0, Fit(False, (100, 40)), 4)[1]
    assert whole.width == 750
    assert isinstance(view, View) and view.camera is None and view.depth_factor == 1
