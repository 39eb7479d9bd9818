"""Exports refuse a head that they would drop, and a cell that they do not know."""
import dataclasses
import itertools

import numpy as np
import pytest
from mindspore import nn

from src.export.onnx_cells import add_cell
from src.export.onnx_graph import OPSETS, Graph
from src.export.onnx_model import decode
from src.inference.detector import build_detector, export_detector
from src.network.centernet import build_network
from src.network.folding import fold_batch_norm
from src.tasks import TASKS
from src.tasks.detection.device import Decode
from tests.conftest import replace_resdcn_18, user_error
from tests.metainfo import classes_of
from tests.tasks.brightness import BRIGHTNESS

METAINFO = {**classes_of(2), "channels": ["x", "y", "z"]}


def empty_maps(graph, heads):
    """{head: a value without content}, as maps of a network."""
    return {head.name: graph.constant(head.name, np.zeros(1, np.float32)) for head in heads}


@pytest.mark.parametrize("form", OPSETS)
@pytest.mark.parametrize("name", TASKS)
def test_the_onnx_form_of_each_task_reads_all_heads(name, form, make_config):
    """With each combination of the options that change the heads."""
    task, seen = TASKS[name], set()
    for values in itertools.product(["true", "false"], repeat=len(task.layers)):
        args = [word for layer, value in zip(task.layers, values) for word in (f"--net_config.{layer}", value)]
        config = make_config("--net_config.task", name, *args).net_config
        heads, graph = task.device.heads(config, METAINFO), Graph(form, "float32")
        decode(task, graph, empty_maps(graph, heads), task.device.Decode(config, METAINFO, 10))
        seen |= {head.name for head in heads}
    assert seen == set(task.heads)


def test_an_onnx_export_refuses_a_head_that_decoding_drops(make_config, monkeypatch):
    """Brightness, with detection's decoding: its head light would be missing."""
    heads, graph = BRIGHTNESS.device.heads(make_config().net_config, METAINFO), Graph("grid_sample", "float32")
    monkeypatch.setattr(BRIGHTNESS.onnx, "decode", TASKS["detection"].onnx.decode)
    with user_error("lack the head light of the task brightness", "tests.tasks.brightness.onnx", "onnx_decode false"):
        decode(BRIGHTNESS, graph, empty_maps(graph, heads), Decode(make_config().net_config, METAINFO, 10))


def test_an_onnx_export_refuses_a_task_without_onnx_form():
    task = dataclasses.replace(BRIGHTNESS, package="tests.tasks")
    with user_error("brightness", "tests.tasks.onnx", "onnx_decode false"):
        decode(task, Graph("grid_sample", "float32"), {}, None)


def test_an_onnx_export_refuses_a_cell_without_onnx_form():
    head = nn.SequentialCell(nn.ReLU(), nn.LeakyReLU())
    with user_error("light_head.1", "LeakyReLU", "src/export/onnx_cells.py"):
        add_cell(Graph("grid_sample", "float32"), head, "features", "light_head")


def test_what_a_value_is_computed_from():
    graph = Graph("grid_sample", "float32")
    both = graph.add("Add", "a", graph.add("Relu", "b"))
    graph.add("Relu", "c")
    first, second = graph.add("Split", both, axis=0, outputs=2)
    assert graph.sources(second) >= {"a", "b", both, second} and not graph.sources(second) & {"c", first}


@pytest.fixture
def export(make_config, monkeypatch, tmp_path):
    """A function that exports an untrained network of brightness as MindIR, with another Decode."""
    monkeypatch.setitem(TASKS, BRIGHTNESS.name, BRIGHTNESS)
    config = make_config("--net_config.task", "brightness", "--export_config.input_res", "[64, 64]", "--eval_config.K",
                         5, "--export_config.export_name", tmp_path / "lit", "--export_config.ckpt_file", "a.ckpt")
    description = {**METAINFO, "task": "brightness", "net_config": config.net_config.as_dict(), "mean": [0.5] * 3,
                   "std": [0.2] * 3, "dataset": "lit", "input_res_train": [64, 64], "evaluation": {},
                   "arch": "resdcn_18", "stride": 32}
    with replace_resdcn_18("LEAST"):
        network = build_network(config.net_config, description, "composite")
    fold_batch_norm(network)
    detector = build_detector(network, description, config.eval_config, any_size=False)

    def run(replaced=None):
        if replaced:
            detector.network.decode = replaced(config.net_config, METAINFO, 5)
        return export_detector(detector, config.export_config, config.eval_config)

    return run


@pytest.mark.slow
def test_a_mindir_export_refuses_a_head_that_decoding_drops(export, tmp_path):
    """Nothing is written."""
    with user_error("lack the head light of the task brightness", "tests.tasks.brightness.device"):
        export(Decode)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mindir_export_refuses_rows_without_their_columns(export, tmp_path, monkeypatch):
    monkeypatch.setattr(BRIGHTNESS.results, "output_columns", lambda metainfo: {"box": 4, "score": 1, "label": 1})
    with user_error("9 columns", "has 6", "tests.tasks.brightness.results"):
        export()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_complete_mindir_is_written(export, tmp_path):
    export()
    assert {path.name for path in tmp_path.iterdir()} == {"lit.mindir", "lit.json"}
