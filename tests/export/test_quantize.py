"""int8 ONNX files: detections compared with the float file's, metadata, and mistakes."""
import json
import os
import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from src.commands import quantize_onnx
from src.core.errors import UserError
from src.inference.onnx_detector import read_onnx
from src.inference.predictor import Predictor
from tests.conftest import assert_user_error, call_script, noise_image, replace_resdcn_18, write_coco

IN_FLOAT = {"deconv_layers.0.conv_offset_mask", "hm_head.2", "wh_head.2", "reg_head.2"}


@pytest.fixture(scope="module")
def exported(deformable_file, tmp_path_factory):
    """Exports deformable_file to ONNX for 96x96, with export_config's arguments."""
    def export(*args):
        name = tmp_path_factory.mktemp("exported") / "centernet"
        with replace_resdcn_18("SMALL"):
            call_script("export.py", "--device_target", "CPU", "--export_config.ckpt_file", deformable_file,
                        "--export_config.export_name", name, "--export_config.export_format", "ONNX",
                        "--export_config.input_res", "[96, 96]", *args)
        return f"{name}.onnx"

    return export


@pytest.fixture(scope="module")
def float_file(exported):
    """A file of variable batch and size."""
    return exported()


def quantized(source, data, output, *args):
    """Quantize a file to int8, calibrated on a data set's training images."""
    quantize_onnx.main(["--onnx", str(source), "--images", str(data / "train2017"), "--output", str(output),
                        *map(str, args)])
    return str(output)


def convolutions(path):
    """{name of a convolution in a file: whether its weights are int8}."""
    graph = onnx.load(path).graph
    makers = {node.output[0]: node for node in graph.node}
    kinds = {tensor.name: (tensor.data_type, tensor.dims) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "Conv":
            maker = makers.get(node.input[1])
            found[node.name] = maker is not None and kinds[maker.input[0]][0] == onnx.TensorProto.INT8
            if found[node.name]:  # one scale per output channel
                assert kinds[maker.input[1]][1] == kinds[maker.input[0]][1][:1]
    return found


def batch_of(data, from_bytes):
    """The validation images as an input, prepared here: the channels stay in BGR order, as the network expects."""
    images = np.stack([cv2.imread(str(path)) for path in sorted((data / "val2017").iterdir())])
    if from_bytes:
        return images
    mean, std = np.array([0.40789654, 0.44719302, 0.47026115]), np.array([0.28863828, 0.27408164, 0.27809835])
    return ((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)


def heat_of(path, batch):
    """The heatmap that a file computes for a batch."""
    import onnxruntime

    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info("heat", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["heat"], {"image": batch})[0]


@pytest.mark.slow
@pytest.mark.parametrize("args", [(), ("--export_config.input_type", "uint8"),
                                  ("--export_config.onnx_dcn", "grid_sample"),
                                  ("--export_config.onnx_dynamic", "false", "--export_config.batch_size", 2)])
def test_an_int8_file_has_nearly_the_same_heatmap(args, exported, tiny_data, tmp_path):
    source = exported(*args)
    made = quantized(source, tiny_data, tmp_path / "int8.onnx")
    batch = batch_of(tiny_data, "uint8" in args)[:2]
    before, after = heat_of(source, batch), heat_of(made, batch)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98
    assert 1e-4 < np.abs(before - after).mean() < 0.1 * before.std()


@pytest.mark.slow
def test_only_the_convolutions_differ(float_file, tiny_data, tmp_path):
    made = quantized(float_file, tiny_data, tmp_path / "new" / "int8.onnx")
    found = convolutions(made)
    # One is a transposed convolution in the float file.
    assert len(found) == len(convolutions(float_file)) + 1 > 10
    assert {name for name, int8 in found.items() if not int8} == IN_FLOAT
    before, after = onnx.load(float_file), onnx.load(made)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert (list(after.graph.input), list(after.graph.output)) == (list(before.graph.input), list(before.graph.output))
    assert read_onnx(made)[1] == read_onnx(float_file)[1]
    with open(f"{made}.json") as side, open(f"{float_file}.json") as other:
        assert json.load(side) == json.load(other)
    assert os.path.getsize(made) < 0.7 * os.path.getsize(float_file)
    assert sorted(os.listdir(tmp_path / "new")) == ["int8.onnx", "int8.onnx.json"]


def test_named_convolutions_stay_float(float_file, tiny_data, tmp_path):
    made = quantized(float_file, tiny_data, tmp_path / "int8.onnx", "--keep_float", "hm_head", "backbone.0",
                     "--count", 3)
    found = {name for name, int8 in convolutions(made).items() if not int8}
    assert found == {*IN_FLOAT, "hm_head.0", "backbone.0"}


@pytest.mark.slow
def test_the_predictor_reads_an_int8_file(float_file, tiny_data, tmp_path):
    made = quantized(float_file, tiny_data, tmp_path / "int8.onnx")
    image = cv2.imread(str(sorted((tiny_data / "val2017").iterdir())[0]))
    before, after = Predictor(float_file)(image), Predictor(made)(image)
    np.testing.assert_allclose(after.scores[:10], before.scores[:10], atol=0.05)


def scores_of_eval(path, data, folder):
    """Scores of a file by eval.py: metrics.json's dictionary and the records."""
    call_script("eval.py", "--device_target", "CPU", "--data_dir", data, "--load_checkpoint_path", path,
                "--save_result_dir", folder)
    return [json.loads((folder / "val" / name).read_text()) for name in ("metrics.json", "val_pred_eval.json")]


@pytest.mark.slow
def test_the_report_equals_eval(float_file, tiny_data, tmp_path):
    """On objects at the float file's best detections, the scores equal those of eval.py with either file; earlier
    files are kept."""
    _, records = scores_of_eval(float_file, tiny_data, tmp_path / "first")
    images = {int(path.stem): cv2.imread(str(path)) for path in (tiny_data / "val2017").iterdir()}
    best = [sorted((record for record in records if record["image_id"] == image_id),
                   key=lambda record: -record["score"])[:4]
            for image_id in images]
    objects = [(record["image_id"], record["category_id"], record["bbox"]) for some in best for record in some]
    path = write_coco(tmp_path / "data", "val", images, objects, ("rectangle", "ellipse", "triangle"))
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    # With COCO's description, detections of the untrained network outside of an image are kept.
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**content, "info": {"description": "COCO 2017 Dataset"}}, file)

    made = quantized(float_file, tiny_data, tmp_path / "int8.onnx", "--count", 5)
    quantized(float_file, tiny_data, made, "--data_dir", tmp_path / "data", "--report", tmp_path / "report.json")
    assert os.path.exists(tmp_path / "int8.1.onnx") and os.path.exists(tmp_path / "int8.1.onnx.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.pop("errors added") and min(report.pop("ms, 1x3x128x128").values()) > 0 and len(report) == 12
    assert report["AP"]["float"] > 0.5 and report["AP"]["int8"] != report["AP"]["float"]
    for name, path in (("float", float_file), ("int8", made)):
        metrics, _ = scores_of_eval(path, tmp_path / "data", tmp_path / name)
        scores = {score: values[name] for score, values in report.items()}
        assert scores == pytest.approx({score: metrics[score] for score in report})


@pytest.mark.slow
def test_an_unreadable_image_is_skipped_and_named(float_file, tmp_path, console):
    folder = tmp_path / "train2017"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    cv2.imwrite(str(folder / "b.jpg"), noise_image(1))
    quantized(float_file, tmp_path, tmp_path / "int8.onnx")
    output = console.readouterr().out
    assert f"skipped {folder}/a.jpg: " in output and "1 images, 1 skipped" in output
    (folder / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 images \(--images\).*/a\.jpg"):
        quantized(float_file, tmp_path, tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


@pytest.mark.slow
def test_mistakes_are_reported(float_file, tiny_data, tmp_path, monkeypatch):
    args = {"onnx": float_file, "images": tiny_data / "train2017", "output": tmp_path / "int8.onnx"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("text")
    for changed, message in [
        ({"onnx": tmp_path / "missing.onnx"}, "missing.onnx"), ({"onnx": tmp_path / "text.onnx"}, "text.onnx"),
        ({"onnx": "x.mindir"}, r"--onnx.*x\.mindir"), ({"output": "x.json"}, r"--output.*x\.json"),
        ({"images": tmp_path / "none"}, "--images.*/none"), ({"images": tmp_path / "empty"}, "/empty .*--images"),
        ({"count": 0}, "--count.* 0"),
        ({"keep_float": "hm_heat"}, "hm_head"), ({"data_dir": tmp_path / "none"}, "/none"),
        ({"data_dir": tmp_path / "empty"}, "/empty"),
    ]:
        with pytest.raises(UserError, match=message):
            quantize_onnx.main([str(word) for name, value in {**args, **changed}.items()
                                for word in (f"--{name}", value)])
    assert not (tmp_path / "int8.onnx").exists()
    made = quantized(float_file, tiny_data, tmp_path / "int8.onnx", "--count", 2)
    with pytest.raises(UserError, match=r"--onnx .*/int8\.onnx"):
        quantized(made, tiny_data, tmp_path / "twice.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(UserError, match=r"onnxruntime.*requirements\.txt"):
        quantized(float_file, tiny_data, tmp_path / "without.onnx")


def test_a_mistake_exits_with_code_2():
    assert_user_error(call_script("tools/quantize_onnx.py", "--onnx", "x.onnx", "--images", "y", "--outptu", "z",
                                  check=False), "--output")


def test_the_layer_with_the_largest_error_is_named(float_file, tiny_data, tmp_path, capsys):
    """A large weight leaves few of the 256 steps to the other weights of its output channel, in this layer alone."""
    model = onnx.load(float_file)
    tensor, = (tensor for tensor in model.graph.initializer if tensor.name == "wh_head.0.weight")
    weight = numpy_helper.to_array(tensor).copy()
    weight[:, 0, 0, 0] = 30 * np.abs(weight).max()
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, tmp_path / "outlier.onnx")
    errors = []
    for source in (float_file, tmp_path / "outlier.onnx"):
        report = tmp_path / f"{len(errors)}.json"
        quantized(source, tiny_data, tmp_path / f"int8_{len(errors)}.onnx", "--count", 3, "--report", report)
        errors.append(json.loads(report.read_text())["errors added"])
    assert "(--keep_float leaves a layer in float): wh_head.0 " in capsys.readouterr().out
    before, after = errors
    assert not IN_FLOAT & set(before) and all(0 < error < 0.1 for error in before.values())
    assert after.pop("wh_head.0") > 3 * before.pop("wh_head.0") and after == pytest.approx(before)
