"""The map in CONTRIBUTING.md: imports go in one direction, files and functions have a readable size."""
import ast
import glob
import math
import os
import re

import pytest

from tests.conftest import ROOT

SOURCES = sorted(os.path.relpath(path, ROOT) for path in glob.glob(f"{ROOT}/src/**/*.py", recursive=True))
FOLDERS = ("src", "tools", "scripts/*", "tests/soak")
SCRIPTS = sorted(os.path.relpath(path, ROOT) for folder in FOLDERS for path in glob.glob(f"{ROOT}/{folder}/*.py"))
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


def folders():
    """The folders of src/ in the order of the map in CONTRIBUTING.md: each imports only from those before it."""
    with open(os.path.join(ROOT, "CONTRIBUTING.md"), encoding="utf-8") as file:
        return re.findall(r"^  (\w+)/ ", file.read().split("\nsrc/\n")[1].split("\nscripts/")[0], re.M)


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
    order = folders()
    assert sorted(order) == sorted({path.split("/")[1] for path in SOURCES if path.count("/") > 1})
    floors = {path: order.index(path.split("/")[1]) for path in SOURCES if path.count("/") > 1}
    for path in floors:
        above = {name for name in graph[path] & set(floors) if floors[name] > floors[path]}
        assert not above, f"{path} imports {above}"
    imported = {name for path in floors for name in graph[path] & set(SOURCES)}
    assert not imported - set(floors) - {"src/__init__.py"}, "modules with the model zoo's names"
    graph = {path: imported & set(SOURCES) for path, imported in graph.items()}
    while graph:
        lowest = {path for path, imported in graph.items() if not imported & set(graph)}
        assert lowest, f"a cycle among {sorted(graph)}"
        graph = {path: imported for path, imported in graph.items() if path not in lowest}


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
