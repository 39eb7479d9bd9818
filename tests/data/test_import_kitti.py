"""KITTI's labels, and 3D boxes in COCO files, in tools/import_dataset.py; results are computed by hand."""
import json
import os

import cv2
import numpy as np
import pytest

from src.commands import import_dataset
from src.data.labels.formats import list_files, recognize
from src.data.labels.kitti import parse_line
from tests.conftest import assert_user_error, call_script, lines_with, user_error
from tests.data.test_import_dataset import coco_content, write, write_many

KNOWN = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"
CAR = "Car 0.25 1 -1.58 10 4 30.5 20 1.65 1.67 3.64 -0.65 1.71 46.7 -1.59"  # in 64x24 pixels
PERSON = "Pedestrian 0.00 0 0.20 40 2 50 22 1.80 0.60 0.90 3.5 1.6 12 0.41"
REGION = "DontCare -1 -1 -10 1 1 9 9 -1 -1 -1 -1000 -1000 -1000 -10"
NAMES = ["Pedestrian", "Car", "Cyclist", "Van", "Truck", "Person_sitting", "Tram", "Misc", "DontCare"]
ROW = "P2: 7.2e+02 0 32.5 44.5 0 700 12.5 2.5e-01 0 0 1 0.5"
MATRIX = [[720, 0, 32.5, 44.5], [0, 700, 12.5, 0.25], [0, 0, 1, 0.5]]
CALIB = f"P0: {' 1' * 12}\nP1: {' 2' * 12}\n{ROW}\nP3: {' 3' * 12}\nR0_rect: 1 0 0 0 1 0 0 0 1\n\n"
SOLID = ("dim", "location", "depth", "alpha", "rotation_y")


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


def write_pixels(path, width=64, height=24):
    os.makedirs(path.parent, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))


def write_kitti(home, labels, lists=None, ending="png"):
    """Write 64x24 images with calibrations and labels {number: lines}, in a folder such as in/training, and lists
    {path next to it: numbers}."""
    for number, lines in labels.items():
        write_pixels(home / f"image_2/{number:06}.{ending}")
        write(home / f"label_2/{number:06}.txt", lines)
        write(home / f"calib/{number:06}.txt", CALIB)
    for path, numbers in (lists or {}).items():
        write(home.parent / path, "".join(f"{number:06}\n" for number in numbers))


def content_of(folder, split):
    return json.loads((folder / f"out/annotations/kitti_{split}.json").read_text())


def numbers_of(folder):
    """{split: numbers of its images} of an output; checks that the images exist."""
    found = {}
    for path in sorted((folder / "out/annotations").iterdir()):
        content = json.loads(path.read_text())
        split = path.stem.removeprefix("kitti_")
        names = [image["file_name"] for image in content["images"]]
        assert sorted(names) == sorted(os.listdir(folder / "out/images" / split))
        found[split] = [int(name.split(".")[0]) for name in names]
    return found


# ---------------------------------------------------------------- labels


def test_a_line_of_kitti():
    """614.12 - 587.01 = 27.11 and 200.12 - 173.33 = 26.79, as in the paper's tool; 27.11 x 26.79 = 726.2769."""
    name, found = parse_line(KNOWN)
    assert name == "Car" and found == {
        "bbox": pytest.approx([587.01, 173.33, 27.11, 26.79]), "area": pytest.approx(726.2769), "iscrowd": 0,
        "dim": [1.65, 1.67, 3.64], "location": [-0.65, 1.71, 46.7], "depth": 46.7, "alpha": -1.58, "rotation_y": -1.59,
        "truncated": 0.0, "occluded": 0}
    assert parse_line(f"{KNOWN} 0.93") == (name, found)
    assert parse_line(KNOWN.replace(" ", "\t")) == (name, found)


def test_an_import_of_kitti(tmp_path, run):
    """Every field, the categories of both splits, images, and an image without objects."""
    write_kitti(tmp_path / "in/training", {0: f"{CAR}\n{REGION}\n", 7: PERSON, 8: ""},
                {"ImageSets/train.txt": [0, 8], "ImageSets/val.txt": [7]})
    found, output = run()
    assert numbers_of(tmp_path) == {"train": [0, 8], "val": [7]} and found["training/image_2/000008.png"] == []
    car, region = found["training/image_2/000000.png"]
    assert car == {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 4, 20.5, 16], "area": 328, "iscrowd": 0,
                   "dim": [1.65, 1.67, 3.64], "location": [-0.65, 1.71, 46.7], "depth": 46.7, "alpha": -1.58,
                   "rotation_y": -1.59, "truncated": 0.25, "occluded": 1}
    assert region == {"id": 2, "image_id": 1, "category_id": 9, "bbox": [1, 1, 8, 8], "area": 64, "iscrowd": 0,
                      "dim": [-1, -1, -1], "location": [-1000, -1000, -1000], "depth": -1000, "alpha": -10,
                      "rotation_y": -10, "truncated": -1, "occluded": -1}
    for split in ("train", "val"):
        content = content_of(tmp_path, split)
        assert [(entry["id"], entry["name"]) for entry in content["categories"]] == [*enumerate(NAMES, 1)]
        assert [image["calib"] for image in content["images"]] == [MATRIX] * len(content["images"])
        assert [(image["width"], image["height"]) for image in content["images"]][0] == (64, 24)
    assert lines_with(output, "KITTI", "training/label_2") and lines_with(output, "0 images or objects skipped")
    assert lines_with(output, "train: 2 images", "ImageSets/train.txt")
    assert [line.split() for line in output.partition("\nnext:")[0].splitlines()[-14:-8]] == [
        ["train", "val"], ["images", "2", "1"], ["without", "boxes", "1", "0"], ["boxes", "2", "1"],
        ["Pedestrian", "0", "1"], ["Car", "1", "0"]]
    assert os.path.samefile(tmp_path / "in/training/image_2/000007.png", tmp_path / "out/images/val/000007.png")


def test_an_image_of_kittis_size(tmp_path, run):
    write_kitti(tmp_path / "in/training", {1: KNOWN, 2: CAR})
    write_pixels(tmp_path / "in/training/image_2/000001.png", 1242, 375)
    assert run()[0]["training/image_2/000001.png"][0]["bbox"] == pytest.approx([587.01, 173.33, 27.11, 26.79])


@pytest.mark.parametrize("bad, expected", [
    ("Car 0 0 0", ["4 columns", "15"]), (f"{CAR} 0.5 1", ["17 columns", "16 with a score"]), ("Car", ["1 columns"]),
    (f"Big {CAR}", ["numbers"]), (CAR.replace("0.25", "x"), ["numbers"]), (CAR.replace("46.7", "nan"), ["nan"]),
    (CAR.replace("-1.58", "inf"), ["inf"]), (CAR.replace("10", "-inf"), ["-inf"]), (f"{CAR} nan", ["nan"]),
    (CAR.replace("3.64", "1e300"), ["1e300"]), (CAR.replace("0.25 1", "0.25 0.5"), ["occluded 0.5"]),
    (CAR.replace("46.7", "0"), ["depth 0"]), (CAR.replace("46.7", "-3"), ["depth -3"]),
    (CAR.replace("1.67", "0"), ["[1.65, 0.0, 3.64]"]), (CAR.replace("1.65", "-1"), ["[-1.0, 1.67, 3.64]"]),
    (CAR.replace("30.5", "9"), ["without area"]), (CAR.replace("10 4 30.5 20", "64 4 90 20"), ["outside", "64x24"]),
    (CAR.replace("10 4 30.5 20", "40 2 50 22").replace("Car", "Pedestrian"), ["same box and class"]),
])
def test_invalid_labels_are_skipped(tmp_path, run, bad, expected):
    """The image keeps its other labels; without another one it is skipped, since it does not prove an absence."""
    write_kitti(tmp_path / "in/training", {1: f"{PERSON}\n\n{bad}\n", 2: CAR, 3: bad})
    found, output = run()
    if "same box" not in expected[0]:  # which is an object where no other is
        assert sorted(found) == [f"training/image_2/00000{number}.png" for number in (1, 2)]
        assert lines_with(output, "skipped image training/image_2/000003.png: ", "1 annotations")
        assert lines_with(output, "skipped training/label_2/000003.txt, line 1: ", *expected)
    assert [entry["category_id"] for entry in found["training/image_2/000001.png"]] == [1]
    assert lines_with(output, "skipped training/label_2/000001.txt, line 3: ", *expected)


def test_types_that_kitti_does_not_have(tmp_path, run):
    """They follow KITTI's nine classes, sorted; names that differ in capitals are other classes, which is noted."""
    write_kitti(tmp_path / "in/training", {1: "\n".join([CAR.replace("Car", "car"), CAR.replace("Car", "Bus")]),
                                           2: CAR.replace("Car", "轿车")})
    found, output = run()
    names = [entry["name"] for entry in content_of(tmp_path, "val")["categories"]]
    assert names == [*NAMES, "Bus", "car", "轿车"]
    assert [entry["category_id"] for entry in found["training/image_2/000001.png"]] == [11, 10]
    assert lines_with(output, "Bus, car, 轿车") and lines_with(output, "'Car' and 'car'")


def test_a_region_without_labels_may_be_all_that_an_image_has(tmp_path, run):
    write_kitti(tmp_path / "in/training", {1: CAR, 2: REGION})
    found, output = run()
    assert [entry["category_id"] for entry in found["training/image_2/000002.png"]] == [9]
    assert lines_with(output, "0 images or objects skipped")


# ---------------------------------------------------------------- calibrations


@pytest.mark.parametrize("text, expected", [
    (None, "calib/000003.txt"), ("", "calib/000003.txt"), (CALIB.replace("P2", "P9"), "P2"),
    (CALIB.replace(ROW, "P2: 1 2 3"), "calib/000003.txt"), (CALIB.replace(ROW, f"{ROW} 1"), "calib/000003.txt"),
    (CALIB.replace(ROW, ROW.replace("44.5", "nan")), "calib/000003.txt"),
    (CALIB.replace(ROW, ROW.replace("44.5", "inf")), "calib/000003.txt"),
    (CALIB.replace(ROW, ROW.replace("44.5", "x")), "calib/000003.txt"),
    (CALIB.replace(ROW, ROW.replace("0 0 1 0.5", "0 0 0 1")), "singular"),
    (CALIB.replace(ROW, ROW.replace("7.2e+02", "-720")), "-720"), (CALIB.replace(ROW, ROW.replace(" 700", " 0")), "0"),
])
def test_an_image_without_a_calibration_is_skipped(tmp_path, run, text, expected):
    write_kitti(tmp_path / "in/training", {1: CAR, 2: CAR, 3: CAR})
    path = tmp_path / "in/training/calib/000003.txt"
    path.unlink() if text is None else write(path, text)
    found, output = run()
    assert sorted(found) == [f"training/image_2/00000{number}.png" for number in (1, 2)]
    assert lines_with(output, "skipped image training/image_2/000003.png: ", expected)
    assert lines_with(output, "1 images or objects skipped")
    assert len(run("--task", "detection")[0]) == 3


def test_a_folder_without_calibrations(tmp_path, run):
    """One sentence, not one for each image; boxes alone need none."""
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON})
    (tmp_path / "in/training/calib").rename(tmp_path / "calib")
    with user_error(str(tmp_path / "in"), "training/calib", "--task detection"):
        run()
    assert len(run("--task", "detection")[0]) == 2


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("home", ["training", "", "kitti/object/training", "kitti", "my training"])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_layouts(tmp_path, run, home, ending):
    """Without lists, images are split off for validation."""
    write_kitti(tmp_path / "in" / home, {1: CAR, 2: PERSON, 3: CAR, 4: PERSON}, ending=ending)
    write_pixels(tmp_path / "in" / home / f"image_3/000001.{ending}")
    found, output = run("--val_fraction", 0.5)
    assert sorted(found) == [os.path.join(home, f"image_2/00000{number}.{ending}") for number in range(1, 5)]
    assert [len(numbers) for numbers in numbers_of(tmp_path).values()] == [2, 2]
    assert lines_with(output, "2 of 4 images", "--val_fraction 0.5")
    assert lines_with(output, "1 images are in no list", "image_3/000001") and lines_with(output, "KITTI", "label_2")


@pytest.mark.parametrize("place", ["ImageSets", "ImageSets_3dop", "ImageSets/3dop", "training/ImageSets"])
@pytest.mark.parametrize("choice", [False, True])
def test_one_folder_of_lists(tmp_path, run, place, choice):
    """Lists of KITTI's split and the test images' list; the only folder may be named, too."""
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON, 3: CAR, 4: PERSON},
                {f"{place}/train.txt": [1, 3], f"{place}/val.txt": [2], f"{place}/trainval.txt": [1, 2, 3],
                 f"{place}/test.txt": [9]})
    _, output = run(*["--kitti_split", place.split("/")[-1].removeprefix("ImageSets_")] * choice)
    assert numbers_of(tmp_path) == {"train": [1, 3], "val": [2]}
    assert lines_with(output, "1 images are in no list", "000004.png")


@pytest.mark.parametrize("places", [["ImageSets_3dop", "ImageSets_subcnn"], ["ImageSets/3dop", "ImageSets/subcnn"]])
def test_several_folders_of_lists(tmp_path, run, places):
    lists = {f"{places[0]}/train.txt": [1], f"{places[0]}/val.txt": [2], f"{places[1]}/train.txt": [3],
             f"{places[1]}/val.txt": [4]}
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON, 3: CAR, 4: PERSON}, lists)
    for args in ([], ["--kitti_split", "other"]):
        with user_error(str(tmp_path / "in"), "--kitti_split 3dop or subcnn", *args[1:]):
            run(*args)
    for name, expected in (("3dop", [[1], [2]]), ("subcnn", [[3], [4]]), (places[1], [[3], [4]])):
        run("--kitti_split", name)
        assert [*numbers_of(tmp_path).values()] == expected


def test_folders_of_lists_with_the_same_name(tmp_path, run):
    lists = {f"{place}/{split}.txt": [number] for place, numbers in (("ImageSets_a", (1, 2)), ("ImageSets/a", (2, 1)))
             for split, number in zip(("train", "val"), numbers)}
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON}, lists)
    with user_error("--kitti_split ImageSets/a or ImageSets_a"):
        run("--kitti_split", "a")
    run("--kitti_split", "ImageSets/a")
    assert numbers_of(tmp_path) == {"train": [2], "val": [1]}


def test_names_in_lists(tmp_path, run):
    """Blank lines, CRLF, a byte order mark and repeated names; a name without an image is skipped."""
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON, 3: CAR}, {"ImageSets/val.txt": [2]})
    (tmp_path / "in/ImageSets/train.txt").write_bytes(b"\xef\xbb\xbf000001\r\n\r\n 000003\t\r\n000001\r\n000077\r\n"
                                                      b"../../000002\r\n\n")
    _, output = run()
    assert numbers_of(tmp_path) == {"train": [1, 3], "val": [2]}
    assert lines_with(output, "skipped image 000077 of ImageSets/train.txt: ")
    assert lines_with(output, "skipped image ../../000002 of ") and lines_with(output, "2 images or objects skipped")
    (tmp_path / "in/ImageSets/train.txt").write_bytes(b"000001\n\xe9\n")
    with user_error("ImageSets/train.txt: not a list of images"):
        run()


def test_lists_of_one_split(tmp_path, run):
    """trainval stands in for a missing train; a validation split is made if there is none."""
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON, 3: CAR}, {"ImageSets/trainval.txt": [1, 2]})
    assert lines_with(run()[1], "1 of 2 images", "--val_fraction")
    write(tmp_path / "in/ImageSets/val.txt", "000001\n")
    run()
    assert numbers_of(tmp_path) == {"train": [2], "val": [1]}


def test_test_images(tmp_path, run):
    """They have calibrations and no labels; results of a detector are none."""
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON}, {"ImageSets/train.txt": [1], "ImageSets/val.txt": [2]})
    write_kitti(tmp_path / "in/testing", {0: f"{CAR} 0.9", 1: ""})
    found, output = run()
    assert numbers_of(tmp_path) == {"test": [0, 1], "train": [1], "val": [2]}
    test = content_of(tmp_path, "test")
    assert test["annotations"] == [] and [image["calib"] for image in test["images"]] == [MATRIX] * 2
    assert lines_with(output, "test: 2 images of testing", "no labels")
    (tmp_path / "in/testing/calib").rename(tmp_path / "calib")
    assert lines_with(run()[1], "testing is not imported", "calib") and [*numbers_of(tmp_path)] == ["train", "val"]


def test_links_to_the_images(tmp_path, run):
    """The paper's layout has a link images/trainval to image_2; a folder is listed once, by either name."""
    write_kitti(tmp_path / "kitti/training", {1: CAR, 2: PERSON})
    for place, target in (("images/trainval", "image_2"), ("training/image_2", "image_2"),
                          ("training/label_2", "label_2"), ("training/calib", "calib")):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / place).symlink_to(tmp_path / "kitti/training" / target)
    found, output = run()
    assert len(found) == 2 and lines_with(output, "0 images or objects skipped")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_recognition(tmp_path):
    """Nearest to the top, rather training than another folder; other folders are none of KITTI's."""
    for home in ("training", "other", "deep/training"):
        write_kitti(tmp_path / "in" / home, {1: CAR})
    found = recognize(tmp_path / "in", list_files(tmp_path / "in"))
    assert [(entry.form, entry.detail) for entry in found] == [("kitti", "training/label_2")]
    for files in (["image_2/1.png", "label_3/1.txt"], ["label_2/1.txt"], ["a/image_2/1.png", "b/label_2/1.txt"]):
        assert recognize(tmp_path, files) == []


# ---------------------------------------------------------------- hostile files


def test_hostile_label_files(tmp_path, run):
    """CRLF, a byte order mark and tabs are read; an image whose label file is missing or not text is skipped."""
    write_kitti(tmp_path / "in/training", dict.fromkeys(range(1, 8), CAR))
    labels = tmp_path / "in/training/label_2"
    (labels / "000001.txt").write_bytes(b"\xef\xbb\xbf" + CAR.encode() + b"\r\n" + PERSON.encode() + b" \r\n\r\n")
    (labels / "000002.txt").write_bytes(CAR.replace(" ", "\t").encode())
    (labels / "000003.txt").write_bytes(CAR.encode() + "\nVélo".encode("latin-1") + CAR[3:].encode())
    (labels / "000004.txt").unlink()
    (labels / "000005.txt").write_bytes(CAR.encode() + b"\n\0\0\0\n" + b"Car " + b"9" * 5000)
    (tmp_path / "in/training/image_2/000006.png").write_bytes(b"no image")
    write(labels / "000099.txt", CAR)
    found, output = run()
    assert [len(found[f"training/image_2/00000{number}.png"]) for number in (1, 2, 5, 7)] == [2, 1, 1, 1]
    for name, expected in (("image training/image_2/000003.png", "000003.txt"),
                           ("image training/image_2/000004.png", "000004.txt"),
                           ("training/label_2/000005.txt, line 2", "1 columns"),
                           ("training/label_2/000005.txt, line 3", "2 columns"),
                           ("image training/image_2/000006.png", ""), ("training/label_2/000099.txt", "no image")):
        assert lines_with(output, f"skipped {name}: ", expected), name
    assert len(found) == 4 and lines_with(output, "6 images or objects skipped")


def test_an_image_in_two_formats(tmp_path, run):
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON})
    write_pixels(tmp_path / "in/training/image_2/000001.jpg")
    found, output = run()
    assert sorted(found) == ["training/image_2/000001.png", "training/image_2/000002.png"]
    assert lines_with(output, "1 images are in no list", "000001.jpg")


def test_a_path_with_a_space_and_a_second_run(tmp_path, console):
    """The earlier output is kept; a foreign one is not overwritten."""
    write_kitti(tmp_path / "my data/training", {1: CAR, 2: PERSON})
    args = ["tools/import_dataset.py", "--input", "my data", "--output", "the output"]
    for _ in range(2):
        assert "--coco_data_dir 'the output'" in call_script(*args, cwd=tmp_path).stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my data", "the output", "the output.1"]
    assert (tmp_path / "the output.1/annotations/kitti_train.json").is_file()
    write(tmp_path / "foreign/annotations/kitti_train.json", coco_content({}, []))
    assert_user_error(call_script(*args[:-1], "foreign", cwd=tmp_path, check=False), "foreign ")


# ---------------------------------------------------------------- tasks


def test_boxes_of_kitti(tmp_path, run):
    """Training would take a crowd for a box, so that regions without labels are dropped, with their class."""
    write_kitti(tmp_path / "in/training", {1: f"{CAR}\n{REGION}", 2: f"{PERSON}\n{CAR.replace('Car', 'Bus')}",
                                           3: REGION}, {"ImageSets/train.txt": [1, 3], "ImageSets/val.txt": [2]})
    found, output = run("--task", "detection")
    assert sorted(os.listdir(tmp_path / "out/annotations")) == ["train.json", "val.json"]
    assert found["training/image_2/000001.png"] == [{
        "id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 4, 20.5, 16], "area": 328, "iscrowd": 0,
        "truncated": 0.25, "occluded": 1}]
    assert found["training/image_2/000003.png"] == [] and lines_with(output, "2 DontCare regions")
    content = json.loads((tmp_path / "out/annotations/val.json").read_text())
    assert "calib" not in content["images"][0]
    assert [(entry["id"], entry["name"]) for entry in content["categories"]] == [*enumerate(NAMES[:8], 1), (10, "Bus")]
    assert [entry["category_id"] for entry in content["annotations"]] == [1, 10]


@pytest.mark.parametrize("task", ["auto", "ddd"])
def test_3d_boxes_of_kitti(tmp_path, run, task):
    write_kitti(tmp_path / "in/training", {1: f"{CAR}\n{REGION}", 2: PERSON})
    found, output = run("--task", task)
    assert all(field in entry for entries in found.values() for entry in entries for field in SOLID)
    assert [*numbers_of(tmp_path)] == ["train", "val"] and not lines_with(output, "regions")


def test_tasks_that_do_not_fit(tmp_path, run):
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON})
    with user_error(str(tmp_path / "in"), "keypoints", "--task detection"):
        run("--task", "pose")
    write_kitti(tmp_path / "in/training", {1: REGION, 2: REGION})
    with user_error(str(tmp_path / "in"), "3D box", "--task detection"):
        run("--task", "ddd")
    write_many(tmp_path / "yolo", range(3))
    for option in (["--task", "ddd"], ["--kitti_split", "3dop"]):
        with user_error(str(tmp_path / "yolo"), "3D box" if "ddd" in option else "yolo"):
            import_dataset.main(["--input", str(tmp_path / "yolo"), "--output", str(tmp_path / "out"), *option])
    assert not (tmp_path / "out").exists()


def test_choices_without_lists(tmp_path, run):
    write_kitti(tmp_path / "in/training", {1: CAR, 2: PERSON})
    with user_error(str(tmp_path / "in"), "ImageSets", "--kitti_split"):
        run("--kitti_split", "3dop")
    (tmp_path / "other").mkdir()
    write_pixels(tmp_path / "other/a.png")
    for args, expected in (([], "KITTI"), (["--format", "kitti"], "label_2")):
        with user_error(str(tmp_path / "other"), expected):
            import_dataset.main(["--input", str(tmp_path / "other"), "--output", str(tmp_path / "out"), *args])


# ---------------------------------------------------------------- COCO files with 3D boxes


def paper_content(number, *lines):
    """A file as from the paper's tool: entries without width, height, area, iscrowd and supercategory."""
    entries = []
    for line in lines:
        name, found = parse_line(line)
        del found["area"], found["iscrowd"]
        entries.append({**found, "image_id": number, "id": len(entries) + 1, "category_id": NAMES.index(name) + 1,
                        "truncated": int(found["truncated"])})
    return {"images": [{"file_name": f"{number:06}.png", "id": number, "calib": MATRIX}], "annotations": entries,
            "categories": [{"name": name, "id": category} for category, name in enumerate(NAMES, 1)]}


def write_paper(folder, train, val):
    for split, number, content in (("train", 0, train), ("val", 5, val)):
        write(folder / f"annotations/kitti_3dop_{split}.json", content)
        write_pixels(folder / f"images/trainval/{number:06}.png")


def test_the_papers_files(tmp_path, run):
    write_paper(tmp_path / "in", paper_content(0, CAR, REGION), paper_content(5, PERSON))
    found, output = run()
    assert numbers_of(tmp_path) == {"train": [0], "val": [5]}
    car, region = found["images/trainval/000000.png"]
    assert car == {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 4, 20.5, 16], "area": 328, "iscrowd": 0,
                   "dim": [1.65, 1.67, 3.64], "location": [-0.65, 1.71, 46.7], "depth": 46.7, "alpha": -1.58,
                   "rotation_y": -1.59, "truncated": 0, "occluded": 1}
    assert (region["category_id"], region["dim"], region["depth"]) == (9, [-1, -1, -1], -1000)
    content = content_of(tmp_path, "val")
    assert content["images"][0]["calib"] == MATRIX and content["images"][0]["width"] == 64
    assert [(entry["id"], entry["name"]) for entry in content["categories"]] == [*enumerate(NAMES, 1)]
    assert lines_with(output, "COCO", "kitti_3dop_train.json") and lines_with(output, "0 images or objects skipped")
    found, output = run("--task", "detection")
    assert not any(field in entry for entries in found.values() for entry in entries for field in SOLID)
    assert found["images/trainval/000000.png"][0]["occluded"] == 1 and lines_with(output, "1 DontCare regions")
    assert sorted(os.listdir(tmp_path / "out/annotations")) == ["train.json", "val.json"]
    with user_error("keypoints"):
        run("--task", "pose")


@pytest.mark.parametrize("change, expected", [
    ({"dim": [1, 2]}, "dim [1, 2]"), ({"dim": "1 2 3"}, "dim"), ({"dim": [1, 2, 0]}, "[1, 2, 0]"),
    ({"depth": 0}, "depth 0"), ({"depth": None}, "depth None"), ({"depth": float("nan")}, "depth nan"),
    ({"location": [1, 2, None]}, "location"), ({"alpha": "x"}, "alpha x"), ({"rotation_y": [1]}, "rotation_y"),
])
def test_invalid_3d_boxes_of_coco_files(tmp_path, run, change, expected):
    train = paper_content(0, CAR, PERSON)
    train["annotations"][1].update(change)
    write_paper(tmp_path / "in", train, paper_content(5, PERSON))
    found, output = run()
    assert [entry["category_id"] for entry in found["images/trainval/000000.png"]] == [2]
    assert lines_with(output, "skipped annotation 2 of images/trainval/000000.png: ", expected)
    assert len(run("--task", "detection")[0]["images/trainval/000000.png"]) == 2


@pytest.mark.parametrize("calib", [None, "missing", [[1, 0, 0]], MATRIX[:2], "abc", [[0] * 4] * 3, {"a": 1},
                                   [[float("nan"), *MATRIX[0][1:]], *MATRIX[1:]]])
def test_invalid_calibrations_of_coco_files(tmp_path, run, calib):
    """Boxes alone need none."""
    train = paper_content(0, CAR)
    train["images"].append({**train["images"][0], "id": 1, "file_name": "000001.png", "calib": calib})
    train["annotations"].append({**train["annotations"][0], "image_id": 1, "id": 2})
    if calib == "missing":
        del train["images"][1]["calib"]
    write_paper(tmp_path / "in", train, paper_content(5, PERSON))
    write_pixels(tmp_path / "in/images/trainval/000001.png")
    found, output = run()
    assert len(found) == 2 and lines_with(output, "skipped image images/trainval/000001.png: it", "calib")
    assert len(run("--task", "detection")[0]) == 3


def test_other_fields_of_coco_files(tmp_path, run):
    """Without 3D boxes, a field calib is not read, and no class is one of regions."""
    for split in ("train", "val"):
        content = coco_content({1: f"{split}.png"}, [(1, 1, [1, 2, 3, 4])], ((1, "DontCare"),))
        content["images"][0].update(calib="factory", width=64, height=24)
        content["annotations"][0]["depth"] = "far"
        write(tmp_path / f"in/{split}.json", content)
        write_pixels(tmp_path / f"in/{split}.png")
    for args in ([], ["--task", "detection"]):
        found, output = run(*args)
        assert found["train.png"][0]["depth"] == "far" and lines_with(output, "0 images or objects skipped")
        assert sorted(os.listdir(tmp_path / "out/annotations")) == ["train.json", "val.json"]
    with user_error("3D box", "--task detection"):
        run("--task", "ddd")


def test_an_import_can_be_imported(tmp_path, console):
    """3D boxes and calibrations stay the same, also those of test images."""
    write_kitti(tmp_path / "in/training", {1: f"{CAR}\n{REGION}", 2: PERSON})
    write_kitti(tmp_path / "in/testing", {1: ""})
    for source, target in (("in", "first"), ("first", "second")):
        import_dataset.main(["--input", str(tmp_path / source), "--output", str(tmp_path / target)])
    for split in ("train", "val", "test"):
        first, second = (json.loads((tmp_path / name / f"annotations/kitti_{split}.json").read_text())
                         for name in ("first", "second"))
        assert first["annotations"] == second["annotations"] and first["categories"] == second["categories"]
        assert [[image[name] for name in ("file_name", "calib", "width")] for image in first["images"]] == [
            [image[name] for name in ("file_name", "calib", "width")] for image in second["images"]], split


def test_a_folder_of_both_formats(tmp_path, run):
    """The paper's folder after its tool has run."""
    write_kitti(tmp_path / "in/training", {0: CAR, 5: PERSON}, {"ImageSets_3dop/train.txt": [0],
                                                                "ImageSets_3dop/val.txt": [5]})
    for split, number, line in (("train", 0, CAR), ("val", 5, PERSON)):
        write(tmp_path / f"in/annotations/kitti_3dop_{split}.json", paper_content(number, line))
    with user_error("--format coco or kitti"):
        run()
    numbers = [numbers_of(tmp_path) for form in ("coco", "kitti") if run("--format", form)]
    assert numbers == [{"train": [0], "val": [5]}] * 2
