"""Programs that run ONNX files on this machine: ONNX Runtime and OpenVINO. Each is a function of a batch."""
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from packaging.version import Version

from ..core.errors import UserError
from ..core.project import how_to_install

# ONNX Runtime's execution providers; the CPU runs the operators that a provider lacks.
PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider",
             "OpenVINO": "OpenVINOExecutionProvider", "CANN": "CANNExecutionProvider"}
FIRST_WITH_DEFORM_CONV = Version("1.25")  # of ONNX Runtime, on a CPU
OLD_RUNTIME = f"install onnxruntime {FIRST_WITH_DEFORM_CONV} or later, or export the file with " \
              "--export_config.onnx_dcn grid_sample"
NO_RULE = "OpenVINO has no rule for DeformConv; use runtime onnxruntime, or export the file with " \
          "--export_config.onnx_dcn grid_sample"

Run = Callable[[np.ndarray], np.ndarray]  # batch -> detections [N, K, D]


def choose_runtime(runtime: str, provider: str, model: Any) -> str:
    """The runtime for a ModelProto: runtime itself, or for "auto" the faster one (docs/onnx.md) of those that are
    installed and take the file."""
    if runtime != "auto":
        return runtime
    takes_it = provider == "CPU" and not has_deform_conv(model) and not has_int8_maps(model)
    return "openvino" if takes_it and is_installed("openvino") else "onnxruntime"


def is_installed(package: str) -> bool:
    """Whether a package is installed. A mere folder of its name, which Python could import, does not count."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def has_deform_conv(model: Any) -> bool:
    """Whether a ModelProto has the operator DeformConv."""
    return any(node.op_type == "DeformConv" for node in model.graph.node)


def form_for(runtime: str, provider: str) -> str:
    """The form of deformable convolutions (a key of onnx_graph.OPSETS) that a runtime takes; the faster if both."""
    if runtime != "onnxruntime" or provider != "CPU":
        return "grid_sample"
    return "deform_conv" if Version(package("onnxruntime").__version__) >= FIRST_WITH_DEFORM_CONV else "grid_sample"


def has_int8_maps(model: Any) -> bool:
    """Whether a ModelProto's maps come from int8 convolutions, as in files of earlier versions: OpenVINO computes some
    of them wrongly while height and width are free (docs/onnx-int8.md)."""
    from ..export.onnx_int8 import int8_convolutions, map_convolutions  # needs onnx, which a ModelProto shows is there

    return not {node.name for node in int8_convolutions(model)}.isdisjoint(map_convolutions(model))


def require_runtime(runtime: str, provider: str) -> None:
    """Raise UserError unless the packages of a runtime and its provider are installed."""
    if runtime == "onnxruntime":
        available = package("onnxruntime").get_available_providers()
        if PROVIDERS[provider] not in available:
            installed = ", ".join(name for name, full in PROVIDERS.items() if full in available)
            raise UserError(f"onnx_provider is {provider}, but the installed onnxruntime has only {installed}; install "
                            f"an onnxruntime package with {PROVIDERS[provider]}, or choose another provider")
        return
    package("openvino")
    if provider != "CPU":
        raise UserError(f"onnx_provider {provider} is one of ONNX Runtime's; leave it out, or use runtime onnxruntime")


def start(model: Any, runtime: str, provider: str, path: str) -> tuple[str, Run]:
    """Start a runtime on the ModelProto of a file, on all cores available to this process.

    Returns its name, for messages, and the function that runs it. runtime is auto, onnxruntime, openvino or
    openvino_bf16; provider, a key of PROVIDERS, is ONNX Runtime's. Raises UserError.
    """
    chosen = choose_runtime(runtime, provider, model)
    require_runtime(chosen, provider)
    if chosen != "onnxruntime":
        return "OpenVINO", start_openvino(model, "bf16" if chosen.endswith("bf16") else "f32", path)
    session = start_session(model, provider, path)
    return "ONNX Runtime", lambda batch: session.run(["detections"], {"image": batch})[0]


def start_session(model: Any, provider: str, path: str) -> Any:
    """Start ONNX Runtime on the ModelProto of a file. Raises UserError."""
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: failures are raised as exceptions
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    names = list(dict.fromkeys([PROVIDERS[provider], PROVIDERS["CPU"]]))
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=names,
                                               enable_fallback=False)
    except Exception as error:
        hint = f"; {OLD_RUNTIME}" if "DeformConv" in str(error) else ""
        raise UserError(f"{path}: ONNX Runtime rejects this file ({first_line(error)}){hint}") from error
    if PROVIDERS[provider] not in session.get_providers():  # ONNX Runtime would silently fall back to the CPU
        raise UserError(f"onnx_provider is {provider}, but onnxruntime cannot start {PROVIDERS[provider]}; install its "
                        "libraries and drivers, or choose another provider")
    return session


def start_openvino(model: Any, precision: str, path: str) -> Run:
    """Start OpenVINO's CPU plugin on the ModelProto of a file. Raises UserError."""
    openvino = package("openvino")
    if has_deform_conv(model):
        raise UserError(f"{path}: {NO_RULE}")
    core = openvino.Core()
    # Without a precision OpenVINO computes in bfloat16 where the processor can.
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
    # With MindSpore in this process the variable limits its oneDNN; OpenVINO's would be slower, and fails in bfloat16.
    limit = os.environ.pop("ONEDNN_MAX_CPU_ISA", None) if "mindspore" in sys.modules else None
    try:
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    except Exception as error:  # OpenVINO raises RuntimeError and its own types
        raise UserError(f"{path}: OpenVINO rejects this file ({first_line(error)})") from error
    finally:
        if limit is not None:
            os.environ["ONEDNN_MAX_CPU_ISA"] = limit
    request = compiled.create_infer_request()
    return lambda batch: request.infer({"image": batch}, share_outputs=False)["detections"]


def package(name: str) -> Any:
    """Import a package. Raises UserError if it is not installed."""
    try:
        return __import__(name)
    except ImportError as error:
        extra = "openvino" if name == "openvino" else "onnx"
        raise UserError(f"{error.name or name} is not installed; {how_to_install(extra)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or all if it is only a place in OpenVINO, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines if lines[0].startswith("Exception from") else lines[:1])[:300]
