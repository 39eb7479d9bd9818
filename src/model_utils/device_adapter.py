"""Choosing and preparing the device that MindSpore runs on."""
import contextlib
import csv
import glob
import hashlib
import json
import os
import resource
import signal
from importlib.metadata import version

import mindspore as ms

from ..core.console import LOG
from ..core.errors import UserError
from ..core.tables import line
from .local_adapter import has_npu, is_scheduler, launcher_variable
from .mindspore_version import release
from .quiet import without_warnings

FLOAT32_SWITCH = "TORCH_SDAA_CONV2D_BACKWARD_USE_FP32"  # of the Pascal VOC document, which trains in PyTorch on another device
SOURCES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "**", "*.py")


def cpu_environment(mindspore_version, environment):
    """The variables a CPU run needs, as a dictionary to add to the environment.

    The oneDNN of MindSpore 2.9 and 2.10 takes its reference convolution on AVX-512 processors, about 150 times
    slower than the AVX2 one; later and earlier versions choose well. What the user has set stays.
    """
    if release(mindspore_version) in ((2, 9), (2, 10)) and "ONEDNN_MAX_CPU_ISA" not in environment:
        return {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    return {}


def resolve_target(device_target):
    """ "Ascend" or "CPU" for device_target, "auto" too. Raises UserError if Ascend is asked for and there is none."""
    # Where there is no NPU, that Ascend's plugin cannot be loaded is no news.
    expected = () if device_target == "Ascend" or has_npu() else ("Backend Ascend is not available", "libmindspore_ascend")
    with without_warnings(*expected):
        has_ascend = device_target != "CPU" and ms.hal.is_available("Ascend")
    if device_target == "Ascend" and not has_ascend:
        raise UserError("device_target is Ascend, and MindSpore finds none on this machine; use --device_target CPU or auto")
    return "Ascend" if has_ascend else "CPU"


def set_device(device_target, device_id, conv_allow_hf32=False, jit_level=""):
    """Make MindSpore run graphs on the device; returns its name, "Ascend" or "CPU", for device_target "auto" too.

    conv_allow_hf32 and jit_level are Ascend's; elsewhere convolutions are float32 and graphs compiled in the one way there is.
    """
    target = resolve_target(device_target)
    if os.environ.pop("MS_COMPILER_CACHE_ENABLE", "0") != "0":
        LOG.info("MS_COMPILER_CACHE_ENABLE is left out: MindSpore would take graphs of other settings for this run's; "
                 "train.py has --compile_cache_dir")
    if target == "CPU":
        os.environ.update(cpu_environment(version("mindspore"), os.environ))
    if FLOAT32_SWITCH in os.environ:
        LOG.info(f"{FLOAT32_SWITCH} is not read here: conv_allow_hf32 false keeps convolutions and their gradients in float32, and it is "
                 f"{str(conv_allow_hf32).lower()}")
    ms.set_context(mode=ms.GRAPH_MODE)
    if target == "Ascend":
        _use_device(target, device_id)
        _allow_hf32(conv_allow_hf32)
        if jit_level:
            ms.set_context(jit_config={"jit_level": jit_level})
    else:
        _use_device(target)
        for name, value in {"conv_allow_hf32": conv_allow_hf32, "jit_level": jit_level}.items():
            if value:
                LOG.info(f"without effect, since the device is no Ascend: {name}")
    return target


# MindSpore 2.3 and 2.4 have no set_device, device_context and runtime, but the same under other names: docs/mindspore-versions.md.


def _use_device(target, *device_id):
    """Run on a device, for Ascend with its number."""
    if hasattr(ms, "set_device"):
        ms.set_device(target, *device_id)
    else:
        ms.set_context(device_target=target, **({"device_id": device_id[0]} if device_id else {}))


def _allow_hf32(allowed):
    """Let Ascend's convolutions round float32 to 19 bits, or not. CANN's own default is true."""
    if hasattr(ms, "device_context"):
        ms.device_context.ascend.op_precision.conv_allow_hf32(allowed)
    else:
        ms.set_context(ascend_config={"conv_allow_hf32": allowed})


def _device_memory():
    """The most bytes of the device that tensors have had."""
    memory = ms.runtime if hasattr(getattr(ms, "runtime", None), "max_memory_allocated") else ms.hal
    return memory.max_memory_allocated()


def keep_graphs(folder, settings):
    """Have MindSpore keep the graphs that it compiles from here on in a folder, and take them from there another time.

    It compares little more than the code, and takes a graph with another loss weight or batch size for the one it looks for. So all
    that the graphs depend on, beside their inputs' values, has to be in settings (what JSON can hold), which get a folder of their own.
    """
    digest = hashlib.sha256(json.dumps([settings, version("mindspore")]).encode())
    for path in sorted(glob.glob(SOURCES, recursive=True)):
        with open(path, "rb") as file:
            digest.update(file.read())
    folder = os.path.join(folder, digest.hexdigest()[:16])
    os.makedirs(folder, exist_ok=True)
    os.environ.update(MS_COMPILER_CACHE_ENABLE="1", MS_COMPILER_CACHE_PATH=folder)


@contextlib.contextmanager
def without_kept_graphs():
    """Neither keep nor take graphs in the block.

    MindSpore tells a folder's graphs apart by the order in which they are compiled: only those that every start compiles may be kept.
    """
    kept = os.environ.pop("MS_COMPILER_CACHE_ENABLE", None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ["MS_COMPILER_CACHE_ENABLE"] = kept


def init_ranks(distribute, device_num):
    """Join the other processes of a distributed run; returns (rank, rank size), (0, 1) if there are none.

    A process that a launcher started takes part even if distribute is false, but for the command line's (train_alone).
    """
    if not distribute and not launcher_variable():
        return 0, 1
    from mindspore import communication  # loads the collectives only where they are used

    # Python's handlers do not run while a process waits for the others, and there is nothing to save.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        communication.init()
        for number, handler in before.items():
            signal.signal(number, handler)
    except RuntimeError as error:
        if is_scheduler():
            raise UserError(f"a training process ended, or never came: {str(error).splitlines()[0]}") from error
        why = "distribute is true" if distribute else f"{launcher_variable()} in the environment says that this process is one of several"
        raise UserError(f"{why}, and joining the others failed; start train.py with a launcher (msrun, or the scripts in scripts/), or "
                        f"alone with --distribute false: {str(error).splitlines()[0]}") from error
    rank, rank_size = communication.get_rank(), communication.get_group_size()
    if device_num not in (1, rank_size):
        raise UserError(f"device_num is {device_num}, and the launcher started {rank_size} processes")
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=rank_size)
    return rank, rank_size


def shut_down_ranks(rank_size):
    """End the communication with the other processes in order; without it a process may crash as it ends."""
    if rank_size > 1:
        from mindspore import communication

        communication.release()


def peak_memory(target):
    """The most memory this process has had, as a line: of the host, and of the device where that has its own."""
    line = f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"
    if target == "Ascend":
        line += f", {_device_memory() / 2**30:.2f} GB of the device"
    return line


@contextlib.contextmanager
def profiling(enabled, path):
    """Profile what runs inside with MindSpore's profiler, into the folder path, "profiler" if it is empty."""
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


def costliest_operators(path, count=10):
    """The operators that took longest in a profile folder, as a table; MindSpore writes other files on CPU and Ascend."""
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
                     *((operator, called, f"{taken:.1f}", f"{taken / total:.1%}") for operator, taken, called in rows[:count])]
            return "\n".join(line(row, (32, 9, 11, 7)) for row in table)
    return f"{path}: no table of operators in this profile"
