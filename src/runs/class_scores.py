"""Scores of classes on a report's page: bars of AP, and curves of precision, recall and F1 over the score threshold."""
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from ..core.tables import shorten_name
from ..imaging.drawing import class_color
from ..tasks.detection.thresholds import POINT, Curve
from .charts import INK, SIZE, Legend, chart, dark

SHOWN = 8  # classes with curves of their own
SCORES = POINT[:3]  # without the threshold
GRID = np.linspace(0, 1, 501)  # the thresholds at which curves are drawn


def class_bars(metrics: dict) -> list[tuple[str, float | None, float | None]]:
    """AP of each class as rows for bars: [(name, AP, AP50)], best first, classes without objects last."""
    at_50 = metrics["AP50_per_class"]
    rows = [(name, value if at_50.get(name) is not None else None, at_50.get(name))
            for name, value in metrics["AP_per_class"].items()]
    return sorted(rows, key=lambda row: -1 if row[1] is None else row[1], reverse=True)


def shown_curves(together: Curve, classes: Mapping[str, Curve]) -> list[tuple[str, Mapping[str, np.ndarray], str]]:
    """[(name, {"precision": [501], "recall": [501], "F1": [501]} at GRID, color)] of all classes together, which are
    last, and of each class with objects, best F1 first; of more than SHOWN, only of the best and the worst.

    Args: those of threshold_curves, the classes in the order of their labels.
    """
    labels = {name: label for label, (name, curve) in enumerate(classes.items()) if curve.objects}
    shown = sorted(labels, key=lambda name: -(classes[name].best()["F1"] or 0)) if len(labels) > 1 else []
    if len(shown) > SHOWN:
        shown = shown[: SHOWN // 2] + shown[-SHOWN // 2 :]
    curves = [(name, classes[name].at(GRID), dark(class_color(labels[name]))) for name in shown]
    return [*curves, ("all classes", together.at(GRID), INK)]


def threshold_charts(together: Curve, classes: Mapping[str, Curve]) -> tuple[list[Markup], Legend]:
    """Charts of precision, recall and F1 over the score threshold, and their legend: shown_curves, with a dot at the
    best F1 of all classes together."""
    curves, best = shown_curves(together, classes), together.best()

    def one(score: str) -> Markup:
        def draw(axes: Any) -> None:
            for _, values, color in curves[:-1]:
                axes.plot(GRID, values[score], color=color, linewidth=1.2, alpha=0.7)
            axes.plot(GRID, curves[-1][1][score], color=INK, linewidth=2.2)
            if best["threshold"] is not None:
                axes.plot(best["threshold"], best[score], marker="o", color=INK, markersize=5)
            axes.set(xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.02), title=score)

        return chart(*SIZE, draw)

    return [one(score) for score in SCORES], [(shorten_name(name), color, "solid") for name, _, color in curves]
