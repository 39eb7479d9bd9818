"""The model zoo's pose configuration and ini file, as they are."""
import json
import os
import re

from src.commands import make_rank_table
from src.model_utils import config as config_module
from src.model_utils.config import get_config
from tests.conftest import ROOT, call_script, lines_with

FOLDER = os.path.join(ROOT, "tests", "zoo", "pose")
CONFIG, INI = (os.path.join(FOLDER, name) for name in ("default_config.yaml", "hyper_parameter_config.ini"))


def test_its_configuration_means_its_task_and_network():
    config = get_config("", ["--config_path", CONFIG])
    assert (config.net_config.task, config.net_config.arch, config.net_config.dense_hp) == ("pose", "dlazoo_34", True)
    assert config.dataset_config.flip_idx[:2] == [[1, 2], [3, 4]] and len(config.dataset_config.flip_idx) == 8
    assert config.dataset_config.input_res_train == [512, 512] == config.export_config.input_res
    assert config.eval_config.SOFT_NMS and config.eval_config.pad_multiple == 32
    assert (config.mindrecord_prefix, config.dataset_config.max_objs) == ("coco_hp.train.mind", 32)
    assert config.train_config.MultiDecay.multi_epochs == [270, 300] and config.run_mode == "val"
    [note] = lines_with(config.summary(), "ignored")
    for name in ("num_joints", "categories", "edges", "stage_levels", "last_level", "data_sink_steps"):
        assert name in note


def test_values_given_besides_it_are_used():
    config = get_config("", ["--config_path", CONFIG, "--net_config.arch", "dla_34", "--eval_config.SOFT_NMS", "false"])
    assert config.net_config.arch == "dla_34" and config.eval_config.SOFT_NMS is False


def test_every_default_that_differs_is_listed():
    """docs/differences.md names each of its parameters that is missing here or has another value."""
    theirs, (ours, *_) = config_module.flatten(config_module.read_config_file(CONFIG)), config_module.load_defaults()
    with open(os.path.join(ROOT, "docs", "differences.md"), encoding="utf-8") as file:
        text = file.read()
    with open(os.path.join(ROOT, "configs", "coco_pose_dlazoo34.yaml"), encoding="utf-8") as file:
        recipe = file.read()
    changed = get_config("", ["--config_path", CONFIG]).changed()
    differ = [name for name in theirs if name not in ours or name in changed]
    names = {name.split(".")[-1] for name in differ} - {"flip_idx"}  # from the names of the keypoints
    left = {name for name in names if not re.search(rf"`[^`|]*\b{name}\b", text) and f"{name}:" not in recipe}
    assert not left


def test_its_ini_file_configures_the_distributed_launcher(tiny_records, tmp_path):
    make_rank_table.main(["--cpu", "--devices", "0-1", "--server_id", "127.0.0.1", "--output",
                          str(tmp_path / "hccl.json")])
    manifest = tiny_records / "coco_det.train.mind.manifest.json"
    for name in os.listdir(tiny_records):
        os.symlink(tiny_records / name, tmp_path / name.replace("coco_det", "coco_hp"))
    for name in json.loads(manifest.read_text())["files"]:
        for end in ("", ".db"):
            os.symlink(tiny_records / f"{name}{end}", tmp_path / f"{name}{end}")
    script = "scripts/ascend_distributed_launcher/get_distribute_train_cmd.py"
    call_script(script, "--mindrecord_dir", tmp_path, "--hccl_config_dir", "hccl.json", "--hyper_parameter_config_dir",
                INI, "--device_target", "CPU", "--load_checkpoint_path", " ", "--", "--train_config.batch_size", 4,
                cwd=tmp_path)
    command = (tmp_path / "distributed_cmd.sh").read_text()
    assert "--epoch_size 350" in command and "coco_hp.train.mind" in command
