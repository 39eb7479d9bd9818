"""src/training/resume_commands.py: command lines relative to the user's folder."""
import pytest

from src.core import project
from src.training.resume_commands import commands_for, resume_command


@pytest.fixture
def in_log0(monkeypatch, tmp_path):
    """This process runs in work/LOG0/, after a launch in work/, which is next to the project."""
    monkeypatch.setattr(project, "ROOT", str(tmp_path / "project"))
    (tmp_path / "work" / "LOG0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "LOG0")
    monkeypatch.setenv("CENTERNET_LAUNCHED_IN", str(tmp_path / "work"))
    return tmp_path / "work" / "LOG0"


def test_commands_are_relative_to_the_launchers_folder(in_log0, monkeypatch):
    """Without a launcher, to the process's own folder."""
    evaluate, report, predict, _ = commands_for("ckpt_0/last.ckpt", "/data", "").splitlines()[1:]
    assert evaluate == ("  python ../project/eval.py --data_dir /data --load_checkpoint_path LOG0/ckpt_0/last.ckpt "
                        "--save_result_dir LOG0")
    assert report == "  python ../project/tools/report.py LOG0"
    assert "--load_checkpoint_path LOG0/ckpt_0/last.ckpt " in predict
    commands = commands_for("/run/last.ckpt", "", "./results")
    assert "DATA --load_checkpoint_path /run/last.ckpt --save_result_dir LOG0/results" in commands
    monkeypatch.delenv("CENTERNET_LAUNCHED_IN")
    evaluate, report, *_ = commands_for("ckpt_0/last.ckpt", "data", "").splitlines()[1:]
    assert evaluate == "  python ../../project/eval.py --data_dir data --load_checkpoint_path ckpt_0/last.ckpt"
    assert report == "  python ../../project/tools/report.py ."


def test_commands_name_a_runs_folder(in_log0):
    """If it has both the checkpoints and the results."""
    (in_log0 / "settings.yaml").write_text("# CenterNet on MindSpore\n")
    commands = commands_for("ckpt_0/last.ckpt", "/data", "").splitlines()[1:]
    assert commands[0] == "  python ../project/eval.py --data_dir /data --load_checkpoint_path LOG0"
    assert all(" LOG0" in line and "ckpt" not in line.replace("ckpt_file", "") for line in commands)
    elsewhere = commands_for("ckpt_0/last.ckpt", "/data", "results")
    assert "LOG0/ckpt_0/last.ckpt --save_result_dir LOG0/results" in elsewhere


def test_on_several_servers_the_checkpoints_folder_is_moved_first(in_log0, monkeypatch):
    """A launch would rename it."""
    def instruction(checkpoint):
        options = f"--resume true --load_checkpoint_path {in_log0.parent}/{checkpoint}"
        return f"repeat the launcher's command with {options} appended"

    assert resume_command("ckpt_0/c.ckpt", 2) == instruction("LOG0/ckpt_0/c.ckpt")
    monkeypatch.setenv("CENTERNET_SEVERAL_SERVERS", "yes")
    assert resume_command("ckpt_0/c.ckpt", 2) == (
        f"first `mv {in_log0} {in_log0}-earlier`, copy that folder to each server, and "
        f"{instruction('LOG0-earlier/ckpt_0/c.ckpt')}")
    assert resume_command(f"{in_log0.parent}/run/c.ckpt", 2) == instruction("run/c.ckpt")
    assert "rank 0" in resume_command("", 2) and "--resume" not in resume_command("", 2)
