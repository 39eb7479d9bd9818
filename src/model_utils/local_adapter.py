"""The environment variables by which a launcher tells a process its rank and device, on a cluster or on ModelArts."""
import glob
import os
from collections.abc import Mapping, MutableMapping

from ..core.errors import UserError

NPUS = "/dev/davinci[0-9]*"
# Set for the processes of a distributed run only; MindSpore reads them, too.
RANK_TABLE = ("RANK_SIZE", "RANK_ID", "RANK_TABLE_FILE", "DEVICE_ID")
HCCL_CONFIG = "MINDSPORE_HCCL_CONFIG_PATH"  # another name of RANK_TABLE_FILE


def launcher_variable(environment: Mapping[str, str] = os.environ) -> str:
    """The variable that shows this process to be one of several, such as "RANK_SIZE=8"; an empty string if none does.

    The launcher may use a rank table, msrun or MindSpore's own cluster, or mpirun.
    """
    several = [name for name in ("OMPI_COMM_WORLD_SIZE", "RANK_SIZE") if int(environment.get(name) or 1) > 1]
    name = "MS_ROLE" if "MS_ROLE" in environment else next(iter(several), "")
    return name and f"{name}={environment[name]}"


def clear_launcher_variables(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove the leftovers of a rank table's launcher from the environment; return their names.

    Raises UserError if msrun, MindSpore's own cluster or mpirun started this process: those leave nothing behind.
    """
    variable = launcher_variable(environment)
    if variable and not variable.startswith("RANK_SIZE"):
        raise UserError("distribute is false on the command line, but a launcher started this process as one of "
                        f"several ({variable}); leave out one of the two")
    return [name for name in RANK_TABLE if environment.pop(name, None)] if variable else []


def is_scheduler(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process only connects the others of MindSpore's own cluster: it does not train, and ends when it
    leaves the group."""
    return environment.get("MS_ROLE") == "MS_SCHED"


def get_rank_id() -> int:
    """The rank of this process, 0 if no launcher set one."""
    return int(_first_set("RANK_ID", "MS_NODE_ID", "OMPI_COMM_WORLD_RANK") or 0)


def rank_label() -> str:
    """A prefix for this process's log lines on a terminal that ranks share: "[rank 1] "; empty for rank 0 and for a
    single process."""
    return f"[rank {rank}] " if launcher_variable() and (rank := get_rank_id()) else ""


def get_device_id(device_id: int) -> int:
    """The device that the launcher assigned to this process (with mpirun, its local rank); device_id without a
    launcher."""
    return int(_first_set("DEVICE_ID", "OMPI_COMM_WORLD_LOCAL_RANK") or device_id) if launcher_variable() else device_id


def _first_set(*names: str) -> str:
    """The first of these environment variables that is not empty."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def has_npu() -> bool:
    """Whether this machine has an Ascend device, found without MindSpore."""
    return bool(glob.glob(NPUS))


def require_device(device_target: str, advice: str = "DEVICE_TARGET=CPU runs the same on a CPU") -> None:
    """Raise UserError with advice if an Ascend device is requested but missing, before a command starts anything."""
    if device_target == "Ascend" and not has_npu():
        raise UserError(f"device_target is Ascend, but this machine has no Ascend device ({NPUS}); {advice}")


def get_job_id() -> str:
    """An identifier of this run on its server: the ModelArts job, else the parent process."""
    return os.environ.get("JOB_ID") or f"started-by-{os.getppid()}"
