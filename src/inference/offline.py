"""The files of offline inference: an input for each image, what is to be known of it, the device's results.

<predict_dir>/data/eval2017_image_<id>.bin, <predict_dir>/meta/inputs.json, <result_path>/eval2017_image_<id>_0.bin.
"""
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np

from ..core import errors, interrupts
from ..core.backups import contains_files, free_name
from ..core.console import log_skipped, progress
from ..core.errors import UserError
from ..core.files import atomic_folder, read_json, write_json
from ..core.kinds import having, is_count, is_int64, is_number, is_positive, is_string, is_text, list_of
from ..imaging.view import View, batch_kind, make_input, normalize
from ..network.architectures import check_detected_input
from ..tasks import rows as row
from ..weights.side_file import check_metainfo, row_width

META = "inputs.json"
# Tests for backups.back_up_existing whether a folder is of an earlier call.
INPUTS, METADATA, RESULTS = contains_files("eval2017_image_*.bin"), contains_files(META), contains_files("eval2017_image_*_0.bin")
META_TESTS = {
    "input_res": list_of(is_count, 2), "K": is_count, "classes": list_of(is_text, least=1), "skipped": list_of(is_string),
    "images": list_of(having(id=is_int64, file_name=is_string, center=list_of(is_number, 2), width=is_positive, out_hw=list_of(is_count, 2),
                             scale=is_positive)),
}


def input_name(image_id):
    """File name of an image's input."""
    return f"eval2017_image_{image_id}.bin"


def result_name(input_file):
    """File name of the result (its first and only output) of an input file."""
    return f"{os.path.splitext(input_file)[0]}_0.bin"


def write_inputs(predict_dir, images, description, workers, load):
    """Write the inputs of images [(id, path)] and their metadata; returns sentences about those that cannot be read.

    load(id, path) gives an image, or raises OSError or ValueError.
    description: input_res, input_type, down_ratio, mean, std and what else postprocess.py is to know. An earlier call's files are kept.
    Raises UserError if no image can be read.
    """

    def write(item):
        image_id, path = item
        try:
            image = load(image_id, path)
        except (OSError, ValueError) as error:
            return None, f"image {image_id} ({path}): {errors.reason(error)}"
        pixels, view = make_input(image, 1.0, False, description["input_res"], description["down_ratio"])
        if description["input_type"] == "float32":
            pixels = normalize(pixels, description["mean"], description["std"])
        with errors.writing(os.path.join(predict_dir, "data", input_name(image_id))):
            pixels.tofile(os.path.join(data_dir, input_name(image_id)))
        return {"id": image_id, "file_name": path, **asdict(view), "center": view.center.tolist()}, None

    with atomic_folder(os.path.join(predict_dir, "data"), INPUTS) as data_dir, \
            atomic_folder(os.path.join(predict_dir, "meta"), METADATA) as meta_dir:
        with ThreadPoolExecutor(workers) as pool:
            written = list(progress(pool.map(write, images), "preparing", total=len(images)))
        skipped = [problem for _, problem in written if problem]
        if len(skipped) == len(images):
            log_skipped(skipped)
            raise UserError(f"none of the {len(images)} images could be read: no inputs are written")
        write_json(os.path.join(meta_dir, META), {**description, "images": [entry for entry, _ in written if entry], "skipped": skipped})
    return skipped


def read_meta(meta_path):
    """The metadata that write_inputs left in a folder, each image's View under "view". Raises UserError."""
    errors.require_dir(meta_path, "metadata folder (--meta_path)")
    path = os.path.join(meta_path, META)
    meta = read_json(path, "the metadata of preprocess.py", META_TESTS)
    with errors.about(path):
        check_metainfo(meta)
    for entry in meta["images"]:
        entry["view"] = View(np.array(entry["center"], np.float32), float(entry["width"]), tuple(entry["out_hw"]), float(entry["scale"]))
    return meta


def read_result(path, meta):
    """The detections [K, D] in a result file, for the metadata of read_meta. Raises OSError, or ValueError if it holds something else."""
    k, width, classes = meta["K"], row_width(meta), len(meta["classes"])
    values = np.fromfile(path, np.float32)
    if os.path.getsize(path) != k * width * 4:
        raise ValueError(f"{os.path.getsize(path)} bytes, expected {k * width * 4} ([1, {k}, {width}] float32)")
    detections = values.reshape(k, width)
    labels = row.labels(detections)
    if not (np.isfinite(detections).all() and (labels >= 0).all() and (labels < classes).all() and (labels == labels.round()).all()):
        raise ValueError(f"no detections: numbers that are not finite, or no class from 0 to {classes - 1}")
    return detections


def size_of_inputs(meta_path, detector):
    """[width, height] of the inputs that a folder's metadata describe. Raises UserError if the detector takes no such size."""
    size = read_meta(meta_path)["input_res"]
    check_detected_input(detector.description, size, f"{meta_path}: input_res")
    return size


def run_inputs(detector, input_dir, result_path):
    """Run a Detector of an exported file over a folder of inputs; returns (files done, sentences about those left out).

    Each result is [1, K, D] float32; a folder of earlier results is kept aside. Where the file leaves the inputs' size free,
    preprocess.py's metadata, in the folder meta beside them, say it.
    """
    width, height = detector.input_res or size_of_inputs(os.path.join(os.path.dirname(os.path.abspath(input_dir)), "meta"), detector)
    batch_size = detector.batch_size or 1
    dtype, (_, *shape) = batch_kind(detector.from_bytes, batch_size, height, width)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    names = sorted(name for name in os.listdir(errors.require_dir(input_dir, "folder of inputs")) if name.endswith(".bin"))
    if not names:
        raise UserError(f"no .bin files in {input_dir}; preprocess.py writes them")
    skipped, fitting, done = [], [], 0
    for name in names:
        bytes_there = os.path.getsize(os.path.join(input_dir, name))
        if bytes_there == size:
            fitting.append(name)
        else:
            skipped.append(f"{name}: {bytes_there} bytes, and the exported file takes {size} ({dtype.__name__} {shape})")
    log_skipped(skipped)
    if not fitting:
        raise UserError(f"none of the {len(names)} inputs in {input_dir} fits the exported file: no results are written")
    batches = [fitting[start : start + batch_size] for start in range(0, len(fitting), batch_size)]
    with atomic_folder(result_path, RESULTS) as folder:
        for batch in interrupts.until_interrupted(progress(batches, "detecting")):
            inputs = np.stack([np.fromfile(os.path.join(input_dir, name), dtype).reshape(shape) for name in batch])
            for name, detections in zip(batch, detector(inputs)):
                with errors.writing(os.path.join(result_path, result_name(name))):
                    detections[None].astype(np.float32).tofile(os.path.join(folder, result_name(name)))
            done += len(batch)
        if done < len(fitting):
            os.rename(folder, unfinished := free_name(f"{os.path.normpath(result_path)}.unfinished"))
            raise interrupts.Interrupted(f"{unfinished} holds the results of {done} of {len(fitting)} inputs; the same command starts anew")
    return done, skipped
