"""Post-processing and soft-NMS against hand computations."""
import numpy as np
import pytest

from src.imaging.view import View
from src.native.extensions import extension
from src.tasks.detection.results import coco_records, merge, rows_from_records, to_image

METHODS, soft_nms = extension("soft_nms").METHODS, extension("soft_nms").soft_nms


def test_soft_nms_does_not_change_its_input():
    boxes = np.array([[0, 0, 9, 9, 0.1], [5, 0, 14, 9, 0.8]], np.float32)
    before = boxes.copy()
    soft_nms(boxes)
    np.testing.assert_array_equal(boxes, before)


def test_soft_nms_by_hand():
    # Two boxes of 10x10 whole pixels, 5 columns in common: 50 / 150.
    boxes = np.array([[0, 0, 9, 9, 0.9], [5, 0, 14, 9, 0.8]], np.float32)
    gaussian = soft_nms(boxes, method=METHODS["gaussian"])
    assert gaussian[1, 4] == pytest.approx(0.8 * np.exp(-((1 / 3) ** 2) / 0.5), rel=1e-6)
    linear = soft_nms(boxes, Nt=0.3, method=METHODS["linear"])
    assert linear[1, 4] == pytest.approx(0.8 * (1 - 1 / 3), rel=1e-6)
    assert len(soft_nms(boxes, Nt=0.3, method=METHODS["hard"])) == 1


def test_soft_nms_without_boxes_and_with_a_wrong_method():
    assert soft_nms(np.zeros((0, 5), np.float32)).shape == (0, 5)
    with pytest.raises(ValueError, match="method is 3"):
        soft_nms(np.zeros((1, 5)), method=3)


def test_merge_keeps_k_and_separates_classes():
    same_place = np.array([[0, 0, 9, 9, 0.9, 0], [0, 0, 9, 9, 0.8, 1], [50, 50, 60, 60, 0.1, 0]], np.float32)
    merged = merge([same_place], use_soft_nms=True, k=2)
    np.testing.assert_allclose(merged[:, 4], [0.9, 0.8], rtol=1e-6)
    # Two scales always go through soft-NMS: a box found twice loses most of its second score.
    twice = merge([same_place[:1], same_place[:1]], use_soft_nms=False, k=10)
    np.testing.assert_allclose(twice[:, 4], [0.9, 0.9 * np.exp(-1 / 0.5)], rtol=1e-6)
    assert len(merge([same_place], use_soft_nms=False, k=10)) == 3


def test_merge_of_one_scale_only_sorts_by_class():
    """Two boxes of one class in the same place keep their scores; the order within a class is stable."""
    found = np.array([[0, 0, 9, 9, 0.2, 1], [0, 0, 9, 9, 0.5, 0], [0, 0, 9, 9, 0.9, 1], [0, 0, 9, 9, 0.6, 0]],
                     np.float32)
    np.testing.assert_array_equal(merge([found], use_soft_nms=False, k=10), found[[1, 3, 0, 2]])
    softened = merge([found], use_soft_nms=True, k=10)
    least = np.exp(-1 / 0.5)  # for boxes in the same place
    np.testing.assert_allclose(softened[:, 4], [0.6, 0.5 * least, 0.9, 0.2 * least], rtol=1e-6)
    np.testing.assert_array_equal(softened[:, 5], [0, 0, 1, 1])


def test_merge_keeps_the_best_and_ties_with_the_last():
    scores = np.random.default_rng(0).permutation(np.arange(1, 41)).astype(np.float32) / 64
    found = np.zeros((40, 6), np.float32)
    found[:, 4] = scores
    for k in (1, 7, 15, 39, 40):
        assert sorted(merge([found], use_soft_nms=False, k=k)[:, 4]) == sorted(scores)[40 - k :]
    found[scores == 31 / 64, 4] = 30 / 64
    assert len(merge([found], use_soft_nms=False, k=10)) == 11


def test_boxes_of_a_scaled_image():
    """By hand: an output of 16x16 shows 32 pixels around (20, 24) of an image at half size: 4 image pixels each."""
    view = View(np.array([20, 24], np.float32), 32.0, (16, 16), 0.5)
    found = to_image(np.array([[8, 8, 10, 9, 0.25, 3], [0, 0, 16, 16, 0.5, 1]], np.float32), view)
    np.testing.assert_allclose(found, [[40, 48, 48, 52, 0.25, 3], [8, 16, 72, 80, 0.5, 1]], atol=1e-4)
    assert found.dtype == np.float32


def test_records_convert_back_to_detections():
    records = [{"image_id": image_id, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": image_id / 16}
               for image_id in (7, 8, 6)]
    rows = rows_from_records(records, {"id": 7}, [3, 90])
    np.testing.assert_array_equal(rows, np.array([[1, 2, 4, 8, 7 / 16, 1]], np.float32))
    assert rows_from_records(records, {"id": 9}, [3, 90]).shape == (0, 6)


def test_coco_records():
    records = coco_records(7, np.array([[1, 2, 4, 8, 0.123456, 1]], np.float32), [3, 90])
    assert records == [{"image_id": 7, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0],
                        "score": pytest.approx(0.123456)}]


def test_rounded_scores():
    detections = np.array([[0, 0, 1, 1, score, 0] for score in (0.994, 0.996, 0.125, 0.004)], np.float32)
    assert [record["score"] for record in coco_records(1, detections, [1], round_scores=True)] == [0.99, 1.0, 0.12, 0.0]
