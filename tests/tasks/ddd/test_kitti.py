"""src/tasks/ddd/kitti.py against KITTI's own program, plain loops and calculations by hand."""
import json
import math
import os

import cv2
import numpy as np
import pytest

from src.tasks.ddd import kitti
from tests.conftest import GOLDEN, user_error

MIN_OVERLAPS = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
LABEL = "Car 0.00 0 1.50 100.00 100.00 200.00 150.00 1.50 1.60 4.00 2.00 1.70 20.00 1.60"


@pytest.fixture(scope="module")
def golden():
    """KITTI's numbers, labels and detections; see tests/golden/tasks/README.md."""
    with open(os.path.join(GOLDEN, "tasks", "kitti_scores.json"), encoding="utf-8") as file:
        values = json.load(file)
    frames = list(values["labels"])
    return values | {key: [kitti.parse(values[key][frame]) for frame in frames] for key in ("labels", "detections")}


def line(name="Car", box=(100, 100, 200, 150), x=2.0, alpha=0.0, score=None, truncated=0, occluded=0):
    """A line of a file: a car-sized box at (x, 1.5, 20) meters; a detection if it has a score."""
    columns = [name, truncated, occluded, alpha, *box, 1.5, 1.6, 4, x, 1.5, 20, 0]
    return " ".join(map(str, columns if score is None else [*columns, score])) + "\n"


def score(labels, detections, name="Car", min_overlap=0.7):
    """average_precision of one image, given as text."""
    return kitti.average_precision([kitti.parse(labels)], [kitti.parse(detections)], name, min_overlap)


def solid(x=0.0, y=0.0, z=0.0, h=1.0, w=2.0, length=4.0, angle=0.0):
    """A 3D box [7] as in boxes_3d, its angle in degrees."""
    return np.array([h, w, length, x, y, z, math.radians(angle)])


# ---------------------------------------------------------------- KITTI's program


@pytest.mark.parametrize("name", MIN_OVERLAPS)
def test_scores_are_those_of_kitti(golden, name):
    found = kitti.average_precision(golden["labels"], golden["detections"], name, MIN_OVERLAPS[name])
    assert tuple(found) == kitti.METRICS
    for metric, of_levels in found.items():
        for level, precision in zip(kitti.LEVELS, of_levels):
            key = f"{name.lower()} {metric} {level}"
            np.testing.assert_allclose(precision, golden["precision"][key], atol=1e-6, err_msg=key)
            for positions in (11, 40):
                assert 100 * kitti.ap(precision, positions) == pytest.approx(golden["AP"][key][f"AP{positions}"],
                                                                             abs=2e-4), key


def test_parts_of_the_pairs_score_the_same(golden, monkeypatch):
    whole = kitti.average_precision(golden["labels"], golden["detections"], "Car", 0.7)
    monkeypatch.setattr(kitti, "PAIRS_AT_ONCE", 10)
    parts = kitti.average_precision(golden["labels"], golden["detections"], "Car", 0.7)
    for metric in kitti.METRICS:
        np.testing.assert_array_equal(whole[metric], parts[metric])


def loop_statistics(objects, found, overlaps, limit, counted, valid, small):
    """(scores of right detections, number of wrong ones) of one image, a detection at a time, at a score or None."""
    free = [(valid[j] or small[j]) and (limit is None or found.scores[j] >= limit) for j in range(len(found.names))]
    right = []
    for i in range(len(objects.names)):
        candidates = [j for j in range(len(found.names)) if free[j] and overlaps[i, j] > 0.5]
        if not candidates:
            continue
        if limit is None:
            best = max(candidates, key=lambda j: found.scores[j])
        else:
            good = [j for j in candidates if valid[j]]
            best = max(good, key=lambda j: overlaps[i, j]) if good else candidates[0]
        free[best] = False
        if counted[i] and valid[best]:
            right.append(found.scores[best])
    return right, sum(free[j] and valid[j] for j in range(len(found.names)))


def test_crowded_images_score_as_in_plain_loops():
    rng = np.random.default_rng(3)
    images = []
    for _ in range(12):
        corners = rng.uniform(0, 60, (8, 2))
        boxes = np.hstack([corners, corners + rng.uniform(18, 90, (8, 2))])
        labels = "".join(line(rng.choice(["Car", "Van"]), box, occluded=rng.integers(0, 4)) for box in boxes)
        detections = "".join(line(rng.choice(["Car", "Tram"]), boxes[rng.integers(8)] + rng.normal(0, 4, 4),
                                  score=round(rng.random(), 1)) for _ in range(25))
        images.append((kitti.parse(labels), kitti.parse(detections)))
    scores = kitti.average_precision(*zip(*images), "Car", 0.5)["box"]
    for precision, height, occluded in zip(scores, (40, 25, 25), (0, 1, 2)):
        cases = []
        for objects, found in images:
            heights = objects.boxes[:, 3] - objects.boxes[:, 1]
            small = np.abs(found.boxes[:, 3] - found.boxes[:, 1]) < height
            counted = (heights >= height) & (objects.occluded <= occluded) & (np.array(objects.names) == "Car")
            cases.append((objects, found, kitti.box_overlaps(objects.boxes[:, None], found.boxes), counted,
                          (np.array(found.names) == "Car") & ~small, small))
        hits = sum((loop_statistics(*case[:3], None, *case[3:])[0] for case in cases), [])
        expected = np.zeros(41)
        for number, limit in enumerate(kitti.thresholds(np.array(hits), sum(case[3].sum() for case in cases))):
            results = [loop_statistics(*case[:3], limit, *case[3:]) for case in cases]
            right, wrong = sum(len(result[0]) for result in results), sum(result[1] for result in results)
            expected[number] = right / (right + wrong)
        np.testing.assert_allclose(precision, [expected[start:].max() for start in range(41)])


# ---------------------------------------------------------------- rules


def test_levels_without_objects_are_nan():
    found = score(line(occluded=1), line(score=0.5))
    assert all(np.isnan(found[metric][0]).all() for metric in kitti.METRICS)
    assert all(found[metric][1:, 0].tolist() == [1, 1] for metric in kitti.METRICS)


@pytest.mark.parametrize("box, truncated, levels", [
    ((0, 0, 80, 40), 0, [1, 1, 1]), ((0, 0, 80, 39.9), 0, [0, 1, 1]), ((0, 0, 80, 24.9), 0, [0, 0, 0]),
    ((0, 0, 80, 40), 0.15, [1, 1, 1]), ((0, 0, 80, 40), 0.3, [0, 1, 1]), ((0, 0, 80, 40), 0.5, [0, 0, 1])])
def test_height_and_truncation_decide_the_level(box, truncated, levels):
    found = score(line(box=box, truncated=truncated), line(box=box, score=0.5))["box"]
    assert np.nan_to_num(found[:, 0]).tolist() == levels


def test_detections_in_regions_to_ignore_are_wrong_only_without_an_image():
    """KITTI's regions have no place in space; the overlap counts with the detection's area."""
    labels = line() + line("DontCare", (400, 0, 900, 300))
    outside, inside = line(box=(600, 100, 700, 150), x=30, score=0.9), line(box=(600, 100, 700, 150), x=30, score=0.4)
    for other, bev in ((outside, 0.5), (inside, 1)):
        found = score(labels, line(score=0.5) + other)
        assert (found["box"][0, 0], found["bev"][0, 0]) == (1, bev)
    assert score(labels, line(score=0.5) + line(box=(330, 100, 430, 150), x=30, score=0.9))["box"][0, 0] == 0.5


def test_neighbors_and_other_classes():
    labels = line() + line("Van", (300, 100, 400, 150), x=10) + line("Tram", (500, 100, 600, 150), x=20)
    for box, x, precision in (((300, 100, 400, 150), 10, 1), ((500, 100, 600, 150), 20, 0.5)):
        found = score(labels, line(score=0.5) + line(box=box, x=x, score=0.9))
        assert found["box"][0, 0] == found["3d"][0, 0] == precision
    assert score(labels, line("tram", (500, 100, 600, 150), x=20, score=0.5), "TRAM")["3d"][0, 0] == 1


def test_small_detections_of_all_classes_are_assigned_but_do_not_count():
    labels = line(box=(100, 100, 200, 142))
    assert score(labels, line("Tram", (100, 100, 200, 138), score=0.5))["box"][:, 0].tolist() == [0, 0, 0]
    both = line("Tram", (100, 100, 200, 138), score=0.9) + line(box=(100, 100, 200, 142), score=0.5)
    assert score(labels, both)["box"][:, 0].tolist() == [0, 1, 1]  # by score, the first pass takes the small one


def test_objects_take_the_highest_score_for_thresholds_and_the_greatest_overlap_for_precision():
    """At a score of 0.5, the first object takes the second's only detection, and its own other one is wrong."""
    labels = line(box=(100, 100, 200, 150)) + line(box=(110, 100, 210, 150))
    detections = line(box=(92, 100, 192, 150), score=0.9) + line(box=(104, 100, 204, 150), score=0.5)
    assert score(labels, detections)["box"][0, :3].tolist() == [1, 0.5, 0]


def test_an_overlap_must_exceed_the_minimum():
    half = line(box=(100, 100, 200, 200), score=0.5)
    assert [score(line(), half, min_overlap=value)["box"][0, 0] for value in (0.49, 0.5)] == [1, 0]


def test_recalls_of_many_objects_have_41_thresholds():
    limits = kitti.thresholds(np.arange(400) / 400, 400)
    assert len(limits) == 41 and limits[0] == 399 / 400 and limits[-1] == 0
    np.testing.assert_allclose(np.diff(limits)[1:-1], -0.025)


@pytest.mark.parametrize("alpha, expected", [(0.3, 1), (0.3 + math.pi / 2, 0.5), (0.3 - math.pi, 0), (-10, math.nan)])
def test_orientation_counts_by_its_cosine(alpha, expected):
    found = score(line(alpha=0.3), line(alpha=alpha, score=0.5))
    assert found["box"][0, 0] == 1
    np.testing.assert_allclose(found["orientation"][0, 0], expected, atol=1e-12)


def test_images_without_objects_or_detections():
    for labels, detections in (("", ""), ("", line(score=0.5)), (line("Van"), "")):
        assert all(np.isnan(values).all() for values in score(labels, detections).values())
    for detections in ("", line("Cyclist", score=0.5), line("Tram", (0, 0, 10, 10), score=0.5)):
        assert all((values == 0).all() for values in score(line(), detections).values())
    assert np.isnan(kitti.average_precision([], [], "Car", 0.7)["box"]).all()
    with pytest.raises(ValueError):
        kitti.average_precision([kitti.parse("")], [], "Car", 0.7)


def test_average_precision_of_a_curve():
    curve = np.zeros((2, 41))
    curve[1, :5] = 1
    assert kitti.ap(curve, 11).tolist() == [0, 2 / 11] and kitti.ap(curve, 40).tolist() == [0, 4 / 40]


# ---------------------------------------------------------------- overlaps


def test_image_boxes_by_hand():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [30, 0, 40, 10]], float)
    assert kitti.box_overlaps(boxes[:1, None], boxes).tolist() == [[1, 50 / 150, 0, 4 / 100, 0]]
    assert kitti.box_overlaps(boxes, boxes[0], of_a=True).tolist() == [1, 0.5, 0, 1, 0]


@pytest.mark.parametrize("a, b, expected", [
    (solid(), solid(), 1),
    (solid(angle=37), solid(angle=37), 1),
    (solid(angle=37), solid(angle=217), 1),
    (solid(), solid(angle=90), 4 / 12),
    (solid(length=2), solid(length=2, angle=45), 8 * (2 ** 0.5 - 1) / (8 - 8 * (2 ** 0.5 - 1))),  # an octagon
    (solid(), solid(x=2), 4 / 12),
    (solid(), solid(z=1), 4 / 12),
    (solid(angle=90), solid(z=-2, angle=90), 4 / 12),
    (solid(), solid(x=4), 0),
    (solid(), solid(z=2), 0),
    (solid(), solid(x=3.9, z=1.9), 0.01 / 15.99),
    (solid(), solid(x=100), 0),
    (solid(w=10, length=10), solid(angle=30), 8 / 100),
    (solid(w=0.1, angle=45), solid(x=1, z=-1, w=0.1, length=0.1, angle=45), 0.01 / 0.4),  # z forward, y down
    (solid(w=0.1, angle=45), solid(x=1, z=1, w=0.1, length=0.1, angle=45), 0)])
def test_ground_boxes_by_hand(a, b, expected):
    for first, second in ((a, b), (b, a)):
        assert kitti.bev_overlaps(first, second) == pytest.approx(expected, abs=1e-12)
        assert kitti.overlaps_3d(first, second) == pytest.approx(expected, abs=1e-12)


def test_heights_of_3d_boxes():
    for y, expected in ((0.5, 1 / 3), (-0.5, 1 / 3), (1, 0), (-3, 0)):
        assert kitti.overlaps_3d(solid(), solid(y=y)) == pytest.approx(expected)
        assert kitti.bev_overlaps(solid(), solid(y=y)) == 1
    assert kitti.overlaps_3d(solid(h=3), solid(y=-1)) == pytest.approx(1 / 3)


def test_turned_boxes_overlap_as_in_opencv():
    rng = np.random.default_rng(1)
    boxes = rng.uniform([1, 0.5, 0.5, -2, 0, -2, -4], [2, 3, 5, 2, 1, 2, 4], (2, 300, 7))
    found = kitti.bev_overlaps(*boxes)
    for a, b, overlap in zip(*boxes, found):
        first, second = (((box[3], box[5]), (box[2], box[1]), -math.degrees(box[6])) for box in (a, b))
        _, corners = cv2.rotatedRectangleIntersection(first, second)
        shared = 0 if corners is None else cv2.contourArea(cv2.convexHull(corners))
        assert overlap == pytest.approx(shared / (a[1] * a[2] + b[1] * b[2] - shared), abs=1e-3)
    assert (found > 0.1).sum() > 100


def test_boxes_of_no_size_have_no_overlap():
    sizes = (0.0, -1.0)
    flat = np.stack([solid(**{side: size}) for side in ("w", "length") for size in sizes]
                    + [solid(w=-2.0, length=-4.0), solid(w=0.0, length=0.0)])
    others = np.concatenate([flat, [solid()]])
    low = np.stack([solid(h=size) for size in sizes])
    rectangles = np.array([[5, 5, 5, 5], [5, 0, 5, 9], [9, 9, 0, 0], [9, 0, 0, 9]], float)
    with np.errstate(all="raise"):
        assert not kitti.bev_overlaps(flat[:, None], others).any()
        assert not kitti.overlaps_3d(flat[:, None], others).any()
        assert not kitti.overlaps_3d(low[:, None], np.concatenate([low, [solid()]])).any()
        for of_a in (False, True):
            assert not kitti.box_overlaps(rectangles[:, None], np.append(rectangles, [[0, 0, 9, 9]], 0), of_a).any()


# ---------------------------------------------------------------- text


def test_labels_and_detections_are_read():
    frame = kitti.parse(f"{LABEL}\n\n{LABEL.replace('Car', 'Van')} 0.25\n")
    assert frame.names == ["Car", "Van"] and frame.scores.tolist() == [1, 0.25]
    assert frame.boxes[0].tolist() == [100, 100, 200, 150] and frame.dims[0].tolist() == [1.5, 1.6, 4]
    assert frame.locations[1].tolist() == [2, 1.7, 20] and frame.rotation_y.tolist() == [1.6, 1.6]
    assert frame.alpha.tolist() == [1.5, 1.5] and not frame.truncated.any() and not frame.occluded.any()


def test_empty_text_is_an_empty_frame():
    frame = kitti.parse("\n")
    assert frame.names == [] and frame.boxes.shape == (0, 4) and kitti.boxes_3d(frame).shape == (0, 7)
    assert kitti.format_frame(frame) == ""


@pytest.mark.parametrize("wrong, parts", [
    (LABEL.rsplit(" ", 1)[0], ("line 2", "14 columns")), (f"{LABEL} 0.5 0.5", ("line 2", "17 columns")),
    (LABEL.replace("1.70", "low"), ("line 2", "low")), (LABEL.replace("1.70", "nan"), ("line 2", "nan")),
    (LABEL.replace("1.70", "inf"), ("line 2", "inf"))])
def test_wrong_lines_are_named(wrong, parts):
    with user_error(*parts):
        kitti.parse(f"{LABEL}\n{wrong}\n{LABEL}")


def test_detections_are_written_as_kitti_reads_them(golden):
    assert kitti.format_frame(kitti.parse(f"{LABEL.replace('0.00 0', '-1 -1')} 0.123")) == (
        f"{LABEL.replace('0.00 0', '-1.00 -1')} 0.1230\n")
    for frame in golden["detections"]:
        text = kitti.format_frame(frame)
        again = kitti.parse(text)
        assert again.names == frame.names and kitti.format_frame(again) == text
        np.testing.assert_array_equal(kitti.boxes_3d(again), kitti.boxes_3d(frame))
        np.testing.assert_array_equal(again.scores, frame.scores)
