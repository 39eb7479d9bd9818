"""Locks on output folders: two trainings in one folder would back up each other's files and mix their records."""
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
    """The file that is locked while work, such as "training", runs in a folder.

    It is removed at the end. The one that a killed process leaves is not locked, since the kernel holds the lock.
    """
    return os.path.join(folder, f".centernet-{work.replace(' ', '-')}.lock")


@contextlib.contextmanager
def locked(folders: Sequence[str], work: str) -> Iterator[None]:
    """Keep other processes from the same work in these folders until the block ends. Missing folders are created.

    On a file system without locks a warning is logged, and nothing is locked. Raises UserError, which names the
    process that holds the lock.
    """
    with contextlib.ExitStack() as held:
        for folder in sorted({os.path.realpath(folder) for folder in folders}):
            os.makedirs(folder, exist_ok=True)
            held.enter_context(_locked(folder, work))
        yield


@contextlib.contextmanager
def waiting_lock(folder: str) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder, which exists; for work of a moment.

    On a file system without locks nothing is locked.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def require_free(folders: Sequence[str], work: str) -> None:
    """Raise UserError if a process does the same work in one of these folders, which need not exist."""
    for folder in sorted({os.path.realpath(folder) for folder in folders}):
        with contextlib.suppress(OSError), open(lock_file(folder, work), "rb") as file:
            _lock(file.fileno(), folder, work)


@contextlib.contextmanager
def _locked(folder: str, work: str) -> Iterator[None]:
    path = lock_file(folder, work)
    try:
        descriptor = _open_locked(path, folder, work)
    except OSError as error:
        with contextlib.suppress(OSError):
            if os.path.getsize(path) == 0:  # created in vain; a holder's file has content
                os.remove(path)
        LOG.warning(f"warning: {folder} cannot be locked ({reason(error)}): a second {work} in it would go unnoticed")
        yield
        return
    try:
        with contextlib.suppress(OSError):  # naming the holder is a courtesy
            os.truncate(descriptor, 0)
            since = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
            holder = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
            os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)  # while it is locked
        os.close(descriptor)


def _open_locked(path: str, folder: str, work: str) -> int:
    """The descriptor of the locked lock file.

    Raises OSError where locking is impossible, UserError if another process holds the lock.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not os.path.exists(path):
                raise
            # Another user's leftover file can be locked without write permission.
            descriptor = os.open(path, os.O_RDONLY)
        try:
            _lock(descriptor, folder, work)
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed the file in the meantime


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder; return False if another process holds the lock. Raises OSError where locking is
    impossible."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(descriptor: int, folder: str, work: str) -> None:
    if not try_lock(descriptor):
        raise UserError(f"{folder}: another {work} is at work there{_holder(descriptor)}; wait until it ends, or "
                        "choose another folder")


def _holder(descriptor: int) -> str:
    """The process that holds a lock, in parentheses; an empty string if its file does not name it."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(os.pread(descriptor, 1000, 0))
        return f" (process {holder['process']} on {holder['host']}, since {holder['since']})"
    return ""
