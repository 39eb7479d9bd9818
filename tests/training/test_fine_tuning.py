"""src/training/fine_tuning.py: what a new training starts from."""
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
    """Call it with a checkpoint's classes, the run's, and words of its command line: (the checkpoint's weights, the network that started).

    average: added to the weights, gives their average; then_specific: whether the checkpoint has a size head for each class.
    """
    def started(then, now, *words, average=None, then_specific=False):
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
        config = make_config("--load_checkpoint_path", path, *words)
        network = build_network(config.net_config, classes_of(len(now)), "composite")
        fine_tuning.start_weights(network, config, {"classes": now})
        return weights, network

    return started


def last_of(network, head):
    """(weights [C, 8], biases [C]) of a head's last layer."""
    layer = getattr(network, head)[2]
    return layer.weight.asnumpy().reshape(-1, 8), layer.bias.asnumpy()


def test_classes_are_taken_by_their_names(fine_tune, console):
    """The row of a class's heatmap goes where the class is now; the size head, of no class, and all else stay."""
    before, network = fine_tune(["cat", "dog", "cow"], ["cow", "emu", "cat"])
    weight, bias = last_of(network, "hm")
    rows = before["hm.2.weight"].reshape(-1, 8)
    np.testing.assert_array_equal(weight[[0, 2]], rows[[2, 0]])
    np.testing.assert_array_equal(bias[[0, 2]], before["hm.2.bias"][[2, 0]])
    assert bias[1] == np.float32(-2.19) and not any(np.array_equal(weight[1], row) for row in rows)  # as a new network begins
    for parameter in network.get_parameters():
        if not parameter.name.startswith("hm.2."):
            np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])
    said = console.readouterr().out
    assert said.index("cow, cat") < said.index("emu")


@pytest.mark.slow
def test_the_same_classes_in_another_order_mean_the_same(fine_tune):
    """A fine-tuned network answers as the one before did, its channels in the new order."""
    before, network = fine_tune(["cat", "dog", "cow"], ["dog", "cow", "cat"])
    old = network_of(3)
    load_weights(old, {name: ms.Parameter(ms.Tensor(value), name=name) for name, value in before.items()}, "before")
    features = ms.Tensor(np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32))
    expected = old.hm(features).asnumpy()
    np.testing.assert_allclose(network.hm(features).asnumpy(), expected[:, [1, 2, 0]], rtol=1e-6)


def test_sizes_of_each_class_go_with_it(fine_tune):
    """Class c has the channels 2 c and 2 c + 1."""
    before, network = fine_tune(["a", "b"], ["x", "b", "a"], "--net_config.cat_spec_wh", "true", then_specific=True)
    weight, bias = last_of(network, "wh")
    rows = before["wh.2.weight"].reshape(-1, 8)
    np.testing.assert_array_equal(weight[2:], rows[[2, 3, 0, 1]])
    assert bias.shape == (6,) and not np.isin(weight[:2], rows).any()


def test_an_average_goes_with_it(fine_tune):
    before, network = fine_tune(["a", "b"], ["b", "a"], average=1.0)
    np.testing.assert_array_equal(last_of(network, "hm")[1], before["hm.2.bias"][::-1] + 1)
    before, network = fine_tune(["a", "b"], ["b", "a"], "--use_ema", "false", average=1.0)
    np.testing.assert_array_equal(last_of(network, "hm")[1], before["hm.2.bias"][::-1])


@pytest.mark.parametrize("then, now, said, taken", [
    (["a", "b"], ["a", "b"], None, True),
    (["a", "b"], ["c", "d"], r"anew\b.*\bc, d\b", False), (["a", "b"], ["c"], r"anew\b.*\bc\b", False),
    (["a", "b"], ["b"], r"by name\b.*\bb\b", False),
    (["", ""], ["a", "b"], r"side file.*\ba, b\b", True),
])
def test_what_is_said_of_the_classes(then, now, said, taken, fine_tune, console):
    before, network = fine_tune(then, now)
    lines = [line for line in console.readouterr().out.splitlines() if "classes" in line]
    assert len(lines) == bool(said) and (not said or re.search(said, lines[0]))
    weight = last_of(network, "hm")[0]
    assert taken == (weight.shape == (2, 8) and np.array_equal(weight, before["hm.2.weight"].reshape(-1, 8)))


def test_layers_that_the_network_has_not_are_named(fine_tune, tmp_path, console):
    fine_tune(["a"], ["a"], "--net_config.reg_offset", "false")
    said = console.readouterr().out
    assert "reg.0, reg.2" in said and "net_config" in said
    network, path = network_of(1, reg_offset=False), str(tmp_path / "before.ckpt")
    with pytest.raises(UserError, match="before.ckpt: .*reg.0"):
        load_weights(network, read_checkpoint(path), path)
    assert load_weights(network, read_checkpoint(path), path, fine_tuning=True) == []
