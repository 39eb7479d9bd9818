"""The recipes in configs/: all are valid, and those of the paper's tables match the original's commands."""
import glob
import os

import pytest

from src.model_utils.combinations import check_evaluation
from src.model_utils.config import get_config
from src.network.architectures import network_facts, resolved
from tests.conftest import ROOT

# Network, input size, epochs, learning rate, epochs after which it drops, total batch size: from the original's
# experiments/*.sh and MODEL_ZOO.md.
PUBLISHED = {
    "coco_hourglass": ("hourglass", 512, 50, 2.5e-4, [40], 24),
    "coco_dla_1x": ("dla_34", 512, 140, 5e-4, [90, 120], 128),
    "coco_dla_2x": ("dla_34", 512, 230, 5e-4, [180, 210], 128),
    "coco_resdcn101": ("resdcn_101", 512, 140, 3.75e-4, [90, 120], 96),
    "coco_resdcn18": ("resdcn_18", 512, 140, 5e-4, [90, 120], 114),
    **{f"voc_{name}_{side}": (arch, side, 70, 1.25e-4, [45, 60], 32)
       for name, arch in (("dla", "dla_34"), ("resdcn101", "resdcn_101")) for side in (384, 512)},
    "voc": ("resdcn_18", 384, 70, 1.25e-4, [45, 60], 32), "voc_512": ("resdcn_18", 512, 70, 1.25e-4, [45, 60], 32),
}


def read(name):
    """The configuration of a recipe."""
    return get_config("t", ["--config_path", os.path.join(ROOT, "configs", f"{name}.yaml")])


@pytest.mark.parametrize("name", sorted(os.path.basename(path)[:-5] for path in glob.glob(f"{ROOT}/configs/*.yaml")))
def test_a_recipe_is_valid(name):
    config = read(name)
    resolved(config.net_config.as_dict())
    check_evaluation(config, network_facts(config.net_config.as_dict()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_matches_the_published_one(name):
    config = read(name)
    decay = config.train_config.MultiDecay
    with open(f"{ROOT}/configs/{name}.yaml", encoding="utf-8") as file:
        devices = 8 if "eight devices" in file.read() else 1
    found = (config.net_config.arch, config.dataset_config.input_res_train[0], config.epoch_size, decay.learning_rate,
             decay.multi_epochs, config.train_config.batch_size * devices)
    assert found == PUBLISHED[name]
    assert decay.eps == 1e-8 and not config.eval_config.SOFT_NMS
    voc = name.startswith("voc")
    assert (config.eval_config.keep_res, config.eval_config.flip_test) == (not voc, voc)
    with open(f"{ROOT}/docs/architectures.md", encoding="utf-8") as file:
        assert f"`configs/{name}.yaml`" in file.read()
