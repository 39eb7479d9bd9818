"""Train CenterNet on MindRecord files, which the conversion of a COCO-format data set writes."""
import contextlib
import os
import sys

from ..core import errors, interrupts
from ..core.console import LOG, Console
from ..model_utils.config import COMMAND_LINE, get_config
from ..model_utils.local_adapter import is_scheduler, rank_label, train_alone
from ..model_utils.mindspore_version import require_mindspore


def check_paths(config, folder=""):
    """The evaluator.Part to score on while training, None without eval_epochs; a run's best or last checkpoint is put in config by its own
    name. folder is where the training is to run, if not here.

    Raises UserError for data or a checkpoint that is not there, for a folder that another training writes into, for a part that is to stay
    as it is without weights, for a learning rate that would rise, and where what a new run writes would take the place of what is not this
    project's.
    """
    from ..core.locks import require_free
    from ..data.manifest import read_manifest
    from ..evaluation.evaluator import scored_part
    from ..model_utils.combinations import check_schedule
    from ..weights.side_file import checkpoints_to_resume, require_checkpoint, resolve_checkpoint_alias

    check_schedule(config.train_config)
    require_free(written_folders(config, folder), "training")
    config.load_checkpoint_path = resolve_checkpoint_alias(config.load_checkpoint_path)
    if not folder:  # the launcher's is new: an earlier one makes room as a whole
        require_room(config)
    part = scored_part(config, read_manifest(config))
    if config.train_config.freeze != "none" and not (config.load_checkpoint_path or config.net_config.load_backbone_path or config.resume):
        raise errors.UserError(f"train_config.freeze is {config.train_config.freeze}, and there are no weights to start from: "
                               "load_checkpoint_path or net_config.load_backbone_path names them")
    if config.load_checkpoint_path:
        require_checkpoint(config.load_checkpoint_path)
    elif config.resume:
        place = os.path.join(folder, config.save_checkpoint_path, "ckpt_0")
        checkpoints_to_resume(os.path.normpath(place) if folder else place)  # that folder may not be there yet
    elif config.net_config.load_backbone_path:
        require_checkpoint(config.net_config.load_backbone_path, "backbone checkpoint (net_config.load_backbone_path)")
    return part


def require_room(config):
    """Raise UserError unless what lies where a run writes is this project's."""
    from ..core.backups import require_ours
    from ..runs.record import is_record, loss_curve
    from ..weights.side_file import CHECKPOINTS

    require_ours(os.path.join(config.save_result_dir, "train_record.jsonl"), is_record, loss_curve, "--save_result_dir")
    if config.enable_save_ckpt:
        require_ours(os.path.join(config.save_checkpoint_path, "ckpt_0"), CHECKPOINTS, option="--save_checkpoint_path")
    if config.tensorboard:
        from ..runs.tensorboard import EVENTS

        require_ours(os.path.join(config.save_result_dir, "tensorboard"), EVENTS, option="--save_result_dir")


def written_folders(config, folder=""):
    """The folders that a training in `folder` writes checkpoints and records into."""
    checkpoints = [config.save_checkpoint_path] if config.enable_save_ckpt else []
    return [os.path.join(folder, path) for path in [*checkpoints, config.save_result_dir]]


def main():
    config = get_config(__doc__)
    alone = not config.distribute and config.origin("distribute") == COMMAND_LINE
    if sys.stdout.isatty() and not alone:  # which other ranks may print on, too
        LOG.handlers = [Console(rank_label())]
    LOG.info(config.summary())
    require_mindspore()
    if config.tensorboard:
        from ..runs.tensorboard import require_writer

        require_writer()
    from ..core.locks import locked
    from ..model_utils.combinations import unused_in_training
    from ..model_utils.moxing_adapter import modelarts

    if alone and (unused := train_alone()):
        LOG.info(f"{', '.join(unused)} in the environment are not used: distribute is false on the command line, so this process trains "
                 "alone")
    if is_scheduler():  # which needs no data, and would be waited for with what ModelArts copies
        join(config)
        return
    with modelarts(config, "mindrecord_dir"):
        part = check_paths(config)
        for sentence in unused_in_training(config):
            LOG.info(sentence)
        place = join(config)
        with locked(written_folders(config), "training") if place[1] == 0 else contextlib.nullcontext():  # rank 0 writes for all
            train(config, part, *place)


def join(config):
    """Join the other processes on the device: (device target, rank, rank size). A scheduler's process ends in here."""
    from ..model_utils.device_adapter import init_ranks, set_device
    from ..model_utils.local_adapter import get_device_id

    target = set_device(config.device_target, get_device_id(config.device_id), config.conv_allow_hf32, config.jit_level)
    return target, *init_ranks(config.distribute, config.device_num)


def train(config, part, target, rank, rank_size):
    """Train as config says, scored on an evaluator.Part, as one of the processes that joined, and say what is written."""
    # MindSpore is slow to load, and not needed for --help, a wrong option or a wrong path.
    from ..core.project import relative_to_user
    from ..data.train_set import TrainSet
    from ..model_utils.device_adapter import peak_memory, profiling, shut_down_ranks
    from ..runs.curves import plot_losses
    from ..runs.record import loss_curve
    from ..training import engine
    from ..training.data_preview import preview_data
    from ..training.resume_commands import commands_for
    from ..weights.side_file import BEST_NAME

    train_set = TrainSet(config, rank, rank_size, target)
    preview_data(config, train_set, rank)
    try:
        with profiling(config.need_profiler, config.profiler_path):
            checkpoint = engine.train(config, train_set, target, rank, part)
    except interrupts.Interrupted:  # after a step at which all ranks end
        shut_down_ranks(rank_size)
        raise
    shut_down_ranks(rank_size)
    LOG.info(peak_memory(target))
    if rank == 0:
        record = os.path.join(config.save_result_dir, "train_record.jsonl")
        print(f"checkpoint: {relative_to_user(checkpoint) or 'none (enable_save_ckpt is false)'}\n"
              f"record: {relative_to_user(record)}\nloss curve: {relative_to_user(plot_losses(record, loss_curve(record)))}")
        if checkpoint:
            best = os.path.join(os.path.dirname(checkpoint), BEST_NAME)
            print(commands_for(best if part and os.path.exists(best) else checkpoint, config.data_dir, config.save_result_dir))
