"""Every form of the ONNX file, of every architecture and task, loads in the oldest and the newest ONNX Runtime."""
import dataclasses
import functools
import itertools
import os
import subprocess
import textwrap

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import nn

from setup import requirements
from src.export.onnx_graph import OPSETS, Graph
from src.export.onnx_model import build_model
from src.model_utils.config import make_config
from src.network.architectures import ARCHITECTURES
from src.network.centernet import build_detection, build_network
from src.network.device_input import Normalize
from src.network.folding import fold_batch_norm
from src.network.hourglass import Hourglass, StackFeatures
from src.tasks import TASKS
from src.weights.side_file import row_width
from tests.conftest import ROOT, assert_same_detections, environment_with
from tests.metainfo import classes_of

pytestmark = pytest.mark.slow
OLDEST = "1.20.0"  # of onnxruntime
STACKS = {"resdcn_18": [1, 1, 1, 1], "res_18": [1, 1, 1, 1], "hourglass": [2], "dla_34": None,
          "dlav0_34": None, "dlazoo_34": None}
SIDES = {"free": ("batch", "height", "width"), "fixed": (2, 128, 128)}
# Every architecture, and every task on one with and one without deformable convolutions.
NETWORKS = [*itertools.product(["detection"], STACKS), *itertools.product([*TASKS][1:], ["resdcn_18", "dlav0_34"])]


def build_narrow(options, dcn_impl):
    """An hourglass with few channels: the original's files have 800 MB."""
    backbone = Hourglass(2, (32, 32, 48, 48, 48, 64), (16, 32), 32)
    return backbone, StackFeatures(2, backbone.out_channels)


def network_with_offsets(task, arch):
    """(an architecture's network without batch norms, whose offsets exceed a pixel; its configuration; metainfo)."""
    stacks = {"num_stacks": STACKS[arch]} if STACKS[arch] else {}
    config, metainfo = make_config(net_config={"task": task, "arch": arch, **stacks}), classes_of(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "hourglass", dataclasses.replace(ARCHITECTURES["hourglass"], build=build_narrow))
        network = build_network(config.net_config, metainfo, "native")
    for _, cell in network.cells_and_names():
        if hasattr(cell, "conv_offset_mask"):  # begins at 0
            weight = cell.conv_offset_mask.weight
            offsets = 0.02 * np.random.default_rng(0).standard_normal(weight.shape)
            weight.set_data(ms.Tensor(offsets.astype(np.float32)))
    if arch.startswith("dla"):  # its maps grow with every layer: scores of 1 could change places
        for head in network.last_heads().values():
            head[0].weight.set_data(head[0].weight * 0.01)
    fold_batch_norm(network)
    return network, config, metainfo


@pytest.fixture(scope="module")
def deformable():
    """The DetectionNetwork of a ResNet with deformable convolutions."""
    network, config, metainfo = network_with_offsets("detection", "resdcn_18")
    return build_detection(network, config.net_config, metainfo, 20, nn.Identity())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """files(task, arch) -> {(form, sides, bytes): path} of its ONNX files."""
    folder = tmp_path_factory.mktemp("forms")

    @functools.cache
    def made(task, arch):
        network, config, metainfo = network_with_offsets(task, arch)
        paths = {}
        for (form, (sides, sizes)), as_bytes in itertools.product(itertools.product(OPSETS, SIDES.items()),
                                                                 (False, True)):
            cell = Normalize([0.4, 0.45, 0.5], [0.2, 0.25, 0.3]) if as_bytes else nn.Identity()
            detection = build_detection(network, config.net_config, metainfo, 20, cell)
            width = row_width({"task": task, **metainfo, "net_config": config.net_config.as_dict()})
            model = build_model(TASKS[task], detection, as_bytes, Graph(form), sizes, width, {})
            paths[form, sides, as_bytes] = folder / f"{task}_{arch}_{form}_{sides}_{as_bytes}.onnx"
            onnx.save(model, paths[form, sides, as_bytes])
        return paths

    return made


def batch(as_bytes):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3), np.uint8)
    return pixels if as_bytes else ((pixels / 255 - 0.45) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)


def run(path, as_bytes):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": batch(as_bytes)})[0]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert_same_detections(ours, theirs, 1e-3)


@pytest.mark.parametrize("task, arch", NETWORKS)
def test_every_form_is_valid_and_gives_the_same(task, arch, files):
    """The checker and strict shape inference take it, and all forms of a network agree."""
    found = {}
    for (form, _, as_bytes), path in files(task, arch).items():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        assert len(inferred.graph.value_info) > 50
        scalars = [tensor for tensor in model.graph.initializer if not tensor.dims]
        assert (form == "grid_sample" and arch in ("resdcn_18", "dla_34")) <= bool(scalars)
        found.setdefault(as_bytes, []).append(run(path, as_bytes))
    for outputs in found.values():
        assert outputs[0].shape[:2] == (2, 20) and len(outputs) == 4
        for other in outputs[1:]:
            assert_same(other, outputs[0])


@pytest.mark.parametrize("form", OPSETS)
@pytest.mark.parametrize("sides", SIDES)
def test_float16(form, sides, deformable, tmp_path):
    """Half the size; offsets, sampling positions and decoding stay float32, so that boxes differ little."""
    sizes = SIDES[sides]
    whole, half = (build_model(TASKS["detection"], deformable, False, Graph(form, dtype), sizes, 0, {})
                   for dtype in ("float32", "float16"))
    assert half.ByteSize() < 0.6 * whole.ByteSize()
    onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True)
    found, expected = ({}, {})
    for model, outputs in ((whole, expected), (half, found)):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [end.name for end in session.get_outputs()]
        assert names == ["heat", "wh", "reg"] and {end.type for end in session.get_outputs()} == {"tensor(float)"}
        outputs |= dict(zip(names, session.run(names, {"image": batch(False)})))
    for name, value in expected.items():
        assert value.shape == found[name].shape == (2, {"heat": 3}.get(name, 2), 32, 32)
        difference = np.abs(found[name] - value).max() / np.abs(value).max()
        assert 0 < difference < 1e-2, name


def test_the_oldest_runtime_gives_the_same(files, tmp_path_factory):
    """It has no DeformConv, of which a file without deformable convolutions has none either."""
    linked = requirements(os.path.join(ROOT, "requirements-onnx.txt"))
    python = environment_with(tmp_path_factory.mktemp("oldest"), linked, f"onnxruntime=={OLDEST}")
    folder = tmp_path_factory.mktemp("results")
    paths = {str(path): as_bytes for network in NETWORKS
             for (form, _, as_bytes), path in files(*network).items() if form == "grid_sample"}
    np.savez(folder / "batches.npz", **{str(as_bytes): batch(as_bytes) for as_bytes in (False, True)})
    (folder / "consumer.py").write_text(textwrap.dedent(f"""
        import numpy as np, onnxruntime
        assert onnxruntime.__version__ == "{OLDEST}"
        batches, found = np.load("batches.npz"), {{}}
        for path, as_bytes in {paths!r}.items():
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            found[path.replace("/", "|")] = session.run(None, {{"image": batches[str(as_bytes)]}})[0]
        np.savez("found.npz", **found)
    """))
    done = subprocess.run([python, "-I", "consumer.py"], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(folder / "found.npz")
    assert len(paths) == 4 * len(NETWORKS)
    for path, as_bytes in paths.items():
        assert_same(found[path.replace("/", "|")], run(path, as_bytes))


CONSUMER = """
import subprocess, sys, pathlib
import numpy as np
batch, names = np.load("batch.npy"), ["heat", "wh", "reg"]

def opencv():
    import cv2
    assert cv2.__version__.startswith("5.")
    net = cv2.dnn.readNetFromONNX("maps.onnx")
    net.setInput(batch, "image")
    return net.forward(names)

def tract():
    import tract
    net = tract.onnx().load("maps.onnx").into_model().into_runnable()
    return [value.to_numpy() for value in net.run([batch])]

def mnn():
    import MNN
    converter = pathlib.Path(sys.executable).with_name("mnnconvert")
    # Without PATH: it would install a package for its statistics with any pip that it finds.
    subprocess.run([converter, "-f", "ONNX", "--modelFile", "maps.onnx", "--MNNModel", "maps.mnn", "--bizCode", "x"],
                   check=True, stdout=subprocess.DEVNULL, env={"PATH": ""})
    manager = MNN.nn.create_runtime_manager(({"backend": 0, "numThread": 2, "precision": "high"},))
    net = MNN.nn.load_module_from_file("maps.mnn", ["image"], names, runtime_manager=manager)
    found = net.onForward([MNN.expr.const(batch, list(batch.shape), MNN.expr.NCHW)])
    return [np.array(MNN.expr.convert(value, MNN.expr.NCHW).read()) for value in found]

def ncnn():
    import ncnn
    converter = pathlib.Path(sys.executable).with_name("pnnx")
    shape = ",".join(map(str, batch.shape))
    subprocess.run([converter, "maps.onnx", f"inputshape=[{shape}]", "fp16=0"], check=True, stdout=subprocess.DEVNULL)
    net = ncnn.Net()
    for name in ("packed", "storage", "arithmetic"):  # its default where the processor has float16
        setattr(net.opt, f"use_fp16_{name}", False)
    assert net.load_param("maps.ncnn.param") == net.load_model("maps.ncnn.bin") == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(np.ascontiguousarray(batch[0])).clone())  # a Mat has no memory of its own
    return [np.array(extractor.extract(f"out{number}")[1])[None] for number in range(3)]

def tvm():
    import onnx, onnxruntime, tvm
    from tvm.relax.frontend.onnx import from_onnx
    options = onnxruntime.SessionOptions()  # TVM takes no computed shapes: make them constant
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = "constant.onnx"
    onnxruntime.InferenceSession("maps.onnx", options, providers=["CPUExecutionProvider"])
    module = from_onnx(onnx.load("constant.onnx"), keep_params_in_input=False)
    machine = tvm.relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    return [value.numpy() for value in machine["main"](tvm.runtime.tensor(batch))]

np.savez(f"{sys.argv[1]}.npz", **dict(zip(names, globals()[sys.argv[1]]())))
"""


# Other runtimes: the installed requirements, and the packages from pip, of an environment with them. Those of ncnn and
# TVM take half a minute each: pip unpacks 100 MB, pnnx loads PyTorch, TVM compiles the network.
ENVIRONMENTS = {
    ("opencv", "tract", "mnn"): ([], ["numpy<2.5", "opencv-python-headless==5.0.0.93", "MNN==3.6.1", "tract==0.23.9"]),
    ("ncnn",): (["torch"], ["ncnn==1.0.20261020", "pnnx==20261020"]),  # pnnx's script imports PyTorch
    ("tvm",): (["onnx", "onnxruntime"], ["apache-tvm==0.27.0.post1"]),
}


@pytest.fixture(scope="module")
def python_with(tmp_path_factory):
    """python_with(runtime) -> the Python of an environment with it."""
    @functools.cache
    def made(runtimes):
        linked, packages = ENVIRONMENTS[runtimes]
        return environment_with(tmp_path_factory.mktemp(runtimes[0]), linked, *packages)

    return lambda runtime: made(next(runtimes for runtimes in ENVIRONMENTS if runtime in runtimes))


@pytest.mark.parametrize("runtime, tolerance", [("opencv", 1e-4), ("tract", 1e-4), ("mnn", 1e-3), ("ncnn", 1e-4),
                                                ("tvm", 1e-4)])
def test_other_runtimes_take_a_file_of_maps(runtime, tolerance, deformable, python_with, tmp_path):
    python = python_with(runtime)
    model = build_model(TASKS["detection"], deformable, False, Graph("grid_sample"), (1, 128, 128), 0, {})
    assert [[size.dim_value for size in output.type.tensor_type.shape.dim] for output in model.graph.output] == [
        [1, 3, 32, 32], [1, 2, 32, 32], [1, 2, 32, 32]]
    onnx.save(model, tmp_path / "maps.onnx")
    np.save(tmp_path / "batch.npy", batch(False)[:1])
    (tmp_path / "consumer.py").write_text(CONSUMER)
    done = subprocess.run([python, "-I", "consumer.py", runtime], cwd=tmp_path, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / f"{runtime}.npz")
    session = onnxruntime.InferenceSession(tmp_path / "maps.onnx", providers=["CPUExecutionProvider"])
    for name, expected in zip(("heat", "wh", "reg"), session.run(["heat", "wh", "reg"], {"image": batch(False)[:1]})):
        assert np.abs(found[name] - expected).max() < tolerance * np.abs(expected).max(), name
