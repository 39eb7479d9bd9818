"""Convert the training images of a COCO-format data set to MindRecord files."""
import glob
import os
import time

from ..core import interrupts
from ..core.console import LOG, show
from ..core.errors import UserError
from ..core.files import read_json
from ..core.locks import locked
from ..core.project import next_steps
from ..data.coco import Split, check_expected, chosen_task, find_split, metainfo_of, read_for
from ..data.conversion import convert
from ..data.manifest import manifest_path
from ..model_utils.config import Config, get_config
from ..model_utils.mindspore_version import require_mindspore
from ..model_utils.moxing_adapter import modelarts
from ..tasks import task_of


def check_paths(config: Config) -> Split:
    """Return the Split to convert. Raises UserError if it is missing, or if the MindRecord folder is not given or
    contains MindRecord files of this prefix."""
    split = find_split(config.coco_data_dir, "train", config.dataset_config, "--coco_data_dir", chosen_task(config))
    if not config.mindrecord_dir:
        raise UserError("no folder for the MindRecord files given (--mindrecord_dir)")
    finished = manifest_path(config.mindrecord_dir, config.mindrecord_prefix)
    if os.path.exists(finished):
        dataset = read_json(finished, "the manifest of a conversion", {}).get("dataset")
        raise UserError(f"{finished} exists: the conversion of {dataset} is done; choose another --mindrecord_dir or "
                        "--mindrecord_prefix, or delete the old files first")
    place = glob.escape(os.path.join(config.mindrecord_dir, config.mindrecord_prefix))
    if existing := sorted(glob.glob(f"{place}[0-9]*") + glob.glob(place)):
        raise UserError(f"{existing[0]} exists without the manifest of a finished conversion and is not overwritten; "
                        "choose another --mindrecord_prefix or --mindrecord_dir, or delete it first")
    return split


def check_before(config: Config) -> None:
    """All checks of a conversion that read only the annotation file, for a launcher. Raises UserError.

    The file, which may be large, is read only if the configuration expects certain classes.
    """
    split = check_paths(config)
    if config.dataset_config.num_classes or config.dataset_config.coco_classes or config.eval_config.valid_ids:
        coco = read_for(config, split)
        metainfo = task_of(config.net_config).targets.configured(metainfo_of(coco, task_of(config.net_config)), config)
        check_expected(config, metainfo["classes"], metainfo["category_ids"], split.annotation)


def main() -> None:
    config = get_config(__doc__, script="dataset")
    LOG.info(config.summary())
    require_mindspore()
    start = time.time()
    with modelarts(config, "coco_data_dir"):
        split = check_paths(config)
        try:
            with locked([config.mindrecord_dir], "conversion"):
                manifest = convert(split, config)
        except KeyboardInterrupt:
            raise interrupts.Interrupted(f"nothing was written to {config.mindrecord_dir}; "
                                         "run the same command to start over") from None
    folder = config.mindrecord_dir
    show(f"{manifest['images']} images ({manifest['images_without_objects']} without objects), "
         f"{manifest['objects']} objects, {len(manifest['classes'])} classes; "
         f"{len(manifest['skipped'])} images or objects skipped; "
         f"{time.time() - start:.1f} s; {manifest_path(folder, config.mindrecord_prefix)}")
    data = ["--mindrecord_dir", folder, "--data_dir", config.coco_data_dir]
    LOG.info(next_steps(("train.py", *config.recipe(), *data, "--eval_epochs", "4")))
