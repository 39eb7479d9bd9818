"""src/tasks/pose/keypoints.py: names, mirror pairs, several classes; what annotation files may have."""
import numpy as np
import pytest
from pycocotools.cocoeval import Params

from src.tasks.pose import keypoints, targets
from tests.conftest import lines_with, user_error

FOX = {"id": 7, "name": "fox", "keypoints": ["nose", "left_ear", "right_ear", "tail"], "skeleton": [[1, 2], [1, 3]]}
CRAB = {"id": 3, "name": "crab", "keypoints": ["claw_l", "claw_r", "nose"], "skeleton": [[1, 2]]}
STONE = {"id": 5, "name": "stone"}


def metainfo_of(*categories):
    """The metainfo of categories, in label order."""
    ordered = sorted(categories, key=lambda category: category["id"])
    return {"classes": [category["name"] for category in ordered], "category_ids": [one["id"] for one in ordered],
            **keypoints.read_metainfo(list(categories))}


@pytest.mark.parametrize("left, right", [
    ("left_eye", "right_eye"), ("leftear", "rightear"), ("LeftEar", "RightEar"), ("LEFT HIP", "RIGHT HIP"),
    ("l_eye", "r_eye"), ("eye_l", "eye_r"), ("ear-l", "ear-r"), ("ear.L", "ear.R"), ("L_Knee", "R_Knee"),
    ("lHip", "rHip"), ("LHip", "RHip"), ("EarL", "EarR"), ("hind_left_paw2", "hind_right_paw2"), ("l", "r"),
])
def test_mirror_pairs_by_name(left, right):
    names = ["nose", right, "tail_base", left]
    assert keypoints.mirror_pairs(names) == [[3, 1]]
    assert [name for name in names if keypoints.is_sided(name)] == [right, left]


@pytest.mark.parametrize("left, right", [
    ("Lhip", "Rhip"), ("LF_paw", "RF_paw"), ("EarL1", "EarR1"), ("earL_tip", "earR_tip"), ("LANKLE", "RANKLE"),
])
def test_names_that_differ_only_in_l_and_r(left, right):
    assert keypoints.mirror_pairs([right, "nose", left]) == [[2, 0]]
    assert keypoints.mirror_pairs(["nose", left]) == []


@pytest.mark.parametrize("name", ["nose", "collar", "tail_base", "ankle", "Lip", "elbow", "EYELID", "bright_spot",
                                  "upright"])
def test_names_without_a_side(name):
    assert keypoints.mirror_pairs([name, "neck"]) == [] and not keypoints.is_sided(name)


def test_each_keypoint_is_in_one_pair():
    """left_eye_l fits two others; all remain in at most one pair, which the user can override."""
    pairs = keypoints.mirror_pairs(["left_eye_l", "left_eye_r", "right_eye_l", "right_eye_r"])
    assert pairs == [[0, 2], [1, 3]]


def test_classes_share_the_union_of_their_keypoints():
    """In the order of category ids: crab 3, stone 5, fox 7; indices by hand."""
    facts = metainfo_of(FOX, CRAB, STONE)["keypoints"]
    assert facts["names"] == ["claw_l", "claw_r", "nose", "left_ear", "right_ear", "tail"]
    assert facts["of_class"] == [[0, 1, 2], [], [2, 3, 4, 5]]
    assert facts["skeleton"] == [[0, 1], [2, 3], [2, 4]]
    assert facts["flip_idx"] == [[0, 1], [3, 4]]
    assert keypoints.is_keypoints(facts)


@pytest.mark.parametrize("change", [
    {"names": []}, {"names": ["a", "a"]}, {"skeleton": [[0, 6]]}, {"skeleton": [[0]]}, {"flip_idx": [[0, 1], [1, 2]]},
    {"flip_idx": [[2, 2]]}, {"of_class": [[9]]}, {"of_class": None}, {"flip_idx": None}, {"names": "nose"},
])
def test_damaged_metainfo_is_recognized(change):
    assert not keypoints.is_keypoints({**metainfo_of(FOX, CRAB)["keypoints"], **change})


@pytest.mark.parametrize("change, parts", [
    ({"keypoints": ["a", "b", "a"]}, ["fox", "a", "twice"]), ({"keypoints": "nose"}, ["fox", "list of names"]),
    ({"keypoints": [1, 2]}, ["fox", "list of names"]), ({"skeleton": [[0, 1]]}, ["skeleton", "[0, 1]", "1 to 4"]),
    ({"skeleton": [[1, 5]]}, ["skeleton", "[1, 5]", "1 to 4"]), ({"flip_idx": [0, 2, 1, 3]}, ["flip_idx", "[[0, 1]]"]),
    ({"skeleton": [[1, "2"]]}, ["skeleton"]),
    ({"skeleton": 3}, ["skeleton", "3"]), ({"flip_idx": [[0, 4]]}, ["flip_idx", "[0, 4]", "0 to 3"]),
    ({"flip_idx": [[0, 1], [1, 2]]}, ["flip_idx", "keypoint 1", "two pairs"]),
])
def test_invalid_categories(change, parts):
    with user_error(*parts):
        metainfo_of({**FOX, **change})


def test_boxes_fit_detection():
    with user_error("keypoints", "detection"):
        metainfo_of(STONE)


def test_stated_pairs_come_before_names(make_config):
    """dataset_config.flip_idx, then a category's flip_idx, then names."""
    stated = metainfo_of({**FOX, "flip_idx": [[0, 1]]})
    assert stated["keypoints"]["flip_idx"] == [[1, 0]]  # left_ear first
    config = make_config("--dataset_config.flip_idx", "[[0, 3], [1, 2]]")
    assert keypoints.configured(stated, config)["keypoints"]["flip_idx"] == [[0, 3], [1, 2]]
    assert keypoints.configured(stated, make_config()) == stated
    for value, part in (("[[0, 4]]", "[0, 4]"), ("[[0, 1], [1, 2]]", "keypoint 1"), ("[[1, 1]]", "[1, 1]")):
        with user_error("dataset_config.flip_idx", "the command line", part):
            keypoints.configured(stated, make_config("--dataset_config.flip_idx", value))


@pytest.mark.parametrize("value", ["[1, 0]", "[[0, 1, 2]]", "[[0, -1]]", "[[a, b]]", "yes"])
def test_pairs_that_are_no_pairs(value, make_config):
    with user_error("dataset_config.flip_idx", "pairs"):
        make_config("--dataset_config.flip_idx", value)


def test_pairs_of_several_classes():
    """Stated ones, whatever their order and class, then those found in the other names; the left one is first."""
    other = {"id": 9, "name": "hare", "keypoints": ["right_ear", "left_ear", "a", "b", "left_paw", "right_paw"],
             "flip_idx": [[0, 1], [2, 3]]}
    facts = metainfo_of({**FOX, "flip_idx": [[1, 2]]}, other)["keypoints"]
    names = facts["names"]
    assert [[names[index] for index in pair] for pair in facts["flip_idx"]] == [
        ["left_ear", "right_ear"], ["a", "b"], ["left_paw", "right_paw"]]


def test_a_class_without_keypoints_needs_no_skeleton():
    assert metainfo_of(FOX, {**STONE, "skeleton": [[1, 2]]})["keypoints"]["of_class"] == [[], [0, 1, 2, 3]]


def test_notes_on_pairs_and_missing_keypoints():
    """A class keeps the keypoints that one of its objects has."""
    metainfo = metainfo_of({**FOX, "keypoints": ["nose", "left_ear", "right_ear", "left_paw"], "skeleton": []}, CRAB)
    points = np.zeros((3, 6, 3))
    points[0, :3, 2], points[1, [3, 5], 2] = 1, 2  # crab: claws and nose; fox: left_ear, left_paw
    found = keypoints.observed(metainfo, np.array([0, 1, 1]), points.reshape(3, -1))
    assert found["keypoints"]["of_class"] == [[0, 1, 2], [3, 5]]
    remarks, warnings = keypoints.notes(found)
    assert lines_with(remarks, "left_ear/right_ear") and lines_with(remarks, "no object has right_ear")
    assert lines_with(warnings, "left_paw", "dataset_config.flip_idx") and "ear" not in warnings[0]
    assert keypoints.notes(metainfo_of(FOX))[1] == []
    with user_error("no object has a labeled keypoint", "detection"):
        keypoints.observed(metainfo, np.array([0]), np.zeros((1, 18)))


@pytest.mark.parametrize("content, expected", [
    ({"categories": [FOX], "annotations": [{"keypoints": [1, 2, 2]}]}, True),
    ({"categories": [FOX], "annotations": [{"keypoints": [1, 2, 0]}, {"bbox": [1, 2, 3, 4]}]}, False),
    ({"categories": [STONE], "annotations": [{"keypoints": [1, 2, 2]}]}, False),
    ({"categories": [FOX], "annotations": "x"}, False), ({"categories": {"a": FOX}, "annotations": [3, None]}, False),
    ({"categories": [FOX], "annotations": [{"keypoints": "abc"}, {"keypoints": 3}]}, False), ({}, False),
])
def test_the_task_fits_labeled_keypoints(content, expected):
    assert keypoints.fits(content) == expected


def test_an_annotation_gets_the_keypoints_of_all_classes():
    """Those of another class are absent, and so are invisible ones, whatever their coordinates."""
    metainfo = metainfo_of(FOX, CRAB)
    entry = {"category_id": 7, "keypoints": [1, 2, 2, 3, 4, 1, 5, 6, 0, 7, 8, 2]}
    targets.check_annotation(entry, metainfo, {})
    assert entry["num_keypoints"] == 3
    assert np.reshape(entry["keypoints"], (6, 3)).tolist() == [
        [0, 0, 0], [0, 0, 0], [1, 2, 2], [3, 4, 1], [0, 0, 0], [7, 8, 2]]
    stone = {"category_id": 5, "keypoints": [0, 0, 0, 0, 0, 0]}  # of a class without keypoints
    targets.check_annotation(stone, metainfo_of(FOX, STONE), {})
    assert stone["keypoints"] == [0] * 12 and stone["num_keypoints"] == 0
    plain = {"category_id": 3}
    targets.check_annotation(plain, metainfo, {})
    assert plain == {"category_id": 3, "keypoints": [0] * 18, "num_keypoints": 0}


@pytest.mark.parametrize("values, parts", [
    ([1, 2, 2, 3], ["4 values", "4 keypoints"]), ([1, 2, 2] * 5, ["15 values"]), ([1, 2, 7] * 4, ["visibility 7"]),
    ([float("nan"), 2, 2] * 4, ["not numbers"]), (["1", 2, 2] * 4, ["not numbers"]), ("abc", ["not numbers"]),
    ([1, 2, -1] * 4, ["visibility -1"]), ([1, 2, 0.5] * 4, ["visibility 0.5"]), ({"a": 1}, ["not numbers"]),
    ([10**400, 2, 2] * 4, ["not numbers"]), ([1e10, 2, 2] * 4, ["not numbers", "1e+09"]),
    ([None] * 12, ["not numbers"]), (3, ["not numbers"]),
])
def test_invalid_keypoints(values, parts):
    with user_error(*parts):
        targets.check_annotation({"category_id": 7, "keypoints": values}, metainfo_of(FOX), {})


def test_sigmas():
    """COCO's, by name in any order, are pycocotools'; otherwise one value, or those given."""
    names = keypoints.COCO_NAMES
    np.testing.assert_allclose(keypoints.sigmas_of(names, []), Params("keypoints").kpt_oks_sigmas)
    np.testing.assert_allclose(keypoints.sigmas_of(names[::-1], [])[-1], 0.026)
    assert keypoints.sigmas_of(names[:13], []).tolist() == [0.05] * 13
    assert keypoints.sigmas_of(["a", "b"], [0.1]).tolist() == [0.1, 0.1]
    assert keypoints.sigmas_of(["a", "b"], [0.1, 0.2]).tolist() == [0.1, 0.2]
    with user_error("3 numbers", "2 keypoints"):
        keypoints.sigmas_of(["a", "b"], [0.1, 0.2, 0.3])


def test_chosen_keypoints():
    assert keypoints.chosen(["a", "b", "c"], ["c", "a"]).tolist() == [True, False, True]
    assert keypoints.chosen(["a", "b"], []).tolist() == [True, True]
    with user_error("eval_config.keypoints", "d", "a, b"):
        keypoints.chosen(["a", "b"], ["a", "d"])
