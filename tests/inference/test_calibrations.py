"""src/inference/calibrations.py: the values of --calib."""
import json

import numpy as np
import pytest

from src.inference.calibrations import calibrations, one_calibration, parse_calib, require_camera
from src.tasks.ddd.cameras import KITTI
from tests.conftest import user_error
from tests.metainfo import classes_of

SOLID = {"task": "ddd", "classes": ["a"], "category_ids": [1], "camera": KITTI}
PLAIN = {"task": "detection", **classes_of(1)}
MATRIX = [[700, 0, 600, 45], [0, 710, 180, -0.5], [0, 0, 1, 0.005]]
WORDS = [str(number) for row in MATRIX for number in row]
FOCAL = [[700, 0, 600, 0], [0, 710, 180, 0], [0, 0, 1, 0]]


def test_without_the_option_no_image_has_a_camera():
    """Also for models that need none."""
    for description in (SOLID, PLAIN, {"task": "pose", **classes_of(1)}, {}):
        for values in (None, []):
            assert calibrations(values, description)("a.png") is None and one_calibration(values, description) is None


@pytest.mark.parametrize("values, expected", [
    (WORDS, MATRIX), ([" ".join(WORDS)], MATRIX), (["700", "710", "600", "180"], FOCAL), (["700,710,600,180"], FOCAL),
    (["700, 710,", "600,180"], FOCAL), ([",".join(WORDS)], MATRIX), (["7e2", "710", "+600", "180."], FOCAL),
])
def test_numbers(values, expected):
    of_image = calibrations(values, SOLID)
    np.testing.assert_array_equal(of_image("a/1.png"), expected)
    np.testing.assert_array_equal(of_image(""), expected)
    np.testing.assert_array_equal(one_calibration(values, SOLID), expected)


@pytest.mark.parametrize("values, parts", [
    (["700", "710", "600"], ("3 numbers", "fx fy cx cy")), (["700"], ("1 numbers",)), (["1"] * 13, ("13 numbers",)),
    (["700", "710", "x", "180"], ("'x'", "not a number")), (["700,710,x,180"], ("'x'", "not a number")),
    (["a.txt", "b.txt"], ("'a.txt'", "not a number")), (["700", "710", "nan", "180"], ("finite",)),
    (["700", "710", "inf", "180"], ("finite",)), (["0", "710", "600", "180"], ("focal",)),
    (["-700", "710", "600", "180"], ("focal", "-700")), (["1e200", "1e200", "600", "180"], ("1e+09",)),
    ([*WORDS[:8], "0", "0", "0", "1"], ("singular",)), (["700", "710", "x" * 5000, "180"], ("xxx",)),
])
def test_wrong_numbers_are_named(values, parts):
    """With the option, in a short sentence."""
    for read in (calibrations, one_calibration):
        with user_error("--calib", *parts) as raised:
            read(values, SOLID)
        assert len(str(raised.value)) < 300


def test_wrong_numbers_of_another_option():
    with user_error("calib has 2 numbers; expected four") as raised:
        parse_calib(["1 2"], "calib", "four")
    assert str(raised.value).startswith("calib")


@pytest.mark.parametrize("content", [f"P0: 1\nP2: {' '.join(WORDS)}\n", json.dumps({"calib": MATRIX}),
                                     "\n".join(WORDS)])
def test_a_file_is_for_all_images(content, tmp_path):
    path = tmp_path / "700 calib.txt"  # a name that begins with a number
    path.write_text(content)
    np.testing.assert_array_equal(calibrations([str(path)], SOLID)("b.png"), MATRIX)
    np.testing.assert_array_equal(one_calibration([str(path)], SOLID), MATRIX)


def test_wrong_files_are_named_before_the_first_image(tmp_path):
    (tmp_path / "c.txt").write_text("P0: 1\n")
    for name, part in (("c.txt", "P2:"), ("no.txt", "not found")):
        for read in (calibrations, one_calibration):
            with user_error(name, part):
                read([str(tmp_path / name)], SOLID)


def test_a_folder_has_a_file_for_each_image(tmp_path):
    """By its name without folder and ending; a missing or wrong file is that image's problem."""
    for number in (1, 2):
        (tmp_path / f"{number}.txt").write_text(f"{number}00 710 600 180")
    (tmp_path / "a.b.txt").write_text("900 710 600 180")
    (tmp_path / "3.txt").write_text("words")
    of_image = calibrations([str(tmp_path)], SOLID)
    for path, focal in (("/x/1.png", 100), ("2.jpeg", 200), ("x/y/a.b.png", 900), ("1.mp4", 100)):
        assert of_image(path)[0, 0] == focal
    for path, parts in (("3.png", ("3.txt", "words")), ("4.png", ("4.txt", "not found")), ("", (".txt", "not found"))):
        with pytest.raises(ValueError) as raised:
            of_image(path)
        assert all(part in str(raised.value) for part in parts)


def test_a_folder_is_not_for_all_images(tmp_path):
    with user_error("--calib", tmp_path, "is a folder", "fx fy cx cy"):
        one_calibration([str(tmp_path)], SOLID)


def test_a_file_in_a_folder_is_read_once(tmp_path):
    """Each frame of a video asks for it."""
    (tmp_path / "v.txt").write_text("700 710 600 180")
    of_image = calibrations([str(tmp_path)], SOLID)
    first = of_image("v.mp4")
    (tmp_path / "v.txt").unlink()
    np.testing.assert_array_equal(of_image("v.mp4"), first)


@pytest.mark.parametrize("description", [PLAIN, {"task": "pose", **classes_of(1)}, {}])
def test_models_without_3d_boxes_refuse_a_camera(description, tmp_path):
    """Whatever the values are."""
    for values in (WORDS, ["no.txt"], ["x"], [str(tmp_path)]):
        with user_error("--calib", "3D boxes", "leave it out"):
            calibrations(values, description)
    with user_error("calib is for", "3D boxes"):
        require_camera(description, "calib")
    require_camera(SOLID, "calib")
