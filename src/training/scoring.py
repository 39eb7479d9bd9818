"""Scores during training: evaluations every few epochs, the best checkpoint, early stopping."""
import contextlib
import dataclasses
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from ..core import interrupts
from ..core.backups import back_up_existing
from ..core.console import LOG, log_skipped
from ..core.errors import UserError
from ..core.files import read_json
from ..core.kinds import dict_with, is_int64, is_number, is_string, or_none
from ..data.coco import image_size, metainfo_of
from ..evaluation import evaluator
from ..imaging.drawing import fit_format
from ..imaging.reading import read_image
from ..model_utils.config import Config
from ..model_utils.device_adapter import without_graph_cache
from ..tasks.detection.thresholds import POINT
from ..tasks.pictures import compare
from ..weights.checkpoints import CheckpointFolder
from ..weights.side_file import evaluation_settings, side_file
from .detector import TrainingDetector

if TYPE_CHECKING:
    from ..data.train_set import TrainSet

DRAWN = 4  # images with predictions for TensorBoard
OBJECT = ("image_id", "category_id", "bbox", "area", "iscrowd")  # what affects scores, besides the task's fields


class Scoring:
    """Evaluates a network during training on data_dir's validation images, every eval_epochs epochs and at the end.

    Ranks share the images and join their records; rank 0 scores and decides. `state` goes into the side files of
    checkpoints, for resumed runs: metric; of (a checksum of data and settings, see measure_of); step (of the last
    evaluation); best ({"step", "value"} or None); since_best (the number of evaluations since the best).

    Args: trained, a TrainingDetector; eval_set, the evaluator.EvaluationSet; every, the steps between evaluations;
    sum_over_ranks, a cell, None with one rank.
    """

    def __init__(self, trained: TrainingDetector, eval_set: evaluator.EvaluationSet, every: int, *, rank: int = 0,
                 rank_size: int = 1, sum_over_ranks: Callable[[ms.Tensor], ms.Tensor] | None = None):
        self.trained, self.eval_set, self.config, self.every = trained, eval_set, trained.config, every
        self.rank, self.rank_size, self.sum_over_ranks = rank, rank_size, sum_over_ranks
        self.better = False  # whether the last evaluation is the best so far
        self.best_metrics: dict[str, Any] = {}  # of the best evaluation, if it is this process's
        self.all_gather = AllGather() if rank_size > 1 else None
        config = trained.config
        self.state: dict[str, Any] = {"metric": config.best_metric, "of": measure_of(eval_set, config), "step": 0,
                                      "best": None, "since_best": 0}

    def due(self, done: int, last_step: int) -> bool:
        """Whether to evaluate after `done` steps; never twice after the same step."""
        return (done % self.every == 0 or done == last_step) and done > 0 and self.state["step"] != done

    def evaluate(self, done: int) -> dict[str, float] | None:
        """Evaluate after `done` steps. Return the metrics on rank 0, None on other ranks.

        Raises Interrupted on a signal, with nothing scored.
        """
        self.better = False
        records = self._detect()
        metrics = None
        if self.rank == 0:
            self.records = records
            with contextlib.redirect_stdout(io.StringIO()):
                _, metrics = self.eval_set.task.scores.score(self.eval_set.coco, records, self.config.eval_config)
            value, best = metrics[self.config.best_metric], self.state["best"]
            since_best = 0 if best is None or value > best["value"] else self.state["since_best"] + 1
            self.better = best is None or value >= best["value"]  # of equal scores, the one trained longer
            if self.better:
                best, self.best_metrics = {"step": done, "value": value}, metrics
            self.state = {**self.state, "step": done, "best": best, "since_best": since_best}
        else:
            self.state = {**self.state, "step": done}
        return metrics

    def resume(self, checkpoint: str, checkpoints: CheckpointFolder | None, step_count_reset: bool = False) -> None:
        """Restore the state from the side file of a resumed checkpoint.

        Args: checkpoints, the run's CheckpointFolder, or None if it saves nothing; step_count_reset, whether this run
        counts its steps differently. A best checkpoint other than the side file's is backed up.
        Raises UserError if patience is already exhausted.
        """
        side = read_json(side_file(checkpoint), "the side file", {}) if os.path.exists(side_file(checkpoint)) else {}
        state: Any = side.get("scores")
        if is_state(state):
            # Files of earlier versions lack "of".
            if all(state.get(name, self.state[name]) == self.state[name] for name in ("metric", "of")):
                self.state = {**self.state, **state, "step": 0 if step_count_reset else state["step"]}
            elif state["best"]:
                LOG.info("the best score so far is of another metric, other images or settings, or an earlier version: "
                         "the next evaluation counts as the best")
        best = self.state["best"]
        if best and checkpoints and side.get("best", best["step"] == side.get("step")):  # earlier versions lack "best"
            checkpoints.keep_best(checkpoint)  # a kill may have prevented this
        elif checkpoints and checkpoints.best_step() != (best["step"] if best else 0):
            back_up_existing(checkpoints.best, lambda path: True, side_file)  # in the run's own folder
            if best:
                LOG.info(f"the best checkpoint, of step {best['step']}, is missing from the folder: the next "
                         "evaluation counts as the best")
                self.state = {**self.state, "best": None, "since_best": 0}
        if self.finished():
            raise UserError(f"nothing to train: {self.why_finished()}; raise it to continue")

    def why_finished(self) -> str:
        """The reason for ending training before the last step."""
        count = self.state["since_best"]
        evaluations = f"{count} evaluation{'s' if count != 1 else ''}"
        return f"{evaluations} without a better {self.config.best_metric} (patience {self.config.patience})"

    def best_line(self) -> str:
        """A sentence on the best evaluation so far, "" without one; rank 0 only."""
        best, metric = self.state["best"], self.config.best_metric
        if best is None or best["value"] < 0:
            return ""
        names = [name for name in ("AP", "AP50", *POINT) if name != metric and is_number(self.best_metrics.get(name))]
        scores = [f"{metric} {best['value']:.3f}", *(f"{name} {self.best_metrics[name]:.3f}" for name in names)]
        return f"best evaluation: after step {best['step']}, {', '.join(scores)}"

    def drawings(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, BGR image) of the first images: the last detections next to the ground truth. Rank 0 only."""
        eval_set, description = self.eval_set, self.trained.description
        for image_id, path in eval_set.images[:DRAWN]:
            with contextlib.suppress(OSError, ValueError):  # the evaluation has logged images it could not read
                size = image_size(eval_set.coco.imgs[image_id])
                image = read_image(path, size, self.config.dataset_config.max_pixels)
                found = eval_set.task.results.rows_from_records(self.records, eval_set.coco.imgs[image_id],
                                                                eval_set.category_ids)
                drawn = compare(eval_set.task, image, found, eval_set.ground_truth(image_id, description), description,
                                self.config.eval_config.score_thresh)
                yield str(image_id), fit_format(drawn, ".jpg")

    def finished(self) -> bool:
        """Whether to end training, on all ranks: the last `patience` evaluations were no better than the best."""
        patience = self.config.patience
        wanted = self.rank == 0 and 0 < patience <= self.state["since_best"]
        return bool(self._sum([wanted])[0])

    def _detect(self) -> list[dict]:
        """The COCO records of all images, from all ranks. Raises UserError if no image can be read."""
        skipped: list[str] = []
        share = dataclasses.replace(self.eval_set, images=self.eval_set.images[self.rank :: self.rank_size])
        # After a signal, compiling raises KeyboardInterrupt.
        with without_graph_cache(), self.trained.borrowed() as detector, contextlib.suppress(KeyboardInterrupt):
            results, _ = evaluator.detect(detector, share, self.config)
            skipped = results.skipped
            log_skipped(skipped)
        interrupted, unread = self._sum([interrupts.INTERRUPTS.requested, len(skipped)])
        if interrupted:  # a signal to one rank ends the evaluation on all
            raise interrupts.Interrupted("the evaluation is not finished")
        evaluator.require_readable(int(unread), self.eval_set)
        return join_records(results.records, self._gather) if self.rank_size > 1 else results.records

    def _sum(self, values: Sequence[float] | np.ndarray) -> Any:
        """Sum numbers over the ranks, in float32."""
        if self.rank_size == 1:
            return values
        assert self.sum_over_ranks is not None
        with without_graph_cache():
            return self.sum_over_ranks(ms.Tensor(values, ms.float32)).asnumpy()

    def _gather(self, array: np.ndarray) -> list[np.ndarray]:
        """The int32 arrays [N] of all ranks; their lengths may differ."""
        assert self.all_gather is not None
        counts = np.zeros(self.rank_size, np.float32)
        counts[self.rank] = len(array)
        counts = self._sum(counts).astype(int)
        padded = np.zeros(1 << int(counts.max()).bit_length(), np.int32)  # few lengths: each compiles a graph
        padded[: len(array)] = array
        with without_graph_cache():
            rows = self.all_gather(ms.Tensor(padded)).asnumpy().reshape(self.rank_size, -1)
        return [row[:count] for row, count in zip(rows, counts)]


def measure_of(eval_set: evaluator.EvaluationSet, config: Config) -> int:
    """Checksum of the images, objects and settings of an evaluation: only scores with the same one are comparable."""
    coco, task = eval_set.coco, eval_set.task
    images, metainfo = [image_id for image_id, _ in eval_set.images], metainfo_of(coco, task)
    objects = sorted([[entry[name] for name in OBJECT] + [*task.targets.read_object(entry, metainfo).values()]
                      for entry in coco.dataset["annotations"]])
    settings = {name: value for name, value in config.parameters().items()
                if name in task.options and name.startswith("eval_config.")}
    content = [evaluation_settings(config), config.use_ema, images, eval_set.category_ids, objects]
    content += [settings] if settings else []  # earlier versions had none
    return zlib.crc32(json.dumps(content).encode())


def is_state(value: object) -> bool:
    """Whether the `scores` of a side file are a valid state of Scoring."""
    tests = {"metric": is_string, "step": is_int64, "since_best": is_int64,
             "best": or_none(dict_with(step=is_int64, value=is_number))}
    return isinstance(value, dict) and all(name in value and test(value[name]) for name, test in tests.items())


class AllGather(nn.Cell):
    """Concatenate the tensors of all ranks along the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.all_gather = ops.AllGather()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.all_gather(x)


def join_records(records: list[dict], gather: Callable[[np.ndarray], Iterable[np.ndarray]]) -> list[dict]:
    """The COCO records of all ranks, sent as JSON, which is exact. gather maps an int32 array [N] to all ranks'."""
    text = json.dumps(records, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    arrays = gather(np.frombuffer(text, np.int32))
    return [record for array in arrays for record in json.loads(np.ascontiguousarray(array).tobytes())]


def start_scoring(trained: TrainingDetector, eval_set: evaluator.EvaluationSet | None, train_set: "TrainSet",
                  sum_over_ranks: Callable[[ms.Tensor], ms.Tensor] | None) -> Scoring | None:
    """The Scoring of a training run, or None without an eval_set."""
    if eval_set is None:
        return None
    if trained.config.visual_image and train_set.rank == 0:
        LOG.info("visual_image applies to eval.py only: evaluations during training write no images (tensorboard true "
                 "shows some)")
    every = trained.config.eval_epochs * train_set.steps_per_epoch
    return Scoring(trained, eval_set, every, rank=train_set.rank, rank_size=train_set.rank_size,
                   sum_over_ranks=sum_over_ranks)
