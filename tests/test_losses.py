"""Every loss and its gradient against the original's numbers."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src import losses
from src.centernet_det import build_loss
from tests.conftest import load_golden


def value_and_gradient(function, logits):
    value, gradient = ms.value_and_grad(function)(Tensor(logits))
    return value.asnumpy(), gradient.asnumpy()


def check(function, inputs, golden, name):
    value, gradient = value_and_gradient(function, inputs)
    np.testing.assert_allclose(value, golden[name], rtol=1e-5, atol=1e-7)
    expected = golden[f"{name}_grad"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5 * max(np.abs(expected).max(), 1e-6))


def test_focal_loss():
    golden = load_golden("losses.npz")
    target = Tensor(golden["hm"])

    def loss(logits):
        return losses.focal_loss(losses.clamped_sigmoid(logits), target)

    check(loss, golden["logits"], golden, "focal")


def test_focal_loss_without_objects():
    golden = load_golden("losses.npz")
    target = Tensor(np.float32(0.9) * golden["hm"])  # no pixel is 1

    def loss(logits):
        return losses.focal_loss(losses.clamped_sigmoid(logits), target)

    check(loss, golden["logits"], golden, "focal_no_objects")


def test_mse_loss():
    golden = load_golden("losses.npz")
    target = Tensor(golden["hm"])

    def loss(logits):
        return losses.mse_loss(logits, target)

    check(loss, golden["logits"], golden, "mse")


@pytest.mark.parametrize("name, function, pred, target, mask", [
    ("l1", losses.l1_loss, "pred2", "wh", "mask"),
    ("smooth_l1", losses.smooth_l1_loss, "pred2", "wh", "mask"),
    ("norm_l1", losses.norm_l1_loss, "pred2", "wh", "mask"),
    ("cat_spec_l1", losses.l1_loss, "predc", "cat_wh", "cat_mask"),
    ("l1_no_objects", losses.l1_loss, "pred2", "wh", None),
])
def test_regression_losses(name, function, pred, target, mask):
    golden = load_golden("losses.npz")
    ind, goal = Tensor(golden["ind"].astype(np.int32)), Tensor(golden[target])
    used = golden[mask] if mask else np.zeros(golden["mask"].shape, np.uint8)
    if used.ndim == 2:
        used = np.repeat(used[..., None], golden[target].shape[-1], -1)
    used = Tensor(used.astype(np.float32))

    def loss(maps):
        return function(losses.gather_at_centers(maps, ind), goal, used)

    check(loss, golden[pred], golden, name)


def test_weights_and_parts(make_config):
    golden = load_golden("losses.npz")
    mask = golden["mask"].astype(np.float32)
    weights = ["--net_config.hm_weight", 2, "--net_config.wh_weight", 0.5, "--net_config.off_weight", 3]
    cell = build_loss(make_config(*weights).net_config)
    arguments = [golden["logits"], golden["pred2"], golden["pred2"], golden["hm"], golden["ind"].astype(np.int32), golden["reg"], mask,
                 golden["wh"], np.repeat(mask[..., None], 2, -1)]
    loss, hm_loss, wh_loss, off_loss = (float(part.asnumpy()) for part in cell(*map(Tensor, arguments)))
    assert hm_loss == pytest.approx(float(golden["focal"]), rel=1e-5)
    assert wh_loss == pytest.approx(float(golden["l1"]), rel=1e-5)
    assert loss == pytest.approx(2.0 * hm_loss + 0.5 * wh_loss + 3.0 * off_loss, rel=1e-6)


def test_dense_size_loss_counts_the_whole_gaussian():
    rng = np.random.default_rng(3)
    pred, target, weight = (rng.random((2, 2, 4, 5)).astype(np.float32) for _ in range(3))
    ind, mask = np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)
    cell = losses.CenterNetLoss(False, "l1", True, False, False, False, 1.0, 1.0, 1.0)
    heat = np.zeros((2, 1, 4, 5), np.float32)
    reg = np.zeros((2, 3, 2), np.float32)
    wh_loss = cell(*map(Tensor, (heat, pred, pred, heat, ind, reg, mask, target, weight)))[2]
    assert float(wh_loss.asnumpy()) == pytest.approx(np.abs(pred * weight - target * weight).sum() / (weight.sum() + 1e-4), rel=1e-5)
