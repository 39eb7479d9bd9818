"""Models of all kinds by their file's ending: checkpoints (.ckpt), exported MindIR files (.mindir), exported ONNX files (.onnx)."""
import os
from typing import Any

from ..core.errors import UserError
from ..model_utils.config import COMMAND_LINE, OPTIONS, Config
from ..model_utils.mindspore_version import require_mindspore
from ..weights.side_file import fixed_settings, read_exported, read_side_file, side_file
from .onnx_detector import load_onnx, read_onnx


def ending(path: str) -> str:
    """A model file's ending, which says what kind it is."""
    return os.path.splitext(path)[1].lower()


def is_exported(path: str) -> bool:
    """Whether a path names an exported file."""
    return ending(path) in (".mindir", ".onnx")


def description_source(path: str) -> str:
    """The words for where a model's description is read from."""
    return "the ONNX file" if ending(path) == ".onnx" else "the side file"


def read_model(path: str, what: str = "checkpoint (--load_checkpoint_path)") -> dict:
    """What a model says of itself; `evaluation` holds the settings that its recipe evaluates with. Raises UserError.

    Of an exported file, `fixed` holds those that are in its graph.
    """
    if not is_exported(path):
        return read_side_file(path, what)
    description, where = (read_onnx(path), path) if ending(path) == ".onnx" else (read_exported(path), side_file(path))
    description["fixed"] = fixed_settings(description, where)
    description["evaluation"].update(description["fixed"])
    return description


def require_runtime(path: str) -> None:
    """Raise UserError unless what computes a model is installed; an ONNX file needs no MindSpore."""
    if ending(path) != ".onnx":
        require_mindspore()


def check_fixed(config: Config, description: dict, path: str) -> None:
    """Raise UserError if a Config wants other settings than those in an exported file's graph."""
    for name, value in description.get("fixed", {}).items():
        section, _, key = name.partition(".")
        wanted = getattr(getattr(config, section), key)
        if wanted != value:
            raise UserError(f"{name} is {wanted} ({config.origin(name)}), and {path} was exported with {value}; leave it out, or export "
                            "a file with it")


def load_model(path: str, config: Config) -> Any:
    """The detector of a model of any kind, on the device and with the settings that a Config says.

    Raises UserError, also for an exported file where the command line or a caller, not an edited default, wants other weights.
    """
    if is_exported(path) and not config.use_ema and config.origin("use_ema") in (COMMAND_LINE, OPTIONS):
        raise UserError(f"{path}: use_ema is decided when a file is exported; export one with --use_ema false")
    if ending(path) == ".onnx":
        return load_onnx(path, config.onnx_provider)
    # MindSpore is slow to load, and an ONNX file does without.
    from ..model_utils.device_adapter import set_device
    from .detector import load_detector, load_mindir

    target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
    if ending(path) == ".mindir":
        return load_mindir(path)
    return load_detector(path, config.eval_config, target, config.net_config.dcn_impl, use_ema=config.use_ema)
