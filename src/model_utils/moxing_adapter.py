"""ModelArts: moxing copies data and checkpoints in before a script runs, and its outputs out afterwards.

One process per server copies, and the others wait for it. They synchronize through files in a local folder.
"""
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

import psutil

from ..core.console import LOG
from ..core.errors import UserError
from ..core.locks import try_lock
from .local_adapter import get_job_id, get_rank_id
from .settings import Config

POLL = 0.1  # seconds between checks for another process's files


def copy(source: str, target: str) -> None:
    """Copy a folder between object storage and this machine. Raises UserError if moxing is missing or fails."""
    try:
        import moxing
    except ImportError as error:
        raise UserError("enable_modelarts needs moxing, which only ModelArts' images have; elsewhere pass local paths "
                        "instead") from error
    LOG.info(f"copying {source} to {target}")
    try:
        moxing.file.copy_parallel(source, target)
    except Exception as error:  # moxing passes on the exceptions of its storage client
        raise UserError(f"copying {source} to {target} failed: {error}") from error


@contextlib.contextmanager
def modelarts(config: Config, data_parameter: str | None) -> Iterator[None]:
    """Run the block on copies of data_url and checkpoint_url, and copy its outputs to train_url, even if it fails.

    Sets the inputs and outputs in config: data_parameter ("mindrecord_dir", "data_dir" or a conversion's
    "coco_data_dir"; with mindrecord_dir also data_dir, a path in data_url), load_checkpoint_path and
    export_config.ckpt_file (paths in checkpoint_url), save_checkpoint_path, save_result_dir, export_config.export_name,
    a conversion's mindrecord_dir, and device_id (the variable DEVICE_ID). Without enable_modelarts it does nothing.
    ModelArts ends a job with SIGTERM, which raises in the block (errors.run).
    """
    if not config.enable_modelarts:
        yield
        return
    barrier = Barrier(os.path.join(tempfile.gettempdir(), f"modelarts-{get_job_id()}"), config.modelarts_timeout)
    folders = ("data", "checkpoint", "output")
    data, checkpoints, output = (os.path.join(config.modelarts_local_path, name) for name in folders)

    def fetch() -> None:
        for url, path in ((config.data_url, data), (config.checkpoint_url, checkpoints)):
            if url:
                copy(url, path)
        os.makedirs(output, exist_ok=True)

    def deliver() -> None:
        if config.train_url:
            copy(output, config.train_url)

    try:
        barrier.once("fetch", fetch)
        _use_copies(config, data_parameter, data, checkpoints, output)
        yield
    except BaseException:
        # The others may be waiting for this process, so it does not wait for them.
        barrier.leave()
        if os.path.isdir(output):
            deliver()
        raise
    if barrier.leave():
        deliver()


def _use_copies(config: Config, data_parameter: str | None, data: str, checkpoints: str, output: str) -> None:
    """Set the paths of the local copies, and the job's device, in the configuration."""
    config.device_id = int(os.environ.get("DEVICE_ID") or config.device_id)
    if config.data_url and data_parameter == "mindrecord_dir" and config.data_dir:
        config.data_dir = os.path.join(data, config.data_dir)
    if config.data_url and data_parameter:
        setattr(config, data_parameter, data)
    if data_parameter == "coco_data_dir":
        config.mindrecord_dir = output
    if config.checkpoint_url:
        config.load_checkpoint_path = os.path.join(checkpoints, config.load_checkpoint_path)
        config.export_config.ckpt_file = os.path.join(checkpoints, config.export_config.ckpt_file)
    config.save_checkpoint_path = config.save_result_dir = output
    config.export_config.export_name = os.path.join(output, config.export_config.export_name)


class Barrier:
    """Synchronization of a run's processes on one server, through files in a folder; timeout in seconds."""

    def __init__(self, folder: str, timeout: float):
        self.folder, self.timeout = folder, timeout
        with self._alone():
            if os.path.isdir(folder) and not self._alive():
                shutil.rmtree(folder)  # left by a killed run
            os.makedirs(folder, exist_ok=True)
            open(self._path(f"member-{os.getpid()}"), "w").close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time into the block, since another could create or remove the folder meanwhile.

        The lock is on the parent folder, which stays, and needs no file.
        """
        parent, end = os.open(os.path.dirname(self.folder), os.O_RDONLY), time.monotonic() + self.timeout
        try:
            while not try_lock(parent):
                if time.monotonic() > end:
                    raise UserError(f"rank {get_rank_id()}: waited {self.timeout} s (modelarts_timeout) for the lock "
                                    f"on {os.path.dirname(self.folder)}, which another process holds")
                time.sleep(POLL)
            yield
        finally:
            os.close(parent)

    def _alive(self) -> list[int]:
        """The processes that have joined and not left."""
        members = [int(name.partition("-")[2]) for name in os.listdir(self.folder) if name.startswith("member-")]
        return [member for member in members if psutil.pid_exists(member)]

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _first(self, name: str) -> bool:
        """Whether this process is the first to call this with a name."""
        try:
            os.mkdir(self._path(name))
        except FileExistsError:
            return False
        return True

    def once(self, name: str, action: Callable[[], None]) -> None:
        """Let the first process run the action while the others wait. Raises UserError if it fails or times out."""
        done, failed = self._path(f"{name}.done"), self._path(f"{name}.failed")
        if self._first(name):
            try:
                action()
            except BaseException:
                open(failed, "w").close()
                raise
            open(done, "w").close()
            return
        end = time.monotonic() + self.timeout
        while not os.path.exists(done):
            if os.path.exists(failed):
                raise UserError(f"rank {get_rank_id()}: another process failed to {name} the data; see its log")
            if time.monotonic() > end:
                raise UserError(f"rank {get_rank_id()}: waited {self.timeout} s (modelarts_timeout) for another "
                                f"process to {name} the data")
            time.sleep(POLL)

    def leave(self) -> bool:
        """Leave the barrier; return True for the last process only."""
        with self._alone():
            os.remove(self._path(f"member-{os.getpid()}"))
            last = not self._alive()
            if last:
                shutil.rmtree(self.folder)
        return last
