"""Pose from an annotation file to a served model, with a small network: two classes with other keypoints."""
import csv
import json
import os

import cv2
import mindspore as ms
import numpy as np
import pytest

from tests.conftest import TINY, assert_user_error, call_script, lines_with, replace_resdcn_18, user_error
from tests.tasks import stages

pytestmark = pytest.mark.slow
CORNERS = {"rectangle": ["left_top", "right_top", "left_bottom", "right_bottom"], "ellipse": ["left_top", "middle"]}


@pytest.fixture(scope="module", autouse=True)
def network():
    """A network that ONNX supports."""
    with replace_resdcn_18("PLAIN"):
        yield


def points_of(name, box):
    """The keypoints of a class in a box x, y, w, h: [x, y, 2, ...]."""
    x, y, w, h = box
    places = {"left_top": (x, y), "right_top": (x + w, y), "left_bottom": (x, y + h), "right_bottom": (x + w, y + h),
              "middle": (x + w / 2, y + h / 2)}
    return [value for keypoint in CORNERS.get(name, []) for value in (*places[keypoint], 2)]


@pytest.fixture(scope="module")
def corner_data(tiny_data, tmp_path_factory):
    """tiny_data with corners as keypoints of rectangles and ellipses; triangles have none."""
    folder = tmp_path_factory.mktemp("corners")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        os.symlink(tiny_data / f"{split}2017", folder / f"{split}2017")
        content = json.loads((tiny_data / f"annotations/instances_{split}2017.json").read_text())
        for category in content["categories"]:
            category["keypoints"] = CORNERS.get(category["name"], [])
            category["skeleton"] = [[1, 2]] if category["keypoints"] else []
        names = {category["id"]: category["name"] for category in content["categories"]}
        for entry in content["annotations"]:
            entry["keypoints"] = points_of(names[entry["category_id"]], entry["bbox"])
        content["annotations"][0]["keypoints"] = [1, 2]  # invalid
        (folder / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def records(corner_data, tmp_path_factory):
    """The MindRecord files of a conversion without net_config.task, and its output."""
    return stages.convert(corner_data, tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def run(corner_data, records, tmp_path_factory):
    """The folder of a training that was started, evaluated, resumed and finished."""
    folder = tmp_path_factory.mktemp("run")
    first, _ = stages.train(corner_data, records[0], folder, "--best_metric", "PCK_20",
                            "--train_config.ema_decay", "0.9")
    (folder / "stdout.txt").write_text(first.stdout)
    return folder


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory):
    """The trained network as an ONNX file, with the flip test."""
    return stages.export_onnx(run, tmp_path_factory.mktemp("onnx") / "pose", "--eval_config.flip_test", "true")


def test_the_task_is_found_in_the_data(records):
    """It is said, and so are the pairs; the invalid annotation is named."""
    folder, done = records
    manifest = json.loads((folder / "coco_det.train.mind.manifest.json").read_text())
    assert manifest["task"] == "pose"
    assert manifest["keypoints"]["names"] == ["left_top", "right_top", "left_bottom", "right_bottom", "middle"]
    assert manifest["keypoints"]["of_class"] == [[0, 1, 2, 3], [0, 4], []]
    assert lines_with(done.stdout, "net_config.task is pose", "person_keypoints_train2017.json")
    assert lines_with(done.stdout, "left_top/right_top", "left_bottom/right_bottom")
    assert lines_with(done.stdout, "annotation 1 of image 1", "2 values")


def test_other_tasks_are_refused(records, tiny_records, tiny_data, tmp_path):
    """Pose on plain boxes, and detection on files converted for pose: each says what fits."""
    for args, parts in (
            (["--mindrecord_dir", records[0], "--net_config.task", "detection"], ["converted for pose", "detection"]),
            (["--mindrecord_dir", tiny_records, "--net_config.task", "pose"], ["converted for detection", "pose"]),
            (["--mindrecord_dir", tiny_records, "--best_metric", "PCK_10"], ["best_metric", "PCK_10", "AP75"])):
        assert_user_error(call_script("train.py", *TINY, *args, cwd=tmp_path, check=False), *parts)
    args = ["--coco_data_dir", tiny_data, "--mindrecord_dir", tmp_path, "--net_config.task", "pose"]
    assert_user_error(call_script("src/dataset.py", *args, check=False), "keypoints", "detection")


def test_other_keypoints_are_not_scored(run, corner_data, tmp_path):
    """A validation file with another order of keypoints: pycocotools would compare other ones."""
    for name in ("train2017", "val2017"):
        os.symlink(corner_data / name, tmp_path / name)
    (tmp_path / "annotations").mkdir()
    content = json.loads((corner_data / "annotations/person_keypoints_val2017.json").read_text())
    content["categories"][0]["keypoints"] = content["categories"][0]["keypoints"][::-1]
    (tmp_path / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    done = stages.evaluate(tmp_path, stages.best(run), tmp_path, check=False)
    assert_user_error(done, "person_keypoints_val2017.json", "right_bottom, left_bottom", "same order")


def test_settings_of_scores_are_checked_before_detecting(run, corner_data, records, tmp_path):
    evaluation = ("eval.py", "--load_checkpoint_path", stages.best(run))
    training = ("train.py", *TINY, "--mindrecord_dir", records[0], "--eval_epochs", 1, "--best_metric", "box_AP")
    for script, *args in (evaluation, training):
        for option, value, part in (("keypoints", "nose", "left_top"), ("kpt_oks_sigmas", "[0.1, 0.2]", "2 numbers")):
            done = call_script(script, *args, "--device_target", "CPU", "--data_dir", corner_data,
                               f"--eval_config.{option}", value, cwd=tmp_path, check=False)
            assert_user_error(done, f"eval_config.{option}", part)
            assert "compiling" not in done.stdout and not (tmp_path / "val").exists()


def test_images_without_labels_and_with_the_list_of_another_task(run, corner_data, tmp_path):
    """COCO's list of test images has no keypoints in its categories."""
    (tmp_path / "annotations").mkdir()
    os.symlink(corner_data / "val2017", tmp_path / "test2017")
    content = json.loads((corner_data / "annotations/person_keypoints_val2017.json").read_text())
    listed = {"images": content["images"], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "annotations/image_info_test-dev2017.json").write_text(json.dumps(listed))
    stages.evaluate(tmp_path, stages.best(run), tmp_path, "--run_mode", "test")
    assert json.loads((tmp_path / "test" / "test_pred_eval.json").read_text())[0]["keypoint_scores"]


def test_boxes_of_the_same_file_are_detection(corner_data, tmp_path):
    """If that is what the user asks for."""
    call_script("src/dataset.py", "--coco_data_dir", corner_data, "--mindrecord_dir", tmp_path, "--net_config.task",
                "detection")
    manifest = json.loads((tmp_path / "coco_det.train.mind.manifest.json").read_text())
    assert manifest["task"] == "detection" and "keypoints" not in manifest


def test_it_is_checked(corner_data, tmp_path):
    done = call_script("tools/check_dataset.py", "--data_dir", corner_data, "--save_result_dir", tmp_path,
                       "--dataset_config.input_res_train", "[96, 96]", check=False)
    assert lines_with(done.stdout, "left_top/right_top") and lines_with(done.stdout, "annotation 1 of image 1")
    assert cv2.imread(str(tmp_path / "train_batch.jpg")).shape[0] > 300


def test_it_is_trained_and_resumed(run):
    """The losses by name in record and report; their weighted sum; the best by PCK_20."""
    steps, scored = stages.record_lines(run)
    assert [line["step"] for line in steps] == list(range(1, 11)) and [line["step"] for line in scored] == [3, 5, 10]
    for line in steps:
        total = (line["hm_loss"] + 0.1 * line["wh_loss"] + line["off_loss"] + line["hp_loss"] + line["hm_hp_loss"]
                 + line["hp_offset_loss"])
        assert line["loss"] == pytest.approx(total, rel=1e-5) and line["hp_loss"] > 0 < line["hm_hp_loss"]
    assert steps[-1]["loss"] < steps[0]["loss"]
    side = json.loads((run / "ckpt_0" / "centernet-best.json").read_text())
    assert side["net_config"]["task"] == "pose" and side["keypoints"]["flip_idx"] == [[0, 1], [2, 3]]
    assert side["scores"]["metric"] == "PCK_20" and (run / "train_batch.jpg").exists()
    assert lines_with((run / "stdout.txt").read_text(), "net_config.task is pose", "manifest")
    assert lines_with((run / "stdout.txt").read_text(), "step: 1 |", "hp_loss ", "hm_hp_loss ", "hp_offset_loss ")
    call_script("tools/report.py", run)
    assert "keypoint heatmaps" in (run / "report.html").read_text()


def test_a_resumed_training_equals_one_in_one_go(run, corner_data, records, tmp_path):
    """Bit for bit, with averaged weights."""
    args = [*TINY, "--mindrecord_dir", records[0], "--data_dir", corner_data, "--epoch_size", 2,
            "--train_config.ema_decay", "0.9"]
    call_script("train.py", *args, cwd=tmp_path)
    resumed, whole = (ms.load_checkpoint(str(folder / "ckpt_0" / "centernet-2_10.ckpt")) for folder in (run, tmp_path))
    assert len(whole) > 50 and resumed.keys() == whole.keys()
    for name, parameter in whole.items():
        np.testing.assert_array_equal(resumed[name].asnumpy(), parameter.asnumpy(), err_msg=name)


@pytest.mark.parametrize("args", [
    ("--train_config.amp_level", "O2"), ("--train_config.accumulate_steps", 2, "--net_config.dense_hp", "true"),
    ("--net_config.hm_hp", "false"), ("--net_config.mse_loss", "true", "--net_config.reg_loss", "sl1"),
    ("--dataset_config.aug_rot", 0.5, "--dataset_config.rotate", 30, "--net_config.reg_hp_offset", "false"),
])
def test_options_are_trained_with(args, records, tmp_path):
    """The losses are finite, and those of heads that the network lacks are 0."""
    call_script("train.py", *TINY, *args, "--mindrecord_dir", records[0], "--train_steps", 2, cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train_record.jsonl").read_text().splitlines()]
    for line in lines:
        assert np.isfinite(line["loss"]) and line["hp_loss"] > 0
        assert (line["hm_hp_loss"] == 0) == ("--net_config.hm_hp" in args)


def test_it_is_evaluated(run, corner_data, tmp_path):
    """Flip test, two scales; records have x, y, score of each keypoint, 0 for those that the class lacks."""
    done = stages.evaluate(corner_data, stages.best(run), tmp_path, "--visual_image", "true",
                           "--eval_config.flip_test", "true", "--eval_config.multi_scales", "[1.0, 1.5]",
                           "--eval_config.keypoints", "[left_top, middle]")
    assert lines_with(done.stdout, "keypoints", "left_top, middle") and lines_with(done.stdout, "sigma 0.05")
    assert lines_with(done.stdout, "PCK", "10 %")
    content = json.loads((tmp_path / "val" / "val_pred_result.json").read_text())
    for record in content["annotations"]:
        points = np.reshape(record["keypoints"], (5, 3))
        has = {1: [0, 1, 2, 3], 2: [0, 4], 3: []}[record["category_id"]]
        assert points[has].any(1).all() and not np.delete(points, has, 0).any()
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert {"AP", "box_AP50", "PCK_05", "error_px", "error_px_per_keypoint"} <= set(metrics)
    assert len(os.listdir(tmp_path / "val" / "images")) == 6
    call_script("tools/report.py", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "keypoints, OKS 0.50" in page and "<td>right_bottom</td>" in page and "mean error" in page


def test_test_images_get_cocos_submission_format(run, corner_data, tmp_path):
    """A list of records with image_id, category_id, keypoints and score."""
    stages.evaluate(corner_data, stages.best(run), tmp_path, "--run_mode", "test", "--dataset_config.test_image_dir",
                    "val2017")
    records = json.loads((tmp_path / "test" / "test_pred_eval.json").read_text())
    assert {"image_id", "category_id", "keypoints", "score"} <= set(records[0]) and len(records[0]["keypoints"]) == 15


def test_an_exported_file_predicts_as_the_checkpoint(run, onnx_file, image, tmp_path):
    from src.inference.predictor import Predictor

    of_file = Predictor(onnx_file)(image)
    found = Predictor(stages.best(run), "CPU", K=20, flip_test=True)(image)
    assert of_file.keypoints.shape == (len(of_file), 5, 3) and len(of_file) == len(found) > 0
    assert of_file.keypoint_names == ["left_top", "right_top", "left_bottom", "right_bottom", "middle"]
    np.testing.assert_allclose(of_file.scores, found.scores, atol=1e-5)
    np.testing.assert_allclose(of_file.keypoints, found.keypoints, atol=1e-2)
    assert of_file.detections().shape == (len(of_file), 21) and of_file.keep([0, 2]).keypoints.shape == (2, 5, 3)
    with pytest.raises(AttributeError, match="joints"):
        print(of_file.joints)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    call_script("tools/predict.py", "--onnx", onnx_file, "--input", tmp_path / "a.png", "--output", tmp_path / "out",
                "--score_thresh", 0)
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8") as file:
        head, first, *_ = csv.reader(file)
    assert head[8:11] == ["left_top_x", "left_top_y", "left_top_score"] and len(head) == len(first) == 23
    annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    points, best = np.reshape(annotations[0]["keypoints"], (5, 3)), of_file.keypoints[0]
    np.testing.assert_allclose(points[:, :2], best[:, :2], atol=1e-4)
    np.testing.assert_allclose(annotations[0]["keypoint_scores"], best[:, 2], atol=1e-6)
    assert set(points[:, 2]) <= {0, 2} and (points[:, 2] == 0).sum() == (best == 0).all(1).sum()
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["categories"][0]["keypoints"] == of_file.keypoint_names
    assert content["categories"][0]["skeleton"] == [[1, 2], [1, 5]]


def test_the_heatmaps_show_centers_and_keypoints(run, image):
    """A channel for each class, and after them for each keypoint; the scores of both are values of theirs."""
    from src.inference.predictor import Predictor

    predictor = Predictor(stages.best(run), "CPU", K=20, flip_test=True)
    heat, view = predictor.heatmap(image)
    assert heat.shape == (3 + 5, *view.out_hw) and 0 <= heat.min() and heat.max() <= 1
    found = predictor(image)
    assert found.scores[0] == pytest.approx(heat[:3].max(), rel=1e-5)
    for joint, score in enumerate(found.keypoints[0, :, 2]):
        assert score == 0 or np.isclose(heat[3 + joint], score, rtol=1e-5).any()


def test_mindir_and_offline_inference(run, corner_data, tmp_path):
    """The MINDIR file's raw results, post-processed, are eval.py's records."""
    name = tmp_path / "pose"
    call_script(*stages.EXPORT, "--export_config.ckpt_file", stages.best(run), "--export_config.export_name", name,
                "--export_config.input_res", "[96, 96]")
    done = stages.infer_offline(corner_data, f"{name}.mindir", "mindir", tmp_path)
    assert lines_with(done.stdout, "PCK")
    stages.evaluate(corner_data, f"{name}.mindir", tmp_path / "direct")
    for one, other in zip(stages.records_of(tmp_path), stages.records_of(tmp_path / "direct"), strict=True):
        np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=1e-3)


def test_it_is_served(onnx_file, image):
    """An answer matches the service's schema."""
    from src.inference.predictor import Predictor
    from src.serving.schema import answer_of
    from src.tasks.pose import schema

    predictor = Predictor(onnx_file)
    found = predictor(image)
    times = dict.fromkeys(("width", "height", "milliseconds", "queue_milliseconds", "network_milliseconds"), 1)
    objects = schema.objects(found.detections(), predictor.detector.description)
    answer = answer_of(schema.Object).model_validate({**times, "objects": objects})
    np.testing.assert_allclose([one.keypoints for one in answer.objects], found.keypoints, atol=0.01)


def test_a_side_file_with_damaged_keypoints_is_refused(run, tmp_path):
    from src.weights.side_file import read_side_file

    checkpoint = tmp_path / "a.ckpt"
    checkpoint.write_bytes(stages.best(run).read_bytes())
    side = json.loads((run / "ckpt_0" / "centernet-best.json").read_text())
    facts = side["keypoints"]
    for damaged in ({**facts, "skeleton": [[0, 17]]}, {**facts, "of_class": [*facts["of_class"], [0]]}):
        checkpoint.with_suffix(".json").write_text(json.dumps({**side, "keypoints": damaged}))
        with user_error("a.json", "keypoints"):
            read_side_file(str(checkpoint))
