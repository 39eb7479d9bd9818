"""The detector of an ONNX file, without MindSpore."""
import json
import os
import reprlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core import errors
from ..core.backups import has_companion
from ..core.errors import UserError
from ..core.kinds import is_count, is_string, list_of, or_none
from ..imaging.view import input_spec, pad_batch
from ..tasks import TASKS
from ..weights.side_file import EXPORTED, MODEL, checked_exported, row_width
from .onnx_runtimes import Run, first_line, package, start

METADATA = {"dataset": is_string, **MODEL, **EXPORTED, "input_res": or_none(list_of(is_count, 2)),
            "batch_size": or_none(is_count), "input_res_train": list_of(is_count, 2)}
OPTIONAL = ("evaluation", "stride", "arch", "task")  # missing from files of earlier versions
FLOAT, UINT8, FLOAT16 = 1, 2, 10  # ONNX's element types
LARGEST = 2**31 - 1  # bytes in a protobuf message


class OnnxDetector:
    """The detector of an ONNX file, see pipeline.py. The sides of a dynamic input are multiples of its stride."""

    def __init__(self, runtime: str, run: Run, description: dict, path: str):
        self.weights = f", on {runtime}"  # see checkpoints.weights_note
        self.runtime, self.run, self.description, self.path = runtime, run, description, path
        self.down_ratio, self.from_bytes = description["down_ratio"], description["input_type"] == "uint8"
        self.input_res, self.batch_size = description["input_res"], description["batch_size"]

    def compile(self, batch: np.ndarray) -> float:
        """Return 0: starting the runtime has compiled everything."""
        return 0.0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self.run(pad_batch(batch, self.batch_size or 0))[: len(batch)]
        except MemoryError as error:
            raise UserError(f"{self.path}: a batch of {self.batch_size or len(batch)} images does not fit into memory "
                            f"({error})") from error
        except Exception as error:  # the runtimes raise exceptions of many types
            raise UserError(f"{self.path}: {self.runtime} cannot compute a batch of {batch.shape} "
                            f"({first_line(error)})") from error


def onnx_side_file(path: str) -> str:
    """The side file of an ONNX file: <name>.onnx.json, since <name>.json belongs to a MindIR file of the same name."""
    return f"{path}.json"


HAS_ONNX_SIDE_FILE = has_companion(onnx_side_file, '"input_type"')  # a test for backups.back_up_existing


def read_onnx(path: str) -> tuple[Any, dict]:
    """Read the ModelProto of an ONNX file and the description in its metadata, which equals an export's side file.

    Raises UserError if it is not an export of this project.
    """
    model = _load(path)
    return model, _description_of(model, path)


def load_onnx(model: Any, description: dict, path: str, provider: str = "CPU", runtime: str = "auto") -> OnnxDetector:
    """Return the OnnxDetector for the result of read_onnx; other arguments as in onnx_runtimes.start.

    Raises UserError.
    """
    _check_interface(model, description, path)
    return OnnxDetector(*start(model, runtime, provider, path), description, path)


def _load(path: str) -> Any:
    """Read the ModelProto of a self-contained ONNX file. Raises UserError."""
    onnx = package("onnx")
    errors.require_file(path, "ONNX file")
    if not os.path.getsize(path):
        raise UserError(f"{path}: an empty file, not an ONNX file")
    if os.path.getsize(path) > LARGEST:
        raise UserError(f"{path}: {os.path.getsize(path)} bytes; an ONNX file of this project has at most {LARGEST}")
    try:
        with open(path, "rb") as file:
            model = onnx.load_model_from_string(file.read())
    except Exception as error:  # protobuf raises its own types
        raise UserError(f"{path}: not an ONNX file, or damaged ({first_line(error)})") from error
    if any(tensor.external_data or tensor.data_location for tensor in _tensors(model)):
        raise UserError(f"{path}: weights in other files are not read; export the model into one file")
    return model


def _tensors(message: Any) -> Iterator[Any]:
    """Yield all TensorProtos in a protobuf message, at any depth."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for nested in value if field.is_repeated else [value]:
                yield from _tensors(nested)


def _description_of(model: Any, path: str) -> dict:
    """Read the description from a ModelProto's metadata and check it. Raises UserError."""
    known = {*METADATA, *OPTIONAL, *(name for task in TASKS.values() for name in task.targets.METAINFO)}
    content = {}
    for entry in model.metadata_props:
        if entry.key in known:
            try:
                content[entry.key] = json.loads(entry.value)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: metadata field {entry.key} is not JSON ({error})") from error
    missing = [name for name in METADATA if name not in content]
    if missing:
        raise UserError(f"{path}: not written by this project's export.py (its metadata has no {missing[0]})")
    wrong = [name for name, test in METADATA.items() if not test(content[name])]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} cannot be {reprlib.repr(content[wrong[0]])}")
    return checked_exported(content, path)


def _check_interface(model: Any, description: dict, path: str) -> None:
    """Raise UserError unless a ModelProto's inputs and outputs match the description."""
    if [end.name for end in model.graph.output][:1] == ["heat"]:
        raise UserError(f"{path}: its outputs are maps, for other programs (docs/onnx.md); to detect here, export with "
                        "--export_config.onnx_decode true")
    width, height = description["input_res"] or ("width", "height")
    batch, from_bytes = description["batch_size"] or "batch", description["input_type"] == "uint8"
    _, shape = input_spec(from_bytes, batch, height, width)
    expected = ([("image", UINT8 if from_bytes else FLOAT, shape)],
                [("detections", FLOAT, [batch, description["K"], row_width(description)])])
    for ends, wanted in zip((model.graph.input, model.graph.output), expected):
        found = [(end.name, end.type.tensor_type.elem_type,
                  [size.dim_param or size.dim_value for size in end.type.tensor_type.shape.dim]) for end in ends]
        if found != wanted:
            raise UserError(f"{path}: not written by this project's export.py (it has {found}, but its metadata states "
                            f"{wanted})")
