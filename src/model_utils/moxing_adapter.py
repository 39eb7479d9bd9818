"""ModelArts: data and checkpoints are copied in before a script runs, and its outputs out after it, with moxing.

One process a server copies, the others wait for it. They find each other through files in a folder of the server.
"""
import contextlib
import os
import shutil
import tempfile
import time

import psutil

from ..core.console import LOG
from ..core.errors import UserError
from ..core.locks import try_lock
from .local_adapter import get_job_id, get_rank_id

POLL = 0.1  # seconds between two looks for another process's files


def copy(source, target):
    """Copy a folder between object storage and this machine. Raises UserError if moxing is missing or fails."""
    try:
        import moxing
    except ImportError as error:
        raise UserError("enable_modelarts needs moxing, which only ModelArts' images have; elsewhere give the paths themselves") from error
    LOG.info(f"copying {source} to {target}")
    try:
        moxing.file.copy_parallel(source, target)
    except Exception as error:  # moxing raises what its storage client raises
        raise UserError(f"copying {source} to {target} failed: {error}") from error


@contextlib.contextmanager
def modelarts(config, data_parameter):
    """Run the block on copies of data_url and checkpoint_url; what it writes is copied to train_url, if it fails too.

    Sets in config what a script reads and writes: data_parameter ("mindrecord_dir", "data_dir" or a conversion's "coco_data_dir"), beside
    mindrecord_dir data_dir (a path inside data_url), load_checkpoint_path and export_config.ckpt_file (paths inside checkpoint_url),
    save_checkpoint_path, save_result_dir, export_config.export_name, a conversion's mindrecord_dir, and device_id (the variable DEVICE_ID).
    Without enable_modelarts it does nothing. ModelArts ends a job with SIGTERM, which raises in the block (errors.run).
    """
    if not config.enable_modelarts:
        yield
        return
    barrier = Barrier(os.path.join(tempfile.gettempdir(), f"modelarts-{get_job_id()}"), config.modelarts_timeout)
    data, checkpoints, output = (os.path.join(config.modelarts_local_path, name) for name in ("data", "checkpoint", "output"))

    def fetch():
        for url, path in ((config.data_url, data), (config.checkpoint_url, checkpoints)):
            if url:
                copy(url, path)
        os.makedirs(output, exist_ok=True)

    def deliver():
        if config.train_url:
            copy(output, config.train_url)

    try:
        barrier.once("fetch", fetch)
        _use_copies(config, data_parameter, data, checkpoints, output)
        yield
    except BaseException:
        # The others may hang on this one, so it does not wait for them.
        barrier.leave()
        if os.path.isdir(output):
            deliver()
        raise
    if barrier.leave():
        deliver()


def _use_copies(config, data_parameter, data, checkpoints, output):
    """Put the local copies' paths, and the job's device, into the configuration."""
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
    """The processes of one run on one server, which meet in a folder; timeout in seconds."""

    def __init__(self, folder, timeout):
        self.folder, self.timeout = folder, timeout
        with self._alone():
            if os.path.isdir(folder) and not self._alive():
                shutil.rmtree(folder)  # of a run that was killed
            os.makedirs(folder, exist_ok=True)
            open(self._path(f"member-{os.getpid()}"), "w").close()

    @contextlib.contextmanager
    def _alone(self):
        """One process at a time is in the block: between two looks at the folder another could make or remove it.

        The folder above is what is locked: it stays, and nothing is left in it.
        """
        above, end = os.open(os.path.dirname(self.folder), os.O_RDONLY), time.monotonic() + self.timeout
        try:
            while not try_lock(above):
                if time.monotonic() > end:
                    raise UserError(f"rank {get_rank_id()}: waited {self.timeout} s (modelarts_timeout) for the lock of "
                                    f"{os.path.dirname(self.folder)}, which another process holds")
                time.sleep(POLL)
            yield
        finally:
            os.close(above)

    def _alive(self):
        """The processes that have come and not left."""
        members = [int(name.partition("-")[2]) for name in os.listdir(self.folder) if name.startswith("member-")]
        return [member for member in members if psutil.pid_exists(member)]

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _first(self, name):
        """Whether this process is the first to come with a name."""
        try:
            os.mkdir(self._path(name))
        except FileExistsError:
            return False
        return True

    def once(self, name, action):
        """The first process to come does the action, the others wait for it. Raises UserError if it fails or takes too long."""
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
                raise UserError(f"rank {get_rank_id()}: the process that was to {name} the data failed; its log says why")
            if time.monotonic() > end:
                raise UserError(f"rank {get_rank_id()}: waited {self.timeout} s (modelarts_timeout) for another process to {name} the data")
            time.sleep(POLL)

    def leave(self):
        """Go; returns whether this process is the last, once."""
        with self._alone():
            os.remove(self._path(f"member-{os.getpid()}"))
            last = not self._alive()
            if last:
                shutil.rmtree(self.folder)
        return last
