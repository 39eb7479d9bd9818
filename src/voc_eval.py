"""Pascal VOC's average precision, as its development kit defines it, for COCO records."""
import numpy as np
from pycocotools import mask

IOU = 0.5
RULES = {"11 points": True, "area": False}  # VOC2007's, and that of 2010 and later


def is_difficult(annotation):
    """Whether an annotation is marked difficult; ready-made files say `ignore`."""
    return bool(annotation.get("difficult", annotation.get("ignore", 0)))


def average_precision(recall, precision, eleven_points):
    """AP of recall and precision [M] after each detection, best first.

    eleven_points: the mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or more; else the area under the
    precision that is made to fall with recall.
    """
    if eleven_points:
        return float(np.mean([precision[recall >= level].max(initial=0.0) for level in np.linspace(0, 1, 11) - 1e-12]))
    recall = np.concatenate([[0.0], recall, [1.0]])
    best = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * best[1:]))


def judge(truths, detections):
    """Which detections of one class are right: (hits, false alarms), bool [M] each, best score first, and the number of objects.

    Args: truths {image id: annotations}, detections the class's records. A detection belongs to the object it overlaps most, by 0.5 at
    least; the first of an object is a hit, the next are false alarms; one of a difficult object counts as neither.
    """
    order = np.argsort([-record["score"] for record in detections], kind="stable")
    hits, false_alarms = np.zeros(len(order), bool), np.zeros(len(order), bool)
    boxes = {image_id: [annotation["bbox"] for annotation in annotations] for image_id, annotations in truths.items()}
    difficult = {image_id: [is_difficult(annotation) for annotation in annotations] for image_id, annotations in truths.items()}
    overlaps, places = {}, {}
    for place, record in enumerate(detections):
        places.setdefault(record["image_id"], []).append(place)
    for image_id, of_image in places.items():
        if boxes.get(image_id):
            found = [detections[place]["bbox"] for place in of_image]
            overlaps.update(zip(of_image, mask.iou(found, boxes[image_id], [0] * len(boxes[image_id]))))
    taken = set()
    for rank, place in enumerate(order):
        image_id = detections[place]["image_id"]
        best = int(np.argmax(overlaps[place])) if place in overlaps else None
        if best is None or overlaps[place][best] < IOU:
            false_alarms[rank] = True
        elif not difficult[image_id][best]:
            hits[rank] = (image_id, best) not in taken
            false_alarms[rank] = not hits[rank]
            taken.add((image_id, best))
    return hits, false_alarms, sum(not flag for flags in difficult.values() for flag in flags)


def score(coco, records):
    """VOC's evaluation of COCO records: {rule: {class name: AP, None without objects}}, and {class name: objects that count}."""
    result = {rule: {} for rule in RULES}
    objects = {}
    by_class = {category_id: [] for category_id in coco.cats}
    for record in records:
        by_class[record["category_id"]].append(record)
    for category_id in sorted(coco.cats):
        name = coco.cats[category_id]["name"]
        truths = {}
        for number in coco.getAnnIds(catIds=[category_id]):
            truths.setdefault(coco.anns[number]["image_id"], []).append(coco.anns[number])
        hits, false_alarms, objects[name] = judge(truths, by_class[category_id])
        right, wrong = np.cumsum(hits), np.cumsum(false_alarms)
        for rule, eleven_points in RULES.items():
            result[rule][name] = None
            if objects[name]:
                precision = right / np.maximum(right + wrong, 1)
                result[rule][name] = average_precision(right / objects[name], precision, eleven_points)
    return result, objects


def mean(of_classes):
    """The mean over the classes that have objects."""
    known = [value for value in of_classes.values() if value is not None]
    return float(np.mean(known)) if known else 0.0


def table(result, objects):
    """score()'s results as lines of text."""
    width = max(len("class"), *(len(name) for name in objects))
    lines = [f"{'class':{width}} {'objects':>8} {'AP 11 points':>13} {'AP area':>8}"]
    for name, count in objects.items():
        values = [" -" if result[rule][name] is None else f"{result[rule][name]:.3f}" for rule in RULES]
        lines.append(f"{name:{width}} {count:>8} {values[0]:>13} {values[1]:>8}")
    means = [f"{mean(result[rule]):.3f}" for rule in RULES]
    lines.append(f"{'mAP':{width}} {sum(objects.values()):>8} {means[0]:>13} {means[1]:>8}")
    return "\n".join(lines)
