"""src/tasks/ddd/device.py and onnx.py: losses against PyTorch, decoding object by object, and as ONNX nodes."""
import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn

from src.export.onnx_graph import OPSETS, Graph
from src.tasks.ddd import DDD, device, onnx, targets
from tests import torch_tasks
from tests.conftest import load_golden
from tests.parity_ddd import in_our_order
from tests.tasks.test_decode import expected_detections, varied_heat

pytestmark = pytest.mark.usefixtures("by_operation")
METAINFO = {"classes": ["a", "b", "c"], "category_ids": [1, 2, 3]}
CHANNELS = {"hm": 3, "dep": 1, "rot": 8, "dim": 3, "wh": 2, "reg": 2}
WEIGHTS = {"hm": 1.5, "dep": 0.7, "dim": 2.0, "rot": 0.9, "wh": 0.3, "off": 1.1}


def random_batch(seed, n=4, objects=6, places=9):
    """(maps, targets), arrays of n images of which the first has no object: half of the objects are moved or in one
    bin only; ignored ones are 0.9999 in the heatmap."""
    rng = np.random.default_rng(seed)
    height, width = 5, 7
    maps = {name: rng.normal(0, 2, (n, count, height, width)).astype(np.float32) for name, count in CHANNELS.items()}
    batch = {name: np.zeros((n, places, count), np.float32)
             for name, count in (("dep", 1), ("dim", 3), ("rotbin", 2), ("rotres", 2), ("wh", 2), ("reg", 2))}
    batch |= {"ind": np.zeros((n, places), np.int32), "rot_mask": np.zeros((n, places), np.float32)}
    batch["hm"] = rng.uniform(0, 0.95, (n, 3, height, width)).astype(np.float32)
    batch["hm"][:, 0, 0, :2] = 0.9999
    for image in range(1, n):
        own = objects - image
        cells = rng.permutation(height * width)[:own]
        batch["ind"][image, :own], batch["rot_mask"][image, :own] = cells, 1
        batch["hm"][image].reshape(3, -1)[rng.integers(0, 3, own), cells] = 1
        batch["dep"][image, :own] = rng.uniform(1, 60, (own, 1))
        batch["dim"][image, :own], batch["wh"][image, :own] = rng.uniform(1, 5, (own, 3)), rng.uniform(1, 9, (own, 2))
        batch["reg"][image, :own] = rng.random((own, 2))
        for slot in range(own):
            batch["rotbin"][image, slot], batch["rotres"][image, slot] = targets.bins_of(rng.uniform(-np.pi, np.pi))
    batch["reg_mask"] = batch["rot_mask"] * (np.arange(n) % 2)[:, None].astype(np.float32)
    return maps, batch


def as_tensors(values):
    return {name: Tensor(value) for name, value in values.items()}


def torch_losses(maps, batch):
    """{name: the original's loss} of maps and targets in PyTorch, with their weighted sum."""
    batch, ind = {name: torch.as_tensor(value) for name, value in batch.items()}, torch.as_tensor(batch["ind"]).long()
    at, mean_l1, learned, present = torch_tasks.at, torch_tasks.mean_l1, batch["reg_mask"], batch["rot_mask"]
    depth = 1 / (torch.sigmoid(maps["dep"]) + 1e-6) - 1
    found = {"hm_loss": torch_tasks.focal(maps["hm"], batch["hm"]),
             "dep_loss": mean_l1(at(depth, ind), batch["dep"], learned),
             "dim_loss": mean_l1(at(maps["dim"], ind), batch["dim"], learned),
             "rot_loss": torch_tasks.rotation_loss(at(maps["rot"], ind), batch["rotbin"], batch["rotres"], present),
             "wh_loss": mean_l1(at(maps["wh"], ind), batch["wh"], present),
             "off_loss": mean_l1(at(maps["reg"], ind), batch["reg"], present)}
    return {"loss": sum(WEIGHTS[name.removesuffix("_loss")] * value for name, value in found.items()), **found}


def loss_of(**options):
    return device.BoxLoss(device.LossOptions(**{f"{name}_weight": value for name, value in WEIGHTS.items()}), **options)


@pytest.mark.parametrize("seed", range(2))
def test_losses_and_gradients_are_pytorchs(seed):
    maps, batch = random_batch(seed)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in maps.items()}
    expected = torch_losses(theirs, batch)
    expected["loss"].backward()
    cell, batch = loss_of(), as_tensors(batch)

    def losses(*values):
        found = cell(dict(zip(maps, values)), batch, cell.norms(batch))
        return found["loss"], found

    (_, found), gradients = ms.value_and_grad(losses, tuple(range(6)), has_aux=True)(*as_tensors(maps).values())
    assert set(found) == {"loss", *DDD.losses}
    for name, value in expected.items():
        np.testing.assert_allclose(float(found[name]), value.item(), rtol=2e-5, err_msg=name)
        assert value.item() > 0.01
    for (name, tensor), gradient in zip(theirs.items(), gradients):
        np.testing.assert_allclose(gradient.asnumpy(), tensor.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_batch_without_objects():
    """The losses are finite, those of boxes 0 but for the cross entropy of empty places, log 2 for each bin."""
    maps, batch = random_batch(0, n=1)
    found = loss_of()(as_tensors(maps), as_tensors(batch), loss_of().norms(as_tensors(batch)))
    assert float(found["rot_loss"]) == pytest.approx(2 * np.log(2))
    assert [float(found[name]) for name in ("dep_loss", "dim_loss", "wh_loss", "off_loss")] == [0] * 4
    assert float(found["hm_loss"]) > 0


@pytest.mark.parametrize("logits, holds", [((200.0, -200.0), 1), ((-200.0, 200.0), 0), ((200.0, -200.0), 0)])
def test_sure_bins_have_finite_losses(logits, holds):
    """Wrong ones that of PyTorch, 400, right ones 0."""
    values = np.zeros((1, 1, 4), np.float32)
    values[0, 0, :2], one = logits, Tensor(np.ones((1, 1), np.float32))
    found = device.bin_loss(Tensor(values), one * holds, one * 0, one, Tensor(1.0), Tensor(1.0))
    expected = torch.nn.functional.cross_entropy(torch.tensor(values[0, :, :2]), torch.tensor([holds])).item()
    extra = 0.5 if holds else 0  # the cosine's Huber loss of 0 against 1
    assert float(found) == pytest.approx(expected + extra, abs=1e-5)


class Sum(nn.Cell):
    """A sum over two ranks, that of the values of all calls so far."""

    def __init__(self):
        super().__init__()
        self.values = []

    def construct(self, value):
        self.values.append(value)
        return sum(self.values[1:], self.values[0])


def test_two_ranks_compute_the_loss_of_the_whole_batch():
    """The mean of the ranks' losses, of which one has no object."""
    maps, batch = random_batch(4, n=2)
    expected = torch_losses({name: torch.tensor(value) for name, value in maps.items()}, batch)
    cell = loss_of(rank_size=2, sum_over_ranks=Sum())
    ranks = [[as_tensors({name: value[rank : rank + 1] for name, value in values.items()}) for values in (maps, batch)]
             for rank in (0, 1)]
    norms = [cell.norms(targets) for _, targets in ranks][-1]
    found = [cell(*rank, norms) for rank in ranks]
    for name, value in expected.items():
        np.testing.assert_allclose(sum(float(one[name]) for one in found) / 2, value.item(), rtol=2e-5, err_msg=name)


def test_losses_of_micro_batches_add_up():
    """Two halves with the norms of the whole batch."""
    maps, batch = random_batch(5)
    expected = torch_losses({name: torch.tensor(value) for name, value in maps.items()}, batch)
    cell = loss_of(micro_batches=2)
    norms, halves = cell.norms(as_tensors(batch)), []
    for part in (slice(0, 2), slice(2, 4)):
        halves.append(cell(*(as_tensors({name: value[part] for name, value in values.items()})
                             for values in (maps, batch)), norms))
    for name, value in expected.items():
        np.testing.assert_allclose(sum(float(half[name]) for half in halves), value.item(), rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("option, head, loss", [("reg_bbox", "wh", "wh_loss"), ("reg_offset", "reg", "off_loss")])
def test_heads_that_the_network_lacks_have_no_loss(option, head, loss, make_config):
    net_config = make_config(f"--net_config.{option}", "false").net_config
    maps, batch = random_batch(6)
    batch, whole, cell = as_tensors(batch), device.build_loss(make_config().net_config), device.build_loss(net_config)
    norms = whole.norms(batch)
    expected = whole(as_tensors(maps), batch, norms)
    del maps[head]
    found = cell(as_tensors(maps), batch, norms)
    assert float(found[loss]) == 0 < float(expected[loss])
    for name in set(DDD.losses) - {loss}:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-6)  # sums in another order


# ---------------------------------------------------------------- decoding


def random_maps(shape=(2, 9, 11), seed=3):
    """Maps {head: [N, channels, H, W]}; sizes are positive."""
    (n, height, width), rng = shape, np.random.default_rng(seed)
    maps = {name: rng.normal(0, 2, (n, count, height, width)).astype(np.float32) for name, count in CHANNELS.items()}
    return maps | {"hm": varied_heat((n, 3, height, width), seed), "wh": np.abs(maps["wh"]) + 1}


@pytest.mark.parametrize("option", ["", "reg_bbox", "reg_offset"])
def test_objects_one_by_one(option, make_config):
    """With and without sizes and offsets: 8 rotations, the depth from its logit, and 3 dimensions after the box."""
    maps, k = random_maps(), 8
    if option == "reg_bbox":
        del maps["wh"]
    elif option == "reg_offset":
        del maps["reg"]
    net_config = make_config(*([f"--net_config.{option}", "false"] if option else [])).net_config
    assert [head.name for head in device.heads(net_config, METAINFO)] == [name for name in CHANNELS if name in maps]
    found = device.Decode(net_config, METAINFO, k)(as_tensors(maps)).asnumpy()
    assert found.shape == (2, k, 18) and found.dtype == np.float32
    for image, rows in enumerate(found):
        sizes = maps["wh"][image] if "wh" in maps else np.zeros((2, 9, 11))
        offsets = maps["reg"][image] if "reg" in maps else None
        expected = expected_detections(maps["hm"][image], sizes, offsets, k, False)
        np.testing.assert_allclose(rows[:, :6], expected, atol=1e-5)
        for row in rows:
            y, x = np.argwhere(maps["hm"][image, int(row[5])] == row[4])[0]
            np.testing.assert_array_equal(row[6:14], maps["rot"][image, :, y, x])
            logit = float(maps["dep"][image, 0, y, x])
            np.testing.assert_allclose(row[14], 1 / (1 / (1 + np.exp(-logit)) + 1e-6) - 1, rtol=1e-4)
            np.testing.assert_array_equal(row[15:], maps["dim"][image, :, y, x])


def test_objects_are_those_of_the_original():
    golden = load_golden("tasks/ddd_decode.npz")
    heat, rot, depth, dim, wh, reg = (Tensor(golden[name]) for name in ("heat", "rot", "dep", "dim", "wh", "reg"))
    found = device.decode(heat, rot, depth, dim, wh, reg, int(golden["k"])).asnumpy()
    np.testing.assert_allclose(found, in_our_order(golden["dets"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("logit, meters", [(0, 1 - 4e-6), (-2.197225, 9 - 1e-4), (-100, 1e6 - 1), (100, 0), (20, 0)])
def test_depths_of_outputs(logit, meters):
    """1 / sigmoid - 1, from 0 up; a sigmoid of 0.1 is 9 m."""
    found = float(device.depth_of(Tensor(np.float32(logit))))
    assert found == pytest.approx(meters, rel=1e-4, abs=2e-6)


def test_heads_of_a_configuration(make_config):
    heads = device.heads(make_config().net_config, METAINFO)
    assert {head.name: head.channels for head in heads} == CHANNELS
    assert [head.name for head in heads if head.heatmap] == ["hm"] and set(CHANNELS) == set(DDD.heads)
    config = make_config("--net_config.reg_bbox", "false", "--net_config.reg_offset", "false")
    assert [head.name for head in device.heads(config.net_config, METAINFO)] == ["hm", "dep", "rot", "dim"]


def as_onnx(cell, maps, form):
    """The rows that ONNX Runtime computes with the nodes of onnx.decode."""
    import onnxruntime

    graph = Graph(form)
    rows = onnx.decode(graph, {name: graph.free(name) for name in maps}, cell)
    inputs = {name: (np.float32, ["batch", value.shape[1], "height", "width"]) for name, value in maps.items()}
    model = graph.model("decode", inputs, {rows: (np.float32, ["batch", cell.k, 18])}, {})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, maps)[0]


@pytest.mark.parametrize("form", OPSETS)
@pytest.mark.parametrize("options, shape, k", [
    ((), (2, 9, 11), 8), (("reg_bbox",), (2, 9, 11), 8), (("reg_offset",), (2, 9, 11), 8), ((), (1, 16, 12), 100),
    (("reg_bbox", "reg_offset"), (1, 3, 4), 20)])
def test_onnx_nodes_compute_the_same(form, options, shape, k, make_config):
    """Also for maps with fewer pixels than K."""
    net_config = make_config(*(word for name in options for word in (f"--net_config.{name}", "false"))).net_config
    maps = random_maps(shape)
    maps = {head.name: maps[head.name] for head in device.heads(net_config, METAINFO)}
    cell = device.Decode(net_config, METAINFO, k)
    expected = cell(as_tensors(maps)).asnumpy()
    found = as_onnx(cell, maps, form)
    real = expected[..., 4] > 0  # where there are fewer peaks than K, the rest is arbitrary
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-5, atol=1e-5)
    assert real.sum() >= 3
