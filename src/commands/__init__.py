"""The command lines: a module with the name of each script in the top folder and in tools/."""
import functools
import importlib

from ..core import errors, interrupts


def start(name: str) -> None:
    """Run the command of that name, as its script does: a signal ends it without a trace from here on, an error in one sentence."""
    interrupts.INTERRUPTS.install("exit")  # while the rest is loaded
    errors.run(importlib.import_module(f"{__package__}.{name}").main)


# What the installed commands call, centernet-train and so on.
start_train, start_eval, start_export, start_predict, start_serve, start_report = (
    functools.partial(start, name) for name in ("train", "eval", "export", "predict", "serve", "report"))
