"""src/onnx_*.py and src/models.py: the exported ONNX file against PyTorch's network, and what takes it."""
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from src.errors import UserError
from src.models import read_model
from src.onnx_detector import load_onnx, read_onnx
from src.predictor import Predictor
from tests.conftest import ROOT, assert_user_error, run_script

FORMS = {"deform_conv": 19, "grid_sample": 16}
WITHOUT_MINDSPORE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mindspore":
            raise ImportError("mindspore is not to be imported here")

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(lively_checkpoint, tmp_path_factory):
    """exported(name, words...) -> path of an ONNX file of lively_checkpoint, made once for each name."""
    folder = tmp_path_factory.mktemp("onnx")

    def run(name, *words):
        path = folder / f"{name}.onnx"
        if not path.exists():
            run_script("export.py", "--device_target", "CPU", "--export_config.ckpt_file", lively_checkpoint,
                       "--export_config.export_name", folder / name, "--export_config.export_format", "ONNX", *words)
        return path

    return run


def maps_session(path):
    """A session of a file that gives its maps, too."""
    model = onnx.load(path)
    names = ["heat", "wh", "reg"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda image: session.run([*names, "detections"], {"image": image})


def decoded(heat, wh, reg, k):
    """What CenterNet's decoding makes of one image's maps [C, H, W] by its definition, in NumPy: [k, 6]."""
    classes, height, width = heat.shape
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    largest = np.max([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], 0)
    peaks = np.where(heat == largest, heat, 0).ravel()
    rows = []
    for flat in np.argsort(-peaks, kind="stable")[:k]:
        label, y, x = np.unravel_index(flat, heat.shape)
        center = np.array([x, y]) + reg[:, y, x]
        half = wh[:, y, x] / 2
        rows.append([*(center - half), *(center + half), peaks[flat], label])
    return np.array(rows)


@pytest.mark.parametrize("size", [(1, 32, 32), (3, 96, 160), (1, 224, 128)])
@pytest.mark.parametrize("form", FORMS)
def test_the_maps_are_those_of_mindspore_and_pytorch(form, size, exported, lively_checkpoint, make_config):
    """Offsets carry rounding on to where samples are taken; of 32x32, whose features are one pixel, PyTorch's differ by 2e-3."""
    import mindspore as ms

    from src.detector import load_detector
    from tests import torch_reference

    torch = torch_reference.torch
    network = torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)).eval()
    network.load_state_dict(torch.load(lively_checkpoint.with_suffix(".pth")))
    batch, height, width = size
    image = np.random.default_rng(height).standard_normal((batch, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        heat, wh, reg = (value.numpy() for value in network(torch.tensor(image)))
    of_mindspore = load_detector(str(lively_checkpoint), make_config().eval_config, "CPU").network.maps(ms.Tensor(image))
    found = maps_session(exported(form, "--export_config.onnx_dcn", form))(image)
    for ours, mindspore, pytorch in zip(found, of_mindspore, (1 / (1 + np.exp(-heat)), wh, reg)):
        np.testing.assert_allclose(ours, mindspore.asnumpy(), rtol=0, atol=1e-4 * np.abs(pytorch).max())
        np.testing.assert_allclose(ours, pytorch, rtol=0, atol=(3e-3 if height == 32 else 3e-4) * np.abs(pytorch).max())


@pytest.mark.parametrize("form", FORMS)
def test_detections_are_the_best_peaks_of_the_maps(form, exported):
    image = np.random.default_rng(5).standard_normal((2, 3, 96, 128)).astype(np.float32)
    heat, wh, reg, detections = maps_session(exported(form, "--export_config.onnx_dcn", form))(image)
    for number, rows in enumerate(detections):
        expected = decoded(heat[number], wh[number], reg[number], 100)
        known = expected[:, 4] > 0  # of equal scores any may come first, so of the zeros only the number is known
        assert known.sum() > 20 and len(rows) == 100
        np.testing.assert_allclose(rows[known], expected[known], atol=1e-4)
        assert (rows[~known, 4] == 0).all()


def test_maps_of_fewer_values_than_k(exported):
    """32x32 has 3 x 8 x 8 values."""
    session = maps_session(exported("many", "--eval_config.K", 300))
    heat, _, _, detections = session(np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32))
    assert detections.shape == (1, 300, 6) and np.isfinite(detections).all()
    peaks = decoded(heat[0], np.zeros((2, 8, 8)), np.zeros((2, 8, 8)), 192)[:, 4]
    np.testing.assert_allclose(detections[0, :192, 4], peaks, atol=1e-6)
    assert (detections[0, 192:, 4] == 0).all() and set(detections[0, :, 5]) <= {0.0, 1.0, 2.0}


def test_flip_test_is_the_mean_over_the_mirror_image(exported):
    image = np.random.default_rng(7).standard_normal((2, 3, 64, 96)).astype(np.float32)
    plain, flipped = maps_session(exported("deform_conv", "--export_config.onnx_dcn", "deform_conv")), \
        maps_session(exported("flip", "--eval_config.flip_test", "true"))
    (heat, wh, reg, _), (mirror_heat, mirror_wh, _, _) = plain(image), plain(np.ascontiguousarray(image[..., ::-1]))
    found = flipped(image)
    for ours, expected in zip(found, ((heat + mirror_heat[..., ::-1]) / 2, (wh + mirror_wh[..., ::-1]) / 2, reg)):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_bytes_in_one_fixed_size(exported, tiny_data):
    """uint8, batch 2, 128x96: the detections of the float file, and what does not fit is told."""
    words = ["--export_config.onnx_dynamic", "false", "--export_config.input_res", "[128, 96]", "--eval_config.keep_res", "true"]
    path = exported("fixed", *words, "--export_config.batch_size", 2, "--export_config.input_type", "uint8")
    fixed, free = load_onnx(str(path)), load_onnx(str(exported("deform_conv", "--export_config.onnx_dcn", "deform_conv")))
    assert fixed.input_res == [128, 96] and fixed.batch_size == 2 and free.input_res is None and free.batch_size is None
    pixels = np.random.default_rng(3).integers(0, 255, (1, 96, 128, 3), np.uint8)
    mean, std = (np.array(fixed.description[name], np.float32) for name in ("mean", "std"))
    expected = free(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    found = fixed(pixels)
    assert found.shape == (1, 100, 6)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    with pytest.raises(UserError, match="cannot compute a batch of"):
        fixed(np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="input_res: fixed when the file was exported"):
        Predictor(str(path), input_res=[64, 64])


def test_the_file_alone_says_what_it_is(exported, lively_checkpoint):
    path = exported("deform_conv", "--export_config.onnx_dcn", "deform_conv")
    side = json.loads((path.parent / "deform_conv.onnx.json").read_text())
    described = read_onnx(str(path))
    assert {name: described[name] for name in ("classes", "mean", "std", "down_ratio", "K", "flip_test", "input_res_train")} == \
        {name: side[name] for name in ("classes", "mean", "std", "down_ratio", "K", "flip_test", "input_res_train")}
    assert described["classes"] == json.loads(lively_checkpoint.with_suffix(".json").read_text())["classes"]
    for form, opset in FORMS.items():
        model = onnx.load(exported(form, "--export_config.onnx_dcn", form))
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == opset and len(model.opset_import) == 1
        assert {"backbone.layer1.0.conv1", "hm_head.2"} <= {node.name for node in model.graph.node}
        operators = {node.op_type for node in model.graph.node}
        assert {"DeformConv": "deform_conv", "GridSample": "grid_sample"}[(operators & {"DeformConv", "GridSample"}).pop()] == form


def test_every_command_takes_it_without_mindspore(exported, lively_checkpoint, tiny_data, tmp_path):
    """eval.py finds the checkpoint's scores; so do the three steps of offline inference; predict.py draws."""
    path = exported("deform_conv", "--export_config.onnx_dcn", "deform_conv")
    (tmp_path / "run.py").write_text(WITHOUT_MINDSPORE)
    words = ["--data_dir", tiny_data, "--dataset_config.input_res_test", "[96, 96]", "--eval_config.keep_res", "false"]
    run_script("eval.py", "--device_target", "CPU", "--load_checkpoint_path", lively_checkpoint, *words, cwd=tmp_path)
    expected = json.loads((tmp_path / "val" / "metrics.json").read_text())
    os.rename(tmp_path / "val", tmp_path / "of_checkpoint")

    def run(script, *words):
        command = [sys.executable, "run.py", os.path.join(ROOT, script), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    run("eval.py", "--load_checkpoint_path", path, *words)
    same_scores(json.loads((tmp_path / "val" / "metrics.json").read_text()), expected)
    run("preprocess.py", "--mindir_path", path, "--val_data_dir", tiny_data, "--predict_dir", "p", "--export_config.input_res", "[96, 96]")
    run("tools/infer_mindir.py", "--onnx", path, "--input_dir", "p/data", "--result_path", "r")
    run("postprocess.py", "--result_path", "r", "--label_path", tiny_data, "--meta_path", "p/meta", "--save_path", "offline")
    same_scores(json.loads((tmp_path / "offline" / "val" / "metrics.json").read_text()), expected)
    run("tools/predict.py", "--onnx", path, "--input", tiny_data / "val2017", "--output", "found", "--score_thresh", 0)
    assert len(json.loads((tmp_path / "found" / "predictions.json").read_text())["images"]) == 6


def same_scores(found, expected):
    """The twelve numbers agree to 1e-3."""
    names = list(expected)[:12]
    np.testing.assert_allclose([found[name] for name in names], [expected[name] for name in names], atol=1e-3)


# ---------------------------------------------------------------- mistakes


def changed(path, target, change):
    """A copy of an ONNX file, changed by a function of its ModelProto."""
    model = onnx.load(path)
    change(model)
    target.write_bytes(model.SerializeToString())
    return str(target)


def refer_elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")


@pytest.mark.parametrize("change, part", [
    (refer_elsewhere, "it keeps weights in other files"),
    (lambda model: model.ClearField("metadata_props"), "not an ONNX file of this project"),
    (lambda model: model.metadata_props.add(key="K", value="7"), "its metadata says"),
    (lambda model: model.metadata_props.add(key="mean", value="[1, "), "mean of its metadata is no JSON"),
    (lambda model: model.metadata_props.add(key="std", value="[0, 0, 0]"), "std cannot be"),
    (lambda model: model.graph.ClearField("node"), "ONNX Runtime does not take this file"),
])
def test_foreign_files(change, part, exported, tmp_path):
    path = changed(exported("deform_conv", "--export_config.onnx_dcn", "deform_conv"), tmp_path / "x.onnx", change)
    with pytest.raises(UserError, match=part):
        load_onnx(path)


def test_what_is_no_onnx_file(tmp_path):
    (tmp_path / "text.onnx").write_text("hello, this is no model at all")
    (tmp_path / "empty.onnx").touch()
    with open(tmp_path / "huge.onnx", "wb") as file:
        file.truncate(2**31 + 5)
    for name, part in (("text", "no ONNX file"), ("empty", "not an ONNX file of this project"), ("huge", "2147483653 bytes"),
                       ("none", "not found")):
        with pytest.raises(UserError, match=part):
            read_model(str(tmp_path / f"{name}.onnx"))
    assert_user_error(run_script("tools/predict.py", "--onnx", tmp_path / "text.onnx", "--input", ".", "--output", "o", cwd=tmp_path,
                                 check=False), "no ONNX file, or a damaged one")


def test_damaged_files_are_told(exported, tmp_path):
    """Bytes changed or cut off anywhere: one sentence, or a file that still computes."""
    data = exported("deform_conv", "--export_config.onnx_dcn", "deform_conv").read_bytes()
    rng = np.random.default_rng(0)
    told = 0
    for number in range(60):
        damaged = bytearray(data)
        if number % 3 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        else:
            where = rng.integers(min(len(damaged), 20_000 if number % 3 == 1 else len(damaged)), size=8)
            for position in where:
                damaged[-1 - position] = rng.integers(256)  # names and nodes of the graph lie at one end
        path = tmp_path / "d.onnx"
        path.write_bytes(damaged)
        try:
            load_onnx(str(path))(np.zeros((1, 3, 64, 64), np.float32))
        except UserError:
            told += 1
    assert told > 20


def test_settings_that_the_file_has(exported, tiny_data, tiny_records, tmp_path):
    path = exported("deform_conv", "--export_config.onnx_dcn", "deform_conv")
    words = ["--load_checkpoint_path", path, "--data_dir", tiny_data]
    assert_user_error(run_script("eval.py", *words, "--eval_config.K", 50, cwd=tmp_path, check=False),
                      "eval_config.K is 50 (the command line)", "exported with 100")
    done = run_script("eval.py", *words, "--onnx_provider", "CUDA", cwd=tmp_path, check=False)
    assert_user_error(done, "onnx_provider is CUDA", "has CPU")
    train = ["--mindrecord_dir", tiny_records, "--load_checkpoint_path", path, "--save_result_dir", tmp_path]
    assert_user_error(run_script("train.py", *train, cwd=tmp_path, check=False), ".onnx")
    assert_user_error(run_script("export.py", "--export_config.ckpt_file", path, cwd=tmp_path, check=False), ".onnx")


def test_missing_packages(monkeypatch):
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"{package} is not installed; pip install -r requirements-onnx.txt"):
            from src.onnx_detector import _package

            _package(package)


# ---------------------------------------------------------------- documentation


def test_the_application_of_the_document(exported, tiny_data, tmp_path):
    """The code of docs/onnx.md, with nothing of this project, finds what the Predictor finds."""
    path = exported("deform_conv", "--export_config.onnx_dcn", "deform_conv")
    with open(os.path.join(ROOT, "docs", "onnx.md"), encoding="utf-8") as file:
        code = file.read().split("```python\n")[1].split("```")[0]
    (tmp_path / "centernet.onnx").write_bytes(path.read_bytes())
    (tmp_path / "image.jpg").write_bytes((tiny_data / "val2017" / "000001.jpg").read_bytes())
    (tmp_path / "app.py").write_text(f"{code}\nnp.save('boxes.npy', boxes)\nnp.save('scores.npy', found[:, 4])\n")
    subprocess.run([sys.executable, "-I", "app.py"], cwd=tmp_path, check=True)
    expected = Predictor(str(path), SOFT_NMS=False)(str(tmp_path / "image.jpg")).detections()
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected[:, 4], atol=1e-3)
    np.testing.assert_allclose(np.load(tmp_path / "boxes.npy"), expected[:, :4], atol=0.1)
