"""Write a self-contained HTML report on a training run and its evaluation (curves, scores, errors, images, speed), or a
comparison of several runs (joint curves, scores side by side, differences in configuration)."""
import argparse
import datetime
import os
from collections.abc import Sequence
from typing import Any

from ..core import errors
from ..core.errors import UserError
from ..core.project import next_steps
from ..inference.options import OptionParser
from ..model_utils.config import Config, get_config


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__)
    parser.add_argument("result_dirs", metavar="RESULT_DIR", nargs="+",
                        help="a run's folder, such as runs/detection/1 (with train_record.jsonl, val/, ckpt_0/); "
                             "several are compared")
    parser.add_argument("--output",
                        help="file to write (default: RESULT_DIR/report.html, or ./report.html for several runs)")
    parser.add_argument("--title", help="page title (default: the folder names)")
    parser.add_argument("--data_dir", help="data set of the evaluation, if it has moved since; only for a single run")
    parser.add_argument("--config_path", help="configuration of the data set, for --data_dir")
    options = parser.parse_args(argv)
    config = get_config(__doc__, ["--config_path", options.config_path] if options.config_path else [])
    folders = [errors.require_dir(folder, "result folder") for folder in options.result_dirs]
    output = report(folders[0], options, config) if len(folders) == 1 else compare(folders, options)
    print(f"wrote {output}")


def report(folder: str, options: argparse.Namespace, config: Config) -> str:
    """Write the report on one run; return its path."""
    from ..core.backups import contains_mark, require_ours
    from ..core.console import LOG
    from ..core.files import read_json
    from ..data.coco import dataset_name
    from ..evaluation.results import FOUND
    from ..runs.report import Run, write_report
    from ..training.data_preview import IMAGE

    output = options.output or os.path.join(folder, "report.html")
    require_ours(output, contains_mark(), option="--output")
    record, scores, detections = find_files(folder)
    for path in (record, scores, detections):
        if not os.path.isfile(path):
            LOG.warning(f"{path} not found; continuing without it")
    if not os.path.isfile(scores):
        LOG.info(scores_from(folder))
    content: dict[str, Any] = {"record_path": record if os.path.isfile(record) else None,
                               "metrics": read_metrics(scores)}
    settings = settings_of(folder) or {}
    names = [settings["dataset"]] if "dataset" in settings else []
    if os.path.isfile(detections):
        result = read_json(detections, "detections of eval.py", FOUND)
        content.update(ground_truth(result, options, config))
        data_dir = options.data_dir or os.path.dirname(os.path.dirname(result["annotation"]))
        names.append(dataset_name(data_dir, content["coco"]))
    batch = os.path.join(folder, IMAGE)
    content |= {"facts": [f"data set {name}" for name in names[:1]] + days_of(record, scores),
                "settings": settings or None, "first_batch": batch if os.path.isfile(batch) else None}
    title = options.title or os.path.basename(os.path.abspath(folder))
    write_report(output, title, Run(**content), config.eval_config.score_thresh)
    return output


def settings_of(folder: str) -> dict[str, str] | None:
    """The settings {parameter: value as text} that a run's folder records, and those of the side file of its newest
    checkpoint; None if there is neither. Raises UserError."""
    from ..runs.settings import read_settings, read_settings_file
    from ..weights.run_folder import SETTINGS

    path, description = os.path.join(folder, SETTINGS), newest_side_file(folder)
    found = read_settings(description) if description and os.path.isfile(description) else {}
    if os.path.isfile(path):
        found |= read_settings_file(path)
    return found or None


def days_of(record: str, scores: str) -> list[str]:
    """When a run was trained and evaluated, by its files."""
    return [f"{what} {datetime.datetime.fromtimestamp(os.path.getmtime(path)):%Y-%m-%d %H:%M}"
            for what, path in (("trained until", record), ("evaluated", scores)) if os.path.isfile(path)]


def newest_side_file(folder: str) -> str | None:
    """The path of the side file of a run's newest checkpoint, None if there is no checkpoint."""
    from ..weights.run_folder import in_run
    from ..weights.side_file import side_file

    checkpoint = in_run(folder, "last")
    return side_file(checkpoint) if checkpoint else None


def compare(folders: Sequence[str], options: argparse.Namespace) -> str:
    """Write the comparison of several runs; return its path."""
    from ..core.backups import contains_mark, require_ours
    from ..core.console import LOG
    from ..runs.comparison import ComparedRun, run_names, write_comparison
    from ..runs.record import read_record
    from ..runs.settings import read_settings

    if options.data_dir or options.config_path:
        raise UserError("--data_dir and --config_path apply only to a single run: a comparison shows no images")
    output = options.output or "report.html"
    runs: list[ComparedRun] = []
    require_ours(output, contains_mark(), option="--output")
    for name, folder in zip(run_names(folders), folders):
        if any(os.path.samefile(folder, run.folder) for run in runs):
            raise UserError(f"{folder} is given twice")
        record, scores, _ = find_files(folder)
        description = newest_side_file(folder) or os.path.join(folder, "ckpt_0")
        missing = [os.path.relpath(path, folder) for path in (record, scores, description) if not os.path.isfile(path)]
        for path in missing:
            LOG.warning(f"{os.path.join(folder, path)} not found; continuing without it")
        if not os.path.isfile(scores):
            LOG.info(scores_from(folder))
        runs.append(ComparedRun(
            name, folder, *(read_record(record) if os.path.isfile(record) else ([], [])), read_metrics(scores),
            read_settings(description) if os.path.isfile(description) else None, missing,
        ))
    if not any(run.steps or run.scores or run.metrics for run in runs):
        raise UserError(f"nothing to compare: none of the {len(runs)} runs has recorded steps or an evaluation")
    names = ", ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    write_comparison(output, options.title or names, runs)
    return output


def scores_from(folder: str) -> str:
    """A line with the command that makes the scores of a run, with the data set in its settings, if they are there."""
    from ..model_utils.config import read_config_file
    from ..weights.run_folder import SETTINGS, is_run

    known = is_run(folder)
    data = read_config_file(os.path.join(folder, SETTINGS)).get("data_dir") if known else ""
    return next_steps(("eval.py", "--data_dir", data or "DATA", "--load_checkpoint_path", folder,
                       *([] if known else ["--save_result_dir", folder])))


def find_files(folder: str) -> list[str]:
    """Return the paths of a run's record, scores and detections. Raises UserError if none of them exists."""
    results = os.path.join(folder, "val") if os.path.isdir(os.path.join(folder, "val")) else folder
    paths = [os.path.join(folder, "train_record.jsonl")]
    paths += [os.path.join(results, name) for name in ("metrics.json", "val_pred_result.json")]
    if not any(map(os.path.isfile, paths)):
        raise UserError(f"{folder} contains neither train_record.jsonl nor results of an evaluation (val/)")
    return paths


def read_metrics(path: str) -> dict | None:
    """Return the dictionary of a metrics.json, or None if the file does not exist. Raises UserError."""
    from ..core.files import read_json
    from ..core.kinds import is_number
    from ..evaluation.results import POINTS, SCORES, TIMES
    from ..tasks import metrics_of

    if not os.path.isfile(path):
        return None
    metrics = read_json(path, "scores of eval.py", SCORES)
    tests = dict.fromkeys(metrics_of(metrics), is_number) | (TIMES if "stage_seconds" in metrics else {})
    tests |= POINTS if "F1_per_class" in metrics else {}
    return read_json(path, "scores of eval.py", tests)


def ground_truth(result: dict, options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Return {"coco", "records", "images", "task"} of an evaluation's result. Raises UserError."""
    from ..core.kinds import dict_with, list_of
    from ..data.coco import find_split, image_list, read_coco
    from ..tasks import task_of

    task = task_of(result)
    if not list_of(dict_with(**task.results.RECORD))(result["annotations"]):
        raise UserError(f"the detections of eval.py lack {' or '.join(task.results.RECORD)}; run eval.py again")
    if options.data_dir:
        split = find_split(options.data_dir, "val", config.dataset_config, task=task)
        coco = read_coco(split.annotation, split.image_dir, task)
        images = dict(image_list(split, coco))
    else:
        if not os.path.isfile(result["annotation"]):
            raise UserError(f"annotation file not found: {result['annotation']}; "
                            "set --data_dir to the data set's new location")
        coco = read_coco(result["annotation"], task=task)
        images = {info["id"]: info["file_name"] for info in result["images"]}
    for what, key, known in (("image", "image_id", coco.imgs), ("category id", "category_id", coco.cats)):
        if unknown := [record[key] for record in result["annotations"] if record[key] not in known]:
            raise UserError(f"{what} {unknown[0]} of the results is not in the annotations; "
                            "is this the data set of the evaluation?")
    return {"coco": coco, "records": result["annotations"], "images": images, "task": task}
