"""The folder of a run: where a training writes, its settings, and what names its checkpoints."""
import os

import pytest
import yaml

from src.commands.train import check_paths
from src.core.errors import UserError
from src.model_utils.config import get_config
from src.weights.checkpoints import CheckpointFolder
from src.weights.run_folder import (
    newest_run,
    resolve_checkpoint_alias,
    run_of,
    settle_outputs,
    start_run,
    write_settings,
)
from tests.conftest import ROOT, TINY, assert_user_error, call_script, replace_resdcn_18, train_least
from tests.weights.test_checkpoints import save

ANYWHERE = tuple(arg for arg in TINY if arg not in ("--run_dir", "."))  # the settings of TINY, in a new run's folder


def configured(*args):
    return get_config("", ["--net_config.task", "detection", *map(str, args)])


def make_run(folder, settings="", best=True):
    """A run's folder with checkpoints of steps 3, the best, and 4, and settings.yaml."""
    checkpoints = CheckpointFolder(str(folder / "ckpt_0"), 9, {})
    first = save(checkpoints, 3)
    if best:
        checkpoints.keep_best(first)
    save(checkpoints, 4)
    (folder / "settings.yaml").write_text(f"# CenterNet on MindSpore\n{settings}")
    return folder


@pytest.mark.parametrize("args, several, checkpoints, results", [
    (["--run_dir", "a"], False, "a", "a"), (["--run_dir", "a"], True, "a", "a"),
    (["--save_result_dir", "b"], False, "b", "b"), (["--save_checkpoint_path", "c"], False, "c", "c"),
    (["--run_dir", "a", "--save_result_dir", "b"], False, "a", "b"),
    (["--save_checkpoint_path", "c", "--save_result_dir", "b"], False, "c", "b"), ([], True, "", ""),
    (["--run_dir", "./"], False, "", ""),
])
def test_one_option_names_the_folder_of_a_run(args, several, checkpoints, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured(*args)
    assert settle_outputs(config, several)
    assert (config.save_checkpoint_path, config.save_result_dir) == (checkpoints, results)


def test_a_new_run_has_the_next_number(tmp_path, monkeypatch):
    """After the highest, not in a gap; other names are left alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("2", "10", "notes"):
        (tmp_path / "runs" / "detection" / name).mkdir(parents=True)
    for number in ("11", "12"):
        config = configured()
        assert not settle_outputs(config, several=False)
        start_run(config)
        assert config.save_checkpoint_path == config.save_result_dir == f"runs/detection/{number}"
        assert (tmp_path / "runs" / "detection" / number).is_dir()
    config = get_config("", ["--net_config.task", "pose"])
    start_run(config)
    assert config.save_result_dir == "runs/pose/1"


def test_a_file_in_place_of_the_runs_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(UserError, match="runs/detection"):
        start_run(configured())


def test_a_resumed_run_stays_in_its_folder(tmp_path, monkeypatch):
    """That of the checkpoint; without one, the current folder's, else the newest run's of the task."""
    monkeypatch.chdir(tmp_path)
    config = configured("--resume", "true")
    assert not settle_outputs(config, several=False)
    first, second = (make_run(tmp_path / "runs" / "detection" / name) for name in "12")
    os.utime(first / "settings.yaml", (5, 5))
    for args, expected in (([], "runs/detection/2"),
                           (["--load_checkpoint_path", first / "ckpt_0" / "centernet-1_4.ckpt"], "runs/detection/1"),
                           (["--run_dir", "new"], "new")):
        config = configured("--resume", "true", *args)
        assert settle_outputs(config, several=False) and config.save_checkpoint_path == expected
    os.utime(second / "settings.yaml", (4, 4))
    for name, text in (("empty", "# CenterNet on MindSpore\n"), ("foreign", "volume: 3\n")):  # without checkpoints
        (tmp_path / "runs" / "detection" / name).mkdir()
        (tmp_path / "runs" / "detection" / name / "settings.yaml").write_text(text)
    assert newest_run() == "runs/detection/1" and newest_run("pose") == ""
    (tmp_path / "ckpt_0").mkdir()
    config = configured("--resume", "true")
    assert settle_outputs(config, several=False) and config.save_result_dir == ""


def test_a_run_names_its_checkpoints(tmp_path, monkeypatch):
    """Its folder or ckpt_0: the best, or to resume the latest; best and last alone are the newest run's."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "detection" / "1")
    run, folder = "runs/detection/1", "runs/detection/1/ckpt_0"
    for name in (run, folder, f"{run}/best", "best"):
        assert resolve_checkpoint_alias(name) == f"{folder}/centernet-best.ckpt"
    for name in (f"{run}/last", "last"):
        assert resolve_checkpoint_alias(name) == f"{folder}/centernet-1_4.ckpt"
    assert resolve_checkpoint_alias(run, latest=True) == f"{folder}/centernet-1_4.ckpt"
    make_run(tmp_path / "run with a space", best=False)
    assert resolve_checkpoint_alias("run with a space").endswith("space/ckpt_0/centernet-1_4.ckpt")
    assert resolve_checkpoint_alias("") == "" and resolve_checkpoint_alias("runs") == "runs"


def test_the_run_of_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a")
    (tmp_path / "a" / "ckpt_0.1").mkdir()
    for path in ("a/ckpt_0/centernet-1_4.ckpt", tmp_path / "a" / "ckpt_0.1" / "x.ckpt", "a/x.ckpt"):
        assert run_of(str(path)) == "a"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "settings.yaml").write_text("volume: 3\n")  # another program's
    assert run_of("b/x.ckpt") == "" and run_of("x.ckpt") == "" and run_of("a/centernet.onnx") == ""
    monkeypatch.chdir(tmp_path / "a" / "ckpt_0")
    assert run_of("centernet-1_4.ckpt") == ".."


def test_the_settings_of_a_run_are_a_configuration_file(tmp_path, monkeypatch):
    """All parameters and their origins; read back they give the same values, and the next run a new folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("dataset_config: {coco_classes: [a, 'no: #1', \"it's\"]}\n")
    config = configured("--config_path", "mine.yaml", "--train_config.Adam.weight_decay", 0.5, "--seed", 7)
    config.save_checkpoint_path = config.save_result_dir = "out"
    (tmp_path / "out").mkdir()
    write_settings(config)
    text = (tmp_path / "out" / "settings.yaml").read_text()
    assert "seed: 7  # the command line\n" in text and "epoch_size: 140  # default_config.yaml\n" in text
    assert '["a", "no: #1", "it\'s"]  # mine.yaml\n' in text
    assert yaml.safe_load(text)["train_config"]["Adam"]["weight_decay"] == 0.5
    again = get_config("", ["--config_path", "out/settings.yaml"])
    assert again.parameters() == {**config.parameters(), "save_checkpoint_path": "", "save_result_dir": ""}
    write_settings(config)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["settings.yaml"]
    config.set("seed", 8, "the command line")
    config.set("resume", True, "the command line")
    config.set("run_dir", "out", "the command line")
    write_settings(config)
    settings = get_config("", ["--config_path", "out/settings.yaml"])
    assert settings.seed == 8 and not settings.resume and not settings.run_dir
    assert "# resume: true  # the command line\n" in (tmp_path / "out" / "settings.yaml").read_text()
    assert "seed: 7 " in (tmp_path / "out" / "settings.1.yaml").read_text()


def test_another_programs_settings_are_kept(tmp_path, monkeypatch, tiny_records):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("volume: 3\n")
    args = [*TINY, "--mindrecord_dir", tiny_records]
    assert_user_error(call_script("train.py", *args, cwd=tmp_path, check=False), "settings.yaml", "not written by")


@pytest.mark.parametrize("path", ["a\x7fb", "a\x85b", "a\tb\nc", "a\u2028b", "\U0001f600", "~", "yes", "a\udcffb",
                                  "1e5", "a: #b"])
def test_paths_with_any_characters_read_back(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured("--mindrecord_dir", path)
    write_settings(config)
    assert get_config("", ["--config_path", "settings.yaml"]).mindrecord_dir == path


def test_a_file_in_place_of_the_run_is_named(tmp_path, monkeypatch, tiny_records):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="notes .*--run_dir"):
        check_paths(configured("--mindrecord_dir", tiny_records, "--run_dir", "notes"))


def test_a_model_zoo_files_folder_gives_way_to_an_option(tmp_path, monkeypatch):
    """Its blank output paths are the current folder; --run_dir, which comes later, wins."""
    monkeypatch.chdir(tmp_path)
    config = get_config("", ["--config_path", os.path.join(ROOT, "tests", "zoo", "default_config.yaml")])
    assert settle_outputs(config, several=False) and config.save_checkpoint_path == config.save_result_dir == ""
    config = get_config("", ["--config_path", os.path.join(ROOT, "tests", "zoo", "default_config.yaml"), "--run_dir",
                             "exp"])
    assert settle_outputs(config, several=False) and config.save_checkpoint_path == config.save_result_dir == "exp"


def test_a_mistake_leaves_no_folder(tmp_path, monkeypatch, tiny_records):
    monkeypatch.chdir(tmp_path)
    config = configured("--mindrecord_dir", tiny_records, "--load_checkpoint_path", "nowhere.ckpt")
    with pytest.raises(UserError, match=r"nowhere\.ckpt"):
        check_paths(config)
    with pytest.raises(UserError, match=r"ckpt_0.*runs/detection.*--run_dir"):
        check_paths(configured("--mindrecord_dir", tiny_records, "--resume", "true"))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path, tiny_records):
    """The device is only looked for after all else is right."""
    args = [*TINY, "--run_dir", "", "--mindrecord_dir", tiny_records, "--device_target", "Ascend"]
    assert_user_error(call_script("train.py", *args, cwd=tmp_path, check=False), "Ascend")
    assert not [*(tmp_path / "runs" / "detection").iterdir()]


@pytest.mark.slow
def test_a_run_is_one_folder(tiny_records, tiny_data, tmp_path):
    """Trained, resumed, evaluated and reported without naming a folder: all is in runs/detection/1."""
    args = ["--mindrecord_dir", tiny_records, "--data_dir", tiny_data]
    first = train_least("--run_dir", "", *args, "--train_steps", 1, cwd=tmp_path)
    assert "runs/detection/1/ckpt_0/centernet-1_1.ckpt" in first.stdout
    train_least("--run_dir", "", *args, "--train_steps", 2, "--resume", "true", cwd=tmp_path)
    run = tmp_path / "runs" / "detection" / "1"
    with replace_resdcn_18("LEAST"):
        call_script("eval.py", *ANYWHERE, "--data_dir", tiny_data, "--load_checkpoint_path", "runs/detection/1",
                    cwd=tmp_path)
    call_script("tools/report.py", "runs/detection/1", cwd=tmp_path)
    assert {"ckpt_0", "settings.yaml", "train_record.jsonl", "loss.png", "train_batch.jpg", "val",
            "report.html"} <= {path.name for path in run.iterdir()}
    assert (run / "val" / "metrics.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in run.parent.iterdir()] == ["1"]
