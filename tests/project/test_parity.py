"""tests/parity.py: the shipped vectors pass, and differences fail."""
import os
import re
import shutil

import mindspore as ms
import numpy as np
import pytest
import torch

from src.core.errors import UserError
from src.tasks.ddd import DDD
from src.tasks.pose import POSE
from src.weights import torch_weights
from src.weights.checkpoints import load_weights, parameter_shapes
from tests import parity, torch_reference
from tests.conftest import GOLDEN, assert_user_error, call_script, network_of, replace_resdcn_18

pytestmark = pytest.mark.usefixtures("undrawn")  # the weights are recorded


@pytest.fixture
def all_vectors(tmp_path):
    """A copy of the golden vectors, to modify."""
    return shutil.copytree(GOLDEN, tmp_path / "golden")


def change(path, **arrays):
    """Replace or add arrays of an .npz file."""
    with np.load(path) as file:
        np.savez(path, **{**file, **arrays})


@pytest.fixture
def folder(all_vectors):
    """The same without the other networks and tasks, which take half a minute."""
    shutil.rmtree(all_vectors / "family")
    shutil.rmtree(all_vectors / "tasks")
    return all_vectors


def failures(folder, only):
    """The failed rows of a folder; only the files in `only` are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "COMPONENTS", {name: parity.COMPONENTS[name] for name in only})
        return [row.component for part in parity.folder_parts(folder).values() for row in part() if not row.passed]


def maps(*labels, stacks=1):
    return [f"{label}: {head}_{stack}" for label in labels for head in ("hm", "wh", "reg") for stack in range(stacks)]


FOLDS, FORMS, HEADS = ("not folded", "folded"), ("native", "composite"), ("hm", "wh", "reg")
ROWS = {  # of each file of the shipped vectors, the beginnings of some rows
    "network.npz": [f"network, {form}: {head}" for form in FORMS for head in HEADS],
    "zoo_network.npz": ["model zoo: round trip of 148 tensors",
                        *(f"model zoo, {form}: {head}" for form in FORMS for head in HEADS)],
    "preprocess_test.npz": [f"preprocessing {case}" for case in range(5)],
    **{f"sample_{name}.npz": [f"sample {name}: heatmap"]
       for name in ("plain", "crop", "crop_flip", "mse", "dense_wh", "cat_spec_wh")},
    "color_aug.npz": ["color 3: normalized"], "gaussian_radius.npz": ["gaussian radius"],
    "losses.npz": ["loss focal: gradient", "loss cat_spec_l1", "loss l1_no_objects"],
    "decode.npz": ["decode, dets_cat: boxes"],
    "post_process.npz": ["post-processing 1: boxes"], "soft_nms.npz": ["soft-NMS 2, gaussian: scores"],
    **{f"family/{name}.npz": [f"{name}: ", *maps(*(f"{name}, {form}, {fold}" for form in FORMS for fold in FOLDS))]
       for name in ("dla_34", "resdcn_101")},
    "family/hourglass_narrow.npz": ["hourglass_narrow: round trip of 984 tensors",
                                    *maps(*(f"hourglass_narrow, {fold}" for fold in FOLDS), stacks=2)],
    "family/hourglass_shapes.json": ["hourglass: round trip of 984 tensors"],
    "family/res_18.npz": ["res_18: round trip of 150 tensors", *maps(*(f"res_18, {fold}" for fold in FOLDS))],
    "family/dlav0_34.npz": ["dlav0_34: round trip of 324 tensors", *maps(*(f"dlav0_34, {fold}" for fold in FOLDS))],
    **{f"tasks/{name}.npz": [f"{name}: round trip of {count} tensors",
                             *(f"{name}, {form}: {head}" for form in FORMS for head in task.heads)]
       for name, count, task in (("pose_resdcn_18", 189, POSE), ("pose_dla_34", 410, POSE), ("ddd_dla_34", 410, DDD))},
    **{f"tasks/ddd_sample_{name}.npz": [f"ddd sample {name}: {column}"
                                        for column in ("input", "hm", "dep", "dim", "rotbin", "rotres", "reg_mask")]
       for name in ("plain", "shifted")},
    "tasks/ddd_losses.npz": ["ddd loss, default: gradient of rot", "ddd loss, no_bbox: loss",
                             "ddd loss, no_offset: loss"],
    "tasks/ddd_decode.npz": ["ddd decode, dets: rot", "ddd decode, dets_no_wh: box", "ddd decode, dets_no_reg: depth"],
    "tasks/ddd_post_process.npz": ["ddd post-processing: location", "ddd post-processing: box"],
    "tasks/ddd_geometry.npz": ["ddd geometry: corners", "ddd geometry: unprojected"],
    "tasks/kitti_scores.json": ["KITTI: AP, car 3d moderate, AP40", "KITTI: precision, pedestrian orientation hard"],
    **{f"tasks/pose_sample_{name}.npz": [f"pose sample {name}: {column}" for column in ("input", "hm", "hps", "hm_hp")]
       for name in ("plain", "crop", "crop_flip", "dense_hp", "mse", "rotated")},
    "tasks/pose_losses.npz": ["pose loss, default: gradient of hps", "pose loss, sl1: hp_offset_loss",
                              "pose loss, no_hm_hp: loss", "pose loss, mse: hm_hp_loss"],
    "tasks/pose_decode.npz": ["pose decode, dets: joints", "pose decode, dets_no_reg: boxes"],
    "tasks/pose_flip.npz": ["pose flip: hps"], "tasks/pose_post_process.npz": ["pose post-processing 1: joints"],
    "tasks/pose_soft_nms.npz": ["pose soft-NMS: joints"],
    "tasks/zoo_pose_network.npz": ["pose, model zoo: round trip of 285 tensors",
                                   *(f"pose, model zoo, {fold}: {head}" for fold in FOLDS for head in POSE.heads)],
}
PYTORCH_ROWS = {
    "deformable convolution": ["DCN native, offsets to 3: gradient of offsets", "DCN composite, offsets to 3: values"],
    "batch norm": ["batch norm: running means", "batch norm: running variances"],
    "training": ["training, native: 10 losses", "training, composite: 10 losses"],
}


def assert_passed(rows, expected):
    """Assert that all rows pass, and that each expected beginning occurs among them."""
    assert [row for row in rows if not row.passed] == []
    for component in expected:
        assert any(row.component.startswith(component) for row in rows), component


@pytest.mark.slow
@pytest.mark.parametrize("part", ROWS)
def test_the_shipped_vectors_pass(part, by_operation):
    """All rows of all files. DLA-34 is slow: composite deformable convolutions, operation by operation, twice."""
    assert_passed(list(parity.folder_parts(GOLDEN)[part]()), ROWS[part])


class SmallNet(torch.nn.Module):
    """small_network.SMALL in PyTorch, with three classes."""

    def __init__(self):
        super().__init__()
        backbone = {"0": torch.nn.Conv2d(3, 16, 7, 4, 3, bias=False),
                    "1": torch.nn.BatchNorm2d(16), "2": torch.nn.ReLU(), "3": torch_reference.BasicBlock(16, 32, 2)}
        for name, module in backbone.items():
            self.add_module(name, module)
        self.deconv_layers = torch.nn.Sequential(
            torch_reference.DCN(32, 16), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
            torch.nn.ConvTranspose2d(16, 16, 4, 2, 1, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU())
        for name, depth in (("hm", 3), ("wh", 2), ("reg", 2)):
            head = torch.nn.Conv2d(16, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, depth, 1)
            setattr(self, name, torch.nn.Sequential(*head))

    def forward(self, image):
        x = image
        for name in "0123":
            x = self.get_submodule(name)(x)
        x = self.deconv_layers(x)
        return self.hm(x), self.wh(x), self.reg(x)


def small_networks():
    """Return (SmallNet with nonzero offsets, a function: (state, dcn_impl) -> SMALL with these weights)."""
    torch.manual_seed(0)

    def ours(state, dcn_impl):
        with replace_resdcn_18("SMALL"):
            network = network_of(3, dcn_impl)
        weights = torch_weights.from_source(state, parameter_shapes(network), "original").weights
        parameters = {name: ms.Parameter(ms.Tensor(value), name=name) for name, value in weights.items()}
        load_weights(network, parameters, "small")
        return network

    return parity.with_offsets(SmallNet()), ours


@pytest.mark.slow
@pytest.mark.parametrize("part", PYTORCH_ROWS)
def test_pytorch_gives_the_same_results(part, by_operation):
    """Training uses the small network; parity.py itself trains the full one, and test_step.py compares its gradients.

    The two graphs, one per form of the deformable convolution, are slow to compile.
    """
    rows = parity.training_rows(of=small_networks, rate=1e-4) if part == "training" else parity.pytorch_parts()[part]()
    assert_passed(list(rows), PYTORCH_ROWS[part])


def test_all_parts_are_covered():
    assert set(parity.folder_parts(GOLDEN)) == set(ROWS) and set(parity.pytorch_parts()) == set(PYTORCH_ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("file, array, factor, row", [
    ("gaussian_radius.npz", "radius", 1 + 2e-5, "gaussian radius"),
    ("losses.npz", "smooth_l1_grad", 1 + 2e-5, "loss smooth_l1: gradient"),
    ("decode.npz", "dets_no_reg", 1 + 2e-5, "decode, dets_no_reg: boxes"),
    ("soft_nms.npz", "kept_0_method2", 1 + 2e-6, "soft-NMS 0, gaussian: scores"),
    ("post_process.npz", "boxes_1", 1 + 2e-5, "post-processing 1: boxes"),
    ("color_aug.npz", "normalized_2", 1 + 2e-5, "color 2: normalized"),
    ("sample_crop.npz", "ret_reg", 1 + 2e-5, "sample crop: offset"),
    ("sample_mse.npz", "ret_input", 1.05, "sample mse: input"),
    ("preprocess_test.npz", "c_3", 1 + 2e-5, "preprocessing 3 (128x128, scale 1.25): region"),
])
def test_a_difference_fails(file, array, factor, row, folder, by_operation):
    with np.load(folder / file) as golden:
        changed = (golden[array] * factor).astype(golden[array].dtype)
    change(folder / file, **{array: changed})
    assert row in failures(folder, [file])


def test_missing_and_unused_vectors_fail(folder, by_operation):
    os.remove(folder / "losses.npz")
    change(folder / "decode.npz", dets_new=np.zeros(3))
    np.savez(folder / "new.npz", a=np.zeros(3))
    found = failures(folder, ["losses.npz", "decode.npz"])
    assert {"losses.npz is missing", "decode.npz: dets_new was not compared", "new.npz was not compared"} <= set(found)


def test_the_table_and_its_exit_code(folder, capsys, monkeypatch, by_operation):
    """One line per row, and their number. A failed row gives exit code 1."""
    kept = {"gaussian_radius.npz": 1, "post_process.npz": 6}
    monkeypatch.setattr(parity, "COMPONENTS", {file: parity.COMPONENTS[file] for file in kept})
    for file in folder.glob("*.npz"):
        if file.name not in kept:
            file.unlink()
    monkeypatch.setattr("sys.argv", ["parity.py", str(folder)])

    def printed(code):
        assert parity.main() == code
        return capsys.readouterr().out

    row = parity.compare("another", [1.0], [1.0])
    monkeypatch.setattr(parity, "pytorch_parts", lambda: {"one": lambda: iter([row])})
    table = printed(0)
    assert len(re.findall(r" pass$", table, re.M)) == sum(kept.values()) + 1 and " FAIL" not in table
    assert re.search(r"^8 comparisons, 0 failed$", table, re.M) and "PyTorch" not in table
    assert re.search(r"^component +difference +relative +tolerance$", table, re.M)
    monkeypatch.setattr(parity, "pytorch_parts", dict)
    assert "PyTorch" in printed(0)  # it is not installed
    change(folder / "gaussian_radius.npz", radius=np.zeros(64))
    table = printed(1)
    assert re.search(r"^gaussian radius .* FAIL$", table, re.M) and "7 comparisons, 1 failed" in table


@pytest.mark.slow
def test_another_seed_and_size_of_the_network(folder, by_operation):
    """Weights, input and outputs for another seed, computed by PyTorch."""
    state, recipe = parity.golden_weights(folder, 77)
    network = torch_reference.CenterNet(80).eval()
    network.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    with torch.no_grad():
        hm, wh, reg = network(torch.tensor(recipe["make_input"](77, (1, 3, 96, 64))))
    np.savez(folder / "network.npz", hm=hm.numpy(), wh=wh.numpy(), reg=reg.numpy(), seed=77)
    rows = parity.network_rows(parity.Vectors(folder / "network.npz"), folder)
    assert [row.passed for row in rows] == [True] * 6


@pytest.mark.slow
def test_another_seed_and_size_of_the_model_zoos_network(folder, by_operation):
    """Like the original's, computed by PyTorch; the model zoo's deformable convolutions have no bias."""
    state, recipe = parity.zoo_weights(folder, 78)
    network = torch_reference.CenterNet(80).eval()
    names = torch_reference.zoo_names(network)
    assert sorted(names.values()) == sorted(state)
    tensors = {name: torch.tensor(state[theirs]) for name, theirs in names.items()}
    missing, _ = network.load_state_dict(tensors, strict=False)
    biases = {name for name in missing if not name.endswith("num_batches_tracked")}
    assert biases == {f"deconv_layers.{layer}.bias" for layer in (0, 6, 12)}
    with torch.no_grad():
        hm, wh, reg = network(torch.tensor(recipe["make_input"](78, (1, 3, 96, 64))))
    np.savez(folder / "zoo_network.npz", hm=torch.sigmoid(hm).numpy(), wh=wh.numpy(), reg=reg.numpy(), seed=78)
    rows = list(parity.zoo_rows(parity.Vectors(folder / "zoo_network.npz"), folder))
    assert len(rows) == 7 and all(row.passed for row in rows), rows


@pytest.mark.slow
def test_a_difference_in_the_model_zoos_network_fails(folder, monkeypatch, by_operation):
    """Sizes that differ by 1e-4 and offsets in another order fail, and nothing else."""
    with np.load(folder / "zoo_network.npz") as golden:
        change(folder / "zoo_network.npz", wh=golden["wh"] * np.float32(1 + 1e-4))
    monkeypatch.setattr(parity.torch_weights, "_offsets_back", lambda name, value: value)
    found = [row for row in failures(folder, ["zoo_network.npz"]) if row.startswith("model zoo")]
    assert found == ["model zoo, native: wh", "model zoo, composite: wh",
                     "model zoo: round trip of 148 tensors, mismatches"]


@pytest.mark.slow
def test_a_difference_in_the_family_fails(all_vectors, by_operation):
    """A changed array, a surplus array and a file of an unknown network fail, and nothing else."""
    folder, family = all_vectors, all_vectors / "family"
    for file in family.iterdir():
        if not file.name.startswith("res_18"):
            file.unlink()
    with np.load(family / "res_18.npz") as golden:
        change(family / "res_18.npz", wh_0=golden["wh_0"] * np.float32(1 + 2e-4), wh_1=golden["wh_0"])
    np.savez(family / "dla_102.npz", a=np.zeros(3))
    found = {row for row in failures(folder, ["gaussian_radius.npz"]) if "family" in row or "res_18" in row}
    assert found == {"res_18, not folded: wh_0", "res_18, folded: wh_0", "res_18.npz: wh_1 was not compared",
                     "family/dla_102.npz was not compared"}


def test_a_folder_without_the_family(folder):
    assert not [row for row in failures(folder, ["gaussian_radius.npz"]) if "family" in row]


def test_non_finite_values_fail():
    for ours in ([np.nan, 1.0], [np.inf, 1.0]):
        assert not parity.compare("x", ours, [1.0, 1.0]).passed
    assert not parity.compare("x", [1.0], [1.0, 1.0]).passed
    assert not parity.compare("x", [1e-9], [0.0]).passed
    assert parity.compare("x", [0.0], [0.0]).passed
    assert parity.compare("x", [1.5, 100], [1.0, 100], step=0.5).passed


def test_unreadable_vectors(folder):
    with np.load(folder / "gaussian_radius.npz") as file:
        np.savez(folder / "gaussian_radius.npz", hw=file["hw"])
    with pytest.raises(UserError, match=r"gaussian_radius.npz.* radius\b"):
        failures(folder, ["gaussian_radius.npz"])
    (folder / "gaussian_radius.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="gaussian_radius.npz"):
        failures(folder, ["gaussian_radius.npz"])


def test_a_missing_folder():
    assert_user_error(call_script("tests/parity.py", "/nowhere", check=False), "/nowhere")
