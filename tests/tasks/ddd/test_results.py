"""src/tasks/ddd/results.py and schema.py: rows of 3D boxes in other forms."""
import math
import os

import numpy as np
import pytest

from src.imaging import camera
from src.imaging.view import View
from src.inference.predictor import as_prediction
from src.tasks import rows as row
from src.tasks.ddd import cameras, kitti, results, schema, targets
from src.weights.side_file import row_width

CALIB = np.array([[100.0, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0]])
METAINFO = {"task": "ddd", "classes": ["Pedestrian", "Car"], "category_ids": [1, 7], "camera": cameras.KITTI}
ALONG = (0.0, 0.0, 0.0, 1.0)  # a bin's logits of no and yes, sine and cosine of the angle from its center


def view_of(calib=CALIB, factor=1.0):
    """An image of 100x80 in an output of 25x20, four pixels each."""
    return View(np.array([50, 40], np.float32), 100.0, (20, 25), 1.0, np.asarray(calib), factor)


def output(box=(10, 8, 20, 12), score=0.9, label=1, rot=(*ALONG, *ALONG), depth=10.0, dim=(2.0, 1.0, 4.0)):
    """A row of device.Decode."""
    return np.array([[*box, score, label, *rot, depth, *dim]], np.float32)


def rows_of(*boxes, calib=CALIB):
    """Rows [M, D] of (box x1, y1, x2, y2, score, label, alpha, x, y, z, h, w, l, rotation_y)."""
    table = np.array(boxes, float).reshape(-1, 14)
    return results.make_rows(table[:, :6], table[:, 6], table[:, 7:], calib)


TWO = rows_of((10, 20, 60, 70, 0.75, 1, 0.5, 1.5, 1.25, 10, 1.5, 1.75, 4, -0.5),
              (1, 2, 3, 4, 0.25, 0, -3, -2, 1, 20.5, 1.75, 0.5, 0.75, 3))


# ---------------------------------------------------------------- angles


@pytest.mark.parametrize("first, second, degrees", [
    ((0, 1, 0, 1), (1, 0, 0, 1), -90), ((1, 0, 0, 1), (0, 1, 0, 1), 90), ((0, 1, 1, 1), (0, 0, 0, 1), -45),
    ((0, 0, 0, 1), (0, 1, -1, 1), 45), ((0, 1, 1, 0), (0, 0.5, 1, 0), 0), ((0, 0.5, 1, 0), (0, 1, 1, 0), 180),
    ((9, 1, 1, 1), (-9, 0, 0, 1), -45),  # the second logits decide, as in the original
    ((0, 1, 5, 5), (0, 0, 0, 1), -45),  # sine and cosine of any length
])
def test_angles_by_hand(first, second, degrees):
    """The likelier of two bins, around -90 and 90 degrees."""
    found = results.angles(np.array([[*first, *second]], float))
    np.testing.assert_allclose(found, [math.radians(degrees)], atol=1e-12)


def test_angles_are_those_of_the_targets():
    """Each angle from either bin that holds it."""
    for degrees in range(-179, 180, 7):
        alpha = math.radians(degrees)
        holds, rests = targets.bins_of(alpha)
        for index in (0, 1):
            if holds[index]:
                own = [0, 1, math.sin(rests[index]), math.cos(rests[index])]
                other = [1, 0, 0.3, 0.4]
                rotation = np.array([own + other if index == 0 else other + own])
                assert float(camera.wrapped(results.angles(rotation)[0])) == pytest.approx(alpha)


def test_the_columns_of_rows():
    assert row_width(METAINFO) == row.width(results.output_columns(METAINFO)) == 18
    assert row.width(results.columns(METAINFO)) == TWO.shape[1] == 26 and TWO.dtype == np.float32


# ---------------------------------------------------------------- images


def test_outputs_in_the_image_by_hand():
    """Output pixels are four times as large: a center of 15, 10 is 60, 40; the camera's is 50, 40, so at 10 m the
    object is 1 m to the right, and its bottom half its height below the camera."""
    found = results.to_image(output(), view_of())
    np.testing.assert_allclose(row.boxes(found), [[40, 32, 80, 48]], atol=1e-5)
    np.testing.assert_allclose([row.scores(found)[0], row.labels(found)[0]], [0.9, 1], rtol=1e-6)
    alpha, (x, y, z, *dim, rotation_y) = row.column(found, "alpha", results.COLUMNS)[0], results.boxes_3d_of(found)[0]
    np.testing.assert_allclose([x, y, z, *dim], [1, 1, 10, 2, 1, 4], atol=1e-6)
    assert alpha == pytest.approx(math.pi / 2) and rotation_y == pytest.approx(math.pi / 2 + math.atan(0.1))
    np.testing.assert_array_equal(row.column(found, "cameras", results.COLUMNS), [CALIB])
    assert found.dtype == np.float32 and found.shape == (1, 26)


def test_a_camera_beside_the_reference():
    """KITTI's last column is part of the projection: the projected center is the box's center in the image again."""
    calib = np.array([[100, 0, 50, 45], [0, 110, 40, -5], [0, 0, 1, 0.5]])
    found = results.boxes_3d_of(results.to_image(output(), view_of(calib)))[0]
    assert found[2] == pytest.approx(9.5)
    np.testing.assert_allclose(camera.project(found[:3] - [0, 1, 0], calib), [60, 40], atol=1e-4)


def test_rotation_is_wrapped():
    """An object at the right, seen from behind: pi - 0.01, and more for its place."""
    rest = math.pi / 2 - 0.01
    rot = (1, 0, 0, 1, 0, 1, math.sin(rest), math.cos(rest))
    found = results.boxes_3d_of(results.to_image(output((20, 8, 24, 12), rot=rot), view_of()))
    assert found[0, 6] == pytest.approx(math.pi - 0.01 + math.atan(0.38) - 2 * math.pi, abs=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.25])
def test_the_factor_multiplies_depth_and_place(factor):
    """Along the ray through the center; angles and dimensions stay, and the bottom is half the height below it."""
    near, far = (results.to_image(output(), view_of(factor=value)) for value in (1.0, factor))
    place, scaled = results.boxes_3d_of(near)[0], results.boxes_3d_of(far)[0]
    np.testing.assert_allclose(scaled[:3], [factor * 1, 1, factor * 10], atol=1e-5)
    np.testing.assert_allclose(scaled[3:], place[3:])
    np.testing.assert_array_equal(far[:, :7], near[:, :7])


@pytest.mark.parametrize("box", [(15, 10, 15, 10), (16, 9, 14, 11), (14, 11, 16, 9), (15, 8, 15, 12)])
def test_without_a_size_the_box_surrounds_the_3d_box(box):
    """Of net_config.reg_bbox false, or a size that is not positive."""
    found = results.to_image(output(box), view_of())
    corners = results.corners_of(results.boxes_3d_of(found))[0]
    pixels = camera.project(corners, CALIB)
    np.testing.assert_allclose(row.boxes(found)[0], [*pixels.min(0), *pixels.max(0)], rtol=1e-5)
    np.testing.assert_allclose(results.boxes_3d_of(found)[0, :3], [1, 1, 10], atol=1e-5)


def test_only_boxes_without_a_size_are_replaced():
    both = np.concatenate([output(), output((15, 10, 15, 10))])
    found = row.boxes(results.to_image(both, view_of()))
    np.testing.assert_allclose(found[0], [40, 32, 80, 48], atol=1e-5)
    assert found[1, 2] - found[1, 0] > 10


@pytest.mark.filterwarnings("error")
def test_nothing_and_the_nearest_are_converted():
    """A depth of 0, of a network that is sure of it, has finite numbers."""
    assert results.to_image(output()[:0], view_of()).shape == (0, 26)
    for depth in (0.0, 1e6):
        for box in ((10, 8, 20, 12), (15, 10, 15, 10)):
            assert np.isfinite(results.to_image(output(box, depth=depth), view_of())).all()


def test_scaled_rows_project_to_scaled_pixels():
    calib = np.array([[100, 0, 50, 45], [0, 110, 40, -5], [0, 0, 1, 0.5]])
    rows = rows_of((10, 20, 60, 70, 0.75, 1, 0.5, 1.5, 1.25, 10, 1.5, 1.75, 4, -0.5), calib=calib)
    found = results.scaled(rows, (0.5, 2.0))
    np.testing.assert_allclose(row.boxes(found), [[5, 40, 30, 140]])
    corners = results.corners_of(results.boxes_3d_of(found))[0]
    np.testing.assert_array_equal(results.boxes_3d_of(found), results.boxes_3d_of(rows))
    pixels = camera.project(corners, row.column(found, "cameras", results.COLUMNS)[0].astype(float))
    np.testing.assert_allclose(pixels, camera.project(corners, calib) * (0.5, 2), rtol=1e-5)
    np.testing.assert_array_equal(found[:, 4:7], rows[:, 4:7])


def test_drawings_have_boxes_and_distances(monkeypatch):
    texts = []
    monkeypatch.setattr("src.imaging.boxes_3d.put_labels", lambda canvas, boxes, scores, labels, own: texts.append(own))
    image = np.full((80, 100, 3), 127, np.uint8)
    for with_scores in (True, False):
        drawn = results.draw(image, TWO, METAINFO, with_scores)
        assert drawn.shape == (80, 164, 3) and (drawn[:, :100] != 127).any() and (image == 127).all()
    assert [list(own) for own in texts] == [["Car 0.75 10 m", "Pedestrian 0.25 20 m"], ["Car 10 m", "Pedestrian 20 m"]]
    nothing = results.draw(image, TWO[:0], METAINFO)
    assert nothing.shape == (80, 164, 3) and (nothing[:, :100] == 127).all()


def test_corners_and_camera_of_a_prediction():
    found = results.computed(TWO)["corners"]
    assert found.shape == (2, 8, 3)
    np.testing.assert_allclose(found[:, :4].mean(1), [[1.5, 1.25, 10], [-2, 1, 20.5]], rtol=1e-6)
    np.testing.assert_allclose(np.ptp(found[:, :, 1], axis=1), [1.5, 1.75])
    assert results.attributes(METAINFO) == {"camera": cameras.KITTI}


# ---------------------------------------------------------------- records


def test_records_and_back():
    records = results.coco_records(4, TWO, METAINFO["category_ids"])
    assert records[0] == {"image_id": 4, "category_id": 7, "bbox": [10, 20, 50, 50], "score": 0.75, "alpha": 0.5,
                          "dim": [1.5, 1.75, 4], "location": [1.5, 1.25, 10], "rotation_y": -0.5}
    assert all(test(record[name]) for record in records for name, test in results.RECORD.items())
    others = [{**records[0], "image_id": 5}]
    for image, expected in (({"id": 4, "calib": CALIB.tolist()}, TWO), ({"id": 6, "calib": CALIB.tolist()}, TWO[:0])):
        np.testing.assert_array_equal(results.rows_from_records(records + others, image, [1, 7]), expected)
    assert results.rows_from_records([], {"id": 4, "calib": CALIB.tolist()}, [1, 7]).shape == (0, 26)


def test_scores_of_records_can_be_rounded():
    assert results.coco_records(1, rows_of((*TWO[0, :4], 0.777, 1, *TWO[0, 6:14])), [1, 7], True)[0]["score"] == 0.78


def test_objects_as_rows():
    """Without regions to ignore, with score 1."""
    objects = {"boxes": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), "labels": np.array([1, 0]),
               "depth": np.array([[10], [0]]), "alpha": np.array([[0.5], [0]]), "rotation_y": np.array([[-0.5], [0]]),
               "dim": np.array([[1.5, 1.75, 4], [0, 0, 0]]), "location": np.array([[1, 2, 10], [0, 0, 0]]),
               "calib": np.tile(CALIB.ravel(), (2, 1)), "ignored": np.array([[0], [1]])}
    found = results.rows_from_objects(objects)
    np.testing.assert_allclose(found, rows_of((1, 2, 3, 4, 1, 1, 0.5, 1, 2, 10, 1.5, 1.75, 4, -0.5)))
    nothing = results.rows_from_objects({name: values[1:] for name, values in objects.items()})
    assert nothing.shape == (0, 26)
    assert targets.counted(objects).tolist() == [True, False]


def test_table_cells():
    head, cells = results.table_columns(METAINFO), results.table_cells(TWO)
    assert head == ["x1", "y1", "x2", "y2", "alpha", "x", "y", "z", "height", "width", "length", "rotation_y"]
    assert cells[0] == ["10.00", "20.00", "60.00", "70.00", "0.500", "1.500", "1.250", "10.000", "1.500", "1.750",
                        "4.000", "-0.500"]
    assert len(cells) == 2 and results.table_cells(TWO[:0]) == []


def test_the_services_answer():
    """Lines are the edges in the image; a box behind the camera has none."""
    behind = rows_of((1, 2, 3, 4, 0.5, 1, 0, 0, 1, -20, 1.5, 1.5, 4, 0))
    first, _, last = schema.objects(np.concatenate([TWO, behind]), METAINFO)
    assert first["location"] == [1.5, 1.25, 10] and first["dimensions"] == [1.5, 1.75, 4]
    assert (first["rotation_y"], first["alpha"], first["class"]) == (-0.5, 0.5, "Car") and last["lines"] == []
    expected = camera.segments(results.corners_of(results.boxes_3d_of(TWO))[0], CALIB).reshape(-1, 4)
    np.testing.assert_allclose(first["lines"], expected, atol=0.051)
    answer = schema.Object.model_validate(first)
    assert answer.class_name == "Car" and answer.dimensions == [1.5, 1.75, 4] and len(answer.lines) == 12
    assert schema.objects(TWO[:0], METAINFO) == [] and schema.about(METAINFO) == {"camera": cameras.KITTI}


# ---------------------------------------------------------------- KITTI's files


def test_kittis_files_parse_back(tmp_path):
    """One for each image, also without detections; two decimals."""
    records = [*results.coco_records(4, TWO, [1, 7]), *results.coco_records(9, TWO[:1], [1, 7])]
    images = [(4, "a/000004.png"), (5, "/b/x.y.jpg"), (9, "000009.png")]
    results.write_files(str(tmp_path), images, records, {1: "Pedestrian", 7: "Car"})
    assert sorted(os.listdir(tmp_path / "results")) == ["000004.txt", "000009.txt", "x.y.txt"]
    assert (tmp_path / "results" / "x.y.txt").read_text() == ""
    found = kitti.parse((tmp_path / "results" / "000004.txt").read_text())
    assert found.names == ["Car", "Pedestrian"] and found.scores.tolist() == [0.75, 0.25]
    assert found.boxes.tolist() == [[10, 20, 60, 70], [1, 2, 3, 4]] and found.alpha.tolist() == [0.5, -3]
    assert found.dims.tolist() == [[1.5, 1.75, 4], [1.75, 0.5, 0.75]] and found.rotation_y.tolist() == [-0.5, 3]
    assert found.locations.tolist() == [[1.5, 1.25, 10], [-2, 1, 20.5]]
    assert found.truncated.tolist() == found.occluded.tolist() == [-1, -1]  # unknown
    first = (tmp_path / "results" / "000009.txt").read_text()
    assert first == "Car -1.00 -1 0.50 10.00 20.00 60.00 70.00 1.50 1.75 4.00 1.50 1.25 10.00 -0.50 0.7500\n"


def test_images_of_one_name_have_files_of_their_own(tmp_path):
    records = [*results.coco_records(4, TWO, [1, 7]), *results.coco_records(9, TWO[:1], [1, 7])]
    images = [(4, "a/1.png"), (9, "b/1.png"), (7, "2.png")]
    results.write_files(str(tmp_path), images, records, {1: "Pedestrian", 7: "Car"})
    lengths = {name: len((tmp_path / "results" / name).read_text().splitlines())
               for name in os.listdir(tmp_path / "results")}
    assert lengths == {"1_4.txt": 2, "1_9.txt": 1, "2.txt": 0}


def test_class_names_with_spaces_are_one_column(tmp_path):
    records = results.coco_records(4, TWO, [1, 7])
    results.write_files(str(tmp_path), [(4, "a.png")], records, {1: "a person", 7: " big\tcar "})
    assert kitti.parse((tmp_path / "results" / "a.txt").read_text()).names == ["big_car", "a_person"]


def annotation(**fields):
    return {"category_id": 7, "bbox": [10, 20, 50, 50], "iscrowd": 0, "dim": [1.5, 1.75, 4], "location": [1, 2, 10],
            "alpha": 0.5, "rotation_y": -0.5, "truncated": 0.25, "occluded": 2, **fields}


def test_annotations_as_a_frame():
    """Objects have their class, whatever an entry's `type` says; what is missing is 0: visible."""
    bare = {name: value for name, value in annotation(type="Van").items() if name not in ("truncated", "occluded")}
    found = results.frame_of([annotation(), bare], {1: "Pedestrian", 7: "Car"})
    assert found.names == ["Car", "Car"] and found.boxes.tolist() == [[10, 20, 60, 70]] * 2
    assert found.truncated.tolist() == [0.25, 0] and found.occluded.tolist() == [2, 0]
    assert found.occluded.dtype == int and found.scores.tolist() == [1, 1]
    assert found.dims.tolist() == [[1.5, 1.75, 4]] * 2 and found.locations.tolist() == [[1, 2, 10]] * 2


def test_regions_to_ignore_as_a_frame():
    """They have KITTI's type, other crowds DontCare; a van keeps its 3D box, without which detections of it would
    count as wrong."""
    region = {"category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1}
    entries = [annotation(iscrowd=1, type="Van"), {**region, "type": "DontCare"}, region, {**region, "type": ["x"]},
               {**region, "type": "Person_sitting"}, {**region, "type": "Car"}]
    found = results.frame_of(entries, {1: "Pedestrian", 7: "Car"})
    assert found.names == ["Van", "DontCare", "DontCare", "DontCare", "Person_sitting", "DontCare"]
    assert found.locations[0].tolist() == [1, 2, 10] and found.dims[0].tolist() == [1.5, 1.75, 4]
    assert (found.dims[1:] == -1).all() and (found.locations[1:] == -1000).all()
    assert (found.alpha[1:] == -10).all() and (found.rotation_y[1:] == -10).all()


def test_no_entries_as_a_frame():
    found = results.frame_of([], {7: "Car"})
    assert found.names == [] and found.boxes.shape == (0, 4) and kitti.boxes_3d(found).shape == (0, 7)
    assert kitti.format_frame(found) == ""


def test_a_prediction_without_objects():
    """Its arrays have the shapes of any other, and it can be drawn and converted."""
    description = {"task": "ddd", "classes": ["Car"], "category_ids": [1], "camera": cameras.KITTI}
    width = row.width(results.columns(description))
    found = as_prediction(np.zeros((0, width), np.float32), description).above(0.5)
    assert found.boxes_3d.shape == (0, 7) and found.corners.shape == (0, 8, 3) and found.cameras.shape == (0, 3, 4)
    assert found.detections().shape == (0, width) and schema.objects(found.detections(), description) == []
