"""tools/convert_centernet.py for pose: the paper authors' and the model zoo's detectors, both directions."""
import json
import os

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor, ops

from src.commands import convert_centernet
from src.core.errors import UserError
from src.inference.predictor import Predictor
from src.tasks import TASKS
from src.weights import source_names, torch_weights
from src.weights.side_file import read_side_file
from tests import parity
from tests.conftest import GOLDEN, call_script, load_golden, network_of
from tests.weights.test_convert import call, heads, save, save_checkpoint

pytestmark = pytest.mark.usefixtures("undrawn")  # all weights come from files
# Of person_keypoints_val2017.json, and the original's flip_idx.
COCO_SKELETON = [[16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10],
                 [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]]
FLIP_IDX = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]
ROOTS = tuple(f"network.dla_seg.dla.level{level}.root." for level in (3, 4))


def shapes_of(name):
    with open(os.path.join(GOLDEN, "tasks", name), encoding="utf-8") as file:
        return {key: tuple(shape) for key, shape in json.load(file).items()}


def pose_state(joints=17, classes=1, without=()):
    """Zeros in the shapes of the original's ResNet18-DCN for pose, without some heads."""
    counts = {"hm": classes, "hps": 2 * joints, "hm_hp": joints}
    state = {}
    for name, shape in shapes_of("pose_resdcn_18_shapes.json").items():
        head, _, rest = name.partition(".")
        if head not in without:
            shape = (counts[head], *shape[1:]) if head in counts and rest.startswith("2.") else shape
            state[name] = np.zeros(shape, np.int64 if name.endswith("tracked") else np.float32)
    return state


def write_keypoints(path, *categories):
    """Write an annotation file whose categories have these numbers of keypoints."""
    entries = [{"id": number, "name": f"animal {number}", "keypoints": [f"k{joint}" for joint in range(count)],
                "skeleton": [[1, 2]] if count else []} for number, count in enumerate(categories, 5)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": entries}))
    return path


def assert_cocos_person(side):
    keypoints = side["keypoints"]
    assert (side["classes"], side["category_ids"], side["dataset"]) == (["person"], [1], "coco2017")
    assert keypoints["names"][::8] == ["nose", "right_elbow", "right_ankle"] and len(keypoints["names"]) == 17
    assert [[a + 1, b + 1] for a, b in keypoints["skeleton"]] == COCO_SKELETON
    assert sorted(keypoints["flip_idx"]) == FLIP_IDX and keypoints["of_class"] == [list(range(17))]


@pytest.mark.slow
def test_round_trip_of_the_originals_detector(tmp_path, capsys):
    """multi_pose_dla_3x with the classifier that the published files have: COCO's person, and the same bits back."""
    state = parity.counting({**shapes_of("pose_dla_34_shapes.json"), "base.fc.weight": (1000, 512, 1, 1),
                             "base.fc.bias": (1000,)})
    call(convert_centernet.main, "--ckpt_file", save(tmp_path / "multi_pose_dla_3x.pth", state), "--output_file",
         tmp_path / "p.ckpt")
    output = capsys.readouterr().out
    assert "1 classes, 17 keypoints, dla_34" in output and "--net_config.arch dla_34" in output
    assert "base.fc.weight, base.fc.bias (2 tensors)" in output
    side = read_side_file(str(tmp_path / "p.ckpt"))
    assert_cocos_person(side)
    options = side["net_config"]
    assert (options["task"], options["arch"], options["head_conv"]) == ("pose", "dla_34", 256)
    assert options["hm_hp"] and options["reg_hp_offset"] and options["reg_offset"]
    call(convert_centernet.main, "--reverse", "--ckpt_file", tmp_path / "p.ckpt", "--output_file", tmp_path / "b.pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    assert set(state) - set(back) == {"base.fc.weight", "base.fc.bias"}
    for name, value in back.items():
        assert value.numpy().tobytes() == np.asarray(state[name]).tobytes(), name
    with pytest.raises(UserError, match="dlazoo_34 for pose, but this is dla_34 for pose"):
        call(convert_centernet.main, "--reverse", "--ckpt_file", tmp_path / "p.ckpt", "--output_file",
             tmp_path / "z.ckpt")


@pytest.mark.slow
def test_round_trip_of_the_model_zoos_detector(tmp_path, by_operation):
    """On the command line: the recorded outputs, COCO's person, and the same bits back."""
    golden = load_golden("tasks/zoo_pose_network.npz")
    seed = int(golden["seed"])
    state, recipe = parity.golden_weights(GOLDEN, seed, "tasks/zoo_pose_names.json", "make_zoo_state")
    path = save_checkpoint(tmp_path / "checkpoint_centernet-350_458.ckpt", state, epoch_num=350)
    with pytest.raises(UserError, match=f"{path} .*model zoo.*convert_centernet.py"):
        Predictor(str(path))
    done = call_script("tools/convert_centernet.py", "--ckpt_file", path, "--output_file", "p.ckpt", cwd=tmp_path)
    used = {name for name in state if not name.startswith(ROOTS)}
    assert len(used) == len(state) - 10
    for part in ("model zoo", "1 classes, 17 keypoints, dlazoo_34", f"{len(used)} of {len(state) + 1} tensors"):
        assert part in done.stdout
    network, side = heads(tmp_path / "p.ckpt")
    assert_cocos_person(side)
    maps, = network(Tensor(recipe["make_input"](seed, (1, 3, 128, 160))))
    for name, output in {**maps, "hm": ops.sigmoid(maps["hm"]), "hm_hp": ops.sigmoid(maps["hm_hp"])}.items():
        np.testing.assert_allclose(output.asnumpy(), golden[name], rtol=0, atol=1e-5, err_msg=name)

    done = call_script("tools/convert_centernet.py", "--reverse", "--ckpt_file", "p.ckpt", "--output_file", "b.ckpt",
                       cwd=tmp_path)
    assert "roots of level3 and level4" in done.stdout
    back = ms.load_checkpoint(str(tmp_path / "b.ckpt"))
    assert set(back) == used
    for name, value in back.items():
        assert value.asnumpy().tobytes() == state[name].tobytes(), name
    with pytest.raises(UserError, match="dlazoo_34"):
        call(convert_centernet.main, "--reverse", "--ckpt_file", tmp_path / "p.ckpt", "--output_file",
             tmp_path / "b.pth")


@pytest.mark.slow
def test_the_model_zoos_detection_network_has_no_pose(tmp_path):
    network = network_of(2, num_stacks=[1, 1, 1, 1])
    weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    assert torch_weights.to_zoo(weights)[0]
    with pytest.raises(UserError, match="resdcn_18 .*for pose"):
        torch_weights.to_zoo({**weights, "hps.0.weight": weights["wh.0.weight"]})
    with pytest.raises(UserError, match="dlazoo_34 for pose, but this is dlazoo_34$"):
        torch_weights.to_zoo(dict.fromkeys(
            ["hm.0.weight", "backbone.base_layer.0.weight", "deconv_layers.ida_up.proj_1.0.weight"], weights))


@pytest.mark.slow
@pytest.mark.parametrize("joints, classes, without", [(13, 1, ()), (4, 2, ("hp_offset",)),
                                                      (3, 1, ("hm_hp", "hp_offset", "reg"))])
def test_other_keypoints_are_named_by_an_annotation_file(joints, classes, without, tmp_path):
    path = save(tmp_path / "x.pth", pose_state(joints, classes, without))
    args = "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt"
    with pytest.raises(UserError, match=rf"x.pth: .*\b{classes} classes, {joints} keypoints .*--annotation"):
        call(convert_centernet.main, *args)
    annotation = write_keypoints(tmp_path / "animals.json", *[joints] * classes)
    call(convert_centernet.main, *args, "--annotation", annotation)
    side = read_side_file(str(tmp_path / "o.ckpt"))
    assert side["classes"] == [f"animal {number}" for number in range(5, 5 + classes)]
    assert side["keypoints"]["names"] == [f"k{joint}" for joint in range(joints)]
    assert side["keypoints"]["skeleton"] == [[0, 1]] and side["dataset"] == "animals"
    options = side["net_config"]
    assert [options[name] for name in ("reg_offset", "hm_hp", "reg_hp_offset")] == [
        head not in without for head in ("reg", "hm_hp", "hp_offset")]


@pytest.mark.parametrize("joints, classes, part", [
    (13, 1, r"1 classes, 17 keypoints, .*animals.json has 1 classes, 13 keypoints"),
    (17, 2, r"1 classes, 17 keypoints, .*animals.json has 2 classes, 17 keypoints"),
    (0, 1, r"animals.json: .*keypoints"),
])
def test_an_annotation_file_with_other_keypoints(joints, classes, part, tmp_path):
    annotation = write_keypoints(tmp_path / "animals.json", *[joints] * classes)
    path = save(tmp_path / "x.pth", pose_state())
    with pytest.raises(UserError, match=f"x.pth: .*{part}"):
        call(convert_centernet.main, "--ckpt_file", path, "--output_file", tmp_path / "o.ckpt", "--annotation",
             annotation)
    assert not (tmp_path / "o.ckpt").exists()


@pytest.mark.parametrize("missing", ["hps.2.weight", "wh.0.weight", "hm_hp.0.weight"])
def test_a_missing_layer_of_a_head_is_named(missing, tmp_path):
    state = pose_state()
    del state[missing]
    with pytest.raises(UserError, match=rf"x.pth: it lacks {missing}"):
        call(convert_centernet.main, "--ckpt_file", save(tmp_path / "x.pth", state), "--output_file",
             tmp_path / "o.ckpt")


def test_the_hourglass_of_the_original():
    """multi_pose_hg_3x: heads of two stacks, a convolution in a cell named conv."""
    with open(f"{GOLDEN}/family/hourglass_shapes.json", encoding="utf-8") as file:
        state = {name: np.broadcast_to(np.float32(0), shape) for name, shape in json.load(file).items()}
    for head, channels in (("hm", 1), ("hps", 34), ("hm_hp", 17), ("hp_offset", 2)):
        for stack in (0, 1):
            state[f"{head}.{stack}.0.conv.weight"] = state["wh.0.0.conv.weight"]
            state[f"{head}.{stack}.1.weight"] = np.broadcast_to(np.float32(0), (channels, 256, 1, 1))
    kind = source_names.recognize(state)
    num_classes, described = torch_weights.describe_detector(state, kind)
    assert (kind, num_classes, described["task"], described["arch"]) == ("original", 1, "pose", "hourglass")
    assert described["hm_hp"] and described["reg_hp_offset"] and described["head_conv"] == 256
    assert TASKS["pose"].weights.counted(torch_weights.head_weights(state, kind)) == "1 classes, 17 keypoints"


def test_a_detector_stays_one():
    """Its heads are pose's, too, but not all."""
    names = {name for name in pose_state() if name.partition(".")[0] not in ("hps", "hm_hp", "hp_offset")}
    state = {name: value for name, value in pose_state().items() if name in names}
    assert torch_weights.describe_detector(state, "original")[1]["task"] == "detection"
