"""Where this project lies and how its scripts start: from a checkout, or installed as the package `centernet`."""
import os
import shlex

PACKAGE = os.path.dirname(os.path.abspath(__file__))
INSTALLED = __package__ != "src"
ROOT = PACKAGE if INSTALLED else os.path.dirname(PACKAGE)  # the folder of default_config.yaml, configs/ and tools/
COMMANDS = {"train.py": "centernet-train", "eval.py": "centernet-eval", "export.py": "centernet-export",
            "tools/predict.py": "centernet-predict", "tools/serve.py": "centernet-serve", "tools/report.py": "centernet-report"}


def where_the_user_stands() -> str:
    """The folder in which a person types commands: that of a launcher, which gives its processes folders of their own, else this one."""
    return os.environ.get("CENTERNET_LAUNCHED_IN") or os.getcwd()


def for_the_user(path: str) -> str:
    """A path, relative to this process's folder, as it holds where the user stands; no path, "", stays none."""
    start = where_the_user_stands()
    return path if not path or os.path.isabs(path) or start == os.getcwd() else os.path.relpath(path, start)


def command(script: str, installed: bool = INSTALLED) -> str:
    """What starts a script, "tools/predict.py", where the user stands: by the shorter of its paths, or as the installed package has it."""
    if installed:
        module = os.path.splitext(script.removeprefix("src/"))[0].replace("/", ".")
        return COMMANDS.get(script, f"python -m centernet.{module}")
    root = min(os.path.relpath(ROOT, where_the_user_stands()), ROOT, key=len)
    return f"python {shlex.quote(os.path.normpath(os.path.join(root, script)))}"


def how_to_install(extra: str = "", installed: bool = INSTALLED) -> str:
    """The command that installs what requirements.txt lists, or with extra "onnx" requirements-onnx.txt."""
    if installed:
        return f"pip install 'centernet-mindspore[{extra}]'" if extra else "pip install centernet-mindspore"
    return f"pip install -r requirements{extra and f'-{extra}'}.txt"
