"""Tasks for the web service's workers in tests. It imports only the standard library, so that tests see the workers'
imports."""
import ctypes
import os
import signal
import sys


def hang(*_):
    """Wait in C with the GIL held, like a decoder that hangs."""
    ctypes.PyDLL(None).sleep(600)


def modules():
    """The loaded modules."""
    return sorted(sys.modules)


def process():
    """The process id."""
    return os.getpid()


def crash():
    """End the process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def lose_its_service():
    """Initialize like a worker whose service has been killed in the meantime, so that its parent is another process."""
    os.getppid = lambda: 1
    sys.modules["src.serving.images"].init_worker()


def fail():
    """Raise an exception other than HTTPException."""
    raise ZeroDivisionError("zero")


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return crash, ()


class DeadlyResult:
    """Ends the process that pickles it."""

    def __reduce__(self):
        crash()


def give_and_crash():
    """End the process while it returns its result and holds the lock that all processes share."""
    return DeadlyResult()
