"""Which MindSpore is installed, found out without loading it."""
import re
from importlib.metadata import PackageNotFoundError, version

from ..core.console import LOG
from ..core.errors import UserError
from ..core.project import how_to_install

FIRST, LAST = (2, 3), (2, 10)  # docs/mindspore-versions.md says what each has; later ones are untried


def release(text: str) -> tuple[int, int]:
    """(major, minor) of a version as MindSpore writes it: (2, 3) of "2.3.0rc1"."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


def require_mindspore() -> None:
    """Raise UserError if MindSpore is missing or older than this project can use; log a line if it is later than any that was tried."""
    try:
        installed = version("mindspore")
    except PackageNotFoundError as error:
        raise UserError(f"MindSpore is not installed, without which only .onnx files detect; {how_to_install()}, or on Ascend as "
                        "MindSpore's site says") from error
    if release(installed) < FIRST:
        raise UserError(f"MindSpore {installed} is installed, and this project needs {_text(FIRST)} or later (docs/mindspore-versions.md)")
    if release(installed) > LAST:
        LOG.warning(f"MindSpore {installed} is later than {_text(LAST)}, the last that was tried")


def _text(numbers):
    return ".".join(map(str, numbers))
