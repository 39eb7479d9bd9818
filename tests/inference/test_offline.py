"""Offline inference: preprocess.py, tools/infer_mindir.py, postprocess.py."""
import contextlib
import json
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from src.core.errors import UserError
from src.inference import offline
from src.tasks.detection import DETECTION
from tests.conftest import (
    ROOT,
    SQUARE,
    assert_same_detections,
    assert_user_error,
    call_script,
    contents,
    lines_with,
    no_graphs,
    replace_resdcn_18,
)


@pytest.fixture(scope="module")
def evaluated(small_file, tiny_data, tmp_path_factory):
    """The output folder val/ of eval.py for the same checkpoint, at 96x96."""
    folder = tmp_path_factory.mktemp("eval")
    args = ["--eval_config.keep_res", "false", "--dataset_config.input_res_test", "[96, 96]", "--eval_config.K", 20]
    with replace_resdcn_18("PLAIN"), no_graphs():
        call_script("eval.py", "--device_target", "CPU", "--data_dir", tiny_data, "--load_checkpoint_path", small_file,
                    "--save_result_dir", folder, *args)
    return folder / "val"


def assert_scored_as(folder, evaluated, size):
    """A folder holds inputs of `size` bytes, results, and the same 12 metrics and boxes as eval.py's."""
    sizes = {path.name: path.stat().st_size for path in (folder / "preprocess_Result" / "data").iterdir()}
    assert sizes == {f"eval2017_image_{number}.bin": size for number in range(1, 7)}
    result = np.fromfile(folder / "result_Files" / "eval2017_image_3_0.bin", np.float32)
    assert result.shape == (20 * 6,)
    ours, theirs = (json.loads((folder / "val_pred_eval.json").read_text()) for folder in (folder / "val", evaluated))
    for image_id in range(1, 7):
        rows = [[[*r["bbox"], r["score"], r["category_id"]] for r in records if r["image_id"] == image_id]
                for records in (ours, theirs)]
        assert_same_detections(*map(np.array, rows), 1e-3)
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (folder / "val", evaluated))
    ours, theirs = ([metrics[name] for name in DETECTION.metrics] for metrics in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_offline_inference_scores_as_eval_does(export_mindir, evaluated, tiny_data, tmp_path):
    """Through the launcher."""
    launcher, model = os.path.join(ROOT, "scripts", "run_infer_310.sh"), str(export_mindir("square", *SQUARE))
    command = ["bash", launcher, model, str(tiny_data), "y", "0"]
    environment = {**os.environ, "DEVICE_TARGET": "CPU", "CONFIG_PATH": os.path.join(ROOT, "default_config.yaml")}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "overall performance on shapes validation dataset" in done.stdout
    assert_scored_as(tmp_path, evaluated, 3 * 96 * 96 * 4)
    again = subprocess.run([*command[:-2], "n"], **options)
    assert again.returncode == 0 and (tmp_path / "val.1").is_dir() and not (tmp_path / "preprocess.log.1").exists()
    first, second = ((tmp_path / name / "val_pred_eval.json").read_text() for name in ("val.1", "val"))
    assert first == second


def test_offline_inference_of_bytes_scores_as_eval_does(export_mindir, evaluated, tiny_data, tmp_path):
    """Through the launcher's three commands: the launcher does not depend on the input type."""
    path = export_mindir("square_bytes", *SQUARE, "--export_config.input_type", "uint8")
    inputs = tmp_path / "preprocess_Result"
    call_script("preprocess.py", "--mindir_path", path, "--val_data_dir", tiny_data, "--predict_dir", inputs,
                cwd=tmp_path)
    call_script("tools/infer_mindir.py", "--mindir", path, "--input_dir", inputs / "data", "--result_path",
                "result_Files", "--device_target", "CPU", cwd=tmp_path)
    done = call_script("postprocess.py", "--result_path", "result_Files", "--label_path", tiny_data, "--meta_path",
                       inputs / "meta", cwd=tmp_path)
    assert "overall performance on shapes validation dataset" in done.stdout
    assert_scored_as(tmp_path, evaluated, 3 * 96 * 96)


@pytest.fixture(scope="module")
def results(export_mindir, tiny_data, tmp_path_factory):
    """A folder with inputs (p/), made without --mindir_path, and results (r/) of tiny_data."""
    folder = tmp_path_factory.mktemp("offline")
    call_script("preprocess.py", "--val_data_dir", tiny_data, "--predict_dir", folder / "p", *SQUARE, "--eval_config.K",
                20)
    args = ["--input_dir", folder / "p" / "data", "--result_path", folder / "r", "--device_target", "CPU"]
    call_script("tools/infer_mindir.py", "--mindir", export_mindir("square", *SQUARE), *args)
    return folder


def test_metadata_is_plain_json(results):
    assert [path.name for path in (results / "p" / "meta").iterdir()] == ["inputs.json"]
    meta = json.loads((results / "p" / "meta" / "inputs.json").read_text())
    assert len(meta["images"]) == 6 and meta["K"] == 20 and meta["skipped"] == []


def test_unusable_results_are_named_and_counted(results, tiny_data, tmp_path):
    shutil.copytree(results / "r", tmp_path / "r")
    rows = np.zeros((10, 6), np.float32)
    (tmp_path / "r" / "eval2017_image_1_0.bin").unlink()
    (tmp_path / "r" / "eval2017_image_2_0.bin").write_bytes(b"short")
    rows.tofile(tmp_path / "r" / "eval2017_image_3_0.bin")
    np.full((20, 6), np.nan, np.float32).tofile(tmp_path / "r" / "eval2017_image_4_0.bin")
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    args = ["--result_path", "r", "--label_path", annotation, "--save_path", "s"]
    done = call_script("postprocess.py", *args, "--meta_path", results / "p" / "meta", cwd=tmp_path)
    for parts in (["image_1_0.bin"], ["image_2_0.bin", " 5 bytes", " 480"], ["image_3_0.bin", " 240 bytes", " 480"],
                  ["image_4_0.bin"], ["2 images", "4 skipped"]):
        assert lines_with(done.stdout, *parts), (parts, done.stdout)
    records, metrics = (json.loads((tmp_path / "s" / "val" / name).read_text())
                        for name in ("val_pred_eval.json", "metrics.json"))
    assert {record["image_id"] for record in records} == {5, 6} and metrics["skipped"] == 4


def test_inputs_of_another_size_are_named(results, export_mindir, tmp_path):
    shutil.copytree(results / "p" / "data", tmp_path / "data")
    (tmp_path / "data" / "eval2017_image_2.bin").write_bytes(bytes(100))
    done = call_script("tools/infer_mindir.py", "--mindir", export_mindir("square", *SQUARE), "--input_dir", "data",
                       "--result_path", "r", "--device_target", "CPU", cwd=tmp_path)
    assert re.search(r"eval2017_image_2\.bin.* 100 bytes.* 110592", done.stdout)
    assert "5 results, 1 skipped" in done.stdout
    assert len(os.listdir(tmp_path / "r")) == 5


def test_input_sizes_that_a_dynamic_export_cannot_decode(tmp_path):
    """The inputs come from preprocess.py without --mindir_path."""
    entry = {"id": 1, "file_name": "a", "center": [1, 1], "width": 1.0, "out_hw": [26, 18], "scale": 1.0}
    meta = {"input_res": [104, 72], "K": 1, "classes": ["a"], "skipped": [], "images": [entry]}
    (tmp_path / "inputs.json").write_text(json.dumps(meta))
    for arch, ratio, multiple in (("resdcn_18", 4, None), ("resdcn_18", 16, 16), ("dla_34", 4, 32)):
        detector = SimpleNamespace(description={"arch": arch, "stride": 32, "down_ratio": ratio})
        with pytest.raises(UserError, match=rf"\[104, 72\].* {multiple}$") if multiple else contextlib.nullcontext():
            assert offline.size_of_inputs(str(tmp_path), detector) == [104, 72]


def test_an_unreadable_image_is_skipped_in_all_steps(tiny_data, tmp_path):
    data = tmp_path / "d"
    shutil.copytree(tiny_data, data)
    next((data / "val2017").glob("*3.jpg")).write_bytes(b"no image")
    done = call_script("preprocess.py", "--val_data_dir", data, "--predict_dir", tmp_path / "p")
    assert "skipped image 3" in done.stdout and lines_with(done.stdout, "5 ", " inputs", "1 skipped")
    meta = offline.read_meta(str(tmp_path / "p" / "meta"))
    assert len(meta["images"]) == 5 and "image 3" in meta["skipped"][0]


def test_no_readable_image_is_an_error(tiny_data, tmp_path):
    """The inputs of an earlier run stay in place."""
    shutil.copytree(tiny_data, tmp_path / "d")
    call_script("preprocess.py", "--val_data_dir", tmp_path / "d", "--predict_dir", tmp_path / "p")
    for path in (tmp_path / "d" / "val2017").iterdir():
        path.write_bytes(b"no image")
    before = contents(tmp_path)
    done = call_script("preprocess.py", "--val_data_dir", tmp_path / "d", "--predict_dir", tmp_path / "p", check=False)
    assert_user_error(done, "6 images")
    assert "skipped image 3 (" in done.stdout and contents(tmp_path) == before


@pytest.mark.parametrize("script, args, name", [
    ("preprocess.py", ["--val_data_dir", "DATA", "--predict_dir", "p"], "p/data"),
    ("preprocess.py", ["--val_data_dir", "DATA", "--predict_dir", "p"], "p/meta"),
    ("postprocess.py", ["--label_path", "DATA", "--result_path", ".", "--save_path", "p"], "p/val"),
])
def test_a_folder_with_other_files_is_not_replaced(script, args, name, tiny_data, tmp_path):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "1.jpg").touch()
    done = call_script(script, *(tiny_data if arg == "DATA" else arg for arg in args), cwd=tmp_path, check=False)
    assert_user_error(done, name)
    assert list(contents(tmp_path)) == ["p", name, f"{name}/1.jpg"]


class EmptyDetector:
    """An exported detector for inputs of 4x2 bytes that detects nothing and fails after some calls."""

    input_res, batch_size, from_bytes = [4, 2], 1, True

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, batch):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("no device")
        return np.zeros((len(batch), 1, 6), np.float32)


def test_earlier_results_stay_until_all_inputs_are_done(tmp_path):
    (tmp_path / "data").mkdir()
    for number, size in ((1, 24), (2, 24), (3, 5)):
        (tmp_path / "data" / f"eval2017_image_{number}.bin").write_bytes(bytes(size))
    inputs, results = str(tmp_path / "data"), str(tmp_path / "r")
    assert offline.run_inputs(EmptyDetector(9), inputs, results)[0] == 2
    before = contents(tmp_path)
    with pytest.raises(RuntimeError):
        offline.run_inputs(EmptyDetector(1), inputs, results)
    assert contents(tmp_path) == before
    for number in (1, 2):
        (tmp_path / "data" / f"eval2017_image_{number}.bin").write_bytes(b"")
    with pytest.raises(UserError, match="3 inputs in .*data"):
        offline.run_inputs(EmptyDetector(9), inputs, results)
    (tmp_path / "data" / "eval2017_image_1.bin").write_bytes(bytes(24))
    with pytest.raises(UserError, match=r"\bdata\b"):
        offline.run_inputs(EmptyDetector(9), inputs, inputs)
    assert offline.run_inputs(EmptyDetector(9), inputs, results)[0] == 1
    assert [len(os.listdir(tmp_path / name)) for name in ("r", "r.1")] == [1, 2]


@pytest.mark.parametrize("script, args, part", [
    ("preprocess.py", ["--val_data_dir", "DATA"], "--predict_dir"),
    ("preprocess.py", ["--val_data_dir", "/nowhere", "--predict_dir", "p"], "/nowhere"),
    ("preprocess.py", ["--val_data_dir", "DATA", "--predict_dir", "p", "--mindir_path", "/nowhere.mindir"],
     "/nowhere.mindir"),
    ("preprocess.py", ["--val_data_dir", "DATA", "--predict_dir", "p", "--eval_config.multi_scales", "[0.5, 1]"],
     "multi_scales"),
    ("preprocess.py", ["--val_data_dir", "DATA", "--predict_dir", "p", "--net_config.arch", "hourglass",
                       "--export_config.input_res", "[160, 160]"], "128"),
    ("postprocess.py", ["--label_path", "DATA"], "--result_path"),
    ("postprocess.py", ["--label_path", "DATA", "--result_path", "."], "--meta_path"),
    ("postprocess.py", ["--label_path", "DATA", "--result_path", ".", "--meta_path", "."], "inputs.json"),
    ("tools/infer_mindir.py", ["--mindir", "/nowhere.mindir", "--input_dir", ".", "--result_path", "r"],
     "/nowhere.mindir"),
])
def test_offline_mistakes(script, args, part, tiny_data, tmp_path):
    args = [tiny_data if arg == "DATA" else arg for arg in args]
    assert_user_error(call_script(script, *args, cwd=tmp_path, check=False), part)
    assert os.listdir(tmp_path) == []


def test_no_results_are_an_error(results, tiny_data, tmp_path):
    (tmp_path / "empty").mkdir()
    args = ["--result_path", "empty", "--label_path", tiny_data, "--meta_path", results / "p" / "meta"]
    assert_user_error(call_script("postprocess.py", *args, cwd=tmp_path, check=False), "6 images")


@pytest.mark.parametrize("args", [
    [], ["x.mindir", ".", "y"], ["MINDIR", "/nowhere", "y"], ["MINDIR", ".", "maybe"], ["MINDIR", ".", "y", "one"],
    ["MINDIR", ".", "n"],
])
def test_invalid_launcher_arguments(args, export_mindir, tmp_path):
    args = [str(export_mindir("square", *SQUARE)) if arg == "MINDIR" else arg for arg in args]
    launcher = os.path.join(ROOT, "scripts", "run_infer_310.sh")
    done = subprocess.run(["bash", launcher, *args], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and ("usage: " in done.stderr or "NEED_PREPROCESS is n" in done.stderr)
    assert os.listdir(tmp_path) == []
