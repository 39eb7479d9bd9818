"""Merge COCO annotation files of the same classes into one: VOC2007 and VOC2012 into pascal_trainval0712.json."""
import itertools

from ..core.backups import MARK
from ..core.errors import UserError
from ..inference.options import OptionParser


def main(argv=None):
    parser = OptionParser(description=__doc__)
    parser.add_argument("--inputs", nargs="+", required=True, metavar="FILE", help="annotation files")
    parser.add_argument("--output", required=True, metavar="FILE", help="annotation file to write")
    options = parser.parse_args(argv)

    from ..core.backups import contains_mark, require_ours
    from ..core.console import show
    from ..core.files import write_json
    from ..data.coco import log_notes, read_coco

    require_ours(options.output, contains_mark(), option="--output")
    parts = [(path, read_coco(path)) for path in options.inputs]
    for _, coco in parts:
        log_notes(coco)
    merged, renumbered = merge([(path, coco.dataset) for path, coco in parts])
    write_json(options.output, merged, contains_mark())
    show(f"{len(merged['images'])} images, {len(merged['annotations'])} objects, {len(merged['categories'])} classes, "
         f"{renumbered} ids were taken and got new ones: {options.output}")


def merge(parts):
    """(one COCO dictionary, ids changed) of [(path, COCO dictionary)]. Ids stay, unless an earlier part has them.

    Raises UserError if the classes differ, or two parts hold the same image.
    """
    first_path, first = parts[0]
    classes = {category["id"]: category["name"] for category in first["categories"]}
    names = " + ".join((part.get("info") or {}).get("description", path) for path, part in parts)
    merged = {"info": {"written_by": MARK, "description": names},
              "images": [], "annotations": [], "categories": first["categories"]}
    origin, renumbered = {}, 0
    image_ids, annotation_ids = (unused([entry["id"] for _, part in parts for entry in part[kind]]) for kind in ("images", "annotations"))
    taken_images, taken_annotations = set(), set()
    for path, part in parts:
        if {category["id"]: category["name"] for category in part["categories"]} != classes:
            raise UserError(f"{path} has other classes than {first_path}")
        new_ids = {}
        for info in part["images"]:
            if info["file_name"] in origin:
                raise UserError(f"image {info['file_name']} is in {origin[info['file_name']]} and in {path}")
            origin[info["file_name"]] = path
            new_ids[info["id"]] = claim(info["id"], taken_images, image_ids)
            renumbered += new_ids[info["id"]] != info["id"]
            merged["images"].append({**info, "id": new_ids[info["id"]]})
        for annotation in part["annotations"]:
            if annotation["image_id"] not in new_ids:
                raise UserError(f"{path}: annotation {annotation['id']} is of image {annotation['image_id']}, which it does not list")
            number = claim(annotation["id"], taken_annotations, annotation_ids)
            renumbered += number != annotation["id"]
            merged["annotations"].append({**annotation, "id": number, "image_id": new_ids[annotation["image_id"]]})
    return merged, renumbered


def unused(ids):
    """Numbers that are none of the ids, in order."""
    return itertools.count(max(ids, default=0) + 1)


def claim(number, taken, others):
    """number if it is free, else the next of the others; it is then taken."""
    number = next(others) if number in taken else number
    taken.add(number)
    return number
