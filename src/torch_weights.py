"""Names and layouts of the PyTorch original's weights against ours. Arrays in, arrays out; no PyTorch needed.

Ours differ in three things: the backbone's names start with "backbone.", batch norm's parts have MindSpore's names, and
the channels of conv_offset_mask are [all x, all y, mask] where the original's are [(y, x) per tap, mask].
"""
import numpy as np

OWN_PREFIXES = ("deconv_layers.", "hm.", "wh.", "reg.")
BATCH_NORM_NAMES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def offset_order(channels):
    """For each of our conv_offset_mask channels the original's: int64 [channels]."""
    taps = channels // 3
    return np.concatenate([np.arange(1, 2 * taps, 2), np.arange(0, 2 * taps, 2), np.arange(2 * taps, 3 * taps)])


def from_original(state):
    """{original name: array} -> {our name: array}. Batch norm's step counters, which inference and training do without, are dropped."""
    ours = {}
    for name, value in state.items():
        cell, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            continue
        if f"{cell}.running_mean" in state:
            part = BATCH_NORM_NAMES[part]
        if cell.endswith("conv_offset_mask"):
            value = value[offset_order(len(value))]
        prefix = "" if name.startswith(OWN_PREFIXES) else "backbone."
        ours[f"{prefix}{cell}.{part}"] = value
    return ours
