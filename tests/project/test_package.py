"""The package installed with `pip install .` in an empty virtual environment, used from another folder."""
import ast
import configparser
import glob
import json
import os
import pathlib
import re
import shutil
import sys
import zipfile

import numpy as np
import pytest

from setup import dependencies
from src.core.project import COMMANDS
from src.core.version import version
from src.inference.predictor import Predictor
from tests import environments, small_network
from tests.conftest import ROOT, TINY, assert_user_error, run

# A user's program; the lines with type errors are marked.
TYPED = """from centernet import Prediction, Predictor, UserError
predictor = Predictor("x.ckpt", "CPU", K=10)
found: Prediction = predictor("image.jpg").above(0.5)
count: int = len(found)
names: list[str] = found.class_names + predictor.classes
area: float = float(found.boxes[:, 2].max())
wrong: str = found.scores  # wrong
predictor("image.jpg", 3)  # wrong
found.nothing  # wrong
Predictor(3)  # wrong
raise UserError("x")
"""

# Runs a command of the bin folder with the least network as resdcn_18, which compiles faster.
LEAST = """
import runpy, sys
import small_network
from centernet.network.architectures import ARCHITECTURES
ARCHITECTURES["resdcn_18"] = small_network.LEAST
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def trained(installed, tiny_data, tmp_path_factory):
    """(folder, output) of two training steps with the installed package and the least network.

    Slow: two processes load MindSpore, and one compiles.
    """
    folder = tmp_path_factory.mktemp("other folder")
    with open(small_network.__file__, encoding="utf-8") as file:
        (folder / "small_network.py").write_text(file.read().replace("from src.", "from centernet."))
    args = ["--coco_data_dir", tiny_data, "--mindrecord_dir", "records"]
    run(installed / "python", "-m", "centernet", "dataset", *args, cwd=folder)
    args = [*TINY, "--mindrecord_dir", "records", "--data_dir", tiny_data, "--train_steps", 2]
    done = run(installed / "python", "-c", LEAST, installed / "centernet-train", *args, cwd=folder)
    return folder, done.stdout


# ---------------------------------------------------------------- the build


def imported(source):
    """The names that a module imports, anywhere in it: "numpy", "src.data.coco", "src.data.coco.read_coco"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


PROVIDED_BY = {  # {imported name: package that installs it}, where they differ
    "PIL": "pillow", "cv2": "opencv-python-headless", "jinja2": "Jinja2", "markupsafe": "Jinja2", "moxing": "ModelArts",
    "prometheus_client": "prometheus-client", "pydantic": "fastapi",
    "python_multipart": "python-multipart", "starlette": "fastapi", "yaml": "PyYAML",
}


@pytest.mark.slow
def test_all_imports_are_requirements(monkeypatch):
    """Including imports inside functions."""
    monkeypatch.chdir(ROOT)
    wanted = dependencies()
    texts = [text for texts in (wanted["install_requires"], *wanted["extras_require"].values()) for text in texts]
    names = {re.match(r"[\w-]+", text)[0] for text in texts} | {"ModelArts"}
    for path in glob.glob("src/**/*.py", recursive=True):
        with open(path, encoding="utf-8") as file:
            for name in imported(file.read()):
                first = name.partition(".")[0]
                if first not in sys.stdlib_module_names and path != "src/dataset.py":  # also a script in a checkout
                    assert PROVIDED_BY.get(first, first) in names, (path, name)


@pytest.mark.slow
def test_the_wheel_installs_only_centernet(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        modules = {name: file.read(name).decode() for name in names if name.endswith(".py")}
    assert {name.split("/")[0] for name in names} == {"centernet", f"centernet_mindspore-{version()}.dist-info"}
    for name, text in modules.items():
        found = {module.partition(".")[0] for module in imported(text)}
        assert not {"src", "tools"} & found or name == "centernet/dataset.py", name
    paths = glob.glob(f"{ROOT}/src/**/*.py", recursive=True)
    sources = {os.path.relpath(path, os.path.join(ROOT, "src")) for path in paths}
    data = {"default_config.yaml", "py.typed", "runs/pages/report.html", "serving/pages/serve.html", "configs/voc.yaml",
            "weights/names/coco_classes.txt"}
    assert {f"centernet/{name}" for name in sources | data} <= names
    assert not [name for name in names if name.endswith(".c")]
    assert sum(name.endswith((".so", ".pyd")) for name in names) == 2 and "centernet/removed.py" not in names


@pytest.mark.slow
def test_the_wheel_has_the_requirements(wheel):
    with zipfile.ZipFile(wheel) as file:
        metadata = file.read(f"centernet_mindspore-{version()}.dist-info/METADATA").decode()
        entries = configparser.ConfigParser()
        entries.read_string(file.read(f"centernet_mindspore-{version()}.dist-info/entry_points.txt").decode())
    required = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", metadata, re.M)
    assert {name for name, rest in required if "extra ==" not in rest} == {
        "mindspore", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "pillow", "pycocotools", "PyYAML",
        "tqdm", "psutil", "matplotlib", "Jinja2", "Cython", "setuptools", "packaging"}
    extras = set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M))
    assert extras == {"onnx", "openvino", "serve", "tensorboard", "torch"}
    assert {name for name, rest in required if 'extra == "serve"' in rest} == {
        "fastapi", "uvicorn", "pebble", "python-multipart", "Jinja2", "prometheus-client"}
    assert f"\nVersion: {version()}\n" in metadata
    assert dict(entries["console_scripts"]) == {
        name: f"centernet.commands:start_{pathlib.Path(script).stem}" for script, name in COMMANDS.items()}


@pytest.mark.slow
def test_a_wheel_of_the_source_archive_is_the_same(checkout, wheel, installed, tmp_path):
    """The same files. A stub compiler writes empty extensions, which is faster."""
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n')
    compiler.chmod(0o755)
    run(installed / "python", "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path / "source", cwd=checkout)
    archive = next((tmp_path / "source").iterdir())
    args = ["--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path / "wheel", archive]
    run(installed / "python", "-m", "pip", "wheel", *args, cwd=tmp_path, CC=str(compiler))
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(next((tmp_path / "wheel").iterdir())) as other:
        assert set(one.namelist()) == set(other.namelist())


@pytest.mark.slow
def test_an_editable_installation_follows_the_checkout(checkout, tmp_path, compiler):
    needed = ["setuptools>=68", "Cython>=3.0", *dependencies()["install_requires"]]
    python = environments.make(tmp_path / "editable", needed) / "python"
    folder = shutil.copytree(checkout, tmp_path / "a checkout")
    args = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", folder]
    run(python, "-m", "pip", *args, cwd=tmp_path, CC=str(compiler))
    with open(folder / "src" / "core" / "version.py", "a", encoding="utf-8") as file:
        file.write('\n__version__ = "9.9"\n')
    program = ("import centernet; from centernet.native.extensions import extension; "
               "print(centernet.__version__, extension('resample').__file__)")
    output = run(python, "-c", program, cwd=tmp_path).stdout
    assert output.startswith(f"9.9 {folder}/src/native/resample.")
    assert run(python.with_name("centernet-train"), "--version", cwd=tmp_path).stdout == "centernet 9.9\n"


# ---------------------------------------------------------------- installed


IMPORT_ALL = """
import importlib, json, sys
missing = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name.partition(".")[0]
print(json.dumps(missing))
"""


def modules_of(wheel):
    """The names of a wheel's modules, such as "centernet.core.timing"."""
    with zipfile.ZipFile(wheel) as file:
        names = [name[:-3] for name in file.namelist() if name.endswith(".py")]
    return sorted(name.replace("/", ".").removesuffix(".__init__") for name in names)


@pytest.mark.slow
def test_all_modules_can_be_imported(installed, onnx_alone, wheel, tmp_path, monkeypatch):
    """With MindSpore, but without the packages only for serving; and as in the service's image, without MindSpore."""
    monkeypatch.chdir(ROOT)
    serving = {re.match(r"[\w-]+", text)[0] for text in dependencies()["extras_require"]["serve"]}
    outputs = [run(folder / "python", "-c", IMPORT_ALL, *modules_of(wheel), cwd=tmp_path).stdout
               for folder in (installed, onnx_alone)]
    missing = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert {PROVIDED_BY.get(name, name) for name in missing[0].values()} <= serving
    assert set(missing[1].values()) == {"mindspore"}
    assert not set(missing[0]) & set(missing[1])


START_ALL = """
import contextlib, io, json, runpy, sys
results = {}
for name in sys.argv[1:]:
    for args in (["--version"], ["--no_such_option", "1"]):
        sys.argv = [name, *args] if "/" in name else ["centernet", name, *args]
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                if "/" in name:
                    code = runpy.run_path(name, run_name="__main__")
                else:
                    code = runpy.run_module("centernet", run_name="__main__", alter_sys=True)
            except SystemExit as error:
                code = error.code
        texts = [file.flush() or file.buffer.getvalue().decode() for file in (out, err)]
        results.setdefault(name, []).append([code, *texts])
print(json.dumps(results))
"""


def assert_started(with_version, with_wrong_option):
    """Check a command's (exit code, standard output, standard error) with --version and with an unknown option."""
    assert tuple(with_version) == (0, f"centernet {version()}\n", "")
    code, out, err = with_wrong_option
    assert code == 2 and not out and err.startswith("error: ") and "no_such_option" in err.splitlines()[0], err


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["installed", "onnx_alone"])
def test_all_commands_start(environment, wheel, tmp_path, request):
    """All tools as modules, and the commands of the bin folder, in one process; with and without MindSpore."""
    folder = request.getfixturevalue(environment)
    names = [name.rpartition(".")[2] for name in modules_of(wheel) if name.startswith("centernet.commands.")]
    commands = [str(folder / name) for name in COMMANDS.values()]
    output = run(folder / "python", "-c", START_ALL, *names, *commands, cwd=tmp_path).stdout
    results = json.loads(output.splitlines()[-1])
    assert set(results) == {*names, *commands} and len(names) > 12 and not list(tmp_path.iterdir())
    for result in results.values():
        assert_started(*result)


@pytest.mark.slow
def test_int8_without_mindspore(onnx_alone, lively_onnx, tiny_data, tmp_path):
    args = "--onnx", lively_onnx, "--images", tiny_data / "val2017", "--count", 2, "--output", "int8.onnx"
    done = run(onnx_alone / "python", "-m", "centernet", "quantize_onnx", *args, cwd=tmp_path)
    assert "int8" in done.stdout and (tmp_path / "int8.onnx").exists()


@pytest.mark.slow
def test_hints_of_the_installed_package(onnx_alone, lively_checkpoint, tmp_path):
    """They name MindSpore with compatible NumPy and OpenCV, but neither this package nor a checkout's files."""
    (tmp_path / "x.jpg").touch()
    args = "--load_checkpoint_path", lively_checkpoint, "--input", "x.jpg", "--output", "out"
    done = run(onnx_alone / "centernet-predict", *args, cwd=tmp_path, check=False)
    assert_user_error(done, "MindSpore is not installed", "pip install ", " 'mindspore<2.11,>=2.3'",
                      " 'numpy<2,>=1.24'", " 'opencv-python-headless<4.12,>=4.8'")
    assert "requirements" not in done.stderr and "centernet-mindspore" not in done.stderr


@pytest.mark.slow
def test_two_steps_and_the_next_commands(trained, installed, tiny_data):
    folder, output = trained
    checkpoint = "ckpt_0/centernet-1_2.ckpt"
    assert (folder / checkpoint).exists() and "step: 2 | loss" in output
    assert f"next:\n  centernet-eval --data_dir {tiny_data} --load_checkpoint_path " in output
    assert "\n  centernet-predict --load_checkpoint_path " in output
    assert "\n  centernet-export --export_config.ckpt_file " in output
    with open(folder / checkpoint.replace(".ckpt", ".json"), encoding="utf-8") as file:
        assert json.load(file)["version"] == version()
    run(installed / "centernet-report", ".", cwd=folder)
    assert f"CenterNet on MindSpore {version()}" in (folder / "report.html").read_text(encoding="utf-8")


# A user's program that uses the package; LEAST, appended to it, then runs a command of the bin folder.
DETECT = """
import json, sys
from centernet import Predictor
import small_network
from centernet.network.architectures import ARCHITECTURES
ARCHITECTURES["resdcn_18"] = small_network.LEAST
found = Predictor("last", "CPU", K=7)(sys.argv.pop(1))
assert not {"src", "tools"} & set(sys.modules)
json.dump(found.detections().tolist(), open("found.json", "w"))
"""


@pytest.mark.slow
def test_the_package_detects_the_same_as_the_checkout(trained, installed, tiny_data, least, graphless):
    folder, _ = trained
    image = sorted((tiny_data / "val2017").iterdir())[0]
    args = ["--load_checkpoint_path", "last", "--device_target", "CPU", "--input", image, "--output", "found",
            "--score_thresh", 0]
    run(installed / "python", "-c", DETECT + LEAST, image, installed / "centernet-predict", *args, cwd=folder)
    found = np.array(json.loads((folder / "found.json").read_text()))
    expected = Predictor(str(folder / "last"), "CPU", K=7)(image).detections()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with open(folder / "found" / "predictions.json", encoding="utf-8") as file:
        assert len(json.load(file)["annotations"]) == 100


@pytest.mark.slow
def test_a_type_checker_sees_the_types(installed, tmp_path):
    (tmp_path / "program.py").write_text(TYPED)
    args = "--ignore-missing-imports", "--follow-imports", "silent", "program.py"
    done = run(installed / "mypy", *args, cwd=tmp_path, check=False)
    wrong = [number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# wrong")]
    reported = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line]
    assert reported == wrong, done.stdout


# ---------------------------------------------------------------- type hints


SOURCES = sorted(os.path.relpath(path, ROOT) for path in glob.glob(f"{ROOT}/src/**/*.py", recursive=True))


@pytest.mark.parametrize("path", SOURCES)
def test_all_functions_have_type_hints(path):
    """For every argument and result, including private and nested functions."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            args += filter(None, (node.args.vararg, node.args.kwarg))
            untyped = [arg.arg for arg in args if arg.annotation is None and arg.arg not in ("self", "cls")]
            assert not untyped, f"{node.name}: {untyped}"
            assert node.returns is not None or node.name == "__init__", node.name
