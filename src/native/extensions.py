"""The Cython extensions, built on first use where they are missing or older than their sources."""
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

FOLDER = os.path.dirname(os.path.abspath(__file__))  # of the sources and of what is built
_ONE_BUILD = threading.Lock()


@functools.cache
def extension(name: str) -> ModuleType:
    """The compiled module of that name, after a build where it is missing or older than its source in a checkout.

    Raises UserError, with the command, if it cannot be built.
    """
    with _ONE_BUILD:
        if is_outdated(name):
            build()
        try:
            return importlib.import_module(f"{__package__}.{name}")
        except ImportError:  # not built, or for another Python or processor
            build()
        importlib.invalidate_caches()
        return importlib.import_module(f"{__package__}.{name}")


def is_outdated(name: str) -> bool:
    """Whether a compiled module is there, and its source in this checkout is newer, as after `git pull`."""
    compiled = os.path.join(FOLDER, name + importlib.machinery.EXTENSION_SUFFIXES[0])
    is_checkout = os.path.exists(os.path.join(ROOT, "setup.py")) and os.path.exists(compiled)
    return is_checkout and os.path.getmtime(compiled) < os.path.getmtime(os.path.join(FOLDER, f"{name}.pyx"))


def require_extensions() -> None:
    """Build what is missing before the work that needs it has threads, folders and a network. Raises UserError."""
    for source in sorted(glob.glob(os.path.join(FOLDER, "*.pyx"))):
        extension(os.path.splitext(os.path.basename(source))[0])


def build() -> None:
    """Build all extensions with setup.py and put them beside their sources. Raises UserError.

    Each process builds in a folder of its own and renames what is whole: any number may do so at the same time.
    """
    if not os.path.exists(os.path.join(ROOT, "setup.py")):
        raise UserError(f"the compiled modules of {FOLDER} are missing, or are for another Python; install the package's "
                        "wheel for this one, or build it: pip install --no-deps --force-reinstall /path/to/the/checkout")
    LOG.info("building the Cython extensions, once; it takes some seconds")
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
                raise _unbuilt(_cause(done.stderr))
            for made in glob.glob(os.path.join(sources, "*.so")):
                os.replace(made, os.path.join(FOLDER, os.path.basename(made)))
    except OSError as error:
        raise _unbuilt(f"{FOLDER}: {reason(error)}") from error


def _cause(output):
    """The last line of what a failed build said that is not empty."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _unbuilt(cause):
    return UserError(f"the Cython extensions are missing and could not be built ({cause}); with a C compiler, Cython and a folder that can "
                     f"be written, run: {shlex.join(['cd', ROOT])} && {shlex.join([sys.executable, 'setup.py', 'build_ext', '--inplace'])}")
