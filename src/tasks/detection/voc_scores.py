"""Pascal VOC's average precision, as its development kit defines it, for COCO records."""
import numpy as np
from pycocotools import mask

from ...core import tables

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


def judge(ground_truth, detections):
    """Judge the detections of one class: (true positives, false positives), bool [M] each, best score first, and the number of objects.

    Args: ground_truth {image id: annotations}, detections the class's records. A detection belongs to the object it overlaps most, by
    0.5 at least; the first of an object is a true positive, the next are false positives; one of a difficult object counts as neither,
    and so does one of no object of which half lies in a crowd, which VOC does not have and COCO ignores.
    """
    crowds = {image_id: [annotation["bbox"] for annotation in annotations if annotation.get("iscrowd")]
              for image_id, annotations in ground_truth.items()}
    ground_truth = {image_id: [annotation for annotation in annotations if not annotation.get("iscrowd")]
                    for image_id, annotations in ground_truth.items()}
    order = np.argsort([-record["score"] for record in detections], kind="stable")
    true_positives, false_positives = np.zeros(len(order), bool), np.zeros(len(order), bool)
    boxes = {image_id: [annotation["bbox"] for annotation in annotations] for image_id, annotations in ground_truth.items()}
    difficult = {image_id: [is_difficult(annotation) for annotation in annotations] for image_id, annotations in ground_truth.items()}
    overlaps, indices = {}, {}
    for index, record in enumerate(detections):
        indices.setdefault(record["image_id"], []).append(index)
    for image_id, of_image in indices.items():
        if boxes.get(image_id):
            of_class = [detections[index]["bbox"] for index in of_image]
            overlaps.update(zip(of_image, mask.iou(of_class, boxes[image_id], [0] * len(boxes[image_id]))))
    taken = set()
    for rank, index in enumerate(order):
        image_id = detections[index]["image_id"]
        best = int(np.argmax(overlaps[index])) if index in overlaps else None
        if best is None or overlaps[index][best] < IOU:
            regions = crowds.get(image_id)
            false_positives[rank] = not regions or mask.iou([detections[index]["bbox"]], regions, [1] * len(regions)).max() < IOU
        elif not difficult[image_id][best]:
            true_positives[rank] = (image_id, best) not in taken
            false_positives[rank] = not true_positives[rank]
            taken.add((image_id, best))
    return true_positives, false_positives, sum(not flag for flags in difficult.values() for flag in flags)


def score(coco, records):
    """VOC's evaluation of COCO records: {rule: {class name: AP, None without objects}}, and {class name: objects that count}."""
    result = {rule: {} for rule in RULES}
    objects = {}
    by_class = {category_id: [] for category_id in coco.cats}
    for record in records:
        by_class[record["category_id"]].append(record)
    for category_id in sorted(coco.cats):
        name = coco.cats[category_id]["name"]
        ground_truth = {}
        for number in coco.getAnnIds(catIds=[category_id]):
            ground_truth.setdefault(coco.anns[number]["image_id"], []).append(coco.anns[number])
        true_positives, false_positives, objects[name] = judge(ground_truth, by_class[category_id])
        right, wrong = np.cumsum(true_positives), np.cumsum(false_positives)
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
    rows = [[name, str(count), *(score_text(result[rule][name]) for rule in RULES)] for name, count in objects.items()]
    rows.append(["mAP", str(sum(objects.values())), *(score_text(mean(result[rule])) for rule in RULES)])
    return tables.table(["class", "objects", "AP 11 points", "AP area"], rows)


def score_text(value):
    """A score as a table has it."""
    return "-" if value is None else f"{value:.3f}"
