"""The training set: batches of augmented images and targets, read from MindRecord files."""
import contextlib
import functools
import os
from importlib.metadata import version

import numpy as np

from ..core.errors import UserError
from ..imaging import reading
from ..native.extensions import require_extensions
from ..tasks import task_of
from .epochs import Steps, epoch_order, rank_share
from .manifest import COLUMNS, ZOO_COLUMNS, cause_of, damaged, is_empty, read_manifest
from .samples import augmented_batch, sample_layout

# MindSpore is imported where it is used: it is slow to load, and not needed for --help, a wrong option or a wrong path.


class DamagedRecord(Exception):
    """A row of the MindRecord files that cannot be read, or whose image cannot."""


# ---------------------------------------------------------------- training pipeline


class TrainSet:
    """The training samples of a MindRecord data set.

    What a sample looks like depends on seed, epoch and image id alone; the images' order does not depend on how they
    lie in the files. Attributes: manifest, images, images_per_step (of all ranks), steps_per_epoch.
    """

    def __init__(self, config, rank=0, rank_size=1, device_target="CPU"):
        import mindspore.dataset as ds

        require_extensions()
        self.config = config
        self.task = task_of(config.net_config)
        self.heatmaps_on_host = self.task.targets.draws_on_host(config, device_target)
        self.rank, self.rank_size = rank, rank_size
        self.batch_size = config.train_config.batch_size * config.train_config.accumulate_steps  # of a step, on each device
        self.manifest = read_manifest(config)
        self.images_per_step = self.batch_size * rank_size
        self.layout = sample_layout(config, self.manifest)
        if not hasattr(ds.MindDataset, "__getitem__"):
            raise UserError(f"MindSpore {version('mindspore')} cannot read single rows of MindRecord files, which training does; "
                            "install a later one (docs/mindspore-versions.md)")
        files = [os.path.join(config.mindrecord_dir, name) for name in self.manifest["files"]]
        for file in files:
            open(file, "rb").close()  # may it be read?
        files = [file for file in files if not is_empty(file)]  # MindSpore warns of each, every time
        self.added = self.task.targets.object_columns(self.manifest)
        self.columns = self.manifest.get("columns", [*COLUMNS, *self.added])
        try:
            ids = ds.MindDataset(files, columns_list=[self.columns[1]], shuffle=False)
            ids = [int(row[0].item()) for row in ids.create_tuple_iterator(num_epochs=1, output_numpy=True)]
            self.rows = ds.MindDataset(files, columns_list=self.columns, shuffle=False)
            self.rows[0]  # opens the files, before there are threads
        except RuntimeError as error:
            raise damaged(config.mindrecord_dir, cause_of(error)) from error
        self.failure = None  # of make_batch, of which MindSpore passes on the text alone
        self.row_of_image = np.argsort(ids, kind="stable")
        self.images = len(ids)
        self.steps_per_epoch = self.images // self.images_per_step
        if not self.steps_per_epoch:
            raise UserError(f"{self.images} images are fewer than one step's: train_config.batch_size "
                            f"{config.train_config.batch_size} x accumulate_steps {config.train_config.accumulate_steps} "
                            f"x {rank_size} devices; lower it, or add images")
        self.rows_of_epoch = functools.lru_cache(maxsize=2)(self._rows_of_epoch)  # one ends while the next begins

    def _rows_of_epoch(self, epoch):
        """The rows that this rank reads in an epoch, in their order: int64 [steps_per_epoch * batch_size]."""
        order = epoch_order(self.images, self.config.seed, epoch, self.config.do_shuffle)
        return self.row_of_image[rank_share(order, self.batch_size, self.rank, self.rank_size)]

    def batches(self, first, last):
        """A MindSpore pipeline with the columns of columns(): the batches of the steps first to last - 1, counted from 0 over all epochs.

        One serves a whole run: a sink sends for ever, and a pipeline takes time to start.
        """
        import mindspore.dataset as ds

        workers = min(self.config.dataset_config.num_workers, os.cpu_count())  # MindSpore refuses more
        data = ds.GeneratorDataset(Steps(first, last), ["step"], shuffle=False)
        # Whole batches by one function: MindSpore takes large arrays as they are, but copies, twice, what it batches itself.
        return data.map(self.make_batch, ["step"], self.task.targets.columns(self.heatmaps_on_host), num_parallel_workers=workers)

    @contextlib.contextmanager
    def named_errors(self):
        """Turn what ends the pipeline in the block into a UserError that names the cause."""
        try:
            yield
        except RuntimeError as error:
            if self.failure is None:
                raise
            if isinstance(self.failure, UserError):
                raise self.failure from error
            if isinstance(self.failure, DamagedRecord):
                raise damaged(self.config.mindrecord_dir, self.failure) from error
            why = f"{type(self.failure).__name__}: {self.failure}"
            raise UserError(f"the training images cannot be made ({why}); look at dataset_config") from error

    def make_batch(self, step):
        """The values of columns() for a step, counted from 0 over all epochs."""
        try:
            return self._make_batch(step)
        except Exception as error:
            self.failure = self.failure or error
            raise

    def read_row(self, row):
        """(encoded image, image id, objects) of a row. Raises DamagedRecord."""
        try:
            data, image_id, boxes, labels, *added = self.rows[int(row)]
            image_id = int(image_id.item())
        except RuntimeError as error:
            raise DamagedRecord(f"row {row}: {str(error).splitlines()[0]}") from error
        if boxes.ndim == 0:  # MindRecord hands an empty array back as a scalar
            boxes, labels, added = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), [np.zeros(0, np.float32) for _ in added]
        labels, num_classes = labels.reshape(-1) - (self.columns == ZOO_COLUMNS), self.layout.num_classes
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise UserError(f"{self.config.mindrecord_dir}: image {image_id} has objects of class {labels.max() + 1} of "
                            f"{num_classes}; were these MindRecord files made with other classes?")
        added = {name: values.reshape(-1, count) for (name, count), values in zip(self.added.items(), added)}
        return data, image_id, {"boxes": boxes.reshape(-1, 4), "labels": labels, **added}

    def _read_image(self, row):
        """(image as BGR uint8, image id, objects) of a row. Raises DamagedRecord."""
        data, image_id, objects = self.read_row(row)
        try:
            return reading.decode_image(data), image_id, objects
        except ValueError as error:
            raise DamagedRecord(f"image {image_id}: {error}") from error

    def _make_batch(self, step):
        epoch, in_epoch = divmod(int(step), self.steps_per_epoch)
        rows = self.rows_of_epoch(epoch)[in_epoch * self.batch_size :][: self.batch_size]
        return augmented_batch(map(self._read_image, rows), len(rows), epoch, self.config, self.layout, self.heatmaps_on_host)

    def first_images(self, most):
        """(the values of columns(), image ids) of the first images of the run, of this rank."""
        rows = self.rows_of_epoch(0)[: min(self.batch_size, most)]
        images = [self._read_image(row) for row in rows]
        return augmented_batch(images, len(rows), 0, self.config, self.layout, self.heatmaps_on_host), [image[1] for image in images]
