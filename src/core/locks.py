"""Locks on folders that work writes into: two trainings in one folder would move each other's files aside, and mix their records."""
import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence

from .console import LOG
from .errors import UserError, reason


def lock_file(folder: str, work: str) -> str:
    """The file that is locked while such work, "training", goes on in a folder.

    It is removed at the end; what a killed process leaves holds no lock, for that is the kernel's.
    """
    return os.path.join(folder, f".centernet-{work.replace(' ', '-')}.lock")


@contextlib.contextmanager
def locked(folders: Sequence[str], work: str) -> Iterator[None]:
    """Let no other process do such work in these folders, which are made if they are missing, until the block ends.

    Where a file system cannot lock, a line says so, and nothing is locked. Raises UserError, which says who works there.
    """
    with contextlib.ExitStack() as held:
        for folder in sorted({os.path.realpath(folder) for folder in folders}):
            os.makedirs(folder, exist_ok=True)
            held.enter_context(_locked(folder, work))
        yield


def require_free(folders: Sequence[str], work: str) -> None:
    """Raise UserError if a process does such work in one of these folders, which need not be there."""
    for folder in sorted({os.path.realpath(folder) for folder in folders}):
        with contextlib.suppress(OSError), open(lock_file(folder, work), "rb") as file:
            _lock(file.fileno(), folder, work)


@contextlib.contextmanager
def _locked(folder, work):
    path = lock_file(folder, work)
    try:
        descriptor = _open_locked(path, folder, work)
    except OSError as error:
        with contextlib.suppress(OSError):
            if os.path.getsize(path) == 0:  # made for nothing; a holder's says who that is
                os.remove(path)
        LOG.warning(f"warning: {folder} cannot be locked ({reason(error)}): nothing keeps a second {work} from it")
        yield
        return
    try:
        with contextlib.suppress(OSError):  # nobody needs to know who it is
            os.truncate(descriptor, 0)
            since = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
            os.write(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)  # while it is locked
        os.close(descriptor)


def _open_locked(path, folder, work):
    """The descriptor of the lock's file, locked. Raises OSError where that cannot be, UserError if another process has it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not os.path.exists(path):
                raise
            # What another user's process left behind can be locked, too.
            descriptor = os.open(path, os.O_RDONLY)
        try:
            _lock(descriptor, folder, work)
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a file that its holder has removed meanwhile


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder unless another process has; returns whether it is locked now. Raises OSError where that cannot be."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(descriptor, folder, work):
    if not try_lock(descriptor):
        who = _holder(descriptor)
        raise UserError(f"{folder}: another {work} is at work there{who}; wait for its end, or name another folder")


def _holder(descriptor):
    """The words for who holds a lock, "" where its file does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(os.pread(descriptor, 1000, 0))
        return f" (process {said['process']} on {said['host']}, since {said['since']})"
    return ""
