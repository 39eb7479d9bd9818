"""src/native/extensions.py: the Cython extensions are built on first use, by any number of processes."""
import errno
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from src.core.errors import UserError
from src.native import extensions
from tests.conftest import TINY, assert_user_error, call_script, contents, copy_project

# Small replacements of both extensions, which build quickly; test_package builds the real ones.
SOURCES = {"soft_nms": "def made():\n    return 'soft-NMS'\n", "resample": "def made():\n    return 'resampling'\n"}
USE = """
from src.core.console import print_log
from src.native.extensions import extension, require_extensions
print_log()
require_extensions()
print(extension("soft_nms").made(), extension("resample").made(), extension("resample").__file__)
"""
# Imports an extension with a build() that copies a compiled module.
USE_BUILT = """
import shutil, sys
from src.native import extensions
def build():
    print("rebuilt")
    shutil.copy(sys.argv[1], extensions.FOLDER)
extensions.build = build
print(extensions.extension("resample").resample.__name__)
"""


@pytest.fixture
def bare(tmp_path):
    """A copy of the project with SOURCES and without compiled modules."""
    folder = copy_project(tmp_path / "bare", "*.so", "*.c")
    for name, source in SOURCES.items():
        (folder / "src" / "native" / f"{name}.pyx").write_text(source)
    return folder


def without_compiler(tmp_path):
    """An environment with a PATH without programs."""
    (tmp_path / "empty").mkdir(exist_ok=True)
    return {**os.environ, "PATH": str(tmp_path / "empty")}


def run_in(folder, environment, *args):
    """Run Python in a copy of the project."""
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_processes_build_at_the_same_time_and_a_third_uses_the_result(bare, compiler):
    """A module that was built for another processor is replaced."""
    name = os.path.basename(extensions.extension("soft_nms").__file__)
    (bare / "src" / "native" / name).write_bytes(b"not for this machine")
    environment = {**os.environ, "CC": str(compiler)}
    started = [subprocess.Popen([sys.executable, "-c", USE], cwd=bare, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=environment) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    third = run_in(bare, os.environ, "-c", USE)
    for lines in (*(output.splitlines() for output, _ in outputs), third.stdout.splitlines()):
        assert lines[-1].startswith(f"soft-NMS resampling {bare}/src/native/resample.")
    for output, _ in outputs:
        assert output.count("building the Cython extensions") == 1
    assert "building" not in third.stdout and third.returncode == 0
    # As by `git pull`.
    (bare / "src" / "native" / "soft_nms.pyx").write_text(SOURCES["soft_nms"].replace("soft-NMS", "newer"))
    newer = run_in(bare, environment, "-c", USE)
    assert newer.stdout.splitlines()[-1].startswith("newer resampling "), newer
    built = [name for name in os.listdir(bare / "src" / "native") if name.endswith(".so") or name.startswith(".")]
    assert len(built) == 2 and not list((bare / "src" / "native").glob("*.c"))


@pytest.mark.parametrize("found", [None, b"not for this machine"], ids=["none", "for another processor"])
def test_an_extension_that_cannot_be_imported_is_rebuilt(found, bare):
    compiled = extensions.extension("resample").__file__
    if found:
        (bare / "src" / "native" / os.path.basename(compiled)).write_bytes(found)
    done = run_in(bare, os.environ, "-c", USE_BUILT, compiled)
    assert done.stdout.splitlines() == ["rebuilt", "resample"], done.stderr


@pytest.mark.slow
def test_without_a_compiler_a_script_prints_one_sentence(bare, tiny_data, tmp_path):
    options = ["--val_data_dir", tiny_data, "--predict_dir", tmp_path / "q"]
    done = run_in(bare, without_compiler(tmp_path), "preprocess.py", *options)
    command = f"cd {shlex.quote(str(bare))} && {shlex.quote(sys.executable)} setup.py build_ext"
    assert_user_error(done, "extensions", command)
    assert not (tmp_path / "q").exists()
    assert not [name for name in os.listdir(bare / "src" / "native") if name.startswith(".extensions")]


def test_every_script_checks_the_extensions_first(tiny_data, tiny_records, small_file, tmp_path, monkeypatch):
    call_script("preprocess.py", "--val_data_dir", tiny_data, "--predict_dir", tmp_path / "p",
                "--export_config.input_res", "[96, 96]")
    (tmp_path / "r").mkdir()
    before = contents(tmp_path)

    def missing(name):
        raise UserError(f"{name} is missing")

    monkeypatch.setattr(extensions, "extension", missing)
    checkpoint = ["--load_checkpoint_path", small_file, "--device_target", "CPU"]
    for script, *args in (
        ("train.py", *TINY, "--mindrecord_dir", tiny_records), ("eval.py", *checkpoint, "--data_dir", tiny_data),
        ("preprocess.py", "--val_data_dir", tiny_data, "--predict_dir", tmp_path / "q"),
        ("postprocess.py", "--result_path", tmp_path / "r", "--meta_path", tmp_path / "p" / "meta",
         "--label_path", tiny_data),
        ("tools/predict.py", *checkpoint, "--input", tiny_data / "val2017", "--output", tmp_path / "found"),
        ("tools/serve.py", *checkpoint, "--port", 0),
    ):
        assert_user_error(call_script(script, *args, cwd=tmp_path, check=False), "resample is missing")
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_code_without_extensions_needs_no_compiler(bare, tiny_data, tmp_path):
    environment = without_compiler(tmp_path)
    assert run_in(bare, environment, "-c", "import src.inference.predictor").returncode == 0
    done = run_in(bare, environment, "src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", tmp_path / "m")
    assert done.returncode == 0 and "20 images" in done.stdout and "building" not in done.stdout


def test_without_cython(bare, tmp_path):
    (tmp_path / "blocked" / "Cython").mkdir(parents=True)
    (tmp_path / "blocked" / "Cython" / "__init__.py").write_text("raise ImportError('no Cython here')\n")
    done = run_in(bare, {**os.environ, "PYTHONPATH": str(tmp_path / "blocked")}, "-c", USE)
    assert done.returncode == 1 and "ImportError: no Cython here" in done.stderr


def test_a_read_only_folder(monkeypatch):
    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(extensions.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(UserError, match=r"/src/native: Read-only file system.* run: cd "):
        extensions.build()


def test_the_build_command_quotes_spaces(monkeypatch):
    monkeypatch.setattr(extensions, "ROOT", "/my clones/a")
    monkeypatch.setattr(extensions.sys, "executable", "/my venv/bin/python")
    args = shlex.split(str(extensions._build_error("x")).partition("run: ")[2])
    assert args == ["cd", "/my clones/a", "&&", "/my venv/bin/python", "setup.py", "build_ext", "--inplace"]


def test_resampling_interpolates():
    """A step of half a pixel between 0 and 100 gives 50."""
    row = np.zeros((1, 2, 3), np.uint8)
    row[0, 1] = 100
    assert extensions.extension("resample").resample(row, 0.5, 0.0, 1.0, 0.0, 3, 1)[0, :, 0].tolist() == [0, 50, 100]
