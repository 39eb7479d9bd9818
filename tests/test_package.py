"""The package: what `pip install .` gives, in an empty virtual environment, used from another folder."""
import ast
import configparser
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from setup import packaged
from src.predictor import Predictor
from src.project import COMMANDS
from src.version import version
from tests.conftest import ROOT, TINY, copy_project, made_once

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


def run(*words, cwd, check=True, **environment):
    """Run a command; with check it must end well."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, words)], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, timeout=1200)
    assert not check or done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project, nothing built in it, in a folder whose name has a space."""
    folder = copy_project(tmp_path_factory.mktemp("a checkout") / "p", "*.so", "*.c")
    for pattern in ("pyproject.toml", "MANIFEST.in", "requirements*.txt", "LICENSE", "NOTICE"):
        for path in glob.glob(os.path.join(ROOT, pattern)):
            shutil.copy(path, folder)
    stale = folder / "build" / "lib" / "centernet"  # of an earlier build
    stale.mkdir(parents=True)
    (stale / "removed.py").touch()
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    """The wheel of the project."""
    def make(folder):
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, checkout, cwd=folder)

    return next(made_once(tmp_path_factory, "wheel", make).iterdir())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of a virtual environment with the wheel, what it depends on and a type checker; nothing else."""
    def make(folder):
        run(sys.executable, "-m", "venv", folder, cwd=folder)
        run(folder / "bin" / "pip", "install", "--quiet", "--no-compile", wheel, "mypy", cwd=folder)

    return made_once(tmp_path_factory, "environment", make) / "bin"


@pytest.fixture(scope="module")
def trained(installed, tiny_data, tmp_path_factory):
    """(the folder of a training of two steps with the installed package, what it said)."""
    folder = tmp_path_factory.mktemp("other folder")
    run(installed / "python", "-m", "centernet.dataset", "--coco_data_dir", tiny_data, "--mindrecord_dir", "records", cwd=folder)
    done = run(installed / "centernet-train", *TINY, "--mindrecord_dir", "records", "--data_dir", tiny_data, "--train_steps", 2, cwd=folder)
    return folder, done.stdout


# ---------------------------------------------------------------- the build


@pytest.mark.parametrize("line, becomes", [
    ("from src import errors", "from centernet import errors"), ("from src.coco import x  # src", "from centernet.coco import x  # src"),
    ("from tools.loss import main", "from centernet.tools.loss import main"), ("import srcery", "import srcery"),
    ("from .src import x", "from .src import x"), ("text = 'from src import errors'", "text = 'from src import errors'"),
    ("from src.a import (\n    b,\n    src)", "from centernet.a import (\n    b,\n    src)"), ("from srcs import x", "from srcs import x"),
    ("if 1:\n    sys.path[0] = ROOT\nx = 2", "if 1:\n    pass\nx = 2"), ("# ü\nfrom src import x", "# ü\nfrom centernet import x"),
])
def test_only_import_statements_are_renamed(line, becomes):
    assert packaged(line) == becomes
    with pytest.raises(SystemExit, match="error: 'import src.coco': "):
        packaged("import src.coco")


def imported(source):
    """First parts of the names that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.slow
def test_the_wheel_has_one_name_of_its_own(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        modules = {name: file.read(name).decode() for name in names if name.endswith(".py")}
    assert {name.split("/")[0] for name in names} == {"centernet", f"centernet_mindspore-{version()}.dist-info"}
    for name, text in modules.items():
        assert not {"src", "tools"} & set(imported(text)) and "sys.path[0]" not in text, name
    sources = {os.path.relpath(path, os.path.join(ROOT, "src")) for path in glob.glob(f"{ROOT}/src/**/*.py", recursive=True)}
    data = {"default_config.yaml", "py.typed", "pages/report.html", "configs/voc.yaml", "tools/names/coco_classes.txt"}
    assert {f"centernet/{name}" for name in sources | data | set(COMMANDS)} <= names
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
        "matplotlib", "Jinja2", "Cython", "setuptools"}
    assert set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M)) == {"onnx", "serve", "tensorboard", "torch"}
    assert {name for name, rest in required if 'extra == "serve"' in rest} == {
        "fastapi", "uvicorn", "python-multipart", "Jinja2", "prometheus-client"}
    assert f"\nVersion: {version()}\n" in metadata
    assert dict(entries["console_scripts"]) == {
        name: f"centernet.{os.path.splitext(script)[0].replace('/', '.')}:command" for script, name in COMMANDS.items()}


@pytest.mark.slow
def test_a_wheel_of_the_source_archive_is_the_same(checkout, wheel, installed, tmp_path):
    run(installed / "python", "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path / "source", cwd=checkout)
    archive = next((tmp_path / "source").iterdir())
    run(installed / "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path / "wheel", archive, cwd=tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(next((tmp_path / "wheel").iterdir())) as other:
        assert set(one.namelist()) == set(other.namelist())


@pytest.mark.slow
def test_an_editable_installation_is_refused_in_one_sentence(checkout, installed, tmp_path):
    done = run(installed / "pip", "install", "--no-deps", "--no-build-isolation", "--editable", checkout, cwd=tmp_path, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "there is no editable installation" in line]
    assert done.returncode and len(said) == 1 and "`pip install .` installs a copy" in said[0] and str(checkout) in said[0]


# ---------------------------------------------------------------- installed


@pytest.mark.slow
def test_every_command_says_its_version_and_its_mistakes(installed, tmp_path):
    for name in COMMANDS.values():
        assert run(installed / name, "--version", cwd=tmp_path).stdout == f"centernet {version()}\n"
        done = run(installed / name, "--no_such_option", "1", cwd=tmp_path, check=False)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())


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


@pytest.mark.slow
def test_the_package_detects_what_the_checkout_does(trained, installed, tiny_data):
    folder, _ = trained
    image = sorted((tiny_data / "val2017").iterdir())[0]
    code = ("import json, sys; from centernet import Predictor; found = Predictor('last', 'CPU', K=7)(sys.argv[1]); "
            "assert not {'src', 'tools'} & set(sys.modules); print(json.dumps(found.detections().tolist()))")
    done = run(installed / "python", "-c", code, image, cwd=folder)
    found = np.array(json.loads(done.stdout.splitlines()[-1]))
    expected = Predictor(str(folder / "last"), "CPU", K=7)(image).detections()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    run(installed / "centernet-predict", "--load_checkpoint_path", "last", "--device_target", "CPU", "--input", image, "--output", "found",
        "--score_thresh", 0, cwd=folder)
    with open(folder / "found" / "predictions.json", encoding="utf-8") as file:
        assert len(json.load(file)["annotations"]) == 100


@pytest.mark.slow
def test_a_type_checker_sees_the_types(installed, tmp_path):
    (tmp_path / "program.py").write_text(TYPED)
    done = run(installed / "mypy", "--ignore-missing-imports", "--follow-imports", "silent", "program.py", cwd=tmp_path, check=False)
    wrong = [number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# wrong")]
    assert [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line] == wrong, done.stdout


# ---------------------------------------------------------------- type hints


TYPED_MODULES = ("__init__", "boxes", "errors", "extensions", "image_files", "inference", "mindspore_version", "models", "next_commands",
                 "onnx_detector", "post_process", "pre_process", "predictor", "project", "side_file", "utils", "version", "visual")


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
