"""src/model_utils/zoo_names.py: the modules with the model zoo's names."""
import importlib
import subprocess
import sys

import pytest

from src.model_utils.zoo_names import HOMES, SUCCESSORS
from tests.conftest import ROOT


@pytest.mark.parametrize("module", HOMES)
def test_a_module_has_the_names_of_its_homes(module):
    zoo = importlib.import_module(f"src.{module}")
    for home in HOMES[module]:
        found = importlib.import_module(f"src.{home}")
        names = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == found.__name__]
        assert names and all(getattr(zoo, name) is getattr(found, name) for name in names)
    with pytest.raises(AttributeError, match="no_such_name"):
        zoo.no_such_name  # noqa: B018


@pytest.mark.parametrize("path", [
    "centernet_det.CenterNet", "centernet_det.build_network", "dataset.TrainSet", "decode.decode", "decode.top_k",
    "image.affine_matrix", "image.apply_color", "image.draw_gaussian", "post_process.merge", "resnet.ResNet",
    "utils.atomic_write", "utils.back_up_existing", "visual.compare", "coco.read_coco", "image_files.read_image",
    "predictor.Predictor", "evaluation.score",
])
def test_names_of_earlier_versions_exist(path):
    module, _, name = path.partition(".")
    assert callable(getattr(importlib.import_module(f"src.{module}"), name))


@pytest.mark.parametrize("module, name", [(module, name) for module in SUCCESSORS for name in SUCCESSORS[module]])
def test_a_missing_name_of_the_model_zoo_gives_its_successor(module, name):
    home, _, successor = SUCCESSORS[module][name].rpartition(".")
    assert hasattr(importlib.import_module(f"src.{home}"), successor)
    with pytest.raises(ImportError, match=f"{home}.{successor}"):
        getattr(importlib.import_module(f"src.{module}"), name)


@pytest.mark.slow
def test_import_errors_end_in_one_sentence():
    """For a module and for the package itself; an unknown name is Python's own error."""
    successors = {"src.dataset import COCOHP": "src.data.train_set.TrainSet",
                  "src import CenterNetDetEval": "centernet.DetectionNetwork"}
    for line, part in {**successors, "src import nobody": "nobody"}.items():
        done = subprocess.run([sys.executable, "-c", f"from {line}"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and part in done.stderr
        assert done.stderr.splitlines()[-1].startswith("ImportError: ")
