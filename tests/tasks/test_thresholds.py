"""src/tasks/detection/thresholds.py: precision, recall and F1 over the score threshold."""
import numpy as np
import pytest

from src.data.coco import read_coco
from src.tasks.detection import scores
from src.tasks.detection.thresholds import count, point_rows, point_table, threshold_curves
from tests.conftest import noise_image, write_coco


def read(folder, objects, classes=("a", "b"), images=1):
    """The COCO data set of objects [(image id, category id, box)]."""
    pictures = {number: noise_image(number, 400, 400) for number in range(1, images + 1)}
    return read_coco(write_coco(folder, "val", pictures, objects, classes))


def record(category, box, score, image_id=1):
    return {"image_id": image_id, "category_id": category, "bbox": box, "score": score}


def test_the_best_f1_by_hand(tmp_path):
    """Class a has three objects: found at 0.9 and 0.7 (twice: again at 0.3), with false positives at 0.8 and 0.3.

    At 0.9: 1 of 1 detections, 1 of 3 objects, F1 2 / 4; at 0.8: 2 / 5; at 0.7: 4 / 6; at 0.3: 4 / 8. Class b has a
    detection but no object, class c an object but no detection. Together at 0.9: 2 / 5, at 0.8: 2 / 6; at 0.7: 4 / 7;
    at 0.6, with b's: 4 / 8; at 0.3: 4 / 10.
    """
    coco = read(tmp_path, [(1, 1, [0, 0, 50, 50]), (1, 1, [100, 0, 50, 50]), (1, 1, [200, 0, 50, 50]),
                           (1, 3, [0, 200, 50, 50])], ("a", "b", "c"))
    records = [record(1, [0, 0, 50, 50], 0.9), record(1, [300, 300, 50, 50], 0.8), record(1, [100, 5, 50, 50], 0.7),
               record(1, [100, 0, 50, 50], 0.3), record(1, [320, 320, 50, 50], 0.3), record(2, [0, 0, 50, 50], 0.6)]
    metrics = scores.score(coco, records)[1]
    assert {name: metrics[f"{name}_per_class"]["a"] for name in ("precision", "recall", "F1", "threshold")} == {
        "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "F1": pytest.approx(4 / 6), "threshold": 0.7}
    assert [metrics[name] for name in ("precision", "recall", "F1", "threshold")] == pytest.approx(
        [2 / 3, 2 / 4, 4 / 7, 0.7])
    assert {metrics[f"{name}_per_class"]["b"] for name in ("precision", "recall", "F1", "threshold")} == {None}
    assert [metrics[f"{name}_per_class"]["c"] for name in ("precision", "recall", "F1", "threshold")] == [None, 0, 0,
                                                                                                       None]
    lines = scores.point_table(metrics).splitlines()
    assert "IoU 0.5" in lines[0] and [line.split() for line in lines[1:]] == [
        ["class", "precision", "recall", "F1", "threshold"], ["a", "0.667", "0.667", "0.667", "0.700"],
        ["b", "-", "-", "-", "-"], ["c", "-", "0.000", "0.000", "-"], ["all", "0.667", "0.500", "0.571", "0.700"]]
    shortened = point_table(metrics, 2)  # a class whose objects are not found counts among the worst
    assert [line.split()[0] for line in shortened.splitlines()[2:]] == ["a", "c", "(1", "all"]
    curve = threshold_curves(scores.evaluate(coco, records))[1]["a"]
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.7, 0.3] and curve.objects == 3
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(curve.f1, [2 / 4, 2 / 5, 4 / 6, 4 / 8])


def test_of_equal_f1_the_highest_threshold():
    """Two of four objects found at 0.9, and with three false positives all at 0.2: 4 / 6 and 8 / 11; with four, 8 / 12.
    """
    found = np.array([1, 1, 0, 0, 0, 1, 1, 0], bool)
    best = count(np.array([0.9, 0.9, *[0.2] * 6]), found, 4).best()
    assert best == {"precision": 1.0, "recall": 0.5, "F1": pytest.approx(4 / 6), "threshold": 0.9}
    best = count(np.array([0.9, 0.9, *[0.2] * 5]), found[:7], 4).best()
    assert best["threshold"] == 0.2 and best["F1"] == pytest.approx(8 / 11)


def overlap(one, other):
    """The IoU of two boxes x, y, width, height, in plain arithmetic."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def found_by_hand(objects, records):
    """The number of objects found: in each image and class, the best detections choose their best free object."""
    total = 0
    for key in {(record["image_id"], record["category_id"]) for record in records}:
        free = [box for image_id, category, box in objects if (image_id, category) == key]
        own = [record for record in records if (record["image_id"], record["category_id"]) == key]
        for entry in sorted(own, key=lambda entry: -entry["score"]):
            best = max(free, key=lambda box: overlap(entry["bbox"], box), default=None)
            if best is not None and overlap(entry["bbox"], best) >= 0.5:
                free.remove(best)
                total += 1
    return total


@pytest.fixture
def crowded(tmp_path):
    """(COCO, objects, records) of random objects of two classes in four images, with many near misses."""
    rng = np.random.default_rng(3)
    objects = [(image, int(category), [*map(int, rng.integers(0, 300, 2)), *map(int, rng.integers(40, 80, 2))])
               for image in (1, 2, 3, 4) for category in rng.integers(1, 3, 12)]
    records = []
    for number, score in enumerate(rng.permutation(400)):
        image_id, category, box = objects[number % len(objects)]
        moved = (np.array(box) + rng.normal(0, 10, 4)).tolist()
        records.append(record(category if number % 7 else 3 - category, moved, (1 + int(score)) / 500, image_id))
    return read(tmp_path, objects, images=4), objects, records


@pytest.mark.slow
def test_the_curves_equal_a_count_at_each_threshold(crowded):
    coco, objects, records = crowded
    together, curves = threshold_curves(scores.evaluate(coco, records))
    for curve, chosen in ((together, (1, 2)), (curves["a"], (1,)), (curves["b"], (2,))):
        wanted = [entry for entry in objects if entry[1] in chosen]
        own = [entry for entry in records if entry["category_id"] in chosen]
        assert curve.thresholds.tolist() == sorted({entry["score"] for entry in own}, reverse=True)
        best = 0
        for place in range(0, len(curve.thresholds), 5):
            above = [entry for entry in own if entry["score"] >= curve.thresholds[place]]
            found = found_by_hand(wanted, above)
            precision, recall = found / len(above), found / len(wanted)
            assert (curve.precision[place], curve.recall[place]) == pytest.approx((precision, recall))
            expected = 2 * precision * recall / (precision + recall) if found else 0
            assert curve.f1[place] == pytest.approx(expected)
            best = max(best, expected)
        assert 0 < best <= curve.best()["F1"] < 1


def test_the_curves_give_pycocotools_precision(crowded):
    """Its precision at a recall is the highest at that recall or a higher one."""
    coco, _, records = crowded
    evaluation = scores.evaluate(coco, records)
    for index, curve in enumerate(threshold_curves(evaluation)[1].values()):
        expected = evaluation.eval["precision"][0, :, index, 0, -1]
        found = [curve.precision[curve.recall >= level - 1e-9].max(initial=0) for level in np.linspace(0, 1, 101)]
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert 0 < expected.mean() < 1


def test_detections_in_crowds_do_not_count(tmp_path):
    coco = read(tmp_path, [(1, 1, [0, 0, 50, 50]), (1, 1, [100, 100, 200, 200])])
    coco.dataset["annotations"][1]["iscrowd"] = 1
    records = [record(1, [0, 0, 50, 50], 0.5), record(1, [120, 120, 40, 40], 0.9), record(1, [0, 300, 40, 40], 0.4)]
    metrics = scores.score(coco, records)[1]
    assert [metrics[name] for name in ("precision", "recall", "F1", "threshold")] == [1, 1, 1, 0.5]
    curve = threshold_curves(scores.evaluate(coco, records))[0]
    assert curve.detections.tolist() == [1, 2] and curve.objects == 1


def test_no_detections_and_a_class_named_all(tmp_path):
    coco = read(tmp_path, [(1, 1, [0, 0, 50, 50])], ("all", "b"))
    assert point_rows(scores.score(coco, [record(1, [200, 200, 50, 50], 0.9)])[1])[0] == [
        "all", "0.000", "0.000", "0.000", "-"]
    metrics = scores.score(coco, [])[1]
    assert point_rows(metrics) == [["all", "-", "0.000", "0.000", "-"], ["b", *"----"], ["all", "-", "0.000", "0.000",
                                                                                      "-"]]
    assert point_rows({"AP": 0.5}) == [] and scores.tables({"AP": 0.5}) == []


def test_only_the_best_and_worst_of_many_classes_are_shown():
    names = [f"c{number}" for number in range(200)]
    values = {name: number / 200 for number, name in enumerate(names)}
    metrics = dict.fromkeys(("precision", "recall", "F1", "threshold"), 0.5)
    metrics |= dict.fromkeys((f"{name}_per_class" for name in [*metrics]), values)
    words = scores.point_table(metrics).split()
    assert {"c199", "c140", "c59", "c0", "all"} <= set(words) and "c60" not in words and "(80 more classes)" in (
        scores.point_table(metrics))
