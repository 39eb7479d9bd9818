"""The images and steps of an epoch, on each rank."""
from collections.abc import Iterator

import numpy as np


def epoch_order(count: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The order in which an epoch visits `count` images: int64 [count], the same on every rank."""
    if not shuffle:
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


def rank_share(order: np.ndarray, batch_size: int, rank: int, rank_size: int) -> np.ndarray:
    """One rank's share of an epoch: rows of every global batch, so that n ranks see the same batches as one."""
    steps = len(order) // (batch_size * rank_size)
    return order[: steps * batch_size * rank_size].reshape(steps, rank_size, batch_size)[:, rank].reshape(-1)


class Steps:
    """The step numbers from first to last - 1, as a source for MindSpore's GeneratorDataset."""

    def __init__(self, first: int, last: int):
        self.numbers = range(first, last)

    def __iter__(self) -> Iterator[tuple[np.int64]]:
        return ((np.int64(number),) for number in self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def convert_steps(steps: int, then: tuple[int, int], now: tuple[int, int]) -> int:
    """The step at which to resume after `steps`; then and now are (images per step, total images).

    It is at the same fraction of the same epoch. With the same images it is the first step that reads none of the
    images already read: less than one step of images is skipped.
    """
    (step_then, all_then), (step_now, all_now) = then, now
    epoch, in_epoch = divmod(steps, all_then // step_then)
    per_epoch = all_now // step_now
    return epoch * per_epoch + min(-(-in_epoch * step_then * all_now // (all_then * step_now)), per_epoch)
