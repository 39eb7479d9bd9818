"""Starting scripts from a checkout and from an installation; test_package.py tests the installed package itself."""
import glob
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys

import pytest

from setup import dependencies
from src.core import project
from src.core.project import INSTALLED, command, how_to_install, next_steps
from src.core.project import ROOT as PROJECT
from src.core.version import version
from tests.conftest import ROOT


def test_this_is_a_checkout():
    assert not INSTALLED and os.path.samefile(PROJECT, ROOT)


@pytest.mark.parametrize("folder, started", [
    (ROOT, "python train.py"), (os.path.join(ROOT, "tools"), "python ../train.py"),
])
def test_a_checkouts_scripts_get_the_shortest_path(folder, started, monkeypatch):
    monkeypatch.chdir(folder)
    assert command("train.py") == started


@pytest.mark.parametrize("script, started", [
    ("train.py", "centernet-train"), ("tools/report.py", "centernet-report"),
    ("src/dataset.py", "python -m centernet dataset"),
    ("tools/voc_to_coco.py", "python -m centernet voc_to_coco"), ("preprocess.py", "python -m centernet preprocess"),
])
def test_an_installed_script_is_a_command_or_a_module(script, started):
    assert command(script, installed=True) == started


EXTRAS = ("", "onnx", "serve", "tensorboard", "torch")


def without(monkeypatch, *missing):
    """Hide packages: they can neither be imported nor asked for their version."""
    find_spec, version = importlib.util.find_spec, importlib.metadata.version

    def version_of(name):
        if name.lower() in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    monkeypatch.setattr(importlib.metadata, "version", version_of)


@pytest.fixture
def required(monkeypatch):
    """The package's metadata, made from the requirements files as in setup.py."""
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        found = dependencies()
    of_extras = (add_extra(text, extra) for extra, texts in found["extras_require"].items() for text in texts)
    texts = [*found["install_requires"], *of_extras]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: texts)


def add_extra(text, extra):
    """A requirement of an extra, in the form of the package's metadata."""
    requirement, _, marker = text.partition(";")
    return f'{requirement} ; {f"({marker.strip()}) and " if marker else ""}extra == "{extra}"'


@pytest.mark.parametrize("place", [".", "docs"])
def test_a_checkouts_hints_name_existing_files(place, monkeypatch):
    """From any folder; without MindSpore those that do not install it, with MindSpore the one that keeps its NumPy."""
    monkeypatch.chdir(os.path.join(ROOT, place))
    for extra in EXTRAS:
        assert os.path.exists(how_to_install(extra, installed=False).rpartition(" ")[2])
    assert how_to_install("onnx", installed=False).endswith("requirements.txt")
    without(monkeypatch, "mindspore")
    assert how_to_install("onnx", installed=False).endswith("requirements-onnx.txt")


def test_an_installed_packages_hints_name_missing_packages(required, monkeypatch):
    """Only missing packages, never this one, which is on no index; MindSpore and an older NumPy only for MindSpore."""
    without(monkeypatch, "mindspore", "onnxruntime", "onnx", "fastapi", "torch", "tensorboardx", "packaging")
    expected = r"pip install 'onnx>=1.17' 'onnxruntime>=1\.\d+' 'packaging>=\d+'"
    assert re.fullmatch(expected, how_to_install("onnx", installed=True))
    assert how_to_install("serve", installed=True) == "pip install 'fastapi>=0.115'"
    assert how_to_install("torch", installed=True) == "pip install torch==2.13.0"
    assert " 'mindspore<2.11,>=2.3'" in how_to_install(installed=True)
    for extra in EXTRAS:
        hint = how_to_install(extra, installed=True)
        assert "centernet" not in hint and ("mindspore" in hint or "numpy<2" in hint) == (extra == "")


def test_hints_keep_the_numpy_that_mindspore_needs(required, monkeypatch):
    without(monkeypatch, "onnxruntime", "tensorboardx")
    tensorboard = "'tensorboardX>=2.6.2.2' 'numpy<2,>=1.24'"
    for extra, wanted in (("onnx", "'onnxruntime>=1.25'"), ("tensorboard", tensorboard)):
        assert how_to_install(extra, installed=True) == f"pip install {wanted}"


def test_hints_name_an_installed_package_that_does_not_work(required):
    assert how_to_install("torch", installed=True) == "pip install torch==2.13.0 'numpy<2,>=1.24'"


def test_nothing_says_to_install_a_name_that_is_on_no_index():
    """Anybody could register it: documents, messages and scripts give pip files and folders."""
    patterns = ("*", "docs/*.md", "src/**/*.py", "tools/*.*", "scripts/**/*.*", "configs/*.yaml")
    paths = (path for pattern in patterns for path in glob.glob(os.path.join(ROOT, pattern), recursive=True))
    for path in filter(os.path.isfile, paths):
        with open(path, encoding="utf-8", errors="replace") as file:
            assert not re.search(r"install[^\n`#]*\bcenternet[-_]mindspore", file.read()), path


@pytest.mark.slow
def test_the_package_starts_commands_by_name():
    """python -m src in a checkout, python -m centernet when installed."""
    def run(*args):
        done = subprocess.run([sys.executable, "-m", "src", *args], cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert run("predict", "--version") == (0, f"centernet {version()}\n", "")
    code, listed, _ = run()
    assert code == 0 and {"predict", "train", "dataset"} <= set(re.findall(r"\w+", listed))
    assert run("--help")[1] == listed
    code, output, error = run("predcit")
    assert (code, output) == (2, "") and "predcit" in error and "predict" in error


def test_the_next_commands_hold_from_the_users_folder(tmp_path, monkeypatch):
    """With quoted arguments, a line each; for a process of a launcher from the launcher's folder."""
    monkeypatch.setattr(project, "ROOT", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path)
    text = next_steps(("eval.py", "--data_dir", "my data"), ("tools/report.py", "runs/detection/1"))
    assert text.splitlines() == ["next:", "  python project/eval.py --data_dir 'my data'",
                                 "  python project/tools/report.py runs/detection/1"]
