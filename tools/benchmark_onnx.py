"""The "onnx" part of tools/benchmark.py: ONNX files on their runtimes, in turns with PyTorch and MindSpore.

Each runs in a process of its own, since settings of one would slow down another (MindSpore limits oneDNN to AVX2).
"""
import contextlib
import functools
import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable

from src.core.console import show
from src.core.timing import Case, time_interleaved
from tools.benchmark_inputs import build_detector

SIZES = ((1, 512), (8, 512))  # batch size, side of the input
PEER = "PyTorch, torch.compile"  # frozen weights, channels last
# What the machine can do: products of square matrices with this side, in ONNX Runtime.
LIMITS, PRODUCT = ("float32", "int8"), 2048
FORMS = {"deform_conv": "deform_conv", "grid_sample": "grid_sample", "int8": "grid_sample"}  # file: its form


def onnx_part(runs):
    """All runtimes that are installed: their times relative to PyTorch's, their rates to a matrix product's."""
    with tempfile.TemporaryDirectory() as folder:
        with own_process(write_files, folder):
            pass
        for batch, side in SIZES:
            with contextlib.ExitStack() as running:
                functions = {}
                for name, (make, args) in programs(folder, (batch, 3, side, side)).items():
                    try:
                        functions[name] = running.enter_context(own_process(make, *args))
                    except EOFError:
                        show(f"{name} does not start; its error is above")
                times = time_interleaved(functions, runs)
            work = batch * operations(os.path.join(folder, "deform_conv.onnx"), side)
            yield from rows(times, work, f"{batch} x {side}x{side}")


def rows(times, work, size):
    """The cases of the seconds {program: [seconds]} that programs took in turns, for `work` operations."""
    limits = {kind: times.pop(kind) for kind in LIMITS}
    for kind, seconds in limits.items():
        rates = [2 * PRODUCT**3 / each / 1e9 for each in seconds]
        yield Case(f"rate of a product of {kind} matrices, {PRODUCT} x {PRODUCT}", unit="GOP/s", seconds=rates)
    reference = PEER if PEER in times else "MindSpore"
    for name, seconds in times.items():
        yield Case(f"{name}, {size}", seconds=seconds)
        if name != reference:
            ratios = [own / other for own, other in zip(seconds, times[reference])]
            yield Case(f"  relative to {reference}", unit="ratio", seconds=ratios)
        if "bfloat16" in name:
            continue
        kind = "int8" if "int8" in name else "float32"
        shares = [100 * work / (2 * PRODUCT**3) * product / own for own, product in zip(seconds, limits[kind])]
        yield Case(f"  rate of its convolutions relative to the {kind} product's", unit="%", seconds=shares)


def programs(folder, shape):
    """{name: (make, arguments)} of all that can run here; make(*arguments) returns a function of a batch's shape."""
    found: dict[str, tuple[Callable, tuple]] = {kind: (matrix_product, (kind,)) for kind in LIMITS}
    if importlib.util.find_spec("torch"):
        found |= {"PyTorch": (pytorch, ("make_inference", shape)), PEER: (pytorch, ("make_compiled", shape))}
    found["MindSpore"] = (mindspore, (shape,))
    files = {name: os.path.join(folder, f"{name}.onnx") for name in FORMS}
    found |= {f"ONNX Runtime, {name}": (onnx_file, (path, "onnxruntime", shape)) for name, path in files.items()}
    if importlib.util.find_spec("openvino"):
        for name, form, runtime in (("OpenVINO", "grid_sample", "openvino"), ("OpenVINO, int8", "int8", "openvino"),
                                    ("OpenVINO, bfloat16", "grid_sample", "openvino_bf16")):
            found[name] = onnx_file, (files[form], runtime, shape)
    return found


# ---------------------------------------------------------------- in processes of their own


@contextlib.contextmanager
def own_process(make, *args):
    """Call make(*args) in another process; yield a function that calls its result there and waits for its end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, make, args), daemon=True)
    process.start()
    theirs.close()

    def call():
        ours.send(True)
        ours.recv()

    try:
        ours.recv()  # EOFError if make failed, whose traceback is above
        yield call
    finally:
        ours.close()
        process.join()


def serve(connection, make, args):
    """Make the function; then call it once for each message."""
    function = make(*args)
    connection.send(True)
    with contextlib.suppress(EOFError):
        while connection.recv():
            function()
            connection.send(True)


def random_batch(shape):
    """A normalized batch."""
    import numpy as np

    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def write_files(folder):
    """Write the files of FORMS, of one untrained network."""
    from src.commands.quantize_onnx import quantize
    from src.export.onnx_graph import Graph
    from src.export.onnx_int8 import float_convolutions, with_int8_kernels
    from src.export.onnx_model import build_model
    from src.model_utils.device_adapter import set_device
    from src.tasks import DETECTION

    set_device("CPU", 0)
    detector = build_detector()
    for name, form in FORMS.items():
        model = build_model(DETECTION, detector.network, False, Graph(form), ("batch", "height", "width"), 6, {})
        if name == "int8":
            model = with_int8_kernels(model)
            model = quantize(model, iter([random_batch((1, 3, 128, 128))]), float_convolutions(model))
        with open(os.path.join(folder, f"{name}.onnx"), "wb") as file:
            file.write(model.SerializeToString())


def operations(path, side):
    """The additions and multiplications of the convolutions of an ONNX file, for one image."""
    import math

    import onnx

    model = onnx.load(path)
    for value in model.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, (1, 3, side, side)):
            dimension.dim_value = size
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
              for value in (*graph.value_info, *graph.input)}
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in ("Conv", "DeformConv", "ConvTranspose"):
            pixels = shapes[node.input[0] if node.op_type == "ConvTranspose" else node.output[0]][2:]
            total += 2 * math.prod(pixels) * math.prod(weights[node.input[1]])
    return total


def matrix_product(kind):
    """A matrix product in ONNX Runtime, with float32 or with uint8 and int8."""
    import numpy as np
    from onnx import TensorProto, helper

    from src.inference.onnx_runtimes import start_session

    types = [TensorProto.FLOAT] * 3 if kind == "float32" else [TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32]
    a, b, product = (helper.make_tensor_value_info(name, of, [PRODUCT, PRODUCT]) for name, of in zip("abc", types))
    node = helper.make_node("MatMul" if kind == "float32" else "MatMulInteger", ["a", "b"], ["c"])
    model = helper.make_model(helper.make_graph([node], "product", [a, b], [product]), ir_version=8,
                              opset_imports=[helper.make_opsetid("", 16)])
    session = start_session(model, "CPU", "product.onnx")
    rng = np.random.default_rng(0)
    inputs = {name: rng.integers(0, 100, (PRODUCT, PRODUCT)).astype(helper.tensor_dtype_to_np_dtype(of))
              for name, of in zip("ab", types)}
    return functools.partial(session.run, None, inputs)


def pytorch(make, shape):
    """The network in PyTorch, by a function of tests/torch_peer.py."""
    from tests import torch_peer

    return getattr(torch_peer, make)("inference", random_batch(shape))


def mindspore(shape):
    """The network in MindSpore."""
    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    return functools.partial(build_detector(), random_batch(shape))


def onnx_file(path, runtime, shape):
    """An ONNX file on a runtime, as in prediction."""
    import onnx

    from src.inference.onnx_runtimes import start

    run = start(onnx.load(path), runtime, "CPU", path)[1]
    return functools.partial(run, random_batch(shape))
