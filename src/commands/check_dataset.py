"""Check a COCO-format data set before conversion: errors, statistics, fit to the training recipe, the first batch.

All parameters of default_config.yaml are options, too: --split checks only train, val or test, and those of training
describe the recipe.
"""
import argparse
import os
from collections.abc import Sequence

from ..core import errors
from ..core.errors import UserError
from ..core.project import next_steps
from ..inference.options import OptionParser
from ..model_utils.config import get_config


def main(argv: Sequence[str] | None = None) -> int:
    options, arguments = parse(argv)
    config = get_config(__doc__, arguments, "check_dataset")

    # Slow to load, so not before there is something to do.
    from ..core.backups import require_ours
    from ..core.console import LOG, show
    from ..data import summary
    from ..data.browse import IS_OURS, PAGE, write_browser
    from ..data.check import check_split, compare_splits, first_batch
    from ..data.manifest import new_records
    from ..data.summary import describe_epoch
    from ..native.extensions import require_extensions
    from ..training import data_preview

    errors.require_dir(config.data_dir, "data set folder (--data_dir)")
    output = config.save_result_dir or config.run_dir
    folder = os.path.join(output, "browse") if options.browse is True else options.browse
    if folder:
        require_ours(folder, IS_OURS, option="--browse")
    require_extensions()
    names = (config.split,) if config.split else ("train", "val")
    splits = {name: check_split(config.data_dir, name, config, options.quick) for name in names}
    if not config.split:
        compare_splits(splits["train"], splits["val"])
    recipe = data_preview.recipe_of(config, config.device_num if config.distribute else 1)
    for split in splits.values():
        show(f"\n{split.name}: {split.annotation or 'no annotation file'}")
        for line in split.lines():
            show(line)
        if not split.images:
            continue
        assert split.boxes is not None
        if split.name == "train":
            data_preview.report(split.boxes, split.metainfo["classes"], recipe)
            if line := describe_epoch(split.boxes.images, recipe):
                LOG.info(line)
        else:
            LOG.info(summary.describe(split.boxes, split.metainfo["classes"], recipe.input_size))
    show("")
    refusals = [refusal for split in splits.values() for refusal in split.refusals]
    if not any(split.images for split in splits.values()):
        raise UserError(f"{config.data_dir}: no usable image in {' or '.join(names)}; {refusals[0]}")
    path = os.path.join(output, data_preview.IMAGE)
    train = splits.get("train")
    if train and train.images:
        with data_preview.log_failures(path):  # with --quick, a damaged image shows up only here
            batch, image_ids, layout = first_batch(train, config)
            data_preview.save_batch(path, batch, image_ids, layout, config.net_config, train.metainfo)
    if folder:
        count = write_browser(folder, os.path.basename(os.path.abspath(config.data_dir)), [*splits.values()], config)
        show(f"a page with {count} images: {os.path.join(folder, PAGE)}")
    checked = f"the {config.split} part of this data set" if config.split else "this data set"
    is_sound = all(split.is_sound for split in splits.values())
    show(f"conversion and evaluation accept {checked}" if is_sound else
         f"conversion or evaluation rejects {checked} or skips some of its images: see above")
    if train and train.images:
        LOG.info(next_steps(("src/dataset.py", *config.recipe(), "--coco_data_dir", config.data_dir, "--mindrecord_dir",
                             new_records(config.data_dir))))
    return 0 if is_sound else 1


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into this script's options and the arguments for get_config."""
    parser = OptionParser(
        add_quiet=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0 if conversion and evaluation accept the data set and all images that have objects,\n"
               "1 if not, 2 for a wrong option or if no image is usable.")
    parser.add_argument("--data_dir", metavar="DIR", help="data set folder")
    parser.add_argument("--config_path", metavar="FILE", action="append",
                        help="configuration to train with; may be given more than once")
    parser.add_argument("--quick", action="store_true",
                        help="read only the headers of the images; does not find images that are damaged further on")
    parser.add_argument("--browse", nargs="?", const=True, metavar="DIR",
                        help="write a page with all images, their boxes and what is suspicious into this folder "
                             "(default: browse in save_result_dir); open its index.html")
    options, arguments = parser.parse_known_args(argv)
    given = [("--config_path", path) for path in options.config_path or []]
    given += [("--data_dir", options.data_dir)] if options.data_dir is not None else []
    return options, [argument for pair in given for argument in pair] + arguments
