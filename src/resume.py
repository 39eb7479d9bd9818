"""Going on with a training: what its checkpoint gives back, and what the configuration changes."""
import os
import zlib

import mindspore as ms
import numpy as np

from src.averaging import PREFIX
from src.checkpoint import check_architecture, read_checkpoint
from src.epochs import convert_steps
from src.errors import UserError
from src.side_file import side_file
from src.utils import log, read_json


def record_beside(checkpoint, record):
    """The record of the steps before a checkpoint, where that is not the one at `record`, this run's path; "" without.

    It lies beside the checkpoint if it was set aside together with it, else beside the folder ckpt_0 of another run.
    """
    folder = os.path.dirname(os.path.abspath(checkpoint))
    places = [folder, os.path.dirname(folder)] if os.path.basename(folder) == "ckpt_0" else [folder]
    found = [path for place in places if os.path.isfile(path := os.path.join(place, os.path.basename(record)))]
    return found[0] if found and os.path.realpath(found[0]) != os.path.realpath(record) else ""


def start_scale(config):
    """The loss scale that the configuration starts with, 0 without one."""
    return float(config.train_config.loss_scale_value) if config.enable_lossscale else 0.0


def training_settings(config):
    """What a configuration says of the training, {"train_config.batch_size": 16, ...}; for the side file."""
    names = ("seed", "do_shuffle", "enable_lossscale", "epoch_size", "eval_epochs", "best_metric", "patience")
    settings = {name: getattr(config, name) for name in names}
    for section in ("train_config", "dataset_config"):
        settings |= {f"{section}.{name}": value for name, value in getattr(config, section).as_dict().items()}
    return settings


def restore(state, path, train_set, config):
    """Put a checkpoint back into {name: Parameter}: weights, moments, global step, loss scale.

    Returns (steps done, whether they are counted anew: its run had another number of images in a step, by other ranks or batch size).
    What the configuration changes wins, and is said in the log.
    """
    parameters = read_checkpoint(path)
    check_architecture(state, parameters, path)
    for name in [name for name in state if name.startswith(PREFIX) and name not in parameters]:
        if name.removeprefix(PREFIX) in parameters:
            parameters[name] = parameters[name.removeprefix(PREFIX)]  # a run without an average begins one
    missing = sorted(set(state) - set(parameters) - {"good_steps"})  # which checkpoints before the dynamic loss scale lack
    if missing or "step" not in parameters:
        name = (missing or ["step"])[0]
        then = trained_with(path)
        for setting in ("optimizer", "freeze"):
            before, now = then.get(f"train_config.{setting}"), getattr(config.train_config, setting)
            if before not in (None, now):
                raise UserError(f"{path}: train_config.{setting} was {before}, and is {now}, which needs another training state; without "
                                "--resume its weights are loaded")
        raise UserError(f"{path}: it holds no training state to resume ({name} is missing); without --resume its weights are loaded")
    for name, parameter in state.items():
        if name not in parameters or (name in ("loss_scale", "good_steps") and not goes_on_with_scale(parameters, config)):
            continue
        if tuple(parameter.shape) != tuple(parameters[name].shape):
            raise UserError(f"{path}: {name} is {tuple(parameters[name].shape)}, this run has {tuple(parameter.shape)}; was it another "
                            "net_config, or other classes?")
        parameter.set_data(parameters[name])
    done = int(parameters["step"].asnumpy())
    log(f"resuming {path} after step {done}")
    say_changes(path, training_settings(config))
    before, now = (float(values["loss_scale"].asnumpy()) for values in (parameters, state))
    if before != now:
        log(f"the loss scale was {before:g}, and is {now:g} from here on, as the configuration says")
    then = int(parameters["images_per_step"].asnumpy()) if "images_per_step" in parameters else train_set.images_per_step
    if then == train_set.images_per_step:
        return done, False
    updates = int(state["global_step"].asnumpy()[0])
    state["global_step"].set_data(ms.Tensor([convert_steps(updates, then, train_set.images_per_step, train_set.images)], ms.int32))
    done = convert_steps(done, then, train_set.images_per_step, train_set.images)
    log(f"its steps had {then} images, this run's have {train_set.images_per_step}: going on after step {done}")
    return done, True


def require_same_start(checkpoint, done, sum_over_ranks, rank_size):
    """Let all ranks meet; servers may have files of their own.

    Raises UserError unless they start after the same step, from checkpoints ("" without) of the same content.
    """
    content = 0
    if checkpoint:
        with open(checkpoint, "rb") as file:
            content = zlib.crc32(file.read())
    own = np.array([done % 4096, done // 4096, content % 4096], np.float32)  # which float32 adds up exactly
    if (sum_over_ranks(ms.Tensor(own)).asnumpy() != own * rank_size).any():
        raise UserError(f"the ranks do not start alike: this one after step {done}, from {checkpoint or 'no checkpoint'}; every server "
                        "needs the file that rank 0's has, and the same words behind the launcher")


def goes_on_with_scale(parameters, config):
    """Whether a resumed run takes a checkpoint's loss scale: a dynamic one does, if it starts as the checkpoint's run did."""
    if "loss_scale_start" not in parameters:  # of an older version
        return config.train_config.dynamic_loss_scale
    return config.train_config.dynamic_loss_scale and float(parameters["loss_scale_start"].asnumpy()) == np.float32(start_scale(config))


def trained_with(checkpoint):
    """The training settings in a checkpoint's side file, {} without."""
    return read_json(side_file(checkpoint), "the side file", {}).get("training", {}) if os.path.exists(side_file(checkpoint)) else {}


def say_changes(checkpoint, settings):
    """Log each of this run's training settings that differs from those in a checkpoint's side file."""
    then = trained_with(checkpoint)
    for name, value in settings.items():
        if name in then and then[name] != value:
            log(f"{name} was {then[name]}, and is {value} from here on")
