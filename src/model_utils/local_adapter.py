"""What a launcher tells this process through its environment, on a cluster or on ModelArts."""
import glob
import os

from src.errors import UserError

NPUS = "/dev/davinci[0-9]*"


def launched(environment=os.environ):
    """Whether this process was started as one of several: with a rank table, by msrun or MindSpore's own cluster, or by mpirun."""
    return "MS_ROLE" in environment or any(int(environment.get(name) or 1) > 1 for name in ("RANK_SIZE", "OMPI_COMM_WORLD_SIZE"))


def is_scheduler(environment=os.environ):
    """Whether this process only brings the others of MindSpore's own cluster together: it trains nothing, and ends as it leaves them."""
    return environment.get("MS_ROLE") == "MS_SCHED"


def get_rank_id():
    """This process's rank among all, 0 if nothing started it as one of several."""
    return int(_first_set("RANK_ID", "MS_NODE_ID", "OMPI_COMM_WORLD_RANK") or 0)


def get_device_id(device_id):
    """The device that the launcher gave this process, device_id without a launcher; mpirun gives each process of a server a number."""
    return int(_first_set("DEVICE_ID", "OMPI_COMM_WORLD_LOCAL_RANK") or device_id) if launched() else device_id


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
