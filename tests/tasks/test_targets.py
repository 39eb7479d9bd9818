"""src/tasks/detection/targets.py: samples of the training pipeline."""
import dataclasses
import types

import cv2
import numpy as np
import pytest

from src.data.coco import Split, read_coco
from src.data.objects import ground_truth
from src.data.samples import collate
from src.imaging import geometry
from src.tasks import augmentation
from src.tasks.detection import DETECTION, targets
from tests.conftest import batches, convert, network_input, noise_image, sample_of, write_coco


def test_without_augmentation_a_sample_is_the_full_image(tiny_data, tiny_records, make_config):
    """With flip_prop, color_aug, scale, shift, aug_rot and do_shuffle off, the first sample is the first image."""
    args = ["--dataset_config.flip_prop", 0, "--dataset_config.color_aug", "false",
            "--dataset_config.rand_crop", "false", "--dataset_config.scale", 0, "--dataset_config.shift", 0,
            "--do_shuffle", "false"]
    sample = batches(tiny_records, make_config, *args)[0]
    options = make_config().dataset_config
    image = cv2.imread(str(tiny_data / "train2017" / "000001.jpg"))
    expected = ((image / 255.0 - options.mean) / options.std).transpose(2, 0, 1)
    np.testing.assert_allclose(network_input(sample), expected, atol=1e-4)
    coco = read_coco(str(tiny_data / "annotations" / "instances_train2017.json"))
    boxes = ground_truth(DETECTION, coco, 1, [1, 2, 3], {})[:, :4] / 4
    np.testing.assert_allclose(sample["wh"][0][: len(boxes)],
                               np.clip(boxes[:, 2:], 0, 23) - np.clip(boxes[:, :2], 0, 23), atol=1e-4)


@pytest.mark.parametrize("args", [
    ("--dataset_config.aug_rot", 1, "--dataset_config.rotate", 30), ("--dataset_config.rand_crop", "false"),
    ("--dataset_config.flip_prop", 1), ("--dataset_config.color_aug", "false"), ("--dataset_config.scale", 0.1),
    ("--dataset_config.shift", 0.3, "--dataset_config.rand_crop", "false"), ("--seed", 5), ("--do_shuffle", "false"),
    ("--dataset_config.mean", "[0, 0, 0]"), ("--dataset_config.std", "[1, 1, 1]"),
    ("--dataset_config.eig_val", "[1, 1, 1]"), ("--dataset_config.eig_vec", "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]"),
])
def test_every_augmentation_option_changes_the_samples(tiny_records, make_config, args):
    one, other = (network_input(batches(tiny_records, make_config, *changes)[0]) for changes in ((), args))
    assert not np.array_equal(one, other)


def test_rotation_stays_within_its_limit(make_config):
    options = make_config("--dataset_config.aug_rot", 0.5, "--dataset_config.rotate", 20).dataset_config
    rng = np.random.default_rng(0)
    angles = [geometry.random_rotation(rng, options.aug_rot, options.rotate) for _ in range(400)]
    assert max(map(abs, angles)) <= 20
    assert 0.4 < np.mean([angle != 0 for angle in angles]) < 0.6


def test_dense_sizes_with_mean_squared_error_fill_only_centers():
    """The heatmap's gaussian is wider than draw_dense_reg's of radius 2, which reaches it only at the center."""
    hm = np.zeros((2, 32, 32), np.float32)
    boxes = np.array([[4, 4, 20, 16], [18, 20, 26, 28]], np.float32)
    layout = targets.Layout((128, 128), 2, 8, 4, [], [], [], [], mse_loss=True, dense_wh=True)
    found = targets.encode_targets(boxes, np.array([0, 1]), layout, hm)
    expected = np.zeros((2, 32, 32), np.float32)
    expected[:, 10, 12] = 16, 12
    expected[:, 24, 22] = 8, 8
    np.testing.assert_array_equal(found["wh"], expected)
    assert (found["wh_mask"][0] > 0).sum() > 2 * 73


LAYOUT = targets.Layout((64, 48), 3, 7, 4, [0.1, 0.2, 0.3], [0.5, 0.25, 0.125], [0.2, 1.8, 0.5], np.eye(3).tolist())
BOXES = np.array([[2, 1, 7, 10], [3, 3, 3, 9], [4, 5, 8, 5], [8, 1, 5, 9], [8, 9, 12, 5], [-9, 6, 1.5, 30],
                  [13.25, 8.5, 13.75, 9.25], [0, 0, 9, 9]], np.float32)
LABELS = np.array([2, 1, 1, 1, 1, 0, 2, 1])
# For boxes with an area: slot, class, width, height, center's pixel x, y, offset. The second box is clipped at the left
# and at row 11; the last of BOXES exceeds max_objs.
OBJECTS = ((0, 2, 5, 9, 4, 5, 0.5, 0.5), (5, 0, 1.5, 5, 0, 8, 0.75, 0.5), (6, 2, 0.5, 0.75, 13, 8, 0.5, 0.875))
RADII = (1, 0, 0)  # the original's for 5x9, 2x5 and 1x1: 1.77, 0.79 and 0.27


def drawn(sigmas):
    """Heatmaps of OBJECTS: gaussians up to their radii."""
    heat = np.zeros((3, 12, 16))
    rows, columns = np.mgrid[:12, :16]
    for (_, label, _, _, x, y, *_), (radius, sigma) in zip(OBJECTS, sigmas):
        dx, dy = columns - x, rows - y
        there = np.where(np.maximum(abs(dx), abs(dy)) <= radius, np.exp(-(dx**2 + dy**2) / (2 * sigma**2)), 0)
        heat[label] = np.maximum(heat[label], there)
    return heat


@pytest.mark.parametrize("mse_loss", [False, True])
def test_targets_by_hand(mse_loss):
    sigmas = [(6, 2)] * 3 if mse_loss else [(radius, (2 * radius + 1) / 6) for radius in RADII]
    layout = dataclasses.replace(LAYOUT, mse_loss=mse_loss)
    hm = np.zeros((3, 12, 16), np.float32)
    found = targets.encode_targets(BOXES, LABELS, layout, hm)
    assert found["hm"] is hm and "objects" not in found
    np.testing.assert_allclose(hm, drawn(sigmas), atol=1e-7)
    objects, ind, reg_mask = np.full((7, 2), -1), np.zeros(7), np.zeros(7)
    reg, wh, wh_mask, cat_wh, cat_mask = (np.zeros((7, columns)) for columns in (2, 2, 2, 6, 6))
    for (slot, label, w, h, x, y, dx, dy), (radius, _) in zip(OBJECTS, sigmas):
        objects[slot], ind[slot], reg_mask[slot], reg[slot] = (label, radius), y * 16 + x, 1, (dx, dy)
        wh[slot], wh_mask[slot] = (w, h), 1
        cat_wh[slot, 2 * label : 2 * label + 2], cat_mask[slot, 2 * label : 2 * label + 2] = (w, h), 1
    expected = {"ind": ind, "reg": reg, "reg_mask": reg_mask, "wh": wh, "wh_mask": wh_mask}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == (np.int32 if name == "ind" else np.float32)
    of_device = targets.encode_targets(BOXES, LABELS, layout)
    np.testing.assert_array_equal(of_device.pop("objects"), objects)
    assert list(of_device) == list(expected)
    in_columns = targets.encode_targets(BOXES, LABELS, dataclasses.replace(layout, cat_spec_wh=True))
    np.testing.assert_array_equal(in_columns["wh"], cat_wh)
    np.testing.assert_array_equal(in_columns["wh_mask"], cat_mask)


def test_dense_sizes_by_hand():
    """Sizes where an object's gaussian is at least the heatmap of all objects, which rounding to float32 may raise."""
    layout = dataclasses.replace(LAYOUT, dense_wh=True)
    found = targets.encode_targets(BOXES, LABELS, layout, np.zeros((3, 12, 16), np.float32))
    heat = drawn([(radius, (2 * radius + 1) / 6) for radius in RADII])
    expected = np.zeros((2, 12, 16))
    for (_, _, w, h, x, y, *_), radius in zip(OBJECTS, RADII):
        around = np.s_[y - radius : y + radius + 1, x - radius : x + radius + 1]
        own = heat.max(0)[around]
        expected[(slice(None), *around)] = np.where((own > 0) & (own >= own.astype(np.float32)),
                                                    np.reshape((w, h), (2, 1, 1)), 0)
    np.testing.assert_array_equal(found["wh"], expected)
    np.testing.assert_allclose(found["wh_mask"], np.repeat(heat.max(0, keepdims=True), 2, 0), atol=1e-7)


def test_a_sample_by_hand():
    """A mirrored image at integer scale: center, boxes and pixels are mirrored; colors augmented, then normalized."""
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    boxes = np.array([[8, 8, 24, 40]], np.float32)
    view = augmentation.Augmentation(np.array([31, 24], np.float32), 64.0, flip=True)
    layout = dataclasses.replace(LAYOUT, max_objs=1)
    sample = sample_of(pixels, boxes, [1], view, layout)
    assert list(sample) == targets.columns(False) == ["image", "color", "objects", "ind", "reg", "reg_mask",
                                                      "wh", "wh_mask"]
    assert targets.columns(True) == ["image", "color", "hm", "ind", "reg", "reg_mask", "wh", "wh_mask"]
    np.testing.assert_array_equal(sample["image"], pixels[:, ::-1])  # the mirrored center is 64 - 31 - 1, the middle
    np.testing.assert_allclose(sample["color"], [[2 / 255, 0, 0, -0.2], [0, 4 / 255, 0, -0.8], [0, 0, 8 / 255, -2.4]],
                               rtol=1e-6)
    # The mirrored box is [39, 8, 55, 40], in output pixels [9.75, 2, 13.75, 10].
    np.testing.assert_allclose(sample["wh"], [[4, 8]], atol=1e-5)
    assert sample["ind"] == [6 * 16 + 11]
    np.testing.assert_allclose(sample["reg"], [[0.75, 0]], atol=1e-5)
    lit = dataclasses.replace(view, steps=(("contrast", 0.5),), lighting=np.array([1.0, -1.0, 0.5]))
    color = sample_of(pixels, boxes, [1], lit, layout)["color"]
    gray = 0.5 * (pixels.mean((0, 1)) / 255) @ [0.114, 0.587, 0.299] + np.array([0.2, -1.8, 0.25])
    np.testing.assert_allclose(color[:, 3], (gray - layout.mean) / layout.std, rtol=1e-5)
    np.testing.assert_allclose(color[:, :3], np.diag(0.5 / 255 / np.array(layout.std)), rtol=1e-6)
    hm = np.zeros((2, 3, 12, 16), np.float32)
    batch = collate(targets.columns(False), [sample, sample], {})
    assert [value.shape for value in batch] == [(2, *np.shape(value)) for value in sample.values()]
    drawn = [sample_of(pixels, boxes, [1], view, layout, hm[slot]) for slot in range(2)]
    assert collate(targets.columns(True), drawn, {"hm": hm})[2] is hm and hm[:, 1].max() == 1


def test_the_identity_augmentation():
    view = augmentation.whole_image((300, 200), (64, 48))
    np.testing.assert_array_equal(view.center, [150, 100])
    assert (view.width, view.rotation, view.flip, view.steps, view.lighting) == (300, 0, False, (), (0, 0, 0))


@pytest.mark.parametrize("flip_draw, flip", [(0.5, False), (0.6, False), (0.49, True)])
@pytest.mark.parametrize("color_aug", [False, True])
def test_an_augmentation_by_given_draws(color_aug, flip_draw, flip):
    """By hand, for an image of 320x240, fully shown at width 320; a seed's samples depend on the order of draws."""
    of_color = [[1, 0, 2], np.zeros(3), np.array([0.1, 0.2, 0.3])]
    values = iter([np.array([1.0, -1.0]), 0.5, 0.1, 0.5, flip_draw, *(of_color if color_aug else ())])

    def draw(*args, **kwargs):
        return next(values)

    rng = types.SimpleNamespace(random=draw, standard_normal=draw, permutation=draw, uniform=draw, normal=draw)
    ranges = augmentation.Ranges(rand_crop=False, shift=0.1, scale=0.4, aug_rot=0.2, rotate=20, flip_prop=0.5,
                                 color_aug=color_aug, aug_ddd=0.5)
    view = targets.random_augmentation(rng, (320, 240), (64, 48), ranges)
    np.testing.assert_allclose(view.center, [160 + 32, 120 - 32], rtol=1e-6)
    assert view.width == pytest.approx(320 * 1.2) and view.rotation == 5 and view.flip is flip
    if color_aug:
        assert view.steps == [("contrast", 1), ("brightness", 1), ("saturation", 1)]
        np.testing.assert_array_equal(view.lighting, [0.1, 0.2, 0.3])
    else:
        assert view.steps == ()
        np.testing.assert_array_equal(view.lighting, [0, 0, 0])
    assert next(values, None) is None


def test_max_objs_limits_the_slots(tiny_records, make_config):
    sample = batches(tiny_records, make_config, "--dataset_config.max_objs", 1)[0]
    assert sample["ind"].shape == (4, 1) and sample["reg_mask"].max() == 1


def test_an_image_without_objects_has_an_empty_heatmap(tmp_path, make_config):
    annotation = write_coco(tmp_path, "train", {1: noise_image(1), 2: noise_image(2)}, [(2, 1, [30, 20, 60, 50])])
    convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "m", "coco_det.train.mind", "none")
    samples = batches(tmp_path / "m", make_config, "--train_config.batch_size", 1)
    for name in ("hm", "reg_mask"):
        assert sorted(sample[name].max() for sample in samples) == [0, 1]


def test_a_random_crop_without_scaling(tiny_records, make_config):
    """With scale 0, regions are as wide as the image's longer side."""
    for seed in range(5):
        assert geometry.random_crop(np.random.default_rng(seed), (64, 48), 128.0, (128, 96), (True, 0.0, 0.1))[1] == 128
    assert len(batches(tiny_records, make_config, "--dataset_config.scale", 0)) == 5
