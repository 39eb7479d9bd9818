"""COCO -> MindRecord; the training pipeline.

As a script: python src/dataset.py --coco_data_dir D --mindrecord_dir M [--mindrecord_prefix P]
"""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src import errors

    errors.INTERRUPTS.install("exit")  # while the rest is loaded

import contextlib
import functools
import math
import sqlite3
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import cv2
import numpy as np

# MindSpore is imported where it is used: it is slow to load, and not needed for --help, a wrong option or a wrong path.
from src import errors, image
from src.coco import check_expected, class_list, dataset_name, find_split, image_size, read_coco, usable_boxes
from src.errors import UserError
from src.extensions import require_extensions
from src.manifest import COLUMNS, ZOO_COLUMNS, manifest_path, read_manifest
from src.mindspore_version import require_mindspore
from src.model_utils.config import get_config
from src.pre_process import whole_view
from src.utils import log, progress, settle, write_json

RECORD_SCHEMA = {
    "image": {"type": "bytes"},
    "image_id": {"type": "int64"},
    "boxes": {"type": "float32", "shape": [-1, 4]},
    "labels": {"type": "int32", "shape": [-1]},
}


# ---------------------------------------------------------------- MindRecord


def convert(split, config):
    """Write the images and boxes of a part of a COCO data set to MindRecord files; returns the manifest.

    Images go in as the bytes they are on disk; one whose size in the annotation file is that without its EXIF orientation goes in without
    that. Images without annotations (unless dataset_config.keep_empty), unreadable images, those of more than max_pixels, and unusable
    boxes are left out, counted and logged.
    The files appear in mindrecord_dir when all are whole, the manifest last. Raises UserError if a finished conversion
    of that prefix is there, if the configuration names other classes, or if no image is left.
    """
    from mindspore.mindrecord import FileWriter

    mindrecord_dir, prefix, options = config.mindrecord_dir, config.mindrecord_prefix, config.dataset_config
    finished = manifest_path(mindrecord_dir, prefix)
    if os.path.exists(finished):
        raise UserError(f"{finished} exists: this conversion is done; name another --mindrecord_prefix or folder, or delete it first")
    coco = read_coco(split.annotation)
    classes, category_ids = class_list(coco)
    check_expected(config, classes, category_ids, split.annotation)
    os.makedirs(mindrecord_dir, exist_ok=True)
    listed = coco.dataset["images"]
    infos = listed if options.keep_empty else [info for info in listed if coco.imgToAnns[info["id"]]]
    if len(infos) < len(listed):
        log(f"{len(listed) - len(infos)} of {len(listed)} images have no objects and are left out (dataset_config.keep_empty keeps them)")
    num_shards = max(1, min(options.num_shards, len(infos)))
    skipped = []
    for note in coco.notes:
        (skipped.append(note.removeprefix("skipped ")) if note.startswith("skipped ") else log(note))
    images = objects = without_objects = 0
    labels_of_ids = {category_id: label for label, category_id in enumerate(category_ids)}
    load = functools.partial(_load_record, coco=coco, image_dir=split.image_dir, labels_of_ids=labels_of_ids,
                             max_pixels=options.max_pixels)
    with tempfile.TemporaryDirectory(".partial", f".{prefix}.", mindrecord_dir) as partial, ThreadPoolExecutor(options.num_workers) as pool:
        writer = FileWriter(os.path.join(partial, prefix), num_shards)
        writer.add_schema(RECORD_SCHEMA, "CenterNet training set")
        for chunk in progress(_chunks(infos, 64), "converting, 64 images a step"):
            records = []
            for record, problems in pool.map(load, chunk):
                skipped += problems
                records += [record] if record is not None else []
            if records:
                writer.write_raw_data(records)  # together: one by one they are spread unevenly, and some files stay empty
            images += len(records)
            objects += sum(len(record["labels"]) for record in records)
            without_objects += sum(len(record["labels"]) == 0 for record in records)
        for problem in skipped:
            log(f"skipped {problem}")
        if not images:
            raise UserError(f"{split.annotation}: no usable image in {split.image_dir} ({len(listed)} listed)")
        writer.commit()
        files = sorted(os.listdir(partial))
        for file in files:
            settle(os.path.join(partial, file), os.path.join(mindrecord_dir, file))
    manifest = {
        "dataset": dataset_name(config.coco_data_dir, coco), "classes": classes, "category_ids": category_ids, "images": images,
        "objects": objects, "images_without_objects": without_objects, "images_left_out": len(listed) - len(infos),
        "files": [file for file in files if not file.endswith(".db")], "skipped": skipped,
    }
    write_json(finished, manifest)
    return manifest


def _chunks(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def _load_record(info, coco, image_dir, labels_of_ids, max_pixels):
    """(record or None, sentences about what was left out) of one image."""
    path = os.path.join(image_dir, info["file_name"])
    try:
        with open(path, "rb") as file:
            data = file.read()
        height, width = image.decode_whole_image(data, image_size(info), max_pixels).shape[:2]
        if image.read_orientation(data) > 4 and image.decode_image(data).shape[:2] != (height, width):
            data = image.without_orientation(data)
    except (OSError, ValueError) as error:
        return None, [f"image {info['id']} ({path}): {errors.reason(error)}"]
    boxes, labels, problems = usable_boxes(coco.imgToAnns[info["id"]], labels_of_ids, width, height)
    return {"image": data, "image_id": int(info["id"]), "boxes": boxes, "labels": labels}, problems


def is_empty(file):
    """Whether a MindRecord file's index, an SQLite file beside it, says that it holds no rows; what is damaged is for MindSpore to tell."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file}.db")) as index:
            return index.execute("SELECT COUNT(*) FROM INDEXES").fetchone()[0] == 0
    except sqlite3.Error:
        return False


class DamagedRecord(Exception):
    """A row of the MindRecord files that cannot be read, or whose image cannot."""


def damaged(mindrecord_dir, why):
    """The UserError that MindRecord files are damaged."""
    return UserError(f"{mindrecord_dir}: its MindRecord files are damaged, or do not belong together; convert the data set again, "
                     f"into another folder ({why})")


# ---------------------------------------------------------------- training samples


@functools.lru_cache(maxsize=512)
def _kernel(radius, mse_loss):
    """The gaussian of a radius; of fixed width with the mean-squared-error option (the original's hm_gauss)."""
    if mse_loss:
        return image.gaussian_kernel(3 * image.MSRA_SIGMA, image.MSRA_SIGMA)
    return image.gaussian_kernel(radius, (2 * radius + 1) / 6)


def encode_targets(boxes, labels, num_classes, out_size, max_objs, mse_loss=False, dense_wh=False, cat_spec_wh=False, hm=None):
    """Targets of one image (the original's datasets/sample/ctdet.py).

    Args: boxes [M, 4] x1, y1, x2, y2 in output pixels; labels [M]; out_size (width, height) of the output; hm zeros [C, h, w] to draw
    the heatmap into (dense_wh needs it), or None.
    Returns a dictionary: hm as it was given, ind [max_objs] int32, reg [max_objs, 2], reg_mask [max_objs], wh and wh_mask:
    [max_objs, 2], or [max_objs, 2 C] with cat_spec_wh, or [2, h, w] with dense_wh. All but ind float32. If hm is None, it holds
    in its place objects [max_objs, 2] int32, class and radius (-1 where there is none), of which the device draws it.
    """
    out_w, out_h = out_size
    objects = np.full((max_objs, 2), -1, np.int32)
    ind = np.zeros(max_objs, np.int32)
    reg = np.zeros((max_objs, 2), np.float32)
    reg_mask = np.zeros(max_objs, np.float32)
    wh = np.zeros((max_objs, 2), np.float32)
    dense = np.zeros((2, out_h, out_w), np.float32) if dense_wh else None
    boxes = np.clip(boxes[:max_objs], 0, np.array([out_w - 1, out_h - 1] * 2, np.float32))
    labels = labels[:max_objs]
    for slot, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels)):
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        center = np.array([(x1 + x2) / 2, (y1 + y2) / 2], np.float32)
        x, y = center.astype(np.int32)
        radius = max(0, int(image.gaussian_radius(math.ceil(h), math.ceil(w))))
        kernel = _kernel(radius, mse_loss)
        objects[slot] = label, len(kernel) // 2
        if hm is not None:
            image.draw_gaussian(hm[label], x, y, kernel)
        ind[slot] = y * out_w + x
        reg[slot] = center - (x, y)
        reg_mask[slot] = 1
        wh[slot] = w, h
        if dense_wh:
            # The original's draw_dense_reg takes the sigma of the heatmap's fixed gaussian for a radius.
            dense_kernel = _kernel(image.MSRA_SIGMA, False) if mse_loss else kernel
            image.draw_dense_value(dense, hm.max(0), x, y, dense_kernel, (w, h))
    targets = {"objects": objects} if hm is None else {"hm": hm}
    targets |= {"ind": ind, "reg": reg, "reg_mask": reg_mask}
    wh_mask = np.repeat(reg_mask[:, None], 2, 1)
    if dense_wh:
        targets["wh"], targets["wh_mask"] = dense, np.repeat(hm.max(0, keepdims=True), 2, 0)
    elif cat_spec_wh:
        targets["wh"], targets["wh_mask"] = (_in_class_columns(v, labels, num_classes) for v in (wh, wh_mask))
    else:
        targets["wh"], targets["wh_mask"] = wh, wh_mask
    return targets


def _in_class_columns(values, labels, num_classes):
    """[M, 2] -> [M, 2 C] with the values in the columns 2 label, 2 label + 1, zero elsewhere."""
    spread = np.zeros((len(values), num_classes, 2), np.float32)
    spread[np.arange(len(labels)), labels] = values[: len(labels)]
    return spread.reshape(len(values), -1)


def make_sample(picture, boxes, labels, num_classes, rng, dataset_config, net_config, hm=None):
    """A training sample: {"image": uint8 [H, W, 3], "color": float32 [3, 4] and encode_targets' dictionary}.

    The network's input is image through the colour map, which augments and normalises. Args: picture uint8 BGR; boxes [M, 4] x1, y1,
    x2, y2 in its pixels; labels [M]; rng numpy Generator that makes all the random draws, or None for the whole image as it is;
    hm as in encode_targets.
    """
    height, width = picture.shape[:2]
    input_size = dataset_config.input_res_train
    center, size = whole_view(width, height, input_size)
    rotation, flip, steps, lighting = 0.0, False, (), np.zeros(3)
    if rng is not None:
        center, size, rotation, flip = image.draw_crop(rng, center, size, (width, height), dataset_config)
        if dataset_config.color_aug:
            steps, lighting = image.draw_color(rng)
    return render_sample(picture, boxes, labels, num_classes, center, size, rotation, flip, steps, lighting, dataset_config, net_config, hm)


def render_sample(picture, boxes, labels, num_classes, center, size, rotation, flip, steps, lighting, dataset_config, net_config,
                  hm=None):
    """make_sample with the draws given: region (center, size, rotation), flip, and color_matrix's steps and lighting."""
    width = picture.shape[1]
    if flip:
        picture = cv2.flip(picture, 1)
        boxes = image.flip_boxes(boxes, width)
        center = np.array([width - center[0] - 1, center[1]], np.float32)
    input_size = tuple(dataset_config.input_res_train)
    out_size = (input_size[0] // net_config.down_ratio, input_size[1] // net_config.down_ratio)
    view = image.warp(picture, image.affine_matrix(center, size, rotation, input_size), input_size)
    grey = image.mean_grey(view) if steps else 0.0  # only the contrast step uses it
    color = image.color_matrix(steps, lighting, grey, dataset_config.eig_val, dataset_config.eig_vec)
    color = image.normalizing_matrix(color, dataset_config.mean, dataset_config.std)
    boxes = image.transform_boxes(boxes, image.affine_matrix(center, size, rotation, out_size))
    targets = encode_targets(boxes, labels, num_classes, out_size, dataset_config.max_objs,
                             net_config.mse_loss, net_config.dense_wh, net_config.cat_spec_wh, hm)
    return {"image": view, "color": color.astype(np.float32), **targets}


def columns(draw):
    """The columns of a training batch, in the order device_input.DeviceInput takes them."""
    return ["image", "color", "hm" if draw else "objects", "ind", "reg", "reg_mask", "wh", "wh_mask"]


def collate(samples, hm):
    """make_sample's dictionaries -> a training batch, the values of columns(); hm [B, C, h, w] if they were drawn into it, else None."""
    return tuple(hm if name == "hm" else np.stack([sample[name] for sample in samples]) for name in columns(hm is not None))


def draws_on_host(heatmap_on, dense_wh, device_target):
    """Whether the pipeline draws the heatmaps, for dataset_config.heatmap_on "auto", "host" or "device".

    auto: the device does where it is not the host itself, since that saves most of the bytes between them. The dense size map needs them.
    """
    return dense_wh or heatmap_on == "host" or (heatmap_on == "auto" and device_target == "CPU")


# ---------------------------------------------------------------- training pipeline


def epoch_order(count, seed, epoch, shuffle):
    """The order in which an epoch visits `count` images: int64 [count], the same on every rank."""
    if not shuffle:
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


def rank_share(order, batch_size, rank, ranks):
    """One rank's part of an epoch: rows of every global batch, so that n ranks see the batches that one would see."""
    steps = len(order) // (batch_size * ranks)
    return order[: steps * batch_size * ranks].reshape(steps, ranks, batch_size)[:, rank].reshape(-1)


class Steps:
    """The numbers of the steps from first to last - 1, as MindSpore's GeneratorDataset reads them."""

    def __init__(self, first, last):
        self.numbers = range(first, last)

    def __iter__(self):
        return ((np.int64(number),) for number in self.numbers)

    def __len__(self):
        return len(self.numbers)


class TrainSet:
    """The training samples of a MindRecord data set.

    What a sample looks like depends on seed, epoch and image id alone; the images' order does not depend on how they
    lie in the files. Attributes: manifest, images, images_per_step (of all ranks), steps_per_epoch.
    """

    def __init__(self, config, rank=0, ranks=1, device_target="CPU"):
        import mindspore.dataset as ds

        require_extensions()
        self.config = config
        self.draw = draws_on_host(config.dataset_config.heatmap_on, config.net_config.dense_wh, device_target)
        self.rank, self.ranks = rank, ranks
        self.batch_size = config.train_config.batch_size
        self.manifest = read_manifest(config)
        self.images_per_step = self.batch_size * ranks
        self.num_classes = len(self.manifest["classes"])
        if not hasattr(ds.MindDataset, "__getitem__"):
            raise UserError(f"MindSpore {version('mindspore')} cannot read single rows of MindRecord files, which training does; "
                            "install a later one (docs/mindspore-versions.md)")
        files = [os.path.join(config.mindrecord_dir, name) for name in self.manifest["files"]]
        for file in files:
            open(file, "rb").close()  # may it be read?
        files = [file for file in files if not is_empty(file)]  # MindSpore warns of each, every time
        self.columns = self.manifest.get("columns", COLUMNS)
        try:
            ids = ds.MindDataset(files, columns_list=[self.columns[1]], shuffle=False)
            ids = [int(row[0].item()) for row in ids.create_tuple_iterator(num_epochs=1, output_numpy=True)]
            self.rows = ds.MindDataset(files, columns_list=self.columns, shuffle=False)
            self.rows[0]  # opens the files, before there are threads
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise damaged(config.mindrecord_dir, next((line for line in lines if line.startswith("[ERROR]")), lines[0])) from error
        self.failure = None  # of make_batch, of which MindSpore passes on the text alone
        self.row_of_image = np.argsort(ids, kind="stable")
        self.images = len(ids)
        self.steps_per_epoch = self.images // self.images_per_step
        if not self.steps_per_epoch:
            raise UserError(f"{self.images} images are fewer than one batch: train_config.batch_size {self.batch_size} x {ranks} devices")
        self.rows_of_epoch = functools.lru_cache(maxsize=2)(self._rows_of_epoch)  # one ends while the next begins

    def _rows_of_epoch(self, epoch):
        """The rows that this rank reads in an epoch, in their order: int64 [steps_per_epoch * batch_size]."""
        order = epoch_order(self.images, self.config.seed, epoch, self.config.do_shuffle)
        return self.row_of_image[rank_share(order, self.batch_size, self.rank, self.ranks)]

    def batches(self, first, last):
        """A MindSpore pipeline with the columns of columns(): the batches of the steps first to last - 1, counted from 0 over all epochs.

        One serves a whole run: a sink sends for ever, and a pipeline takes time to start.
        """
        import mindspore.dataset as ds

        workers = min(self.config.dataset_config.num_workers, os.cpu_count())  # MindSpore refuses more
        data = ds.GeneratorDataset(Steps(first, last), ["step"], shuffle=False)
        # Whole batches by one function: MindSpore takes large arrays as they are, but copies, twice, what it batches itself.
        return data.map(self.make_batch, ["step"], columns(self.draw), num_parallel_workers=workers)

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

    def _read_row(self, row):
        """(image as BGR uint8, image id, boxes [M, 4], labels [M]) of a row. Raises DamagedRecord."""
        try:
            data, image_id, boxes, labels = self.rows[int(row)]
            image_id = int(image_id.item())
        except RuntimeError as error:
            raise DamagedRecord(f"row {row}: {str(error).splitlines()[0]}") from error
        try:
            picture = image.decode_image(data)
        except ValueError as error:
            raise DamagedRecord(f"image {image_id}: {error}") from error
        if boxes.ndim == 0:  # MindRecord hands an empty array back as a scalar
            boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
        labels = labels.reshape(-1) - (self.columns == ZOO_COLUMNS)
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise UserError(f"{self.config.mindrecord_dir}: image {image_id} has objects of class {labels.max() + 1} of "
                            f"{self.num_classes}; were these MindRecord files made with other classes?")
        return picture, image_id, boxes.reshape(-1, 4), labels

    def _make_batch(self, step):
        dataset_config, net_config = self.config.dataset_config, self.config.net_config
        epoch, in_epoch = divmod(int(step), self.steps_per_epoch)
        out_w, out_h = (side // net_config.down_ratio for side in dataset_config.input_res_train)
        hm = np.zeros((self.batch_size, self.num_classes, out_h, out_w), np.float32) if self.draw else None
        samples = []
        for slot, row in enumerate(self.rows_of_epoch(epoch)[in_epoch * self.batch_size :][: self.batch_size]):
            picture, image_id, boxes, labels = self._read_row(row)
            rng = np.random.default_rng([self.config.seed, epoch, image_id])
            samples.append(make_sample(picture, boxes, labels, self.num_classes, rng, dataset_config, net_config,
                                       hm[slot] if self.draw else None))
        return collate(samples, hm)


# ---------------------------------------------------------------- script


def main():
    """Convert the training part of a data set."""
    config = get_config("Convert the training images of a COCO-format data set to MindRecord files.")
    log(config.summary())
    require_mindspore()
    start = time.time()
    split = find_split(config.coco_data_dir, "train", config.dataset_config, "--coco_data_dir")
    if not config.mindrecord_dir:
        raise UserError("no folder for the MindRecord files given (--mindrecord_dir)")
    try:
        manifest = convert(split, config)
    except KeyboardInterrupt:
        raise errors.Interrupted(f"{config.mindrecord_dir} holds nothing of this conversion; the same command starts it anew") from None
    log(f"{manifest['images']} images ({manifest['images_without_objects']} without objects), {manifest['objects']} objects, "
        f"{len(manifest['classes'])} classes; {len(manifest['skipped'])} images or objects skipped; "
        f"{time.time() - start:.1f} s; {manifest_path(config.mindrecord_dir, config.mindrecord_prefix)}")


if __name__ == "__main__":
    errors.run(main)
