"""src/tasks/pose/device.py and onnx.py: decoding joint by joint, and as ONNX nodes."""
import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.export.onnx_graph import OPSETS, Graph
from src.tasks.pose import device, onnx
from tests.tasks.pose.test_keypoints import CRAB, FOX, STONE, metainfo_of
from tests.tasks.test_decode import is_peak, varied_heat

pytestmark = pytest.mark.usefixtures("by_operation")


def random_maps(metainfo, shape=(2, 9, 11), seed=3):
    """Maps {head: [N, channels, H, W]} whose guesses are a few pixels off peaks."""
    (n, height, width), rng = shape, np.random.default_rng(seed)
    classes, joints = len(metainfo["classes"]), len(metainfo["keypoints"]["names"])
    sizes = {"wh": 2, "reg": 2, "hps": 2 * joints, "hp_offset": 2}
    maps = {name: rng.random((n, count, height, width)) for name, count in sizes.items()}
    maps["wh"], maps["hps"] = 2 + 8 * maps["wh"], 6 * maps["hps"] - 3
    maps |= {"hm": varied_heat((n, classes, height, width), seed), "hm_hp": varied_heat((n, joints, height, width), 9)}
    return {name: value.astype(np.float32) for name, value in maps.items()}


def expected_keypoints(maps, image, row, x, y, joint, k, with_offset):
    """x, y, score of a joint of the object with this row and center (x, y): the rules in the paper's words."""
    heat, (x1, y1, x2, y2) = maps["hm_hp"][image, joint], row[:4]
    guess = maps["hps"][image, 2 * joint : 2 * joint + 2, y, x] + (x, y)
    peaks = [place for place in itertools.product(*map(range, heat.shape)) if is_peak(heat, *place)]
    peaks = [place for place in sorted(peaks, key=lambda place: -heat[place])[:k] if heat[place] > 0.1]
    places = []
    for py, px in peaks:
        dx, dy = maps["hp_offset"][image, :, py, px] if with_offset else (0.5, 0.5)
        places.append((np.hypot(px + dx - guess[0], py + dy - guess[1]), px + dx, py + dy, heat[py, px]))
    away, px, py, score = min(places)
    if x1 <= px <= x2 and y1 <= py <= y2 and away <= 0.3 * max(x2 - x1, y2 - y1):
        return px, py, score
    column, line = np.floor(guess).astype(int)
    inside = 0 <= column < heat.shape[1] and 0 <= line < heat.shape[0]
    return *guess, heat[line, column] if inside else 0


@pytest.mark.parametrize("with_offset", [True, False])
def test_keypoints_joint_by_joint(with_offset, make_config):
    """Two images, three classes with other keypoints; some joints snap to a peak, others keep the guess."""
    metainfo, k = metainfo_of(FOX, CRAB, STONE), 8
    net_config = make_config("--net_config.reg_hp_offset", str(with_offset)).net_config
    maps = random_maps(metainfo)
    rows = device.Decode(net_config, metainfo, k)({name: Tensor(value) for name, value in maps.items()}).asnumpy()
    snapped = 0
    for image, slot in itertools.product(range(2), range(k)):
        row, label = rows[image, slot], int(rows[image, slot, 5])
        y, x = np.argwhere(maps["hm"][image, label] == row[4])[0]
        for joint, found in enumerate(row[6:].reshape(6, 3)):
            if joint in metainfo["keypoints"]["of_class"][label]:
                expected = expected_keypoints(maps, image, row, x, y, joint, k, with_offset)
                np.testing.assert_allclose(found, expected, atol=1e-5)
                snapped += is_peak(maps["hm_hp"][image, joint], *np.argwhere(maps["hm_hp"][image, joint] == found[2])[0]
                                   ) if found[2] else 0
            else:
                assert found.tolist() == [0, 0, 0]
    assert 3 < snapped < 40


def as_onnx(cell, maps, metainfo, form):
    """The rows that ONNX Runtime computes with the nodes of onnx.decode."""
    import onnxruntime

    graph = Graph(form)
    names = {name: graph.free(name) for name in maps}
    rows = onnx.decode(graph, names, cell)
    inputs = {name: (np.float32, ["batch", value.shape[1], "height", "width"]) for name, value in maps.items()}
    width = 6 + 3 * len(metainfo["keypoints"]["names"])
    model = graph.model("decode", inputs, {rows: (np.float32, ["batch", cell.k, width])}, {})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, maps)[0]


@pytest.mark.parametrize("form", OPSETS)
@pytest.mark.parametrize("options", [(), ("reg_hp_offset",), ("hm_hp",), ("reg_offset",)])
@pytest.mark.parametrize("shape, k", [((2, 9, 11), 8), ((1, 16, 12), 100), ((1, 3, 4), 20)])
def test_onnx_nodes_compute_the_same(form, options, shape, k, make_config):
    """Also for maps with fewer pixels than K."""
    metainfo = metainfo_of(FOX, CRAB, STONE)
    net_config = make_config(*(word for name in options for word in (f"--net_config.{name}", "false"))).net_config
    maps = random_maps(metainfo, shape)
    heads = [head.name for head in device.heads(net_config, metainfo)]
    maps = {name: maps[name] for name in heads}
    cell = device.Decode(net_config, metainfo, k)
    expected = cell({name: Tensor(value) for name, value in maps.items()}).asnumpy()
    found = as_onnx(cell, maps, metainfo, form)
    real = expected[..., 4] > 0  # where there are fewer peaks than K, the rest is arbitrary
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)
    assert real.sum() >= 3


def test_heads_of_a_configuration(make_config):
    metainfo = metainfo_of(FOX)
    channels = {head.name: head.channels for head in device.heads(make_config().net_config, metainfo)}
    assert channels == {"hm": 1, "wh": 2, "hps": 8, "reg": 2, "hm_hp": 4, "hp_offset": 2}
    config = make_config("--net_config.hm_hp", "false", "--net_config.reg_offset", "false")
    assert [head.name for head in device.heads(config.net_config, metainfo)] == ["hm", "wh", "hps"]
    mirrored = {head.name: (head.mirrored, head.signs) for head in device.heads(make_config().net_config, metainfo)}
    assert mirrored["hps"] == ((0, 1, 4, 5, 2, 3, 6, 7), (-1, 1) * 4) and mirrored["hm_hp"] == ((0, 2, 1, 3), ())


def test_losses_of_micro_batches_add_up(make_config):
    """Two halves with the norms of the whole batch; the mean of squares, too."""
    metainfo, rng = metainfo_of(FOX), np.random.default_rng(5)
    maps = {name: Tensor(value) for name, value in random_maps(metainfo, (4, 6, 7)).items()}
    batch = {"hm": rng.random((4, 1, 6, 7)) // 0.9, "hm_hp": rng.random((4, 4, 6, 7)) // 0.9,
             "reg_mask": rng.random((4, 5)) // 0.5, "wh": rng.random((4, 5, 2)), "reg": rng.random((4, 5, 2)),
             "hps": rng.random((4, 5, 8)), "hps_mask": rng.random((4, 5, 8)) // 0.5,
             "hp_offset": rng.random((4, 20, 2)), "hp_mask": rng.random((4, 20)) // 0.5}
    batch = {name: Tensor(value.astype(np.float32)) for name, value in batch.items()}
    batch |= {name: Tensor(rng.integers(0, 42, (4, count)), ms.int32) for name, count in (("ind", 5), ("hp_ind", 20))}
    for option in (("--net_config.mse_loss", "true"), ("--net_config.reg_loss", "sl1")):
        net_config = make_config(*option).net_config
        whole, halved = device.build_loss(net_config), device.build_loss(net_config, micro_batches=2)
        norms = whole.norms(batch)
        expected = whole(maps, batch, norms)
        halves = [halved(*({name: value[part] for name, value in values.items()} for values in (maps, batch)), norms)
                  for part in (slice(0, 2), slice(2, 4))]
        for name, value in expected.items():
            np.testing.assert_allclose(sum(float(half[name]) for half in halves), float(value), rtol=1e-5)
