"""src/model_utils/combinations.py: invalid combinations, and parameters without effect."""
import glob
import os
import re

import pytest

from src.model_utils import combinations
from src.model_utils.config import load_defaults
from src.tasks import task_of
from src.tasks.detection import DETECTION
from tests.conftest import ROOT, TINY, assert_user_error, call_script, lines_with, user_error


def assert_messages(messages, expected):
    """Assert one message with the keywords and parameters of `expected` ("condition: names"), or none if it is None."""
    assert len(messages) == (expected is not None), messages
    for message in messages:
        assert all(part in message for part in re.split("[:,] ", expected)), message
        assert names_in(message) == names_in(expected), message


def names_in(text):
    """The parameters that a string names."""
    return set(re.findall(r"\w[\w.]*\w", text)) & set(load_defaults()[0])


@pytest.mark.parametrize("args, expected", [
    (["dataset_config.rotate", 30], "dataset_config.aug_rot is 0: dataset_config.rotate"),
    (["dataset_config.rotate", 30, "dataset_config.aug_rot", 0.5], None),
    (["dataset_config.aug_rot", 0.5], "dataset_config.rotate is 0: dataset_config.aug_rot"),
    (["train_config.dynamic_loss_scale", "true", "enable_lossscale", "false"],
     "enable_lossscale is false: train_config.dynamic_loss_scale"),
    (["train_config.dynamic_loss_scale", "true"], None),
    (["train_config.loss_scale_window", 5, "train_config.dynamic_loss_scale", "true"], None),
    (["train_config.loss_scale_window", 5], "loss scale, dynamic: train_config.loss_scale_window"),
    (["best_metric", "AP50"], "eval_epochs is 0: best_metric"), (["best_metric", "AP50", "eval_epochs", 2], None),
    (["best_metric", "AP"], None),
    (["net_config.load_backbone_path", "b", "load_checkpoint_path", "c"],
     "load_checkpoint_path: net_config.load_backbone_path"),
    (["net_config.load_backbone_path", "b", "resume", "true"], "resume is true: net_config.load_backbone_path"),
    (["net_config.load_backbone_path", "b"], None), (["device_num", 8], "distribute is false: device_num"),
    (["data_sink_steps", 8, "enable_data_sink", "false"], "enable_data_sink is false: data_sink_steps"),
    (["save_checkpoint_steps", 8, "save_checkpoint_path", "p", "enable_save_ckpt", "false"],
     "enable_save_ckpt is false: save_checkpoint_path, save_checkpoint_steps"),
    (["save_checkpoint_path", "p", "resume", "true", "enable_save_ckpt", "false"], None),
    (["use_ema", "false"], "train_config.ema_decay is 0: use_ema"),
    (["use_ema", "false", "load_checkpoint_path", "c"], None),
    (["profiler_path", "p"], "need_profiler is false: profiler_path"),
    (["dataset_config.heatmap_on", "device", "net_config.dense_wh", "true"],
     "host, heatmaps: dataset_config.heatmap_on"),
    (["dataset_config.heatmap_on", "device", "net_config.task", "pose"], "host, heatmaps: dataset_config.heatmap_on"),
    (["net_config.hp_weight", 2, "dataset_config.flip_idx", "[[0, 1]]"],
     "task is detection: dataset_config.flip_idx, net_config.hp_weight"),
    (["net_config.norm_wh", "true", "net_config.hm_hp", "false", "net_config.task", "pose"],
     "task is pose: net_config.norm_wh"),
    (["net_config.hm_hp_weight", 2, "net_config.hm_hp", "false", "net_config.task", "pose"],
     "net_config.hm_hp is false: net_config.hm_hp_weight"),
    (["dataset_config.shift", 0.2], "dataset_config.rand_crop is true: dataset_config.shift"),
    (["dataset_config.eig_val", "[1, 1, 1]", "dataset_config.color_aug", "false"],
     "dataset_config.color_aug is false: dataset_config.eig_val"),
    (["net_config.norm_wh", "true", "net_config.dense_wh", "true"], "net_config.dense_wh is true: net_config.norm_wh"),
    (["net_config.off_weight", 2, "net_config.reg_offset", "false"],
     "net_config.reg_offset is false: net_config.off_weight"),
    (["net_config.reg_loss", "sl1", "net_config.reg_offset", "false"], None),
    (["net_config.reg_loss", "sl1", "net_config.reg_offset", "false", "net_config.norm_wh", "true"],
     "net_config.reg_offset is false: net_config.reg_loss"),
    (["train_config.backbone_lr_factor", 0.1, "train_config.freeze", "backbone"],
     "train_config.freeze is backbone: train_config.backbone_lr_factor"),
    (["train_config.AdamW.weight_decay", 0.1],
     "train_config.optimizer is Adam: train_config.AdamW.weight_decay, train_config.Adam.weight_decay"),
    (["train_config.SGD.momentum", 0.5], "train_config.optimizer is Adam: train_config.SGD.momentum"),
    (["train_config.SGD.momentum", 0.5, "train_config.optimizer", "SGD"], None),
    (["train_config.PolyDecay.power", 1], "train_config.lr_schedule is MultiDecay: train_config.PolyDecay.power"),
    (["train_config.MultiDecay.eps", 1e-4, "train_config.optimizer", "SGD"],
     "train_config.optimizer is SGD: train_config.MultiDecay.eps"),
    (["train_config.Adam.decay_filter", "[.x]"], "train_config.Adam.weight_decay is 0: train_config.Adam.decay_filter"),
    (["net_config.dcn_impl", "native", "net_config.arch", "res_18"], "res_18: net_config.dcn_impl"),
    (["net_config.dcn_impl", "native", "net_config.arch", "dla_34"], None),
    (["data_url", "s3"], "enable_modelarts is false: data_url"),
    (["dataset_config.input_res_test", "[96, 96]"], "eval_config.keep_res is true: dataset_config.input_res_test"),
    (["eval_config.pad_multiple", 32, "eval_config.keep_res", "false"],
     "eval_config.keep_res is false: eval_config.pad_multiple"),
])
def test_parameters_without_effect_in_a_training(args, expected, make_config):
    options = [f"--{arg}" if index % 2 == 0 else arg for index, arg in enumerate(args)]
    assert_messages(combinations.unused_in_training(make_config(*options)), expected)


@pytest.mark.parametrize("args, use", [
    (["train_config.PolyDecay.learning_rate", 1], "set train_config.lr_schedule PolyDecay"),
    (["train_config.PolyDecay.learning_rate", 1], "train_config.MultiDecay.learning_rate"),
    (["train_config.PolyDecay.learning_rate", 1, "train_config.lr_schedule", "CosineDecay"],
     "train_config.CosineDecay.learning_rate"),
    (["train_config.AdamW.weight_decay", 1, "train_config.optimizer", "SGD"], "set train_config.optimizer AdamW"),
])
def test_a_parameter_of_another_schedule_or_optimizer_names_the_one_in_use(args, use, make_config):
    options = [f"--{arg}" if index % 2 == 0 else arg for index, arg in enumerate(args)]
    message, = lines_with(combinations.unused_in_training(make_config(*options)), args[0])
    assert use in message


def test_the_sections_are_those_of_the_configuration():
    rules = load_defaults()[2]
    for parameter, sections in combinations.SECTIONS.items():
        assert list(sections) == rules[f"train_config.{parameter}"]["choices"]


def test_a_learning_rate_that_is_never_divided(make_config):
    messages = combinations.unused_in_training(make_config("--epoch_size", 30))
    assert_messages(messages, "epoch_size is 30: train_config.MultiDecay.multi_epochs")
    assert "[90, 120]" in messages[0]
    for args in (["--epoch_size", 91], ["--epoch_size", 30, "--train_config.lr_schedule", "CosineDecay"],
                  ["--epoch_size", 3, "--train_config.MultiDecay.multi_epochs", "[]"]):
        assert combinations.unused_in_training(make_config(*args)) == []


@pytest.mark.parametrize("arch, onnx, args, expected", [
    ("resdcn_18", False, ["--eval_config.SOFT_NMS", "false", "--eval_config.multi_scales", "[0.5, 1]"],
     "eval_config.multi_scales: eval_config.SOFT_NMS"),
    ("resdcn_18", False, ["--eval_config.SOFT_NMS", "false"], None),
    ("resdcn_18", False, ["--eval_config.voc_metric", "true", "--run_mode", "test"],
     "run_mode is test, enable_eval: eval_config.voc_metric"),
    ("resdcn_18", False, ["--eval_config.voc_metric", "true", "--split", "test"], None),
    ("resdcn_18", False, ["--eval_config.score_thresh", 0.5], "visual_image is false: eval_config.score_thresh"),
    ("resdcn_18", False, ["--onnx_provider", "CUDA"], "MindSpore computes: onnx_provider"),
    ("resdcn_18", True, ["--onnx_provider", "CUDA"], None),
    ("resdcn_18", True, ["--device_target", "CPU", "--jit_level", "O0"],
     "runtime, ONNX files computes: device_target, jit_level"),
    ("hourglass", False, ["--net_config.dcn_impl", "native"], "hourglass: net_config.dcn_impl"),
])
def test_parameters_without_effect_in_an_evaluation(arch, onnx, args, expected, make_config):
    assert_messages(combinations.unused_in_evaluation(make_config(*args), arch, onnx, DETECTION), expected)


@pytest.mark.parametrize("args, expected", [
    (["--export_config.onnx_dcn", "grid_sample"], "export_config.export_format is MINDIR: export_config.onnx_dcn"),
    (["--export_config.export_format", "ONNX", "--export_config.input_res", "[96, 96]"],
     "export_config.onnx_dynamic: export_config.input_res"),
    (["--export_config.export_format", "ONNX", "--export_config.input_res", "[96, 96]",
      "--export_config.onnx_dynamic", "false"], None),
    (["--export_config.input_res", "[96, 96]"], None),
])
def test_parameters_without_effect_in_an_export(args, expected, make_config):
    assert_messages(combinations.unused_in_export(make_config(*args), "resdcn_18"), expected)


@pytest.mark.parametrize("path", glob.glob(f"{ROOT}/configs/*.yaml"), ids=os.path.basename)
def test_the_recipes_set_no_parameters_without_effect(path, make_config):
    config = make_config("--config_path", path)
    arch = config.net_config.arch
    messages = combinations.unused_in_training(config) + combinations.unused_in_export(config, arch)
    assert messages + combinations.unused_in_evaluation(config, arch, False, task_of(config.net_config)) == []


@pytest.mark.parametrize("name", ["PolyDecay", "CosineDecay"])
def test_a_rising_learning_rate_is_refused(name, make_config, tiny_records, tmp_path):
    rate = [f"--train_config.{name}.learning_rate", 1e-5, f"--train_config.{name}.end_learning_rate", 1e-4]
    combinations.check_schedule(make_config(*rate).train_config)  # another schedule is in use
    with user_error(f"{name}.end_learning_rate", "0.0001", "1e-05"):
        combinations.check_schedule(make_config(*rate, "--train_config.lr_schedule", name).train_config)
    args = [*TINY, *rate, "--train_config.lr_schedule", name, "--mindrecord_dir", tiny_records]
    done = call_script("train.py", *args, cwd=tmp_path, check=False)
    assert_user_error(done, f"{name}.end_learning_rate", "1e-05")
    assert os.listdir(tmp_path) == []


def test_dense_and_per_class_sizes_together_are_refused(make_config):
    with user_error("net_config.dense_wh", "cat_spec_wh"):
        make_config("--net_config.dense_wh", "true", "--net_config.cat_spec_wh", "true")
