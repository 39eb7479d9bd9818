"""src/tasks/ddd/scores.py: KITTI's benchmark, errors by hand, and COCO's evaluation of the boxes."""
import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.tasks import metric_labels, metrics_of, score_tables
from src.tasks.ddd import DDD, categories, kitti, scores, targets
from tests.conftest import lines_with

CALIB = [[700.0, 0.0, 600.0, 0.0], [0.0, 700.0, 180.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
ALL = [{"id": number, "name": name} for number, name in enumerate(categories.KITTI, 1)]
CAR, VAN, DONT_CARE = 2, 4, 9
ERRORS = ("depth_error", "depth_error_m", "rotation_error_deg", "dim_error")


def coco_of(entries, category_entries=ALL, images=None):
    """A COCO of annotations, as when read from a file."""
    classes, entries = targets.select(category_entries, copy.deepcopy(entries))
    images = images or sorted({entry["image_id"] for entry in entries})
    for entry in entries:
        targets.check_annotation(entry, {}, {"calib": CALIB})
    coco = COCO()
    coco.dataset = {"info": {}, "images": [{"id": number, "calib": CALIB} for number in images],
                    "annotations": entries, "categories": classes}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def object_of(number, image_id=1, category_id=CAR, box=(0, 100, 60, 50), z=20.0, x=0.0, **fields):
    """An annotation of an object at x, z in meters."""
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(box), "iscrowd": 0,
            "area": box[2] * box[3], "dim": [1.5, 1.6, 4.0], "location": [x, 1.5, z], "depth": z, "alpha": 0.1,
            "rotation_y": 0.2, "truncated": 0.0, "occluded": 0, **fields}


def record_of(entry, score=0.5, **fields):
    """A record with the numbers of an annotation."""
    names = ("image_id", "category_id", "bbox", "dim", "location", "alpha", "rotation_y")
    return {**{name: copy.deepcopy(entry[name]) for name in names}, "score": score, **fields}


def fleet(count=50, category_id=CAR):
    """Objects, one in each image."""
    return [object_of(number, number, category_id, box=(3 * number, 100, 60 + number, 50), z=10.0 + number / 2,
                      x=number / 10 - 2) for number in range(1, count + 1)]


def score(entries, records, **options):
    return scores.score(coco_of(entries, **options), records)


# ---------------------------------------------------------------- KITTI


def test_perfect_detections():
    """Of enough objects, each of KITTI's numbers is 1, and every error 0."""
    entries = fleet()
    text, metrics = score(entries, [record_of(entry, 1 / entry["id"]) for entry in entries])
    for name in DDD.metrics:
        if not name.startswith("box_") or name in ("box_AP", "box_AP50", "box_AP_KITTI"):
            assert metrics[name] == pytest.approx(1), name
    assert [metrics[name] for name in ERRORS] == [0] * 4 and metrics["found_objects"] == 1
    assert metrics["AP_per_class"] == {"Pedestrian": None, "Car": pytest.approx(1), "Cyclist": None}
    assert metrics["objects_per_class"] == {"Pedestrian": 0, "Car": 50, "Cyclist": 0}
    assert lines_with(text, "Car", "3d", "0.7", "100.00")
    assert lines_with(text, "within 5 % 100.0 %", "the other way round 0.0 %")
    assert lines_with(scores.class_table(metrics), "Car", "1.000", "50")


def test_numbers_are_those_of_kittis_program():
    """On the same labels as text, at KITTI's overlaps and at 0.5; the mean counts classes with objects."""
    rng = np.random.default_rng(0)
    entries = fleet(60) + [{**entry, "id": 100 + entry["id"], "bbox": [400, 100, 40, 90]}
                           for entry in fleet(60, category_id=1)]
    records = []
    for entry in entries:
        record = record_of(entry, rng.random())
        record["location"] = (np.array(record["location"]) + rng.normal(0, 0.25, 3) * (1, 0.1, 1)).tolist()
        record["alpha"] += rng.normal(0, 0.5)
        records += [record] * (rng.random() < 0.8)
    _, metrics = score(entries, records)

    def lines(values, image_id):
        rows = []
        for one in (one for one in values if one["image_id"] == image_id):
            x, y, w, h = one["bbox"]
            rows.append([["Pedestrian", "Car"][one["category_id"] - 1], 0, 0, one["alpha"], x, y, x + w, y + h,
                         *one["dim"], *one["location"], one["rotation_y"], *([one["score"]] if "score" in one else [])])
        return kitti.parse("\n".join(" ".join(map(str, row)) for row in rows))

    frames = [[lines(values, number) for number in range(1, 61)] for values in (entries, records)]
    car, loose, pedestrian = (kitti.average_precision(*frames, name, overlap)
                              for name, overlap in (("Car", 0.7), ("Car", 0.5), ("Pedestrian", 0.5)))
    for key, metric, of_car, positions, level in (
            ("AP", "3d", car, 40, 1), ("AP50", "3d", loose, 40, 1), ("AP_easy", "3d", car, 40, 0),
            ("AP_hard", "3d", car, 40, 2), ("AP_11", "3d", car, 11, 1), ("BEV_AP", "bev", car, 40, 1),
            ("BEV_AP50", "bev", loose, 40, 1), ("AOS", "orientation", car, 40, 1), ("box_AP_KITTI", "box", car, 40, 1)):
        expected = np.mean([kitti.ap(curves[metric], positions)[level] for curves in (of_car, pedestrian)])
        assert metrics[key] == pytest.approx(expected), key
        assert 0.05 < metrics[key] < 1
    assert metrics["AP"] < metrics["AP50"] and metrics["AP_per_class"]["Car"] == kitti.ap(car["3d"], 40)[1]
    assert metrics["kitti"]["Car"]["bev@0.5"] == [kitti.ap(loose["bev"], count).tolist() for count in (40, 11)]
    assert list(metrics["kitti"]["Car"]) == [f"{metric}@{value}" for value in (0.7, 0.5) for metric in kitti.METRICS]
    assert list(metrics["kitti"]["Pedestrian"]) == [f"{metric}@0.5" for metric in kitti.METRICS]


def test_boxes_are_scored_as_in_pycocotools():
    entries = fleet(20)
    records = [record_of(entry, 1 / entry["id"], bbox=[entry["bbox"][0] + entry["id"], *entry["bbox"][1:]])
               for entry in entries]
    coco = coco_of(entries)
    _, metrics = scores.score(coco, copy.deepcopy(records))
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCOeval(coco, coco.loadRes(records), "bbox")
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
    names = [name for name in DDD.metrics if name.startswith("box_") and name != "box_AP_KITTI"]
    assert [metrics[name] for name in names] == expected.stats.tolist() and 0.1 < metrics["box_AP"] < 1


def test_a_detection_of_a_van_is_neither_right_nor_wrong():
    """Its 3D box is that of KITTI's label: the car's precision stays 1 in space, too. On a truck it is wrong, as in
    KITTI's program, but not where DontCare is."""
    entries = fleet()
    records = [record_of(entry, 0.5 + 1 / entry["id"]) for entry in entries]
    for category_id, iscrowd, spatial, flat in ((VAN, 0, 1, 1), (5, 0, 0, 0), (DONT_CARE, 0, 0, 1), (CAR, 1, 0, 1)):
        others = [object_of(100 + number, number, category_id, (600, 100, 80, 60), x=9, iscrowd=iscrowd)
                  for number in range(1, 51)]
        found = [record_of({**entry, "category_id": CAR}, 2 + entry["id"]) for entry in others]
        _, metrics = score(entries + others, records + found)
        assert (metrics["AP"] == pytest.approx(1)) == spatial, category_id
        assert (metrics["box_AP_KITTI"] == pytest.approx(1)) == flat, category_id
        assert metrics["objects_per_class"]["Car"] == 50


def test_occluded_objects_count_at_their_level():
    """Half of the cars are hard: without them the moderate level is perfect."""
    entries = [{**entry, "occluded": 2 * (entry["id"] % 2)} for entry in fleet(100)]
    _, metrics = score(entries, [record_of(entry, 1 / entry["id"]) for entry in entries if not entry["occluded"]])
    assert metrics["AP"] == pytest.approx(1) and metrics["AP_hard"] == pytest.approx(0.5, abs=0.03)


def test_other_classes_are_scored_at_an_overlap_of_a_half():
    """Of a file without KITTI's classes; a name's case does not make two classes."""
    animals = [{"id": 1, "name": "cow"}, {"id": 5, "name": "Horse"}]
    entries = [*fleet(50, 1), *[{**entry, "id": 100 + entry["id"]} for entry in fleet(50, 5)]]
    records = [record_of(entry, 1 / entry["id"]) for entry in entries if entry["category_id"] == 5]
    _, metrics = score(entries, records, category_entries=animals)
    assert metrics["AP_per_class"] == {"cow": 0, "Horse": pytest.approx(1)} and metrics["AP"] == pytest.approx(0.5)
    assert metrics["AP"] == metrics["AP50"] and list(metrics["kitti"]["cow"])[-1] == "3d@0.5"


# ---------------------------------------------------------------- errors


def test_errors_by_hand():
    """Three of four cars are found: depths 20 % and 2 % too far, 4 % too near; rotations off by 90 and twice by 6
    degrees, once across the end of the circle; dimensions by 30 % in one of three numbers."""
    entries = [object_of(number, number, z=10.0 * number, rotation_y=angle)
               for number, angle in ((1, 0.2), (2, math.pi - 0.01), (3, -0.5), (4, 0.2))]
    away = math.radians(6)
    records = [record_of(entries[0], location=[0, 1.5, 12], rotation_y=0.2 + math.pi / 2),
               record_of(entries[1], location=[0, 1.5, 20.4], rotation_y=-math.pi - 0.01 + away),
               record_of(entries[2], location=[0, 1.5, 28.8], rotation_y=-0.5 - away, dim=[1.95, 1.6, 4])]
    text, metrics = score(entries, records)
    assert metrics["depth_error"] == pytest.approx(0.04)
    assert metrics["depth_error_m"] == pytest.approx((2 + 0.4 + 1.2) / 3)
    assert metrics["depth_right"] == pytest.approx(2 / 3) and metrics["found_objects"] == 0.75
    assert metrics["rotation_error_deg"] == pytest.approx((90 + 6 + 6) / 3)
    assert metrics["dim_error"] == pytest.approx(0.3 / 3 / 3)
    assert lines_with(text, "75.0 % of objects", "depth 4.0 %", "mean 1.20 m", "within 5 % 66.7 %", "34.0 degrees",
                      "3.3 %")


@pytest.mark.parametrize("factor", [1.1, 0.9])
def test_depths_off_by_10_percent(factor):
    """Each is found in the image, none in space."""
    entries = fleet()
    records = [record_of(entry, 1 / entry["id"], location=(np.array(entry["location"]) * factor).tolist())
               for entry in entries]
    _, metrics = score(entries, records)
    assert metrics["depth_error"] == pytest.approx(0.1) and metrics["depth_right"] == 0
    assert metrics["depth_error_m"] == pytest.approx(np.mean([entry["depth"] for entry in entries]) / 10)
    assert metrics["box_AP_KITTI"] == pytest.approx(1) and metrics["AP"] < 0.05


def test_the_best_score_finds_an_object():
    """Among detections of its class that overlap by half; crowds are no objects."""
    entries = [object_of(1), object_of(2, box=(300, 100, 60, 50), iscrowd=1)]
    records = [record_of(entries[0], 0.9, location=[0, 1.5, 30]), record_of(entries[0], 0.4),
               record_of(entries[0], 0.99, bbox=[45, 100, 60, 50]), record_of(entries[0], 0.99, category_id=1)]
    assert score(entries, records)[1]["depth_error"] == pytest.approx(0.5)
    np.testing.assert_allclose(scores.box_errors(coco_of(entries), records), [[0.5, 10, 0, 0]], atol=1e-12)


# ---------------------------------------------------------------- nothing


@pytest.mark.parametrize("entries, ap, share", [
    (fleet(3), 0, 0), ([object_of(1, iscrowd=1)], -1, None), ([object_of(1, category_id=VAN)], -1, None),
    ([object_of(1, category_id=DONT_CARE, dim=[-1] * 3, location=[-1000] * 3)], -1, None), ([], -1, None),
    ([object_of(1, box=(1, 1, 20, 20))], -1, 0),  # too small to count in KITTI's scores
])
@pytest.mark.parametrize("detected", [False, True])
def test_nothing_is_found_or_counts(entries, ap, share, detected):
    """Metrics are numbers, -1 where nothing counts, and can be written as JSON."""
    records = [record_of(object_of(1, box=(700, 100, 60, 50), x=30))] * detected
    text, metrics = score(entries, records, images=[1, 2, 3])
    assert metrics["AP"] == metrics["AP50"] == metrics["AOS"] == metrics["box_AP_KITTI"] == ap
    assert metrics["found_objects"] == share and metrics["depth_right"] == -1
    assert [metrics[name] for name in ERRORS] == [None] * 4 and "no object was found" in text
    again = json.loads(json.dumps(metrics, allow_nan=False))
    assert set(DDD.metrics) <= set(again) and all(isinstance(again[name], (int, float)) for name in DDD.metrics)
    assert scores.class_table(metrics)
    assert scores.evaluate(coco_of(entries, images=[1, 2, 3]), records).eval["precision"].shape[2] == 3


def test_unknown_orientations_have_no_similarity():
    entries = fleet()
    _, metrics = score(entries, [record_of(entry, 1 / entry["id"], alpha=-10) for entry in entries])
    assert metrics["AOS"] == -1 and metrics["AP"] == pytest.approx(1)
    json.dumps(metrics, allow_nan=False)


# ---------------------------------------------------------------- reports


def test_tables_of_a_report():
    """KITTI's numbers at 40 positions; after JSON, too."""
    entries = fleet()
    _, metrics = score(entries, [record_of(entry, 1 / entry["id"]) for entry in entries])
    (title, head, rows), (_, names, errors), (_, columns, points) = score_tables(json.loads(json.dumps(metrics)))
    assert columns[1:4] == ["precision", "recall", "F1"] and points[-1][:4] == ["all", *["1.000"] * 3]
    assert len(names) == len(errors[0]) == 6 and errors[0][0] == "0.0 %"
    assert "40 recall positions" in title and head == ["class", "metric", "overlap", "easy", "moderate", "hard"]
    assert ["Car", "3d", "0.7", "1.000", "1.000", "1.000"] in rows and len(rows) == 8 + 4 + 4
    assert [row[3:] for row in rows if row[0] == "Cyclist"] == [["-"] * 3] * 4
    assert scores.tables({}) == [] and scores.tables({"kitti": {}}) == []


def test_metrics_are_recognized_by_their_names():
    _, metrics = score(fleet(2), [])
    assert metrics_of(metrics) == tuple(DDD.metrics) and metric_labels(metrics) == DDD.metrics
    assert set(DDD.optional_metrics) <= set(DDD.metrics) and list(DDD.metrics)[:2] == ["AP", "AP50"]


def test_pascal_vocs_scores():
    """Of the boxes in the image."""
    entries = fleet(5)
    coco = coco_of(entries)
    text, values = scores.score_voc(coco, [record_of(entry) for entry in entries])
    assert values["VOC_mAP_07"] == pytest.approx(1) and lines_with(text, "Car")


@pytest.mark.parametrize("change, expected", [
    ({}, 1), ({"location": [0, 1.5, 25]}, 0), ({"rotation_y": math.pi}, 1), ({"dim": [3, 1.6, 4]}, 0.5),
    ({"location": [2, 1.5, 20]}, 1 / 3)])
def test_an_images_quality_is_that_of_its_3d_boxes(change, expected):
    """By hand, of a car 4 m long across the ray: as it is, 5 m behind, reversed, twice as high, half a length beside.
    Its box in the image is right each time."""
    entry = object_of(1) | {"dim": [1.5, 1.6, 4], "location": [0, 1.5, 20], "rotation_y": 0.0}
    found = record_of(entry) | change
    assert scores.image_quality(coco_of([entry]), [found], 0.3) == {1: pytest.approx(expected)}
    assert scores.image_quality(coco_of([entry, object_of(2, box=(200, 0, 20, 20))]), [found], 0.3) == {
        1: pytest.approx(expected / 1.5)}
