"""src/targets.py: samples of the training pipeline."""
import cv2
import numpy as np
import pytest

from src import image, targets
from src.boxes import ground_truth_boxes
from src.coco import Split, read_coco
from tests.conftest import batches, convert, network_input, noise_image, write_coco


def test_without_augmentation_a_sample_is_the_whole_image(tiny_data, tiny_records, make_config):
    """flip_prop, color_aug, scale, shift, aug_rot, do_shuffle switched off: the first sample is the first image."""
    words = ["--dataset_config.flip_prop", 0, "--dataset_config.color_aug", "false", "--dataset_config.rand_crop", "false",
             "--dataset_config.scale", 0, "--dataset_config.shift", 0, "--do_shuffle", "false"]
    sample = batches(tiny_records, make_config, *words)[0]
    options = make_config().dataset_config
    image = cv2.imread(str(tiny_data / "train2017" / "000001.jpg"))
    expected = ((image / 255.0 - options.mean) / options.std).transpose(2, 0, 1)
    np.testing.assert_allclose(network_input(sample), expected, atol=1e-4)
    coco = read_coco(str(tiny_data / "annotations" / "instances_train2017.json"))
    boxes = ground_truth_boxes(coco, 1, [1, 2, 3])[:, :4] / 4
    np.testing.assert_allclose(sample["wh"][0][: len(boxes)], np.clip(boxes[:, 2:], 0, 23) - np.clip(boxes[:, :2], 0, 23), atol=1e-4)


@pytest.mark.parametrize("words", [
    ("--dataset_config.aug_rot", 1, "--dataset_config.rotate", 30), ("--dataset_config.rand_crop", "false"),
    ("--dataset_config.flip_prop", 1), ("--dataset_config.color_aug", "false"), ("--dataset_config.scale", 0.1),
    ("--dataset_config.shift", 0.3, "--dataset_config.rand_crop", "false"), ("--seed", 5), ("--do_shuffle", "false"),
    ("--dataset_config.mean", "[0, 0, 0]"), ("--dataset_config.std", "[1, 1, 1]"),
    ("--dataset_config.eig_val", "[1, 1, 1]"), ("--dataset_config.eig_vec", "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]"),
])
def test_every_augmentation_option_changes_the_samples(tiny_records, make_config, words):
    one, other = (network_input(batches(tiny_records, make_config, *changes)[0]) for changes in ((), words))
    assert not np.array_equal(one, other)


def test_rotation_stays_within_its_limit(make_config):
    options = make_config("--dataset_config.aug_rot", 0.5, "--dataset_config.rotate", 20).dataset_config
    rng = np.random.default_rng(0)
    angles = [image.random_rotation(rng, options.aug_rot, options.rotate) for _ in range(400)]
    assert max(map(abs, angles)) <= 20
    assert 0.4 < np.mean([angle != 0 for angle in angles]) < 0.6


def test_a_dense_size_with_mean_squared_error_fills_centers_alone():
    """The heatmap's gaussian is wider than draw_dense_reg's of radius 2, so that this is nowhere above it but at the center."""
    hm = np.zeros((2, 32, 32), np.float32)
    boxes = np.array([[4, 4, 20, 16], [18, 20, 26, 28]], np.float32)
    layout = targets.Layout((128, 128), 2, 8, 4, [], [], [], [], mse_loss=True, dense_wh=True)
    found = targets.encode_targets(boxes, np.array([0, 1]), layout, hm)
    expected = np.zeros((2, 32, 32), np.float32)
    expected[:, 10, 12] = 16, 12
    expected[:, 24, 22] = 8, 8
    np.testing.assert_array_equal(found["wh"], expected)
    assert (found["wh_mask"][0] > 0).sum() > 2 * 73


def test_max_objs_limits_the_slots(tiny_records, make_config):
    sample = batches(tiny_records, make_config, "--dataset_config.max_objs", 1)[0]
    assert sample["ind"].shape == (4, 1) and sample["reg_mask"].max() == 1


def test_an_image_without_objects_has_an_empty_heatmap(tmp_path, make_config):
    annotation = write_coco(tmp_path, "train", {1: noise_image(1), 2: noise_image(2)}, [(2, 1, [30, 20, 60, 50])])
    convert(Split(annotation, str(tmp_path / "train2017")), tmp_path / "m", "coco_det.train.mind", "none")
    samples = batches(tmp_path / "m", make_config, "--train_config.batch_size", 1)
    assert sorted(sample["hm"].max() for sample in samples) == sorted(sample["reg_mask"].max() for sample in samples) == [0, 1]


def test_a_random_crop_without_scaling(tiny_records, make_config):
    """scale 0 is no scaling: regions are as wide as the image is long."""
    for seed in range(5):
        assert image.random_crop(np.random.default_rng(seed), (64, 48), 128.0, (128, 96), (True, 0.0, 0.1))[1] == 128
    assert len(batches(tiny_records, make_config, "--dataset_config.scale", 0)) == 5
