"""Quantize the convolutions of an exported ONNX model to int8, calibrated on a folder of images. With an annotated data
set, also report the change in AP."""
import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core import errors, interrupts
from ..core.backups import contains_mark
from ..core.errors import UserError
from ..core.project import how_to_install
from ..core.suggest import suggest
from ..core.tables import line
from ..inference.models import Model, ending, open_model
from ..inference.onnx_detector import FLOAT16
from ..inference.options import OptionParser
from ..model_utils.config import Config, get_config

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.evaluator import EvaluationSet


# Operators to quantize: DeformConv has no int8 kernel, and an int8 Add costs AP and saves no time (docs/onnx-int8.md).
OPERATORS = ["Conv", "Relu", "MaxPool"]
WORST = 5  # layers named as the least exact
RUNS = 10  # timed runs of each model, in turns
TIMES = contains_mark('{\n "ms, ')  # tests whether a file is a report of an earlier run


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    config = get_config(__doc__, [*(["--config_path", options.config_path] if options.config_path else []),
                                  "--run_mode", "val", "--visual_image", "false", "--enable_eval", "true",
                                  "--data_dir", options.data_dir or ""])

    # Slow to load, so not before there is something to do.
    import itertools
    import json

    from ..core.backups import require_ours
    from ..core.console import LOG, show
    from ..core.files import atomic_write, write_json
    from ..export.onnx_int8 import float_convolutions, with_int8_kernels
    from ..inference.onnx_detector import HAS_ONNX_SIDE_FILE, load_onnx, onnx_side_file, read_onnx
    from ..weights.side_file import adopt_evaluation

    require_ours(options.output, HAS_ONNX_SIDE_FILE, onnx_side_file, "--output")
    if options.report:
        require_ours(options.report, TIMES, option="--report")
    model = open_model(options.onnx)
    LOG.info(adopt_evaluation(config, model.description, model.source))
    model.check_fixed(config)
    before, proto = os.path.getsize(options.onnx), with_int8_kernels(float_model(model))
    excluded = sorted({*float_convolutions(proto), *choose_float(proto, options.keep_float)})
    LOG.info(f"in float: {', '.join(excluded)}")
    paths = choose_images(options.images, options.count)
    data = read_annotated(model.description, config) if options.data_dir else None
    detector = model.load(config)

    batches = calibration_batches(paths, detector, config)
    first = next(batches)
    int8 = quantize(proto, itertools.chain([first], batches), excluded)
    with atomic_write(options.output, HAS_ONNX_SIDE_FILE, onnx_side_file) as path, open(path, "wb") as file:
        file.write(int8.SerializeToString())
    write_json(onnx_side_file(options.output), {entry.key: json.loads(entry.value) for entry in int8.metadata_props})
    size = os.path.getsize(options.output)
    show(f"{size / 2**20:.1f} MB, {before / 2**20:.1f} MB in float: {options.output}")
    detectors = {"float": detector, "int8": load_onnx(*read_onnx(options.output), options.output,
                                                             config.onnx_provider, config.runtime)}
    errors_added = layer_errors(proto, int8, first)
    worst = sorted(errors_added, key=errors_added.__getitem__, reverse=True)[:WORST]
    show("the largest errors that int8 layers add, relative to their output (--keep_float leaves a layer in float): "
         + ", ".join(f"{name} {100 * errors_added[name]:.1f} %" for name in worst))
    report = compare(detectors, first, data, config)
    show(table(report))
    if options.report:
        write_json(options.report, {**report, "errors added": errors_added}, TIMES)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    parser = OptionParser(description=__doc__)
    parser.add_argument("--onnx", required=True, metavar="FILE", help="ONNX file written by export.py")
    parser.add_argument("--images", required=True, metavar="DIR",
                        help="folder of images for calibration (searched recursively); representative of the images to "
                             "detect in, but not the ones used for scoring")
    parser.add_argument("--output", required=True, metavar="FILE", help="ONNX file to write, along with its side file")
    parser.add_argument("--count", type=int, default=100,
                        help="number of calibration images, spread evenly over the folder (default: %(default)s)")
    parser.add_argument("--keep_float", nargs="+", default=[], metavar="NAME",
                        help="further convolutions to leave in float, by name prefix: backbone.conv1, hm_head, ...; "
                             "the offsets' and the heads' last ones always are")
    parser.add_argument("--data_dir", help="data set folder; scores both models on its validation images")
    parser.add_argument("--config_path",
                        help="configuration of the data set, and the input size if the model does not fix it")
    parser.add_argument("--report", metavar="FILE", help="JSON file to write with times and scores of both models")
    options = parser.parse_args(argv)
    if options.count < 1:
        raise UserError(f"--count is {options.count}; expected at least 1")
    for name in ("onnx", "output"):
        if ending(getattr(options, name)) != ".onnx":
            raise UserError(f"--{name} is {getattr(options, name)}; expected a name ending in .onnx")
    return options


def float_model(model: Model) -> Any:
    """Return the ModelProto of an exported ONNX file. Raises UserError if it is not in float32."""
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.proto.graph.node):
        raise UserError(f"--onnx {model.path} is quantized already; use the file that export.py wrote")
    if any(tensor.data_type == FLOAT16 for tensor in model.proto.graph.initializer):
        raise UserError(f"--onnx {model.path} has float16 weights; export with --export_config.onnx_dtype float32")
    return model.proto


def choose_float(model: Any, prefixes: Sequence[str]) -> list[str]:
    """Return the names of a ModelProto's convolutions with these prefixes. Raises UserError if there are none."""
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            near = suggest(prefix, names)
            modules = sorted({name.split(".")[0] for name in names})
            hint = f"did you mean {near}?" if near else f"names start with {', '.join(modules)}"
            raise UserError(f"--keep_float: no convolution's name starts with {prefix!r}; {hint}")
    return [name for name in names if name.startswith(tuple(prefixes))]


def choose_images(folder: str, count: int) -> list[str]:
    """Return at most `count` paths, spread evenly over a folder's images. Raises UserError if it has none."""
    from ..data.coco import Split, image_list
    from ..data.summary import sample_evenly

    errors.require_dir(folder, "folder of images (--images)")
    images = image_list(Split("", folder), None)
    if not images:
        raise UserError(f"no images in {folder} (--images)")
    return [path for _, path in sample_evenly(images, count)]


def read_annotated(description: dict, config: Config) -> "EvaluationSet":
    """Read the validation split of the data set, for scoring. Raises UserError."""
    from ..data.coco import find_split
    from ..evaluation import evaluator
    from ..native.extensions import require_extensions
    from ..tasks import task_of

    require_extensions()
    split = find_split(config.data_dir, "val", config.dataset_config, task=task_of(description))
    return evaluator.read_evaluation_set(split, description, config)


# ---------------------------------------------------------------- quantizing


def calibration_batches(paths: Sequence[str], detector: Any, config: Config) -> "Iterator[np.ndarray]":
    """Yield the detector's input batches for images, preprocessed as in detection. Logs images that cannot be read.

    Raises UserError if none can be read.
    """
    import numpy as np

    from ..core.console import LOG, log_skipped, progress
    from ..imaging.reading import read_image
    from ..inference.pipeline import make_inputs

    skipped = []
    for path in progress(paths, "calibrating"):
        try:
            image = read_image(path, max_pixels=config.dataset_config.max_pixels)
        except (OSError, ValueError) as error:
            skipped.append(f"{path}: {errors.reason(error)}")
            continue
        for pixels, _ in make_inputs(image, detector, config):
            yield np.repeat(pixels[None], detector.batch_size or 1, axis=0)
    log_skipped(skipped)
    if len(skipped) == len(paths):
        raise UserError(f"none of the {len(paths)} images (--images) could be read; {skipped[0]}")
    LOG.info(f"calibrated on {len(paths) - len(skipped)} images, {len(skipped)} skipped")


def quantize(model: Any, batches: "Iterator[np.ndarray]", excluded: Sequence[str]) -> Any:
    """Return a ModelProto's int8 version with the same metadata; convolutions named in `excluded` stay float.

    Weights are quantized per channel, activations to uint8 over the range observed on the batches.
    """
    import tempfile

    import onnx

    from ..weights.side_file import CACHED

    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install('onnx')}") from error

    class Reader(CalibrationDataReader):
        def get_next(self) -> "dict[str, np.ndarray] | None":
            return next(({"image": batch} for batch in batches), None)

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # ONNX Runtime's preprocessing would change nothing: batch norms are folded and shapes known.
    add_pre_process_metadata(prepared)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "int8.onnx")
        quantize_static(prepared, path, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=OPERATORS,
                        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        nodes_to_exclude=excluded)
        int8 = onnx.load(path)
    del int8.metadata_props[:]
    int8.metadata_props.extend(entry for entry in model.metadata_props if not entry.key.startswith(CACHED))
    onnx.checker.check_model(int8, full_check=True)
    return int8


# ---------------------------------------------------------------- before and after


def layer_errors(before: Any, after: Any, batch: "np.ndarray") -> dict[str, float]:
    """{convolution in int8: the error that it adds to its output, relative to the output's norm} for a batch.

    before and after: the ModelProto that was quantized, and its int8 version. Each layer gets the input that it has in
    the float network.
    """
    import numpy as np

    from ..export.onnx_int8 import int8_layers
    from ..inference.onnx_runtimes import start_session

    floats = {node.name: node for node in before.graph.node if node.op_type == "Conv"}
    relus = {node.input[0]: node.output[0] for node in before.graph.node if node.op_type == "Relu"}
    layers = int8_layers(after)
    names = sorted({name for layer in layers for name in (floats[layer].input[0], floats[layer].output[0])} - {"image"})
    exact = {"image": batch, **dict(zip(names, values_of(before, names, {"image": batch})))}
    errors_added = {}
    for layer, alone in layers.items():
        start, end = (values[0].name for values in (alone.graph.input, alone.graph.output))
        rounded, = start_session(alone, "CPU", layer).run([end], {start: exact[floats[layer].input[0]]})
        output = exact[floats[layer].output[0]]
        if end in relus.values():  # left to the rounding to uint8
            output, rounded = np.maximum(output, 0), np.maximum(rounded, 0)
        errors_added[layer] = float(np.linalg.norm(rounded - output) / (np.linalg.norm(output) or 1))
    return errors_added


def values_of(model: Any, names: Sequence[str], inputs: "Mapping[str, np.ndarray]") -> "list[np.ndarray]":
    """Inner values of a ModelProto, by name."""
    import onnx

    from ..inference.onnx_runtimes import start_session

    extended = onnx.ModelProto.FromString(model.SerializeToString())
    extended.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                                 for name in names)
    return start_session(extended, "CPU", "the float file").run(names, inputs)


def compare(detectors: Mapping[str, Any], batch: "np.ndarray", data: "EvaluationSet | None",
            config: Config) -> dict[str, dict[str, float]]:
    """Return {measurement: {detector's name: number}}: milliseconds per batch, and the metrics on data if given.

    Raises Interrupted.
    """
    from ..core.console import LOG
    from ..core.timing import time_interleaved
    from ..evaluation import evaluator

    times = time_interleaved({name: partial(detector, batch) for name, detector in detectors.items()}, RUNS)
    size = "x".join(map(str, batch.shape))
    report = {f"ms, {size}": {name: 1000 * sorted(seconds)[RUNS // 2] for name, seconds in times.items()}}
    if data is None:
        return report
    for name, detector in detectors.items():
        LOG.info(f"detecting in {len(data.images)} images with the {name} model")
        results, _ = evaluator.detect(detector, data, config)
        evaluator.require_readable(len(results.skipped), data)
        if interrupts.INTERRUPTS.requested:
            raise interrupts.Interrupted("the int8 model is written, but not scored")
        metrics = data.task.scores.score(data.coco, results.records, config.eval_config)[1]
        for metric in data.task.metrics:
            report.setdefault(metric, {})[name] = metrics[metric]
    return report


def table(report: Mapping[str, Mapping[str, float]]) -> str:
    """Format a report as a table: float, int8 and their difference, or ratio for times."""
    rows: list[tuple[str, ...]] = [("", "float", "int8")]
    for what, values in report.items():
        before, after = values["float"], values["int8"]
        if what.startswith("ms"):
            rows.append((what, f"{before:.1f}", f"{after:.1f}", f"  ratio {after / before:.2f}"))
        else:
            rows.append((what, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"))
    return "\n".join(line(row, (26, 10, 10, 9)) for row in rows)
