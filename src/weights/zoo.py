"""Inspection of MindSpore checkpoint files, the model zoo's in particular, without loading MindSpore."""
import contextlib
import math
import os
import shlex
from collections.abc import Iterator
from typing import BinaryIO

from ..core.errors import UserError
from ..core.project import command
from .source_names import ZOO_PREFIX, zoo_prefix

# Protobuf's field keys: a number, or bytes after their length.
FIELD_1, FIELD_2, FIELD_3, NUMBER_1 = b"\x0a", b"\x12", b"\x1a", b"\x08"
MAX_NAME, MAX_DIMENSIONS = 1000, 32
CHECKSUM = b"crc_num"  # followed by ten bytes at the end of a file that has one
SIZES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Float16": 2, "BFloat16": 2, "Int32": 4,
         "UInt32": 4, "Float32": 4, "Int64": 8, "UInt64": 8, "Float64": 8}  # bytes per number


def parameter_names(path: str) -> list[str]:
    """Return the names in a MindSpore checkpoint file, in file order, up to the first invalid entry.

    Source: MindSpore's checkpoint.proto. A file is a list of entries: a name with a tensor, or a slice of a large one.
    """
    names: dict[str, None] = {}
    with open(path, "rb") as file, contextlib.suppress(ValueError, OverflowError):
        for name, end in _entries(file):
            names[name] = None
            file.seek(end)
    return list(names)


def check_sizes(path: str) -> None:
    """Raise ValueError unless a file is a MindSpore checkpoint in which all tensors have the size of their shapes.

    MindSpore allocates the shape's memory, copies the bytes that exist, and reports nothing.
    """
    found: dict[str, tuple[int, int | None]] = {}  # {name: (bytes of its slices, bytes of its shape)}
    with open(path, "rb") as file:
        for name, end in _entries(file):
            wanted, actual = _tensor_sizes(file, name, end)
            if name in found and name != next(reversed(found)):
                raise ValueError(f"{name} occurs twice")
            found[name] = found.get(name, (0,))[0] + actual, wanted
    for name, (actual, wanted) in found.items():
        if wanted not in (None, actual):
            raise ValueError(f"{name} has {actual} bytes, but its shape needs {wanted}")


def _entries(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield (name, end position) of each entry of a MindSpore checkpoint, with the file's position after the name.

    Raises ValueError at the first invalid entry.
    """
    size = os.fstat(file.fileno()).st_size
    while (key := file.read(1)) == FIELD_1:
        end = _end(file, size)
        _expect(file, FIELD_1)
        length = _end(file, end) - file.tell()
        if length > MAX_NAME:
            raise ValueError("a name is too long")
        yield file.read(length).decode(), end
    if key and (key + file.read(len(CHECKSUM) - 1) != CHECKSUM or file.tell() + 10 != size):
        raise ValueError("an entry is invalid")


def _tensor_sizes(file: BinaryIO, name: str, end: int) -> tuple[int | None, int]:
    """Read an entry after its name: (bytes of the tensor's shape and type, None for a string; bytes it has)."""
    _expect(file, FIELD_2)
    if _end(file, end) != end:
        raise ValueError(f"{name} has other content than a tensor")
    dims: list[int] = []
    while (key := file.read(1)) == NUMBER_1 and len(dims) < MAX_DIMENSIONS:
        dims.append(_varint(file))
    if key != FIELD_2:
        raise ValueError(f"{name} has no type")
    kind = file.read(_end(file, end) - file.tell()).decode()
    _expect(file, FIELD_3)
    if _end(file, end) != end:
        raise ValueError(f"{name} has content after its tensor")
    actual = end - file.tell()
    file.seek(end)
    if kind == "str":
        return None, actual
    if kind not in SIZES:
        raise ValueError(f"{name} has the unsupported type {kind[:20]!r}")
    if 0 in dims and dims != [0]:  # [0] is a scalar
        raise ValueError(f"{name} is empty")
    return SIZES[kind] * (1 if dims == [0] else math.prod(dims)), actual


def _expect(file: BinaryIO, key: bytes) -> None:
    if file.read(1) != key:
        raise ValueError("a field is invalid")


def _end(file: BinaryIO, limit: int) -> int:
    """Read a length, and return the end position of its bytes. Raises ValueError if that is beyond `limit`."""
    length = _varint(file)
    if file.tell() + length > limit:
        raise ValueError("it ends within an entry")
    return file.tell() + length


def _varint(file: BinaryIO) -> int:
    """Read a Protobuf number: seven bits per byte, the lowest first. Raises ValueError if it does not end."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is invalid")


def is_zoo_checkpoint(path: str) -> bool:
    """Whether a file is a checkpoint of the model-zoo CenterNet."""
    return zoo_prefix(parameter_names(path)) is not None


def refuse_zoo_checkpoint(path: str) -> None:
    """Raise UserError with the conversion command if a file is a checkpoint of the model-zoo CenterNet."""
    if is_zoo_checkpoint(path):
        converted = f"{os.path.splitext(path)[0]}_converted.ckpt"
        raise UserError(f"{path} is a checkpoint of the model zoo's CenterNet; convert it, and use the output: "
                        f"{command('tools/convert_centernet.py')} --ckpt_file {shlex.quote(path)} "
                        f"--output_file {shlex.quote(converted)}")


def refuse_checkpoint(path: str) -> None:
    """Raise UserError with advice if a file for a converter of PyTorch weights is a MindSpore checkpoint."""
    refuse_zoo_checkpoint(path)
    names = parameter_names(path)
    if names and all(name.removeprefix(ZOO_PREFIX).startswith("backbone.") for name in names):
        raise UserError(f"{path} is a backbone checkpoint, which needs no conversion; train from it with "
                        f"--net_config.load_backbone_path {shlex.quote(path)}")
    if names:
        raise UserError(f"{path}: a MindSpore checkpoint, but not the model zoo's ({', '.join(names[:3])}, ...); "
                        "this project's need no conversion, except by tools/convert_centernet.py --reverse")
