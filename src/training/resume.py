"""Going on with a training: what its checkpoint gives back, and what the configuration changes."""
import os
import zlib

import mindspore as ms
import numpy as np

from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import read_json
from ..core.kinds import having, is_text, list_of
from ..core.tables import some
from ..data.epochs import convert_steps
from ..model_utils.config import checked_section
from ..network.architectures import resolved
from ..weights.checkpoints import EMA_PREFIX, check_architecture, layers_left_out, read_checkpoint
from ..weights.side_file import side_file

LAYERS = ("arch", "block_class", "num_stacks", "down_ratio", "head_conv", "cat_spec_wh", "reg_offset")  # of net_config, what makes layers


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


def training_settings(config, train_set):
    """What a configuration and a TrainSet say of the training, {"train_config.batch_size": 16, ...}; for the side file."""
    names = ("seed", "do_shuffle", "enable_lossscale", "epoch_size", "eval_epochs", "best_metric", "patience")
    settings = {name: getattr(config, name) for name in names}
    for section in ("train_config", "dataset_config"):
        settings |= {f"{section}.{name}": value for name, value in getattr(config, section).as_dict().items()}
    objects = train_set.manifest.get("objects")  # the model zoo's files do not say it
    return settings | {"images": train_set.images} | ({"objects": objects} if objects is not None else {})


def restore(state, path, train_set, config):
    """Put a checkpoint back into {name: Parameter}: weights, moments, global step, loss scale.

    Returns (steps done, whether they are counted anew: its run had another number of images in a step, by other ranks or batch size, or
    in all). What the configuration changes wins, and is said in the log. Raises UserError for another network, or other classes.
    """
    parameters = read_checkpoint(path)
    check_architecture(state, parameters, path)
    then = described(path)
    check_same_run(path, then, train_set.manifest["classes"], config.net_config.as_dict())
    if lost := layers_left_out(state, parameters):
        raise UserError(f"{path}: it has {lost[0]}, which this run's network lacks; was it another net_config?")
    for name in [name for name in state if name.startswith(EMA_PREFIX) and name not in parameters]:
        if name.removeprefix(EMA_PREFIX) in parameters:
            parameters[name] = parameters[name.removeprefix(EMA_PREFIX)]  # a run without an average begins one
    check_state(state, parameters, path, then, config)
    for name, parameter in state.items():
        if name not in parameters or (name in ("loss_scale", "good_steps") and not keeps_loss_scale(parameters, config)):
            continue
        if tuple(parameter.shape) != tuple(parameters[name].shape):
            raise UserError(f"{path}: {name} is {tuple(parameters[name].shape)}, this run has {tuple(parameter.shape)}; was it another "
                            "net_config, or other classes?")
        parameter.set_data(parameters[name])
    LOG.info(f"resuming {path} after step {int(parameters['step'].asnumpy())}")
    now = training_settings(config, train_set) | network_settings(config.net_config.as_dict())
    log_changes(then.get("training", {}) | network_settings(then.get("net_config", {})), now)
    before, now = (float(values["loss_scale"].asnumpy()) for values in (parameters, state))
    if before != now:
        LOG.info(f"the loss scale was {before:g}, and is {now:g} from here on, as the configuration says")
    return resumed_step(state, parameters, path, train_set)


def described(checkpoint):
    """The classes, net_config and training settings in a checkpoint's side file, as far as it has them."""
    content = read_json(side_file(checkpoint), "the side file", {}) if os.path.exists(side_file(checkpoint)) else {}
    tests = {"classes": list_of(is_text, least=1), "net_config": having(), "training": having()}
    return {name: content[name] for name, test in tests.items() if name in content and test(content[name])}


def network_settings(net_config):
    """The settings of a net_config as {"net_config.hm_weight": 1.0, ...}."""
    return {f"net_config.{name}": value for name, value in net_config.items()}


def check_same_run(path, then, classes, net_config):
    """Raise UserError if a side file, `then`, is of a network that a run of these classes and this net_config cannot go on with."""
    if then.get("classes", classes) != classes:
        order = ", in this order" if sorted(then["classes"]) == sorted(classes) else ""
        raise UserError(f"{path}: its classes are {some(then['classes'])}{order}, and those of mindrecord_dir {some(classes)}; "
                        "without --resume its weights are loaded, and its classes by their names")
    if "net_config" in then:
        before, now = resolved(checked_section("net_config", then["net_config"], side_file(path))), resolved(net_config)
        for name in LAYERS:
            if getattr(before, name) != getattr(now, name):
                raise UserError(f"{path}: net_config.{name} was {getattr(before, name)}, and is {getattr(now, name)}, which is another "
                                "network: set it to what it was, or start a new run")


def check_state(state, parameters, path, then, config):
    """Raise UserError unless a checkpoint's parameters hold all of the training state, and say why not as far as its side file does."""
    missing = sorted(set(state) - set(parameters) - {"good_steps"})  # which checkpoints before the dynamic loss scale lack
    if not missing and "step" in parameters:
        return
    for setting in ("optimizer", "freeze"):
        before, now = then.get("training", {}).get(f"train_config.{setting}"), getattr(config.train_config, setting)
        if before not in (None, now):
            raise UserError(f"{path}: train_config.{setting} was {before}, and is {now}, which needs another training state; without "
                            "--resume its weights are loaded")
    raise UserError(f"{path}: it holds no training state to resume ({(missing or ['step'])[0]} is missing); without --resume its weights "
                    "are loaded")


def resumed_step(state, parameters, path, train_set):
    """(steps done, whether they are counted anew) of a checkpoint in a run of a TrainSet; the state's global step is counted anew, too.

    With another number of images, in a step or in all, that is the same part of the same epoch.
    """
    now = (train_set.images_per_step, train_set.images)
    then = tuple(int(parameters[name].asnumpy()) if name in parameters else value
                 for name, value in zip(("images_per_step", "images"), now))  # checkpoints of earlier versions lack them
    done, updates = int(parameters["step"].asnumpy()), int(state["global_step"].asnumpy()[0])
    if then[0] > then[1]:
        raise UserError(f"{path}: its steps had {then[0]} images, and mindrecord_dir has {now[1]}: it is another data set, and how many "
                        "images there were this checkpoint, of an earlier version, does not say; without --resume its weights are loaded")
    epoch = (done - 1) // (then[1] // then[0])
    if "images" not in parameters and "epoch" in parameters and epoch != (before := int(parameters["epoch"].asnumpy())):
        LOG.warning(f"warning: step {done} was in epoch {before}, and is in epoch {epoch} of mindrecord_dir: it is another data set, "
                    "and how many images there were this checkpoint, of an earlier version, does not say; the steps are counted as if "
                    "there had been as many")
    if then == now:
        return done, False
    state["global_step"].set_data(ms.Tensor([convert_steps(updates, then, now)], ms.int32))
    done = convert_steps(done, then, now)
    said = [f"its {what} had {before} images, this run's {has} {after}" for what, has, before, after in
            zip(("steps", "data set"), ("have", "has"), then, now) if before != after]
    LOG.info(f"{'; '.join(said)}: going on after step {done}")
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


def keeps_loss_scale(parameters, config):
    """Whether a resumed run takes a checkpoint's loss scale: a dynamic one does, if it starts as the checkpoint's run did."""
    if "loss_scale_start" not in parameters:  # of an older version
        return config.train_config.dynamic_loss_scale
    return config.train_config.dynamic_loss_scale and float(parameters["loss_scale_start"].asnumpy()) == np.float32(start_scale(config))


def log_changes(then, now):
    """Log each of this run's settings {name: value} that differs from those of the checkpoint's run."""
    for name, value in now.items():
        if name in then and then[name] != value:
            LOG.info(f"{name} was {then[name]}, and is {value} from here on")
