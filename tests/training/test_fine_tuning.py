"""src/training/fine_tuning.py: initial weights of a new training run."""
import json
import re

import mindspore as ms
import numpy as np
import pytest

from src.core.errors import UserError
from src.network.centernet import build_network
from src.training import fine_tuning
from src.weights.checkpoints import EMA_PREFIX, load_weights, read_checkpoint, save_weights
from src.weights.side_file import describe_model, side_file
from tests.conftest import network_of
from tests.metainfo import classes_of

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def fine_tune(tmp_path, make_config):
    """Function of a checkpoint's classes, the run's classes and arguments: (checkpoint's weights, run's network).

    average: the difference of the weights' average from the weights; then_specific: the checkpoint's cat_spec_wh.
    """
    def start(then, now, *args, average=None, then_specific=False):
        ms.set_seed(3)
        before = network_of(len(then), cat_spec_wh=then_specific)
        weights = {parameter.name: parameter.asnumpy() for parameter in before.get_parameters()}
        if average is not None:
            weights |= {f"{EMA_PREFIX}{name}": value + average for name, value in weights.items()}
        path = save_weights(str(tmp_path / "before.ckpt"), weights)
        if then[0]:
            config = make_config("--net_config.cat_spec_wh", str(then_specific).lower())
            side = describe_model(config, {"dataset": "d", "classes": then, "category_ids": list(range(len(then)))})
            with open(side_file(path), "w", encoding="utf-8") as file:
                json.dump(side, file)
        config = make_config("--load_checkpoint_path", path, *args)
        network = build_network(config.net_config, classes_of(len(now)), "composite")
        fine_tuning.start_weights(network, config, {"classes": now})
        return weights, network

    return start


def last_of(network, head):
    """(weights [C, 8], biases [C]) of a head's last layer."""
    layer = getattr(network, head)[2]
    return layer.weight.asnumpy().reshape(-1, 8), layer.bias.asnumpy()


def test_classes_are_matched_by_name(fine_tune, console):
    """The row of a class's heatmap moves to its new index; the class-independent size head and other layers stay."""
    before, network = fine_tune(["cat", "dog", "cow"], ["cow", "emu", "cat"])
    weight, bias = last_of(network, "hm")
    rows = before["hm.2.weight"].reshape(-1, 8)
    np.testing.assert_array_equal(weight[[0, 2]], rows[[2, 0]])
    np.testing.assert_array_equal(bias[[0, 2]], before["hm.2.bias"][[2, 0]])
    assert bias[1] == np.float32(-2.19) and not any(np.array_equal(weight[1], row) for row in rows)  # initial values
    for parameter in network.get_parameters():
        if not parameter.name.startswith("hm.2."):
            np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])
    output = console.readouterr().out
    assert output.index("cow, cat") < output.index("emu")


@pytest.mark.slow
def test_reordered_classes_keep_their_outputs(fine_tune):
    """The channels of the network's output follow the new order."""
    before, network = fine_tune(["cat", "dog", "cow"], ["dog", "cow", "cat"])
    old = network_of(3)
    parameters = {name: ms.Parameter(ms.Tensor(value), name=name) for name, value in before.items()}
    load_weights(old, parameters, "before")
    features = ms.Tensor(np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32))
    expected = old.hm(features).asnumpy()
    np.testing.assert_allclose(network.hm(features).asnumpy(), expected[:, [1, 2, 0]], rtol=1e-6)


def test_size_channels_move_with_their_class(fine_tune):
    """Class c has the channels 2 c and 2 c + 1."""
    before, network = fine_tune(["a", "b"], ["x", "b", "a"], "--net_config.cat_spec_wh", "true", then_specific=True)
    weight, bias = last_of(network, "wh")
    rows = before["wh.2.weight"].reshape(-1, 8)
    np.testing.assert_array_equal(weight[2:], rows[[2, 3, 0, 1]])
    assert bias.shape == (6,) and not np.isin(weight[:2], rows).any()


def test_the_average_is_mapped_too(fine_tune):
    before, network = fine_tune(["a", "b"], ["b", "a"], average=1.0)
    np.testing.assert_array_equal(last_of(network, "hm")[1], before["hm.2.bias"][::-1] + 1)
    before, network = fine_tune(["a", "b"], ["b", "a"], "--use_ema", "false", average=1.0)
    np.testing.assert_array_equal(last_of(network, "hm")[1], before["hm.2.bias"][::-1])


@pytest.mark.parametrize("then, now, message, taken", [
    (["a", "b"], ["a", "b"], None, True),
    (["a", "b"], ["c", "d"], r"scratch\b.*\bc, d\b", False), (["a", "b"], ["c"], r"scratch\b.*\bc\b", False),
    (["a", "b"], ["b"], r"by name\b.*\bb\b", False),
    (["", ""], ["a", "b"], r"side file.*\ba, b\b", True),
])
def test_the_mapping_is_logged(then, now, message, taken, fine_tune, console):
    before, network = fine_tune(then, now)
    lines = [line for line in console.readouterr().out.splitlines() if "classes" in line]
    assert len(lines) == bool(message) and (not message or re.search(message, lines[0]))
    weight = last_of(network, "hm")[0]
    assert taken == (weight.shape == (2, 8) and np.array_equal(weight, before["hm.2.weight"].reshape(-1, 8)))


def test_layers_missing_in_the_network_are_named(fine_tune, tmp_path, console):
    fine_tune(["a"], ["a"], "--net_config.reg_offset", "false")
    output = console.readouterr().out
    assert "reg.0, reg.2" in output and "net_config" in output
    network, path = network_of(1, reg_offset=False), str(tmp_path / "before.ckpt")
    with pytest.raises(UserError, match="before.ckpt.* reg.0"):
        load_weights(network, read_checkpoint(path), path)
    assert load_weights(network, read_checkpoint(path), path, fine_tuning=True) == []


# ---------------------------------------------------------------- pose


def person(*names):
    """Metainfo of people with these keypoints."""
    keypoints = {"names": list(names), "skeleton": [], "flip_idx": [], "of_class": [list(range(len(names)))]}
    return {"classes": ["person"], "category_ids": [1], "keypoints": keypoints}


@pytest.fixture
def fine_tune_pose(tmp_path, make_config):
    """Function of the checkpoint's task, its metainfo and the run's: (checkpoint's weights, run's pose network)."""
    def start(task, then, now):
        ms.set_seed(3)
        config = make_config("--net_config.task", task)
        before = build_network(config.net_config, then, "composite")
        weights = {parameter.name: parameter.asnumpy() for parameter in before.get_parameters()}
        path = save_weights(str(tmp_path / "before.ckpt"), weights)
        with open(side_file(path), "w", encoding="utf-8") as file:
            json.dump(describe_model(config, {"dataset": "d", **then}), file)
        config = make_config("--net_config.task", "pose", "--load_checkpoint_path", path)
        network = build_network(config.net_config, now, "composite")
        initial = {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}
        fine_tuning.start_weights(network, config, now)
        return weights, initial, network

    return start


def test_pose_starts_from_a_detector(fine_tune_pose, console):
    """As in the paper's recipe: all that fits is taken, the person's heatmap by name; the new heads are named."""
    then = {"classes": ["dog", "person"], "category_ids": [1, 2]}
    weights, initial, network = fine_tune_pose("detection", then, person("nose", "tail"))
    for parameter in network.get_parameters():
        name, value = parameter.name, parameter.asnumpy()
        if name.startswith("hm.2."):
            np.testing.assert_array_equal(value, weights[name][1:])
        else:
            new = name.startswith(("hps.", "hm_hp.", "hp_offset."))
            np.testing.assert_array_equal(value, initial[name] if new else weights[name], name)
    line = next(line for line in console.readouterr().out.splitlines() if "from scratch" in line)
    for head in ("hps", "hm_hp", "hp_offset"):
        assert f"{head}.0.weight" in line and f"{head}.2.bias" in line
    assert "wh." not in line and "hm.2" not in line


def test_keypoints_are_matched_by_name(fine_tune_pose, console):
    """Each has two channels of hps and one of hm_hp."""
    weights, _, network = fine_tune_pose("pose", person("nose", "tail", "paw"), person("tail", "ear", "nose"))
    hps, hm_hp = (network.hps[2].weight.asnumpy(), network.hm_hp[2].weight.asnumpy())
    np.testing.assert_array_equal(hps[[0, 1, 4, 5]], weights["hps.2.weight"][[2, 3, 0, 1]])
    np.testing.assert_array_equal(hm_hp[[0, 2]], weights["hm_hp.2.weight"][[1, 0]])
    assert not np.isin(hps[2:4], weights["hps.2.weight"]).any()
    assert network.hm_hp[2].bias.asnumpy()[1] == np.float32(-2.19)  # the initial value
    output = console.readouterr().out
    assert output.index("tail, nose") < output.index("ear")


def test_another_number_of_keypoints(fine_tune_pose):
    weights, _, network = fine_tune_pose("pose", person("nose", "tail", "paw"), person("tail"))
    np.testing.assert_array_equal(network.hps[2].weight.asnumpy(), weights["hps.2.weight"][2:4])
    np.testing.assert_array_equal(network.hps[0].weight.asnumpy(), weights["hps.0.weight"])


def test_a_head_that_is_stored_in_part_is_refused(fine_tune_pose, tmp_path):
    _, _, network = fine_tune_pose("pose", person("nose"), person("nose"))
    parameters = read_checkpoint(str(tmp_path / "before.ckpt"))
    del parameters["hps.0.weight"]
    with pytest.raises(UserError, match=r"before.ckpt .*\bhps.0.weight\b"):
        load_weights(network, parameters, "before.ckpt", fine_tuning=True)
