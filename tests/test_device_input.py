"""src/device_input.py: what the device computes is what the host would have."""
import contextlib

import mindspore as ms
import numpy as np
import pytest

from src import engine, image, targets
from src.centernet_det import build_network
from src.dataset import TrainSet
from src.device_input import ApplyColor, DeviceInput, DrawHeatmap
from src.optimizer import build_optimizer
from src.samples import sample_layout
from tests.conftest import noise_image, operation_by_operation


def random_objects(rng, count, out_size):
    """Boxes in output pixels of all sizes, some reaching beyond the edges, and their labels, of which many share a class."""
    width, height = out_size
    size = np.exp(rng.uniform(np.log(0.5), np.log(width), (count, 2)))
    corner = rng.uniform(-3, [width, height], (count, 2))
    return np.hstack([corner, corner + size]).astype(np.float32), rng.integers(0, 4, count).astype(np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("mse_loss", [False, True])
def test_the_device_draws_the_hosts_heatmaps(mse_loss):
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
    heat = DrawHeatmap(4, out_size, mse_loss)(objects, ind).asnumpy()
    np.testing.assert_allclose(heat, np.stack(drawn), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(heat == 1, np.stack(drawn) == 1)
    assert (heat == 1).sum() > 30 and heat[0].max() == 0


def test_the_device_applies_the_hosts_colors():
    rng = np.random.default_rng(0)
    images = np.stack([noise_image(seed, 20, 30) for seed in range(3)])
    colors = (rng.normal(size=(3, 3, 4)) * [0.01, 0.01, 0.01, 1]).astype(np.float32)
    expected = np.stack([image.apply_color(pixels, color) for pixels, color in zip(images, colors)])
    np.testing.assert_allclose(ApplyColor()(ms.Tensor(images), ms.Tensor(colors)).asnumpy(), expected, atol=5e-6)


@pytest.mark.parametrize("heatmap_on, dense_wh, target, host", [
    ("auto", False, "CPU", True), ("auto", False, "Ascend", False), ("host", False, "Ascend", True), ("device", False, "CPU", False),
    ("device", True, "Ascend", True),
])
def test_where_heatmaps_are_drawn(heatmap_on, dense_wh, target, host):
    assert targets.draws_on_host(heatmap_on, dense_wh, target) is host


def test_bytes_from_host_to_device(make_config):
    """At most a quarter of the model-zoo version's 8.4 MB (image and heatmap in float32), where the device draws."""
    config = make_config()
    pixels, boxes = noise_image(0, 480, 640), np.array([[10, 10, 300, 300]], np.float32)
    layout = sample_layout(config, 80)
    sample = targets.make_sample(pixels, boxes, np.array([3]), targets.whole_image((640, 480), layout.input_size), layout)
    assert list(sample) == targets.columns(False) and sum(value.nbytes for value in sample.values()) < 8.4e6 / 4
    cell = engine.build_device_input(config, 80, False)
    assert isinstance(cell, DeviceInput) and (cell.draw_heatmap.width, cell.draw_heatmap.num_classes) == (128, 80)


@pytest.mark.slow
def test_training_is_the_same_wherever_they_are_drawn(tiny_records, make_config, small):
    """Three steps; the graph is compiled where the device draws, as it otherwise never does on a CPU."""
    losses = {}
    for where in ("host", "device"):
        size = "--dataset_config.input_res_train", "[96, 96]", "--train_config.batch_size", 4
        config = make_config("--mindrecord_dir", tiny_records, *size, "--dataset_config.heatmap_on", where,
                             "--train_config.MultiDecay.warmup_steps", 0)
        train_set = TrainSet(config)
        ms.set_seed(3)
        network = build_network(config.net_config, train_set.num_classes, "native")
        device_input = engine.build_device_input(config, train_set.num_classes, train_set.heatmap_on_host)
        optimizer = build_optimizer(network, config.train_config, train_set.steps_per_epoch, 1)
        step = engine.build_train_step(network, config, optimizer, device_input=device_input)
        with contextlib.nullcontext() if where == "device" else operation_by_operation():
            batches = train_set.batches(0, 3).create_tuple_iterator(num_epochs=1)
            losses[where] = [float(step(*batch)[0].asnumpy()) for batch in batches]
        assert train_set.heatmap_on_host == (where == "host")
    assert len(set(losses["device"])) == 3
    np.testing.assert_allclose(losses["device"], losses["host"], rtol=1e-3)
