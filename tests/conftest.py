"""Shared by all tests: golden vectors, configurations, small data sets.

MindSpore is loaded by what needs it: the process that hands the tests out to others, and the one of test_options, do without.
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
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what runs in the background; children inherit it
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
    """The network of so many classes that these values of net_config describe."""
    from src.network.centernet import build_network

    sections = {"net_config": net_config} if net_config else {}
    return build_network(config_module.make_config(**sections).net_config, classes_of(num_classes), dcn_impl)


def sample_of(pixels, boxes, labels, augmentation, layout, hm=None):
    """samples.make_sample of boxes and labels, its heatmaps drawn into hm unless that is None."""
    from src.data.samples import make_sample
    from src.tasks.detection import targets

    heatmaps = None if hm is None else {"hm": hm}
    return make_sample(targets, pixels, {"boxes": boxes, "labels": labels}, augmentation, layout, heatmaps)


def load_golden(name):
    """The arrays of a golden file, {name: array}; the README beside them says what they are."""
    with np.load(os.path.join(GOLDEN, name)) as file:
        return dict(file)


@functools.cache
def prepared_server():
    """The prepared.Server of this process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return prepared.Server(folder.name)


def start_script(script, *words, stdout, stderr=None, cwd=None):
    """Start one of the project's Python scripts in a process of its own, its output in files, stderr's in stdout's if there is no other.

    Returns what has pid, returncode, wait, send_signal and kill, as a subprocess.Popen.
    """
    path, stderr = os.path.join(ROOT, script), stderr or stdout
    if prepared_server().fits():
        return prepared_server().start(path, words, cwd, stdout, stderr)
    return subprocess.Popen([sys.executable, path, *map(str, words)], cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)


def run_script(script, *words, cwd=None, check=True):
    """Run one of the project's Python scripts in a process of its own; returns the CompletedProcess, output as text."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        process = start_script(script, *words, cwd=cwd, stdout=output, stderr=complaints)
        try:
            code = process.wait(timeout=900)
        finally:
            process.kill()
        said = []
        for file in (output, complaints):
            file.seek(0)
            said.append(file.read())
    return _finished(subprocess.CompletedProcess(process.args, code, *said), check)


def call_script(script, *words, cwd=None, check=True):
    """The same in this process, which has loaded MindSpore already, for what does not need a process of its own, as signals do.

    The script runs whole, as with `python script`; what it sets in the process is set back.
    """
    path, environment = os.path.join(ROOT, script), dict(os.environ)
    mindspore = sys.modules.get("mindspore")
    seed = mindspore.get_seed() if mindspore else None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    output, complaints = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    try:
        with own_log(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(complaints):
            patch.setattr(sys, "argv", [path, *map(str, words)])
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
        complaints.write(traceback.format_exc())
    finally:
        os.environ.clear()
        os.environ.update(environment)
        if seed is not None:
            mindspore.set_seed(seed)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = [stream.buffer.getvalue().decode() for stream in (output, complaints)]
    return _finished(subprocess.CompletedProcess([path, *map(str, words)], code, *said), check)


@contextlib.contextmanager
def own_log():
    """How the log is configured in the block ends with it."""
    handlers, propagate, level = LOG.handlers, LOG.propagate, LOG.level
    try:
        yield
    finally:
        LOG.handlers, LOG.propagate = handlers, propagate
        LOG.setLevel(level)


@pytest.fixture
def console(capsys):
    """capsys, where the log is printed as scripts print it."""
    with own_log():
        print_log()
        yield capsys


def _refuse_exec(path, words):
    """The tests would end here without a word."""
    raise AssertionError(f"{words} would take the place of this process; call it with run_script")


def _finished(done, check):
    """A CompletedProcess; with check it must have ended well."""
    if check:
        assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def copy_project(folder, *left_out):
    """A copy of the project's code, without the files of these patterns, to run what writes into its own folder; returns the folder."""
    for name in ("src", "tools", "scripts", "configs"):
        shutil.copytree(os.path.join(ROOT, name), os.path.join(folder, name), ignore=shutil.ignore_patterns("__pycache__", *left_out))
    for pattern in ("*.py", "*.sh", "*.yaml"):
        for path in glob.glob(os.path.join(ROOT, pattern)):
            shutil.copy(path, folder)
    return folder


SMALL_ARCHITECTURE = """

def _build_small(options, dcn_impl):
    from src import small_network  # loads MindSpore where it is used

    return small_network.{name}.build(options, dcn_impl)


ARCHITECTURES["resdcn_18"] = Architecture(_build_small, {stride}, {head_conv}, {block_class!r}, {num_stacks}, {stacks!r})
"""


def small_project(folder, name="LEAST"):
    """A copy of the project in which a network of small_network.py is resdcn_18, for launchers: each process of theirs compiles."""
    from tests import small_network

    copy_project(folder)
    shutil.copy(small_network.__file__, os.path.join(folder, "src"))
    with open(os.path.join(folder, "src", "network", "architectures.py"), "a", encoding="utf-8") as file:
        file.write(SMALL_ARCHITECTURE.format(name=name, **vars(getattr(small_network, name))))
    os.symlink(sys.prefix, os.path.join(folder, ".venv"))
    return folder


def idle_project(folder):
    """A copy of the project whose train.py is stand_in_train.py, for launchers whose processes need not train."""
    copy_project(folder)
    shutil.copy(os.path.join(ROOT, "tests", "stand_in_train.py"), os.path.join(folder, "train.py"))
    os.symlink(sys.prefix, os.path.join(folder, ".venv"))
    return folder


def assert_user_error(done, *parts):
    """A user's mistake: exit code 2, one sentence with these names, numbers and paths, no traceback."""
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "error: " in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr[-2000:]


@contextlib.contextmanager
def user_error(*parts):
    """The block raises UserError, with these names, numbers and paths in its sentence; gives what pytest.raises does."""
    with pytest.raises(errors.UserError) as raised:
        yield raised
    for part in parts:
        assert str(part) in str(raised.value)


def lines_with(text, *parts):
    """The lines of a text, or of several, that have all of these names, numbers and paths."""
    lines = text.splitlines() if isinstance(text, str) else text
    return [line for line in lines if all(str(part) in line for part in parts)]


def assert_same_detections(found, expected, atol):
    """Two lists of detections [M, 6] of one image are the same, but for the order of scores that rounding makes equal, and the last one."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.sort(found[:, 4]), np.sort(expected[:, 4]), atol=atol)
    near = np.abs(found[:, None] - expected[None]).max(2) <= atol
    assert near.any(1).sum() >= len(found) - 1 and near.any(0).sum() >= len(found) - 1


def wait_until(condition, seconds, what):
    """Wait for a condition; fails after some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def contents(folder):
    """{path: bytes} of all files below a folder, None of folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def write_coco(folder, part, images, objects, classes=("disc", "square"), ids=None):
    """Write a COCO data set part: images {image id: BGR array or bytes}, objects [(image id, category id, [x, y, w, h])]."""
    os.makedirs(os.path.join(folder, f"{part}2017"), exist_ok=True)
    os.makedirs(os.path.join(folder, "annotations"), exist_ok=True)
    entries = []
    for image_id, image in images.items():
        name = f"{image_id:012d}.jpg"
        data = image if isinstance(image, bytes) else cv2.imencode(".jpg", image)[1].tobytes()
        with open(os.path.join(folder, f"{part}2017", name), "wb") as file:
            file.write(data)
        height, width = (0, 0) if isinstance(image, bytes) else image.shape[:2]
        entries.append({"id": image_id, "file_name": name, "width": width, "height": height})
    annotations = [
        {"id": number, "image_id": image_id, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for number, (image_id, category, box) in enumerate(objects, 1)
    ]
    categories = [{"id": category_id, "name": name} for category_id, name in zip(ids or range(1, 99), classes)]
    path = os.path.join(folder, "annotations", f"instances_{part}2017.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"images": entries, "annotations": annotations, "categories": categories}, file)
    return path


def convert(split, folder, prefix="coco_det.train.mind", name="", **options):
    """src.data.conversion.convert into a folder, with options of dataset_config; images without objects are kept by default."""
    from src.data import conversion

    options = {"keep_empty": True, "num_shards": 1, "num_workers": 1, **options}
    places = {"mindrecord_dir": str(folder), "mindrecord_prefix": prefix, "coco_data_dir": str(name)}
    return conversion.convert(split, config_module.make_config(**places, dataset_config=options))


def batches(records, make_config, *words, first_step=0, epoch=1):
    """The batches of an epoch, {column: array} each, of 96x96 and four samples."""
    from src.data.train_set import TrainSet

    small = ("--dataset_config.input_res_train", "[96, 96]", "--train_config.batch_size", 4)
    config = make_config("--mindrecord_dir", records, *small, *words)
    train_set = TrainSet(config)
    start = epoch * train_set.steps_per_epoch
    pipeline = train_set.batches(start + first_step, start + train_set.steps_per_epoch)
    return list(pipeline.create_dict_iterator(num_epochs=1, output_numpy=True))


def network_input(batch):
    """What the network sees of the first sample of a batch: float32 [3, H, W]."""
    return apply_color(batch["image"][0], batch["color"][0])


def noise_image(seed, height=96, width=128):
    """A random BGR image."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def step_results(*values):
    """A training step's results {name: number}, of numbers in this order."""
    return dict(zip(("loss", "hm_loss", "wh_loss", "off_loss", "overflow", "scaling_sens", "lr"), values, strict=True))


def bomb_tiff():
    """A TIFF whose tags for width and height stand twice: 1 as SLONG8, which Pillow reads, then 12000, which libtiff reads."""
    entries = [(256, 17, 1, struct.pack("<q", 1)), (256, 4, 1, struct.pack("<Q", 12000)), (257, 17, 1, struct.pack("<q", 1)),
               (257, 4, 1, struct.pack("<Q", 12000)), (258, 3, 1, struct.pack("<Q", 8)), (259, 3, 1, struct.pack("<Q", 1)),
               (262, 3, 1, struct.pack("<Q", 1)), (273, 16, 1, struct.pack("<Q", 16)), (277, 3, 1, struct.pack("<Q", 1)),
               (278, 4, 1, struct.pack("<Q", 12000)), (279, 16, 1, struct.pack("<Q", 1))]
    body = b"".join(struct.pack("<HHQ", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"II+\0" + struct.pack("<HHQ", 8, 0, 24) + bytes(8) + struct.pack("<Q", len(entries)) + body + bytes(8 + 400_000)


# Fixtures that train, export, evaluate, start a process or install packages.
SLOW = {"graphs", "export_mindir", "evaluated", "predicted", "server", "wheel", "installed", "onnx_alone"}
# Of several processes one makes these, so one runs all that needs them; the others would wait. The first that a test needs counts.
GROUPS = {"onnx_alone": "package", "installed": "package", "wheel": "package", "checkout": "package", "server": "server",
          "run_without": "without", "least_run": "least"}


def group_of(item):
    """The name of those that one process runs with this test, since they share a costly fixture or one of their module's; "" for none."""
    for fixture, group in GROUPS.items():
        if fixture in item.fixturenames:
            return group
    scopes = {fixture.scope for fixtures in item._fixtureinfo.name2fixturedefs.values() for fixture in fixtures}
    return item.path.stem if "module" in scopes else ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What needs a slow fixture is slow; what shares a fixture is run by one process.

    Several processes begin with the groups, then take the slow tests and at last the quick ones: so all end at about the same time.
    """
    for item in items:
        if SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        if (group := group_of(item)) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (item.get_closest_marker("xdist_group") is None, item.get_closest_marker("slow") is None))


@pytest.fixture(scope="session", autouse=True)
def cpu():
    """Every test computes on the CPU, set up as the entry scripts do."""
    import mindspore

    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    mindspore.set_seed(1)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind():
    """What the tests make is in folders of their own, and not in the checkout."""
    def files():
        found = {os.path.join(ROOT, name) for name in os.listdir(ROOT)}
        for name in ("src", "tests", "tools", "scripts", "configs", "docs"):
            for folder, folders, names in os.walk(os.path.join(ROOT, name)):
                folders[:] = [each for each in folders if each not in ("__pycache__", "build")]
                found |= {os.path.join(folder, each) for each in names}
        return found

    before = files()
    yield
    left = {path for path in files() - before if not os.path.basename(path).startswith(".")}
    assert not left, f"left in the checkout: {sorted(left)}"


@pytest.fixture(scope="session", autouse=True)
def shared_detectors():
    """What eval.py, export.py and the Predictor load from equal checkpoints with equal options is compiled once for all tests of a process.

    own_detector gives a test a detector of its own.
    """
    from src.inference import detector
    from src.network.architectures import ARCHITECTURES

    load, held = detector.load_detector, {}

    @functools.wraps(load)
    def load_shared(checkpoint, description, eval_config, *words, **options):
        files = [path for path in (str(checkpoint), side_file(str(checkpoint))) if os.path.isfile(path)]
        digest = hashlib.sha256(b"".join(pathlib.Path(path).read_bytes() for path in files)).hexdigest()
        own = ARCHITECTURES["resdcn_18"].build  # which the fixture least, and others, replace
        key = (len(files), digest, own, eval_config.K, eval_config.flip_test, eval_config.keep_res, *words, *options.values())
        if key not in held:
            held[key] = load(checkpoint, description, eval_config, *words, **options)
            if len(held) > 8:
                del held[next(iter(held))]  # each takes some 100 MB
        return held[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "load_detector", load_shared)
        yield


def own_detector(checkpoint, eval_config, *words, **options):
    """The Detector of a checkpoint, compiled anew; words and options are what load_detector takes after eval_config."""
    from src.inference import detector

    load = inspect.unwrap(detector.load_detector)
    return load(str(checkpoint), read_side_file(str(checkpoint)), eval_config, *words, **options)


# Runs scripts, each as its user does, where neither MindSpore nor PyTorch can be imported. One process for all: starting takes the time.
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
    """run_without(script, words...) -> the finished script of the project, where there is no MindSpore."""
    with subprocess.Popen([sys.executable, "-c", WITHOUT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        def run(*words):
            print(json.dumps([str(word) for word in words]), file=process.stdin, flush=True)
            return subprocess.CompletedProcess(words, *json.loads(process.stdout.readline()))

        yield run
        process.stdin.close()


@contextlib.contextmanager
def operation_by_operation():
    """MindSpore compiles no graph in the block."""
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture
def by_operation():
    """No graph is compiled in this test, where none is what is tested: that saves time."""
    with operation_by_operation():
        yield


@contextlib.contextmanager
def resdcn_18_is(name):
    """In the block resdcn_18 is another network in this process: SMALL, PLAIN or LEAST of small_network.py, whose graphs compile sooner."""
    from src.network.architectures import ARCHITECTURES
    from tests import small_network

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resdcn_18", getattr(small_network, name))
        yield


@pytest.fixture
def least():
    """The least network is this test's resdcn_18: what uses least_run's checkpoints needs it."""
    with resdcn_18_is("LEAST"):
        yield


@pytest.fixture
def small():
    """The small network, with each kind of cell once, is this test's resdcn_18."""
    with resdcn_18_is("SMALL"):
        yield


@contextlib.contextmanager
def no_graphs():
    """In the block Detectors compute operation by operation: half a second, where a graph of the least network takes two to compile."""
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
    """no_graphs for a test of what goes on around a network."""
    with no_graphs():
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """New networks hold zeros where they would hold random numbers: of millions that are replaced, or not asked for, none are drawn."""
    for name in ("_random_normal", "_random_uniform"):
        monkeypatch.setattr(f"mindspore.common.initializer.{name}", lambda seed, array, *range: array.fill(0))


@pytest.fixture
def light_steps(monkeypatch):
    """Training steps without a graph: they count, and change weights, statistics and moments; for what goes on around them."""
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
        return tuple(Tensor(number) for number in np.float32([1, 0.8, 1, 0.1, 0, step.scale.asnumpy(), 5e-4, step.stop.asnumpy()]))

    monkeypatch.setattr(TrainStep, "__call__", take)


@pytest.fixture
def interrupts(monkeypatch):
    """Signals as errors.run handles them, for this test alone."""
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
    """Call it with command-line words to get a Config."""
    return lambda *argv: get_config("test", [str(word) for word in argv])


# The native deformable convolution compiles faster than the composite one, which is trained in test_train_step and test_quiet.
TINY = (
    "--device_target", "CPU", "--dataset_config.input_res_train", "[96, 96]", "--dataset_config.input_res_test", "[96, 96]",
    "--train_config.batch_size", 4, "--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", 16,
    "--train_config.MultiDecay.warmup_steps", 2, "--net_config.dcn_impl", "native",
)


def common_folder(tmp_path_factory):
    """A folder that all of pytest's processes share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(tmp_path_factory, name, make):
    """The folder `name` that make(folder) fills, once for all of pytest's processes."""
    base = common_folder(tmp_path_factory)
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / f"{name}.made").exists():
            shutil.rmtree(base / name, ignore_errors=True)
            (base / name).mkdir()
            make(base / name)
            (base / f"{name}.made").touch()
    return base / name


def run(*words, cwd, check=True, **environment):
    """Run a command as from a shell without the project's path; with check it must end well."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, words)], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, timeout=1200)
    assert not check or done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the project, nothing built in it, in a folder whose name has a space."""
    folder = copy_project(tmp_path_factory.mktemp("a checkout") / "p", "*.so", "*.c")
    for pattern in ("pyproject.toml", "MANIFEST.in", "requirements*.txt", "LICENSE", "NOTICE"):
        for path in glob.glob(os.path.join(ROOT, pattern)):
            shutil.copy(path, folder)
    stale = folder / "build" / "lib" / "centernet"  # of an earlier build
    stale.mkdir(parents=True)
    (stale / "removed.py").touch()
    return folder


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    """A C compiler that does not optimize, as CC names it: where it matters that something is built, not how fast that is."""
    return environments.plain_compiler(tmp_path_factory.mktemp("compiler") / "cc")


@pytest.fixture(scope="session")
def wheel(checkout, compiler, tmp_path_factory):
    """The wheel of the project, made where there is what pyproject.toml requires for that, and nothing else."""
    def make(folder):
        needed = ast.literal_eval(re.search(r"^requires = (\[.*\])$", (checkout / "pyproject.toml").read_text(), re.M)[1])
        python = environments.make(tmp_path_factory.mktemp("builder"), needed) / "python"
        words = ["--quiet", "--no-deps", "--no-build-isolation", "--check-build-dependencies", "--wheel-dir", folder, checkout]
        run(python, "-m", "pip", "wheel", *words, cwd=folder, CC=str(compiler))

    return next(made_once(tmp_path_factory, "wheel", make).iterdir())


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The bin folder of a virtual environment with the wheel, what it depends on and a type checker; nothing else."""
    def make(folder):
        needed = [text for text in next(importlib.metadata.distributions(path=[str(wheel)])).requires if "extra ==" not in text]
        python = environments.make(folder, needed) / "python"
        run(python, "-m", "pip", "install", "--quiet", "--no-compile", wheel, "mypy", cwd=folder)

    return made_once(tmp_path_factory, "environment", make) / "bin"


@pytest.fixture(scope="session")
def onnx_alone(wheel, tmp_path_factory):
    """The bin folder of a virtual environment as the Dockerfile makes it: ONNX Runtime, the service and the wheel, without MindSpore.

    Its NumPy is 2: what the tests have beside MindSpore is not taken.
    """
    from setup import requirements
    from tests.project.test_dockerfile import pip_steps

    def make(folder):
        needed = [text for name in ("onnx", "serve") for text in requirements(os.path.join(ROOT, f"requirements-{name}.txt"))]
        python = environments.make(folder, needed, without=("numpy", "opencv-python-headless")) / "python"
        for step in pip_steps():
            if not step.startswith("pip wheel"):  # the tests have one wheel for all
                step = step.replace("/wheels", shlex.quote(str(wheel.parent))).replace("--no-cache-dir ", "--no-compile ")
                run("sh", "-c", f"{shlex.quote(str(python))} -m {step}", cwd=ROOT)

    return made_once(tmp_path_factory, "onnx_alone", make) / "bin"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A COCO data set of 20 training and 6 validation images of drawn shapes, 96x96, with category ids 1, 2, 3."""
    words = ["--train", 20, "--val", 6, "--size", 96, "--smallest", 30, "--largest", 60, "--objects", 3]
    make = functools.partial(call_script, "tools/make_shapes_dataset.py", *words, "--output")
    return made_once(tmp_path_factory, "tiny", lambda folder: make(folder / "shapes")) / "shapes"


@pytest.fixture(scope="session")
def image(tiny_data):
    """The first validation image of tiny_data, BGR."""
    return cv2.imread(str(tiny_data / "val2017" / "000001.jpg"))


@pytest.fixture(scope="session")
def tiny_records(tiny_data, tmp_path_factory):
    """The MindRecord folder of tiny_data's training part."""
    words = ["--coco_data_dir", tiny_data, "--dataset_config.num_shards", 2, "--mindrecord_dir"]
    return made_once(tmp_path_factory, "records", functools.partial(call_script, "src/dataset.py", *words))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """A folder for --compile_cache_dir: trainings with the same settings, but for seed, checkpoints and train_steps, compile one graph."""
    return common_folder(tmp_path_factory) / "graphs"


@pytest.fixture(scope="session")
def lively_checkpoint(tiny_data, tmp_path_factory):
    """A checkpoint for tiny_data's classes and 96x96 whose weights, of no training, carry the image through to varied detections."""
    from tests import torch_reference  # loads PyTorch where it is used

    def make(folder):
        network = torch_reference.lively(torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)))
        torch_reference.torch.save(network.state_dict(), folder / "lively.pth")
        annotation = tiny_data / "annotations" / "instances_val2017.json"
        words = ["--ckpt_file", folder / "lively.pth", "--output_file", folder / "lively.ckpt", "--annotation", annotation]
        call_script("tools/convert_centernet.py", *words)
        side = json.loads((folder / "lively.json").read_text())
        (folder / "lively.json").write_text(json.dumps({**side, "input_res_train": [96, 96]}))

    return made_once(tmp_path_factory, "lively", make) / "lively.ckpt"


def exporter(checkpoint, folder, ending, *words):
    """export(name, more words...) -> path of a checkpoint's exported file in folder, with an ending, made once for each name."""
    def export(name, *more):
        path = folder / f"{name}{ending}"
        if not path.exists():
            call_script("export.py", "--device_target", "CPU", "--export_config.ckpt_file", checkpoint, "--export_config.export_name",
                        folder / name, *words, *more)
        return path

    return export


def save_lively(folder, **net_config):
    """Write lively.ckpt, the network that net_config describes for tiny_data's classes, with weights that carry the image through."""
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
    """A checkpoint of the network PLAIN, to be read with that; for tiny_data's classes, as lively_checkpoint is."""
    def make(folder):
        with resdcn_18_is("PLAIN"):
            save_lively(folder)

    return made_once(tmp_path_factory, "small", make) / "lively.ckpt"


@pytest.fixture
def small_checkpoint(small_file):
    """small_file for tests in whose process resdcn_18 is that network; no checkpoint of another one may be made or read in them."""
    with resdcn_18_is("PLAIN"):
        yield small_file


@pytest.fixture(scope="session")
def deformable_file(tmp_path_factory):
    """The same of the network SMALL, which has a deformable convolution."""
    def make(folder):
        with resdcn_18_is("SMALL"):
            save_lively(folder)

    return made_once(tmp_path_factory, "deformable", make) / "lively.ckpt"


@pytest.fixture(scope="session")
def lively_onnx(deformable_file, tmp_path_factory):
    """The ONNX file of deformable_file: a process that reads it starts in a second."""
    def make(folder):
        with resdcn_18_is("SMALL"):
            exporter(deformable_file, folder, ".onnx", "--export_config.export_format", "ONNX")("lively")

    return made_once(tmp_path_factory, "lively_onnx", make) / "lively.onnx"


NARROW = ("--export_config.input_res", "[128, 96]", "--export_config.batch_size", 2)
SQUARE = ("--export_config.input_res", "[96, 96]", "--export_config.batch_size", 4)


@pytest.fixture(scope="session")
def export_mindir(small_file, tmp_path_factory):
    """export_mindir(name, words...) -> path of the MindIR file of small_file, made once for each name."""
    export = exporter(small_file, tmp_path_factory.mktemp("export"), ".mindir", "--eval_config.K", 20)

    def export_small(name, *words):
        with resdcn_18_is("PLAIN"):
            return export(name, *words)

    return export_small


@pytest.fixture(scope="session")
def zoo_checkpoint(tmp_path_factory):
    """A checkpoint by the model zoo's names for tiny_data's three classes, with lively_checkpoint's weights, where it has them."""
    import mindspore as ms

    from tests import torch_reference

    network = torch_reference.lively(torch_reference.CenterNet(3, 16, stacks=(1, 1, 1, 1)))
    state, names = network.state_dict(), torch_reference.zoo_names(network)
    path = tmp_path_factory.mktemp("zoo") / "checkpoint_centernet-1_5.ckpt"
    ms.save_checkpoint([{"name": theirs, "data": ms.Tensor(state[name].numpy())} for name, theirs in names.items()], str(path))
    return path


def train_least(*words, cwd, check=True, script=call_script):
    """train.py with the settings of TINY and the least network, for two epochs; in this process, or with script=run_script in another."""
    with resdcn_18_is("LEAST"):
        path = "train.py" if script is call_script else "tests/least_train.py"
        return script(path, *TINY, "--epoch_size", 2, *words, cwd=cwd, check=check)


@pytest.fixture(scope="session")
def least_graphs(graphs):
    """What graphs is, for the least network, whose settings are another's."""
    return graphs / "least"


@pytest.fixture(scope="session")
def train_least_again(least_graphs):
    """train_least in a process that takes its graph from those before, where the settings are theirs, as `graphs` says."""
    return functools.partial(train_least, "--compile_cache_dir", least_graphs, script=run_script)


@pytest.fixture(scope="session")
def least_run(tiny_records, train_least_again, tmp_path_factory):
    """A folder in which train.py has trained the least network 7 steps (5 an epoch) and left checkpoints at 3, 6 and 7."""
    def make(folder):
        words = ["--train_steps", 7, "--save_checkpoint_steps", 3, "--save_checkpoint_num", 5]
        done = train_least_again(*words, "--mindrecord_dir", tiny_records, cwd=folder)
        (folder / "stdout.txt").write_text(done.stdout)

    return made_once(tmp_path_factory, "least_run", make)


@pytest.fixture(scope="session")
def least_checkpoint(least_run):
    """The last checkpoint of least_run."""
    return least_run / "ckpt_0" / "centernet-2_7.ckpt"
