"""A self-contained HTML page about a run: charts, tables and images."""
import base64
import datetime
import os
from dataclasses import dataclass, field
from typing import Any

import cv2
import jinja2
import numpy as np

from ..core.backups import contains_mark
from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.version import version
from ..data.coco import class_list, image_size, metainfo_of
from ..data.objects import ground_truth
from ..imaging.reading import read_image
from ..tasks import Task, metric_labels, score_tables, task_of
from ..tasks.pictures import panels
from .charts import confusion_chart, loss_charts, precision_charts, rate_chart, score_chart, speed_chart
from .class_scores import class_bars, threshold_charts
from .record import best_score, epochs_trained, read_record
from .settings import changed

PAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages")
MAX_SHOWN_CLASSES = 20  # in the confusion matrix
GOOD = 0.5  # the least quality of the best images
TITLES = {"settings": "Settings", "batch": "First batch"}


@dataclass
class Run:
    """A run's data, as far as it exists: the path of train_record.jsonl; the content of metrics.json; for
    comparisons with the ground truth, the COCO data set, records (COCO results) and images {id: path}; the Task; facts
    below the title; settings {parameter: value as text}; the path of the first batch's image."""

    record_path: str | None = None
    metrics: dict | None = None
    coco: Any = None
    records: list | None = None
    images: dict | None = None
    task: Task = field(default_factory=lambda: task_of({}))
    facts: list[str] = field(default_factory=list)
    settings: dict[str, str] | None = None
    first_batch: str | None = None


def write_report(path: str, title: str, run: Run, score_thresh: float = 0.3) -> None:
    """Write the page about a Run."""
    sections: dict[str, Any] = dict.fromkeys(("training", "scores", "errors", "images", "speed"))
    metrics = run.metrics
    steps, scores = read_record(run.record_path) if run.record_path else ([], [])
    if steps:
        sections["training"] = {"charts": [*loss_charts(steps), rate_chart(steps)], "steps": len(steps),
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
    sections["batch"] = run.first_batch and image_uri(run.first_batch)
    sections["settings"] = None if run.settings is None else changed(run.settings)
    links += [(name, TITLES[name]) for name in ("settings", "batch") if sections[name] is not None]
    write_page(path, "report.html", title=title, links=links, facts=run.facts, score_thresh=score_thresh, good=GOOD,
               quality=run.task.scores.QUALITY, **sections)


def write_page(path: str, template: str, **content: object) -> None:
    """Render a template of pages/ into a self-contained page. An earlier page is backed up."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), autoescape=True, undefined=jinja2.StrictUndefined)
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    page = environment.get_template(template).render(made=now, version=version(), **content)
    with atomic_write(path, contains_mark()) as partial, open(partial, "w", encoding="utf-8", errors="replace") as file:
        file.write(page)


# ---------------------------------------------------------------- training, scores, errors


def score_section(scores: list[tuple[int, int, dict]], epochs: dict[int, float]) -> dict | None:
    """Scores of evaluations during training as a chart and rows (epochs trained, step, scores, whether they are the
    best), or None if there are none. Args as in curves.draw_scores."""
    if not scores:
        return None
    best = best_score(scores)
    rows = [(epochs.get(step, epoch + 1), step, values, best is not None and step == best[0])
            for step, epoch, values in scores]
    return {"chart": score_chart(scores, epochs), "rows": rows,
            "best": best and {"AP": best[2]["AP"], "epochs": epochs.get(best[0], best[1] + 1)}}


def error_section(run: Run, score_thresh: float) -> dict:
    """Precision-recall curves, scores over the threshold and class confusions of a Run."""
    assert run.records is not None
    names, _ = class_list(run.coco)
    evaluation = run.task.scores.evaluate(run.coco, run.records)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]
    known = [index for index in range(len(names)) if (precision[:, :, index] > -1).any()]
    matrix = run.task.scores.confusion_matrix(run.coco, run.records, score_thresh)
    mixed = [(int(matrix[a, b]), names[a], names[b]) for a in range(len(names)) for b in range(len(names))
             if a != b and matrix[a, b]]
    together, classes = run.task.scores.threshold_curves(evaluation)
    return {
        "thresholds": threshold_charts(together, classes), "best": together.best(),
        "curves": precision_charts(precision, known, names) if known else [],
        "matrix": confusion_chart(matrix, names) if len(names) <= MAX_SHOWN_CLASSES else None,
        "mixed": sorted(mixed, reverse=True)[:10], "false_negatives": int(matrix[:-1, -1].sum()),
        "false_positives": int(matrix[-1].sum()), "true_positives": int(np.trace(matrix)),
        "objects": int(matrix[:-1].sum()),
    }


# ---------------------------------------------------------------- images and speed


def image_section(run: Run, score_thresh: float, count: int = 6, width: int = 400) -> dict[str, list[dict]]:
    """A Run's images of worst and best quality, as drawings of the detections and of the ground truth.

    Returns {"worst": [], "best": []}; only images of at least the quality GOOD are among the best.
    """
    assert run.records is not None and run.images is not None
    task, coco, metainfo = run.task, run.coco, metainfo_of(run.coco, run.task)
    quality = task.scores.image_quality(coco, run.records, score_thresh)
    order = sorted(quality, key=lambda image_id: (-quality[image_id], image_id))
    half = min(count, (len(order) + 1) // 2)
    best = [image_id for image_id in order[:half] if quality[image_id] >= GOOD]
    section: dict[str, list[dict]] = {"worst": [], "best": []}
    for group, chosen in (("worst", order[::-1][: min(count, len(order) - len(best))]), ("best", best)):
        for image_id in chosen:
            try:
                image = read_image(run.images[image_id], image_size(coco.imgs[image_id]))
            except (OSError, ValueError) as error:
                LOG.warning(f"skipped image {image_id} ({run.images[image_id]}): {error}")
                continue
            rows = task.results.rows_from_records(run.records, run.coco.imgs[image_id], metainfo["category_ids"])
            truth = ground_truth(task, coco, image_id, metainfo["category_ids"], metainfo)
            drawn = panels(task, image, rows, truth, metainfo, score_thresh, (width, 2 * width))
            section[group].append({"name": os.path.basename(run.images[image_id]), "quality": quality[image_id],
                                   "panels": [(caption, panel.shape[1], data_uri(panel)) for caption, panel in drawn]})
    return section


def data_uri(image: np.ndarray) -> str:
    """A BGR image as the source of an <img>."""
    return _jpeg_uri(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes())


def image_uri(path: str) -> str | None:
    """A JPEG file as the source of an <img>, None if it cannot be read, with a warning."""
    try:
        with open(path, "rb") as file:
            return _jpeg_uri(file.read())
    except OSError as error:
        LOG.warning(f"skipped {path}: {error.strerror}")
        return None


def _jpeg_uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def speed_section(steps: list[dict], metrics: dict | None) -> dict:
    """Images per second in training and evaluation, and the time of the evaluation's stages."""
    section: dict[str, Any] = {"chart": None, "training": None, "stages": [], "evaluation": None}
    if len(steps) > 1:
        rates = np.array([record["images_per_second"] for record in steps[1:]])  # the first step compiles
        section["training"] = float(np.median(rates))
        section["chart"] = speed_chart(steps[1:], rates)
    if metrics and "stage_seconds" in metrics:
        times = metrics["stage_seconds"]
        section["evaluation"] = metrics["images_per_second"]
        stages = (("preparing", "reading and preprocessing"), ("computing", "network and decoding"),
                  ("finishing", "boxes and soft-NMS"))
        section["stages"] = [(name, 1000 * times[key] / max(times["images"], 1)) for key, name in stages]
    return section
