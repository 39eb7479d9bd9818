"""The training step, the schedules, the loop with its logs and checkpoints, and resuming."""
import json
import os
import re
import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src import engine, torch_weights
from src.centernet_det import NetworkWithLoss, TrainStep, build_loss, build_network, set_precision
from src.checkpoint import CheckpointFolder, load_weights, parameter_shapes, read_checkpoint, save_weights
from src.deform_conv import resolve_dcn_impl
from src.errors import UserError
from src.lr_schedule import MultiDecay, PolyDecay
from src.model_utils import device_adapter
from src.model_utils.device_adapter import init_ranks, profiling, set_device
from src.training_log import TrainingLog, read_training_log
from src.utils import keep_earlier, whole_file
from tests import parity
from tests.conftest import ROOT, TINY, assert_user_error, run_script

LOG_LINE = re.compile(
    r"epoch: (\d+) \| current epoch percent: (\d\.\d{3}) \| step: (\d+) \| loss (\S+) \| "
    r"overflow (True|False) \| scaling_sens (\S+) \| lr (\S+)"
)

# ---------------------------------------------------------------- schedules


def rates(schedule, steps):
    return [float(schedule(Tensor([step], ms.int32)).asnumpy()) for step in steps]


def test_multi_decay():
    schedule = MultiDecay(5e-4, 10, [90, 120], factor=10, warmup_steps=4)
    np.testing.assert_allclose(
        rates(schedule, [0, 1, 3, 4, 899, 900, 1199, 1200, 5000]),
        [1.25e-4, 2.5e-4, 5e-4, 5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6], rtol=1e-5,
    )


def test_poly_decay():
    schedule = PolyDecay(5e-4, 5e-7, 100, power=5.0, warmup_steps=0)
    expected = [5e-7 + (5e-4 - 5e-7) * (1 - step / 100) ** 5 for step in (0, 10, 50, 99, 100)] + [5e-7]
    np.testing.assert_allclose(rates(schedule, [0, 10, 50, 99, 100, 200]), expected, rtol=1e-4)
    warm = PolyDecay(5e-4, 5e-7, 100, power=1.0, warmup_steps=10)
    assert rates(warm, [0])[0] == pytest.approx(5e-5, rel=1e-4)


def test_schedules_follow_the_configuration(make_config):
    multi = make_config("--train_config.MultiDecay.multi_epochs", "[2]", "--train_config.MultiDecay.warmup_steps", 0,
                        "--train_config.MultiDecay.factor", 4, "--train_config.MultiDecay.learning_rate", 0.8)
    np.testing.assert_allclose(rates(engine.build_schedule(multi.train_config, 10, 5), [19, 20]), [0.8, 0.2], rtol=1e-5)
    poly = make_config("--train_config.lr_schedule", "PolyDecay", "--train_config.PolyDecay.end_learning_rate", 0.1,
                       "--train_config.PolyDecay.learning_rate", 0.5, "--train_config.PolyDecay.power", 1,
                       "--train_config.PolyDecay.warmup_steps", 0)
    np.testing.assert_allclose(rates(engine.build_schedule(poly.train_config, 10, 5), [0, 25, 50]), [0.5, 0.3, 0.1], rtol=1e-5)


# ---------------------------------------------------------------- the training cell


class Quadratic(nn.Cell):
    """A stand-in for the network with its loss: sum of (w * x) ** 2 / 2, so that the gradient is w * x * x."""

    def __init__(self, start):
        super().__init__()
        self.w = Parameter(Tensor(np.array(start, np.float32)), name="w")

    def construct(self, x):
        loss = 0.5 * ops.square(self.w * x).sum()
        return loss, loss, ops.zeros_like(loss), ops.zeros_like(loss)


def quadratic_step(start=(3.0, 4.0), **options):
    cell = Quadratic(start)
    optimizer = nn.SGD(cell.trainable_params(), learning_rate=0.1)
    return cell, optimizer, TrainStep(cell, optimizer, **options).set_train()


def test_a_step_does_not_depend_on_the_loss_scale():
    for scale in (None, 1.0, 1024.0):
        cell, _, step = quadratic_step(loss_scale=scale)
        loss, _, _, _, overflow, used, rate = step(Tensor([1.0, 1.0]))
        np.testing.assert_allclose(cell.w.asnumpy(), [2.7, 3.6], rtol=1e-6)
        assert float(loss.asnumpy()) == pytest.approx(12.5)
        assert not overflow.asnumpy()
        assert float(used.asnumpy()) == (scale or 1.0)
        assert float(rate.asnumpy()) == pytest.approx(0.1)


def test_an_overflow_skips_the_step():
    cell, _, step = quadratic_step(loss_scale=1024.0)
    loss, *_, overflow, _, _ = step(Tensor([1e18, 1.0]))
    assert overflow.asnumpy()
    assert np.isfinite(loss.asnumpy())
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    *_, overflow, _, _ = step(Tensor([1.0, 1.0]))
    assert not overflow.asnumpy()
    np.testing.assert_allclose(cell.w.asnumpy(), [2.7, 3.6], rtol=1e-6)


def test_an_overflow_keeps_adams_moments_and_step():
    cell = Quadratic((3.0, 4.0))
    optimizer = nn.Adam(cell.trainable_params(), learning_rate=MultiDecay(0.1, 1, [1], 10, 0))
    step = TrainStep(cell, optimizer, 1024.0).set_train()
    step(Tensor([1e18, 1.0]))
    assert int(optimizer.global_step.asnumpy()[0]) == 0
    assert optimizer.moment1[0].asnumpy().max() == 0
    assert float(step(Tensor([1.0, 1.0]))[-1].asnumpy()) == pytest.approx(0.1)  # the rate of the first step
    assert int(optimizer.global_step.asnumpy()[0]) == 1
    assert float(step(Tensor([1.0, 1.0]))[-1].asnumpy()) == pytest.approx(0.01)


def test_an_overflow_elsewhere_skips_the_step_here():
    """Ranks decide together: a stand-in adds what another rank says, that its gradients are not finite."""
    class OtherRank(nn.Cell):
        def construct(self, x):
            return x + Tensor([1.0, 1.0, 1.0, 1.0, 1.0])

    cell, _, step = quadratic_step(loss_scale=1024.0, ranks=2, sum_over_ranks=OtherRank())
    loss, *_, overflow, _, _ = step(Tensor([1.0, 1.0]))
    assert overflow.asnumpy()
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    assert float(loss.asnumpy()) == pytest.approx((12.5 + 1) / 2)  # the mean over both


def test_the_dynamic_loss_scale():
    """It doubles after two good steps, halves on an overflow, and an overflow starts the count anew."""
    cell, _, step = quadratic_step(loss_scale=8.0, growth_interval=2)
    good, bad = Tensor([0.0, 0.0]), Tensor([1e19, 1.0])
    used = [float(step(x)[5].asnumpy()) for x in (good, good, good, bad, good, bad, good, good, good)]
    assert used == [8, 8, 16, 16, 8, 8, 4, 4, 8]
    assert float(step.scale.asnumpy()) == 8 and int(step.good_steps.asnumpy()) == 1
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    for _ in range(5):
        step(bad)
    assert float(step.scale.asnumpy()) == 1  # and no lower


def test_a_fixed_loss_scale_stays():
    _, _, step = quadratic_step(loss_scale=8.0)
    for x in (Tensor([1e19, 1.0]), Tensor([0.0, 0.0])):
        step(x)
    assert float(step.scale.asnumpy()) == 8


@pytest.mark.parametrize("level, features, heads", [("O0", ms.float32, ms.float32), ("O2", ms.float16, ms.float32),
                                                    ("O3", ms.float16, ms.float16)])
def test_what_computes_in_float16(level, features, heads, make_config):
    """Convolutions do, heads only with O3, batch norm and parameters never."""
    network = build_network(make_config("--net_config.num_stacks", "[1, 1, 1, 1]").net_config, 2, "composite")
    set_precision(network, level).set_train(False)
    picture = Tensor(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))
    convolved = network.backbone.conv1(picture)
    assert convolved.dtype == features
    assert network.backbone.bn1(convolved).dtype == ms.float32
    assert [output.dtype for output in network(picture)] == [heads] * 3
    assert {parameter.dtype for parameter in network.get_parameters()} == {ms.float32}


def test_clipping_limits_the_global_norm():
    cell, _, step = quadratic_step(loss_scale=1024.0, clip_grad_norm=1.0)
    step(Tensor([1.0, 1.0]))  # the gradient (3, 4) has norm 5
    np.testing.assert_allclose(cell.w.asnumpy(), [3 - 0.1 * 3 / 5, 4 - 0.1 * 4 / 5], rtol=1e-5)


def test_weight_decay_spares_what_decay_filter_names(make_config):
    words = ["--train_config.Adam.weight_decay", 0.01, "--train_config.Adam.decay_filter", "[.bias, .gamma]"]
    config = make_config("--net_config.num_stacks", "[1, 1, 1, 1]", *words)
    network = build_network(config.net_config, 2, "composite")
    optimizer = engine.build_optimizer(network, config.train_config, 10, 1)
    decay = {parameter.name: float(np.asarray(value)) for parameter, value in zip(optimizer.parameters, optimizer.weight_decay)}
    assert decay["backbone.conv1.weight"] == pytest.approx(0.01)
    assert decay["backbone.bn1.beta"] == pytest.approx(0.01)
    assert decay["hm.2.bias"] == 0 and decay["backbone.bn1.gamma"] == 0


def random_batch(rng, size, classes, n=2, slots=4, wh_columns=2, dense=False):
    """A batch of the pipeline's columns with random targets, NumPy arrays."""
    out = size // 4
    hm = rng.random((n, classes, out, out)).astype(np.float32) ** 6
    ind = rng.integers(0, out * out, (n, slots)).astype(np.int32)
    for row in range(n):
        hm[row, 0].reshape(-1)[ind[row]] = 1
    wh_shape = (n, 2, out, out) if dense else (n, slots, wh_columns)
    reg_mask = np.ones((n, slots), np.float32)
    return {
        "image": rng.standard_normal((n, 3, size, size)).astype(np.float32), "hm": hm, "ind": ind,
        "reg": rng.random((n, slots, 2)).astype(np.float32), "reg_mask": reg_mask,
        "wh": 10 * rng.random(wh_shape).astype(np.float32), "wh_mask": np.ones(wh_shape, np.float32),
    }


@pytest.mark.parametrize("words", [
    ("--net_config.mse_loss", "true"), ("--net_config.reg_loss", "sl1"), ("--net_config.norm_wh", "true"),
    ("--net_config.dense_wh", "true"), ("--net_config.cat_spec_wh", "true"),
    ("--train_config.amp_level", "O2"), ("--train_config.amp_level", "O3", "--train_config.dynamic_loss_scale", "true"),
    ("--train_config.amp_level", "auto"),
    *(("--net_config.dcn_impl", "native", "--train_config.amp_level", level) for level in ("O2", "O3", "auto")),
    ("--net_config.reg_offset", "false", "--train_config.clip_grad_norm", 5, "--enable_lossscale", "false"),
])
def test_every_variant_trains(words, make_config):
    """A few steps on one batch lower its loss, whatever heads and losses are chosen."""
    config = make_config(*words, "--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", 8,
                         "--train_config.MultiDecay.warmup_steps", 0)
    ms.set_seed(3)
    network = build_network(config.net_config, 3, resolve_dcn_impl(config.net_config.dcn_impl, "CPU"))
    step = engine.build_train_step(network, config, engine.build_optimizer(network, config.train_config, 100, 1))
    columns = 6 if config.net_config.cat_spec_wh else 2
    batch = random_batch(np.random.default_rng(0), 64, 3, wh_columns=columns, dense=config.net_config.dense_wh)
    tensors = [Tensor(value) for value in batch.values()]
    losses = [float(step(*tensors)[0].asnumpy()) for _ in range(6)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0], losses
    assert float(step.scale.asnumpy()) == (1.0 if not config.enable_lossscale else 1024.0)


def test_loss_and_gradients_are_pytorchs(make_config):
    """Forward and backward through the whole ResNet18-DCN in training mode, same weights, same batch."""
    reference = parity.reference_network(3)
    weights = parity.arrays(reference)
    config = make_config()
    network = parity.converted_network(weights, "composite")
    batch = random_batch(np.random.default_rng(1), 128, 3)

    expected = parity.reference_loss(reference.train(), batch)
    expected[0].backward()

    cell = NetworkWithLoss(network, build_loss(config.net_config)).set_train()
    parameters = network.trainable_params()

    def forward(*tensors):
        return cell(*tensors)

    losses, grads = ms.value_and_grad(forward, None, parameters, has_aux=True)(*(Tensor(value) for value in batch.values()))
    values = [float(value.asnumpy()) for value in losses]
    np.testing.assert_allclose(values, [value.item() for value in expected], rtol=1e-4)
    gradients = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    state = {**weights, **gradients}
    names = torch_weights.from_torch(state, parameter_shapes(network), "original").weights
    for parameter, grad in zip(parameters, grads):
        reference_grad = names[parameter.name]
        norm = np.linalg.norm(reference_grad)
        if norm < 1e-4:
            continue  # a bias before a batch norm: its gradient is rounding noise
        # Rounding flips single ReLUs, of which the few object centres see much: 1e-6 between outputs, 1e-2 between gradients.
        assert np.linalg.norm(grad.asnumpy() - reference_grad) < 0.02 * norm, parameter.name


# ---------------------------------------------------------------- files


def test_files_appear_whole(tmp_path):
    path = str(tmp_path / "a.json")
    with pytest.raises(KeyError), whole_file(path) as partial:
        open(partial, "w").close()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_keep_earlier_never_overwrites(tmp_path):
    for text in ("first", "second", "third"):
        path = keep_earlier(str(tmp_path / "log.txt"))
        with open(path, "w") as file:
            file.write(text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"log.1.txt": "first", "log.2.txt": "second", "log.txt": "third"}


def test_a_checkpoint_folder_keeps_the_newest(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 2, {"classes": []}, resume=False)
    for step in (5, 10, 100):
        folder.save({"w": Parameter(Tensor([float(step)]), name="w")}, 0, step, 4)
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["centernet-1_10.ckpt", "centernet-1_10.json", "centernet-1_100.ckpt", "centernet-1_100.json"]
    assert read_checkpoint(str(tmp_path / "c" / "centernet-1_100.ckpt"))["w"].asnumpy() == [100]
    CheckpointFolder(str(tmp_path / "c"), 2, {}, resume=False)
    assert len(list((tmp_path / "c.1").iterdir())) == 4


def test_a_flipped_bit_among_the_weights_is_noticed(tmp_path):
    path = tmp_path / "w.ckpt"
    save_weights(str(path), {"w": np.ones(1000, np.float32)})
    data = bytearray(path.read_bytes())
    assert read_checkpoint(str(path))["w"].asnumpy().sum() == 1000
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="w.ckpt: not a MindSpore checkpoint, or a damaged one .*crc"):
        read_checkpoint(str(path))


def test_checkpoints_without_a_checksum_load_quietly(tmp_path, capfd):
    ms.save_checkpoint([{"name": "w", "data": Tensor(np.ones(9, np.float32))}], str(tmp_path / "w.ckpt"))
    assert read_checkpoint(str(tmp_path / "w.ckpt"))["w"].size == 9
    assert capfd.readouterr() == ("", "")
    (tmp_path / "short.ckpt").write_bytes(b"crc")
    with pytest.raises(UserError, match="short.ckpt"):
        read_checkpoint(str(tmp_path / "short.ckpt"))


def test_resuming_leaves_a_damaged_newest_checkpoint_out(tmp_path, capsys):
    folder = CheckpointFolder(str(tmp_path / "c"), 5, {}, resume=False)
    paths = [folder.save({"w": Parameter(Tensor([float(step)]), name="w")}, 0, step, 4) for step in (5, 10)]
    assert engine.newest_checkpoint(str(tmp_path / "c")) == paths[1]
    with open(paths[1], "r+b") as file:
        file.truncate(30)
    assert engine.newest_checkpoint(str(tmp_path / "c")) == paths[0]
    assert f"left out: {paths[1]}: not a MindSpore checkpoint" in capsys.readouterr().out
    os.remove(paths[0])
    with pytest.raises(UserError, match="no checkpoint in"):
        engine.newest_checkpoint(str(tmp_path / "c"))


def test_resuming_removes_what_a_killed_save_left(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 5, {}, resume=False)
    folder.save({"w": Parameter(Tensor([5.0]), name="w")}, 0, 5, 4)
    for name in ("centernet-1_10.json", "centernet-1_10.partial.ckpt", "centernet-1_10.partial.ckpt.tmp", "notes.json"):
        (tmp_path / "c" / name).write_text("")
    CheckpointFolder(str(tmp_path / "c"), 5, {}, resume=True)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["centernet-1_5.ckpt", "centernet-1_5.json", "notes.json"]


def test_a_resumed_record_goes_on_and_loses_nothing(tmp_path):
    """Steps beyond the checkpoint are done again; those that were recorded of them are kept aside."""
    path = str(tmp_path / "r.jsonl")

    def record(steps, done):
        log = TrainingLog(path, done)
        for step in steps:
            log.step(step, 10, (1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
        log.close()

    def steps(name):
        return [entry["step"] for entry in read_training_log(str(tmp_path / name))]

    record((1, 2, 3, 4), 0)
    record((4, 5), 3)
    assert steps("r.jsonl") == [1, 2, 3, 4, 5] and steps("r.1.jsonl") == [1, 2, 3, 4]
    record((6,), 5)
    assert steps("r.jsonl") == [1, 2, 3, 4, 5, 6] and len(list(tmp_path.iterdir())) == 2
    record((1,), 0)
    assert steps("r.jsonl") == [1] and steps("r.2.jsonl") == [1, 2, 3, 4, 5, 6]


def test_a_record_on_a_full_disk(tmp_path):
    log = TrainingLog(None, 0)
    log.file = open("/dev/full", "w")
    with pytest.raises(UserError, match="/dev/full could not be written .No space left on device."):
        log.step(7, 10, (1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
    assert log.file.closed


DISK_FULL = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import mindspore as ms, numpy as np
from src import errors
from src.checkpoint import CheckpointFolder

def main():
    folder = CheckpointFolder(sys.argv[2], 1, {"classes": []}, False)
    weight = {"w": ms.Parameter(ms.Tensor(np.zeros(10000, np.float32)), name="w")}
    folder.save(weight, 0, 1, 4)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # a file may not grow further, as on a full disk
    folder.save(weight, 0, 2, 4)

errors.run(main)
"""


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", DISK_FULL, ROOT, str(tmp_path / "c")], capture_output=True, text=True)
    assert_user_error(done, "centernet-1_2.ckpt could not be written", "the last checkpoint is", "centernet-1_1.ckpt")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["centernet-1_1.ckpt", "centernet-1_1.json"]
    assert read_checkpoint(str(tmp_path / "c" / "centernet-1_1.ckpt"))["w"].size == 10000


# ---------------------------------------------------------------- the loop, through train.py


def test_the_log_line_and_its_record(tiny_run):
    lines = [line for line in (tiny_run / "stdout.txt").read_text().splitlines() if line.startswith("epoch:")]
    assert len(lines) == 7
    records = read_training_log(str(tiny_run / "train_record.jsonl"))
    for number, (line, record) in enumerate(zip(lines, records), 1):
        match = LOG_LINE.fullmatch(line)
        assert match, line
        epoch, percent, step, loss, overflow, scale, rate = match.groups()
        assert (int(epoch), float(percent), int(step)) == ((number - 1) // 5, ((number - 1) % 5 + 1) / 5, number)
        assert (overflow, scale) == ("False", "1024.0")
        assert np.float32(loss) == np.float32(record["loss"]) and np.float32(rate) == np.float32(record["lr"])
        parts = record["hm_loss"] + 0.1 * record["wh_loss"] + record["off_loss"]
        assert record["loss"] == pytest.approx(parts, rel=1e-5)
        assert record["images_per_second"] > 0
    np.testing.assert_allclose([record["lr"] for record in records], [2.5e-4] + [5e-4] * 6, rtol=1e-5)


def test_what_training_leaves(tiny_run):
    names = {path.name for path in (tiny_run / "ckpt_0").iterdir()}
    assert names == {f"centernet-{name}.{ending}" for name in ("1_3", "2_6", "2_7") for ending in ("ckpt", "json")}
    assert (tiny_run / "loss.png").stat().st_size > 10_000
    side = json.loads((tiny_run / "ckpt_0" / "centernet-2_7.json").read_text())
    assert side["classes"] == ["rectangle", "ellipse", "triangle"] and side["category_ids"] == [1, 2, 3]
    assert side["net_config"]["num_stacks"] == [1, 1, 1, 1] and side["step"] == 7


def test_stopped_and_resumed_equals_never_stopped(tiny_run, tiny_records, tmp_path):
    (tmp_path / "ckpt_0").mkdir()
    for ending in ("ckpt", "json"):
        shutil.copy(tiny_run / "ckpt_0" / f"centernet-1_3.{ending}", tmp_path / "ckpt_0")
    # The run was stopped after step 4: that step's record is made anew.
    (tmp_path / "train_record.jsonl").write_text("".join((tiny_run / "train_record.jsonl").read_text().splitlines(True)[:4]))
    words = ["--epoch_size", 2, "--train_steps", 7, "--resume", "true"]
    done = run_script("train.py", *TINY, *words, "--mindrecord_dir", tiny_records, cwd=tmp_path)
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


def test_a_checkpoint_without_the_count_of_good_steps_resumes(make_config, tmp_path):
    """Checkpoints from before the dynamic loss scale lack it."""
    class Set:
        images_per_step = 4
        places = range(20)

    def parameters():
        return {name: Parameter(Tensor(np.full(1, 3, np.int32)), name=name) for name in ("global_step", "w", "good_steps")}

    old = {name: parameter for name, parameter in parameters().items() if name != "good_steps"}
    path = CheckpointFolder(str(tmp_path / "c"), 1, {}, resume=False).save(old, 1, 7, 4)
    state = parameters()
    state["w"].set_data(Tensor(np.zeros(1, np.int32)))
    assert engine.restore(state, path, Set) == 7
    assert state["w"].asnumpy() == [3] and state["good_steps"].asnumpy() == [3]
    with pytest.raises(UserError, match="v is missing"):
        engine.restore({**state, "v": state["w"]}, path, Set)


def test_a_second_run_loses_nothing_and_starts_from_weights(tiny_run, tiny_records, tmp_path):
    """Fine-tuning from a checkpoint in the very folder that the run writes to."""
    shutil.copytree(tiny_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "ckpt_0").iterdir()}
    record = (tmp_path / "run" / "train_record.jsonl").read_text()
    words = ["--train_steps", 1, "--load_checkpoint_path", "ckpt_0/centernet-2_7.ckpt", "--enable_data_sink", "true", "--seed", 9]
    done = run_script("train.py", *TINY, *words, "--mindrecord_dir", tiny_records, cwd=tmp_path / "run")
    assert "loaded ckpt_0/centernet-2_7.ckpt" in done.stdout
    assert "enable_data_sink works on Ascend only" in done.stdout
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "ckpt_0.1").iterdir()} == before
    assert (tmp_path / "run" / "train_record.1.jsonl").read_text() == record
    assert len(list((tmp_path / "run" / "ckpt_0").iterdir())) == 2


def test_compiled_graphs_are_kept_apart(tiny_run, tiny_records, tmp_path):
    """The second start takes the first one's graph, with other weights; another weight of a loss or a batch size makes another graph."""
    def train(name, *words):
        words = [*TINY, "--mindrecord_dir", tiny_records, "--enable_save_ckpt", "false", "--train_steps", 2, *words]
        run_script("train.py", *words, "--save_result_dir", tmp_path / name, cwd=tmp_path)
        return read_training_log(str(tmp_path / name / "train_record.jsonl"))

    cache = ["--compile_cache_dir", "graphs"]
    start = ["--load_checkpoint_path", tiny_run / "ckpt_0" / "centernet-2_7.ckpt"]
    train("first", *cache)
    graphs = {path: path.stat().st_mtime_ns for path in (tmp_path / "graphs").rglob("*.mindir")}
    assert graphs
    for kept, compiled in zip(train("second", *cache, *start), train("alone", *start)):
        assert [kept[name] for name in TrainingLog.FIELDS[2:7]] == [compiled[name] for name in TrainingLog.FIELDS[2:7]]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "graphs").rglob("*.mindir")} == graphs
    other = train("other", *cache, "--net_config.hm_weight", 5, "--train_config.batch_size", 2)[0]
    assert other["loss"] == pytest.approx(5 * other["hm_loss"] + 0.1 * other["wh_loss"] + other["off_loss"], rel=1e-5)
    assert len(list((tmp_path / "graphs").iterdir())) == 2


def test_mindspores_own_switch_for_its_graph_cache_is_left_out(monkeypatch, capsys):
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    set_device("CPU", 0)
    assert "MS_COMPILER_CACHE_ENABLE" not in os.environ and "--compile_cache_dir" in capsys.readouterr().out


def test_training_with_profiler_and_without_checkpoints(tiny_records, tmp_path):
    words = ["--train_steps", 1, "--enable_save_ckpt", "false", "--need_profiler", "true", "--profiler_path", "profile"]
    done = run_script("train.py", *TINY, *words, "--mindrecord_dir", tiny_records, "--save_result_dir", "results", cwd=tmp_path)
    table = done.stdout[done.stdout.index("costliest operators"):].splitlines()[1:11]
    shares = [float(line.split()[-1].rstrip("%")) for line in table]
    assert len(table) == 10 and shares == sorted(shares, reverse=True) and "Conv2D" in "".join(table)
    assert not (tmp_path / "ckpt_0").exists()
    assert [path for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    assert len(read_training_log(str(tmp_path / "results" / "train_record.jsonl"))) == 1


def test_a_loss_that_is_not_finite_stops_training(tiny_run, tiny_records, tmp_path):
    rate = ["--train_config.MultiDecay.learning_rate", 1e25, "--train_config.MultiDecay.warmup_steps", 0, "--save_checkpoint_steps", 1]
    done = run_script("train.py", *TINY[:-2], *rate, "--mindrecord_dir", tiny_records, cwd=tmp_path, check=False)
    assert_user_error(done, "training stops", "the last checkpoint is ckpt_0/centernet-1_")
    checkpoints = list((tmp_path / "ckpt_0").glob("*.ckpt"))
    assert len(checkpoints) == 1
    read_checkpoint(str(checkpoints[0]))


@pytest.mark.parametrize("words, parts", [
    (["--mindrecord_dir", "/nowhere"], ["/nowhere"]),
    ([], ["no MindRecord folder"]),
    (["--mindrecord_dir", "RECORDS", "--mindrecord_prefix", "other"], ["no finished conversion", "other.manifest.json"]),
    (["--mindrecord_dir", "RECORDS", "--load_checkpoint_path", "/nowhere.ckpt"], ["checkpoint", "/nowhere.ckpt"]),
    (["--mindrecord_dir", "RECORDS", "--resume", "true"], ["no checkpoint in ckpt_0"]),
    (["--mindrecord_dir", "RECORDS", "--save_checkpoint_path", "/proc/nowhere"], ["/proc/nowhere"]),
    (["--mindrecord_dir", "RECORDS", "--train_steps", 0], ["nothing to train"]),
    (["--mindrecord_dir", "RECORDS", "--device_target", "Ascend"], ["MindSpore finds none"]),
    (["--mindrecord_dir", "RECORDS", "--distribute", "true"], ["launcher"]),
])
def test_training_mistakes(words, parts, tiny_records, tmp_path):
    words = [tiny_records if word == "RECORDS" else word for word in words]
    assert_user_error(run_script("train.py", *TINY, *words, cwd=tmp_path, check=False), *parts)


def test_a_damaged_checkpoint_is_named(tiny_run, tmp_path):
    path = tmp_path / "centernet-1_3.ckpt"
    path.write_bytes((tiny_run / "ckpt_0" / "centernet-1_3.ckpt").read_bytes()[:5000])
    with pytest.raises(UserError, match="centernet-1_3.ckpt"):
        read_checkpoint(str(path))


def test_checkpoints_of_another_shape(tiny_run, make_config):
    parameters = read_checkpoint(str(tiny_run / "ckpt_0" / "centernet-2_7.ckpt"))
    config = make_config("--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", 16)
    other_classes = build_network(config.net_config, 5, "composite")
    with pytest.raises(UserError, match="hm.2.weight.*another number of classes"):
        load_weights(other_classes, parameters, "c")
    kept = load_weights(other_classes, parameters, "c", skip_reshaped_heads=True)
    assert kept == ["hm.2.weight", "hm.2.bias"]
    np.testing.assert_array_equal(other_classes.hm[0].weight.asnumpy(), parameters["hm.0.weight"].asnumpy())
    resnet18 = build_network(make_config().net_config, 3, "composite")
    with pytest.raises(UserError, match="it has no backbone.layer1.1.conv1.weight"):
        load_weights(resnet18, parameters, "c")


def test_a_backbone_can_be_loaded_alone(tmp_path, make_config):
    config = make_config("--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.load_backbone_path", tmp_path / "b.ckpt")
    source = build_network(config.net_config, 2, "composite")
    ms.save_checkpoint([{"name": p.name, "data": p} for p in source.backbone.get_parameters()], str(tmp_path / "b.ckpt"))
    network = build_network(config.net_config, 2, "composite")
    engine.start_weights(network, config)
    np.testing.assert_array_equal(network.backbone.conv1.weight.asnumpy(), source.backbone.conv1.weight.asnumpy())


def test_sinking_hands_the_pipeline_to_the_device(monkeypatch):
    """Data sink works on Ascend alone; here a stand-in shows what it is given."""
    calls = []

    def data_sink(step, data, sink_size):
        calls.append((step, data, sink_size))
        return lambda: "results"

    class Data:
        def get_dataset_size(self):
            return 10

    monkeypatch.setattr(engine.ms, "data_sink", data_sink)
    data = Data()
    assert list(engine.run_steps("step", data, 5)) == [(5, "results")] * 2
    assert list(engine.run_steps("step", data, 4)) == [(4, "results")] * 2  # the last two are for the next call
    assert list(engine.run_steps("step", data, 30)) == [(10, "results")]
    assert [size for *_, size in calls] == [5, 4, 10]


def test_sinking_is_for_ascend(make_config, capsys):
    config = make_config("--data_sink_steps", 5)
    assert engine.choose_sink_steps(config, "Ascend") == 5
    assert capsys.readouterr().out == ""
    assert engine.choose_sink_steps(config, "CPU") == 0
    assert "works on Ascend only" in capsys.readouterr().out
    assert engine.choose_sink_steps(make_config("--enable_data_sink", "false", "--data_sink_steps", 5), "Ascend") == 0


def test_ascend_is_taken_where_there_is_one(monkeypatch):
    """What MindSpore is told on a machine with an NPU; a stand-in, there is none here."""
    calls = []
    monkeypatch.setattr(device_adapter.ms.hal, "is_available", lambda name: name == "Ascend")
    monkeypatch.setattr(device_adapter.ms, "set_device", lambda *words: calls.append(words))
    monkeypatch.setattr(device_adapter.ms.device_context.ascend.op_precision, "conv_allow_hf32", lambda value: calls.append(value))
    monkeypatch.setattr(device_adapter.ms, "set_context", lambda **words: calls.append(words.get("jit_config")))
    assert [set_device("auto", 3), set_device("Ascend", 3, True, "O1"), set_device("CPU", 3)] == ["Ascend", "Ascend", "CPU"]
    assert calls == [None, ("Ascend", 3), False, None, ("Ascend", 3), True, {"jit_level": "O1"}, None, ("CPU",)]


def test_device_num_must_be_what_was_started(monkeypatch):
    from mindspore import communication

    monkeypatch.setattr(communication, "init", lambda: None)
    monkeypatch.setattr(communication, "get_rank", lambda: 1)
    monkeypatch.setattr(communication, "get_group_size", lambda: 2)
    monkeypatch.setattr(device_adapter.ms, "set_auto_parallel_context", lambda **_: None)
    assert init_ranks(True, 2) == (1, 2)
    assert init_ranks(True, 1) == (1, 2)
    assert init_ranks(False, 8) == (0, 1)
    with pytest.raises(UserError, match="device_num is 4, and the launcher started 2"):
        init_ranks(True, 4)


def test_device_selection():
    assert set_device("auto", 0) == "CPU"
    with pytest.raises(UserError, match="MindSpore finds none"):
        set_device("Ascend", 0)


def test_profiling_leaves_files(tmp_path):
    with profiling(True, str(tmp_path / "profile")):
        (Tensor(np.ones((8, 8), np.float32)) * 2).asnumpy()
    assert [path for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    with profiling(False, str(tmp_path / "none")):
        pass
    assert not (tmp_path / "none").exists()
