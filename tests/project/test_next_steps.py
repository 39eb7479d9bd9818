"""The commands that a command proposes when it is done: they exist, and take the options they are given."""
import os
import shlex

import pytest

from src.commands.report import scores_from
from src.core.project import next_steps
from src.inference.models import uses_of
from src.training.resume_commands import commands_for
from tests.conftest import ROOT, call_script
from tests.project.test_readme import options_of


def proposed(output):
    """The proposed commands in an output, as lists of words; each is a script of this project with options of it."""
    lines = output.partition("next:\n")[2].splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("  python ")]
    assert commands
    for _, script, *args in commands:
        known = options_of(os.path.relpath(script, ROOT))
        if script.endswith("check_dataset.py"):
            known |= options_of("train.py")
        assert {arg for arg in args if arg.startswith("--")} <= known, script
    return [[os.path.relpath(script, ROOT), *args] for _, script, *args in commands]


@pytest.mark.parametrize("text, scripts", [
    (lambda: next_steps(*uses_of("runs/detection/1")), ["tools/predict.py", "export.py"]),
    (lambda: next_steps(*uses_of("a b.onnx")), ["tools/predict.py", "tools/serve.py"]),
    (lambda: next_steps(*uses_of("centernet.mindir")), ["tools/predict.py", "tools/serve.py"]),
    (lambda: commands_for("ckpt_0/x.ckpt", "", ""), ["eval.py", "tools/report.py", "tools/predict.py", "export.py"]),
    (lambda: scores_from("."), ["eval.py"]),
])
def test_proposed_commands_take_their_options(text, scripts):
    assert [command[0] for command in proposed(text())] == scripts


def test_missing_scores_are_made_from_the_runs_data_set(tmp_path, monkeypatch):
    """Which its settings have; a folder without settings is not a run's, so the results are directed there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("# CenterNet on MindSpore\ndata_dir: \"my data\"\n")
    (_, *args), = proposed(scores_from("."))
    assert args == ["--data_dir", "my data", "--load_checkpoint_path", "."]
    os.remove(tmp_path / "settings.yaml")
    (_, *args), = proposed(scores_from("exp"))
    assert args[-2:] == ["--save_result_dir", "exp"]


@pytest.mark.slow
def test_from_labels_to_training_by_the_proposed_commands(tiny_data, tmp_path):
    """Import, check and conversion: each proposes the next, with the recipe."""
    (tmp_path / "mine.yaml").write_text("epoch_size: 3\n")
    done = call_script("tools/import_dataset.py", "--input", tiny_data, "--output", "data", cwd=tmp_path)
    check, convert = proposed(done.stdout)
    done = call_script(*check, "--config_path", "mine.yaml", cwd=tmp_path, check=False)
    again, = proposed(done.stdout)
    assert again == [convert[0], "--config_path", "mine.yaml", *convert[1:]]
    training, = proposed(call_script(*again, cwd=tmp_path).stdout)
    assert training == ["train.py", "--config_path", "mine.yaml", "--mindrecord_dir", "mindrecord", "--data_dir",
                        "data", "--eval_epochs", "4"]
