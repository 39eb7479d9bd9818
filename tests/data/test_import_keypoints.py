"""Keypoints in tools/import_dataset.py: folders in every format, written by hand; results are computed by hand."""
import json

import pytest

from src.commands import import_dataset
from src.data.labels.formats import recognize
from src.data.labels.keypoints import bounding_box, place_keypoints
from tests.conftest import lines_with, user_error
from tests.data.test_import_dataset import coco_content, write, write_image, write_many, write_yolo

NAMES = ["nose", "left_ear", "right_ear"]
POINTS = [30, 20, 2, 50, 20, 1, 0, 0, 0]
FIELDS = {"keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}


@pytest.fixture
def run(tmp_path, console):
    """run(args...) imports tmp_path/in to tmp_path/out: ({path of an image: [annotation]} of all splits, output)."""
    def call(*args):
        import_dataset.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *map(str, args)])
        found = {}
        for path in (tmp_path / "out/annotations").iterdir():
            content = json.loads(path.read_text())
            for image in content["images"]:
                entries = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
                found[image["source"]] = entries
        return found, console.readouterr().out

    return call


def files_of(folder):
    return sorted(path.name for path in (folder / "out/annotations").iterdir())


def category_of(folder, split="train", number=0):
    content = json.loads((folder / f"out/annotations/person_keypoints_{split}2017.json").read_text())
    return content["categories"][number]


def fields_of(folder, split="train", number=0):
    """The fields of keypoints of a written category."""
    return {name: value for name, value in category_of(folder, split, number).items()
            if name not in ("id", "name", "supercategory")}


def write_coco(folder, changes, fields=None, name="person_keypoints_{}2017.json", classes=((1, "cat"), (2, "dog"))):
    """Write a.jpg (training) with annotations of class 1 and box 10, 10, 60, 40, changed by each of `changes`, and
    b.jpg (validation) with one that has POINTS; fields belong to class 1."""
    fields = FIELDS if fields is None else fields
    for split, image, changed in (("train", "a", changes), ("val", "b", [{"keypoints": POINTS, "num_keypoints": 2}])):
        content = coco_content({1: f"{image}.jpg"}, [(1, 1, [10, 10, 60 + number, 40])
                                                     for number in range(len(changed))], classes)
        for entry, change in zip(content["annotations"], changed):
            entry.update(change)
            for field in [field for field, value in entry.items() if value is None]:
                del entry[field]
        content["categories"][0].update(fields)
        write(folder / "annotations" / name.format(split), content)
        write_image(folder / f"{image}.jpg")


# ---------------------------------------------------------------- COCO


@pytest.mark.parametrize("name", ["person_keypoints_{}2017.json", "{}.json", "{}/_annotations.coco.json"])
def test_keypoints_and_skeleton_of_coco_files(tmp_path, run, name):
    """An absent keypoint has no place, and num_keypoints are those that are labeled, whatever the file says."""
    write_coco(tmp_path / "in", [{"keypoints": [30.5, 20, 2, 50, 20, 1, 7, 7, 0], "num_keypoints": 3}], name=name)
    found, output = run()
    assert found["a.jpg"][0]["keypoints"] == [30.5, 20, 2, 50, 20, 1, 0, 0, 0]
    assert [found[image][0]["num_keypoints"] for image in ("a.jpg", "b.jpg")] == [2, 2]
    assert found["a.jpg"][0]["bbox"] == [10, 10, 60, 40]
    assert files_of(tmp_path) == ["person_keypoints_train2017.json", "person_keypoints_val2017.json"]
    assert fields_of(tmp_path) == fields_of(tmp_path, "val") == FIELDS and fields_of(tmp_path, "train", 1) == {}
    assert [line.split() for line in output.partition("\nnext:")[0].splitlines()[-4:-1]] == [
        ["cat", "1", "1"], ["dog", "0", "0"], ["with", "keypoints", "1", "1"]]
    assert " 0 " not in output.partition("\nnext:")[0].splitlines()[-2] and "0 images or objects skipped" in output


def test_cvats_keypoints_export(tmp_path, run):
    """CVAT numbers its keypoints from 1, as COCO; a track's keyframe without points has a box of zeros."""
    content = coco_content({1: "a.png", 2: "b.png", 3: "c.png"}, [(1, 1, [1, 2, 30, 40]), (2, 1, [1, 2, 30, 40]),
                                                                 (3, 1, [0, 0, 0, 0])], ((1, "mouse"), (2, "cage")))
    for entry in content["annotations"][:2]:
        entry.update(keypoints=[10.21, 20, 2, 30, 41, 1], num_keypoints=1, attributes={"occluded": False})
    content["annotations"][2].update(keypoints=[], num_keypoints=0)
    content["categories"][0].update(keypoints=["1", "2"], skeleton=[[1, 2]])
    content["categories"][1].update(keypoints=[], skeleton=[])
    write(tmp_path / "in/annotations/person_keypoints_default.json", content)
    for name in "abc":
        write_image(tmp_path / f"in/images/default/{name}.png")
    found, output = run()
    assert found["images/default/a.png"][0]["keypoints"] == [10.21, 20, 2, 30, 41, 1] and len(found) == 2
    assert fields_of(tmp_path) == {"keypoints": ["1", "2"], "skeleton": [[1, 2]]}
    assert lines_with(output, "CVAT", "person_keypoints_default.json")
    assert lines_with(output, "skipped ", ": annotation 3 ")


@pytest.mark.parametrize("box", [None, [], [0, 0, 0, 0], [30, 20, 20, 0]])
def test_keypoints_without_a_box(tmp_path, run, box):
    """30 to 50 by 20: margins of 12; 8 to 92 by 30 to 40: a quarter of 84, clipped to 100x80 pixels."""
    many = [8, 30, 2, 92, 40, 2, 0, 0, 0]
    write_coco(tmp_path / "in", [{"bbox": box, "keypoints": POINTS, "area": None},
                                 {"bbox": box, "keypoints": many, "area": 0}, {"bbox": box, "keypoints": [0] * 9}])
    found, output = run()
    assert [entry["bbox"] for entry in found["a.jpg"]] == [[18, 8, 44, 24], [0, 9, 100, 52]]
    assert [entry["area"] for entry in found["a.jpg"]] == [44 * 24, 100 * 52]
    assert found["a.jpg"][0]["keypoints"] == POINTS and "no_box" not in found["a.jpg"][0]
    assert lines_with(output, "2 objects", "no box", "quarter", "12 pixels")
    assert lines_with(output, "skipped ", ": annotation 3 ", "box")
    found, output = run("--task", "detection")
    assert [entry["bbox"] for entry in found["a.jpg"]] == [[18, 8, 44, 24], [0, 9, 100, 52]]
    assert "keypoints" not in found["a.jpg"][0] and files_of(tmp_path) == ["train.json", "val.json"]


def test_the_box_around_keypoints():
    """The first mouse of shared data: bounds 20 to 87.1 by 152.7 to 265.9; a quarter of 113.2 is 28.3."""
    mouse = [21.5, 265.4, 2, 33.8, 265.9, 2, 20.0, 250.1, 2, 87.1, 152.7, 2]
    assert bounding_box(mouse, (640, 480)) == pytest.approx([0, 124.4, 115.4, 169.8])
    assert bounding_box([50, 40, 1, 3, 3, 0], (100, 80)) == [38, 28, 24, 24]
    assert bounding_box([95, 5, 2, 95, 75, 2], (100, 80)) == [77.5, 0, 22.5, 80]
    assert not any(bounding_box(bad, (9, 9)) for bad in ([1, 2, 0], [], [1, 2], None, "abc", [float("nan"), 1, 2]))


@pytest.mark.parametrize("bad, expected", [
    ([1, 2], "2 values"), ([1, 2, 2], "3 values"), ([1, 2, 2] * 4, "12 values"), ([5, 5, 7] * 3, "visibility 7"),
    ([5, 5, -1] * 3, "visibility -1"), ([float("nan"), 5, 2] * 3, "not numbers"), ("12", "not numbers"),
    ([5, 5, 1.5] * 3, "visibility 1.5"), ([None, 5, 2] * 3, "not numbers"), ({"nose": [5, 5]}, "not numbers"),
    (7, "not numbers"), ([[5, 5, 2]] * 9, "not numbers"),
])
def test_invalid_keypoints_are_skipped(tmp_path, run, bad, expected):
    """An image whose annotations are all invalid is not one without objects."""
    write_coco(tmp_path / "in", [{"keypoints": bad}, {"keypoints": POINTS}, {"keypoints": bad, "bbox": None}])
    found, output = run()
    assert [entry["keypoints"] for entry in found["a.jpg"]] == [POINTS]
    assert lines_with(output, "skipped annotation 1 of a.jpg: ", expected)
    assert lines_with(output, "skipped ", "annotation 3 of ")
    write_coco(tmp_path / "in", [{"keypoints": bad}])
    with user_error("1 usable image with objects cannot be divided"):
        run()


def test_keypoints_outside_the_image(tmp_path, run):
    """In 100x80 pixels, 1 and 0.8 pixels outside are at the border; farther outside is absent."""
    write_coco(tmp_path / "in", [{"keypoints": [-1, 80.8, 2, 101.1, 20, 2, 50, -5, 1]}, {"keypoints": POINTS}])
    found, output = run()
    assert found["a.jpg"][0]["keypoints"] == [0, 80, 2, 0, 0, 0, 0, 0, 0]
    assert found["a.jpg"][0]["num_keypoints"] == 1
    assert lines_with(output, "2 keypoints", "outside")
    assert place_keypoints([7, 7, 0, 8, 9, 1, 99, 7, 0], (50, 50)) == ([0, 0, 0, 8, 9, 1, 0, 0, 0], 0)


@pytest.mark.parametrize("fields, expected", [
    ({"keypoints": ["a", "b", "a"]}, ["cat", "a", "twice"]), ({"keypoints": [1, 2, 3]}, ["cat", "keypoints"]),
    ({"keypoints": "abc"}, ["cat", "keypoints"]), ({"keypoints": NAMES, "skeleton": [[1, 4]]}, ["skeleton", "[1, 4]"]),
    ({"keypoints": NAMES, "skeleton": [[0, 1]]}, ["skeleton", "[0, 1]", "1 to 3"]),
    ({"keypoints": NAMES, "skeleton": 5}, ["skeleton"]), ({"keypoints": NAMES, "skeleton": [[1, 2, 3]]}, ["skeleton"]),
    ({"keypoints": NAMES, "flip_idx": [[1, 3]]}, ["flip_idx"]),
    ({"keypoints": NAMES, "flip_idx": [[0, 1], [1, 2]]}, ["flip_idx"]),
])
def test_invalid_categories(tmp_path, run, fields, expected):
    write_coco(tmp_path / "in", [{"keypoints": POINTS}], fields)
    with user_error("person_keypoints_train2017.json", *expected):
        run()
    assert run("--task", "detection")[0]["a.jpg"][0]["bbox"] == [10, 10, 60, 40]


def test_files_that_name_different_keypoints(tmp_path, run):
    write_coco(tmp_path / "in", [{"keypoints": POINTS}])
    path = tmp_path / "in/annotations/person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["keypoints"] = ["nose", "tail", "right_ear"]
    write(path, content)
    with user_error("person_keypoints_val2017.json", "cat", "tail", "left_ear"):
        run()


def test_annotations_and_classes_without_keypoints(tmp_path, run):
    """Those of a class with keypoints have none that is labeled; those of other classes are boxes."""
    write_coco(tmp_path / "in", [{"keypoints": POINTS}, {}, {"category_id": 2, "keypoints": POINTS},
                                 {"category_id": 2, "keypoints": POINTS, "bbox": None}])
    found, output = run()
    assert [entry.get("keypoints") for entry in found["a.jpg"]] == [POINTS, [0] * 9, None, None]
    assert [entry.get("num_keypoints") for entry in found["a.jpg"]] == [2, 0, None, None]
    assert found["a.jpg"][3]["bbox"] == [18, 8, 44, 24]
    assert lines_with(output, "2 annotations", "keypoints", "category")


def test_labels_whose_keypoints_are_all_absent_are_boxes(tmp_path, run):
    write_coco(tmp_path / "in", [{}])
    write_coco(tmp_path / "in", [{}], name="{}.json")
    for name in ("person_keypoints_train2017", "person_keypoints_val2017"):
        (tmp_path / f"in/annotations/{name}.json").unlink()
    path = tmp_path / "in/annotations/val.json"
    write(path, path.read_text().replace('"keypoints": [30, 20, 2, 50, 20, 1, 0, 0, 0]', '"keypoints": []'))
    found, output = run()
    assert files_of(tmp_path) == ["train.json", "val.json"] and "keypoints" not in found["a.jpg"][0]
    assert lines_with(output, "no object", "keypoints", "cat")
    with user_error(str(tmp_path / "in"), "keypoints", "--task detection"):
        run("--task", "pose")


def test_boxes_next_to_keypoints(tmp_path, run):
    """COCO's own files: boxes, unless keypoints are chosen."""
    write_coco(tmp_path / "in", [{"keypoints": POINTS}])
    write_coco(tmp_path / "in", [{"bbox": [1, 2, 3, 4]}], {}, "instances_{}2017.json")
    for kind in ("captions", "image_info"):
        write(tmp_path / f"in/annotations/{kind}_val2017.json", coco_content({}, []))
    found, output = run()
    assert found["a.jpg"][0]["bbox"] == [1, 2, 3, 4] and files_of(tmp_path) == ["train.json", "val.json"]
    assert lines_with(output, "person_keypoints_train2017.json", "--task pose")
    found, output = run("--task", "pose")
    assert found["a.jpg"][0]["bbox"] == [10, 10, 60, 40] and found["a.jpg"][0]["keypoints"] == POINTS
    assert "instances" not in output and lines_with(output, "COCO", "annotations/person_keypoints_train2017.json")
    assert "--task pose" not in run("--task", "detection")[1]


def test_equal_names_keep_the_keypoints_of_either(tmp_path, run):
    """Roboflow's first class groups the others, and may have the name of a real one."""
    write_coco(tmp_path / "in", [{"keypoints": POINTS, "category_id": 2}], {}, classes=((1, "cat"), (2, "cat")))
    for split in ("train", "val"):
        path = tmp_path / f"in/annotations/person_keypoints_{split}2017.json"
        content = json.loads(path.read_text())
        content["categories"][1].update(FIELDS)
        write(path, content)
    found, _ = run()
    assert fields_of(tmp_path) == FIELDS and found["a.jpg"][0]["keypoints"] == POINTS


# ---------------------------------------------------------------- YOLO


TRAIN = "images/train/a.jpg"
YAML = "train: images/train\nval: images/val\nnames: [mouse, rat]\n"


def write_pose(folder, lines, description):
    write_yolo(folder, {TRAIN: lines, "images/val/b.jpg": lines.splitlines()[0]}, YAML + description)


@pytest.mark.parametrize("description, fields, noted", [
    ("kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nkpt_names: {0: [nose, left_ear, right_ear]}",
     {"keypoints": NAMES, "flip_idx": [[1, 2]]}, []),
    ("kpt_shape: [3, 3]\nkpt_names: [nose, left_ear, right_ear]", {"keypoints": NAMES}, []),
    ("kpt_shape: [3, 3]\nflip_idx: [2, 1, 0]",
     {"keypoints": ["keypoint_1", "keypoint_2", "keypoint_3"], "flip_idx": [[0, 2]]}, ["data.yaml", "kpt_names"]),
    ("kpt_shape:\n- 3\n- 3", {"keypoints": ["keypoint_1", "keypoint_2", "keypoint_3"]},
     ["kpt_names", "flip_idx", "dataset_config.flip_idx"]),
])
def test_yolos_pose_labels(tmp_path, run, description, fields, noted):
    """In 100x80 pixels; a point without visibility is absent, wherever it is."""
    write_pose(tmp_path / "in", "0 .5 .5 .6 .5 .3 .25 2 .5 .25 1 .9 9 0\n1 .5 .5 1 1 0 0 2 1 1 2 0 0 0", description)
    found, output = run()
    assert [entry["keypoints"] for entry in found[TRAIN]] == [POINTS, [0, 0, 2, 100, 80, 2, 0, 0, 0]]
    assert [entry["bbox"] for entry in found[TRAIN]] == [pytest.approx([20, 20, 60, 40]), [0, 0, 100, 80]]
    assert [entry["num_keypoints"] for entry in found[TRAIN]] == [2, 2]
    assert fields_of(tmp_path) == fields and [*category_of(tmp_path, number=1)["keypoints"]]
    assert bool(lines_with(output, "kpt_names")) == bool(noted) and (not noted or lines_with(output, *noted))
    assert ("flip_idx" in output) == ("flip_idx" in noted)


def test_yolos_pose_labels_without_visibility(tmp_path, run):
    write_pose(tmp_path / "in", "0 .5 .5 .6 .5 .3 .25 .5 .25 0 0\n0 .5 .5 .6 .6 0 .5 .1 0 0 0", "kpt_shape: [3, 2]")
    assert [entry["keypoints"] for entry in run()[0]["images/train/a.jpg"]] == [
        [30, 20, 2, 50, 20, 2, 0, 0, 0], [0, 40, 2, 10, 0, 2, 0, 0, 0]]


def test_yolos_pose_labels_as_boxes(tmp_path, run):
    write_pose(tmp_path / "in", "0 .5 .5 .6 .5 .3 .25 .5 .25 0 0", "kpt_shape: [3, 2]")
    found, _ = run("--task", "detection")
    assert found[TRAIN][0]["bbox"] == pytest.approx([20, 20, 60, 40]) and "keypoints" not in found[TRAIN][0]
    assert files_of(tmp_path) == ["train.json", "val.json"]


@pytest.mark.parametrize("points", [".3 .25 2 .5 .25 1 0 0 0", ".3 .25 2 .5 .25 1 0 0 0 .4 .4 2"])
def test_yolos_pose_labels_without_their_shape(tmp_path, run, points):
    """Lines of an even or an odd number of values: neither a box nor a polygon."""
    write_pose(tmp_path / "in", f"0 .5 .5 .6 .5\n0 .5 .5 .6 .5 {points}", "")
    assert lines_with(run()[1], "keypoints need kpt_shape in data.yaml")


def test_bad_lines_of_pose_labels(tmp_path, run):
    """Coordinates may be outside by 0.01, and are clipped, as those of boxes; all boxes differ."""
    bad = ["0 .5 .5 .2 .2", "0 .5 .5 .2 .2 .1 .1 2", "0 .5 .5 .2 .2 .1 .1 2 .1 .1 2 0 0", "0 .5 .5 .2 .2 .1 .1 7 0 0 0",
           "0 .5 .5 .2 .2 .1 .1 nan 0 0 0", "0 .5 .5 .2 .2 nan .1 2 0 0 0", "0 .5 .5 .2 .2 1.02 .1 2 0 0 0",
           "0 .5 .5 .2 .2 .1 -.02 1 0 0 0", "0 .5 .5 .2 .2 .1 .1 -1 0 0 0", "0 .5 .5 .2 .2 .1 .1 .9 0 0 0",
           "0 .5 .5 .2 .2 x .1 2 0 0 0", "9 .5 .5 .2 .2 .1 .1 2 0 0 0"]
    bad = [line.replace(".2 .2", f".2 .2{number}") for number, line in enumerate(bad, 10)]
    write_pose(tmp_path / "in", "\n".join(["0 .5 .5 .2 .2 1.005 -.01 2 .5 .5 1", *bad]), "kpt_shape: [2, 3]")
    found, output = run()
    assert [entry["keypoints"] for entry in found[TRAIN]] == [[100, 0, 2, 50, 40, 1]]
    for number in range(2, 2 + len(bad)):
        assert output.count(f"skipped labels/train/a.txt, line {number}: ") == 1
    for number, expected in ((2, "5 numbers"), (3, "expected 11"), (5, "visibility 7"), (7, "nan"), (8, "1.02"),
                             (9, "-0.02")):
        assert lines_with(output, f"line {number}: ", expected), number
    assert lines_with(output, f"{len(bad)} images or objects skipped")


@pytest.mark.parametrize("description, expected", [
    ("kpt_shape: 3", "kpt_shape"), ("kpt_shape: [3]", "kpt_shape"), ("kpt_shape: [3, 4]", "kpt_shape"),
    ("kpt_shape: [0, 3]", "kpt_shape"), ("kpt_shape: [999999999, 3]", "kpt_shape"), ("kpt_shape: [-3, 3]", "kpt_shape"),
    ("kpt_shape: {3: 3}", "kpt_shape"), ("kpt_shape: [[3], 3]", "kpt_shape"),
    ("kpt_shape: [2, 3]\nflip_idx: [0]", "flip_idx"), ("kpt_shape: [2, 3]\nflip_idx: [1, 1]", "flip_idx"),
    ("kpt_shape: [2, 3]\nflip_idx: [1, 2]", "flip_idx"), ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", "flip_idx"),
    ("kpt_shape: [2, 3]\nflip_idx: [-1, 0]", "flip_idx"), ("kpt_shape: [2, 3]\nflip_idx: x", "flip_idx"),
    ("kpt_shape: [2, 3]\nkpt_names: [a]", "kpt_names"), ("kpt_shape: [2, 3]\nkpt_names: [a, a]", "kpt_names"),
    ("kpt_shape: [2, 3]\nkpt_names: {x: [a, b]}", "kpt_names"), ("kpt_shape: [2, 3]\nkpt_names: ab", "kpt_names"),
    ("kpt_shape: [2, 3]\nkpt_names: {0: [[a], b]}", "kpt_names"),
])
def test_invalid_keypoints_of_a_description(tmp_path, run, description, expected):
    write_pose(tmp_path / "in", "0 .5 .5 .6 .5 .3 .25 2 .5 .25 1", description)
    with user_error(f"data.yaml: {expected} "):
        run()


# ---------------------------------------------------------------- DeepLabCut


CONFIG = "Task: reach\nscorer: me\nskeleton:\n- - nose\n  - tail\n- - nose\n  - objectA\n"


def write_table(path, parts, rows, individuals=None, wide=False):
    """Write a table of DeepLabCut and its images; rows {image: [cells]}; wide: the image takes three columns."""
    start, names = [""] * 2 * wide, [part for part in parts for _ in "xy"]
    lines = [["scorer", *start, *["me"] * len(names)]]
    if individuals:
        lines.append(["individuals", *start, *(individual for individual in individuals for _ in "xy")])
    lines += [["bodyparts", *start, *names], ["coords", *start, *["x", "y"] * len(parts)]]
    for image, cells in rows.items():
        name = f"labeled-data/{path.parent.name}/{image}"
        lines.append([*(name.split("/") if wide else [name]), *map(str, cells)])
        write_image(path.parent / image)
    write(path, "\n".join(map(",".join, lines)) + "\n")


@pytest.mark.parametrize("wide", [False, True])
def test_a_deeplabcut_project(tmp_path, run, wide):
    """Two videos, whose frames share a name, one of them renamed, and a bodypart that was added later."""
    data = tmp_path / "in/labeled-data"
    write_table(data / "one/CollectedData_me.csv", ["nose", "tail"],
                {"img1.png": [30.5, 20, 50, 20], "img2.png": ["", "", "nan", "NaN"]}, wide=wide)
    write_table(data / "two/CollectedData_me.csv", ["nose", "ear", "tail"],
                {"img1.png": [8, 30, "", "", 92, 40], "img3.png": ["", "", 50, 40, "", ""]}, wide=wide)
    write_table(tmp_path / "in/training-datasets/iteration-0/x/CollectedData_me.csv", ["nose"], {}, wide=wide)
    write(tmp_path / "in/config.yaml", CONFIG)
    (data / "two").rename(data / "second")
    write_image(data / "second_labeled/img1.png")
    found, output = run("--val_fraction", 0.3)
    assert {image: [(entry["keypoints"], entry["bbox"]) for entry in entries] for image, entries in found.items()} == {
        "labeled-data/one/img1.png": [([30.5, 20, 2, 50, 20, 2, 0, 0, 0], [18.5, 8, 43.5, 24])],
        "labeled-data/second/img1.png": [([8, 30, 2, 92, 40, 2, 0, 0, 0], [0, 9, 100, 52])],
        "labeled-data/second/img3.png": [([0, 0, 0, 0, 0, 0, 50, 40, 2], [38, 28, 24, 24])]}
    assert category_of(tmp_path) == {"id": 1, "name": "animal", "supercategory": "none",
                                     "keypoints": ["nose", "tail", "ear"], "skeleton": [[1, 2]]}
    assert lines_with(output, "DeepLabCut", "labeled-data/one/CollectedData_me.csv")
    assert "training-datasets" not in output
    assert lines_with(output, "skipped image labeled-data/one/img2.png")
    assert lines_with(output, "1 of 2 ", "skeleton") and lines_with(output, "3 objects", "no box", "quarter")
    assert lines_with(output, "1 images are in no list", "second_labeled/img1.png")
    assert lines_with(output, "1 of 3 images", "--val_fraction")


def test_several_animals(tmp_path, run):
    """All are one class; the individual "single" has the bodyparts that are not an animal's."""
    folder = tmp_path / "in"
    write_table(folder / "CollectedData_me.csv", ["nose", "tail", "nose", "tail", "corner"],
                {"a.png": [1, 2, 3, 4, 50, 60, 70, 75, 9, 9], "b.png": [1, 2, "", "", "", "", "", "", 9, 9]},
                ["m1", "m1", "m2", "m2", "single"])
    found, output = run()
    assert sorted(entry["keypoints"] for entry in found["a.png"]) == [[1, 2, 2, 3, 4, 2], [50, 60, 2, 70, 75, 2]]
    assert [entry["keypoints"] for entry in found["b.png"]] == [[1, 2, 2, 0, 0, 0]]
    assert fields_of(tmp_path) == {"keypoints": ["nose", "tail"]} and lines_with(output, "corner", "not imported")


def test_bad_cells_and_tables(tmp_path, run):
    """Windows writes \\ in names; a frame that is not in the table's folder is not taken from another video."""
    data = tmp_path / "in/labeled-data"
    good = {f"{name}.png": [5, 6, 7, 8] for name in "ab"}
    bad = {"c.png": [5, "", 7, 8], "d.png": ["x", 6, 7, 8], "e.png": ["inf", 6, 7, 8], "f.png": [1e300, 6, 7, 8],
           "g.png": [5]}
    write_table(data / "one/CollectedData_me.csv", ["nose", "tail"], {**good, **bad, "gone.png": [5, 6, 7, 8]})
    path = data / "one/CollectedData_me.csv"
    write(path, path.read_text().replace("labeled-data/one/a", "labeled-data\\one\\a"))
    (data / "one/gone.png").unlink()
    write_image(data / "two/gone.png")
    for name, text in {"v": "scorer,me\nbodyparts,nose\n", "w": "scorer,me,me\nbodyparts,nose,nose\ncoords,x,x\n",
                       "x": "scorer,me\nbodyparts,nose\ncoords,x\nimg.png,1\n", "y": "scorer,\0,\"\n"}.items():
        write(data / name / "CollectedData_me.csv", text)
    write(data / "z/CollectedData_me.csv", "")
    (data / "z/CollectedData_me.csv").write_bytes(b"scorer,\xff\xfe")
    found, output = run()
    assert sorted(found) == ["labeled-data/one/a.png", "labeled-data/one/b.png"]
    for name in "cdefg":
        assert lines_with(output, f"skipped labeled-data/one/{name}.png, animal: ")
    assert lines_with(output, "skipped image labeled-data/one/gone.png")
    for name in "vwxyz":
        assert lines_with(output, f"skipped labeled-data/{name}/CollectedData_me.csv: "), name


def test_a_deeplabcut_folder_of_another_place(tmp_path, run):
    """Only files in the folder are read: neither the configuration above it nor frames of other folders."""
    write(tmp_path / "config.yaml", CONFIG)
    write_table(tmp_path / "in/CollectedData_me.csv", ["nose", "tail"], {"a.png": [5, 6, 7, 8], "b.png": [5, 6, 7, 8]})
    path = tmp_path / "in/CollectedData_me.csv"
    write(path, path.read_text() + "labeled-data/in/../../../outside.png,1,2,3,4\n")
    write_image(tmp_path / "outside.png")
    found, output = run()
    assert sorted(found) == ["a.png", "b.png"] and fields_of(tmp_path) == {"keypoints": ["nose", "tail"]}
    assert lines_with(output, "skipped", "outside.png")


# ---------------------------------------------------------------- the command


def test_tasks_that_do_not_fit(tmp_path, run):
    write_many(tmp_path / "in", range(3))
    with user_error(str(tmp_path / "in"), "keypoints", "--task detection"):
        run("--task", "pose")
    assert not (tmp_path / "out").exists()


def test_an_import_can_be_imported(tmp_path, console):
    """Keypoints, boxes, skeleton and mirror pairs stay the same."""
    write_coco(tmp_path / "in", [{"keypoints": POINTS}], {**FIELDS, "flip_idx": [[1, 2]]})
    for source, target in (("in", "first"), ("first", "second")):
        import_dataset.main(["--input", str(tmp_path / source), "--output", str(tmp_path / target)])
    for split in ("train", "val"):
        first, second = (json.loads((tmp_path / name / f"annotations/person_keypoints_{split}2017.json").read_text())
                         for name in ("first", "second"))
        assert first["annotations"] == second["annotations"] and first["categories"] == second["categories"]
        assert first["categories"][0]["flip_idx"] == [[1, 2]]


def test_recognition(tmp_path):
    write_table(tmp_path / "v/CollectedData_me.csv", ["nose"], {"a.png": [1, 2]})
    write(tmp_path / "w/CollectedData_me.csv", "name,x,y\n")
    files = ["v/CollectedData_me.csv", "v/a.png", "w/CollectedData_me.csv"]
    assert [(entry.form, entry.detail) for entry in recognize(tmp_path, files)] == [
        ("deeplabcut", "v/CollectedData_me.csv")]
