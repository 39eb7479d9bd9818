"""The loss of the whole detector; the single losses are compared with the original's in parity.py."""
import numpy as np
import pytest
from mindspore import Tensor

from src import losses
from src.train_step import build_loss
from tests.conftest import load_golden


@pytest.mark.slow
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
    cell = losses.CenterNetLoss(losses.LossOptions(dense_wh=True, reg_offset=False))
    heat = np.zeros((2, 1, 4, 5), np.float32)
    reg = np.zeros((2, 3, 2), np.float32)
    wh_loss = cell(*map(Tensor, (heat, pred, pred, heat, ind, reg, mask, target, weight)))[2]
    assert float(wh_loss.asnumpy()) == pytest.approx(np.abs(pred * weight - target * weight).sum() / (weight.sum() + 1e-4), rel=1e-5)
