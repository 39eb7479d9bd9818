"""Reading, loading and saving checkpoints; the checkpoint folder of a run."""
import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from ..core import errors
from ..core.backups import back_up_existing, free_name
from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write, link_or_copy, write_json
from ..network.architectures import architecture_of, is_complete_network
from ..tasks import TASKS, head_names
from .run_folder import BEST_NAME, CHECKPOINTS, checkpoints_to_resume, find_checkpoints, write_order
from .side_file import HAS_SIDE_FILE, cached_exports, checkpoint_path, require_checkpoint, side_file
from .source_names import ZOO_PREFIX
from .zoo import CHECKSUM, check_sizes

EMA_PREFIX = "ema."  # name of an average: ema.<name of the weight>


def read_checkpoint(path: str, what: str = "checkpoint (--load_checkpoint_path)") -> dict[str, ms.Parameter]:
    """Return {name: Parameter} of one of this project's checkpoints, including step and epoch.

    Raises UserError; its message calls the file `what`.
    """
    return read_parameters(require_checkpoint(path, what))


def read_backbone(path: str) -> dict[str, ms.Parameter]:
    """Return {our name: Parameter} of a backbone's checkpoint, without the prefix of the model zoo's names."""
    parameters = read_checkpoint(path, "backbone checkpoint (net_config.load_backbone_path)")
    return {name.removeprefix(ZOO_PREFIX): parameter for name, parameter in parameters.items()}


def read_parameters(path: str) -> dict[str, ms.Parameter]:
    """Return {name: Parameter} of any MindSpore checkpoint. Verifies the checksum if the file ends in one, as ours do.

    Raises UserError if the file is not a checkpoint.
    """
    try:
        check_sizes(path)
        return ms.load_checkpoint(path, crc_check=has_checksum(path))
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        cause = error.__cause__ or error  # for a wrong checksum, the error itself is that the file cannot be read
        text = (str(cause).splitlines() or [type(cause).__name__])[0]
        if isinstance(cause, MemoryError) or "available memory" in text:
            raise UserError(f"{path}: not enough memory to read it ({text}); the file may be intact") from error
        raise UserError(f"{path}: not a MindSpore checkpoint, or a damaged one ({text})") from error


def has_checksum(path: str) -> bool:
    """Whether a checkpoint file ends in MindSpore's checksum: "crc_num" and ten bytes."""
    with open(path, "rb") as file:
        file.seek(-min(os.path.getsize(path), 17), os.SEEK_END)
        return file.read(len(CHECKSUM)) == CHECKSUM


def check_architecture(names: Collection[str], found: Collection[str], source: str) -> None:
    """Raise UserError unless the parameters `found` at source belong to the architecture of a network, or backbone,
    with these names. The message names both architectures."""
    if all(name.startswith("backbone.") for name in names):  # a backbone also loads from a complete network
        found = [name for name in found if name.startswith("backbone.")]
    elif all(name.removeprefix(ZOO_PREFIX).startswith("backbone.") for name in found):
        raise UserError(f"{source} is a backbone checkpoint; load it with --net_config.load_backbone_path")
    wanted, actual = architecture_of(names), architecture_of(found)
    if actual and wanted != actual:
        raise UserError(f"{source} is a checkpoint of {actual}, but the network is {wanted or 'another one'}; "
                        "set --net_config.arch (and num_stacks, if it is not the architecture's default)")


def class_head(name: str) -> str:
    """The head of a parameter in a last layer that the data's classes or keypoints may shape, "" for others."""
    head, *layers = name.split(".")
    return head if layers[-2:-1] == ["2"] and any(head in task.class_heads for task in TASKS.values()) else ""


def unknown_layers(names: Collection[str], found: Collection[str]) -> list[str]:
    """The layers ("deconv_layers.6") of the parameters `found` that a network, or backbone, with these names lacks."""
    modules = {"backbone", "deconv_layers", *head_names()} if is_complete_network(names) else {"backbone"}
    stored, wanted = ({".".join(name.split(".")[:2]) for name in group if name.split(".")[0] in modules}
                      for group in (found, names))
    return sorted(stored - wanted)


def load_weights(cell: nn.Cell, parameters: Mapping[str, ms.Parameter], source: str, fine_tuning: bool = False,
                 use_ema: bool = True) -> list[str]:
    """Copy parameters {name: Parameter} into a cell, which must have the same layers and shapes.

    With use_ema, averages of the weights are loaded if the checkpoint has them (training/ema.py). With fine_tuning, the
    heads' last layers may differ in shape (another number of classes), the checkpoint may lack heads, which both keep
    their initial values, and the cell may lack layers. Returns the names of the parameters that keep their values.
    Raises UserError that names both architectures, or the first mismatch.
    """
    check_architecture(parameter_shapes(cell), parameters, source)
    if not fine_tuning and (extra := unknown_layers(parameter_shapes(cell), parameters)):
        raise UserError(f"{source} has {extra[0]}, which the network lacks; is it a checkpoint of this network "
                        "(net_config)?")
    kept, found = [], {}
    new = head_names() - {name.removeprefix(EMA_PREFIX).partition(".")[0] for name in parameters}
    for parameter in cell.get_parameters():
        name = parameter.name
        stored = parameters.get(stored_name(name, parameters) if use_ema else name)
        if stored is None and fine_tuning and name.partition(".")[0] in new:
            kept.append(name)
        elif stored is None:
            raise UserError(f"{source} has no {name}; is it a checkpoint of this network (net_config)?")
        elif tuple(stored.shape) == tuple(parameter.shape):
            found[name] = stored
        elif fine_tuning and class_head(name):
            kept.append(name)
        else:
            raise UserError(f"{source}: {name} has shape {tuple(stored.shape)}, but the network needs "
                            f"{tuple(parameter.shape)}; another number of classes, or another net_config?")
    ms.load_param_into_net(cell, found)
    return kept


def stored_name(name: str, parameters: Mapping[str, Any]) -> str:
    """The name of the values that inference loads for a parameter: its average, if the checkpoint has one."""
    average = f"{EMA_PREFIX}{name}"
    return average if average in parameters else name


def weights_note(parameters: Iterable[str], use_ema: bool) -> str:
    """A note on the weights that load_weights uses, as the end of a sentence; may be empty."""
    averaged = any(name.startswith(EMA_PREFIX) for name in parameters)
    if use_ema:
        return ", the average of the weights" if averaged else ""
    return ", the weights, not their average" if averaged else ", the weights, which have no average"


def parameter_shapes(cell: nn.Cell) -> dict[str, tuple[int, ...]]:
    """{name: shape} of all parameters of a cell."""
    return {parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()}


def save_weights(path: str, weights: Mapping[str, np.ndarray]) -> str:
    """Write {name: array} as a checkpoint; .ckpt is appended if path lacks it. Returns the path.

    An existing checkpoint that has a side file is backed up. Raises UserError if another file is in the way.
    """
    path = checkpoint_path(path)
    with atomic_write(path, HAS_SIDE_FILE, side_file) as partial:
        entries = [{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()]
        ms.save_checkpoint(entries, partial, crc_check=True)
    return path


class CheckpointFolder:
    """The checkpoints of one run, centernet-<epoch>_<step>.ckpt with side files: the latest ones, and the best.

    A new run backs up the folder of an earlier run. A resumed run moves checkpoints later than its own to a backup
    folder (self.aside, or an empty string if there are none): their branch of the training ends here. It also removes
    the remains of interrupted saves.
    """

    SIDE_FILE = re.compile(r"(centernet-\d+_\d+(?:\.\d+)?)\.json")
    PARTIAL = re.compile(r"\.centernet-(\d+_\d+|best)\.(ckpt|json)\..*\.partial")

    def __init__(self, folder: str, keep: int, description: dict, resumed: str = ""):
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
            self._back_up(self._later_than(resumed))
            self._copy_best(resumed)

    def _later_than(self, path: str) -> list[str]:
        """The folder's checkpoints that were written after the one at path; all if that is in another folder."""
        paths = find_checkpoints(self.folder)
        best = [self.best] if os.path.exists(self.best) else []
        if best and os.path.samefile(path, self.best):
            return [other for other in paths if write_order(other) > write_order(path)]
        same = [index for index, other in enumerate(paths) if os.path.samefile(path, other)]
        if not same:
            return paths + best
        return paths[same[0] + 1 :] + [other for other in best if write_order(other) > write_order(path)]

    @property
    def best(self) -> str:
        """The path of the best checkpoint."""
        return os.path.join(self.folder, BEST_NAME)

    def _copy_best(self, resumed: str) -> None:
        """Copy the best checkpoint from the folder of `resumed` unless it was written later, or this has one."""
        best = os.path.join(os.path.dirname(resumed), BEST_NAME)
        files = (best, side_file(best))
        if not all(map(os.path.isfile, files)) or os.path.exists(self.best):
            return
        if write_order(best) <= write_order(resumed):
            self.keep_best(best)
            LOG.info(f"copied the best checkpoint so far: {best}")

    def best_step(self, pause: float = 1.0) -> int:
        """The step of the best checkpoint, 0 if there is none.

        A file that cannot be read is tried again twice, after `pause` seconds. Raises UserError if that fails, too: the
        file may be intact, so it must not be replaced as if it were missing.
        """
        if not os.path.lexists(self.best):
            return 0
        for attempts_left in (2, 1, 0):
            try:
                return int(read_checkpoint(self.best)["step"].asnumpy())
            except (UserError, KeyError) as error:
                problem = f"the best checkpoint, {self.best}, cannot be read ({error})"
            if attempts_left:
                LOG.warning(f"{problem}; trying again")
                time.sleep(pause)
        raise UserError(f"{problem}; to resume without it, move it away")

    def keep_best(self, path: str) -> None:
        """Keep a checkpoint and its side file as the folder's best, exempt from rotation; replaces the previous."""
        for source, target in ((path, self.best), (side_file(path), side_file(self.best))):
            with atomic_write(target) as partial:
                link_or_copy(source, partial)

    def _back_up(self, paths: list[str]) -> None:
        if not paths:
            return
        self.aside = free_name(self.folder)
        os.makedirs(self.aside)
        for path in paths:
            for file in (path, side_file(path)):
                if os.path.exists(file):
                    os.rename(file, os.path.join(self.aside, os.path.basename(file)))
        names = ", ".join(os.path.basename(path) for path in paths)
        LOG.info(f"this run resumes from an earlier checkpoint; moved the later ones to {self.aside} ({names})")

    def save(self, parameters: Mapping[str, ms.Parameter], epoch: int, step: int, numbers: Mapping[str, float],
             rotate: bool = True, extra_metadata: dict | None = None) -> str:
        """Write {name: Parameter} and {name: number} after `step` steps; epoch counts from 0. Returns the path.

        The side file gets extra_metadata in addition to the description. With rotate, only the last `keep` checkpoints
        remain. Raises UserError if the file cannot be written.
        """
        path = os.path.join(self.folder, f"centernet-{epoch + 1}_{step}.ckpt")
        earlier = find_checkpoints(self.folder)
        if path in earlier:  # steps that were renumbered may reach the same name
            name = free_name(path)
            os.rename(path, name)
            if os.path.exists(side_file(path)):
                os.rename(side_file(path), side_file(name))
            earlier[earlier.index(path)] = name
        metadata = {**self.description, **(extra_metadata or {}), "epoch": epoch, "step": step,
                    "written": 1 + max((write_order(other) for other in [*earlier, self.best]), default=0)}
        try:
            write_json(side_file(path), metadata)
            with atomic_write(path) as partial:
                entries = [{"name": name, "data": parameter} for name, parameter in parameters.items()]
                extra = {"step": step, "epoch": epoch, **numbers}
                ms.save_checkpoint(entries, partial, append_dict=extra, crc_check=True)
        except UserError as error:
            with contextlib.suppress(OSError):
                os.remove(side_file(path))
            raise UserError(f"{error}; the last checkpoint is {earlier[-1] if earlier else 'none'}") from error
        if rotate:
            for old in (earlier[: 1 - self.keep] if self.keep > 1 else earlier):
                self._remove(old)
        return path

    def _remove(self, checkpoint: str) -> None:
        for path in (checkpoint, side_file(checkpoint), *cached_exports(checkpoint)):
            try:
                os.remove(path)
            except FileNotFoundError:
                pass  # already removed by the user
            except OSError as error:
                LOG.warning(f"{path} could not be removed ({errors.reason(error)})")


def newest_checkpoint(folder: str) -> str:
    """The latest readable checkpoint in a folder, or the best one if no other can be read. Logs those that cannot.

    Raises UserError if there is none.
    """
    for path in checkpoints_to_resume(folder):
        try:
            read_checkpoint(path)
            return path
        except UserError as error:
            LOG.warning(f"left out: {error}")
    raise UserError(f"no checkpoint in {folder} can be read; set --load_checkpoint_path or --run_dir")
