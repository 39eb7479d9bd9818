"""The training loop: steps, evaluations, checkpoints, signals."""
import contextlib
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import mindspore as ms

from ..core.console import LOG
from ..core.errors import UserError
from ..core.interrupts import INTERRUPTS, Interrupted
from ..core.project import relative_to_user
from ..evaluation.table import add_row
from ..model_utils.config import Config
from ..runs.record import TrainingLog
from ..weights.checkpoints import CheckpointFolder
from .divergence import DivergenceMonitor
from .resume import start_scale
from .resume_commands import resume_command
from .scoring import Scoring
from .step import TrainStep

if TYPE_CHECKING:
    from ..data.train_set import TrainSet


def choose_sink_steps(config: Config, device_target: str, steps_per_epoch: int) -> int:
    """The number of steps to start on the device at a time (data sink); 0 passes each batch from the host."""
    if config.enable_data_sink and device_target != "Ascend":
        LOG.info(f"enable_data_sink works on Ascend only: on {device_target} the host passes each batch")
        return 0
    if not config.enable_data_sink:
        return 0
    return steps_per_epoch if config.data_sink_steps == -1 else config.data_sink_steps


def run_steps(step: TrainStep, data: Any, steps: range, sink_steps: int, pause: int = 0) -> Generator[list, None, None]:
    """Run the steps of a pipeline through a training cell. Yield lists of the cell's outputs, one for each step.

    With sink_steps the device fetches the batches (Ascend), and the host reads the outputs after that many steps, or
    fewer at multiples of sink_steps and of pause (0: none) and at the end of the range. With 0 the host passes each
    batch, and each list has one step.
    """
    if not sink_steps:
        batches = data.create_tuple_iterator(num_epochs=1)
        try:
            for batch in batches:
                yield [step(*batch)]
        finally:
            batches.release()
        return
    sink = ms.data_sink(step, data, sink_size=1)  # once for a run: it sends the pipeline's batches until it is stopped
    try:
        done = steps.start
        while done < steps.stop:
            to_pause = pause - done % pause if pause else sink_steps
            count = min(sink_steps - done % sink_steps, steps.stop - done, to_pause)
            yield [sink() for _ in range(count)]
            done += count
    finally:
        data.__transfer_dataset__.stop_send()
        data.__transfer_dataset__.release()


class Saving:
    """Saves the state of a training run periodically, and the best state.

    Args: checkpoints, a CheckpointFolder, or None to save nothing; state {name: Parameter}; scoring, a Scoring or None.
    `saved` is the path of the last checkpoint, or an empty string.
    """

    def __init__(self, config: Config, checkpoints: CheckpointFolder | None, state: dict[str, ms.Parameter],
                 train_set: "TrainSet", scoring: Scoring | None = None):
        self.steps, self.seconds = config.save_checkpoint_steps, 60 * config.save_checkpoint_minutes
        self.checkpoints, self.state, self.scoring = checkpoints, state, scoring
        self.steps_per_epoch = train_set.steps_per_epoch
        self.numbers = {"images_per_step": train_set.images_per_step, "images": train_set.images,
                        "loss_scale_start": start_scale(config)}
        self.saved, self.last = "", time.monotonic()

    def due(self, done: int, count: int) -> bool:
        """Whether to save after `done` steps, `count` of them new: after some steps, or minutes since the last time."""
        return done % self.steps < count or 0 < self.seconds <= time.monotonic() - self.last

    def save(self, done: int, rotate: bool = True, best: bool = False) -> None:
        """Save the state after `done` steps; with best, also as centernet-best.ckpt. See CheckpointFolder.save."""
        if self.checkpoints is None:
            return
        extra = {"scores": self.scoring.state, "best": best} if self.scoring else {}
        epoch = (done - 1) // self.steps_per_epoch
        self.saved = self.checkpoints.save(self.state, epoch, done, self.numbers, rotate, extra)
        self.last = time.monotonic()
        if best:
            self.checkpoints.keep_best(self.saved)


def run_training(train_set: "TrainSet", step_cell: TrainStep, saving: Saving, record: TrainingLog, steps: range,
                 sink_steps: int, monitor: DivergenceMonitor) -> None:
    """Train a range of steps, counted from 0 over all epochs.

    Raises Interrupted after a signal, and UserError if an evaluation fails, with the work so far saved.
    """
    scoring, done = saving.scoring, steps.start
    if scoring and scoring.due(done, steps.stop):  # the run that saved this checkpoint was interrupted before
        if not evaluate(scoring, done, record, train_set):
            raise Interrupted(f"{done} of {steps.stop} steps done, but not the evaluation of step {done}; the same "
                              "command resumes")
        saving.save(done, best=scoring.better)
        if scoring.finished():
            raise UserError(f"nothing to train: {scoring.why_finished()}")
    batches = train_set.batches(steps.start, steps.stop)
    start = time.time()
    groups = run_steps(step_cell, batches, steps, sink_steps, scoring.every if scoring else 0)
    with contextlib.ExitStack() as until_end, train_set.named_errors(), contextlib.closing(groups):
        until_end.enter_context(INTERRUPTS.immediate())  # the first step compiles
        for outputs in groups:
            if done == steps.start:
                until_end.enter_context(INTERRUPTS.deferred())  # from here on there is work to save
            group = [{name: value.asnumpy()[()] for name, value in zip(step_cell.results, values)}
                     for values in outputs]
            seconds, start = (time.time() - start) / len(group), time.time()
            for results in group:
                done += 1
                record.step(done, train_set.steps_per_epoch, results, train_set.images_per_step / seconds)
                if problem := monitor.check(done, results):
                    last = relative_to_user(saving.saved) or "the one this run started from"
                    raise UserError(f"{problem}; the last checkpoint is {last}")
            stop = stop_requested(step_cell, train_set.rank_size, group[-1]["stop"]) and done < steps.stop
            scored = False
            if scoring and not stop and scoring.due(done, steps.stop):
                try:
                    scored = evaluate(scoring, done, record, train_set)
                except UserError as error:  # training itself succeeded so far
                    saving.save(done, not monitor.protects_checkpoints)
                    raise UserError(f"{error}; {done} of {steps.stop} steps done; "
                                    f"{resume_command(saving.saved, train_set.rank_size)}") from error
                stop = not scored
                start = time.time()
            finished = scoring is not None and scored and scoring.finished()
            best = scoring is not None and scored and scoring.better
            if saving.due(done, len(group)) or done >= steps.stop or stop or finished or best:
                saving.save(done, not monitor.protects_checkpoints, best)
            if stop:
                raise Interrupted(f"{done} of {steps.stop} steps done; "
                                  f"{resume_command(saving.saved, train_set.rank_size)}")
            if finished and scoring:
                LOG.info(f"training ends early, after {done} of {steps.stop} steps: {scoring.why_finished()}")
                break
    if scoring and scoring.rank == 0 and (line := scoring.best_line()):
        LOG.info(line)
    if not steps.start and (problem := monitor.all_skipped()):
        raise UserError(problem)
    for line in monitor.summary():
        LOG.info(line)


def evaluate(scoring: Scoring, done: int, record: TrainingLog, train_set: "TrainSet") -> bool:
    """Evaluate, and record the scores. Return False if a signal interrupted the evaluation."""
    try:
        metrics = scoring.evaluate(done)
    except Interrupted:
        return False
    if metrics is not None:
        task, images = scoring.eval_set.task, len(scoring.eval_set.images)
        record.scores(done, train_set.steps_per_epoch, {name: metrics[name] for name in task.metrics})
        epoch = (done - 1) // train_set.steps_per_epoch
        facts = {"split": "val", "epoch": epoch, "step": done, "images": images}
        add_row(scoring.config.save_result_dir, task, metrics, facts)
        if record.summaries:
            for name, drawing in scoring.drawings():
                record.summaries.image(done, name, drawing)
    return True


def stop_requested(step_cell: TrainStep, rank_size: int, by_any: bool) -> bool:
    """Whether to stop after this step, on a signal; several ranks stop after the step that shares it."""
    if not INTERRUPTS.requested:
        return bool(by_any)
    step_cell.stop.set_data(ms.Tensor(1.0, ms.float32))
    return rank_size == 1 or bool(by_any)
