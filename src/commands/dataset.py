"""Convert the training images of a COCO-format data set to MindRecord files."""
import glob
import os
import time

from ..core import interrupts
from ..core.console import LOG, show
from ..core.errors import UserError
from ..core.locks import locked
from ..data.coco import find_split
from ..data.conversion import convert
from ..data.manifest import manifest_path
from ..model_utils.config import get_config
from ..model_utils.mindspore_version import require_mindspore
from ..model_utils.moxing_adapter import modelarts


def check_paths(config):
    """The Split to convert. Raises UserError if it is not there, or no folder for the MindRecord files is given, or one that has them."""
    split = find_split(config.coco_data_dir, "train", config.dataset_config, "--coco_data_dir")
    if not config.mindrecord_dir:
        raise UserError("no folder for the MindRecord files given (--mindrecord_dir)")
    finished = manifest_path(config.mindrecord_dir, config.mindrecord_prefix)
    if os.path.exists(finished):
        raise UserError(f"{finished} exists: this conversion is done; name another --mindrecord_prefix or folder, or delete it first")
    place = glob.escape(os.path.join(config.mindrecord_dir, config.mindrecord_prefix))
    if taken := sorted(glob.glob(f"{place}[0-9]*") + glob.glob(place)):
        raise UserError(f"{taken[0]} is there already, without a manifest that says that a conversion is done: it is not overwritten; name "
                        "another --mindrecord_prefix or folder, or delete it first")
    return split


def main():
    """Convert the training part of a data set."""
    config = get_config("Convert the training images of a COCO-format data set to MindRecord files.")
    LOG.info(config.summary())
    require_mindspore()
    start = time.time()
    with modelarts(config, "coco_data_dir"):
        split = check_paths(config)
        try:
            with locked([config.mindrecord_dir], "conversion"):
                manifest = convert(split, config)
        except KeyboardInterrupt:
            raise interrupts.Interrupted(f"{config.mindrecord_dir} holds nothing of this conversion; "
                                         "the same command starts it anew") from None
    show(f"{manifest['images']} images ({manifest['images_without_objects']} without objects), {manifest['objects']} objects, "
         f"{len(manifest['classes'])} classes; {len(manifest['skipped'])} images or objects skipped; "
         f"{time.time() - start:.1f} s; {manifest_path(config.mindrecord_dir, config.mindrecord_prefix)}")
