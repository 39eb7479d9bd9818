"""Make a data set that training and evaluation read of labels in another form.

Recognized are COCO (also Roboflow's and CVAT's exports), Pascal VOC with and without ImageSets, labelImg (XML beside the images) and YOLO
(data.yaml, txt). The output folder holds annotations/{train,val,test}.json and images/{train,val,test}/.
"""
import argparse
import glob
import os
import shlex

from ..core import errors
from ..core.backups import MARK, contains_mark, require_ours
from ..core.errors import UserError
from ..core.files import atomic_folder
from ..core.project import command
from ..inference.options import OptionParser


def main(argv=None):
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="FOLDER", help="folder with images and labels; it is not changed")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument("--val_fraction", type=float, default=0.2,
                        help="fraction of the training images that becomes the validation part where there is none (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the choice of these images (default: %(default)s)")
    parser.add_argument("--format", choices=("auto", "coco", "voc", "yolo"), default="auto",
                        help="form of the labels; voc is also labelImg's (default: %(default)s, what is recognized)")
    parser.add_argument("--zero_based", action="store_true", help="the boxes of VOC's XML files count pixels from 0, not from 1")
    options = parser.parse_args(argv)
    if not 0 < options.val_fraction < 1:
        raise UserError(f"--val_fraction is {options.val_fraction:g}; expected a number between 0 and 1")
    check_folders(options.input, options.output)

    from ..core.console import LOG, log_skipped, show
    from ..data.labels.common import coco_files, resolve_splits, summary
    from ..data.labels.formats import list_files  # what is slow to load is loaded when there is something to do

    files = list_files(options.input)
    labels = read_labels(options.input, files, choose_form(options.input, files, options.format), options.zero_based)
    try:
        resolve_splits(labels, options.val_fraction, options.seed)
    finally:
        for note in labels.notes:
            LOG.warning(note)
        log_skipped(labels.skipped)
    LOG.info(summary(labels))
    write(options.input, options.output, coco_files(labels))
    show(f"{len(labels.skipped)} images or objects skipped; wrote {options.output}; what comes next: {command('src/dataset.py')} "
         f"--coco_data_dir {shlex.quote(options.output)} --mindrecord_dir mindrecord")


def check_folders(source, output):
    """Raise UserError unless there is a folder to read, and the one to write is another that lies apart from it."""
    if os.path.isfile(source):
        raise UserError(f"--input is a file, {source}; expected the folder that it lies in")
    errors.require_dir(source, "folder of labels (--input)")
    paths = [os.path.realpath(path) for path in (source, output)]
    if os.path.commonpath(paths) in paths:
        raise UserError(f"--output {output} and --input {source} lie in each other; name an output folder beside the input")
    require_ours(os.path.normpath(output), is_import, option="--output")


def choose_form(folder, files, wanted):
    """The form of the labels, "coco", "voc" or "yolo": the one wanted, or with "auto" the one recognized, which is said.

    Raises UserError if none or several are.
    """
    from ..core.console import LOG
    from ..data.labels.formats import RECOGNIZED, endings, recognize

    found = [entry for entry in recognize(folder, files) if wanted in ("auto", entry.form)]
    if len(found) == 1:
        LOG.info(f"{folder}: {found[0].name} ({found[0].detail})")
    if wanted != "auto":
        return wanted
    if not found:
        raise UserError(f"{folder}: no labels are recognized; it holds {endings(files)}; recognized are {RECOGNIZED}")
    if len(found) > 1:
        several = " and ".join(f"{entry.name} ({entry.detail})" for entry in found)
        raise UserError(f"{folder}: it holds {several}; say which are meant with --format {' or '.join(entry.form for entry in found)}")
    return found[0].form


def read_labels(folder, files, form, zero_based):
    """The common.Labels of a folder. Raises UserError if it holds no images."""
    from ..data.labels import coco, voc, yolo
    from ..data.labels.formats import endings, images_of

    if not images_of(files):
        raise UserError(f"{folder}: it holds no images, which belong into the same folder as the labels; it holds {endings(files)}")
    if form == "voc":
        return voc.read(folder, files, 0 if zero_based else 1)
    return {"coco": coco, "yolo": yolo}[form].read(folder, files)


def write(source, output, parts):
    """Write {part: (COCO dictionary, [(path in source, file name)])} into a folder, which appears when it is whole; one of an earlier call
    is kept.

    The images are hard links where the file system can, else copies.
    """
    from ..core.console import progress
    from ..core.files import link_or_copy, write_json

    with errors.writing(output), atomic_folder(output, is_import) as partial:
        os.makedirs(os.path.join(partial, "annotations"))
        for part, (content, images) in parts.items():
            os.makedirs(os.path.join(partial, "images", part))
            for path, file_name in progress(images, f"writing images/{part}"):
                link_or_copy(os.path.join(source, path), os.path.join(partial, "images", part, file_name))
            content = {**content, "info": {"written_by": MARK, **content["info"]}}
            write_json(os.path.join(partial, "annotations", f"{part}.json"), content)


def is_import(folder):
    """The test for backups.back_up_existing whether a folder is a data set that this script wrote."""
    files = glob.glob(os.path.join(glob.escape(folder), "annotations", "*.json"))
    return os.path.isdir(folder) and (not os.listdir(folder) or any(map(contains_mark(), files)))
