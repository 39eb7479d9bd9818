"""Export and offline inference, through the scripts a user runs."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import pytest

from src import errors, evaluator, image_files, offline
from src.detector import load_detector, load_mindir
from src.errors import UserError
from src.evaluation import METRIC_NAMES
from src.pre_process import make_input, normalize
from src.predictor import Predictor
from tests.conftest import ROOT, assert_same_detections, assert_user_error, call_script, exporter, noise_image


@pytest.fixture(scope="module")
def export(lively_checkpoint, tmp_path_factory):
    """export(name, words...) -> path of the MindIR file of lively_checkpoint, made once for each name."""
    return exporter(lively_checkpoint, tmp_path_factory.mktemp("export"), ".mindir", "--eval_config.K", 20)


NARROW = ("--export_config.input_res", "[128, 96]", "--export_config.batch_size", 2)


def expected_detections(checkpoint, images, make_config, *words):
    """What the checkpoint's own network, not exported, finds in images fitted into 128x96."""
    config = make_config("--eval_config.K", 20, *words)
    detector = load_detector(str(checkpoint), config.eval_config, "CPU")
    options = config.dataset_config
    return detector(np.stack([normalize(make_input(image, 1.0, False, (128, 96), 4)[0], options.mean, options.std) for image in images]))


# ---------------------------------------------------------------- the exported file


@pytest.mark.parametrize("name, words", [
    ("floats", []), ("bytes", ["--export_config.input_type", "uint8"]), ("flipped", ["--eval_config.flip_test", "true"]),
])
def test_mindspore_and_numpy_alone_get_the_checkpoints_detections(name, words, export, lively_checkpoint, tmp_path, make_config):
    """As docs/deployment.md says: no line of this project is imported; the input is made by the side file alone."""
    path = export(name, *NARROW, *words)
    side = json.loads(path.with_suffix(".json").read_text())
    assert side["input_res"] == [128, 96] and side["batch_size"] == 2 and side["K"] == 20 and side["down_ratio"] == 4
    assert side["classes"] == ["rectangle", "ellipse", "triangle"] and side["input_type"] == ("uint8" if name == "bytes" else "float32")
    images = [noise_image(seed, 96, 128) for seed in (5, 6)]
    np.save(tmp_path / "images.npy", np.stack(images))
    shutil.copy(path, tmp_path / "net.mindir")
    shutil.copy(path.with_suffix(".json"), tmp_path / "net.json")
    (tmp_path / "consumer.py").write_text(textwrap.dedent("""
        import json, sys
        import mindspore as ms, numpy as np
        side = json.load(open("net.json"))
        batch = np.load("images.npy")
        if side["input_type"] == "float32":
            batch = ((batch / 255 - side["mean"]) / side["std"]).transpose(0, 3, 1, 2).astype(np.float32)
        assert list(batch.shape) == side["input_shape"]
        net = ms.nn.GraphCell(ms.load("net.mindir"))
        np.save("detections.npy", net(ms.Tensor(batch)).asnumpy())
        assert not {"src", "cv2", "torch", "pycocotools"} & set(sys.modules)
    """))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-I", "consumer.py"], cwd=tmp_path, env={**environment, "ONEDNN_MAX_CPU_ISA": "AVX2"},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "detections.npy")
    assert found.shape == (2, 20, 6)
    expected = expected_detections(lively_checkpoint, images, make_config, *(words if name == "flipped" else []))
    for ours, theirs in zip(found, expected):
        assert_same_detections(ours, theirs, 1e-3)
    assert np.ptp(expected[:, :, 0], axis=1).min() > 5  # boxes of many places, in their order


@pytest.mark.parametrize("name, words", [("floats", []), ("bytes", ["--export_config.input_type", "uint8"])])
def test_the_application_in_the_documentation(name, words, export, tmp_path):
    """The lines of docs/deployment.md, as they stand, give the boxes that the Predictor gives in pixels of an image of another shape."""
    path = export(f"{name}_one", "--export_config.input_res", "[128, 96]", *words)
    shutil.copy(path, tmp_path / "centernet.mindir")
    shutil.copy(path.with_suffix(".json"), tmp_path / "centernet.json")
    image = cv2.resize(noise_image(3, 20, 30), (260, 170), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "image.jpg"), image)
    with open(os.path.join(ROOT, "docs", "deployment.md"), encoding="utf-8") as file:
        text = file.read()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "GraphCell" in block)
    (tmp_path / "consumer.py").write_text(code + "\nnp.savez('found.npz', boxes=boxes, scores=found[:, 4], names=names)\n")
    done = subprocess.run([sys.executable, "-I", "consumer.py"], cwd=tmp_path, env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    expected = Predictor(str(path), "CPU", SOFT_NMS=False)(tmp_path / "image.jpg")
    assert len(expected) == 20 and set(found["names"]) == set(expected.class_names)
    # OpenCV rounds the places it samples at, so a box may lie elsewhere among equals: most are the same.
    same = [np.abs(found["boxes"] - box).max(1).min() < 1.5 for box in expected.boxes]
    assert np.mean(same) > 0.8
    np.testing.assert_allclose(found["scores"], expected.scores, atol=2e-3)


def test_bytes_are_a_quarter_of_the_traffic(export):
    shapes = {}
    for name, words in (("floats", []), ("bytes", ["--export_config.input_type", "uint8"])):
        side = json.loads(export(name, *NARROW, *words).with_suffix(".json").read_text())
        shapes[name] = np.prod(side["input_shape"]) * np.dtype(side["input_type"]).itemsize
    assert shapes["floats"] == 4 * shapes["bytes"]


@pytest.mark.parametrize("words, part", [
    (["--export_config.input_res", "[100, 96]"], "multiples of 32"), (["--export_config.batch_size", 0], "at least 1"),
    (["--export_config.input_type", "int8"], "choose from float32, uint8"),
    (["--eval_config.flip_test", "true", "--eval_config.keep_res", "false"], "no multiple of 32"),
])
def test_export_mistakes(words, part, lively_checkpoint, tmp_path):
    done = call_script("export.py", "--export_config.ckpt_file", lively_checkpoint, *words, cwd=tmp_path, check=False)
    assert_user_error(done, part)


def test_an_export_may_have_characters_mindspore_takes_in_no_name(lively_checkpoint, tiny_data, tmp_path):
    """By the model zoo's names of the options; the file is whole, and predicts."""
    (tmp_path / "my nets é").mkdir()
    words = ["--export_load_ckpt", lively_checkpoint, "--export_name", tmp_path / "my nets é" / "a net", "--export_format", "MINDIR"]
    call_script("export.py", "--device_target", "CPU", "--export_config.input_res", "[96, 96]", *words)
    assert sorted(os.listdir(tmp_path / "my nets é")) == ["a net.json", "a net.mindir"]
    call_script("tools/predict.py", "--mindir", tmp_path / "my nets é" / "a net.mindir", "--device_target", "CPU",
               "--input", tiny_data / "val2017", "--output", tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) > 0


def test_an_export_leaves_the_checkpoints_side_file_alone(lively_checkpoint, tmp_path):
    """Of the checkpoint's own name it would be set aside, and the checkpoint could no longer be loaded."""
    for ending in (".ckpt", ".json"):
        shutil.copy(lively_checkpoint.with_suffix(ending), tmp_path / f"m{ending}")
    words = ["--export_config.ckpt_file", "m.ckpt", "--export_config.export_name", tmp_path / "m", "--device_target", "CPU"]
    assert_user_error(call_script("export.py", *words, cwd=tmp_path, check=False), "side file", "name another")
    assert sorted(os.listdir(tmp_path)) == ["m.ckpt", "m.json"]


# ---------------------------------------------------------------- offline inference


@pytest.fixture(scope="module")
def evaluated(lively_checkpoint, tiny_data, tmp_path_factory):
    """The folder val/ of eval.py on the same checkpoint, at 96x96."""
    folder = tmp_path_factory.mktemp("eval")
    words = ["--eval_config.keep_res", "false", "--dataset_config.input_res_test", "[96, 96]", "--eval_config.K", 20]
    call_script("eval.py", "--device_target", "CPU", "--data_dir", tiny_data, "--load_checkpoint_path", lively_checkpoint,
               "--save_result_dir", folder, *words)
    return folder / "val"


SQUARE = ("--export_config.input_res", "[96, 96]", "--export_config.batch_size", 4)


@pytest.mark.parametrize("name, words", [("square", SQUARE), ("square_bytes", [*SQUARE, "--export_config.input_type", "uint8"])])
def test_offline_inference_scores_as_eval_does(name, words, export, evaluated, tiny_data, tmp_path):
    """The launcher, as a user starts it: the same 12 numbers and the same boxes as eval.py's."""
    command = ["bash", os.path.join(ROOT, "scripts", "run_infer_310.sh"), str(export(name, *words)), str(tiny_data), "y", "0"]
    environment = {**os.environ, "DEVICE_TARGET": "CPU", "CONFIG_PATH": os.path.join(ROOT, "default_config.yaml")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "overall performance on shapes validation dataset" in done.stdout
    size = 3 * 96 * 96 * (1 if "bytes" in name else 4)
    assert {path.name: path.stat().st_size for path in (tmp_path / "preprocess_Result" / "data").iterdir()} == {
        f"eval2017_image_{number}.bin": size for number in range(1, 7)
    }
    result = np.fromfile(tmp_path / "result_Files" / "eval2017_image_3_0.bin", np.float32)
    assert result.shape == (20 * 6,)
    ours, theirs = (json.loads((folder / "val_pred_eval.json").read_text()) for folder in (tmp_path / "val", evaluated))
    for image_id in range(1, 7):
        rows = [[[*r["bbox"], r["score"], r["category_id"]] for r in records if r["image_id"] == image_id] for records in (ours, theirs)]
        assert_same_detections(*(np.array(part) for part in rows), 1e-3)
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "val", evaluated))
    np.testing.assert_allclose([ours[name] for name in METRIC_NAMES], [theirs[name] for name in METRIC_NAMES], atol=1e-6)

    if name == "square":  # and again on the inputs that are there
        again = subprocess.run([*command[:-2], "n"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert again.returncode == 0 and (tmp_path / "val.1").is_dir() and not (tmp_path / "preprocess.log.1").exists()
        assert (tmp_path / "val" / "val_pred_eval.json").read_text() == (tmp_path / "val.1" / "val_pred_eval.json").read_text()


@pytest.fixture(scope="module")
def results(export, tiny_data, tmp_path_factory):
    """A folder with the inputs (p/) and results (r/) of tiny_data, made step by step, without --mindir_path for the inputs."""
    folder = tmp_path_factory.mktemp("offline")
    call_script("preprocess.py", "--val_data_dir", tiny_data, "--predict_dir", folder / "p", *SQUARE, "--eval_config.K", 20)
    words = ["--input_dir", folder / "p" / "data", "--result_path", folder / "r", "--device_target", "CPU"]
    call_script("tools/infer_mindir.py", "--mindir", export("square", *SQUARE), *words)
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
    words = ["--result_path", "r", "--label_path", tiny_data / "annotations" / "instances_val2017.json", "--save_path", "s"]
    done = call_script("postprocess.py", *words, "--meta_path", results / "p" / "meta", cwd=tmp_path)
    for part in ("image 1 (r/eval2017_image_1_0.bin): No such file", "image 2 (r/eval2017_image_2_0.bin): 5 bytes, expected 480",
                 "image 3 (r/eval2017_image_3_0.bin): 240 bytes, expected 480", "image 4 (r/eval2017_image_4_0.bin): no detections",
                 "2 images, 4 skipped"):
        assert part in done.stdout
    assert {record["image_id"] for record in json.loads((tmp_path / "s" / "val" / "val_pred_eval.json").read_text())} == {5, 6}
    assert json.loads((tmp_path / "s" / "val" / "metrics.json").read_text())["skipped"] == 4


def test_inputs_of_another_size_are_named(results, export, tmp_path):
    shutil.copytree(results / "p" / "data", tmp_path / "data")
    (tmp_path / "data" / "eval2017_image_2.bin").write_bytes(bytes(100))
    done = call_script("tools/infer_mindir.py", "--mindir", export("square", *SQUARE), "--input_dir", "data", "--result_path", "r",
                      "--device_target", "CPU", cwd=tmp_path)
    assert "eval2017_image_2.bin: 100 bytes, and the exported file takes 110592" in done.stdout and "5 results, 1 skipped" in done.stdout
    assert len(os.listdir(tmp_path / "r")) == 5


def test_an_unreadable_image_is_skipped_to_the_end(tiny_data, tmp_path):
    data = tmp_path / "d"
    shutil.copytree(tiny_data, data)
    next((data / "val2017").glob("*3.jpg")).write_bytes(b"no image")
    done = call_script("preprocess.py", "--val_data_dir", data, "--predict_dir", tmp_path / "p")
    assert "skipped image 3" in done.stdout and "5 inputs" in done.stdout
    meta = offline.read_meta(str(tmp_path / "p" / "meta"))
    assert len(meta["images"]) == 5 and "image 3" in meta["skipped"][0]


@pytest.mark.parametrize("script, words, part", [
    ("preprocess.py", ["--val_data_dir", "DATA"], "--predict_dir"),
    ("preprocess.py", ["--val_data_dir", "/nowhere", "--predict_dir", "p"], "/nowhere"),
    ("preprocess.py", ["--val_data_dir", "DATA", "--predict_dir", "p", "--mindir_path", "/nowhere.mindir"], "/nowhere.mindir"),
    ("preprocess.py", ["--val_data_dir", "DATA", "--predict_dir", "p", "--eval_config.multi_scales", "[0.5, 1]"], "one scale"),
    ("postprocess.py", ["--label_path", "DATA"], "--result_path"),
    ("postprocess.py", ["--label_path", "DATA", "--result_path", "."], "--meta_path"),
    ("postprocess.py", ["--label_path", "DATA", "--result_path", ".", "--meta_path", "."], "inputs.json"),
    ("tools/infer_mindir.py", ["--mindir", "/nowhere.mindir", "--input_dir", ".", "--result_path", "r"], "/nowhere.mindir"),
])
def test_offline_mistakes(script, words, part, tiny_data, tmp_path):
    words = [tiny_data if word == "DATA" else word for word in words]
    assert_user_error(call_script(script, *words, cwd=tmp_path, check=False), part)
    assert os.listdir(tmp_path) == []


def test_no_result_at_all_is_an_error(results, tiny_data, tmp_path):
    (tmp_path / "empty").mkdir()
    words = ["--result_path", "empty", "--label_path", tiny_data, "--meta_path", results / "p" / "meta"]
    assert_user_error(call_script("postprocess.py", *words, cwd=tmp_path, check=False), "no result of any of the 6 images")


@pytest.mark.parametrize("words", [
    [], ["x.mindir", ".", "y"], ["MINDIR", "/nowhere", "y"], ["MINDIR", ".", "maybe"], ["MINDIR", ".", "y", "one"], ["MINDIR", ".", "n"],
])
def test_wrong_arguments_of_the_launcher(words, export, tmp_path):
    words = [str(export("square", *SQUARE)) if word == "MINDIR" else word for word in words]
    done = subprocess.run(["bash", os.path.join(ROOT, "scripts", "run_infer_310.sh"), *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and ("usage: " in done.stderr or "NEED_PREPROCESS is n" in done.stderr)
    assert os.listdir(tmp_path) == []


def test_a_side_file_that_lacks_something_is_named(export, tmp_path):
    path = export("square", *SQUARE)
    shutil.copy(path, tmp_path / "x.mindir")
    side = json.loads(path.with_suffix(".json").read_text())
    del side["K"]
    (tmp_path / "x.json").write_text(json.dumps(side))
    with pytest.raises(UserError, match="x.json.*'K'"):
        load_mindir(str(tmp_path / "x.mindir"))


def test_predict_with_an_exported_file(export, lively_checkpoint, tiny_data, tmp_path):
    """The tool and the Predictor on a MindIR file of batch 4 find what they find with its checkpoint at that size."""
    path = export("square", *SQUARE)
    for name, words in (("m", ["--mindir", path]), ("c", ["--load_checkpoint_path", lively_checkpoint, "--input_res", 96, 96])):
        call_script("tools/predict.py", *words, "--input", tiny_data / "val2017", "--output", tmp_path / name, "--score_thresh", 0,
                   "--device_target", "CPU")
    found = {}
    for name in "mc":
        content = json.loads((tmp_path / name / "predictions.json").read_text())
        for record in content["annotations"]:
            row = [*record["bbox"], record["score"], record["category_id"]]
            found.setdefault((name, content["images"][record["image_id"] - 1]["file_name"]), []).append(row)
    files = {file for _, file in found}
    assert len(files) == 6
    predictor = Predictor(str(path), "CPU")
    for file in files:
        exported, of_checkpoint = np.array(found["m", file]), np.array(found["c", file])
        assert len(exported) <= 20 and len(predictor(file)) == len(exported)
        nearest = np.abs(exported[:, None] - of_checkpoint[None]).max(2).min(1)  # the checkpoint keeps 100, this file 20
        assert (nearest < 1e-2).mean() > 0.8


def test_k_is_the_files(export, tiny_data, capsys):
    """Whatever the configuration's K is, 100: a file that was exported with more gives more, and the log says so."""
    path = export("many", *NARROW, "--eval_config.K", 150, "--export_config.batch_size", 1)
    predictor = Predictor(str(path), "CPU", SOFT_NMS=False)
    assert len(predictor(str(tiny_data / "val2017" / "000001.jpg"))) == 150
    width, height = json.loads(path.with_suffix(".json").read_text())["input_res"]
    said = capsys.readouterr().out
    assert "K 150 (the side file)" in said and f"input_res_test {width}x{height} (the side file), keep_res false" in said


def test_an_interrupted_evaluation_leaves_no_scores(lively_checkpoint, tiny_data, tmp_path, make_config, monkeypatch, interrupts):
    import eval as script

    def read_image(path, *words):
        if path.endswith("000004.jpg"):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(path, *words)

    real = image_files.read_image
    monkeypatch.setattr(evaluator, "read_image", read_image)
    words = ["--load_checkpoint_path", lively_checkpoint, "--data_dir", tiny_data, "--save_result_dir", tmp_path, "--device_target", "CPU"]
    with pytest.raises(errors.Interrupted, match="of 6 images are detected, their records are in .*val.unfinished; nothing is scored"):
        script.evaluate(make_config(*words, "--dataset_config.num_workers", 1))
    assert [path.name for path in tmp_path.iterdir()] == ["val.unfinished"]
    result = json.loads((tmp_path / "val.unfinished" / "val_pred_result.json").read_text())
    done = {entry["id"] for entry in result["images"]}
    assert 0 < len(done) < 6 and {record["image_id"] for record in result["annotations"]} == done


# ---------------------------------------------------------------- what a run was evaluated with


@pytest.fixture
def recorded(lively_checkpoint, tmp_path):
    """A copy of lively_checkpoint whose side file says that its recipe evaluates at 128x96, without keep_res and soft-NMS, with K 30."""
    path = tmp_path / "r.ckpt"
    shutil.copy(lively_checkpoint, path)
    side = json.loads(lively_checkpoint.with_suffix(".json").read_text())
    evaluation = {"dataset_config.input_res_test": [128, 96], "eval_config.keep_res": False, "eval_config.SOFT_NMS": False,
                  "eval_config.K": 30}
    path.with_suffix(".json").write_text(json.dumps({**side, "evaluation": evaluation}))
    return path


RECIPE = ("--dataset_config.input_res_test", "[128, 96]", "--eval_config.keep_res", "false", "--eval_config.SOFT_NMS", "false",
          "--eval_config.K", 30)


def run_eval(checkpoint, tiny_data, folder, make_config, capsys, *words):
    """(records, the log) of eval.py in this process."""
    import eval as script

    words = ["--load_checkpoint_path", checkpoint, "--data_dir", tiny_data, "--save_result_dir", folder, "--device_target", "CPU", *words]
    script.evaluate(make_config(*words))
    return json.loads((folder / "val" / "val_pred_eval.json").read_text()), capsys.readouterr().out


def test_eval_without_the_recipe_finds_what_it_finds_with_it(recorded, lively_checkpoint, tiny_data, tmp_path, make_config, capsys):
    """And says what it evaluates with, and where each setting comes from."""
    expected, _ = run_eval(lively_checkpoint, tiny_data, tmp_path / "a", make_config, capsys, *RECIPE)
    found, said = run_eval(recorded, tiny_data, tmp_path / "b", make_config, capsys)
    without, _ = run_eval(lively_checkpoint, tiny_data, tmp_path / "c", make_config, capsys)
    assert found == expected != without
    assert ("evaluating with input_res_test 128x96 (the side file), keep_res false (the side file), flip_test false (default_config.yaml), "
            "multi_scales [1.0] (default_config.yaml), SOFT_NMS false (the side file), K 30 (the side file)") in said
    (tmp_path / "mine.yaml").write_text("eval_config:\n  K: 7\n")
    words = ["--config_path", tmp_path / "mine.yaml", "--eval_config.SOFT_NMS", "true"]
    _, said = run_eval(recorded, tiny_data, tmp_path / "d", make_config, capsys, *words)
    assert f"SOFT_NMS true (the command line), K 7 ({tmp_path / 'mine.yaml'})" in said


def test_predictor_and_export_take_what_the_run_was_evaluated_with(recorded, tiny_data, tmp_path, make_config, capsys):
    import export as script

    image = str(tiny_data / "val2017" / "000001.jpg")
    expected = Predictor(str(recorded), "CPU", input_res=[128, 96], K=30, SOFT_NMS=False)(image).detections()
    found = Predictor(str(recorded), "CPU")(image).detections()
    np.testing.assert_array_equal(found, expected)
    words = ["--export_config.ckpt_file", recorded, "--export_config.export_name", tmp_path / "e", "--device_target", "CPU"]
    script.export(make_config(*words))
    side = json.loads((tmp_path / "e.json").read_text())
    assert side["input_res"] == [128, 96] and side["K"] == 30 and side["evaluation"] == {"eval_config.SOFT_NMS": False}
    assert_same_detections(Predictor(str(tmp_path / "e.mindir"), "CPU")(image).detections(), expected, 1e-3)


@pytest.mark.parametrize("evaluation", [
    3, {"eval_config.K": "many"}, {"eval_config.multi_scales": []}, {"dataset_config.input_res_test": [1]},
])
def test_damaged_evaluation_settings_are_named(evaluation, recorded):
    side = json.loads(recorded.with_suffix(".json").read_text())
    recorded.with_suffix(".json").write_text(json.dumps({**side, "evaluation": evaluation}))
    with pytest.raises(UserError, match="r.json: (evaluation|eval_config|dataset_config)"):
        Predictor(str(recorded), "CPU")


def test_train_records_what_its_recipe_evaluates_with(tiny_run):
    side = json.loads((tiny_run / "ckpt_0" / "centernet-2_7.json").read_text())
    assert side["evaluation"] == {"dataset_config.input_res_test": [96, 96], "eval_config.keep_res": True, "eval_config.pad_multiple": 64,
                                  "eval_config.flip_test": False, "eval_config.multi_scales": [1.0], "eval_config.SOFT_NMS": True,
                                  "eval_config.K": 100}
