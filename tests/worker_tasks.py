"""What the tests let the web service's workers do; its own imports are none but the library's, so that theirs are seen."""
import ctypes
import os
import signal
import sys


def hang(*_):
    """Wait in C with Python's lock held, as a decoder may that never looks up."""
    ctypes.PyDLL(None).sleep(600)


def modules():
    """The modules that are loaded."""
    return sorted(sys.modules)


def process():
    """The number of the process."""
    return os.getpid()


def crash():
    """End the process as the system does where there is no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


def lose_its_service():
    """Begin as a process does whose service has been killed meanwhile: its parent is another."""
    os.getppid = lambda: 1
    sys.modules["src.serving.images"].init_worker()


def fail():
    """Raise what is no HTTPException."""
    raise ZeroDivisionError("zero")


class Deadly:
    """What ends the process that unpickles it."""

    def __reduce__(self):
        return crash, ()


class DeadlyResult:
    """What ends the process that pickles it."""

    def __reduce__(self):
        crash()


def give_and_crash():
    """End the process while it gives its result, with the lock that all processes share."""
    return DeadlyResult()
