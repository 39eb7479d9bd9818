"""Training: schedule, optimizer, the training loop, resuming."""
import math
import os
import time

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from src.centernet_det import NetworkWithLoss, TrainStep, build_loss, build_network, set_precision
from src.checkpoint import CheckpointFolder, load_weights, read_checkpoint
from src.dataset import readable
from src.deform_conv import resolve_dcn_impl
from src.device_input import DeviceInput, DrawHeatmap
from src.errors import UserError
from src.lr_schedule import MultiDecay, PolyDecay
from src.model_utils.device_adapter import keep_graphs
from src.training_log import TrainingLog
from src.utils import describe_model, log, read_side_file, side_file

# ---------------------------------------------------------------- training


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
    return nn.Adam([group for group in groups if group["params"]], learning_rate=schedule, eps=eps)


class SumOverRanks(nn.Cell):
    """Add a tensor up over all ranks."""

    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x):
        return self.all_reduce(x)


def build_device_input(config, num_classes, draw):
    """The cell that makes the network's batch of the pipeline's; draw says whether the pipeline draws the heatmaps."""
    ratio = config.net_config.down_ratio
    out_size = [side // ratio for side in config.dataset_config.input_res_train]
    return DeviceInput(None if draw else DrawHeatmap(num_classes, out_size, config.net_config.mse_loss))


def build_train_step(network, config, optimizer, ranks=1, device_input=None):
    """The training cell that config describes; device_input as in TrainStep."""
    network = set_precision(network, config.train_config.amp_level)
    across = {}
    if ranks > 1:
        across = {"ranks": ranks, "sum_over_ranks": SumOverRanks()}
    loss = NetworkWithLoss(network, build_loss(config.net_config, **across))
    if ranks > 1:
        across["grad_reducer"] = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=ranks)
    scale = config.train_config.loss_scale_value if config.enable_lossscale else None
    growth = config.train_config.loss_scale_window if config.train_config.dynamic_loss_scale else 0
    step = TrainStep(loss, optimizer, scale, config.train_config.clip_grad_norm, growth_interval=growth,
                     device_input=device_input, **across)
    step.set_train()
    return step


def start_weights(network, config):
    """Load what the configuration names: a whole checkpoint (fine-tuning), else a pretrained backbone, else nothing."""
    if config.load_checkpoint_path:
        parameters = read_checkpoint(config.load_checkpoint_path)
        kept = load_weights(network, parameters, config.load_checkpoint_path, skip_reshaped_heads=True)
        log(f"loaded {config.load_checkpoint_path}")
        if kept:
            log(f"another number of classes, so these start anew: {', '.join(kept)}")
        if os.path.exists(side_file(config.load_checkpoint_path)):
            compare_normalisation(read_side_file(config.load_checkpoint_path), config.dataset_config)
    elif path := config.net_config.load_backbone_path:
        load_weights(network.backbone, read_checkpoint(path, "backbone checkpoint (net_config.load_backbone_path)"), path)
        log(f"loaded the backbone {path}")


def compare_normalisation(description, dataset_config):
    """Say so if the weights to start from were trained on images normalised in another way than this run's."""
    for name in ("mean", "std"):
        if not np.allclose(description[name], getattr(dataset_config, name), atol=1e-6):
            log(f"the checkpoint was trained with {name} {description[name]}, this run has {getattr(dataset_config, name)}: "
                f"to keep the checkpoint's, set dataset_config.{name}")


def graph_settings(config, train_set, device_target):
    """All that the compiled training graphs depend on, for keep_graphs."""
    sections = {name: getattr(config, name).as_dict() for name in ("net_config", "train_config", "dataset_config")}
    names = ("epoch_size", "enable_lossscale", "enable_data_sink", "data_sink_steps", "conv_allow_hf32", "jit_level")
    numbers = [train_set.num_classes, train_set.steps_per_epoch, train_set.ranks, train_set.draw]
    return [sections, {name: getattr(config, name) for name in names}, numbers, device_target]


def choose_sink_steps(config, device_target):
    """How many batches the device fetches by itself at a time; 0 where batches are handed over one by one."""
    if config.enable_data_sink and device_target != "Ascend":
        log(f"enable_data_sink works on Ascend only: batches are handed over one by one on {device_target}")
        return 0
    return config.data_sink_steps if config.enable_data_sink else 0


def run_steps(step, data, sink_steps):
    """Run a pipeline's batches through a training cell; yields (steps done, the last step's results).

    With sink_steps the device fetches that many batches by itself (Ascend), and what then remains is left for the next
    call; 0 hands over each batch.
    """
    if sink_steps:
        sink_steps = min(sink_steps, data.get_dataset_size())
        sink = ms.data_sink(step, data, sink_size=sink_steps)
        for _ in range(data.get_dataset_size() // sink_steps):
            yield sink_steps, sink()
        return
    for batch in data.create_tuple_iterator(num_epochs=1):
        yield 1, step(*batch)


def train(config, train_set, device_target, rank=0):
    """Train as the configuration says, with logs and checkpoints; returns the last checkpoint's path ("" without).

    Every rank trains and prints; rank 0 writes checkpoints and record for all.
    """
    ms.set_seed(config.seed)
    if config.compile_cache_dir:
        keep_graphs(config.compile_cache_dir, graph_settings(config, train_set, device_target))
    network = build_network(config.net_config, train_set.num_classes, resolve_dcn_impl(config.net_config.dcn_impl, device_target))
    optimizer = build_optimizer(network, config.train_config, train_set.steps_per_epoch, config.epoch_size)
    device_input = build_device_input(config, train_set.num_classes, train_set.draw)
    step_cell = build_train_step(network, config, optimizer, train_set.ranks, device_input)
    parameters = [*network.get_parameters(), *optimizer.get_parameters(), step_cell.scale, step_cell.good_steps]
    state = {parameter.name: parameter for parameter in parameters}

    folder = os.path.join(config.save_checkpoint_path, "ckpt_0")
    done = 0
    if config.resume:
        done = restore(state, config.load_checkpoint_path or newest_checkpoint(folder), train_set)
    else:
        start_weights(network, config)
    last_step = steps_to_do(config, train_set, done)
    if train_set.ranks > 1:
        SumOverRanks()(ms.Tensor(0.0))  # all have read the files that rank 0 may now move aside

    checkpoints = None
    if config.enable_save_ckpt and rank == 0:
        checkpoints = CheckpointFolder(folder, config.save_checkpoint_num, describe_model(config, train_set.manifest), config.resume)
    record = TrainingLog(os.path.join(config.save_result_dir, "train_record.jsonl") if rank == 0 else None, done)
    log(f"{len(train_set.places)} images, {train_set.steps_per_epoch} steps of {train_set.images_per_step} images an epoch, "
        f"{last_step - done} steps to go")
    log("compiling the graph")
    saved = run_training(config, train_set, step_cell, state, done, last_step, checkpoints, record,
                         choose_sink_steps(config, device_target))
    record.close()
    return saved


def steps_to_do(config, train_set, done):
    """The number of the last step to train, counted from the start of the run. Raises UserError if they are all done."""
    last_step = train_set.steps_per_epoch * config.epoch_size
    if config.train_steps >= 0:
        last_step = min(last_step, config.train_steps)
    if done >= last_step:
        raise UserError(f"nothing to train: {done} steps are done, and epoch_size {config.epoch_size} x {train_set.steps_per_epoch} steps, "
                        f"train_steps {config.train_steps} ask for {last_step}")
    return last_step


def run_training(config, train_set, step_cell, state, done, last_step, checkpoints, record, sink_steps):
    """The steps after `done` up to last_step, logged and saved; returns the last checkpoint's path ("" without)."""
    saved = ""
    while done < last_step:
        epoch, first_step = divmod(done, train_set.steps_per_epoch)
        start = time.time()
        for count, results in read_and_run(step_cell, train_set, epoch, first_step, sink_steps):
            done += count
            values = [result.asnumpy()[()] for result in results]
            now = time.time()
            record.step(done, train_set.steps_per_epoch, values, train_set.images_per_step * count / (now - start))
            start = now
            if not np.isfinite(values[0]):
                raise UserError(f"the loss is {values[0]} at step {done}: training stops; lower the learning rate, or look at the data; "
                                f"the last checkpoint is {saved or 'that of the start'}")
            if checkpoints and (done % config.save_checkpoint_steps < count or done >= last_step):
                saved = checkpoints.save(state, epoch, done, train_set.images_per_step)
            if done >= last_step:
                break
    return saved


def read_and_run(step_cell, train_set, epoch, first_step, sink_steps):
    """run_steps over an epoch from a step on. Raises UserError if the MindRecord files cannot be read."""
    with readable(train_set.config.mindrecord_dir):
        yield from run_steps(step_cell, train_set.epoch(epoch, first_step), sink_steps)


def newest_checkpoint(folder):
    """The newest checkpoint in a folder that can be read; says which cannot. Raises UserError if there is none."""
    for path in reversed(CheckpointFolder.find(folder)):
        try:
            read_checkpoint(path)
            return path
        except UserError as error:
            log(f"left out: {error}")
    raise UserError(f"no checkpoint in {folder} to go on from; set --load_checkpoint_path or --save_checkpoint_path")


def restore(state, path, train_set):
    """Put a checkpoint back into {name: Parameter}: weights, moments, global step, loss scale; returns the steps done.

    If its run had another number of images in a step (other ranks or batch size), the steps are counted anew.
    """
    parameters = read_checkpoint(path)
    missing = sorted(set(state) - set(parameters) - {"good_steps"})  # which checkpoints before the dynamic loss scale lack
    if missing or "step" not in parameters:
        name = (missing or ["step"])[0]
        raise UserError(f"{path}: it holds no training state to resume ({name} is missing); without --resume its weights are loaded")
    for name, parameter in state.items():
        if name not in parameters:
            continue
        if tuple(parameter.shape) != tuple(parameters[name].shape):
            raise UserError(f"{path}: {name} is {tuple(parameters[name].shape)}, this run has {tuple(parameter.shape)}")
        parameter.set_data(parameters[name])
    done = int(parameters["step"].asnumpy())
    log(f"resuming {path} after step {done}")
    then = int(parameters["images_per_step"].asnumpy()) if "images_per_step" in parameters else train_set.images_per_step
    if then != train_set.images_per_step:
        images = len(train_set.places)
        updates = int(state["global_step"].asnumpy()[0])
        state["global_step"].set_data(ms.Tensor([convert_steps(updates, then, train_set.images_per_step, images)], ms.int32))
        done = convert_steps(done, then, train_set.images_per_step, images)
        log(f"its steps had {then} images, this run's have {train_set.images_per_step}: going on after step {done}")
    return done


def convert_steps(steps, images_then, images_now, images):
    """The step, in steps of images_now images, at which to go on after `steps` of images_then, of a set of `images`.

    The same epoch, and in it the first step that reads none of the images read: less than one step of them is left out.
    """
    epoch, in_epoch = divmod(steps, images // images_then)
    per_epoch = images // images_now
    return epoch * per_epoch + min(math.ceil(in_epoch * images_then / images_now), per_epoch)
