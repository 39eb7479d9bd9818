"""The installed MindSpore version, found without loading MindSpore."""
import re
from importlib.metadata import PackageNotFoundError, version

from ..core.console import LOG
from ..core.errors import UserError
from ..core.project import how_to_install

FIRST, LAST = (2, 3), (2, 10)  # docs/mindspore-versions.md describes each; later ones are untested


def release(text: str) -> tuple[int, int]:
    """(major, minor) of a MindSpore version: (2, 3) for "2.3.0rc1"."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


def require_mindspore() -> None:
    """Raise UserError if MindSpore is missing or too old; log a warning if it is later than the last tested version."""
    try:
        installed = version("mindspore")
    except PackageNotFoundError as error:
        raise UserError("MindSpore is not installed; without it only .onnx files can be used. Install it with "
                        f"{how_to_install()}, or on Ascend as MindSpore's website describes") from error
    if release(installed) < FIRST:
        raise UserError(f"MindSpore {installed} is installed, but this project needs {_text(FIRST)} or later "
                        "(docs/mindspore-versions.md)")
    if release(installed) > LAST:
        LOG.warning(f"MindSpore {installed} is later than {_text(LAST)}, the last tested version")


def _text(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))
