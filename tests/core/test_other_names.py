"""src/core/other_names.py: the answers to other detectors' options name what the very command accepts."""
import importlib
import re

import pytest

from src.core.other_names import ANSWERS, given_options, unknown
from src.core.project import command
from src.inference.options import OptionParser
from src.model_utils.config import get_config, load_defaults
from tests.conftest import user_error

CONFIG = [*load_defaults()[0], "config_path"]
SCHEDULES = ("MultiDecay", "PolyDecay", "CosineDecay")


def answer(script, name, value="", known=CONFIG, schedule="MultiDecay", optimizer="Adam"):
    return unknown(name, value, known, script, {"schedule": schedule, "optimizer": optimizer})


@pytest.mark.parametrize("script, name, value, options", [
    ("train", "epochs", "3", "epoch_size"), ("train", "max_epochs", "3", "epoch_size"),
    ("train", "imgsz", "640", "dataset_config.input_res_train"), ("train", "batch", "8", "train_config.batch_size"),
    ("eval", "imgsz", "640", "dataset_config.input_res_test eval_config.keep_res"),
    ("export", "imgsz", "640", "export_config.input_res"), ("eval", "batch", "8", "eval_config.batch_size"),
    ("export", "batch", "8", "export_config.batch_size"), ("export", "weights", "a", "export_config.ckpt_file"),
    ("train", "weights", "a", "load_checkpoint_path"), ("train", "load-from", "a", "load_checkpoint_path"),
    ("train", "resume-from", "a b", "resume load_checkpoint_path"), ("train", "data", "data.yaml", "mindrecord_dir"),
    ("eval", "data", "data.yaml", "data_dir"), ("dataset", "data", ".", "coco_data_dir"),
    ("train", "pretrained", "true", "net_config.load_backbone_path load_checkpoint_path"),
    ("train", "pretrained", "a.ckpt", "load_checkpoint_path"),
    ("train", "pretrained", "", "net_config.load_backbone_path"),
    ("eval", "iou", "0.5", "eval_config.SOFT_NMS"),
    ("eval", "nms", "", "eval_config.SOFT_NMS"), ("eval", "conf", "0.1", "eval_config.score_thresh"),
    ("eval", "save_txt", "", "run_dir"), ("train", "name", "a", "run_dir"),
    ("train", "work-dir", "a", "run_dir"), ("eval", "project", "a", "run_dir"),
    ("train", "early_stop", "5", "patience eval_epochs"), ("train", "amp", "", "train_config.amp_level"),
    ("train", "half", "", "train_config.amp_level"), ("export", "half", "", "export_config.onnx_dtype"),
    ("eval", "half", "", "load_checkpoint_path"), ("train", "workers", "4", "dataset_config.num_workers"),
    ("train", "device", "0", "device_target device_id"), ("train", "device", "cpu", "device_target"),
    ("eval", "device", "0", "device_target device_id onnx_provider"), ("eval", "device", "cuda:0", "onnx_provider"),
    ("eval", "max_det", "9", "eval_config.K"), ("train", "cos_lr", "", "train_config.lr_schedule"),
    ("train", "optimizer", "adamw", "train_config.optimizer"),
    ("train", "cfg-options", "a=b", "train_config.batch_size"),
])
def test_the_answer_names_these_options(script, name, value, options):
    assert {*options.split()} <= {*re.findall(r"--([\w.]+)", answer(script, name, value))}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["lr0", "lr", "learning_rate", "train_config.lr", "train_config.learning_rate"])
def test_the_rate_is_that_of_the_schedule_in_use(name, schedule):
    text = answer("train", name, "0.1", schedule=schedule)
    assert re.findall(r"(\w+)\.learning_rate", text) == [schedule]


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD"])
def test_the_weight_decay_is_that_of_the_optimizer_in_use(optimizer):
    for name in ("weight_decay", "decay_filter", "train_config.weight_decay"):
        assert f"--train_config.{optimizer}." in answer("train", name, "0.1", optimizer=optimizer)


@pytest.mark.parametrize("argv, schedule", [
    (["--lr0", "0.1"], "MultiDecay"), (["--lr0", "0.1", "--train_config.lr_schedule", "PolyDecay"], "PolyDecay"),
    (["--config_path", "FILE", "--lr0=0.1"], "CosineDecay"),
    (["--config_path", "FILE", "--lr0", "0.1", "--train_config.lr_schedule=PolyDecay"], "PolyDecay"),
])
def test_the_schedule_in_use_is_that_of_the_command_line_and_its_files(argv, schedule, tmp_path):
    (tmp_path / "my file.yaml").write_text("train_config: {lr_schedule: CosineDecay}")
    with user_error(f"--train_config.{schedule}.learning_rate") as raised:
        get_config("", [arg.replace("FILE", str(tmp_path / "my file.yaml")) for arg in argv])
    assert all(other not in str(raised.value) for other in SCHEDULES if other != schedule)


def test_a_file_names_parameters_without_dashes(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("lr0: 0.1\ntrain_config: {lr_schedule: PolyDecay}")
    with user_error(path, "lr0", " train_config.PolyDecay.learning_rate") as raised:
        get_config("", ["--config_path", str(path)])
    assert "--" not in str(raised.value)


def options_of(module, monkeypatch):
    """The names of a tool's options, without --."""
    parsers = []

    def parse_args(self, args=None, namespace=None):
        parsers.append(self)
        raise InterruptedError

    monkeypatch.setattr(OptionParser, "parse_args", parse_args)
    with pytest.raises(InterruptedError):
        importlib.import_module(f"src.commands.{module}").main([])
    return {name.lstrip("-") for name in parsers[0]._option_string_actions}


@pytest.mark.parametrize("script", ["train", "eval", "export", "dataset", "preprocess", "postprocess", "check_dataset"])
@pytest.mark.parametrize("value", ["", "a", "0", "0,1", "cpu", "cuda:0", "true", "false", "data.yaml", "a=b"])
def test_every_answer_of_a_script_names_options_that_it_accepts(script, value):
    for name in ANSWERS:
        assert {*named_options(answer(script, name, value))} <= {*CONFIG, "help"}, name


@pytest.mark.parametrize("module", ["predict", "serve", "report", "import_dataset", "quantize_onnx"])
def test_every_answer_of_a_tool_names_options_that_it_accepts(module, monkeypatch):
    known = options_of(module, monkeypatch)
    for name in ANSWERS.keys() - known:
        for value in ("", "0", "cpu", "cuda", "data.yaml"):
            assert {*named_options(unknown(name, value, known))} <= {*known, "help"}, name


def named_options(text):
    """The options that an answer tells to use: without those of the command lines in it."""
    for script in ("import_dataset", "dataset", "quantize_onnx"):
        text = re.sub(rf"python \S*{script}\.py( --\w+ \S+)*", "", text)
    return re.findall(r"--([a-z][\w.]*\w)", text)


@pytest.mark.parametrize("name, option", [
    ("conf", "score_thresh"), ("source", "input"), ("weights", "load_checkpoint_path"), ("imgsz", "input_res"),
    ("batch", "batch_size"), ("name", "output"), ("project", "output"), ("save_txt", "output"), ("data", "input"),
    ("half", "onnx"), ("split", "input"), ("augment", "flip_test"), ("device", "device_target"),
])
def test_the_answers_of_predict(name, option, monkeypatch):
    known = options_of("predict", monkeypatch)
    assert name in known or f"--{option}" in unknown(name, "", known)


def test_labels_are_imported_with_a_command_that_works(tmp_path, monkeypatch):
    """Its folders are given, and do not contain each other, which the importer refuses."""
    (tmp_path / "my labels").mkdir()
    (tmp_path / "my labels" / "data.yaml").touch()
    monkeypatch.chdir(tmp_path)
    tool = command("tools/import_dataset.py")
    for value in ("my labels", "my labels/data.yaml"):
        assert f"{tool} --input 'my labels' --output data" in answer("train", "data", value)
    monkeypatch.chdir(tmp_path / "my labels")
    text = answer("train", "data", "data.yaml")
    assert "--input . --output " in text and f"--output '{tmp_path / 'my labels'}_coco'" in text
    assert "--input FOLDER --output data" in answer("train", "data", "coco.yaml")


def test_the_choices_of_the_optimizer_are_all_named():
    for name in load_defaults()[2]["train_config.optimizer"]["choices"]:
        assert name in answer("train", "optimizer", "adamw")


def test_all_unknown_options_are_answered_at_once():
    with user_error("--epochs", "--epoch_size", "--lr0", "learning_rate", "--quit", "--quiet?"):
        get_config("", ["--epochs", "3", "--seed", "2", "--lr0", "-1", "--quit"], "train")
    with user_error("epochs=3", "--epoch_size", "--dataset_config.input_res_train") as raised:
        get_config("", ["epochs=3", "imgsz=640", "seed=1"], "train")
    assert "seed" not in str(raised.value)


def test_a_tool_answers_unknown_options_before_missing_ones():
    parser = OptionParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("words", nargs="*")
    with user_error("--source", "--input?", "required"):
        parser.parse_args(["--source", "a.jpg"])
    with user_error("required") as raised:
        parser.parse_known_args(["--epoch_size", "3"])  # which another parser may accept
    assert "epoch_size" not in str(raised.value)
    with user_error("required") as raised:
        parser.parse_args(["--", "--epoch_size", "3"])
    assert "epoch_size" not in str(raised.value)


def test_given_options():
    words = ["--a", "1", "2", "--b=c d", "--e", "-1", "--f", "--", "--g"]
    assert list(given_options(words)) == [("a", "1"), ("b", "c d"), ("e", "-1"), ("f", "")]


def test_a_configuration_file_without_its_option():
    with user_error("--config_path configs/a.yaml"):
        get_config("", ["configs/a.yaml"])
