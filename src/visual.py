"""Drawing: loss curves, boxes with labels, pictures side by side."""
import colorsys

import cv2
import numpy as np

from src.utils import read_training_log, whole_file


def plot_losses(record_path, path):
    """Draw the loss, its parts and the learning rate of a training record over the steps as a PNG; returns path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_training_log(record_path)
    steps = np.array([record["step"] for record in records])
    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=110, layout="constrained")
    for name, label, color in (("loss", "loss", "black"), ("hm_loss", "heatmap", "tab:red"), ("wh_loss", "size (before its weight)", "tab:blue"),
                               ("off_loss", "offset", "tab:green")):
        values = np.array([record[name] for record in records])
        axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smooth(values, max(1, len(values) // 40)), color=color, label=label)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(steps, [record["lr"] for record in records], color="tab:orange", linestyle="--", label="learning rate")
    rate.set_ylabel("learning rate")
    lines = [line for a in (axes, rate) for line in a.get_legend_handles_labels()[0]]
    axes.legend(lines, [line.get_label() for line in lines], loc="upper right")
    with whole_file(path) as partial:
        figure.savefig(partial)
    pyplot.close(figure)
    return path


def smooth(values, window):
    """Mean over the last `window` values (fewer at the start): float64 [M]."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
