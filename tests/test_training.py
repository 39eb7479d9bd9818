"""The training step, the schedules, the loop with its logs and checkpoints, and resuming."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src import engine, resume, torch_weights
from src.centernet_det import build_network
from src.checkpoint import CheckpointFolder, load_weights, parameter_shapes, read_checkpoint, save_weights
from src.deform_conv import resolve_dcn_impl
from src.errors import Interrupted, UserError
from src.lr_schedule import MultiDecay, PolyDecay
from src.model_utils import device_adapter
from src.model_utils.device_adapter import init_ranks, profiling, set_device
from src.optimizer import build_optimizer, build_schedule
from src.side_file import find_checkpoints
from src.train_step import AcrossRanks, LossScaling, NetworkWithLoss, TrainStep, build_loss, set_precision
from src.training_log import TrainingLog, read_training_log
from src.utils import keep_earlier, whole_file
from tests import parity
from tests.conftest import ROOT, TINY, assert_user_error, call_script, run_script

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
    np.testing.assert_allclose(rates(build_schedule(multi.train_config, 10, 5), [19, 20]), [0.8, 0.2], rtol=1e-5)
    poly = make_config("--train_config.lr_schedule", "PolyDecay", "--train_config.PolyDecay.end_learning_rate", 0.1,
                       "--train_config.PolyDecay.learning_rate", 0.5, "--train_config.PolyDecay.power", 1,
                       "--train_config.PolyDecay.warmup_steps", 0)
    np.testing.assert_allclose(rates(build_schedule(poly.train_config, 10, 5), [0, 25, 50]), [0.5, 0.3, 0.1], rtol=1e-5)


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
        cell, _, step = quadratic_step(scaling=LossScaling(scale))
        loss, _, _, _, overflow, used, rate, stop = step(Tensor([1.0, 1.0]))
        np.testing.assert_allclose(cell.w.asnumpy(), [2.7, 3.6], rtol=1e-6)
        assert float(loss.asnumpy()) == pytest.approx(12.5)
        assert not overflow.asnumpy()
        assert float(used.asnumpy()) == (scale or 1.0)
        assert float(rate.asnumpy()) == pytest.approx(0.1)
        assert not stop.asnumpy()


def test_an_overflow_skips_the_step():
    cell, _, step = quadratic_step(scaling=LossScaling(1024.0))
    loss, *_, overflow, _, _, _ = step(Tensor([1e18, 1.0]))
    assert overflow.asnumpy()
    assert np.isfinite(loss.asnumpy())
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    *_, overflow, _, _, _ = step(Tensor([1.0, 1.0]))
    assert not overflow.asnumpy()
    np.testing.assert_allclose(cell.w.asnumpy(), [2.7, 3.6], rtol=1e-6)


def test_an_overflow_keeps_adams_moments_and_step():
    cell = Quadratic((3.0, 4.0))
    optimizer = nn.Adam(cell.trainable_params(), learning_rate=MultiDecay(0.1, 1, [1], 10, 0))
    step = TrainStep(cell, optimizer, scaling=LossScaling(1024.0)).set_train()
    step(Tensor([1e18, 1.0]))
    assert int(optimizer.global_step.asnumpy()[0]) == 0
    assert optimizer.moment1[0].asnumpy().max() == 0
    assert float(step(Tensor([1.0, 1.0]))[-2].asnumpy()) == pytest.approx(0.1)  # the rate of the first step
    assert int(optimizer.global_step.asnumpy()[0]) == 1
    assert float(step(Tensor([1.0, 1.0]))[-2].asnumpy()) == pytest.approx(0.01)


class WithStatistics(Quadratic):
    """A loss with a batch norm and a part that has no gradient."""

    def __init__(self):
        super().__init__((3.0,))
        self.norm = nn.BatchNorm2d(1)

    def construct(self, x, shift):
        loss = (self.w * self.norm(x)).sum() + ops.stop_gradient(shift).sum()
        return loss, loss, ops.zeros_like(loss), ops.zeros_like(loss)


def test_in_float16_a_loss_that_is_not_finite_is_an_overflow():
    """Though the gradients are finite; the step leaves no trace in the batch norm's statistics. In float32 it is for Watch to end."""
    x = Tensor(np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2))
    for float16 in (True, False):
        cell = WithStatistics()
        step = TrainStep(cell, nn.SGD(cell.trainable_params(), learning_rate=0.1), scaling=LossScaling(8.0, float16=float16)).set_train()
        seen = []
        for shift in (np.inf, 0.0):
            overflow = step(x, Tensor([shift], ms.float32))[4]
            seen.append((bool(overflow.asnumpy()), float(cell.norm.moving_mean.asnumpy()[0])))
        assert [overflow for overflow, _ in seen] == [float16, False]
        assert [mean for _, mean in seen] == pytest.approx([0, 0.15] if float16 else [0.15, 0.285])


def test_an_overflow_elsewhere_skips_the_step_here():
    """Ranks decide together: a stand-in adds what another rank says, that its gradients are not finite."""
    class OtherRank(nn.Cell):
        def construct(self, x):
            return x + Tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])

    cell, _, step = quadratic_step(scaling=LossScaling(1024.0), across=AcrossRanks(2, OtherRank()))
    loss, *_, overflow, _, _, stop = step(Tensor([1.0, 1.0]))
    assert overflow.asnumpy() and stop.asnumpy()
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    assert float(loss.asnumpy()) == pytest.approx((12.5 + 1) / 2)  # the mean over both


def test_the_dynamic_loss_scale():
    """It doubles after two good steps, halves on an overflow, and an overflow starts the count anew."""
    cell, _, step = quadratic_step(scaling=LossScaling(8.0, growth_interval=2))
    good, bad = Tensor([0.0, 0.0]), Tensor([1e19, 1.0])
    used = [float(step(x)[5].asnumpy()) for x in (good, good, good, bad, good, bad, good, good, good)]
    assert used == [8, 8, 16, 16, 8, 8, 4, 4, 8]
    assert float(step.scale.asnumpy()) == 8 and int(step.good_steps.asnumpy()) == 1
    np.testing.assert_array_equal(cell.w.asnumpy(), [3.0, 4.0])
    for _ in range(5):
        step(bad)
    assert float(step.scale.asnumpy()) == 1  # and no lower


def test_a_fixed_loss_scale_stays():
    _, _, step = quadratic_step(scaling=LossScaling(8.0))
    for x in (Tensor([1e19, 1.0]), Tensor([0.0, 0.0])):
        step(x)
    assert float(step.scale.asnumpy()) == 8


@pytest.mark.parametrize("level, features, heads", [("O0", ms.float32, ms.float32), ("O2", ms.float16, ms.float32),
                                                    ("O3", ms.float16, ms.float16)])
def test_what_computes_in_float16(level, features, heads, make_config):
    """Convolutions do, heads only with O3, batch norm and parameters never."""
    network = build_network(make_config("--net_config.num_stacks", "[1, 1, 1, 1]").net_config, 2, "composite")
    set_precision(network, level).set_train(False)
    image = Tensor(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))
    convolved = network.backbone.conv1(image)
    assert convolved.dtype == features
    assert network.backbone.bn1(convolved).dtype == ms.float32
    assert [output.dtype for output in network(image)] == [heads] * 3
    assert {parameter.dtype for parameter in network.get_parameters()} == {ms.float32}


def test_clipping_limits_the_global_norm():
    cell, _, step = quadratic_step(scaling=LossScaling(1024.0), clip_grad_norm=1.0)
    step(Tensor([1.0, 1.0]))  # the gradient (3, 4) has norm 5
    np.testing.assert_allclose(cell.w.asnumpy(), [3 - 0.1 * 3 / 5, 4 - 0.1 * 4 / 5], rtol=1e-5)


def test_weight_decay_spares_what_decay_filter_names(make_config):
    words = ["--train_config.Adam.weight_decay", 0.01, "--train_config.Adam.decay_filter", "[.bias, .gamma]"]
    config = make_config("--net_config.num_stacks", "[1, 1, 1, 1]", *words)
    network = build_network(config.net_config, 2, "composite")
    optimizer = build_optimizer(network, config.train_config, 10, 1)
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
    step = engine.build_train_step(network, config, build_optimizer(network, config.train_config, 100, 1))
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
    names = torch_weights.from_source(state, parameter_shapes(network), "original").weights
    for parameter, grad in zip(parameters, grads):
        reference_grad = names[parameter.name]
        norm = np.linalg.norm(reference_grad)
        if norm < 1e-4:
            continue  # a bias before a batch norm: its gradient is rounding noise
        # Rounding flips single ReLUs, of which the few object centers see much: 1e-6 between outputs, 1e-2 between gradients.
        assert np.linalg.norm(grad.asnumpy() - reference_grad) < 0.02 * norm, parameter.name


# ---------------------------------------------------------------- files


def test_files_appear_whole(tmp_path):
    path = str(tmp_path / "a.json")
    with pytest.raises(KeyError), whole_file(path) as partial:
        open(partial, "w").close()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_neighbour_with_a_similar_name_stays(tmp_path):
    for name in ("a.partial.json", "a.partial.ckpt", ".a.json.partial"):
        (tmp_path / name).write_text("precious")
    for _ in range(2):
        with whole_file(str(tmp_path / "a.json")) as partial:
            open(partial, "w").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.json.partial", "a.json", "a.partial.ckpt", "a.partial.json"]
    assert (tmp_path / "a.partial.json").read_text() == "precious"


def test_files_have_a_new_files_usual_mode(tmp_path):
    """MindSpore writes its files for their owner's eyes only."""
    (tmp_path / "plain").touch()
    save_weights(str(tmp_path / "w.ckpt"), {"w": np.ones(3, np.float32)})
    assert (tmp_path / "w.ckpt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_keep_earlier_never_overwrites(tmp_path):
    for text in ("first", "second", "third"):
        path = keep_earlier(str(tmp_path / "log.txt"))
        with open(path, "w") as file:
            file.write(text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"log.1.txt": "first", "log.2.txt": "second", "log.txt": "third"}


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


def test_going_back_to_a_branch_takes_its_record(tmp_path):
    """The run's own record is of the other branch, whose steps have the same numbers."""
    def record(path, steps, rate, **options):
        log = TrainingLog(str(path), **options)
        for step in steps:
            log.step(step, 10, (1.0, 0.5, 0.3, 0.2, False, 1.0, rate), 4.0)
        log.close()

    def entries(path):
        return [(entry["step"], entry["lr"]) for entry in read_training_log(str(path))]

    for name in ("ckpt_0.1", "ckpt_0.2"):
        (tmp_path / name).mkdir()
    path, old = tmp_path / "r.jsonl", tmp_path / "ckpt_0.1" / "r.jsonl"
    record(old, (1, 2, 3, 4), 0.1, done=0)
    record(path, (1, 2, 3, 4, 5), 0.2, done=0)
    branch = resume.record_beside(str(tmp_path / "ckpt_0.1" / "centernet-1_4.ckpt"), str(path))
    assert branch == str(old)
    for folder in (tmp_path / "ckpt_0.2", tmp_path):  # none, and the run's own
        assert resume.record_beside(str(folder / "c.ckpt"), str(path)) == ""
    record(path, (4, 5), 0.3, done=3, aside=str(tmp_path / "ckpt_0.2"), branch=branch)
    assert entries(path) == [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.3), (5, 0.3)]
    assert entries(tmp_path / "ckpt_0.2" / "r.jsonl") == [(step, 0.2) for step in range(1, 6)] and len(entries(old)) == 4


def test_a_record_on_a_full_disk(tmp_path):
    log = TrainingLog(None, 0)
    log.file = open("/dev/full", "w")
    with pytest.raises(UserError, match="/dev/full could not be written .No space left on device."):
        log.step(7, 10, (1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
    assert log.file.closed


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt_0", "loss.png", "train_record.jsonl"]


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


@pytest.mark.parametrize("words, parts", [
    (["--train_config.loss_scale_value", 3e38, "--train_config.max_overflows", 4], ["the last 4 steps, up to step 4, overflowed"]),
    (["--train_config.MultiDecay.learning_rate", 10, "--train_config.max_diverged", 8], ["training has diverged"]),
])
def test_a_training_that_learns_nothing_is_no_success(words, parts, tiny_records, train, tmp_path):
    words = ["--train_config.MultiDecay.warmup_steps", 0, *words, "--epoch_size", 12, "--mindrecord_dir", tiny_records]
    assert_user_error(train(*words, cwd=tmp_path, check=False), *parts)


def test_a_second_run_loses_nothing_and_starts_from_weights(tiny_run, tiny_records, train, tmp_path):
    """Fine-tuning from a checkpoint in the very folder that the run writes to."""
    shutil.copytree(tiny_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run" / "ckpt_0").iterdir()}
    record = (tmp_path / "run" / "train_record.jsonl").read_text()
    words = ["--train_steps", 1, "--load_checkpoint_path", "ckpt_0/centernet-2_7.ckpt", "--enable_data_sink", "true", "--seed", 9]
    done = train(*words, "--mindrecord_dir", tiny_records, cwd=tmp_path / "run")
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


def test_a_loss_that_is_not_finite_stops_training(tiny_run, tiny_records, train, tmp_path):
    rate = ["--train_config.MultiDecay.learning_rate", 1e25, "--train_config.MultiDecay.warmup_steps", 0, "--save_checkpoint_steps", 1]
    done = train(*rate, "--mindrecord_dir", tiny_records, cwd=tmp_path, check=False)
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
    assert_user_error(call_script("train.py", *TINY, *words, cwd=tmp_path, check=False), *parts)


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


class SinkStandIn:
    """In place of ms.data_sink, which works on Ascend alone: counts pipelines, and the steps that the device is given."""

    def __init__(self, monkeypatch):
        self.sinks, self.steps, self.ended = 0, 0, []
        monkeypatch.setattr(engine.ms, "data_sink", self.data_sink)

    def data_sink(self, step, data, sink_size):
        assert sink_size == 1
        self.sinks += 1
        data.__transfer_dataset__ = self
        return self.next

    def next(self):
        self.steps += 1
        return self.steps

    def stop_send(self):
        self.ended.append("stopped")

    def release(self):
        self.ended.append("released")


class Data:
    pass


@pytest.mark.parametrize("first, last, sink_steps, counts", [
    (0, 10, 5, [5, 5]), (0, 10, 4, [4, 4, 2]), (0, 7, 30, [7]), (6, 15, 5, [4, 5]), (0, 3, 1, [1, 1, 1]),
])
def test_one_sink_serves_a_run_to_its_last_step(first, last, sink_steps, counts, monkeypatch):
    """It sends for ever: two would both go on making images. What is no multiple of the sink's steps is not overshot."""
    sink = SinkStandIn(monkeypatch)
    groups = list(engine.run_steps("step", Data(), range(first, last), sink_steps))
    assert [len(group) for group in groups] == counts
    assert sum(groups, []) == list(range(1, last - first + 1))
    assert (sink.sinks, sink.steps, sink.ended) == (1, last - first, ["stopped", "released"])


def test_a_sink_ends_with_the_training(monkeypatch):
    sink = SinkStandIn(monkeypatch)
    groups = engine.run_steps("step", Data(), range(100), 5)
    next(groups)
    groups.close()
    assert sink.ended == ["stopped", "released"]


def test_sinking_is_for_ascend(make_config, capsys):
    config = make_config("--data_sink_steps", 5)
    assert engine.choose_sink_steps(config, "Ascend", 916) == 5
    assert engine.choose_sink_steps(make_config("--data_sink_steps", -1), "Ascend", 916) == 916
    assert capsys.readouterr().out == ""
    assert engine.choose_sink_steps(config, "CPU", 916) == 0
    assert "works on Ascend only" in capsys.readouterr().out
    assert engine.choose_sink_steps(make_config("--enable_data_sink", "false", "--data_sink_steps", 5), "Ascend", 916) == 0


# ---------------------------------------------------------------- the loop, with stand-ins


class LoopStandIn:
    """What run_training needs of a training: a pipeline, a cell that gives losses, a record, checkpoints."""

    images_per_step, steps_per_epoch, rank_size, float16 = 4, 5, 1, False

    def __init__(self, losses, interrupt_at=None, overflows=()):
        self.losses, self.interrupt_at, self.overflows = losses, interrupt_at, overflows
        self.recorded, self.saved = [], []

    def batches(self, first, last):
        self.range = (first, last)
        return self

    def create_tuple_iterator(self, num_epochs):
        return self

    def named_errors(self):
        return contextlib.nullcontext()

    def __iter__(self):
        return ((step,) for step in range(*self.range))

    def release(self):
        pass

    def __call__(self, step):
        if step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)
        results = [self.losses[step], self.losses[step] / 2, 0.0, 0.0, step in self.overflows, 1.0, 0.1, False]
        return [Tensor(value) for value in results]

    def set_data(self, value):
        pass

    stop = property(lambda self: self)

    def step(self, step, steps_per_epoch, values, rate):
        self.recorded.append((step, float(values[0])))

    def save(self, done, rotate):
        self.saved.append((done, rotate))
        return f"c/{done}.ckpt"


@pytest.fixture
def loop(make_config, interrupts):
    """Call it with a LoopStandIn, a range of steps and command-line words: run_training."""
    def run(part, steps, *words):
        return engine.run_training(make_config("--mindrecord_dir", "m", *words), part, part, part.save, part, steps, 0)

    return run


def test_an_interrupt_saves_the_last_step(loop):
    part = LoopStandIn([3.0, 2.5, 2.0, 1.5, 1.2, 1.0, 0.9, 0.8], interrupt_at=4)
    with pytest.raises(Interrupted) as raised:
        loop(part, range(2, 8), "--save_checkpoint_steps", 100)
    assert part.recorded[-1] == (5, pytest.approx(1.2)) and part.saved == [(5, True)]
    assert "5 of 8 steps are done" in str(raised.value)
    assert str(raised.value).endswith(f"--resume true --load_checkpoint_path {os.path.abspath('c/5.ckpt')}")


def test_an_interrupt_in_the_last_step_ends_as_without(loop):
    part = LoopStandIn([3.0, 2.0], interrupt_at=1)
    assert loop(part, range(2)) == "c/2.ckpt" and part.saved == [(2, True)]


def test_a_loss_that_sticks_ends_training_and_keeps_checkpoints(loop, capsys):
    part = LoopStandIn([60.0, 30.0, *[18.416992] * 60])
    with pytest.raises(UserError, match=r"heatmap loss has stayed at 9.2085 for 12 steps, up to step 15: .*last checkpoint is c/15.ckpt|"
                                        r"heatmap loss has stayed at 9.2084"):
        loop(part, range(60), "--save_checkpoint_steps", 1, "--train_config.max_diverged", 12)
    assert len(part.recorded) == 15
    assert part.saved[6:9] == [(7, True), (8, False), (9, False)]  # noticed at the fifth such step
    assert capsys.readouterr().out.count("warning: ") == 1


def test_many_overflows_end_training_and_few_are_counted(loop, capsys):
    losses = [2.0 + 0.1 * (step % 3) for step in range(40)]
    assert loop(LoopStandIn(losses, overflows=range(5, 12)), range(40), "--train_config.max_overflows", 8) == "c/40.ckpt"
    assert "7 of 40 steps overflowed and were skipped" in capsys.readouterr().out
    with pytest.raises(UserError, match="the last 8 steps, up to step 13, overflowed .*loss_scale_value"):
        loop(LoopStandIn(losses, overflows=range(5, 30)), range(40), "--train_config.max_overflows", 8)
    assert loop(LoopStandIn(losses, overflows=range(5, 30)), range(40), "--train_config.max_overflows", 0) == "c/40.ckpt"


def test_a_short_training_of_overflows_alone_is_no_success(loop, capsys):
    """Fewer steps than max_overflows; a part of a training, or one without a limit, may have them."""
    with pytest.raises(UserError, match="all 6 steps overflowed and were skipped: nothing is learnt; lower train_config.loss_scale_value"):
        loop(LoopStandIn([2.0] * 6, overflows=range(6)), range(6))
    assert loop(LoopStandIn([2.0] * 6, overflows=range(5)), range(6)) == "c/6.ckpt"
    assert loop(LoopStandIn([2.0] * 6, overflows=range(6)), range(3, 6)) == "c/6.ckpt"
    assert loop(LoopStandIn([2.0] * 6, overflows=range(6)), range(6), "--train_config.max_overflows", 0) == "c/6.ckpt"
    assert "6 of 6 steps overflowed" in capsys.readouterr().out


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


@pytest.mark.parametrize("steps, said", [(99, True), (100, False)])
def test_a_warmup_longer_than_the_training_is_said(steps, said, make_config, capsys):
    options = make_config("--train_config.lr_schedule", "PolyDecay", "--train_config.PolyDecay.warmup_steps", 100).train_config
    engine.warn_of_warmup(options, steps)
    assert ("train_config.PolyDecay.warmup_steps 100, is longer" in capsys.readouterr().out) == said
