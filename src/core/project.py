"""The project's location and the commands that start it: from a checkout, or installed as the package `centernet`."""
import glob
import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DISTRIBUTION = "centernet-mindspore"  # not on PyPI: pip is given its files, never its name
INSTALLED = (__package__ or "").partition(".")[0] != "src"
# The folder of default_config.yaml.
ROOT = PACKAGE if os.path.exists(os.path.join(PACKAGE, "default_config.yaml")) else os.path.dirname(PACKAGE)
COMMANDS = {"train.py": "centernet-train", "eval.py": "centernet-eval", "export.py": "centernet-export",
            "tools/predict.py": "centernet-predict", "tools/serve.py": "centernet-serve",
            "tools/report.py": "centernet-report"}


def digest_of_code(*packages: str) -> "hashlib._Hash":
    """SHA-256 of this project's source code and of the versions of installed packages; for keys of caches."""
    digest = hashlib.sha256(" ".join(map(importlib.metadata.version, packages)).encode())
    for path in sorted(glob.glob(os.path.join(glob.escape(PACKAGE), "**", "*.py"), recursive=True)):
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest


def user_directory() -> str:
    """The folder in which the user types commands: the launcher's, whose processes run in folders of their own, else
    the current one."""
    return os.environ.get("CENTERNET_LAUNCHED_IN") or os.getcwd()


def relative_to_user(path: str) -> str:
    """A path relative to this process's folder, made relative to the user's. An empty string stays empty."""
    start = user_directory()
    return path if not path or os.path.isabs(path) or start == os.getcwd() else os.path.relpath(path, start)


def command(script: str, installed: bool = INSTALLED) -> str:
    """The command that starts a script, such as "tools/predict.py", from the user's folder.

    In a checkout it has the shorter of the relative and the absolute path; the installed package has its own commands.
    """
    if installed:
        return COMMANDS.get(script, f"python -m centernet {os.path.splitext(os.path.basename(script))[0]}")
    root = min(os.path.relpath(ROOT, user_directory()), ROOT, key=len)
    return f"python {shlex.quote(os.path.normpath(os.path.join(root, script)))}"


def next_steps(*steps: Sequence[str]) -> str:
    """Lines with the commands that usually follow, each (script, argument, ...), from the user's folder."""
    return "\n".join(["next:", *(f"  {command(script)} {shlex.join(args)}" for script, *args in steps)])


def how_to_install(extra: str = "", installed: bool = INSTALLED) -> str:
    """The command that installs the packages of requirements.txt, or with extra "onnx" of requirements-onnx.txt.

    It names files, or the packages themselves: this package's name on PyPI is not ours. If MindSpore is installed,
    which needs an older NumPy, the command keeps that NumPy; if not, it does not install MindSpore.
    """
    has_mindspore = importlib.util.find_spec("mindspore") is not None
    if extra == "onnx" and has_mindspore:
        extra = ""
    if not installed:
        path = os.path.join(ROOT, f"requirements{extra and f'-{extra}'}.txt")
        return f"pip install -r {shlex.quote(min(os.path.relpath(path), path, key=len))}"
    required = _required(extra)
    args = [str(requirement) for requirement in required if not _is_met(requirement)] or list(map(str, required))
    if has_mindspore and extra:
        args += [str(requirement) for requirement in _required("") if requirement.name == "numpy"][-1:]
    return f"pip install {shlex.join(args)}"


def _required(extra: str) -> "list[Requirement]":
    """The installed package's requirements, without markers: those of an extra, or with "" the base ones."""
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, importlib.metadata.requires(DISTRIBUTION) or ()):
        marker, requirement.marker = requirement.marker, None
        is_base = marker is None or marker.evaluate({"extra": ""})
        in_extra = not is_base and marker is not None and marker.evaluate({"extra": extra})
        if in_extra if extra else is_base:
            found.append(requirement)
    return found


def _is_met(requirement: "Requirement") -> bool:
    """Whether an installed package satisfies a requirement."""
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False
