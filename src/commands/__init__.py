"""The command lines: a module with the name of each script in the top folder and in tools/."""
import functools
import importlib

from ..core import errors, interrupts


def start(name: str) -> None:
    """Run the command of that name, as its script does: a signal ends it without a trace from here on, an error in one sentence."""
    interrupts.INTERRUPTS.install("exit")  # while the rest is loaded
    errors.run(importlib.import_module(f"{__package__}.{name}").main)


def check(name: str) -> None:
    """Tell what is wrong with the configuration in the command line of train, eval or dataset, and with its paths, and end with 2, else
    with 0, or 3 if it is to be quiet: before a launcher starts it in the background."""
    errors.run(functools.partial(_check, name))


def _check(name: str) -> int:
    from ..core.console import LOG
    from ..model_utils.config import get_config
    from ..model_utils.local_adapter import require_device

    config = get_config("")
    LOG.info(config.summary())
    if not config.enable_modelarts:  # which copies them first
        importlib.import_module(f"{__package__}.{name}").check_paths(config)
    if name != "dataset":  # which needs no device
        require_device(config.device_target)
    return 3 if config.quiet else 0


# What the installed commands call, centernet-train and so on.
start_train, start_eval, start_export, start_predict, start_serve, start_report = (
    functools.partial(start, name) for name in ("train", "eval", "export", "predict", "serve", "report"))
