"""tools/import_dataset.py: folders in every format, written by hand; the boxes are computed by hand."""
import json
import os
import re
import shlex
import shutil

import cv2
import pytest
from PIL import Image

from src.commands import import_dataset
from src.core.errors import UserError
from src.data.coco import find_split, read_coco
from src.data.labels.formats import recognize, split_of
from src.data.labels.names import match_names
from src.data.manifest import read_manifest
from tests.conftest import assert_user_error, call_script, convert, lines_with, noise_image, user_error

XML = """<annotation><folder>x</folder><filename>{filename}</filename>{size}{objects}</annotation>"""
SIZE = "<size><width>{}</width><height>{}</height><depth>3</depth></size>"
OBJECT = """<object><name>{}</name><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def write_image(path, width=100, height=80, orientation=None):
    """Write an image, with an EXIF orientation if one is given."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if orientation is None:
        cv2.imwrite(str(path), noise_image(len(str(path)), height, width))
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(noise_image(1, height, width)).save(path, exif=exif)


def write(path, text):
    """Write a text file, or any other value as JSON."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text if isinstance(text, str) else json.dumps(text))


def write_xml(path, objects, filename="x.jpg", size=(100, 80)):
    """Write a label file of objects [(class, xmin, ymin, xmax, ymax)]."""
    entries = "".join(OBJECT.format(name, 0, *box) for name, *box in objects)
    write(path, XML.format(filename=filename, size=SIZE.format(*size) if size else "", objects=entries))


def write_yolo(folder, labels, description=None):
    """Write 100x80 images and their labels {image path: lines}, with None for no label file; images/ -> labels/."""
    for path, lines in labels.items():
        write_image(folder / path)
        if lines is not None:
            write(folder / (os.path.splitext(path.replace("images/", "labels/"))[0] + ".txt"), lines)
    if description is not None:
        write(folder / "data.yaml", description)


def coco_content(images, objects, classes=((1, "cat"), (2, "dog"))):
    """A COCO dictionary of 100x80 images {id: file name} and objects [(image id, category id, box)]."""
    return {"images": [{"id": number, "file_name": name, "width": 100, "height": 80}
                       for number, name in images.items()],
            "annotations": [{"id": number, "image_id": image, "category_id": category, "bbox": box,
                             "area": box[2] * box[3], "iscrowd": 0}
                            for number, (image, category, box) in enumerate(objects, 1)],
            "categories": [{"id": number, "name": name, "supercategory": "none"} for number, name in classes]}


@pytest.fixture
def run(tmp_path, console):
    """run(args...) imports tmp_path/in to tmp_path/out: ({split: {file name: [(class, box)]}}, output)."""
    def call(*args):
        import_dataset.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *map(str, args)])
        return boxes_of(tmp_path / "out"), console.readouterr().out

    return call


def boxes_of(folder):
    """{split: {file name: [(class, box)]}} of an output folder; checks that its images exist."""
    splits = {}
    for name in sorted(os.listdir(folder / "annotations")):
        split, content = name.removesuffix(".json"), json.loads((folder / "annotations" / name).read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        assert sorted(files.values()) == sorted(os.listdir(folder / "images" / split))
        splits[split] = {file: [] for file in files.values()}
        for entry in content["annotations"]:
            splits[split][files[entry["image_id"]]].append((names[entry["category_id"]], pytest.approx(entry["bbox"])))
    return splits


def none_skipped(output):
    """Whether an import reports that it skipped nothing."""
    return bool(re.search(r"\b0 .*skipped", output)) and "skipped " not in output


def classes_of(folder, split="train"):
    content = json.loads((folder / "annotations" / f"{split}.json").read_text())
    return [category["name"] for category in content["categories"]]


# ---------------------------------------------------------------- YOLO


def test_the_table_of_wide_and_hostile_names(tmp_path, run):
    """A Chinese character takes two columns; an escape sequence is not printed, but kept in the data set."""
    hostile = "b\x1b[2J"
    for split in ("train", "val"):
        content = coco_content({1: f"{split}.jpg"}, [(1, 1, [0, 0, 5, 5])], ((1, "车"), (2, hostile)))
        write(tmp_path / "in" / f"{split}.json", content)
        write_image(tmp_path / "in" / f"{split}.jpg")
    output = run()[1]
    assert "  车               1    1\n  b [2J            0    0\n" in output and "\x1b" not in output
    assert classes_of(tmp_path / "out") == ["车", hostile]


def test_label_studios_yolo_export(tmp_path, run):
    """Its notes.json has categories like a COCO file, but no images."""
    lines = {f"images/a1b2-my photo {number}.jpg": "1 0.5 0.5 0.2 0.5" for number in range(2)}
    write_yolo(tmp_path / "in", lines)
    write(tmp_path / "in/classes.txt", "cat\ndog\n")
    write(tmp_path / "in/notes.json", {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
                                       "info": {"year": 2024, "version": "1.0", "contributor": "Label Studio"}})
    boxes = [box for images in run()[0].values() for boxes in images.values() for box in boxes]
    assert boxes == [("dog", [40, 20, 20, 40])] * 2


def test_roboflows_yolo_export(tmp_path, run):
    """In 100x80 pixels, the center 0.5, 0.25 and the size 0.2, 0.5 are the box 40, 0, 20, 40."""
    write_yolo(tmp_path / "in", {"train/images/a.jpg": "1 0.5 0.25 0.2 0.5\n0 0.1 0.1 0.2 0.2\n",
                                 "valid/images/a.jpg": "0 0.5 0.5 1 1", "test/images/b.jpg": ""},
               "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n"
               "roboflow:\n  version: 1\n")
    write(tmp_path / "in" / "README.roboflow.txt", "exported by roboflow")
    boxes, output = run()
    assert boxes == {"train": {"a.jpg": [("dog", [40, 0, 20, 40]), ("cat", [0, 0, 20, 16])]},
                     "val": {"a.jpg": [("cat", [0, 0, 100, 80])]}, "test": {"b.jpg": []}}
    assert lines_with(output, "YOLO", "data.yaml") and none_skipped(output) and "--val_fraction" not in output
    assert [line.split() for line in output.partition("\nnext:")[0].splitlines()[-7:-1]] == [
        ["train", "val", "test"], ["images", "1", "1", "1"], ["without", "boxes", "0", "0", "1"],
        ["boxes", "2", "1", "0"], ["cat", "1", "1", "0"], ["dog", "1", "0", "0"]]
    assert (tmp_path / "out/images/train/a.jpg").read_bytes() == (tmp_path / "in/train/images/a.jpg").read_bytes()
    assert (tmp_path / "out/images/val/a.jpg").read_bytes() == (tmp_path / "in/valid/images/a.jpg").read_bytes()


@pytest.mark.parametrize("description", [
    "path: ../datasets/in\ntrain: images/train\nval: images/val\nnames:\n  0: person\n  3: no\n  4: yes",
    "path: /content/drive/in\ntrain: [images/train]\nval:\n- images/val\nnames: {0: person, 3: 'no', 4: 'yes'}",
    "train: train_list.txt\nval: ./images/val/\nnames: {0: person, 3: no, 4: yes}\nnc: 5",
])
def test_forms_of_descriptions(tmp_path, run, description):
    """The names yes and no, booleans in YAML, stay names; the list has paths of another machine."""
    write_yolo(tmp_path / "in", {"images/train/a.jpg": "3 .5 .5 .5 .5", "images/train/deep/b.png": "0 .5 .5 .5 .5",
                                 "images/val/c.jpg": "4 .5 .5 .5 .5"}, description)
    names = ("a.jpg", "deep/b.png", "no.jpg")
    write(tmp_path / "in/train_list.txt", "".join(f"/home/x/in/images/train/{name}\n" for name in names))
    boxes, output = run()
    assert boxes == {"train": {"a.jpg": [("no", [25, 20, 50, 40])], "b.png": [("person", [25, 20, 50, 40])]},
                     "val": {"c.jpg": [("yes", [25, 20, 50, 40])]}}
    assert classes_of(tmp_path / "out")[:1] == ["person"]
    assert bool(lines_with(output, "no.jpg", "train_list.txt")) == ("list" in description)


def test_polygons_become_their_bounding_box(tmp_path, run):
    """In 100x80 pixels, the points 0.1, 0.2; 0.5, 0.9; 0.3, 0.1 have the bounding box 10, 8, 40, 64."""
    write_yolo(tmp_path / "in", {"images/a.jpg": "0 .1 .2 .5 .9 .3 .1", "images/b.jpg": "0 .5 .5 .2 .2"},
               "names: [leaf]")
    boxes, output = run("--val_fraction", 0.5)
    assert boxes["train"] | boxes["val"] == {
        "a.jpg": [("leaf", [10, 8, 40, 64])], "b.jpg": [("leaf", [40, 32, 20, 16])]}


def test_bad_label_lines_are_counted_and_named(tmp_path, run):
    bad = ["2 .5 .5 .1 .1", "0 1.5 .5 .1 .1", "0 .5 .5 .1 -.1", "cat .5 .5 .1 .1", "0 .5 .5 .1", "-1 .5 .5 .1 .1",
           "0.5 .5 .5 .1 .1", "0 nan .5 .1 .1", "0 .5 .5 0 .1", "0 .5 .5 .1 .1 .9", "inf .5 .5 .1 .1",
           "0 .1 .1 .2 .2 .3 1.0101"]
    write_yolo(tmp_path / "in", {"images/train/a.jpg": "\n".join(["0 .5 .5 .1 .1", "", *bad, "1 .5 .5 .1 .1"]),
                                 "images/val/b.jpg": "", "images/val/c.jpg": None,
                                 "images/val/d.jpg": "0 .5 .5 .1 .1", "images/val/e.jpg": "\n".join(bad)},
               "train: images/train\nval: images/val\nnc: 2\nnames: [x, y]")
    write(tmp_path / "in/labels/val/lost.txt", "0 .5 .5 .1 .1")
    (tmp_path / "in/labels/val/c.txt").write_bytes(b"0 .5 .5 .1 .1 \xff\xfe")
    boxes, output = run()
    assert [name for name, _ in boxes["train"]["a.jpg"]] == ["x", "y"]
    assert boxes["val"] == {"b.jpg": [], "d.jpg": [("x", [45, 36, 10, 8])]}
    assert lines_with(output, "skipped image images/val/e.jpg: ", f" {len(bad)} annotations")
    for number in range(3, 3 + len(bad)):
        assert output.count(f"skipped labels/train/a.txt, line {number}: ") == 1
    for number, expected in ((3, ["class 2", "2 classes"]), (4, ["0 to 1"]), (6, ["numbers"]), (7, ["4 numbers"]),
                             (8, ["class -1"])):
        assert lines_with(output, f"labels/train/a.txt, line {number}: ", *expected), number
    assert lines_with(output, "skipped", "labels/val/lost.txt")
    assert lines_with(output, "skipped", "image images/val/c.jpg: ")
    assert lines_with(output, f"{2 * len(bad) + 3} images or objects", "skipped")


@pytest.mark.parametrize("line, box", [
    ("0 0.304 0.5003 0.608 1.0004", [0, 0.008, 60.8, 79.992]),
    ("0 0.1 0.1 0.3 0.1 0.3 1.0099 0.1 0.35", [10, 8, 20, 72]), ("0 -0.0099 .5 .1 .5", [0, 20, 4.01, 40]),
    ("0 .9 .5 .4 .5", [70, 20, 30, 40]), ("0 .5 .5 1 1", [0, 0, 100, 80]),
    ("0 .1 .1 .2 .1 .2 .3 .1 .3", [10, 8, 10, 16]),
])
def test_boxes_slightly_outside_are_clipped(line, box, tmp_path, run):
    """In 100x80 pixels; the last line has the four corners of an oriented box."""
    write_yolo(tmp_path / "in", {"images/train/a.jpg": line, "images/val/b.jpg": line},
               "train: images/train\nval: images/val\nnames: [x]")
    boxes, output = run()
    assert boxes == {"train": {"a.jpg": [("x", box)]}, "val": {"b.jpg": [("x", box)]}} and none_skipped(output)


@pytest.mark.parametrize("image, label", [
    ("my image", "my%20image"), ("my%20image", "my image"), ("caf\u00e9", "cafe\u0301"),
    ("cafe\u0301", "caf\u00e9"), ("IMG_1", "img_1"),
])
def test_names_in_another_spelling(image, label, tmp_path, run):
    """In YOLO's label files, in its lists, in COCO's file_name and in VOC's XML files and lists."""
    for split, ending in (("train", "jpg"), ("val", "png")):
        write_image(tmp_path / f"yolo/images/{split}/{image}.{ending}")
        write(tmp_path / f"yolo/labels/{split}/{label}.txt", "0 .5 .5 .2 .2")
        write(tmp_path / f"yolo/{split}.txt", f"images/{split}/{label}.{ending}\n")
        write_image(tmp_path / f"coco/images/{split}/{image}.{ending}")
        write(tmp_path / f"coco/{split}.json", coco_content({1: f"{label}.{ending}"}, [(1, 1, [1, 2, 3, 4])]))
        write_image(tmp_path / f"voc/JPEGImages/{image}{split}.{ending}")
        write_xml(tmp_path / f"voc/Annotations/{label}{split}.xml", [("dog", 11, 21, 30, 40)], f"{label}.{ending}")
        write(tmp_path / f"voc/ImageSets/Main/{split}.txt", f"{image}{split}\n")
    write(tmp_path / "yolo/data.yaml", "train: train.txt\nval: val.txt\nnames: [x]")
    for form in ("yolo", "coco", "voc"):
        import_dataset.main(["--input", str(tmp_path / form), "--output", str(tmp_path / f"out_{form}")])
        boxes = boxes_of(tmp_path / f"out_{form}")
        assert [len(objects) for split in ("train", "val") for objects in boxes[split].values()] == [1, 1], form


def test_names_that_differ_only_in_case(tmp_path, run):
    """a.txt belongs to a.jpg; A.jpg has no labels, and does not get those of a.jpg."""
    write_yolo(tmp_path / "in", {"images/train/a.jpg": "0 .5 .5 .2 .2", "images/train/A.jpg": None,
                                 "images/val/b.jpg": "0 .5 .5 .2 .2"},
               "train: images/train\nval: images/val\nnames: [x]")
    train = json.dumps(run()[0]["train"], default=str)
    assert train.count("[]") == 1 and train.count("40") == 1


def test_a_label_file_shared_by_several_images(tmp_path, run):
    """a.txt may belong to a.jpg or a.png; A.jpg has no labels. train.txt belongs to an image train.jpg."""
    write_yolo(tmp_path / "in", {"images/train/a.jpg": "0 .5 .5 .2 .2", "images/train/a.png": None,
                                 "images/train/A.jpg": None, "images/train/train.jpg": "0 .5 .5 .2 .2",
                                 "images/val/b.jpg": "0 .5 .5 .2 .2"},
               "train: images/train\nval: images/val\nnames: [x]")
    boxes, output = run()
    assert boxes["train"] == {"A.jpg": [], "train.jpg": [("x", [40, 32, 20, 16])]}
    assert [*boxes["val"]] == ["b.jpg"]
    assert lines_with(output, "skipped image images/train/a.jpg: ", "labels/train/a.txt", "images/train/a.png")


def test_label_files_in_a_folder_of_another_name(tmp_path, run):
    """Images with misplaced labels are not background: the import refuses a folder with many, and skips single images
    and those of a test folder."""
    labels = {f"images/{split}/{split}{number}.jpg": "0 .5 .5 .2 .2"
              for split in ("train", "val", "test") for number in range(3)}
    write_yolo(tmp_path / "in", labels, "train: images/train\nval: images/val\ntest: images/test\nnames: [x]")
    os.rename(tmp_path / "in/labels/test", tmp_path / "in/labels/testing")
    os.makedirs(tmp_path / "in/old")
    os.rename(tmp_path / "in/labels/train/train1.txt", tmp_path / "in/old/train1.txt")
    boxes, output = run()
    assert {split: [*images] for split, images in boxes.items()} == {
        "train": ["train0.jpg", "train2.jpg"], "val": ["val0.jpg", "val1.jpg", "val2.jpg"]}
    assert lines_with(output, "skipped image images/train/train1.jpg: ", "labels/train/train1.txt", "old/train1.txt")
    assert output.count("skipped image images/test/") == 3
    os.rename(tmp_path / "in/labels/val", tmp_path / "in/labels/valid")
    with user_error("3 of 3 images", "images/val ", "labels/val ", "Labels/val ", "images/val/labels", "labels/valid"):
        run()


def test_masks_and_thumbnails_of_labeled_images_are_not_background(tmp_path, run):
    """A folder without labels is background if its images have other names."""
    write_yolo(tmp_path / "in", {f"images/{name}.jpg": "0 .5 .5 .2 .2" for name in "abcd"})
    for path in ("masks/a.png", "masks/b.png", "streets/e.jpg", "streets/f.jpg"):
        write_image(tmp_path / "in" / path)
    boxes, output = run()
    found = {name: objects for images in boxes.values() for name, objects in images.items()}
    assert sorted(name for name, objects in found.items() if not objects) == ["e.jpg", "f.jpg"]
    assert "a.png" not in found and output.count("skipped image masks/") == 2
    assert lines_with(output, "skipped image masks/a.png: ", "images/a.jpg")


def test_images_with_an_empty_label_file_are_background(tmp_path, run):
    write_yolo(tmp_path / "in", {"images/train/a.jpg": "0 .5 .5 .2 .2", "images/val/b.jpg": "0 .5 .5 .2 .2",
                                 "images/train/c.jpg": "\n"},
               "train: images/train\nval: images/val\nnames: [x]")
    boxes, output = run()
    assert boxes["train"] == {"a.jpg": [("x", [40, 32, 20, 16])], "c.jpg": []} and none_skipped(output)


def test_a_split_without_objects_is_an_error(tmp_path, run):
    write_yolo(tmp_path / "in", {"images/train/a.jpg": "0 .5 .5 .2 .2", "images/val/b.jpg": ""},
               "train: images/train\nval: images/val\nnames: [x]")
    with pytest.raises(UserError, match=f"{tmp_path}/in: .* 1 .*for val "):
        run()


def test_duplicate_boxes_count_once(tmp_path, run):
    write_yolo(tmp_path / "in", {"images/train/a.jpg": "0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n0 .5 .5 .2 .2",
                                 "images/val/b.jpg": "0 .5 .5 .2 .2"},
               "train: images/train\nval: images/val\nnames: [x, X]")
    boxes, output = run()
    assert [name for name, _ in boxes["train"]["a.jpg"]] == ["x", "X"]
    assert lines_with(output, "skipped labels/train/a.txt, line 3: ", "labels/train/a.txt, line 1")
    assert lines_with(output, "'x'", "'X'")


@pytest.mark.parametrize("extra, names, expected", [
    ({"classes.txt": "hat\nshoe\n"}, ["hat", "shoe"], ["classes.txt"]),
    ({"obj.names": "hat\nshoe\n",
      "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/"},
     ["hat", "shoe"], ["obj.names"]),
    ({}, ["class_1"], ["classes 1", "class_"]),
])
def test_txt_files_without_a_description(tmp_path, run, extra, names, expected):
    """Labels next to the images, as from labelImg and CVAT; CVAT's list names a folder data that does not exist."""
    line = "1 .5 .5 .2 .2"
    write_yolo(tmp_path / "in", {"obj_train_data/a.jpg": line, "obj_train_data/b.jpg": line,
                                 "obj_train_data/c.jpg": None})
    for name, text in {**extra, "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n"}.items():
        write(tmp_path / "in" / name, text)
    boxes, output = run()
    assert sorted(boxes["train"] | boxes["val"]) == ["a.jpg", "b.jpg"]
    assert len(boxes["train"]) == len(boxes["val"]) == 1
    assert [*boxes["train"].values()] == [[(names[-1], [40, 32, 20, 16])]] and classes_of(tmp_path / "out") == names
    assert lines_with(output, *expected) and lines_with(output, "YOLO", "txt", "data.yaml")
    assert lines_with(output, "1 images ", "list")


@pytest.mark.parametrize("description, expected", [
    ("names: [a\n", "data.yaml: "), ("- a\n- b", "data.yaml: "), ("names: cat\ntrain: images", "data.yaml: names "),
    ("names: {a: b}", "data.yaml: names "), ("names: [[a]]", "data.yaml: names "),
    ("nc: many\nnames: [a]", "data.yaml: nc "),
    ("train: ../../other/photos\nnames: [a]", "'../../other/photos' for train"),
    ("train: {a: b}\nnames: [a]", "for train"),
    ("train: images\nnames: !!python/object/apply:os.system [touch hacked]", None),
])
def test_invalid_descriptions(tmp_path, run, description, expected):
    write_yolo(tmp_path / "in", {"images/a.jpg": "0 .5 .5 .2 .2", "images/b.jpg": "0 .5 .5 .2 .2"}, description)
    if expected is None:  # the tag is ignored: the list holds class names
        assert run()[0]["train"] and classes_of(tmp_path / "out") == ["touch hacked"]
        assert not os.path.exists("hacked")
        return
    with user_error(tmp_path / "in", expected):
        run()
    assert not (tmp_path / "out").exists()


def test_fractions_refer_to_the_rotated_image(tmp_path, run):
    """100x80 pixels that EXIF rotates by 90 degrees are displayed as 80x100."""
    write_yolo(tmp_path / "in", {"images/train/b.jpg": "0 .5 .5 1 1", "images/val/a.jpg": "0 .5 .5 1 1"},
               "train: images/train\nval: images/val\nnames: [all]")
    write_image(tmp_path / "in/images/train/b.jpg", orientation=6)
    boxes, _ = run()
    assert boxes["train"] == {"b.jpg": [("all", [0, 0, 80, 100])]}
    assert boxes["val"] == {"a.jpg": [("all", [0, 0, 100, 80])]}


# ---------------------------------------------------------------- VOC, labelImg


def write_voc(folder, lists):
    """A VOC folder with lists {list: names}; every image has a dog at 11, 21, 30, 40: in COCO 10, 20, 20, 20."""
    for split, names in lists.items():
        write(folder / "ImageSets/Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))
        for name in names:
            write_image(folder / "JPEGImages" / f"{name}.jpg")
            write_xml(folder / "Annotations" / f"{name}.xml", [("dog", 11, 21, 30, 40)], f"{name}.jpg")


DOG = [("dog", [10, 20, 20, 20])]


@pytest.mark.parametrize("lists, expected", [
    ({"train": ["1", "2"], "val": ["3"], "trainval": ["1", "2", "3"], "test": ["4"]},
     {"train": "12", "val": "3", "test": "4"}),
    ({"trainval": ["1", "2"], "val": ["2"]}, {"train": "1", "val": "2"}),
    ({"default": ["1"], "val": ["2"]}, {"train": "2", "val": ""}),
    ({"train": ["1"], "val": ["2"], "dog_train": ["5"]}, {"train": "1", "val": "2"}),
])
def test_voc_with_image_sets(tmp_path, run, lists, expected):
    write_voc(tmp_path / "in", lists)
    if "default" in lists:  # only a validation list: one image cannot be divided
        with pytest.raises(UserError, match=f"{tmp_path}/in: 1 "):
            run()
        return
    boxes, output = run()
    assert boxes == {split: {f"{name}.jpg": DOG for name in names} for split, names in expected.items()}
    assert lines_with(output, "Pascal VOC", "with ImageSets") and classes_of(tmp_path / "out") == ["dog"]


def test_a_cvat_list_of_another_name_and_names_with_a_space(tmp_path, run):
    write_voc(tmp_path / "in", {"default": ["photo 1", "photo 2"]})
    write(tmp_path / "in/ImageSets/Main/default.txt", "photo 1\nphoto 2\nmissing\n")
    write_xml(tmp_path / "in/Annotations/unlisted.xml", [])
    boxes, output = run()
    assert boxes["train"] | boxes["val"] == {"photo 1.jpg": DOG, "photo 2.jpg": DOG}
    assert lines_with(output, "skipped", "image missing ", "ImageSets/Main/default.txt")
    assert lines_with(output, "skipped Annotations/unlisted.xml: ")


def test_the_official_voc_layout(tmp_path, run):
    """Masks have the images' names; the XML file names its image, or only the folder determines it."""
    write_voc(tmp_path / "in", {"train": ["1", "2"], "val": ["3", "4"]})
    for name in "1234":
        for kind in ("SegmentationClass", "SegmentationObject", "masks"):
            write_image(tmp_path / "in" / kind / f"{name}.png")
    write_xml(tmp_path / "in/Annotations/2.xml", [("dog", 11, 21, 30, 40)], "2")
    os.rename(tmp_path / "in/Annotations/3.xml", tmp_path / "in/Annotations/3.XML")
    boxes, output = run()
    assert boxes == {"train": {"1.jpg": DOG, "2.jpg": DOG}, "val": {"3.jpg": DOG, "4.jpg": DOG}}
    assert none_skipped(output)
    for folder in ("ImageSets", "masks"):
        shutil.rmtree(tmp_path / "in" / folder)
    assert none_skipped(run()[1])  # masks are not images without an XML file


def test_an_ambiguous_xml_file(tmp_path, run):
    for name in ("a.jpg", "a.png", "b.jpg", "b.png", "c.jpg", "d.jpg"):
        write_image(tmp_path / "in" / name)
    for name, filename in (("a", "a.png"), ("b", "other.jpg"), ("c", "c.jpg"), ("d", "d.jpg")):
        write_xml(tmp_path / f"in/{name}.xml", [("dog", 11, 21, 30, 40)], filename)
    boxes, output = run()
    assert sorted(boxes["train"] | boxes["val"]) == ["a.png", "c.jpg", "d.jpg"]
    assert lines_with(output, "skipped b.xml: ", "b.jpg", "b.png")


def test_voc_without_image_sets(tmp_path, run):
    """Several image folders: the XML file's path decides. With --zero_based, boxes that count from 0 are unchanged."""
    for split, box in (("train", (0, 0, 9, 9)), ("val", (5, 6, 14, 25))):
        write_image(tmp_path / f"in/images/{split}/0.png")
        write_xml(tmp_path / f"in/annotations/{split}/0.xml", [("cat", *box)], "0.png")
    boxes, output = run("--zero_based")
    assert boxes == {"train": {"0.png": [("cat", [0, 0, 10, 10])]}, "val": {"0.png": [("cat", [5, 6, 10, 20])]}}
    assert lines_with(output, "Pascal VOC", "without ImageSets")
    boxes, output = run()
    assert boxes["train"] == {"0.png": [("cat", [-1, -1, 10, 10])]} and lines_with(output, "1 boxes ", "--zero_based")


def test_labelimgs_files_next_to_the_images(tmp_path, run):
    """The name in a file is wrong, or the only one that leads to an image; a size of 0 is read from the image."""
    for name in ("a", "b", "c", "unlabeled"):
        write_image(tmp_path / f"in/{name}.jpg")
    write_xml(tmp_path / "in/a.xml", [("dog", 11, 21, 30, 40), ("cat", 1, 1, 100, 80)], "IMG_0001.JPG")
    write_xml(tmp_path / "in/b.xml", [("dog", 11, 21, 30, 40)], "a.jpg", size=(0, 0))
    write_xml(tmp_path / "in/renamed.xml", [("dog", 11, 21, 30, 40)], "C:\\photos\\c.jpg", size=None)
    write_xml(tmp_path / "in/nothing.xml", [("dog", 11, 21, 30, 40)], "../../../etc/passwd")
    boxes, output = run("--val_fraction", 0.34)
    assert boxes["train"] | boxes["val"] == {"a.jpg": [*DOG, ("cat", [0, 0, 100, 80])], "b.jpg": DOG, "c.jpg": DOG}
    assert lines_with(output, "labelImg") and lines_with(output, "skipped image unlabeled.jpg: ")
    assert lines_with(output, "skipped nothing.xml: ", "'nothing'", "'../../../etc/passwd'")
    assert lines_with(output, "2 images or objects", "skipped") and classes_of(tmp_path / "out") == ["cat", "dog"]


def test_bad_xml_files_are_counted_and_named(tmp_path, run):
    names = ["good", "other", "broken", "bomb", "size", "objects", "unreadable"]
    for name in names:
        write_image(tmp_path / f"in/{name}.jpg")
        write_xml(tmp_path / f"in/{name}.xml", [("dog", 11, 21, 30, 40)])
    write(tmp_path / "in/broken.xml", "<annotation><object>")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha"}">' for n in range(10))
    write(tmp_path / "in/bomb.xml",
          f"<!DOCTYPE annotation [{entities}]><annotation><filename>&e9;</filename></annotation>")
    write_xml(tmp_path / "in/size.xml", [("dog", 11, 21, 30, 40)], size=(50, 50))
    write_xml(tmp_path / "in/objects.xml", [("dog", 5, 5, 5, 5), ("", 1, 1, 9, 9), ("dog", "x", 1, 9, 9),
                                            ("dog", "1", 1, "inf", 9), ("dog", 201, 1, 220, 9)])
    (tmp_path / "in/unreadable.jpg").write_bytes(b"no image")
    boxes, output = run()
    assert sorted(boxes["train"] | boxes["val"]) == ["good.jpg", "other.jpg"]
    for expected in (["broken.xml: "], ["bomb.xml: ", "document type"], ["image size.jpg: ", "100x80", "50x50"],
                     ["object 1 of objects.xml: "], ["object 2 of objects.xml: ", "class"],
                     ["object 3 of objects.xml: "], ["object 4 of objects.xml: "],
                     ["object 5 of objects.xml: ", "[200.0"],
                     ["image objects.jpg: ", " 5 annotations"], ["image unreadable.jpg: "], ["10 images or objects"]):
        assert lines_with(output, "skipped", *expected), expected


# ---------------------------------------------------------------- COCO


def test_roboflows_coco_export(tmp_path, run):
    """The first class, which only groups the others, is dropped."""
    for split, box, classes in (("train", [1, 2, 30, 40], ((0, "pets"), (1, "cat"), (2, "dog"))),
                                ("valid", [5, 6, 7, 8], ((0, "pets"), (1, "cat"), (2, "dog")))):
        write_image(tmp_path / f"in/{split}/same.jpg")
        content = coco_content({0: "same.jpg"}, [(0, 2, box), (0, 1, [0, 0, 9, 9])], classes)
        for category in content["categories"][1:]:
            category["supercategory"] = "pets"
        write(tmp_path / f"in/{split}/_annotations.coco.json", content)
    boxes, output = run()
    assert boxes == {"train": {"same.jpg": [("dog", [1, 2, 30, 40]), ("cat", [0, 0, 9, 9])]},
                     "val": {"same.jpg": [("dog", [5, 6, 7, 8]), ("cat", [0, 0, 9, 9])]}}
    assert lines_with(output, "Roboflow", "COCO") and lines_with(output, "class pets ")
    content = json.loads((tmp_path / "out/annotations/train.json").read_text())
    assert [(category["id"], category["name"]) for category in content["categories"]] == [(1, "cat"), (2, "dog")]


def remarks_on(output):
    """The lines of an import between the recognized format and the table."""
    lines = output.splitlines()
    return lines[1 : next(index for index, line in enumerate(lines) if line.split()[:1] == ["train"])]


@pytest.mark.parametrize("group", ["pets", "dog"])
def test_roboflows_usual_coco_export_gives_one_remark(group, tmp_path, run):
    """In each split, ids start at 0, and the first class groups the others, at times under the name of one of them."""
    classes = ((0, group), (1, "cat"), (2, "dog"))
    for split in ("train", "valid", "test"):
        write_image(tmp_path / f"in/{split}/{split}.jpg")
        content = coco_content({0: f"{split}.jpg"}, [(0, 2, [1, 2, 30, 40]), (0, 1, [0, 0, 9, 9])], classes)
        for number, entry in enumerate(content["annotations"]):
            entry["id"] = number
        for category in content["categories"][1:]:
            category["supercategory"] = group
        write(tmp_path / f"in/{split}/_annotations.coco.json", content)
        for name in ("dataset", "roboflow"):
            write(tmp_path / f"in/README.{name}.txt", "# Pets\nexported via roboflow.com\n")
    boxes, output = run()
    assert boxes["val"] == {"valid.jpg": [("dog", [1, 2, 30, 40]), ("cat", [0, 0, 9, 9])]}
    remark, = remarks_on(output)
    assert group in remark and len(remark) < 160
    ids = [entry["id"] for split in ("train", "val", "test") for entry in
           json.loads((tmp_path / f"out/annotations/{split}.json").read_text())["annotations"]]
    assert sorted(ids) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("has_test", [True, False])
def test_roboflows_usual_yolo_export_gives_one_remark(has_test, tmp_path, run):
    """Its data.yaml names test images even if there are none."""
    labels = {"train/images/a.jpg": "0 .5 .5 .5 .5", "valid/images/b.jpg": "0 .5 .5 .5 .5"}
    write_yolo(tmp_path / "in", labels | ({"test/images/c.jpg": "0 .5 .5 .5 .5"} if has_test else {}),
               "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\nnames: ['cat']\n"
               "roboflow:\n  version: 1\n")
    for name in ("dataset", "roboflow"):
        write(tmp_path / f"in/README.{name}.txt", "# Pets\nexported via roboflow.com\n")
    boxes, output = run()
    assert len(boxes) == 2 + has_test and all(len(images) == 1 for images in boxes.values())
    remark, = remarks_on(output)
    test = "test is test/images" if has_test else "test is missing"
    assert all(part in remark for part in ("train is train/images (1 images)", "val is valid/images", test))


def test_a_class_listed_twice_is_merged(tmp_path, run):
    for split in ("train", "valid"):
        write_image(tmp_path / f"in/{split}/{split}.jpg")
        write(tmp_path / f"in/{split}/_annotations.coco.json",
              coco_content({0: f"{split}.jpg"}, [(0, 1, [1, 2, 3, 4]), (0, 0, [5, 6, 7, 8])],
                           ((0, "raccoon"), (1, "raccoon"))))
    boxes, output = run()
    assert boxes["val"] == {"valid.jpg": [("raccoon", [1, 2, 3, 4]), ("raccoon", [5, 6, 7, 8])]}
    assert classes_of(tmp_path / "out") == ["raccoon"]
    assert len(lines_with(output, "1 classes ", "raccoon", "train/", "valid/")) == 1


@pytest.mark.parametrize("folder, prefix", [("images", ""), ("images/default", ""), ("images", "data/images/"),
                                            ("images", "images/")])
def test_cvats_coco_export(tmp_path, run, folder, prefix):
    names = ["deep/a.jpg", "b.jpg"]
    for name in names:
        write_image(tmp_path / "in" / folder / name)
    write(tmp_path / "in/annotations/instances_default.json",
          coco_content({1: prefix + names[0], 2: prefix + names[1]}, [(1, 1, [1, 2, 3, 4]), (2, 2, [5, 6, 7, 8])]))
    boxes, output = run()
    assert boxes["train"] | boxes["val"] == {"a.jpg": [("cat", [1, 2, 3, 4])], "b.jpg": [("dog", [5, 6, 7, 8])]}
    assert lines_with(output, "CVAT", "COCO") and lines_with(output, "1 of 2 images ", "--val_fraction")


def test_cocos_own_layout(tmp_path, run):
    """Files of keypoints and captions are ignored; crowds, areas, outlines and category ids are kept."""
    for split in ("train", "val"):
        write_image(tmp_path / f"in/{split}2017/{split}.jpg")
        content = coco_content({7: f"{split}.jpg"}, [(7, 90, [1, 2, 30, 40])], ((1, "person"), (90, "toothbrush")))
        content["annotations"][0].update(iscrowd=1, area=77, segmentation=[[1, 2, 3, 4, 5, 6]])
        for kind in ("instances", "captions", "person_keypoints"):
            write(tmp_path / f"in/annotations/{kind}_{split}2017.json", content)
    boxes, output = run()
    assert boxes == {split: {f"{split}.jpg": [("toothbrush", [1, 2, 30, 40])]} for split in ("train", "val")}
    content = json.loads((tmp_path / "out/annotations/val.json").read_text())
    assert [category["id"] for category in content["categories"]] == [1, 90]
    assert content["annotations"][0]["category_id"] == 90
    assert {name: content["annotations"][0][name] for name in ("iscrowd", "area", "segmentation")} == {
        "iscrowd": 1, "area": 77, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    assert lines_with(output, "COCO", "annotations/instances_train2017.json, annotations/instances_val2017.json")
    assert "captions" not in output and lines_with(output, "person_keypoints_train2017.json", "--task pose")


def test_an_image_in_the_lists_of_several_classes_gets_all_their_boxes(tmp_path, run):
    for name, category in (("cats", 1), ("dogs", 2)):
        write(tmp_path / f"in/{name}.json", coco_content({1: "a.jpg", 2: "b.jpg"}, [
            (1, category, [category, 2, 30, 40]), (2, 1, [5, 5, 9, 9])]))
    for name in "ab":
        write_image(tmp_path / f"in/{name}.jpg")
    boxes, output = run()
    assert boxes["train"] | boxes["val"] == {
        "a.jpg": [("cat", [1, 2, 30, 40]), ("dog", [2, 2, 30, 40])], "b.jpg": [("cat", [5, 5, 9, 9])]}
    assert lines_with(output, "2 images ", "(a.jpg, b.jpg)")


def test_rotated_rectangles_of_cvat(tmp_path, run):
    """The box 28, 27, 40, 10, rotated by 90 degrees, is 43, 12, 10, 40; reading the result does not rotate it again."""
    content = coco_content({1: "a.jpg", 2: "b.jpg"}, [(1, 1, [28, 27, 40, 10]), (2, 1, [28, 27, 40, 10])])
    for entry in content["annotations"]:
        entry.update(segmentation=[], attributes={"rotation": 90.0})
    write(tmp_path / "in/annotations/instances_default.json", content)
    for name in "ab":
        write_image(tmp_path / f"in/images/{name}.jpg")
    boxes, output = run()
    assert boxes["train"] | boxes["val"] == {f"{name}.jpg": [("cat", [43, 12, 10, 40])] for name in "ab"}
    assert lines_with(output, "2 boxes ", "attributes.rotation")
    for split in ("train", "val"):
        coco = read_coco(str(tmp_path / f"out/annotations/{split}.json"))
        assert coco.notes == [] and coco.dataset["annotations"][0]["bbox"] == pytest.approx([43, 12, 10, 40])


def test_without_images_nothing_is_divided(tmp_path, console):
    write_image(tmp_path / "in/a.jpg")
    write(tmp_path / "in/labels.json", coco_content({1: "x.jpg"}, [(1, 1, [1, 2, 3, 4])]))
    with user_error(f"{tmp_path}/in: ", "image 1 of labels.json: ", "'x.jpg'"):
        import_dataset.main(["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    assert "--val_fraction" not in console.readouterr().out


def test_splits_with_different_classes_get_one_list(tmp_path, run):
    for split, classes in (("train", ((1, "cat"), (2, "dog"))), ("val", ((1, "dog"), (2, "bird")))):
        write_image(tmp_path / f"in/images/{split}.jpg")
        objects = [(1, 1, [1, 1, 5, 5]), (1, 2, [2, 2, 5, 5])]
        write(tmp_path / f"in/{split}.json", coco_content({1: f"{split}.jpg"}, objects, classes))
    boxes, _ = run()
    assert boxes == {"train": {"train.jpg": [("cat", [1, 1, 5, 5]), ("dog", [2, 2, 5, 5])]},
                     "val": {"val.jpg": [("dog", [1, 1, 5, 5]), ("bird", [2, 2, 5, 5])]}}
    assert classes_of(tmp_path / "out") == classes_of(tmp_path / "out", "val") == ["cat", "dog", "bird"]


def test_names_that_lead_out_of_the_folder_are_not_read(tmp_path, run):
    write_image(tmp_path / "outside.jpg")
    for name in ("a", "b"):
        write_image(tmp_path / f"in/{name}.jpg")
    names = ["a.jpg", "b.jpg", "../outside.jpg", str(tmp_path / "outside.jpg"), "/etc/passwd",
             "../../../../../etc/passwd", "no.jpg"]
    content = coco_content({}, [(number, 1, [1, 1, 5, 5]) for number in range(len(names))])
    content["images"] = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    write(tmp_path / "in/labels.json", content)
    boxes, output = run()
    assert boxes["train"] | boxes["val"] == {name: [("cat", [1, 1, 5, 5])] for name in ("a.jpg", "b.jpg")}
    for name in names[2:]:
        assert lines_with(output, "skipped", repr(name))
    write_yolo(tmp_path / "in2", {"a.jpg": "0 .5 .5 .1 .1", "b.jpg": "0 .5 .5 .1 .1"}, "train: list.txt\nnames: [a]")
    write(tmp_path / "in2/list.txt", f"a.jpg\nb.jpg\n../outside.jpg\n{tmp_path}/outside.jpg\n")
    import_dataset.main(["--input", str(tmp_path / "in2"), "--output", str(tmp_path / "out2")])
    boxes = boxes_of(tmp_path / "out2")
    assert sorted(boxes["train"] | boxes["val"]) == ["a.jpg", "b.jpg"]


# ---------------------------------------------------------------- splits and names


def write_many(folder, names):
    write_yolo(folder, {f"images/{name}.jpg": "0 .5 .5 .2 .2" for name in names}, "names: [a]")


def test_both_splits_get_images_with_objects(tmp_path, run):
    """Two images with objects among many without."""
    labels = {f"images/{number}.jpg": "0 .5 .5 .2 .2" if number in (3, 8) else "" for number in range(20)}
    write_yolo(tmp_path / "in", labels, "names: [a]")
    boxes, _ = run()
    assert [sum(map(len, boxes[split].values())) for split in ("train", "val")] == [1, 1] and len(boxes["val"]) == 5


@pytest.mark.parametrize("count, fraction, expected", [(10, 0.2, 2), (2, 0.01, 1), (2, 0.99, 1), (10, 0.99, 9),
                                                       (15, 0.1, 2)])
def test_a_validation_split_is_made(tmp_path, run, count, fraction, expected):
    write_many(tmp_path / "in", range(count))
    boxes, output = run("--val_fraction", fraction)
    assert len(boxes["val"]) == expected and len(boxes["train"]) == count - expected
    assert not set(boxes["val"]) & set(boxes["train"])
    assert lines_with(output, f"{expected} of {count} images ", f"--val_fraction {fraction:g}")


def test_the_split_depends_on_neither_order_nor_place(tmp_path, run, monkeypatch):
    write_many(tmp_path / "in", range(30))
    first = {split: [*images] for split, images in run()[0].items()}
    shutil.rmtree(tmp_path / "in")
    write_many(tmp_path / "in", reversed(range(30)))
    scandir = os.scandir
    monkeypatch.setattr(import_dataset.os, "scandir", lambda path: _Backwards(scandir(path)))
    assert {split: [*images] for split, images in run()[0].items()} == first
    assert [*run("--seed", 2)[0]["val"]] != first["val"]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "out.1", "out.2"}


class _Backwards:
    """A folder's entries in reverse order."""

    def __init__(self, entries):
        self.entries = entries

    def __enter__(self):
        return reversed(list(self.entries))

    def __exit__(self, *_):
        self.entries.close()


def test_fewer_than_two_images_are_refused(tmp_path, run):
    write_many(tmp_path / "in", [1])
    with user_error(f"{tmp_path}/in: 1 "):
        run()
    write(tmp_path / "in/labels/1.txt", "9 .5 .5 .1 .1")
    with user_error(f"{tmp_path}/in: ", "labels/1.txt, line 1: class 9", " 1 "):
        run()
    write(tmp_path / "in/labels/1.txt", "")
    with user_error(f"{tmp_path}/in: ", " 1 ", "for train "):
        run()
    os.remove(tmp_path / "in/images/1.jpg")
    with user_error(f"{tmp_path}/in: ", "no images"):
        run()
    assert not (tmp_path / "out").exists()


def test_images_with_the_same_name_stay_apart(tmp_path, run):
    """Also if a name made from the path is in use, and if names differ only in case."""
    names = ["t/x/0", "t/y/0", "t/images_t_x_0", "t/z/A", "t/a", "t/x/1", "v/0"]
    write_yolo(tmp_path / "in", {f"images/{name}.jpg": "0 .5 .5 .2 .2" for name in names},
               "train: images/t\nval: images/v\nnames: [a]")
    for number, name in enumerate(names):
        write_image(tmp_path / f"in/images/{name}.jpg", width=100 + number)
    boxes, _ = run()
    assert sorted(boxes["train"]) == ["1.jpg", "images_t_a.jpg", "images_t_x_0.jpg", "images_t_x_0_1.jpg",
                                      "images_t_y_0.jpg", "images_t_z_A.jpg"]
    assert [*boxes["val"]] == ["0.jpg"]
    seen = {}
    for split in ("train", "val"):
        for image in json.loads((tmp_path / f"out/annotations/{split}.json").read_text())["images"]:
            pixels = cv2.imread(str(tmp_path / f"out/images/{split}" / image["file_name"]))
            assert pixels.shape[1] == image["width"]
            seen[image["source"]] = image["width"]
    assert seen == {f"images/{name}.jpg": 100 + number for number, name in enumerate(names)}


@pytest.mark.parametrize("description, expected", [
    ("train: images/train\nval: images/train", {"train": 1, "val": 1}),  # as in coco128.yaml: no validation split
    ("train: images\nval: images/val", {"train": 2, "val": 2}),
    ("train: images/train\nval: images/gone", {"train": 1, "val": 1}),
    ("train: images/train\nval: images/val\ntest: images/val", {"train": 2, "val": 2}),
    ("val: images/val", {"train": 1, "val": 1}), ("train:\nval:", {"train": 2, "val": 2}),
])
def test_every_image_is_in_one_split(tmp_path, run, description, expected):
    names = ("train/a", "train/b", "val/c", "val/d")
    write_yolo(tmp_path / "in", {f"images/{name}.jpg": "0 .5 .5 .2 .2" for name in names},
               f"{description}\nnames: [x]")
    boxes, _ = run()
    assert {split: len(images) for split, images in boxes.items()} == expected
    assert not set(boxes["train"]) & set(boxes["val"])


# ---------------------------------------------------------------- the command


def test_conversion_and_evaluation_read_the_output(tmp_path, run, make_config):
    write_yolo(tmp_path / "in", {"images/a b.jpg": "0 .5 .5 .4 .4", "images/c.jpg": "1 .25 .25 .5 .5\n0 .5 .5 .4 .4"},
               "names: [x, y]")
    run()
    data = make_config().dataset_config
    objects = 0
    for name in ("train", "val"):
        split = find_split(str(tmp_path / "out"), name, data)
        manifest = convert(split, tmp_path / name)
        assert manifest["classes"] == ["x", "y"] and manifest["category_ids"] == [1, 2] and not manifest["skipped"]
        assert not read_coco(split.annotation).notes
        objects += manifest["objects"]
    assert objects == 3
    before = sorted(path for path in (tmp_path / "in").rglob("*"))
    assert [path.name for path in before if path.is_file()] == ["data.yaml", "a b.jpg", "c.jpg", "a b.txt", "c.txt"]


def test_an_interrupted_run_leaves_no_files_and_earlier_output_is_kept(tmp_path, run, monkeypatch):
    write_many(tmp_path / "in", range(3))
    run()

    def interrupted(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("src.core.files.link_or_copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert lines_with(run()[1], str(tmp_path / "out.1")) and (tmp_path / "out.1/annotations/train.json").exists()


def test_a_foreign_data_set_is_not_overwritten(tmp_path, run):
    write_many(tmp_path / "in", range(3))
    write(tmp_path / "out/annotations/train.json", {"images": [], "annotations": [], "categories": []})
    with user_error(f"{tmp_path}/out "):
        run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("args, expected", [
    (["--input", "/nowhere", "--output", "o"], ["--input", "/nowhere"]), (["--input", "in"], ["--output"]),
    (["--input", "in", "--output", "in"], ["--input", "--output"]),
    (["--input", "in", "--output", "in/o"], ["--input", "--output"]),
    (["--input", "in", "--output", "."], ["--input", "--output"]),
    (["--input", "in/data.yaml", "--output", "o"], ["in/data.yaml"]),
    (["--input", "in", "--output", "o", "--val_fraction", "1"], ["--val_fraction", " 1"]),
    (["--input", "in", "--output", "o", "--val_fraction", "nan"], ["--val_fraction", "nan"]),
    (["--input", "in", "--output", "o", "--fraction", "0.1"], ["--val_fraction"]),
    (["--input", "in", "--output", "o", "--format", "coco"], ["in: ", "COCO"]),
    (["--input", "empty", "--output", "o"], ["empty: ", "COCO", "Roboflow", "YOLO", "VOC"]),
    (["--input", "other", "--output", "o"], ["other: ", "2 .jpg, 1 .csv", "COCO", "YOLO", "VOC"]),
    (["--input", "both", "--output", "o"], ["both ", "COCO", "(a.json)", "YOLO", "(data.yaml)", "--format"]),
])
def test_mistakes(args, expected, tmp_path):
    write_many(tmp_path / "in", range(3))
    (tmp_path / "empty").mkdir()
    for name in ("1.jpg", "2.jpg", "labels.csv"):
        write(tmp_path / "other" / name, "x")
    write_many(tmp_path / "both", range(3))
    write(tmp_path / "both/a.json", coco_content({1: "1.jpg"}, []))
    assert_user_error(call_script("tools/import_dataset.py", *args, cwd=tmp_path, check=False), *expected)
    assert not (tmp_path / "o").exists()


def test_the_format_can_be_chosen(tmp_path, run):
    write_many(tmp_path / "in", range(3))
    objects = [(1, 1, [1, 2, 3, 4]), (2, 1, [1, 2, 3, 4])]
    write(tmp_path / "in/a.json", coco_content({1: "1.jpg", 2: "2.jpg"}, objects))
    assert {name for images in run("--format", "coco")[0].values() for name in images} == {"1.jpg", "2.jpg"}
    assert {name for images in run("--format", "yolo")[0].values() for name in images} == {"0.jpg", "1.jpg", "2.jpg"}


# ---------------------------------------------------------------- errors elsewhere


def write_format(folder, form):
    """Write a folder, with a space in its name, of labels in a format; returns its path."""
    folder = folder / "my data"
    if form == "YOLO labels":
        write_many(folder, range(2))
    elif form == "Roboflow's COCO export":
        write_image(folder / "train/a.jpg")
        write(folder / "train/_annotations.coco.json", coco_content({1: "a.jpg"}, []))
    elif form == "CVAT's COCO export":
        write_image(folder / "images/a.jpg")
        write(folder / "annotations/instances_default.json", coco_content({1: "a.jpg"}, []))
    elif form == "labelImg's labels":
        write_image(folder / "a.jpg")
        write_xml(folder / "a.xml", [])
    else:
        write_voc(folder, {"train": ["a"]})
    return folder


FORMS = ["YOLO labels", "Roboflow's COCO export", "CVAT's COCO export", "labelImg's labels", "Pascal VOC labels"]


@pytest.mark.parametrize("form", FORMS)
def test_errors_name_the_format_of_a_folder(tmp_path, form, make_config):
    folder = write_format(tmp_path, form)
    hint = f"{form}: python tools/import_dataset.py --input '{folder}' --output '{folder}_coco'"
    for split in ("train", "val"):
        with user_error(f"instances_{split}2017.json", hint):
            find_split(str(folder), split, make_config().dataset_config)
    with user_error(hint, "python src/dataset.py --coco_data_dir DATA --mindrecord_dir MINDRECORD_DIR"):
        read_manifest(make_config("--mindrecord_dir", folder))


def test_scripts_name_the_import(tmp_path, small_file):
    folder = write_format(tmp_path, "YOLO labels")
    for script, args in (("src/dataset.py", ["--coco_data_dir", folder, "--mindrecord_dir", tmp_path / "m"]),
                         ("train.py", ["--mindrecord_dir", folder]), ("tools/train_full.py", ["--data_path", folder]),
                         ("eval.py", ["--data_dir", folder, "--load_checkpoint_path", small_file])):
        done = call_script(script, *args, cwd=tmp_path, check=False)
        assert_user_error(done, "YOLO labels: python ")
        command = shlex.split(done.stderr.partition("labels: ")[2])
        assert (tmp_path / command[1]).is_file() and command[2] == "--input"  # relative to the user's folder


def test_an_unconverted_data_set_is_recognized(tiny_data, make_config):
    with user_error(f"python src/dataset.py --coco_data_dir {tiny_data} --mindrecord_dir MINDRECORD_DIR"):
        read_manifest(make_config("--mindrecord_dir", tiny_data))


def test_other_folders_are_not_recognized(tmp_path, make_config):
    write(tmp_path / "notes.txt", "1 2 3 4 5")
    write(tmp_path / "result.json", {"metrics": []})
    write(tmp_path / "page.xml", "<html></html>")
    with user_error("instances_val2017.json") as caught:
        find_split(str(tmp_path), "val", make_config().dataset_config)
    assert "import_dataset" not in str(caught.value)


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize("path, split", [
    ("train/a.json", "train"), ("x/valid", "val"), ("instances_val2017.json", "val"), ("a/trainval0712.json", "train"),
    ("Testing/b", "test"), ("training/test", "test"), ("strain/contest", None), ("instances_default.json", None),
    ("", None),
])
def test_the_split_that_a_path_names(path, split):
    assert split_of(path) == split


def test_names_are_matched_to_files():
    files = ["images/train/0.jpg", "images/train/1.jpg", "images/val/0.jpg", "images/val/1.jpg", "images/val/2.jpg"]
    assert match_names(["0.jpg", "1.jpg"], files, "annotations/train.json") == files[:2]
    assert match_names(["0.jpg", "1.jpg", "2.jpg"], files, "annotations/val.json") == files[2:]
    assert match_names(["/a/b/images/val/0.jpg", "/a/b/images/val/9.jpg"], files, "x.txt") == [files[2], None]
    assert match_names(["0.jpg", "2.jpg"], files, "annotations/train.json") == [files[0], None]
    files = ["x/a.jpg", "x/b.jpg", "x/e.jpg", "y/c.jpg", "y/d.jpg", "z/d.jpg"]
    assert match_names(["a.jpg", "b.jpg", "e.jpg", "c.jpg", "d.jpg"], files, "all.json") == [*files[:4], None]
    assert match_names(["D:\\x\\y\\c.jpg"], files, "x.txt") == ["y/c.jpg"]
    assert match_names(["../../a.png", ""], files, "x") == [None, None]


def test_a_cycle_of_links_ends(tmp_path, run):
    """A linked folder is read once."""
    write_many(tmp_path / "elsewhere", range(3))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/set").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "in")
    boxes, output = run()
    assert sum(map(len, boxes.values())) == 3 and none_skipped(output)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_an_incomplete_data_set_is_recognized(tmp_path):
    write(tmp_path / "data.yaml", "names: [a]")
    assert [entry.name for entry in recognize(tmp_path, ["data.yaml"])] == ["YOLO labels"]
    assert recognize(tmp_path, ["gone.json", "gone.xml", "gone.txt", "gone.yaml", "a.jpg"]) == []
