"""KITTI's categories: which are classes, and which are regions that count as neither object nor background.

Source: the original's datasets/dataset/kitti.py.
"""
import itertools

CLASSES = ("Pedestrian", "Car", "Cyclist")
KITTI = (*CLASSES, "Van", "Truck", "Person_sitting", "Tram", "Misc", "DontCare")  # their ids count from 1
# Of the other categories: the classes for which they are ignored; without one, they are background.
IGNORED: dict[str, tuple[str, ...]] = {"Van": ("Car",), "Truck": ("Car",), "Person_sitting": ("Pedestrian",),
                                       "Tram": (), "Misc": (), "DontCare": CLASSES}


def select(categories: list[dict], annotations: list[dict]) -> tuple[list[dict], list[dict]]:
    """(categories that are classes, annotations of these, with ignored ones as crowds) of an annotation file.

    In a file with DontCare or all of KITTI's CLASSES, IGNORED categories are no classes: each of their annotations
    becomes a crowd of every class for which it is ignored, with its category's name as `type`. DontCare regions are
    ignored for all classes of the file.
    """
    ids = {entry["name"]: entry["id"] for entry in categories}
    if "DontCare" not in ids and not set(CLASSES) <= set(ids):
        return categories, annotations
    others = {entry["id"]: entry["name"] for entry in categories if entry["name"] in IGNORED}
    classes = [entry for entry in categories if entry["id"] not in others]
    kept: list[dict] = []
    known = [entry.get("id") for entry in annotations]
    new_ids = itertools.count(1 + max((number for number in known if isinstance(number, int)), default=0))
    for entry in annotations:
        name = others.get(entry["category_id"])
        if name is None:
            kept.append(entry)
            continue
        ignored = [one["name"] for one in classes] if name == "DontCare" else IGNORED[name]
        crowd = {**entry, "iscrowd": 1, "type": name}
        copies = [{**crowd, "category_id": ids[one]} for one in ignored if one in ids]
        kept += [*copies[:1], *({**copy, "id": next(new_ids)} for copy in copies[1:])]
    return classes, kept
