"""The training set: batches of augmented images and targets, read from MindRecord files."""
import contextlib
import functools
import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import UserError
from ..imaging import reading
from ..model_utils.config import Config
from ..native.extensions import require_extensions
from ..tasks import task_of
from .epochs import Steps, epoch_order, rank_share
from .manifest import COLUMNS, ZOO_COLUMNS, cause_of, damaged, is_empty, read_manifest
from .samples import augmented_batch, sample_layout

if TYPE_CHECKING:
    from mindspore.dataset import MapDataset

# MindSpore is imported where it is used: it is slow to load, and --help, a wrong option or a wrong path do not need it.


class DamagedRecord(Exception):
    """A row of the MindRecord files that cannot be read, or whose image cannot be decoded."""


# ---------------------------------------------------------------- training pipeline


def check_step(images: int, config: Config, rank_size: int) -> None:
    """Raise UserError if a data set has fewer images than a step of rank_size ranks."""
    options = config.train_config
    if images < options.batch_size * options.accumulate_steps * rank_size:
        raise UserError(f"{images} images are fewer than one step needs: train_config.batch_size "
                        f"{options.batch_size} x accumulate_steps {options.accumulate_steps} x {rank_size} devices; "
                        "lower it, or add images")


class TrainSet:
    """The training samples of a MindRecord data set.

    A sample depends only on seed, epoch and image id; the order of images does not depend on their place in the files.
    Attributes: manifest, images, images_per_step (of all ranks), steps_per_epoch.
    """

    def __init__(self, config: Config, rank: int = 0, rank_size: int = 1, device_target: str = "CPU"):
        import mindspore.dataset as ds

        require_extensions()
        self.config = config
        self.manifest = read_manifest(config)  # which settles the task
        self.task = task_of(config.net_config)
        self.heatmaps_on_host = self.task.targets.draws_on_host(config, device_target)
        self.rank, self.rank_size = rank, rank_size
        self.batch_size = config.train_config.batch_size * config.train_config.accumulate_steps  # per step and device
        self.images_per_step = self.batch_size * rank_size
        self.layout = sample_layout(config, self.manifest)
        if not hasattr(ds.MindDataset, "__getitem__"):
            raise UserError(f"MindSpore {version('mindspore')} cannot read single rows of MindRecord files, which "
                            "training needs; install a later version (docs/mindspore-versions.md)")
        files = [os.path.join(config.mindrecord_dir, name) for name in self.manifest["files"]]
        for file in files:
            open(file, "rb").close()  # raises OSError if it is not readable
        files = [file for file in files if not is_empty(file)]  # MindSpore would warn about each, every time
        self.added = self.task.targets.object_columns(self.manifest)
        self.columns = self.manifest.get("columns", [*COLUMNS, *self.added])
        try:
            ids = ds.MindDataset(files, columns_list=[self.columns[1]], shuffle=False)
            ids = [int(row[0].item()) for row in ids.create_tuple_iterator(num_epochs=1, output_numpy=True)]
            self.rows = ds.MindDataset(files, columns_list=self.columns, shuffle=False)
            self.rows[0]  # opens the files before threads start
        except RuntimeError as error:
            raise damaged(config.mindrecord_dir, cause_of(error)) from error
        self.failure: Exception | None = None  # of make_batch; MindSpore passes on only the message
        self.row_of_image = np.argsort(ids, kind="stable")
        self.images = len(ids)
        self.steps_per_epoch = self.images // self.images_per_step
        check_step(self.images, config, rank_size)
        self.rows_of_epoch = functools.lru_cache(maxsize=2)(self._rows_of_epoch)  # consecutive epochs overlap

    def _rows_of_epoch(self, epoch: int) -> np.ndarray:
        """The rows that this rank reads in an epoch, in order: int64 [steps_per_epoch * batch_size]."""
        order = epoch_order(self.images, self.config.seed, epoch, self.config.do_shuffle)
        return self.row_of_image[rank_share(order, self.batch_size, self.rank, self.rank_size)]

    def batches(self, first: int, last: int) -> "MapDataset":
        """A MindSpore pipeline of the batches of steps first to last - 1, counted from 0 over all epochs.

        Its columns are the task's. One pipeline serves an entire run: a data sink sends forever, and a pipeline is slow
        to start.
        """
        import mindspore.dataset as ds

        workers = min(self.config.dataset_config.num_workers, os.cpu_count() or 1)  # MindSpore refuses more
        data = ds.GeneratorDataset(Steps(first, last), ["step"], shuffle=False)
        # make_batch makes entire batches: MindSpore passes large arrays on uncopied, but copies its own batches twice.
        columns = self.task.targets.columns(self.heatmaps_on_host)
        return data.map(self.make_batch, ["step"], columns, num_parallel_workers=workers)

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn a pipeline error in the block into a UserError that names the cause."""
        try:
            yield
        except RuntimeError as error:
            if self.failure is None:
                raise
            if isinstance(self.failure, UserError):
                raise self.failure from error
            if isinstance(self.failure, DamagedRecord):
                raise damaged(self.config.mindrecord_dir, self.failure) from error
            cause = f"{type(self.failure).__name__}: {self.failure}"
            raise UserError(f"the training images cannot be made ({cause}); check dataset_config") from error

    def make_batch(self, step: np.ndarray) -> tuple:
        """The batch of a step, counted from 0 over all epochs, as a tuple in the task's column order."""
        try:
            return self._make_batch(step)
        except Exception as error:
            self.failure = self.failure or error
            raise

    def read_row(self, row: int) -> tuple[np.ndarray, int, dict[str, np.ndarray]]:
        """(encoded image, image id, objects) of a row. Raises DamagedRecord."""
        try:
            data, image_id, boxes, labels, *added = self.rows[int(row)]
            image_id = int(image_id.item())
        except RuntimeError as error:
            raise DamagedRecord(f"row {row}: {str(error).splitlines()[0]}") from error
        if boxes.ndim == 0:  # MindRecord returns an empty array as a scalar
            boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
            added = [np.zeros(0, np.float32) for _ in added]
        labels, num_classes = labels.reshape(-1) - (self.columns == ZOO_COLUMNS), self.layout.num_classes
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise UserError(f"{self.config.mindrecord_dir}: image {image_id} has objects of class {labels.max() + 1} "
                            f"of {num_classes}; were these MindRecord files made with other classes?")
        columns = {name: values.reshape(-1, count) for (name, count), values in zip(self.added.items(), added)}
        return data, image_id, {"boxes": boxes.reshape(-1, 4), "labels": labels, **columns}

    def _read_image(self, row: int) -> tuple[np.ndarray, int, dict[str, np.ndarray]]:
        """(image as BGR uint8, image id, objects) of a row. Raises DamagedRecord."""
        data, image_id, objects = self.read_row(row)
        try:
            return reading.decode_image(bytes(data)), image_id, objects
        except ValueError as error:
            raise DamagedRecord(f"image {image_id}: {error}") from error

    def _make_batch(self, step: np.ndarray) -> tuple:
        epoch, in_epoch = divmod(int(step), self.steps_per_epoch)
        rows = self.rows_of_epoch(epoch)[in_epoch * self.batch_size :][: self.batch_size]
        images = map(self._read_image, rows)
        return augmented_batch(images, len(rows), epoch, self.config, self.layout, self.heatmaps_on_host)

    def first_images(self, most: int) -> tuple[tuple, list[int]]:
        """(batch as make_batch returns it, image ids) of the first images of the run on this rank, at most `most`."""
        rows = self.rows_of_epoch(0)[: min(self.batch_size, most)]
        images = [self._read_image(row) for row in rows]
        batch = augmented_batch(images, len(rows), 0, self.config, self.layout, self.heatmaps_on_host)
        return batch, [image_id for _, image_id, _ in images]
