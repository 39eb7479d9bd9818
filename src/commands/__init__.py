"""The command lines: one module for each script in the top folder and in tools/, under the same name."""
import functools
import importlib

from ..core import errors, interrupts


def start(name: str) -> None:
    """Run a command as its script does: signals end it without a traceback, errors print one sentence."""
    interrupts.INTERRUPTS.install("exit")  # while the modules load
    errors.run(importlib.import_module(f"{__package__}.{name}").main)


def check(name: str) -> None:
    """Check the configuration and paths of a train, eval or dataset command before a launcher starts it in the
    background.

    Exits with 0, with 3 if the command is to be quiet, or with 2 after an error.
    """
    errors.run(functools.partial(_check, name))


def _check(name: str) -> int:
    from ..core.console import LOG
    from ..model_utils.config import get_config
    from ..model_utils.local_adapter import require_device

    config = get_config("", script=name)
    LOG.info(config.summary())
    problems = errors.Problems()
    if not config.enable_modelarts:  # which copies them first
        command = importlib.import_module(f"{__package__}.{name}")
        with problems:
            (command.check_paths if name == "train" else command.check_before)(config)
    if name != "dataset":  # which needs no device
        with problems:
            require_device(config.device_target)
    problems.raise_all()
    return 3 if config.quiet else 0


# The entry points of the installed package: centernet-train and so on.
start_train, start_eval, start_export, start_predict, start_serve, start_report = (
    functools.partial(start, name) for name in ("train", "eval", "export", "predict", "serve", "report"))
