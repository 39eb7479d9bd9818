"""The learning-rate schedule and the optimizer that a configuration describes."""
from mindspore import nn

from src.lr_schedule import MultiDecay, PolyDecay
from src.quiet import without_warnings


def build_schedule(train_config, steps_per_epoch, epochs):
    """The learning-rate cell that train_config describes."""
    if train_config.lr_schedule == "PolyDecay":
        options = train_config.PolyDecay
        return PolyDecay(options.learning_rate, options.end_learning_rate, steps_per_epoch * epochs, options.power, options.warmup_steps)
    options = train_config.MultiDecay
    return MultiDecay(options.learning_rate, steps_per_epoch, options.multi_epochs, options.factor, options.warmup_steps)


def build_optimizer(network, train_config, steps_per_epoch, epochs):
    """Adam over the network's parameters; those whose names end as decay_filter says are not decayed."""
    schedule = build_schedule(train_config, steps_per_epoch, epochs)
    exempt = tuple(train_config.Adam.decay_filter)
    parameters = list(network.trainable_params())
    decayed = [parameter for parameter in parameters if not parameter.name.endswith(exempt)]
    others = [parameter for parameter in parameters if parameter.name.endswith(exempt)]
    groups = [{"params": decayed, "weight_decay": train_config.Adam.weight_decay}, {"params": others}]
    eps = getattr(train_config, train_config.lr_schedule).eps
    with without_warnings("FusedSparseAdam' is deprecated"):  # which nn.Adam makes for sparse gradients, and no one uses here
        return nn.Adam([group for group in groups if group["params"]], learning_rate=schedule, eps=eps)
