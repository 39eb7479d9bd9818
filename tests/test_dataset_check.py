"""src/dataset_check.py and tools/check_dataset.py."""
import io
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from src import dataset, dataset_check, look
from src.coco import find_split
from tests.conftest import TINY, assert_user_error, call_script, convert, noise_image, write_coco

CLASSES = ("disc", "square")


def check(folder, *words):
    """tools/check_dataset.py on a folder, which writes its image beside it."""
    return call_script("tools/check_dataset.py", "--data_dir", folder, "--save_result_dir", folder.parent / "out", *words, check=False)


def rewrite(path, change):
    """Change the content of an annotation file."""
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    change(content)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


@pytest.fixture
def sound(tmp_path):
    """A small data set in which all is well: its folder."""
    for part, ids in (("train", (1, 2, 3)), ("val", (4, 5))):
        objects = [(image_id, category, [10, 10, 60, 40]) for image_id in ids for category in (1, 2)]
        write_coco(tmp_path / "a data set", part, {number: noise_image(number) for number in ids}, objects)
    return tmp_path / "a data set"


def test_a_sound_data_set(tiny_data, tmp_path):
    done = call_script("tools/check_dataset.py", *TINY, "--data_dir", tiny_data, cwd=tmp_path)
    assert "20 images, 0 without boxes" in done.stdout and "6 images, 0 without boxes" in done.stdout
    assert done.stdout.count("their longer sides in pixels at the input of 96x96:") == 2
    assert done.stdout.count("warning: train_config.batch_size is 4, from scratch") == 1
    assert done.stdout.endswith("conversion and evaluation take this data set\n")
    assert [path.name for path in tmp_path.iterdir()] == ["train_batch.jpg"]


def test_it_says_and_draws_what_training_will(by_operation, tiny_data, tiny_records, tmp_path, make_config, capsys):
    """The same table and the same image, but for the last digits of the colors."""
    config = make_config(*TINY, "--mindrecord_dir", tiny_records, "--save_result_dir", tmp_path / "t")
    look.look(config, dataset.TrainSet(config))
    said = capsys.readouterr().out
    done = call_script("tools/check_dataset.py", *TINY, "--data_dir", tiny_data, "--save_result_dir", tmp_path / "c")
    assert said[: said.index("the first 4 training images")] in done.stdout
    one, other = (cv2.imread(str(tmp_path / name / "train_batch.jpg")).astype(int) for name in "tc")
    assert one.std() > 10 and abs(one - other).mean() < 0.05


def test_it_needs_no_mindspore(sound, tmp_path, run_without):
    done = run_without("tools/check_dataset.py", "--data_dir", sound, "--save_result_dir", tmp_path)
    assert done.returncode == 0 and (tmp_path / "train_batch.jpg").exists(), done.stderr


def turned(width, height):
    """A JPEG of that size which EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(noise_image(1, height, width)).save(data, "JPEG", exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_wrong_with_images_is_counted_and_named(quick, sound):
    folder = sound / "train2017"
    whole = (folder / "000000000001.jpg").read_bytes()
    files = {11: whole[: len(whole) // 2], 12: b"text", 13: None, 14: whole, 15: turned(128, 96), 16: turned(128, 96), 17: b"", 18: b"x",
             19: b"x"}
    sizes = {14: (128, 97), 15: (96, 128), 16: (128, 96)}
    for number, data in files.items():
        if data is not None:
            (folder / f"{number}.jpg").write_bytes(data)

    def change(content):
        for number in files:
            width, height = sizes.get(number, (128, 96))
            content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
            content["annotations"].append({"id": 100 + number, "image_id": number, "category_id": 1, "bbox": [1, 1, 30, 30]})

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    done = check(sound, *(["--quick"] if quick else []))
    assert done.returncode == 1 and not done.stderr, done.stderr
    unreadable = ("12", "17", "18") if quick else ("11", "12", "17")
    assert f"{4 if quick else 5} images cannot be read:\n" in done.stdout and f"  and {1 if quick else 2} more\n" in done.stdout
    for number in unreadable:
        assert f"  image {number} ({folder}/{number}.jpg): " in done.stdout
    assert f"1 image files are missing:\n  image 13 ({folder}/13.jpg): No such file" in done.stdout
    assert "1 images have another size than the annotation file says:\n  image 14 (" in done.stdout
    assert "the image is 128x96, its entry in the annotation file says 128x97" in done.stdout
    assert f"{6 if quick else 5} images, 0 without boxes" in done.stdout and "refuses this data set, or leaves out images" in done.stdout


@pytest.mark.parametrize("quick", [False, True])
def test_dark_images_are_noted(quick, sound):
    """12 bits in 16, as thermal cameras write them, and an overexposed image; neither is refused."""
    values = np.random.default_rng(0).integers(200, 3000, (96, 128)).astype(np.uint16)
    for name, image in (("000000000001", values), ("000000000002", values * 21), ("000000000003", np.full((96, 128), 250, np.uint8))):
        data = cv2.imencode(".png", image)[1].tobytes()
        (sound / "train2017" / f"{name}.jpg").write_bytes(data)
    done = check(sound, *(["--quick"] if quick else []))
    assert done.returncode == 0
    if quick:
        assert "2 images have more than 8 bits a channel: whether they use them all is seen without --quick:\n  image 1 (" in done.stdout
        assert "nearly" not in done.stdout
    else:
        assert "2 images are nearly black or nearly white; is that what they show?:\n  image 1 (" in done.stdout
        said = "its values are 0 to 11 of 255, of 16 bits a channel: multiply them, so that white is 65535"
        assert f"000000000001.jpg): {said}\n" in done.stdout
        assert "000000000003.jpg): its values are 250 to 250 of 255\n" in done.stdout and "more than 8 bits" not in done.stdout


def test_what_is_wrong_with_boxes_is_counted_and_named(sound):
    boxes = [[1, 1, 0, 5], [1, 1, 5, -5], [500, 1, 5, 5], [-5, 10, 20, 20], [100, 80, 28.5, 16.5], [1, 1, 5], [float("inf"), 1, 1, 1]]

    def change(content):
        content["annotations"] += [{"id": number, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0, "area": 1}
                                   for number, box in enumerate(boxes, 50)]
        content["annotations"].append({"id": 60, "image_id": 1, "category_id": 9, "bbox": [1, 1, 9, 9]})

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    done = check(sound)
    assert "2 boxes have no area, and are left out:\n  annotation 50 of image 1: " in done.stdout
    assert "1 boxes lie outside their image, and are left out:\n  annotation 52 of image 1: " in done.stdout
    assert "1 boxes reach beyond their image, and are cut off there:\n  image 1 (" in done.stdout  # half a pixel is rounding
    assert "3 annotations cannot be used, and are left out:\n  annotation 55 of image 1: " in done.stdout
    assert done.returncode == 0  # conversion and evaluation take the rest


def test_what_is_doubled_is_counted_and_named(sound):
    def change(content):
        first, second = (entry for entry in content["annotations"] if entry["image_id"] == 1)
        content["images"] += [dict(content["images"][2]), {**content["images"][0], "id": 77}, {**content["images"][1], "id": 78}]
        content["annotations"] += [{**first, "image_id": 77}, {**second, "image_id": 77}, dict(first)]
        for entry in content["annotations"]:
            entry["id"] = 5

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    done = check(sound, "--dataset_config.keep_empty", "true")
    assert "1 images are listed more than once; each counts once (id 3)" in done.stdout
    assert "7 annotation ids are 0, equal, missing or no whole numbers (5, 5, 5 and 4 more)" in done.stdout
    assert "1 image files are listed under more than one id:\n  " in done.stdout and "000000000001.jpg: 2 times" in done.stdout
    assert "1 image files have several ids, each with other boxes: all boxes go to the first id (000000000002.jpg)" in done.stdout
    assert "1 boxes are there twice, and count once:\n  annotation 5 of image 1: the same box and class as annotation 5" in done.stdout


def test_nothing_to_check_or_to_learn_is_an_error(sound):
    """No object in train, kept empty or not; no image in either part."""
    rewrite(sound / "annotations" / "instances_train2017.json", lambda content: content.update(annotations=[]))
    done = check(sound, "--dataset_config.keep_empty", "true")
    assert done.returncode == 1 and "no object in any of 3 usable images" in done.stdout
    done = check(sound)
    assert done.returncode == 1 and "no usable image" in done.stdout
    for keep_empty, what in (("true", "no object in any of 3 usable images"), ("false", "no usable image")):
        words = ["--coco_data_dir", sound, "--mindrecord_dir", sound.parent / "m", "--dataset_config.keep_empty", keep_empty]
        assert_user_error(call_script("src/dataset.py", *words, check=False), what)
    assert not list((sound.parent / "m").iterdir())
    shutil.rmtree(sound / "val2017")
    assert_user_error(check(sound), "no image of either part can be used; ")


def test_images_without_objects(sound):
    rewrite(sound / "annotations" / "instances_train2017.json", lambda content: content["annotations"].__delitem__(slice(2)))
    done = check(sound)
    assert "1 images have no objects, and are left out (dataset_config.keep_empty keeps them):\n  image 1 (" in done.stdout
    assert "2 images, 0 without boxes" in done.stdout and done.returncode == 0
    assert "3 images, 1 without boxes" in check(sound, "--dataset_config.keep_empty", "true").stdout


@pytest.mark.parametrize("part, change, words", [
    ("val", lambda content: content["categories"].append({"id": 3, "name": "star"}), "the model was not trained on 'star'"),
    ("val", lambda content: content["categories"][0].update(name="disk"), "has no class 'disc'"),
    ("val", lambda content: content.update(annotations=[]), "holds no objects"),
    ("train", lambda content: content["categories"][0].update(id=2), "two categories have the id 2"),
    ("train", lambda content: content["images"][0].update(id=-1), "the id of image entry 1 is -1"),
    ("train", lambda content: content.update(images=[]), "no usable image"),
    ("train", lambda content: content.update(images=3), "not a COCO annotation file"),
])
def test_what_would_be_refused(part, change, words, sound):
    rewrite(sound / "annotations" / f"instances_{part}2017.json", change)
    done = check(sound)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert sum(line.startswith("refused: ") and words in line for line in done.stdout.splitlines()) == 1, done.stdout


def test_a_configuration_of_other_classes_is_refused(sound, tmp_path):
    (tmp_path / "c.yaml").write_text("dataset_config:\n  num_classes: 5\n")
    done = check(sound, "--config_path", tmp_path / "c.yaml")
    assert done.returncode == 1 and done.stdout.count("refused: dataset_config.num_classes") == 2


def test_images_of_both_parts_are_named(sound):
    shutil.copy(sound / "annotations" / "instances_train2017.json", sound / "annotations" / "instances_val2017.json")
    done = check(sound, "--dataset_config.val_image_dir", "train2017")
    assert "3 images are trained on, too: the scores will say too much:\n  image 1 (" in done.stdout


def test_a_part_that_is_missing(sound):
    shutil.rmtree(sound / "val2017")
    done = check(sound)
    assert done.returncode == 1 and "refused: none of these exists: " in done.stdout and "3 images, 0 without boxes" in done.stdout


@pytest.mark.parametrize("words, part", [
    (["--data_dir", "/nowhere"], "data set folder (--data_dir) not found: /nowhere"), ([], "no data set folder (--data_dir) given"),
    (["--data_dir", ".", "--config_path", "/nowhere.yaml"], "configuration file not found: /nowhere.yaml"),
    (["--data_dir", ".", "--train_config.batch_sise", 3], "did you mean train_config.batch_size?"),
    (["--data_dir", ".", "--train_config.batch_size", "many"], "train_config.batch_size is 'many'"),
])
def test_mistakes(words, part, tmp_path):
    assert_user_error(call_script("tools/check_dataset.py", *words, cwd=tmp_path, check=False), part)


def test_of_several_configurations_the_last_one_wins(sound, tmp_path):
    for name, size in (("a", 64), ("b", 96)):
        (tmp_path / f"{name}.yaml").write_text(f"dataset_config:\n  input_res_train: [{size}, {size}]\n")
    done = check(sound, "--config_path", tmp_path / "a.yaml", "--config_path", tmp_path / "b.yaml")
    assert "at the input of 96x96" in done.stdout


def test_what_the_check_takes_is_what_conversion_takes(sound, tmp_path, make_config):
    """Images and boxes, whatever is wrong with the others."""
    def change(content):
        content["images"].append({"id": 9, "file_name": "missing.jpg"})
        content["annotations"] += [{"id": 90, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5]},
                                   {"id": 91, "image_id": 2, "category_id": 2, "bbox": [-20, 5, 200, 30]},
                                   {"id": 92, "image_id": 9, "category_id": 2, "bbox": [2, 5, 20, 30]}]

    rewrite(sound / "annotations" / "instances_train2017.json", change)
    config = make_config("--mindrecord_dir", tmp_path / "m", "--train_config.batch_size", 1)
    convert(find_split(str(sound), "train", config.dataset_config), tmp_path / "m", keep_empty=False)
    converted = look.read_train_boxes(dataset.TrainSet(config))
    checked = dataset_check.check_part(str(sound), "train", config).boxes
    for name in ("image_sizes", "counts", "sizes", "labels"):
        np.testing.assert_array_equal(getattr(converted, name), getattr(checked, name))
