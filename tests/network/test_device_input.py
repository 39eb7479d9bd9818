"""src/network/device_input.py: the device computes the same as the host."""

import mindspore as ms
import numpy as np
import pytest

from src.data.samples import sample_layout
from src.imaging.color import apply_color
from src.network.device_input import ApplyColor, DeviceInput, Normalize
from src.tasks.augmentation import whole_image
from src.tasks.detection import targets
from src.tasks.detection.device import DrawTargets
from src.tasks.points import DrawHeatmap, gaussian_table
from src.training import engine
from tests.conftest import noise_image, sample_of, train_least
from tests.metainfo import classes_of


def random_objects(rng, count, out_size):
    """Boxes of all sizes in output pixels, some beyond the edges, and labels, many of which are equal."""
    width, height = out_size
    size = np.exp(rng.uniform(np.log(0.5), np.log(width), (count, 2)))
    corner = rng.uniform(-3, [width, height], (count, 2))
    return np.hstack([corner, corner + size]).astype(np.float32), rng.integers(0, 4, count).astype(np.int32)


def assert_draws_the_hosts_heatmaps(mse_loss):
    """Four images with 0, 1, 20 and more than max_objs objects, not square, to 1e-6; centers are exactly 1."""
    rng = np.random.default_rng(3)
    out_size, samples, drawn = (40, 24), [], []
    for count in (0, 1, 20, 40):
        boxes, labels = random_objects(rng, count, out_size)
        drawn.append(np.zeros((4, *out_size[::-1]), np.float32))
        layout = targets.Layout((160, 96), 4, 32, 4, [], [], [], [], mse_loss)
        targets.encode_targets(boxes, labels, layout, drawn[-1])
        samples.append(targets.encode_targets(boxes, labels, layout))
        assert "hm" not in samples[-1]
    objects, ind = (ms.Tensor(np.stack([sample[name] for sample in samples])) for name in ("objects", "ind"))
    heat = (DrawHeatmap(4, out_size, True) if mse_loss else DrawHeatmap(4, out_size))(objects, ind).asnumpy()
    np.testing.assert_allclose(heat, np.stack(drawn), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(heat == 1, np.stack(drawn) == 1)
    assert (heat == 1).sum() > 30 and heat[0].max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("mse_loss", [False, True])
def test_the_device_draws_the_hosts_heatmaps(mse_loss):
    assert_draws_the_hosts_heatmaps(mse_loss)


@pytest.mark.parametrize("mse_loss", [False, True])
def test_the_device_draws_the_hosts_heatmaps_operation_by_operation(mse_loss, by_operation):
    """The same without a graph, which is fast."""
    assert_draws_the_hosts_heatmaps(mse_loss)


def test_the_device_applies_the_hosts_colors(by_operation):
    rng = np.random.default_rng(0)
    images = np.stack([noise_image(seed, 20, 30) for seed in range(3)])
    colors = (rng.normal(size=(3, 3, 4)) * [0.01, 0.01, 0.01, 1]).astype(np.float32)
    expected = np.stack([apply_color(pixels, color) for pixels, color in zip(images, colors)])
    np.testing.assert_allclose(ApplyColor()(ms.Tensor(images), ms.Tensor(colors)).asnumpy(), expected, atol=5e-6)


def test_normalized_bytes_by_hand(by_operation):
    images = np.stack([noise_image(seed, 3, 5) for seed in range(2)])
    mean, std = [0.25, 0.5, 0.75], [0.5, 0.25, 0.2]
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    found = Normalize(mean, std)(ms.Tensor(images)).asnumpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("mse_loss", [False, True])
def test_the_table_of_gaussians_by_hand(mse_loss):
    """One row per radius up to that of a box as large as the output: 0.7 ** 0.5 - 0.7 of the sum of its sides."""
    table = gaussian_table((100, 100), mse_loss)
    assert table.shape == (int(200 * (0.7**0.5 - 0.7)) + 2, 100) and table.dtype == np.float32
    assert not table[0].any()
    for radius, row in enumerate(table[1:]):
        sigma = 2 if mse_loss else (2 * radius + 1) / 6
        distance = np.arange(100)
        expected = np.where(distance <= radius, np.exp(-(distance**2) / (2 * sigma**2)), 0)
        np.testing.assert_allclose(row, np.where(expected < np.finfo(np.float64).eps, 0, expected), rtol=1e-6)
    # By hand, for sides whose sum is 200 and whose product is 6400: (99904 ** 0.5 - 280) / 2 is 18.04.
    assert gaussian_table((160, 40), mse_loss).shape == (20, 160)
    # The fixed gaussian of mse_loss reaches 6 pixels in a smaller output, too.
    assert gaussian_table((5, 3), mse_loss).shape == (8, 7)


@pytest.mark.parametrize("draws", [False, True])
def test_a_batch_of_the_device(draws, by_operation):
    """Colors are applied, objects become heatmaps; without drawing, the heatmaps are the pipeline's."""
    images = noise_image(0, 4, 8)[None]
    color = np.hstack([np.diag([0.5, 1, 2]), [[1], [2], [3]]]).astype(np.float32)[None]
    objects, ind = np.array([[[1, 0], [-1, -1]]], np.int32), np.array([[5, 0]], np.int32)
    heat = np.zeros((1, 2, 2, 4), np.float32)
    heat[0, 1, 1, 1] = 1  # of radius 0, at 5
    layout = targets.Layout((16, 8), 2, 2, 4, [], [], [], [])
    cell = DeviceInput(targets.columns(not draws), DrawTargets(layout) if draws else None)
    rest = [ind, *(np.full((1, 2, 2), value, np.float32) for value in range(4))]
    made = cell(*map(ms.Tensor, (images, color, objects if draws else heat, *rest)))
    assert tuple(made) == cell.names == ("image", "hm", "ind", "reg", "reg_mask", "wh", "wh_mask")
    pixels, hm, *found = (value.asnumpy() for value in made.values())
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), images[0] * [0.5, 1, 2] + [1, 2, 3])
    np.testing.assert_array_equal(hm, heat)
    assert all(np.array_equal(*pair) for pair in zip(found, rest, strict=True))


@pytest.mark.parametrize("heatmap_on, dense_wh, target, host", [
    ("auto", False, "CPU", True), ("auto", False, "Ascend", False), ("host", False, "Ascend", True),
    ("device", False, "CPU", False), ("device", True, "Ascend", True),
])
def test_where_heatmaps_are_drawn(heatmap_on, dense_wh, target, host, make_config):
    config = make_config("--dataset_config.heatmap_on", heatmap_on, "--net_config.dense_wh", str(dense_wh).lower())
    assert targets.draws_on_host(config, target) is host


def test_bytes_from_host_to_device(make_config):
    """At most a quarter of the model-zoo version's 8.4 MB (image and heatmap in float32) if the device draws."""
    config = make_config()
    pixels, boxes = noise_image(0, 480, 640), np.array([[10, 10, 300, 300]], np.float32)
    layout = sample_layout(config, classes_of(80))
    sample = sample_of(pixels, boxes, np.array([3]), whole_image((640, 480), layout.input_size), layout)
    assert list(sample) == targets.columns(False) and sum(value.nbytes for value in sample.values()) < 8.4e6 / 4
    cell = engine.build_device_input(config, classes_of(80), False)
    draw = cell.complete.draw_heatmap
    assert isinstance(cell, DeviceInput) and (draw.width, draw.num_classes) == (128, 80)


@pytest.mark.slow
def test_training_is_the_same_with_heatmaps_from_host_or_device(least_run, tiny_records, tmp_path):
    """least_run's heatmaps are drawn on the host, the default on a CPU."""
    args = ["--mindrecord_dir", tiny_records, "--dataset_config.heatmap_on", "device", "--train_steps", 3,
            "--enable_save_ckpt", "false"]
    done = train_least(*args, cwd=tmp_path)
    device, host = ([float(line.split("| loss ")[1].split()[0]) for line in text.splitlines()
                     if line.startswith("epoch")]
                    for text in (done.stdout, (least_run / "stdout.txt").read_text()))
    assert len(set(device)) == 3
    np.testing.assert_allclose(device, host[:3], rtol=1e-3)
