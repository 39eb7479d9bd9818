"""src/tasks/pose/results.py, schema.py, preview.py: rows in other forms."""
import numpy as np

from src.imaging.view import View
from src.tasks.augmentation import Placement
from src.tasks.pose import preview, results, schema, targets
from tests.tasks.pose.test_keypoints import CRAB, FOX, metainfo_of

ROWS = np.array([[10, 20, 30, 60, 0.9, 1, *[0] * 6, 12, 22, 0.8, 14, 24, 0.05, 16, 26, 0.5, 18, 28, 0.25],
                 [0, 0, 8, 8, 0.3, 0, 1, 2, 0.5, 3, 4, 0.5, 5, 6, 0.5, *[0] * 9]], np.float32)


def test_records_and_back():
    metainfo = metainfo_of(FOX, CRAB)
    records = results.coco_records(4, ROWS, metainfo["category_ids"])
    assert [record["category_id"] for record in records] == [7, 3]
    np.testing.assert_allclose(records[0]["keypoints"][6:9], [12, 22, 2], rtol=1e-6)
    assert records[0]["keypoints"][:6] == [0] * 6 and records[0]["keypoint_scores"][:2] == [0, 0]
    np.testing.assert_allclose(records[0]["keypoint_scores"][2:], [0.8, 0.05, 0.5, 0.25], rtol=1e-6)
    back = results.rows_from_records(records + [{**records[0], "image_id": 5}], {"id": 4}, metainfo["category_ids"])
    np.testing.assert_allclose(back, ROWS, rtol=1e-6)
    assert results.rows_from_records(records, {"id": 6}, metainfo["category_ids"]).shape == (0, 24)
    assert results.rows_from_records([], {"id": 6}, metainfo["category_ids"]).shape == (0, 6)


def test_absent_keypoints_stay_absent():
    """Output pixels times 4 minus the offset of the view, by hand; absent ones remain 0, 0, 0."""
    view = View(np.array([100, 60], np.float32), 128.0, (16, 32), 1.0)
    found = results.to_image(ROWS, view)
    np.testing.assert_allclose(found[0, 12:15], [100 + 4 * (12 - 16), 60 + 4 * (22 - 8), 0.8], rtol=1e-5)
    np.testing.assert_array_equal(found[:, 6:][ROWS[:, 6:] == 0], 0)
    half = results.scaled(found, (0.5, 0.25))
    np.testing.assert_allclose(half[0, 12:15], [42, 29, 0.8], rtol=1e-5)


def test_table_and_answer():
    metainfo = metainfo_of(FOX, CRAB)
    columns = results.table_columns(metainfo)
    assert columns[:6] == ["x1", "y1", "x2", "y2", "claw_l_x", "claw_l_y"] and len(columns) == 4 + 18
    cells = results.table_cells(ROWS)
    assert cells[0][4:10] == [""] * 6 and cells[0][10:13] == ["12.00", "22.00", "0.8000"]
    answer = schema.objects(ROWS, metainfo)
    assert answer[1]["keypoints"][2] == [5, 6, 0.5] and answer[1]["keypoints"][3] == [0, 0, 0]
    assert schema.Object.model_validate(answer[0]).class_name == "fox"
    assert schema.about(metainfo)["keypoints"]["names"][2] == "nose"


def test_objects_as_rows():
    """Labeled keypoints have score 1, whether visible or hidden."""
    objects = {"boxes": np.array([[1, 2, 3, 4]], np.float32), "labels": np.array([1]),
               "keypoints": np.array([[5, 6, 1, 7, 8, 2, 0, 0, 0]], np.float32)}
    assert results.rows_from_objects(objects).tolist() == [[1, 2, 3, 4, 1, 1, 5, 6, 1, 7, 8, 1, 0, 0, 0]]


def test_drawings_of_nothing_and_of_something():
    metainfo, image = metainfo_of(FOX, CRAB), np.full((80, 90, 3), 128, np.uint8)
    np.testing.assert_array_equal(results.draw(image, ROWS[:0], metainfo), image)
    boxes_only = ROWS.copy()
    boxes_only[:, 6:] = 0
    drawn, without = results.draw(image, ROWS, metainfo), results.draw(image, boxes_only, metainfo)
    assert (drawn[20:32, 10:20] != without[20:32, 10:20]).any()


def encoded(make_config, *args):
    """(targets of a fox with a box of 40x40 at (20, 20) and of one without keypoints, layout)."""
    config = make_config("--net_config.task", "pose", "--dataset_config.input_res_train", "[128, 96]", *args)
    layout = targets.layout_of(config, metainfo_of(FOX))
    points = np.array([[30, 40, 2, 20, 20, 1, 0, 0, 0, 55, 50, 2], [0] * 12], np.float32)
    objects = {"boxes": np.array([[20, 20, 60, 60], [70, 70, 90, 90]], np.float32), "labels": np.zeros(2, int),
               "keypoints": points}
    matrix = np.array([[0.25, 0, 0], [0, 0.25, 0]])
    heatmaps = {name: maps[0] for name, maps in targets.empty_heatmaps(1, layout).items()}
    return targets.encode(targets.warp(objects, Placement(matrix, matrix), layout), layout, heatmaps), layout


def test_targets_by_hand(make_config):
    """Output pixels are a quarter: center (10, 10); joints (7.5, 10), (5, 5), absent, (13.75, 12.5)."""
    found, _ = encoded(make_config)
    assert found["ind"][0] == 10 * 32 + 10 and found["reg_mask"][:3].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(found["hps"][0], [-2.5, 0, -5, -5, 0, 0, 3.75, 2.5])
    np.testing.assert_array_equal(found["hps_mask"][0], [1, 1, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(found["hp_offset"][:4], [[0.5, 0], [0, 0], [0, 0], [0.75, 0.5]])
    assert found["hp_ind"][:4].tolist() == [10 * 32 + 7, 5 * 32 + 5, 0, 12 * 32 + 13]
    assert [tuple(np.argwhere(heat == 1)[0]) for heat in found["hm_hp"][[0, 1, 3]]] == [(10, 7), (5, 5), (12, 13)]
    assert found["hm_hp"][2].max() == 0
    assert found["hm"][0, 20, 20] == 1  # an object without keypoints is a center, whose size is not learned


def test_what_a_class_lacks_is_not_learned(make_config):
    """A stone's size is learned, and in a mirror image a mole's left ear does not become a right one."""
    mole = {"id": 9, "name": "mole", "keypoints": ["left_ear"]}
    stone = {"id": 11, "name": "stone"}
    config = make_config("--net_config.task", "pose", "--dataset_config.input_res_train", "[128, 96]")
    layout = targets.layout_of(config, metainfo_of(FOX, mole, stone))
    boxes = np.array([[20, 20, 60, 60]] * 3, np.float32)
    points = np.zeros((3, 4, 3), np.float32)
    points[:2, 1] = 30, 40, 2  # left_ear of fox and mole
    objects = {"boxes": boxes, "labels": np.array([0, 1, 2]), "keypoints": points.reshape(3, 12)}
    matrix = np.array([[0.25, 0, 0], [0, 0.25, 0]])
    heatmaps = {name: maps[0] for name, maps in targets.empty_heatmaps(1, layout).items()}
    found = targets.encode(targets.warp(objects, Placement(matrix, matrix, 0.0, 128), layout), layout, heatmaps)
    masks = found["hps_mask"].reshape(-1, 4, 2)[:3, :, 0]
    np.testing.assert_array_equal(masks, [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert found["reg_mask"][:3].tolist() == [1, 0, 1]


def test_the_preview_decodes_the_targets(make_config):
    for args in ((), ("--net_config.dense_hp", "true")):
        found, layout = encoded(make_config, *args)
        expected = [[[30, 40, 1], [20, 20, 1], [0, 0, 0], [55, 50, 1]]]
        np.testing.assert_allclose(preview.decode_keypoints(found, layout), expected, atol=1e-5)
        batch = {name: value[None] for name, value in found.items()}
        batch["image"] = np.zeros((1, 3, 96, 128), np.float32)
        drawn = preview.draw_batch(batch, ["a"], layout, make_config(*args).net_config, metainfo_of(FOX))
        assert drawn.dtype == np.uint8 and min(drawn.shape[:2]) > 300
