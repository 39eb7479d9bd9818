"""src/resume.py: a training that stops and goes on."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src import resume
from src.checkpoint import CheckpointFolder, read_checkpoint
from src.errors import UserError
from src.side_file import find_checkpoints
from src.training_log import read_training_log
from tests.conftest import ROOT, TINY


def test_stopped_and_resumed_equals_never_stopped(tiny_run, tiny_records, train, tmp_path):
    (tmp_path / "ckpt_0").mkdir()
    for ending in ("ckpt", "json"):
        shutil.copy(tiny_run / "ckpt_0" / f"centernet-1_3.{ending}", tmp_path / "ckpt_0")
    # The run was stopped after step 4: that step's record is made anew.
    (tmp_path / "train_record.jsonl").write_text("".join((tiny_run / "train_record.jsonl").read_text().splitlines(True)[:4]))
    done = train("--train_steps", 7, "--resume", "true", "--mindrecord_dir", tiny_records, cwd=tmp_path)
    assert "after step 3" in done.stdout
    whole, resumed = (read_training_log(str(folder / "train_record.jsonl")) for folder in (tiny_run, tmp_path))
    assert [record["step"] for record in resumed] == list(range(1, 8))
    for a, b in zip(whole, resumed):
        for name in ("epoch", "percent", "lr", "overflow", "scaling_sens"):
            assert a[name] == b[name]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    first, second = (read_checkpoint(str(folder / "ckpt_0" / "centernet-2_7.ckpt")) for folder in (tiny_run, tmp_path))
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_allclose(second[name].asnumpy(), first[name].asnumpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.fixture
def train_state(tmp_path, make_config):
    """Call it with command-line words: restore a checkpoint of a run that had a fixed scale of 64 or, dynamic, one that has fallen to 8."""
    class Set:
        images_per_step, images = 4, 20

    def state(scale, good_steps):
        values = {"global_step": np.full(1, 3, np.int32), "w": np.full(1, 3, np.int32), "loss_scale": np.float32(scale),
                  "good_steps": np.int32(good_steps)}
        return {name: Parameter(Tensor(value), name=name) for name, value in values.items()}

    def restored(*words, lacks=(), start=64.0):
        config = make_config(*words)
        then = {name: parameter for name, parameter in state(8, 5).items() if name not in lacks}
        path = CheckpointFolder(str(tmp_path / "c"), 1, {}).save(then, 1, 7, {"images_per_step": 4, "loss_scale_start": start})
        now = state(config.train_config.loss_scale_value if config.enable_lossscale else 1.0, 0)
        now["w"].set_data(Tensor(np.zeros(1, np.int32)))
        assert resume.restore(now, path, Set, config) == (7, False)
        return {name: float(np.squeeze(parameter.asnumpy())) for name, parameter in now.items()}

    return restored


def test_a_checkpoint_without_the_count_of_good_steps_resumes(train_state):
    """Checkpoints from before the dynamic loss scale lack it."""
    now = train_state("--train_config.dynamic_loss_scale", "true", "--train_config.loss_scale_value", 64, lacks=["good_steps"])
    assert now == {"global_step": 3, "w": 3, "loss_scale": 8, "good_steps": 0}
    with pytest.raises(UserError, match="w is missing"):
        train_state(lacks=["w"])


@pytest.mark.parametrize("words, scale", [
    (("--train_config.dynamic_loss_scale", "true", "--train_config.loss_scale_value", 64), 8),  # it has fallen, and goes on
    (("--train_config.dynamic_loss_scale", "true", "--train_config.loss_scale_value", 128), 128),  # the user starts anew
    (("--train_config.loss_scale_value", 64), 64), (("--train_config.loss_scale_value", 2048), 2048), (("--enable_lossscale", "false"), 1),
])
def test_the_configurations_loss_scale_wins(words, scale, train_state, capsys):
    assert train_state(*words)["loss_scale"] == scale
    said = capsys.readouterr().out
    assert ("the loss scale was 8" in said) == (scale != 8), said


def test_what_the_configuration_changes_is_said(make_config, tmp_path, capsys):
    then = resume.training_settings(make_config("--train_config.MultiDecay.learning_rate", 0.25))
    (tmp_path / "c.json").write_text(json.dumps({"training": then}))
    resume.say_changes(str(tmp_path / "c.ckpt"), resume.training_settings(make_config("--train_config.batch_size", 3)))
    first, second, *others = capsys.readouterr().out.splitlines()
    assert first == "train_config.batch_size was 16, and is 3 from here on" and "0.25" in second and not others
    resume.say_changes(str(tmp_path / "none.ckpt"), then)
    assert capsys.readouterr().out == ""


def test_an_interrupted_training_goes_on_with_the_command_it_prints(tiny_run, tiny_records, tmp_path, tmp_path_factory):
    cache = ["--compile_cache_dir", tmp_path_factory.mktemp("graphs")]
    words = [*TINY, *cache, "--epoch_size", 400, "--save_checkpoint_steps", 10000, "--mindrecord_dir", tiny_records]
    command = [sys.executable, os.path.join(ROOT, "train.py"), *map(str, words)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "step: 2 " in line:
            process.send_signal(signal.SIGINT)
            break
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130 and "Traceback" not in said, said[-2000:]
    match = re.search(r"^interrupted: (\d+) of 2000 steps are done; go on with: (.*)$", said, re.M)
    last = max(int(match[1]) + 1, 7)
    done = subprocess.run(f"{match[2]} --train_steps {last}", shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    records = read_training_log(str(tmp_path / "train_record.jsonl"))
    assert [record["step"] for record in records] == list(range(1, last + 1))
    for undisturbed, record in zip(read_training_log(str(tiny_run / "train_record.jsonl")), records):
        assert record["loss"] == pytest.approx(undisturbed["loss"], rel=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt_0", "loss.png", "train_batch.jpg", "train_record.jsonl"]


def test_ranks_that_do_not_start_alike(tmp_path):
    """After another step, or from another file, which may have the same name on another server: each rank is told."""
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)

    def meet(*ranks):
        sent = []
        for path, done in ranks:
            resume.require_same_start(path, done, lambda own: sent.append(own.asnumpy()) or own, 1)
        for path, done in ranks:
            resume.require_same_start(path, done, lambda _: Tensor(np.sum(sent, 0)), len(ranks))

    one, same, other = (str(tmp_path / name) for name in "abc")
    meet((one, 128_240), (same, 128_240), (same, 128_240))
    meet(("", 0), ("", 0))
    for ranks in [((one, 6), (same, 5)), ((one, 6), (other, 6)), ((one, 6), ("", 0)), ((other, 6), (one, 6))]:
        with pytest.raises(UserError, match=f"do not start alike: this one after step 6, from {ranks[0][0]}"):
            meet(*ranks)


def test_resuming_with_another_batch_size_keeps_what_is_written_last(tiny_run, tiny_records, train, tmp_path):
    """Its steps are counted anew, with lower numbers: 7 steps of 4 images, 5 an epoch, are 3 of 8, 2 an epoch."""
    shutil.copytree(tiny_run / "ckpt_0", tmp_path / "ckpt_0")
    words = ["--train_config.batch_size", 8, "--epoch_size", 3, "--save_checkpoint_num", 1, "--resume", "true"]
    done = train(*words, "--mindrecord_dir", tiny_records, cwd=tmp_path)
    assert "train_config.batch_size was 4, and is 8 from here on" in done.stdout
    checkpoint, = find_checkpoints(str(tmp_path / "ckpt_0"))
    assert f"checkpoint: {os.path.join('ckpt_0', os.path.basename(checkpoint))}" in done.stdout
    assert int(read_checkpoint(checkpoint)["step"].asnumpy()) == 6
    assert [record["step"] for record in read_training_log(str(tmp_path / "train_record.jsonl"))] == [4, 5, 6]


def test_resuming_from_an_earlier_checkpoint_sets_the_branch_aside(tiny_run, tiny_records, train, tmp_path):
    for name in ("ckpt_0", "train_record.jsonl"):
        (shutil.copytree if name == "ckpt_0" else shutil.copy)(tiny_run / name, tmp_path / name)
    words = ["--resume", "true", "--load_checkpoint_path", "ckpt_0/centernet-1_3.ckpt", "--train_steps", 5, "--save_checkpoint_num", 5]
    done = train(*words, "--mindrecord_dir", tiny_records, cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "ckpt_0.1").iterdir()) == [
        "centernet-2_6.ckpt", "centernet-2_6.json", "centernet-2_7.ckpt", "centernet-2_7.json", "train_record.jsonl"]
    assert "kept in ckpt_0.1 (centernet-2_6.ckpt, centernet-2_7.ckpt)" in done.stdout
    assert (tmp_path / "ckpt_0.1" / "train_record.jsonl").read_bytes() == (tiny_run / "train_record.jsonl").read_bytes()
    assert [os.path.basename(path) for path in find_checkpoints(str(tmp_path / "ckpt_0"))] == ["centernet-1_3.ckpt", "centernet-1_5.ckpt"]
    assert [record["step"] for record in read_training_log(str(tmp_path / "train_record.jsonl"))] == [1, 2, 3, 4, 5]
