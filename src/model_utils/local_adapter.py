"""What a launcher tells this process through its environment, on a cluster or on ModelArts."""
import glob
import os

from ..core.errors import UserError

NPUS = "/dev/davinci[0-9]*"
# What says that a process is one of several, and what only such a process reads, MindSpore itself too.
RANK_TABLE = ("RANK_SIZE", "RANK_ID", "RANK_TABLE_FILE", "DEVICE_ID")


def launcher_variable(environment=os.environ):
    """The variable by which this process was started as one of several, "RANK_SIZE=8": with a rank table, by msrun or MindSpore's own
    cluster, or by mpirun; "" if it was not."""
    several = [name for name in ("OMPI_COMM_WORLD_SIZE", "RANK_SIZE") if int(environment.get(name) or 1) > 1]
    name = "MS_ROLE" if "MS_ROLE" in environment else next(iter(several), "")
    return name and f"{name}={environment[name]}"


def train_alone(environment=os.environ):
    """Take what a rank table's launcher left in the environment out of it; returns the names.

    Raises UserError if msrun, MindSpore's own cluster or mpirun started this process: they leave nothing.
    """
    by = launcher_variable(environment)
    if by and not by.startswith("RANK_SIZE"):
        raise UserError(f"distribute is false on the command line, and a launcher started this process as one of several ({by}); leave out "
                        "one of the two")
    return [name for name in RANK_TABLE if environment.pop(name, None)] if by else []


def is_scheduler(environment=os.environ):
    """Whether this process only brings the others of MindSpore's own cluster together: it trains nothing, and ends as it leaves them."""
    return environment.get("MS_ROLE") == "MS_SCHED"


def get_rank_id():
    """This process's rank among all, 0 if nothing started it as one of several."""
    return int(_first_set("RANK_ID", "MS_NODE_ID", "OMPI_COMM_WORLD_RANK") or 0)


def rank_label() -> str:
    """What tells this process's lines from other ranks' on one terminal: "[rank 1] "; "" for rank 0, and for a process alone."""
    return f"[rank {rank}] " if launcher_variable() and (rank := get_rank_id()) else ""


def get_device_id(device_id):
    """The device that the launcher gave this process, device_id without a launcher; mpirun gives each process of a server a number."""
    return int(_first_set("DEVICE_ID", "OMPI_COMM_WORLD_LOCAL_RANK") or device_id) if launcher_variable() else device_id


def _first_set(*names):
    """The first of these environment variables that says something."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def has_npu():
    """Whether this machine shows an Ascend device, found out without MindSpore."""
    return bool(glob.glob(NPUS))


def require_device(device_target):
    """Raise UserError if an Ascend device is asked for where there is none: a launcher says so before anything starts."""
    if device_target == "Ascend" and not has_npu():
        raise UserError(f"device_target is Ascend, and this machine has none ({NPUS}); DEVICE_TARGET=CPU runs the same on a CPU")


def get_job_id():
    """What names this run on its server: ModelArts' job, else the process that started this one."""
    return os.environ.get("JOB_ID") or f"started-by-{os.getppid()}"
