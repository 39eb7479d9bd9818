"""tools/predict.py."""
import csv
import json
import os
import re
import shutil
import signal

import cv2
import numpy as np
import pytest
from PIL import Image

from src.commands import predict
from src.core.errors import UserError
from src.core.interrupts import Interrupted
from src.inference.predictor import Predictor
from tests.conftest import (
    ROOT,
    SQUARE,
    assert_user_error,
    bomb_tiff,
    call_script,
    lines_with,
    noise_image,
    replace_resdcn_18,
    start_script,
    wait_until,
)


def save_kinds(folder, image):
    """Save an image as files of every kind; returns {name: (width, height) as displayed}."""
    height, width = image.shape[:2]
    pillow = Image.fromarray(image[:, :, ::-1])
    (folder / "deep" / "er").mkdir(parents=True)
    pillow.save(folder / "plain.png")
    pillow.convert("L").save(folder / "gray.png")
    pillow.convert("RGBA").save(folder / "deep" / "alpha.png")
    pillow.convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    pillow.transpose(Image.Transpose.ROTATE_90).save(folder / "deep" / "er" / "turned.jpg", quality=100, exif=exif)
    cv2.imwrite(str(folder / "sixteen.png"), image.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "line.png"), image[:1])
    cv2.imwrite(str(folder / "wide.jpg"), cv2.resize(image, (12000, 500)))
    names = ["plain.png", "gray.png", "alpha.png", "cmyk.jpg", "turned.jpg", "sixteen.png"]
    return {**dict.fromkeys(names, (width, height)), "line.png": (width, 1), "wide.jpg": (12000, 500)}


@pytest.fixture(scope="module")
def predicted(small_file, image, tmp_path_factory):
    """(input folder, output folder, finished process) of tools/predict.py on every kind of file, two of them broken."""
    folder = tmp_path_factory.mktemp("predict")
    source = folder / "in"
    source.mkdir()
    save_kinds(source, image[:, :80])
    (source / "half.png").write_bytes((source / "plain.png").read_bytes()[:2000])
    (source / "text.jpg").write_text("no image")
    (source / "notes.txt").write_text("ignored")
    with replace_resdcn_18("PLAIN"):
        done = call_script("tools/predict.py", "--load_checkpoint_path", small_file, "--input", source, "--output",
                           folder / "out", "--score_thresh", 0, "--batch_size", 3, "--heatmap", "--device_target",
                           "CPU", check=False)
    return source, folder / "out", done


def test_every_kind_of_image(predicted, tmp_path, image):
    source, output, done = predicted
    (tmp_path / "again").mkdir()
    expected = save_kinds(tmp_path / "again", image[:, :80])
    content = json.loads((output / "predictions.json").read_text())
    sizes = {os.path.basename(entry["file_name"]): (entry["width"], entry["height"]) for entry in content["images"]}
    assert sizes == expected
    found = {}
    for entry in content["images"]:
        of_image = [record for record in content["annotations"] if record["image_id"] == entry["id"]]
        rows = [[*record["bbox"], record["score"], record["category_id"]] for record in of_image]
        found[os.path.basename(entry["file_name"])] = np.array(rows)
    for name in ("alpha.png", "sixteen.png"):  # the same pixels in other formats
        np.testing.assert_allclose(found[name], found["plain.png"], atol=1e-3)
    for name in ("turned.jpg", "cmyk.jpg"):  # as displayed, with compression losses
        assert np.abs(found[name][0, :4] - found["plain.png"][0, :4]).max() < 8
    for folder in ("images", "heatmaps"):
        written = {str(path.relative_to(output / folder)) for path in (output / folder).rglob("*.*")}
        assert written == {"plain.png", "gray.png", "deep/alpha.png", "cmyk.jpg", "deep/er/turned.jpg", "sixteen.png",
                           "line.png", "wide.jpg"}
    drawn = cv2.imread(str(output / "images" / "deep" / "er" / "turned.jpg"))
    assert drawn.shape[:2] == (5 * image.shape[0], 5 * 80)  # enlarged to 400 pixels or more


def test_unreadable_files_are_named_and_set_the_exit_code(predicted):
    _, output, done = predicted
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for part in ("half.png: ", "text.jpg: ", "8 images or frames", "2 skipped"):
        assert part in done.stdout
    assert len(json.loads((output / "predictions.json").read_text())["skipped"]) == 2


def test_the_csv_matches_the_json(predicted):
    _, output, _ = predicted
    content = json.loads((output / "predictions.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    with open(output / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content["annotations"]) > 0
    for row, annotation in zip(rows, content["annotations"]):
        assert (row["file"], row["class"]) == (files[annotation["image_id"]], names[annotation["category_id"]])
        x, y, w, h = annotation["bbox"]
        box = [float(row[name]) for name in ("x1", "y1", "x2", "y2")]
        np.testing.assert_allclose(box, [x, y, x + w, y + h], atol=0.006)
        assert float(row["score"]) == pytest.approx(annotation["score"], abs=6e-5)
        assert annotation["area"] == pytest.approx(w * h)


def call(tmp_path, checkpoint, *args):
    """Run tools/predict.py in this process, with output in tmp_path/out; returns (exit code, predictions.json)."""
    model = ["--load_checkpoint_path", str(checkpoint), "--device_target", "CPU"]
    code = predict.main([*model, "--output", str(tmp_path / "out"), *map(str, args)])
    return code, json.loads((tmp_path / "out" / "predictions.json").read_text())


@pytest.mark.slow
def test_larger_images_are_skipped_and_named(small_checkpoint, image, tmp_path, console):
    """--max_pixels limits images; a tiny file with a huge header size is not decoded.

    It is an error if no file can be read, and an earlier run's results stay in place.
    """
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (tmp_path / "b.tif").write_bytes(bomb_tiff())
    limit = image.shape[0] * image.shape[1]
    code, content = call(tmp_path, small_checkpoint, "--input", tmp_path / "a.png", "--max_pixels", limit)
    assert code == 0 and len(content["images"]) == 1
    earlier = (tmp_path / "out" / "predictions.json").read_text()
    for pattern, message in (("*.png", f"a.png: .*96x96.* {limit - 1}"), ("b.tif", "b.tif: ")):
        with pytest.raises(UserError, match=r"\b1 files\b"):
            call(tmp_path, small_checkpoint, "--input", tmp_path / pattern, "--max_pixels", limit - 1)
        assert re.search(f"skipped {tmp_path}/{message}", console.readouterr().out)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.tif", "out"]
    assert (tmp_path / "out" / "predictions.json").read_text() == earlier
    code, content = call(tmp_path, small_checkpoint, "--input", tmp_path / "[ab].*")
    assert code == 1 and len(content["images"]) == 1 and "b.tif" in content["skipped"][0]
    assert (tmp_path / "out.1").is_dir()


@pytest.mark.slow
def test_only_the_requested_classes_and_scores(small_checkpoint, tiny_data, tmp_path):
    pattern = str(tiny_data / "val2017" / "*[1-3].jpg")
    code, everything = call(tmp_path, small_checkpoint, "--input", pattern, "--score_thresh", 0)
    assert code == 0 and len(everything["images"]) == 3
    scores = sorted(record["score"] for record in everything["annotations"])
    median = scores[len(scores) // 2]
    found = 0
    for names, ids in (("rectangle", (1,)), ("ellipse, triangle", (2, 3))):
        _, some = call(tmp_path, small_checkpoint, "--input", pattern, "--score_thresh", median, "--classes", names)
        assert (tmp_path / "out.1" / "predictions.json").exists()  # the first run's
        expected = [record for record in everything["annotations"]
                    if record["score"] >= median - 1e-9 and record["category_id"] in ids]
        assert len(some["annotations"]) == len(expected)
        found += len(expected)
    assert found == len(scores) - len(scores) // 2


@pytest.mark.slow
def test_flip_test_and_scales_change_the_detections(small_checkpoint, tiny_data, tmp_path):
    path = tiny_data / "val2017" / "000002.jpg"
    plain = call(tmp_path, small_checkpoint, "--input", path, "--score_thresh", 0)[1]
    for args in (["--flip_test"], ["--multi_scales", "[0.75, 1]"], ["--keep_res"], ["--input_res", 128, 64]):
        other = call(tmp_path, small_checkpoint, "--input", path, "--score_thresh", 0, *args)[1]
        assert other["annotations"] != plain["annotations"], args


@pytest.mark.slow
def test_an_interrupted_output_folder_is_complete(export_mindir, image, tmp_path):
    """With a real process and a real Ctrl-C while a graph runs, which MindSpore turns into SIGTERM."""
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "0.png"), image)
    for number in range(1, 3000):
        os.link(tmp_path / "in" / "0.png", tmp_path / "in" / f"{number}.png")
    args = ["--mindir", export_mindir("square", *SQUARE), "--input", "in", "--output", "out", "--score_thresh", 0]
    with open(tmp_path / "log.txt", "w") as output:
        process = start_script("tools/predict.py", *args, "--device_target", "CPU", cwd=tmp_path, stdout=output)
    table = tmp_path / "out" / "predictions.csv"
    try:
        wait_until(lambda: table.exists() and table.stat().st_size > 5000, 100, "the first rows")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    log = (tmp_path / "log.txt").read_text()
    assert "interrupted: out " in log and "Traceback" not in log
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    done = {image["file_name"] for image in content["images"]}
    assert 0 < len(done) < 3000 and {row["file"] for row in csv.DictReader(table.open())} == done
    assert len(list((tmp_path / "out" / "images").iterdir())) == len(done)
    predict.check_output(str(tmp_path / "out"), str(tmp_path / "in"))  # raises if the folder blocks the next run


@pytest.mark.slow
def test_the_part_of_a_data_set(small_checkpoint, tiny_data, tmp_path, console):
    """--split: the images of that part's annotation file; the log, the record and the last line name it."""
    shutil.copytree(tiny_data, tmp_path / "my data")
    shutil.copy(tiny_data / "train2017" / "000001.jpg", tmp_path / "my data" / "val2017" / "unlisted.jpg")
    _, content = call(tmp_path, small_checkpoint, "--input", tmp_path / "my data", "--split", "val")
    output = console.readouterr().out
    expected = [str(tmp_path / "my data" / "val2017" / f"{number:06d}.jpg") for number in range(1, 7)]
    assert [entry["file_name"] for entry in content["images"]] == expected and content["split"] == "val"
    assert lines_with(output, "validation images", "my data") and lines_with(output, "val part ", "my data: 6 images")
    assert sorted(os.listdir(tmp_path / "out" / "images")) == sorted(map(os.path.basename, expected))
    _, content = call(tmp_path, small_checkpoint, "--input", tmp_path / "my data", "--split", "train")
    assert len(content["images"]) == 20 and content["split"] == "train"
    (tmp_path / "my data" / "val2017").rename(tmp_path / "my data" / "others")
    with pytest.raises(UserError, match="val_image_dir"):
        call(tmp_path, small_checkpoint, "--input", tmp_path / "my data", "--split", "val")
    (tmp_path / "c.yaml").write_text("dataset_config:\n  val_image_dir: others\n")
    args = ("--input", tmp_path / "my data", "--split", "val", "--config_path", tmp_path / "c.yaml")
    assert len(call(tmp_path, small_checkpoint, *args)[1]["images"]) == 6


@pytest.mark.slow
def test_boxes_end_at_the_image(small_checkpoint, image, tmp_path):
    """--clip: an image's corner, in which the untrained network finds boxes that extend beyond it."""
    cv2.imwrite(str(tmp_path / "p.png"), image[:40, :50])
    found = {}
    for clip in ("false", "true"):
        args = ("--input", tmp_path / "p.png", "--score_thresh", 0, "--clip", clip)
        records = call(tmp_path, small_checkpoint, *args)[1]["annotations"]
        boxes = np.array([record["bbox"] for record in records])
        found[clip] = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    assert found["false"].min() < -1 and (found["false"][:, 2:] > (51, 41)).any()
    assert found["true"].min() >= 0 and (found["true"][:, 2:] <= (50.001, 40.001)).all()
    inside = (found["false"].min(1) > 0) & (found["false"][:, 2:] < (50, 40)).all(1)
    assert inside.any()
    for box in found["false"][inside]:
        assert np.abs(found["true"] - box).max(1).min() < 1e-4
    boxes = Predictor(str(small_checkpoint), "CPU")(image[:40, :50]).boxes
    np.testing.assert_allclose(boxes, found["true"], atol=1e-4)
    boxes = Predictor(str(small_checkpoint), "CPU", clip=False)(image[:40, :50]).boxes
    np.testing.assert_allclose(boxes, found["false"], atol=1e-4)


def write_video(path, frames, size=(128, 96)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size)
    for frame in frames:
        writer.write(frame)
    writer.release()


@pytest.mark.slow
def test_a_video(small_checkpoint, tmp_path):
    write_video(tmp_path / "v.mp4", [noise_image(seed) for seed in range(7)])
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:200])
    code, content = call(tmp_path, small_checkpoint, "--input", tmp_path / "*.mp4", "--score_thresh", 0,
                         "--batch_size", 3)
    assert code == 1 and len(content["skipped"]) == 1 and "broken.mp4" in content["skipped"][0]
    assert [image["frame"] for image in content["images"]] == list(range(7))
    assert [image["seconds"] for image in content["images"]] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    capture = cv2.VideoCapture(str(tmp_path / "out" / "videos" / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 7 and capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 4 * 128
    content = call(tmp_path, small_checkpoint, "--input", tmp_path / "v.mp4", "--max_frames", 2)[1]
    assert len(content["images"]) == 2


class Camera:
    """A fake OpenCV camera: some frames, then Ctrl-C."""

    def __init__(self, number):
        self.number, self.frames = number, 0

    def isOpened(self):
        return self.number == 0

    def get(self, _):
        return 0.0

    def read(self):
        self.frames += 1
        if self.frames == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return True, noise_image(self.frames)

    def release(self):
        pass


@pytest.mark.slow
def test_a_camera_runs_until_it_is_interrupted(small_checkpoint, tmp_path, monkeypatch, interrupts, console):
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with pytest.raises(Interrupted, match="out "):
        call(tmp_path, small_checkpoint, "--input", "0", "--score_thresh", 0, "--heatmap")
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    for kind in ("videos", "heatmaps"):
        written = real(str(tmp_path / "out" / kind / "camera0.mp4"))
        assert written.get(cv2.CAP_PROP_FRAME_COUNT) == len(content["images"]) > 0
    interrupts.first = None
    with pytest.raises(UserError, match=r"\b3\b"):
        call(tmp_path, small_checkpoint, "--input", "3")
    assert "no such camera" in console.readouterr().out and not (tmp_path / "out.1").exists()


@pytest.mark.parametrize("args, part", [
    (["--input", "/nowhere/*.jpg"], r"/nowhere/\*\.jpg"), (["--input", "empty"], "empty.* 1 "),
    (["--input", "p.png", "--classes", "elipse"], "'ellipse'"),
    (["--input", "p.png", "--output", "."], "holds the input"),
    (["--input", "p.png", "--output", "empty"], r"\bempty\b"),
    (["--input", "p.png", "--split", "val"], r"data set folder \(--input\).*p.png"),
    (["--input", ".", "--split", "val"], r"--input|val2017"), (["--input", "p.png", "--config_path", "x"], "--split"),
    (["--input", "p.png", "--clip", "maybe"], "--clip"),
    (["--input", "p.png", "--score_thresh", 2], "score_thresh.* 2"),
    (["--input", "p.png", "--output", "p.png"], r"\bp.png\b"),
    (["--input", "p.png", "--multi_scales", "[0]"], "multi_scales"),
    (["--input", "p.png", "--max_frames", 0], "--max_frames"), (["--input", "p.png", "--batch_size", 0], "batch_size"),
])
def test_mistakes(args, part, small_checkpoint, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("p.png", image)
    os.mkdir("empty")
    open("empty/notes.txt", "w").close()
    os.mkdir("out")
    open("out/predictions.json", "w").close()  # an earlier run's, which stays in place
    args = [*args, *([] if "--output" in args else ["--output", "out"])]
    with pytest.raises(UserError, match=part):
        predict.main(["--load_checkpoint_path", str(small_checkpoint), "--device_target", "CPU", *map(str, args)])
    assert sorted(os.listdir(".")) == ["empty", "out", "p.png"]


def test_no_model_and_a_missing_model(tmp_path):
    done = call_script("tools/predict.py", "--input", ".", "--output", "o", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "--load_checkpoint_path" in done.stderr
    done = call_script("tools/predict.py", "--mindir", "x.mindir", "--input", ROOT, "--output", "o", cwd=tmp_path,
                       check=False)
    assert_user_error(done, "x.mindir")


def test_results_of_an_earlier_run_are_not_input(small_checkpoint, image, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), image)
    call(tmp_path, small_checkpoint, "--input", tmp_path)
    assert len(call(tmp_path, small_checkpoint, "--input", tmp_path)[1]["images"]) == 1


def test_a_file_name_that_is_not_utf8(small_checkpoint, image, tmp_path):
    """As on old systems: the CSV has its bytes, and the file is processed."""
    (tmp_path / "in").mkdir()
    name = b"gr\xfc\xdf.png"
    with open(os.path.join(os.fsencode(tmp_path / "in"), name), "wb") as file:
        file.write(cv2.imencode(".png", image)[1].tobytes())
    call_script("tools/predict.py", "--load_checkpoint_path", small_checkpoint, "--input", tmp_path / "in", "--output",
                tmp_path / "out", "--device_target", "CPU", "--score_thresh", "0")
    assert name in (tmp_path / "out" / "predictions.csv").read_bytes()
    assert name in os.listdir(os.fsencode(tmp_path / "out" / "images"))
