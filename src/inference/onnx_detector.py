"""The detector of an ONNX file on ONNX Runtime; without MindSpore."""
import json
import os
import reprlib
from typing import Any

import numpy as np

from ..core import errors
from ..core.backups import has_companion
from ..core.errors import UserError
from ..core.kinds import is_count, is_string, list_of, or_none
from ..core.project import how_to_install
from ..imaging.view import batch_kind, pad_batch
from ..tasks import TASKS
from ..weights.side_file import EXPORTED, MODEL, checked_exported, row_width

# Names of ONNX Runtime's execution providers, which take what they can compute; the CPU does the rest.
PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider",
             "OpenVINO": "OpenVINOExecutionProvider", "CANN": "CANNExecutionProvider"}
METADATA = {"dataset": is_string, **MODEL, **EXPORTED, "input_res": or_none(list_of(is_count, 2)), "batch_size": or_none(is_count),
            "input_res_train": list_of(is_count, 2)}
OPTIONAL = ("evaluation", "stride", "arch", "task")  # which files of earlier versions lack
LARGEST = 2**31 - 1  # bytes of a protobuf message
OLD_RUNTIME = "install onnxruntime 1.25 or later, or export the file with --export_config.onnx_dcn grid_sample"


class OnnxDetector:
    """The detector of an ONNX file, as pipeline.py says; a batch's sides are multiples of its stride if the file leaves them free."""

    weights = ""  # those that were exported

    def __init__(self, session: Any, description: dict, path: str):
        self.session, self.description, self.path = session, description, path
        self.down_ratio, self.from_bytes = description["down_ratio"], description["input_type"] == "uint8"
        self.input_res, self.batch_size = description["input_res"], description["batch_size"]

    def compile(self, batch: np.ndarray) -> float:
        """Nothing is left to compile when a session has started: 0 seconds."""
        return 0.0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self.session.run(["detections"], {"image": pad_batch(batch, self.batch_size or 0)})[0][: len(batch)]
        except MemoryError as error:
            raise UserError(f"{self.path}: a batch of {self.batch_size or len(batch)} images does not fit into memory ({error})") from error
        except Exception as error:  # ONNX Runtime has kinds of its own for each cause
            raise UserError(f"{self.path}: ONNX Runtime cannot compute a batch of {batch.shape} ({_first_line(error)})") from error


def onnx_side_file(path: str) -> str:
    """The JSON file beside an ONNX file; a MindIR file of the same name has the other."""
    return f"{path}.json"


HAS_ONNX_SIDE_FILE = has_companion(onnx_side_file, '"input_type"')  # a test for backups.back_up_existing


def read_onnx(path: str) -> tuple[Any, dict]:
    """The ModelProto in an ONNX file, and the description in its metadata, as an exported file's side file has it.

    Raises UserError if it is not of this project.
    """
    model = _load(path)
    return model, _described(model, path)


def load_onnx(model: Any, description: dict, path: str, provider: str = "CPU") -> OnnxDetector:
    """The OnnxDetector of what read_onnx gives for a file; provider is a key of PROVIDERS. Raises UserError if it cannot be loaded."""
    session = start_session(model, provider, path)
    _check_ends(session, description, path)
    return OnnxDetector(session, description, path)


def start_session(model: Any, provider: str, path: str) -> Any:
    """ONNX Runtime's session of the ModelProto in a file, on all cores that this process may use. Raises UserError."""
    onnxruntime = _package("onnxruntime")
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        there = ", ".join(name for name, full in PROVIDERS.items() if full in available)
        raise UserError(f"onnx_provider is {provider}, and the installed onnxruntime has {there}; install the onnxruntime package that has "
                        f"{PROVIDERS[provider]}, or name another")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong comes as an error
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    names = list(dict.fromkeys([PROVIDERS[provider], PROVIDERS["CPU"]]))
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=names, enable_fallback=False)
    except Exception as error:
        hint = f"; {OLD_RUNTIME}" if "DeformConv" in str(error) else ""
        raise UserError(f"{path}: ONNX Runtime does not take this file ({_first_line(error)}){hint}") from error
    if PROVIDERS[provider] not in session.get_providers():  # ONNX Runtime would silently compute on the CPU
        raise UserError(f"onnx_provider is {provider}, and onnxruntime cannot start {PROVIDERS[provider]}; install the libraries and "
                        "drivers it needs, or name another")
    return session


def _package(name):
    """An imported package. Raises UserError if it is not installed."""
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(f"{error.name or name} is not installed; {how_to_install('onnx')}") from error


def _load(path):
    """The ModelProto of a file, which refers to no other. Raises UserError."""
    onnx = _package("onnx")
    errors.require_file(path, "ONNX file")
    if not os.path.getsize(path):
        raise UserError(f"{path}: an empty file, not an ONNX file")
    if os.path.getsize(path) > LARGEST:
        raise UserError(f"{path}: {os.path.getsize(path)} bytes; an ONNX file of this project has at most {LARGEST}")
    try:
        with open(path, "rb") as file:
            model = onnx.load_model_from_string(file.read())
    except Exception as error:  # protobuf has kinds of its own
        raise UserError(f"{path}: no ONNX file, or a damaged one ({_first_line(error)})") from error
    if any(tensor.external_data or tensor.data_location for tensor in _tensors(model)):
        raise UserError(f"{path}: it keeps weights in other files, which are not read; export it into one file")
    return model


def _tensors(message):
    """All TensorProtos in a protobuf message, however deep."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _tensors(part)


def _described(model, path):
    """The description in a ModelProto's metadata, checked."""
    known, content = {*METADATA, *OPTIONAL, *(name for task in TASKS.values() for name in task.targets.METAINFO)}, {}
    for entry in model.metadata_props:
        if entry.key in known:
            try:
                content[entry.key] = json.loads(entry.value)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}: {entry.key} of its metadata is no JSON ({error})") from error
    missing = [name for name in METADATA if name not in content]
    if missing:
        raise UserError(f"{path}: not an ONNX file of this project's export.py (its metadata has no {missing[0]})")
    wrong = [name for name, test in METADATA.items() if not test(content[name])]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} cannot be {reprlib.repr(content[wrong[0]])}")
    return checked_exported(content, path)


def _check_ends(session, description, path):
    """Raise UserError unless a session takes and gives what its description says."""
    width, height = description["input_res"] or ("width", "height")
    batch, from_bytes = description["batch_size"] or "batch", description["input_type"] == "uint8"
    _, shape = batch_kind(from_bytes, batch, height, width)
    expected = ([("image", "tensor(uint8)" if from_bytes else "tensor(float)", shape)],
                [("detections", "tensor(float)", [batch, description["K"], row_width(description)])])
    for ends, wanted in zip((session.get_inputs(), session.get_outputs()), expected):
        found = [(end.name, end.type, end.shape) for end in ends]
        if found != wanted:
            raise UserError(f"{path}: not a file of this project's export.py (it has {found}, and its metadata says {wanted})")


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
