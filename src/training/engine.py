"""Training runs from a configuration: builds the network, optimizer and training step, and trains."""
import contextlib
import os
from typing import TYPE_CHECKING

import mindspore as ms
from mindspore import nn, ops

from ..core.console import LOG
from ..core.errors import UserError
from ..data.samples import sample_layout
from ..model_utils.config import Config
from ..model_utils.device_adapter import cache_graphs, saturates
from ..network.centernet import build_network
from ..network.deform_conv import resolve_dcn_impl
from ..network.device_input import DeviceInput
from ..runs.record import TrainingLog
from ..runs.tensorboard import Summaries
from ..tasks import task_of
from ..weights.checkpoints import CheckpointFolder, newest_checkpoint
from ..weights.run_folder import write_settings
from ..weights.side_file import describe_model
from .detector import TrainingDetector
from .divergence import DivergenceMonitor
from .ema import WeightAverage
from .fine_tuning import start_weights
from .loop import Saving, choose_sink_steps, run_training
from .optimizer import build_optimizer, freeze
from .resume import earlier_record, require_same_start, restore, training_settings
from .scoring import start_scoring
from .step import AcrossRanks, LossScaling, NetworkWithLoss, TrainStep, set_precision

if TYPE_CHECKING:
    from ..data.train_set import TrainSet
    from ..evaluation.evaluator import EvaluationSet


class SumOverRanks(nn.Cell):
    """Sum a tensor over all ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.all_reduce(x)


def build_device_input(config: Config, metainfo: dict, heatmaps_on_host: bool) -> DeviceInput:
    """Build the cell that turns the pipeline's columns into the network's batch."""
    task = task_of(config.net_config)
    layout = sample_layout(config, metainfo)
    complete = None if heatmaps_on_host else task.device.DrawTargets(layout)
    return DeviceInput(task.targets.columns(heatmaps_on_host), complete)


def build_train_step(network: nn.Cell, config: Config, optimizer: nn.Optimizer, device_input: nn.Cell,
                     rank_size: int = 1) -> TrainStep:
    """Build the training cell that config describes; device_input as in TrainStep."""
    options = config.train_config
    average = WeightAverage(network, options.ema_decay) if options.ema_decay else None
    network = set_precision(network, config.train_config.amp_level)
    across = AcrossRanks()
    if rank_size > 1:
        reducer = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=rank_size)
        across = AcrossRanks(rank_size, SumOverRanks(), reducer)
    task = task_of(config.net_config)
    loss = task.device.build_loss(config.net_config, rank_size=across.rank_size, sum_over_ranks=across.sum_over_ranks,
                                  micro_batches=options.accumulate_steps)
    scaling = LossScaling(
        start=options.loss_scale_value if config.enable_lossscale else None,
        growth_interval=options.loss_scale_window if options.dynamic_loss_scale else 0,
        float16=options.amp_level != "O0",
    )
    step = TrainStep(NetworkWithLoss(network, loss, task.losses), optimizer, device_input, scaling=scaling,
                     clip_grad_norm=options.clip_grad_norm, across=across, average=average)
    step.set_train()
    return step


def graph_settings(config: Config, train_set: "TrainSet", device_target: str) -> list:
    """All values that the compiled training graphs depend on, for cache_graphs."""
    sections = {name: getattr(config, name).as_dict() for name in ("net_config", "train_config", "dataset_config")}
    names = ("epoch_size", "enable_lossscale", "enable_data_sink", "data_sink_steps", "conv_allow_hf32", "jit_level")
    numbers = [train_set.layout.num_classes, train_set.steps_per_epoch, train_set.rank_size,
               train_set.heatmaps_on_host]
    return [sections, {name: getattr(config, name) for name in names}, numbers, device_target]


def warn_of_warmup(train_config: Config, last_step: int) -> None:
    """Log a warning if training ends before its warm-up does."""
    name = f"{train_config.lr_schedule}.warmup_steps"
    warmup = getattr(train_config, train_config.lr_schedule).warmup_steps
    if warmup > last_step:
        LOG.warning(f"warning: the warm-up, train_config.{name} {warmup}, is longer than the run, {last_step} "
                    "steps: the learning rate stays low")


def steps_to_do(config: Config, train_set: "TrainSet", done: int) -> int:
    """The number of the last step, counted from the start of the run. Raises UserError if all steps are done."""
    last_step = train_set.steps_per_epoch * config.epoch_size
    if config.train_steps >= 0:
        last_step = min(last_step, config.train_steps)
    if done >= last_step:
        raise UserError(f"nothing to train: {done} of {last_step} steps are done (epoch_size {config.epoch_size} x "
                        f"{train_set.steps_per_epoch} steps, train_steps {config.train_steps}); increase them to "
                        "continue")
    return last_step


def open_record(config: Config, rank: int, done: int, aside: str, resumed: str, last_step: int) -> TrainingLog:
    """The TrainingLog of a run after `done` steps, and settings.yaml next to it, with files on rank 0 only; resumed is
    the checkpoint's path."""
    if rank:
        return TrainingLog(None, done, interval=config.log_interval, last_step=last_step)
    write_settings(config)  # not before a resumed checkpoint is accepted
    path = os.path.join(config.save_result_dir, "train_record.jsonl")
    summaries = Summaries(os.path.join(config.save_result_dir, "tensorboard"), done) if config.tensorboard else None
    branch = earlier_record(resumed, path) if resumed else ""
    return TrainingLog(path, done, aside, branch, config.log_interval, last_step, summaries)


def train(config: Config, train_set: "TrainSet", device_target: str, rank: int = 0,
          eval_set: "EvaluationSet | None" = None) -> str:
    """Train as configured, with logs and checkpoints. Return the last checkpoint's path, or an empty string.

    eval_set is the EvaluationSet for scores during training, or None. Every rank trains and logs; rank 0 writes
    checkpoints and record. Raises Interrupted if a signal ended training.
    """
    ms.set_seed(config.seed)
    if config.compile_cache_dir:
        cache_graphs(config.compile_cache_dir, graph_settings(config, train_set, device_target))
    dcn_impl = resolve_dcn_impl(config.net_config.dcn_impl, device_target)
    network = build_network(config.net_config, train_set.manifest, dcn_impl)
    freeze(network, config.train_config.freeze)
    if config.train_config.freeze != "none":
        trainable, total = (sum(parameter.size for parameter in parameters) for parameters in
                            (network.trainable_params(), network.get_parameters()))
        LOG.info(f"train_config.freeze {config.train_config.freeze}: {trainable:,} of {total:,} weights train")
    optimizer = build_optimizer(network, config.train_config, train_set.steps_per_epoch, config.epoch_size)
    device_input = build_device_input(config, train_set.manifest, train_set.heatmaps_on_host)
    step_cell = build_train_step(network, config, optimizer, device_input, train_set.rank_size)
    step_cell.unroll, step_cell.saturates = device_target == "Ascend", saturates(device_target)
    average = step_cell.average
    parameters = [*network.get_parameters(), *optimizer.get_parameters(), step_cell.scale, step_cell.good_steps]
    state = {parameter.name: parameter for parameter in [*parameters, *(average.averages if average else [])]}
    description = {**describe_model(config, train_set.manifest), "training": training_settings(config, train_set)}
    trained = TrainingDetector(network, average if config.use_ema else None, description, config, device_target)
    scoring = start_scoring(trained, eval_set, train_set, SumOverRanks() if train_set.rank_size > 1 else None)

    folder = os.path.join(config.save_checkpoint_path, "ckpt_0")
    done, resumed, step_count_reset = 0, "", False
    if config.resume:
        resumed = config.load_checkpoint_path or newest_checkpoint(folder)
        done, step_count_reset = restore(state, resumed, train_set, config)
    else:
        start_weights(network, config, train_set.manifest)
        if average:
            average.restart()
    steps = range(done, steps_to_do(config, train_set, done))
    if train_set.rank_size > 1:
        require_same_start(resumed or config.load_checkpoint_path, done, SumOverRanks(), train_set.rank_size)
        # All ranks have read their checkpoints: from here on rank 0 may move them.

    checkpoints = None
    if config.enable_save_ckpt and rank == 0:
        checkpoints = CheckpointFolder(folder, config.save_checkpoint_num, description, resumed)
    if scoring and resumed:
        scoring.resume(resumed, checkpoints, step_count_reset)
    saving = Saving(config, checkpoints, state, train_set, scoring)
    record = open_record(config, rank, 0 if step_count_reset else done, checkpoints.aside if checkpoints else "",
                         resumed, steps.stop)
    LOG.info(f"{train_set.images} images, {train_set.steps_per_epoch} steps of {train_set.images_per_step} images per "
             f"epoch, {len(steps)} steps to do on {device_target}")
    warn_of_warmup(config.train_config, steps.stop)
    LOG.info("compiling the graph")
    sink_steps = choose_sink_steps(config, device_target, train_set.steps_per_epoch)
    limits = config.train_config.max_overflows, config.train_config.max_diverged
    monitor = DivergenceMonitor(task_of(config.net_config).losses, *limits, step_cell.float16)
    with contextlib.closing(record):
        run_training(train_set, step_cell, saving, record, steps, sink_steps, monitor)
    return saving.saved
