"""Checkpoints: read, load, save; the folder of a run."""
import contextlib
import os
import re

import mindspore as ms

from src import errors
from src.errors import UserError
from src.utils import keep_earlier, side_file, whole_file, write_json


def read_checkpoint(path, what="checkpoint (--load_checkpoint_path)"):
    """{name: Parameter} of a checkpoint file, step and epoch among them. Raises UserError that calls the file `what`.

    Where the file ends in a checksum, as this project's do, it must be right.
    """
    errors.require_file(path, what)
    try:
        return ms.load_checkpoint(path, crc_check=has_checksum(path))
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        cause = error.__cause__ or error  # MindSpore says of a wrong checksum that the file may not be read
        raise UserError(f"{path}: not a MindSpore checkpoint, or a damaged one ({str(cause).splitlines()[0]})") from error


def has_checksum(path):
    """Whether a checkpoint file ends in MindSpore's checksum: "crc_num" and ten bytes."""
    with open(path, "rb") as file:
        file.seek(-min(os.path.getsize(path), 17), os.SEEK_END)
        return file.read(7) == b"crc_num"


def load_weights(cell, parameters, source, skip_reshaped_heads=False):
    """Copy parameters {name: Parameter} into a cell; every one of the cell's must be there in its shape.

    With skip_reshaped_heads the heads' last layers may differ in shape (another number of classes): they keep their
    start values. Returns their names. Raises UserError that names the first thing that does not fit.
    """
    kept = []
    found = {}
    for parameter in cell.get_parameters():
        name = parameter.name
        if name not in parameters:
            raise UserError(f"{source}: it has no {name}; is it a checkpoint of this network (net_config)?")
        if tuple(parameters[name].shape) == tuple(parameter.shape):
            found[name] = parameters[name]
        elif skip_reshaped_heads and name.startswith(("hm.2.", "wh.2.")):
            kept.append(name)
        else:
            raise UserError(f"{source}: {name} is {tuple(parameters[name].shape)}, the network wants {tuple(parameter.shape)}; "
                            "another number of classes or another net_config?")
    ms.load_param_into_net(cell, found)
    return kept


def parameter_shapes(cell):
    """{name: shape} of all parameters of a cell."""
    return {parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()}


def as_parameters(weights):
    """{name: array} as the {name: Parameter} that load_weights takes."""
    return {name: ms.Parameter(ms.Tensor(value), name=name) for name, value in weights.items()}


def save_weights(path, weights):
    """Write {name: array} as a checkpoint; what is at path already is kept aside. Returns the path, which gets .ckpt if it lacks it."""
    path = keep_earlier(path if path.endswith(".ckpt") else f"{path}.ckpt")
    with whole_file(path) as partial:
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()], partial, crc_check=True)
    return path


class CheckpointFolder:
    """The checkpoints of one run, centernet-<epoch>_<step>.ckpt in a folder, with side files; keeps the newest.

    A new run moves what an earlier one left in the folder aside; a resumed one goes on in it, and removes what a killed one left half done.
    """

    PATTERN = re.compile(r"centernet-(\d+)_(\d+)\.ckpt")
    UNFINISHED = re.compile(r"(centernet-\d+_\d+)(\.json|\.partial\..*)")

    def __init__(self, folder, keep, description, resume):
        self.folder, self.keep, self.description = folder, keep, description
        if not resume and os.path.isdir(folder) and os.listdir(folder):
            keep_earlier(folder)
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            match = self.UNFINISHED.fullmatch(name)
            if match and not os.path.exists(os.path.join(folder, f"{match[1]}.ckpt")):
                os.remove(os.path.join(folder, name))

    @classmethod
    def find(cls, folder):
        """Paths of the checkpoints in a folder, oldest first."""
        names = os.listdir(folder) if os.path.isdir(folder) else []
        steps = sorted((int(match[2]), name) for name in names if (match := cls.PATTERN.fullmatch(name)))
        return [os.path.join(folder, name) for _, name in steps]

    def save(self, parameters, epoch, step, images_per_step):
        """Write {name: Parameter} after `step` steps of images_per_step images, in the epoch counted from 0; returns the path."""
        path = os.path.join(self.folder, f"centernet-{epoch + 1}_{step}.ckpt")
        last = self.find(self.folder)[-1:]
        try:
            write_json(side_file(path), {**self.description, "epoch": epoch, "step": step})
            with whole_file(path) as partial:
                entries = [{"name": name, "data": parameter} for name, parameter in parameters.items()]
                numbers = {"step": step, "epoch": epoch, "images_per_step": images_per_step}
                ms.save_checkpoint(entries, partial, append_dict=numbers, crc_check=True)
        except UserError as error:
            with contextlib.suppress(OSError):
                os.remove(side_file(path))
            raise UserError(f"{error}; the last checkpoint is {last[0] if last else 'none'}") from error
        for old in self.find(self.folder)[: -self.keep]:
            os.remove(old)
            os.remove(side_file(old))
        return path
