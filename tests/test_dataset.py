"""src/dataset.py: targets and inputs against the original's, conversion, pipeline."""
import numpy as np
import pytest

from src import dataset
from tests.conftest import load_golden

SAMPLES = {
    "plain": (), "crop": (), "crop_flip": (),
    "mse": ("--net_config.mse_loss", "true"),
    "dense_wh": ("--net_config.dense_wh", "true"),
    "cat_spec_wh": ("--net_config.cat_spec_wh", "true"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_training_sample_is_the_originals(name, make_config):
    golden = load_golden(f"sample_{name}.npz")
    config = make_config("--dataset_config.input_res_train", "[128, 128]", *SAMPLES[name])
    picture, boxes = golden["image"], golden["boxes_xywh"].copy()
    boxes[:, 2:] += boxes[:, :2]
    height, width = picture.shape[:2]
    center, size = dataset.whole_view(width, height, (128, 128))
    if golden["train"]:
        center, size = golden["crop_center"].astype(np.float32), size * golden["crop_scale"]
    sample = dataset.render_sample(
        picture, boxes, golden["labels"], golden["ret_hm"].shape[0], center, size, 0.0, bool(golden["flip"]), (), np.zeros(3),
        config.dataset_config, config.net_config,
    )
    np.testing.assert_allclose(sample["image"][:, ::2, ::2], golden["ret_input"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sample["hm"], golden["ret_hm"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(sample["ind"], golden["ret_ind"])
    np.testing.assert_array_equal(sample["reg_mask"], golden["ret_reg_mask"])
    np.testing.assert_allclose(sample["reg"], golden["ret_reg"], rtol=1e-5, atol=1e-6)
    prefix = {"dense_wh": "ret_dense_wh", "cat_spec_wh": "ret_cat_spec_wh"}.get(name, "ret_wh")
    np.testing.assert_allclose(sample["wh"], golden[prefix], rtol=1e-5, atol=1e-6)
    mask = {"dense_wh": "ret_dense_wh_mask", "cat_spec_wh": "ret_cat_spec_mask"}.get(name)
    expected = golden[mask] if mask else np.repeat(golden["ret_reg_mask"][:, None], 2, 1)
    np.testing.assert_allclose(sample["wh_mask"], expected, rtol=1e-6)


@pytest.mark.parametrize("case", range(5))
def test_evaluation_input_is_the_originals(case, make_config):
    golden = load_golden("preprocess_test.npz")
    options = make_config().dataset_config
    keep_res = not golden[f"fix_res_{case}"]
    tensor, view = dataset.preprocess(golden["image"], float(golden[f"scale_{case}"]), keep_res, (128, 128), 4, options.mean, options.std)
    np.testing.assert_allclose(tensor[None, :, ::2, ::2], golden[f"input_{case}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(view.center, golden[f"c_{case}"])
    assert view.size == golden[f"s_{case}"].ravel()[0]
    np.testing.assert_array_equal(view.out_hw, golden[f"out_hw_{case}"])
