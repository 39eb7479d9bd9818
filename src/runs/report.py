"""A self-contained HTML page about a run: charts, tables and images."""
import base64
import datetime
import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from ..core.backups import contains_mark
from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.tables import shorten_name as short
from ..core.version import version
from ..data.coco import class_list, image_size, metainfo_of
from ..data.objects import ground_truth
from ..imaging.drawing import class_color, east_asian_font, is_east_asian
from ..imaging.reading import read_image
from ..tasks import Task, loss_labels, metric_labels, score_tables, task_of
from ..tasks.pictures import compare
from .class_scores import class_bars, draw_thresholds
from .curves import draw_curve, draw_scores
from .record import best_score, epochs_trained, loss_names, read_record

PAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages")
INK, SOFT, GRID = "#1d2129", "#6a7080", "#e3e0d9"
LOSS_COLORS = ("#1d2129", "#b3382c", "#2260a8", "#0b6e4f", "#7a4a9c", "#8a6100", "#a0356f", "#4f6b1f", "#0c6b78")
MAX_SHOWN_CLASSES = 20  # in one chart


@dataclass
class Run:
    """A run's data, as far as it exists: the path of train_record.jsonl; the content of metrics.json; for
    comparisons with the ground truth, the COCO data set, records (COCO results) and images {id: path}; the Task."""

    record_path: str | None = None
    metrics: dict | None = None
    coco: Any = None
    records: list | None = None
    images: dict | None = None
    task: Task = field(default_factory=lambda: task_of({}))


def write_report(path: str, title: str, run: Run, score_thresh: float = 0.3) -> None:
    """Write the page about a Run."""
    sections: dict[str, Any] = dict.fromkeys(("training", "scores", "errors", "images", "speed"))
    metrics = run.metrics
    steps, scores = read_record(run.record_path) if run.record_path else ([], [])
    if steps:
        sections["training"] = {"losses": loss_chart(steps), "rate": rate_chart(steps), "steps": len(steps),
                                "last": steps[-1], "scores": score_section(scores, epochs_trained(steps))}
    if metrics:
        words = {name: words for name, words in metric_labels(metrics).items() if name in metrics}
        bars, tables = class_bars(metrics), score_tables(metrics)
        sections["scores"] = {"metrics": metrics, "words": words, "bars": bars, "tables": tables}
    if run.coco is not None:
        sections["errors"] = error_section(run, score_thresh)
        sections["images"] = image_section(run, score_thresh)
    if steps or (metrics and "stage_seconds" in metrics):
        sections["speed"] = speed_section(steps, metrics)
    links = [(name, name.capitalize()) for name, section in sections.items() if section]
    if not links:
        raise UserError(f"{run.record_path}: no steps recorded, and no evaluation; a report needs either")
    write_page(path, "report.html", title=title, links=links, score_thresh=score_thresh, **sections)


def write_page(path: str, template: str, **content: object) -> None:
    """Render a template of pages/ into a self-contained page. An earlier page is backed up."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined)
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    page = environment.get_template(template).render(made=now, version=version(), **content)
    with atomic_write(path, contains_mark()) as partial, open(partial, "w", encoding="utf-8", errors="replace") as file:
        file.write(page)


# ---------------------------------------------------------------- charts


def chart(width: float, height: float, draw: Callable[[Any], None], names: Iterable[str] = (),
          **subplots: Any) -> Markup:
    """A matplotlib chart by draw(axes) as SVG markup; `names` are the class names in it, which select its font."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: dict[Any, Any] = {
        "font.size": 10, "axes.edgecolor": SOFT, "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT,
        "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
        "axes.axisbelow": True, "axes.titlesize": 10, "axes.titlelocation": "left", "legend.frameon": False,
        "svg.fonttype": "path",
    }
    font = east_asian_font() if any(map(is_east_asian, names)) else None
    families: dict[Any, Any] = {"font.family": ["DejaVu Sans", font.name] if font else "DejaVu Sans"}
    with pyplot.rc_context(style | families), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # east_asian_font has logged it
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained", **subplots)
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


def loss_chart(steps: list[dict]) -> Markup:
    """The losses, one per panel: single steps pale, their mean over 1/40 of the run dark."""
    numbers, series = [record["step"] for record in steps], loss_series(steps)
    rows = math.ceil(len(series) / 2)

    def draw(axes: Any) -> None:
        for panel in axes.flat[len(series) :]:
            panel.axis("off")
        for panel, (name, label, color) in zip(axes.flat, series):
            values = np.array([record[name] for record in steps], np.float64)
            draw_curve(panel, numbers, values, color)
            panel.set_title(label)
            finite = values[np.isfinite(values) & (values > 0)]
            if finite.size and finite.max() > 20 * np.median(finite):
                panel.set_yscale("log")
            else:
                panel.set_ylim(bottom=0)
        for panel in axes[-1]:
            panel.set_xlabel("step")

    return chart(9.2, 2.4 * rows, draw, nrows=rows, ncols=2, sharex=True, squeeze=False)


def rate_chart(steps: list[dict]) -> Markup:
    """The learning rate over the steps."""

    def draw(axes: Any) -> None:
        axes.plot([record["step"] for record in steps], [record["lr"] for record in steps], color="#8a5a00",
                  linewidth=1.8)
        axes.set(xlabel="step", ylim=(0, None))
        axes.set_title("learning rate")
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)

    return chart(4.5, 2.2, draw)


def score_section(scores: list[tuple[int, int, dict]], epochs: dict[int, float]) -> dict | None:
    """Scores of evaluations during training as a chart and rows (epochs trained, step, scores, whether they are the
    best), or None if there are none. Args as in draw_scores."""
    if not scores:
        return None

    def draw(axes: Any) -> None:
        draw_scores(axes, scores, epochs)
        axes.set(xlabel="epochs trained", xlim=(0, None))
        axes.set_title("AP and AP50")
        axes.legend(loc="lower right")

    best = best_score(scores)
    rows = [(epochs.get(step, epoch + 1), step, values, best is not None and step == best[0])
            for step, epoch, values in scores]
    return {"chart": chart(4.5, 2.8, draw), "rows": rows,
            "best": best and {"AP": best[2]["AP"], "epochs": epochs.get(best[0], best[1] + 1)}}


def error_section(run: Run, score_thresh: float) -> dict:
    """Precision-recall curves, scores over the threshold and class confusions of a Run."""
    assert run.records is not None
    names, _ = class_list(run.coco)
    evaluation = run.task.scores.evaluate(run.coco, run.records)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]
    recall = np.linspace(0, 1, precision.shape[1])
    known = [index for index in range(len(names)) if (precision[:, :, index] > -1).any()]

    def draw_mean(axes: Any) -> None:
        for color, row, label in (("#0b6e4f", 0, "IoU 0.50"), ("#2260a8", 5, "IoU 0.75"),
                                  ("#b3382c", 8, "IoU 0.90")):
            axes.plot(recall, precision[row][:, known].mean(1), color=color, label=label, linewidth=1.8)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
        axes.set_title("mean of all classes")
        axes.legend(loc="lower left")

    shown = sorted(known, key=lambda index: -precision[0, :, index].mean())
    if len(shown) > MAX_SHOWN_CLASSES:
        shown = shown[: MAX_SHOWN_CLASSES // 2] + shown[-MAX_SHOWN_CLASSES // 2 :]

    def draw_classes(axes: Any) -> None:
        for index in shown:
            blue, green, red = (value / 255 * 0.85 for value in class_color(index))
            axes.plot(recall, precision[0, :, index], color=(red, green, blue), linewidth=1.5)
        axes.set(xlabel="recall", xlim=(0, 1.01), ylim=(0, 1.02))
        half = MAX_SHOWN_CLASSES // 2
        classes = "each class" if len(shown) == len(known) else f"best and worst {half} classes"
        axes.set_title(f"{classes} at IoU 0.50")
        legend = axes.legend(axes.lines, [str(index) for index in shown], loc="center left", bbox_to_anchor=(1.01, 0.5),
                             fontsize=8)
        for text, index in zip(legend.get_texts(), shown):  # as labels, names that start with _ would be hidden
            text.set(parse_math=False, text=short(names[index]))

    curves = [chart(4.3, 3.4, draw_mean), chart(5.2, 3.4, draw_classes, names)] if known else []
    matrix = run.task.scores.confusion_matrix(run.coco, run.records, score_thresh)
    mixed = [(int(matrix[a, b]), names[a], names[b]) for a in range(len(names)) for b in range(len(names))
             if a != b and matrix[a, b]]
    together, classes = run.task.scores.threshold_curves(evaluation)
    return {
        "thresholds": chart(9.2, 2.9, lambda panels: draw_thresholds(panels, together, classes), names, ncols=3),
        "best": together.best(),
        "curves": curves, "matrix": confusion_chart(matrix, names) if len(names) <= MAX_SHOWN_CLASSES else None,
        "mixed": sorted(mixed, reverse=True)[:10], "false_negatives": int(matrix[:-1, -1].sum()),
        "false_positives": int(matrix[-1].sum()), "true_positives": int(np.trace(matrix)),
        "objects": int(matrix[:-1].sum()),
    }


def confusion_chart(matrix: np.ndarray, names: Sequence[str]) -> Markup:
    """The confusion matrix: shares of each row as shades, counts as numbers."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    labels = [*map(short, names), "background"]

    def draw(axes: Any) -> None:
        axes.imshow(share, cmap="Greens", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(matrix):
            if row < len(names) or column < len(names):
                axes.text(column, row, count, ha="center", va="center", fontsize=9,
                          color="white" if share[row, column] > 0.55 else INK)
        axes.set_xticks(range(len(names) + 1), labels, parse_math=False, rotation=40, ha="right")
        axes.set_yticks(range(len(names) + 1), labels, parse_math=False)
        axes.set(xlabel="detection", ylabel="ground truth")
        axes.grid(False)

    side = 2.2 + 0.42 * len(names)
    return chart(side + 0.8, side, draw, names)


# ---------------------------------------------------------------- images and speed


def image_section(run: Run, score_thresh: float, count: int = 6, width: int = 340) -> dict[str, list[dict]]:
    """A Run's images of best and worst quality, detections next to the ground truth: {"best": [], "worst": []}."""
    assert run.records is not None and run.images is not None
    task, coco, metainfo = run.task, run.coco, metainfo_of(run.coco, run.task)
    quality = task.scores.image_quality(coco, run.records, score_thresh)
    order = sorted(quality, key=lambda image_id: (-quality[image_id], image_id))
    half = min(count, (len(order) + 1) // 2)
    section: dict[str, list[dict]] = {"worst": [], "best": []}
    for group, chosen in (("worst", order[::-1][: min(count, len(order) - half)]), ("best", order[:half])):
        for image_id in chosen:
            try:
                image = read_image(run.images[image_id], image_size(coco.imgs[image_id]))
            except (OSError, ValueError) as error:
                LOG.warning(f"skipped image {image_id} ({run.images[image_id]}): {error}")
                continue
            rows = task.results.rows_from_records(run.records, run.coco.imgs[image_id], metainfo["category_ids"])
            truth = ground_truth(task, coco, image_id, metainfo["category_ids"], metainfo)
            drawn = compare(task, image, rows, truth, metainfo, score_thresh, (width, 2 * width))
            section[group].append({"name": os.path.basename(run.images[image_id]), "quality": quality[image_id],
                                   "data": data_uri(drawn)})
    return section


def data_uri(image: np.ndarray) -> str:
    """A BGR image as the source of an <img>."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def speed_section(steps: list[dict], metrics: dict | None) -> dict:
    """Images per second in training and evaluation, and the time of the evaluation's stages."""
    section: dict[str, Any] = {"chart": None, "training": None, "stages": [], "evaluation": None}
    if len(steps) > 1:
        rates = np.array([record["images_per_second"] for record in steps[1:]])  # the first step compiles
        section["training"] = float(np.median(rates))

        def draw(axes: Any) -> None:
            draw_curve(axes, [record["step"] for record in steps[1:]], rates, "#2260a8")
            axes.set(xlabel="step", ylim=(0, None))
            axes.set_title("training, images per second")

        section["chart"] = chart(4.5, 2.2, draw)
    if metrics and "stage_seconds" in metrics:
        times = metrics["stage_seconds"]
        section["evaluation"] = metrics["images_per_second"]
        stages = (("preparing", "reading and preprocessing"), ("computing", "network and decoding"),
                  ("finishing", "boxes and soft-NMS"))
        section["stages"] = [(name, 1000 * times[key] / max(times["images"], 1)) for key, name in stages]
    return section
