"""src/tasks/detection/preview.py: drawings are made from the targets."""
import dataclasses

import numpy as np
import pytest

from src.data.samples import sample_layout
from src.imaging.color import apply_color
from src.imaging.drawing import class_color
from src.tasks.augmentation import whole_image
from src.tasks.detection.preview import decode_targets, denormalize, draw_batch, draw_sample, names_of
from src.tasks.detection.targets import encode_targets
from tests.conftest import classes_of, noise_image, sample_of

# In output pixels of 32x24; by hand in input pixels: four times that.
BOXES = np.array([[2, 3, 10.5, 9], [12, 4, 30, 20], [5, 15, 8, 18.25]], np.float32)
LABELS = np.array([1, 0, 1])
OPTIONS = [{}, {"dense_wh": True}, {"cat_spec_wh": True}, {"mse_loss": True}, {"dense_wh": True, "mse_loss": True}]


@pytest.fixture
def make_layout(make_config):
    """make_layout(option=value of net_config, ...) -> a targets.Layout of 128x96 with two classes."""
    def make(**options):
        layout = sample_layout(make_config("--dataset_config.input_res_train", "[128, 96]"), classes_of(2))
        return dataclasses.replace(layout, max_objs=6, **options)

    return make


def encoded(layout, boxes=BOXES, labels=LABELS):
    """The targets of boxes, with a heatmap."""
    width, height = layout.out_size
    return encode_targets(boxes, labels, layout, np.zeros((layout.num_classes, height, width), np.float32))


@pytest.mark.parametrize("options", OPTIONS)
def test_boxes_are_decoded_from_the_targets(options, make_layout):
    layout = make_layout(**options)
    decoded = decode_targets(encoded(layout), layout)
    np.testing.assert_allclose(decoded[:, :4], BOXES * 4, atol=1e-4)
    assert decoded[:, 5].tolist() == LABELS.tolist()


@pytest.mark.parametrize("options", OPTIONS)
def test_sizes_come_from_the_targets(options, make_layout):
    layout = make_layout(**options)
    targets = encoded(layout)
    targets["wh"] = targets["wh"] * 2
    decoded = decode_targets(targets, layout)
    np.testing.assert_allclose(decoded[:, 2:4] - decoded[:, :2], 8 * (BOXES[:, 2:] - BOXES[:, :2]), atol=1e-4)


def test_offset_center_and_class_come_from_the_targets(make_layout):
    layout = make_layout()
    targets = encoded(layout)
    targets["reg"][0] += (0.25, -0.5)
    np.testing.assert_allclose(decode_targets(targets, layout)[0, :4], BOXES[0] * 4 + [1, -2, 1, -2], atol=1e-4)
    targets["hm"] = targets["hm"][::-1]
    assert decode_targets(targets, layout)[:, 5].tolist() == [0, 1, 0]
    targets["hm"] = np.minimum(targets["hm"], 0.99)
    decoded = decode_targets(targets, layout)
    assert decoded[:, 5].tolist() == [2, 2, 2]  # no class: the network would not learn one
    assert names_of(decoded, ["a", "b"]) == ["no peak"] * 3
    targets["reg_mask"][:] = 0
    assert decode_targets(targets, layout).shape == (0, 6)


def test_without_offsets_centers_are_in_the_middle_of_pixels(make_layout):
    layout = make_layout()
    decoded = decode_targets(encoded(layout), layout, reg_offset=False)
    np.testing.assert_allclose(decoded[:, :4].reshape(-1, 2, 2).mean(1) / 4 % 1, 0.5, atol=1e-4)


def test_two_classes_on_one_pixel(make_layout):
    boxes = np.array([[2, 2, 10, 10], [4, 4, 8, 8]], np.float32)
    for options in ({}, {"cat_spec_wh": True}):
        layout = make_layout(**options)
        decoded = decode_targets(encoded(layout, boxes, np.array([0, 1])), layout)
        np.testing.assert_allclose(decoded[:, :4], boxes * 4, atol=1e-4)
        assert decoded[:, 5].tolist() == [0, 1]


def test_denormalized_input_is_the_image(make_layout):
    layout = make_layout()
    view = noise_image(1, 96, 128)
    sample = sample_of(view, np.zeros((0, 4), np.float32), np.zeros(0, int), whole_image((128, 96), (128, 96)), layout)
    np.testing.assert_allclose(denormalize(apply_color(view, sample["color"]), layout.mean, layout.std).astype(int),
                               view, atol=1)


def test_a_box_is_drawn_in_place_in_the_color_of_its_class():
    gray = np.full((96, 480, 3), 127, np.uint8)
    drawn = draw_sample(gray, np.zeros((2, 24, 120), np.float32), np.array([[100, 20, 200, 80, 1, 1]], np.float32),
                        ["b"])
    assert drawn.shape == gray.shape
    for y, x in ((50, 100), (50, 200), (80, 150)):
        np.testing.assert_allclose(drawn[y, x], class_color(1), atol=30)
    np.testing.assert_array_equal(drawn[50, 120], [76] * 3)  # dimmed
    assert (drawn[50, 150] > 200).all()  # the center


def test_a_peak_of_any_class_is_white():
    hm = np.zeros((2, 24, 24), np.float32)
    hm[1, 12, 12] = hm[0, 6, 6] = 1
    drawn = draw_sample(np.zeros((96, 96, 3), np.uint8), hm, np.zeros((0, 6), np.float32), [])
    assert (drawn[250, 250] > 240).all() and (drawn[130, 130] > 240).all() and drawn[50, 50].sum() == 0


@pytest.mark.parametrize("size, images", [((128, 96), 1), ((32, 2048), 3), ((32, 32), 16)])
def test_batches_of_any_shape(size, images, make_config):
    layout = sample_layout(make_config("--dataset_config.input_res_train", list(size)), classes_of(1))
    targets = encoded(layout, BOXES / 8, np.zeros(3, int))
    batch = {name: np.stack([values] * images) for name, values in targets.items()}
    batch["image"] = np.zeros((images, 3, *size[::-1]), np.float32)
    sheet = draw_batch(batch, ["a"] * images, layout, make_config().net_config, classes_of(1))
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
