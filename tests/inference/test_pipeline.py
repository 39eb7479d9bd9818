"""src/inference/pipeline.py and src/inference/detector.py: folding, flip test, batching, overlapping stages."""
import os
import subprocess
import sys
import threading

import mindspore as ms
import numpy as np
import pytest
import torch

from src.core.console import Compilation
from src.imaging.reading import read_image
from src.inference.detector import ExportedDetector
from src.inference.pipeline import StageTimes, detect_all, make_inputs
from src.network import graphs
from src.network.centernet import InferenceMaps
from src.network.device_input import Normalize
from src.network.folding import fold_batch_norm
from src.network.graphs import Graphs
from src.tasks.detection.device import heads
from src.weights.checkpoints import load_weights, read_checkpoint
from tests import torch_reference
from tests.conftest import (
    ROOT,
    assert_same_detections,
    network_of,
    noise_image,
    operation_by_operation,
    own_detector,
    replace_resdcn_18,
    write_coco,
)
from tests.metainfo import classes_of


def build(lively_checkpoint):
    """The tiny network with lively weights, in its training form."""
    cell = network_of(3, num_stacks=[1, 1, 1, 1], head_conv=16)
    load_weights(cell, read_checkpoint(str(lively_checkpoint)), "lively")
    return cell.set_train(False)


def batch_of(seed, shape=(2, 3, 96, 96)):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------- the graph


@pytest.mark.slow
def test_folding_changes_nothing_beyond_rounding(lively_checkpoint, by_operation):
    image = ms.Tensor(batch_of(0))
    network = build(lively_checkpoint)
    before = [output.asnumpy() for output in network(image)[0].values()]
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, ms.nn.BatchNorm2d)]
    assert len(norms) == 18  # the stem, two in each of four blocks, three shortcuts, six after them
    folded = build(lively_checkpoint)  # a compiled graph would ignore the change
    assert fold_batch_norm(folded) == 0
    assert not [cell for _, cell in folded.cells_and_names() if isinstance(cell, ms.nn.BatchNorm2d)]
    for expected, output in zip(before, folded(image)[0].values(), strict=True):
        assert np.abs(output.asnumpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_batch_norm_that_cannot_be_folded_exactly_stays(lively_checkpoint):
    network = build(lively_checkpoint)
    norm = network.backbone.layer2[0].bn2
    mean = norm.moving_mean.asnumpy()
    mean[3] = 1000 * np.sqrt(norm.moving_variance.asnumpy()[3]) / norm.gamma.asnumpy()[3]
    norm.moving_mean.set_data(ms.Tensor(mean))
    assert fold_batch_norm(network) == 1
    assert network.backbone.layer2[0].bn2 is norm


def test_bytes_are_normalized_in_the_graph():
    mean, std = [0.4, 0.45, 0.5], [0.2, 0.3, 0.25]
    image = noise_image(1, 8, 12)[None]
    expected = ((image.astype(np.float64) / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(Normalize(mean, std)(ms.Tensor(image)).asnumpy(), expected, atol=2e-6)


@pytest.mark.slow
def test_flip_test_averages_image_and_mirror_image(lively_checkpoint, by_operation, make_config):
    """Heatmap and size are averaged, the offset comes from the image; written in PyTorch like the original."""
    reference = torch_reference.lively(torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)))
    image = batch_of(4, (2, 3, 96, 128))
    with torch.no_grad():
        hm, wh, reg = reference(torch.tensor(image))
        mirrored_hm, mirrored_wh, _ = reference(torch.tensor(image).flip(3))
    expected = ((hm.sigmoid() + mirrored_hm.sigmoid().flip(3)) / 2, (wh + mirrored_wh.flip(3)) / 2, reg)
    task_heads = heads(make_config().net_config, classes_of(3))
    maps = InferenceMaps(build(lively_checkpoint), task_heads, ms.nn.Identity(), True)(ms.Tensor(image))
    for ours, theirs in zip(maps.values(), expected):
        assert np.abs(ours.asnumpy() - theirs.numpy()).max() <= 1e-5 * np.abs(theirs.numpy()).max()
    assert np.abs(expected[0].numpy() - hm.sigmoid().numpy()).max() > 1e-2  # the mirror image matters


# ---------------------------------------------------------------- many images


class FakeDetector:
    """A fake detector whose single detection identifies its input."""

    description = {"mean": [0, 0, 0], "std": [1, 1, 1], "stride": 32}
    down_ratio, from_bytes, input_res, batch_size = 4, True, None, None

    def __init__(self):
        self.batches = []

    def compile(self, batch):
        return 0.0

    def __call__(self, batch):
        self.batches.append(batch.shape)
        value = batch[:, batch.shape[1] // 2, batch.shape[2] // 2, 0].astype(np.float32)
        zeros = np.zeros_like(value)
        return np.stack([zeros, zeros, zeros + 1, zeros + 1, value / 255, zeros], 1)[:, None]


def test_images_of_one_shape_are_computed_together(make_config):
    config = make_config("--eval_config.batch_size", 2, "--eval_config.SOFT_NMS", "false")
    sizes = [(40, 40), (40, 90), (40, 40), (40, 40), (40, 90)]

    def load(number):
        if number == 5:
            raise ValueError("broken")
        return np.full((*sizes[number], 3), 10 * number + 5, np.uint8)

    network, times = FakeDetector(), StageTimes()
    found = list(detect_all(network, range(6), load, config, times))
    assert sorted(network.batches) == [(1, 64, 64, 3), (2, 64, 64, 3), (2, 64, 128, 3)]
    assert {detected.item: detected.problem for detected in found} == {**dict.fromkeys(range(5), ""), 5: "broken"}
    for detected in found:
        if not detected.problem:
            assert detected.detections[0, 4] == pytest.approx((10 * detected.item + 5) / 255)
            assert detected.image.shape[:2] == sizes[detected.item]
    assert times.images == 5


def test_few_prepared_images_wait(make_config):
    """60 shapes, batches of 16: at most 32 prepared images wait, and all are computed; known sizes group the shapes."""
    args = ["--eval_config.SOFT_NMS", "false", "--dataset_config.num_workers", 1, "--eval_config.pad_multiple", 32]
    config = make_config("--eval_config.batch_size", 16, *args)
    sizes = [(40 + 32 * (number % 60), 40) for number in range(240)]
    loaded = []

    def load(number):
        loaded.append(number)
        return np.full((sizes[number][1], sizes[number][0], 3), number, np.uint8)

    for size_of in (None, lambda number: sizes[number], lambda number: None if number % 2 else (7, 7)):
        network, done, most = FakeDetector(), 0, 0
        loaded.clear()
        for detected in detect_all(network, range(240), load, config, size_of=size_of):
            done += 1
            most = max(most, len(loaded) - done)
            assert detected.detections[0, 4] == pytest.approx(detected.item / 255)
        assert done == 240 and most <= 32 + 32 + 2 * 16  # prepared in advance, waiting, and in the last two batches
        if size_of and size_of(1):
            assert network.batches == [(4, 64, 64 + 32 * number, 3) for number in range(60)]


def test_an_exported_files_batch_is_padded(make_config):
    config = make_config("--eval_config.SOFT_NMS", "false", "--eval_config.keep_res", "true")
    network = FakeDetector()
    description = {**FakeDetector.description, "down_ratio": 4, "input_type": "uint8", "input_res": [64, 32],
                   "batch_size": 4}
    detector = ExportedDetector(lambda batch: ms.Tensor(network(batch.asnumpy())), description)
    found = list(detect_all(detector, range(6), lambda number: np.full((32, 64, 3), number, np.uint8), config))
    assert network.batches == [(4, 32, 64, 3)] * 3  # its fixed size, despite keep_res
    assert [detected.item for detected in found] == list(range(6))


def test_the_next_images_are_prepared_while_the_device_computes(make_config):
    """The fake network waits for the next image's preparation, which without overlap would time out."""
    config = make_config("--eval_config.SOFT_NMS", "false", "--dataset_config.num_workers", 1)
    prepared = [threading.Event() for _ in range(4)]
    overlapped = []

    def load(number):
        prepared[number].set()
        return np.full((40, 40, 3), number, np.uint8)

    class Waiting(FakeDetector):
        def __call__(self, batch):
            number = int(batch[0, 32, 32, 0])
            overlapped.append(prepared[min(number + 1, 3)].wait(20))
            return super().__call__(batch)

    list(detect_all(Waiting(), range(4), load, config))
    assert overlapped == [True] * 4


def test_the_stages_are_summarized():
    times = StageTimes(images=10, shapes=2, compiling=5.0, preparing=0.1, computing=4.0, finishing=0.02)
    assert times.rate(9.0) == pytest.approx(2.5)
    assert times.summary(9.0) == ("2.50 images/s (preparing 10.0 + network 400.0 + boxes 2.0 ms per image, "
                                  "overlapping), after 5.0 s of compiling 2 graphs")


@pytest.mark.slow
def test_batches_give_the_same_results_as_single_images(small_checkpoint, tiny_data, make_config, graphless):
    """The network gets complete batches; the graph for all sizes would split them."""
    paths = sorted((tiny_data / "val2017").iterdir())
    config = make_config("--eval_config.K", 30)
    detector, results = own_detector(small_checkpoint, config.eval_config, "CPU"), []
    for batch_size in (1, 4):
        config.eval_config.batch_size = batch_size
        results.append([detected.detections for detected in detect_all(detector, paths, read_image, config)])
    assert len(results[0]) == 6
    for single, batched in zip(*results):
        assert_same_detections(batched, single, 1e-3)


class Doubled(ms.nn.Cell):
    def construct(self, x):
        return x * 2


@pytest.mark.slow
def test_few_graphs_are_kept():
    """Each shape has its graph, and the latest ones are kept; a smaller batch is padded to one that has a graph."""
    sizes = Graphs(Doubled())
    for width in (1, 2, 3, 4, 5, 3):
        batch = np.random.default_rng(width).random((4, 3, width), np.float32)
        new = width not in [shape[2] for shape in sizes.cells]
        assert (sizes.compile(batch) > 0) == new
        assert sizes.compile(batch) == 0.0
        np.testing.assert_array_equal(sizes(batch), 2 * batch)
    assert list(sizes.cells) == [(4, 3, 2), (4, 3, 4), (4, 3, 5), (4, 3, 3)]
    small = np.ones((1, 3, 5), np.float32)
    assert sizes.compile(small) == 0.0 and sizes(small).tolist() == (2 * small).tolist()


def test_one_graph_computes_all_shapes_until_one_is_frequent(monkeypatch):
    monkeypatch.setattr(graphs, "FREQUENT", 32 * 3 * 2)
    sizes = Graphs(Doubled(), ms.Tensor(shape=[None, 3, None], dtype=ms.float32))
    for width in (1, 2, 3, 2):
        batch = np.random.default_rng(width).random((8, 3, width), np.float32)
        np.testing.assert_array_equal(sizes(batch), 2 * batch)
    assert list(sizes.cells) == [None]
    for _ in range(3):
        assert len(sizes.cells) == 1
        sizes(batch)
    assert list(sizes.cells) == [None, (8, 3, 2)]


def test_compilation_is_logged_and_its_time_is_kept_apart(console):
    """Of a network and of an exported file, each once for a shape."""
    batch = np.ones((1, 3, 5), np.float32)
    network = Graphs(Doubled())
    exported = ExportedDetector(lambda batch: 2 * batch, {"down_ratio": 4, "input_type": "float32", "input_res": None,
                                                          "batch_size": 1})
    for compute, words in ((network, "[1, 3, 5]"), (exported, "exported")):
        before = Compilation.seconds
        compute(batch)
        assert (once := Compilation.seconds) > before
        compute(batch)
        assert Compilation.seconds == once
        line, = console.readouterr().out.splitlines()
        assert line.startswith("compiling ") and words in line


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--eval_config.flip_test", "true", "--eval_config.K", 1000]],
                         ids=["plain", "flip and K 1000"])
def test_the_graph_for_all_sizes_equals_the_network(options, small_checkpoint, make_config):
    """Also for maps with fewer positions than K."""
    config = make_config("--eval_config.keep_res", "true", *options)
    free, own = (own_detector(small_checkpoint, config.eval_config, "CPU") for _ in range(2))
    shapes = ((1, 3, 32, 32), (2, 3, 64, 96), (1, 3, 96, 64), (1, 3, 192, 256))
    batches = [batch_of(shape[2], shape) for shape in shapes]
    with operation_by_operation():
        expectations = [own.network(ms.Tensor(batch)).asnumpy() for batch in batches]
    for batch, expected in zip(batches, expectations):
        found, shape = free(batch), batch.shape
        assert found.shape == expected.shape == (shape[0], config.eval_config.K, 6)
        np.testing.assert_allclose(found[:, :, 4], expected[:, :, 4], atol=1e-6)
        for one, other in zip(found, expected):
            certain = other[:, 4] > 1e-3
            assert_same_detections(one[certain], other[certain], 1e-3)
    assert list(free.detections.cells) == [None]


@pytest.mark.slow
def test_the_native_deformable_convolution_gets_a_graph_for_each_shape(deformable_file, make_config):
    """MindSpore cannot infer dynamic shapes through it."""
    config = make_config("--eval_config.keep_res", "true")
    with replace_resdcn_18("SMALL"):
        native, composite = (own_detector(deformable_file, config.eval_config, "CPU", name)
                             for name in ("native", "composite"))
    for batch in (batch_of(1, (1, 3, 64, 96)), batch_of(2, (1, 3, 96, 64))):
        for one, other in zip(native(batch), composite(batch)):
            certain = other[:, 4] > 1e-3
            assert_same_detections(one[certain], other[certain], 1e-3)
    assert len(native.detections.cells) == 2 and len(composite.detections.cells) == 1


# Runs eval.py with resdcn_18 replaced by the small network.
SMALL_EVALUATION = """
import runpy, sys
root = sys.argv.pop(1)
sys.path.insert(0, root)
from tests.conftest import replace_resdcn_18
with replace_resdcn_18("PLAIN"):
    runpy.run_path(f"{root}/eval.py", run_name="__main__")
"""


@pytest.mark.slow
def test_sixty_shapes_take_hardly_more_memory_than_one(small_file, tmp_path):
    """Peak memory of eval.py with keep_res and batch 16: a graph for each shape would take more.

    Slow: two processes detect in sixty images each.
    """
    sixty = [(40 + 32 * (number // 10), 40 + 32 * (number % 10)) for number in range(60)]
    peaks = {}
    for name, sizes in (("one", [max(sixty)] * 60), ("sixty", sixty)):
        images = {number: noise_image(number, *size) for number, size in enumerate(sizes, 1)}
        write_coco(tmp_path / name, "val", images, [(1, 1, [4, 4, 20, 20])], classes=("disc", "square", "cross"))
        args = ["--data_dir", tmp_path / name, "--load_checkpoint_path", small_file, "--save_result_dir",
                tmp_path / name, "--eval_config.batch_size", 16, "--eval_config.keep_res", "true",
                "--eval_config.pad_multiple", 32, "--enable_eval", "false", "--device_target", "CPU"]
        with open(tmp_path / f"{name}.txt", "w") as output:
            command = [sys.executable, "-c", SMALL_EVALUATION, ROOT, *map(str, args)]
            _, status, usage = os.wait4(subprocess.Popen(command, stdout=output, stderr=output).pid, 0)
        assert status == 0 and "60 images, 0 skipped" in (tmp_path / f"{name}.txt").read_text()
        peaks[name] = usage.ru_maxrss / 2**20
    assert peaks["sixty"] < peaks["one"] + 0.25, peaks  # GB


def test_each_scale_gives_an_input(make_config):
    args = ["--dataset_config.input_res_test", "[64, 96]", "--eval_config.keep_res", "false"]
    config = make_config("--eval_config.multi_scales", "[0.5, 1]", *args)
    inputs = make_inputs(noise_image(0, 50, 40), FakeDetector(), config)
    assert [array.shape for array, _ in inputs] == [(96, 64, 3)] * 2 and [view.scale for _, view in inputs] == [0.5, 1]
