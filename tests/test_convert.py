"""The converters: every source, both ways, and what they refuse."""
import collections
import io
import os
import pickle
import re
import runpy
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from mindspore import Tensor

from src import image, torch_weights
from src.centernet_det import CenterNet
from src.checkpoint import load_weights, read_checkpoint
from src.errors import UserError
from src.inference import load_detector
from src.model_utils.config import get_config
from src.side_file import read_side_file
from src.torch_files import read_torch_file
from tests import parity, torch_reference
from tests.conftest import GOLDEN, ROOT, TINY, assert_user_error, load_golden, noise_picture, run_script
from tools import convert_centernet, convert_resnet18

NAMES = os.path.join(ROOT, "tools", "names")


def call(main, *words):
    """Run a converter's main in this process."""
    main([str(word) for word in words])


def save(path, state, **options):
    """Write {name: array} with PyTorch."""
    torch.save({name: torch.tensor(value) for name, value in state.items()}, path, **options)
    return path


def write_tar(path, state):
    """Write {name: array} in PyTorch's format of 2016: trained tensors as Parameters, the rest as plain tensors."""
    def pickled(value):
        return pickle.dumps(value, protocol=2)

    storages, tensors = io.BytesIO(), io.BytesIO()
    storages.write(pickled(len(state)))
    tensors.write(pickled(len(state)))
    keys = {}
    for key, (name, value) in enumerate(state.items(), 100):
        value = np.asarray(value)
        kind = {np.dtype("float32"): "Float", np.dtype("int64"): "Long"}[value.dtype]
        strides = [stride // value.itemsize for stride in value.strides]
        storages.write(pickled((key, "cpu", getattr(torch, f"{kind}Storage"))))
        storages.write(struct.pack("<q", value.size) + value.tobytes())
        tensors.write(pickled((1000 + key, key, getattr(torch, f"{kind}Storage"))))
        tensors.write(struct.pack("<q", value.ndim))
        tensors.write(struct.pack(f"<{2 * value.ndim}q", *value.shape, *strides) + struct.pack("<q", 0))
        keys[name] = 1000 + key
    storages.write(pickled([]))

    class Reference:
        def __init__(self, key):
            self.key = key

    class Trained:
        def __init__(self, key):
            self.key = key

        def __reduce__(self):
            return torch.nn.Parameter, (Reference(self.key),), (True, False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return str(obj.key) if isinstance(obj, Reference) else None

    main = io.BytesIO()
    content = collections.OrderedDict(
        (name, Trained(key) if name.endswith((".weight", ".bias")) else Reference(key)) for name, key in keys.items()
    )
    Pickler(main, protocol=2).dump(content)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("sys_info", pickled({"little_endian": True})), ("pickle", main.getvalue()),
                           ("tensors", tensors.getvalue()), ("storages", storages.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# ---------------------------------------------------------------- backbones


@pytest.fixture(scope="module")
def classifier():
    """The state of an ImageNet ResNet18 as torchvision names it, before PyTorch counted steps."""
    network = torch_reference.lively(torch_reference.CenterNet(2))
    state = {name: value for name, value in parity.arrays(network).items() if name.startswith(("conv1", "bn1", "layer"))}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    rng = np.random.default_rng(0)
    return {**state, "fc.weight": rng.random((1000, 512), np.float32), "fc.bias": rng.random(1000, np.float32)}


def reference_features(state, picture):
    """layer4 of the reference network with these weights."""
    network = torch_reference.CenterNet(2).eval()
    state = {name: torch.tensor(value) for name, value in state.items() if not name.startswith("fc")}
    network.load_state_dict(state, strict=False)
    with torch.no_grad():
        x = network.maxpool(torch.relu(network.bn1(network.conv1(torch.tensor(picture)))))
        return network.layer4(network.layer3(network.layer2(network.layer1(x)))).numpy()


@pytest.mark.parametrize("file_format", ["zip", "pickle", "tar"])
def test_resnet18_in_every_file_format(file_format, classifier, tmp_path, capsys):
    path = tmp_path / "resnet18-5c106cde.pth"
    if file_format == "tar":
        write_tar(path, classifier)
    else:
        save(path, classifier, _use_new_zipfile_serialization=file_format == "zip")
    names = () if file_format == "zip" else ("--torch_name_file", f"{NAMES}/resnet18_torch.txt", "--ms_name_file",
                                             f"{NAMES}/resnet18_mindspore.txt")
    call(convert_resnet18.main, "-ckpt_file" if names else "--ckpt_file", path, *names, "--output_file", tmp_path / "backbone.ckpt")
    output = capsys.readouterr().out
    assert "used: 100 of 102 tensors" in output
    assert "left out, the classifier, which a detector has no use for: fc.weight, fc.bias" in output
    # As a user loads it: into the backbone of a detector.
    network = CenterNet(2, "BasicBlock", (2, 2, 2, 2), 4, 64, False, True, "composite").set_train(False)
    load_weights(network.backbone, read_checkpoint(str(tmp_path / "backbone.ckpt")), "backbone")
    picture = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    expected = reference_features(classifier, picture)
    np.testing.assert_allclose(network.backbone(Tensor(picture)).asnumpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_tar_files_of_these_tests_are_pytorchs(classifier, tmp_path):
    path = write_tar(tmp_path / "a.pth", classifier)
    expected = torch.load(path, weights_only=False)  # PyTorch reads this format in no other way
    ours, _ = read_torch_file(str(path))
    assert list(ours) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value.detach().numpy())


def test_tar_views_and_strides(tmp_path):
    state = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "count": np.array([3, 4])}
    path = write_tar(tmp_path / "a.pth", {"a.weight": state["a.weight"].T, "count": state["count"]})
    # The bytes of a transposed array in its own order, with the strides that go with them.
    ours = read_torch_file(str(path))[0]
    expected = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(ours["a.weight"], expected["a.weight"].detach().numpy())
    np.testing.assert_array_equal(ours["count"], [3, 4])


def test_shipped_names_are_the_built_in_mapping():
    names = convert_resnet18.read_names(f"{NAMES}/resnet18_torch.txt", f"{NAMES}/resnet18_mindspore.txt")
    assert len(names) == 100
    for ours, theirs in names.items():
        assert torch_weights.torch_name(ours, "resnet") == theirs


def test_name_files_decide(classifier, tmp_path):
    """Two names of equal shape exchanged in one file are exchanged in the checkpoint."""
    path = save(tmp_path / "r.pth", classifier)
    with open(f"{NAMES}/resnet18_torch.txt") as file:
        text = file.read()
    first, second = "layer1.0.conv1.weight", "layer1.1.conv1.weight"
    (tmp_path / "t.txt").write_text(text.replace(first, "X").replace(second, first).replace("X", second))
    call(convert_resnet18.main, "--ckpt_file", path, "--torch_name_file", tmp_path / "t.txt", "--ms_name_file",
         f"{NAMES}/resnet18_mindspore.txt", "--output_file", tmp_path / "o.ckpt")
    weights = read_checkpoint(str(tmp_path / "o.ckpt"))
    np.testing.assert_array_equal(weights["backbone.layer1.0.conv1.weight"].asnumpy(), classifier["layer1.1.conv1.weight"])
    np.testing.assert_array_equal(weights["backbone.layer1.1.conv1.weight"].asnumpy(), classifier["layer1.0.conv1.weight"])


@pytest.mark.parametrize("change, part", [
    (lambda torch_names, names: (torch_names[:-1], names), "99 names"),
    (lambda torch_names, names: (["conv9.weight", *torch_names[1:]], names), "it lacks conv9.weight"),
    (lambda torch_names, names: (torch_names, ["conv9.weight", *names[1:]]), "conv9.weight, which the backbone does not have"),
    (lambda torch_names, names: (torch_names[1:], names[1:]), "lacks backbone.conv1.weight"),
    (lambda torch_names, names: (torch_names, [*names[:-1], names[0]]), "is there twice"),
])
def test_name_files_that_do_not_fit(change, part, classifier, tmp_path):
    lists = [open(f"{NAMES}/resnet18_{kind}.txt").read().split() for kind in ("torch", "mindspore")]
    for name, lines in zip("tm", change(*lists)):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    path = save(tmp_path / "r.pth", classifier)
    with pytest.raises(UserError, match=part):
        call(convert_resnet18.main, "--ckpt_file", path, "--torch_name_file", tmp_path / "t.txt", "--ms_name_file", tmp_path / "m.txt",
             "--output_file", tmp_path / "o.ckpt")
    assert not (tmp_path / "o.ckpt").exists()


def test_a_deeper_backbone(tmp_path, capsys):
    """ResNet50 by the same tool; its report names the options that training needs."""
    network = torch_reference.CenterNet(2, block=torch_reference.Bottleneck, stacks=(3, 4, 6, 3))
    state = {name: value for name, value in parity.arrays(network).items() if name.startswith(("conv1", "bn1", "layer"))}
    call(convert_resnet18.main, "--ckpt_file", save(tmp_path / "r.pth", state), "--output_file", tmp_path / "o.ckpt")
    assert '--net_config.block_class Bottleneck --net_config.num_stacks "[3, 4, 6, 3]"' in capsys.readouterr().out
    load_weights(CenterNet(2, "Bottleneck", (3, 4, 6, 3), 4, 64, False, True, "composite").backbone,
                 read_checkpoint(str(tmp_path / "o.ckpt")), "o")


# ---------------------------------------------------------------- detectors


def heads(checkpoint):
    """(the network of a checkpoint as inference has it, its side file's dictionary)."""
    detector = load_detector(str(checkpoint), get_config("", []).eval_config, "CPU")
    return detector.network.maps.network, detector.description


def golden_state():
    """The recipe's weights with step counters as after a training."""
    state, _ = parity.golden_weights(GOLDEN, int(load_golden("network.npz")["seed"]))
    return {name: np.int64(987) if name.endswith("num_batches_tracked") else value for name, value in state.items()}


def test_the_originals_detector_there_and_back(tmp_path):
    """Through the command line: the golden outputs, every tensor named, and the same bits back."""
    state = golden_state()
    tensors = {f"module.{name}": torch.tensor(value) for name, value in state.items()}
    torch.save({"epoch": 140, "state_dict": tensors, "optimizer": {"state": {}}}, tmp_path / "ctdet_coco_resdcn18.pth")
    done = run_script("tools/convert_centernet.py", "--ckpt_file", "ctdet_coco_resdcn18.pth", "--output_file", "c.ckpt", cwd=tmp_path)
    assert "the original's detector, 80 classes" in done.stdout
    counters = next(line for line in done.stdout.splitlines() if "step counter" in line)
    assert set(re.findall(r"[\w.]+\.num_batches_tracked", counters)) == {name for name in state if name.endswith("num_batches_tracked")}
    assert f"used: {len(state) - 26} of {len(state)}" in done.stdout

    network, side = heads(tmp_path / "c.ckpt")
    assert side["classes"][:2] == ["person", "bicycle"] and side["category_ids"][-1] == 90 and len(side["classes"]) == 80
    golden = load_golden("network.npz")
    recipe = runpy.run_path(os.path.join(GOLDEN, "recipe.py"))
    outputs = network(Tensor(recipe["make_input"](int(golden["seed"]), (2, 3, 128, 160))))
    for name, output in zip(("hm", "wh", "reg"), outputs):
        assert np.abs(output.asnumpy() - golden[name]).max() <= 1e-4 * np.abs(golden[name]).max(), name

    run_script("tools/convert_centernet.py", "--reverse", "--ckpt_file", "c.ckpt", "--output_file", "back.pth", cwd=tmp_path)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].dtype == torch.tensor(value).dtype
        assert back[name].numpy().tobytes() == np.asarray(value).tobytes(), name
    torch_reference.CenterNet(80).load_state_dict(back)


def test_coco_classes_are_cocos():
    """As pycocotools' data sets list them: 80 names, ids up to 90 with ten left out."""
    _, names, ids = convert_centernet.class_list(80, None, {})
    assert len(set(names)) == 80 and ids == sorted(ids) and set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def test_resdcn_101(tmp_path, capsys):
    reference = torch_reference.lively(torch_reference.CenterNet(80, block=torch_reference.Bottleneck, stacks=(3, 4, 23, 3)))
    torch.save(reference.state_dict(), tmp_path / "r.pth")
    call(convert_centernet.main, "--ckpt_file", tmp_path / "r.pth", "--output_file", tmp_path / "out" / "r101")
    assert '--net_config.block_class "Bottleneck" --net_config.num_stacks "[3, 4, 23, 3]"' in capsys.readouterr().out
    network, _ = heads(tmp_path / "out" / "r101.ckpt")
    picture = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(picture))
    for ours, theirs in zip(network(Tensor(picture)), expected):
        assert np.abs(ours.asnumpy() - theirs.numpy()).max() <= 1e-4 * np.abs(theirs.numpy()).max()


MMDET_LAYERS = {0: "0.conv", 1: "0.bn", 3: "1.conv", 4: "1.bn", 6: "2.conv", 7: "2.bn", 9: "3.conv", 10: "3.bn", 12: "4.conv", 13: "4.bn",
                15: "5.conv", 16: "5.bn"}
MMDET_HEADS = {"hm": "heatmap_head", "wh": "wh_head", "reg": "offset_head"}


def mmdet_state(reference):
    """A reference network's weights under MMDetection's names, without the biases that it does not have."""
    state = {}
    for name, value in parity.arrays(reference).items():
        first, *rest = name.split(".")
        if first == "deconv_layers":
            layer, rest = MMDET_LAYERS[int(rest[0])], rest[1:]
            if rest == ["bias"] and layer.endswith("conv"):
                continue
            name = ".".join(["neck.deconv_layers", layer, *rest]).replace("conv_offset_mask", "conv_offset")
        elif first in MMDET_HEADS:
            name = ".".join(["bbox_head", MMDET_HEADS[first], *rest])
        else:
            name = f"backbone.{name}"
        state[name] = value
    return state


def without_dcn_bias(reference):
    for module in reference.modules():
        if isinstance(module, torch_reference.DCN):
            torch.nn.init.zeros_(module.bias)
    return reference


def test_mmdetections_detector_sees_the_same_picture(tmp_path, capsys):
    """There red, green, blue with ImageNet's mean, here blue, green, red: from one photo the same outputs."""
    reference = without_dcn_bias(torch_reference.lively(torch_reference.CenterNet(3)))
    tensors = {name: torch.tensor(value) for name, value in mmdet_state(reference).items()}
    torch.save({"meta": {"CLASSES": ("disc", "square", "star")}, "state_dict": tensors}, tmp_path / "m.pth")
    call(convert_centernet.main, "--ckpt_file", tmp_path / "m.pth", "--output_file", tmp_path / "m.ckpt")
    output = capsys.readouterr().out
    assert "MMDetection's detector, 3 classes" in output and "backbone.conv1.weight: its input channels turned" in output
    assert "deconv_layers.12.bias" in output and "dataset_config.mean" in output
    network, side = heads(tmp_path / "m.ckpt")
    assert side["classes"] == ["disc", "square", "star"] and side["category_ids"] == [1, 2, 3]
    picture = noise_picture(4, 64, 96)
    normalised = (picture[:, :, ::-1].astype(np.float64) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    with torch.no_grad():
        expected = reference(torch.tensor(normalised.transpose(2, 0, 1)[None].astype(np.float32)))
    ours = image.apply_color(picture, image.normalizing_matrix(np.eye(3, 4), side["mean"], side["std"]))
    for output, theirs in zip(network(Tensor(ours[None])), expected):
        assert np.abs(output.asnumpy() - theirs.numpy()).max() <= 1e-4 * np.abs(theirs.numpy()).max()


def test_a_converted_detector_is_evaluated_exported_and_sent_back(tiny_data, tmp_path):
    """Three classes that only an annotation file names, the small network of the other tests."""
    reference = torch_reference.lively(torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)))
    torch.save({"state_dict": reference.state_dict()}, tmp_path / "t.pth")
    annotation = tiny_data / "annotations" / "instances_val2017.json"
    call(convert_centernet.main, "--ckpt_file", tmp_path / "t.pth", "--output_file", tmp_path / "t.ckpt", "--annotation", annotation)
    done = run_script("eval.py", *TINY, "--data_dir", tiny_data, "--load_checkpoint_path", "t.ckpt", cwd=tmp_path)
    assert "6 images, 0 skipped" in done.stdout and "Average Precision" in done.stdout
    run_script("export.py", *TINY, "--export_config.ckpt_file", "t.ckpt", "--export_config.input_res", "[64, 64]", cwd=tmp_path)
    assert (tmp_path / "centernet.mindir").stat().st_size > 1e6


def test_fine_tuning_on_other_classes(tiny_records, tmp_path, capsys):
    """80 classes, MMDetection's normalisation, to three: all but the last layer of the heatmap head is loaded, and said."""
    reference = without_dcn_bias(torch_reference.lively(torch_reference.CenterNet(80, 16, stacks=(1, 1, 1, 1))))
    save(tmp_path / "t.pth", mmdet_state(reference))
    call(convert_centernet.main, "--ckpt_file", tmp_path / "t.pth", "--output_file", tmp_path / "t.ckpt")
    rate = ["--train_config.MultiDecay.learning_rate", 1e-12, "--train_steps", 1]
    done = run_script("train.py", *TINY, *rate, "--mindrecord_dir", tiny_records, "--load_checkpoint_path", "t.ckpt", cwd=tmp_path)
    assert "another number of classes, so these start anew: hm.2.weight, hm.2.bias" in done.stdout
    assert "the checkpoint was trained with mean [0.406, 0.456, 0.485]" in done.stdout
    trained = read_checkpoint(str(next((tmp_path / "ckpt_0").glob("*.ckpt"))))
    for name, start in read_checkpoint(str(tmp_path / "t.ckpt")).items():
        if name not in ("hm.2.weight", "hm.2.bias") and "moving" not in name:
            np.testing.assert_allclose(trained[name].asnumpy(), start.asnumpy(), atol=1e-6, err_msg=name)
    assert trained["hm.2.weight"].shape[0] == 3


# ---------------------------------------------------------------- refusals


def small_state(**changes):
    """A small detector's state with entries changed, or left out where the change is None."""
    state = parity.arrays(torch_reference.CenterNet(80, 16, stacks=(1, 1, 1, 1)))
    state.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize("changes, part", [
    ({"layer2__0__bn1__bias": None}, "it lacks layer2.0.bn1.bias"),
    ({"deconv_layers__6__bias": None}, "it lacks deconv_layers.6.bias"),
    ({"extra__weight": np.zeros(3, np.float32)}, "no place for extra.weight"),
    ({"fc__weight": np.zeros((3, 3), np.float32)}, "no place for fc.weight"),
    ({"layer2__0__conv1__weight": np.zeros((128, 64, 1, 1), np.float32)}, r"layer2.0.conv1.weight is \(128, 64, 1, 1\), the network wants"),
    ({"hm__2__weight": np.zeros((5, 16, 1, 1), np.float32)}, "knows 5 classes and does not name them.*--annotation"),
    ({"wh__2__weight": None}, "it lacks wh.2.weight"),
    ({"layer4__0__conv1__weight": None}, "it lacks layer4.0.conv1.weight, so its backbone is no ResNet"),
    ({"deconv_layers__0__conv_offset_mask__weight": None}, "without deformable convolutions"),
])
def test_states_that_do_not_fit(changes, part, tmp_path):
    path = save(tmp_path / "x.pth", small_state(**changes))
    with pytest.raises(UserError, match=f"x.pth: .*{part}"):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("names, part", [
    (["base.base_layer.0.weight"], "DLA"), (["bbox_head.heatmap_head.0.weight"], "centernet_r18-dcnv2"),
    (["a", "b"], r"known source \(a, b"), (["conv1.weight", "layer1.0.conv1.weight"], "convert_resnet18.py"),
])
def test_other_networks(names, part, tmp_path):
    path = save(tmp_path / "x.pth", {name: np.zeros(1, np.float32) for name in names})
    with pytest.raises(UserError, match=part):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")


def test_a_detector_is_no_backbone(tmp_path):
    path = save(tmp_path / "x.pth", small_state())
    with pytest.raises(UserError, match="a whole detector; tools/convert_centernet.py"):
        call(convert_resnet18.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt")


class Unsafe:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("file_format", ["zip", "pickle", "tar"])
def test_nothing_in_a_file_is_run(file_format, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    if file_format == "tar":
        write_tar(path, {"a": np.zeros(1, np.float32)})
        data = pickle.dumps({"a": Unsafe()}, protocol=2)
        with tarfile.open(path, "a") as tar:
            info = tarfile.TarInfo("pickle")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    else:
        torch.save({"a": Unsafe()}, path, _use_new_zipfile_serialization=file_format == "zip")
    with pytest.raises(UserError, match="more than weights.*(posix|os).system"):
        read_torch_file(str(path))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("damage", ["text", "half zip", "half pickle", "half tar", "empty", "list"])
def test_files_that_hold_no_weights(damage, classifier, tmp_path):
    path = tmp_path / "x.pth"
    if damage == "text":
        path.write_text("hello")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "list":
        torch.save([1, 2], path)
    else:
        if damage == "half tar":
            write_tar(path, classifier)
        else:
            save(path, classifier, _use_new_zipfile_serialization=damage == "half zip")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="x.pth: (not a PyTorch|it holds no state dict)"):
        read_torch_file(str(path))


def test_without_pytorch(tmp_path):
    """One sentence, and exit code 2, in a process that cannot import it."""
    (tmp_path / "x.pth").write_bytes(b"")
    code = ("import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:]; "
            "sys.modules['torch'] = None; runpy.run_path(sys.argv[0], run_name='__main__')")
    for tool in ("convert_resnet18", "convert_centernet"):
        done = subprocess.run([sys.executable, "-c", code, ROOT, os.path.join(ROOT, "tools", f"{tool}.py"), "--ckpt_file", "x.pth",
                               "--output_file", "o.ckpt"], cwd=tmp_path, capture_output=True, text=True)
        assert_user_error(done, "pip install -r requirements-torch.txt")


def test_converter_mistakes(tmp_path):
    for words, parts in (
        (["--ckpt_file", "nowhere.pth", "--output_file", "o"], ["nowhere.pth"]),
        (["--ckpt_file", "x", "--output_file", "o", "--reverse", "--annotation", "a"], ["--annotation"]),
        (["--ckpt_file", "nowhere.ckpt", "--output_file", "o", "--reverse"], ["nowhere.ckpt"]),
    ):
        assert_user_error(run_script("tools/convert_centernet.py", *words, cwd=tmp_path, check=False), *parts)
    words = ["--ckpt_file", "x", "--output_file", "o", "--ms_name_file", "m"]
    assert_user_error(run_script("tools/convert_resnet18.py", *words, cwd=tmp_path, check=False), "go together")


def test_an_earlier_output_is_kept(classifier, tmp_path):
    for _ in range(2):
        call(convert_resnet18.main, "--ckpt_file", save(tmp_path / "r.pth", classifier), "--output_file", tmp_path / "o.ckpt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.1.ckpt", "o.ckpt", "r.pth"]


def test_a_trained_checkpoint_goes_to_pytorch(tiny_run, tmp_path):
    """What train.py wrote, with its optimizer's state: the heads agree, the counters are zero."""
    checkpoint = tiny_run / "ckpt_0" / "centernet-2_7.ckpt"
    call(convert_centernet.main, "--reverse", "--ckpt_file", checkpoint, "--output_file", tmp_path / "t.pth")
    content = torch.load(tmp_path / "t.pth", weights_only=True)
    assert content["epoch"] == read_side_file(str(checkpoint))["epoch"] + 1
    reference = torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)).eval()
    reference.load_state_dict(content["state_dict"])
    assert reference.bn1.num_batches_tracked == 0
    picture = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)
    network, _ = heads(checkpoint)
    with torch.no_grad():
        expected = reference(torch.tensor(picture))
    for ours, theirs in zip(network(Tensor(picture)), expected):
        np.testing.assert_allclose(ours.asnumpy(), theirs.numpy(), rtol=0, atol=1e-5 * np.abs(theirs.numpy()).max())
