"""Helpers and fixtures of all tests: golden vectors, configurations, small data sets.

MindSpore is imported only where it is used: the process that distributes the tests, and that of test_options, run
without it.
"""
import ast
import atexit
import contextlib
import fcntl
import functools
import glob
import hashlib
import importlib.metadata
import inspect
import io
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]
# A shell makes background processes ignore SIGINT, and children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import cv2
import numpy as np
import pytest

from src.core import errors
from src.core.console import LOG, print_log
from src.core.interrupts import INTERRUPTS, Interrupts
from src.imaging.color import apply_color
from src.model_utils import config as config_module
from src.model_utils.config import get_config
from src.weights.side_file import read_side_file, side_file
from tests import environments, prepared
from tests.metainfo import classes_of

GOLDEN = os.path.join(ROOT, "tests", "golden")


def network_of(num_classes, dcn_impl="composite", **net_config):
    """The network for num_classes classes with these values of net_config."""
    from src.network.centernet import build_network

    sections = {"net_config": net_config} if net_config else {}
    return build_network(config_module.make_config(**sections).net_config, classes_of(num_classes), dcn_impl)


def sample_of(pixels, boxes, labels, augmentation, layout, hm=None):
    """samples.make_sample for boxes and labels; heatmaps are drawn into hm unless it is None."""
    from src.data.samples import make_sample
    from src.tasks.detection import targets

    heatmaps = None if hm is None else {"hm": hm}
    return make_sample(targets, pixels, {"boxes": boxes, "labels": labels}, augmentation, layout, heatmaps)


def load_golden(name):
    """The arrays of a golden file, {name: array}; see tests/golden/README.md."""
    with np.load(os.path.join(GOLDEN, name)) as file:
        return dict(file)


@functools.cache
def prepared_server():
    """The prepared.Server of this process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return prepared.Server(folder.name)


def start_script(script, *args, stdout, stderr=None, cwd=None):
    """Start one of the project's Python scripts in a new process, with its output in files; stderr defaults to stdout.

    Returns an object with pid, returncode, wait, send_signal and kill, like a subprocess.Popen.
    """
    path, stderr = os.path.join(ROOT, script), stderr or stdout
    if prepared_server().fits():
        return prepared_server().start(path, args, cwd, stdout, stderr)
    return subprocess.Popen([sys.executable, path, *map(str, args)], cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout,
                            stderr=stderr)


def run_script(script, *args, cwd=None, check=True):
    """Run one of the project's Python scripts in a new process; return the CompletedProcess, with output as text."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = start_script(script, *args, cwd=cwd, stdout=stdout, stderr=stderr)
        try:
            code = process.wait(timeout=900)
        finally:
            process.kill()
        outputs = []
        for file in (stdout, stderr):
            file.seek(0)
            outputs.append(file.read())
    return _finished(subprocess.CompletedProcess(process.args, code, *outputs), check)


def call_script(script, *args, cwd=None, check=True):
    """Like run_script, but in this process, which has already loaded MindSpore; not for tests of signals, for example.

    The script runs as with `python script`; its changes to the process are reverted.
    """
    path, environment = os.path.join(ROOT, script), dict(os.environ)
    mindspore = sys.modules.get("mindspore")
    seed = mindspore.get_seed() if mindspore else None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    try:
        with own_log(), pytest.MonkeyPatch.context() as patch, \
                contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            patch.setattr(sys, "argv", [path, *map(str, args)])
            patch.setattr(sys, "path", [os.path.dirname(path), *sys.path])
            for name, value in (("first", None), ("mode", "raise")):
                patch.setattr(INTERRUPTS, name, value)
            patch.setattr(os, "execv", _refuse_exec)
            patch.chdir(cwd or os.getcwd())
            runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    except Exception:
        code = 1
        stderr.write(traceback.format_exc())
    finally:
        os.environ.clear()
        os.environ.update(environment)
        if seed is not None:
            mindspore.set_seed(seed)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    outputs = [stream.buffer.getvalue().decode() for stream in (stdout, stderr)]
    return _finished(subprocess.CompletedProcess([path, *map(str, args)], code, *outputs), check)


@contextlib.contextmanager
def own_log():
    """Restore the log's configuration after the block."""
    handlers, propagate, level = LOG.handlers, LOG.propagate, LOG.level
    try:
        yield
    finally:
        LOG.handlers, LOG.propagate = handlers, propagate
        LOG.setLevel(level)


@pytest.fixture
def console(capsys):
    """capsys, with the log printed as in scripts."""
    with own_log():
        print_log()
        yield capsys


def _refuse_exec(path, args):
    """Fail instead of replacing the test process."""
    raise AssertionError(f"{args} would replace this process; call it with run_script")


def _finished(done, check):
    """Return the CompletedProcess; with check it must have succeeded."""
    if check:
        output = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0, f"{done.args} exited with {done.returncode}:\n{output}"
    return done


def copy_project(folder, *excluded):
    """Copy the project's code, without files of these patterns, for code that writes to its own folder; return the
    folder."""
    ignore = shutil.ignore_patterns("__pycache__", *excluded)
    for name in ("src", "tools", "scripts", "configs"):
        shutil.copytree(os.path.join(ROOT, name), os.path.join(folder, name), ignore=ignore)
    for pattern in ("*.py", "*.sh", "*.yaml"):
        for path in glob.glob(os.path.join(ROOT, pattern)):
            shutil.copy(path, folder)
    return folder


SMALL_ARCHITECTURE = """

def _build_small(options, dcn_impl):
    from src import small_network  # imports MindSpore

    return small_network.{name}.build(options, dcn_impl)


ARCHITECTURES["resdcn_18"] = Architecture(_build_small, {stride}, {head_conv}, {block_class!r}, {num_stacks},
                                          {stacks!r})
"""


def small_project(folder, name="LEAST"):
    """Copy the project with a network of small_network.py as resdcn_18, for launchers, whose processes all compile."""
    from tests import small_network

    copy_project(folder)
    shutil.copy(small_network.__file__, os.path.join(folder, "src"))
    with open(os.path.join(folder, "src", "network", "architectures.py"), "a", encoding="utf-8") as file:
        file.write(SMALL_ARCHITECTURE.format(name=name, **vars(getattr(small_network, name))))
    os.symlink(sys.prefix, os.path.join(folder, ".venv"))
    return folder


def idle_project(folder):
    """Copy the project with stand_in_train.py as train.py, for launchers whose processes need not train."""
    copy_project(folder)
    shutil.copy(os.path.join(ROOT, "tests", "stand_in_train.py"), os.path.join(folder, "train.py"))
    os.symlink(sys.prefix, os.path.join(folder, ".venv"))
    return folder


def assert_user_error(done, *parts):
    """Assert exit code 2 and one sentence with these names, numbers and paths, without a traceback."""
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "error: " in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr[-2000:]


@contextlib.contextmanager
def user_error(*parts):
    """Assert that the block raises UserError with these names, numbers and paths; yield what pytest.raises does."""
    with pytest.raises(errors.UserError) as raised:
        yield raised
    for part in parts:
        assert str(part) in str(raised.value)


def lines_with(text, *parts):
    """The lines of a string, or of a list of lines, that contain all of these names, numbers and paths."""
    lines = text.splitlines() if isinstance(text, str) else text
    return [line for line in lines if all(str(part) in line for part in parts)]


def assert_same_detections(found, expected, atol):
    """Assert that two lists of detections [M, 6] of an image are equal, except for the order of scores that are equal
    after rounding, and for the last detection."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.sort(found[:, 4]), np.sort(expected[:, 4]), atol=atol)
    near = np.abs(found[:, None] - expected[None]).max(2) <= atol
    assert near.any(1).sum() >= len(found) - 1 and near.any(0).sum() >= len(found) - 1


def environment_with(folder, linked, *packages):
    """The Python of a new virtual environment in a folder with the requirements `linked`, as installed here, and
    packages from pip; skips if pip cannot reach them."""
    python = environments.make(folder, linked, without=[re.match(r"[\w-]+", name)[0] for name in packages]) / "python"
    command = [python, "-m", "pip", "install", "-q", "--no-compile", *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    unreachable = re.search("No matching distribution|Max retries|Temporary failure", done.stderr)
    if done.returncode and unreachable:
        pytest.skip(f"pip cannot reach {' '.join(packages)}: {unreachable[0]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return python


def wait_until(condition, seconds, what):
    """Wait for a condition; fail after a number of seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def contents(folder):
    """{path: bytes} of all files below a folder; None for subfolders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))}


def write_coco(folder, split, images, objects, classes=("disc", "square"), ids=None):
    """Write a split of a COCO data set; return its annotation file.

    images: {image id: BGR array or bytes}. objects: [(image id, category id, [x, y, w, h])].
    """
    os.makedirs(os.path.join(folder, f"{split}2017"), exist_ok=True)
    os.makedirs(os.path.join(folder, "annotations"), exist_ok=True)
    entries = []
    for image_id, image in images.items():
        name = f"{image_id:012d}.jpg"
        data = image if isinstance(image, bytes) else cv2.imencode(".jpg", image)[1].tobytes()
        with open(os.path.join(folder, f"{split}2017", name), "wb") as file:
            file.write(data)
        height, width = (0, 0) if isinstance(image, bytes) else image.shape[:2]
        entries.append({"id": image_id, "file_name": name, "width": width, "height": height})
    annotations = [
        {"id": number, "image_id": image_id, "category_id": category, "bbox": box, "area": box[2] * box[3],
         "iscrowd": 0}
        for number, (image_id, category, box) in enumerate(objects, 1)
    ]
    categories = [{"id": category_id, "name": name} for category_id, name in zip(ids or range(1, 99), classes)]
    path = os.path.join(folder, "annotations", f"instances_{split}2017.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"images": entries, "annotations": annotations, "categories": categories}, file)
    return path


def convert(split, folder, prefix="coco_det.train.mind", name="", **options):
    """src.data.conversion.convert into a folder, with options of dataset_config; it keeps images without objects by
    default."""
    from src.data import conversion

    options = {"keep_empty": True, "num_shards": 1, "num_workers": 1, **options}
    places = {"mindrecord_dir": str(folder), "mindrecord_prefix": prefix, "coco_data_dir": str(name)}
    return conversion.convert(split, config_module.make_config(**places, dataset_config=options))


def batches(records, make_config, *args, first_step=0, epoch=1):
    """The batches of an epoch, as {column: array}, with four samples of 96x96 each."""
    from src.data.train_set import TrainSet

    small = ("--dataset_config.input_res_train", "[96, 96]", "--train_config.batch_size", 4)
    config = make_config("--mindrecord_dir", records, *small, *args)
    train_set = TrainSet(config)
    start = epoch * train_set.steps_per_epoch
    pipeline = train_set.batches(start + first_step, start + train_set.steps_per_epoch)
    return list(pipeline.create_dict_iterator(num_epochs=1, output_numpy=True))


def network_input(batch):
    """The network's input for the first sample of a batch: float32 [3, H, W]."""
    return apply_color(batch["image"][0], batch["color"][0])


def noise_image(seed, height=96, width=128):
    """A random BGR image."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def step_results(*values):
    """A training step's results {name: number}, from numbers in this order."""
    names = ("loss", "hm_loss", "wh_loss", "off_loss", "overflow", "scaling_sens", "lr")
    return dict(zip(names, values, strict=True))


def bomb_tiff():
    """A TIFF with duplicate width and height tags: 1 as SLONG8, which Pillow reads, then 12000, which libtiff reads."""
    entries = [
        (256, 17, 1, struct.pack("<q", 1)), (256, 4, 1, struct.pack("<Q", 12000)), (257, 17, 1, struct.pack("<q", 1)),
        (257, 4, 1, struct.pack("<Q", 12000)), (258, 3, 1, struct.pack("<Q", 8)), (259, 3, 1, struct.pack("<Q", 1)),
        (262, 3, 1, struct.pack("<Q", 1)), (273, 16, 1, struct.pack("<Q", 16)), (277, 3, 1, struct.pack("<Q", 1)),
        (278, 4, 1, struct.pack("<Q", 12000)), (279, 16, 1, struct.pack("<Q", 1)),
    ]
    body = b"".join(struct.pack("<HHQ", tag, kind, count) + value for tag, kind, count, value in entries)
    header = b"II+\0" + struct.pack("<HHQ", 8, 0, 24) + bytes(8) + struct.pack("<Q", len(entries))
    return header + body + bytes(8 + 400_000)


# Fixtures that train, export, evaluate, start a process or install packages.
SLOW = {"graphs", "export_mindir", "evaluated", "predicted", "server", "wheel", "installed", "onnx_alone"}
# One process makes each of these fixtures, and runs all tests that need it; others would wait. A test belongs to the
# group of its first fixture in this list.
GROUPS = {"onnx_alone": "package", "installed": "package", "wheel": "package", "checkout": "package",
          "server": "server", "run_without": "without", "least_run": "least"}


def group_of(item):
    """The group of tests that share a costly or module fixture with this one; an empty string if it has none."""
    for fixture, group in GROUPS.items():
        if fixture in item.fixturenames:
            return group
    scopes = {fixture.scope for fixtures in item._fixtureinfo.name2fixturedefs.values() for fixture in fixtures}
    return item.path.stem if "module" in scopes else ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark tests with slow fixtures as slow, and group tests that share a fixture in one process.

    Several processes run the groups first, then the slow tests, then the quick ones, so all end at about the same time.
    """
    for item in items:
        if SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        if (group := group_of(item)) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("xdist_group", "slow")])


@pytest.fixture(scope="session", autouse=True)
def cpu():
    """Set up the CPU for all tests, as the entry scripts do."""
    import mindspore

    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    mindspore.set_seed(1)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind():
    """Assert that the tests leave no files in the checkout."""
    def files():
        found = {os.path.join(ROOT, name) for name in os.listdir(ROOT)}
        for name in ("src", "tests", "tools", "scripts", "configs", "docs"):
            for folder, folders, names in os.walk(os.path.join(ROOT, name)):
                folders[:] = [name for name in folders if name not in ("__pycache__", "build")]
                found |= {os.path.join(folder, name) for name in names}
        return found

    before = files()
    yield
    left = {path for path in files() - before if not os.path.basename(path).startswith(".")}
    assert not left, f"left in the checkout: {sorted(left)}"


@pytest.fixture(scope="session", autouse=True)
def shared_detectors():
    """Compile the detector of equal checkpoints and options once per process, for eval.py, export.py and the Predictor.

    own_detector gives a test a detector of its own.
    """
    from src.inference import detector
    from src.network.architectures import ARCHITECTURES

    load, cache = detector.load_detector, {}

    @functools.wraps(load)
    def load_shared(checkpoint, description, eval_config, *args, **kwargs):
        files = [path for path in (str(checkpoint), side_file(str(checkpoint))) if os.path.isfile(path)]
        digest = hashlib.sha256(b"".join(pathlib.Path(path).read_bytes() for path in files)).hexdigest()
        build = ARCHITECTURES["resdcn_18"].build  # which the fixture least, and others, replace
        options = (eval_config.K, eval_config.flip_test, eval_config.keep_res, *args, *kwargs.values())
        key = (len(files), digest, build, *options)
        if key not in cache:
            cache[key] = load(checkpoint, description, eval_config, *args, **kwargs)
            if len(cache) > 8:
                del cache[next(iter(cache))]  # each takes some 100 MB
        return cache[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "load_detector", load_shared)
        yield


def own_detector(checkpoint, eval_config, *args, **kwargs):
    """A newly compiled Detector of a checkpoint; args and kwargs are load_detector's after eval_config."""
    from src.inference import detector

    load = inspect.unwrap(detector.load_detector)
    return load(str(checkpoint), read_side_file(str(checkpoint)), eval_config, *args, **kwargs)


# Runs scripts as users do, where neither MindSpore nor PyTorch can be imported. One process runs all, since its start
# takes most of the time.
WITHOUT = """import json, sys
sys.modules.update(mindspore=None, torch=None)
sys.path.insert(0, "")
from tests.conftest import call_script
for line in sys.stdin:
    done = call_script(*json.loads(line), check=False)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""


@pytest.fixture(scope="session")
def run_without():
    """run_without(script, args...) -> CompletedProcess of a script of the project, without MindSpore."""
    command = [sys.executable, "-c", WITHOUT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        def run(*args):
            print(json.dumps([str(arg) for arg in args]), file=process.stdin, flush=True)
            return subprocess.CompletedProcess(args, *json.loads(process.stdout.readline()))

        yield run
        process.stdin.close()


@contextlib.contextmanager
def operation_by_operation():
    """Make MindSpore compile no graphs in the block."""
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def by_operation():
    """Compile no graphs, to save time in a test that is not about them."""
    with operation_by_operation():
        yield


@contextlib.contextmanager
def replace_resdcn_18(name):
    """Make resdcn_18 another network in the block: SMALL, PLAIN or LEAST of small_network.py, which compile faster."""
    from src.network.architectures import ARCHITECTURES
    from tests import small_network

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resdcn_18", getattr(small_network, name))
        yield


@pytest.fixture
def least():
    """Make the least network this test's resdcn_18, as the checkpoints of least_run need."""
    with replace_resdcn_18("LEAST"):
        yield


@pytest.fixture
def small():
    """Make the small network, with each kind of cell once, this test's resdcn_18."""
    with replace_resdcn_18("SMALL"):
        yield


@contextlib.contextmanager
def no_graphs():
    """Make Detectors compute operation by operation in the block, in half a second; compiling a graph of the least
    network takes two."""
    import mindspore as ms

    from src.network.graphs import Graphs

    def call(self, batch):
        with operation_by_operation():
            output = self.network(ms.Tensor(batch))
            return (output[0] if isinstance(output, tuple) else output).asnumpy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Graphs, "compile", lambda self, batch: 0.0)
        patch.setattr(Graphs, "__call__", call)
        yield


@pytest.fixture
def graphless():
    """no_graphs for a test that is not about the network."""
    with no_graphs():
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Initialize new networks with zeros, to save drawing millions of random numbers that are not used."""
    for name in ("_random_normal", "_random_uniform"):
        monkeypatch.setattr(f"mindspore.common.initializer.{name}", lambda seed, array, *range: array.fill(0))


@pytest.fixture
def light_steps(monkeypatch):
    """Training steps without a graph, which count, and change weights, statistics and moments."""
    from mindspore import Tensor

    from src.training.step import TrainStep

    def take(step, *batch):
        assert len(batch[0]) and np.isfinite(batch[0].asnumpy()).all()
        rng = np.random.default_rng(int(step.optimizer.global_step.asnumpy().item()))
        for parameter in step.get_parameters():
            value = parameter.asnumpy()
            if value.ndim and value.dtype == np.float32:
                parameter.set_data(Tensor(value + 0.01 * rng.random(value.shape, np.float32)))
        step.optimizer.global_step.set_data(step.optimizer.global_step + 1)
        results = [1, 0.8, 1, 0.1, 0, step.scale.asnumpy(), 5e-4, step.stop.asnumpy()]
        return tuple(Tensor(number) for number in np.float32(results))

    monkeypatch.setattr(TrainStep, "__call__", take)


@pytest.fixture
def interrupts(monkeypatch):
    """Handle signals as errors.run does, for this test only."""
    fresh = Interrupts()
    for name, module in list(sys.modules.items()):
        if name.startswith("src.") and hasattr(module, "INTERRUPTS"):
            monkeypatch.setattr(module, "INTERRUPTS", fresh)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    fresh.install()
    yield fresh
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def make_config():
    """make_config(args...) -> Config for these command-line arguments."""
    return lambda *args: get_config("test", [str(arg) for arg in args])


# The native deformable convolution compiles faster than the composite one, which test_train_step and test_quiet train.
TINY = (
    "--run_dir", ".", "--device_target", "CPU", "--dataset_config.input_res_train", "[96, 96]",
    "--dataset_config.input_res_test", "[96, 96]",
    "--train_config.batch_size", 4, "--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", 16,
    "--train_config.MultiDecay.warmup_steps", 2, "--net_config.dcn_impl", "native",
)


def common_folder(tmp_path_factory):
    """A folder shared by all of pytest's processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(tmp_path_factory, name, make):
    """The folder `name`, filled by make(folder) once for all of pytest's processes."""
    base = common_folder(tmp_path_factory)
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / f"{name}.made").exists():
            shutil.rmtree(base / name, ignore_errors=True)
            (base / name).mkdir()
            make(base / name)
            (base / f"{name}.made").touch()
    return base / name


def run(*args, cwd, check=True, **environment):
    """Run a command as from a shell without the project's path; with check it must succeed."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, args)], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True,
                          timeout=1200)
    assert not check or done.returncode == 0, (args, done.stdout[-3000:], done.stderr[-3000:])
    return done


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the project without compiled modules, in a folder whose name has a space."""
    folder = copy_project(tmp_path_factory.mktemp("a checkout") / "p", "*.so", "*.c")
    for pattern in ("pyproject.toml", "MANIFEST.in", "requirements*.txt", "LICENSE", "NOTICE"):
        for path in glob.glob(os.path.join(ROOT, pattern)):
            shutil.copy(path, folder)
    stale = folder / "build" / "lib" / "centernet"  # from an earlier build
    stale.mkdir(parents=True)
    (stale / "removed.py").touch()
    return folder


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    """A C compiler for CC that does not optimize, for tests of the build, not of the code's speed."""
    return environments.plain_compiler(tmp_path_factory.mktemp("compiler") / "cc")


@pytest.fixture(scope="session")
def wheel(checkout, compiler, tmp_path_factory):
    """The project's wheel, built in an environment with only the build requirements of pyproject.toml."""
    def make(folder):
        pyproject = (checkout / "pyproject.toml").read_text()
        requirements = ast.literal_eval(re.search(r"^requires = (\[.*\])$", pyproject, re.M)[1])
        python = environments.make(tmp_path_factory.mktemp("builder"), requirements) / "python"
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--check-build-dependencies"]
        run(python, "-m", "pip", "wheel", *options, "--wheel-dir", folder, checkout, cwd=folder, CC=str(compiler))

    return next(made_once(tmp_path_factory, "wheel", make).iterdir())


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The bin folder of a virtual environment with only the wheel, its dependencies and a type checker."""
    def make(folder):
        distribution = next(importlib.metadata.distributions(path=[str(wheel)]))
        requirements = [text for text in distribution.requires if "extra ==" not in text]
        python = environments.make(folder, requirements) / "python"
        run(python, "-m", "pip", "install", "--quiet", "--no-compile", wheel, "mypy", cwd=folder)

    return made_once(tmp_path_factory, "environment", make) / "bin"


@pytest.fixture(scope="session")
def onnx_alone(wheel, tmp_path_factory):
    """The bin folder of a virtual environment like the Dockerfile's: ONNX Runtime, the service and the wheel, without
    MindSpore.

    It has NumPy 2, not the older one that the tests use with MindSpore.
    """
    from setup import requirements
    from tests.project.test_dockerfile import pip_steps

    def make(folder):
        needed = [text for name in ("onnx", "serve")
                  for text in requirements(os.path.join(ROOT, f"requirements-{name}.txt"))]
        python = environments.make(folder, needed, without=("numpy", "opencv-python-headless")) / "python"
        for step in pip_steps():
            if not step.startswith("pip wheel"):  # the tests share one wheel
                step = step.replace("/wheels", shlex.quote(str(wheel.parent)))
                step = step.replace("--no-cache-dir ", "--no-compile ")
                run("sh", "-c", f"{shlex.quote(str(python))} -m {step}", cwd=ROOT)

    return made_once(tmp_path_factory, "onnx_alone", make) / "bin"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A COCO data set of 20 training and 6 validation images of drawn shapes, 96x96, with category ids 1, 2, 3."""
    options = ["--train", 20, "--val", 6, "--size", 96, "--smallest", 30, "--largest", 60, "--objects", 3]
    make = functools.partial(call_script, "tools/make_shapes_dataset.py", *options, "--output")
    return made_once(tmp_path_factory, "tiny", lambda folder: make(folder / "shapes")) / "shapes"


@pytest.fixture(scope="session")
def image(tiny_data):
    """The first validation image of tiny_data, BGR."""
    return cv2.imread(str(tiny_data / "val2017" / "000001.jpg"))


@pytest.fixture(scope="session")
def tiny_records(tiny_data, tmp_path_factory):
    """The MindRecord folder of tiny_data's training split."""
    options = ["--coco_data_dir", tiny_data, "--dataset_config.num_shards", 2, "--mindrecord_dir"]
    return made_once(tmp_path_factory, "records", functools.partial(call_script, "src/dataset.py", *options))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """A folder for --compile_cache_dir: trainings share a graph if only seed, checkpoints and train_steps differ."""
    return common_folder(tmp_path_factory) / "graphs"


@pytest.fixture(scope="session")
def lively_checkpoint(tiny_data, tmp_path_factory):
    """A checkpoint for tiny_data's classes and 96x96 whose untrained weights give varied detections that depend on the
    image."""
    from tests import torch_reference  # imports PyTorch

    def make(folder):
        network = torch_reference.lively(torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)))
        torch_reference.torch.save(network.state_dict(), folder / "lively.pth")
        annotation = tiny_data / "annotations" / "instances_val2017.json"
        files = ["--ckpt_file", folder / "lively.pth", "--output_file", folder / "lively.ckpt"]
        call_script("tools/convert_centernet.py", *files, "--annotation", annotation)
        side = json.loads((folder / "lively.json").read_text())
        (folder / "lively.json").write_text(json.dumps({**side, "input_res_train": [96, 96]}))

    return made_once(tmp_path_factory, "lively", make) / "lively.ckpt"


def exporter(checkpoint, folder, extension, *args, network=None):
    """Return export(name, further args...) -> path of the exported checkpoint in folder, made once for each name.

    network: the one of small_network.py that is resdcn_18 in the checkpoint.
    """
    def export(name, *more):
        path = folder / f"{name}{extension}"
        if not path.exists():
            with replace_resdcn_18(network) if network else contextlib.nullcontext():
                call_script("export.py", "--device_target", "CPU", "--export_config.ckpt_file", checkpoint,
                            "--export_config.export_name", folder / name, *args, *more)
        return path

    return export


def save_lively(folder, **net_config):
    """Write lively.ckpt, a network with this net_config for tiny_data's classes and weights for varied detections."""
    from src.weights.checkpoints import save_weights
    from src.weights.side_file import describe_model

    recipe = runpy.run_path(os.path.join(GOLDEN, "recipe.py"))
    shapes = {name: value.shape for name, value in network_of(3, **net_config).parameters_and_names()}
    weights = recipe["make_zoo_state"](shapes, 3)
    weights["wh.2.bias"] += 6  # boxes have sizes, in output pixels
    save_weights(str(folder / "lively.ckpt"), weights)
    sections = {"net_config": net_config} if net_config else {}
    config = config_module.make_config(dataset_config={"input_res_train": [96, 96]}, **sections)
    manifest = {"dataset": "shapes", "classes": ["rectangle", "ellipse", "triangle"], "category_ids": [1, 2, 3]}
    (folder / "lively.json").write_text(json.dumps(describe_model(config, manifest)))


@pytest.fixture(scope="session")
def small_file(tmp_path_factory):
    """A checkpoint of the network PLAIN for tiny_data's classes, like lively_checkpoint; to be read with PLAIN only."""
    def make(folder):
        with replace_resdcn_18("PLAIN"):
            save_lively(folder)

    return made_once(tmp_path_factory, "small", make) / "lively.ckpt"


@pytest.fixture
def small_checkpoint(small_file):
    """small_file for tests in which resdcn_18 is PLAIN: they must not make or read another network's checkpoint."""
    with replace_resdcn_18("PLAIN"):
        yield small_file


@pytest.fixture(scope="session")
def deformable_file(tmp_path_factory):
    """Like small_file, for the network SMALL, which has a deformable convolution."""
    def make(folder):
        with replace_resdcn_18("SMALL"):
            save_lively(folder)

    return made_once(tmp_path_factory, "deformable", make) / "lively.ckpt"


@pytest.fixture(scope="session")
def lively_onnx(deformable_file, tmp_path_factory):
    """The ONNX file of deformable_file: a process that reads it starts in a second."""
    def make(folder):
        exporter(deformable_file, folder, ".onnx", "--export_config.export_format", "ONNX", network="SMALL")("lively")

    return made_once(tmp_path_factory, "lively_onnx", make) / "lively.onnx"


NARROW = ("--export_config.input_res", "[128, 96]", "--export_config.batch_size", 2)
SQUARE = ("--export_config.input_res", "[96, 96]", "--export_config.batch_size", 4)


@pytest.fixture(scope="session")
def export_mindir(small_file, tmp_path_factory):
    """export_mindir(name, args...) -> path of the MindIR file of small_file, made once for each name."""
    return exporter(small_file, tmp_path_factory.mktemp("export"), ".mindir", "--eval_config.K", 20, network="PLAIN")


@pytest.fixture(scope="session")
def zoo_checkpoint(tmp_path_factory):
    """A checkpoint with the model zoo's names for tiny_data's three classes, and the weights of lively_checkpoint."""
    import mindspore as ms

    from tests import torch_reference

    network = torch_reference.lively(torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)))
    state, names = network.state_dict(), torch_reference.zoo_names(network)
    path = tmp_path_factory.mktemp("zoo") / "checkpoint_centernet-1_5.ckpt"
    parameters = [{"name": theirs, "data": ms.Tensor(state[name].numpy())} for name, theirs in names.items()]
    ms.save_checkpoint(parameters, str(path))
    return path


def train_least(*args, cwd, check=True, script=call_script):
    """Run train.py with the settings of TINY and the least network for two epochs, in this process, or in another with
    script=run_script."""
    with replace_resdcn_18("LEAST"):
        path = "train.py" if script is call_script else "tests/least_train.py"
        return script(path, *TINY, "--epoch_size", 2, *args, cwd=cwd, check=check)


@pytest.fixture(scope="session")
def least_graphs(graphs):
    """Like graphs, for the least network, whose settings are the same as another's."""
    return graphs / "least"


@pytest.fixture(scope="session")
def train_least_again(least_graphs):
    """train_least in a process that reuses the graph of an earlier one with the same settings (see graphs)."""
    return functools.partial(train_least, "--compile_cache_dir", least_graphs, script=run_script)


@pytest.fixture(scope="session")
def least_run(tiny_records, train_least_again, tmp_path_factory):
    """A folder with a training of the least network: 7 steps (5 per epoch), with checkpoints at 3, 6 and 7."""
    def make(folder):
        options = ["--train_steps", 7, "--save_checkpoint_steps", 3, "--save_checkpoint_num", 5]
        done = train_least_again(*options, "--mindrecord_dir", tiny_records, cwd=folder)
        (folder / "stdout.txt").write_text(done.stdout)

    return made_once(tmp_path_factory, "least_run", make)


@pytest.fixture(scope="session")
def least_checkpoint(least_run):
    """The last checkpoint of least_run."""
    return least_run / "ckpt_0" / "centernet-2_7.ckpt"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; without it the tests are skipped, or fail if REQUIRE_BROWSER is set, as in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        assert not os.environ.get("REQUIRE_BROWSER"), "no Chromium found"
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = playwright.chromium.launch(executable_path=path, args=args)
        yield chromium
        chromium.close()
