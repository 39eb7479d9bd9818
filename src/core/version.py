"""The version of this project. It stands here alone: pyproject.toml, --version, side files, pages and the service take it from here."""

__version__ = "1.0.0"


def version() -> str:
    """The version: "1.0.0"."""
    return __version__
