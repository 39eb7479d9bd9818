"""What a MindSpore checkpoint is, the model-zoo CenterNet's above all: known by the names in it, without loading MindSpore."""
import os
import shlex

from src.errors import UserError
from src.project import command
from src.torch_weights import ZOO_PREFIX, zoo_prefix

FIELD_1 = b"\n"  # protobuf's key of a field that comes first and has a length: an entry of the file, and in it its name
LONGEST_NAME = 1000


def parameter_names(path):
    """The names in a MindSpore checkpoint file, in its order, without the values; of any other file [], or those until it ends to be one.

    Source: MindSpore's checkpoint.proto. The file is a list of entries; an entry is a name and a tensor, or a slice of a large one.
    """
    names = {}
    with open(path, "rb") as file:
        try:
            while file.read(1) == FIELD_1:
                length = _varint(file)
                end = file.tell() + length
                if file.read(1) != FIELD_1 or (length := _varint(file)) > LONGEST_NAME:
                    break
                names[file.read(length).decode()] = None
                file.seek(end)
        except (ValueError, OverflowError):
            pass  # no checkpoint, or a damaged one, which MindSpore explains
    return list(names)


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
