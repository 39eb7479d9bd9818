"""Where this project lies and how its scripts start: from a checkout, or installed as the package `centernet`."""
import importlib.metadata
import importlib.util
import os
import shlex

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DISTRIBUTION = "centernet-mindspore"  # on no index: pip is given its files, never its name
INSTALLED = __package__.partition(".")[0] != "src"
ROOT = PACKAGE if os.path.exists(os.path.join(PACKAGE, "default_config.yaml")) else os.path.dirname(PACKAGE)  # the folder of that file
COMMANDS = {"train.py": "centernet-train", "eval.py": "centernet-eval", "export.py": "centernet-export",
            "tools/predict.py": "centernet-predict", "tools/serve.py": "centernet-serve", "tools/report.py": "centernet-report"}


def user_directory() -> str:
    """The folder in which a person types commands: that of a launcher, which gives its processes folders of their own, else this one."""
    return os.environ.get("CENTERNET_LAUNCHED_IN") or os.getcwd()


def relative_to_user(path: str) -> str:
    """A path, relative to this process's folder, as it holds where the user stands; no path, "", stays none."""
    start = user_directory()
    return path if not path or os.path.isabs(path) or start == os.getcwd() else os.path.relpath(path, start)


def command(script: str, installed: bool = INSTALLED) -> str:
    """What starts a script, "tools/predict.py", where the user stands: by the shorter of its paths, or as the installed package has it."""
    if installed:
        return COMMANDS.get(script, f"python -m centernet {os.path.splitext(os.path.basename(script))[0]}")
    root = min(os.path.relpath(ROOT, user_directory()), ROOT, key=len)
    return f"python {shlex.quote(os.path.normpath(os.path.join(root, script)))}"


def how_to_install(extra: str = "", installed: bool = INSTALLED) -> str:
    """The command that installs what requirements.txt lists, or with extra "onnx" requirements-onnx.txt.

    It names files, or the packages themselves: what pip looks up under this package's name is not ours. Beside MindSpore, which needs an
    older NumPy, it is one that keeps that NumPy; without MindSpore, it does not bring it.
    """
    beside_mindspore = importlib.util.find_spec("mindspore") is not None
    if extra == "onnx" and beside_mindspore:
        extra = ""
    if not installed:
        path = os.path.join(ROOT, f"requirements{extra and f'-{extra}'}.txt")
        return f"pip install -r {shlex.quote(min(os.path.relpath(path), path, key=len))}"
    wanted = _required(extra)
    words = [str(requirement) for requirement in wanted if not _is_met(requirement)] or list(map(str, wanted))
    if beside_mindspore and extra:
        words += [str(requirement) for requirement in _required("") if requirement.name == "numpy"][-1:]
    return f"pip install {shlex.join(words)}"


def _required(extra):
    """What the installed package wants, Requirements without markers: for an extra, or for all with ""."""
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, importlib.metadata.requires(DISTRIBUTION)):
        marker, requirement.marker = requirement.marker, None
        plain = marker is None or marker.evaluate({"extra": ""})
        if plain if not extra else not plain and marker.evaluate({"extra": extra}):
            found.append(requirement)
    return found


def _is_met(requirement):
    """Whether what a Requirement wants is installed."""
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False
