"""A checkpoint on a runtime of ONNX files, which is faster on a CPU than MindSpore.

The checkpoint is exported into a file beside it. Later runs use this file, and do not start MindSpore, unless the
checkpoint, its side file, the settings or this project's code have changed.
"""
import json
import os
from typing import Any

from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.project import digest_of_code
from ..model_utils.config import Config, make_config
from ..weights.side_file import CACHED, IS_CACHED, cache_path, read_side_file, side_file
from .onnx_detector import OnnxDetector, load_onnx, read_onnx
from .onnx_runtimes import form_for, package, require_runtime

KEY, WEIGHTS = f"{CACHED}key", f"{CACHED}weights"  # in the metadata of the ONNX file


def load_through_onnx(checkpoint: str, config: Config) -> OnnxDetector:
    """The OnnxDetector of a checkpoint for a Config's runtime (not "auto"), K, flip_test and use_ema.

    A file at cache_path that is not such an export stays. If the export cannot be saved, a warning says why.
    Raises UserError.
    """
    package("onnx")
    require_runtime(config.runtime, config.onnx_provider)
    form = form_for(config.runtime, config.onnx_provider)
    path, key = cache_path(checkpoint, form), cache_key(checkpoint, form, config)
    model, exported = read_cached(path, key) or export(checkpoint, form, key, config)
    detector = load_onnx(model, exported, path, config.onnx_provider, config.runtime)
    detector.weights = f"{json.loads(metadata_of(model)[WEIGHTS])}{detector.weights}"
    return detector


def cache_key(checkpoint: str, form: str, config: Config) -> str:
    """A digest of all that the export depends on."""
    digest = digest_of_code("onnx")
    digest.update(repr((form, config.eval_config.K, config.eval_config.flip_test, config.use_ema)).encode())
    for path in (side_file(checkpoint), checkpoint):
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def metadata_of(model: Any) -> dict[str, str]:
    """The metadata of a ModelProto."""
    return {entry.key: entry.value for entry in model.metadata_props}


def read_cached(path: str, key: str) -> tuple[Any, dict] | None:
    """(ModelProto, description) of an export with this key, or None if there is none, or only a damaged one."""
    if not os.path.isfile(path):
        return None
    try:
        model, description = read_onnx(path)
    except UserError:
        return None
    if metadata_of(model).get(KEY) != json.dumps(key):
        return None
    LOG.info(f"using {path}, exported from the checkpoint by an earlier run")
    return model, description


def export(checkpoint: str, form: str, key: str, config: Config) -> tuple[Any, dict]:
    """Export a checkpoint, save the file at cache_path if possible, and return (ModelProto, description)."""
    # Slow to load, and needed only here.
    from ..model_utils.device_adapter import set_device
    from .detector import build_onnx, load_detector

    # All that affects the file, whatever the defaults are.
    options = make_config(export_config={
        "export_format": "ONNX", "onnx_dcn": form, "ckpt_file": checkpoint, "onnx_dynamic": True, "onnx_decode": True,
        "onnx_dtype": "float32", "input_type": "float32"})
    target = set_device("CPU", 0)
    detector = load_detector(checkpoint, read_side_file(checkpoint), config.eval_config, target, use_ema=config.use_ema)
    model, exported = build_onnx(detector, options.export_config, config.eval_config)
    for name, value in ((KEY, key), (WEIGHTS, detector.weights)):
        model.metadata_props.add(key=name, value=json.dumps(value))
    path = cache_path(checkpoint, form)
    if os.path.lexists(path) and not IS_CACHED(path):
        LOG.warning(f"{path} is damaged or was not written by this project, and stays; move it away, so that the next "
                    "run saves the export for this runtime")
        return model, exported
    try:
        with atomic_write(path) as partial, open(partial, "wb") as file:
            file.write(model.SerializeToString())
        LOG.info(f"exported {checkpoint} to {path} for this runtime; later runs use the file")
    except UserError as error:
        LOG.warning(f"the export for this runtime is not saved, so that the next run exports again: {error}")
    return model, exported
