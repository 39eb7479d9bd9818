"""src/training/resume.py: stopped and resumed training runs."""
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.core.errors import UserError
from src.runs.record import read_training_log
from src.training import resume
from src.weights.checkpoints import CheckpointFolder, read_checkpoint
from src.weights.run_folder import checkpoints_to_resume, find_checkpoints, resolve_checkpoint_alias
from tests.conftest import ROOT, TINY, lines_with, train_least

DATA = SimpleNamespace(images=20, images_per_step=4, manifest={"classes": ["a", "b"], "objects": 30})


def test_a_resumed_run_equals_an_undisturbed_one(least_run, tiny_records, train_least_again, tmp_path):
    (tmp_path / "ckpt_0").mkdir()
    for ending in ("ckpt", "json"):
        shutil.copy(least_run / "ckpt_0" / f"centernet-1_3.{ending}", tmp_path / "ckpt_0")
    # The run was stopped after step 4: that step is recorded again.
    record = (least_run / "train_record.jsonl").read_text()
    (tmp_path / "train_record.jsonl").write_text("".join(record.splitlines(True)[:4]))
    done = train_least_again("--train_steps", 7, "--resume", "true", "--mindrecord_dir", tiny_records, cwd=tmp_path)
    assert "after step 3" in done.stdout
    undisturbed, resumed = (read_training_log(str(folder / "train_record.jsonl")) for folder in (least_run, tmp_path))
    assert [record["step"] for record in resumed] == list(range(1, 8))
    for a, b in zip(undisturbed, resumed):
        for name in ("epoch", "percent", "lr", "overflow", "scaling_sens"):
            assert a[name] == b[name]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    first, second = (read_checkpoint(str(folder / "ckpt_0" / "centernet-2_7.ckpt")) for folder in (least_run, tmp_path))
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_allclose(second[name].asnumpy(), first[name].asnumpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.fixture
def train_state(tmp_path, make_config):
    """Function of arguments: restores a checkpoint with a loss scale of 8, down from 64, and returns {name: value}.

    lacks: parameters missing in the checkpoint; start: its run's initial scale.
    """
    def state(scale, good_steps):
        values = {"global_step": np.full(1, 3, np.int32), "w": np.full(1, 3, np.int32), "loss_scale": np.float32(scale),
                  "good_steps": np.int32(good_steps)}
        return {name: Parameter(Tensor(value), name=name) for name, value in values.items()}

    def restored(*args, lacks=(), start=64.0):
        config = make_config(*args)
        then = {name: parameter for name, parameter in state(8, 5).items() if name not in lacks}
        numbers = {"images_per_step": 4, "images": 20, "loss_scale_start": start}
        path = CheckpointFolder(str(tmp_path / "c"), 1, {}).save(then, 1, 7, numbers)
        now = state(config.train_config.loss_scale_value if config.enable_lossscale else 1.0, 0)
        now["w"].set_data(Tensor(np.zeros(1, np.int32)))
        assert resume.restore(now, path, DATA, config) == (7, False)
        return {name: float(np.squeeze(parameter.asnumpy())) for name, parameter in now.items()}

    return restored


def test_a_checkpoint_without_good_steps_resumes(train_state):
    """Checkpoints of versions without a dynamic loss scale."""
    now = train_state("--train_config.dynamic_loss_scale", "true", "--train_config.loss_scale_value", 64,
                      lacks=["good_steps"])
    assert now == {"global_step": 3, "w": 3, "loss_scale": 8, "good_steps": 0}
    with pytest.raises(UserError, match=r"\bw\b"):
        train_state(lacks=["w"])


@pytest.mark.parametrize("args, scale", [
    (("--train_config.dynamic_loss_scale", "true", "--train_config.loss_scale_value", 64), 8),  # kept
    (("--train_config.dynamic_loss_scale", "true", "--train_config.loss_scale_value", 128), 128),  # reset by the user
    (("--train_config.loss_scale_value", 64), 64), (("--train_config.loss_scale_value", 2048), 2048),
    (("--enable_lossscale", "false"), 1),
])
def test_the_configuration_overrides_the_loss_scale(args, scale, train_state, console):
    assert train_state(*args)["loss_scale"] == scale
    output = console.readouterr().out
    assert ("the loss scale was 8" in output) == (scale != 8), output


def test_changed_settings_are_logged(make_config, tmp_path, console):
    then = resume.training_settings(make_config("--train_config.MultiDecay.learning_rate", 0.25), DATA)
    resume.log_changes(then, resume.training_settings(make_config("--train_config.batch_size", 3), DATA))
    first, second, *others = console.readouterr().out.splitlines()
    assert first.startswith("train_config.batch_size was 16, now 3") and "0.25" in second and not others
    resume.log_changes({}, then)
    assert console.readouterr().out == ""


@pytest.fixture
def resumed(tmp_path, make_config):
    """Function that restores a checkpoint after 12 steps of 4 images, 5 per epoch, and returns the steps.

    described: changes in its side file; args: the run's arguments; images, per_step: the run's; numbers: the
    checkpoint's; lacks: it has no side file; parameters: more of its parameters, of which the run has the first.
    """
    def state_of(*names, value):
        values = {"loss_scale": np.float32(8)} | {name: np.full(1, value, np.int32) for name in names}
        return {name: Parameter(Tensor(array), name=name) for name, array in values.items()}

    def restored(described=None, args=(), images=20, per_step=4, numbers=None, lacks=False, parameters=()):
        config = make_config(*args)
        described = {"classes": ["a", "b"], "net_config": make_config().net_config.as_dict(), **(described or {})}
        state = state_of("global_step", *parameters, value=12)
        numbers = {"images_per_step": 4, "images": 20} if numbers is None else numbers
        path = CheckpointFolder(str(tmp_path / "c"), 1, described).save(state, 2, 12, numbers)
        if lacks:
            os.remove(f"{path[:-5]}.json")
        state = state_of("global_step", *parameters[:1], value=0)
        data = SimpleNamespace(manifest=DATA.manifest, images=images, images_per_step=per_step)
        return (*resume.restore(state, path, data, config), int(state["global_step"].asnumpy()[0]))

    return restored


@pytest.mark.parametrize("classes, fragment", [
    (["b", "a"], r" b, a, .*mindrecord_dir has a, b; .*--resume"),
    (["a", "c"], r" a, c, .*mindrecord_dir has a, b; "), (["a"], " a, .*mindrecord_dir has a, b; "),
])
def test_other_classes_are_refused(classes, fragment, resumed):
    with pytest.raises(UserError, match=fragment):
        resumed({"classes": classes})


@pytest.mark.parametrize("args, fragment", [
    (["--net_config.down_ratio", 8], "net_config.down_ratio was 4, now 8: "),
    (["--net_config.arch", "res_18"], "net_config.arch was resdcn_18, now res_18"),
    (["--net_config.reg_offset", "false"], "net_config.reg_offset was True, now False"),
    (["--net_config.cat_spec_wh", "true"], "net_config.cat_spec_wh was False, now True"),
    (["--net_config.head_conv", 32], "net_config.head_conv was 64, now 32"),
])
def test_another_network_is_refused(args, fragment, resumed):
    with pytest.raises(UserError, match=fragment):
        resumed(args=args)


def test_the_same_network_resumes_and_other_changes_of_net_config_are_logged(resumed, console):
    """head_conv 0 means 64 for this architecture."""
    args = ["--net_config.head_conv", 64, "--net_config.hm_weight", 2, "--net_config.mse_loss", "true"]
    assert resumed(args=args) == (12, False, 12)
    output = console.readouterr().out.splitlines()
    assert lines_with(output, "net_config.hm_weight", "1.0", "2.0")
    assert lines_with(output, "net_config.mse_loss", "False", "True")
    assert resumed(lacks=True) == (12, False, 12)


def test_a_layer_missing_in_the_network_is_an_error(resumed):
    """For example, with another down_ratio, and no side file."""
    with pytest.raises(UserError, match=r"deconv_layers\.6\b.*net_config"):
        resumed(lacks=True, parameters=["hm.0.weight", "deconv_layers.6.weight"])


@pytest.mark.parametrize("images, per_step, expected, message", [
    (20, 4, (12, False, 12), None),
    (40, 4, (24, True, 24), " 20 images.* 40: .* after step 24$"),  # two epochs of 10, and two fifths
    (12, 4, (8, True, 8), " 20 images.* 12: .* after step 8$"),
    (40, 8, (12, True, 12), " 4 images.* 8; .* 20 images.* 40: .* after step 12$"),
])
def test_with_another_number_of_images_the_epoch_is_kept(images, per_step, expected, message, resumed, console):
    """By hand: 12 steps, 5 per epoch, are two epochs and two fifths of the third."""
    assert resumed(images=images, per_step=per_step) == expected
    out = console.readouterr().out
    assert message is None or re.search(message, out, re.M), out


def test_a_checkpoint_without_the_number_of_images(resumed):
    """Of an earlier version; an error if its steps had more images than the data set has."""
    assert resumed(numbers={"images_per_step": 4}) == (12, False, 12) and resumed(numbers={}) == (12, False, 12)
    with pytest.raises(UserError, match="32 images.*mindrecord_dir has 20: "):
        resumed(numbers={"images_per_step": 32})


@pytest.mark.parametrize("images, epoch", [(16, None), (20, None), (23, None), (24, 1), (40, 1), (15, 3), (4, 11)])
def test_an_earlier_versions_epoch_reveals_other_data(images, epoch, resumed, console):
    """Step 12 was in epoch 2, which fits epochs of 4 or 5 steps of 4 images."""
    assert resumed(images=images, numbers={"images_per_step": 4}) == (12, False, 12)
    output = console.readouterr().out
    assert (f"step 12 was in epoch 2, but is in epoch {epoch} of mindrecord_dir" in output) == (epoch is not None)


def test_the_newest_backed_up_checkpoint_is_named(tmp_path, monkeypatch):
    """After a new run that stopped before its first checkpoint, and backed up the earlier ones."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="ckpt_0 .*--run_dir.*--load_checkpoint_path"):
        checkpoints_to_resume("ckpt_0")
    for number in (2, 10):
        for step in (3, 4):
            CheckpointFolder(f"ckpt_0.{number}", 9, {}).save({"w": Parameter(Tensor(1.0), name="w")}, 0, step, {})
    for name in ("ckpt_0", "ckpt_0.11", "ckpt_0.old"):
        os.mkdir(name)
    last = os.path.join("ckpt_0.10", "centernet-1_4.ckpt")
    with pytest.raises(UserError, match=f"ckpt_0 .*--load_checkpoint_path {last}"):
        checkpoints_to_resume("ckpt_0")
    with pytest.raises(UserError, match=f"^last .*{last}"):
        resolve_checkpoint_alias("last")


def test_an_interrupted_run_resumes_with_the_command_it_prints(least_run, tiny_records, tmp_path):
    """In separate processes, ended by a signal and started by a shell. Slow: two load MindSpore and compile."""
    args = [*TINY, "--epoch_size", 400, "--save_checkpoint_steps", 10000, "--mindrecord_dir", tiny_records]
    command = [sys.executable, os.path.join(ROOT, "tests", "least_train.py"), *map(str, args)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "step: 2 " in line:
            process.send_signal(signal.SIGINT)
            break
    _, output = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in output, output[-2000:]
    match = re.search(r"^interrupted: (\d+) of 2000 steps done; resume with: (.*)$", output, re.M)
    last = max(int(match[1]) + 1, 7)
    done = subprocess.run(f"{match[2]} --train_steps {last}", shell=True, cwd=tmp_path, capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    records = read_training_log(str(tmp_path / "train_record.jsonl"))
    assert [record["step"] for record in records] == list(range(1, last + 1))
    for undisturbed, record in zip(read_training_log(str(least_run / "train_record.jsonl")), records):
        assert record["loss"] == pytest.approx(undisturbed["loss"], rel=1e-5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["ckpt_0", "loss.png", "settings.1.yaml", "settings.yaml", "train_batch.jpg", "train_record.jsonl"]


def test_ranks_that_do_not_start_alike(tmp_path):
    """Different steps or checkpoints, perhaps files of the same name on different servers: an error on each rank."""
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
        with pytest.raises(UserError, match=f"after step 6, from {ranks[0][0]}"):
            meet(*ranks)


def test_resuming_with_another_batch_size_keeps_the_newest_checkpoint(least_run, tiny_records, light_steps, tmp_path):
    """Steps are renumbered, with lower numbers: 7 steps of 4 images, 5 per epoch, are 3 of 8, 2 per epoch."""
    shutil.copytree(least_run / "ckpt_0", tmp_path / "ckpt_0")
    args = ["--train_config.batch_size", 8, "--epoch_size", 3, "--save_checkpoint_num", 1, "--resume", "true"]
    done = train_least(*args, "--mindrecord_dir", tiny_records, cwd=tmp_path)
    assert "train_config.batch_size was 4, now 8" in done.stdout
    checkpoint, = find_checkpoints(str(tmp_path / "ckpt_0"))
    assert f"checkpoint: {os.path.join('ckpt_0', os.path.basename(checkpoint))}" in done.stdout
    assert int(read_checkpoint(checkpoint)["step"].asnumpy()) == 6
    assert [record["step"] for record in read_training_log(str(tmp_path / "train_record.jsonl"))] == [4, 5, 6]


def test_resuming_from_an_earlier_checkpoint_backs_up_later_ones(least_run, tiny_records, train_least_again, tmp_path):
    for name in ("ckpt_0", "train_record.jsonl"):
        (shutil.copytree if name == "ckpt_0" else shutil.copy)(least_run / name, tmp_path / name)
    args = ["--resume", "true", "--load_checkpoint_path", "ckpt_0/centernet-1_3.ckpt", "--train_steps", 5,
            "--save_checkpoint_num", 5]
    done = train_least_again(*args, "--mindrecord_dir", tiny_records, cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "ckpt_0.1").iterdir()) == [
        "centernet-2_6.ckpt", "centernet-2_6.json", "centernet-2_7.ckpt", "centernet-2_7.json", "train_record.jsonl"]
    assert "ckpt_0.1 (centernet-2_6.ckpt, centernet-2_7.ckpt)" in done.stdout
    record = (tmp_path / "ckpt_0.1" / "train_record.jsonl").read_bytes()
    assert record == (least_run / "train_record.jsonl").read_bytes()
    names = [os.path.basename(path) for path in find_checkpoints(str(tmp_path / "ckpt_0"))]
    assert names == ["centernet-1_3.ckpt", "centernet-1_5.ckpt"]
    assert [record["step"] for record in read_training_log(str(tmp_path / "train_record.jsonl"))] == [1, 2, 3, 4, 5]
