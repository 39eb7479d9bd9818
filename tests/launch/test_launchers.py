"""The launchers of one device."""
import os
import re
import subprocess

import pytest

from src.commands import make_rank_table
from tests.conftest import ROOT, call_script, lines_with, small_project


def launch(script, *args, cwd, shell=("bash",), project=ROOT, **environment):
    command = [*shell, os.path.join(project, "scripts", script), *map(str, args)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("script, args", [
    ("run_standalone_train_ascend.sh", []), ("run_standalone_train_ascend.sh", ["x", "."]),
    ("run_standalone_train_ascend.sh", [0, "/nowhere"]),
    ("run_standalone_train_cpu.sh", ["/nowhere"]), ("run_standalone_train_cpu.sh", []),
    ("run_standalone_eval_cpu.sh", ["train", ".", "x"]), ("run_standalone_eval_cpu.sh", ["val", "/nowhere", "x"]),
    ("run_standalone_eval_ascend.sh", [0, "val", "."]), ("run_standalone_eval_ascend.sh", [0, "train", ".", "x"]),
    ("convert_dataset_to_mindrecord.sh", ["/nowhere", "m"]), ("convert_dataset_to_mindrecord.sh", ["."]),
    ("setup_env.sh", ["/nowhere.txt"]), ("quick_start.sh", ["now"]),
])
def test_wrong_arguments_print_the_usage(script, args, tmp_path):
    done = launch(script, *args, cwd=tmp_path)
    assert done.returncode == 2 and f"usage: bash scripts/{script}" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script, args, message", [
    ("run_standalone_train_ascend.sh", [0, ".", "c", "d"], r"\b2\b.* 3\b.* 4\nusage: "),
    ("run_standalone_eval_ascend.sh", [0, "val", ".", "c", "d"], r"\b4\b.* 5\n"),
    ("run_standalone_train_cpu.sh", [".", "c", "d"], r"\b1\b.* 2\b.* 3\nusage: "),
    ("run_standalone_eval_cpu.sh", ["val", "."], r"\b3\b.* 2\n"),
    ("convert_dataset_to_mindrecord.sh", ["."], r"\b2\b.* 1\n"),
    ("run_distributed_train_ascend.sh", ["--WAIT", ".", "hccl.json"], r"\b2\b.* 4\b.* 0 .*--WAIT\n"),
    ("run_infer_310.sh", [], r"\b3\b.* 4\b.* 0\n"),
])
def test_a_wrong_number_of_arguments_is_reported(script, args, message, tmp_path):
    done = launch(script, *args, cwd=tmp_path)
    assert done.returncode == 2 and re.match(f"error: .*{message}", done.stderr), done.stderr


@pytest.mark.parametrize("shell", [["sh"], ["bash", "--posix"]])
def test_sh_runs_the_launchers_too(shell, tmp_path):
    """With dash as sh, and with bash in POSIX mode."""
    scripts = ["run_standalone_train_ascend.sh", "run_standalone_eval_ascend.sh", "run_standalone_train_cpu.sh",
               "run_standalone_eval_cpu.sh", "run_distributed_train_ascend.sh",
               "run_infer_310.sh", "convert_dataset_to_mindrecord.sh", "setup_env.sh", "quick_start.sh",
               "train_full_4p.sh", "../train_full_4p.sh", "../tools/get_pascal_voc.sh",
               "../src/tools/get_pascal_voc.sh"]
    for script in scripts:
        done = launch(script, "-x", "-y", cwd=tmp_path, shell=shell)
        assert done.returncode == 2 and "usage: bash " in done.stderr, (script, done.stderr)
        assert "line" not in done.stderr, (script, done.stderr)


@pytest.mark.parametrize("name, args, message", [
    ("eval", ["--eval_config.k", 5], "eval_config.K"),
    ("train", ["--mindrecord_dir", "nowhere"], "--mindrecord_dir.* nowhere"),
    ("eval", ["--load_checkpoint_path", "nowhere"], "--load_checkpoint_path.* nowhere"),
    ("dataset", ["--coco_data_dir", "nowhere"], "--coco_data_dir.* nowhere"),
    ("train", ["--enable_modelarts", "true", "--mindrecord_dir", "nowhere", "--device_target", "Ascend"],
     "DEVICE_TARGET=CPU"),
    ("train", ["--enable_modelarts", "true", "--mindrecord_dir", "nowhere", "--device_target", "CPU"], ""),
    ("dataset", ["--coco_data_dir", "DATA", "--mindrecord_dir", "out", "--device_target", "Ascend"], ""),
])
def test_a_command_is_checked_before_it_starts(name, args, message, tiny_data, tmp_path, monkeypatch):
    """As in the launchers; nothing is written."""
    monkeypatch.setattr("src.model_utils.local_adapter.has_npu", lambda: False)
    script, cwd = tmp_path / "check.py", tmp_path / "here"
    script.write_text("import sys\nfrom src.commands import check\ncheck(sys.argv.pop(1))\n")
    cwd.mkdir()
    done = call_script(script, name, *(tiny_data if arg == "DATA" else arg for arg in args), cwd=cwd, check=not message)
    assert done.returncode == (2 if message else 0) and re.search(message, done.stderr), done.stderr
    assert "default_config.yaml" in done.stdout or "eval_config" in message
    assert not list(cwd.iterdir())


EXPECTED = """dataset_config: {num_classes: 80, coco_classes: [disc, cat]}
eval_config: {valid_ids: [1, 2]}
train_config: {freeze: backbone, batch_size: 500, lr_schedule: PolyDecay, PolyDecay: {end_learning_rate: 0.5}}
patience: 3
"""
CLASSES = ["num_classes", "coco_classes", "valid_ids"]


@pytest.mark.parametrize("name, args, parts", [
    ("train", ["--mindrecord_dir", "RECORDS"],
     [*CLASSES, "freeze is backbone", "end_learning_rate 0.5", "patience is 3", "20 images", "Ascend"]),
    ("eval", ["--load_checkpoint_path", "CHECKPOINT", "--data_dir", "DATA"], [*CLASSES, "instances_val2017", "Ascend"]),
    ("dataset", ["--coco_data_dir", "DATA", "--mindrecord_dir", "out"], [*CLASSES, "instances_train2017"]),
])
def test_all_contradictions_are_reported_before_the_start(name, args, parts, tiny_data, tiny_records, small_file,
                                                          tmp_path, monkeypatch):
    """Those of a configuration with the data, and with itself, a line each; nothing is written."""
    monkeypatch.setattr("src.model_utils.local_adapter.has_npu", lambda: False)
    (tmp_path / "check.py").write_text("import sys\nfrom src.commands import check\ncheck(sys.argv.pop(1))\n")
    (tmp_path / "zoo.yaml").write_text(EXPECTED)
    (tmp_path / "here").mkdir()
    paths = {"RECORDS": tiny_records, "DATA": tiny_data, "CHECKPOINT": small_file}
    done = call_script(tmp_path / "check.py", name, "--config_path", tmp_path / "zoo.yaml", "--device_target", "Ascend",
                       *(paths.get(arg, arg) for arg in args), cwd=tmp_path / "here", check=False)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len([part for part in parts if not part.startswith("instances_")]), done.stderr
    for part in parts:
        assert lines_with(lines, part), part
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("batch_size, refused", [(10, False), (11, True)])
def test_the_images_of_a_step_on_all_devices_are_counted_before_the_start(batch_size, refused, tiny_records, tmp_path):
    """20 images on two devices."""
    call_script("tools/make_rank_table.py", "--cpu", "--devices", "0-1", "--output", tmp_path / "hccl.json")
    done = call_script("scripts/ascend_distributed_launcher/get_distribute_train_cmd.py", "--mindrecord_dir",
                       tiny_records, "--hccl_config_dir", tmp_path / "hccl.json", "--device_target", "CPU", "--",
                       "--train_config.batch_size", batch_size, cwd=tmp_path, check=False)
    assert done.returncode == (2 if refused else 0), done.stderr
    assert (tmp_path / "distributed_cmd.sh").exists() != refused
    assert not refused or lines_with(done.stderr, "20 images", "batch_size 11", "2 devices")


@pytest.mark.slow
@pytest.mark.parametrize("script, args, message", [
    ("run_standalone_train_ascend.sh", [0, "."], "manifest.json"),
    ("run_standalone_eval_ascend.sh", [0, "val", ".", "last"], "error: last "),
    ("run_standalone_train_cpu.sh", ["."], "manifest.json"),
    ("run_standalone_eval_cpu.sh", ["val", ".", "last"], "error: last "),
    ("run_standalone_eval_ascend.sh", [0, "val", ".", ""], "(--load_checkpoint_path)"),
    ("convert_dataset_to_mindrecord.sh", [".", "out"], " ./annotations/"),
    ("run_distributed_train_ascend.sh", [".", "table.json"], "manifest.json"),
    ("run_distributed_train_ascend.sh", [".", "table.json", "last"], "error: last "),
    ("run_distributed_train_ascend.sh", [".", "table.json", "zoo.yaml", "last"], "error: last "),
    ("run_distributed_train_ascend.sh", [".", "table.json", "-x/best"], "error: -x/best "),
])
def test_missing_files_are_reported_before_the_start(script, args, message, tmp_path):
    table = str(tmp_path / "table.json")
    make_rank_table.main(["--cpu", "--devices", "0", "--server_id", "127.0.0.1", "--output", table])
    done = launch(script, *args, cwd=tmp_path, DEVICE_TARGET="CPU")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize("script, args, message", [
    ("run_standalone_train_ascend.sh", [0, "RECORDS", "/nowhere.ckpt"],
     "(--load_checkpoint_path) not found: /nowhere.ckpt"),
    ("run_standalone_train_ascend.sh", [0, "RECORDS", "run/best"], "error: run/best "),
    ("run_standalone_train_ascend.sh", [0, "RECORDS", "-x/best"], "error: -x/best "),
    ("run_standalone_eval_ascend.sh", [0, "val", "DATA", "-x/last"], "error: -x/last "),
    ("run_standalone_train_ascend.sh", [0, "RECORDS", "--resume", "true"], "--run_dir"),
    ("run_standalone_train_ascend.sh", [0, "RECORDS", "--eval_epochs", 1, "--data_dir", "nowhere"],
     "(--data_dir) not found: nowhere"),
    ("run_standalone_eval_ascend.sh", [0, "val", ".", "CHECKPOINT"], " ./annotations/"),
    ("convert_dataset_to_mindrecord.sh", ["DATA", "RECORDS"], "is done; choose another"),
])
@pytest.mark.slow
def test_wrong_paths_are_reported_before_the_start(script, args, message, tiny_data, tiny_records, small_file,
                                                   tmp_path):
    given = {"RECORDS": tiny_records, "CHECKPOINT": small_file, "DATA": tiny_data}
    done = launch(script, *(given.get(arg, arg) for arg in args), cwd=tmp_path, DEVICE_TARGET="CPU")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("script, args, name", [
    ("run_standalone_train_ascend.sh", [0, "RECORDS"], "training_log.txt"),
    ("run_standalone_eval_ascend.sh", [0, "val", "DATA", "CHECKPOINT"], "eval_log.txt"),
    ("convert_dataset_to_mindrecord.sh", ["DATA", "out"], "create_dataset.log"),
    ("run_infer_310.sh", ["m", ".", "y"], "infer.log"),
])
def test_another_programs_log_is_neither_moved_nor_overwritten(script, args, name, tiny_data, tiny_records, small_file,
                                                               tmp_path):
    """Checked last, after all other mistakes."""
    args = [{"RECORDS": tiny_records, "CHECKPOINT": small_file, "DATA": tiny_data}.get(arg, arg) for arg in args]
    (tmp_path / name).write_text("epoch 1: val_loss 0.3\n")
    (tmp_path / "m").touch()
    done = launch(script, *args, cwd=tmp_path, DEVICE_TARGET="CPU")
    assert done.returncode == 2 and f"error: {name} " in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "m"])
    assert (tmp_path / name).read_text() == "epoch 1: val_loss 0.3\n"


@pytest.mark.parametrize("content, ours", [
    ("configuration: default_config.yaml; all values are its own\n", True),
    ("LOG_scheduler: process 12\nLOG0: process 13\n", True), ("CenterNet on MindSpore: infer.log\n", True), ("", True),
    ("kept LOG0: process 12\n", False), ("\0\xff", False),
])
def test_our_logs_are_recognized(content, ours, tmp_path):
    (tmp_path / "a.log").write_text(content)
    command = ["bash", "-euc", f'source "{ROOT}/scripts/common.sh"; back_up_existing a.log']
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == (0 if ours else 2)
    assert os.listdir(tmp_path) == ["a.log.1" if ours else "a.log"]


def wait_for(pid_line):
    """Wait for a launcher's background process; it is not a child of this process, so tail polls it."""
    pid = int(pid_line.split("process ")[1].split(";")[0])
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=600, check=True)


@pytest.mark.slow
def test_a_quiet_log_is_recognizable(tiny_data, tmp_path):
    started = launch("convert_dataset_to_mindrecord.sh", tiny_data, "records", "--quiet", cwd=tmp_path)
    assert started.returncode == 0 and started.stdout.startswith("started process "), started.stderr
    wait_for(started.stdout)
    first, *_, last = (tmp_path / "create_dataset.log").read_text().splitlines()
    assert first == "CenterNet on MindSpore: create_dataset.log" and last.startswith("20 images")
    assert "default_config.yaml" not in (tmp_path / "create_dataset.log").read_text()


@pytest.mark.slow
def test_launchers_run_in_the_background(tiny_data, tmp_path):
    """Conversion, training and evaluation on the CPU, with CONFIG_PATH, next to another program's src/.

    Slow: three launchers each start a process for checks and another for the work.
    """
    project, folder = small_project(tmp_path / "p"), tmp_path / "elsewhere"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "__init__.py").touch()
    settings = folder / "tiny.yaml"
    settings.write_text("seed: 77\ntrain_steps: 1\ntrain_config: {batch_size: 4}\n"
                        "dataset_config: {input_res_train: [96, 96]}\n")
    environment = {"DEVICE_TARGET": "CPU", "CONFIG_PATH": str(settings), "project": project, "cwd": folder}

    def log_of(started, log):
        """The launcher's complete log."""
        assert started.returncode == 0, started.stderr
        wait_for(started.stdout)
        text = (folder / log).read_text()
        assert f"seed 77 ({settings})" in text.splitlines()[0], text
        return text

    earlier = "configuration: default_config.yaml; all values are its own"
    (folder / "training_log.txt").write_text(earlier)
    text = log_of(launch("convert_dataset_to_mindrecord.sh", tiny_data, "records", **environment), "create_dataset.log")
    assert "20 images" in text
    left = {"RANK_SIZE": "8", "RANK_ID": "3", "DEVICE_ID": "3"}  # of another job's launcher
    text = log_of(launch("run_standalone_train_ascend.sh", 0, "records", **environment, **left), "training_log.txt")
    assert "RANK_SIZE, RANK_ID, DEVICE_ID in the environment" in text
    assert "step: 1 | loss" in text
    assert (folder / "training_log.txt.1").read_text() == earlier
    assert (folder / "ckpt_0" / "centernet-1_1.ckpt").exists() and (folder / "ms_log").is_dir()
    text = log_of(launch("run_standalone_eval_ascend.sh", 0, "val", tiny_data, "last", **environment), "eval_log.txt")
    assert "overall performance on shapes validation dataset" in text
