"""An HTML page that compares runs: curves in one chart, scores side by side, differences in configuration."""
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ..core.errors import UserError
from ..core.files import read_json
from ..core.kinds import is_number
from ..model_utils.config import as_text, flatten
from ..tasks import metric_labels, task_of
from .curves import draw_score, smooth
from .record import best_score, epochs_trained
from .report import chart, loss_series, write_page

COLORS = ("#2260a8", "#b3382c", "#0b6e4f", "#c98500", "#6a4c93", "#0f8b9d", "#8c564b", "#444b59")
STYLES = ("solid", "dashed", "dotted")  # each with all colors
POINTS = 500  # per curve, at most
FURTHER = ("precision", "recall", "F1", "VOC_mAP_07", "VOC_mAP_area")  # scores, besides the tasks' metrics
SEED = "seed"  # the parameter in which the runs of a group differ
SECTIONS = ("net_config", "training", "evaluation")  # of a side file, besides its fields about the data
SAME = {"input_res_train": "dataset_config.input_res_train", "mean": "dataset_config.mean", "std": "dataset_config.std"}


@dataclass
class ComparedRun:
    """A run's data: name and folder; steps and scores of train_record.jsonl, or []; the content of metrics.json and the
    settings from read_settings, or None; the names of missing files."""

    name: str
    folder: str
    steps: list[dict]
    scores: list[tuple[int, int, dict]]
    metrics: dict | None
    settings: dict[str, str] | None
    missing: list[str]


Line = tuple[str, str]  # color, style


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
    lines = [(COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]) for index in range(len(runs))]
    trained = [(run, line) for run, line in zip(runs, lines) if run.steps]
    scored = [(run, line) for run, line in zip(runs, lines) if run.scores]
    table, groups = score_rows(runs), seed_groups([run.settings for run in runs])
    present = {"runs": True, "losses": trained, "scores": scored or table, "configuration": True}
    write_page(
        path, "comparison.html", title=title,
        links=[(name, name.capitalize()) for name, section in present.items() if section],
        runs=list(zip(runs, lines)), overview=[overview(run) for run in runs],
        losses=loss_panels(trained) if trained else [],
        curves=score_curves(scored) if scored else None, table=table, classes=class_rows(runs),
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
    """Charts of the total loss and of the component losses that all runs [(run, its line)] have."""
    named = [{name for name, *_ in loss_series(run.steps)} for run, _ in runs]
    total, *losses = [loss for loss in loss_series(runs[0][0].steps) if all(loss[0] in names for names in named)]
    return [loss_curves(runs, [total], 9.2, 4.0), *([loss_curves(runs, losses, 9.2, 2.4)] if losses else [])]


def loss_curves(runs: Sequence[tuple[ComparedRun, Line]], losses: Sequence[tuple[str, str, str]], width: float,
                height: float) -> Markup:
    """A panel for each loss, with a curve for each of the runs [(run, its line)]: the mean over 1/40 of the run."""

    def draw(panels: Any) -> None:
        for axes, (name, label, _) in zip(np.atleast_1d(panels), losses):
            drawn = []
            for run, (color, style) in runs:
                epochs = epochs_trained(run.steps)
                curve = smooth([record[name] for record in run.steps], max(1, len(run.steps) // 40))
                shown = np.unique(np.linspace(0, len(curve) - 1, POINTS).astype(int))
                axes.plot([epochs[run.steps[index]["step"]] for index in shown], curve[shown], color=color,
                          linestyle=style, linewidth=1.8)
                drawn.append(curve[shown])
            values = np.concatenate(drawn)
            values = values[np.isfinite(values) & (values > 0)]
            if values.size and values.max() > 10 * values.min():
                axes.set_yscale("log")
            axes.set(xlabel="epochs trained", title=label)

    return chart(width, height, draw, ncols=len(losses))


def score_curves(runs: Sequence[tuple[ComparedRun, Line]]) -> Markup:
    """AP and AP50 of the evaluations during training, with a curve for each of the runs [(run, its line)]."""

    def draw(panels: Any) -> None:
        for axes, name in zip(panels, ("AP", "AP50")):
            for run, (color, style) in runs:
                draw_score(axes, run.scores, epochs_trained(run.steps), name, color=color, linestyle=style)
            axes.set(xlabel="epochs trained", title=name, ylim=(0, None), xlim=(0, None))

    return chart(9.2, 3.2, draw, ncols=2)


def score_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[float | None]]]:
    """Rows (score, [each run's value or None]) of evaluations by eval.py, and of the best AP during training."""
    found = [run.metrics or {} for run in runs]
    names = [name for name in (*metric_labels(), *FURTHER) if any(name in metrics for metrics in found)]
    rows = [(name, [_score(metrics.get(name)) for metrics in found]) for name in names]
    best = [best_score(run.scores) for run in runs]
    return rows + [("best AP during training", [score and score[2]["AP"] for score in best])] * any(best)


def class_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[float | None]]]:
    """Rows, as in score_rows, of the AP of each class in any run's evaluation."""
    found = [run.metrics["AP_per_class"] if run.metrics else {} for run in runs]
    names = dict.fromkeys(name for classes in found for name in classes)
    return [(name, [_score(classes.get(name)) for classes in found]) for name in names]


def seed_groups(settings: Sequence[dict[str, str] | None]) -> list[list[int]]:
    """The indices of runs that differ in nothing but their seeds, of which there are at least two, for each such group.

    settings, each run's read_settings, None if unknown.
    """
    groups: dict[frozenset, list[int]] = {}
    for index, known in enumerate(settings):
        if known is not None and SEED in known:
            others = frozenset((name, value) for name, value in known.items() if name != SEED)
            groups.setdefault(others, []).append(index)
    return [group for group in groups.values() if len({(settings[index] or {})[SEED] for index in group}) > 1]


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
    """Rows (parameter, [each run's value or None]) of the differences between runs' read_settings, None if unknown."""
    present = [known for known in settings if known is not None]
    names = sorted({name for known in present for name in known})
    return [(name, [(known or {}).get(name) for known in settings]) for name in names
            if len({known.get(name) for known in present}) > 1]


def read_settings(path: str) -> dict[str, str]:
    """{parameter: value as text} of a checkpoint's side file. Raises UserError."""
    description = read_json(path, "the side file of a checkpoint", {})
    flat = {SAME.get(name, name): value for name, value in description.items()
            if name in ("dataset", "classes", "category_ids", *SAME)}
    try:
        for section in SECTIONS:
            if isinstance(description.get(section), dict):
                flat |= flatten(description[section], "net_config." if section == "net_config" else "")
        flat.setdefault("net_config.task", task_of({}).name)  # earlier versions name none
        return {name: as_text(value) or '""' for name, value in flat.items()}
    except RecursionError as error:
        raise UserError(f"{path}: not the side file of a checkpoint (settings nested too deeply)") from error
