"""Write a COCO annotation file from a Pascal VOC folder: Annotations/*.xml, ImageSets/Main/<split>.txt, JPEGImages/.

VOC counts pixels from 1, and a box's last pixel belongs to it: x = xmin - 1, width = xmax - xmin + 1, likewise y and height.
"""
import argparse
import hashlib
import os
import re
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src import errors
from src.errors import UserError
from src.options import OptionParser
from src.utils import link_or_copy
from src.voc_labels import read_list, read_objects, read_xml, stated_size

VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
               "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
OBJECTS_AN_IMAGE = 10_000  # annotation ids are image id x this + number in the image
LARGEST_ID = 2**38  # of an image, so that annotation ids stay exact in pycocotools' float64


def main(argv=None):
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc_dir", required=True, help="folder with Annotations/, ImageSets/Main/ and JPEGImages/")
    parser.add_argument("--split", required=True, help="list of images, ImageSets/Main/<split>.txt: trainval, test, ...")
    parser.add_argument("--output", required=True, help="annotation file to write, .json")
    parser.add_argument("--classes", help="class names in their order, separated by commas (default: VOC's 20 if there are no others, "
                                          "else all names of the folder's annotations, sorted)")
    parser.add_argument("--image_dir", help="put the images of the list there, too (as links where that is possible)")
    parser.add_argument("--zero_based", action="store_true", help="the boxes count pixels from 0")
    options = parser.parse_args(argv)

    from src.utils import MARK, log, log_skipped, require_ours, says, write_json

    require_ours(options.output, says(), option="--output")

    for folder in ("Annotations", "JPEGImages"):
        errors.require_dir(os.path.join(options.voc_dir, folder), f"VOC folder's {folder}")
    files = {os.path.splitext(file)[0]: file for file in sorted(os.listdir(os.path.join(options.voc_dir, "JPEGImages")))}
    names = read_list(os.path.join(options.voc_dir, "ImageSets", "Main", f"{options.split}.txt"), files)
    ids = image_ids(set(files) | set(names))
    classes = [name.strip() for name in options.classes.split(",")] if options.classes else find_classes(options.voc_dir)
    dataset, skipped, begin_at_0 = convert(options.voc_dir, names, files, ids, classes, 0 if options.zero_based else 1)
    if not dataset["images"]:
        raise UserError(f"{options.voc_dir}: no image of {options.split} can be used; {skipped[0] if skipped else 'the list is empty'}")
    name = f"{os.path.basename(os.path.abspath(options.voc_dir))} {options.split}"
    dataset = {"info": {"written_by": MARK, "description": name, "skipped": skipped}, **dataset}
    log_skipped(skipped)
    if begin_at_0 and not options.zero_based:
        log(f"{begin_at_0} boxes begin before the first pixel: if these annotations count from 0, give --zero_based")
    if options.image_dir:
        link_images(options.voc_dir, [info["file_name"] for info in dataset["images"]], options.image_dir)
    write_json(options.output, dataset, says())
    difficult = sum(annotation["difficult"] for annotation in dataset["annotations"])
    log(f"{len(dataset['images'])} images, {len(dataset['annotations'])} objects ({difficult} difficult), {len(classes)} classes, "
        f"{len(skipped)} images or objects skipped: {options.output}")


def image_ids(names):
    """{name: id} that does not depend on the split: the digits of the name (2008_000008: 2008000008) if they tell the folder's images
    apart, else a number made of the name's SHA-1. Raises UserError if two names get one id."""
    digits = {name: re.sub(r"\D", "", name) for name in names}
    if all(value and int(value) < LARGEST_ID for value in digits.values()) and len({int(value) for value in digits.values()}) == len(names):
        return {name: int(value) for name, value in digits.items()}
    ids = {name: int(hashlib.sha1(name.encode()).hexdigest(), 16) % LARGEST_ID for name in names}
    if len(set(ids.values())) < len(names):
        raise UserError("two image names give the same id; rename one of them")
    return ids


def find_classes(voc_dir):
    """The class names of a folder: VOC's 20 if there are no others."""
    folder = os.path.join(voc_dir, "Annotations")
    found = set()
    for file in sorted(os.listdir(folder)):
        if file.endswith(".xml"):
            try:
                found |= {(entry.findtext("name") or "").strip() for entry in read_xml(os.path.join(folder, file)).iter("object")}
            except ValueError:
                continue  # named where it is converted
    found.discard("")
    if not found:
        raise UserError(f"{folder}: no annotation names a class")
    return list(VOC_CLASSES) if found <= set(VOC_CLASSES) else sorted(found)


def convert(voc_dir, names, files, ids, classes, first):
    """(COCO dictionary, sentences about what was left out, boxes that begin before pixel `first`) of the images named."""
    labels = {name: number for number, name in enumerate(classes, 1)}
    images, annotations, skipped = [], [], []
    begin_before = 0

    def refuse(class_name):
        return "" if class_name in labels else f"unknown class {class_name!r}"

    for name in names:
        path = os.path.join(voc_dir, "Annotations", f"{name}.xml")
        if name not in files:
            skipped.append(f"image {name}: not in {os.path.join(voc_dir, 'JPEGImages')}")
            continue
        try:
            root = read_xml(path)
            width, height = stated_size(root)
        except (OSError, ValueError) as error:
            skipped.append(f"image {name} ({path}): {errors.reason(error)}")
            continue
        images.append({"id": ids[name], "file_name": files[name], "width": width, "height": height})
        objects = read_objects(root, first, f"image {name} ({path})", refuse, skipped)
        begin_before += sum(min(annotation["bbox"][:2]) < 0 for _, _, annotation in objects)
        for number, class_name, annotation in objects:
            own = {"id": ids[name] * OBJECTS_AN_IMAGE + number, "image_id": ids[name], "category_id": labels[class_name]}
            annotations.append({**own, **annotation})
    categories = [{"id": number, "name": name, "supercategory": "none"} for name, number in labels.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, skipped, begin_before


def link_images(voc_dir, files, folder):
    """Put image files of JPEGImages into a folder, as hard links where the file system can; what is there stays."""
    os.makedirs(folder, exist_ok=True)
    for file in files:
        source, target = os.path.join(voc_dir, "JPEGImages", file), os.path.join(folder, file)
        if not os.path.lexists(target):
            link_or_copy(source, target)


if __name__ == "__main__":
    errors.run(main)
