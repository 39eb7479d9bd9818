"""Train CenterNet on MindRecord files (src/dataset.py makes them from a COCO-format data set)."""
import os

from src import errors
from src.mindspore_version import require_mindspore
from src.model_utils.config import get_config


def check_paths(config):
    """Raise UserError for data or a checkpoint that is not there."""
    from src.manifest import read_manifest
    from src.side_file import require_checkpoint

    read_manifest(config)
    if config.load_checkpoint_path:
        require_checkpoint(config.load_checkpoint_path)
    elif config.net_config.load_backbone_path and not config.resume:
        require_checkpoint(config.net_config.load_backbone_path, "backbone checkpoint (net_config.load_backbone_path)")


def main():
    config = get_config(__doc__)
    print(config.summary(), flush=True)
    require_mindspore()
    if not config.enable_modelarts:
        check_paths(config)
    # MindSpore is slow to load, and not needed for --help, a wrong option or a wrong path.
    from src.dataset import TrainSet
    from src.engine import train
    from src.look import look
    from src.model_utils.device_adapter import init_ranks, leave_ranks, peak_memory, profiling, set_device
    from src.model_utils.moxing_adapter import modelarts
    from src.utils import log
    from src.visual import plot_losses

    with modelarts(config, "mindrecord_dir"):
        target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
        rank, rank_size = init_ranks(config.distribute, config.device_num)
        train_set = TrainSet(config, rank, rank_size, target)
        look(config, train_set, rank)
        try:
            with profiling(config.need_profiler, config.profiler_path):
                checkpoint = train(config, train_set, target, rank)
        except errors.Interrupted:  # after a step at which all ranks end
            leave_ranks(rank_size)
            raise
        leave_ranks(rank_size)
        log(peak_memory(target))
        if rank == 0:
            record = os.path.join(config.save_result_dir, "train_record.jsonl")
            print(f"checkpoint: {checkpoint or 'none (enable_save_ckpt is false)'}\nrecord: {record}\n"
                  f"loss curve: {plot_losses(record, os.path.join(config.save_result_dir, 'loss.png'))}")


if __name__ == "__main__":
    errors.run(main)
