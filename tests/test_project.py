"""How scripts start, from a checkout and installed; tests/test_package.py has the installed package itself."""
import os

import pytest

from src import project
from src.next_commands import commands_for
from src.project import INSTALLED, command, how_to_install
from src.project import ROOT as PROJECT
from tests.conftest import ROOT


def test_this_is_a_checkout():
    assert not INSTALLED and os.path.samefile(PROJECT, ROOT)


@pytest.mark.parametrize("folder, started", [
    (ROOT, "python train.py"), (os.path.join(ROOT, "tools"), "python ../train.py"),
])
def test_a_checkouts_scripts_have_the_shorter_path(folder, started, monkeypatch):
    monkeypatch.chdir(folder)
    assert command("train.py") == started


def test_the_commands_of_a_launchers_process_hold_in_the_launchers_folder(monkeypatch, tmp_path):
    """A process in LOG0/ of a folder beside the project; and one that no launcher started."""
    monkeypatch.setattr(project, "ROOT", str(tmp_path / "project"))
    (tmp_path / "work" / "LOG0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "LOG0")
    monkeypatch.setenv("CENTERNET_LAUNCHED_IN", str(tmp_path / "work"))
    evaluate, report, predict, _ = commands_for("ckpt_0/last.ckpt", "/data", "").splitlines()[1:]
    assert evaluate == "  python ../project/eval.py --data_dir /data --load_checkpoint_path LOG0/ckpt_0/last.ckpt --save_result_dir LOG0"
    assert report == "  python ../project/tools/report.py LOG0" and "--load_checkpoint_path LOG0/ckpt_0/last.ckpt " in predict
    assert "DATA --load_checkpoint_path /run/last.ckpt --save_result_dir LOG0/results" in commands_for("/run/last.ckpt", "", "./results")
    monkeypatch.delenv("CENTERNET_LAUNCHED_IN")
    evaluate, report, *_ = commands_for("ckpt_0/last.ckpt", "data", "").splitlines()[1:]
    assert evaluate == "  python ../../project/eval.py --data_dir data --load_checkpoint_path ckpt_0/last.ckpt"
    assert report == "  python ../../project/tools/report.py ."


@pytest.mark.parametrize("script, started", [
    ("train.py", "centernet-train"), ("tools/report.py", "centernet-report"), ("src/dataset.py", "python -m centernet.dataset"),
    ("tools/voc_to_coco.py", "python -m centernet.tools.voc_to_coco"), ("preprocess.py", "python -m centernet.preprocess"),
])
def test_an_installed_script_is_a_command_or_a_module(script, started):
    assert command(script, installed=True) == started


def test_what_is_missing_is_installed_by_file_or_extra():
    for extra in ("", "onnx", "serve", "tensorboard", "torch"):
        assert os.path.exists(os.path.join(ROOT, how_to_install(extra, installed=False).rpartition(" ")[2]))
    assert how_to_install("onnx", installed=True) == "pip install 'centernet-mindspore[onnx]'"
