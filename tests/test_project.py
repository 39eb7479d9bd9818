"""How scripts start, from a checkout and installed; tests/test_package.py has the installed package itself."""
import os

import pytest

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
