"""Selection and setup of MindSpore's device, and distributed communication."""
import contextlib
import csv
import glob
import json
import os
import re
import resource
import signal
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import mindspore as ms

from ..core.console import LOG
from ..core.errors import UserError
from ..core.project import digest_of_code
from ..core.tables import line
from .local_adapter import HCCL_CONFIG, has_npu, is_scheduler, launcher_variable
from .mindspore_version import release
from .quiet import without_warnings

# Names of Atlas training devices (910); those of A2 and later end in digits: Ascend910B1, Ascend910_9391.
FIRST_GENERATION = re.compile(r"Ascend910(A|B|ProA|ProB|PremiumA)?")
PRECISION = {
    "allow_fp32_to_fp16": "convolutions and matrix products in float16, the only type of this device's cube unit; all "
                          "else as the network states",
    "must_keep_origin_dtype": "as the network states, float32 but for train_config.amp_level",
}
# From the Pascal VOC document (docs/differences.md), which trains with PyTorch on another device.
FLOAT32_SWITCH = "TORCH_SDAA_CONV2D_BACKWARD_USE_FP32"


def cpu_environment(mindspore_version: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables to add for a CPU run.

    On AVX-512 processors the oneDNN of MindSpore 2.9 and 2.10 uses its reference convolution, about 150 times slower
    than the AVX2 one; other versions do not. A variable that the user has set stays.
    """
    if release(mindspore_version) in ((2, 9), (2, 10)) and "ONEDNN_MAX_CPU_ISA" not in environment:
        return {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    return {}


def resolve_target(device_target: str) -> str:
    """Resolve device_target, including "auto", to "Ascend" or "CPU". Raises UserError if Ascend is not available."""
    # Without an NPU, Ascend's plugin is expected to be unavailable.
    is_expected = device_target != "Ascend" and not has_npu()
    with without_warnings(*(("Backend Ascend is not available", "libmindspore_ascend") if is_expected else ())):
        has_ascend = device_target != "CPU" and ms.hal.is_available("Ascend")
    if device_target == "Ascend" and not has_ascend:
        raise UserError("device_target is Ascend, but MindSpore finds none on this machine; use --device_target CPU or "
                        "auto")
    return "Ascend" if has_ascend else "CPU"


def set_device(device_target: str, device_id: int, conv_allow_hf32: bool = False, jit_level: str = "") -> str:
    """Make MindSpore run graphs on the device; return its name, "Ascend" or "CPU".

    conv_allow_hf32 and jit_level apply to Ascend only. On a CPU convolutions are float32, and there is one way to
    compile graphs.
    """
    target = resolve_target(device_target)
    if os.environ.pop("MS_COMPILER_CACHE_ENABLE", "0") != "0":
        LOG.info("MS_COMPILER_CACHE_ENABLE is ignored: MindSpore would reuse graphs of other settings for this run; "
                 "use train.py --compile_cache_dir")
    if target == "CPU":
        os.environ.update(cpu_environment(version("mindspore"), os.environ))
    if FLOAT32_SWITCH in os.environ:
        LOG.info(f"{FLOAT32_SWITCH} is ignored: where convolutions and their gradients can be float32 (a CPU, an Atlas "
                 f"A2), conv_allow_hf32 false keeps them so; it is {str(conv_allow_hf32).lower()}")
    ms.set_context(mode=ms.GRAPH_MODE)
    if target == "Ascend":
        _use_device(target, device_id)
        name = ms.hal.get_device_name(device_id, target)
        mode = precision_mode_of(name)
        _set_precision(mode, conv_allow_hf32)
        level, reason = jit_level_on(name, jit_level, os.environ)
        LOG.info(f"precision on {name}: {PRECISION[mode]}; graphs: jit_level {level}{reason}")
        if jit_level:
            ms.set_context(jit_config={"jit_level": jit_level})
    else:
        _use_device(target)
        for name, value in {"conv_allow_hf32": conv_allow_hf32, "jit_level": jit_level}.items():
            if value:
                LOG.info(f"without effect, since the device is not an Ascend: {name}")
    return target


# MindSpore 2.3 and 2.4 have other names for set_device, device_context and runtime: docs/mindspore-versions.md.


def _use_device(target: str, *device_id: int) -> None:
    """Run on a device; Ascend takes a device_id."""
    if hasattr(ms, "set_device"):
        ms.set_device(target, *device_id)
    else:
        ms.set_context(device_target=target, **({"device_id": device_id[0]} if device_id else {}))


def precision_mode_of(device_name: str) -> str:
    """CANN's precision mode that keeps most of float32 on a device, such as "Ascend910A" or "Ascend910B1".

    The first generation's cube unit has no float32: CANN's page on precision_mode excludes must_keep_origin_dtype for
    networks with Conv2D there. Its default, by MindSpore's version force_fp16 or allow_fp32_to_fp16, may round every
    operator to float16. docs/ascend.md has the sources.
    """
    return "allow_fp32_to_fp16" if FIRST_GENERATION.fullmatch(device_name) else "must_keep_origin_dtype"


def jit_level_on(device_name: str, jit_level: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The level at which MindSpore compiles graphs for an Ascend device, and why, as GetJitLevel in ms_context.cc.

    O2 compiles a graph as a whole with CANN's graph engine; O0 and O1 run it kernel by kernel. jit_level "" is the
    default.
    """
    rank_table = any(map(environment.get, ("RANK_TABLE_FILE", HCCL_CONFIG))) and not environment.get("MS_ROLE")
    if rank_table and jit_level in ("O0", "O1"):
        return "O2", f", not {jit_level}: MindSpore chooses it for processes with a rank table; msrun avoids that"
    if rank_table:
        return "O2", ", as for all processes with a rank table"
    if jit_level:
        return jit_level, ""
    return ("O2" if FIRST_GENERATION.fullmatch(device_name) else "O0"), ", MindSpore's default for it"


def saturates(target: str) -> bool:
    """Whether the device that set_device chose limits values that overflow, and sets a status register, instead of
    making them infinite."""
    if target != "Ascend":
        return False
    return bool(FIRST_GENERATION.fullmatch(ms.hal.get_device_name(ms.get_context("device_id"), target)))


def _set_precision(mode: str, allow_hf32: bool) -> None:
    """Set CANN's precision mode, and whether convolutions may round float32 to 19 bits, which is CANN's default.

    A process may set the mode again, but not another one (mindspore/device_context/ascend/op_precision.py).
    """
    if hasattr(ms, "device_context"):
        ms.device_context.ascend.op_precision.precision_mode(mode)
        ms.device_context.ascend.op_precision.conv_allow_hf32(allow_hf32)
    else:
        ms.set_context(ascend_config={"precision_mode": mode, "conv_allow_hf32": allow_hf32})


def _device_memory() -> int:
    """The device's peak memory for tensors, in bytes."""
    memory = ms.runtime if hasattr(getattr(ms, "runtime", None), "max_memory_allocated") else ms.hal
    return memory.max_memory_allocated()


def cache_graphs(folder: str, settings: Any) -> None:
    """Make MindSpore cache the graphs that it compiles from here on in a folder, and reuse them in later runs.

    MindSpore compares little more than the code, and would reuse a graph with another loss weight or batch size. So
    settings (JSON-serializable) must hold everything that the graphs depend on, besides the values of their inputs;
    different settings get different subfolders.
    """
    digest = digest_of_code("mindspore")
    digest.update(json.dumps(settings).encode())
    folder = os.path.join(folder, digest.hexdigest()[:16])
    os.makedirs(folder, exist_ok=True)
    os.environ.update(MS_COMPILER_CACHE_ENABLE="1", MS_COMPILER_CACHE_PATH=folder)


@contextlib.contextmanager
def without_graph_cache() -> Iterator[None]:
    """Disable the graph cache within the block.

    MindSpore identifies a folder's graphs by the order of compilation, so only graphs that every run compiles may be
    cached.
    """
    kept = os.environ.pop("MS_COMPILER_CACHE_ENABLE", None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ["MS_COMPILER_CACHE_ENABLE"] = kept


def init_ranks(distribute: bool, device_num: int) -> tuple[int, int]:
    """Join the other processes of a distributed run; return (rank, rank size), which is (0, 1) without others.

    A process that a launcher started joins even if distribute is false, unless that is from the command line
    (clear_launcher_variables).
    """
    if not distribute and not launcher_variable():
        return 0, 1
    from mindspore import communication  # loads the collectives only where they are used

    # Python's handlers do not run while MindSpore waits for the other processes, and there is nothing to save.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        communication.init()
        for number, handler in before.items():
            signal.signal(number, handler)
    except RuntimeError as error:
        if is_scheduler():
            raise UserError(f"a training process ended or never started: {str(error).splitlines()[0]}") from error
        variable = f"{launcher_variable()} in the environment implies several processes"
        why = "distribute is true" if distribute else variable
        raise UserError(f"{why}, but joining the others failed; start train.py with a launcher (msrun, or the scripts "
                        "in scripts/), or alone with --distribute false: "
                        f"{str(error).splitlines()[0]}") from error
    rank, rank_size = communication.get_rank(), communication.get_group_size()
    if device_num not in (1, rank_size):
        raise UserError(f"device_num is {device_num}, but the launcher started {rank_size} processes")
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True,
                                 device_num=rank_size)
    return rank, rank_size


def shut_down_ranks(rank_size: int) -> None:
    """End the communication with the other processes; otherwise a process may crash on exit."""
    if rank_size > 1:
        from mindspore import communication

        communication.release()


def peak_memory(target: str) -> str:
    """A log line with this process's peak memory: the host's, and an Ascend device's."""
    text = f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"
    if target == "Ascend":
        text += f", {_device_memory() / 2**30:.2f} GB of the device"
    return text


@contextlib.contextmanager
def profiling(enabled: bool, path: str) -> Iterator[None]:
    """Profile the block with MindSpore's profiler, into the folder path, or "profiler" if it is empty."""
    if not enabled:
        yield
        return
    path = path or "profiler"
    profiler = ms.Profiler(output_path=path)
    try:
        yield
    finally:
        profiler.analyse()
    LOG.info(costliest_operators(path))


def costliest_operators(path: str, count: int = 10) -> str:
    """A table of the operators with the most time in a profile; MindSpore writes different files on CPU and Ascend."""
    for pattern, name, time, unit_ms, calls in (
        ("cpu_op_type_info_*.csv", "op_type", "total_compute_time", 1.0, "type_occurrences"),
        ("op_statistic*.csv", "OP Type", "Total Time(us)", 1e-3, "Count"),
    ):
        for file in sorted(glob.glob(os.path.join(path, "**", pattern), recursive=True)):
            with open(file, encoding="utf-8") as lines:
                rows = [(row[name], float(row[time]) * unit_ms, row[calls]) for row in csv.DictReader(lines)]
            rows.sort(key=lambda row: -row[1])
            total = sum(row[1] for row in rows) or 1.0
            table = [("costliest operators", "calls", "ms", "share"),
                     *((operator, number, f"{spent:.1f}", f"{spent / total:.1%}")
                       for operator, spent, number in rows[:count])]
            return "\n".join(line(row, (32, 9, 11, 7)) for row in table)
    return f"{path}: no table of operators in this profile"
