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

    metainfo is the training data's. The last layers of the heads match a checkpoint's classes by name, if it has a side
    file.
    """
    if path := config.load_checkpoint_path:
        parameters = read_checkpoint(path)
        LOG.info(f"loaded {path}{weights_note(parameters, config.use_ema)}")
        if os.path.exists(side_file(path)):
            then = read_side_file(path)
            compare_normalization(then, config.dataset_config)
            both = class_heads(config.net_config, metainfo) & class_heads(Config(then["net_config"]), then)
            parameters = map_classes(network, parameters, then["classes"], metainfo["classes"], both)
        else:
            LOG.info("no side file names the checkpoint's classes: if their number is the same, they are used in this "
                     f"run's order, {abbreviate(metainfo['classes'])}")
        if unused := unknown_layers(parameter_shapes(network), parameters):
            LOG.info(f"this network (net_config) has no {abbreviate(unused)}: the checkpoint's are not used")
        if kept := load_weights(network, parameters, path, fine_tuning=True, use_ema=config.use_ema):
            LOG.info(f"the number of classes differs, so these are trained from scratch: {', '.join(kept)}")
    elif path := config.net_config.load_backbone_path:
        load_weights(network.backbone, read_backbone(path), path)
        LOG.info(f"loaded the backbone {path}")


def compare_normalization(description: dict, dataset_config: Config) -> None:
    """Log a hint if the initial weights were trained with another normalization of the images."""
    for name in ("mean", "std"):
        if not np.allclose(description[name], getattr(dataset_config, name), atol=1e-6):
            LOG.info(f"the checkpoint was trained with {name} {description[name]}, this run has "
                     f"{getattr(dataset_config, name)}: to keep the checkpoint's, set dataset_config.{name}")


def class_heads(net_config: Config, metainfo: dict) -> set[str]:
    """The names of the heads that have channels for each class."""
    one, two = (task_of(net_config).device.heads(net_config, {**metainfo, "classes": ["class"] * count})
                for count in (1, 2))
    return {of_one.name for of_one, of_two in zip(one, two) if of_one.channels < of_two.channels}


def map_classes(network: nn.Cell, parameters: dict[str, Parameter], then: list[str], now: list[str],
                heads: Set[str]) -> dict[str, Parameter]:
    """Return a checkpoint's parameters with the last layers of the heads mapped from the classes `then` to `now`.

    Classes unknown to the checkpoint keep the network's initial values. heads names the heads with channels for each
    class in both networks.
    """
    if then == now:
        return parameters
    known = [name for name in now if name in then]
    new = [name for name in now if name not in then]
    others = f"; others are trained from scratch ({abbreviate(new)})" if new else ""
    LOG.info(f"the heads match the checkpoint's classes by name ({abbreviate(known)}){others}" if known else
             "the checkpoint has none of this run's classes: the last layers of the heads are trained from scratch for "
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
