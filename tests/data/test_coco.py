"""src/data/coco.py: locating data sets; repaired, skipped and refused annotations."""
import contextlib
import io
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.core.errors import UserError
from src.data.coco import Split, find_split, image_list, read_coco
from src.data.objects import ground_truth, usable_objects
from src.tasks.detection import DETECTION, scores, voc_scores
from tests.conftest import convert, lines_with, noise_image, user_error, write_coco

BOXES = [[10, 20, 30, 25], [60, 40, 25, 30], [5, 50, 20, 30]]


@pytest.fixture
def rewrite(tmp_path):
    """A function: apply a change to an annotation file with two images and four objects, and return its path."""
    def call(change=lambda content: None):
        objects = [(1, 1, BOXES[0]), (1, 2, BOXES[1]), (2, 1, BOXES[2]), (2, 2, BOXES[0])]
        path = write_coco(tmp_path, "val", {1: noise_image(1), 2: noise_image(2)}, objects)
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        change(content)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)
        return path

    return call


def perfect(coco):
    """Records that repeat the ground truth."""
    return [{"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.9}
            for entry in coco.dataset["annotations"]]


def set_all(name, values):
    def change(content):
        for entry, value in zip(content["annotations"], values):
            entry[name] = value
    return change


def remove(*names):
    def change(content):
        for entry in content["annotations"]:
            for name in names:
                entry.pop(name)
    return change


@pytest.mark.parametrize("change, expected", [
    (set_all("id", [0, 1, 2, 3]), ["annotation ids start at 0"]),
    (set_all("id", [0, 1, 1, 3]), ["2 annotation ids", "(0, 1)"]),
    (set_all("id", [7] * 4), ["3 annotation ids", "(7, 7, 7)"]),
    (set_all("id", ["a", None, 1.5, True]), ["4 annotation ids", "None"]),
    (set_all("id", [1, 2, 3, 10**400]), ["1 annotation ids"]),
    (remove("id"), ["4 annotation ids"]), (remove("iscrowd"), ["4 annotations", "iscrowd"]),
    (remove("area"), ["4 annotations", "area"]),
    (remove("iscrowd", "area"), ["4 annotations", "iscrowd", "area"]),
    (set_all("area", ["wide", None, float("nan"), 3]), ["3 annotations", "area"]),
])
def test_perfect_records_score_one_whatever_the_ids(change, expected, rewrite):
    """pycocotools treats the id 0 as no match, and duplicate ids as one."""
    coco = read_coco(rewrite(change))
    assert len(coco.notes) == len(lines_with(coco.notes, *expected)) == 1, coco.notes
    assert scores.score(coco, perfect(coco))[1]["AP"] == pytest.approx(1.0)
    assert [entry["area"] for entry in coco.dataset["annotations"]][:3] == [750, 750, 600]


def test_a_valid_file_is_unchanged(rewrite):
    path = rewrite()
    coco, plain = read_coco(path), COCO(path)
    assert coco.notes == coco.skipped == []
    assert coco.dataset["annotations"] == plain.dataset["annotations"] and coco.imgs == plain.imgs
    for reader in (coco, plain):
        reader.evaluation = COCOeval(reader, plain.loadRes(perfect(plain)), "bbox")
        reader.evaluation.evaluate()
        reader.evaluation.accumulate()
    np.testing.assert_array_equal(coco.evaluation.eval["precision"], plain.evaluation.eval["precision"])


def test_messages_name_the_ids_of_the_file(rewrite, tmp_path):
    """Renumbered annotations keep their name."""
    def change(content):
        set_all("id", [0, 0, 0, 41])(content)
        content["annotations"][3]["bbox"] = [1, 1, 0, 5]

    split = Split(rewrite(change), str(tmp_path / "val2017"))
    manifest = convert(split, tmp_path / "m", "p", tmp_path)
    skipped = manifest["skipped"]
    assert len(skipped) == len(lines_with(skipped, "annotation 41 of image 2: ", "[1, 1, 0, 5]")) == 1


@pytest.mark.parametrize("box", [None, "x", [1, 2, 3], [1, 2, "3 px", 4], [1, 2, float("nan"), 4],
                                 [1e300, 0, 1e300, 5], {"x": 1}, [True] * 4])
def test_invalid_boxes_are_skipped_and_named(box, rewrite):
    path = rewrite(lambda content: content["annotations"][1].update(bbox=box))
    coco = read_coco(path)
    assert len(coco.dataset["annotations"]) == 3
    assert len(coco.skipped) == len(lines_with(coco.skipped, "annotation 2 of image 1: ", "four numbers")) == 1
    assert scores.score(coco, perfect(coco))[1]["AP"] == pytest.approx(1.0)


def test_an_image_listed_twice_counts_once(rewrite, tmp_path):
    path = rewrite(lambda content: content["images"].append(dict(content["images"][0])))
    coco = read_coco(path)
    assert [image_id for image_id, _ in image_list(Split(path, ""), coco)] == [1, 2]
    assert len(coco.notes) == len(lines_with(coco.notes, "1 images ", "(id 1)")) == 1
    assert convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)["images"] == 2


@pytest.mark.parametrize("change, expected", [
    (lambda c: c["images"][0].update(id="../../../x"), "image entry 1 is '../../../x'"),
    (lambda c: c["images"][0].update(id=-3), "-3"),
    (lambda c: c["images"][0].update(id=2**63), "9223372036854775808"),
    (lambda c: c["images"][0].update(id=None), "None"), (lambda c: c["images"][1].pop("id"), "image entry 2"),
    (lambda c: c["images"][0].update(file_name=5), "file_name is 5"),
    (lambda c: c["images"][0].update(file_name="a\0b"), "file_name"),
    (lambda c: c["categories"][0].update(id="one"), "category 1 is 'one'"),
    (lambda c: c["categories"][0].update(name=["disc"]), "category 1 is ['disc']"),
    (lambda c: c["categories"][0].update(name=""), "category 1"),
    (lambda c: c["categories"][0].update(name="\ud800"), "category 1"),
    (lambda c: c["categories"][1].update(name="disc"), "name 'disc'"),
    (lambda c: c["categories"][1].update(id=1), "id 1"),
    (lambda c: c.update(categories=[]), "categories"), (lambda c: c.update(images={}), "'images'"),
    (lambda c: c.update(annotations=[[1]]), "annotations, entry 1: [1]"),
    (lambda c: c.pop("categories"), "'categories'"),
])
def test_invalid_files_are_refused_before_training(change, expected, rewrite, tmp_path):
    path = rewrite(change)
    with user_error(expected, path):
        read_coco(path)
    with pytest.raises(UserError):
        convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)
    assert not (tmp_path / "m").exists()


def test_integers_may_be_floats_and_info_anything(rewrite):
    def change(content):
        content["info"] = ["a", "list"]
        for entry in content["annotations"]:
            entry["image_id"] = float(entry["image_id"])

    coco = read_coco(rewrite(change))
    assert scores.score(coco, perfect(coco))[1]["AP"] == pytest.approx(1.0) and coco.notes == []


def test_annotations_of_unknown_images_and_categories(rewrite):
    def change(content):
        content["annotations"] += [{"id": 9, "image_id": 77, "category_id": 1, "bbox": [1, 1, 2, 2]},
                                   {"id": 10, "image_id": 1, "category_id": [1], "bbox": [1, 1, 2, 2]},
                                   {"id": 11, "image_id": 1, "category_id": 99, "bbox": [1, 1, 2, 2]}]

    coco = read_coco(rewrite(change))
    assert len(coco.dataset["annotations"]) == 4
    assert [line.partition(":")[0] for line in coco.skipped] == [
        "annotation 9 of image 77", "annotation 10 of image 1", "annotation 11 of image 1"]
    assert "category_id" in coco.skipped[1] and "[1]" in coco.skipped[1] and "category id 99" in coco.skipped[2]
    scores.confusion_matrix(coco, perfect(coco), 0.5)


# ---------------------------------------------------------------- the definition of an object


def published(path, records):
    """The AP of records from pycocotools alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        plain = COCO(path)
        scoring = COCOeval(plain, plain.loadRes(records), "bbox")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return scoring.stats


def spoil(content):
    """Add to each image a box without area, one outside the image, and a duplicate of its first box."""
    for number, image_id in ((10, 1), (20, 2)):
        first = next(entry for entry in content["annotations"] if entry["image_id"] == image_id)
        for offset, box in enumerate([[40.5, 30.2, 5.54, 0.0], [500, 1, 20, 16], first["bbox"]]):
            content["annotations"].append({**first, "id": number + offset, "bbox": box})


def test_evaluation_counts_what_training_learns(rewrite, tmp_path):
    """Perfect detections of the real objects score 1, as pycocotools computes on a file with only these objects."""
    clean = rewrite()
    real = perfect(read_coco(clean))
    expected = published(clean, real)
    path = rewrite(spoil)
    coco = read_coco(path)
    for line, fragments in zip(coco.skipped, [("annotation 10 of image 1: ", "[40.5, 30.2, 5.54, 0.0]"),
                                              ("annotation 11 of image 1: ", "[500, 1, 20, 16]", "128x96"),
                                              ("annotation 12 of image 1: ", "annotation 1 of image 1"),
                                              ("annotation 20 of image 2: ", "[40.5, 30.2, 5.54, 0.0]"),
                                              ("annotation 21 of image 2: ", "[500, 1, 20, 16]", "128x96"),
                                              ("annotation 22 of image 2: ", "annotation 3 of image 2")], strict=True):
        assert all(text in line for text in fragments), line
    _, metrics = scores.score(coco, real)
    np.testing.assert_array_equal([metrics[name] for name in DETECTION.metrics], expected)
    assert metrics["AP"] == pytest.approx(1.0) and metrics["objects_per_class"] == {"disc": 2, "square": 2}
    assert published(path, real)[0] < 0.7  # hence the invalid ones are skipped
    assert voc_scores.score(coco, real)[1] == {"disc": 2, "square": 2}
    np.testing.assert_array_equal(scores.confusion_matrix(coco, real, 0.5), np.diag([2, 2, 0]))
    assert scores.image_quality(coco, real, 0.5) == {1: pytest.approx(1.0), 2: pytest.approx(1.0)}
    assert convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)["objects"] == 4


def test_cocos_own_files_keep_all_boxes(rewrite, tmp_path):
    """Published scores count all of them; the ones that training skips are noted."""
    def change(content):
        spoil(content)
        content["info"] = {"description": "COCO 2017 Dataset"}
        content["annotations"][1]["area"] = 9999

    path = rewrite(change)
    coco, plain = read_coco(path), COCO(path)
    assert coco.dataset["annotations"] == plain.dataset["annotations"] and not coco.skipped
    assert len(coco.notes) == 1 and coco.notes[0].startswith("6 boxes "), coco.notes
    real = perfect(coco)[:4]
    _, metrics = scores.score(coco, real)
    np.testing.assert_array_equal([metrics[name] for name in DETECTION.metrics], published(path, real))
    manifest = convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)
    assert manifest["objects"] == 4 and len(manifest["skipped"]) == 6


def test_a_missing_size_is_read_from_the_image(rewrite, tmp_path):
    def change(content):
        spoil(content)
        for info in content["images"]:
            del info["width"], info["height"]

    path = rewrite(change)
    assert len(read_coco(path).dataset["annotations"]) == 6  # boxes outside an image of unknown size
    assert len(read_coco(path, str(tmp_path / "val2017")).dataset["annotations"]) == 4


@pytest.mark.parametrize("area, expected", [(750, 750), (300.5, 300.5), (31 * 26, 31 * 26), (31 * 26 + 1, 750),
                                            (0, 750), (-1, 750)])
def test_an_area_larger_than_the_box_is_corrected(area, expected, rewrite):
    """An outline's area is smaller; pixels with both borders cover (w + 1) x (h + 1). The box is 30 x 25."""
    coco = read_coco(rewrite(lambda content: content["annotations"][0].update(area=area)))
    assert coco.dataset["annotations"][0]["area"] == expected
    assert [note.split()[:2] for note in coco.notes] == ([] if area == expected else [["1", "areas"]])


def test_an_image_with_only_invalid_annotations_is_not_a_negative(rewrite, tmp_path):
    def change(content):
        content["annotations"][2]["bbox"] = [1, 1, 0, 5]
        content["annotations"][3]["category_id"] = 77
        content["images"].append({**content["images"][0], "id": 3})
        content["images"].append({**content["images"][0], "id": 4, "file_name": "000000000002.jpg"})

    path = rewrite(change)
    coco = read_coco(path)
    assert len(lines_with(coco.skipped, "image 2 (000000000002.jpg): ", " 2 annotations")) == 1
    assert sum(line.startswith("image ") for line in coco.skipped) == 1
    assert [*coco.imgs] == [1]  # ids 3 and 4 belong to the same files
    assert convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)["images"] == 1


def test_several_files_with_one_id_are_skipped_with_their_boxes(rewrite, tmp_path):
    path = rewrite(lambda content: content["images"].append({**content["images"][0], "file_name": "other.png"}))
    coco = read_coco(path)
    assert [*coco.imgs] == [2] and {entry["image_id"] for entry in coco.dataset["annotations"]} == {2}
    assert [line.partition(": ")[0] for line in coco.skipped] == [
        "image 1", "annotation 1 of image 1", "annotation 2 of image 1"]
    assert lines_with(coco.skipped, "image 1: 2 files ", "(000000000001.jpg, other.png)")
    assert convert(Split(path, str(tmp_path / "val2017")), tmp_path / "m", "p", tmp_path)["images"] == 1


def test_several_ids_of_one_file(rewrite):
    """Ids with different boxes are merged; ids with the same boxes, as in a set that repeats images, are kept."""
    def divide(content):
        content["images"].append({**content["images"][0], "id": 9, "file_name": "./000000000001.jpg"})
        content["annotations"][1]["image_id"] = 9

    coco = read_coco(rewrite(divide))
    assert [*coco.imgs] == [1, 2] and len(coco.imgToAnns[1]) == 2
    assert len(coco.notes) == len(lines_with(coco.notes, "1 image files ", "(000000000001.jpg)")) == 1

    def repeat(content):
        content["images"].append({**content["images"][0], "id": 9})
        content["annotations"] += [{**entry, "id": 90 + entry["id"], "image_id": 9}
                                   for entry in content["annotations"][:2]]

    coco = read_coco(rewrite(repeat))
    assert [*coco.imgs] == [1, 2, 9] and len(coco.imgToAnns[9]) == 2 and coco.notes == []


def test_numbers_written_as_strings(rewrite):
    def change(content):
        content["images"][0]["id"], content["categories"][1]["id"] = "1", "2"
        content["annotations"][0].update(image_id="1", bbox=["10", "20.0", " 3e1 ", 25])
        content["annotations"][2].update(iscrowd="1", category_id="1.0")

    coco = read_coco(rewrite(change))
    entries = coco.dataset["annotations"]
    assert len(entries) == 4 and entries[0]["bbox"] == [10, 20, 30, 25] and entries[2]["iscrowd"] == 1
    assert coco.skipped == []
    assert len(coco.notes) == 1 and coco.notes[0].startswith("4 entries ")


@pytest.mark.parametrize("box, degrees, expected", [
    ([28, 27, 40, 10], 90, [43, 12, 10, 40]), ([28, 27, 40, 10], 270.0, [43, 12, 10, 40]),
    ([28, 27, 40, 10], 180, [28, 27, 40, 10]),
    ([0, 0, 10, 10], 45, [5 - 50**0.5, 5 - 50**0.5, 200**0.5, 200**0.5]),
])
def test_a_rotated_box_becomes_its_upright_bounding_box(box, degrees, expected, rewrite):
    """Compared with the corners, rotated one by one."""
    x, y, w, h = box
    turn = np.exp(1j * np.radians(degrees))
    offsets = [turn * complex(a, b) for a in (-w / 2, w / 2) for b in (-h / 2, h / 2)]
    corners = np.array(offsets) + complex(x + w / 2, y + h / 2)
    by_hand = [corners.real.min(), corners.imag.min(), np.ptp(corners.real), np.ptp(corners.imag)]
    np.testing.assert_allclose(by_hand, expected, atol=1e-6)
    attributes = {"occluded": False, "rotation": degrees}
    coco = read_coco(rewrite(lambda content: content["annotations"][0].update(
        bbox=box, area=w * h, segmentation=[], attributes=attributes)))
    np.testing.assert_allclose(coco.dataset["annotations"][0]["bbox"], expected, atol=1e-5)
    # A file written from it is not rotated again.
    assert coco.dataset["annotations"][0]["attributes"] == {"occluded": False}
    assert len(coco.notes) == len(lines_with(coco.notes, "1 boxes ", "attributes.rotation")) == 1


def test_other_rotation_attributes_are_ignored(rewrite):
    """That of a polygon, whose box is upright, and one that is not an angle."""
    def change(content):
        content["annotations"][0].update(attributes={"rotation": 90}, segmentation=[[1, 2, 3, 4, 5, 6]])
        content["annotations"][1].update(attributes={"rotation": "left"})

    coco = read_coco(rewrite(change))
    assert [entry["bbox"] for entry in coco.dataset["annotations"][:2]] == BOXES[:2] and coco.notes == []


def test_similar_class_names_are_noted(rewrite):
    coco = read_coco(rewrite(lambda content: content["categories"].append({"id": 3, "name": "Square "})))
    assert len(coco.notes) == len(lines_with(coco.notes, "'square'", "'Square '")) == 1


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "{\"images\": " + "[" * 100_000, "\xff"])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with user_error(tmp_path / "a.json", "COCO"):
        read_coco(str(tmp_path / "a.json"))


@pytest.mark.parametrize("folder", ["train2017", "images/train/images", "images/train", "images"])
def test_image_folders(folder, tmp_path, make_config):
    """The first that exists is used; the more specific ones come first."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").touch()
    (tmp_path / folder).mkdir(parents=True)
    assert find_split(str(tmp_path), "train", make_config().dataset_config).image_dir == str(tmp_path / folder)


def test_usable_objects_names_what_it_skips():
    annotations = [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 5, "category_id": 7, "bbox": [1.0, 2, 3, 4]},
        {"id": 3, "image_id": 5, "category_id": 7, "bbox": [1, 2, 0, 4]},
        {"id": 4, "image_id": 5, "category_id": 7, "bbox": [200, 2, 3, 4]},
        {"id": 5, "image_id": 5, "category_id": 8, "bbox": [1, 2, 3, 4]},
        {"id": 6, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"id": 7, "image_id": 5, "category_id": 7, "bbox": [90, 90, 30, 30]},
    ]
    objects, skipped = usable_objects(annotations, (100, 100), DETECTION, {"category_ids": [7, 8]})
    np.testing.assert_array_equal(objects["boxes"], [[1, 2, 4, 6], [1, 2, 4, 6], [1, 2, 4, 6], [90, 90, 120, 120]])
    np.testing.assert_array_equal(objects["labels"], [0, 1, 0, 0])
    for line, fragments in zip(skipped, [("annotation 2 of image 5: ", "annotation 1 of image 5"),
                                         ("annotation 3 of image 5: ", "[1, 2, 0, 4]"),
                                         ("annotation 4 of image 5: ", "[200, 2, 3, 4]", "100x100")], strict=True):
        assert all(text in line for text in fragments), line


@pytest.mark.parametrize("layout", [
    ("annotations/instances_train2017.json", "train2017"),
    ("annotations/instance_train2017.json", "train2017"),
    ("annotations/train.json", "images/train/images"),
])
def test_find_split_knows_the_documented_layouts(tmp_path, layout, make_config):
    annotation, image_dir = (tmp_path / name for name in layout)
    annotation.parent.mkdir(parents=True)
    annotation.write_text("{}")
    image_dir.mkdir(parents=True)
    split = find_split(str(tmp_path), "train", make_config().dataset_config)
    assert (split.annotation, split.image_dir) == (str(annotation), str(image_dir))


def test_find_split_uses_chosen_paths_and_lists_the_places_tried(tmp_path, make_config):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "images").mkdir()
    for split in ("train", "val", "test"):
        args = [f"--dataset_config.{split}_annotation", "a.json", f"--dataset_config.{split}_image_dir", "images"]
        found = find_split(str(tmp_path), split, make_config(*args).dataset_config)
        assert found.annotation == str(tmp_path / "a.json") and found.image_dir == str(tmp_path / "images")
    with pytest.raises(UserError, match="instances_train2017.json.*train_annotation"):
        find_split(str(tmp_path), "train", make_config().dataset_config)


def test_test_images_come_from_the_annotation_file_if_there_is_one(tmp_path, make_config):
    (tmp_path / "list.json").write_text('{"images": [{"id": 7, "file_name": "b.png"}], '
                                        '"categories": [{"id": 1, "name": "x"}]}')
    (tmp_path / "test2017").mkdir()
    for name in ("a.png", "b.png", "notes.txt"):
        (tmp_path / "test2017" / name).write_bytes(b"")
    options = make_config("--dataset_config.test_annotation", "list.json").dataset_config
    split = find_split(str(tmp_path), "test", options)
    assert image_list(split, read_coco(split.annotation)) == [(7, str(tmp_path / "test2017" / "b.png"))]
    folder = image_list(find_split(str(tmp_path), "test", make_config().dataset_config), None)
    assert [(image_id, path.rsplit("/", 1)[1]) for image_id, path in folder] == [(1, "a.png"), (2, "b.png")]


def test_class_folders_below_the_image_folder(tmp_path, make_config):
    """The second documented layout: file_name includes the class folder."""
    (tmp_path / "annotations").mkdir()
    folder = tmp_path / "images" / "train" / "images" / "cat"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "1.png"), noise_image(1))
    content = {"images": [{"id": 1, "file_name": "cat/1.png"}], "categories": [{"id": 4, "name": "cat"}],
               "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [5, 5, 20, 20]}]}
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(content))
    split = find_split(str(tmp_path), "train", make_config().dataset_config)
    manifest = convert(split, tmp_path / "out", "p", "cats")
    assert (manifest["images"], manifest["objects"], manifest["category_ids"]) == (1, 1, [4])


@pytest.mark.parametrize("text, expected", [
    ("{", "COCO"), ("[]", "COCO"), ('{"images": []}', "COCO"),
    ('{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "file_name"),
    ('{"images": [], "annotations": [], "categories": []}', "categories"),
])
def test_broken_annotation_files(tmp_path, text, expected):
    path = tmp_path / "a.json"
    path.write_text(text)
    with user_error(path, expected):
        read_coco(str(path))


def test_ground_truth(tiny_data):
    """Labels are indices into the model's classes, whose ids in this file may have another order."""
    coco = read_coco(str(tiny_data / "annotations" / "instances_val2017.json"))
    annotation = coco.imgToAnns[1][0]
    x, y, w, h = annotation["bbox"]
    for ids in ([1, 2, 3], [3, 1, 2]):
        expected = [x, y, x + w, y + h, 1, ids.index(annotation["category_id"])]
        np.testing.assert_allclose(ground_truth(DETECTION, coco, 1, ids, {})[0], expected, rtol=1e-6)
