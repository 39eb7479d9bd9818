"""One HTML page that compares runs: curves in one chart, scores side by side, what differs in their configuration."""
import os
from dataclasses import dataclass

import numpy as np

from ..core.errors import UserError
from ..core.files import read_json
from ..core.kinds import is_number
from ..model_utils.config import as_text, flatten
from ..tasks import metric_words
from .curves import draw_score, smooth
from .record import best_score, epochs_trained
from .report import chart, loss_parts, write_page

COLORS = ("#2260a8", "#b3382c", "#0b6e4f", "#c98500", "#6a4c93", "#0f8b9d", "#8c564b", "#444b59")
STYLES = ("solid", "dashed", "dotted")  # each with all colors
POINTS = 500  # of a curve at most
VOC_NAMES = ("VOC_mAP_07", "VOC_mAP_area")
SECTIONS = ("net_config", "training", "evaluation")  # of a side file, beside what it says of the data
SAME = {"input_res_train": "dataset_config.input_res_train", "mean": "dataset_config.mean", "std": "dataset_config.std"}


@dataclass
class ComparedRun:
    """What there is of a run: its name and folder; steps and scores of train_record.jsonl ([] without); metrics, the dictionary of
    metrics.json, and settings, those of read_settings (None without); missing, the files that are not there."""

    name: str
    folder: str
    steps: list
    scores: list
    metrics: dict | None
    settings: dict | None
    missing: list


def run_names(folders):
    """A name for each folder: the last part of its path, with the parts before it as far as they are needed to tell the folders apart."""
    parts = [os.path.abspath(folder).split(os.sep) for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def write_comparison(path, title, runs):
    """Write the page about some ComparedRuns."""
    lines = [(COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]) for index in range(len(runs))]
    trained = [(run, line) for run, line in zip(runs, lines) if run.steps]
    scored = [(run, line) for run, line in zip(runs, lines) if run.scores]
    there = {"runs": True, "losses": trained, "scores": scored or score_rows(runs), "configuration": True}
    write_page(
        path, "comparison.html", title=title, links=[(name, name.capitalize()) for name, section in there.items() if section],
        runs=list(zip(runs, lines)), overview=[overview(run) for run in runs],
        losses=loss_panels(trained) if trained else [],
        curves=score_curves(scored) if scored else None, table=score_rows(runs), classes=class_rows(runs),
        settings=differences([run.settings for run in runs]), described=sum(run.settings is not None for run in runs),
    )


def overview(run):
    """Figures of a run, None where there are none: steps, epochs trained, mean loss of the last fortieth, images per second, best score."""
    if not run.steps:
        return dict.fromkeys(("steps", "epochs", "loss", "rate", "best"))
    losses = [record["loss"] for record in run.steps]
    epochs, best = epochs_trained(run.steps), best_score(run.scores)
    return {
        "steps": run.steps[-1]["step"], "epochs": epochs[run.steps[-1]["step"]], "loss": smooth(losses, max(1, len(losses) // 40))[-1],
        "rate": float(np.median([record["images_per_second"] for record in run.steps[1:] or run.steps])),  # the first step compiles
        "best": best and {"AP": best[2]["AP"], "epochs": epochs.get(best[0], best[1] + 1)},
    }


def loss_panels(runs):
    """The charts of the loss and of its parts that all of [(run, its line)] have."""
    named = [{name for name, *_ in loss_parts(run.steps)} for run, _ in runs]
    loss, *parts = [part for part in loss_parts(runs[0][0].steps) if all(part[0] in names for names in named)]
    return [loss_curves(runs, [loss], 9.2, 4.0), *([loss_curves(runs, parts, 9.2, 2.4)] if parts else [])]


def loss_curves(runs, parts, width, height):
    """A panel for each of some parts of the loss, with a curve for each of [(run, its line)]: the mean over a fortieth of the run."""

    def draw(panels):
        for axes, (name, label, _) in zip(np.atleast_1d(panels), parts):
            drawn = []
            for run, (color, style) in runs:
                epochs, curve = epochs_trained(run.steps), smooth([record[name] for record in run.steps], max(1, len(run.steps) // 40))
                shown = np.unique(np.linspace(0, len(curve) - 1, POINTS).astype(int))
                axes.plot([epochs[run.steps[index]["step"]] for index in shown], curve[shown], color=color, linestyle=style, linewidth=1.8)
                drawn.append(curve[shown])
            values = np.concatenate(drawn)
            values = values[np.isfinite(values) & (values > 0)]
            if values.size and values.max() > 10 * values.min():
                axes.set_yscale("log")
            axes.set(xlabel="epochs trained", title=label)

    return chart(width, height, draw, ncols=len(parts))


def score_curves(runs):
    """AP and AP50 of the evaluations during training, with a curve for each of [(run, its line)]."""

    def draw(panels):
        for axes, name in zip(panels, ("AP", "AP50")):
            for run, (color, style) in runs:
                draw_score(axes, run.scores, epochs_trained(run.steps), name, color=color, linestyle=style)
            axes.set(xlabel="epochs trained", title=name, ylim=(0, None), xlim=(0, None))

    return chart(9.2, 3.2, draw, ncols=2)


def score_rows(runs):
    """Rows (score, its value of each run, None without) of the evaluations of eval.py, and the best AP during training; none if no run
    has been evaluated."""
    found = [run.metrics or {} for run in runs]
    names = [name for name in (*metric_words(), *VOC_NAMES) if any(name in metrics for metrics in found)]
    rows = [(name, [_score(metrics.get(name)) for metrics in found]) for name in names]
    best = [best_score(run.scores) for run in runs]
    return rows + [("best AP during training", [score and score[2]["AP"] for score in best])] * any(best)


def class_rows(runs):
    """The same for the AP of each class that a run's evaluation knows, in the order of the runs."""
    found = [run.metrics["AP_per_class"] if run.metrics else {} for run in runs]
    names = dict.fromkeys(name for classes in found for name in classes)
    return [(name, [_score(classes.get(name)) for classes in found]) for name in names]


def _score(value):
    """A score, None where there is none: COCO's -1 stands for no objects."""
    return value if is_number(value) and value >= 0 else None


def differences(settings):
    """Rows (parameter, its value of each run, None without) of what differs between some read_settings, None for a run without them."""
    there = [known for known in settings if known is not None]
    names = sorted({name for known in there for name in known})
    return [(name, [(known or {}).get(name) for known in settings]) for name in names if len({known.get(name) for known in there}) > 1]


def read_settings(path):
    """{parameter: value as text} of a checkpoint's side file. Raises UserError."""
    description = read_json(path, "the side file of a checkpoint", {})
    flat = {SAME.get(name, name): value for name, value in description.items() if name in ("dataset", "classes", "category_ids", *SAME)}
    try:
        for section in SECTIONS:
            if isinstance(description.get(section), dict):
                flat |= flatten(description[section], "net_config." if section == "net_config" else "")
        return {name: as_text(value) or '""' for name, value in flat.items()}
    except RecursionError as error:
        raise UserError(f"{path}: not the side file of a checkpoint (its settings are nested too deeply)") from error
