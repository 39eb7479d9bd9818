"""The table of networks: its facts, compatible settings, and refusal of checkpoints of other networks."""
import contextlib
import json
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest

from src.core.errors import UserError
from src.imaging.view import padded_size
from src.inference.pipeline import by_shape, make_inputs
from src.inference.predictor import Predictor
from src.model_utils.config import get_config, load_defaults
from src.network.architectures import ARCHITECTURES, architecture_of, check_input, hourglasses, network_facts, resolved
from src.network.centernet import build_network
from src.training.detector import TrainingDetector
from src.weights.checkpoints import load_weights, save_weights
from src.weights.side_file import adopt_evaluation, describe_model, read_side_file
from src.weights.source_names import recognize
from tests.conftest import GOLDEN, assert_user_error, call_script, network_of
from tests.metainfo import classes_of


def facts(arch, down_ratio=4):
    return network_facts({"arch": arch, "down_ratio": down_ratio})


NAMES = [*(f"{name}_{depth}" for name in ("resdcn", "res") for depth in (18, 34, 50, 101)), "dla_34", "dlav0_34",
         "dlazoo_34", "hourglass"]


def test_the_configuration_has_the_tables_names(capsys):
    assert sorted(ARCHITECTURES) == sorted(NAMES) == sorted(load_defaults()[2]["net_config.arch"]["choices"])
    with pytest.raises(UserError, match=f"net_config.arch .*'dla'.*{', '.join(NAMES)}"):
        get_config("t", ["--net_config.arch", "dla"])


@pytest.mark.parametrize("args, head_conv, block_class, num_stacks", [
    ([], 64, "BasicBlock", [2, 2, 2, 2]), (["arch", "res_34"], 64, "BasicBlock", [3, 4, 6, 3]),
    (["arch", "resdcn_50"], 64, "Bottleneck", [3, 4, 6, 3]), (["arch", "res_101"], 64, "Bottleneck", [3, 4, 23, 3]),
    (["num_stacks", "[1, 1, 1, 1]"], 64, "BasicBlock", [1, 1, 1, 1]),
    (["block_class", "Bottleneck", "num_stacks", "[3, 4, 6, 3]"], 64, "Bottleneck", [3, 4, 6, 3]),
    (["arch", "dla_34"], 256, "", []), (["arch", "dla_34", "head_conv", "64"], 64, "", []),
    (["arch", "dlav0_34"], 256, "", []), (["arch", "dlazoo_34"], 256, "", []),
    (["arch", "hourglass"], 256, "", [2]), (["arch", "hourglass", "num_stacks", "1"], 256, "", [1]),
    (["arch", "hourglass", "num_stacks", "[3]"], 256, "", [3]),
])
def test_defaults_of_the_architecture(args, head_conv, block_class, num_stacks):
    config = get_config("t", [word if number % 2 else f"--net_config.{word}" for number, word in enumerate(args)])
    options = resolved(config.net_config.as_dict())
    assert (options.head_conv, options.block_class, options.num_stacks) == (head_conv, block_class, num_stacks)


@pytest.mark.parametrize("args, message", [
    (["--net_config.arch", "dla_34", "--net_config.num_stacks", "[2, 2, 2, 2]"],
     r"num_stacks .*\[2, 2, 2, 2\].*arch .*dla_34"),
    (["--net_config.arch", "hourglass", "--net_config.num_stacks", "[2, 2]"],
     r"num_stacks .*\[2, 2\].*arch .*hourglass.*\bone\b"),
    (["--net_config.arch", "res_18", "--net_config.num_stacks", "2"], r"num_stacks .*\[2\].*arch .*res_18.*\b4\b"),
    (["--net_config.arch", "hourglass", "--net_config.block_class", "BasicBlock"],
     "block_class .*BasicBlock.*arch .*hourglass"),
    (["--net_config.arch", "hourglass", "--net_config.down_ratio", "8"], r"down_ratio .*\b8\b.*hourglass.*\b4$"),
    (["--net_config.arch", "dlazoo_34", "--net_config.down_ratio", "8"], r"down_ratio .*\b8\b.*dlazoo_34.*\b4$"),
    (["--net_config.arch", "hourglass", "--dataset_config.input_res_train", "[512, 96]"],
     r"dataset_config.input_res_train .*\[512, 96\].*hourglass.*\b128$"),
])
def test_incompatible_settings(args, message):
    with pytest.raises(UserError, match=message):
        get_config("t", args)


def test_an_input_is_a_multiple_of_the_stride():
    check_input(facts("hourglass"), (384, 128), "x")
    check_input(facts("dla_34"), (96, 32), "x")
    for arch in ("dla_34", "dlav0_34", "dlazoo_34"):
        with pytest.raises(UserError, match=rf"^x .*\[96, 48\].*\b{arch}.*\b32$"):
            check_input(facts(arch), (96, 48), "x")


@pytest.mark.parametrize("arch, ratio, multiple", [("resdcn_18", 4, 8), ("resdcn_18", 8, 8), ("resdcn_18", 16, 16),
                                                   ("res_50", 16, 16), ("dla_34", 4, 32), ("dla_34", 16, 32),
                                                   ("dlav0_34", 4, 32),
                                                   ("hourglass", 4, 128), ("", 16, 16)])
def test_an_evaluation_at_one_size(arch, ratio, multiple):
    """A ResNet rounds its maps up but needs whole output pixels; adding features of several strides needs exact
    sizes."""
    # An empty string: a file of an older version.
    described = facts(arch, ratio) if arch else {"arch": "", "stride": 32, "down_ratio": ratio}
    for width in range(632, 769, 8):  # valid values of input_res_test
        config = get_config("t", ["--eval_config.keep_res", "false", "--dataset_config.input_res_test",
                                  f"[{width}, 640]"])
        with contextlib.nullcontext() if width % multiple == 0 else pytest.raises(UserError, match=rf"\b{multiple}$"):
            adopt_evaluation(config, described, "a.json")


def test_a_training_with_an_invalid_evaluation_size(make_config):
    """The default 680x680 is 42.5 output pixels of 16: refused before there is a checkpoint, not after."""
    args = ["--net_config.down_ratio", "16", "--eval_config.keep_res", "false"]
    with pytest.raises(UserError, match=r"input_res_test .*\[680, 680\].*resdcn_18.*down_ratio 16.*\b16$"):
        describe_model(make_config(*args), {"dataset": "d", "classes": ["a"], "category_ids": [1]})


def test_an_hourglass_is_scored_in_training_at_its_stride(make_config):
    """Images are padded to multiples of 128, as in eval.py, instead of 32."""
    config = make_config("--net_config.arch", "hourglass", "--dataset_config.input_res_train", "[128, 128]")
    description = describe_model(config, {"dataset": "d", "classes": ["a"], "category_ids": [1]})
    trained = TrainingDetector(None, None, description, config, "CPU")
    detector = SimpleNamespace(description=trained.description, input_res=None, down_ratio=4, from_bytes=True)
    (pixels, _), = make_inputs(np.zeros((130, 100, 3), np.uint8), detector, config)
    assert pixels.shape == (256, 128, 3)


def test_an_input_size_that_does_not_fit_a_checkpoint(tmp_path):
    side = {"dataset": "d", "classes": ["a"], "category_ids": [1], "mean": [0.4] * 3, "std": [0.2] * 3,
            "input_res_train": [128, 128]}
    (tmp_path / "a.ckpt").touch()
    (tmp_path / "a.json").write_text(json.dumps({**side, "net_config": {"arch": "hourglass"}}))
    with pytest.raises(UserError, match=r"input_res_test .*\[160, 160\].*hourglass.*\b128$"):
        Predictor(str(tmp_path / "a.ckpt"), input_res=[160, 160])


def test_an_image_that_keeps_its_size_is_padded_to_the_stride():
    """The original's rule is (side | stride - 1) + 1."""
    for side in (1, 31, 32, 127, 128, 200, 640):
        for stride in (32, 128):
            assert padded_size(side, side, stride, stride) == ((side | (stride - 1)) + 1,) * 2
    assert padded_size(100, 300, 64, 128) == (128, 384) and padded_size(100, 300, 96, 128) == (384, 384)
    sizes = {"a": (100, 100), "b": (90, 130), "c": (120, 20)}
    options = get_config("t", []).eval_config
    assert by_shape(["b", "a", "c"], sizes.get, options, 128) == ["a", "c", "b"]


@pytest.mark.slow
def test_parameter_names_identify_the_architecture(undrawn):
    with open(f"{GOLDEN}/family/hourglass_shapes.json", encoding="utf-8") as file:
        assert recognize(json.load(file)) == "original"
    for arch in ("resdcn_18", "res_34", "resdcn_50", "dlav0_34", "dlazoo_34", "dla_34"):
        network = network_of(3, arch=arch)
        names = [parameter.name for parameter in network.get_parameters()]
        assert architecture_of(names) == arch
        assert architecture_of(["loss_scale", *names, *(f"moment1.{name}" for name in names)]) == arch
    backbone = [name for name in names if name.startswith("backbone.")]
    assert architecture_of(backbone) == "the backbone of dla_34"
    assert architecture_of(["a", "b"]) == architecture_of([]) == ""


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture_is_refused_by_name(undrawn):
    """Before tensors are compared: none of these would fit, and one is missing."""
    def parameters(network):
        return {value.name: value for value in network.get_parameters()}

    networks = {arch: network_of(3, arch=arch, head_conv=8) for arch in ("resdcn_18", "res_18", "dla_34", "dlav0_34")}
    for arch, other in (("resdcn_18", "res_18"), ("res_18", "dla_34"), ("dla_34", "resdcn_18"), ("dlav0_34", "dla_34")):
        with pytest.raises(UserError, match=rf"a.ckpt .*\b{other}\b.*\b{arch}\b"):
            load_weights(networks[arch], parameters(networks[other]), "a.ckpt", fine_tuning=True)
    small = network_of(3, num_stacks=[1, 1, 1, 1], head_conv=8)
    with pytest.raises(UserError, match=r"a.ckpt .*resdcn_18 .*num_stacks \[1, 1, 1, 1\].*\bresdcn_18\b"):
        load_weights(networks["resdcn_18"], parameters(small), "a.ckpt")
    with pytest.raises(UserError, match="a.ckpt .*dla_34.*ResNet18"):
        load_weights(networks["res_18"].backbone, parameters(networks["dla_34"]), "a.ckpt")
    # A complete network also has a backbone.
    load_weights(networks["res_18"].backbone, parameters(networks["resdcn_18"]), "a.ckpt")
    load_weights(networks["dlav0_34"].backbone, parameters(networks["dla_34"]), "a.ckpt")


def test_a_module_that_lacks_a_parameter_is_counted():
    names = {f"kps.{stack}.up1.0.{name}.weight" for stack in (0, 1) for name in ("conv1", "conv2")}
    for missing in names:
        assert hourglasses((names - {missing}).__contains__) == 2
    assert hourglasses(set().__contains__) == 0


@pytest.mark.slow
def test_a_training_is_refused_by_name(tiny_records, tmp_path, undrawn):
    """By train.py, when fine-tuning."""
    network = network_of(3, arch="res_18", head_conv=8)
    path = save_weights(str(tmp_path / "res.ckpt"), {value.name: value.asnumpy() for value in network.get_parameters()})
    args = ["--device_target", "CPU", "--mindrecord_dir", tiny_records, "--net_config.arch", "dla_34",
            "--dataset_config.input_res_train", "[96, 96]", "--load_checkpoint_path", path]
    assert_user_error(call_script("train.py", *args, cwd=tmp_path, check=False), path, "res_18", "dla_34")


def test_side_files_of_this_and_of_an_earlier_version(tmp_path):
    """Before architectures had names, side files stated only block_class and num_stacks."""
    side = {"classes": ["a"], "category_ids": [1], "mean": [0.4] * 3, "std": [0.2] * 3, "input_res_train": [128, 128]}
    (tmp_path / "a.ckpt").touch()
    for net_config, arch, stride in (({"block_class": "Bottleneck", "num_stacks": [3, 4, 23, 3]}, "resdcn_18", 32),
                                     ({"arch": "hourglass"}, "hourglass", 128)):
        (tmp_path / "a.json").write_text(json.dumps({**side, "net_config": net_config}))
        found = read_side_file(str(tmp_path / "a.ckpt"))
        assert (found["net_config"]["arch"], found["stride"]) == (arch, stride)
    net_config = {**get_config("t", []).net_config.as_dict(), "block_class": "Bottleneck"}
    assert resolved(net_config).num_stacks == [2, 2, 2, 2]
    (tmp_path / "a.json").write_text(json.dumps({**side, "net_config": {"arch": "dla_34", "num_stacks": [1]}}))
    with pytest.raises(UserError, match=r"a.json: .*net_config.num_stacks .*\[1\]"):
        read_side_file(str(tmp_path / "a.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("arch, millions", [("res_18", 15.8), ("resdcn_101", 49.7), ("dla_34", 19.7),
                                            ("dlav0_34", 18.0)])
def test_number_of_parameters(arch, millions, undrawn):
    """Equal to the original's state for 80 classes (golden/family) without running statistics and the unused
    classifier, as in docs/architectures.md."""
    with open(f"{GOLDEN}/family/{arch}_shapes.json", encoding="utf-8") as file:
        shapes = json.load(file)
    expected = sum(int(np.prod(shape)) for name, shape in shapes.items() if "running_" not in name
                   and "num_batches" not in name and not name.startswith("base.fc."))
    network = network_of(80, arch=arch)
    found = sum(value.size for value in network.get_parameters() if "moving_" not in value.name)
    assert found == expected and round(found / 1e6, 1) == millions
    assert isinstance(network.hm[2].bias, ms.Parameter)


@pytest.mark.parametrize("arch, small", [("resdcn_18", True), ("dlav0_34", True), ("dla_34", False)])
def test_how_heads_start(arch, small, make_config):
    """Sizes start with a deviation of 0.001, or in DLA with deformable convolutions as PyTorch's convolutions do."""
    network = build_network(make_config("--net_config.arch", arch).net_config, classes_of(2), "composite")
    limit = (network.wh[0].weight.shape[1] * 9) ** -0.5  # uniform within it
    expected = 0.001 if small else limit / 3**0.5
    assert network.wh[0].weight.asnumpy().std() == pytest.approx(expected, rel=0.05)
    assert network.hm[0].weight.asnumpy().std() == pytest.approx(limit / 3**0.5, rel=0.05)
    assert not network.wh[2].bias.asnumpy().any() and np.allclose(network.hm[2].bias.asnumpy(), -2.19)
