"""What a new training starts from: a whole checkpoint, of these or of other classes, or a backbone's."""
import os

import numpy as np
from mindspore import Parameter, Tensor

from ..core.console import LOG
from ..core.tables import some
from ..model_utils.config import Config
from ..tasks import task_of
from ..weights.checkpoints import (
    EMA_PREFIX,
    class_head,
    layers_left_out,
    load_weights,
    parameter_shapes,
    read_backbone,
    read_checkpoint,
    weights_taken,
)
from ..weights.side_file import read_side_file, side_file


def start_weights(network, config, metainfo):
    """Load what the configuration names into a network: a whole checkpoint, else a pretrained backbone, else nothing. metainfo is that of
    the data set it is for.

    The last layers of the heads take a checkpoint's classes by their names, where its side file says them.
    """
    if path := config.load_checkpoint_path:
        parameters = read_checkpoint(path)
        LOG.info(f"loaded {path}{weights_taken(parameters, config.use_ema)}")
        if os.path.exists(side_file(path)):
            then = read_side_file(path)
            compare_normalization(then, config.dataset_config)
            both = class_heads(config.net_config, metainfo) & class_heads(Config(then["net_config"]), then)
            parameters = take_classes(network, parameters, then["classes"], metainfo["classes"], both)
        else:
            LOG.info(f"no side file says the checkpoint's classes: where their number fits, they are taken in this run's order, "
                     f"{some(metainfo['classes'])}")
        if lost := layers_left_out(parameter_shapes(network), parameters):
            LOG.info(f"this network (net_config) has no {some(lost)}, and goes without the checkpoint's")
        if kept := load_weights(network, parameters, path, fine_tuning=True, use_ema=config.use_ema):
            LOG.info(f"another number of classes, so these start anew: {', '.join(kept)}")
    elif path := config.net_config.load_backbone_path:
        load_weights(network.backbone, read_backbone(path), path)
        LOG.info(f"loaded the backbone {path}")


def compare_normalization(description, dataset_config):
    """Say so if the weights to start from were trained on images normalized in another way than this run's."""
    for name in ("mean", "std"):
        if not np.allclose(description[name], getattr(dataset_config, name), atol=1e-6):
            LOG.info(f"the checkpoint was trained with {name} {description[name]}, this run has {getattr(dataset_config, name)}: "
                     f"to keep the checkpoint's, set dataset_config.{name}")


def class_heads(net_config, metainfo):
    """The names of the heads that have channels for each class."""
    one, two = (task_of(net_config).device.heads(net_config, {**metainfo, "classes": ["class"] * count}) for count in (1, 2))
    return {of_one.name for of_one, of_two in zip(one, two) if of_one.channels < of_two.channels}


def take_classes(network, parameters, then, now, heads):
    """A checkpoint's parameters {name: Parameter}, the heads' last layers as a network of other classes has them: of `then`, for `now`.

    A class that the checkpoint lacks has the network's start values. heads names those that have channels for each class in both.
    """
    if then == now:
        return parameters
    known = [name for name in now if name in then]
    new = [name for name in now if name not in then]
    others = f", and start anew for others ({some(new)})" if new else ""
    LOG.info(f"the heads take the checkpoint's classes by name ({some(known)}){others}"
             if known else f"the checkpoint has none of this run's classes: the heads' last layers start anew for {some(now)}")
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
