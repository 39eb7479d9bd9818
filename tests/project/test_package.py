"""The package: what `pip install .` gives, in an empty virtual environment, used from another folder."""
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

# A program of a user's; every line that is wrong for a type checker says so.
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

# Runs a command of the bin folder with the least network for resdcn_18, which compiles sooner.
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
    """(the folder of a training of two steps with the installed package and the least network, what it said).

    Two processes load MindSpore, and one compiles: that takes its time.
    """
    folder = tmp_path_factory.mktemp("other folder")
    with open(small_network.__file__, encoding="utf-8") as file:
        (folder / "small_network.py").write_text(file.read().replace("from src.", "from centernet."))
    run(installed / "python", "-m", "centernet", "dataset", "--coco_data_dir", tiny_data, "--mindrecord_dir", "records", cwd=folder)
    words = [*TINY, "--mindrecord_dir", "records", "--data_dir", tiny_data, "--train_steps", 2]
    done = run(installed / "python", "-c", LEAST, installed / "centernet-train", *words, cwd=folder)
    return folder, done.stdout


# ---------------------------------------------------------------- the build


def imported(source):
    """The names that a module imports, wherever in it: "numpy", "src.data.coco", "src.data.coco.read_coco"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


PROVIDED_BY = {  # an imported name: the package that brings it, where that has another name or brings it along
    "PIL": "pillow", "cv2": "opencv-python-headless", "jinja2": "Jinja2", "markupsafe": "Jinja2", "moxing": "ModelArts",
    "prometheus_client": "prometheus-client", "pydantic": "fastapi",
    "python_multipart": "python-multipart", "starlette": "fastapi", "yaml": "PyYAML",
}


@pytest.mark.slow
def test_what_the_package_imports_is_in_it_or_in_its_requirements(monkeypatch):
    """Wherever in a module it is imported: what an import names that is reached once in a while, too."""
    monkeypatch.chdir(ROOT)
    wanted = dependencies()
    texts = [text for texts in (wanted["install_requires"], *wanted["extras_require"].values()) for text in texts]
    names = {re.match(r"[\w-]+", text)[0] for text in texts} | {"ModelArts"}
    for path in glob.glob("src/**/*.py", recursive=True):
        with open(path, encoding="utf-8") as file:
            for name in imported(file.read()):
                first = name.partition(".")[0]
                if first not in sys.stdlib_module_names and path != "src/dataset.py":  # which is a script of a checkout, too
                    assert PROVIDED_BY.get(first, first) in names, (path, name)


@pytest.mark.slow
def test_the_wheel_has_one_name_of_its_own(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        modules = {name: file.read(name).decode() for name in names if name.endswith(".py")}
    assert {name.split("/")[0] for name in names} == {"centernet", f"centernet_mindspore-{version()}.dist-info"}
    for name, text in modules.items():
        assert not {"src", "tools"} & {found.partition(".")[0] for found in imported(text)} or name == "centernet/dataset.py", name
    sources = {os.path.relpath(path, os.path.join(ROOT, "src")) for path in glob.glob(f"{ROOT}/src/**/*.py", recursive=True)}
    data = {"default_config.yaml", "py.typed", "runs/pages/report.html", "serving/pages/serve.html", "configs/voc.yaml",
            "weights/names/coco_classes.txt"}
    assert {f"centernet/{name}" for name in sources | data} <= names
    assert not [name for name in names if name.endswith(".c")]
    assert sum(name.endswith((".so", ".pyd")) for name in names) == 2 and "centernet/removed.py" not in names


@pytest.mark.slow
def test_the_wheel_depends_on_what_the_requirements_say(wheel):
    with zipfile.ZipFile(wheel) as file:
        metadata = file.read(f"centernet_mindspore-{version()}.dist-info/METADATA").decode()
        entries = configparser.ConfigParser()
        entries.read_string(file.read(f"centernet_mindspore-{version()}.dist-info/entry_points.txt").decode())
    required = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", metadata, re.M)
    assert {name for name, rest in required if "extra ==" not in rest} == {
        "mindspore", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "pillow", "pycocotools", "PyYAML", "tqdm", "psutil",
        "matplotlib", "Jinja2", "Cython", "setuptools", "packaging"}
    assert set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M)) == {"onnx", "serve", "tensorboard", "torch"}
    assert {name for name, rest in required if 'extra == "serve"' in rest} == {
        "fastapi", "uvicorn", "pebble", "python-multipart", "Jinja2", "prometheus-client"}
    assert f"\nVersion: {version()}\n" in metadata
    assert dict(entries["console_scripts"]) == {
        name: f"centernet.commands:start_{pathlib.Path(script).stem}" for script, name in COMMANDS.items()}


@pytest.mark.slow
def test_a_wheel_of_the_source_archive_is_the_same(checkout, wheel, installed, tmp_path):
    """The same files: what the compiler makes of the sources is empty here, which saves the time."""
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n')
    compiler.chmod(0o755)
    run(installed / "python", "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path / "source", cwd=checkout)
    archive = next((tmp_path / "source").iterdir())
    words = ["--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path / "wheel", archive]
    run(installed / "python", "-m", "pip", "wheel", *words, cwd=tmp_path, CC=str(compiler))
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(next((tmp_path / "wheel").iterdir())) as other:
        assert set(one.namelist()) == set(other.namelist())


@pytest.mark.slow
def test_an_editable_installation_is_the_checkout(checkout, tmp_path, compiler):
    """What changes in the checkout changes in it."""
    needed = ["setuptools>=68", "Cython>=3.0", *dependencies()["install_requires"]]
    python = environments.make(tmp_path / "editable", needed) / "python"
    folder = shutil.copytree(checkout, tmp_path / "a checkout")
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", folder]
    run(python, "-m", "pip", *words, cwd=tmp_path, CC=str(compiler))
    with open(folder / "src" / "core" / "version.py", "a", encoding="utf-8") as file:
        file.write('\n__version__ = "9.9"\n')
    program = ("import centernet; from centernet.native.extensions import extension; "
               "print(centernet.__version__, extension('resample').__file__)")
    said = run(python, "-c", program, cwd=tmp_path).stdout
    assert said.startswith(f"9.9 {folder}/src/native/resample.")
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
    """The names of a wheel's modules, "centernet.core.timing"."""
    with zipfile.ZipFile(wheel) as file:
        return sorted(name[:-3].replace("/", ".").removesuffix(".__init__") for name in file.namelist() if name.endswith(".py"))


@pytest.mark.slow
def test_every_module_is_imported(installed, onnx_alone, wheel, tmp_path, monkeypatch):
    """With MindSpore, and as the service's image has the package: the one lacks what serves alone, the other MindSpore."""
    monkeypatch.chdir(ROOT)
    serving = {re.match(r"[\w-]+", text)[0] for text in dependencies()["extras_require"]["serve"]}
    missing = [json.loads(run(place / "python", "-c", IMPORT_ALL, *modules_of(wheel), cwd=tmp_path).stdout.splitlines()[-1])
               for place in (installed, onnx_alone)]
    assert {PROVIDED_BY.get(name, name) for name in missing[0].values()} <= serving
    assert set(missing[1].values()) == {"mindspore"}
    assert not set(missing[0]) & set(missing[1])


START_ALL = """
import contextlib, io, json, runpy, sys
said = {}
for name in sys.argv[1:]:
    for words in (["--version"], ["--no_such_option", "1"]):
        sys.argv = [name, *words] if "/" in name else ["centernet", name, *words]
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
        said.setdefault(name, []).append([code, *texts])
print(json.dumps(said))
"""


def assert_started(version_said, mistake_said):
    """What a command says, (exit code, standard output, standard error), of its version and of an option that there is not."""
    assert tuple(version_said) == (0, f"centernet {version()}\n", "")
    code, out, err = mistake_said
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, err


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["installed", "onnx_alone"])
def test_every_command_says_its_version_and_its_mistakes(environment, wheel, tmp_path, request):
    """Every tool as a module, and those of the bin folder, one after the other in a process; with MindSpore and without."""
    place = request.getfixturevalue(environment)
    names = [name.rpartition(".")[2] for name in modules_of(wheel) if name.startswith("centernet.commands.")]
    commands = [str(place / name) for name in COMMANDS.values()]
    words = [*names, *commands]
    said = json.loads(run(place / "python", "-c", START_ALL, *words, cwd=tmp_path).stdout.splitlines()[-1])
    assert len(said) == len(words) > 12 + len(commands) and not list(tmp_path.iterdir())
    for each in said.values():
        assert_started(*each)


@pytest.mark.slow
def test_int8_without_mindspore(onnx_alone, lively_onnx, tiny_data, tmp_path):
    words = "--onnx", lively_onnx, "--images", tiny_data / "val2017", "--count", 2, "--output", "int8.onnx"
    done = run(onnx_alone / "python", "-m", "centernet", "quantize_onnx", *words, cwd=tmp_path)
    assert "int8" in done.stdout and (tmp_path / "int8.onnx").exists()


@pytest.mark.slow
def test_hints_of_the_installed_package(onnx_alone, lively_checkpoint, tmp_path):
    """What needs MindSpore names it, with the NumPy and OpenCV that go with it; no package of ours is named, and no file of a checkout."""
    (tmp_path / "x.jpg").touch()
    done = run(onnx_alone / "centernet-predict", "--load_checkpoint_path", lively_checkpoint, "--input", "x.jpg", "--output", "out",
                       cwd=tmp_path, check=False)
    assert_user_error(done, "MindSpore is not installed", "pip install ", " 'mindspore<2.11,>=2.3'", " 'numpy<2,>=1.24'",
                      " 'opencv-python-headless<4.12,>=4.8'")
    assert "requirements" not in done.stderr and "centernet-mindspore" not in done.stderr


@pytest.mark.slow
def test_two_steps_and_what_comes_next(trained, installed, tiny_data):
    folder, said = trained
    checkpoint = "ckpt_0/centernet-1_2.ckpt"
    assert (folder / checkpoint).exists() and "step: 2 | loss" in said
    assert f"next:\n  centernet-eval --data_dir {tiny_data} --load_checkpoint_path " in said
    assert "\n  centernet-predict --load_checkpoint_path " in said and "\n  centernet-export --export_config.ckpt_file " in said
    with open(folder / checkpoint.replace(".ckpt", ".json"), encoding="utf-8") as file:
        assert json.load(file)["version"] == version()
    run(installed / "centernet-report", ".", cwd=folder)
    assert f"CenterNet on MindSpore {version()}" in (folder / "report.html").read_text(encoding="utf-8")


# What a program of a user's does with the package, and after it the command of the bin folder whose words follow.
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
def test_the_package_detects_what_the_checkout_does(trained, installed, tiny_data, least, graphless):
    folder, _ = trained
    image = sorted((tiny_data / "val2017").iterdir())[0]
    words = ["--load_checkpoint_path", "last", "--device_target", "CPU", "--input", image, "--output", "found", "--score_thresh", 0]
    run(installed / "python", "-c", DETECT + LEAST, image, installed / "centernet-predict", *words, cwd=folder)
    found = np.array(json.loads((folder / "found.json").read_text()))
    expected = Predictor(str(folder / "last"), "CPU", K=7)(image).detections()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    with open(folder / "found" / "predictions.json", encoding="utf-8") as file:
        assert len(json.load(file)["annotations"]) == 100


@pytest.mark.slow
def test_a_type_checker_sees_the_types(installed, tmp_path):
    (tmp_path / "program.py").write_text(TYPED)
    done = run(installed / "mypy", "--ignore-missing-imports", "--follow-imports", "silent", "program.py", cwd=tmp_path, check=False)
    wrong = [number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# wrong")]
    assert [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line] == wrong, done.stdout


# ---------------------------------------------------------------- type hints


TYPED_MODULES = (
    "__init__", "core/console", "core/errors", "core/files", "core/interrupts", "core/backups", "core/locks", "core/project",
    "core/version",
    "data/objects", "imaging/drawing", "imaging/reading", "imaging/view", "inference/models", "inference/onnx_detector",
    "inference/pipeline", "inference/predictor", "model_utils/mindspore_version", "model_utils/zoo_names", "native/extensions",
    "tasks/detection/results", "training/resume_commands", "weights/side_file",
)


@pytest.mark.parametrize("module", TYPED_MODULES)
def test_what_is_public_has_type_hints(module):
    """Every argument and result of the functions and methods of these modules whose names begin with a letter, and of calls."""
    with open(os.path.join(ROOT, "src", f"{module}.py"), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body if isinstance(node, ast.FunctionDef)):
        if node.name in ("__init__", "__call__") or not node.name.startswith("_"):
            parts = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
            assert not [part.arg for part in parts if part.annotation is None and part.arg != "self"], node.name
            assert node.returns is not None or node.name == "__init__", node.name
