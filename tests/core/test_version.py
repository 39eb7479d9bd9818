"""Scripts, side files, reports and the package have the same version."""
import json
import re

import pytest

from src.core.version import __version__, version
from src.inference.detector import consumer_description
from src.runs.report import Run, write_report
from src.tasks.detection import DETECTION
from src.weights.side_file import read_side_file, side_file
from tests.conftest import call_script
from tests.model_utils.test_mindspore_versions import WITH_MINDSPORE, WITHOUT


def test_the_version_has_three_numbers():
    assert version() == __version__ and re.fullmatch(r"\d+\.\d+\.\d+", version())


@pytest.mark.parametrize("script", sorted([*WITH_MINDSPORE, *WITHOUT, "tools/eval.py"]))
def test_every_script_prints_it(script):
    """Even without required options."""
    done = call_script(script, "--version")
    assert (done.stdout, done.stderr) == (f"centernet {version()}\n", "")


def test_side_files_have_it(least_checkpoint, make_config):
    with open(side_file(str(least_checkpoint)), encoding="utf-8") as file:
        assert json.load(file)["version"] == version()

    class Detector:
        description, down_ratio = read_side_file(str(least_checkpoint)), 4

    config = make_config("--export_config.ckpt_file", least_checkpoint)
    description = consumer_description(Detector, config.export_config, config.eval_config, [1, 3, 96, 96])
    assert description["version"] == version()


def test_reports_have_it(tmp_path):
    metrics = {**dict.fromkeys(DETECTION.metrics, 0.5), "AP_per_class": {}, "AP50_per_class": {}}
    write_report(str(tmp_path / "report.html"), "a run", Run(metrics=metrics))
    assert f"by CenterNet on MindSpore {version()}" in (tmp_path / "report.html").read_text(encoding="utf-8")
