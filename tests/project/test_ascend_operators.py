"""docs/ascend-operators.md has a row for every primitive that the project's graphs use, and its rows are true.

No NPU is needed: the graphs are those of the frontend, and the evidence is in MindSpore's package.
"""
import dataclasses
import functools
import os
import pathlib
import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.ops.primitive import constexpr

from src.data.samples import augmented_batch, sample_layout
from src.network.architectures import ARCHITECTURES
from src.network.centernet import build_detection, build_network
from src.tasks import TASKS, task_of
from src.training import engine
from src.training.optimizer import build_optimizer
from tests.conftest import ROOT
from tests.graphs import compiled
from tests.metainfo import classes_of
from tests.small_network import LEAST, SMALL

PACKAGE = os.path.dirname(ms.__file__)
BOX = {"boxes": np.array([[10, 10, 90, 90]], np.float32), "labels": np.array([1], np.int32)}
ONE = np.ones((1, 1), np.float32)
OBJECTS = {"detection": BOX, "pose": {**BOX, "keypoints": np.array([[20, 20, 2, 30, 30, 1, 0, 0, 0]], np.float32)},
           "ddd": {**BOX, "depth": 10 * ONE, "alpha": ONE, "dim": np.ones((1, 3), np.float32), "ignored": 0 * ONE}}


@functools.cache
def rows():
    """{primitive: {column: text}} of the table."""
    with open(os.path.join(ROOT, "docs", "ascend-operators.md"), encoding="utf-8") as file:
        table = [[cell.strip(" `") for cell in line.strip("|\n").split("|")] for line in file if line.startswith("|")]
    return {line[0]: dict(zip(table[0], line)) for line in table[2:]}


def assert_has_rows(graph):
    missing = graph.primitives - set(rows())
    assert not missing, f"docs/ascend-operators.md lacks: {sorted(missing)}"
    refused = {name for name in graph.primitives if rows()[name]["graph engine"] == "none"}
    assert not refused, f"the graph engine of a 910 has no operator for {sorted(refused)}"


@pytest.fixture(autouse=True)
def as_on_910(monkeypatch):
    """all_finite compiles to what it is on an Ascend 910, where it reads the NPU's status."""
    monkeypatch.setattr("mindspore.amp._ascend_target", constexpr(lambda: True))
    monkeypatch.setattr("mindspore.amp._ascend_910a_target", constexpr(lambda: True))


def training_graph(config, dcn_impl, heatmaps_on_host=False, saturates=True):
    """The graph of a training step on an Ascend 910, or with saturates=False on an Atlas A2."""
    task, metainfo = task_of(config.net_config), classes_of(3)
    heatmaps_on_host |= task.targets.draws_on_host(config, "Ascend")
    network = build_network(config.net_config, metainfo, dcn_impl)
    device_input = engine.build_device_input(config, metainfo, heatmaps_on_host)
    step = engine.build_train_step(network, config, build_optimizer(network, config.train_config, 100, 1),
                                   device_input)
    step.unroll, step.saturates = True, saturates
    image = np.zeros((128, 128, 3), np.uint8)
    batch = augmented_batch([(image, 1, OBJECTS[task.name]), (image, 2, OBJECTS[task.name])], 2, 0, config,
                            sample_layout(config, metainfo), heatmaps_on_host)
    return compiled(step, *(Tensor(np.asarray(column)) for column in batch))


def inference_graph(config, dcn_impl, classes):
    metainfo = classes_of(classes)
    network = build_network(config.net_config, metainfo, dcn_impl)
    cell = build_detection(network, config.net_config, metainfo, 100, nn.Identity(), config.eval_config.flip_test)
    return compiled(cell, Tensor(np.zeros((2, 3, 128, 128), np.float32)))


@pytest.fixture
def small_config(make_config):
    return functools.partial(make_config, "--dataset_config.input_res_train", "[128, 128]")


@pytest.mark.slow
@pytest.mark.parametrize("task, arch", [
    *(("detection", arch) for arch in ("resdcn_18", "resdcn_50", "res_18", "dla_34", "dlav0_34", "dlazoo_34",
                                       "hourglass")), *((task, "resdcn_18") for task in TASKS if task != "detection")])
def test_training_graphs(task, arch, small_config):
    """Shallow ones: more blocks of the same kind add no primitive."""
    stacks = [] if arch.startswith("dla") else ["--net_config.num_stacks", "[1]" if arch == "hourglass" else
                                                "[1, 1, 1, 1]"]
    graph = training_graph(small_config("--net_config.task", task, "--net_config.arch", arch, *stacks), "native")
    assert_has_rows(graph)
    assert not graph.has_loop and not graph.int64, graph


@pytest.mark.slow
@pytest.mark.parametrize("args", [
    ("--train_config.amp_level", "O2", "--train_config.dynamic_loss_scale", "true"),
    ("--train_config.amp_level", "O3", "--train_config.optimizer", "SGD", "--train_config.clip_grad_norm", 1),
    ("--train_config.amp_level", "auto", "--train_config.optimizer", "AdamW", "--train_config.ema_decay", 0.9),
    ("--train_config.accumulate_steps", 2, "--train_config.backbone_lr_factor", 0.1, "--enable_lossscale", "false"),
    ("--net_config.mse_loss", "true", "--net_config.dense_wh", "true"),
    ("--net_config.norm_wh", "true", "--net_config.reg_loss", "sl1"),
    ("--net_config.cat_spec_wh", "true", "--net_config.reg_offset", "false"),
    ("--net_config.dcn_impl", "composite"),
])
def test_training_graphs_of_options(args, small_config, monkeypatch):
    config = small_config(*args)
    dcn_impl = config.net_config.dcn_impl
    monkeypatch.setitem(ARCHITECTURES, "resdcn_18", SMALL if dcn_impl == "composite" else LEAST)
    graph = training_graph(config, dcn_impl, heatmaps_on_host=config.net_config.dense_wh)
    assert_has_rows(graph)
    assert not graph.has_loop and not graph.int64, graph


@pytest.mark.slow
@pytest.mark.parametrize("level", ["O0", "O2"])
def test_the_test_for_overflows(level, small_config, monkeypatch):
    """By the status register on a 910, by the gradients on an A2, whose processes may have a rank table, too."""
    monkeypatch.setitem(ARCHITECTURES, "resdcn_18", LEAST)
    config = small_config("--train_config.amp_level", level)
    on_910, on_a2 = (training_graph(config, "native", saturates=saturates) for saturates in (True, False))
    assert_has_rows(on_910)
    assert_has_rows(on_a2)
    assert "NPUGetFloatStatusV2" in on_910.primitives - on_a2.primitives
    assert "IsFinite" in on_a2.primitives


FLIP_TEST = ("--eval_config.flip_test", "true")


@pytest.mark.slow
@pytest.mark.parametrize("task, arch, dcn_impl, classes, args", [
    ("detection", "resdcn_18", "native", 80, ()), ("detection", "resdcn_18", "composite", 3, FLIP_TEST),
    ("detection", "resdcn_50", "native", 3, ()), ("detection", "res_18", "native", 3, ()),
    ("detection", "dla_34", "native", 3, ()), ("detection", "dlav0_34", "native", 3, ()),
    ("detection", "dlazoo_34", "native", 3, ()),
    ("detection", "hourglass", "native", 3, ("--net_config.num_stacks", "[1]")),
    *((task, "res_18", "native", 3, FLIP_TEST) for task in TASKS if task != "detection"),
])
def test_inference_graphs(task, arch, dcn_impl, classes, args, make_config):
    graph = inference_graph(make_config("--net_config.task", task, "--net_config.arch", arch, *args), dcn_impl, classes)
    assert_has_rows(graph)
    assert not graph.has_loop and not graph.int64, graph


class Foreign(nn.Cell):
    def construct(self, x):
        if (x < 1.0).all():
            x = ops.erfinv(x)
        return x, ops.arange(3) + x.astype(ms.int64)


class Looping(nn.Cell):
    def construct(self, x):
        while x < 8:
            x = x + 1
        return x


@pytest.mark.slow
def test_a_new_primitive_a_loop_and_int64_are_found():
    graph = compiled(Foreign(), Tensor(np.zeros(3, np.float32)))
    assert "Add" in graph.int64 and not graph.has_loop
    with pytest.raises(AssertionError, match="lacks.*Erfinv"):
        assert_has_rows(graph)
    with pytest.raises(AssertionError, match="no operator for.*LessScalar"):
        assert_has_rows(dataclasses.replace(graph, primitives={"LessScalar", "Add"}))
    assert compiled(Looping(), Tensor(0, ms.int32)).has_loop


# ---------------------------------------------------------------- the evidence in MindSpore's package


@functools.cache
def library(name):
    path = os.path.join(PACKAGE, "lib", name)
    if not os.path.exists(path):
        pytest.skip(f"this MindSpore package has no {name}")
    with open(path, "rb") as file:
        return file.read()


@functools.cache
def graph_engine_operators():
    """The graph engine's operators that MindSpore can create, the class names of its adapters."""
    found = re.findall(rb"OpAdapterINS1_(\d+)(cz\w+)", library("plugin/ascend/libmindspore_ascend_res_manager.so"))
    return {text[2:int(length)].decode() for length, text in found}


@functools.cache
def kernel_classes():
    """The primitives that run kernel by kernel with a kernel of their own."""
    found = re.findall(rb"\d([A-Z][A-Za-z\d]*?)Ascend[CEI]", library("plugin/libmindspore_ops_ascend.so"))
    return {name.decode() for name in found}


@functools.cache
def ai_cpu_primitives():
    """The primitives that MindSpore registers for the AI CPU."""
    texts = (path.read_text() for path in pathlib.Path(PACKAGE, "ops", "_op_impl", "aicpu").glob("*.py"))
    return {name for text in texts for name in re.findall(r'AiCPURegOp\("(\w+)"\)', text)}


# Primitives whose operator of the graph engine has another name: INPUT_MAP and REG_ADPT_DESC in op_declare/*.cc.
OTHER_NAMES = {"Adam": "ApplyAdam", "AllReduce": "HcomAllReduce", "Concat": "ConcatD", "Gather": "GatherV2",
               "MatMul": "MatMulV2", "MaxPool3DWithArgmax": "CustMaxPool3DWithArgmax", "ReLU": "Relu", "Stack": "Pack",
               "Unstack": "Unpack"}
# REG_FALLBACK_BUILDER in backend/common/expander/fallback/*.cc.
EXPANDED = {"ClampScalar", "Divs", "MatMulExt", "Muls", "PowTensorScalar", "RemainderTensorScalar", "SplitWithSize",
            "SumExt", "ZerosLikeExt"}
NO_KERNEL = {"AllFinite", "AllReduce", "EqScalar", "ExpandDims", "GetNext", "LessScalar", "Reshape"}  # of one's own


@pytest.mark.parametrize("name", rows())
def test_evidence(name):
    row = rows()[name]
    engine_operator, core = row["graph engine"], row["core on a 910"]
    expansions = library("libmindspore_backend_common.so")
    assert (engine_operator == "expanded") == (name in EXPANDED)
    if engine_operator == "expanded":
        assert name.encode() in expansions
    elif engine_operator == "none":
        assert name.encode() not in expansions and name not in graph_engine_operators()
    else:
        assert engine_operator == OTHER_NAMES.get(name, name) and engine_operator in graph_engine_operators()
    assert (row["kernel by kernel"] == "aclnn") == (name in kernel_classes())
    if "AI CPU" in core:
        assert name in ai_cpu_primitives()
    elif name not in NO_KERNEL:
        assert core.startswith("AI Core") and row["source, use"]
