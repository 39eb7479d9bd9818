"""Compare the compiled network, losses and decoding on a device with the golden vectors in tests/golden.

python tests/device_parity.py [--device_target Ascend] [--json FILE]. Prints a table; exit code 1 if a comparison fails.
parity.py compares everything, on a CPU.
"""
import argparse
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.core import errors
from src.core.files import write_json
from src.model_utils.config import make_config
from src.model_utils.device_adapter import precision_mode_of, set_device
from src.tasks.detection import device
from src.training.step import set_precision
from tests.parity import NETWORK, USUAL, Vectors, compare, converted_network, detection_rows, golden_weights

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
FLOAT16 = 5e-3  # relative to the largest value; a CPU with O3 has 1.4e-3


class Decode(nn.Cell):
    """decode() as a cell, so that it is compiled."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def construct(self, heat, wh, reg):
        return device.decode(heat, wh, reg, self.k)


class Loss(nn.Cell):
    """One loss of recorded maps and targets, both offsets and sizes from the map `sizes`."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.loss = device.build_loss(make_config().net_config)
        self.names = ("hm", "ind", "reg", "reg_mask", "wh", "wh_mask")

    def construct(self, logits, sizes, *columns):
        targets = {name: column for name, column in zip(self.names, columns)}  # noqa: C416  dict() cannot be compiled
        return self.loss({"hm": logits, "wh": sizes, "reg": sizes}, targets, self.loss.norms(targets))[self.name]


def network_rows(float32):
    """The heads with native and composite deformable convolutions, with each amp_level."""
    vectors = Vectors(os.path.join(GOLDEN, "network.npz"))
    seed = int(vectors["seed"])
    state, recipe = golden_weights(GOLDEN, seed)
    batch, _, height, width = vectors["hm"].shape
    pixels = Tensor(recipe["make_input"](seed, (batch, 3, 4 * height, 4 * width)))
    for dcn_impl in ("native", "composite"):
        for level in ("O0", "O2", "O3"):
            network = set_precision(converted_network(state, dcn_impl).set_train(False), level)
            maps, = network(pixels)
            tolerance = NETWORK if level == "O0" and float32 else FLOAT16
            for head, output in maps.items():
                name = f"network, {dcn_impl}, {level}: {head}"
                yield compare(name, output.astype(ms.float32).asnumpy(), vectors[head], tolerance)


def loss_rows():
    """The losses and their gradients with respect to their maps."""
    vectors = Vectors(os.path.join(GOLDEN, "losses.npz"))
    mask = np.repeat(vectors["mask"].astype(np.float32)[..., None], 2, -1)
    targets = (vectors["hm"], vectors["ind"].astype(np.int32), vectors["reg"], mask[..., 0], vectors["wh"], mask)
    inputs = [Tensor(value) for value in (vectors["logits"], vectors["pred2"], *targets)]
    for name, (ours, position) in {"focal": ("hm_loss", 0), "l1": ("wh_loss", 1)}.items():
        value, gradient = ms.value_and_grad(Loss(ours), position)(*inputs)
        yield compare(f"loss: {ours}", value.asnumpy(), vectors[name])
        yield compare(f"loss: gradient of {ours}", gradient.asnumpy(), vectors[f"{name}_grad"])


def decode_rows(float32):
    """The decoded detections."""
    vectors = Vectors(os.path.join(GOLDEN, "decode.npz"))
    found = Decode(int(vectors["k"]))(*(Tensor(vectors[name]) for name in ("heat", "wh", "reg"))).asnumpy()
    yield from detection_rows("decode", found, vectors["dets"], USUAL if float32 else 1e-3)


def main():
    """Print a table of all rows; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device_target", choices=["auto", "Ascend", "CPU"], default="auto", help="default: auto")
    parser.add_argument("--device_id", type=int, default=0, metavar="N", help="index of the Ascend device (default: 0)")
    parser.add_argument("--jit_level", choices=["", "O0", "O1", "O2"], default="", help="as in default_config.yaml")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args()
    target = set_device(options.device_target, options.device_id, jit_level=options.jit_level)
    name = "CPU" if target == "CPU" else ms.hal.get_device_name(options.device_id, target)
    float32 = target == "CPU" or precision_mode_of(name) == "must_keep_origin_dtype"
    print(f"{'component on ' + name:<60} {'difference':>10} {'relative':>10} {'tolerance':>10}")
    rows = []
    for row in (row for part in (network_rows(float32), loss_rows(), decode_rows(float32)) for row in part):
        rows.append(row)
        print(f"{row.component:<60} {row.difference:>10.2e} {row.relative:>10.2e} {row.tolerance:>10} "
              f"{'pass' if row.passed else 'FAIL'}", flush=True)
    wrong = sum(not row.passed for row in rows)
    print(f"{len(rows)} comparisons, {wrong} failed")
    if options.json:
        write_json(options.json, [vars(row) for row in rows])
    return 1 if wrong else 0


if __name__ == "__main__":
    errors.run(lambda: sys.exit(main()))
