"""The training loop: steps, evaluations, checkpoints, signals."""
import contextlib
import time

import mindspore as ms

from ..core.console import LOG
from ..core.errors import UserError
from ..core.interrupts import INTERRUPTS, Interrupted
from ..core.project import relative_to_user
from .resume import start_scale
from .resume_commands import resume_command


def choose_sink_steps(config, device_target, steps_per_epoch):
    """How many steps the device is given at a time, with batches that it fetches by itself; 0 where each batch is handed over."""
    if config.enable_data_sink and device_target != "Ascend":
        LOG.info(f"enable_data_sink works on Ascend only: batches are handed over one by one on {device_target}")
        return 0
    if not config.enable_data_sink:
        return 0
    return steps_per_epoch if config.data_sink_steps == -1 else config.data_sink_steps


def run_steps(step, data, steps, sink_steps, pause=0):
    """Run a pipeline of a range of steps through a training cell; yields lists of steps' results, each as the cell gives them.

    With sink_steps the device fetches the batches by itself (Ascend), and that many steps are started before the host looks at their
    results, fewer where a multiple of sink_steps, or of pause (0: none), or the range ends; with 0 each batch is handed over and each list
    has one step.
    """
    if not sink_steps:
        batches = data.create_tuple_iterator(num_epochs=1)
        try:
            for batch in batches:
                yield [step(*batch)]
        finally:
            batches.release()
        return
    sink = ms.data_sink(step, data, sink_size=1)  # once for a run: it sends the pipeline's batches for ever
    try:
        done = steps.start
        while done < steps.stop:
            count = min(sink_steps - done % sink_steps, steps.stop - done, pause - done % pause if pause else sink_steps)
            yield [sink() for _ in range(count)]
            done += count
    finally:
        data.__transfer_dataset__.stop_send()
        data.__transfer_dataset__.release()


class Saving:
    """Saves a training's state from time to time, and the best one.

    Args: config; checkpoints, a CheckpointFolder, or None where nothing is saved; state {name: Parameter}; train_set; scoring, a
    scoring.Scoring or None. `saved` is the path of the last checkpoint, "" without.
    """

    def __init__(self, config, checkpoints, state, train_set, scoring=None):
        self.steps, self.seconds = config.save_checkpoint_steps, 60 * config.save_checkpoint_minutes
        self.checkpoints, self.state, self.scoring = checkpoints, state, scoring
        self.steps_per_epoch = train_set.steps_per_epoch
        self.numbers = {"images_per_step": train_set.images_per_step, "images": train_set.images, "loss_scale_start": start_scale(config)}
        self.saved, self.last = "", time.monotonic()

    def due(self, done, count):
        """Whether to save after `done` steps, of which `count` are new: some steps, or some minutes, after the last time."""
        return done % self.steps < count or 0 < self.seconds <= time.monotonic() - self.last

    def save(self, done, rotate=True, best=False):
        """Save the state after `done` steps, the best one so far also as centernet-best.ckpt; rotate as in CheckpointFolder.save."""
        if self.checkpoints is None:
            return
        extra_metadata = {"scores": self.scoring.state, "best": best} if self.scoring else {}
        self.saved = self.checkpoints.save(self.state, (done - 1) // self.steps_per_epoch, done, self.numbers, rotate, extra_metadata)
        self.last = time.monotonic()
        if best:
            self.checkpoints.keep_best(self.saved)


def run_training(train_set, step_cell, saving, record, steps, sink_steps, monitor):
    """Train a range of steps, counted from 0 over all epochs.

    Args: saving, a Saving; record, a TrainingLog; monitor, a Watch. Raises Interrupted after a signal, and UserError where an evaluation
    cannot be made, with the work so far saved.
    """
    scoring, done = saving.scoring, steps.start
    if scoring and scoring.due(done, steps.stop):  # which the run that saved this did not come to
        if not evaluate(scoring, done, record, train_set):
            raise Interrupted(f"{done} of {steps.stop} steps are done, and the evaluation of that step is not; the same command goes on")
        saving.save(done, best=scoring.better)
        if scoring.finished():
            raise UserError(f"nothing to train: {scoring.why_finished()}")
    batches = train_set.batches(steps.start, steps.stop)
    start = time.time()
    with contextlib.ExitStack() as until_end, train_set.named_errors(), \
            contextlib.closing(run_steps(step_cell, batches, steps, sink_steps, scoring.every if scoring else 0)) as groups:
        until_end.enter_context(INTERRUPTS.immediate())  # the first step compiles
        for group in groups:
            if done == steps.start:
                until_end.enter_context(INTERRUPTS.deferred())  # from here on there is work to save
            group = [{name: value.asnumpy()[()] for name, value in zip(step_cell.results, results)} for results in group]
            seconds, start = (time.time() - start) / len(group), time.time()
            for results in group:
                done += 1
                record.step(done, train_set.steps_per_epoch, results, train_set.images_per_step / seconds)
                if problem := monitor.check(done, results):
                    raise UserError(f"{problem}; the last checkpoint is {relative_to_user(saving.saved) or 'that of the start'}")
            stop = stop_requested(step_cell, train_set.rank_size, group[-1]["stop"]) and done < steps.stop
            scored = False
            if scoring and not stop and scoring.due(done, steps.stop):
                try:
                    scored = evaluate(scoring, done, record, train_set)
                except UserError as error:  # the training itself went well
                    saving.save(done, not monitor.protects)
                    raise UserError(f"{error}; {done} of {steps.stop} steps are done; "
                                    f"{resume_command(saving.saved, train_set.rank_size)}") from error
                stop = not scored
                start = time.time()
            finished, best = scored and scoring.finished(), scored and scoring.better
            if saving.due(done, len(group)) or done >= steps.stop or stop or finished or best:
                saving.save(done, not monitor.protects, best)
            if stop:
                raise Interrupted(f"{done} of {steps.stop} steps are done; {resume_command(saving.saved, train_set.rank_size)}")
            if finished:
                LOG.info(f"training ends after {done} of {steps.stop} steps: {scoring.why_finished()}")
                break
    if not steps.start and (problem := monitor.wasted()):
        raise UserError(problem)
    for line in monitor.summary():
        LOG.info(line)


def evaluate(scoring, done, record, train_set):
    """Evaluate, and record the scores; returns whether no signal came."""
    try:
        metrics = scoring.evaluate(done)
    except Interrupted:
        return False
    if metrics is not None:
        record.scores(done, train_set.steps_per_epoch, {name: metrics[name] for name in scoring.part.task.metrics})
        if record.summaries:
            for name, drawing in scoring.drawings():
                record.summaries.image(done, name, drawing)
    return True


def stop_requested(step_cell, rank_size, by_any):
    """Whether training is to end after this step: on a signal; with several ranks after the step in which they tell each other of it."""
    if not INTERRUPTS.requested:
        return bool(by_any)
    step_cell.stop.set_data(ms.Tensor(1.0, ms.float32))
    return rank_size == 1 or bool(by_any)
