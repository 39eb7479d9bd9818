"""Turn an exported ONNX file into one of int8 convolutions, calibrated on a folder of images; with annotations, say what it costs in AP."""
import os
from typing import Any

from ..core import errors, interrupts
from ..core.backups import contains_mark
from ..core.errors import UserError
from ..core.project import how_to_install
from ..core.suggest import suggest
from ..core.tables import line
from ..inference.models import Model, ending, open_model
from ..inference.options import OptionParser
from ..model_utils.config import get_config

# What int8 kernels compute; a ConvTranspose and a DeformConv have none. Adds in int8 cost AP and save no time (docs/onnx-int8.md).
OPERATORS = ["Conv", "Relu", "MaxPool"]
RUNS = 10  # of each file, in turns, to time them
TIMES = contains_mark('{\n "ms, ')  # the test for write_json whether a file is of an earlier call


def main(argv=None):
    options = parse(argv)
    config = get_config(__doc__, [*(["--config_path", options.config_path] if options.config_path else []), "--run_mode", "val",
                                  "--visual_image", "false", "--enable_eval", "true", "--data_dir", options.data_dir or ""])

    # What is slow to load is loaded when there is something to do.
    import itertools
    import json

    from ..core.backups import require_ours
    from ..core.console import LOG, show
    from ..core.files import atomic_write, write_json
    from ..inference.onnx_detector import HAS_ONNX_SIDE_FILE, load_onnx, onnx_side_file, read_onnx
    from ..weights.side_file import adopt_evaluation

    require_ours(options.output, HAS_ONNX_SIDE_FILE, onnx_side_file, "--output")
    if options.report:
        require_ours(options.report, TIMES, option="--report")
    model = open_model(options.onnx)
    LOG.info(adopt_evaluation(config, model.description, model.source))
    model.check_fixed(config)
    proto = float_model(model)
    left = choose_float(proto, options.keep_float)
    paths = choose_images(options.images, options.count)
    part = read_annotated(model.description, config) if options.data_dir else None
    detector = model.load(config)

    batches = calibration_batches(paths, detector, config)
    first = next(batches)
    int8 = quantize(proto, itertools.chain([first], batches), left)
    with atomic_write(options.output, HAS_ONNX_SIDE_FILE, onnx_side_file) as partial, open(partial, "wb") as file:
        file.write(int8.SerializeToString())
    write_json(onnx_side_file(options.output), {entry.key: json.loads(entry.value) for entry in int8.metadata_props})
    show(f"{os.path.getsize(options.output) / 2**20:.1f} MB, {proto.ByteSize() / 2**20:.1f} MB in float: {options.output}")
    report = compare({"float": detector, "int8": load_onnx(*read_onnx(options.output), options.output)}, first, part, config)
    show(table(report))
    if options.report:
        write_json(options.report, report, TIMES)


def parse(argv):
    """The command line. Raises UserError."""
    parser = OptionParser(description=__doc__)
    parser.add_argument("--onnx", required=True, metavar="FILE", help="ONNX file of export.py")
    parser.add_argument("--images", required=True, metavar="DIR", help="images like those to detect in, with all folders in it; not those "
                        "that are scored")
    parser.add_argument("--output", required=True, metavar="FILE", help="ONNX file to write, and its side file")
    parser.add_argument("--count", type=int, default=100, help="images to calibrate on, spread over the folder (default: %(default)s)")
    parser.add_argument("--keep_float", nargs="+", default=[], metavar="NAME", help="convolutions that stay float, by the beginning of "
                        "their names: backbone.conv1, hm_head, ...")
    parser.add_argument("--data_dir", help="data set whose validation images are scored with both files")
    parser.add_argument("--config_path", help="configuration of the data set, and the size to fit into where the file leaves it free")
    parser.add_argument("--report", metavar="FILE", help="JSON file for times and scores of both files")
    options = parser.parse_args(argv)
    if options.count < 1:
        raise UserError(f"--count is {options.count}; expected at least 1")
    for name in ("onnx", "output"):
        if ending(getattr(options, name)) != ".onnx":
            raise UserError(f"--{name} is {getattr(options, name)}; expected a name that ends in .onnx")
    return options


def float_model(model: Model) -> Any:
    """The ModelProto of an exported ONNX file, not loaded yet. Raises UserError if it is quantized."""
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.proto.graph.node):
        raise UserError(f"--onnx {model.path} is quantized already; name the file that export.py wrote")
    return model.proto


def choose_float(model, beginnings):
    """Names of a ModelProto's convolutions that begin with one of these texts. Raises UserError for a text that none begins with."""
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in names):
            near = suggest(beginning, names)
            parts = sorted({name.split(".")[0] for name in names})
            hint = f"did you mean {near}?" if near else f"the names begin with {', '.join(parts)}"
            raise UserError(f"--keep_float: no convolution's name begins with {beginning!r}; {hint}")
    return [name for name in names if name.startswith(tuple(beginnings))]


def choose_images(folder, count):
    """Paths of at most count images, spread over a folder and those in it. Raises UserError if it has none."""
    from ..data.coco import Split, image_list
    from ..data.summary import sample_evenly

    errors.require_dir(folder, "folder of images (--images)")
    images = image_list(Split("", folder), None)
    if not images:
        raise UserError(f"no images in {folder} (--images)")
    return [path for _, path in sample_evenly(images, count)]


def read_annotated(description, config):
    """The evaluator.Part of the data set's validation images. Raises UserError."""
    from ..data.coco import find_split
    from ..evaluation import evaluator
    from ..native.extensions import require_extensions

    require_extensions()
    return evaluator.read_part(find_split(config.data_dir, "val", config.dataset_config), description, config)


# ---------------------------------------------------------------- quantizing


def calibration_batches(paths, detector, config):
    """Yield the detector's inputs of images, as detection prepares them, with a batch axis; an image that cannot be read is named.

    Raises UserError if none can.
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
        raise UserError(f"none of {len(paths)} images (--images) can be read; {skipped[0]}")
    LOG.info(f"calibrated on {len(paths) - len(skipped)} images, {len(skipped)} skipped")


def quantize(model, batches, left):
    """The ModelProto with int8 convolutions but those named in left: weights by channel, activations uint8 over the range that the
    batches give them. Its metadata are the model's."""
    import tempfile

    import onnx

    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install('onnx')}") from error

    class Reader(CalibrationDataReader):
        def get_next(self):
            return next(({"image": batch} for batch in batches), None)

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    add_pre_process_metadata(prepared)  # batch norms are folded and shapes known: ONNX Runtime's own preparation would change nothing
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "int8.onnx")
        quantize_static(prepared, made, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=OPERATORS, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=left)
        int8 = onnx.load(made)
    del int8.metadata_props[:]
    int8.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(int8, full_check=True)
    return int8


# ---------------------------------------------------------------- before and after


def compare(detectors, batch, part, config):
    """{what: {name of detector: number}}: ms of a batch, and the twelve scores on a Part unless that is None.

    Raises Interrupted.
    """
    from ..core.console import LOG
    from ..core.timing import time_interleaved
    from ..evaluation import evaluator

    times = time_interleaved({name: lambda detector=detector: detector(batch) for name, detector in detectors.items()}, RUNS)
    size = "x".join(map(str, batch.shape))
    report = {f"ms, {size}": {name: 1000 * sorted(seconds)[RUNS // 2] for name, seconds in times.items()}}
    for name, detector in detectors.items() if part else ():
        LOG.info(f"detecting in {len(part.images)} images with the {name} file")
        results, _ = evaluator.detect(detector, part, config)
        evaluator.require_read(len(results.skipped), part)
        if interrupts.INTERRUPTS.requested:
            raise interrupts.Interrupted("the int8 file is written whole; nothing is scored")
        metrics = part.task.scores.score(part.coco, results.records)[1]
        for metric in part.task.metrics:
            report.setdefault(metric, {})[name] = metrics[metric]
    return report


def table(report):
    """A report as lines: before, after, and their difference; of times, the ratio."""
    rows = [("", "float", "int8")]
    for what, values in report.items():
        before, after = values["float"], values["int8"]
        if what.startswith("ms"):
            rows.append((what, f"{before:.1f}", f"{after:.1f}", f"  ratio {after / before:.2f}"))
        else:
            rows.append((what, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"))
    return "\n".join(line(row, (26, 10, 10, 9)) for row in rows)
