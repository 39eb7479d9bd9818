"""src/inference/label_files.py: YOLO's label files, read back by tools/import_dataset.py."""
import json
import os

import cv2
import numpy as np
import pytest

from src.commands import predict
from src.core.errors import UserError
from src.inference.label_files import LabelFiles
from tests.conftest import call_script, noise_image
from tests.inference.test_predict import call, write_video

CLASSES = {"classes": ["disc", "big square"]}
SIZE = (128, 96)
ROWS = np.array([[10, 20, 40, 80, 0.9, 1], [0, 0, 128, 96, 0.5, 0]], np.float32)


def write(folder, description, rows):
    """Write images of noise and their label files from {name: rows} in YOLO's layout; return its folder."""
    labels = LabelFiles(str(folder / "y" / "labels"), description, False)
    labels.begin()
    for name, own in rows.items():
        os.makedirs((folder / "y" / "images" / name).parent, exist_ok=True)
        cv2.imwrite(str(folder / "y" / "images" / name), noise_image(1, SIZE[1], SIZE[0]))
        labels.add(name, own, SIZE)
    return folder / "y"


def imported(folder):
    """{split: [[(class, box, keypoints or None)] of each image]} of a folder with YOLO's labels."""
    call_script("tools/import_dataset.py", "--input", folder, "--output", folder.parent / "made")
    found = {}
    for split in ("train", "val"):
        path, = (folder.parent / "made" / "annotations").glob(f"*{split}*.json")
        content = json.loads(path.read_text())
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        found[split] = [[(names[entry["category_id"]], entry["bbox"], entry.get("keypoints"))
                         for entry in content["annotations"] if entry["image_id"] == image["id"]]
                        for image in content["images"]]
    return found


def test_our_importer_reads_the_same_boxes(tmp_path):
    """Also of an image in a subfolder; an image without detections has an empty file."""
    rows = {"train/deep er/a.jpg": ROWS, "train/b.png": ROWS[:0], "val/a.jpg": ROWS[1:]}
    folder = write(tmp_path, CLASSES, rows)
    assert (folder / "labels" / "train" / "b.txt").read_text() == ""
    # By hand: 25 / 128, 50 / 96, 30 / 128, 60 / 96.
    text = (folder / "labels" / "train" / "deep er" / "a.txt").read_text()
    assert text == "1 0.195312 0.520833 0.234375 0.625\n0 0.5 0.5 1 1\n"
    found = imported(folder)
    objects, = filter(None, found["train"])
    assert len(found["train"]) == 2 and [[entry[0] for entry in image] for image in found["val"]] == [["disc"]]
    assert [entry[0] for entry in objects] == ["big square", "disc"]
    np.testing.assert_allclose([entry[1] for entry in objects], [[10, 20, 30, 60], [0, 0, 128, 96]], atol=1e-3)


def test_our_importer_reads_the_same_poses(tmp_path):
    """A keypoint that the class lacks, and one outside the image, are absent."""
    description = {"task": "pose", "classes": ["disc", "square"], "keypoints": {"names": ["a", "b", "c"]}}
    points = [[12, 30, 0.7, 0, 0, 0, 130, 50, 0.9], [64, 48, 0.2, 0, 96, 0.1, 1, 1, 0.5]]
    rows = np.hstack([ROWS, np.array(points, np.float32)])
    folder = write(tmp_path, description, {"train/a.jpg": rows, "val/b.jpg": rows[:1]})
    (folder / "data.yaml").write_text("names: [disc, square]\nkpt_shape: [3, 3]\n")
    objects, = imported(folder)["train"]
    assert [entry[0] for entry in objects] == ["square", "disc"]
    np.testing.assert_allclose([entry[1] for entry in objects], [[10, 20, 30, 60], [0, 0, 128, 96]], atol=1e-3)
    expected = [[12, 30, 2, 0, 0, 0, 0, 0, 0], [64, 48, 2, 0, 96, 2, 1, 1, 2]]
    np.testing.assert_allclose([entry[2] for entry in objects], expected, atol=1e-3)


def test_scores_end_the_lines_and_no_file_is_overwritten(tmp_path):
    labels = LabelFiles(str(tmp_path), CLASSES, True)
    labels.begin()
    for name in ("a.jpg", "a.png", "classes.jpg"):
        labels.add(name, ROWS[:1], SIZE)
    line = "1 0.195312 0.520833 0.234375 0.625 0.9\n"
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"a.txt": line, "a.1.txt": line, "classes.1.txt": line, "classes.txt": "disc\nbig square\n"}


@pytest.mark.slow
def test_predict_writes_label_files(small_checkpoint, image, tmp_path):
    """The boxes of predictions.json, for images and for the frames of a video."""
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "p.png"), image)
    write_video(tmp_path / "in" / "v.mp4", [noise_image(seed) for seed in range(3)])
    args = ("--input", tmp_path / "in", "--score_thresh", 0, "--save_txt", "--save_conf")
    _, content = call(tmp_path, small_checkpoint, *args)
    files = ["p.txt", *(f"v_{frame}.txt" for frame in range(3))]
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["classes.txt", *files]
    for entry, name in zip(content["images"], files):
        values = np.loadtxt(tmp_path / "out" / "labels" / name, ndmin=2)
        records = [record for record in content["annotations"] if record["image_id"] == entry["id"]]
        assert len(values) == len(records) > 0
        places = values[:, 1:5] * np.tile((entry["width"], entry["height"]), 2)
        places[:, :2] -= places[:, 2:] / 2
        np.testing.assert_allclose(places, [record["bbox"] for record in records], atol=1e-3)
        np.testing.assert_allclose(values[:, 5], [record["score"] for record in records], rtol=1e-5)
        assert [int(label) for label in values[:, 0]] == [record["category_id"] - 1 for record in records]


def test_scores_without_label_files_are_refused(small_file, tmp_path):
    args = ["--load_checkpoint_path", str(small_file), "--input", str(tmp_path), "--output", str(tmp_path / "o")]
    with pytest.raises(UserError, match="--save_txt"):
        predict.main([*args, "--save_conf"])
