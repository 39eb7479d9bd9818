"""Charts of a training: losses, learning rate, scores."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.backups import MARK
from ..core.files import atomic_write
from ..tasks import loss_labels
from .record import epochs_trained, loss_names, read_record

LOSS_COLORS = ("black", "tab:red", "tab:blue", "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:olive",
               "tab:cyan")
SCORE_COLORS = {"AP": "#7a4a9c", "AP50": "#0c8b9d"}


def plot_losses(record_path: str, path: str) -> str:
    """Draw a training record as a PNG: the losses over the steps, below them the learning rate over the same steps, and
    below that any scores over the epochs. Returns path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records, scores = read_record(record_path)
    heights = (10, 4, 6) if scores else (10, 4)
    figure, axes = pyplot.subplots(len(heights), figsize=(9, 0.5 * sum(heights)), dpi=110, layout="constrained",
                                   height_ratios=heights)
    losses, rate = axes[:2]
    rate.sharex(losses)
    losses.tick_params(labelbottom=False)
    _draw_losses(losses, records)
    rate.plot([record["step"] for record in records], [record["lr"] for record in records], color="tab:orange")
    rate.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    if scores:
        below, epochs = axes[2], epochs_trained(records)
        draw_scores(below, scores, epochs)
        below.set(xlabel="epochs trained", ylabel="score")
        legend_above(below)
        if (last := max(epochs, default=0)) > 0:  # all charts get the same range
            below.set_xlim(*(step * epochs[last] / last for step in losses.get_xlim()))
    for one in axes:
        one.grid(alpha=0.3)
    save_figure(path, figure)
    return path


def legend_above(axes: Any) -> None:
    """Add the legend of the labeled curves above the axes, where it hides none of them."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderaxespad=0.2)


def save_figure(path: str, figure: Any, ours: Callable[[str], bool] | None = None) -> None:
    """Write a figure as a PNG with MARK in its metadata, by atomic_write, and close it."""
    from matplotlib import pyplot

    with atomic_write(path, ours) as partial:
        figure.savefig(partial, metadata={"Software": MARK})
    pyplot.close(figure)


def _draw_losses(axes: Any, records: list[dict]) -> None:
    steps, labels = np.array([record["step"] for record in records]), loss_labels()
    for name, color in zip(loss_names(records[0]) if records else (), LOSS_COLORS):
        values = np.array([record[name] for record in records], np.float64)
        draw_curve(axes, steps, values, color, labels.get(name, name))
    axes.set(ylabel="loss", yscale="log")
    legend_above(axes)


def draw_scores(axes: Any, scores: list, epochs: dict) -> None:
    """Draw AP and AP50 of scores from read_scores over the epochs trained, {step: epochs}."""
    for name, color in SCORE_COLORS.items():
        draw_score(axes, scores, epochs, name, color=color, label=name)
    axes.set_ylim(bottom=0)


def draw_score(axes: Any, scores: list, epochs: dict, name: str, **line: Any) -> None:
    """Draw one of the scores, without evaluations that lack it or have -1 (no objects)."""
    points = [(epochs.get(step, epoch + 1), values[name]) for step, epoch, values in scores
              if values.get(name, -1) >= 0]
    style = {"marker": "o", "markersize": 3.5, "linewidth": 1.8, **line}
    axes.plot([x for x, _ in points], [y for _, y in points], **style)


def draw_curve(axes: Any, steps: Sequence[int] | np.ndarray, values: Sequence[float] | np.ndarray, color: Any,
               label: Any = None, parts: int = 40) -> None:
    """Draw values over the steps, single ones pale, and dark their moving mean over 1 / `parts` of the run."""
    axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
    axes.plot(steps, smooth(values, max(1, len(values) // parts)), color=color, label=label, linewidth=1.8)


def smooth(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Mean of the finite values among the last `window` (fewer at the start): float64 [M], NaN if there are none."""
    array = np.asarray(values, np.float64)
    finite = np.isfinite(array)
    sums, counts = (np.cumsum(np.concatenate([[0.0], terms])) for terms in (np.where(finite, array, 0), finite))
    ends = np.arange(1, len(array) + 1)
    starts = np.maximum(ends - window, 0)
    with np.errstate(invalid="ignore"):
        return (sums[ends] - sums[starts]) / (counts[ends] - counts[starts])
