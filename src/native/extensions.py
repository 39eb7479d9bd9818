"""The Cython extensions, built on first use if they are missing or older than their sources."""
import functools
import glob
import importlib
import importlib.machinery
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from types import ModuleType

from ..core.console import LOG
from ..core.errors import UserError, reason
from ..core.project import ROOT

FOLDER = os.path.dirname(os.path.abspath(__file__))  # of the sources and the compiled modules
_BUILD_LOCK = threading.Lock()


@functools.cache
def extension(name: str) -> ModuleType:
    """Import a compiled module, after a build if it is missing, or in a checkout older than its source.

    Raises UserError, with the build command, if it cannot be built.
    """
    with _BUILD_LOCK:
        if is_outdated(name):
            build()
        try:
            return importlib.import_module(f"{__package__}.{name}")
        except ImportError:  # not built, or built for another Python or processor
            build()
        importlib.invalidate_caches()
        return importlib.import_module(f"{__package__}.{name}")


def is_outdated(name: str) -> bool:
    """Whether a compiled module exists and its source in this checkout is newer, as after `git pull`."""
    compiled = os.path.join(FOLDER, name + importlib.machinery.EXTENSION_SUFFIXES[0])
    is_checkout = os.path.exists(os.path.join(ROOT, "setup.py")) and os.path.exists(compiled)
    return is_checkout and os.path.getmtime(compiled) < os.path.getmtime(os.path.join(FOLDER, f"{name}.pyx"))


def require_extensions() -> None:
    """Build missing extensions before work begins that starts threads, makes folders and loads a network.

    Raises UserError.
    """
    for source in sorted(glob.glob(os.path.join(FOLDER, "*.pyx"))):
        extension(os.path.splitext(os.path.basename(source))[0])


def build() -> None:
    """Build all extensions with setup.py and put them next to their sources. Raises UserError.

    Each process builds in a folder of its own and renames the complete files, so several may build at the same time.
    """
    if not os.path.exists(os.path.join(ROOT, "setup.py")):
        raise UserError(f"the compiled modules in {FOLDER} are missing, or are for another Python; install the "
                        "package's wheel for this Python, or build it: pip install --no-deps --force-reinstall "
                        "/path/to/the/checkout")
    LOG.info("building the Cython extensions (once, takes a few seconds)")
    try:
        with tempfile.TemporaryDirectory(prefix=".extensions.", dir=FOLDER) as folder:
            sources = os.path.join(folder, os.path.relpath(FOLDER, ROOT))
            os.makedirs(sources)
            shutil.copy(os.path.join(ROOT, "setup.py"), folder)
            for source in glob.glob(os.path.join(FOLDER, "*.pyx")):
                shutil.copy(source, sources)
            command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise _build_error(_cause(done.stderr))
            for made in glob.glob(os.path.join(sources, "*.so")):
                place = os.path.join(FOLDER, os.path.basename(made))
                os.replace(made, place)
                source = os.path.join(FOLDER, f"{os.path.basename(made).split('.')[0]}.pyx")
                latest = max(os.path.getmtime(place), os.path.getmtime(source))  # a clock may be wrong
                os.utime(place, (latest, latest))
    except OSError as error:
        raise _build_error(f"{FOLDER}: {reason(error)}") from error


def _cause(output: str) -> str:
    """The last line of a failed build's output that is not empty."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no error output"


def _build_error(cause: str) -> UserError:
    command = f"{shlex.join(['cd', ROOT])} && {shlex.join([sys.executable, 'setup.py', 'build_ext', '--inplace'])}"
    return UserError(f"the Cython extensions are missing, or older than their sources, and could not be built "
                     f"({cause}); install a C compiler and Cython, make the folder writable, and run: {command}")
