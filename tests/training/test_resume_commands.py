"""What a training says of how to go on: commands that hold where the person stands who reads it."""
import pytest

from src.core import project
from src.training.resume_commands import commands_for, resume_command


@pytest.fixture
def in_log0(monkeypatch, tmp_path):
    """This process works in LOG0/ of the folder work, in which a launcher was called, beside the project."""
    monkeypatch.setattr(project, "ROOT", str(tmp_path / "project"))
    (tmp_path / "work" / "LOG0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "LOG0")
    monkeypatch.setenv("CENTERNET_LAUNCHED_IN", str(tmp_path / "work"))
    return tmp_path / "work" / "LOG0"


def test_the_commands_of_a_launchers_process_hold_in_the_launchers_folder(in_log0, monkeypatch):
    """And those of a process that no launcher started in its own."""
    evaluate, report, predict, _ = commands_for("ckpt_0/last.ckpt", "/data", "").splitlines()[1:]
    assert evaluate == "  python ../project/eval.py --data_dir /data --load_checkpoint_path LOG0/ckpt_0/last.ckpt --save_result_dir LOG0"
    assert report == "  python ../project/tools/report.py LOG0" and "--load_checkpoint_path LOG0/ckpt_0/last.ckpt " in predict
    assert "DATA --load_checkpoint_path /run/last.ckpt --save_result_dir LOG0/results" in commands_for("/run/last.ckpt", "", "./results")
    monkeypatch.delenv("CENTERNET_LAUNCHED_IN")
    evaluate, report, *_ = commands_for("ckpt_0/last.ckpt", "data", "").splitlines()[1:]
    assert evaluate == "  python ../../project/eval.py --data_dir data --load_checkpoint_path ckpt_0/last.ckpt"
    assert report == "  python ../../project/tools/report.py ."


def test_what_several_servers_read_is_first_put_where_no_launch_moves_it(in_log0, monkeypatch):
    behind = f"go on with the launcher's same command and, behind it, --resume true --load_checkpoint_path {in_log0.parent}"
    assert resume_command("ckpt_0/c.ckpt", 2) == f"{behind}/LOG0/ckpt_0/c.ckpt"
    monkeypatch.setenv("CENTERNET_SEVERAL_SERVERS", "yes")
    assert resume_command("ckpt_0/c.ckpt", 2) == (f"first `mv {in_log0} {in_log0}-earlier`, have that folder on each server, and "
                                                f"{behind}/LOG0-earlier/ckpt_0/c.ckpt")
    assert resume_command(f"{in_log0.parent}/run/c.ckpt", 2) == f"{behind}/run/c.ckpt"
    assert "rank 0" in resume_command("", 2) and "--resume" not in resume_command("", 2)
