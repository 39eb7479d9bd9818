"""Merge COCO-format annotation files with the same classes, such as those of VOC2007 and VOC2012."""
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ..core.backups import MARK
from ..core.errors import UserError
from ..inference.options import OptionParser


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__)
    parser.add_argument("--inputs", nargs="+", required=True, metavar="FILE", help="annotation files to merge")
    parser.add_argument("--output", required=True, metavar="FILE", help="annotation file to write")
    options = parser.parse_args(argv)

    from ..core.backups import contains_mark, require_ours
    from ..core.console import show
    from ..core.files import write_json
    from ..data.coco import log_notes, read_coco

    require_ours(options.output, contains_mark(), option="--output")
    inputs = [(path, read_coco(path)) for path in options.inputs]
    for _, coco in inputs:
        log_notes(coco)
    merged, renumbered = merge([(path, coco.dataset) for path, coco in inputs])
    write_json(options.output, merged, contains_mark())
    show(f"{len(merged['images'])} images, {len(merged['annotations'])} objects, {len(merged['categories'])} classes, "
         f"{renumbered} conflicting ids renumbered: {options.output}")


def merge(inputs: Sequence[tuple[str, dict[str, Any]]]) -> tuple[dict[str, Any], int]:
    """Merge inputs [(path, COCO dictionary)]; return (COCO dictionary, number of changed ids). Ids are kept unless an
    earlier input uses them.

    Raises UserError if the classes differ, or two inputs have the same image.
    """
    first_path, first = inputs[0]
    classes = {category["id"]: category["name"] for category in first["categories"]}
    names = " + ".join((content.get("info") or {}).get("description", path) for path, content in inputs)
    merged: dict[str, Any] = {"info": {"written_by": MARK, "description": names},
                              "images": [], "annotations": [], "categories": first["categories"]}
    origin: dict[str, str] = {}
    renumbered = 0
    image_ids, annotation_ids = (unused([entry["id"] for _, content in inputs for entry in content[kind]])
                                 for kind in ("images", "annotations"))
    used_images: set[int] = set()
    used_annotations: set[int] = set()
    for path, content in inputs:
        if {category["id"]: category["name"] for category in content["categories"]} != classes:
            raise UserError(f"{path} has other classes than {first_path}")
        new_ids = {}
        for info in content["images"]:
            if info["file_name"] in origin:
                raise UserError(f"image {info['file_name']} is in both {origin[info['file_name']]} and {path}")
            origin[info["file_name"]] = path
            new_ids[info["id"]] = claim(info["id"], used_images, image_ids)
            renumbered += new_ids[info["id"]] != info["id"]
            merged["images"].append({**info, "id": new_ids[info["id"]]})
        for annotation in content["annotations"]:
            if annotation["image_id"] not in new_ids:
                raise UserError(f"{path}: annotation {annotation['id']} is of image {annotation['image_id']}, "
                                "which is not in the file")
            number = claim(annotation["id"], used_annotations, annotation_ids)
            renumbered += number != annotation["id"]
            merged["annotations"].append({**annotation, "id": number, "image_id": new_ids[annotation["image_id"]]})
    return merged, renumbered


def unused(ids: Sequence[int]) -> Iterator[int]:
    """Numbers above all ids, in order."""
    return itertools.count(max(ids, default=0) + 1)


def claim(number: int, used: set[int], others: Iterator[int]) -> int:
    """Return number if it is not in `used`, else the next of the others; add the result to `used`."""
    number = next(others) if number in used else number
    used.add(number)
    return number
