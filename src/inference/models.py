"""Models of all kinds by their file's ending: checkpoints (.ckpt), exported MindIR files (.mindir), exported ONNX files (.onnx)."""
import os
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import UserError
from ..model_utils.config import COMMAND_LINE, OPTIONS, Config
from ..model_utils.mindspore_version import require_mindspore
from ..weights.side_file import fixed_settings, read_exported, read_side_file, resolve_checkpoint_alias, side_file
from .onnx_detector import load_onnx, read_onnx


def ending(path: str) -> str:
    """A model file's ending, which says what kind it is."""
    return os.path.splitext(path)[1].lower()


def is_exported(path: str) -> bool:
    """Whether a path names an exported file."""
    return ending(path) in (".mindir", ".onnx")


def find_model(path: str) -> str:
    """The file of the model that a path names, with resolve_checkpoint_alias.

    Raises UserError unless what computes it is installed; an ONNX file needs no MindSpore.
    """
    path = resolve_checkpoint_alias(path)
    if ending(path) != ".onnx":
        require_mindspore()
    return path


@dataclass
class Model:
    """An opened model: its side file, or the ONNX file that holds its description, is read.

    `evaluation` of its description holds the settings that its recipe evaluates with; fixed are those in an exported file's graph.
    """

    path: str
    description: dict
    fixed: dict = field(default_factory=dict)
    proto: Any = None  # the ModelProto of an ONNX file until it is loaded

    @property
    def source(self) -> str:
        """The words for where its description is read from."""
        return "the ONNX file" if ending(self.path) == ".onnx" else "the side file"

    def check_fixed(self, config: Config) -> None:
        """Raise UserError if a Config wants other settings than those in an exported file's graph."""
        for name, value in self.fixed.items():
            section, _, key = name.partition(".")
            wanted = getattr(getattr(config, section), key)
            if wanted != value:
                raise UserError(f"{name} is {wanted} ({config.origin(name)}), and {self.path} was exported with {value}; leave it out, or "
                                "export a file with it")

    def load(self, config: Config) -> Any:
        """The detector, on the device and with the settings that a Config says. Call it once: an ONNX file's memory goes to the detector.

        Raises UserError, also for an exported file where the command line or a caller, not an edited default, wants other weights.
        """
        if is_exported(self.path) and not config.use_ema and config.origin("use_ema") in (COMMAND_LINE, OPTIONS):
            raise UserError(f"{self.path}: use_ema is decided when a file is exported; export one with --use_ema false")
        if ending(self.path) == ".onnx":
            if self.proto is None:
                raise RuntimeError("a Model is loaded once: its file's memory went to the first detector; open it again")
            proto, self.proto = self.proto, None
            return load_onnx(proto, self.description, self.path, config.onnx_provider)
        # MindSpore is slow to load, and an ONNX file does without.
        from ..model_utils.device_adapter import set_device
        from .detector import load_detector, load_mindir

        target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
        if ending(self.path) == ".mindir":
            return load_mindir(self.path, self.description)
        return load_detector(self.path, self.description, config.eval_config, target, config.net_config.dcn_impl, use_ema=config.use_ema)


def open_model(path: str) -> Model:
    """The Model in a file. Raises UserError if the file or its side file is missing or broken."""
    if not is_exported(path):
        return Model(path, read_side_file(path))
    proto, description, where = (*read_onnx(path), path) if ending(path) == ".onnx" else (None, read_exported(path), side_file(path))
    fixed = fixed_settings(description, where)
    description["evaluation"].update(fixed)
    return Model(path, description, fixed, proto)
