"""Evaluate, export, load the MindIR file and look, through the entry scripts, on the checkpoint of a tiny training."""
import contextlib
import io
import json
import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src import evaluation, visual
from src.coco import ground_truth_boxes, read_coco
from src.detector import load_detector, load_mindir
from src.errors import UserError
from src.pre_process import make_input, normalize
from src.side_file import read_side_file
from tests.conftest import ROOT, TINY, assert_user_error, call_script, noise_image, write_coco


@pytest.fixture(scope="module")
def checkpoint(tiny_run):
    return tiny_run / "ckpt_0" / "centernet-2_7.ckpt"


@pytest.fixture(scope="module")
def evaluated(checkpoint, tiny_data, tmp_path_factory):
    """{keep_res: folder} of eval.py in both modes, and their output in output.txt; two scales, images with keep_res false."""
    folders = {}
    for keep_res, words in ((True, []), (False, ["--visual_image", "true", "--eval_config.multi_scales", "[1.0, 1.25]"])):
        folder = tmp_path_factory.mktemp("eval")
        done = call_script("eval.py", *TINY, "--data_dir", tiny_data, "--load_checkpoint_path", checkpoint, "--save_result_dir", folder,
                          "--eval_config.keep_res", keep_res, *words)
        (folder / "output.txt").write_text(done.stdout)
        folders[keep_res] = folder
    return folders


@pytest.mark.parametrize("keep_res", [True, False])
def test_eval_prints_and_writes_what_pycocotools_says(evaluated, tiny_data, keep_res):
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
    np.testing.assert_allclose([metrics[name] for name in evaluation.METRIC_NAMES], score.stats, atol=1e-9)
    assert set(metrics["AP_per_class"]) == {"rectangle", "ellipse", "triangle"}
    assert np.mean(list(metrics["AP_per_class"].values())) == pytest.approx(metrics["AP"], abs=1e-6)
    result = json.loads((folder / "val" / "val_pred_result.json").read_text())
    assert len(result["images"]) == 6 and result["skipped"] == []


def test_images_of_every_image(evaluated):
    images = sorted((evaluated[False] / "val" / "images").iterdir())
    assert [path.name for path in images] == [f"{number}.jpg" for number in range(1, 7)]
    shape = cv2.imread(str(images[0])).shape
    assert shape[1] == 192 and shape[0] > 96  # prediction and ground truth side by side, with a caption
    assert not (evaluated[True] / "val" / "images").exists()


def test_a_second_evaluation_keeps_the_first(evaluated, checkpoint, tiny_data, tmp_path):
    shutil.copytree(evaluated[True], tmp_path / "r")
    before = (tmp_path / "r" / "val" / "metrics.json").read_text()
    words = ["--data_dir", tiny_data, "--load_checkpoint_path", checkpoint, "--save_result_dir", "r"]
    options = ["--enable_eval", "false", "--eval_config.K", 5, "--eval_config.SOFT_NMS", "false"]
    call_script("tools/eval.py", *TINY, *words, *options, cwd=tmp_path)
    assert (tmp_path / "r" / "val.1" / "metrics.json").read_text() == before
    assert not (tmp_path / "r" / "val" / "metrics.json").exists()  # enable_eval false
    assert len(json.loads((tmp_path / "r" / "val" / "val_pred_eval.json").read_text())) == 6 * 5


def test_test_mode_needs_no_annotations_and_names_bad_images(checkpoint, tmp_path):
    folder = tmp_path / "d" / "images"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), noise_image(1))
    cv2.imwrite(str(folder / "c.jpg"), noise_image(2, 64, 200))
    (folder / "b.jpg").write_bytes(b"no image")
    words = ["--run_mode", "test", "--dataset_config.test_image_dir", "images", "--eval_config.K", 7, "--save_result_dir", tmp_path]
    done = call_script("eval.py", *TINY, "--data_dir", tmp_path / "d", "--load_checkpoint_path", checkpoint, *words)
    assert "skipped image 2" in done.stdout and "b.jpg" in done.stdout and "2 images, 1 skipped" in done.stdout
    assert "overall performance" not in done.stdout
    records = json.loads((tmp_path / "test" / "test_pred_eval.json").read_text())
    assert {record["image_id"] for record in records} == {1, 3} and len(records) == 14


@pytest.mark.parametrize("classes, part", [
    (("rectangle", "ellipse"), "has no class 'triangle'"),
    (("rectangle", "ellipse", "triangle", "star"), "not trained on 'star'"),
])
def test_other_classes_are_refused(checkpoint, tmp_path, classes, part):
    write_coco(tmp_path, "val", {1: noise_image(1)}, [(1, 1, [1, 1, 20, 20])], classes)
    done = call_script("eval.py", *TINY, "--data_dir", tmp_path, "--load_checkpoint_path", checkpoint, cwd=tmp_path, check=False)
    assert_user_error(done, part)


@pytest.mark.parametrize("objects", [[], [(1, 1, [1, 1, 20, 20])]])
def test_nothing_to_score_against_is_said_before_detecting(objects, checkpoint, tmp_path):
    """No annotations, or crowds alone: pycocotools' -1 for everything is no score."""
    path = write_coco(tmp_path, "val", {1: noise_image(1)}, objects, ("rectangle", "ellipse", "triangle"))
    content = json.loads(open(path, encoding="utf-8").read())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    done = call_script("eval.py", *TINY, "--data_dir", tmp_path, "--load_checkpoint_path", checkpoint, cwd=tmp_path, check=False)
    assert_user_error(done, "instances_val2017.json holds no objects", "--enable_eval false")
    assert not (tmp_path / "val").exists()


def test_the_annotation_files_size_holds_in_evaluation(checkpoint, tmp_path):
    """Images that EXIF turns: 128x96 as they are stored and as the first entry says, 96x128 as the second says, the third fits neither."""
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
    words = ["--data_dir", tmp_path, "--load_checkpoint_path", checkpoint, "--visual_image", "true"]
    done = call_script("eval.py", *TINY, *words, cwd=tmp_path)
    for number, (width, height) in enumerate(sizes[:2], 1):
        drawn = cv2.imread(str(tmp_path / "val" / "images" / f"{number}.jpg"))
        assert drawn.shape[1] == 2 * width and drawn.shape[0] > height  # prediction and ground truth, with captions
    assert done.stdout.count("skipped image 3 (") == 1 and "its entry in the annotation file says 50x50" in done.stdout
    done = call_script("preprocess.py", "--val_data_dir", tmp_path, "--predict_dir", tmp_path / "p")
    meta = json.loads((tmp_path / "p" / "meta" / "inputs.json").read_text())
    assert [(entry["id"], entry["center"]) for entry in meta["images"]] == [(1, [64, 48]), (2, [48, 64])] and len(meta["skipped"]) == 1


def test_category_ids_are_matched_by_name():
    coco = COCO()
    coco.dataset = {"categories": [{"id": 90, "name": "a"}, {"id": 3, "name": "b"}]}
    assert evaluation.check_classes({"classes": ["b", "a"]}, coco, "file") == [3, 90]


def test_scoring_nothing_is_zero(tiny_data):
    coco = read_coco(str(tiny_data / "annotations" / "instances_val2017.json"))
    table, metrics = evaluation.score(coco, [])
    assert len(table.splitlines()) == 12 and metrics["AP"] == 0


def test_perfect_boxes_score_one(tiny_data):
    coco = read_coco(str(tiny_data / "annotations" / "instances_val2017.json"))
    records = [{**{name: a[name] for name in ("image_id", "category_id", "bbox")}, "score": 0.9} for a in coco.dataset["annotations"]]
    metrics = evaluation.score(coco, records)[1]
    assert metrics["AP"] == pytest.approx(1) and set(metrics["AP50_per_class"].values()) == {1.0}


@pytest.mark.parametrize("words, part", [
    (["--data_dir", "/nowhere"], "/nowhere"),
    (["--load_checkpoint_path", "/nowhere.ckpt"], "/nowhere.ckpt"),
    (["--save_result_dir", "/proc/nowhere"], "/proc/nowhere"),
])
def test_evaluation_mistakes(words, part, checkpoint, tiny_data, tmp_path):
    words = ["--data_dir", tiny_data, "--load_checkpoint_path", checkpoint, *words]
    assert_user_error(call_script("eval.py", *TINY, *words, cwd=tmp_path, check=False), part)


def test_a_checkpoint_without_its_side_file(checkpoint, tiny_data, tmp_path):
    shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    words = ["--data_dir", tiny_data, "--load_checkpoint_path", "alone.ckpt"]
    assert_user_error(call_script("eval.py", *TINY, *words, cwd=tmp_path, check=False), "alone.json")


@pytest.mark.parametrize("change, part", [
    ({"classes": "abc"}, "classes cannot be 'abc'"), ({"category_ids": [1]}, "category_ids is no list of 3"),
    ({"mean": [1, 2]}, "mean cannot be [1, 2]"),
    ({"std": [1, 1, 0]}, "std cannot be [1, 1, 0]"), ({"net_config": {"down_ration": 4}}, "did you mean net_config.down_ratio"),
    ({"net_config": {"head_conv": "many"}}, "net_config.head_conv is 'many'"), ({"net_config": 7}, "net_config cannot be 7"),
    ({"input_res_train": [96]}, "input_res_train cannot be [96]"), ({"input_res_train": [712, 512]}, "multiples of 32"),
])
def test_a_damaged_side_file_is_named(change, part, checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / "c.ckpt")
    side = json.loads(checkpoint.with_suffix(".json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**side, **change}))
    with pytest.raises(UserError) as error:
        read_side_file(str(tmp_path / "c.ckpt"))
    assert part in str(error.value) and "c.json" in str(error.value)


# ---------------------------------------------------------------- export


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    words = ["--export_config.ckpt_file", checkpoint, "--export_config.export_name", folder / "net"]
    call_script("export.py", "--device_target", "CPU", *words, "--export_config.input_res", "[128, 96]", "--eval_config.K", 20)
    return folder / "net.mindir"


def test_the_mindir_file_gives_the_checkpoints_detections(exported, checkpoint, make_config):
    detector = load_mindir(str(exported))
    consumer = detector.description
    assert consumer["input_res"] == [128, 96] and consumer["K"] == 20 and consumer["down_ratio"] == 4
    assert consumer["classes"] == ["rectangle", "ellipse", "triangle"]
    options = make_config().dataset_config
    tensor = normalize(make_input(noise_image(5), 1.0, False, (128, 96), 4)[0], options.mean, options.std)
    from_mindir = detector(tensor[None])
    assert from_mindir.shape == (1, 20, 6)
    network = load_detector(str(checkpoint), make_config("--eval_config.K", 20).eval_config, "CPU")
    np.testing.assert_allclose(from_mindir, network(tensor[None]), rtol=1e-5, atol=1e-5)


def test_a_second_export_keeps_the_first(exported, checkpoint):
    words = ["--export_config.ckpt_file", checkpoint, "--export_config.export_name", exported.with_suffix("")]
    before = exported.read_bytes()
    call_script("export.py", "--device_target", "CPU", *words, "--export_config.input_res", "[64, 64]")
    assert exported.with_name("net.1.mindir").read_bytes() == before
    os.replace(exported.with_name("net.1.mindir"), exported)
    os.replace(exported.with_name("net.1.json"), exported.with_suffix(".json"))


def test_air_needs_ascend(checkpoint):
    done = call_script("export.py", "--export_config.ckpt_file", checkpoint, "--export_config.export_format", "AIR", check=False)
    assert_user_error(done, "AIR needs an Ascend device")


def test_a_damaged_mindir_file_is_named(exported, tmp_path):
    (tmp_path / "x.mindir").write_bytes(exported.read_bytes()[:1000])
    shutil.copy(exported.with_suffix(".json"), tmp_path / "x.json")
    with pytest.raises(UserError, match="x.mindir"):
        load_mindir(str(tmp_path / "x.mindir"))


def test_contact_sheet(exported, tiny_data, tmp_path):
    call_script("tools/contact_sheet.py", "--mindir", exported, "--data_dir", tiny_data, "--output", tmp_path / "s.png", "--count", 4,
               "--columns", 2, "--width", 300)
    sheet = cv2.imread(str(tmp_path / "s.png"))
    assert sheet.shape[1] == 2 * 300 + 3 * 8 and sheet.std() > 10


def test_a_contact_sheet_of_data_with_mistakes(exported, tmp_path):
    """What cannot be read is named and left out, and ids in another order keep their names."""
    images = {1: noise_image(1), 2: b"no image", 3: noise_image(3)}
    path = write_coco(tmp_path, "val", images, [(1, 5, [1, 1, 50, 50])], ("triangle", "rectangle", "ellipse"), ids=(5, 7, 9))
    content = json.loads(open(path, encoding="utf-8").read())
    content["images"][2].update(width=7, height=7)
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    words = ["--mindir", exported, "--data_dir", tmp_path, "--output", tmp_path / "s.png"]
    done = call_script("tools/contact_sheet.py", *words)
    assert "1 images: " in done.stdout and "skipped image 2 (" in done.stdout
    assert "skipped image 3 (" in done.stdout and "its entry in the annotation file says 7x7" in done.stdout


# ---------------------------------------------------------------- drawing


def test_boxes_are_drawn_where_they_are():
    image = np.full((100, 120, 3), 127, np.uint8)
    detections = np.array([[20, 30, 80, 90, 0.9, 0], [1, 1, 5, 5, 0.1, 1]], np.float32)
    drawn = visual.draw_detections(image, detections, ["a", "b"], score_thresh=0.5)
    assert (image == 127).all()
    for y, x in ((60, 20), (90, 50), (60, 80)):
        np.testing.assert_allclose(drawn[y, x], visual.class_color(0), atol=20)  # the lines are smoothed
    np.testing.assert_array_equal(drawn[3, 1], [127] * 3)  # below the threshold


@pytest.mark.parametrize("box", [[-50, -50, 500, 500], [119, 0, 140, 30], [0, 99, 10, 140], [60, 60, 60, 60]])
def test_labels_of_boxes_at_the_edges_stay_inside(box):
    drawn = visual.draw_detections(np.zeros((100, 120, 3), np.uint8), np.array([[*box, 0.9, 0]], np.float32), ["name"])
    assert (drawn == visual.class_color(0)).all(-1).sum() > 200  # the label's filled rectangle


def test_ground_truth_boxes(tiny_data):
    """Labels are places among the model's classes, whose ids in this file may come in another order."""
    coco = read_coco(str(tiny_data / "annotations" / "instances_val2017.json"))
    annotation = coco.imgToAnns[1][0]
    x, y, w, h = annotation["bbox"]
    for ids in ([1, 2, 3], [3, 1, 2]):
        expected = [x, y, x + w, y + h, 1, ids.index(annotation["category_id"])]
        np.testing.assert_allclose(ground_truth_boxes(coco, 1, ids)[0], expected, rtol=1e-6)


# ---------------------------------------------------------------- launchers


def launch(script, *words, cwd, **environment):
    command = ["bash", os.path.join(ROOT, "scripts", script), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("script, words", [
    ("run_standalone_train_ascend.sh", []), ("run_standalone_train_ascend.sh", ["x", "."]),
    ("run_standalone_train_ascend.sh", [0, "/nowhere"]), ("run_standalone_train_ascend.sh", [0, ".", "/nowhere.ckpt"]),
    ("run_standalone_eval_ascend.sh", [0, "val", "."]), ("run_standalone_eval_ascend.sh", [0, "train", ".", "x"]),
    ("convert_dataset_to_mindrecord.sh", ["/nowhere", "m"]), ("convert_dataset_to_mindrecord.sh", ["."]),
    ("setup_env.sh", ["/nowhere.txt"]), ("quick_start.sh", ["now"]),
])
def test_wrong_arguments_print_the_usage(script, words, tmp_path):
    done = launch(script, *words, cwd=tmp_path)
    assert done.returncode == 2 and "usage: bash scripts/" + script in done.stderr
    assert list(tmp_path.iterdir()) == []


def wait_for(pid_line):
    """Wait for the background process that a launcher has named; it is nobody's child here, so its end is polled."""
    pid = int(pid_line.split("process ")[1].split(";")[0])
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=600, check=True)


def test_launchers_run_in_the_background(tiny_data, checkpoint, tmp_path):
    """Conversion, training and evaluation as a user starts them, on the CPU."""
    settings = tmp_path / "tiny.yaml"
    settings.write_text("train_steps: 1\ntrain_config: {batch_size: 4}\nnet_config: {num_stacks: [1, 1, 1, 1], head_conv: 16}\n"
                        "dataset_config: {input_res_train: [96, 96]}\n")
    environment = {"DEVICE_TARGET": "CPU", "CONFIG_PATH": str(settings)}
    (tmp_path / "training_log.txt").write_text("an earlier run")
    started = launch("convert_dataset_to_mindrecord.sh", tiny_data, "records", cwd=tmp_path, **environment)
    wait_for(started.stdout)
    assert "20 images" in (tmp_path / "create_dataset.log").read_text()
    started = launch("run_standalone_train_ascend.sh", 0, "records", checkpoint, cwd=tmp_path, **environment)
    wait_for(started.stdout)
    assert "step: 1 | loss" in (tmp_path / "training_log.txt").read_text()
    assert (tmp_path / "training_log.txt.1").read_text() == "an earlier run"
    assert (tmp_path / "ckpt_0" / "centernet-1_1.ckpt").exists() and (tmp_path / "ms_log").is_dir()
    started = launch("run_standalone_eval_ascend.sh", 0, "val", tiny_data, "ckpt_0/centernet-1_1.ckpt", cwd=tmp_path, **environment)
    wait_for(started.stdout)
    assert "overall performance on shapes validation dataset" in (tmp_path / "eval_log.txt").read_text()
