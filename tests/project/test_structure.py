"""The map in CONTRIBUTING.md: imports go in one direction, files and functions have a readable size."""
import ast
import glob
import math
import os
import re

import pytest

from src.model_utils.zoo_names import HOMES
from tests.conftest import ROOT


def paths(*patterns):
    """The files of the project that match, relative to its folder."""
    return sorted(path for pattern in patterns for path in glob.glob(pattern, root_dir=ROOT, recursive=True))


SOURCES = paths("src/**/*.py")
MODULES = sorted({*SOURCES, *paths("*.py", "*/*.py", "scripts/**/*.py", "tests/**/*.py")})
SCRIPTS = paths("src/*.py", "tools/*.py", "scripts/*/*.py", "tests/soak/*.py")
SCRIPTS += ["tests/parity.py", "tests/least_train.py", "tests/prepared.py"]
ENTRY_SCRIPTS = {"train", "eval", "export", "preprocess", "postprocess", "tools", "scripts", "tests"}


def parsed(path):
    """The syntax tree of a source file."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return ast.parse(file.read())


def imports(path):
    """The paths of the modules that a file imports: src/core/errors.py for `from ..core import errors`, for example."""
    package = os.path.dirname(path).split("/")
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.replace(".", "/") + ".py" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            module = "/".join([*parts, *filter(None, (node.module or "").split("."))])
            yield from (f"{module}/{alias.name}.py" for alias in node.names)
            yield from (f"{module}.py", f"{module}/__init__.py")


def contributing():
    """The text of CONTRIBUTING.md."""
    with open(os.path.join(ROOT, "CONTRIBUTING.md"), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_is_readable(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        assert len(file.readlines()) <= 300
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert node.end_lineno - node.lineno < 60, node.name
            assert len(set(arguments) - {"self", "cls"}) <= 7, node.name


def test_imports_go_downwards():
    """In the order of the map, without cycles; and no module of src/ imports an entry script."""
    graph = {path: set(imports(path)) for path in SOURCES}
    for path, imported in graph.items():
        assert not {name.split("/")[0].removesuffix(".py") for name in imported} & ENTRY_SCRIPTS, path
    order = list(map_of(contributing()))  # a folder that is not on it is test_all_modules_are_on_the_map's
    floors = {path: order.index(folder) for path in SOURCES for folder in ["/".join(path.split("/")[:2])]
              if path.count("/") > 1 and folder in order}
    for path in floors:
        above = {name for name in graph[path] & set(floors) if floors[name] > floors[path]}
        assert not above, (f"{path} imports {', '.join(sorted(above))}, which is further down on the map in "
                           "CONTRIBUTING.md: move the code that both need further up")
    imported = {name for path in floors for name in graph[path] & set(SOURCES)}
    assert not imported - set(floors) - {"src/__init__.py"}, "modules with the model zoo's names"
    graph = {path: imported & set(SOURCES) for path, imported in graph.items()}
    while graph:
        lowest = {path for path, imported in graph.items() if not imported & set(graph)}
        assert lowest, f"a cycle among {sorted(graph)}"
        graph = {path: imported for path, imported in graph.items() if path not in lowest}


def map_of(text):
    """{folder: its line} of the map in a text, with "src/core" for "  core/  errors ..." below "src/", and "" for the
    entry scripts."""
    lines, inside = {}, ""
    for line in text.split("```text\n")[1].split("```")[0].splitlines():
        name, _, words = line.strip().partition(" ")
        if not name.endswith("/"):
            lines[""] = lines.get("", "") + line + "\n"
        elif line.startswith(" "):
            lines[f"{inside}/{name.rstrip('/')}"] = words
        else:
            inside = name.rstrip("/")
            lines[inside] = words
    return lines


def off_the_map(modules, text):
    """What the map in a text lacks of Python files, and what it has too much: [sentence]."""
    lines, wrong = map_of(text), set()
    for path in modules:
        top, *rest = path.split("/")
        if not rest:
            if path not in lines[""].split():
                wrong.add(f"{path} is not on the map in CONTRIBUTING.md: add it to the map's first lines, or move it "
                          "into a folder")
        elif top not in lines:
            wrong.add(f"{top}/ is not on the map in CONTRIBUTING.md: add a line for it at the map's end")
        elif top == "src":
            wrong |= _off_the_line(path, lines)
    have = {os.path.dirname(path) for path in modules}
    wrong |= {f"the map in CONTRIBUTING.md has {folder}/, which contains no module: remove its line"
              for folder in lines if folder.startswith("src/") and folder not in have}
    return sorted(wrong)


def _off_the_line(path, lines):
    """What the map lacks of a module in a folder of src/: {sentence}."""
    _, folder, *inner = path.split("/")
    if not inner:
        is_known = folder.removesuffix(".py") in {"__init__", "__main__", *HOMES}
        return set() if is_known else {f"{path} is not on the map in CONTRIBUTING.md: move it into a folder of src/; "
                                       "only modules with the model zoo's names lie beside these"}
    if f"src/{folder}" not in lines:
        return {f"src/{folder}/ is not on the map in CONTRIBUTING.md: add a line for it below the folders that it "
                "imports from, and above those that import it"}
    if len(inner) > 1 and f"{inner[0]}/" not in lines[f"src/{folder}"]:
        return {f"src/{folder}/{inner[0]}/ is not on the map in CONTRIBUTING.md: name it in the line of {folder}/"}
    return set()


def test_all_modules_are_on_the_map():
    assert len(MODULES) > 300
    wrong = off_the_map(MODULES, contributing())
    assert not wrong, "\n".join(wrong)


SMALL_MAP = """```text
train.py eval.py   read the configuration
src/
  core/    errors
  tasks/   Task; pose/: people
tools/     commands
```
"""


@pytest.mark.parametrize("path, sentence", [
    ("src/cloud/buckets.py", r"src/cloud/ is not on the map in CONTRIBUTING.md: add a line for it below "),
    ("src/tasks/lanes/device.py", r"src/tasks/lanes/ is not on the map .*: name it in the line of tasks/"),
    ("src/demo.py", r"src/demo.py is not on the map .*: move it into a folder of src/"), ("src/decode.py", None),
    ("rain.py", r"rain.py is not on the map .*: add it to the map's first lines"),
    ("plugins/a.py", r"plugins/ is not on the map .*: add a line for it"),
    ("src/core/new.py", None), ("tools/new.py", None), ("src/tasks/pose/new.py", None),
])
def test_a_new_module_is_told_where_it_belongs(path, sentence):
    there = ["train.py", "src/core/errors.py", "src/tasks/base.py", "src/tasks/pose/device.py"]
    assert not off_the_map(there, SMALL_MAP)
    found = off_the_map([*there, path], SMALL_MAP)
    assert len(found) == bool(sentence) and all(re.match(sentence, text) for text in found)


def test_a_folder_that_is_gone_leaves_the_map():
    found, = off_the_map(["train.py", "src/core/errors.py"], SMALL_MAP)
    assert re.match("the map in CONTRIBUTING.md has src/tasks/, .*: remove its line", found)


def test_only_commands_print():
    """Other modules use the logger, `show` for results, or standard error."""
    printing = {path for path in SOURCES for node in ast.walk(parsed(path))
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"}
    allowed = {"src/core/console.py", "src/core/errors.py", "src/core/interrupts.py"}
    assert {path for path in printing if not path.startswith(("src/commands/", "src/__main__.py"))} == allowed


def places(path, own):
    """Return the lines of the first import of our packages and of setting sys.path[0], infinity if there is none."""
    imports, set_at = [math.inf], [math.inf]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sys.path[0]":
            set_at.append(node.lineno)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            imports += [node.lineno for name in names if name.split(".")[0] in own]
    return min(imports), min(set_at)


def is_script(path):
    """Whether a file can be run."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return 'if __name__ == "__main__":' in file.read()


@pytest.mark.parametrize("path", [path for path in SCRIPTS if is_script(path)])
def test_a_script_below_the_top_folder_finds_the_project(path):
    """Python searches the script's own folder; the other tests would not notice, since they have loaded src."""
    first_import, set_at = places(path, {"src", "tools", "tests"})
    assert set_at < first_import or first_import == math.inf


@pytest.mark.xdist_group("structure")
def test_groups_of_tests_reach_the_scheduler(request):
    """pytest-xdist assigns groups by the names of their tests, which fails with some versions of pytest."""
    if hasattr(request.config, "workerinput") and request.config.option.loadgroup:
        assert request.node.nodeid.endswith("@structure")
