"""Initial weights of a new training run: a checkpoint, of the same or other classes, or a pretrained backbone."""
import os
from collections.abc import Set

import numpy as np
from mindspore import Parameter, Tensor, nn

from ..core.console import LOG
from ..core.tables import abbreviate
from ..model_utils.config import Config
from ..tasks import task_of
from ..weights.checkpoints import (
    EMA_PREFIX,
    class_head,
    load_weights,
    parameter_shapes,
    read_backbone,
    read_checkpoint,
    unknown_layers,
    weights_note,
)
from ..weights.side_file import read_side_file, side_file


def start_weights(network: nn.Cell, config: Config, metainfo: dict) -> None:
    """Load the configured initial weights into a network: a checkpoint, else a pretrained backbone, else nothing.

    metainfo is the training data's. The last layers of the heads match a checkpoint's classes and keypoints by name, if
    it has a side file. Heads that it lacks, as detection's for pose, keep their initial values.
    """
    if path := config.load_checkpoint_path:
        parameters = read_checkpoint(path)
        LOG.info(f"loaded {path}{weights_note(parameters, config.use_ema)}")
        if os.path.exists(side_file(path)):
            then = read_side_file(path)
            compare_normalization(then, config.dataset_config)
            parameters = match_names(network, parameters, then, config.net_config, metainfo)
        else:
            LOG.info("no side file names the checkpoint's classes: if their number is the same, they are used in this "
                     f"run's order, {abbreviate(metainfo['classes'])}")
        if unused := unknown_layers(parameter_shapes(network), parameters):
            LOG.info(f"this network (net_config) has no {abbreviate(unused)}: the checkpoint's are not used")
        if kept := load_weights(network, parameters, path, fine_tuning=True, use_ema=config.use_ema):
            LOG.info("the checkpoint has no such head, or one for other numbers, so these are trained from scratch: "
                     f"{', '.join(kept)}")
    elif path := config.net_config.load_backbone_path:
        load_weights(network.backbone, read_backbone(path), path)
        LOG.info(f"loaded the backbone {path}")


def compare_normalization(description: dict, dataset_config: Config) -> None:
    """Log a hint if the initial weights were trained with another normalization of the images."""
    for name in ("mean", "std"):
        if not np.allclose(description[name], getattr(dataset_config, name), atol=1e-6):
            LOG.info(f"the checkpoint was trained with {name} {description[name]}, this run has "
                     f"{getattr(dataset_config, name)}: to keep the checkpoint's, set dataset_config.{name}")


def match_names(network: nn.Cell, parameters: dict[str, Parameter], then: dict, net_config: Config,
                metainfo: dict) -> dict[str, Parameter]:
    """Return the parameters of a checkpoint with the side file `then`, mapped to the names of this run's classes and
    keypoints."""
    before = task_of(then).weights.named_channels(Config(then["net_config"]), then)
    for what, (now, heads) in task_of(net_config).weights.named_channels(net_config, metainfo).items():
        if what in before:
            names, theirs = before[what]
            parameters = map_channels(network, parameters, names, now, heads & theirs, what)
    return parameters


def map_channels(network: nn.Cell, parameters: dict[str, Parameter], then: list[str], now: list[str],
                 heads: Set[str], what: str) -> dict[str, Parameter]:
    """Return a checkpoint's parameters with the last layers of the heads mapped from the names `then` to `now`.

    Names unknown to the checkpoint keep the network's initial values. heads names the heads with channels for each name
    in both networks; `what` is classes or keypoints.
    """
    if then == now:
        return parameters
    known = [name for name in now if name in then]
    new = [name for name in now if name not in then]
    others = f"; others are trained from scratch ({abbreviate(new)})" if new else ""
    LOG.info(f"the heads match the checkpoint's {what} by name ({abbreviate(known)}){others}" if known else
             f"the checkpoint has none of this run's {what}: the last layers of the heads are trained from scratch for "
             f"{abbreviate(now)}")
    parameters = dict(parameters)
    for parameter in network.get_parameters():
        if class_head(parameter.name) not in heads:
            continue
        start = parameter.asnumpy().reshape(len(now), -1)
        for stored in {parameter.name, f"{EMA_PREFIX}{parameter.name}"} & set(parameters):
            values = parameters[stored].asnumpy()
            if values.size == len(then) * start.shape[1]:
                values = values.reshape(len(then), -1)
                rows = [values[then.index(name)] if name in then else start[row] for row, name in enumerate(now)]
                parameters[stored] = Parameter(Tensor(np.stack(rows).reshape(parameter.shape)), name=stored)
    return parameters
