"""The detector's total loss; parity.py compares the individual losses with the original's."""
import dataclasses

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.tasks import TASKS, points
from src.tasks.detection import device
from tests.conftest import load_golden


def named(maps, targets):
    """({head: tensor}, {target name: tensor}) from arrays in this order."""
    return tuple({name: Tensor(value) for name, value in zip(names, values)} for names, values in (
        (("hm", "wh", "reg"), maps), (("hm", "ind", "reg", "reg_mask", "wh", "wh_mask"), targets)))


def losses(cell, maps, targets):
    """[loss, hm_loss, wh_loss, off_loss] for arrays, as numbers."""
    maps, targets = named(maps, targets)
    found = cell(maps, targets, cell.norms(targets))
    return [float(found[name].asnumpy()) for name in ("loss", "hm_loss", "wh_loss", "off_loss")]


@pytest.mark.parametrize("task, name", [
    ("pose", "net_config.hp_weight"), ("pose", "net_config.hm_hp_weight"), ("ddd", "net_config.dep_weight"),
    ("ddd", "net_config.dim_weight"), ("ddd", "net_config.rot_weight"),
])
def test_a_tasks_loss_has_the_configured_weight(task, name, make_config):
    """Tests of each task compute the sum with other weights."""
    config = make_config("--net_config.task", task, f"--{name}", 0.25)
    assert getattr(TASKS[task].device.build_loss(config.net_config), name.partition(".")[2]) == 0.25


@pytest.mark.slow
def test_weights_of_the_losses(make_config):
    golden = load_golden("losses.npz")
    mask = golden["mask"].astype(np.float32)
    weights = ["--net_config.hm_weight", 2, "--net_config.wh_weight", 0.5, "--net_config.off_weight", 3]
    cell = device.build_loss(make_config(*weights).net_config)
    maps = [golden["logits"], golden["pred2"], golden["pred2"]]
    targets = [golden["hm"], golden["ind"].astype(np.int32), golden["reg"], mask, golden["wh"],
               np.repeat(mask[..., None], 2, -1)]
    loss, hm_loss, wh_loss, off_loss = losses(cell, maps, targets)
    assert hm_loss == pytest.approx(float(golden["focal"]), rel=1e-5)
    assert wh_loss == pytest.approx(float(golden["l1"]), rel=1e-5)
    assert loss == pytest.approx(2.0 * hm_loss + 0.5 * wh_loss + 3.0 * off_loss, rel=1e-6)


def test_dense_size_loss_covers_the_full_gaussian(by_operation):
    rng = np.random.default_rng(3)
    pred, target, weight = (rng.random((2, 2, 4, 5)).astype(np.float32) for _ in range(3))
    ind, mask = np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)
    cell = device.CenterNetLoss(device.LossOptions(dense_wh=True, reg_offset=False))
    heat = np.zeros((2, 1, 4, 5), np.float32)
    reg = np.zeros((2, 3, 2), np.float32)
    wh_loss = losses(cell, (heat, pred, pred), (heat, ind, reg, mask, target, weight))[2]
    assert wh_loss == pytest.approx(np.abs(pred * weight - target * weight).sum() / (weight.sum() + 1e-4), rel=1e-5)


def expected_losses(options, hm, wh, reg, targets):
    """The losses by the original's formulas, object by object: the weighted sum, hm_loss, wh_loss, off_loss."""
    hm_target, ind, reg_target, reg_mask, wh_target, wh_mask = targets
    width = hm.shape[-1]
    prob = np.clip(1 / (1 + np.exp(-hm.astype(np.float64))), 1e-4, 1 - 1e-4)
    focal = np.where(hm_target == 1, (1 - prob) ** 2 * np.log(prob), (1 - hm_target) ** 4 * prob**2 * np.log(1 - prob))
    hm_loss = ((hm - hm_target) ** 2).mean() if options.mse_loss else -focal.sum() / max((hm_target == 1).sum(), 1)

    def rows_from_objects(maps, target, mask, kind):
        total = 0.0
        for i, slot in np.ndindex(ind.shape):
            for d in np.flatnonzero(mask[i, slot]):
                found, wanted = maps[i, d, ind[i, slot] // width, ind[i, slot] % width], target[i, slot, d]
                off = abs(found / (wanted + 1e-4) - 1) if kind == "norm" else abs(found - wanted)
                total += (off**2 / 2 if off < 1 else off - 0.5) if kind == "sl1" else off
        return total / ((reg_mask.sum() if kind == "sl1" else mask.sum()) + 1e-4)

    if options.dense_wh:
        wh_loss = np.abs(wh * wh_mask - wh_target * wh_mask).sum() / (wh_mask.sum() + 1e-4)
    else:
        kind = "norm" if options.norm_wh else "l1" if options.cat_spec_wh else options.reg_loss
        wh_loss = rows_from_objects(wh, wh_target, wh_mask, kind)
    off_mask = np.repeat(reg_mask[..., None], 2, -1)
    off_loss = rows_from_objects(reg, reg_target, off_mask, options.reg_loss) if options.reg_offset else 0
    loss = options.hm_weight * hm_loss + options.wh_weight * wh_loss + options.off_weight * off_loss
    return loss, hm_loss, wh_loss, off_loss


class Twice(nn.Cell):
    """The sum over two ranks with the same batch."""

    def construct(self, value):
        return value * 2


def random_batch(columns, objects, dense=False):
    """Maps and targets of three images with up to five objects each, and `columns` sizes per object."""
    rng = np.random.default_rng(5)
    n, slots, height, width = 3, 5, 4, 6
    hm, wh, reg = (rng.normal(scale=3, size=(n, depth, height, width)).astype(np.float32)
                   for depth in (2, 2 if dense else columns, 2))
    reg_mask = np.zeros((n, slots), np.float32)
    reg_mask.ravel()[rng.permutation(n * slots)[:objects]] = 1
    ind = rng.integers(0, height * width, (n, slots)).astype(np.int32)
    hm_target = rng.uniform(0, 0.99, hm.shape).astype(np.float32)
    hm_target.ravel()[rng.permutation(hm.size)[:objects]] = 1
    reg_target, wh_target = (rng.uniform(0, 4, (n, slots, depth)).astype(np.float32) for depth in (2, columns))
    wh_mask = np.repeat(reg_mask[..., None], columns, -1)
    if columns > 2:
        wh_mask[:, ::2, 2:] = wh_mask[:, 1::2, :2] = 0  # one class of each object
    if dense:
        wh_target, wh_mask = (rng.uniform(0, 4, wh.shape).astype(np.float32) for _ in range(2))
    return (hm, wh, reg), (hm_target, ind, reg_target, reg_mask, wh_target, wh_mask)


@pytest.mark.parametrize("options, objects", [
    ({}, 8), ({}, 0), ({"mse_loss": True, "reg_offset": False, "wh_weight": 0.3}, 8),
    ({"norm_wh": True, "reg_loss": "sl1"}, 8), ({"cat_spec_wh": True, "norm_wh": True}, 8),
    ({"cat_spec_wh": True, "reg_loss": "sl1", "hm_weight": 2, "off_weight": 3}, 8),
    ({"dense_wh": True, "norm_wh": True, "reg_loss": "sl1"}, 8),
], ids=str)
def test_losses_object_by_object(options, objects, by_operation):
    options = device.LossOptions(**options)
    maps, targets = random_batch(4 if options.cat_spec_wh else 2, objects, options.dense_wh)
    np.testing.assert_allclose(losses(device.CenterNetLoss(options), maps, targets),
                               expected_losses(options, *maps, targets), rtol=2e-5)


def test_the_sigmoid_is_clamped(by_operation):
    found = points.clamped_sigmoid(Tensor(np.array([-50, 0, np.log(3), 50], np.float16))).asnumpy()
    np.testing.assert_allclose(found, [1e-4, 0.5, 0.75, 1 - 1e-4], rtol=2e-4)
    assert found.dtype == np.float32 and found[3] < 1


def test_losses_of_ranks_and_micro_batches(by_operation):
    """Each of two ranks with the same objects has the losses of one; those of three micro-batches add up."""
    options = device.LossOptions(mse_loss=True, reg_loss="sl1")
    maps, targets = random_batch(2, 8)
    expected = expected_losses(options, *maps, targets)
    of_two = device.CenterNetLoss(options, rank_size=2, sum_over_ranks=Twice())
    np.testing.assert_allclose(losses(of_two, maps, targets), expected, rtol=2e-5)
    maps, targets = named(maps, targets)
    # 16 objects, none of them on the third rank.
    of_three = device.CenterNetLoss(options, rank_size=3, sum_over_ranks=Twice())
    np.testing.assert_allclose([float(norm.asnumpy()) for norm in of_three.norms(targets).values()],
                               [16 / 3] * 3, rtol=1e-4)
    cell = device.CenterNetLoss(options, micro_batches=3)
    norms = cell.norms(targets)
    micro_batches = [({name: value[i : i + 1] for name, value in maps.items()},
                      {name: value[i : i + 1] for name, value in targets.items()}) for i in range(3)]
    found = [cell(*batch, norms) for batch in micro_batches]
    found = [sum(float(one[name].asnumpy()) for one in found) for name in ("loss", "hm_loss", "wh_loss", "off_loss")]
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_the_defaults_are_the_configurations(make_config):
    net_config = make_config().net_config
    for field in dataclasses.fields(device.LossOptions):
        assert field.default == getattr(net_config, field.name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        device.LossOptions().reg_loss = "sl1"
