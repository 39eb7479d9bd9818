"""An HTML page that compares runs: curves in one chart, scores side by side, differences in configuration."""
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ..core.kinds import is_number
from ..evaluation.table import VOC
from ..tasks import metric_labels
from .charts import SIZE, chart, loss_series
from .class_scores import SCORES
from .curves import draw_score, smooth
from .record import best_score, epochs_trained
from .report import write_page

COLORS = ("#2260a8", "#b3382c", "#0b6e4f", "#c98500", "#6a4c93", "#0f8b9d", "#8c564b", "#444b59")
STYLES = {"solid": (), "dashed": (2.5, 2.5), "dotted": (0.8, 1.6)}  # of CSS: dashes and gaps in widths
WIDE, NARROW = 4.8, 1.6  # points, both with all styles
POINTS = 500  # per curve, at most
FURTHER = (*SCORES, *VOC)  # scores, besides the tasks' metrics
SEED = "seed"  # the parameter in which the runs of a group differ


@dataclass
class ComparedRun:
    """A run's data: name and folder; steps and scores of train_record.jsonl, or []; the content of metrics.json and the
    settings from settings.py, or None; the names of missing files."""

    name: str
    folder: str
    steps: list[dict]
    scores: list[tuple[int, int, dict]]
    metrics: dict | None
    settings: dict[str, str] | None
    missing: list[str]


@dataclass
class Line:
    """A run's curves: their color, style, width and place among those on top of each other. Where runs have the same
    values, a wide curve is seen on both sides of a narrow one, and a solid one between the dashes of another."""

    color: str
    style: str
    width: float
    place: int

    def of_chart(self) -> dict[str, Any]:
        """The line as matplotlib's arguments."""
        return {"color": self.color, "linestyle": (0, STYLES[self.style]) if STYLES[self.style] else "solid",
                "linewidth": self.width, "zorder": 2 + self.place / 10, "dash_capstyle": "butt"}


def lines_of(count: int) -> list[Line]:
    """The Lines of `count` runs: those of the first six differ in style or width, besides color."""
    lines = []
    for index in range(count):
        style, is_narrow = index // 2 % len(STYLES), index % 2
        lines.append(Line(COLORS[index % len(COLORS)], [*STYLES][style], NARROW if is_narrow else WIDE,
                          style + len(STYLES) * is_narrow))
    return lines


def run_names(folders: Sequence[str]) -> list[str]:
    """A name for each folder: the last component of its path, preceded by as many others as make the names unique."""
    paths = [os.path.abspath(folder).split(os.sep) for folder in folders]
    for count in range(1, max(map(len, paths)) + 1):
        names = [os.sep.join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def write_comparison(path: str, title: str, runs: Sequence[ComparedRun]) -> None:
    """Write the page that compares runs."""
    lines = lines_of(len(runs))
    trained = [(run, line) for run, line in zip(runs, lines) if run.steps]
    scored = [(run, line) for run, line in zip(runs, lines) if run.scores]
    table, classes = score_rows(runs), class_rows(runs)
    groups = seed_groups([run.settings for run in runs])
    present = {"runs": True, "losses": trained, "scores": scored or table, "classes": classes, "configuration": True}
    write_page(
        path, "comparison.html", title=title,
        links=[(name, name.capitalize()) for name, section in present.items() if section],
        runs=list(zip(runs, lines)), overview=[overview(run) for run in runs],
        losses=loss_panels(trained) if trained else [],
        curves=score_curves(scored) if scored else [], table=table, classes=classes,
        groups=[describe_group([runs[index] for index in group]) for group in groups],
        spreads=seed_rows(table, groups),
        settings=differences([run.settings for run in runs]), described=sum(run.settings is not None for run in runs),
    )


def overview(run: ComparedRun) -> dict[str, Any]:
    """A run's steps, epochs trained, mean loss of the last 1/40, images per second, and best score; None if unknown."""
    if not run.steps:
        return dict.fromkeys(("steps", "epochs", "loss", "rate", "best"))
    losses = [record["loss"] for record in run.steps]
    epochs, best = epochs_trained(run.steps), best_score(run.scores)
    return {
        "steps": run.steps[-1]["step"], "epochs": epochs[run.steps[-1]["step"]],
        "loss": smooth(losses, max(1, len(losses) // 40))[-1],
        # The first step compiles.
        "rate": float(np.median([record["images_per_second"] for record in run.steps[1:] or run.steps])),
        "best": best and {"AP": best[2]["AP"], "epochs": epochs.get(best[0], best[1] + 1)},
    }


def loss_panels(runs: Sequence[tuple[ComparedRun, Line]]) -> list[Markup]:
    """Charts of the losses that all runs [(run, its line)] have."""
    named = [{name for name, *_ in loss_series(run.steps)} for run, _ in runs]
    losses = [loss for loss in loss_series(runs[0][0].steps) if all(loss[0] in names for names in named)]
    return [loss_curves(runs, name, label) for name, label, _ in losses]


def loss_curves(runs: Sequence[tuple[ComparedRun, Line]], name: str, label: str) -> Markup:
    """A loss, with a curve for each of the runs [(run, its line)]: the mean over 1/40 of the run."""

    def draw(axes: Any) -> None:
        drawn = []
        for run, line in runs:
            epochs = epochs_trained(run.steps)
            curve = smooth([record[name] for record in run.steps], max(1, len(run.steps) // 40))
            shown = np.unique(np.linspace(0, len(curve) - 1, POINTS).astype(int))
            axes.plot([epochs[run.steps[index]["step"]] for index in shown], curve[shown], **line.of_chart())
            drawn.append(curve[shown])
        values = np.concatenate(drawn)
        values = values[np.isfinite(values) & (values > 0)]
        if values.size and values.max() > 10 * values.min():
            axes.set_yscale("log")
        axes.set(xlabel="epochs trained", title=label)

    return chart(*SIZE, draw)


def score_curves(runs: Sequence[tuple[ComparedRun, Line]]) -> list[Markup]:
    """AP and AP50 of the evaluations during training, as far as there are any, with a curve for each of the runs
    [(run, its line)]."""

    def one(name: str) -> Markup:
        def draw(axes: Any) -> None:
            for run, line in runs:
                draw_score(axes, run.scores, epochs_trained(run.steps), name, markersize=line.width + 2.5,
                           **line.of_chart())
            axes.set(xlabel="epochs trained", title=name, ylim=(0, None), xlim=(0, None))

        return chart(*SIZE, draw)

    return [one(name) for name in ("AP", "AP50")
            if any(values.get(name, -1) >= 0 for run, _ in runs for _, _, values in run.scores)]


def score_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[float | None]]]:
    """Rows (score, [each run's value or None]) of evaluations by eval.py, and of the best AP during training."""
    found = [run.metrics or {} for run in runs]
    names = [name for name in (*metric_labels(), *FURTHER) if any(name in metrics for metrics in found)]
    rows = [(name, [_score(metrics.get(name)) for metrics in found]) for name in names]
    best = [best_score(run.scores) for run in runs]
    return rows + [("best AP during training", [score and score[2]["AP"] for score in best])] * any(best)


def class_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[float | None], float]]:
    """Rows (class, [each run's AP or None], the largest difference) of the classes in any run's evaluation, those with
    the largest differences first."""
    found = [run.metrics["AP_per_class"] if run.metrics else {} for run in runs]
    rows = []
    for name in dict.fromkeys(name for classes in found for name in classes):
        values = [_score(classes.get(name)) for classes in found]
        known = [value for value in values if value is not None]
        rows.append((name, values, max(known, default=0.0) - min(known, default=0.0)))
    return sorted(rows, key=lambda row: -row[2])


def seed_groups(settings: Sequence[dict[str, str] | None]) -> list[list[int]]:
    """The indices of runs that differ in nothing but their seeds, of which there are at least two, for each such group;
    of runs with the same seed, the first.

    settings, each run's read_settings, None if unknown.
    """
    groups: dict[frozenset, dict[str, int]] = {}
    for index, known in enumerate(settings):
        if known is not None and SEED in known:
            others = frozenset((name, value) for name, value in known.items() if name != SEED)
            groups.setdefault(others, {}).setdefault(known[SEED], index)
    return [[*group.values()] for group in groups.values() if len(group) > 1]


def describe_group(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """The names and the seeds of a group's runs as text."""
    return {"names": ", ".join(run.name for run in runs),
            "seeds": ", ".join((run.settings or {})[SEED] for run in runs)}


def seed_rows(table: Sequence[tuple[str, list[float | None]]],
              groups: Sequence[Sequence[int]]) -> list[tuple[str, list[tuple[float, float | None, int] | None]]]:
    """Rows (score, [(mean, sample standard deviation, number of runs) of each group]) of score_rows.

    The standard deviation is None for a single run, the tuple for none.
    """
    rows = []
    for name, values in table:
        known = [[value for index in group if (value := values[index]) is not None] for group in groups]
        rows.append((name, [(statistics.mean(own), statistics.stdev(own) if len(own) > 1 else None, len(own))
                            if own else None for own in known]))
    return rows


def _score(value: Any) -> float | None:
    """A score, or None if there is none: COCO's -1 means no objects."""
    return value if is_number(value) and value >= 0 else None


def differences(settings: Sequence[dict[str, str] | None]) -> list[tuple[str, list[str | None]]]:
    """Rows (parameter, [each run's value or None]) of the differences between runs' settings, None if unknown."""
    present = [known for known in settings if known is not None]
    names = sorted({name for known in present for name in known})
    return [(name, [(known or {}).get(name) for known in settings]) for name in names
            if len({known.get(name) for known in present}) > 1]
