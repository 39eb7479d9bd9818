"""src/data/check.py and tools/check_dataset.py."""
import io
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from src.data import train_set
from src.data.check import check_split
from src.data.coco import find_split
from src.training import data_preview
from tests.conftest import TINY, assert_user_error, call_script, convert, lines_with, noise_image, write_coco

CLASSES = ("disc", "square")


def check(folder, *args):
    """Run tools/check_dataset.py on a folder; its image goes next to the folder."""
    places = ("--data_dir", folder, "--save_result_dir", folder.parent / "out")
    return call_script("tools/check_dataset.py", *places, *args, check=False)


def heading(output, *fragments):
    """The heading above the first line with these fragments: the unindented line with a kind and its count."""
    lines = output.splitlines()
    place = lines.index(lines_with(lines, *fragments)[0])
    return next(line for line in reversed(lines[:place]) if not line.startswith(" "))


def rewrite(path, change):
    """Change the content of an annotation file."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    change(content)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


@pytest.fixture
def sound(tmp_path):
    """The folder of a small data set without faults."""
    for split, ids in (("train", (1, 2, 3)), ("val", (4, 5))):
        objects = [(image_id, category, [10, 10, 60, 40]) for image_id in ids for category in (1, 2)]
        write_coco(tmp_path / "a data set", split, {number: noise_image(number) for number in ids}, objects)
    return tmp_path / "a data set"


def test_a_sound_data_set(tiny_data, tmp_path):
    small = ["--train_config.batch_size", 2]
    done = call_script("tools/check_dataset.py", *TINY, *small, "--data_dir", tiny_data, cwd=tmp_path)
    assert done.returncode == 0
    assert [table.split()[0] for table in lines_with(done.stdout, " images, 0 without ", "96x96")] == ["20", "6"]
    assert len(lines_with(done.stdout, "warning: ", "train_config.batch_size is 2")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train_batch.jpg"]


def test_only_one_part_is_checked(sound):
    """--split: a missing training split matters only without it; test images need an annotation file."""
    shutil.rmtree(sound / "train2017")
    assert check(sound).returncode == 1
    done = check(sound, "--split", "val")
    assert done.returncode == 0 and lines_with(done.stdout, "val part") and not lines_with(done.stdout, "train: ")
    assert not (sound.parent / "out").exists()  # no training batch
    assert_user_error(check(sound, "--split", "train"), "no usable image in train;")
    (sound / "test2017").mkdir()
    assert_user_error(check(sound, "--split", "test"), "test2017", "eval.py --split test")
    write_coco(sound, "test", {7: noise_image(7), 8: noise_image(8)}, [])
    (sound / "test2017" / "000000000008.jpg").write_bytes(b"no image")
    done = check(sound, "--split", "test")
    assert done.returncode == 1 and lines_with(done.stdout, "image 8 ") and not lines_with(done.stdout, "image 7 ")


def test_the_table_and_image_are_those_of_training(by_operation, tiny_data, tiny_records, tmp_path, make_config,
                                                   console):
    """The image is the same up to rounding of the colors."""
    config = make_config(*TINY, "--mindrecord_dir", tiny_records, "--save_result_dir", tmp_path / "t")
    data_preview.preview_data(config, train_set.TrainSet(config))
    output = console.readouterr().out
    done = call_script("tools/check_dataset.py", *TINY, "--data_dir", tiny_data, "--save_result_dir", tmp_path / "c")
    assert output[: output.rindex("\n", 0, output.index("train_batch.jpg"))] in done.stdout
    one, other = (cv2.imread(str(tmp_path / name / "train_batch.jpg")).astype(int) for name in "tc")
    assert one.std() > 10 and abs(one - other).mean() < 0.05


def test_mindspore_is_not_needed(sound, tmp_path, run_without):
    done = run_without("tools/check_dataset.py", "--data_dir", sound, "--save_result_dir", tmp_path)
    assert done.returncode == 0 and (tmp_path / "train_batch.jpg").exists(), done.stderr


def rotated(width, height):
    """A JPEG of that size with an EXIF rotation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(noise_image(1, height, width)).save(data, "JPEG", exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("quick", [False, True])
def test_image_problems_are_counted_and_named(quick, sound):
    folder = sound / "train2017"
    complete = (folder / "000000000001.jpg").read_bytes()
    files = {11: complete[: len(complete) // 2], 12: b"text", 13: None, 14: complete, 15: rotated(128, 96),
             16: rotated(128, 96), 17: b"", 18: b"x", 19: b"x"}
    sizes = {14: (128, 97), 15: (96, 128), 16: (128, 96)}
    for number, data in files.items():
        if data is not None:
            (folder / f"{number}.jpg").write_bytes(data)

    def change(content):
        for number in files:
            width, height = sizes.get(number, (128, 96))
            content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
            content["annotations"].append({"id": 100 + number, "image_id": number, "category_id": 1,
                                           "bbox": [1, 1, 30, 30]})

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    done = check(sound, *(["--quick"] if quick else []))
    assert done.returncode == 1 and not done.stderr, done.stderr
    unreadable = ("12", "17", "18") if quick else ("11", "12", "17")
    kinds = [heading(done.stdout, f"image {number} ", f"{folder}/{number}.jpg") for number in unreadable]
    assert set(kinds) == {kinds[0]} and kinds[0].startswith(f"{4 if quick else 5} images ") and " read" in kinds[0]
    assert lines_with(done.stdout, f" {1 if quick else 2} more")
    missing = heading(done.stdout, "image 13 ", f"{folder}/13.jpg")
    resized = heading(done.stdout, "image 14 ", "128x96", "128x97")
    assert missing.startswith("1 image") and "missing" in missing
    assert resized.startswith("1 images ") and " size " in resized
    assert lines_with(done.stdout, f"{6 if quick else 5} images, 0 without ")


@pytest.mark.parametrize("quick", [False, True])
def test_dark_images_are_noted(quick, sound):
    """12-bit values in 16 bits, as from thermal cameras, and an overexposed image: noted, but not refused."""
    values = np.random.default_rng(0).integers(200, 3000, (96, 128)).astype(np.uint16)
    for name, image in (("000000000001", values), ("000000000002", values * 21),
                        ("000000000003", np.full((96, 128), 250, np.uint8))):
        data = cv2.imencode(".png", image)[1].tobytes()
        (sound / "train2017" / f"{name}.jpg").write_bytes(data)
    done = check(sound, *(["--quick"] if quick else []))
    assert done.returncode == 0
    if quick:
        noted = heading(done.stdout, "image 1 ", "000000000001.jpg")
        assert noted.startswith("2 images ") and "8 bits" in noted and "--quick" in noted
        assert not lines_with(done.stdout, "image 3 ")
    else:
        dark = heading(done.stdout, "image 1 ", " 0 to 11 of 255", "16 bits", "65535")
        bright = heading(done.stdout, "image 3 ", "250 to 250 of 255")
        assert dark == bright and dark.startswith("2 images ") and "black" in dark
        assert not lines_with(done.stdout, "image 2 ")


def test_box_problems_are_counted_and_named(sound):
    boxes = [[1, 1, 0, 5], [1, 1, 5, -5], [500, 1, 5, 5], [-5, 10, 20, 20], [100, 80, 28.5, 16.5], [1, 1, 5],
             [float("inf"), 1, 1, 1]]

    def change(content):
        content["annotations"] += [{"id": number, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0, "area": 1}
                                   for number, box in enumerate(boxes, 50)]
        content["annotations"].append({"id": 60, "image_id": 1, "category_id": 9, "bbox": [1, 1, 9, 9]})

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    done = check(sound)
    kinds = [heading(done.stdout, f"annotation {number} of image 1") for number in (50, 51, 52, 55, 56, 60)]
    assert kinds[0] == kinds[1] and kinds[3] == kinds[4] == kinds[5] and len(set(kinds)) == 3
    assert [kind.split()[0] for kind in kinds] == ["2", "2", "1", "3", "3", "3"]
    assert " area" in kinds[0] and " outside " in kinds[2]
    assert not any(word in kinds[3] for word in (" area", " outside "))
    assert heading(done.stdout, "image 1 (").startswith("1 boxes ")  # the clipped one; half a pixel is rounding
    assert done.returncode == 0  # conversion and evaluation accept the others


def test_duplicates_are_counted_and_named(sound):
    def change(content):
        first, second = (entry for entry in content["annotations"] if entry["image_id"] == 1)
        content["images"] += [dict(content["images"][2]), {**content["images"][0], "id": 77},
                              {**content["images"][1], "id": 78}]
        content["annotations"] += [{**first, "image_id": 77}, {**second, "image_id": 77}, dict(first)]
        for entry in content["annotations"]:
            entry["id"] = 5

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    done = check(sound, "--dataset_config.keep_empty", "true")
    assert lines_with(done.stdout, "1 images ", "(id 3)")
    assert lines_with(done.stdout, "7 annotation ids ", "(5, 5, 5 and 4 more)")
    assert heading(done.stdout, "000000000001.jpg: 2 ").startswith("1 image files ")
    assert lines_with(done.stdout, "1 image files ", "(000000000002.jpg)")
    assert re.match("1 boxes .* (once|twice)", heading(done.stdout, "annotation 5 of image 1: ", " annotation 5"))


def test_a_data_set_without_objects_or_images_is_an_error(sound):
    """No object in train, with and without keep_empty; no image in either split."""
    rewrite(sound / "annotations" / "instances_train2017.json", lambda content: content.update(annotations=[]))
    done = check(sound, "--dataset_config.keep_empty", "true")
    assert done.returncode == 1 and lines_with(done.stdout, "refused: ", "no object", "3 usable images")
    done = check(sound)
    assert done.returncode == 1 and lines_with(done.stdout, "refused: ", "no usable image")
    for keep_empty, found in (("true", "3 usable images"), ("false", "no usable image")):
        args = ["--coco_data_dir", sound, "--mindrecord_dir", sound.parent / "m",
                "--dataset_config.keep_empty", keep_empty]
        assert_user_error(call_script("src/dataset.py", *args, check=False), found)
    assert not list((sound.parent / "m").iterdir())
    shutil.rmtree(sound / "val2017")
    assert_user_error(check(sound), str(sound))


def test_images_without_objects(sound):
    rewrite(sound / "annotations" / "instances_train2017.json",
            lambda content: content["annotations"].__delitem__(slice(2)))
    done = check(sound)
    left_out = heading(done.stdout, "image 1 (")
    assert left_out.startswith("1 images ") and "dataset_config.keep_empty" in left_out
    assert lines_with(done.stdout, "2 images, 0 without ") and done.returncode == 0
    assert lines_with(check(sound, "--dataset_config.keep_empty", "true").stdout, "3 images, 1 without ")


@pytest.mark.parametrize("split, change, expected", [
    ("val", lambda content: content["categories"].append({"id": 3, "name": "star"}), ["'star'"]),
    ("val", lambda content: content["categories"][0].update(name="disk"), ["'disc'"]),
    ("val", lambda content: content.update(annotations=[]), ["val2017", "no objects"]),
    ("train", lambda content: content["categories"][0].update(id=2), ["categories", "id 2"]),
    ("train", lambda content: content["images"][0].update(id=-1), ["image entry 1", "-1"]),
    ("train", lambda content: content.update(images=[]), ["no usable image"]),
    ("train", lambda content: content.update(images=3), ["instances_train2017.json", "COCO", "'images'"]),
])
def test_refusals(split, change, expected, sound):
    rewrite(sound / "annotations" / f"instances_{split}2017.json", change)
    done = check(sound)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
    assert len(lines_with(refused, *expected)) == 1, done.stdout


def test_a_configuration_of_other_classes_is_refused(sound, tmp_path):
    (tmp_path / "c.yaml").write_text("dataset_config:\n  num_classes: 5\n")
    done = check(sound, "--config_path", tmp_path / "c.yaml")
    assert done.returncode == 1 and done.stdout.count("refused: dataset_config.num_classes") == 2


def test_images_in_both_splits_are_named(sound):
    shutil.copy(sound / "annotations" / "instances_train2017.json", sound / "annotations" / "instances_val2017.json")
    done = check(sound, "--dataset_config.val_image_dir", "train2017")
    assert heading(done.stdout, "image 1 (").startswith("3 images ")


def test_a_missing_split(sound):
    shutil.rmtree(sound / "val2017")
    done = check(sound)
    assert done.returncode == 1 and lines_with(done.stdout, "refused: ", "val2017", "dataset_config.val_image_dir")
    assert lines_with(done.stdout, "3 images, 0 without ")


@pytest.mark.parametrize("args, expected", [
    (["--data_dir", "/nowhere"], ["--data_dir", "/nowhere"]), ([], ["--data_dir"]),
    (["--data_dir", ".", "--config_path", "/nowhere.yaml"], ["/nowhere.yaml"]),
    (["--data_dir", ".", "--train_config.batch_sise", 3], ["train_config.batch_size"]),
    (["--data_dir", ".", "--train_config.batch_size", "many"], ["train_config.batch_size", "'many'"]),
])
def test_mistakes(args, expected, tmp_path):
    assert_user_error(call_script("tools/check_dataset.py", *args, cwd=tmp_path, check=False), *expected)


def test_the_last_of_several_configurations_wins(sound, tmp_path):
    for name, size in (("a", 64), ("b", 96)):
        (tmp_path / f"{name}.yaml").write_text(f"dataset_config:\n  input_res_train: [{size}, {size}]\n")
    done = check(sound, "--config_path", tmp_path / "a.yaml", "--config_path", tmp_path / "b.yaml")
    assert lines_with(done.stdout, "3 images", "96x96") and "64x64" not in done.stdout


def test_check_and_conversion_accept_the_same_images_and_boxes(sound, tmp_path, make_config):
    def change(content):
        content["images"].append({"id": 9, "file_name": "missing.jpg"})
        content["annotations"] += [{"id": 90, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5]},
                                   {"id": 91, "image_id": 2, "category_id": 2, "bbox": [-20, 5, 200, 30]},
                                   {"id": 92, "image_id": 9, "category_id": 2, "bbox": [2, 5, 20, 30]}]

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    config = make_config("--mindrecord_dir", tmp_path / "m", "--train_config.batch_size", 1)
    convert(find_split(str(sound), "train", config.dataset_config), tmp_path / "m", keep_empty=False)
    converted = data_preview.read_train_boxes(train_set.TrainSet(config))
    checked = check_split(str(sound), "train", config).boxes
    for name in ("image_sizes", "counts", "sizes", "labels"):
        np.testing.assert_array_equal(getattr(converted, name), getattr(checked, name))
