"""Convert a labeled data set into the COCO format that training and evaluation read.

Input formats: COCO (including exports of Roboflow, CVAT and Label Studio), Pascal VOC with or without ImageSets,
labelImg (XML files next to the images), YOLO (data.yaml, .txt), DeepLabCut (CollectedData_*.csv) and KITTI
(training/image_2, label_2, calib). Writes images/{train,val,test}/ and annotations/{train,val,test}.json, or instead
of these person_keypoints_{train,val,test}2017.json for keypoints, which COCO, YOLO and DeepLabCut can have, and
kitti_{train,val,test}.json for 3D boxes, which COCO and KITTI can have.
"""
import argparse
import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..core import errors
from ..core.backups import MARK, contains_mark, require_ours
from ..core.errors import UserError
from ..core.files import atomic_folder
from ..core.project import next_steps
from ..inference.options import OptionParser

if TYPE_CHECKING:
    from ..data.labels.common import Labels


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="FOLDER", help="folder with images and labels; not modified")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to create")
    parser.add_argument("--val_fraction", type=float, default=0.2,
                        help="fraction of the training images to use for validation if there is no validation split "
                             "(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed for choosing these images (default: %(default)s)")
    parser.add_argument("--format", choices=("auto", "coco", "voc", "yolo", "deeplabcut", "kitti"), default="auto",
                        help="label format; voc includes labelImg (default: %(default)s, detect it)")
    parser.add_argument("--task", choices=("auto", "detection", "pose", "ddd"), default="auto",
                        help="what to import: boxes for detection, boxes and keypoints for pose, boxes and 3D boxes "
                             "for ddd (default: %(default)s, keypoints and 3D boxes if the labels have them)")
    parser.add_argument("--zero_based", action="store_true",
                        help="pixel coordinates in VOC XML files start at 0 instead of 1")
    parser.add_argument("--kitti_split", metavar="NAME",
                        help="KITTI's lists of images, if there are several: 3dop for ImageSets_3dop")
    options = parser.parse_args(argv)
    if not 0 < options.val_fraction < 1:
        raise UserError(f"--val_fraction is {options.val_fraction:g}; expected a number between 0 and 1")
    check_folders(options.input, options.output)

    # Slow to load, so not before there is something to do.
    from ..core.console import LOG, log_skipped, show
    from ..data.labels.choice import choose_task
    from ..data.labels.common import coco_files, resolve_splits, summary
    from ..data.labels.formats import list_files
    from ..data.manifest import new_records

    files = list_files(options.input)
    form = choose_form(options.input, files, options.format, options.task)
    labels = read_labels(options.input, files, form, options)
    try:
        choose_task(labels, options.task)
        resolve_splits(labels, options.val_fraction, options.seed)
    finally:
        for note in [*labels.notes, *(f"{count} {message}" for message, count in labels.repairs.items() if count)]:
            LOG.warning(note)
        log_skipped(labels.skipped)
    LOG.info(summary(labels))
    write(options.input, options.output, coco_files(labels))
    show(f"{len(labels.skipped)} images or objects skipped; wrote {options.output}")
    LOG.info(next_steps(("tools/check_dataset.py", "--data_dir", options.output),
                        ("src/dataset.py", "--coco_data_dir", options.output, "--mindrecord_dir",
                         new_records(options.output))))


def check_folders(source: str, output: str) -> None:
    """Raise UserError unless the input is a folder, and neither folder contains the other."""
    if os.path.isfile(source):
        raise UserError(f"--input is a file, {source}; expected its folder")
    errors.require_dir(source, "folder of labels (--input)")
    paths = [os.path.realpath(path) for path in (source, output)]
    if os.path.commonpath(paths) in paths:
        raise UserError(f"--output {output} and --input {source} overlap; choose an output folder outside the input")
    require_ours(os.path.normpath(output), is_import, option="--output")


def choose_form(folder: str, files: list[str], wanted: str, task: str) -> str:
    """Return the label format (--format): the one wanted or, for "auto", the one recognized, and log it.

    Raises UserError if no format or several formats are recognized.
    """
    from ..core.console import LOG
    from ..data.labels.formats import RECOGNIZED, endings, recognize

    found = [entry for entry in recognize(folder, files, task == "pose") if wanted in ("auto", entry.form)]
    if len(found) == 1:
        LOG.info(f"{folder}: {found[0].name} ({found[0].detail})")
    if wanted != "auto":
        return wanted
    if not found:
        raise UserError(f"{folder}: label format not recognized in {endings(files)}; supported are {RECOGNIZED}")
    if len(found) > 1:
        several = " and ".join(f"{entry.name} ({entry.detail})" for entry in found)
        forms = " or ".join(entry.form for entry in found)
        raise UserError(f"{folder} contains {several}; choose with --format {forms}")
    return found[0].form


def read_labels(folder: str, files: list[str], form: str, options: argparse.Namespace) -> "Labels":
    """The Labels of a folder. Raises UserError if it contains no images, or for --kitti_split with another format."""
    from ..data.labels import coco, deeplabcut, kitti, voc, yolo
    from ..data.labels.formats import endings, images_of

    if form != "kitti" and options.kitti_split is not None:
        raise UserError(f"--kitti_split chooses among KITTI's lists of images, but the labels in {folder} are read as "
                        f"{form}; leave it out")
    if not images_of(files):
        raise UserError(f"{folder}: no images; expected images and labels in one folder, and found {endings(files)}")
    if form == "voc":
        return voc.read(folder, files, 0 if options.zero_based else 1)
    if form == "kitti":
        return kitti.read(folder, files, options.task, options.kitti_split)
    if form == "deeplabcut":
        return deeplabcut.read(folder, files)
    return (coco if form == "coco" else yolo).read(folder, files, options.task)


def write(source: str, output: str, splits: Mapping[str, tuple[dict, list[tuple[str, str]]]]) -> None:
    """Write {split: (COCO dictionary, [(path in source, file name)])} into a folder, which appears when it is complete.

    Images are hard links where the file system allows it, else copies. The folder of an earlier run is backed up.
    """
    from ..core.console import progress
    from ..core.files import link_or_copy, write_json

    name = annotation_name(content for content, _ in splits.values())
    with errors.writing(output), atomic_folder(output, is_import) as partial:
        os.makedirs(os.path.join(partial, "annotations"))
        for split, (content, images) in splits.items():
            os.makedirs(os.path.join(partial, "images", split))
            for path, file_name in progress(images, f"writing images/{split}"):
                link_or_copy(os.path.join(source, path), os.path.join(partial, "images", split, file_name))
            content = {**content, "info": {"written_by": MARK, **content["info"]}}
            write_json(os.path.join(partial, "annotations", name.format(split=split)), content)


def annotation_name(contents: Iterable[dict]) -> str:
    """The name, with {split}, of the annotation files with these contents, from which later commands know their task:
    one that fits a content, as a split may have no objects."""
    from ..tasks import fitting_task
    from ..tasks.detection import DETECTION

    task = next((task for task in map(fitting_task, contents) if task is not DETECTION), DETECTION)
    return "{split}.json" if task is DETECTION else task.annotations[0]


def is_import(folder: str) -> bool:
    """Whether a folder is a data set that this script wrote."""
    files = glob.glob(os.path.join(glob.escape(folder), "annotations", "*.json"))
    return os.path.isdir(folder) and (not os.listdir(folder) or any(map(contains_mark(), files)))
