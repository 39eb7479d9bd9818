"""3D boxes from an annotation file to a served model, with a small network."""
import csv
import json
import os
import shutil

import cv2
import mindspore as ms
import numpy as np
import pytest

from src.imaging import camera
from src.inference.offline import input_name, result_name
from src.tasks.ddd import cameras, kitti
from tests.conftest import TINY, assert_user_error, call_script, lines_with, replace_resdcn_18, user_error
from tests.inference.test_predict import write_video
from tests.tasks import stages

pytestmark = pytest.mark.slow
INPUTS = ("--dataset_config.input_res_test", "[128, 64]", "--eval_config.keep_res", "false")
SOLID = ("--dataset_config.input_res_train", "[128, 64]", *INPUTS)
LOSSES = {"hm_loss": 1, "dep_loss": 1, "dim_loss": 1, "rot_loss": 1, "wh_loss": 0.1, "off_loss": 1}
FOCAL = [[74.0, 0.0, 64.0, 0.0], [0.0, 74.0, 32.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
NO_CALIB, SINGULAR, BEHIND = 3, 5, 8  # images


@pytest.fixture(scope="module", autouse=True)
def network():
    """A network that ONNX supports."""
    with replace_resdcn_18("PLAIN"):
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes of 128x64; in training, an image has no calibration, one a singular one, and an object is behind the
    camera."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    call_script("tools/make_scenes_dataset.py", "--output", folder, "--train", 22, "--val", 6, "--size", 128, 64)
    path = folder / "annotations" / "kitti_train.json"
    content = json.loads(path.read_text())
    images = {entry["id"]: entry for entry in content["images"]}
    del images[NO_CALIB]["calib"]
    images[SINGULAR]["calib"][2] = [0, 0, 0, 1]
    own = [entry for entry in content["annotations"] if entry["image_id"] == BEHIND]
    assert len(own) > 1
    own[0]["depth"] *= -1
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def records(scenes, tmp_path_factory):
    """The MindRecord files of a conversion without net_config.task, and its output."""
    return stages.convert(scenes, tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def run(scenes, records, tmp_path_factory):
    """The folder of a training that was started, evaluated, resumed and finished."""
    folder = tmp_path_factory.mktemp("run")
    first, _ = stages.train(scenes, records[0], folder, *SOLID, "--best_metric", "box_AP50",
                            "--train_config.ema_decay", "0.9", "--tensorboard", "true")
    (folder / "stdout.txt").write_text(first.stdout)
    return folder


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory):
    """The trained network as an ONNX file."""
    return stages.export_onnx(run, tmp_path_factory.mktemp("onnx") / "solid", *INPUTS)


@pytest.fixture(scope="module")
def image(scenes):
    """The first validation image, BGR."""
    return cv2.imread(str(scenes / "images" / "val" / "000000.png"))


@pytest.fixture(scope="module")
def predictor(onnx_file):
    from src.inference.predictor import Predictor

    return Predictor(onnx_file)


def predict(folder, model, *args, check=True):
    """Run tools/predict.py with output in a folder; return (process, images and annotations of predictions.json).

    Boxes are not clipped: their centers are those of the 3D boxes.
    """
    kind = "--onnx" if str(model).endswith(".onnx") else "--load_checkpoint_path"
    options = ["--output", folder, "--score_thresh", 0, "--clip", "false", *args]
    done = call_script("tools/predict.py", kind, model, *options, check=check)
    written = folder / "predictions.json"
    content = json.loads(written.read_text()) if written.exists() else None
    return done, content


def assert_in_space(annotations, calib):
    """Assert that 3D boxes are at their depth where their boxes' centers are, by hand for a matrix without skew."""
    assert annotations
    for entry in annotations:
        (x, y, w, h), (_, fy, cy, ty), (fx, _, cx, tx) = entry["bbox"], calib[1], calib[0]
        place, (height, _, _) = entry["location"], entry["dim"]
        depth = place[2] + calib[2][3]
        expected = [((x + w / 2) * depth - tx - cx * place[2]) / fx,
                    ((y + h / 2) * depth - ty - cy * place[2]) / fy + height / 2]
        np.testing.assert_allclose(place[:2], expected, rtol=1e-3, atol=1e-3)
        turned = entry["alpha"] + np.arctan2(x + w / 2 - cx, fx)
        np.testing.assert_allclose(np.exp(1j * turned), np.exp(1j * entry["rotation_y"]), atol=1e-4)


# ---------------------------------------------------------------- data


def test_the_task_is_found_in_the_data(scenes, records):
    """It is said, and so is the camera: the median of the images'; what cannot be used is named."""
    folder, done = records
    manifest = json.loads((folder / "coco_det.train.mind.manifest.json").read_text())
    assert manifest["task"] == "ddd" and manifest["classes"] == ["Pedestrian", "Car", "Cyclist"]
    content = json.loads((scenes / "annotations" / "kitti_train.json").read_text())
    used = [entry["calib"] for entry in content["images"] if entry["id"] not in (NO_CALIB, SINGULAR)]
    np.testing.assert_allclose(manifest["camera"]["matrix"], np.median(used, 0))
    assert manifest["camera"]["size"] == [128, 64]
    assert lines_with(done.stdout, "net_config.task is ddd", "kitti_train.json")
    assert lines_with(done.stdout, "camera", "focal length 74.2", "128x64")
    assert lines_with(done.stdout, f"image {NO_CALIB} (", f"{NO_CALIB:06d}.png", "no calib")
    assert lines_with(done.stdout, f"image {SINGULAR} (", "singular")
    assert lines_with(done.stdout, f"of image {BEHIND}: ", "depth", "above 0")


def test_other_tasks_are_refused(scenes, records, tiny_records, tiny_data, tmp_path):
    """3D boxes on plain boxes, and detection on files converted for 3D boxes: each says what fits."""
    for args, parts in (
            (["--mindrecord_dir", records[0], "--net_config.task", "detection"], ["converted for ddd", "detection"]),
            (["--mindrecord_dir", tiny_records, "--net_config.task", "ddd"], ["converted for detection", "ddd"]),
            (["--mindrecord_dir", records[0], "--best_metric", "AP75"], ["best_metric", "AP75", "BEV_AP"])):
        assert_user_error(call_script("train.py", *TINY, *SOLID, *args, cwd=tmp_path, check=False), *parts)
    args = ["--coco_data_dir", tiny_data, "--mindrecord_dir", tmp_path, "--net_config.task", "ddd"]
    done = call_script("src/dataset.py", *args, check=False)
    assert_user_error(done, "instances_train2017.json", "no usable image", "20 entries skipped")
    assert lines_with(done.stdout, "image 1 (", "no calib")


def test_boxes_of_the_same_file_are_detection(scenes, tmp_path):
    """If that is what the user asks for; all of KITTI's categories are classes then."""
    stages.convert(scenes, tmp_path, "--net_config.task", "detection")
    manifest = json.loads((tmp_path / "coco_det.train.mind.manifest.json").read_text())
    assert manifest["task"] == "detection" and "camera" not in manifest and len(manifest["classes"]) == 9
    assert manifest["images"] > 20


def test_it_is_checked(scenes, tmp_path):
    done = call_script("tools/check_dataset.py", "--data_dir", scenes, "--save_result_dir", tmp_path, *SOLID[:2],
                       check=False)
    assert lines_with(done.stdout, "no calib") and lines_with(done.stdout, "camera", "74.2")
    assert cv2.imread(str(tmp_path / "train_batch.jpg")).shape[0] > 100


# ---------------------------------------------------------------- training


def test_it_is_trained_and_resumed(run):
    """The losses by name in record and report, and their weighted sum; the side file has the camera at the input."""
    steps, scored = stages.record_lines(run)
    assert [line["step"] for line in steps] == list(range(1, 11)) and [line["step"] for line in scored] == [3, 5, 10]
    for line in steps:
        assert line["loss"] == pytest.approx(sum(weight * line[name] for name, weight in LOSSES.items()), rel=1e-5)
        assert all(line[name] > 0 for name in LOSSES)
    assert steps[-1]["loss"] < steps[0]["loss"]
    side = json.loads(stages.best(run).with_suffix(".json").read_text())
    assert side["net_config"]["task"] == "ddd" and side["scores"]["metric"] == "box_AP50"
    assert side["camera"]["focal"] == pytest.approx(74.24, abs=0.01) and (run / "train_batch.jpg").exists()
    assert side["evaluation"]["eval_config.depth_by_focal"] is False
    stdout = (run / "stdout.txt").read_text()
    assert lines_with(stdout, "net_config.task is ddd", "manifest")
    assert lines_with(stdout, "step: 1 |", *(f"{name} " for name in LOSSES))
    call_script("tools/report.py", run)
    page = (run / "report.html").read_text()
    assert "depth" in page and "rotation" in page


def test_a_resumed_training_equals_one_in_one_go(run, scenes, records, tmp_path):
    """Bit for bit, with averaged weights."""
    args = [*TINY, *SOLID, "--mindrecord_dir", records[0], "--data_dir", scenes, "--epoch_size", 2,
            "--train_config.ema_decay", "0.9"]
    call_script("train.py", *args, cwd=tmp_path)
    resumed, whole = (ms.load_checkpoint(str(folder / "ckpt_0" / "centernet-2_10.ckpt")) for folder in (run, tmp_path))
    assert len(whole) > 50 and resumed.keys() == whole.keys()
    for name, parameter in whole.items():
        np.testing.assert_array_equal(resumed[name].asnumpy(), parameter.asnumpy(), err_msg=name)


@pytest.mark.parametrize("args, absent", [
    (("--train_config.amp_level", "O2"), ()),
    (("--train_config.accumulate_steps", 2, "--net_config.reg_bbox", "false"), ("wh_loss",)),
    (("--net_config.reg_offset", "false", "--dataset_config.aug_ddd", 0), ("off_loss",)),
    (("--dataset_config.aug_ddd", 1), ("dep_loss", "dim_loss"))])
def test_options_are_trained_with(args, absent, records, tmp_path):
    """The losses are finite; those of heads that the network lacks, and of depth where all images are moved, are 0."""
    call_script("train.py", *TINY, *SOLID, *args, "--mindrecord_dir", records[0], "--train_steps", 2, cwd=tmp_path)
    for line in stages.record_lines(tmp_path)[0]:
        assert np.isfinite(line["loss"]) and [name for name in LOSSES if line[name] == 0] == list(absent)


def test_evaluations_at_several_scales_are_refused_before_training(scenes, records, tmp_path):
    args = ("train.py", *TINY, "--mindrecord_dir", records[0], "--data_dir", scenes, "--eval_epochs", 1)
    done = call_script(*args, *SOLID[:4], cwd=tmp_path, check=False)
    assert_user_error(done, "eval_config.keep_res is true", "needs false; set keep_res to that")
    for option, value in (("keep_res", "true"), ("flip_test", "true"), ("multi_scales", "[1.0, 1.5]")):
        done = call_script(*args, *SOLID, f"--eval_config.{option}", value, cwd=tmp_path, check=False)
        assert_user_error(done, f"eval_config.{option} is {value}", "task ddd")
        assert "compiling" not in done.stdout and "step:" not in done.stdout


# ---------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def evaluated(run, scenes, tmp_path_factory):
    """(folder of an evaluation with drawings, its process)."""
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, stages.evaluate(scenes, stages.best(run), folder, *INPUTS, "--visual_image", "true")


def test_it_is_evaluated(evaluated, scenes):
    """Records have the 3D boxes in each image's camera; KITTI's table, and the errors in words."""
    folder, done = evaluated
    assert lines_with(done.stdout, "Car", "3d", "0.7") and lines_with(done.stdout, "KITTI's average precision")
    assert lines_with(done.stdout, "depth")
    content = json.loads((folder / "val" / "val_pred_result.json").read_text())
    labels = json.loads((scenes / "annotations" / "kitti_val.json").read_text())
    for entry in labels["images"]:
        own = [record for record in content["annotations"] if record["image_id"] == entry["id"]]
        assert_in_space(own, entry["calib"])
    metrics = json.loads((folder / "val" / "metrics.json").read_text())
    assert {"AP", "BEV_AP50", "AOS", "box_AP50", "depth_error", "kitti"} <= set(metrics)
    drawn = os.listdir(folder / "val" / "images")
    assert len(drawn) == 6 and cv2.imread(str(folder / "val" / "images" / drawn[0])).shape[1] > 2 * 128


def test_kittis_files_are_written(evaluated, scenes):
    """They have all records of each image, rounded to two decimals."""
    folder, _ = evaluated
    labels = json.loads((scenes / "annotations" / "kitti_val.json").read_text())
    assert sorted(os.listdir(folder / "val" / "results")) == [f"{number:06d}.txt" for number in range(6)]
    names = {entry["id"]: entry["name"] for entry in labels["categories"]}
    for entry in labels["images"]:
        found = kitti.parse((folder / "val" / "results" / f"{entry['id']:06d}.txt").read_text())
        own = [record for record in stages.records_of(folder) if record["image_id"] == entry["id"]]
        assert found.names == [names[record["category_id"]] for record in own] and own
        for values, name in ((found.dims, "dim"), (found.locations, "location"), (found.alpha, "alpha")):
            np.testing.assert_allclose(values, [record[name] for record in own], atol=0.0051)
        x, y, w, h = np.transpose([record["bbox"] for record in own])
        np.testing.assert_allclose(found.boxes.T, [x, y, x + w, y + h], atol=0.0051)
        np.testing.assert_allclose(found.scores, [record["score"] for record in own], atol=0.000051)


def test_an_evaluation_is_reported(run, evaluated, tmp_path):
    """Alone, and next to a training."""
    folder, _ = evaluated
    call_script("tools/report.py", folder)
    page = (folder / "report.html").read_text()
    call_script("tools/report.py", run, folder, "--output", tmp_path / "both.html")
    assert "depth" in (tmp_path / "both.html").read_text()
    assert ">bev</td>" in page and "3D boxes, moderate" in page and "40 recall positions" in page


def test_evaluations_at_several_scales_are_refused(run, scenes, tmp_path):
    model, source = stages.best(run), scenes / "images" / "val" / "000000.png"
    for option, value in (("keep_res", "true"), ("flip_test", "true"), ("multi_scales", "[1.0, 1.5]")):
        done = stages.evaluate(scenes, model, tmp_path, *INPUTS[:2], f"--eval_config.{option}", value, check=False)
        assert_user_error(done, f"eval_config.{option} is {value}", "ddd")
        done, _ = predict(tmp_path / "p", model, "--input", source, "--device_target", "CPU", f"--{option}", value,
                          check=False)
        assert_user_error(done, f"eval_config.{option} is {value}", "ddd")
    done = call_script(*stages.EXPORT, "--export_config.ckpt_file", model, "--export_config.export_name",
                       tmp_path / "e", "--eval_config.flip_test", "true", check=False)
    assert_user_error(done, "eval_config.flip_test is true", "ddd")
    assert os.listdir(tmp_path) == []


def test_depths_by_focal_length(run, scenes, evaluated, tmp_path):
    """An input of half the size halves the focal length there: the same detector's depths are halved, which a warning
    says otherwise."""
    args = ("--dataset_config.input_res_test", "[64, 32]", *INPUTS[2:])
    cameras.warn_of_focal.cache_clear()
    plain, scaled = (stages.evaluate(scenes, stages.best(run), tmp_path / name, *args, "--eval_config.depth_by_focal",
                                     value) for name, value in (("plain", "false"), ("scaled", "true")))
    assert lines_with(plain.stdout, "focal length is 37 pixels", "74 in training", "depth_by_focal")
    assert not lines_with(scaled.stdout, "focal length is 37 pixels")
    for one, other in zip(stages.records_of(tmp_path / "plain"), stages.records_of(tmp_path / "scaled"), strict=True):
        assert other["location"][2] + 0.005 == pytest.approx((one["location"][2] + 0.005) / 2, rel=1e-3)
        assert (other["bbox"], other["dim"], other["alpha"]) == (one["bbox"], one["dim"], one["alpha"])


def test_other_cameras_of_a_data_set_are_no_error(run, scenes, tmp_path):
    """The file's calibrations are those of its images; an image without one is skipped and named."""
    (tmp_path / "annotations").mkdir()
    os.symlink(scenes / "images", tmp_path / "images")
    content = json.loads((scenes / "annotations" / "kitti_val.json").read_text())
    for entry in content["images"]:
        entry["calib"] = [75.0, 75.0, 60.0, 30.0]
    del content["images"][2]["calib"]
    (tmp_path / "annotations" / "kitti_val.json").write_text(json.dumps(content))
    done = stages.evaluate(tmp_path, stages.best(run), tmp_path / "out", *INPUTS)
    assert lines_with(done.stdout, "image 2 (", "no calib")
    found = stages.records_of(tmp_path / "out")
    assert_in_space(found, [[75, 0, 60, 0], [0, 75, 30, 0], [0, 0, 1, 0]])
    assert {record["image_id"] for record in found} == {0, 1, 3, 4, 5}


# ---------------------------------------------------------------- prediction


def test_cameras_of_predictions(onnx_file, predictor, scenes, tmp_path):
    """Numbers, a file, a folder and none: the same boxes, angles and sizes, elsewhere in space."""
    source = scenes / "images" / "val" / "000000.png"
    (tmp_path / "calib").mkdir()
    long = [[80.0, 0.0, 60.0, 5.0], [0.0, 82.0, 30.0, -1.0], [0.0, 0.0, 1.0, 0.01]]
    words = [str(number) for row in long for number in row]
    (tmp_path / "kitti.txt").write_text(f"P1: 1 2\nP2: {' '.join(words)}\n")
    (tmp_path / "calib" / "000000.txt").write_text(json.dumps({"calib": long}))
    found = []
    for number, (args, calib) in enumerate((
            (["--calib", 74, 74, 64, 32], FOCAL), (["--calib", "74,74,64,32"], FOCAL), (["--calib", *words], long),
            (["--calib", tmp_path / "kitti.txt"], long), (["--calib", tmp_path / "calib"], long))):
        done, content = predict(tmp_path / str(number), onnx_file, "--input", source, *args)
        assert content["images"][0]["calib"] == calib and not lines_with(done.stdout, "without calibration")
        assert_in_space(content["annotations"], calib)
        found.append(content["annotations"])
    assert found[0] == found[1] and found[2] == found[3] == found[4]
    for one, other in zip(found[0], found[2]):
        assert (one["bbox"], one["alpha"], one["dim"]) == (other["bbox"], other["alpha"], other["dim"])
    done, content = predict(tmp_path / "none", onnx_file, "--input", source)
    assert lines_with(done.stdout, "without calibration", "0.580 of their width", "--calib")
    assert "calib" not in content["images"][0]
    assert_in_space(content["annotations"], predictor.detector.description["camera"]["matrix"])


def test_cameras_of_a_part_of_the_data_set(onnx_file, scenes, tmp_path):
    """With --split, each image has its own camera, from the annotation file; --calib replaces it."""
    shutil.copytree(scenes, tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "kitti_val.json"
    content = json.loads(path.read_text())
    for number, entry in enumerate(content["images"]):
        entry["calib"] = [[80.0 + number, 0.0, 60.0, 5.0], [0.0, 82.0, 30.0, -1.0], [0.0, 0.0, 1.0, 0.01]]
    path.write_text(json.dumps(content))
    _, found = predict(tmp_path / "p", onnx_file, "--input", tmp_path / "data", "--split", "val")
    assert [entry["calib"][0][0] for entry in found["images"]] == [80, 81, 82, 83, 84, 85]
    for image in found["images"]:
        own = [entry for entry in found["annotations"] if entry["image_id"] == image["id"]]
        assert_in_space(own, image["calib"])
    _, found = predict(tmp_path / "q", onnx_file, "--input", tmp_path / "data", "--split", "val", "--calib", 74, 74, 64,
                       32)
    assert [entry["calib"] for entry in found["images"]] == [FOCAL] * 6


def test_tables_of_predictions(onnx_file, scenes, tmp_path):
    """The same numbers in CSV and JSON; drawings have the view from above beside them."""
    _, content = predict(tmp_path, onnx_file, "--input", scenes / "images" / "val", "--calib", 74, 74, 64, 32)
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content["annotations"]) > 6 and len(content["images"]) == 6
    for row, entry in zip(rows, content["annotations"]):
        expected = [entry["alpha"], *entry["location"], *entry["dim"], entry["rotation_y"]]
        names = ("alpha", "x", "y", "z", "height", "width", "length", "rotation_y")
        np.testing.assert_allclose([float(row[name]) for name in names], expected, atol=0.00051)
    assert cv2.imread(str(tmp_path / "images" / "000000.png")).shape == (256, 512 + 205, 3)  # enlarged


@pytest.mark.parametrize("args, parts", [
    (["700", "700", "320"], ["--calib", "3 numbers"]), (["no.txt"], ["no.txt"]), (["0", "0", "0", "0"], ["focal"]),
    (["a", "b"], ["--calib", "'a'"]), (["1e200", "1e200", "1", "1"], ["--calib"]),
    (["74", "74", "64", "nan"], ["finite"])])
def test_wrong_cameras_are_named_before_detecting(args, parts, onnx_file, scenes, tmp_path):
    done, content = predict(tmp_path, onnx_file, "--input", scenes / "images" / "val", "--calib", *args, check=False)
    assert_user_error(done, *parts)
    assert content is None


def test_images_without_a_file_in_the_folder_are_skipped(onnx_file, scenes, tmp_path):
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "000001.txt").write_text("74 74 64 32")
    (tmp_path / "calib" / "000002.txt").write_text("P0: 1")
    done, content = predict(tmp_path / "out", onnx_file, "--input", scenes / "images" / "val" / "00000[1-3].png",
                            "--calib", tmp_path / "calib", check=False)
    assert done.returncode == 1
    assert [os.path.basename(image["file_name"]) for image in content["images"]] == ["000001.png"]
    assert lines_with(content["skipped"], "000002.png: ", "P2:")
    assert lines_with(content["skipped"], "000003.txt", "not found")
    done, _ = predict(tmp_path / "none", onnx_file, "--input", scenes / "images" / "val" / "000003.png", "--calib",
                      tmp_path / "calib", check=False)
    assert_user_error(done, "1 files")


def test_videos(run, image, tmp_path):
    """As wide as image and view; with a folder of calibrations, a video has one file."""
    frames = [image, image[:, ::-1], image]
    for name in ("v.mp4", "w.mp4"):
        write_video(tmp_path / name, frames, (128, 64))
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "v.txt").write_text("74 74 64 32")
    done, content = predict(tmp_path / "out", stages.best(run), "--input", tmp_path / "*.mp4", "--calib",
                            tmp_path / "calib", "--heatmap", "--device_target", "CPU", check=False)
    assert done.returncode == 1 and [entry["frame"] for entry in content["images"]] == [0, 1, 2]
    assert lines_with(content["skipped"], "w.mp4", "w.txt", "not found") and len(content["skipped"]) == 1
    assert_in_space(content["annotations"], FOCAL)
    for folder, width in (("videos", 512 + 205), ("heatmaps", 512)):  # four times as large, and the view from above
        written = cv2.VideoCapture(str(tmp_path / "out" / folder / "v.mp4"))
        size = [written.get(getattr(cv2, f"CAP_PROP_FRAME_{name}")) for name in ("WIDTH", "HEIGHT", "COUNT")]
        assert size[1:] == [256, 3] and size[0] in (width, width - 1, width + 1)  # codecs need even sides
    assert os.listdir(tmp_path / "out" / "videos") == ["v.mp4"]


def test_depths_of_another_camera_are_scaled(run, scenes, tmp_path):
    """With twice the focal length, objects of the same size in the image are twice as far."""
    args = ("--input", scenes / "images" / "val" / "000000.png", "--device_target", "CPU", "--calib", 148.48, 148.48,
            64, 32)
    cameras.warn_of_focal.cache_clear()
    done, plain = predict(tmp_path / "plain", stages.best(run), *args)
    assert lines_with(done.stdout, "148 pixels", "74 in training", "50 %")
    for number, option in enumerate((["--depth_by_focal"], ["--depth_by_focal", "true"])):
        done, scaled = predict(tmp_path / str(number), stages.best(run), *args, *option)
        assert not lines_with(done.stdout, "in training")
        for one, other in zip(plain["annotations"], scaled["annotations"], strict=True):
            np.testing.assert_allclose(other["location"][2], 2 * one["location"][2], rtol=1e-4)
            assert one["bbox"] == other["bbox"]


def test_models_without_3d_boxes_refuse_a_camera(small_file, scenes, image, tmp_path):
    from src.inference.predictor import Predictor

    done, content = predict(tmp_path, small_file, "--input", scenes / "images" / "val", "--calib", 74, 74, 64, 32,
                            "--device_target", "CPU", check=False)
    assert_user_error(done, "--calib", "3D boxes")
    assert content is None
    found = Predictor(small_file, "CPU")
    with user_error("calib", "3D boxes"):
        found(image, calib=[74, 74, 64, 32])
    with pytest.raises(AttributeError, match="boxes_3d"):
        print(found(image).boxes_3d)


def test_predictions_in_python(predictor, image):
    """With calib in any form; corners are those of the boxes; a selection keeps them."""
    found = predictor(image, calib=FOCAL)
    assert len(found) > 2 and found.boxes_3d.shape == (len(found), 7) and found.corners.shape == (len(found), 8, 3)
    assert found.alpha.shape == (len(found),) and found.camera["size"] == [128, 64]
    np.testing.assert_array_equal(found.cameras, np.tile(FOCAL, (len(found), 1, 1)))
    for calib in (np.array(FOCAL), [74, 74, 64, 32], (74, 74, 64, 32), np.array([74, 74, 64, 32])):
        np.testing.assert_array_equal(predictor(image, calib).detections(), found.detections())
    x, y, z, h, w, length, _ = found.boxes_3d[0]
    np.testing.assert_allclose(found.corners[0].mean(0), [x, y - h / 2, z], rtol=1e-4, atol=1e-4)
    sides = [np.linalg.norm(found.corners[0][a] - found.corners[0][b]) for a, b in ((0, 4), (0, 1), (1, 2))]
    np.testing.assert_allclose(sides, np.abs([h, w, length]), rtol=1e-4)
    np.testing.assert_allclose(camera.project(np.array([x, y - h / 2, z]), np.array(FOCAL)),
                               found.boxes[0].reshape(2, 2).mean(0), rtol=1e-3, atol=0.05)
    some = found.keep([0, 2])
    np.testing.assert_array_equal(some.corners, found.corners[[0, 2]])
    np.testing.assert_array_equal(some.boxes_3d, found.boxes_3d[[0, 2]])
    assert found.detections().shape == (len(found), 26)
    for wrong in ([74, 74, 64], "x", np.zeros((3, 4)), [1e200, 1e200, 1, 1]):
        with user_error():
            predictor(image, calib=wrong)


# ---------------------------------------------------------------- export


def test_an_exported_file_predicts_as_the_checkpoint(run, predictor, image):
    from src.inference.predictor import Predictor

    own = Predictor(stages.best(run), "CPU", K=20, keep_res=False, input_res=[128, 64])
    for calib in (None, FOCAL):
        of_file, found = predictor(image, calib), own(image, calib)
        assert len(of_file) == len(found) > 0
        np.testing.assert_allclose(of_file.scores, found.scores, atol=1e-5)
        np.testing.assert_allclose(of_file.boxes, found.boxes, atol=1e-2)
        np.testing.assert_allclose(of_file.boxes_3d, found.boxes_3d, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(of_file.alpha, found.alpha, atol=1e-3)


def test_mindir_and_offline_inference(run, scenes, tmp_path):
    """The MINDIR file's raw results, post-processed, are eval.py's records, with each image's camera."""
    name = tmp_path / "solid"
    call_script(*stages.EXPORT, "--export_config.ckpt_file", stages.best(run), "--export_config.export_name", name,
                "--export_config.input_res", "[128, 64]")
    done = stages.infer_offline(scenes, f"{name}.mindir", "mindir", tmp_path)
    assert lines_with(done.stdout, "Car", "3d", "0.7")
    meta = json.loads((tmp_path / "in" / "meta" / "inputs.json").read_text())
    labels = json.loads((scenes / "annotations" / "kitti_val.json").read_text())
    assert [entry["camera"] for entry in meta["images"]] == [entry["calib"] for entry in labels["images"]]
    stages.evaluate(scenes, f"{name}.mindir", tmp_path / "direct")
    direct = stages.records_of(tmp_path / "direct")
    for one, other in zip(stages.records_of(tmp_path), direct, strict=True):
        for field in ("bbox", "location", "dim", "alpha", "rotation_y"):
            np.testing.assert_allclose(one[field], other[field], rtol=1e-4, atol=1e-3)
    assert sorted(os.listdir(tmp_path / "val" / "results")) == [f"{number:06d}.txt" for number in range(6)]
    stages.evaluate(scenes, stages.best(run), tmp_path / "checkpoint", *INPUTS, "--eval_config.K", 20)
    for one, other in zip(direct, stages.records_of(tmp_path / "checkpoint"), strict=True):
        np.testing.assert_allclose(one["location"], other["location"], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("damage, parts", [
    ({"camera": [[0] * 4] * 3}, ("focal",)), ({"camera": "x"}, ("3 rows",)), ({"depth_factor": 0}, ("depth_factor",)),
    ({"depth_factor": "2"}, ("depth_factor",)), ({"camera": None}, ("camera",))])
def test_damaged_metadata_is_named(damage, parts, run, scenes, tmp_path):
    """Of preprocess.py's, for an exported file that does not exist yet."""
    call_script("preprocess.py", "--val_data_dir", scenes, "--predict_dir", tmp_path / "in", *SOLID,
                "--export_config.input_res", "[128, 64]", "--eval_config.K", 20)
    path = tmp_path / "in" / "meta" / "inputs.json"
    meta = json.loads(path.read_text())
    meta["images"][1] |= damage
    path.write_text(json.dumps(meta))
    (tmp_path / "out").mkdir()
    for entry in meta["images"]:
        np.ones((20, 18), np.float32).tofile(tmp_path / "out" / result_name(input_name(entry["id"])))
    done = call_script("postprocess.py", "--meta_path", path.parent, "--result_path", tmp_path / "out", "--label_path",
                       scenes, "--save_path", tmp_path, check=False)
    assert_user_error(done, "inputs.json", "image 1", *parts)


def test_contact_sheets(onnx_file, run, scenes, tmp_path):
    name = tmp_path / "solid"
    call_script(*stages.EXPORT, "--export_config.ckpt_file", stages.best(run), "--export_config.export_name", name,
                "--export_config.input_res", "[128, 64]")
    call_script("tools/contact_sheet.py", "--mindir", f"{name}.mindir", "--data_dir", scenes, "--output",
                tmp_path / "s.png", "--count", 4, "--columns", 2, "--width", 300)
    assert cv2.imread(str(tmp_path / "s.png")).shape[1] == 2 * 300 + 3 * 8


# ---------------------------------------------------------------- service


def test_it_is_served(predictor, image):
    """With the camera of a request, of the service, or of the training; wrong ones are 422, and never a file's."""
    from tests.serving.test_service import Service

    predictor.batches = []  # as the service's tests have
    service, body = Service(predictor=predictor), cv2.imencode(".png", image)[1].tobytes()
    try:
        wait = service.call("GET", "/health")[2]
        assert wait["camera"]["size"] == [128, 64] and "focal" in wait["camera"]
        for query, calib in (("", None), ("&calib=74,74,64,32", FOCAL), ("&calib=74%2074%2064%2032", FOCAL)):
            status, _, answer = service.call("POST", f"/predict?score=0{query}", body)
            expected = predictor(image, calib)
            assert status == 200 and len(answer["objects"]) == len(expected)
            boxes = [[*one["location"], *one["dimensions"], one["rotation_y"]] for one in answer["objects"]]
            np.testing.assert_allclose(boxes, expected.boxes_3d, atol=0.002)
            assert {len(one["lines"]) for one in answer["objects"]} <= set(range(13))
        drawn = service.call("POST", "/predict?score=0&format=image&calib=74,74,64,32", body)[2]
        assert cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR).shape == (256, 512 + 205, 3)  # enlarged
        for wrong in ("1,2,3", "x", "0,0,0,0", "/etc/passwd", "nan,1,1,1", "1e200,1e200,1,1", "", "/", "1," * 150):
            status, _, answer = service.call("POST", f"/predict?calib={wrong}", body)
            assert status == 422 and "calib" in json.dumps(answer) and "root" not in json.dumps(answer), wrong
    finally:
        service.network.end()


def test_a_services_own_camera(predictor):
    """It applies to requests without one."""
    from src.serving.schema import Limits
    from src.serving.service import PredictQuery
    from src.serving.service import Service as Handler

    limits = Limits(max_bytes=1, max_pixels=1, queue=1, deadline=1.0)
    handler = Handler(predictor, None, None, limits, "x", 0.1, np.array(FOCAL))
    np.testing.assert_array_equal(handler.calib_of(PredictQuery()), FOCAL)
    assert handler.calib_of(PredictQuery(calib="1 2 3 4"))[0, 0] == 1


def test_wrong_cameras_of_a_service_are_named_before_it_starts(onnx_file, scenes, tmp_path):
    for args, parts in ((["74"], ["1 numbers"]), (["no.txt"], ["no.txt"]), ([tmp_path], ["is a folder"])):
        done = call_script("tools/serve.py", "--onnx", onnx_file, "--port", 0, "--calib", *args, check=False)
        assert_user_error(done, *parts)


def test_a_side_file_with_a_damaged_camera_is_refused(run, tmp_path):
    from src.weights.side_file import read_side_file

    checkpoint = tmp_path / "a.ckpt"
    checkpoint.write_bytes(stages.best(run).read_bytes())
    side = json.loads(stages.best(run).with_suffix(".json").read_text())
    for damaged in ({}, {**side["camera"], "focal": -1}, {**side["camera"], "matrix": [[1]]}):
        checkpoint.with_suffix(".json").write_text(json.dumps({**side, "camera": damaged}))
        with user_error("a.json", "camera"):
            read_side_file(str(checkpoint))
