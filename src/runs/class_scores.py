"""Scores of classes on a report's page: bars of AP, and curves of precision, recall and F1 over the score threshold."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.tables import shorten_name
from ..imaging.drawing import class_color
from ..tasks.detection.thresholds import Curve

INK = "#1d2129"
SHOWN = 8  # classes with curves of their own
GRID = np.linspace(0, 1, 501)  # the thresholds at which curves are drawn


def class_bars(metrics: dict) -> list[tuple[str, float | None, float | None]]:
    """AP of each class as rows for bars: [(name, AP, AP50)], best first, classes without objects last."""
    at_50 = metrics["AP50_per_class"]
    rows = [(name, value if at_50.get(name) is not None else None, at_50.get(name))
            for name, value in metrics["AP_per_class"].items()]
    return sorted(rows, key=lambda row: -1 if row[1] is None else row[1], reverse=True)


def draw_thresholds(panels: Sequence[Any], together: Curve, classes: Mapping[str, Curve]) -> None:
    """Draw precision, recall and F1 over the score threshold on three axes: all classes together dark, with a dot at
    the best F1, and each class with objects pale; of more than SHOWN, only those with the best and the worst F1.

    Args: those of threshold_curves, the classes in the order of their labels.
    """
    labels = {name: label for label, (name, curve) in enumerate(classes.items()) if curve.objects}
    shown = sorted(labels, key=lambda name: -(classes[name].best()["F1"] or 0)) if len(labels) > 1 else []
    if len(shown) > SHOWN:
        shown = shown[: SHOWN // 2] + shown[-SHOWN // 2 :]
    best = together.best()
    drawn: list[tuple[Mapping[str, np.ndarray], Any, float, float]]
    drawn = [(classes[name].at(GRID), [value / 255 * 0.85 for value in reversed(class_color(labels[name]))], 1.2, 0.7)
             for name in shown]
    drawn.append((together.at(GRID), INK, 2.2, 1))
    for axes, score in zip(panels, ("precision", "recall", "F1")):
        lines = [axes.plot(GRID, values[score], color=color, linewidth=width, alpha=alpha)[0]
                 for values, color, width, alpha in drawn]
        if best["threshold"] is not None:
            axes.plot(best["threshold"], best[score], marker="o", color=INK, markersize=5)
        axes.set(xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.02), title=score)
    legend = panels[-1].legend(lines, map(str, range(len(lines))), loc="center left", bbox_to_anchor=(1.01, 0.5),
                               fontsize=8)
    for text, name in zip(legend.get_texts(), [*shown, "all classes"]):  # a label that starts with _ would be hidden
        text.set(parse_math=False, text=shorten_name(name))
