"""Speed of this network against the same one in PyTorch, on this machine's CPU: python tests/speed.py [--runs N]

Both sides take turns, so that a machine that slows down slows both; medians and their ratio are printed.
"""
import argparse
import os
import statistics
import sys
import tempfile
import time

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import cv2
import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor, nn

from src.centernet_det import DetectionNetwork, HeatmapNetwork, build_network, fold_batch_norm
from src.engine import build_optimizer, build_train_step
from src.inference import Detector, detect_all, make_inputs, read_picture
from src.model_utils.config import get_config
from src.model_utils.device_adapter import set_device
from tests import torch_reference

CLASSES = 80


def batch_arrays(n, size):
    """Targets as the training pipeline gives them, ten objects an image."""
    rng = np.random.default_rng(0)
    out = size // 4
    hm = np.zeros((n, CLASSES, out, out), np.float32)
    ind = rng.integers(0, out * out, (n, 128)).astype(np.int32)
    mask = np.zeros((n, 128), np.float32)
    mask[:, :10] = 1
    for row in range(n):
        hm[row, 0].reshape(-1)[ind[row, :10]] = 1
    reg, wh = rng.random((2, n, 128, 2)).astype(np.float32)
    picture = rng.standard_normal((n, 3, size, size)).astype(np.float32)
    return picture, hm, ind, reg, mask, 20 * wh, np.repeat(mask[..., None], 2, 2)


def inference(n, size):
    """(name, ours, PyTorch's): two functions that detect on one batch."""
    picture = batch_arrays(n, size)[0]
    config = get_config("speed", [])
    network = build_network(config.net_config, CLASSES, "composite")
    fold_batch_norm(network)
    detector = DetectionNetwork(HeatmapNetwork(network, nn.Identity()), 100, False).set_train(False)
    reference = torch_reference.CenterNet(CLASSES).eval()
    tensor, torch_tensor = Tensor(picture), torch.tensor(picture)

    def theirs():
        with torch.no_grad():
            hm, _, _ = reference(torch_tensor)
            heat = torch.sigmoid(hm)
            peaks = heat * (torch.nn.functional.max_pool2d(heat, 3, 1, 1) == heat)
            torch.topk(peaks.flatten(1), 100)

    return f"inference, {n} x {size}x{size}", lambda: detector(tensor).asnumpy(), theirs


def training(n, size):
    """(name, ours, PyTorch's): two functions that train one step on one batch."""
    arrays = batch_arrays(n, size)
    config = get_config("speed", [])
    network = build_network(config.net_config, CLASSES, "composite")
    step = build_train_step(network, config, build_optimizer(network, config.train_config, 100, 1))
    tensors = [Tensor(array) for array in arrays]
    reference = torch_reference.CenterNet(CLASSES).train()
    optimizer = torch.optim.Adam(reference.parameters(), 1e-6)
    picture, hm, ind, reg, mask, wh, _ = map(torch.tensor, arrays)

    def theirs():
        optimizer.zero_grad()
        torch_reference.detection_loss(*reference(picture), hm, ind.long(), reg, mask, wh)[0].backward()
        optimizer.step()

    return f"training step, {n} x {size}x{size}", lambda: step(*tensors)[0].asnumpy(), theirs


def evaluation(folder, count=8):
    """(name, the whole way from files to boxes, its slowest stage alone) on 640x480 photographs fitted into 512x512."""
    rng = np.random.default_rng(0)
    config = get_config("speed", ["--eval_config.keep_res", "false", "--dataset_config.input_res_test", "[512, 512]"])
    network = build_network(config.net_config, CLASSES, "composite")
    fold_batch_norm(network)
    graph = DetectionNetwork(HeatmapNetwork(network, nn.Identity()), 100, False).set_train(False)
    options = config.dataset_config
    detector = Detector(graph, {"mean": options.mean, "std": options.std}, 4)
    paths = [os.path.join(folder, f"{number}.jpg") for number in range(count)]
    for path in paths:
        coarse = rng.integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(path, cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC))
    inputs = [make_inputs(read_picture(path), detector, config)[0][0][None] for path in paths]

    def whole():
        assert len(list(detect_all(detector, paths, read_picture, config))) == count

    def network_alone():
        for array in inputs:
            detector(array)

    return f"evaluation, {count} x 640x480", whole, network_alone


def measure(ours, theirs, runs):
    """Seconds of each, in turns, after one run that does not count: two lists."""
    times = ([], [])
    for number in range(runs + 1):
        for function, series in zip((ours, theirs), times):
            start = time.perf_counter()
            function()
            if number:
                series.append(time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="runs of each that count (default: %(default)s)")
    runs = parser.parse_args().runs
    set_device("CPU", 0)
    print(f"MindSpore {ms.__version__}, PyTorch {torch.__version__}, {os.cpu_count()} cores; medians of {runs} runs in turns")
    print(f"{'':32}{'ours':>9}{'PyTorch':>10}{'ratio':>8}")
    for row in (inference(1, 512), training(2, 512), training(16, 128)):
        print_row(row, runs)
    print(f"{'':32}{'whole':>9}{'network':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as folder:
        print_row(evaluation(folder), runs)


def print_row(row, runs):
    """Measure (name, function, function) and print the medians."""
    name, one, other = row
    a, b = (statistics.median(series) for series in measure(one, other, runs))
    print(f"{name:32}{a:8.3f}s{b:9.3f}s{a / b:8.2f}", flush=True)


if __name__ == "__main__":
    main()
