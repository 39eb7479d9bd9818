"""The project's version: the one place it is stated, for pyproject.toml, --version, side files and the service."""

__version__ = "1.0.0"


def version() -> str:
    """The version, such as "1.0.0"."""
    return __version__
