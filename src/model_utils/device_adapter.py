"""Choosing and preparing the device that MindSpore runs on."""
import contextlib
import os
import re
from importlib.metadata import version

import mindspore as ms

from src.errors import UserError


def cpu_environment(mindspore_version, environment):
    """The variables a CPU run needs, as a dictionary to add to the environment.

    The oneDNN of MindSpore 2.9 and 2.10 takes its reference convolution on AVX-512 processors, about 150 times
    slower than the AVX2 one; later and earlier versions choose well. What the user has set stays.
    """
    major, minor = map(int, re.match(r"(\d+)\.(\d+)", mindspore_version).groups())
    if (major, minor) in ((2, 9), (2, 10)) and "ONEDNN_MAX_CPU_ISA" not in environment:
        return {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    return {}


def set_device(device_target, device_id):
    """Make MindSpore run graphs on the device; returns its name, "Ascend" or "CPU", for device_target "auto" too."""
    has_ascend = device_target != "CPU" and ms.hal.is_available("Ascend")
    if device_target == "Ascend" and not has_ascend:
        raise UserError("device_target is Ascend, and MindSpore finds none on this machine; use --device_target CPU or auto")
    target = "Ascend" if has_ascend else "CPU"
    if target == "CPU":
        os.environ.update(cpu_environment(version("mindspore"), os.environ))
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device(target, *([device_id] if target == "Ascend" else []))
    return target


def launched(environment):
    """Whether a launcher started this process as one of several: a rank table's, msrun or MindSpore's own cluster, or mpirun."""
    return "MS_ROLE" in environment or any(int(environment.get(name) or 1) > 1 for name in ("RANK_SIZE", "OMPI_COMM_WORLD_SIZE"))


def init_ranks(distribute, device_num):
    """Join the other processes of a distributed run; returns (rank, number of ranks), (0, 1) if there are none.

    A process that a launcher started takes part even if distribute is false: alone it would overwrite the others' files.
    """
    if not distribute and not launched(os.environ):
        return 0, 1
    from mindspore import communication  # loads the collectives only where they are used

    try:
        communication.init()
    except RuntimeError as error:
        raise UserError(f"distribute is true, and joining the other processes failed; start train.py with a launcher "
                        f"(msrun, or the scripts in scripts/): {str(error).splitlines()[0]}") from error
    rank, ranks = communication.get_rank(), communication.get_group_size()
    if device_num not in (1, ranks):
        raise UserError(f"device_num is {device_num}, and the launcher started {ranks} processes")
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=ranks)
    return rank, ranks


def leave_ranks(ranks):
    """End the communication with the other processes in order; without it a process may crash as it ends."""
    if ranks > 1:
        from mindspore import communication

        communication.release()


@contextlib.contextmanager
def profiling(enabled, path):
    """Profile what runs inside with MindSpore's profiler, into the folder path."""
    if not enabled:
        yield
        return
    profiler = ms.Profiler(output_path=path)
    try:
        yield
    finally:
        profiler.analyse()
