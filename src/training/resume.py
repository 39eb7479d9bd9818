"""Resumption of a training run: the state in its checkpoint, and changes of the configuration."""
import os
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np

from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import read_json
from ..core.kinds import dict_with, is_text, list_of
from ..core.tables import abbreviate
from ..data.epochs import convert_steps
from ..model_utils.config import Config, checked_section
from ..network.architectures import resolved
from ..tasks import TASKS
from ..weights.checkpoints import EMA_PREFIX, check_architecture, read_checkpoint, unknown_layers
from ..weights.side_file import side_file

if TYPE_CHECKING:
    from ..data.train_set import TrainSet

# The settings of net_config that shape the network.
LAYERS = ("arch", "block_class", "num_stacks", "down_ratio", "head_conv",
          *dict.fromkeys(name for task in TASKS.values() for name in task.layers))
WEIGHTS_ONLY = "without --resume only its weights are loaded"


def earlier_record(checkpoint: str, record: str) -> str:
    """The record of the steps before a checkpoint, if it is not `record`, this run's path; else an empty string.

    It is next to the checkpoint if both were backed up together, else next to the folder ckpt_0 of another run.
    """
    folder = os.path.dirname(os.path.abspath(checkpoint))
    folders = [folder, os.path.dirname(folder)] if os.path.basename(folder) == "ckpt_0" else [folder]
    name = os.path.basename(record)
    found = [path for place in folders if os.path.isfile(path := os.path.join(place, name))]
    return found[0] if found and os.path.realpath(found[0]) != os.path.realpath(record) else ""


def start_scale(config: Config) -> float:
    """The configuration's initial loss scale, 0 if scaling is disabled."""
    return float(config.train_config.loss_scale_value) if config.enable_lossscale else 0.0


def training_settings(config: Config, train_set: "TrainSet") -> dict[str, Any]:
    """The training settings for the side file, {"train_config.batch_size": 16, ...}."""
    names = ("seed", "do_shuffle", "enable_lossscale", "epoch_size", "eval_epochs", "best_metric", "patience")
    settings = {name: getattr(config, name) for name in names}
    for section in ("train_config", "dataset_config"):
        settings |= {f"{section}.{name}": value for name, value in getattr(config, section).as_dict().items()}
    objects = train_set.manifest.get("objects")  # missing in the model zoo's files
    return settings | {"images": train_set.images} | ({"objects": objects} if objects is not None else {})


def restore(state: dict[str, ms.Parameter], path: str, train_set: "TrainSet", config: Config) -> tuple[int, bool]:
    """Restore {name: Parameter} from a checkpoint: weights, moments, global step, loss scale.

    Returns (steps done, whether they were renumbered because the number of images per step or in total differs). The
    configuration overrides the checkpoint's settings; changes are logged. Raises UserError if network or classes
    differ.
    """
    parameters = read_checkpoint(path)
    check_architecture(state, parameters, path)
    then = described(path)
    check_same_run(path, then, train_set.manifest["classes"], config.net_config.as_dict())
    if unused := unknown_layers(state, parameters):
        raise UserError(f"{path}: it has {unused[0]}, this run's network does not; does net_config differ?")
    for name in [name for name in state if name.startswith(EMA_PREFIX) and name not in parameters]:
        if name.removeprefix(EMA_PREFIX) in parameters:
            parameters[name] = parameters[name.removeprefix(EMA_PREFIX)]  # the average starts with the weights
    check_state(state, parameters, path, then, config)
    keep_scale = keeps_loss_scale(parameters, config)
    for name, parameter in state.items():
        if name not in parameters or (name in ("loss_scale", "good_steps") and not keep_scale):
            continue
        if tuple(parameter.shape) != tuple(parameters[name].shape):
            raise UserError(f"{path}: {name} is {tuple(parameters[name].shape)}, this run's {tuple(parameter.shape)}; "
                            "do net_config or the classes differ?")
        parameter.set_data(parameters[name])
    LOG.info(f"resuming {path} after step {int(parameters['step'].asnumpy())}")
    now = training_settings(config, train_set) | network_settings(config.net_config.as_dict())
    log_changes(then.get("training", {}) | network_settings(then.get("net_config", {})), now)
    old_scale, new_scale = (float(values["loss_scale"].asnumpy()) for values in (parameters, state))
    if old_scale != new_scale:
        LOG.info(f"the loss scale was {old_scale:g}; now {new_scale:g}, as configured")
    return resumed_step(state, parameters, path, train_set)


def described(checkpoint: str) -> dict[str, Any]:
    """The classes, net_config and training settings in a checkpoint's side file, if present and valid."""
    content = read_json(side_file(checkpoint), "the side file", {}) if os.path.exists(side_file(checkpoint)) else {}
    tests = {"classes": list_of(is_text, least=1), "net_config": dict_with(), "training": dict_with()}
    return {name: content[name] for name, test in tests.items() if name in content and test(content[name])}


def network_settings(net_config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a net_config as {"net_config.hm_weight": 1.0, ...}."""
    return {f"net_config.{name}": value for name, value in net_config.items()}


def check_same_run(path: str, then: dict[str, Any], classes: list[str], net_config: dict[str, Any]) -> None:
    """Raise UserError unless a side file, `then`, has these classes and a net_config with the same layers."""
    if then.get("classes", classes) != classes:
        order = ", in this order" if sorted(then["classes"]) == sorted(classes) else ""
        raise UserError(f"{path}: its classes are {abbreviate(then['classes'])}{order}, mindrecord_dir has "
                        f"{abbreviate(classes)}; "
                        "without --resume its weights are loaded and its classes matched by name")
    if "net_config" in then:
        before = resolved(checked_section("net_config", then["net_config"], side_file(path)))
        now = resolved(net_config)
        for name in LAYERS:
            if getattr(before, name) != getattr(now, name):
                raise UserError(f"{path}: net_config.{name} was {getattr(before, name)}, now {getattr(now, name)}: a "
                                "different network; restore the setting, or start a new run")


def check_state(state: Mapping[str, Any], parameters: Mapping[str, Any], path: str, then: dict[str, Any],
                config: Config) -> None:
    """Raise UserError unless a checkpoint has the complete training state; name the setting that changed, if known."""
    missing = sorted(set(state) - set(parameters) - {"good_steps"})  # older checkpoints have no good_steps
    if not missing and "step" in parameters:
        return
    for setting in ("optimizer", "freeze"):
        before = then.get("training", {}).get(f"train_config.{setting}")
        now = getattr(config.train_config, setting)
        if before not in (None, now):
            raise UserError(f"{path}: train_config.{setting} was {before}, now {now}, which needs another training "
                            f"state; {WEIGHTS_ONLY}")
    raise UserError(f"{path}: no complete training state to resume ({(missing or ['step'])[0]} is missing); "
                    f"{WEIGHTS_ONLY}")


def resumed_step(state: Mapping[str, ms.Parameter], parameters: Mapping[str, ms.Parameter], path: str,
                 train_set: "TrainSet") -> tuple[int, bool]:
    """(steps done, whether they were renumbered) of a checkpoint, for this run. Converts the state's global step, too.

    With another number of images, per step or in total, it is the same fraction of the same epoch.
    """
    now = (train_set.images_per_step, train_set.images)
    # Checkpoints of earlier versions lack these numbers.
    per_step, images = (int(parameters[name].asnumpy()) if name in parameters else value
                        for name, value in zip(("images_per_step", "images"), now))
    then = (per_step, images)
    done, updates = int(parameters["step"].asnumpy()), int(state["global_step"].asnumpy()[0])
    if per_step > images:
        raise UserError(f"{path}: its steps had {per_step} images, mindrecord_dir has {now[1]}: the data set differs, "
                        f"and this checkpoint, of an earlier version, does not record its size; {WEIGHTS_ONLY}")
    epoch = (done - 1) // (images // per_step)
    if "images" not in parameters and "epoch" in parameters and epoch != (was := int(parameters["epoch"].asnumpy())):
        LOG.warning(f"warning: step {done} was in epoch {was}, but is in epoch {epoch} of mindrecord_dir: the data set "
                    "differs, and this checkpoint, of an earlier version, does not record its size; the step number is "
                    "kept, as if the size were the same")
    if then == now:
        return done, False
    state["global_step"].set_data(ms.Tensor([convert_steps(updates, then, now)], ms.int32))
    done = convert_steps(done, then, now)
    changes = [f"its {what} had {before} images, this run's {has} {after}" for what, has, before, after in
               zip(("steps", "data set"), ("have", "has"), then, now) if before != after]
    LOG.info(f"{'; '.join(changes)}: resuming after step {done}")
    return done, True


def require_same_start(checkpoint: str, done: int, sum_over_ranks: Callable[[ms.Tensor], ms.Tensor],
                       rank_size: int) -> None:
    """Synchronize the ranks, and compare their starting points, since servers may have different files.

    Raises UserError unless all ranks start after the same step, from identical checkpoints (or an empty string).
    """
    content = 0
    if checkpoint:
        with open(checkpoint, "rb") as file:
            content = zlib.crc32(file.read())
    own = np.array([done % 4096, done // 4096, content % 4096], np.float32)  # float32 sums these exactly
    if (sum_over_ranks(ms.Tensor(own)).asnumpy() != own * rank_size).any():
        raise UserError(f"the ranks do not start alike: this one starts after step {done}, from "
                        f"{checkpoint or 'no checkpoint'}; every server needs rank 0's checkpoint, and the same "
                        "arguments for the launcher")


def keeps_loss_scale(parameters: Mapping[str, ms.Parameter], config: Config) -> bool:
    """Whether to resume with a checkpoint's loss scale: if scaling is dynamic and the initial scale is unchanged."""
    if "loss_scale_start" not in parameters:  # an older version
        return config.train_config.dynamic_loss_scale
    unchanged = float(parameters["loss_scale_start"].asnumpy()) == np.float32(start_scale(config))
    return config.train_config.dynamic_loss_scale and unchanged


def log_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log each of this run's settings {name: value} that differs from the checkpoint's."""
    for name, value in now.items():
        if name in then and then[name] != value:
            LOG.info(f"{name} was {then[name]}, now {value}")
