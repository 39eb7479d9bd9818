"""Builds the Cython extensions in place (python setup.py build_ext --inplace), and the package `centernet` (pip install .).

A checkout has the model zoo's layout: modules import each other from `src` and `tools`, names that an installed package must not take. The
package holds the same files under one name. BuildPackage puts that name into their import statements, and nothing else differs.
"""
import ast
import glob
import os
import re
import shutil

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

PACKAGES = {"src": "centernet", "tools": "centernet.tools"}  # names in a checkout, and installed
CONTENT = (  # of a checkout, in the package by the same paths, but for src/
    "src/**/*.py", "src/**/*.pyx", "src/py.typed", "src/**/*.html", "train.py", "eval.py", "export.py", "preprocess.py", "postprocess.py",
    "default_config.yaml", "configs/*.yaml", "tools/names/*.txt", "tools/*.py",
)
IN_A_CHECKOUT = {f"tools/{name}.py" for name in (  # tools that work on a checkout, and stay in it
    "benchmark", "benchmark_cases", "benchmark_inputs", "benchmark_service", "document_parameters", "eval", "train_full")}
# lrintf as one instruction; and no fused multiply-add, which ARM compilers choose and which rounds otherwise.
FLAGS = ["-O3", "-fno-math-errno", "-ffp-contract=off"]
NATIVE = {f"centernet.native.{name}": f"src/native/{name}.pyx" for name in ("soft_nms", "resample")}
EXTENSIONS = [Extension(name, [source], extra_compile_args=FLAGS) for name, source in NATIVE.items()]


def packaged(source):
    """A module's text with the package's names in its import statements, and without the line that makes a checkout importable."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        index = getattr(node, "lineno", 1) - 1
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in PACKAGES:
            lines[index] = re.sub(r"\bfrom\s+(\w+)", lambda match: f"from {PACKAGES[match[1]]}", lines[index], count=1)
        elif isinstance(node, ast.Import) and any(alias.name.partition(".")[0] in PACKAGES for alias in node.names):
            raise SystemExit(f"error: {lines[index].strip()!r}: the package can rename `from src.x import y` alone")
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sys.path[0]":
            lines[index] = re.sub(r"\S.*", "pass", lines[index])
    return "".join(lines)


def content():
    """{file of the checkout in the current folder: its place in the package}."""
    found = {}
    for pattern in CONTENT:
        paths = sorted(set(glob.glob(pattern, recursive=True)) - IN_A_CHECKOUT)
        if not paths:
            raise SystemExit(f"error: no {pattern} in {os.getcwd()}: the package would lack it")
        found.update({path: path.removeprefix("src/") for path in paths})
    return found


class BuildPackage(build_py):
    """Copies the content into the package."""

    def run(self):
        package = os.path.join(self.build_lib, "centernet")
        shutil.rmtree(package, ignore_errors=True)  # of an earlier build: what has been removed since would be installed, too
        for path, place in content().items():
            made = os.path.join(package, place)
            os.makedirs(os.path.dirname(made), exist_ok=True)
            if path.endswith(".py"):
                with open(path, encoding="utf-8") as source, open(made, "w", encoding="utf-8") as target:
                    target.write(packaged(source.read()))
            else:
                shutil.copy(path, made)


class NoEditable(editable_wheel):
    """Says why there is no editable installation."""

    def run(self):
        raise SystemExit("error: there is no editable installation, since the checkout's modules are named src, not centernet; "
                         f"`pip install .` installs a copy, and with PYTHONPATH={os.getcwd()} `from src import Predictor` works")


def requirements(name):
    """The lines of a requirements file and of those that it names, without comments."""
    with open(name, encoding="utf-8") as file:
        lines = [line.partition(" #")[0].strip() for line in file if line.strip() and not line.startswith("#")]
    return [found for line in lines for found in (requirements(line[3:]) if line.startswith("-r ") else [line])]


def dependencies():
    """What the package needs, and its extras, as setup takes them; nothing where src/native/extensions.py builds."""
    if not os.path.exists("requirements.txt"):
        return {}
    extras = {name: requirements(f"requirements-{name}.txt") for name in ("onnx", "serve", "tensorboard", "torch")}
    return {"install_requires": requirements("requirements.txt"), "extras_require": extras}


if __name__ == "__main__":
    setup(name="centernet-mindspore", packages=["centernet"], package_dir={"centernet": "src"}, ext_modules=cythonize(EXTENSIONS),
          cmdclass={"build_py": BuildPackage, "editable_wheel": NoEditable}, **dependencies())
