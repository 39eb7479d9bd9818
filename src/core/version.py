"""The project's version: the one place it is stated, for pyproject.toml, --version, side files and the service."""
import glob
import hashlib
import os
from importlib import metadata

SOURCES = os.path.join(glob.escape(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "**", "*.py")

__version__ = "1.0.0"


def version() -> str:
    """The version, such as "1.0.0"."""
    return __version__


def digest_of_code(*packages: str) -> "hashlib._Hash":
    """SHA-256 of this project's source code and of the versions of installed packages; for keys of caches."""
    digest = hashlib.sha256(" ".join(metadata.version(package) for package in packages).encode())
    for path in sorted(glob.glob(SOURCES, recursive=True)):
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest
