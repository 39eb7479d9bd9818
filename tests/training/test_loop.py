"""src/training/loop.py, with stand-ins for the network, checkpoints, scores and MindSpore's data sink."""
import contextlib
import csv
import os
import re
import shlex
import signal
import types

import pytest
from mindspore import Tensor

from src.core.errors import UserError
from src.core.interrupts import Interrupted
from src.tasks.detection import DETECTION
from src.training.divergence import DivergenceMonitor
from src.training.loop import Saving, choose_sink_steps, ms, run_steps, run_training, time
from src.training.scoring import Scoring
from tests.conftest import lines_with


class SinkStandIn:
    """Stand-in for ms.data_sink, which works on Ascend only; counts sinks and steps."""

    def __init__(self, monkeypatch):
        self.sinks, self.steps, self.ended = 0, 0, []
        monkeypatch.setattr(ms, "data_sink", self.data_sink)

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


@pytest.mark.parametrize("first, last, sink_steps, pause, counts", [
    (0, 10, 5, 0, [5, 5]), (0, 10, 4, 0, [4, 4, 2]), (0, 7, 30, 0, [7]), (6, 15, 5, 0, [4, 5]), (0, 3, 1, 0, [1, 1, 1]),
    (0, 14, 5, 7, [5, 2, 3, 4]), (6, 15, 100, 7, [1, 7, 1]),
])
def test_one_sink_serves_a_complete_run(first, last, sink_steps, pause, counts, monkeypatch):
    """It never stops by itself: two would both read images. Neither the last step nor a pause is overshot."""
    sink = SinkStandIn(monkeypatch)
    groups = list(run_steps("step", Data(), range(first, last), sink_steps, pause))
    assert [len(group) for group in groups] == counts
    assert sum(groups, []) == list(range(1, last - first + 1))
    assert (sink.sinks, sink.steps, sink.ended) == (1, last - first, ["stopped", "released"])


def test_a_sink_ends_with_the_run(monkeypatch):
    sink = SinkStandIn(monkeypatch)
    groups = run_steps("step", Data(), range(100), 5)
    next(groups)
    groups.close()
    assert sink.ended == ["stopped", "released"]


def test_data_sink_is_for_ascend(make_config, console):
    config = make_config("--enable_data_sink", "true", "--data_sink_steps", 5)
    assert choose_sink_steps(config, "Ascend", 916) == 5
    assert choose_sink_steps(make_config("--enable_data_sink", "true", "--data_sink_steps", -1), "Ascend", 916) == 916
    assert console.readouterr().out == ""
    assert choose_sink_steps(config, "CPU", 916) == 0
    output = console.readouterr().out
    assert "enable_data_sink" in output and "Ascend" in output
    assert choose_sink_steps(make_config("--data_sink_steps", 5), "Ascend", 916) == 0  # off by default


class LoopStandIn:
    """Stand-in for a training run: its pipeline, its cell with given losses, its record and its checkpoints."""

    images, images_per_step, steps_per_epoch, rank_size, summaries = 20, 4, 5, 1, None

    def __init__(self, losses, interrupt_at=None, overflows=()):
        self.losses, self.interrupt_at, self.overflows = losses, interrupt_at, overflows
        self.recorded, self.saved, self.metadata, self.best, self.scored = [], [], [], [], []

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
        results = [self.losses[step], self.losses[step] / 2, 0.5, 0.0, step in self.overflows, 1.0, 0.1, False]
        return [Tensor(value) for value in results]

    def set_data(self, value):
        pass

    stop = property(lambda self: self)
    results = ("loss", *DETECTION.losses, "overflow", "scaling_sens", "lr", "stop")

    def step(self, step, steps_per_epoch, values, rate):
        self.recorded.append((step, float(values["loss"])))

    def save(self, state, epoch, done, numbers, rotate, metadata):
        self.saved.append((done, rotate))
        self.metadata.append(metadata)
        return f"c/{done}.ckpt"

    def keep_best(self, path):
        self.best.append(path)

    def scores(self, step, steps_per_epoch, scores):
        self.scored.append((step, scores["AP"]))


class TrainedStandIn:
    """Stand-in for a TrainingDetector with nothing but a configuration."""

    def __init__(self, config):
        self.config = config


@pytest.fixture
def scoring(make_config, monkeypatch, tmp_path):
    """Function of APs (None: an interrupt) and arguments: a Scoring that returns one AP after another."""
    def make(scores, *args):
        coming = iter(scores)
        coco = types.SimpleNamespace(dataset={"annotations": [], "categories": []})
        eval_set = types.SimpleNamespace(task=DETECTION, coco=coco, images=[], category_ids=[])
        made = Scoring(TrainedStandIn(make_config("--save_result_dir", tmp_path, *args)), eval_set, 5)

        def detect():
            value = next(coming)
            if value is None:
                raise Interrupted("now")
            if isinstance(value, UserError):
                raise value
            return value

        monkeypatch.setattr(made, "_detect", detect)
        return made

    monkeypatch.setattr("src.tasks.detection.scores.score",
                        lambda coco, value, eval_config: ("", dict.fromkeys(DETECTION.metrics, value)))
    return make


@pytest.fixture
def loop(make_config, interrupts):
    """Function of a LoopStandIn, steps and arguments: runs run_training, and returns the last checkpoint's path."""
    def run(stand_in, steps, *args, scoring=None):
        config = make_config("--mindrecord_dir", "m", *args)
        saving = Saving(config, stand_in, {}, stand_in, scoring)
        limits = config.train_config.max_overflows, config.train_config.max_diverged
        monitor = DivergenceMonitor(DETECTION.losses, *limits)
        run_training(stand_in, stand_in, saving, stand_in, steps, 0, monitor)
        return saving.saved

    return run


def test_an_interrupt_saves_the_last_step(loop):
    stand_in = LoopStandIn([3.0, 2.5, 2.0, 1.5, 1.2, 1.0, 0.9, 0.8], interrupt_at=4)
    with pytest.raises(Interrupted) as raised:
        loop(stand_in, range(2, 8), "--save_checkpoint_steps", 100)
    assert stand_in.recorded[-1] == (5, pytest.approx(1.2)) and stand_in.saved == [(5, True)]
    assert "5 of 8 steps" in str(raised.value)
    path = shlex.quote(os.path.abspath("c/5.ckpt"))
    assert str(raised.value).endswith(f"--resume true --load_checkpoint_path {path}")


def test_an_interrupt_in_the_last_step_has_no_effect(loop):
    stand_in = LoopStandIn([3.0, 2.0], interrupt_at=1)
    assert loop(stand_in, range(2)) == "c/2.ckpt" and stand_in.saved == [(2, True)]


def test_a_constant_loss_ends_training_and_keeps_checkpoints(loop, console):
    stand_in = LoopStandIn([60.0, 30.0, *[18.416992] * 60])
    with pytest.raises(UserError, match=r"9\.2084\d* .*\b12 steps\b.*\bstep 15\b.*c/14.ckpt"):
        loop(stand_in, range(60), "--save_checkpoint_steps", 1, "--train_config.max_diverged", 12)
    assert len(stand_in.recorded) == 15
    assert stand_in.saved[6:9] == [(7, True), (8, False), (9, False)]  # noticed at the fifth such step
    assert console.readouterr().out.count("warning: ") == 1


def test_many_overflows_end_training_and_few_are_counted(loop, console):
    losses = [2.0 + 0.1 * (step % 3) for step in range(40)]
    few, many = LoopStandIn(losses, overflows=range(5, 12)), LoopStandIn(losses, overflows=range(5, 30))
    assert loop(few, range(40), "--train_config.max_overflows", 8) == "c/40.ckpt"
    assert "7 of 40 steps" in console.readouterr().out
    with pytest.raises(UserError, match=r"\b8 steps\b.*\bstep 13\b.*loss_scale_value"):
        loop(many, range(40), "--train_config.max_overflows", 8)
    assert loop(many, range(40), "--train_config.max_overflows", 0) == "c/40.ckpt"


def test_a_short_run_of_overflows_only_is_an_error(loop, console):
    """Fewer steps than max_overflows; a resumed run, or one without a limit, may consist of overflows."""
    with pytest.raises(UserError, match=r"\b6 steps\b.*train_config.loss_scale_value"):
        loop(LoopStandIn([2.0] * 6, overflows=range(6)), range(6))
    assert loop(LoopStandIn([2.0] * 6, overflows=range(5)), range(6)) == "c/6.ckpt"
    assert loop(LoopStandIn([2.0] * 6, overflows=range(6)), range(3, 6)) == "c/6.ckpt"
    assert loop(LoopStandIn([2.0] * 6, overflows=range(6)), range(6), "--train_config.max_overflows", 0) == "c/6.ckpt"
    assert "6 of 6 steps" in console.readouterr().out


def falling(steps):
    return [3.0 - 0.01 * step for step in range(steps)]


NEVER = ("--save_checkpoint_steps", 1000, "--save_checkpoint_minutes", 0)


def test_the_best_checkpoint_is_kept(loop, scoring):
    """With the state for resumed runs; the last step is evaluated, too."""
    stand_in = LoopStandIn(falling(22))
    loop(stand_in, range(22), *NEVER, scoring=scoring([0.1, 0.3, 0.2, 0.3, 0.4]))
    assert stand_in.scored == [(5, 0.1), (10, 0.3), (15, 0.2), (20, 0.3), (22, 0.4)]
    # Of equal scores, the one trained longer.
    assert stand_in.best == ["c/5.ckpt", "c/10.ckpt", "c/20.ckpt", "c/22.ckpt"]
    assert [done for done, _ in stand_in.saved] == [5, 10, 20, 22]
    state = stand_in.metadata[-1]["scores"]
    assert state == {"metric": "AP", "of": state["of"], "step": 22, "best": {"step": 22, "value": 0.4}, "since_best": 0}


def test_patience_ends_training(loop, scoring, console):
    stand_in = LoopStandIn(falling(60))
    scores = scoring([0.1, 0.3, 0.2, 0.3, 0.25, 0.9], "--patience", 3)
    assert loop(stand_in, range(60), *NEVER, scoring=scores) == "c/25.ckpt"
    assert stand_in.best[-1] == "c/20.ckpt" and stand_in.metadata[-1]["scores"]["since_best"] == 3
    output = console.readouterr().out
    assert re.search(r"early.*\b25 of 60 steps\b.*\b3\b.*\bAP\b.*patience 3", output)
    assert lines_with(output, "best evaluation", "step 20", "AP 0.300")


def test_each_evaluation_is_a_row_of_the_table(loop, scoring, tmp_path):
    loop(LoopStandIn(falling(12)), range(12), *NEVER, scoring=scoring([0.1, 0.3, -1]))
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["epoch"], row["step"], row["AP"]) for row in rows] == [
        ("val", "0", "5", "0.100000"), ("val", "1", "10", "0.300000"), ("val", "2", "12", "")]


def test_after_a_signal_in_an_evaluation_the_resumed_run_evaluates(loop, scoring):
    stand_in = LoopStandIn(falling(20))
    first = scoring([0.1, None])
    with pytest.raises(Interrupted, match="10 of 20 steps"):
        loop(stand_in, range(20), *NEVER, scoring=first)
    assert stand_in.saved[-1] == (10, True) and stand_in.metadata[-1]["scores"]["step"] == 5
    again, second = LoopStandIn(falling(20)), scoring([0.5, 0.3, 0.1])
    second.state = stand_in.metadata[-1]["scores"]
    loop(again, range(10, 20), *NEVER, scoring=second)
    assert again.scored == [(10, 0.5), (15, 0.3), (20, 0.1)] and again.recorded[0][0] == 11
    assert again.best == ["c/10.ckpt"] and again.saved[0] == (10, True)
    assert again.metadata[0]["scores"]["best"]["step"] == 10


def test_a_failed_evaluation_loses_no_steps(loop, scoring):
    """For example, without access to the images; the resumed run evaluates first."""
    stand_in = LoopStandIn(falling(20))
    with pytest.raises(UserError, match="no image could be read.*10 of 20 steps.* --resume true .*c/10.ckpt"):
        loop(stand_in, range(20), *NEVER, scoring=scoring([0.1, UserError("no image could be read")]))
    metadata = stand_in.metadata[-1]
    assert stand_in.saved[-1] == (10, True) and metadata == {"scores": metadata["scores"], "best": False}
    assert metadata["scores"]["step"] == 5 and stand_in.best == ["c/5.ckpt"]


def test_a_signal_in_the_evaluation_before_the_first_step_ends_the_run(loop, scoring):
    stand_in = LoopStandIn(falling(20))
    with pytest.raises(Interrupted, match="10 of 20 steps.*evaluation"):
        loop(stand_in, range(10, 20), *NEVER, scoring=scoring([None]))
    assert stand_in.recorded == [] and stand_in.saved == []


def test_after_a_signal_before_an_evaluation_the_resumed_run_evaluates(loop, scoring):
    stand_in = LoopStandIn(falling(20), interrupt_at=4)
    with pytest.raises(Interrupted, match="5 of 20 steps"):
        loop(stand_in, range(20), *NEVER, scoring=scoring([]))
    assert stand_in.scored == [] and stand_in.metadata[-1]["scores"]["step"] == 0


@pytest.mark.parametrize("minutes, saved", [(2, [3, 6, 9, 10]), (0, [10])])
def test_a_checkpoint_is_due_after_some_minutes(minutes, saved, loop, monkeypatch):
    """Steps of 50 seconds."""
    stand_in = LoopStandIn(falling(10))
    monkeypatch.setattr(time, "monotonic", lambda: 50.0 * len(stand_in.recorded))
    loop(stand_in, range(10), "--save_checkpoint_steps", 1000, "--save_checkpoint_minutes", minutes)
    assert [done for done, _ in stand_in.saved] == saved
