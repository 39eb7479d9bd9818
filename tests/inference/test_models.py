"""Models of all kinds: each of their files is read only once."""
import builtins
import collections
import functools
import inspect
import os

import mindspore
import pytest

from src.inference import detector
from src.inference.predictor import Predictor
from tests.conftest import NARROW, call_script


@pytest.fixture
def reads(monkeypatch, graphless):
    """{path: number of reads}, by Python's open or MindSpore's loading functions; detectors are not shared by tests."""
    counts = collections.Counter()

    def counting(read, *endings):
        @functools.wraps(read)
        def counted(path, *args, **kwargs):
            counts[path] += str(path).endswith(endings)
            return read(path, *args, **kwargs)

        return counted

    monkeypatch.setattr(builtins, "open", counting(open, ".onnx", ".json"))
    monkeypatch.setattr(mindspore, "load_checkpoint", counting(mindspore.load_checkpoint, ".ckpt"))
    monkeypatch.setattr(mindspore, "load", counting(mindspore.load, ".mindir"))
    monkeypatch.setattr(detector, "load_detector", inspect.unwrap(detector.load_detector))
    return counts


def assert_once(reads, *paths):
    """Exactly these files of their folder were read, each once."""
    folder = str(paths[0].parent)
    found = {os.path.abspath(path): count for path, count in reads.items() if count and os.path.dirname(path) == folder}
    assert found == dict.fromkeys(map(str, paths), 1)


def files(model):
    """The files of a model."""
    return (model,) if model.suffix == ".onnx" else (model, model.with_suffix(".json"))


@pytest.mark.parametrize("kind", ["ckpt", "onnx"])
def test_a_predictor_reads_each_file_once(kind, deformable_file, lively_onnx, small, reads):
    model = {"ckpt": deformable_file, "onnx": lively_onnx}[kind]
    Predictor(str(model))
    assert_once(reads, *files(model))


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    "tools/predict.py --input {data}/val2017 --output out --load_checkpoint_path {checkpoint}",
    "tools/predict.py --input {data}/val2017 --output out --onnx {onnx}",
    "eval.py --data_dir {data} --load_checkpoint_path {checkpoint}",
    "eval.py --data_dir {data} --load_checkpoint_path {onnx}",
    "export.py --export_config.export_format ONNX --export_config.ckpt_file {checkpoint}",
])
def test_a_script_reads_each_file_once(command, deformable_file, lively_onnx, tiny_data, tmp_path, small, reads):
    args = [arg.format(data=tiny_data, checkpoint=deformable_file, onnx=lively_onnx) for arg in command.split()]
    call_script(*args, "--device_target", "CPU", cwd=tmp_path)
    assert_once(reads, *files(lively_onnx if "{onnx}" in command else deformable_file))


def test_a_predictor_reads_each_file_of_a_mindir_file_once(export_mindir, request):
    model = export_mindir("floats_one", *NARROW[:2])
    reads = request.getfixturevalue("reads")  # not before the export
    Predictor(str(model))
    assert_once(reads, *files(model))
