"""export.py, and users of its MindIR files."""
import json
import os
import re
import shutil
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest

from src.core.errors import UserError
from src.imaging.view import Fit, make_input, normalize
from src.inference.detector import export_detector
from src.inference.models import open_model
from src.inference.predictor import Predictor
from tests.conftest import (
    NARROW,
    ROOT,
    SQUARE,
    assert_same_detections,
    assert_user_error,
    call_script,
    contents,
    exporter,
    no_graphs,
    noise_image,
    own_detector,
    replace_resdcn_18,
)


def expected_detections(checkpoint, images, make_config, *args):
    """The detections of the checkpoint's network, not exported, for images fitted into 128x96."""
    config = make_config("--eval_config.K", 20, *args)
    detector = own_detector(checkpoint, config.eval_config, "CPU")
    options = config.dataset_config
    batch = np.stack([normalize(make_input(image, 1.0, Fit(False, (128, 96)), 4)[0], options.mean, options.std)
                      for image in images])
    with no_graphs():
        return detector(batch)


FORMS = {"floats": (), "bytes": ("--export_config.input_type", "uint8"),
         "deformable_flipped": ("--eval_config.flip_test", "true")}
# A user's application for a file and its side file, without imports from this project.
CONSUMER = """
import json, os, sys
import mindspore as ms, numpy as np

def consume(name):
    side = json.load(open(f"{name}.json"))
    batch = np.load("images.npy")
    if side["input_type"] == "float32":
        batch = ((batch / 255 - side["mean"]) / side["std"]).transpose(0, 3, 1, 2).astype(np.float32)
    assert list(batch.shape) == side["input_shape"]
    net = ms.nn.GraphCell(ms.load(f"{name}.mindir"))
    np.save(f"{name}.npy", net(ms.Tensor(batch)).asnumpy())

for name in ("floats", "bytes", "deformable_flipped"):
    consume(name)
assert not {"src", "cv2", "torch", "pycocotools"} & set(sys.modules)
"""
# The code in docs/deployment.md, unchanged, run in each folder.
DOCUMENTED = """
code = open("documented.py", encoding="utf-8").read()
for name in ("floats", "bytes"):
    os.chdir(name)
    found = {}
    exec(code, found)
    np.savez("found.npz", boxes=found["boxes"], scores=found["detections"][:, 4], names=found["names"])
    os.chdir("..")
"""


@pytest.fixture(scope="module")
def consumed(export_mindir, deformable_file, tmp_path_factory):
    """The folder of a process without this project that detected with exported files, as in CONSUMER and DOCUMENTED.

    Exporting them takes long, since it compiles.
    """
    folder = tmp_path_factory.mktemp("consumer")
    np.save(folder / "images.npy", np.stack([noise_image(seed, 96, 128) for seed in (5, 6)]))
    for name in ("floats", "bytes"):
        path = export_mindir(name, *NARROW, *FORMS[name])
        for ending in (".mindir", ".json"):
            shutil.copy(path.with_suffix(ending), folder)
    with replace_resdcn_18("SMALL"):
        export = exporter(deformable_file, folder, ".mindir", *NARROW, "--eval_config.K", 20)
        export("deformable_flipped", *FORMS["deformable_flipped"])
    image = cv2.resize(noise_image(3, 20, 30), (260, 170), interpolation=cv2.INTER_CUBIC)
    for name in ("floats", "bytes"):
        path = export_mindir(f"{name}_one", "--export_config.input_res", "[128, 96]", *FORMS[name])
        (folder / name).mkdir()
        for ending in (".mindir", ".json"):
            shutil.copy(path.with_suffix(ending), folder / name / f"centernet{ending}")
        cv2.imwrite(str(folder / name / "image.jpg"), image)
    with open(os.path.join(ROOT, "docs", "deployment.md"), encoding="utf-8") as file:
        blocks = re.findall(r"```python\n(.*?)```", file.read(), re.S)
    (folder / "documented.py").write_text(next(block for block in blocks if "GraphCell" in block))
    (folder / "consumer.py").write_text(CONSUMER + DOCUMENTED)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-I", "consumer.py"], cwd=folder,
                          env={**environment, "ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_mindspore_and_numpy_alone_give_the_checkpoints_detections(name, consumed, small_file, deformable_file,
                                                                   make_config):
    """As in docs/deployment.md: nothing of this project is imported; the side file alone defines the input."""
    side = json.loads((consumed / f"{name}.json").read_text())
    assert side["input_res"] == [128, 96] and side["batch_size"] == 2 and side["K"] == 20 and side["down_ratio"] == 4
    assert side["classes"] == ["rectangle", "ellipse", "triangle"]
    assert side["input_type"] == ("uint8" if name == "bytes" else "float32")
    found = np.load(consumed / f"{name}.npy")
    assert found.shape == (2, 20, 6)
    images = np.load(consumed / "images.npy")
    deformable = name == "deformable_flipped"
    with replace_resdcn_18("SMALL" if deformable else "PLAIN"):
        checkpoint = deformable_file if deformable else small_file
        expected = expected_detections(checkpoint, images, make_config, *(FORMS[name] if deformable else []))
    for ours, theirs in zip(found, expected):
        assert_same_detections(ours, theirs, 1e-3)
    assert np.ptp(expected[:, :, 0], axis=1).min() > 5  # boxes in many places, in their order


@pytest.mark.slow
@pytest.mark.parametrize("name", ["floats", "bytes"])
def test_the_application_in_the_documentation(name, consumed, export_mindir):
    """The code in docs/deployment.md, unchanged, gives the Predictor's boxes in pixels of an image of another shape."""
    found = np.load(consumed / name / "found.npz")
    predictor = Predictor(str(export_mindir(f"{name}_one")), "CPU", SOFT_NMS=False, clip=False)
    expected = predictor(consumed / name / "image.jpg")
    assert len(expected) == 20 and set(found["names"]) == set(expected.class_names)
    # OpenCV rounds its sampling positions, so another of several equal boxes may win: most are the same.
    same = [np.abs(found["boxes"] - box).max(1).min() < 1.5 for box in expected.boxes]
    assert np.mean(same) > 0.8
    np.testing.assert_allclose(found["scores"], expected.scores, atol=2e-3)


def test_bytes_are_a_quarter_of_the_traffic(export_mindir):
    shapes = {}
    for name in ("floats", "bytes"):
        side = json.loads(export_mindir(name, *NARROW, *FORMS[name]).with_suffix(".json").read_text())
        shapes[name] = np.prod(side["input_shape"]) * np.dtype(side["input_type"]).itemsize
    assert shapes["floats"] == 4 * shapes["bytes"]


@pytest.mark.parametrize("args, message", [
    (["--export_config.input_res", "[100, 96]"], "32"), (["--export_config.batch_size", 0], "batch_size"),
    (["--export_config.input_type", "int8"], "uint8"),
    (["--eval_config.flip_test", "true", "--eval_config.keep_res", "false"], "32"),
])
def test_export_mistakes(args, message, lively_checkpoint, tmp_path):
    done = call_script("export.py", "--export_config.ckpt_file", lively_checkpoint, *args, cwd=tmp_path, check=False)
    assert_user_error(done, message)


@pytest.mark.slow
def test_an_export_of_any_name_keeps_an_earlier_one(small_checkpoint, tiny_data, tmp_path):
    """With the model zoo's option names, and characters that MindSpore refuses in names; the file predicts."""
    folder = tmp_path / "my nets é"
    folder.mkdir()
    earlier = {".mindir": "an earlier file", ".json": '{"input_type": "float32"}'}
    for ending, text in earlier.items():
        (folder / f"a net{ending}").write_text(text)
    args = ["--export_load_ckpt", small_checkpoint, "--export_name", folder / "a net", "--export_format", "MINDIR"]
    call_script("export.py", "--device_target", "CPU", "--export_config.input_res", "[96, 64]", *args)
    assert sorted(os.listdir(folder)) == ["a net.1.json", "a net.1.mindir", "a net.json", "a net.mindir"]
    for ending, text in earlier.items():
        assert (folder / f"a net.1{ending}").read_text() == text
    assert open_model(str(folder / "a net.mindir")).description["input_res"] == [96, 64]
    call_script("tools/predict.py", "--mindir", folder / "a net.mindir", "--device_target", "CPU",
                "--input", tiny_data / "val2017", "--output", tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) > 0


def test_an_export_does_not_replace_the_checkpoints_side_file(lively_checkpoint, tmp_path):
    """If it had the same name, it would be backed up, and the checkpoint could not be loaded any more."""
    for ending in (".ckpt", ".json"):
        shutil.copy(lively_checkpoint.with_suffix(ending), tmp_path / f"m{ending}")
    args = ["--export_config.ckpt_file", "m.ckpt", "--export_config.export_name", tmp_path / "m",
            "--device_target", "CPU"]
    assert_user_error(call_script("export.py", *args, cwd=tmp_path, check=False), "export_config.export_name", "m.json")
    assert sorted(os.listdir(tmp_path)) == ["m.ckpt", "m.json"]


def test_an_incomplete_side_file_is_named(export_mindir, tmp_path):
    path = export_mindir("square", *SQUARE)
    shutil.copy(path, tmp_path / "x.mindir")
    side = json.loads(path.with_suffix(".json").read_text())
    del side["K"]
    (tmp_path / "x.json").write_text(json.dumps(side))
    with pytest.raises(UserError, match="x.json.*'K'"):
        open_model(str(tmp_path / "x.mindir"))


def test_predict_with_an_exported_file(export_mindir, small_checkpoint, tiny_data, tmp_path, graphless):
    """The tool and Predictor find the same with a MindIR file of batch 4 as Predictor with the checkpoint."""
    path = export_mindir("square", *SQUARE)
    call_script("tools/predict.py", "--mindir", path, "--input", tiny_data / "val2017", "--output", tmp_path / "m",
                "--score_thresh", 0, "--device_target", "CPU")
    content = json.loads((tmp_path / "m" / "predictions.json").read_text())
    assert len(content["images"]) == 6
    exported = Predictor(str(path), "CPU")
    checkpoint = Predictor(str(small_checkpoint), "CPU", K=20, input_res=[96, 96], keep_res=False)
    for entry in content["images"]:
        records = [record for record in content["annotations"] if record["image_id"] == entry["id"]]
        found = np.array([[*record["bbox"], record["score"], record["category_id"]] for record in records])
        found[:, 2:4] += found[:, :2]
        found[:, 5] -= 1
        expected = checkpoint(entry["file_name"]).detections()
        assert len(expected) == 20
        for ours in (found, exported(entry["file_name"]).detections()):
            assert_same_detections(ours, expected, 2e-2)


def test_k_is_the_files(export_mindir, tiny_data, capsys):
    """Regardless of the configuration's K, 100: a file exported with a larger K gives more, as `settings` states."""
    path = export_mindir("many", *NARROW, "--eval_config.K", 150, "--export_config.batch_size", 1)
    predictor = Predictor(str(path), "CPU", SOFT_NMS=False, clip=False)
    assert len(predictor(str(tiny_data / "val2017" / "000001.jpg"))) == 150
    width, height = json.loads(path.with_suffix(".json").read_text())["input_res"]
    settings = predictor.settings
    assert "K 150 (the side file)" in settings
    assert f"input_res_test {width}x{height} (the side file), keep_res false" in settings
    assert "K 150" not in capsys.readouterr().out  # a library prints nothing


def test_an_opened_mindir_gives_the_checkpoints_detections(export_mindir, small_checkpoint, make_config):
    detector = open_model(str(export_mindir("floats_one", *NARROW[:2]))).load(make_config())
    consumer = detector.description
    assert consumer["input_res"] == [128, 96] and consumer["K"] == 20 and consumer["down_ratio"] == 4
    assert consumer["classes"] == ["rectangle", "ellipse", "triangle"]
    options = make_config().dataset_config
    tensor = normalize(make_input(noise_image(5), 1.0, Fit(False, (128, 96)), 4)[0], options.mean, options.std)
    from_mindir = detector(tensor[None])
    assert from_mindir.shape == (1, 20, 6)
    network = own_detector(small_checkpoint, make_config("--eval_config.K", 20).eval_config, "CPU")
    with no_graphs():
        np.testing.assert_allclose(from_mindir, network(tensor[None]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("args, name", [
    (["MINDIR"], "net.json"), (["MINDIR"], "net.mindir"), (["ONNX"], "net.onnx"), (["ONNX"], "net.onnx.json"),
])
def test_other_files_are_not_replaced(args, name, lively_checkpoint, tmp_path):
    (tmp_path / name).write_text('{"mine": 1}')
    options = ["--export_config.ckpt_file", lively_checkpoint, "--export_config.export_name", tmp_path / "net"]
    done = call_script("export.py", "--device_target", "CPU", *options, "--export_config.export_format", *args,
                       check=False)
    assert_user_error(done, name)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == '{"mine": 1}'


def test_a_failed_export_keeps_the_earlier_file(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no memory")

    for name, text in (("net.mindir", "an earlier file"), ("net.json", '{"input_type": "float32"}')):
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    options = types.SimpleNamespace(input_res=[64, 64], batch_size=1, export_format="MINDIR",
                                    export_name=str(tmp_path / "net"), ckpt_file="c.ckpt")
    monkeypatch.setattr("mindspore.export", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        export_detector(types.SimpleNamespace(from_bytes=True, network=None), options, None)
    assert contents(tmp_path) == before


def test_air_needs_ascend(lively_checkpoint):
    done = call_script("export.py", "--export_config.ckpt_file", lively_checkpoint, "--export_config.export_format",
                       "AIR", check=False)
    assert_user_error(done, "AIR", "MINDIR")


def test_a_damaged_mindir_file_is_named(export_mindir, make_config, tmp_path):
    exported = export_mindir("floats_one", *NARROW[:2])
    (tmp_path / "x.mindir").write_bytes(exported.read_bytes()[:1000])
    shutil.copy(exported.with_suffix(".json"), tmp_path / "x.json")
    with pytest.raises(UserError, match="x.mindir"):
        open_model(str(tmp_path / "x.mindir")).load(make_config())
