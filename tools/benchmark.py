"""Time every part of the detector on this machine, side by side with what a reader plugs in.

A peer is a Python file with a function peers(part), which returns {name: make}. make(case, inputs) returns a function without arguments
that does what this project's row of that name does, or None. tests/torch_peer.py is one, and taken where PyTorch is installed.
Each part runs in a process of its own; this project and its peers take turns. A row is the median of several runs, with the least
and the most.
"""
import argparse
import contextlib
import functools
import importlib.util
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.path[0] = ROOT

from src import errors
from src.errors import UserError
from src.mindspore_version import require_mindspore
from src.options import OptionParser

CLASSES = 80
PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "torch")
THREADS = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "GLOG_v")


def main(argv=None):
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), help="time this part alone")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    parser.add_argument("--runs", type=int, default=7, help="runs of each row that count (default: %(default)s)")
    parser.add_argument("--peer", action="append", default=[], metavar="FILE.py",
                        help="time this file's functions beside ours; may be repeated")
    options = parser.parse_args(argv)
    if options.runs < 1:
        raise UserError(f"--runs is {options.runs}; expected at least 1")
    for path in options.peer:
        errors.require_file(path, "peer (--peer)")
    if importlib.util.find_spec("torch"):
        options.peer.append(os.path.join(ROOT, "tests", "torch_peer.py"))
    require_mindspore()
    print(describe_machine(), flush=True)
    rows = []
    for part in [options.only] if options.only else PARTS:
        rows += run_part(part, options)
    if options.json:
        from src.utils import keep_earlier, write_json

        write_json(keep_earlier(options.json), {"machine": describe_machine(), "rows": rows})


def describe_machine():
    """Processor, cores, versions and thread settings, as a line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    settings = [f"{name}={os.environ[name]}" for name in THREADS if name in os.environ]
    return f"{model}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, {', '.join(versions + settings)}"


def run_part(part, options):
    """Time a part in a process of its own, printing its rows as they come; returns them."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.json")
        words = [word for peer in options.peer for word in ("--peer", os.path.abspath(peer))]
        code = subprocess.run([sys.executable, os.path.abspath(__file__), CHILD, part, path, str(options.runs), *words]).returncode
        if code:
            sys.exit(code)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


# ---------------------------------------------------------------- one part, in its own process

CHILD = "--part"


def time_part(part, path, runs, peers):
    """Time a part's cases beside the peers', print rows and write them."""
    print(f"\n{part}\n{'':60}{'median':>10}{'least':>10}{'most':>10}  unit", flush=True)
    rows = []
    for case in PARTS[part](runs):
        for row in measure(part, case, runs, peers):
            rows.append(row)
            print_row(row)
    rows.append({"part": part, "name": "peak memory of this part", "unit": "GB", "median": memory()})
    print_row(rows[-1])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(rows, file)


def memory():
    """The most memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Case:
    """One row: a function to time, or seconds that were measured elsewhere.

    unit: "s", "ms" or "us" of one of the `count` things that a call does, or "images/s"; any other takes the numbers as they are.
    inputs: what a peer gets to do the same.
    """

    def __init__(self, name, function=None, unit="ms", count=1, inputs=None, seconds=None):
        self.name, self.function, self.unit, self.count, self.inputs, self.seconds = name, function, unit, count, inputs, seconds


def measure(part, case, runs, peers):
    """The rows of a case: ours, then each peer's with its ratio."""
    functions = {"": case.function}
    for make_all in peers:
        for name, make in make_all(part).items():
            function = make(case.name, case.inputs)
            if function:
                functions[name] = function
    if case.seconds is not None:
        times = {"": case.seconds}
    else:
        times = take_turns(functions, runs)
    ours = statistics.median(times[""])
    for name, series in times.items():
        row = {"part": part, "name": f"{case.name}{f' ({name})' if name else ''}", "unit": case.unit}
        values = sorted(convert(seconds, case) for seconds in series)
        row.update(median=statistics.median(values), least=values[0], most=values[-1])
        if name:
            row["ours_to_it"] = ours / statistics.median(series)
        yield row


def take_turns(functions, runs):
    """Seconds of each function, called in turns after one call that does not count: {name: [seconds]}."""
    times = {name: [] for name in functions}
    for number in range(runs + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def convert(seconds, case):
    """Seconds of a call in the case's unit."""
    one = seconds / case.count
    return {"ms": 1e3 * one, "us": 1e6 * one, "images/s": 1 / one}.get(case.unit, one)


def print_row(row):
    """A row as a line of the table."""
    spread = f"{row['least']:10.3g}{row['most']:10.3g}" if "least" in row else " " * 20
    ratio = f"  ours / it {row['ours_to_it']:.2f}" if "ours_to_it" in row else ""
    print(f"{row['name']:60}{row['median']:10.4g}{spread}  {row['unit']}{ratio}", flush=True)


def load_peer(path):
    """The function peers of a Python file. Raises UserError if it has none."""
    spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(path))[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "peers"):
        raise UserError(f"{path} has no function peers(part)")
    return module.peers


# ---------------------------------------------------------------- inputs


def photograph(width=640, height=480, seed=0):
    """A picture with smooth areas, edges and some grain, whose JPEG is about as large as a photograph's: BGR uint8."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(0, 255, (height // 40, width // 40, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y, size = (int(value) for value in rng.integers((0, 0, 20), (width, height, 120)))
        cv2.circle(picture, (x, y), size, tuple(int(value) for value in rng.integers(0, 255, 3)), -1, cv2.LINE_AA)
    return np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


def jpeg(picture):
    """A picture as a JPEG file's bytes."""
    import cv2

    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def random_boxes(count, width, height, seed=0):
    """(boxes [M, 4] x1, y1, x2, y2, labels [M]) of objects of many sizes."""
    import numpy as np

    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(16), np.log(min(width, height) / 2), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - size)
    return np.hstack([corner, corner + size]).astype(np.float32), rng.integers(0, CLASSES, count).astype(np.int32)


def settings(*words):
    """The default configuration, changed by words of a command line."""
    from src.model_utils.config import get_config

    return get_config("", [str(word) for word in words])


def write_coco(folder, count, width, height, boxes=8):
    """A COCO data set of `count` photographs."""
    names = [f"class {number}" for number in range(1, CLASSES + 1)]
    data = {"images": [], "annotations": [], "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)]}
    os.makedirs(os.path.join(folder, "train2017"))
    os.makedirs(os.path.join(folder, "annotations"))
    files = [jpeg(photograph(width, height, seed)) for seed in range(min(count, 16))]
    for image_id in range(1, count + 1):
        with open(os.path.join(folder, "train2017", f"{image_id}.jpg"), "wb") as file:
            file.write(files[image_id % len(files)])
        data["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "width": width, "height": height})
        for (x1, y1, x2, y2), label in zip(*(array.tolist() for array in random_boxes(boxes, width, height, image_id))):
            data["annotations"].append({"id": len(data["annotations"]) + 1, "image_id": image_id, "category_id": label + 1, "iscrowd": 0,
                                        "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    with open(os.path.join(folder, "annotations", "instances_train2017.json"), "w", encoding="utf-8") as file:
        json.dump(data, file)
    return folder


def convert_photographs(folder, count):
    """Make a COCO data set of 640x480 photographs in a folder, and MindRecord files of it, which records_options names."""
    from src import dataset
    from src.coco import find_split

    write_coco(os.path.join(folder, "coco"), count, 640, 480)
    split = find_split(os.path.join(folder, "coco"), "train", settings().dataset_config)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset.convert(split, os.path.join(folder, "records"), "photographs", 4, 2, folder)


def records_options(folder):
    """The options that name convert_photographs' files."""
    return ["--mindrecord_dir", os.path.join(folder, "records"), "--mindrecord_prefix", "photographs"]


@contextlib.contextmanager
def one_core():
    """Let this process, OpenCV included, use one core."""
    import cv2

    cores, threads = os.sched_getaffinity(0), cv2.getNumThreads()
    os.sched_setaffinity(0, {min(cores)})
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)
    os.sched_setaffinity(0, cores)


# ---------------------------------------------------------------- parts


def input_part(runs):
    """The training sample on one core, its steps, and the pipeline that makes batches of it."""
    import numpy as np

    from src import dataset, image_files, targets

    config = settings()
    layout, ranges = dataset.sample_layout(config, CLASSES), dataset.augmentation_ranges(config)
    with one_core():
        for boxes_count, (width, height) in ((8, (640, 480)), *((n, (640, 480)) for n in (1, 2, 4, 16, 32, 64, 128)),
                                            *((8, size) for size in ((320, 240), (1280, 720), (1920, 1080)))):
            picture = photograph(width, height)
            data = jpeg(picture)
            boxes, labels = random_boxes(boxes_count, width, height)
            name = f"{width}x{height}, {boxes_count} boxes"

            def sample(draw, data=data, boxes=boxes, labels=labels):
                hm = np.zeros((CLASSES, 128, 128), np.float32) if draw else None
                pixels = image_files.decode_image(data)
                augmentation = targets.random_augmentation(np.random.default_rng(1), pixels.shape[1::-1], layout.input_size, ranges)
                targets.make_sample(pixels, boxes, labels, augmentation, layout, hm)

            for draw, where in ((True, "drawn"), (False, "left to the device")):
                run = functools.partial(repeat, functools.partial(sample, draw), 20)
                yield Case(f"sample of {name}, {where}", run, "ms", 20, (data, boxes, labels) if draw else None)
            if (width, height) == (640, 480) and boxes_count == 8:
                yield from sample_steps(data, boxes, labels, layout)
    with tempfile.TemporaryDirectory() as folder:
        yield from pipeline_cases(folder, runs)


def repeat(function, count):
    """Call a function several times, for what is too short to time."""
    for _ in range(count):
        function()


def sample_steps(data, boxes, labels, layout):
    """The steps of one training sample."""
    import numpy as np

    from src import image, image_files, targets

    pixels = image_files.decode_image(data)
    whole = targets.whole_image((640, 480), layout.input_size)
    matrix = image.affine_matrix(whole.center, whole.width * 0.9, 0, layout.input_size)
    view = image.warp(pixels, matrix, layout.input_size)
    steps, lighting = image.random_color(np.random.default_rng(0))
    out_boxes = image.transform_boxes(boxes, image.affine_matrix(whole.center, whole.width, 0, layout.out_size))

    def color():
        change = image.color_matrix(steps, lighting, image.mean_gray(view), layout.eig_val, layout.eig_vec)
        image.normalizing_matrix(change, layout.mean, layout.std)

    def encode(on_host):
        hm = np.zeros((CLASSES, *layout.out_size[::-1]), np.float32) if on_host else None
        targets.encode_targets(out_boxes, labels, layout, hm)

    samples = [targets.make_sample(pixels, boxes, labels, whole, layout) for _ in range(16)]
    for name, function in (
        ("  decode", lambda: image_files.decode_image(data)), ("  warp", lambda: image.warp(pixels, matrix, layout.input_size)),
        ("  color map", color), ("  targets, heatmap drawn", lambda: encode(True)),
        ("  targets, heatmap left to the device", lambda: encode(False)),
    ):
        yield Case(name, functools.partial(repeat, function, 20), "ms", 20)
    yield Case("  batching by 16", functools.partial(targets.collate, samples, None), "ms", 16)


def pipeline_cases(folder, runs):
    """MindSpore's pipeline into batches of 16, with one and two workers, beside the same batches made without it on one core."""

    from src import dataset

    count = 1280  # enough for the first and the last batches not to count
    convert_photographs(folder, count)
    for where in ("host", "device"):
        words = [*records_options(folder), "--dataset_config.heatmap_on", where]
        one, two = (dataset.TrainSet(settings(*words, "--dataset_config.num_workers", workers)) for workers in (1, 2))
        functions = {"without the pipeline, one core": functools.partial(make_batches, one),
                     "1 worker": functools.partial(read_epoch, one), "2 workers": functools.partial(read_epoch, two)}
        times = take_turns(functions, runs)
        for name, seconds in times.items():
            yield Case(f"batches of 16, heatmaps on the {where}: {name}", unit="images/s", count=count, seconds=seconds)
        ratios = [alone / both / 2 for alone, both in zip(times["without the pipeline, one core"], times["2 workers"])]
        yield Case("  rate of 2 workers over twice that of one core", unit="ratio", seconds=ratios)


def make_batches(train_set):
    """Make every batch of an epoch, on one core."""
    with one_core():
        for step in range(train_set.steps_per_epoch):
            train_set.make_batch(step)


def read_epoch(train_set):
    """Fetch every batch of an epoch."""
    for _ in train_set.batches(0, train_set.steps_per_epoch).create_tuple_iterator(num_epochs=1):
        pass


def train_part(runs):
    """Training steps, and the start and the memory of train.py."""
    import mindspore as ms

    from src.centernet_det import build_network
    from src.engine import build_device_input, build_train_step
    from src.model_utils.device_adapter import set_device
    from src.optimizer import build_optimizer

    with tempfile.TemporaryDirectory() as folder:
        convert_photographs(folder, 32)
        start, peak = train_shortly(folder)
        again, _ = train_shortly(folder)
    yield Case("train.py, 16 x 128x128, to the end of its first step", unit="s", seconds=[start])
    yield Case("  the same with the graph that this one kept", unit="s", seconds=[again])
    yield Case("  the most memory after 20 steps", unit="GB", seconds=[peak])
    set_device("CPU", 0)
    for batch_size, side in ((16, 128), (2, 512)):
        config = settings("--dataset_config.input_res_train", [side, side])
        network = build_network(config.net_config, CLASSES, "composite")
        optimizer = build_optimizer(network, config.train_config, 100, 1)
        device_input = build_device_input(config, CLASSES, True)
        step = build_train_step(network, config, optimizer, 1, device_input)
        tensors = [ms.Tensor(array) for array in training_batch(config, batch_size)]
        start = time.perf_counter()
        step(*tensors)[0].asnumpy()
        yield Case(f"first step, {batch_size} x {side}x{side}", unit="s", seconds=[time.perf_counter() - start])
        for draw, where in ((True, "host"), (False, "device")):
            cell = build_device_input(config, CLASSES, draw)
            inputs = [ms.Tensor(array) for array in training_batch(config, batch_size, draw)]
            yield Case(f"  its batch on the device, heatmaps drawn on the {where}", functools.partial(run_cell, cell, inputs), "ms")
        run = functools.partial(run_step, step, tensors)
        yield Case(f"training step, {batch_size} x {side}x{side}", run, "ms", 1, [value.asnumpy() for value in device_input(*tensors)])


def train_shortly(folder):
    """Train 20 steps with train.py; returns the seconds to the end of the first one, and the most memory it has had in GB."""
    words = ["--device_target", "CPU", *records_options(folder), "--train_config.batch_size", "16", "--dataset_config.input_res_train",
             "[128, 128]", "--train_steps", "20", "--epoch_size", "10", "--enable_save_ckpt", "false", "--save_result_dir", folder,
             "--compile_cache_dir", os.path.join(folder, "graphs")]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, "train.py"), *words], stdout=subprocess.PIPE, text=True)
    first = None
    for line in process.stdout:
        if first is None and line.startswith("epoch:"):
            first = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError("train.py ended with an error (above)")
    return first, usage.ru_maxrss / 2**20


def run_step(step, tensors):
    """One training step, to its end."""
    step(*tensors)[0].asnumpy()


def run_cell(cell, inputs):
    """One call of a cell, to its end."""
    cell(*inputs)[1].asnumpy()


def training_batch(config, batch_size, heatmap_on_host=True):
    """A batch as the pipeline gives it, with eight objects an image: arrays in the order of targets.columns(heatmap_on_host)."""
    import numpy as np

    from src import dataset, targets

    layout, ranges = dataset.sample_layout(config, CLASSES), dataset.augmentation_ranges(config)
    hm = np.zeros((batch_size, CLASSES, *layout.out_size[::-1]), np.float32) if heatmap_on_host else None
    samples = []
    for seed in range(batch_size):
        boxes, labels = random_boxes(8, 640, 480, seed)
        augmentation = targets.random_augmentation(np.random.default_rng(seed), (640, 480), layout.input_size, ranges)
        own_map = hm[seed] if heatmap_on_host else None
        samples.append(targets.make_sample(photograph(seed=seed), boxes, labels, augmentation, layout, own_map))
    return targets.collate(samples, hm)


def build_detector():
    """An untrained Detector of 80 classes that takes any size."""
    import mindspore as ms

    from src.centernet_det import DetectionNetwork, HeatmapNetwork, build_network
    from src.folding import make_for_inference
    from src.inference import Detector

    config = settings()
    network = build_network(config.net_config, CLASSES, "composite")
    make_for_inference(network)
    graph = DetectionNetwork(HeatmapNetwork(network, ms.nn.Identity()), 100, False).set_train(False)
    return Detector(graph, {"mean": config.dataset_config.mean, "std": config.dataset_config.std}, 4)


def infer_part(runs):
    """The network with its decoding, on normalized batches."""
    import numpy as np

    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    detector = build_detector()
    for batch_size in (1, 8):
        batch = np.random.default_rng(0).standard_normal((batch_size, 3, 512, 512)).astype(np.float32)
        yield Case(f"inference, {batch_size} x 512x512", functools.partial(detector, batch), "ms", 1, batch)


def decode_part(runs):
    """Peaks and the best 100 of them, of 80 heatmaps."""
    import mindspore as ms
    import numpy as np

    from src.decode import decode
    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    rng = np.random.default_rng(0)
    heat = (1 / (1 + np.exp(-rng.normal(-4, 1, (1, CLASSES, 128, 128))))).astype(np.float32)
    wh, reg = rng.uniform(1, 20, (2, 1, 2, 128, 128)).astype(np.float32)
    tensors = [ms.Tensor(array) for array in (heat, wh, reg)]

    class Decode(ms.nn.Cell):
        def construct(self, heat, wh, reg):
            return decode(heat, wh, reg, 100)

    network = Decode()
    yield Case("decoding, 80 x 128x128", lambda: network(*tensors).asnumpy(), "ms", 1, (heat, wh, reg))


def postprocess_part(runs):
    """From 100 detections in output pixels to COCO records, on the host."""
    import numpy as np

    from src.extensions import extension
    from src.post_process import coco_records, merge, to_image
    from src.pre_process import View

    rng = np.random.default_rng(0)
    boxes, labels = random_boxes(100, 128, 128)
    scores = np.sort(rng.uniform(0.01, 1, 100))[::-1]
    detections = np.hstack([boxes, scores[:, None], labels[:, None]]).astype(np.float32)
    view = View(np.array([320, 240], np.float32), 640.0, (128, 128), 1.0)
    ids = list(range(1, CLASSES + 1))

    def all_of_it(use_soft_nms=True):
        coco_records(1, merge([to_image(detections, view)], use_soft_nms, 100), ids)

    yield Case("100 boxes to records, 80 classes, soft-NMS", functools.partial(repeat, all_of_it, 50), "us", 50, detections)
    yield Case("  the same without soft-NMS", functools.partial(repeat, functools.partial(all_of_it, False), 50), "us", 50)
    one_class, soft_nms = detections[:, :5].copy(), extension("soft_nms").soft_nms
    yield Case("  soft-NMS of 100 boxes of one class", functools.partial(repeat, lambda: soft_nms(one_class), 50), "us", 50, one_class)


def eval_part(runs):
    """From files to boxes, and the network alone on the same inputs."""
    import numpy as np

    from src.image_files import read_picture
    from src.inference import detect_all, make_inputs
    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    detector = build_detector()
    config = settings()
    count = 8
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{number}.jpg") for number in range(count)]
        for number, path in enumerate(paths):
            with open(path, "wb") as file:
                file.write(jpeg(photograph(seed=number)))
        batches = [np.stack([make_inputs(read_picture(path), detector, config)[0][0]]) for path in paths]
        functions = {"": lambda: len(list(detect_all(detector, paths, read_picture, config))),
                     "network": lambda: [detector(batch) for batch in batches]}
        times = take_turns(functions, runs)
        yield Case("evaluation of 640x480 photographs", unit="images/s", count=count, seconds=times[""])
        yield Case("the network alone on the same inputs", unit="images/s", count=count, seconds=times["network"])
        ratios = [whole / alone for whole, alone in zip(times[""], times["network"])]
        yield Case("time of the whole over that of the network", unit="ratio", seconds=ratios)


def convert_part(runs):
    """COCO to MindRecord."""
    from src import dataset
    from src.coco import find_split

    with tempfile.TemporaryDirectory() as folder:
        write_coco(os.path.join(folder, "coco"), 320, 640, 480)
        split = find_split(os.path.join(folder, "coco"), "train", settings().dataset_config)
        for shards in (1, 4, 16, 64):
            times = []
            for run in range(runs):
                start = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    dataset.convert(split, os.path.join(folder, f"{shards}_{run}"), "p", shards, 2, folder)
                times.append(time.perf_counter() - start)
            yield Case(f"conversion to {shards} MindRecord files", unit="images/s", count=320, seconds=times)


PARTS = {
    "input": input_part, "train": train_part, "infer": infer_part, "decode": decode_part, "postprocess": postprocess_part,
    "eval": eval_part, "convert": convert_part,
}


def child(argv):
    """Time one part: the words are the part, the file for its rows, the runs, and --peer options."""
    part, path, runs, *peers = argv
    time_part(part, path, int(runs), [load_peer(peer) for peer in peers[1::2]])


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        errors.run(functools.partial(child, sys.argv[2:]))
    errors.run(main)
