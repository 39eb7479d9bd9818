"""Detect on the images of a COCO-format data set and score the detections."""
import os
from typing import TYPE_CHECKING

from ..core import errors
from ..core.console import LOG, show
from ..core.project import next_steps, relative_to_user
from ..model_utils.config import Config, get_config

if TYPE_CHECKING:
    from ..data.coco import Split
    from ..inference.models import Model


def main() -> None:
    config = get_config(__doc__, script="eval")
    LOG.info(config.summary())
    from ..model_utils.moxing_adapter import modelarts

    with modelarts(config, "data_dir"):
        evaluate(config)


def check_paths(config: Config) -> tuple["Model", "Split"]:
    """Return (Model, Split to detect on). In config, a run's folder or an alias of its checkpoint (RUN/best, RUN/last)
    is replaced by the checkpoint's path, and an empty save_result_dir by the run's folder.

    Raises UserError if either is missing, or if the results would replace files that are not this project's.
    """
    from ..core.backups import require_ours
    from ..core.locks import require_free
    from ..data.coco import find_split
    from ..evaluation.results import results_of
    from ..evaluation.table import TABLE, is_table
    from ..inference.models import find_model, open_model
    from ..model_utils.combinations import is_scored, part_of
    from ..tasks import task_of
    from ..weights.run_folder import run_of, tidy

    config.load_checkpoint_path = find_model(config.load_checkpoint_path)
    config.save_result_dir = tidy(config.save_result_dir or config.run_dir or run_of(config.load_checkpoint_path))
    require_free([config.save_result_dir], lock_name(config))
    part = part_of(config)
    require_ours(os.path.join(config.save_result_dir, part), results_of(part), option="--save_result_dir")
    if is_scored(config):
        require_ours(os.path.join(config.save_result_dir, TABLE), is_table, option="--save_result_dir")
    model = open_model(config.load_checkpoint_path)
    try:
        return model, find_split(config.data_dir, part, config.dataset_config, task=task_of(model.description))
    except errors.UserError as error:
        name = "split" if config.split else "run_mode"
        raise errors.UserError(f"{error} ({name} is {part}, from {config.origin(name)})") from error


def check_before(config: Config) -> None:
    """All checks of an evaluation that read only files, for a launcher. Raises UserError, with a line for each problem.

    An annotation file that detections are not scored against is not read.
    """
    from ..data.coco import check_expected, read_coco
    from ..evaluation.evaluator import check_annotations
    from ..model_utils.combinations import is_scored
    from ..tasks import task_of
    from ..weights.side_file import adopt_evaluation

    model, split = check_paths(config)
    problems = errors.Problems()
    with problems:
        adopt_evaluation(config, model.description, model.source)
        model.check_fixed(config)
    with problems:
        if is_scored(config):
            coco = read_coco(split.annotation, split.image_dir, task_of(model.description))
            check_annotations(coco, split.annotation, model.description, config)
        else:
            check_expected(config, model.description["classes"], model.description["category_ids"], model.source)
    problems.raise_all()


def lock_name(config: Config) -> str:
    """The name of an evaluation's lock; evaluations on different parts of a data set write into different folders."""
    from ..model_utils.combinations import part_of

    return f"{part_of(config)} evaluation"


def evaluate(config: Config) -> None:
    """Detect, score and write the results that config selects."""
    model, split = check_paths(config)
    # Slow to load, and not needed for --help, a wrong option or a wrong path.
    from ..core.locks import locked
    from ..evaluation import evaluator
    from ..inference.models import uses_of
    from ..model_utils.combinations import part_of, unused_in_evaluation
    from ..native.extensions import require_extensions
    from ..tasks import task_of
    from ..weights.run_folder import run_of
    from ..weights.side_file import adopt_evaluation

    require_extensions()
    LOG.info(adopt_evaluation(config, model.description, model.source))
    for sentence in unused_in_evaluation(config, model.description["arch"], model.runs_as_onnx(config),
                                         task_of(model.description)):
        LOG.info(sentence)
    model.check_fixed(config)
    detector = model.load(config)
    LOG.info(f"loaded {model.path}{detector.weights}")
    data = evaluator.read_evaluation_set(split, detector.description, config)
    with locked([config.save_result_dir], lock_name(config)):
        evaluator.evaluate(detector, data, config, show)
    in_report = data.scoring and part_of(config) == "val"
    report = [("tools/report.py", relative_to_user(config.save_result_dir or "."))] if in_report else []
    LOG.info(next_steps(*report, *uses_of(run_of(model.path) or model.path)))
