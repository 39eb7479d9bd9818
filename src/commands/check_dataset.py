"""Look at a COCO-format data set before it is converted: what is wrong with it, its table, what does not fit the recipe, the first batch.

Every parameter of default_config.yaml is an option, too: those of the training say what it is to fit.
"""
import argparse
import os

from ..core import errors
from ..core.errors import UserError
from ..inference.options import OptionParser
from ..model_utils.config import get_config


def main(argv=None):
    options, words = parse(argv)
    config = get_config(__doc__, words)

    from ..core.console import LOG, show
    from ..data import summary  # what is slow to load is loaded when there is something to do
    from ..data.check import check_part, compare_parts, first_batch
    from ..data.summary import describe_epoch
    from ..native.extensions import require_extensions
    from ..training import data_preview

    errors.require_dir(config.data_dir, "data set folder (--data_dir)")
    require_extensions()
    train, val = (check_part(config.data_dir, name, config, options.quick) for name in ("train", "val"))
    compare_parts(train, val)
    recipe = data_preview.recipe_of(config, config.device_num if config.distribute else 1)
    for part in (train, val):
        show(f"\n{part.name}: {part.annotation or 'no annotation file'}")
        for line in part.lines():
            show(line)
        if part.images and part is train:
            data_preview.report(part.boxes, part.metainfo["classes"], recipe)
            if line := describe_epoch(part.boxes.images, recipe):
                LOG.info(line)
        elif part.images:
            LOG.info(summary.describe(part.boxes, part.metainfo["classes"], recipe.input_size))
    show("")
    if not train.images and not val.images:
        raise UserError(f"{config.data_dir}: no image of either part can be used; {(train.refusals + val.refusals)[0]}")
    path = os.path.join(config.save_result_dir, data_preview.IMAGE)
    if train.images:
        with data_preview.log_failures(path):  # of images of which --quick has read the headers alone
            batch, image_ids, layout = first_batch(train, config)
            data_preview.save_batch(path, batch, image_ids, layout, config.net_config, train.metainfo)
    if train.is_sound and val.is_sound:
        show("conversion and evaluation take this data set")
        return 0
    show("conversion or evaluation refuses this data set, or leaves out images: see above")
    return 1


def parse(argv):
    """(the options of this script, the words for get_config) of the command line."""
    parser = OptionParser(own_quiet=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                          epilog="Exit code 0 if conversion and eval.py take the data set and all of its images but those without "
                                 "objects, 1 if not, 2 for a mistake in the options, and where no image "
                                 "can be used.")
    parser.add_argument("--data_dir", metavar="DIR", help="folder of the data set")
    parser.add_argument("--config_path", metavar="FILE", action="append", help="configuration that it is to be trained with")
    parser.add_argument("--quick", action="store_true",
                        help="read the headers of the images alone, not whole images: damaged ones are not found then")
    options, words = parser.parse_known_args(argv)
    given = [("--config_path", path) for path in options.config_path or []]
    given += [("--data_dir", options.data_dir)] if options.data_dir is not None else []
    return options, [word for pair in given for word in pair] + words
