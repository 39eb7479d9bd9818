"""The checks of a training that need only the configuration and files: before it starts, without MindSpore."""
from ..core.console import LOG
from ..core.errors import Problems, UserError, require_dir
from ..data.coco import dataset_name
from ..data.manifest import read_manifest
from ..data.train_set import check_step
from ..evaluation.evaluator import EvaluationSet, check_scoring, scoring_set
from ..model_utils.combinations import check_schedule
from ..model_utils.config import Config


def check_training(config: Config) -> EvaluationSet | None:
    """Return the data to score on while training, or None if eval_epochs is 0.

    Raises UserError, with a line for each problem: an increasing learning rate, frozen layers without weights, settings
    that contradict an evaluation, missing data, classes of the data other than the configuration's, and fewer images
    than a step.
    """
    problems = Problems()
    with problems:
        check_schedule(config.train_config)
    with problems:
        check_frozen(config)
    with problems:
        check_scoring(config)
    data = None
    with problems:
        if config.data_dir:
            require_dir(config.data_dir, "data set folder (--data_dir)")
    with problems:
        manifest = read_manifest(config, problems)
        _check_images(manifest, config, 1)
        if not problems.found:
            data = scoring_set(config, manifest)
            if data and manifest.get("dataset") != (name := dataset_name(config.data_dir, data.coco)):
                LOG.warning(f"warning: {config.mindrecord_dir} has the images of {manifest.get('dataset')}, but the "
                            f"scores will be of {name} (--data_dir)")
    problems.raise_all()
    return data


def check_images(config: Config, ranks: int) -> None:
    """Raise UserError if the data has fewer images than a step of this number of ranks."""
    _check_images(read_manifest(config), config, ranks)


def _check_images(manifest: dict, config: Config, ranks: int) -> None:
    if "images" in manifest:  # the model zoo's files do not state it
        check_step(manifest["images"], config, ranks)


def check_frozen(config: Config) -> None:
    """Raise UserError for frozen layers without weights."""
    has_weights = config.load_checkpoint_path or config.net_config.load_backbone_path or config.resume
    if config.train_config.freeze != "none" and not has_weights:
        raise UserError(f"train_config.freeze is {config.train_config.freeze}, but there are no weights to freeze; set "
                        "load_checkpoint_path or net_config.load_backbone_path")
