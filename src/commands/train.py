"""Train CenterNet on MindRecord files converted from a COCO-format data set by src/dataset.py."""
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from ..core import interrupts
from ..core.console import LOG, Console
from ..core.errors import UserError
from ..model_utils.config import COMMAND_LINE, Config, get_config
from ..model_utils.local_adapter import clear_launcher_variables, is_scheduler, launcher_variable, rank_label
from ..model_utils.mindspore_version import require_mindspore

if TYPE_CHECKING:
    from ..evaluation.evaluator import EvaluationSet


def check_paths(config: Config, folder: str = "") -> "EvaluationSet | None":
    """Return the data to score on while training, or None if eval_epochs is 0. In config, a run's folder or an alias of
    its checkpoint (RUN/best, RUN/last) is replaced by the checkpoint's path, and the output folders are set; a new run
    gets its folder when all else is right. folder is the working directory of the training if it is not the current
    one: a launcher's process, which writes there.

    Raises UserError for what check_training finds, for missing checkpoints, for a folder that another training writes
    into, and if the output would replace files that are not this project's.
    """
    from ..core.locks import require_free
    from ..training.checks import check_training
    from ..weights.run_folder import (
        RUNS,
        checkpoints_to_resume,
        resolve_checkpoint_alias,
        settle_outputs,
        start_run,
    )
    from ..weights.side_file import require_checkpoint

    network = config.net_config
    config.load_checkpoint_path = resolve_checkpoint_alias(config.load_checkpoint_path, latest=config.resume)
    network.load_backbone_path = resolve_checkpoint_alias(network.load_backbone_path)
    data = check_training(config)
    has_folder = settle_outputs(config, several=bool(folder or config.distribute or launcher_variable()))
    if has_folder:
        for path in written_folders(config, folder):
            if os.path.lexists(path) and not os.path.isdir(path):
                raise UserError(f"{path} is not a folder; choose another one for the run (--run_dir)")
        require_free(written_folders(config, folder), "training")
    if not folder and has_folder:  # a launcher backs up the earlier folder completely
        require_room(config)
    if config.load_checkpoint_path:
        require_checkpoint(config.load_checkpoint_path)
    elif config.resume and not has_folder:
        raise UserError(f"resume is true, but there is no checkpoint to resume from: neither ckpt_0 nor a "
                        f"run in {os.path.join(RUNS, network.task)} is here; set --run_dir to the run's folder")
    elif config.resume:
        checkpoints = os.path.join(folder, config.save_checkpoint_path, "ckpt_0")
        checkpoints_to_resume(os.path.normpath(checkpoints) if folder else checkpoints)  # the folder may not exist yet
    elif config.net_config.load_backbone_path:
        require_checkpoint(config.net_config.load_backbone_path, "backbone checkpoint (net_config.load_backbone_path)")
    if not has_folder:
        start_run(config)
    return data


def require_room(config: Config) -> None:
    """Raise UserError if a run would replace files that are not this project's."""
    from ..core.backups import require_ours
    from ..runs.record import is_record, loss_chart_path
    from ..weights.run_folder import CHECKPOINTS, IS_SETTINGS, SETTINGS

    record = os.path.join(config.save_result_dir, "train_record.jsonl")
    require_ours(record, is_record, loss_chart_path, "--save_result_dir")
    require_ours(os.path.join(config.save_result_dir, SETTINGS), IS_SETTINGS, option="--save_result_dir")
    if config.enable_save_ckpt:
        require_ours(os.path.join(config.save_checkpoint_path, "ckpt_0"), CHECKPOINTS, option="--save_checkpoint_path")
    if config.eval_epochs:
        from ..evaluation.table import TABLE, is_table

        require_ours(os.path.join(config.save_result_dir, TABLE), is_table, option="--save_result_dir")
    if config.tensorboard:
        from ..runs.tensorboard import EVENTS

        require_ours(os.path.join(config.save_result_dir, "tensorboard"), EVENTS, option="--save_result_dir")


def written_folders(config: Config, folder: str = "") -> list[str]:
    """The folders into which a training in `folder` writes checkpoints and records."""
    checkpoints = [config.save_checkpoint_path] if config.enable_save_ckpt else []
    return [os.path.join(folder, path) for path in [*checkpoints, config.save_result_dir]]


def main() -> None:
    config = get_config(__doc__, script="train")
    alone = not config.distribute and config.origin("distribute") == COMMAND_LINE
    if sys.stdout.isatty() and not alone:  # other ranks may print on the terminal, too
        LOG.handlers = [Console(rank_label())]
    LOG.info(config.summary())
    require_mindspore()
    if config.tensorboard:
        from ..runs.tensorboard import require_writer

        require_writer()
    from ..core.locks import locked
    from ..model_utils.combinations import unused_in_training
    from ..model_utils.moxing_adapter import modelarts
    from ..weights.run_folder import discard_if_empty

    if alone and (unused := clear_launcher_variables()):
        LOG.info(f"ignoring {', '.join(unused)} in the environment: distribute is false on the command line, so "
                 "this process trains alone")
    if is_scheduler():  # it needs no data, and must not make the others wait while ModelArts copies
        join(config)
        return
    with modelarts(config, "mindrecord_dir"):
        data = check_paths(config)
        for sentence in unused_in_training(config):
            LOG.info(sentence)
        try:
            target, rank, rank_size = join(config)
            # Rank 0 writes for all.
            with locked(written_folders(config), "training") if rank == 0 else contextlib.nullcontext():
                train(config, data, target, rank, rank_size)
        finally:
            discard_if_empty(config)


def join(config: Config) -> tuple[str, int, int]:
    """Set the device and join the other processes; return (target, rank, rank size). A scheduler process ends here."""
    from ..model_utils.device_adapter import init_ranks, set_device
    from ..model_utils.local_adapter import get_device_id

    target = set_device(config.device_target, get_device_id(config.device_id), config.conv_allow_hf32, config.jit_level)
    return target, *init_ranks(config.distribute, config.device_num)


def train(config: Config, data: "EvaluationSet | None", target: str, rank: int, rank_size: int) -> None:
    """Train as one of rank_size processes, scored on data if given, and print the paths of the output."""
    # MindSpore is slow to load, and not needed for --help, a wrong option or a wrong path.
    from ..core.project import relative_to_user
    from ..data.train_set import TrainSet
    from ..model_utils.device_adapter import peak_memory, profiling, shut_down_ranks
    from ..runs.curves import plot_losses
    from ..runs.record import loss_chart_path
    from ..training import engine
    from ..training.data_preview import preview_data
    from ..training.resume_commands import commands_for
    from ..weights.run_folder import BEST_NAME

    train_set = TrainSet(config, rank, rank_size, target)
    preview_data(config, train_set, rank)
    try:
        with profiling(config.need_profiler, config.profiler_path):
            checkpoint = engine.train(config, train_set, target, rank, data)
    except interrupts.Interrupted:  # raised after the same step on all ranks
        shut_down_ranks(rank_size)
        raise
    memory = peak_memory(target)  # before the ranks shut down: MindSpore then has no device to ask
    shut_down_ranks(rank_size)
    LOG.info(memory)
    if rank == 0:
        record = os.path.join(config.save_result_dir, "train_record.jsonl")
        curve = plot_losses(record, loss_chart_path(record))
        print(f"checkpoint: {relative_to_user(checkpoint) or 'none (enable_save_ckpt is false)'}\n"
              f"record: {relative_to_user(record)}\nloss curve: {relative_to_user(curve)}")
        if checkpoint:
            best = os.path.join(os.path.dirname(checkpoint), BEST_NAME)
            checkpoint = best if data and os.path.exists(best) else checkpoint
            print(commands_for(checkpoint, config.data_dir, config.save_result_dir))
