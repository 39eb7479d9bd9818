"""tests/parity.py: that the shipped vectors pass, and that it fails where it must."""
import os
import re
import shutil

import numpy as np
import pytest
import torch

from src.errors import UserError
from tests import parity, torch_reference
from tests.conftest import GOLDEN, assert_user_error, call_script, run_script


@pytest.fixture
def whole_folder(tmp_path):
    """A copy of the golden vectors to change."""
    return shutil.copytree(GOLDEN, tmp_path / "golden")


def change(path, **arrays):
    """Replace or add arrays of an .npz file."""
    with np.load(path) as file:
        np.savez(path, **{**file, **arrays})


@pytest.fixture
def folder(whole_folder):
    """The same without the other networks, which take a minute and a half."""
    shutil.rmtree(whole_folder / "family")
    return whole_folder


def failures(folder, only):
    """The failed rows of a folder; of the vectors only some files are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "COMPONENTS", {name: parity.COMPONENTS[name] for name in only})
        return [row.component for row in parity.folder_rows(folder) if not row.passed]


@pytest.mark.slow
def test_the_shipped_vectors_pass():
    """The whole table, as a user prints it."""
    done = run_script("tests/parity.py", GOLDEN)
    table = done.stdout
    assert " 0 failed" in table and "FAIL" not in table
    rows = [line for line in table.splitlines() if line.endswith(" pass")]
    for component in ("network, native: hm", "network, composite: reg", "model zoo, native: hm", "model zoo, composite: reg",
                      "model zoo: 148 parameters there and back", "hourglass: 984 tensors there and back",
                      *(f"{name}, {fold}: {head}_0" for fold in ("folded", "not folded") for head in ("hm", "wh", "reg")
                        for name in ("res_18", "hourglass_narrow", *(f"{deformable}, {impl}" for deformable in ("dla_34", "resdcn_101")
                                                                      for impl in ("native", "composite")))),
                      "hourglass_narrow, folded: wh_1", *(f"preprocessing {case}" for case in range(5)),
                      *(f"sample {name}: heatmap" for name in ("plain", "crop", "crop_flip", "mse", "dense_wh", "cat_spec_wh")),
                      "color 3: normalized", "gaussian radius", "loss focal: gradient", "loss cat_spec_l1", "loss l1_no_objects",
                      "decode, dets_cat: boxes",
                      "post-processing 1: boxes", "soft-NMS 2, gaussian: scores", "DCN native, offsets to 3: gradient of offsets",
                      "DCN composite, offsets to 3: values", "batch norm: running variances", "training, native: 10 losses",
                      "training, composite: 10 losses"):
        assert any(row.startswith(component) for row in rows), component
    assert len(rows) == int(re.search(r"(\d+) comparisons", table)[1])


@pytest.mark.slow
@pytest.mark.parametrize("file, array, factor, row", [
    ("gaussian_radius.npz", "radius", 1 + 2e-5, "gaussian radius"),
    ("losses.npz", "smooth_l1_grad", 1 + 2e-5, "loss smooth_l1: gradient"),
    ("decode.npz", "dets_no_reg", 1 + 2e-5, "decode, dets_no_reg: boxes"),
    ("zoo_network.npz", "wh", 1 + 1e-4, "model zoo, native: wh"),
    ("soft_nms.npz", "kept_0_method2", 1 + 2e-6, "soft-NMS 0, gaussian: scores"),
    ("post_process.npz", "boxes_1", 1 + 2e-5, "post-processing 1: boxes"),
    ("color_aug.npz", "normalized_2", 1 + 2e-5, "color 2: normalized"),
    ("sample_crop.npz", "ret_reg", 1 + 2e-5, "sample crop: offset"),
    ("sample_mse.npz", "ret_input", 1.05, "sample mse: input"),
    ("preprocess_test.npz", "c_3", 1 + 2e-5, "preprocessing 3 (128x128, scale 1.25): region"),
])
def test_a_difference_fails(file, array, factor, row, folder):
    with np.load(folder / file) as golden:
        changed = (golden[array] * factor).astype(golden[array].dtype)
    change(folder / file, **{array: changed})
    assert row in failures(folder, [file])


def test_what_is_missing_or_was_not_compared_fails(folder):
    os.remove(folder / "losses.npz")
    change(folder / "decode.npz", dets_new=np.zeros(3))
    np.savez(folder / "new.npz", a=np.zeros(3))
    found = failures(folder, ["losses.npz", "decode.npz"])
    assert {"losses.npz is missing", "decode.npz: dets_new was not compared", "new.npz was not compared"} <= set(found)


def test_failing_is_exit_code_1(folder, capsys, monkeypatch):
    monkeypatch.setattr(parity, "COMPONENTS", {"gaussian_radius.npz": parity.radius_rows})
    monkeypatch.setattr(parity, "pytorch_rows", lambda: iter(()))
    for file in folder.glob("*.npz"):
        if file.name != "gaussian_radius.npz":
            file.unlink()
    monkeypatch.setattr("sys.argv", ["parity.py", str(folder)])
    assert parity.main() == 0
    assert "PyTorch is not installed" in capsys.readouterr().out
    change(folder / "gaussian_radius.npz", radius=np.zeros(64))
    assert parity.main() == 1
    assert re.search(r"gaussian radius .* FAIL", capsys.readouterr().out)


@pytest.mark.slow
def test_another_seed_and_size_of_the_network(folder):
    """Weights, input and outputs of another seed, made by PyTorch."""
    state, recipe = parity.golden_weights(folder, 77)
    network = torch_reference.CenterNet(80).eval()
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    with torch.no_grad():
        hm, wh, reg = network(torch.tensor(recipe["make_input"](77, (1, 3, 96, 64))))
    np.savez(folder / "network.npz", hm=hm.numpy(), wh=wh.numpy(), reg=reg.numpy(), seed=77)
    rows = parity.network_rows(parity.Vectors(folder / "network.npz"), folder)
    assert [row.passed for row in rows] == [True] * 6


@pytest.mark.slow
def test_another_seed_and_size_of_the_model_zoos_network(folder):
    """As the original's, by PyTorch; the model zoo's deformable convolutions have no bias."""
    state, recipe = parity.zoo_weights(folder, 78)
    network = torch_reference.CenterNet(80).eval()
    names = torch_reference.zoo_names(network)
    assert sorted(names.values()) == sorted(state)
    missing, _ = network.load_state_dict({name: torch.tensor(state[theirs]) for name, theirs in names.items()}, strict=False)
    assert {name for name in missing if not name.endswith("num_batches_tracked")} == {f"deconv_layers.{layer}.bias" for layer in (0, 6, 12)}
    with torch.no_grad():
        hm, wh, reg = network(torch.tensor(recipe["make_input"](78, (1, 3, 96, 64))))
    np.savez(folder / "zoo_network.npz", hm=torch.sigmoid(hm).numpy(), wh=wh.numpy(), reg=reg.numpy(), seed=78)
    rows = list(parity.zoo_rows(parity.Vectors(folder / "zoo_network.npz"), folder))
    assert len(rows) == 7 and all(row.passed for row in rows), rows


@pytest.mark.slow
def test_what_the_converter_loses_fails(folder, monkeypatch):
    """Offsets that come back in another order."""
    monkeypatch.setattr(parity.torch_weights, "_offsets_back", lambda name, value: value)
    assert failures(folder, ["zoo_network.npz"])[0] == "model zoo: 148 parameters there and back, how many differ"


@pytest.mark.slow
def test_a_difference_in_the_family_fails(whole_folder):
    """An array that differs, one that is too many, a file of no known network."""
    folder, family = whole_folder, whole_folder / "family"
    for file in family.iterdir():
        if not file.name.startswith("res_18"):
            file.unlink()
    assert not [row for row in failures(folder, ["gaussian_radius.npz"]) if "res_18" in row]
    with np.load(family / "res_18.npz") as golden:
        change(family / "res_18.npz", wh_0=golden["wh_0"] * np.float32(1 + 2e-4), wh_1=golden["wh_0"])
    np.savez(family / "dla_102.npz", a=np.zeros(3))
    found = {row for row in failures(folder, ["gaussian_radius.npz"]) if "family" in row or "res_18" in row}
    assert found == {"res_18, not folded: wh_0", "res_18, folded: wh_0", "res_18.npz: wh_1 was not compared",
                     "family/dla_102.npz was not compared"}


def test_a_folder_without_the_family(folder):
    assert not [row for row in failures(folder, ["gaussian_radius.npz"]) if "family" in row]


def test_values_that_are_not_finite_fail():
    for ours in ([np.nan, 1.0], [np.inf, 1.0]):
        assert not parity.compare("x", ours, [1.0, 1.0]).passed
    assert not parity.compare("x", [1.0], [1.0, 1.0]).passed
    assert not parity.compare("x", [1e-9], [0.0]).passed
    assert parity.compare("x", [0.0], [0.0]).passed
    assert parity.compare("x", [1.5, 100], [1.0, 100], step=0.5).passed


def test_vectors_that_cannot_be_read(folder):
    with np.load(folder / "gaussian_radius.npz") as file:
        np.savez(folder / "gaussian_radius.npz", hw=file["hw"])
    with pytest.raises(UserError, match="no array radius"):
        failures(folder, ["gaussian_radius.npz"])
    (folder / "gaussian_radius.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="not readable"):
        failures(folder, ["gaussian_radius.npz"])


def test_no_folder():
    assert_user_error(call_script("tests/parity.py", "/nowhere", check=False), "/nowhere")
