"""src/data/summary.py: numbers computed by hand."""
import dataclasses
import glob
import os

import numpy as np
import pytest

from src.data.summary import Boxes, Recipe, collect, describe, describe_epoch, find_mismatches, long_sides
from src.tasks.augmentation import whole_image
from src.tasks.detection.targets import Layout
from src.training.data_preview import recipe_of
from tests.conftest import ROOT, lines_with, sample_of

SIZES = [(200, 100), (100, 400), (50, 50)]
ROWS = [
    # The second box extends beyond the image: 20x10 remain.
    (SIZES[0], np.array([[0, 0, 40, 10], [180, 90, 240, 120]], np.float32), np.array([0, 1])),
    (SIZES[1], np.array([[-5, 10, 20, 90]], np.float32), np.array([1])),  # 20x80
    (SIZES[2], np.zeros((0, 4), np.float32), np.array([], np.int32)),
]
RECIPE = Recipe((100, 100), 8, 1, True, 128)


def test_sizes_are_clipped_to_the_image_and_scaled_to_the_input():
    boxes = collect(ROWS)
    assert boxes.images == 3 and boxes.counts.tolist() == [2, 1, 0] and boxes.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(boxes.sizes, [[40, 10], [20, 10], [20, 80]])
    # 200x100 in 100x100: one half; 100x400: one quarter.
    np.testing.assert_allclose(long_sides(boxes, (100, 100)), [20, 10, 20])
    # In 400x100: 200x100 is not scaled; 100x400: one quarter.
    np.testing.assert_allclose(long_sides(boxes, (400, 100)), [40, 20, 20])


@pytest.mark.parametrize("size", [(200, 100), (97, 211)])
@pytest.mark.parametrize("input_size", [(96, 96), (128, 64), (64, 160)])
def test_sizes_match_the_targets_without_augmentation(size, input_size):
    box = np.array([[20, 30, 57, 71]], np.float32)
    layout = Layout(input_size, 1, 4, 4, [0.4] * 3, [0.3] * 3, [0.1] * 3, np.eye(3).tolist())
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    targets = sample_of(pixels, box, np.array([0]), whole_image(size, input_size), layout)
    boxes = collect([(size, box, np.array([0]))])
    np.testing.assert_allclose(long_sides(boxes, input_size), 4 * targets["wh"][0].max(), rtol=1e-4)


def test_the_table():
    text = describe(collect(ROWS), ["a", "b", "c"], (100, 100))
    lines = text.splitlines()
    assert lines_with(lines[0], "3 images", "1 without", "3 boxes", "3 classes", "100x100")
    assert lines[1].replace("%", "").split() == ["class", "boxes", "images", "10", "median", "90",
                                                 "below", "16", "below", "20"]
    assert [line.replace(" %", "%").split() for line in lines[2:]] == [
        ["b", "2", "2", "11", "15", "19", "50%", "50%"], ["a", "1", "1", "20", "20", "20", "0%", "0%"],
        ["c", "0", "0", "-", "-", "-", "-", "-"], ["all", "3", "2", "12", "20", "20", "33%", "33%"]]


def test_of_80_classes_the_most_and_least_frequent_are_shown():
    labels = np.repeat(np.arange(80), np.arange(80) + 1)
    boxes = Boxes(np.array([[100, 100]]), np.array([len(labels)]), np.full((len(labels), 2), 30.0), labels, 1)
    lines = describe(boxes, [f"c{number}" for number in range(80)], (100, 100)).splitlines()
    assert len(lines) == 2 + 10 + 1 + 10 + 1 and lines[12].strip() == "(60 more classes)"
    assert [line.split()[0] for line in (lines[2], lines[11], lines[13], lines[22])] == ["c79", "c70", "c9", "c0"]
    boxes = Boxes(boxes.image_sizes, np.array([5]), boxes.sizes[:5], np.array([7, 7, 20, 20, 20]), 1)
    lines = describe(boxes, [f"c{number}" for number in range(80)], (100, 100)).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["c20", "c7", "(78", "all"]  # classes with boxes come first


def test_no_boxes_and_no_images():
    for rows in ([], [((10, 10), np.zeros((0, 4)), np.zeros(0))]):
        boxes = collect(rows)
        assert lines_with(describe(boxes, ["a"], (64, 64)), f"{len(rows)} images", f"{len(rows)} without", "0 boxes")
        assert lines_with(find_mismatches(boxes, ["a"], RECIPE), "10 boxes", "a (0)")


def boxes_of(sides, labels, images=8):
    """Square boxes of these sides, all in the first of the 100x100 images, which the recipe does not scale."""
    counts = np.zeros(images, int)
    counts[0] = len(sides)
    sizes = np.repeat(np.array(sides, float)[:, None], 2, 1)
    return Boxes(np.full((images, 2), 100), counts, sizes, np.array(labels), images)


FITTING = boxes_of([30] * 20, [0] * 10 + [1] * 10)


def test_a_fitting_recipe_gives_no_warning():
    assert find_mismatches(FITTING, ["a", "b"], RECIPE) == []


@pytest.mark.parametrize("path", glob.glob(f"{ROOT}/configs/*.yaml"), ids=os.path.basename)
def test_our_recipes_give_no_warning_about_their_batches(path, make_config):
    recipe = recipe_of(make_config("--config_path", path), 1)
    assert lines_with(find_mismatches(boxes_of([100] * 200, [0] * 200, 1000), ["a"], recipe), "batch_size") == []


@pytest.mark.parametrize("boxes, changes, expected", [
    (boxes_of([19.9] * 11 + [20] * 9, [0] * 10 + [1] * 10), {}, ["55 %", "20 pixels", "input_res_train"]),
    (boxes_of([30] * 20 + [12] * 10, [0] * 20 + [1] * 10), {}, ["100 %", " b ", "20 pixels"]),
    (boxes_of([30] * 20, [0] * 11 + [1] * 9), {}, ["10 boxes", "b (9)"]),
    (FITTING, {"batch_size": 2}, ["train_config.batch_size is 2", "load_backbone_path"]),
    (FITTING, {"batch_size": 9}, ["8 images", "train_config.batch_size 9 x 1 devices"]),
    (FITTING, {"ranks": 2}, ["8 images", "train_config.batch_size 8 x 2 devices"]),
    (FITTING, {"accumulate_steps": 2}, ["8 images", "train_config.batch_size 8 x accumulate_steps 2 x 1 devices"]),
    (FITTING, {"max_objs": 19}, ["1 images", "dataset_config.max_objs, 19", "20"]),
])
def test_each_mismatch_gives_one_warning(boxes, changes, expected):
    found = find_mismatches(boxes, ["a", "b"], dataclasses.replace(RECIPE, **changes))
    assert len(found) == 1 and all(text in found[0] for text in expected), found


def test_the_steps_of_an_epoch():
    recipe = dataclasses.replace(RECIPE, batch_size=4, accumulate_steps=3, ranks=2)
    product = "train_config.batch_size 4 x accumulate_steps 3 x 2 devices"
    assert lines_with(describe_epoch(100, recipe), "4 steps", "24 images", product, ", 4 images")
    assert describe_epoch(20, recipe) == ""
    product = "train_config.batch_size 8 x 1 devices"
    assert lines_with(describe_epoch(16, RECIPE), "2 steps", "8 images", product, "0 images")


def test_half_of_the_boxes_is_not_a_majority():
    assert find_mismatches(boxes_of([19] * 10 + [20] * 10, [0, 1] * 10), ["a", "b"], RECIPE) == []
    assert find_mismatches(FITTING, ["a", "b"], dataclasses.replace(RECIPE, batch_size=2, from_scratch=False)) == []
    assert find_mismatches(FITTING, ["a", "b"], dataclasses.replace(RECIPE, max_objs=20)) == []


def test_a_sample_is_labeled_and_counts_no_class_as_rare():
    boxes = dataclasses.replace(FITTING, images=1000)
    assert lines_with(describe(boxes, ["a", "b", "c"], (100, 100)), "1000 images", " 8 ", "7 without", "20 boxes")
    assert find_mismatches(boxes, ["a", "b", "c"], RECIPE) == []
