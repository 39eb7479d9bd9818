"""tools/benchmark.py: its rows, and other implementations given with --peer."""
import functools
import json
import time

import numpy as np
import onnx
import pytest

from src.core import timing
from src.core.errors import UserError
from tests.conftest import assert_user_error, call_script, replace_resdcn_18, run_script
from tools import benchmark, benchmark_cases, benchmark_onnx, benchmark_service

PEER = """
import json

def peers(part):
    return {"mine": make} if part == "postprocess" else {}

def make(case, inputs):
    if not case.startswith("100 boxes"):
        return None
    assert inputs.shape == (100, 6)
    return lambda: sum(range(1000))
"""


@pytest.mark.slow
def test_a_part_with_a_peer(tmp_path):
    (tmp_path / "peer.py").write_text(PEER)
    options = "--only", "postprocess", "--runs", 3, "--json", "rows.json", "--peer", "peer.py"
    done = run_script("tools/benchmark.py", *options, cwd=tmp_path)
    content = json.loads((tmp_path / "rows.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    name = "100 boxes to records, 80 classes, soft-NMS"
    ours, mine = rows[name], rows[f"{name} (mine)"]
    assert 0 < ours["least"] <= ours["median"] <= ours["most"] and ours["unit"] == "us" and "ours_to_it" not in ours
    assert mine["ours_to_it"] > 1  # fifty images' boxes against one short sum
    assert rows["peak memory of this part"]["median"] > 0.05
    for text in ("cores; Python", "numpy 1.", "postprocess", "median", "ours / it", "(mine)"):
        assert text in done.stdout
    assert content["machine"] in done.stdout


@pytest.mark.parametrize("unit, count, expected", [
    ("s", 4, 0.5), ("ms", 4, 500), ("us", 2, 1e6), ("images/s", 8, 4), ("ratio", 1, 2),
])
def test_units_by_hand(unit, count, expected):
    assert timing.convert(2.0, timing.Case("x", unit=unit, count=count)) == pytest.approx(expected)


def test_a_value_may_be_zero():
    assert timing.convert(0, timing.Case("responses with status 503", unit="")) == 0


def test_functions_take_turns_after_a_warm_up_call():
    calls = []
    times = timing.time_interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3 and {name: len(series) for name, series in times.items()} == {"a": 2, "b": 2}


def test_the_parts():
    assert list(benchmark.PARTS) == ["input", "train", "infer", "family", "pose", "ddd", "onnx", "decode",
                                     "postprocess", "eval", "convert", "serve"]


def test_the_rows_of_runtimes_by_hand():
    """A product's operations in 1 s in float32 and 0.5 s in int8; the network has twice as many."""
    times = {"float32": [1.0], "int8": [0.5], "MindSpore": [4.0], "ONNX Runtime, int8": [2.0],
             "OpenVINO, bfloat16": [1.0]}
    cases = [(case.name.strip(), case.seconds)
             for case in benchmark_onnx.rows(times, 4 * benchmark_onnx.PRODUCT**3, "1 x 64x64")]
    rates = {name: seconds for name, seconds in cases if name.startswith("rate of a product")}
    assert list(rates.values()) == [[2 * 2048**3 / 1e9], [4 * 2048**3 / 1e9]]
    assert cases[2:] == [
        ("MindSpore, 1 x 64x64", [4.0]), ("rate of its convolutions relative to the float32 product's", [50.0]),
        ("ONNX Runtime, int8, 1 x 64x64", [2.0]), ("relative to MindSpore", [0.5]),
        ("rate of its convolutions relative to the int8 product's", [50.0]),
        ("OpenVINO, bfloat16, 1 x 64x64", [1.0]), ("relative to MindSpore", [0.25])]


def test_operations_by_hand(tmp_path):
    """A convolution from 3 to 8 channels that halves the sides, and a transposed one from 8 to 4 that doubles them."""
    weights = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
               for name, shape in (("w", (8, 3, 3, 3)), ("v", (8, 4, 4, 4)))]
    nodes = [onnx.helper.make_node("Conv", ["image", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
             onnx.helper.make_node("ConvTranspose", ["a", "v"], ["b"], strides=[2, 2], pads=[1, 1, 1, 1])]
    image, output = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", None, "h", "w"])
                     for name in ("image", "b"))
    graph = onnx.helper.make_graph(nodes, "two", [image], [output], weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)]), tmp_path / "two.onnx")
    expected = 2 * (16 * 16 * 8 * 3 * 9 + 16 * 16 * 8 * 4 * 16)
    assert benchmark_onnx.operations(str(tmp_path / "two.onnx"), 32) == expected


def test_a_process_of_its_own():
    with benchmark_onnx.own_process(functools.partial, time.sleep, 0.05) as call:
        assert timing.time_interleaved({"sleeps": call}, 1)["sleeps"][0] > 0.05
    with pytest.raises(EOFError), benchmark_onnx.own_process(json.loads, "{"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("part, names", [
    ("input", {"sample of 640x480, 8 boxes, drawn", "  warp", "batches of 16, heatmaps on the device: 2 workers"}),
    ("convert", {f"conversion to {shards} MindRecord files" for shards in (1, 4, 16, 64)}),
])
def test_parts_that_read_a_data_set(part, names, monkeypatch):
    monkeypatch.setattr(benchmark_cases, "PIPELINE_IMAGES", 32)
    monkeypatch.setattr(benchmark_cases, "CONVERTED_IMAGES", 70)
    cases = {case.name: case for case in benchmark.PARTS[part](1)}
    assert names <= set(cases)
    for name in names:
        rows = timing.measure(part, cases[name], 1, [])
        assert all(value > 0 for row in rows for value in (row["least"], row["most"])), name


@pytest.mark.slow
def test_the_service_under_load(monkeypatch):
    for name, value in {"SIDE": 64, "SECONDS": 1, "CLIENTS": 8, "IMAGES": 3}.items():
        monkeypatch.setattr(benchmark_service, name, value)
    with replace_resdcn_18("SMALL"):
        cases = {case.name.strip(): case.seconds for case in benchmark.PARTS["serve"](1)}
    assert cases["responses that differ from the Predictor"] == [0] and cases["responses with status 200"][0] > 20
    names = ("service, 8 clients", "relative to the bare network",
             "99th percentile at half the rate, relative to a single request")
    assert all(cases[name][0] > 0 for name in names)


def test_wrong_options(tmp_path):
    assert_user_error(call_script("tools/benchmark.py", "--runs", 0, check=False), "at least 1")
    assert_user_error(call_script("tools/benchmark.py", "--peer", "/nowhere.py", check=False), "/nowhere.py")
    (tmp_path / "peer.txt").write_text("")
    with pytest.raises(UserError, match="expected a Python file"):
        benchmark.load_peer(str(tmp_path / "peer.txt"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="no function peers"):
        benchmark.load_peer(str(tmp_path / "empty.py"))
