"""src/tasks/pose/scores.py against pycocotools and calculations by hand."""
import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.tasks.detection import scores as boxes
from src.tasks.pose import keypoints, results, scores, targets
from tests.conftest import lines_with, user_error
from tests.tasks.pose.test_keypoints import CRAB, FOX, metainfo_of

PERSON = {"id": 1, "name": "person", "keypoints": keypoints.COCO_NAMES}


def coco_of(categories, objects):
    """A COCO of objects [(image id, category id, box x, y, w, h, keypoints)], checked as when read from a file."""
    metainfo = metainfo_of(*categories)
    entries = []
    for number, (image_id, category, box, points) in enumerate(objects, 1):
        entry = {"id": number, "image_id": image_id, "category_id": category, "bbox": list(box), "iscrowd": 0,
                 "area": box[2] * box[3], "keypoints": list(points)}
        targets.check_annotation(entry, metainfo, {})
        entries.append(entry)
    coco = COCO()
    coco.dataset = {"info": {}, "images": [{"id": number} for number in {entry["image_id"] for entry in entries}],
                    "annotations": entries, "categories": list(categories)}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco, metainfo


def people(count=6, seed=0):
    """(coco of people in three images, records of them with noise)."""
    rng = np.random.default_rng(seed)
    objects = []
    for number in range(count):
        box = np.array([50 * number, 20, 40 + 10 * number, 90])
        points = np.column_stack([box[0] + rng.random(17) * box[2], box[1] + rng.random(17) * box[3],
                                  rng.integers(0, 3, 17)])
        objects.append((number % 3, 1, box.tolist(), points.ravel()))
    coco, metainfo = coco_of([PERSON], objects)
    records = []
    for entry in coco.dataset["annotations"]:
        row = results.rows_from_objects({
            "boxes": np.array([[*entry["bbox"][:2], *np.add(entry["bbox"][:2], entry["bbox"][2:])]], np.float32),
            "labels": np.array([0]), "keypoints": np.array([entry["keypoints"]], np.float32)})
        points = row[:, 6:].reshape(1, 17, 3)
        points[:, :, :2] += rng.normal(0, 3, (1, 17, 2))
        row[0, 4] = rng.random()
        records += results.coco_records(entry["image_id"], row, metainfo["category_ids"])
    return coco, records


def test_people_score_as_in_pycocotools():
    coco, records = people()
    _, metrics = scores.score(coco, records)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCOeval(coco, coco.loadRes(records), "keypoints")
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
        boxes = COCOeval(coco, coco.loadRes(records), "bbox")
        boxes.evaluate()
        boxes.accumulate()
        boxes.summarize()
    assert [metrics[name] for name in scores.OKS_NAMES] == expected.stats.tolist()
    assert 0.1 < metrics["AP"] < 1 and metrics["AP_per_class"]["person"] == pytest.approx(metrics["AP"])
    assert metrics["box_AP"] == boxes.stats[0] == pytest.approx(1)


def test_pck_and_errors_by_hand():
    """Two foxes in one image, one found with keypoints 3, 5 and 20 pixels off, one missed; boxes of 100x50."""
    boxes = [[0, 0, 100, 50], [200, 0, 100, 50]]
    points = [10, 10, 2, 20, 10, 1, 30, 10, 2, 0, 0, 0]
    second = np.add(points, [200, 0, 0] * 4).tolist()
    coco, _ = coco_of([FOX], [(1, 7, boxes[0], points), (1, 7, boxes[1], second)])
    found = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 100, 50], "score": 0.5,
             "keypoints": [13, 10, 1, 20, 15, 1, 30, 30, 1, 0, 0, 0]}
    worse = {**found, "score": 0.2, "keypoints": [0] * 12}  # the better score finds the object
    text, metrics = scores.score(coco, [worse, found])
    assert metrics["error_px"] == pytest.approx((3 + 5 + 20) / 3) and metrics["found_objects"] == 0.5
    assert [metrics[name] for name in scores.PCK] == pytest.approx([2 / 6, 2 / 6, 3 / 6])  # of both objects' keypoints
    assert metrics["error_px_per_keypoint"] == pytest.approx({"nose": 3, "left_ear": 5, "right_ear": 20, "tail": None})
    assert lines_with(text, "mean error 9.33 pixels", "50.0 %") and lines_with(text, "right_ear", "20.00")
    assert metrics["objects_per_class"] == {"fox": 2}


def test_detections_take_the_objects_that_they_overlap_most():
    """In the order of their scores, each object once; other classes do not find it."""
    objects = [{"bbox": [0, 0, 10, 10], "keypoints": []}, {"bbox": [2, 0, 10, 10], "keypoints": []}]
    first, second, third = ({"bbox": [x, 0, 10, 10], "score": score} for x, score in ((1.5, 0.9), (2, 0.8), (2, 0.7)))
    assert boxes.pairs_by_score(objects, [third, second, first]) == [(objects[0], second), (objects[1], first)]
    assert boxes.pairs_by_score(objects, []) == [(objects[0], None), (objects[1], None)]


def test_a_subset_of_keypoints(make_config):
    """The nose is right, and the ears are far off; an object without the chosen keypoints does not count."""
    points = [10, 10, 2, 20, 10, 1, 30, 10, 2, 0, 0, 0]
    earless = [0, 0, 0, 20, 10, 2, 30, 10, 2, 5, 5, 2]
    coco, _ = coco_of([FOX], [(1, 7, [0, 0, 100, 50], points), (2, 7, [0, 0, 100, 50], earless)])
    found = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 100, 50], "score": 0.5,
             "keypoints": [10, 10, 1, 90, 50, 1, 90, 50, 1, 90, 50, 1]}
    wrong, right = (scores.score(coco, [found], make_config(*args).eval_config)[1]
                    for args in ((), ("--eval_config.keypoints", "[nose]")))
    assert wrong["AP"] == 0 and right["AP"] == pytest.approx(1) and right["PCK_05"] == 1
    assert right["objects_per_class"] == {"fox": 1} and wrong["objects_per_class"] == {"fox": 2}
    with user_error("eval_config.keypoints", "knee"):
        scores.score(coco, [found], make_config("--eval_config.keypoints", "[knee]").eval_config)


def test_larger_sigmas_forgive_more(make_config):
    coco, records = people(seed=1)
    strict, mild = (scores.score(coco, records, make_config("--eval_config.kpt_oks_sigmas", value).eval_config)[1]["AP"]
                    for value in ("0.01", "0.5"))
    assert strict < scores.score(coco, records)[1]["AP"] < mild


def test_classes_with_other_keypoints():
    """Each class is scored on its own; a crab found as a fox is not found."""
    fox, crab = [10, 10, 2] * 4, [60, 20, 2] * 3
    coco, _ = coco_of([FOX, CRAB], [(1, 7, [0, 0, 40, 40], fox), (1, 3, [50, 0, 40, 40], crab)])
    records = [{"image_id": 1, "category_id": 7, "bbox": entry["bbox"], "score": 0.9, "keypoints": entry["keypoints"]}
               for entry in coco.dataset["annotations"]]
    metrics = scores.score(coco, records)[1]
    assert metrics["AP_per_class"] == pytest.approx({"crab": 0, "fox": 1}) and metrics["found_objects"] == 0.5
    assert "fox" in scores.class_table(metrics)


def test_no_detections_and_no_keypoints():
    coco, _ = people()
    _, metrics = scores.score(coco, [])
    assert metrics["AP"] == metrics["PCK_20"] == metrics["found_objects"] == 0 and metrics["error_px"] is None
    bare, _ = coco_of([FOX], [(1, 7, [0, 0, 40, 40], [0] * 12)])
    text, metrics = scores.score(bare, [])
    assert metrics["AP"] == metrics["PCK_10"] == -1 and metrics["box_AP"] == 0
    assert lines_with(text, "no object has labeled keypoints")


def test_an_images_quality_is_that_of_its_keypoints():
    """The mean over the image of pycocotools' OKS, since every person is found; a box without labeled keypoints counts
    as right."""
    coco, records = people()
    evaluation = COCOeval(coco, coco.loadRes([dict(record) for record in records]), "keypoints")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    for image_id, quality in scores.image_quality(coco, records, 0).items():
        oks = evaluation.computeOks(image_id, 1)  # rows: detections, the best first; columns: people in order
        own = sorted((record for record in records if record["image_id"] == image_id), key=lambda one: -one["score"])
        truth = [entry["bbox"] for entry in coco.imgToAnns[image_id]]
        pairs = [oks[row, int(np.abs(np.subtract(truth, record["bbox"])).sum(1).argmin())]
                 for row, record in enumerate(own)]
        assert quality == pytest.approx(np.mean(pairs)) and 0 < quality < 1
    coco.dataset["annotations"][0]["keypoints"] = [0] * 51
    alone = [record for record in records if record["image_id"] == 0][:1]
    assert scores.image_quality(coco, alone, 0)[0] == pytest.approx(1 / 1.5)
