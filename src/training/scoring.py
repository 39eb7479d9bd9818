"""Scores while training: the network is evaluated every few epochs, its best checkpoint is kept, and training ends when none is better."""
import contextlib
import dataclasses
import io
import json
import os
import zlib

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from ..core import interrupts
from ..core.backups import back_up_existing
from ..core.console import LOG, log_skipped
from ..core.errors import UserError
from ..core.files import read_json
from ..core.kinds import having, is_int64, is_number, is_string, or_none
from ..data.coco import image_size
from ..evaluation import evaluator
from ..imaging.drawing import fit_format
from ..imaging.reading import read_image
from ..model_utils.device_adapter import without_kept_graphs
from ..tasks.pictures import compare
from ..weights.side_file import evaluation_settings, side_file

DRAWN = 4  # images of predictions for TensorBoard
OBJECT = ("image_id", "category_id", "bbox", "area", "iscrowd")  # what of an annotation counts for scores


class Scoring:
    """Evaluates a network in training on data_dir's validation images, after every eval_epochs epochs and at the end.

    Ranks share the images and join their records; rank 0 scores and decides. `state` is what a checkpoint's side file says of it, so that a
    resumed run goes on with it: metric and of (what is measured, measure_of), step (the last one evaluated), best ({"step", "value"} or
    None) and since_best (evaluations after it).

    Args: trained, a TrainingDetector; part, the evaluator.Part; every, the steps between two evaluations; rank, rank_size, and
    sum_over_ranks, a cell, None with one rank.
    """

    def __init__(self, trained, part, every, *, rank=0, rank_size=1, sum_over_ranks=None):
        self.trained, self.part, self.config, self.every = trained, part, trained.config, every
        self.rank, self.rank_size, self.sum_over_ranks = rank, rank_size, sum_over_ranks
        self.better = False  # whether the last evaluation was the best so far
        self.all_gather = AllGather() if rank_size > 1 else None
        config = trained.config
        self.state = {"metric": config.best_metric, "of": measure_of(part, config), "step": 0, "best": None, "since_best": 0}

    def due(self, done, last_step):
        """Whether to evaluate after `done` steps; not twice after the same."""
        return (done % self.every == 0 or done == last_step) and done > 0 and self.state["step"] != done

    def evaluate(self, done):
        """Evaluate after `done` steps: the metrics, on rank 0, else None.

        Raises Interrupted on a signal, with nothing scored.
        """
        self.better = False
        records = self._detect()
        metrics = None
        if self.rank == 0:
            self.records = records
            with contextlib.redirect_stdout(io.StringIO()):
                _, metrics = self.part.task.scores.score(self.part.coco, records)
            value, best = metrics[self.config.best_metric], self.state["best"]
            since_best = 0 if best is None or value > best["value"] else self.state["since_best"] + 1
            self.better = best is None or value >= best["value"]  # of equals the one that trained longer
            best = {"step": done, "value": value} if self.better else best
            self.state = {**self.state, "step": done, "best": best, "since_best": since_best}
        else:
            self.state = {**self.state, "step": done}
        return metrics

    def go_on(self, checkpoint, checkpoints, step_count_reset=False):
        """Go on as the side file of a resumed checkpoint says.

        Args: checkpoints, the run's CheckpointFolder, None where nothing is saved; step_count_reset, whether this run's steps are others. A
        best checkpoint that is not the one of the side file is set aside.
        """
        side = read_json(side_file(checkpoint), "the side file", {}) if os.path.exists(side_file(checkpoint)) else {}
        state = side.get("scores")
        if is_state(state):
            if all(state.get(name, self.state[name]) == self.state[name] for name in ("metric", "of")):  # earlier versions have no of
                self.state = {**self.state, **state, "step": 0 if step_count_reset else state["step"]}
            elif state["best"]:
                LOG.info("the best score so far is another metric's, of other images or settings, or an earlier version's: the next "
                         "evaluation is the best one")
        best = self.state["best"]
        if best and checkpoints and side.get("best", best["step"] == side.get("step")):  # files of earlier versions do not say it
            checkpoints.keep_best(checkpoint)  # which a kill may have come before
        elif checkpoints and checkpoints.best_step() != (best["step"] if best else 0):
            back_up_existing(checkpoints.best, lambda path: True, side_file)  # it lies in the run's own folder
            if best:
                LOG.info(f"the best checkpoint, of step {best['step']}, is not in the folder any more: the next evaluation is the best one")
                self.state = {**self.state, "best": None, "since_best": 0}
        if self.finished():
            raise UserError(f"nothing to train: {self.why_finished()}")

    def why_finished(self):
        """The words for why training ends before its last step."""
        count = self.state["since_best"]
        return f"{count} evaluation{'s' if count != 1 else ''} were no better in {self.config.best_metric} than the best (patience)"

    def drawings(self):
        """Yield (name, BGR image) of the first images, the last evaluation's detections beside the ground truth; on rank 0."""
        for image_id, path in self.part.images[:DRAWN]:
            with contextlib.suppress(OSError, ValueError):  # an image that cannot be read is named by the evaluation
                image = read_image(path, image_size(self.part.coco.imgs[image_id]), self.config.dataset_config.max_pixels)
                found = self.part.task.results.of_records(self.records, image_id, self.part.category_ids)
                drawn = compare(self.part.task, image, found, self.part.ground_truth(image_id, self.trained.description),
                                self.trained.description, self.config.eval_config.score_thresh)
                yield str(image_id), fit_format(drawn, ".jpg")

    def finished(self):
        """Whether to end the training, on all ranks: `patience` evaluations were no better than the best."""
        patience = self.config.patience
        wanted = self.rank == 0 and 0 < patience <= self.state["since_best"]
        return bool(self._sum([wanted])[0])

    def _detect(self):
        """The COCO records of all images, of all ranks. Raises UserError if none of the images can be read."""
        skipped = []
        mine = dataclasses.replace(self.part, images=self.part.images[self.rank :: self.rank_size])
        # After a signal compiling raises KeyboardInterrupt.
        with without_kept_graphs(), self.trained.borrowed() as detector, contextlib.suppress(KeyboardInterrupt):
            results, _ = evaluator.detect(detector, mine, self.config)
            skipped = results.skipped
            log_skipped(skipped)
        interrupted, unread = self._sum([interrupts.INTERRUPTS.requested, len(skipped)])
        if interrupted:  # one rank's signal ends the evaluation of all
            raise interrupts.Interrupted("the evaluation is not finished")
        evaluator.require_read(int(unread), self.part)
        return join_records(results.records, self._gather) if self.rank_size > 1 else results.records

    def _sum(self, values):
        """Numbers added up over the ranks, float32."""
        if self.rank_size == 1:
            return values
        with without_kept_graphs():
            return self.sum_over_ranks(ms.Tensor(values, ms.float32)).asnumpy()

    def _gather(self, array):
        """int32 arrays [N] of all ranks, which may have other lengths: a list."""
        counts = np.zeros(self.rank_size, np.float32)
        counts[self.rank] = len(array)
        counts = self._sum(counts).astype(int)
        padded = np.zeros(1 << int(counts.max()).bit_length(), np.int32)  # few lengths, since each compiles a graph
        padded[: len(array)] = array
        with without_kept_graphs():
            rows = self.all_gather(ms.Tensor(padded)).asnumpy().reshape(self.rank_size, -1)
        return [row[:count] for row, count in zip(rows, counts)]


def measure_of(part, config):
    """A number that is another one where scores cannot be compared: for other images, objects or settings of the evaluation."""
    images = [image_id for image_id, _ in part.images]
    objects = sorted([entry[name] for name in OBJECT] for entry in part.coco.dataset["annotations"])
    content = [evaluation_settings(config), config.use_ema, images, part.category_ids, objects]
    return zlib.crc32(json.dumps(content).encode())


def is_state(value):
    """Whether a side file's `scores` are a Scoring's state."""
    tests = {"metric": is_string, "step": is_int64, "since_best": is_int64, "best": or_none(having(step=is_int64, value=is_number))}
    return isinstance(value, dict) and all(name in value and test(value[name]) for name, test in tests.items())


class AllGather(nn.Cell):
    """Join the tensors of all ranks along the first axis."""

    def __init__(self):
        super().__init__()
        self.all_gather = ops.AllGather()

    def construct(self, x):
        return self.all_gather(x)


def join_records(records, gather):
    """The COCO records of all ranks; gather(int32 [N]) gives those of each. As JSON every number is kept to the last bit."""
    text = json.dumps(records, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return [record for array in gather(np.frombuffer(text, np.int32)) for record in json.loads(np.ascontiguousarray(array).tobytes())]


def start_scoring(trained, part, train_set, sum_over_ranks):
    """The Scoring of a training of a TrainSet on a Part, None without one; trained is its TrainingDetector."""
    if part is None:
        return None
    if trained.config.visual_image and train_set.rank == 0:
        LOG.info("visual_image is eval.py's: evaluations while training draw nothing into files (tensorboard true shows "
                 "some of their images)")
    every = trained.config.eval_epochs * train_set.steps_per_epoch
    return Scoring(trained, part, every, rank=train_set.rank, rank_size=train_set.rank_size, sum_over_ranks=sum_over_ranks)
