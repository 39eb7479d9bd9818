"""Scoring of objects with keypoints: COCO's keypoint and box evaluations, PCK, mean errors."""
import contextlib
import copy
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...core.console import LOG
from ...core.tables import table as text_table
from ..detection import scores as boxes
from ..detection import thresholds
from ..detection.scores import class_table, confusion_matrix, point_table, score_voc, threshold_curves
from ..detection.voc_scores import score_text
from .keypoints import chosen, is_coco, read_metainfo, sigmas_of

__all__ = ["check", "class_table", "confusion_matrix", "evaluate", "image_quality", "point_table", "score", "score_voc",
           "tables", "threshold_curves"]

QUALITY = "keypoint similarity (OKS)"  # what image_quality sums up
PCK = {"PCK_05": 0.05, "PCK_10": 0.1, "PCK_20": 0.2}  # of the longer side of the object's box
OKS_NAMES = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large")


def with_chosen(coco: COCO, counts: np.ndarray) -> COCO:
    """A copy of coco in which keypoints that do not count, bool [J], are absent."""
    if counts.all():
        return coco
    result = COCO()
    result.dataset = {**coco.dataset, "annotations": copy.deepcopy(coco.dataset["annotations"])}
    for entry in result.dataset["annotations"]:
        points = np.array(entry["keypoints"]).reshape(-1, 3)
        points[~counts] = 0
        entry |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
    with contextlib.redirect_stdout(io.StringIO()):
        result.createIndex()
    return result


def evaluate_keypoints(coco: COCO, records: Sequence[dict], sigmas: np.ndarray) -> COCOeval:
    """pycocotools' accumulated evaluation of keypoints; sigmas [J]."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, boxes.results_of(coco, records), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def evaluate(coco: COCO, records: Sequence[dict]) -> COCOeval:
    """pycocotools' accumulated evaluation of boxes, for curves of precision and recall."""
    return boxes.evaluate(coco, records)


def check(metainfo: dict, eval_config: Any) -> None:
    """Raise UserError unless eval_config.keypoints and kpt_oks_sigmas fit a model's metainfo."""
    names = metainfo["keypoints"]["names"]
    chosen(names, eval_config.keypoints)
    sigmas_of(names, eval_config.kpt_oks_sigmas)


def score(coco: COCO, records: Sequence[dict], eval_config: Any = None) -> tuple[str, dict[str, Any]]:
    """Score records against coco: (tables as text, metrics).

    metrics: the numbers by the names of the task's metrics; keypoints, those that count, and oks_sigmas; error_px, the
    mean distance of the keypoints of found objects from the truth, in image pixels, None if none is found;
    error_px_per_keypoint and PCK_10_per_keypoint {name: value}; found_objects, the share of objects with keypoints that
    have a detection; AP_per_class, AP50_per_class and objects_per_class as in detection, of keypoints; precision,
    recall, F1 and threshold as in detection, of boxes. eval_config: keypoints, kpt_oks_sigmas. Raises UserError for
    these.
    """
    names = read_metainfo(coco.dataset["categories"])["keypoints"]["names"]
    wanted = eval_config.keypoints if eval_config else []
    sigmas = sigmas_of(names, eval_config.kpt_oks_sigmas if eval_config else [])
    counts = chosen(names, wanted)
    of_boxes, box_metrics = boxes.score(coco, records)
    coco = with_chosen(coco, counts)
    evaluation = evaluate_keypoints(coco, records, sigmas)
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    metrics: dict[str, Any] = {name: float(value) for name, value in zip(OKS_NAMES, evaluation.stats)}
    metrics |= thresholds.of_boxes(box_metrics)
    metrics |= {f"box_{name}": value for name, value in box_metrics.items() if name in boxes.DETECTION.metrics}
    of_class = boxes.per_class(coco, evaluation)
    errors = keypoint_errors(coco, records)
    measured, per_keypoint = error_metrics(errors, names)
    metrics |= {**measured, **of_class, "objects_per_class": objects_with_keypoints(coco)}
    if eval_config and not eval_config.kpt_oks_sigmas and not is_coco(names):
        LOG.info(f"OKS with sigma {sigmas[0]:g} for every keypoint; eval_config.kpt_oks_sigmas sets others")
    metrics |= {"keypoints": wanted or names, "oks_sigmas": sigmas.tolist()}
    only = f" ({', '.join(wanted)})" if wanted else ""
    used = ", ".join(f"{sigma:g}" for sigma in dict.fromkeys(sigmas.tolist()))
    text = (f"keypoints{only}, OKS with sigma {used}\n{table.getvalue().rstrip()}\nboxes\n{of_boxes}\n"
            f"{error_table(metrics, per_keypoint)}")
    return text, metrics


def image_quality(coco: COCO, records: Sequence[dict], score_thresh: float) -> dict[int, float]:
    """detection's image_quality with the OKS of an object's keypoints in place of the IoU, if it has some."""
    sigmas = sigmas_of(read_metainfo(coco.dataset["categories"])["keypoints"]["names"], [])
    return boxes.image_quality(coco, records, score_thresh,
                               likeness=lambda entry, record: similarity(entry, record, sigmas))


def similarity(entry: dict, record: dict, sigmas: np.ndarray) -> float:
    """COCO's OKS of an annotation's labeled keypoints and a record's; 1 if none is labeled."""
    truth, found = (np.array(one["keypoints"], float).reshape(-1, 3) for one in (entry, record))
    labeled = truth[:, 2] > 0
    away = ((found - truth)[labeled, :2] ** 2).sum(1) / (2 * sigmas[labeled]) ** 2 / (entry["area"] + np.spacing(1)) / 2
    return float(np.exp(-away).mean()) if labeled.any() else 1.0


def objects_with_keypoints(coco: COCO) -> dict[str, int]:
    """{class name: number of objects with labeled keypoints, except crowds}."""
    numbers = Counter(entry["category_id"] for entry in coco.dataset["annotations"]
                      if not entry.get("iscrowd") and entry["num_keypoints"])
    return {coco.cats[category_id]["name"]: numbers[category_id] for category_id in sorted(coco.cats)}


def keypoint_errors(coco: COCO, records: Sequence[dict]) -> np.ndarray:
    """float [M, J, 2] of the M objects with labeled keypoints: distance in image pixels, and relative to the longer
    side of the object's box; nan where a keypoint is not labeled, infinite where the object was not found (see
    detection's found_objects).
    """
    errors = [_errors(entry, record)
              for entry, record in boxes.found_objects(coco, records, lambda entry: entry["num_keypoints"])]
    joints = max((len(entry["keypoints"]) // 3 for entry in coco.dataset["annotations"]), default=0)
    return np.array(errors, float).reshape(-1, joints, 2)


def _errors(entry: dict, detection: dict | None) -> np.ndarray:
    """[J, 2] of one object, see keypoint_errors."""
    truth = np.array(entry["keypoints"], float).reshape(-1, 3)
    side = max(entry["bbox"][2:])
    if detection is None:
        away = np.full(len(truth), np.inf)
    else:
        away = np.hypot(*(np.array(detection["keypoints"], float).reshape(-1, 3) - truth)[:, :2].T)
    away = np.where(truth[:, 2] > 0, away, np.nan)
    return np.stack([away, away / side], 1)


def error_metrics(errors: np.ndarray, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, tuple]]:
    """(metrics of keypoint_errors, {name: (labeled, mean error or None, PCK_10 or None)})."""
    pixels, relative = errors[:, :, 0], errors[:, :, 1]
    labeled, known = ~np.isnan(pixels), np.isfinite(pixels)

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if values.size else None

    def share(index: Any, limit: float) -> float | None:
        return mean(relative[:, index][labeled[:, index]] <= limit)

    metrics: dict[str, Any] = {name: share(slice(None), limit) for name, limit in PCK.items()}
    metrics = {name: -1.0 if value is None else value for name, value in metrics.items()}
    metrics["error_px"] = mean(pixels[known])
    metrics["found_objects"] = mean(known.any(1)[labeled.any(1)])
    rows = {name: (int(labeled[:, index].sum()), mean(pixels[:, index][known[:, index]]), share(index, 0.1))
            for index, name in enumerate(names)} if len(errors) else {}
    metrics["error_px_per_keypoint"] = {name: error for name, (_, error, _) in rows.items()}
    metrics["PCK_10_per_keypoint"] = {name: value for name, (_, _, value) in rows.items()}
    return metrics, rows


def tables(metrics: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Further tables of a report: the errors of each keypoint, the best F1, [(title, header, rows)]."""
    per_keypoint = metrics.get("error_px_per_keypoint") or {}
    rows = [[name, "–" if error is None else f"{error:.1f}", score_text(metrics["PCK_10_per_keypoint"][name])]
            for name, error in per_keypoint.items()]
    mean = metrics.get("error_px")
    rows.append(["all", "–" if mean is None else f"{mean:.1f}", score_text(metrics["PCK_10"])])
    found = 100 * (metrics.get("found_objects") or 0)
    title = f"Keypoints of the objects that were found, {found:.0f} %; curves and errors below are of boxes"
    own = [(title, ["keypoint", "mean error, pixels", "PCK 10 %"], rows)] if per_keypoint else []
    return own + boxes.tables(metrics)


def error_table(metrics: dict[str, Any], per_keypoint: dict[str, tuple]) -> str:
    """PCK and mean errors as text."""
    if not per_keypoint:
        return "no object has labeled keypoints"
    rows = [[name, str(count), "-" if error is None else f"{error:.2f}", score_text(value)]
            for name, (count, error, value) in per_keypoint.items() if count]
    mean = "-" if metrics["error_px"] is None else f"{metrics['error_px']:.2f} pixels"
    pck = ", ".join(f"{100 * limit:g} % {metrics[name]:.3f}" for name, limit in PCK.items())
    return (f"PCK, keypoints within a share of their box's longer side: {pck}\n"
            f"mean error {mean}, of the {100 * (metrics['found_objects'] or 0):.1f} % of objects that were found "
            "(IoU 0.5)\n"
            f"{text_table(['keypoint', 'labeled', 'mean error', 'PCK 10 %'], rows)}")
