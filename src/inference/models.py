"""Models by file extension: checkpoints (.ckpt), exported MindIR files (.mindir), exported ONNX files (.onnx)."""
import os
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import UserError
from ..core.project import relative_to_user
from ..model_utils.config import COMMAND_LINE, OPTIONS, Config
from ..model_utils.mindspore_version import require_mindspore
from ..weights.run_folder import resolve_checkpoint_alias
from ..weights.side_file import fixed_settings, read_exported, read_side_file, side_file
from .onnx_cache import load_through_onnx
from .onnx_detector import load_onnx, read_onnx


def ending(path: str) -> str:
    """The extension of a model file, in lower case; it decides the kind of model."""
    return os.path.splitext(path)[1].lower()


def is_exported(path: str) -> bool:
    """Whether a path is that of an exported file."""
    return ending(path) in (".mindir", ".onnx")


def find_model(path: str) -> str:
    """Return the file of a model, given the file, its run's folder or an alias (resolve_checkpoint_alias).

    Raises UserError if the model needs MindSpore, as all but ONNX files do, and it is missing.
    """
    path = resolve_checkpoint_alias(path)
    if ending(path) != ".onnx":
        require_mindspore()
    return path


def uses_of(model: str) -> list[tuple[str, ...]]:
    """The commands (script, argument, ...) that use a model, given its file or its run's folder: detect, and export a
    checkpoint or serve an exported file."""
    model, exported = relative_to_user(model), is_exported(model)
    option = f"--{ending(model)[1:]}" if exported else "--load_checkpoint_path"
    further = ("tools/serve.py", option, model) if exported else (
        "export.py", "--export_config.ckpt_file", model, "--export_config.export_format", "ONNX")
    return [("tools/predict.py", option, model, "--input", "IMAGES", "--output", "detections"), further]


@dataclass
class Model:
    """An opened model, whose description has been read from its side file or ONNX file.

    description["evaluation"] holds the evaluation settings of its recipe; fixed, those built into an exported graph.
    """

    path: str
    description: dict
    fixed: dict = field(default_factory=dict)
    proto: Any = None  # the ModelProto of an ONNX file until load()

    @property
    def source(self) -> str:
        """The source of the description, for messages."""
        return "the ONNX file" if ending(self.path) == ".onnx" else "the side file"

    def check_fixed(self, config: Config) -> None:
        """Raise UserError if a Config contradicts a setting built into an exported graph."""
        for name, value in self.fixed.items():
            section, _, key = name.partition(".")
            wanted = getattr(getattr(config, section), key)
            if wanted != value:
                raise UserError(f"{name} is {wanted} ({config.origin(name)}), but {self.path} was exported with "
                                f"{value}; leave it out, or export again with {wanted}")

    def runs_as_onnx(self, config: Config) -> bool:
        """Whether a runtime of ONNX files computes: always for an ONNX file, for a checkpoint if config names one."""
        return ending(self.path) == ".onnx" or not is_exported(self.path) and config.runtime != "auto"

    def load(self, config: Config) -> Any:
        """Return the detector, with a Config's device and settings. Call it only once: it releases the ONNX file.

        Raises UserError, also if the command line or a caller (not an edited default) disables use_ema for an exported
        file.
        """
        if is_exported(self.path) and not config.use_ema and config.origin("use_ema") in (COMMAND_LINE, OPTIONS):
            raise UserError(f"{self.path}: use_ema is fixed at export; export again with --use_ema false")
        if ending(self.path) == ".onnx":
            if self.proto is None:
                raise RuntimeError("a Model can be loaded only once: its ONNX file has been released; open it again")
            proto, self.proto = self.proto, None
            return load_onnx(proto, self.description, self.path, config.onnx_provider, config.runtime)
        if ending(self.path) == ".mindir" and config.runtime != "auto":
            raise UserError(f"{self.path}: only MindSpore computes a MindIR file; leave out runtime {config.runtime}")
        if self.runs_as_onnx(config):
            return load_through_onnx(self.path, config)
        # Slow to load, and not needed for an ONNX file.
        from ..model_utils.device_adapter import set_device
        from .detector import load_detector, load_mindir

        target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
        if ending(self.path) == ".mindir":
            return load_mindir(self.path, self.description)
        return load_detector(self.path, self.description, config.eval_config, target, config.net_config.dcn_impl,
                             use_ema=config.use_ema)


def open_model(path: str) -> Model:
    """Open the Model in a file. Raises UserError if the file or its side file is missing or damaged."""
    if not is_exported(path):
        return Model(path, read_side_file(path))
    if ending(path) == ".onnx":
        proto, description = read_onnx(path)
        where = path
    else:
        proto, description, where = None, read_exported(path), side_file(path)
    fixed = fixed_settings(description, where)
    description["evaluation"].update(fixed)
    return Model(path, description, fixed, proto)
