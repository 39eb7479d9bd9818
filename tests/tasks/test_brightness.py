"""A task is one folder: brightness/, unknown to src/, is converted, trained, evaluated, exported and served."""
import csv
import json
import os

import cv2
import numpy as np
import pytest

from src.data.coco import find_split
from tests.conftest import TINY, assert_user_error, call_script, lines_with, replace_resdcn_18, user_error
from tests.tasks import stages

pytestmark = pytest.mark.slow
CHANNELS = ["blue", "green", "red"]
ARGS = ("--net_config.task", "brightness")


@pytest.fixture(scope="module", autouse=True)
def brightness():
    """Registers the task in this process, with a network that ONNX supports."""
    from src.tasks import TASKS
    from tests.tasks.brightness import BRIGHTNESS

    with pytest.MonkeyPatch.context() as patch, replace_resdcn_18("PLAIN"):
        patch.setitem(TASKS, BRIGHTNESS.name, BRIGHTNESS)
        yield


@pytest.fixture(scope="module")
def lit_data(tiny_data, tmp_path_factory):
    """tiny_data with the brightness of its objects, and the names of the channels in its categories."""
    folder = tmp_path_factory.mktemp("lit")
    for split in ("train", "val"):
        os.symlink(tiny_data / f"{split}2017", folder / f"{split}2017")
        name = f"annotations/instances_{split}2017.json"
        content = json.loads((tiny_data / name).read_text())
        names = {info["id"]: info["file_name"] for info in content["images"]}
        for entry in content["annotations"]:
            image = cv2.imread(str(tiny_data / f"{split}2017" / names[entry["image_id"]])) / 255
            x, y, w, h = map(round, entry["bbox"])
            entry["light"] = image[max(y, 0) : y + h, max(x, 0) : x + w].mean((0, 1)).tolist()
        content["annotations"][0]["light"] = [1, 2]  # invalid
        for category in content["categories"]:
            category["channels"] = CHANNELS
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def lit_records(lit_data, tmp_path_factory):
    """Its MindRecord files, and the output of the conversion."""
    return stages.convert(lit_data, tmp_path_factory.mktemp("lit_records"), *ARGS)


@pytest.fixture(scope="module")
def run(lit_data, lit_records, tmp_path_factory):
    """The folder of a training that was started, evaluated, resumed and finished."""
    folder = tmp_path_factory.mktemp("lit_run")
    stages.train(lit_data, lit_records[0], folder, *ARGS, "--best_metric", "light_right", "--tensorboard", "true")
    return folder


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory):
    """The trained network as an ONNX file."""
    return stages.export_onnx(run, tmp_path_factory.mktemp("lit_onnx") / "lit")


def test_it_is_converted(lit_records, make_config):
    """The task's fields are stored with an object; an invalid annotation is reported; the manifest names the task."""
    from src.data.train_set import TrainSet

    folder, done = lit_records
    manifest = json.loads((folder / "coco_det.train.mind.manifest.json").read_text())
    assert (manifest["task"], manifest["channels"]) == ("brightness", CHANNELS)
    assert lines_with(done.stdout, "annotation 1 of image 1", "light", "[1, 2]")
    small = ("--dataset_config.input_res_train", "[96, 96]", "--train_config.batch_size", 4, "--mindrecord_dir", folder)
    _, image_id, objects = TrainSet(make_config(*small, *ARGS)).read_row(3)
    assert objects["light"].shape == (len(objects["labels"]), 3)
    assert 0 < objects["light"].min() < objects["light"].max() <= 1
    with user_error("converted for brightness", "net_config.task is detection"):
        TrainSet(make_config(*small, "--net_config.task", "detection"))
    assert TrainSet(make_config(*small)).task.name == "brightness"  # found in the manifest


def test_records_of_detection_are_not_trained_on(tiny_records, tmp_path):
    done = call_script("train.py", *TINY, *ARGS, "--mindrecord_dir", tiny_records, cwd=tmp_path, check=False)
    assert_user_error(done, "converted for detection", "--net_config.task brightness")


def test_data_of_detection_is_not_converted(tiny_data, tmp_path):
    done = call_script("src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", tmp_path, *ARGS, check=False)
    assert_user_error(done, "instances_train2017.json", "channels")


def test_it_is_trained_and_resumed(run):
    """The task's losses and metrics appear in log, record, side file and report."""
    steps, scores = stages.record_lines(run)
    assert [record["step"] for record in steps] == list(range(1, 11))
    assert [record["step"] for record in scores] == [3, 5, 10]
    for record in steps:
        total = record["hm_loss"] + 0.1 * record["wh_loss"] + record["off_loss"] + record["light_loss"]
        assert record["loss"] == pytest.approx(total, rel=1e-5) and record["light_loss"] > 0
    assert steps[-1]["light_loss"] < steps[0]["light_loss"]
    assert all("light_right" in record["scores"] for record in scores)
    side = json.loads((run / "ckpt_0" / "centernet-best.json").read_text())
    assert (side["net_config"]["task"], side["channels"]) == ("brightness", CHANNELS)
    assert side["scores"]["metric"] == "light_right"
    assert (run / "train_batch.jpg").exists()
    call_script("tools/report.py", run)
    assert "brightness" in (run / "report.html").read_text()


def test_it_is_evaluated(run, lit_data, tmp_path):
    """Records include the task's fields."""
    done = stages.evaluate(lit_data, stages.best(run), tmp_path, "--visual_image", "true")
    assert lines_with(done.stdout, "right brightness")
    content = json.loads((tmp_path / "val" / "val_pred_result.json").read_text())
    assert content["task"] == "brightness" and {len(record["light"]) for record in content["annotations"]} == {3}
    assert "light_right" in json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert len(os.listdir(tmp_path / "val" / "images")) == 6
    call_script("tools/report.py", tmp_path)
    assert "off by at most 0.1" in (tmp_path / "report.html").read_text()


def test_an_exported_file_predicts_as_the_checkpoint(run, onnx_file, image, tmp_path):
    from src.inference.predictor import Predictor

    of_file = Predictor(onnx_file)(image)
    found = Predictor(stages.best(run), "CPU", K=20)(image)
    assert of_file.added["light"].shape == (len(of_file), 3) and len(of_file) == len(found) > 0
    np.testing.assert_allclose(of_file.scores, found.scores, atol=1e-5)
    np.testing.assert_allclose(of_file.added["light"], found.added["light"], atol=1e-4)
    assert of_file.detections().shape == (len(of_file), 9) and of_file.keep([0, 2]).added["light"].shape == (2, 3)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    call_script("tools/predict.py", "--onnx", onnx_file, "--input", tmp_path / "a.png", "--output", tmp_path / "out",
                "--score_thresh", 0)
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8") as file:
        head, first, *_ = csv.reader(file)
    assert head == ["file", "frame", "class", "score", "x1", "y1", "x2", "y2", *CHANNELS]
    np.testing.assert_allclose(np.array(first[-3:], float), of_file.added["light"][0], atol=6e-4)
    annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    np.testing.assert_allclose(annotations[0]["light"], of_file.added["light"][0], atol=1e-6)


def test_offline_inference(onnx_file, lit_data, tmp_path):
    done = stages.infer_offline(lit_data, onnx_file, "onnx", tmp_path, "--export_config.input_res", "[96, 96]")
    assert lines_with(done.stdout, "right brightness")


def test_it_is_served(onnx_file, image):
    """An answer matches the service's schema."""
    from src.inference.predictor import Predictor
    from src.serving.schema import answer_of
    from tests.tasks.brightness import schema

    predictor = Predictor(onnx_file)
    description, found = predictor.detector.description, predictor(image)
    times = dict.fromkeys(("width", "height", "milliseconds", "queue_milliseconds", "network_milliseconds"), 1)
    objects = schema.objects(found.detections(), description)
    answer = answer_of(schema.Object).model_validate({**times, "objects": objects})
    np.testing.assert_allclose([one.light for one in answer.objects], found.added["light"], atol=1e-6)


def test_other_objects_have_another_measure(lit_data, make_config):
    """Scores are only compared with those on the same ground truth, of which the task's fields are part."""
    from src.evaluation.evaluator import read_evaluation_set
    from src.training.scoring import measure_of

    config = make_config("--data_dir", lit_data, *ARGS)
    split = find_split(str(lit_data), "val", config.dataset_config)
    names = ["rectangle", "ellipse", "triangle"]
    eval_set = read_evaluation_set(split, {"task": "brightness", "classes": names, "category_ids": [1, 2, 3]}, config)
    before = measure_of(eval_set, config)
    eval_set.coco.dataset["annotations"][0]["light"][0] += 0.5
    assert measure_of(eval_set, config) != before


@pytest.mark.parametrize("name", [None, [], {}, 3, "Detection", "poses"])
def test_a_name_that_is_no_tasks(name):
    from src.tasks import task_of

    with user_error("unknown task", repr(name)):
        task_of({"task": name})


def test_an_unknown_task_is_named(tmp_path):
    done = call_script("train.py", "--net_config.task", "brightnes", "--mindrecord_dir", tmp_path, check=False)
    assert_user_error(done, "brightnes", "did you mean brightness?")
