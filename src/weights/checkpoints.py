"""Checkpoints: read, load, save; the folder of a run."""
import contextlib
import os
import re
import shutil

import mindspore as ms

from ..core import errors
from ..core.backups import back_up_existing, free_name
from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write, link_or_copy, write_json
from ..network.architectures import architecture_of, is_whole
from ..tasks import TASKS, head_names
from .side_file import (
    BEST_NAME,
    CHECKPOINTS,
    HAS_SIDE_FILE,
    checkpoint_path,
    checkpoints_to_resume,
    find_checkpoints,
    require_checkpoint,
    side_file,
    write_order,
)
from .torch_weights import ZOO_PREFIX
from .zoo import CHECKSUM, check_sizes

EMA_PREFIX = "ema."  # of the averages' names: ema.<name of the weight>


def read_checkpoint(path, what="checkpoint (--load_checkpoint_path)"):
    """{name: Parameter} of a checkpoint of this project, step and epoch among them. Raises UserError that calls the file `what`."""
    return read_parameters(require_checkpoint(path, what))


def read_backbone(path):
    """{name: Parameter} of a backbone's checkpoint, by our names; the model zoo's has a cell's name before each."""
    parameters = read_checkpoint(path, "backbone checkpoint (net_config.load_backbone_path)")
    return {name.removeprefix(ZOO_PREFIX): parameter for name, parameter in parameters.items()}


def read_parameters(path):
    """{name: Parameter} of any checkpoint file of MindSpore. Raises UserError if it is none.

    Where the file ends in a checksum, as this project's do, it must be right.
    """
    try:
        check_sizes(path)
        return ms.load_checkpoint(path, crc_check=has_checksum(path))
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        cause = error.__cause__ or error  # MindSpore says of a wrong checksum that the file may not be read
        raise UserError(f"{path}: not a MindSpore checkpoint, or a damaged one ({str(cause).splitlines()[0]})") from error


def has_checksum(path):
    """Whether a checkpoint file ends in MindSpore's checksum: "crc_num" and ten bytes."""
    with open(path, "rb") as file:
        file.seek(-min(os.path.getsize(path), 17), os.SEEK_END)
        return file.read(len(CHECKSUM)) == CHECKSUM


def check_architecture(names, found, source):
    """Raise UserError that names both if what was found at source is of another architecture than a network, or backbone, with these
    names."""
    if all(name.startswith("backbone.") for name in names):  # which a whole network's checkpoint has, too
        found = [name for name in found if name.startswith("backbone.")]
    elif all(name.removeprefix(ZOO_PREFIX).startswith("backbone.") for name in found):
        raise UserError(f"{source} is a backbone's checkpoint; --net_config.load_backbone_path takes it")
    wanted, there = architecture_of(names), architecture_of(found)
    if there and wanted != there:
        raise UserError(f"{source} is a checkpoint of {there}, and the network is {wanted or 'another one'}: --net_config.arch "
                        "(and num_stacks, where they are not its own) says which")


def class_head(name):
    """The head whose last layer a parameter belongs to, if the number of classes may shape it, else ""."""
    head, *layers = name.split(".")
    return head if layers[-2:-1] == ["2"] and any(head in task.class_heads for task in TASKS.values()) else ""


def layers_left_out(names, found):
    """The layers ("deconv_layers.6") of which a checkpoint has parameters, `found`, and a network, or a backbone, with these names none."""
    parts = {"backbone", "deconv_layers", *head_names()} if is_whole(names) else {"backbone"}
    there, wanted = ({".".join(name.split(".")[:2]) for name in group if name.split(".")[0] in parts} for group in (found, names))
    return sorted(there - wanted)


def load_weights(cell, parameters, source, fine_tuning=False, use_ema=True):
    """Copy parameters {name: Parameter} into a cell, which has all layers of theirs; every one of the cell's must be there in its shape.

    With use_ema an average of the weights is taken where the checkpoint has one (training/ema.py).

    With fine_tuning the heads' last layers may differ in shape (another number of classes): they keep their start values; and layers may
    be left out. Returns those parameters' names. Raises UserError that names both architectures, or the first thing that does not fit.
    """
    check_architecture(parameter_shapes(cell), parameters, source)
    if not fine_tuning and (lost := layers_left_out(parameter_shapes(cell), parameters)):
        raise UserError(f"{source}: it has {lost[0]}, which the network lacks; is it a checkpoint of this network (net_config)?")
    kept = []
    found = {}
    for parameter in cell.get_parameters():
        name = parameter.name
        stored = parameters.get(stored_name(name, parameters) if use_ema else name)
        if stored is None:
            raise UserError(f"{source}: it has no {name}; is it a checkpoint of this network (net_config)?")
        if tuple(stored.shape) == tuple(parameter.shape):
            found[name] = stored
        elif fine_tuning and class_head(name):
            kept.append(name)
        else:
            raise UserError(f"{source}: {name} is {tuple(stored.shape)}, the network wants {tuple(parameter.shape)}; "
                            "another number of classes or another net_config?")
    ms.load_param_into_net(cell, found)
    return kept


def stored_name(name, parameters):
    """The name of the values that inference takes for a parameter of the network: its average, where a checkpoint's parameters have one."""
    average = f"{EMA_PREFIX}{name}"
    return average if average in parameters else name


def weights_taken(parameters, use_ema):
    """Which of a checkpoint's weights load_weights takes, as the end of a sentence; "" where there is no choice and none was asked for."""
    averaged = any(name.startswith(EMA_PREFIX) for name in parameters)
    if use_ema:
        return ", the average of the weights" if averaged else ""
    return ", the weights, not their average" if averaged else ", the weights, which have no average"


def parameter_shapes(cell):
    """{name: shape} of all parameters of a cell."""
    return {parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()}


def save_weights(path, weights):
    """Write {name: array} as a checkpoint; one with its side file that is at path already is kept aside, another file an error. Returns the
    path, which gets .ckpt if it lacks it."""
    path = checkpoint_path(path)
    with atomic_write(path, HAS_SIDE_FILE, side_file) as partial:
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()], partial, crc_check=True)
    return path


class CheckpointFolder:
    """The checkpoints of one run, centernet-<epoch>_<step>.ckpt in a folder, with side files; keeps those written last, and the best.

    A new run moves what an earlier one left in the folder aside. A run that goes on from a checkpoint moves aside what was written after
    it, the branch that ends here (self.aside names the folder, "" without), and removes what a killed save left half done.
    """

    SIDE_FILE = re.compile(r"(centernet-\d+_\d+(?:\.\d+)?)\.json")
    PARTIAL = re.compile(r"\.centernet-(\d+_\d+|best)\.(ckpt|json)\..*\.partial")

    def __init__(self, folder, keep, description, resumed=""):
        self.folder, self.keep, self.description = folder, keep, description
        self.aside = ""
        if not resumed and os.path.isdir(folder) and os.listdir(folder):
            back_up_existing(folder, CHECKPOINTS)
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            side = self.SIDE_FILE.fullmatch(name)
            if self.PARTIAL.fullmatch(name):
                shutil.rmtree(os.path.join(folder, name))
            elif side and not os.path.exists(os.path.join(folder, f"{side[1]}.ckpt")):
                os.remove(os.path.join(folder, name))
        if resumed:
            self._set_aside(self._later_than(resumed))
            self._bring_best(resumed)

    def _later_than(self, path):
        """The folder's checkpoints that were written after the one at path; all, if it lies elsewhere."""
        paths = find_checkpoints(self.folder)
        best = [self.best] if os.path.exists(self.best) else []
        if best and os.path.samefile(path, self.best):
            return [other for other in paths if write_order(other) > write_order(path)]
        same = [index for index, other in enumerate(paths) if os.path.samefile(path, other)]
        if not same:
            return paths + best
        return paths[same[0] + 1 :] + [other for other in best if write_order(other) > write_order(path)]

    @property
    def best(self):
        """The path of the best checkpoint."""
        return os.path.join(self.folder, BEST_NAME)

    def _bring_best(self, resumed):
        """Keep the best checkpoint beside the one at resumed, which lies in another folder, unless it was written later."""
        best = os.path.join(os.path.dirname(resumed), BEST_NAME)
        files = (best, side_file(best))
        if all(map(os.path.isfile, files)) and not os.path.exists(self.best) and write_order(best) <= write_order(resumed):
            self.keep_best(best)
            LOG.info(f"the best checkpoint so far is kept, too: {best}")

    def best_step(self):
        """The step of the best checkpoint, 0 without one, or with a damaged one."""
        with contextlib.suppress(UserError, KeyError):
            return int(read_checkpoint(self.best)["step"].asnumpy())
        return 0

    def keep_best(self, path):
        """Keep a checkpoint as the folder's best one, with its side file, whatever the rotation removes; the one before goes."""
        for source, target in ((path, self.best), (side_file(path), side_file(self.best))):
            with atomic_write(target) as partial:
                link_or_copy(source, partial)

    def _set_aside(self, paths):
        if not paths:
            return
        self.aside = free_name(self.folder)
        os.makedirs(self.aside)
        for path in paths:
            for file in (path, side_file(path)):
                if os.path.exists(file):
                    os.rename(file, os.path.join(self.aside, os.path.basename(file)))
        names = ", ".join(os.path.basename(path) for path in paths)
        LOG.info(f"this run goes on from an earlier checkpoint: what was written later is kept in {self.aside} ({names})")

    def save(self, parameters, epoch, step, numbers, rotate=True, extra_metadata=None):
        """Write {name: Parameter} after `step` steps, in the epoch counted from 0, with {name: number} beside them; returns the path.

        `told` is a dictionary for the side file, beside the description.
        With rotate the checkpoints written before the last `keep` are removed. Raises UserError if the file cannot be written.
        """
        path = os.path.join(self.folder, f"centernet-{epoch + 1}_{step}.ckpt")
        earlier = find_checkpoints(self.folder)
        if path in earlier:  # steps counted anew may come by the same name
            name = free_name(path)
            os.rename(path, name)
            if os.path.exists(side_file(path)):
                os.rename(side_file(path), side_file(name))
            earlier[earlier.index(path)] = name
        written = 1 + max((write_order(other) for other in [*earlier, self.best]), default=0)
        try:
            write_json(side_file(path), {**self.description, **(extra_metadata or {}), "epoch": epoch, "step": step, "written": written})
            with atomic_write(path) as partial:
                entries = [{"name": name, "data": parameter} for name, parameter in parameters.items()]
                ms.save_checkpoint(entries, partial, append_dict={"step": step, "epoch": epoch, **numbers}, crc_check=True)
        except UserError as error:
            with contextlib.suppress(OSError):
                os.remove(side_file(path))
            raise UserError(f"{error}; the last checkpoint is {earlier[-1] if earlier else 'none'}") from error
        if rotate:
            for old in (earlier[: 1 - self.keep] if self.keep > 1 else earlier):
                self._remove(old)
        return path

    def _remove(self, checkpoint):
        for path in (checkpoint, side_file(checkpoint)):
            try:
                os.remove(path)
            except FileNotFoundError:
                pass  # the user was faster
            except OSError as error:
                LOG.warning(f"{path} could not be removed ({errors.reason(error)})")


def newest_checkpoint(folder):
    """The checkpoint written last in a folder that can be read, if no other the best one; says which cannot. Raises UserError if there is
    none."""
    for path in checkpoints_to_resume(folder):
        try:
            read_checkpoint(path)
            return path
        except UserError as error:
            LOG.warning(f"left out: {error}")
    raise UserError(f"no checkpoint in {folder} can be read; set --load_checkpoint_path or --save_checkpoint_path")
