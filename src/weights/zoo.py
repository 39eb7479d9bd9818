"""What a MindSpore checkpoint is, the model-zoo CenterNet's above all: known by the names in it, without loading MindSpore."""
import contextlib
import math
import os
import shlex

from ..core.errors import UserError
from ..core.project import command
from .torch_weights import ZOO_PREFIX, zoo_prefix

# Protobuf's keys of fields: a number, or bytes behind their length.
FIELD_1, FIELD_2, FIELD_3, NUMBER_1 = b"\x0a", b"\x12", b"\x1a", b"\x08"
MAX_NAME, MAX_DIMENSIONS = 1000, 32
CHECKSUM = b"crc_num"  # with ten bytes more the end of a file that has one
SIZES = {"Bool": 1, "Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Float16": 2, "BFloat16": 2, "Int32": 4, "UInt32": 4, "Float32": 4,
         "Int64": 8, "UInt64": 8, "Float64": 8}  # bytes of a number


def parameter_names(path):
    """The names in a MindSpore checkpoint file, in its order, without the values; of any other file [], or those until it ends to be one.

    Source: MindSpore's checkpoint.proto. The file is a list of entries; an entry is a name and a tensor, or a slice of a large one.
    """
    names = {}
    with open(path, "rb") as file, contextlib.suppress(ValueError, OverflowError):
        for name, end in _entries(file):
            names[name] = None
            file.seek(end)
    return list(names)


def check_sizes(path):
    """Raise ValueError unless a file is a MindSpore checkpoint in which each tensor has as many bytes as its shape and type want.

    MindSpore takes the shape's memory, fills it with what bytes there are, and says nothing.
    """
    found = {}  # {name: (bytes of its slices, bytes wanted)}
    with open(path, "rb") as file:
        for name, end in _entries(file):
            wanted, there = _tensor_sizes(file, name, end)
            if name in found and name != next(reversed(found)):
                raise ValueError(f"{name} stands there twice")
            found[name] = found.get(name, (0,))[0] + there, wanted
    for name, (there, wanted) in found.items():
        if wanted not in (None, there):
            raise ValueError(f"{name} has {there} bytes, and its shape wants {wanted}")


def _entries(file):
    """(name, where the entry ends) for each entry of a MindSpore checkpoint, the file standing behind the name. Raises ValueError where it
    is none."""
    size = os.fstat(file.fileno()).st_size
    while (key := file.read(1)) == FIELD_1:
        end = _end(file, size)
        _expect(file, FIELD_1)
        length = _end(file, end) - file.tell()
        if length > MAX_NAME:
            raise ValueError("a name is too long")
        yield file.read(length).decode(), end
    if key and (key + file.read(len(CHECKSUM) - 1) != CHECKSUM or file.tell() + 10 != size):
        raise ValueError("an entry is not one of a checkpoint")


def _tensor_sizes(file, name, end):
    """(bytes that the shape of an entry's tensor wants, None for a text; bytes it has) from behind the entry's name up to its end."""
    _expect(file, FIELD_2)
    if _end(file, end) != end:
        raise ValueError(f"{name} is not a tensor alone")
    dims = []
    while (key := file.read(1)) == NUMBER_1 and len(dims) < MAX_DIMENSIONS:
        dims.append(_varint(file))
    if key != FIELD_2:
        raise ValueError(f"{name} has no type")
    kind = file.read(_end(file, end) - file.tell()).decode()
    _expect(file, FIELD_3)
    if _end(file, end) != end:
        raise ValueError(f"{name} is more than a tensor")
    there = end - file.tell()
    file.seek(end)
    if kind == "str":
        return None, there
    if kind not in SIZES:
        raise ValueError(f"{name} is of type {kind[:20]!r}")
    if 0 in dims and dims != [0]:  # which stands for a number alone
        raise ValueError(f"{name} is empty")
    return SIZES[kind] * (1 if dims == [0] else math.prod(dims)), there


def _expect(file, key):
    if file.read(1) != key:
        raise ValueError("a field is not one of a checkpoint")


def _end(file, most):
    """Where the bytes end whose length stands at the file's position. Raises ValueError if that is behind `most`."""
    length = _varint(file)
    if file.tell() + length > most:
        raise ValueError("it ends in the middle of an entry")
    return file.tell() + length


def _varint(file):
    """Protobuf's number at the file's position: seven bits a byte, the lowest first. Raises ValueError if it has no end."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("no number")


def is_zoo_checkpoint(path):
    """Whether a file is a checkpoint of the model-zoo CenterNet."""
    return zoo_prefix(parameter_names(path)) is not None


def refuse_zoo_checkpoint(path):
    """Raise UserError with the command that converts it if a file is a checkpoint of the model-zoo CenterNet."""
    if is_zoo_checkpoint(path):
        converted = f"{os.path.splitext(path)[0]}_converted.ckpt"
        raise UserError(f"{path} is a checkpoint of the model zoo's CenterNet; convert it, and use what that writes: "
                        f"{command('tools/convert_centernet.py')} --ckpt_file {shlex.quote(path)} --output_file {shlex.quote(converted)}")


def refuse_checkpoint(path):
    """Raise UserError that says what takes a file if it is a checkpoint of MindSpore, which a converter of PyTorch's files was given."""
    refuse_zoo_checkpoint(path)
    names = parameter_names(path)
    if names and all(name.removeprefix(ZOO_PREFIX).startswith("backbone.") for name in names):
        raise UserError(f"{path} is a backbone's checkpoint, which needs no conversion; train from it with "
                        f"--net_config.load_backbone_path {shlex.quote(path)}")
    if names:
        raise UserError(f"{path}: a MindSpore checkpoint that is not the model zoo's ({', '.join(names[:3])}, ...); "
                        "one of this project is used as it is, or converted with tools/convert_centernet.py --reverse")
