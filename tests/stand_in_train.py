"""A stand-in for train.py without MindSpore, for tests of the launchers in a copy of the project.

It reads, checks, locks and copies like train.py, and the ranks wait for each other. A training writes a record and a
checkpoint, and prints its settings.
"""
import os
import signal
import socket
import time

from src.commands import train as the_train
from src.core import errors
from src.data.manifest import read_manifest
from src.model_utils.local_adapter import is_scheduler


def join(config):
    """The rank that the launcher set. The ranks meet at the scheduler's port, which the scheduler leaves to rank 0."""
    if is_scheduler():
        return None
    rank, rank_size = (int(os.environ.get(name, value)) for name, value in (("RANK_ID", 0), ("RANK_SIZE", 1)))
    if rank_size > 1:
        meet((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])), rank, rank_size)
    return "CPU", rank, rank_size


def meet(address, rank, rank_size):
    """Wait for all ranks."""
    if rank == 0:
        with socket.create_server(address) as server:
            for _ in range(1, rank_size):
                server.accept()[0].close()
        return
    while True:
        try:
            socket.create_connection(address).close()
            return
        except ConnectionRefusedError:  # before rank 0 listens
            time.sleep(0.05)


def train(config, data, target, rank, rank_size):
    """Without train_steps, train until a signal arrives."""
    batch = config.train_config.batch_size
    print(f"rank {rank} of {rank_size}: {read_manifest(config)['images']} images, {batch * rank_size} a step, "
          f"{config.train_steps} steps, resume {config.resume}", flush=True)
    if config.load_checkpoint_path:
        with open(config.load_checkpoint_path, encoding="utf-8") as file:
            print(f"from {config.load_checkpoint_path}: {file.read()}", flush=True)
    if config.train_steps < 0:
        signal.pause()
    if rank == 0:
        checkpoint = os.path.join(config.save_checkpoint_path, "ckpt_0", f"centernet-1_{config.train_steps}.ckpt")
        os.makedirs(os.path.dirname(checkpoint), exist_ok=True)
        for path, text in ((os.path.join(config.save_result_dir, "train_record.jsonl"), '{"hm_loss": 1}\n'),
                           (checkpoint, f"step {config.train_steps}")):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)


the_train.join, the_train.train = join, train

if __name__ == "__main__":
    errors.run(the_train.main)
