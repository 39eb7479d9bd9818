"""ONNX files: maps, detections, programs that read them, and files that are refused."""
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import urllib.request

import cv2
import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from setup import requirements
from src.core.errors import UserError
from src.export.onnx_cells import add_cell
from src.export.onnx_graph import OPSETS, Graph
from src.export.onnx_model import build_model
from src.inference import onnx_detector
from src.inference.onnx_detector import read_onnx
from src.inference.predictor import Predictor
from src.model_utils import config as config_module
from src.network.centernet import build_detection
from src.network.deform_conv import DeformConv2d
from src.network.device_input import Normalize
from src.network.folding import fold_batch_norm
from src.tasks.detection import DETECTION
from src.tasks.detection.onnx import decode
from tests import torch_reference
from tests.conftest import (
    ROOT,
    assert_same_detections,
    assert_user_error,
    call_script,
    environment_with,
    exporter,
    network_of,
    no_graphs,
    noise_image,
    operation_by_operation,
    own_detector,
    replace_resdcn_18,
    run_script,
)
from tests.metainfo import classes_of

FORMS = list(OPSETS)
CPU = ["CPUExecutionProvider"]
K = 20


ONNX = ("--export_config.export_format", "ONNX", "--eval_config.K", K)


@pytest.fixture(scope="module")
def export(deformable_file, tmp_path_factory):
    """export(name, args...) -> path of the ONNX file of deformable_file, created once per name."""
    export = exporter(deformable_file, tmp_path_factory.mktemp("onnx"), ".onnx", *ONNX)

    def export_small(name, *args):
        with replace_resdcn_18("SMALL"):
            return export(name, *args)

    return export_small


@pytest.fixture(scope="module")
def export_resnet(lively_checkpoint, tmp_path_factory):
    """The same for lively_checkpoint, a ResNet as users have it."""
    return exporter(lively_checkpoint, tmp_path_factory.mktemp("resnet"), ".onnx", *ONNX)


FIXED = ("--export_config.onnx_dynamic", "false", "--export_config.input_res", "[128, 96]",
         "--export_config.batch_size", 2)


def load_onnx(path, provider="CPU"):
    """The detector of an ONNX file."""
    return onnx_detector.load_onnx(*read_onnx(path), path, provider)


def with_maps(model):
    """Run a ModelProto with the outputs heat, wh, reg (if in the graph) and detections."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    there = {output for node in model.graph.node for output in node.output}
    names = [name for name in ("heat", "wh", "reg") if name in there]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU)
    return lambda batch: dict(zip([*names, "detections"], session.run([*names, "detections"], {"image": batch})))


def decoded(heat, wh, reg, k, cat_spec_wh):
    """Detections [N, K, 6] from maps, by NumPy; ties in the order of (class, y, x), missing entries of score 0."""
    n, classes, height, width = heat.shape
    padded = np.pad(heat, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    around = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    peaks = np.where(heat == np.max(around, 0), heat, 0)
    found = np.zeros((n, k, 6), np.float32)
    for image in range(n):
        flat = peaks[image].ravel()
        for rank, place in enumerate(np.argsort(-flat, kind="stable")[:k]):
            label, y, x = np.unravel_index(place, (classes, height, width))
            dx, dy = (0.5, 0.5) if reg is None else reg[image, :, y, x]
            w, h = wh[image, 2 * label : 2 * label + 2, y, x] if cat_spec_wh else wh[image, :, y, x]
            found[image, rank] = x + dx - w / 2, y + dy - h / 2, x + dx + w / 2, y + dy + h / 2, flat[place], label
    return found


def assert_near(found, expected, relative):
    assert np.abs(found - expected).max() <= relative * np.abs(expected).max()


@pytest.fixture(scope="module")
def lively_network(lively_checkpoint, make_config):
    """lively_checkpoint's DetectionNetwork, whose deformable convolutions have offsets of several pixels."""
    network = own_detector(lively_checkpoint, make_config("--eval_config.K", K).eval_config, "CPU").network
    image = ms.Tensor(np.random.default_rng(1).standard_normal((1, 3, 96, 160)).astype(np.float32))
    with operation_by_operation():
        features = network.maps.network.backbone(image)
        offsets = network.maps.network.deconv_layers[0].conv_offset_mask(features).asnumpy()[:, :18]
    assert np.abs(offsets).max() > 1 and np.std(offsets) > 0.1
    return network


# ---------------------------------------------------------------- the numbers


@pytest.mark.slow
def test_maps_are_those_of_mindspore(lively_network, by_operation):
    sizes = ("batch", "height", "width")
    computes = [with_maps(build_model(DETECTION, lively_network, False, Graph(form), sizes, 6, {})) for form in FORMS]
    for n, height, width in ((1, 32, 32), (3, 96, 160), (1, 256, 128), (3, 32, 64)):
        batch = np.random.default_rng([n, height]).standard_normal((n, 3, height, width)).astype(np.float32)
        maps = lively_network.maps(ms.Tensor(batch))
        for found in (compute(batch) for compute in computes):
            for name, expected in zip(("heat", "wh", "reg"), maps.values()):
                assert found[name].shape == expected.shape
                assert_near(found[name], expected.asnumpy(), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("largest", [0.5, 4.0, 40.0])
def test_deformable_convolution_is_pytorchs(form, largest):
    """Offsets of fractions of a pixel, of some pixels, and beyond the map; against grid_sample in float64."""
    rng = np.random.default_rng(4)
    cell = DeformConv2d(5, 4)
    values = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in cell.parameters_and_names()}
    layer = cell.conv_offset_mask
    layer.weight.set_data(ms.Tensor(0.1 * largest * rng.standard_normal(layer.weight.shape), ms.float32))
    layer.bias.set_data(ms.Tensor(0.3 * largest * rng.standard_normal(27), ms.float32))
    cell.weight.set_data(ms.Tensor(rng.standard_normal(cell.weight.shape), ms.float32))
    cell.bias.set_data(ms.Tensor(rng.standard_normal(4), ms.float32))
    assert len(values) == 4
    graph = Graph(form)
    out = add_cell(graph, cell, graph.free("image"), "dcn")
    inputs, outputs = ({name: (np.float32, ["batch", channels, "height", "width"])}
                       for name, channels in (("image", 5), (out, 4)))
    model = graph.model("one", inputs, outputs, {})
    for height, width in ((7, 9), (2, 6), (5, 3)):
        x = rng.standard_normal((2, 5, height, width)).astype(np.float32)
        offset_mask = torch.nn.functional.conv2d(*(torch.tensor(value.asnumpy(), dtype=torch.float64) for value in (
            ms.Tensor(x), cell.conv_offset_mask.weight, cell.conv_offset_mask.bias)), padding=1)
        across, down, mask = offset_mask[:, :9], offset_mask[:, 9:18], torch.sigmoid(offset_mask[:, 18:])
        offset = torch.stack([down, across], 2).flatten(1, 2)
        expected = torch_reference.deform_conv(torch.tensor(x, dtype=torch.float64), offset, mask, *(
            torch.tensor(value.asnumpy(), dtype=torch.float64) for value in (cell.weight, cell.bias))).numpy()
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU)
        assert_near(session.run(None, {"image": x})[0], expected, 1e-4)
        if form == "deform_conv" and height < 7:  # it computes in Python: a second for a few positions
            assert_near(ReferenceEvaluator(model).run(None, {"image": x[:1]})[0], expected[:1], 1e-4)


def small_network(cat_spec_wh, reg_offset, flip_test, from_bytes, k, down_ratio=4):
    """An inference network of three classes with random weights, whose heads vary by position."""
    ms.set_seed(3)
    rng = np.random.default_rng(7)
    with replace_resdcn_18("SMALL"):
        network = network_of(3, down_ratio=down_ratio, cat_spec_wh=cat_spec_wh, reg_offset=reg_offset)
    for name, value in network.parameters_and_names():
        if name.startswith(("hm", "wh", "reg")) or "conv_offset_mask" in name:
            value.set_data(ms.Tensor(rng.standard_normal(value.shape) * (0.3 if name.endswith("weight") else 1),
                                     ms.float32))
    fold_batch_norm(network)
    input_cell = Normalize([0.4, 0.45, 0.5], [0.25, 0.3, 0.2]) if from_bytes else ms.nn.Identity()
    net_config = config_module.make_config(net_config={"cat_spec_wh": cat_spec_wh, "reg_offset": reg_offset}).net_config
    return build_detection(network, net_config, classes_of(3), k, input_cell, flip_test)


@pytest.mark.slow
@pytest.mark.parametrize("cat_spec_wh, reg_offset, flip_test, from_bytes, k", [
    (False, True, False, False, 20), (True, True, False, True, 20), (False, False, True, False, 20),
    (True, False, True, True, 300),
])
def test_detections_are_decoded_from_the_maps(cat_spec_wh, reg_offset, flip_test, from_bytes, k, by_operation):
    """All options in each form, maps with more and fewer cells than K; the maps are MindSpore's."""
    network = small_network(cat_spec_wh, reg_offset, flip_test, from_bytes, k)
    computes = [with_maps(build_model(DETECTION, network, from_bytes, Graph(form), ("batch", "height", "width"), 6, {}))
                for form in FORMS]
    for n, height, width in ((1, 32, 32), (3, 64, 96)):
        rng = np.random.default_rng(n)
        shape = (n, height, width, 3) if from_bytes else (n, 3, height, width)
        batch = rng.integers(0, 256, shape) if from_bytes else rng.standard_normal(shape)
        batch = batch.astype(np.uint8 if from_bytes else np.float32)
        maps = network.maps(ms.Tensor(batch))
        for found in (compute(batch) for compute in computes):
            assert set(maps) == {"hm", "wh"} | ({"reg"} if reg_offset else set()) and ("reg" in found) == reg_offset
            for name, expected in maps.items():
                assert_near(found["heat" if name == "hm" else name], expected.asnumpy(), 1e-4)
            expected = decoded(found["heat"], found["wh"], found.get("reg"), k, cat_spec_wh)
            detections = found["detections"]
            assert detections.shape == expected.shape and np.isfinite(detections).all()
            for ours, theirs in zip(detections, expected):
                assert (theirs[:, 4] > 0).sum() >= (5 if height == 32 else 20)
                assert_same_detections(ours[ours[:, 4] > 0], theirs[theirs[:, 4] > 0], 1e-4)
            assert (detections[..., 4] >= 0).all() and set(detections[..., 5].ravel()) <= {0, 1, 2}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k, height, width", [(5, 8, 8), (40, 8, 8), (100, 2, 3), (1, 1, 1)])
def test_top_k_of_ties(form, k, height, width):
    """The first of equal scores counts; entries missing in a small map have score 0 and are inside it."""
    cell = small_network(False, True, False, False, k)
    graph = Graph(form)
    inputs = {graph.free(name): (np.float32, ["n", channels, "h", "w"])
              for name, channels in (("heat", 3), ("wh", 2), ("reg", 2))}
    detections = decode(graph, dict(zip(("hm", "wh", "reg"), inputs)), cell.decode)
    model = graph.model("decode", inputs, {detections: (np.float32, ["n", k, 6])}, {})
    rng = np.random.default_rng(k)
    maps = {name: rng.random((2, shape[1], height, width)).astype(np.float32) for name, (_, shape) in inputs.items()}
    maps["heat"] = np.round(maps["heat"] * 8) / 8 + np.float32(0.0625)
    found = onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU).run(None, maps)[0]
    expected = decoded(**maps, k=k, cat_spec_wh=False)
    np.testing.assert_array_equal(found[..., 4], expected[..., 4])
    for ours, theirs in zip(found, expected):
        last = theirs[-1, 4]  # some of those equal to the last one are omitted
        ours, theirs = ours[ours[:, 4] > last], theirs[theirs[:, 4] > last]
        np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], atol=1e-6)
    assert (found[..., 0] + found[..., 2] < 2 * (width + 1)).all()


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("form, opset", [("deform_conv", 19), ("grid_sample", 16)])
def test_the_file(form, opset, export_resnet):
    path = export_resnet(form, "--export_config.onnx_dcn", form)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    operators = {node.op_type for node in model.graph.node}
    assert ("DeformConv" in operators, "GridSample" in operators) == (form == "deform_conv", form == "grid_sample")
    assert not operators & {"BatchNormalization", "Loop", "If"}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"heat", "wh", "reg", "backbone.conv1", "backbone.layer1.0.conv1", "deconv_layers.0", "hm_head.0",
            "detections"} <= set(names)
    weights = {tensor.name for tensor in model.graph.initializer}
    assert {"backbone.conv1.weight", "backbone.conv1.bias", "deconv_layers.0.weight", "hm_head.2.bias"} <= weights
    side = json.loads((path.parent / f"{path.name}.json").read_text())
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == side
    assert side["classes"] == ["rectangle", "ellipse", "triangle"] and side["K"] == K and side["input_res"] is None
    assert side["input_shape"] == ["batch", 3, "height", "width"] and side["down_ratio"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name, args", [
    ("deform_conv", []), ("bytes", ["--export_config.input_type", "uint8"]),
    ("flipped", ["--eval_config.flip_test", "true"]), ("fixed", FIXED),
    ("fixed_bytes", [*FIXED, "--export_config.input_type", "uint8"]),
])
def test_the_file_alone_predicts_as_the_checkpoint(name, args, export, deformable_file, small, tmp_path, graphless):
    path = tmp_path / "alone.onnx"
    shutil.copy(export(name, *args), path)  # without its side file
    image = noise_image(3, 90, 140)
    options = {"input_res": [128, 96]} if "fixed" not in name else {}
    flip = {"flip_test": True} if name == "flipped" else {}
    found = Predictor(str(path), SOFT_NMS=False, **options)(image)
    expected = Predictor(str(deformable_file), "CPU", K=K, input_res=[128, 96], SOFT_NMS=False, **flip)(image)
    assert len(expected) == K
    assert_same_detections(found.detections(), expected.detections(), 1e-2)


def test_a_partial_batch(export):
    detector = load_onnx(export("fixed", *FIXED))
    batch = np.random.default_rng(0).standard_normal((2, 3, 96, 128)).astype(np.float32)
    both = detector(batch)
    assert detector.batch_size == 2 and both.shape == (2, K, 6)
    np.testing.assert_array_equal(detector(batch[:1]), both[:1])
    with pytest.raises(UserError, match=re.escape("(3, 3, 96, 128)")):
        detector(np.concatenate([batch, batch[:1]]))


# ---------------------------------------------------------------- the tools, without MindSpore


def test_valid_sizes_depend_on_the_architecture(export_resnet, tmp_path):
    """A ResNet rounds 104x72 up; DLA-34's strides must fit. The architecture is in the metadata."""
    path = export_resnet("deform_conv", "--export_config.onnx_dcn", "deform_conv")
    assert Predictor(str(path), input_res=[104, 72]).detector.description["arch"] == "resdcn_18"
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == "arch").value = '"dla_34"'
    onnx.save(model, tmp_path / "dla.onnx")
    with pytest.raises(UserError, match=r"input_res_test.* \[104, 72\].* dla_34 .* 32"):
        Predictor(str(tmp_path / "dla.onnx"), input_res=[104, 72])
    Predictor(str(tmp_path / "dla.onnx"), input_res=[96, 64])


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    """Environment variables that prevent Python from importing MindSpore."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['mindspore'] = None\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def no_mindspore(blocked):
    """no_mindspore(script, args...) runs a script that cannot import MindSpore."""

    def run(script, *args, cwd=None):
        return subprocess.run([sys.executable, os.path.join(ROOT, script), *map(str, args)], cwd=cwd,
                              capture_output=True, text=True, timeout=600, env=blocked)

    return run


def test_without_mindspore_a_checkpoint_cannot_be_loaded(no_mindspore, lively_checkpoint, tmp_path):
    """The fixture does block MindSpore."""
    done = no_mindspore("tools/predict.py", "--load_checkpoint_path", lively_checkpoint, "--input",
                        ROOT + "/docs/quick_start.jpg", "--output", tmp_path / "out")
    assert done.returncode and "mindspore" in done.stderr.lower()


EVALUATION = ("--device_target", "CPU", "--eval_config.keep_res", "false", "--eval_config.K", K,
              "--dataset_config.input_res_test", "[128, 96]")


def twelve_numbers(run, model, data, folder):
    """The scores that eval.py, started by run, prints for a model."""
    done = run("eval.py", *EVALUATION, "--data_dir", data, "--load_checkpoint_path", model, "--save_result_dir",
               folder, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers = [float(number) for number in re.findall(r"\] = (-?[\d.]+)", done.stdout)]
    assert len(numbers) == 12
    return numbers


@pytest.fixture(scope="module")
def of_the_checkpoint(deformable_file, tiny_data, tmp_path_factory):
    """The scores of the checkpoint itself, with MindSpore."""
    with replace_resdcn_18("SMALL"), no_graphs():
        return twelve_numbers(call_script, deformable_file, tiny_data, tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_evaluation_without_mindspore_scores_as_the_checkpoint(form, export, no_mindspore, of_the_checkpoint,
                                                               tiny_data, tmp_path):
    numbers = twelve_numbers(no_mindspore, export(form, "--export_config.onnx_dcn", form), tiny_data, tmp_path)
    np.testing.assert_allclose(numbers, of_the_checkpoint, atol=1e-3)


@pytest.mark.slow
def test_offline_inference_without_mindspore(export, no_mindspore, tiny_data, tmp_path):
    """preprocess.py, infer_mindir.py and postprocess.py give the Predictor's detections."""
    path = export("fixed", *FIXED)
    inputs, results = tmp_path / "inputs", tmp_path / "results"
    for script, args in (
        ("preprocess.py", ["--val_data_dir", tiny_data, "--predict_dir", inputs, "--mindir_path", path]),
        ("tools/infer_mindir.py", ["--onnx", path, "--input_dir", inputs / "data", "--result_path", results]),
        ("postprocess.py", ["--label_path", tiny_data / "annotations" / "instances_val2017.json", "--result_path",
                            results, "--meta_path", inputs / "meta", "--save_result_dir", tmp_path / "scores"]),
    ):
        done = no_mindspore(script, *args, cwd=tmp_path)
        assert done.returncode == 0, (script, done.stderr[-2000:])
    files = sorted(results.glob("*.bin"))
    assert len(files) == 6
    detector = load_onnx(path)
    name = files[0].name.replace("_0.bin", ".bin")
    batch = np.fromfile(inputs / "data" / name, np.float32).reshape(1, 3, 96, 128)
    np.testing.assert_allclose(np.fromfile(files[0], np.float32).reshape(1, K, 6), detector(batch), atol=1e-5)


@pytest.mark.slow
def test_predict_and_contact_sheet_without_mindspore(export, no_mindspore, tiny_data, tmp_path):
    path = tmp_path / "alone.onnx"
    shutil.copy(export("deform_conv"), path)
    image = tiny_data / "val2017" / "000001.jpg"
    args = ["--onnx", path, "--input", image, "--output", tmp_path / "out", "--score_thresh", 0]
    done = no_mindspore("tools/predict.py", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    expected = Predictor(str(path))(image)
    np.testing.assert_allclose(sorted(entry["score"] for entry in found["annotations"]),
                               sorted(expected.scores), atol=1e-3)
    done = no_mindspore("tools/contact_sheet.py", "--onnx", path, "--data_dir", tiny_data, "--output",
                        tmp_path / "sheet.png", "--count", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert cv2.imread(str(tmp_path / "sheet.png")).std() > 5


@pytest.mark.slow
def test_serving_without_mindspore(export, tiny_data, blocked):
    path, image = export("deform_conv"), tiny_data / "val2017" / "000001.jpg"
    command = [sys.executable, os.path.join(ROOT, "tools", "serve.py"), "--onnx", path, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=blocked)
    try:
        line = next((line for line in process.stdout if line.startswith("serving on ")), None)
        assert line, process.wait(60)
        with urllib.request.urlopen(f"{line.split()[2]}/predict?score=0", image.read_bytes(), timeout=60) as answer:
            found = json.loads(answer.read())
    finally:
        process.terminate()
        process.communicate(timeout=60)
    expected = Predictor(str(path))(image).scores
    np.testing.assert_allclose(sorted(entry["score"] for entry in found["objects"]), sorted(expected), atol=1e-3)


# ---------------------------------------------------------------- files that are refused


def changed(path, target, change):
    """Copy an ONNX file to target, modified by change(model)."""
    model = onnx.load(path)
    change(model)
    target.write_bytes(model.SerializeToString())
    return target


def _foreign(model):
    del model.metadata_props[:]


def _wrong_json(model):
    next(entry for entry in model.metadata_props if entry.key == "classes").value = "[" * 100_000


def _wrong_k(model):
    next(entry for entry in model.metadata_props if entry.key == "K").value = "7"


def _wrong_classes(model):
    next(entry for entry in model.metadata_props if entry.key == "classes").value = '"a"'


def _unknown_operator(model):
    model.graph.node[0].op_type = "Nonsense"


@pytest.mark.parametrize("change, message", [
    (_foreign, "wrong.onnx"), (_wrong_json, "classes"), (_wrong_k, "7"), (_wrong_classes, "classes.* 'a'"),
    (_unknown_operator, "Nonsense"),
])
def test_a_wrong_file_is_named(change, message, export, tmp_path, capfd):
    path = changed(export("deform_conv"), tmp_path / "wrong.onnx", change)
    with pytest.raises(UserError, match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("make, message", [
    (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), "damaged"),
    (lambda path, whole: path.write_bytes(b""), "an empty file"),
    (lambda path, whole: path.write_bytes(b"PK\3\4 no network"), "damaged"),
    (lambda path, whole: path.mkdir(), "is a folder"),
    (lambda path, whole: path.touch() or os.truncate(path, 2**31 + 5), "has at most"),
    (lambda path, whole: os.mkfifo(path), "not found"),
])
def test_other_data_is_named(make, message, export, tmp_path):
    path = tmp_path / "no.onnx"
    make(path, export("deform_conv").read_bytes())
    with pytest.raises(UserError, match=message) as caught:
        read_onnx(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("place", ["/etc/passwd", "../weights", "weights"])
@pytest.mark.parametrize("where", ["initializer", "attribute", "location alone"])
def test_no_other_file_is_read(place, where, export, tmp_path, monkeypatch):
    """Weights stored in another file, even an existing one, are refused before ONNX Runtime opens the model."""
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        (folder / "weights").write_bytes(bytes(10**6))

    def refer(model):
        tensor = model.graph.initializer[0]
        if where == "attribute":
            value = onnx.numpy_helper.from_array(np.zeros(4), "c")
            model.graph.node.append(onnx.helper.make_node("Constant", [], ["added"], value=value))
            tensor = model.graph.node[-1].attribute[0].t
        tensor.data_location = onnx.TensorProto.EXTERNAL
        if where != "location alone":
            tensor.external_data.add(key="location", value=place)

    path = changed(export("deform_conv"), tmp_path / "in" / "net.onnx", refer)
    monkeypatch.setattr(onnx_detector, "start", None)
    with pytest.raises(UserError, match="other files"):
        load_onnx(path)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(missing, export, monkeypatch):
    path = export("deform_conv")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing} .*requirements\.txt"):
        load_onnx(path)


def test_a_provider_that_is_missing_or_cannot_start(export, monkeypatch, capfd):
    """ONNX Runtime itself silently falls back to the CPU if a provider's libraries are missing."""
    path = export("deform_conv")
    with pytest.raises(UserError, match="onnx_provider.* CUDA.* CPU"):
        load_onnx(path, "CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", *CPU])
    name = "CUDAExecutionProvider"
    with pytest.warns(UserWarning, match=name), pytest.raises(UserError, match=name):
        load_onnx(path, "CUDA")


def test_a_file_of_maps_is_for_others(export):
    """It exports and loads elsewhere; here the message says how to export one that detects."""
    path = export("maps", "--export_config.onnx_decode", "false", "--export_config.onnx_dtype", "float16")
    names = [output.name for output in onnx.load(path).graph.output]
    assert names == ["heat", "wh", "reg"]
    with pytest.raises(UserError, match="maps.*onnx_decode true"):
        load_onnx(path)


@pytest.mark.parametrize("shape", [(1, 3, 96), (1, 1, 96, 96), (0, 3, 96, 96)])
def test_a_wrong_input_is_named(shape, export):
    detector = load_onnx(export("deform_conv"))
    with pytest.raises(UserError, match=re.escape(str(shape))):
        detector(np.zeros(shape, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("script, args, message", [
    ("eval.py", ["--load_checkpoint_path", "{free}", "--data_dir", "{data}", "--eval_config.K", 50], "eval_config.K"),
    ("eval.py", ["--load_checkpoint_path", "{fixed}", "--data_dir", "{data}",
                 "--dataset_config.input_res_test", "[64, 64]", "--eval_config.keep_res", "false"], "[128, 96]"),
    ("export.py", ["--export_config.ckpt_file", "{free}"], "{free}"),
    ("train.py", ["--load_checkpoint_path", "{free}", "--mindrecord_dir", "{records}"], "{free}"),
    ("tools/predict.py", ["--onnx", "{fixed}", "--input", "{image}", "--output", "{out}", "--input_res", 64, 64],
     "input_res"),
    ("tools/predict.py", ["--onnx", "{free}", "--input", "{image}", "--output", "{out}", "--input_res", 100, 64],
     "100"),
    ("tools/predict.py", ["--onnx", "{free}", "--input", "{image}", "--output", "{out}", "--flip_test"], "flip_test"),
    ("tools/predict.py", ["--onnx", "{data}/none.onnx", "--input", "{image}", "--output", "{out}"], "{data}/none.onnx"),
    ("tools/predict.py", ["--onnx", "{free}", "--input", "{image}", "--output", "{out}", "--onnx_provider", "CUDA"],
     "onnx_provider"),
    ("tools/predict.py", ["--onnx", "{image}", "--input", "{image}", "--output", "{out}"], ".mindir or .onnx"),
    ("tools/serve.py", ["--onnx", "{image}"], ".mindir or .onnx"),
])
def test_mistakes(script, args, message, export, tiny_data, tiny_records, tmp_path):
    places = {"free": export("deform_conv"), "fixed": export("fixed", *FIXED), "data": tiny_data,
              "records": tiny_records, "out": tmp_path / "out", "image": tiny_data / "val2017" / "000001.jpg"}
    done = run_script(script, *(str(word).format(**places) for word in args), cwd=tmp_path, check=False)
    assert_user_error(done, message.format(**places))


# ---------------------------------------------------------------- other environments, and the documentation


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """environment(name, requirements, package): environment_with, in a folder of this name."""
    return lambda name, linked, package: environment_with(tmp_path_factory.mktemp(name), linked, package)


@pytest.mark.slow
def test_predict_in_an_environment_without_mindspore(onnx_alone, export, tiny_data, tmp_path):
    """With NumPy 2, from another folder, without the side file."""
    python = onnx_alone / "python"
    path, image = tmp_path / "alone.onnx", tiny_data / "val2017" / "000001.jpg"
    shutil.copy(export("deform_conv"), path)
    command = [python, os.path.join(ROOT, "tools", "predict.py"), "--onnx", "alone.onnx", "--input", image,
               "--output", "out", "--score_thresh", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, timeout=60).stdout.lower()
    assert re.search(r"^numpy +2", listed, re.M) and not re.search(r"^(mindspore|torch)\b", listed, re.M)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    expected = Predictor(str(path))(image)
    np.testing.assert_allclose(sorted(entry["score"] for entry in found["annotations"]),
                               sorted(expected.scores), atol=1e-3)


@pytest.mark.slow
def test_a_runtime_without_the_operator(environment, export, tiny_data, tmp_path):
    """ONNX Runtime 1.24 has no DeformConv: the message names the other form, which works."""
    python = environment("old_runtime", requirements(os.path.join(ROOT, "requirements-onnx.txt")),
                         "onnxruntime==1.24.1")
    for form, message in (("deform_conv", "--export_config.onnx_dcn grid_sample"), ("grid_sample", "")):
        command = [python, os.path.join(ROOT, "tools", "predict.py"), "--onnx",
                   export(form, "--export_config.onnx_dcn", form), "--input", tiny_data / "val2017" / "000001.jpg",
                   "--output", tmp_path / form]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        if message:
            assert_user_error(done, message)
        else:
            assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_predict_with_openvino(environment, export, tiny_data, tmp_path):
    """The faster runtime is chosen where it is installed and takes the file; its boxes are ONNX Runtime's."""
    linked = requirements(os.path.join(ROOT, "requirements-onnx.txt"))
    python = environment("with_openvino", linked, "openvino")

    def predict(name, form, *args):
        command = [python, os.path.join(ROOT, "tools", "predict.py"), "--onnx",
                   export(form, "--export_config.onnx_dcn", form), "--input", tiny_data / "val2017" / "000001.jpg",
                   "--output", tmp_path / name, "--score_thresh", "0", *args]
        environment = {key: value for key, value in os.environ.items() if key != "ONEDNN_MAX_CPU_ISA"}  # MindSpore's
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)

    for name, args in {"auto": [], "f32": ["--runtime", "openvino"], "bf16": ["--runtime", "openvino_bf16"],
                       "peer": ["--runtime", "onnxruntime"]}.items():
        done = predict(name, "grid_sample", *args)
        assert done.returncode == 0, done.stderr[-2000:]
    scores = {name: sorted(entry["score"] for entry in json.loads((tmp_path / name / "predictions.json").read_text())[
        "annotations"]) for name in ("auto", "f32", "bf16", "peer")}
    assert scores["auto"] == scores["f32"] != scores["peer"]
    np.testing.assert_allclose(scores["f32"], scores["peer"], atol=1e-4)
    np.testing.assert_allclose(scores["bf16"][-5:], scores["peer"][-5:], atol=0.01)  # others: other peaks
    assert predict("other", "deform_conv").returncode == 0  # on ONNX Runtime
    assert_user_error(predict("wrong", "deform_conv", "--runtime", "openvino"), "DeformConv", "grid_sample")
    assert_user_error(predict("wrong", "grid_sample", "--runtime", "openvino", "--onnx_provider", "CUDA"),
                      "onnx_provider")


def test_openvino_that_is_missing(export):
    with pytest.raises(UserError, match="openvino is not installed; pip install"):
        onnx_detector.load_onnx(*read_onnx(export("deform_conv")), "a.onnx", runtime="openvino")


@pytest.mark.slow
def test_openvino_takes_the_form_of_grid_sample(environment, lively_network, tmp_path):
    """OpenVINO's maps equal ONNX Runtime's in float32; processors with bfloat16 would use it by default."""
    python = environment("openvino", ["numpy"], "openvino")
    model = build_model(DETECTION, lively_network, False, Graph("grid_sample"), ("batch", "height", "width"), 6, {})
    maps = with_maps(model)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                              for name in ("heat", "wh", "reg"))
    onnx.save(model, tmp_path / "net.onnx")
    batches = {f"batch{number}": np.random.default_rng(number).standard_normal(shape).astype(np.float32)
               for number, shape in enumerate([(1, 3, 32, 32), (1, 3, 96, 160), (3, 3, 128, 64)])}
    np.savez(tmp_path / "batches.npz", **batches)
    (tmp_path / "consumer.py").write_text(textwrap.dedent("""
        import numpy as np, openvino
        core = openvino.Core()
        net = core.compile_model(core.read_model("net.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = {}
        for name, batch in np.load("batches.npz").items():
            result = net(batch)
            found |= {f"{name}_{output}": result[net.output(output)] for output in ("heat", "wh", "reg")}
        np.savez("found.npz", **found)
    """))
    done = subprocess.run([python, "consumer.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    for name, batch in batches.items():
        expected = maps(batch)
        for output in ("heat", "wh", "reg"):
            assert_near(found[f"{name}_{output}"], expected[output], 1e-4)


def documented(content):
    """The Python block in docs/onnx.md that contains `content`."""
    with open(os.path.join(ROOT, "docs", "onnx.md"), encoding="utf-8") as file:
        return next(block for block in re.findall(r"```python\n(.*?)```", file.read(), re.S) if content in block)


@pytest.mark.slow
@pytest.mark.parametrize("name, args", [("deform_conv", []), ("bytes", ["--export_config.input_type", "uint8"]),
                                        ("one", [*FIXED[:4], "--export_config.batch_size", 1])])
def test_the_application_in_the_documentation(name, args, export_resnet, tmp_path):
    """The code in docs/onnx.md, only with ONNX Runtime, OpenCV and NumPy, gives the Predictor's boxes."""
    path = export_resnet(name, *args)
    shutil.copy(path, tmp_path / "centernet.onnx")
    cv2.imwrite(str(tmp_path / "image.png"),
                cv2.resize(noise_image(3, 20, 30), (224, 160), interpolation=cv2.INTER_CUBIC))
    code = documented("InferenceSession(").replace("image.jpg", "image.png")
    assert len(code.strip().splitlines()) <= 22
    (tmp_path / "consumer.py").write_text(code + textwrap.dedent("""
        import sys
        assert not {"src", "mindspore", "torch", "onnx"} & set(sys.modules)
        np.savez("found.npz", boxes=boxes, scores=detections[:, 4], names=names)
    """))
    done = subprocess.run([sys.executable, "-I", "consumer.py"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    expected = Predictor(str(path), SOFT_NMS=False, clip=False)(tmp_path / "image.png")
    labels = [expected.class_names.index(name) if name in expected.class_names else -1 for name in found["names"]]
    names = [expected.class_names.index(name) for name in expected.class_names]
    ours = np.column_stack([found["boxes"], found["scores"], labels])
    assert_same_detections(ours, np.column_stack([expected.boxes, expected.scores, names]), 1e-3)


@pytest.mark.slow
def test_the_maps_in_the_documentation(export_resnet):
    """The code in docs/onnx.md decodes a file of maps to the detections of the file that decodes itself."""
    code = documented("def decode")
    assert len(code.strip().splitlines()) <= 20
    names = {}
    exec(code, names)
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    path = export_resnet("maps", "--export_config.onnx_decode", "false")
    maps = onnxruntime.InferenceSession(path, providers=CPU).run(["heat", "wh", "reg"], {"image": batch})
    for image, expected in enumerate(load_onnx(export_resnet("deform_conv"))(batch)):
        assert_same_detections(names["decode"](*(values[image] for values in maps), k=K), expected, 1e-4)
