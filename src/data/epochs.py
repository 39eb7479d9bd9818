"""Which images and steps make an epoch, on each rank."""
import numpy as np


def epoch_order(count, seed, epoch, shuffle):
    """The order in which an epoch visits `count` images: int64 [count], the same on every rank."""
    if not shuffle:
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


def rank_share(order, batch_size, rank, rank_size):
    """One rank's part of an epoch: rows of every global batch, so that n ranks see the batches that one would see."""
    steps = len(order) // (batch_size * rank_size)
    return order[: steps * batch_size * rank_size].reshape(steps, rank_size, batch_size)[:, rank].reshape(-1)


class Steps:
    """The numbers of the steps from first to last - 1, as MindSpore's GeneratorDataset reads them."""

    def __init__(self, first, last):
        self.numbers = range(first, last)

    def __iter__(self):
        return ((np.int64(number),) for number in self.numbers)

    def __len__(self):
        return len(self.numbers)


def convert_steps(steps, then, now):
    """The step at which to go on after `steps`; then and now are (images in a step, images in all).

    The same part of the same epoch. Of the same images that is the first step that reads none of the images read: less than one step of
    them is left out.
    """
    (step_then, all_then), (step_now, all_now) = then, now
    epoch, in_epoch = divmod(steps, all_then // step_then)
    per_epoch = all_now // step_now
    return epoch * per_epoch + min(-(-in_epoch * step_then * all_now // (all_then * step_now)), per_epoch)
