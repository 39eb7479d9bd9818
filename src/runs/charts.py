"""Charts of a report: each an SVG of its own, small enough for a phone; their legends are part of the page."""
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ..core.tables import shorten_name as short
from ..imaging.drawing import class_color, css_color, east_asian_font, is_east_asian
from ..tasks import loss_labels
from .curves import SCORE_COLORS, draw_curve, draw_scores
from .record import loss_names

INK, SOFT, GRID = "#1d2129", "#6a7080", "#e3e0d9"
LOSS_COLORS = ("#1d2129", "#b3382c", "#2260a8", "#0b6e4f", "#7a4a9c", "#8a6100", "#a0356f", "#4f6b1f", "#0c6b78")
SIZE = 3.8, 2.7  # inches of a chart: on a phone's page, its text has 12 pixels or more
TEXT = 11  # points

Legend = list[tuple[str, str, str]]  # label, color, style of CSS


def chart(width: float, height: float, draw: Callable[[Any], None], names: Iterable[str] = ()) -> Markup:
    """A matplotlib chart by draw(axes) as SVG markup; `names` are the class names in it, which select its font."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: dict[Any, Any] = {
        "font.size": TEXT, "axes.edgecolor": SOFT, "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT,
        "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
        "axes.axisbelow": True, "axes.titlesize": TEXT, "axes.titlelocation": "left", "svg.fonttype": "path",
    }
    font = east_asian_font() if any(map(is_east_asian, names)) else None
    families: dict[Any, Any] = {"font.family": ["DejaVu Sans", font.name] if font else "DejaVu Sans"}
    with pyplot.rc_context(style | families), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # east_asian_font has logged it
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        data = io.StringIO()
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    text = data.getvalue()
    return Markup(text[text.index("<svg") :])


def loss_series(steps: list[dict]) -> list[tuple[str, str, str]]:
    """[(name, label, color)] of the losses in the records of steps."""
    labels = loss_labels()
    return [(name, labels.get(name, name), color) for name, color in zip(loss_names(steps[0]), LOSS_COLORS)]


def loss_charts(steps: list[dict]) -> list[Markup]:
    """The losses, one per chart: single steps pale, their mean over 1/40 of the run dark."""
    numbers = [record["step"] for record in steps]

    def one(name: str, label: str, color: str) -> Markup:
        def draw(axes: Any) -> None:
            values = np.array([record[name] for record in steps], np.float64)
            draw_curve(axes, numbers, values, color)
            axes.set(xlabel="step", title=label)
            finite = values[np.isfinite(values) & (values > 0)]
            if finite.size and finite.max() > 20 * np.median(finite):
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)

        return chart(*SIZE, draw)

    return [one(*series) for series in loss_series(steps)]


def rate_chart(steps: list[dict]) -> Markup:
    """The learning rate over the steps."""

    def draw(axes: Any) -> None:
        axes.plot([record["step"] for record in steps], [record["lr"] for record in steps], color="#8a5a00",
                  linewidth=1.8)
        axes.set(xlabel="step", ylim=(0, None), title="learning rate")
        exponent = np.floor(np.log10(max((record["lr"] for record in steps), default=0) or 1))
        if exponent < -2:  # in the title: matplotlib's factor would be over it
            axes.yaxis.set_major_formatter(lambda value, _: f"{value / 10 ** exponent:g}")
            axes.set_title(f"learning rate, in $10^{{{exponent:.0f}}}$")

    return chart(*SIZE, draw)


def speed_chart(steps: list[dict], rates: np.ndarray) -> Markup:
    """Images per second over the steps."""

    def draw(axes: Any) -> None:
        draw_curve(axes, [record["step"] for record in steps], rates, "#2260a8")
        axes.set(xlabel="step", ylim=(0, None), title="training, images per second")

    return chart(*SIZE, draw)


def score_chart(scores: list[tuple[int, int, dict]], epochs: dict[int, float]) -> tuple[Markup, Legend]:
    """AP and AP50 of evaluations during training. Args as in curves.draw_scores."""

    def draw(axes: Any) -> None:
        draw_scores(axes, scores, epochs)
        axes.set(xlabel="epochs trained", xlim=(0, None), title="scores")

    return chart(*SIZE, draw), [(name, color, "solid") for name, color in SCORE_COLORS.items()]


def precision_charts(precision: np.ndarray, known: Sequence[int], names: Sequence[str],
                     most: int = 20) -> list[tuple[Markup, Legend]]:
    """Precision over recall: the mean of all classes at three overlaps, and each class, or the `most` best and worst.

    Args: precision [IoU, recall, class] of pycocotools; known, the classes with objects; names of all classes.
    """
    recall = np.linspace(0, 1, precision.shape[1])
    overlaps: Legend = [("IoU 0.50", "#0b6e4f", "solid"), ("IoU 0.75", "#2260a8", "dashed"),
                        ("IoU 0.90", "#b3382c", "dotted")]

    def frame(axes: Any, title: str) -> None:
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02), title=title)

    def draw_mean(axes: Any) -> None:
        for (_, color, style), row in zip(overlaps, (0, 5, 8)):
            axes.plot(recall, precision[row][:, known].mean(1), color=color, linestyle=style, linewidth=1.8)
        frame(axes, "mean of all classes")

    shown = sorted(known, key=lambda index: -precision[0, :, index].mean())
    if len(shown) > most:
        shown = shown[: most // 2] + shown[-most // 2 :]
    styles = ("solid", "dashed", "dotted")
    legend: Legend = [(short(names[index]), dark(class_color(index)), styles[place % 3])
                      for place, index in enumerate(shown)]

    def draw_classes(axes: Any) -> None:
        for index, (_, color, style) in zip(shown, legend):
            axes.plot(recall, precision[0, :, index], color=color, linestyle=style, linewidth=1.5)
        classes = "each class" if len(shown) == len(known) else f"best and worst {most // 2} classes"
        frame(axes, f"{classes}, IoU 0.50")

    return [(chart(*SIZE, draw_mean), overlaps), (chart(*SIZE, draw_classes), legend)]


def dark(color: tuple[int, int, int]) -> str:
    """A color (BGR, 0-255) a little darker, as #rrggbb."""
    return css_color(tuple(0.85 * value for value in color))


def confusion_chart(matrix: np.ndarray, names: Sequence[str]) -> Markup:
    """The confusion matrix: shares of each row as shades, counts as numbers."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    labels = [*map(short, names), "background"]

    def draw(axes: Any) -> None:
        axes.imshow(share, cmap="Greens", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(matrix):
            if row < len(names) or column < len(names):
                axes.text(column, row, count, ha="center", va="center", fontsize=10,
                          color="white" if share[row, column] > 0.55 else INK)
        axes.set_xticks(range(len(names) + 1), labels, parse_math=False, rotation=40, ha="right")
        axes.set_yticks(range(len(names) + 1), labels, parse_math=False)
        axes.set(xlabel="detection", ylabel="ground truth")
        axes.grid(False)

    side = 2.2 + 0.45 * len(names)
    return chart(side + 0.8, side, draw, names)
