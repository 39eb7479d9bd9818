"""Evaluation with eval.py, and its settings."""
import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import types

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.core.errors import UserError
from src.core.interrupts import Interrupted
from src.data.coco import check_classes, find_split, read_coco
from src.evaluation import evaluator
from src.imaging import reading
from src.inference.pipeline import Detected
from src.inference.predictor import Predictor
from src.model_utils.combinations import part_of
from src.tasks.detection import DETECTION, scores
from src.weights.side_file import read_side_file
from tests.conftest import (
    TINY,
    assert_same_detections,
    assert_user_error,
    call_script,
    contents,
    lines_with,
    no_graphs,
    noise_image,
    replace_resdcn_18,
    write_coco,
)


@pytest.fixture(scope="module")
def evaluated(least_checkpoint, tiny_data, tmp_path_factory):
    """{keep_res: output folder} of eval.py, log in output.txt; two scales and drawings if keep_res is false."""
    folders = {}
    more = ["--visual_image", "true", "--eval_config.multi_scales", "[1.0, 1.25]"]
    for keep_res, args in ((True, []), (False, more)):
        folder = tmp_path_factory.mktemp("eval")
        args += ["--data_dir", tiny_data, "--load_checkpoint_path", least_checkpoint, "--save_result_dir", folder]
        with replace_resdcn_18("LEAST"), no_graphs():
            done = call_script("eval.py", *TINY, "--eval_config.keep_res", keep_res, *args)
        (folder / "output.txt").write_text(done.stdout)
        folders[keep_res] = folder
    return folders


@pytest.mark.parametrize("keep_res", [True, False])
def test_eval_prints_and_writes_the_scores_of_pycocotools(evaluated, tiny_data, keep_res):
    folder = evaluated[keep_res]
    output = (folder / "output.txt").read_text()
    table = output[output.index("overall performance on shapes validation dataset\n"):].splitlines()[1:13]
    with contextlib.redirect_stdout(io.StringIO()) as expected:
        truth = COCO(str(tiny_data / "annotations" / "instances_val2017.json"))
        score = COCOeval(truth, truth.loadRes(str(folder / "val" / "val_pred_eval.json")), "bbox")
        score.evaluate()
        score.accumulate()
        score.summarize()
    assert table == expected.getvalue().splitlines()[-12:]
    metrics = json.loads((folder / "val" / "metrics.json").read_text())
    np.testing.assert_allclose([metrics[name] for name in DETECTION.metrics], score.stats, atol=1e-9)
    assert set(metrics["AP_per_class"]) == {"rectangle", "ellipse", "triangle"}
    assert np.mean(list(metrics["AP_per_class"].values())) == pytest.approx(metrics["AP"], abs=1e-6)
    result = json.loads((folder / "val" / "val_pred_result.json").read_text())
    assert len(result["images"]) == 6 and result["skipped"] == []
    precision = score.eval["precision"][:, :, :, 0, 2]  # all areas, 100 detections, three classes
    rows = output[output.index("\nclass  "):].splitlines()[2:5]
    for index, (row, name) in enumerate(zip(rows, ("rectangle", "ellipse", "triangle"))):
        objects = len(truth.getAnnIds(catIds=[index + 1]))
        ap, ap50 = precision[:, :, index].mean(), precision[0, :, index].mean()
        assert row.split() == [name, f"{ap:.3f}", f"{ap50:.3f}", str(objects)]
        assert metrics["AP_per_class"][name] == pytest.approx(ap)
        assert metrics["objects_per_class"][name] == objects


def test_every_image_is_drawn(evaluated):
    images = sorted((evaluated[False] / "val" / "images").iterdir())
    assert [path.name for path in images] == [f"{number:06d}.jpg" for number in range(1, 7)]
    shape = cv2.imread(str(images[0])).shape
    assert shape[1] == 2 * 480 and shape[0] > 480  # prediction and ground truth side by side, enlarged, with captions
    assert not (evaluated[True] / "val" / "images").exists()


def test_a_second_evaluation_keeps_the_first(evaluated, least, least_checkpoint, tiny_data, tmp_path, graphless):
    shutil.copytree(evaluated[True], tmp_path / "r")
    before = (tmp_path / "r" / "val" / "metrics.json").read_text()
    args = ["--data_dir", tiny_data, "--load_checkpoint_path", least_checkpoint, "--save_result_dir", "r"]
    options = ["--enable_eval", "false", "--eval_config.K", 5, "--eval_config.SOFT_NMS", "false"]
    call_script("tools/eval.py", *TINY, *args, *options, cwd=tmp_path)
    assert (tmp_path / "r" / "val.1" / "metrics.json").read_text() == before
    assert not (tmp_path / "r" / "val" / "metrics.json").exists()  # enable_eval false
    assert len(json.loads((tmp_path / "r" / "val" / "val_pred_eval.json").read_text())) == 6 * 5


def test_test_mode_needs_no_annotations_and_names_bad_images(least, least_checkpoint, tmp_path, graphless):
    folder = tmp_path / "d" / "images"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), noise_image(1))
    cv2.imwrite(str(folder / "c.jpg"), noise_image(2, 64, 200))
    (folder / "b.jpg").write_bytes(b"no image")
    args = ["--run_mode", "test", "--dataset_config.test_image_dir", "images", "--eval_config.K", 7]
    paths = ["--data_dir", tmp_path / "d", "--load_checkpoint_path", least_checkpoint, "--save_result_dir", tmp_path]
    done = call_script("eval.py", *TINY, *paths, *args)
    assert "skipped image 2" in done.stdout and "b.jpg" in done.stdout and "2 images, 1 skipped" in done.stdout
    assert "overall performance" not in done.stdout
    records = json.loads((tmp_path / "test" / "test_pred_eval.json").read_text())
    assert {record["image_id"] for record in records} == {1, 3} and len(records) == 14


@pytest.mark.parametrize("classes, part", [
    (("rectangle", "ellipse"), "'triangle'"),
    (("rectangle", "ellipse", "triangle", "star"), "'star'"),
])
def test_other_classes_are_refused(least, least_checkpoint, tmp_path, classes, part):
    write_coco(tmp_path, "val", {1: noise_image(1)}, [(1, 1, [1, 1, 20, 20])], classes)
    args = ["--data_dir", tmp_path, "--load_checkpoint_path", least_checkpoint]
    assert_user_error(call_script("eval.py", *TINY, *args, cwd=tmp_path, check=False), part)


@pytest.mark.parametrize("objects", [[], [(1, 1, [1, 1, 20, 20])]])
def test_a_ground_truth_without_objects_is_reported_before_detecting(objects, least, least_checkpoint, tmp_path):
    """No annotations, or only crowds: pycocotools would return -1 for all scores."""
    path = write_coco(tmp_path, "val", {1: noise_image(1)}, objects, ("rectangle", "ellipse", "triangle"))
    content = json.loads(open(path, encoding="utf-8").read())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    args = ["--data_dir", tmp_path, "--load_checkpoint_path", least_checkpoint]
    done = call_script("eval.py", *TINY, *args, cwd=tmp_path, check=False)
    assert_user_error(done, "instances_val2017.json", "--enable_eval false")
    assert not (tmp_path / "val").exists()


def test_the_annotation_files_size_applies_in_evaluation(least, least_checkpoint, tmp_path, graphless):
    """Images with an EXIF rotation: one entry has the stored size 128x96, one the shown 96x128, one neither."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(noise_image(1)).save(data, "JPEG", exif=exif)
    images = dict.fromkeys((1, 2, 3), data.getvalue())
    path = write_coco(tmp_path, "val", images, [(1, 1, [1, 1, 20, 20])], ("rectangle", "ellipse", "triangle"))
    content = json.loads(open(path, encoding="utf-8").read())
    sizes = ((128, 96), (96, 128), (50, 50))
    for entry, (width, height) in zip(content["images"], sizes):
        entry.update(width=width, height=height)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    args = ["--data_dir", tmp_path, "--load_checkpoint_path", least_checkpoint, "--visual_image", "true"]
    done = call_script("eval.py", *TINY, *args, cwd=tmp_path)
    for number, (width, height) in enumerate(sizes[:2], 1):
        drawn = cv2.imread(str(tmp_path / "val" / "images" / f"{number:012d}.jpg"))
        assert drawn.shape[1] == 2 * 4 * width and drawn.shape[0] > 4 * height  # both, enlarged, with captions
    assert done.stdout.count("skipped image 3 (") == 1 and "50x50" in done.stdout
    assert re.search("^warning: 1 of 3 images ", done.stdout, re.M)
    done = call_script("preprocess.py", "--val_data_dir", tmp_path, "--predict_dir", tmp_path / "p")
    meta = json.loads((tmp_path / "p" / "meta" / "inputs.json").read_text())
    assert [(entry["id"], entry["center"]) for entry in meta["images"]] == [(1, [64, 48]), (2, [48, 64])]
    assert len(meta["skipped"]) == 1


def test_category_ids_are_matched_by_name():
    coco = COCO()
    coco.dataset = {"categories": [{"id": 90, "name": "a"}, {"id": 3, "name": "b"}]}
    assert check_classes({"classes": ["b", "a"]}, coco, "file") == [3, 90]


def test_scoring_nothing_is_zero(tiny_data):
    coco = read_coco(str(tiny_data / "annotations" / "instances_val2017.json"))
    table, metrics = scores.score(coco, [])
    assert len(table.splitlines()) == 12 and metrics["AP"] == 0


def test_perfect_boxes_score_one(tiny_data):
    coco = read_coco(str(tiny_data / "annotations" / "instances_val2017.json"))
    records = [{**{name: a[name] for name in ("image_id", "category_id", "bbox")}, "score": 0.9}
               for a in coco.dataset["annotations"]]
    metrics = scores.score(coco, records)[1]
    assert metrics["AP"] == pytest.approx(1) and set(metrics["AP50_per_class"].values()) == {1.0}


def test_the_class_table_counts_the_scored_objects(tiny_data):
    """Crowds do not count, and a class without objects has no score."""
    coco = read_coco(str(tiny_data / "annotations" / "instances_val2017.json"))
    crowd = next(entry for entry in coco.dataset["annotations"] if entry["category_id"] == 1)
    for entry in coco.dataset["annotations"]:
        entry["iscrowd"] = int(entry is crowd or entry["category_id"] == 3)
    metrics = scores.score(coco, [])[1]
    counts = [sum(entry["category_id"] == number for entry in coco.dataset["annotations"])
              for number in (1, 2)]
    assert [line.split() for line in scores.class_table(metrics).splitlines()] == [
        ["class", "AP", "AP50", "objects"], ["rectangle", "0.000", "0.000", str(counts[0] - 1)],
        ["ellipse", "0.000", "0.000", str(counts[1])], ["triangle", "-", "-", "0"]]


def test_the_best_and_the_worst_of_many_classes_are_printed():
    names = [f"c{number}" for number in range(200)]
    values = {name: number / 200 for number, name in enumerate(names)}

    def class_table():
        counts = dict.fromkeys(names, 1)
        return scores.class_table({"AP_per_class": values, "AP50_per_class": values, "objects_per_class": counts})

    table = class_table()
    assert "(80 more classes)" in table and {"c199", "c140", "c59", "c0"} <= set(table.split())
    assert "c60" not in table.split()
    assert len(table.splitlines()) == 42
    values.update(dict.fromkeys(names[:70]))  # more than the printed worst ones, without objects
    table = class_table()
    assert "(10 more classes)" in table and "(70 without objects)" in table
    assert {"c199", "c140", "c129", "c70"} <= set(table.split()) and not {"c0", "c69"} & set(table.split())
    values.update(dict.fromkeys(names[:100]))
    assert "more classes" not in class_table() and {"c100", "c150", "c199"} <= set(class_table().split())


@pytest.mark.slow
def test_images_are_drawn_by_their_names(least, least_checkpoint, tmp_path, make_config, console, graphless):
    """The same name in two folders and twice in one, names outside the folder, and one without an extension."""
    path = write_coco(tmp_path / "d", "val", dict.fromkeys(range(1, 7), noise_image(1)),
                      [(number, 1, [1, 1, 20, 20]) for number in range(1, 7)], ("rectangle", "ellipse", "triangle"))
    content = json.loads(open(path, encoding="utf-8").read())
    outside = tmp_path / "outside.jpg"
    names = ["a/x.jpg", "b/x.jpg", "a/x.jpg", "../../outside.jpg", str(outside), "a/x"]
    for entry, name in zip(content["images"], names):
        os.makedirs((tmp_path / "d" / "val2017" / name).parent, exist_ok=True)
        shutil.copy(tmp_path / "d" / "val2017" / "000000000001.jpg", tmp_path / "d" / "val2017" / name)
        entry["file_name"] = name
    open(path, "w", encoding="utf-8").write(json.dumps(content))
    before = outside.read_bytes()
    run_eval(least_checkpoint, tmp_path / "d", tmp_path / "r", make_config, console, "--visual_image", "true")
    folder = tmp_path / "r" / "val" / "images"
    drawn = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"a/x.jpg", "a/x.1.jpg", "b/x.jpg", "a/x.png", "outside.jpg"} < drawn and len(drawn) == 6
    assert outside.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"d", "r", "outside.jpg"}


@pytest.mark.parametrize("args, part", [
    (["--data_dir", "/nowhere"], "/nowhere"),
    (["--load_checkpoint_path", "/nowhere.ckpt"], "/nowhere.ckpt"),
    (["--save_result_dir", "/proc/nowhere"], "/proc/nowhere"),
])
def test_evaluation_mistakes(args, part, least, least_checkpoint, tiny_data, tmp_path):
    args = ["--data_dir", tiny_data, "--load_checkpoint_path", least_checkpoint, *args]
    assert_user_error(call_script("eval.py", *TINY, *args, cwd=tmp_path, check=False), part)


def test_a_checkpoint_without_side_file(least_checkpoint, tiny_data, tmp_path):
    shutil.copy(least_checkpoint, tmp_path / "alone.ckpt")
    args = ["--data_dir", tiny_data, "--load_checkpoint_path", "alone.ckpt"]
    assert_user_error(call_script("eval.py", *TINY, *args, cwd=tmp_path, check=False), "alone.json")


@pytest.mark.parametrize("change, part", [
    ({"classes": "abc"}, "'abc'"), ({"category_ids": [1]}, "category_ids"),
    ({"mean": [1, 2]}, "[1, 2]"),
    ({"std": [1, 1, 0]}, "[1, 1, 0]"), ({"net_config": {"down_ration": 4}}, "net_config.down_ratio"),
    ({"net_config": {"head_conv": "many"}}, "net_config.head_conv"), ({"net_config": 7}, "net_config"),
    ({"input_res_train": [96]}, "[96]"), ({"input_res_train": [712, 512]}, "multiples of 32"),
])
def test_a_damaged_side_file_is_named(change, part, least_checkpoint, tmp_path):
    shutil.copy(least_checkpoint, tmp_path / "c.ckpt")
    side = json.loads(least_checkpoint.with_suffix(".json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**side, **change}))
    with pytest.raises(UserError) as error:
        read_side_file(str(tmp_path / "c.ckpt"))
    assert part in str(error.value) and "c.json" in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("graphless")
def test_an_interrupted_evaluation_leaves_no_scores(least, least_checkpoint, tiny_data, tmp_path, make_config,
                                                    monkeypatch, interrupts):
    from src.commands import eval as script

    def read_image(path, *args):
        if path.endswith("000004.jpg"):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(path, *args)

    real = reading.read_image
    monkeypatch.setattr(evaluator, "read_image", read_image)
    args = ["--load_checkpoint_path", least_checkpoint, "--data_dir", tiny_data, "--save_result_dir", tmp_path,
            "--device_target", "CPU"]
    with pytest.raises(Interrupted, match="of 6 images.*val.unfinished"):
        script.evaluate(make_config(*args, "--dataset_config.num_workers", 1))
    assert [path.name for path in tmp_path.iterdir()] == ["val.unfinished"]
    result = json.loads((tmp_path / "val.unfinished" / "val_pred_result.json").read_text())
    done = {entry["id"] for entry in result["images"]}
    assert 0 < len(done) < 6 and {record["image_id"] for record in result["annotations"]} == done


@pytest.fixture
def evaluate(tmp_path, make_config, monkeypatch):
    """A function of eval.py's arguments: evaluates a perfect detector on three images, in the current folder."""
    objects = [(image_id, 1, [10, 10, 30, 30]) for image_id in (1, 2, 3)]
    write_coco(tmp_path, "val", {image_id: noise_image(image_id) for image_id in (1, 2, 3)}, objects)
    detector = types.SimpleNamespace(description={"classes": ["disc", "square"], "category_ids": [1, 2]})
    monkeypatch.chdir(tmp_path)

    def detect_all(_detector, items, load, *_):
        for item in items:
            try:
                yield Detected(item, load(item), np.array([[10, 10, 40, 40, 0.9, 0]], np.float32))
            except ValueError as error:
                yield Detected(item, problem=str(error))

    def call(*args):
        config = make_config("--data_dir", tmp_path, *args)
        split = find_split(tmp_path, part_of(config), config.dataset_config)
        part = evaluator.read_evaluation_set(split, detector.description, config)
        evaluator.evaluate(detector, part, config)

    monkeypatch.setattr(evaluator, "detect_all", detect_all)
    return call


def test_the_training_images_are_scored(evaluate, tmp_path, console):
    """--split train: two images, in one of which the object is elsewhere; with --run_mode test without scores."""
    objects = [(1, 1, [10, 10, 30, 30]), (2, 1, [60, 60, 30, 30])]
    write_coco(tmp_path, "train", {number: noise_image(number) for number in (1, 2)}, objects)
    evaluate("--split", "train")
    metrics = json.loads((tmp_path / "train" / "metrics.json").read_text())
    assert metrics["split"] == "train" and metrics["images"] == 2 and metrics["AR_100"] == pytest.approx(1 / 2)
    output = console.readouterr().out
    assert "training images" in output and "training dataset" in output and "validation" not in output
    assert json.loads((tmp_path / "train" / "train_pred_result.json").read_text())["annotation"].endswith(
        "instances_train2017.json")
    evaluate("--split", "train", "--run_mode", "test")
    assert sorted(os.listdir(tmp_path / "train")) == ["train_pred_eval.json", "train_pred_result.json"]
    assert not (tmp_path / "val").exists() and not (tmp_path / "test").exists()


def test_each_evaluation_is_a_row_of_the_table(evaluate, tmp_path):
    """results.csv next to the folders of results; not for an evaluation without scores."""
    write_coco(tmp_path, "train", {1: noise_image(1)}, [(1, 1, [60, 60, 30, 30])])
    evaluate("--load_checkpoint_path", "a, b.ckpt")
    evaluate("--split", "train", "--eval_config.voc_metric", "true")
    evaluate("--run_mode", "test", "--split", "train")
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["checkpoint"], row["images"], row["AR_100"], row["F1"], row["VOC_mAP_area"])
            for row in rows] == [("val", "a, b.ckpt", "3", "1.000000", "1.000000", ""),
                                 ("train", "", "1", "0.000000", "0.000000", "0.000000")]
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert {name: float(rows[0][name]) for name in ("AP", "AP75", "precision", "recall", "threshold")} == {
        name: pytest.approx(metrics[name], abs=1e-6) for name in ("AP", "AP75", "precision", "recall", "threshold")}


def test_test_images_are_scored_if_they_have_annotations(evaluate, tmp_path, console):
    path = write_coco(tmp_path, "test", {1: noise_image(1)}, [(1, 1, [10, 10, 30, 30])])
    evaluate("--split", "test")
    metrics = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert metrics["split"] == "test" and metrics["AR_100"] == pytest.approx(1)
    assert "test dataset" in console.readouterr().out
    content = json.loads(open(path, encoding="utf-8").read())
    for change in ({"annotations": []}, None):  # COCO's list of images, and no annotation file
        os.remove(path) if change is None else open(path, "w", encoding="utf-8").write(json.dumps(content | change))
        evaluate("--split", "test")
        assert sorted(os.listdir(tmp_path / "test")) == ["test_pred_eval.json", "test_pred_result.json"]
        assert len(json.loads((tmp_path / "test" / "test_pred_eval.json").read_text())) == 1
        assert lines_with(console.readouterr().out, "test images", "without scores")


def test_an_evaluation_without_readable_images_is_an_error(evaluate, tmp_path, console):
    """The unreadable ones are counted, and the results of an earlier evaluation stay in place."""
    evaluate()
    (tmp_path / "val2017" / "000000000002.jpg").write_bytes(b"no image")
    evaluate()
    assert re.search("^warning: 1 of 3 images ", console.readouterr().out, re.M)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("val.1", "val")]
    assert [found["skipped"] for found in metrics] == [0, 1]
    assert metrics[0]["AR_100"] == pytest.approx(1) and metrics[1]["AR_100"] == pytest.approx(2 / 3)
    for number in (1, 3):
        (tmp_path / "val2017" / f"{number:012d}.jpg").write_bytes(b"no image")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="3 images in .*val2017 "):
        evaluate()
    assert contents(tmp_path) == before and "skipped image 3 (" in console.readouterr().out


@pytest.mark.parametrize("args, scores", [((), {float(np.float32(0.9))}),
                                          (("--eval_config.round_scores", "true"), {0.9})])
def test_scores_in_the_records_are_rounded_on_request(args, scores, evaluate, tmp_path):
    evaluate(*args)
    records = json.loads((tmp_path / "val" / "val_pred_result.json").read_text())["annotations"]
    assert {record["score"] for record in records} == scores


def test_detections_below_the_threshold_are_not_drawn(evaluate, tmp_path):
    for threshold in (0.8, 0.95, 1.0):
        evaluate("--visual_image", "true", "--eval_config.score_thresh", threshold)
    shown, hidden, hidden_too = (cv2.imread(str(tmp_path / name / "images" / "000000000001.jpg"))
                                 for name in ("val.1", "val.2", "val"))
    width = shown.shape[1] // 2  # detections left, ground truth right
    assert (shown[:, :width] != hidden[:, :width]).any() and (shown[:, width:] == hidden[:, width:]).all()
    assert (hidden == hidden_too).all()


def test_images_in_a_folder_named_val_stay(evaluate, tmp_path):
    """eval.py, run in a data set's folder, fails before detecting; with another --save_result_dir it succeeds."""
    for folder in ("val", "images"):
        shutil.copytree(tmp_path / "val2017", tmp_path / folder)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="^val "):
        evaluate("--visual_image", "true")
    assert contents(tmp_path) == before
    evaluate("--visual_image", "true", "--save_result_dir", "results")
    made = {path: content for path, content in contents(tmp_path).items() if not path.startswith("results")}
    assert made == before and len(os.listdir(tmp_path / "results" / "val" / "images")) == 3


def test_paths_are_checked_before_a_model_is_loaded(tiny_data, small_file, tmp_path, make_config, monkeypatch):
    from src.commands import eval as script

    monkeypatch.chdir(tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.jpg").touch()
    config = make_config("--data_dir", tiny_data, "--load_checkpoint_path", small_file)
    with pytest.raises(UserError, match="^val .*--save_result_dir"):
        script.check_paths(config)
    paths = ("--data_dir", tmp_path, "--load_checkpoint_path", small_file)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "results.csv").write_text("epoch,train/box_loss\n")
    for args in ((), ("--run_mode", "test")):  # which writes no scores
        with pytest.raises(UserError, match="^y/results.csv .*--save_result_dir" if not args else "none of these"):
            script.check_paths(make_config(*paths, "--save_result_dir", "y", *args))
    for args, origin in ((("--split", "train"), r"\(split is train, from the command line\)"),
                         (("--save_result_dir", "x"), r"\(run_mode is val, from default_config.yaml\)")):
        with pytest.raises(UserError, match=origin):
            script.check_paths(make_config(*paths, *args))


def with_evaluation(checkpoint, folder, evaluation):
    """A copy of a checkpoint with these evaluation settings in its side file."""
    path = folder / "r.ckpt"
    shutil.copy(checkpoint, path)
    side = json.loads(checkpoint.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**side, "evaluation": evaluation}))
    return path


@pytest.fixture
def recorded(least, least_checkpoint, tmp_path):
    """A copy of least_checkpoint with the evaluation settings of RECIPE in its side file."""
    return with_evaluation(least_checkpoint, tmp_path, {
        "dataset_config.input_res_test": [128, 96], "eval_config.keep_res": False, "eval_config.SOFT_NMS": False,
        "eval_config.K": 30})


RECIPE = ("--dataset_config.input_res_test", "[128, 96]", "--eval_config.keep_res", "false", "--eval_config.SOFT_NMS",
          "false", "--eval_config.K", 30)


def run_eval(checkpoint, tiny_data, folder, make_config, console, *args):
    """Run eval.py in this process; returns (records, log)."""
    from src.commands import eval as script

    args = ["--load_checkpoint_path", checkpoint, "--data_dir", tiny_data, "--save_result_dir", folder,
            "--device_target", "CPU", *args]
    script.evaluate(make_config(*args))
    return json.loads((folder / "val" / "val_pred_eval.json").read_text()), console.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("graphless")
def test_eval_applies_the_recipes_settings(recorded, least_checkpoint, tiny_data, tmp_path, make_config, console):
    """It also logs each setting and its source."""
    expected, _ = run_eval(least_checkpoint, tiny_data, tmp_path / "a", make_config, console, *RECIPE)
    found, log = run_eval(recorded, tiny_data, tmp_path / "b", make_config, console)
    without, _ = run_eval(least_checkpoint, tiny_data, tmp_path / "c", make_config, console)
    assert found == expected != without
    assert ("evaluating with input_res_test 128x96 (the side file), keep_res false (the side file), flip_test false "
            "(default_config.yaml), multi_scales [1.0] (default_config.yaml), SOFT_NMS false (the side file), K 30 "
            "(the side file)") in log
    (tmp_path / "mine.yaml").write_text("eval_config:\n  K: 7\n")
    args = ["--config_path", tmp_path / "mine.yaml", "--eval_config.SOFT_NMS", "true"]
    _, log = run_eval(recorded, tiny_data, tmp_path / "d", make_config, console, *args)
    assert f"SOFT_NMS true (the command line), K 7 ({tmp_path / 'mine.yaml'})" in log


@pytest.mark.slow
def test_predictor_and_export_apply_the_recipes_settings(recorded, tiny_data, tmp_path, make_config, console):
    from src.commands import export as script

    image = str(tiny_data / "val2017" / "000001.jpg")
    expected = Predictor(str(recorded), "CPU", input_res=[128, 96], K=30, SOFT_NMS=False)(image).detections()
    found = Predictor(str(recorded), "CPU")(image).detections()
    np.testing.assert_array_equal(found, expected)
    args = ["--export_config.ckpt_file", recorded, "--export_config.export_name", tmp_path / "e", "--device_target",
            "CPU"]
    script.export(make_config(*args))
    side = json.loads((tmp_path / "e.json").read_text())
    assert side["input_res"] == [128, 96] and side["K"] == 30 and side["evaluation"] == {"eval_config.SOFT_NMS": False}
    assert_same_detections(Predictor(str(tmp_path / "e.mindir"), "CPU")(image).detections(), expected, 1e-3)


@pytest.mark.parametrize("evaluation", [
    3, {"eval_config.K": "many"}, {"eval_config.multi_scales": []}, {"dataset_config.input_res_test": [1]},
])
def test_damaged_evaluation_settings_are_named(evaluation, small_file, tmp_path):
    path = with_evaluation(small_file, tmp_path, evaluation)
    with pytest.raises(UserError, match="r.json: (evaluation|eval_config|dataset_config)"):
        Predictor(str(path), "CPU")


def test_train_records_the_recipes_evaluation_settings(least_run):
    side = json.loads((least_run / "ckpt_0" / "centernet-2_7.json").read_text())
    assert side["evaluation"] == {
        "dataset_config.input_res_test": [96, 96], "eval_config.keep_res": True, "eval_config.pad_multiple": 64,
        "eval_config.flip_test": False, "eval_config.multi_scales": [1.0], "eval_config.SOFT_NMS": True,
        "eval_config.K": 100}
