"""Checkpoints on the runtimes of ONNX files, through an export beside them."""
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from packaging.version import Version

from src.core.errors import UserError
from src.inference import onnx_cache, onnx_runtimes
from src.inference.predictor import Predictor
from src.weights.checkpoints import read_parameters, save_weights
from src.weights.side_file import cached_exports
from tests.conftest import assert_same_detections, assert_user_error, call_script, noise_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(lively_checkpoint, tmp_path_factory):
    """The path of a copy of the checkpoint in a folder of its own, whose name has a space."""
    folder = tmp_path_factory.mktemp("a model")
    for ending in (".ckpt", ".json"):
        shutil.copy(lively_checkpoint.with_suffix(ending), folder)
    return folder / lively_checkpoint.name


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """The path of an image."""
    path = tmp_path_factory.mktemp("images") / "image.png"
    cv2.imwrite(str(path), noise_image(3, 90, 120))
    return path


def cached(checkpoint):
    """(key, time) of a checkpoint's ONNX file."""
    path = onnx_cache.cache_path(str(checkpoint), "deform_conv")
    proto, _ = onnx_cache.read_onnx(path)
    return onnx_cache.metadata_of(proto)[onnx_cache.KEY], os.stat(path).st_mtime_ns


@pytest.mark.parametrize("form", ["deform_conv", "grid_sample"])
def test_the_detections_are_mindspores(form, model, photograph, monkeypatch):
    if form == "grid_sample":  # as with an older ONNX Runtime
        monkeypatch.setattr(onnx_runtimes, "FIRST_WITH_DEFORM_CONV", Version("99"))
    options = {"K": 20, "SOFT_NMS": False, "flip_test": True}
    found = Predictor(str(model), runtime="onnxruntime", **options)(photograph)
    proto, _ = onnx_cache.read_onnx(onnx_cache.cache_path(str(model), form))
    assert onnx_runtimes.has_deform_conv(proto) == (form == "deform_conv")
    expected = Predictor(str(model), **options)(photograph)
    assert_same_detections(found.detections(), expected.detections(), 1e-3)  # of pixels; scores are closer
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_later_runs_use_the_file_without_mindspore(model, photograph, run_without, tmp_path):
    args = ["tools/predict.py", "--load_checkpoint_path", model, "--input", photograph, "--score_thresh", 0,
            "--runtime", "onnxruntime"]
    for path in cached_exports(str(model)):  # another test may have made it
        os.remove(path)
    first = call_script(*args, "--output", tmp_path / "first")
    assert f"exported {model} to {model}.deform_conv.onnx" in first.stdout
    before = cached(model)
    second = run_without(*args, "--output", tmp_path / "second")
    assert second.returncode == 0 and f"using {model}.deform_conv.onnx" in second.stdout, second.stderr
    assert cached(model) == before
    files = [json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("first", "second")]
    assert files[0]["annotations"] == files[1]["annotations"] != []


def test_evaluation_scores_the_same(model, tiny_data, tmp_path):
    results = []
    for runtime in ("auto", "onnxruntime"):
        done = call_script("eval.py", "--data_dir", tiny_data, "--load_checkpoint_path", model, "--save_result_dir",
                           tmp_path / runtime, "--runtime", runtime, "--device_target", "CPU")
        assert ("since a runtime of ONNX files computes: device_target" in done.stdout) == (runtime != "auto")
        path, = (tmp_path / runtime).rglob("val_pred_eval.json")
        results.append(sorted(json.loads(path.read_text()), key=lambda entry: (entry["image_id"], -entry["score"])))
    scores = [[entry["score"] for entry in result] for result in results]
    np.testing.assert_allclose(*scores, atol=1e-4)
    found, expected = (
        {image: np.array([[*entry["bbox"], 100 * entry["score"], entry["category_id"]] for entry in result
                          if entry["image_id"] == image]) for image in {entry["image_id"] for entry in result}}
        for result in results)
    assert found.keys() == expected.keys()
    for image, rows in found.items():
        assert_same_detections(rows, expected[image], 0.02)  # coordinates are rounded to 0.01


def test_the_form_is_one_that_the_runtime_takes():
    assert onnx_runtimes.form_for("onnxruntime", "CPU") == "deform_conv"
    assert {onnx_runtimes.form_for(*args) for args in (("openvino", "CPU"), ("onnxruntime", "CUDA"))} == {"grid_sample"}


@pytest.mark.parametrize("change", ["K", "flip_test", "use_ema", "side file", "checkpoint"])
def test_what_the_export_depends_on_is_exported_again(change, model, tmp_path):
    for ending in (".ckpt", ".json"):
        shutil.copy(model.with_suffix(ending), tmp_path)
    path = tmp_path / model.name
    Predictor(str(path), runtime="onnxruntime", K=10)
    before = cached(path)
    options = {"runtime": "onnxruntime", "K": 10}
    if change == "side file":
        side = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps({**side, "mean": [0.1, 0.2, 0.3]}))
    elif change == "checkpoint":
        weights = {name: value.asnumpy() * 1.5 for name, value in read_parameters(str(path)).items()}
        save_weights(str(path), weights)
        shutil.copy(model.with_suffix(".json"), tmp_path)  # which moved with the first checkpoint
    else:
        options[change] = {"K": 11, "flip_test": True, "use_ema": False}[change]
    predictor = Predictor(str(path), **options)
    assert cached(path)[0] != before[0]
    if change == "side file":
        assert predictor.detector.description["mean"] == [0.1, 0.2, 0.3]
    after = cached(path)
    Predictor(str(path), **options)
    assert cached(path) == after  # also the file's time


def test_a_users_file_of_that_name_stays(model, photograph, tmp_path, console):
    for ending in (".ckpt", ".json"):
        shutil.copy(model.with_suffix(ending), tmp_path)
    path = tmp_path / model.name
    path_of_cache = tmp_path / f"{model.name}.deform_conv.onnx"
    path_of_cache.write_text("the user's")
    predictor = Predictor(str(path), runtime="onnxruntime")
    assert len(predictor(photograph)) and path_of_cache.read_text() == "the user's"
    assert f"{path_of_cache} is damaged or was not written by this project" in "".join(console.readouterr())


def test_a_heatmap_needs_mindspore(model, photograph, tmp_path):
    done = call_script("tools/predict.py", "--load_checkpoint_path", model, "--input", photograph, "--output", tmp_path,
                       "--heatmap", "--runtime", "onnxruntime", check=False)
    assert_user_error(done, "heatmap", "--runtime")
    with pytest.raises(UserError, match="no heatmap"):
        Predictor(str(model), runtime="onnxruntime").heatmap(noise_image(1))
