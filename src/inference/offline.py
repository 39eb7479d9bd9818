"""Files of offline inference: an input for each image, metadata, the device's results.

<predict_dir>/data/eval2017_image_<id>.bin, <predict_dir>/meta/inputs.json, <result_path>/eval2017_image_<id>_0.bin.
"""
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np

from ..core import errors, interrupts
from ..core.backups import contains_files, free_name
from ..core.console import log_skipped, progress
from ..core.errors import UserError
from ..core.files import atomic_folder, read_json, write_json
from ..core.kinds import dict_with, is_count, is_int64, is_number, is_positive, is_string, is_text, list_of
from ..imaging.camera import check_calib
from ..imaging.view import Fit, View, input_spec, make_input, normalize
from ..network.architectures import check_detected_input
from ..tasks import check_metainfo, task_of
from ..tasks import rows as row
from ..weights.side_file import row_width

META = "inputs.json"
# Tests for backups.back_up_existing: whether a folder is an earlier run's.
INPUTS, METADATA = contains_files("eval2017_image_*.bin"), contains_files(META)
RESULTS = contains_files("eval2017_image_*_0.bin")
META_TESTS = {
    "input_res": list_of(is_count, 2), "K": is_count, "classes": list_of(is_text, least=1),
    "skipped": list_of(is_string),
    "images": list_of(dict_with(id=is_int64, file_name=is_string, center=list_of(is_number, 2), width=is_positive,
                             out_hw=list_of(is_count, 2), scale=is_positive)),
}


def input_name(image_id: int) -> str:
    """The file name of an image's input."""
    return f"eval2017_image_{image_id}.bin"


def result_name(input_file: str) -> str:
    """The file name of an input's result, the first and only output."""
    return f"{os.path.splitext(input_file)[0]}_0.bin"


def write_inputs(predict_dir: str, images: Sequence[tuple[int, str]], description: dict, workers: int,
                 load: Callable[[int, str], np.ndarray], place: Callable[[int, View], View]) -> list[str]:
    """Write the inputs of images [(id, path)] and their metadata; returns a sentence for each skipped image.

    Args: description, the metadata for postprocess.py, with at least input_res, input_type, down_ratio, mean and std;
    load(id, path) returns an image or raises OSError or ValueError; place(id, view) completes its View. An earlier
    run's files are backed up. Raises UserError if no image can be read.
    """
    fit = Fit(False, description["input_res"], sees_all=task_of(description).sees_all)

    def write(item: tuple[int, str]) -> tuple[dict | None, str]:
        image_id, path = item
        try:
            image = load(image_id, path)
        except (OSError, ValueError) as error:
            return None, f"image {image_id} ({path}): {errors.reason(error)}"
        pixels, view = make_input(image, 1.0, fit, description["down_ratio"])
        view = place(image_id, view)
        if description["input_type"] == "float32":
            pixels = normalize(pixels, description["mean"], description["std"])
        with errors.writing(os.path.join(predict_dir, "data", input_name(image_id))):
            pixels.tofile(os.path.join(data_dir, input_name(image_id)))
        camera = None if view.camera is None else view.camera.tolist()
        return {"id": image_id, "file_name": path, **asdict(view), "center": view.center.tolist(), "camera": camera}, ""

    with atomic_folder(os.path.join(predict_dir, "data"), INPUTS) as data_dir, \
            atomic_folder(os.path.join(predict_dir, "meta"), METADATA) as meta_dir:
        with ThreadPoolExecutor(workers) as pool:
            written = list(progress(pool.map(write, images), "preparing", total=len(images)))
        skipped = [problem for _, problem in written if problem]
        if len(skipped) == len(images):
            log_skipped(skipped)
            raise UserError(f"none of the {len(images)} images could be read; no inputs are written")
        entries = [entry for entry, _ in written if entry]
        write_json(os.path.join(meta_dir, META), {**description, "images": entries, "skipped": skipped})
    return skipped


def read_meta(meta_path: str) -> dict:
    """Read the metadata of write_inputs from a folder, with each image's View as its "view". Raises UserError."""
    errors.require_dir(meta_path, "metadata folder (--meta_path)")
    path = os.path.join(meta_path, META)
    meta = read_json(path, "the metadata of preprocess.py", META_TESTS)
    with errors.prefix_errors(path):
        check_metainfo(meta)
    for entry in meta["images"]:
        center = np.array(entry["center"], np.float32)
        with errors.prefix_errors(f"{path}: image {entry['id']}"):
            calib = check_calib(entry["camera"]) if entry.get("camera") is not None else None
            if calib is None and task_of(meta).results.camera_note(meta):
                raise UserError("its camera is missing")
        factor = entry.get("depth_factor", 1.0)  # older files have neither
        if not is_positive(factor):
            raise UserError(f"{path}: image {entry['id']}: depth_factor is {factor!r}; expected a positive number")
        entry["view"] = View(center, float(entry["width"]), tuple(entry["out_hw"]), float(entry["scale"]), calib,
                             factor)
    return meta


def read_result(path: str, meta: dict) -> np.ndarray:
    """Read the detections [K, D] from a result file; meta, from read_meta. Raises OSError, or ValueError if damaged."""
    k, width, classes = meta["K"], row_width(meta), len(meta["classes"])
    values = np.fromfile(path, np.float32)
    if os.path.getsize(path) != k * width * 4:
        raise ValueError(f"{os.path.getsize(path)} bytes, expected {k * width * 4} ([1, {k}, {width}] float32)")
    detections = values.reshape(k, width)
    labels = row.labels(detections)
    are_classes = (labels >= 0) & (labels < classes) & (labels == labels.round())
    if not (np.isfinite(detections).all() and are_classes.all()):
        raise ValueError(f"not detections: numbers that are not finite, or classes other than 0 to {classes - 1}")
    return detections


def size_of_inputs(meta_path: str, detector: Any) -> list[int]:
    """Read the inputs' [width, height] from a folder's metadata. Raises UserError if it does not fit the detector."""
    size = read_meta(meta_path)["input_res"]
    check_detected_input(detector.description, size, f"{meta_path}: input_res")
    return size


def run_inputs(detector: Any, input_dir: str, result_path: str) -> tuple[int, list[str]]:
    """Run the detector of an exported file on a folder of inputs; returns (inputs done, a sentence for each skipped).

    Each result is float32 [1, K, D]; earlier results are backed up. If the exported file has no fixed input size,
    preprocess.py's metadata, in the folder meta next to the inputs, has it.
    """
    meta_path = os.path.join(os.path.dirname(os.path.abspath(input_dir)), "meta")
    width, height = detector.input_res or size_of_inputs(meta_path, detector)
    batch_size = detector.batch_size or 1
    dtype, (_, *shape) = input_spec(detector.from_bytes, batch_size, height, width)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    errors.require_dir(input_dir, "folder of inputs")
    names = sorted(name for name in os.listdir(input_dir) if name.endswith(".bin"))
    if not names:
        raise UserError(f"no .bin files in {input_dir}; preprocess.py writes them")
    skipped, fitting, done = [], [], 0
    for name in names:
        file_size = os.path.getsize(os.path.join(input_dir, name))
        if file_size == size:
            fitting.append(name)
        else:
            skipped.append(f"{name}: {file_size} bytes, but the exported file takes {size} ({dtype.__name__} {shape})")
    log_skipped(skipped)
    if not fitting:
        raise UserError(f"none of the {len(names)} inputs in {input_dir} fits the exported file; no results are "
                        "written")
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
            raise interrupts.Interrupted(f"stopped after {done} of {len(fitting)} inputs; results so far in "
                                         f"{unfinished}; run the same command to start over")
    return done, skipped
