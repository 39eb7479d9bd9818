"""The converters: every source, both directions, and refused input."""
import functools
import json
import os
import pathlib
import re
import runpy
import shlex
import sys

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from src.commands import convert_centernet, convert_resnet18
from src.core.errors import UserError
from src.data.coco import class_list, read_coco
from src.imaging import color
from src.inference.predictor import Predictor
from src.model_utils.config import get_config
from src.tasks import DETECTION
from src.training.fine_tuning import start_weights
from src.weights import source_names, torch_weights
from src.weights.checkpoints import load_weights, parameter_shapes, read_checkpoint
from src.weights.side_file import read_side_file
from src.weights.zoo import parameter_names
from tests import parity, torch_family, torch_reference
from tests.conftest import (
    GOLDEN,
    ROOT,
    TINY,
    assert_user_error,
    call_script,
    load_golden,
    network_of,
    noise_image,
    own_detector,
    run_script,
)
from tests.weights.test_torch_files import write_tar

NAMES = os.path.join(ROOT, "tools", "names")
pytestmark = pytest.mark.usefixtures("undrawn")  # all weights come from files


def call(main, *args):
    """Run a converter's main in this process."""
    main([str(arg) for arg in args])


def save(path, state, **options):
    """Write {name: array} with PyTorch."""
    torch.save({name: torch.tensor(value) for name, value in state.items()}, path, **options)
    return path


# ---------------------------------------------------------------- backbones


@pytest.fixture(scope="module")
def classifier():
    """The state of an ImageNet ResNet18 with torchvision's names, before PyTorch had step counters."""
    network = torch_reference.lively(torch_reference.CenterNet(2))
    state = {name: value for name, value in parity.arrays(network).items()
             if name.startswith(("conv1", "bn1", "layer"))}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    rng = np.random.default_rng(0)
    return {**state, "fc.weight": rng.random((1000, 512), np.float32), "fc.bias": rng.random(1000, np.float32)}


def reference_features(state, pixels):
    """layer4 of the reference network with these weights."""
    network = torch_reference.CenterNet(2).eval()
    state = {name: torch.tensor(value) for name, value in state.items() if not name.startswith("fc")}
    network.load_state_dict(state, strict=False)
    with torch.no_grad():
        x = network.maxpool(torch.relu(network.bn1(network.conv1(torch.tensor(pixels)))))
        return network.layer4(network.layer3(network.layer2(network.layer1(x)))).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["zip", "pickle", "tar"])
def test_resnet18_in_every_file_format(file_format, classifier, tmp_path, capsys, by_operation):
    path = tmp_path / "resnet18-5c106cde.pth"
    if file_format == "tar":
        write_tar(path, classifier)
    else:
        save(path, classifier, _use_new_zipfile_serialization=file_format == "zip")
    names = () if file_format == "zip" else ("--torch_name_file", f"{NAMES}/resnet18_torch.txt", "--ms_name_file",
                                             f"{NAMES}/resnet18_mindspore.txt")
    call(convert_resnet18.main, "-ckpt_file" if names else "--ckpt_file", path, *names, "--output_file",
         tmp_path / "backbone.ckpt")
    output = capsys.readouterr().out
    assert "100 of 102 tensors" in output
    assert "fc.weight, fc.bias" in output
    weights = read_checkpoint(str(tmp_path / "backbone.ckpt"))
    assert len(weights) == 100
    for name, value in weights.items():
        np.testing.assert_array_equal(value.asnumpy(), classifier[source_names.source_name(name, "resnet")], name)
    if names:
        return
    # As in use: into the backbone of a detector.
    network = network_of(2).set_train(False)
    load_weights(network.backbone, weights, "backbone")
    pixels = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    expected = reference_features(classifier, pixels)
    np.testing.assert_allclose(network.backbone(Tensor(pixels)).asnumpy(), expected, rtol=0,
                               atol=1e-5 * np.abs(expected).max())


def test_shipped_name_files_equal_the_built_in_mapping():
    names = convert_resnet18.read_names(f"{NAMES}/resnet18_torch.txt", f"{NAMES}/resnet18_mindspore.txt")
    assert len(names) == 100
    for ours, theirs in names.items():
        assert source_names.source_name(ours, "resnet") == theirs


def test_name_files_override_the_mapping(classifier, tmp_path):
    """Swapping two names of equal shape in one file swaps the weights in the checkpoint."""
    path = save(tmp_path / "r.pth", classifier)
    with open(f"{NAMES}/resnet18_torch.txt") as file:
        text = file.read()
    first, second = "layer1.0.conv1.weight", "layer1.1.conv1.weight"
    (tmp_path / "t.txt").write_text(text.replace(first, "X").replace(second, first).replace("X", second))
    call(convert_resnet18.main, "--ckpt_file", path, "--torch_name_file", tmp_path / "t.txt", "--ms_name_file",
         f"{NAMES}/resnet18_mindspore.txt", "--output_file", tmp_path / "o.ckpt")
    weights = read_checkpoint(str(tmp_path / "o.ckpt"))
    np.testing.assert_array_equal(weights["backbone.layer1.0.conv1.weight"].asnumpy(),
                                  classifier["layer1.1.conv1.weight"])
    np.testing.assert_array_equal(weights["backbone.layer1.1.conv1.weight"].asnumpy(),
                                  classifier["layer1.0.conv1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("change, part", [
    (lambda torch_names, names: (torch_names[:-1], names), r"t.txt .*\b99\b.*m.txt .*\b100\b"),
    (lambda torch_names, names: (["conv9.weight", *torch_names[1:]], names), "r.pth: .*conv9.weight"),
    (lambda torch_names, names: (torch_names, ["conv9.weight", *names[1:]]), r"m.txt\b.*conv9.weight"),
    (lambda torch_names, names: (torch_names[1:], names[1:]), "m.txt .*backbone.conv1.weight"),
    (lambda torch_names, names: (torch_names, [*names[:-1], names[0]]), r"m.txt: .*backbone.conv1.weight"),
])
def test_name_files_that_do_not_fit(change, part, classifier, tmp_path):
    lists = [open(f"{NAMES}/resnet18_{kind}.txt").read().split() for kind in ("torch", "mindspore")]
    for name, lines in zip("tm", change(*lists)):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    path = save(tmp_path / "r.pth", classifier)
    with pytest.raises(UserError, match=part):
        call(convert_resnet18.main, "--ckpt_file", path, "--torch_name_file", tmp_path / "t.txt", "--ms_name_file",
             tmp_path / "m.txt",
             "--output_file", tmp_path / "o.ckpt")
    assert not (tmp_path / "o.ckpt").exists()


def test_the_model_zoos_list_of_names(tmp_path):
    """151 names of the complete network; its converter uses the backbone's, in the shipped list's order."""
    state = json.loads(pathlib.Path(GOLDEN, "zoo_names.json").read_text())
    biases = [f"network.deconv_layers.{layer}.bias" for layer in (0, 6, 12)]
    (tmp_path / "zoo.txt").write_text("\n".join([*state, *biases]))
    with open(f"{NAMES}/resnet18_torch.txt") as file:
        theirs = file.read().split()
    shipped = convert_resnet18.read_names(f"{NAMES}/resnet18_torch.txt", f"{NAMES}/resnet18_mindspore.txt")
    assert convert_resnet18.read_names(f"{NAMES}/resnet18_torch.txt", tmp_path / "zoo.txt") == shipped
    (tmp_path / "t.txt").write_text("\n".join(theirs[:-1]))
    with pytest.raises(UserError, match=r"t.txt .*\b99\b.*zoo.txt .*\b100\b.*\b51\b"):
        convert_resnet18.read_names(tmp_path / "t.txt", tmp_path / "zoo.txt")


def test_lists_in_different_orders(classifier, tmp_path):
    """A state_dict has weight, bias, mean, variance; the shipped list mean, variance, gamma, beta, of equal shapes."""
    (tmp_path / "t.txt").write_text("\n".join(name for name in classifier if not name.startswith("fc.")))
    args = "--torch_name_file", tmp_path / "t.txt", "--ms_name_file", f"{NAMES}/resnet18_mindspore.txt"
    with pytest.raises(UserError, match=r"backbone.bn1.moving_mean .*\bbn1.weight\b.*running_mean"):
        call(convert_resnet18.main, "--ckpt_file", save(tmp_path / "r.pth", classifier), *args, "--output_file",
             tmp_path / "o.ckpt")


@pytest.mark.slow
def test_a_deeper_backbone(tmp_path, capsys):
    """ResNet50 with the same tool; its report names the options for training."""
    network = torch_reference.CenterNet(2, block=torch_reference.Bottleneck, stacks=(3, 4, 6, 3))
    state = {name: value for name, value in parity.arrays(network).items()
             if name.startswith(("conv1", "bn1", "layer"))}
    call(convert_resnet18.main, "--ckpt_file", save(tmp_path / "r.pth", state), "--output_file", tmp_path / "o.ckpt")
    assert "--net_config.arch resdcn_50\n" in capsys.readouterr().out
    load_weights(network_of(2, arch="resdcn_50").backbone, read_checkpoint(str(tmp_path / "o.ckpt")), "o")


@pytest.mark.slow
def test_dlas_classifier(tmp_path, capsys, by_operation):
    """The names of dla34-ba72cf86.pth; all maps of the detector's backbone equal PyTorch's."""
    reference = torch_reference.lively(torch_family.DLANet(2))
    state = {name.removeprefix("base."): value for name, value in parity.arrays(reference).items()
             if name.startswith("base.")}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    classifier = {**state, "fc.weight": np.zeros((1000, 512, 1, 1), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    args = "--ckpt_file", save(tmp_path / "dla34-ba72cf86.pth", classifier), "--output_file", tmp_path / "dla.ckpt"
    call(convert_resnet18.main, *args)
    output = capsys.readouterr().out
    assert "--net_config.arch dla_34" in output
    assert f"{len(state)} of {len(classifier)} tensors" in output
    network = network_of(2, arch="dla_34").set_train(False)
    load_weights(network.backbone, read_checkpoint(str(tmp_path / "dla.ckpt")), "dla")
    pixels = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    with torch.no_grad():
        expected = reference.base(torch.tensor(pixels))
    for ours, theirs in zip(network.backbone(Tensor(pixels)), expected):
        np.testing.assert_allclose(ours.asnumpy(), theirs.numpy(), rtol=0, atol=1e-5 * theirs.abs().max().item())
    with pytest.raises(UserError, match="dla34-ba72cf86.pth: .*convert_resnet18.py"):
        call(convert_centernet.main, *args[:3], tmp_path / "other.ckpt")


# ---------------------------------------------------------------- detectors


def heads(checkpoint):
    """(the inference network of a checkpoint, its side file's content).

    With native deformable convolutions, which are faster; parity.py covers the composed ones.
    """
    detector = own_detector(checkpoint, get_config("", []).eval_config, "CPU", "native")
    return detector.network.maps.network, detector.description


def golden_state():
    """The recipe's weights with step counters, as after a training."""
    state, _ = parity.golden_weights(GOLDEN, int(load_golden("network.npz")["seed"]))
    return {name: np.int64(987) if name.endswith("num_batches_tracked") else value for name, value in state.items()}


@pytest.mark.slow
def test_round_trip_of_the_originals_detector(tmp_path, by_operation):
    """On the command line: the golden outputs, every tensor reported, and the same bits back."""
    state = golden_state()
    tensors = {f"module.{name}": torch.tensor(value) for name, value in state.items()}
    torch.save({"epoch": 140, "state_dict": tensors, "optimizer": {"state": {}}}, tmp_path / "ctdet_coco_resdcn18.pth")
    done = call_script("tools/convert_centernet.py", "--ckpt_file", "ctdet_coco_resdcn18.pth", "--output_file",
                       "c.ckpt", cwd=tmp_path)
    assert "80 classes, resdcn_18" in done.stdout
    counters = next(line for line in done.stdout.splitlines() if "step counter" in line)
    expected = {name for name in state if name.endswith("num_batches_tracked")}
    assert set(re.findall(r"[\w.]+\.num_batches_tracked", counters)) == expected
    assert f"{len(state) - 26} of {len(state)} tensors" in done.stdout

    network, side = heads(tmp_path / "c.ckpt")
    assert side["classes"][:2] == ["person", "bicycle"] and len(side["classes"]) == 80
    assert side["category_ids"][-1] == 90
    golden = load_golden("network.npz")
    recipe = runpy.run_path(os.path.join(GOLDEN, "recipe.py"))
    maps, = network(Tensor(recipe["make_input"](int(golden["seed"]), (2, 3, 128, 160))))
    for name, output in maps.items():
        assert np.abs(output.asnumpy() - golden[name]).max() <= 1e-4 * np.abs(golden[name]).max(), name

    call_script("tools/convert_centernet.py", "--reverse", "--ckpt_file", "c.ckpt", "--output_file", "back.pth",
                cwd=tmp_path)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].dtype == torch.tensor(value).dtype
        assert back[name].numpy().tobytes() == np.asarray(value).tobytes(), name
    torch_reference.CenterNet(80).load_state_dict(back)


def save_checkpoint(path, state, **numbers):
    """Write {name: array} and numbers with MindSpore, as a training does, without a checksum."""
    ms.save_checkpoint([{"name": name, "data": Tensor(value)} for name, value in state.items()], str(path),
                       append_dict=numbers)
    return path


def by_zoo_names(state):
    """A state of the original under the names of the model zoo's converter, which include deformable biases."""
    names = torch_reference.zoo_names(torch_reference.CenterNet(80))
    biases = {name: f"network.{name}" for name in state if re.fullmatch(r"deconv_layers\.(0|6|12)\.bias", name)}
    return {theirs: state[name] for name, theirs in {**names, **biases}.items()}


@pytest.mark.slow
def test_biases_in_a_file_of_the_model_zoos_converter():
    """151 names with three biases of deformable convolutions: the weights equal those of the original's file."""
    state = golden_state()
    theirs = by_zoo_names(state)
    assert len(theirs) == 151
    (_, ours), (_, expected) = (parity.converted(source, "native") for source in (theirs, state))
    biases = {"deconv_layers.0.bias", "deconv_layers.6.bias", "deconv_layers.12.bias"}
    assert set(ours) == set(expected) and biases <= set(ours)
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, name)


def convertible(kind, **changes):
    """(a small state of a kind, the shapes to convert it to), with entries changed, or removed by None."""
    reference = torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1))
    shapes = parameter_shapes(network_of(3, num_stacks=[1, 1, 1, 1], head_conv=16))
    if kind == "mmdet_plain":
        reference = with_plain_convolutions(reference)
    if kind == "zoo":
        state = reference.state_dict()
        state = {theirs.removeprefix("network."): state[name].numpy()
                 for name, theirs in torch_reference.zoo_names(reference).items()}
    else:
        state = mmdet_state(reference)
    state.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in state.items() if value is not None}, shapes


BIASES = {"zoo": ["deconv_layers__0__bias", "deconv_layers__6__bias", "deconv_layers__12__bias"],
          **dict.fromkeys(("mmdet", "mmdet_plain"),
                          [f"neck__deconv_layers__{layer}__conv__bias" for layer in (0, 2, 4)])}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BIASES)
def test_tensors_counted_as_used_are_used(kind):
    """Biases of deformable convolutions, which these sources' trainings lack: all are used, or they are 0."""
    values = [np.full(size, number, np.float32) for number, size in enumerate((256, 128, 64), 1)]
    plain, with_biases = ({}, dict(zip(BIASES[kind], values)))
    for changes in (plain, with_biases):
        state, shapes = convertible(kind, **changes)
        assert source_names.recognize(state) == kind
        conversion = torch_weights.from_source(state, shapes, kind)
        used = sum(not name.endswith("num_batches_tracked") for name in state)
        assert torch_weights.report(state, {}, conversion).startswith(f"used: {used} of {len(state)} tensors")
        assert ("have no bias" in "".join(conversion.remarks)) == (changes is plain)
        for layer, value in zip((0, 6, 12), values):
            np.testing.assert_array_equal(conversion.weights[f"deconv_layers.{layer}.bias"],
                                          value if changes else 0 * value)
    state, shapes = convertible(kind, **{BIASES[kind][0]: values[0]})
    with pytest.raises(UserError, match=re.escape(BIASES[kind][1].replace("__", "."))):
        torch_weights.from_source(state, shapes, kind)


def test_offsets_of_a_single_layer():
    """A file without the first layer's offsets has plain convolutions, so no other layer may have offsets."""
    offsets = {"neck__deconv_layers__2__conv__conv_offset__weight": np.zeros((27, 256, 3, 3), np.float32)}
    state, shapes = convertible("mmdet_plain", **offsets)
    with pytest.raises(UserError, match="neck.deconv_layers.2.conv.conv_offset.weight"):
        torch_weights.from_source(state, shapes, source_names.recognize(state))


def test_a_name_with_and_without_prefix():
    with pytest.raises(UserError, match=r"\ba.weight\b.*module\."):
        source_names.without_prefix({"module.a.weight": 1, "b": 2, "a.weight": 3})


@pytest.mark.slow
def test_round_trip_of_the_model_zoos_detector(tmp_path, by_operation, monkeypatch):
    """On the command line, without PyTorch: the recorded outputs, COCO's classes, and the same bits back."""
    monkeypatch.setitem(sys.modules, "torch", None)
    golden = load_golden("zoo_network.npz")
    seed = int(golden["seed"])
    state, recipe = parity.zoo_weights(GOLDEN, seed)
    path = save_checkpoint(tmp_path / "checkpoint_centernet-140_458.ckpt", state)
    done = call_script("tools/convert_centernet.py", "--ckpt_file", path, "--output_file", "c.ckpt", cwd=tmp_path)
    assert "model zoo" in done.stdout and "80 classes, resdcn_18" in done.stdout and "148 of 148 tensors" in done.stdout
    assert "set to 0" in next(line for line in done.stdout.splitlines() if "deconv_layers.0.bias" in line)

    network, side = heads(tmp_path / "c.ckpt")
    assert side["classes"][:2] == ["person", "bicycle"] and len(side["classes"]) == 80
    assert side["category_ids"][-1] == 90
    maps, = network(Tensor(recipe["make_input"](seed, (1, 3, 128, 160))))
    for name, output in {**maps, "hm": ops.sigmoid(maps["hm"])}.items():
        np.testing.assert_allclose(output.asnumpy(), golden[name], rtol=0, atol=1e-5, err_msg=name)

    done = call_script("tools/convert_centernet.py", "--reverse", "--ckpt_file", "c.ckpt", "--output_file", "back.ckpt",
                       cwd=tmp_path)
    for expected in ("c.ckpt: ", "80 classes, resdcn_18\n", "151 of 151 tensors"):
        assert expected in done.stdout
    assert "148 parameters" in done.stdout and "moving" not in done.stdout
    back = ms.load_checkpoint(str(tmp_path / "back.ckpt"))
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].asnumpy().tobytes() == value.tobytes() and back[name].dtype == ms.float32, name
    assert not (tmp_path / "back.json").exists()


@pytest.fixture(scope="module")
def zoo_converted(zoo_checkpoint, tiny_data, tmp_path_factory):
    """zoo_checkpoint, converted."""
    path = tmp_path_factory.mktemp("zoo converted") / "t.ckpt"
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    call(convert_centernet.main, "--ckpt_file", zoo_checkpoint, "--output_file", path, "--annotation", annotation)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["network.", "", "net.network."])
def test_a_trainings_checkpoint_of_the_model_zoo(prefix, zoo_checkpoint, zoo_converted, tiny_data, tmp_path, capsys):
    """The state of MindSpore's Adam, loss scale and counters are left out, counted and named.

    The outermost cell was added after the optimizer, whose names lack its prefix.
    """
    before = prefix.removeprefix("net.")
    weights = {f"{before}{name.removeprefix('network.')}": parameter.asnumpy()
               for name, parameter in ms.load_checkpoint(str(zoo_checkpoint)).items()}
    trained = [ms.Parameter(Tensor(value), name=name) for name, value in weights.items() if "moving" not in name]
    optimizer = nn.Adam(trained, learning_rate=[1e-3, 1e-4, 1e-5], use_amsgrad=True)
    others = {parameter.name: parameter.asnumpy()
              for parameter in optimizer.get_parameters() if parameter.name not in weights}
    assert {"learning_rate", "global_step", "beta1_power", f"moment2.{before}hm_fn.0.bias"} <= set(others)
    others = {**others, "loss_scale": np.array(1024, np.float32), "current_iterator_step": np.array(7, np.int32)}
    state = {**{f"{prefix}{name.removeprefix(before)}": value for name, value in weights.items()}, **others}
    path = save_checkpoint(tmp_path / "z.ckpt", state, epoch_num=140, step_num=458, lr=0.5)
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt", "--annotation", annotation)
    output = capsys.readouterr().out
    assert f"{len(weights)} of {len(state) + 3} tensors" in output
    copies = 3 * len(trained)
    line = next(line for line in output.splitlines() if "optimizer's copies" in line and "vhat." in line)
    assert f"({copies} tensors)" in line
    numbers = next(line for line in output.splitlines() if "the training's state" in line)
    expected = {name for name in others if not name.startswith(("moment", "vhat"))} | {"epoch_num", "step_num", "lr"}
    assert set(numbers.partition(": ")[2].partition(" (")[0].split(", ")) == expected
    assert f"({len(expected)} tensors)" in numbers
    converted, plain = (read_checkpoint(str(path)) for path in (tmp_path / "o.ckpt", zoo_converted))
    assert list(converted) == list(plain)
    for name, value in plain.items():
        np.testing.assert_array_equal(converted[name].asnumpy(), value.asnumpy(), name)


@pytest.mark.slow
def test_the_converted_model_zoo_detector(zoo_converted, lively_checkpoint, tiny_data, by_operation):
    """It equals lively_checkpoint, which other tests evaluate, export and predict with; its heads equal PyTorch's."""
    network, side = heads(zoo_converted)
    assert side["classes"] == class_list(read_coco(str(tiny_data / "annotations" / "instances_val2017.json")))[0]
    reference = without_dcn_bias(torch_reference.lively(torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1))))
    pixels = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(pixels))
    for ours, theirs in zip(network(Tensor(pixels))[0].values(), expected, strict=True):
        assert np.abs(ours.asnumpy() - theirs.numpy()).max() <= 1e-5 * np.abs(theirs.numpy()).max()

    converted, lively = (read_checkpoint(str(path)) for path in (zoo_converted, lively_checkpoint))
    assert list(converted) == list(lively)
    for name, value in lively.items():
        biases = name in ("deconv_layers.0.bias", "deconv_layers.6.bias", "deconv_layers.12.bias")
        np.testing.assert_array_equal(converted[name].asnumpy(), 0 * value.asnumpy() if biases else value.asnumpy(),
                                      name)
    ours, theirs = (json.loads(path.with_suffix(".json").read_text()) for path in (zoo_converted, lively_checkpoint))
    of_the_test = {"input_res_train": theirs["input_res_train"], "num_batches_tracked": theirs["num_batches_tracked"]}
    assert {**ours, **of_the_test} == theirs


@pytest.mark.slow
def test_biases_that_the_model_zoo_lacks(lively_checkpoint, tiny_data, tmp_path, capsys, by_operation):
    """They are folded into the next batch norms: other parameters and the outputs stay, and the report states it."""
    call(convert_centernet.main, "--reverse", "--ckpt_file", lively_checkpoint, "--output_file", tmp_path / "z.ckpt")
    output = capsys.readouterr().out
    assert "moving mean" in next(line for line in output.splitlines()
                                 if "deconv_layers.0.bias, deconv_layers.6.bias" in line)
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    call(convert_centernet.main, "--ckpt_file", tmp_path / "z.ckpt", "--output_file", tmp_path / "o.ckpt",
         "--annotation", annotation)
    before, after = (read_checkpoint(str(path)) for path in (lively_checkpoint, tmp_path / "o.ckpt"))
    changed = {name for name, value in before.items() if not np.array_equal(value.asnumpy(), after[name].asnumpy())}
    assert changed == {f"deconv_layers.{name}" for layer in (0, 6, 12)
                       for name in (f"{layer}.bias", f"{layer + 1}.moving_mean")}
    pixels = Tensor(np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32))
    one, other = (heads(path)[0](pixels)[0] for path in (lively_checkpoint, tmp_path / "o.ckpt"))
    for name in one:
        np.testing.assert_allclose(other[name].asnumpy(), one[name].asnumpy(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes, part", [
    ({"network.hm_fn.2.weight": None}, r".*\bhm_fn.2.weight\b"),
    ({"network.deconv_layers.6.conv_offset.bias": None}, r".*\bdeconv_layers.6.conv_offset.bias\b"),
    ({"network.backbone.layer4.0.conv1.weight": None}, r".*\bbackbone.layer4.0.conv1.weight$"),
    ({"network.hps_fn.0.weight": np.zeros((4, 4), np.float32)}, r".*\bhps_fn.0.weight\b"),
    ({"network.wh_fn.0.bias": np.zeros(3, np.float32)}, r"wh_fn.0.bias .*\(3,\).*\(16,\)"),
    ({}, ".*3 classes.*--annotation"),
])
def test_model_zoo_checkpoints_that_do_not_fit(changes, part, zoo_checkpoint, tiny_data, tmp_path):
    state = {name: parameter.asnumpy() for name, parameter in ms.load_checkpoint(str(zoo_checkpoint)).items()}
    state = {name: value for name, value in {**state, **changes}.items() if value is not None}
    path = save_checkpoint(tmp_path / "z.ckpt", state)
    classes = ["--annotation", tiny_data / "annotations" / "instances_val2017.json"] if changes else []
    with pytest.raises(UserError, match=f"z.ckpt: {part}"):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt", *classes)
    assert [file.name for file in tmp_path.iterdir()] == ["z.ckpt"]


def test_names_in_a_file(zoo_checkpoint, classifier, tmp_path):
    """The names that MindSpore loads, once per sliced tensor, up to any damage; none in other files."""
    names = list(ms.load_checkpoint(str(zoo_checkpoint)))
    assert parameter_names(zoo_checkpoint) == names
    large = save_checkpoint(tmp_path / "large.ckpt",
                            {"a.weight": np.zeros((1000, 1000), np.float32), "b": np.zeros(1, np.float32)})
    assert parameter_names(large) == ["a.weight", "b"]
    (tmp_path / "half.ckpt").write_bytes(zoo_checkpoint.read_bytes()[: zoo_checkpoint.stat().st_size // 2])
    half = parameter_names(tmp_path / "half.ckpt")
    assert half == names[: len(half)] and len(half) > 10
    assert parameter_names(save(tmp_path / "x.pth", classifier)) == []
    assert parameter_names(write_tar(tmp_path / "t.pth", classifier)) == []
    for content in (b"", b"\n", b"\n\x05\n", b"\n" + 20 * b"\xff", b"\n\x09\n\xff\xff\xff\x7f", b"\n\x04\n\x02\xff\xff",
                    b"hello"):
        (tmp_path / "other").write_bytes(content)
        assert parameter_names(tmp_path / "other") in ([], [""])


@pytest.mark.parametrize("main", [convert_resnet18.main, convert_centernet.main])
@pytest.mark.parametrize("prefix", ["", "network."])
def test_a_backbones_checkpoint_needs_no_conversion(main, prefix, tmp_path):
    path = save_checkpoint(tmp_path / "b.ckpt",
                           {f"{prefix}backbone.{name}.weight": np.zeros(1, np.float32) for name in "ab"})
    with pytest.raises(UserError, match=f"{path} .*--net_config.load_backbone_path {path}$"):
        call(main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")


def test_our_detector_is_not_a_pytorch_file(zoo_checkpoint, lively_checkpoint, tmp_path):
    for path, message in ((lively_checkpoint, "model zoo"), (zoo_checkpoint, "model zoo.*convert_centernet.py")):
        with pytest.raises(UserError, match=message):
            call(convert_resnet18.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")


def test_checkpoints_that_need_no_conversion(zoo_checkpoint, lively_checkpoint, tmp_path):
    with pytest.raises(UserError, match="lively.ckpt: .*model zoo.*backbone.conv1.weight"):
        call(convert_centernet.main, "--ckpt_file", lively_checkpoint, "--output_file", tmp_path / "o.ckpt")
    (tmp_path / "half.ckpt").write_bytes(zoo_checkpoint.read_bytes()[:-1000])
    with pytest.raises(UserError, match="half.ckpt: .*damaged"):
        call(convert_centernet.main, "--ckpt_file", tmp_path / "half.ckpt", "--output_file", tmp_path / "o.ckpt")
    with pytest.raises(UserError, match=f"{zoo_checkpoint} .*model zoo.*convert_centernet.py"):
        Predictor(str(zoo_checkpoint))
    assert not (tmp_path / "o.ckpt").exists()


def test_coco_classes_are_cocos():
    """80 names, ids up to 90 without ten of them."""
    name, metainfo = convert_centernet.names_of(DETECTION, lambda head, layer: np.zeros(80), None, {})
    names, ids = metainfo["classes"], metainfo["category_ids"]
    assert name == "coco2017" and len(set(names)) == 80 and ids == sorted(ids)
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


MMDET_LAYERS = {0: "0.conv", 1: "0.bn", 3: "1.conv", 4: "1.bn", 6: "2.conv", 7: "2.bn", 9: "3.conv", 10: "3.bn",
                12: "4.conv", 13: "4.bn",
                15: "5.conv", 16: "5.bn"}
MMDET_HEADS = {"hm": "heatmap_head", "wh": "wh_head", "reg": "offset_head"}


def mmdet_state(reference):
    """A reference network's weights under MMDetection's names, without the biases that MMDetection lacks."""
    state = {}
    for name, value in parity.arrays(reference).items():
        first, *path = name.split(".")
        if first == "deconv_layers":
            layer, path = MMDET_LAYERS[int(path[0])], path[1:]
            if path == ["bias"] and layer.endswith("conv"):
                continue
            name = ".".join(["neck.deconv_layers", layer, *path]).replace("conv_offset_mask", "conv_offset")
        elif first in MMDET_HEADS:
            name = ".".join(["bbox_head", MMDET_HEADS[first], *path])
        else:
            name = f"backbone.{name}"
        state[name] = value
    return state


def without_dcn_bias(reference):
    for module in reference.modules():
        if isinstance(module, torch_reference.DCN):
            torch.nn.init.zeros_(module.bias)
    return reference


def with_plain_convolutions(reference):
    """The network with plain convolutions of the same weights instead of deformable ones, like centernet_r18."""
    for number, module in enumerate(reference.deconv_layers):
        if isinstance(module, torch_reference.DCN):
            out_channels, in_channels, *_ = module.weight.shape
            reference.deconv_layers[number] = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
            reference.deconv_layers[number].weight = module.weight
    return reference


@pytest.mark.slow
@pytest.mark.parametrize("change", [without_dcn_bias, with_plain_convolutions])
def test_mmdetections_detector_sees_the_same_image(change, tmp_path, capsys, by_operation):
    """RGB with ImageNet's mean there, BGR here: the same outputs from the same image."""
    reference = change(torch_reference.lively(torch_reference.CenterNet(3)))
    tensors = {name: torch.tensor(value) for name, value in mmdet_state(reference).items()}
    torch.save({"meta": {"CLASSES": ("disc", "square", "star")}, "state_dict": tensors}, tmp_path / "m.pth")
    call(convert_centernet.main, "--ckpt_file", tmp_path / "m.pth", "--output_file", tmp_path / "m.ckpt")
    output = capsys.readouterr().out
    assert "MMDetection" in output and "3 classes" in output and "backbone.conv1.weight: " in output
    assert "deconv_layers.12.bias" in output and "dataset_config.mean" in output
    assert ("doubled" in output) == (change is with_plain_convolutions)
    network, side = heads(tmp_path / "m.ckpt")
    assert side["classes"] == ["disc", "square", "star"] and side["category_ids"] == [1, 2, 3]
    pixels = noise_image(4, 64, 96)
    normalized = (pixels[:, :, ::-1].astype(np.float64) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    with torch.no_grad():
        expected = reference(torch.tensor(normalized.transpose(2, 0, 1)[None].astype(np.float32)))
    ours = color.apply_color(pixels, color.normalizing_matrix(np.eye(3, 4), side["mean"], side["std"]))
    for output, theirs in zip(network(Tensor(ours[None]))[0].values(), expected, strict=True):
        assert np.abs(output.asnumpy() - theirs.numpy()).max() <= 1e-4 * np.abs(theirs.numpy()).max()


@pytest.mark.slow
@pytest.mark.parametrize("arch, make", [
    ("dla_34", lambda: torch_family.DLANet(3)), ("dlav0_34", lambda: torch_family.PlainDLANet(3)),
    ("res_18", lambda: torch_reference.CenterNet(3, dcn=False)),
    ("resdcn_34", lambda: torch_reference.CenterNet(3, stacks=(3, 4, 6, 3))),
])
def test_the_architecture_is_detected_from_the_names(arch, make, tiny_data, tmp_path, capsys, by_operation):
    """Equal outputs, and a round trip that keeps every bit, but not DLA's unused classifier. The model zoo's format is
    refused if it lacks the network."""
    reference = torch_reference.lively(make())
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "t.pth")
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    converted = tmp_path / "a folder" / "t.ckpt"
    args = "--ckpt_file", tmp_path / "t.pth", "--output_file", converted.with_suffix(""), "--annotation", annotation
    call(convert_centernet.main, *args)
    output = capsys.readouterr().out
    assert f"3 classes, {arch}" in output and f"--net_config.arch {arch}" in output
    network, side = heads(converted)
    assert side["net_config"]["arch"] == arch and side["net_config"]["num_stacks"] == []
    pixels = np.random.default_rng(0).standard_normal((1, 3, 96, 64)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(pixels))
    for ours, theirs in zip(network(Tensor(pixels))[0].values(), expected, strict=True):
        assert np.abs(ours.asnumpy() - theirs.numpy()).max() <= 1e-4 * np.abs(theirs.numpy()).max()
    call(convert_centernet.main, "--reverse", "--ckpt_file", converted, "--output_file", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    unused = {name for name in state if name.startswith("base.fc.")}
    assert len(unused) == 2 * (arch == "dlav0_34") and ("classifier" in output) == bool(unused)
    found = reference.load_state_dict(back, strict=False)  # as the original's load_model
    assert set(found.missing_keys) == unused and not found.unexpected_keys
    for name in set(state) - unused:
        assert back[name].numpy().tobytes() == state[name].numpy().tobytes(), name
    if arch != "resdcn_34":
        with pytest.raises(UserError, match=rf"\b{arch}\b"):
            call(convert_centernet.main, "--reverse", "--ckpt_file", converted, "--output_file", tmp_path / "zoo.ckpt")


@pytest.mark.parametrize("arch", ["res_18", "resdcn_101", "dla_34", "dlav0_34"])
def test_names_and_shapes_determine_the_architecture(arch):
    """Of the original's states; parity.py compares the networks, up to ResNet101."""
    shapes = json.loads(pathlib.Path(GOLDEN, "family", f"{arch}_shapes.json").read_text())
    state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    num_classes, described = torch_weights.describe_detector(state, source_names.recognize(state))
    assert (num_classes, described["arch"]) == (80, arch)


def test_the_side_file_stores_the_recipe(tiny_data, tmp_path, capsys):
    """VOC's detectors have another normalization; evaluation needs no recipe afterwards."""
    reference = torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1))
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "t.pth")
    recipe = os.path.join(ROOT, "configs", "voc.yaml")
    call(convert_centernet.main, "--ckpt_file", tmp_path / "t.pth", "--output_file", tmp_path / "t.ckpt",
         "--config_path", recipe,
         "--annotation", tiny_data / "annotations" / "instances_val2017.json")
    side = read_side_file(str(tmp_path / "t.ckpt"))
    assert (side["mean"], side["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert side["input_res_train"] == [384, 384]
    assert side["evaluation"]["eval_config.flip_test"] and not side["evaluation"]["eval_config.keep_res"]
    assert f"--config_path {shlex.quote(recipe)} --net_config.num_stacks" in capsys.readouterr().out
    with pytest.raises(UserError, match="--config_path .*--reverse"):
        call(convert_centernet.main, "--reverse", "--ckpt_file", tmp_path / "t.ckpt", "--output_file", "b.pth",
             "--config_path", recipe)


@pytest.mark.slow
def test_fine_tuning_on_other_classes(tmp_path, make_config, console):
    """From 80 classes, and MMDetection's normalization, to three: loads all but the heatmap head's last layer."""
    reference = without_dcn_bias(torch_reference.lively(torch_reference.CenterNet(80, 16, stacks=(1, 1, 1, 1))))
    save(tmp_path / "t.pth", mmdet_state(reference))
    call(convert_centernet.main, "--ckpt_file", tmp_path / "t.pth", "--output_file", tmp_path / "t.ckpt")
    config = make_config(*TINY, "--load_checkpoint_path", tmp_path / "t.ckpt")
    network = network_of(3, num_stacks=[1, 1, 1, 1], head_conv=16)
    console.readouterr()
    start_weights(network, config, {"classes": ["disc", "square", "star"]})
    logged = console.readouterr().out
    assert "disc, square, star" in logged and "[0.406, 0.456, 0.485]" in logged and "dataset_config.mean" in logged
    started, stored = network.parameters_dict(), read_checkpoint(str(tmp_path / "t.ckpt"))
    assert set(started) == set(stored)
    for name, value in stored.items():
        if name not in ("hm.2.weight", "hm.2.bias"):
            np.testing.assert_array_equal(started[name].asnumpy(), value.asnumpy(), name)
    assert started["hm.2.weight"].shape[0] == 3


# ---------------------------------------------------------------- refusals


@functools.cache
def small_detector():
    """The state of a small detector, {name: array}; do not modify."""
    return parity.arrays(torch_reference.CenterNet(80, 16, stacks=(1, 1, 1, 1)))


def small_state(**changes):
    """A small detector's state with entries changed, or removed by None."""
    state = dict(small_detector())
    state.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.slow
@pytest.mark.parametrize("changes, part", [
    ({"layer2__0__bn1__bias": None}, r"\blayer2.0.bn1.bias\b"),
    ({"deconv_layers__6__bias": None}, r"\bdeconv_layers.6.bias\b"),
    ({"extra__weight": np.zeros(3, np.float32)}, r"\bextra.weight\b"),
    ({"fc__weight": np.zeros((3, 3), np.float32)}, r"\bfc.weight\b"),
    ({"layer2__0__conv1__weight": np.zeros((128, 64, 1, 1), np.float32)},
     r"layer2.0.conv1.weight .*\(128, 64, 1, 1\).*\(128, 64, 3, 3\)"),
    ({"hm__2__weight": np.zeros((5, 16, 1, 1), np.float32)}, r"\b5 classes.*--annotation"),
    ({"wh__2__weight": None}, r"\bwh.2.weight\b"),
    ({"layer4__0__conv1__weight": None, "layer4__0__conv2__weight": None}, r"\blayer4.0.conv1.weight, .*ResNet"),
    ({"layer4__0__conv1__weight": None}, r"\blayer4.0.conv1.weight$"),  # and not all tensors after it
    ({"deconv_layers__3__weight": None}, r"\bdeconv_layers.3.weight$"), ({"reg__0__weight": None}, r"\breg.0.weight$"),
    ({"bn1__weight": np.full(64, np.nan, np.float32)}, r"finite.*\bbn1.weight\b"),
    ({"deconv_layers__0__conv_offset_mask__weight": None}, r"\bdeconv_layers.0.conv_offset_mask.weight\b"),
])
def test_states_that_do_not_fit(changes, part, tmp_path):
    path = save(tmp_path / "x.pth", small_state(**changes))
    with pytest.raises(UserError, match=f"x.pth: .*{part}"):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.slow
@pytest.mark.parametrize("make, missing", [
    (lambda: torch_family.DLANet(80), "dla_up.ida_2.proj_1.conv.weight"),
    (lambda: torch_family.DLANet(80), "base.base_layer.0.weight"),
    (lambda: torch_family.PlainDLANet(80), "dla_up.ida_2.proj_1.0.weight"),
])
def test_the_missing_tensor_of_another_architecture_is_named(make, missing, tmp_path):
    state = parity.arrays(make())
    del state[missing]
    with pytest.raises(UserError, match=rf"x.pth: .*\b{missing}$"):
        call(convert_centernet.main, "--ckpt_file", save(tmp_path / "x.pth", state), "--output_file",
             tmp_path / "o.ckpt")


@pytest.mark.parametrize("changes, part", [
    ({"hm__0__weight": np.zeros((5000, 1, 1, 1), np.float32)}, "net_config.head_conv .*5000"),
    ({f"layer4__{number}__conv1__weight": np.zeros(1, np.float32) for number in range(1, 200)},
     "net_config.num_stacks .*1, 1, 1, 200"),
    ({f"kps__{number}__up1__0__conv1__weight": np.zeros(1, np.float32) for number in range(100)},
     r"\b100\b.*hourglass"),
])
def test_small_files_that_describe_large_networks(changes, part, tmp_path):
    """The described network is built for its shapes: a few bytes must not allocate gigabytes."""
    path = save(tmp_path / "x.pth", small_state(**changes))
    with pytest.raises(UserError, match=f"x.pth: .*{part}"):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")


@pytest.mark.parametrize("meta", [None, 3, {"CLASSES": [[1], [2]]}, {"dataset_meta": 3}, {"CLASSES": 5},
                                  {"dataset_meta": {"classes": {}}}])
def test_invalid_class_names(meta):
    assert convert_centernet.names_in(meta) == []
    assert convert_centernet.names_in({"dataset_meta": {"classes": ("a", "b")}}) == ["a", "b"]


def test_bfloat16_is_read(tmp_path, capsys):
    state = small_state()
    kinds = {np.dtype("float32"): torch.bfloat16}
    half = {name: torch.tensor(value, dtype=kinds.get(value.dtype)) for name, value in state.items()}
    torch.save(half, tmp_path / "x.pth")
    call(convert_centernet.main, "--ckpt_file", tmp_path / "x.pth", "--output_file", tmp_path / "o.ckpt")
    weight = read_checkpoint(str(tmp_path / "o.ckpt"))["backbone.conv1.weight"].asnumpy()
    np.testing.assert_array_equal(weight, half["conv1.weight"].float().numpy())


@pytest.mark.slow
def test_a_recipe_of_another_architecture(tmp_path, capsys):
    """The suggested command overrides the recipe's choices."""
    (tmp_path / "r.yaml").write_text("net_config: {block_class: Bottleneck, num_stacks: [3, 4, 6, 3]}")
    path = save(tmp_path / "x.pth", parity.arrays(torch_family.DLANet(80)))
    call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt", "--config_path",
         tmp_path / "r.yaml")
    args = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("train.py ")[2])
    net_config = get_config("t", args[4:]).net_config
    assert (net_config.arch, net_config.block_class, net_config.num_stacks) == ("dla_34", "", [])


@pytest.mark.parametrize("names, part", [
    (["base.base_layer.0.weight"], "DLA"), (["bbox_head.heatmap_head.0.weight"], "centernet_r18-dcnv2"),
    (["a", "b"], r"\(a, b"), (["conv1.weight", "layer1.0.conv1.weight"], "convert_resnet18.py"),
])
def test_other_networks(names, part, tmp_path):
    path = save(tmp_path / "x.pth", {name: np.zeros(1, np.float32) for name in names})
    with pytest.raises(UserError, match=part):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")


def test_a_detector_is_not_a_backbone(tmp_path):
    path = save(tmp_path / "x.pth", small_state())
    with pytest.raises(UserError, match="tools/convert_centernet.py"):
        call(convert_resnet18.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")


WITHOUT_TORCH = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
assert not any(name == "torch" or name.startswith("torch.") for name in sys.modules)
sys.modules["torch"] = None  # as if it were not installed
script = sys.argv[2]
for args in (["--ckpt_file", "x.pth", "--output_file", "o.ckpt"],
             ["--reverse", "--ckpt_file", "o.ckpt", "--output_file", "back.pth"]):
    sys.argv = [script, *args]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.slow
def test_without_pytorch(tmp_path):
    """Its files can be read without it; writing one is a one-line error with exit code 2."""
    save(tmp_path / "x.pth", small_state())
    (tmp_path / "without_torch.py").write_text(WITHOUT_TORCH)
    converter = os.path.join(ROOT, "tools", "convert_centernet.py")
    done = run_script(tmp_path / "without_torch.py", ROOT, converter, cwd=tmp_path, check=False)
    assert "wrote o.ckpt" in done.stdout and (tmp_path / "o.ckpt").exists()
    assert_user_error(done, "pip install -r ", "requirements-torch.txt")


def test_converter_mistakes(tmp_path):
    for args, parts in (
        (["--ckpt_file", "nowhere.pth", "--output_file", "o"], ["nowhere.pth"]),
        (["--ckpt_file", "x", "--output_file", "o", "--reverse", "--annotation", "a"], ["--annotation"]),
        (["--ckpt_file", "nowhere.ckpt", "--output_file", "o", "--reverse"], ["nowhere.ckpt"]),
    ):
        assert_user_error(call_script("tools/convert_centernet.py", *args, cwd=tmp_path, check=False), *parts)
    args = ["--ckpt_file", "x", "--output_file", "o", "--ms_name_file", "m"]
    assert_user_error(call_script("tools/convert_resnet18.py", *args, cwd=tmp_path, check=False), "--torch_name_file",
                      "--ms_name_file")


def test_unmarked_files_are_not_replaced(classifier, tmp_path):
    """Backbones, and files in the original's or the model zoo's format, have no side file: they are not overwritten."""
    args = ["--ckpt_file", save(tmp_path / "r.pth", classifier), "--output_file", tmp_path / "o.ckpt"]
    call(convert_resnet18.main, *args)
    before = (tmp_path / "o.ckpt").read_bytes()
    for convert, more in ((convert_resnet18.main, []), (convert_centernet.main, []),
                          (convert_centernet.main, ["--reverse"])):
        with pytest.raises(UserError, match="o.ckpt .*--output_file"):
            call(convert, *args, *more)
    assert (tmp_path / "o.ckpt").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.ckpt", "r.pth"]


@pytest.fixture
def trained(tiny_records, light_steps, tmp_path):
    """A checkpoint written by train.py after two steps, in epoch 1."""
    args = ["--mindrecord_dir", tiny_records, "--epoch_size", 1, "--train_steps", 2, "--save_checkpoint_path",
             tmp_path / "run"]
    call_script("train.py", *TINY, *args, cwd=tmp_path)
    return tmp_path / "run" / "ckpt_0" / "centernet-1_2.ckpt"


@pytest.mark.slow
def test_converting_a_trained_checkpoint_to_pytorch(trained, tmp_path, capsys, by_operation):
    """From train.py, with the optimizer's state, which is reported: the heads agree, the step counters are 0."""
    call(convert_centernet.main, "--reverse", "--ckpt_file", tmp_path / "run" / "last", "--output_file",
         tmp_path / "t.pth")
    stored, network = read_checkpoint(str(trained)), network_of(3, num_stacks=[1, 1, 1, 1], head_conv=16)
    used = len(parameter_shapes(network))
    output = capsys.readouterr().out
    assert f"{used} of {len(stored)} tensors" in output and f"({len(stored) - used} tensors)" in output
    content = torch.load(tmp_path / "t.pth", weights_only=True)
    assert content["epoch"] == read_side_file(str(trained))["epoch"] + 1
    reference = torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)).eval()
    reference.load_state_dict(content["state_dict"])
    assert reference.bn1.num_batches_tracked == 0
    pixels = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    network, _ = heads(trained)
    with torch.no_grad():
        expected = reference(torch.tensor(pixels))
    for ours, theirs in zip(network(Tensor(pixels))[0].values(), expected, strict=True):
        np.testing.assert_allclose(ours.asnumpy(), theirs.numpy(), rtol=0, atol=1e-5 * np.abs(theirs.numpy()).max())
