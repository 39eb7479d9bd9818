"""Support of MindSpore's versions, with stand-ins for those that are not installed here."""
import glob
import os
import re
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from src.core.errors import UserError
from src.data.train_set import TrainSet
from src.model_utils import device_adapter, mindspore_version
from src.model_utils.mindspore_version import FIRST, LAST, release, require_mindspore
from tests.conftest import ROOT, assert_user_error, call_script

CHECKPOINT = ["--load_checkpoint_path", "x.ckpt"]
WITH_MINDSPORE = {  # entry scripts and their required options
    "train.py": [], "eval.py": [], "export.py": [], "src/dataset.py": [], "tools/benchmark.py": [],
    "tools/predict.py": [*CHECKPOINT, "--input", "in", "--output", "out"], "tools/serve.py": CHECKPOINT,
    "tools/infer_mindir.py": ["--mindir", "x.mindir", "--input_dir", "in", "--result_path", "out"],
    "tools/contact_sheet.py": ["--mindir", "x.mindir", "--data_dir", "in", "--output", "out.png"],
    "tools/convert_resnet18.py": ["--ckpt_file", "x", "--output_file", "y"],
    "tools/convert_centernet.py": ["--ckpt_file", "x", "--output_file", "y"],
    "tools/train_full.py": ["--data_path", "in"],
    "tools/check_ascend.py": ["--device_target", "CPU"],
}
WITHOUT = {"preprocess.py", "postprocess.py", *(f"tools/{name}.py" for name in (
    "report", "quantize_onnx", "make_rank_table", "merge_pascal_json", "make_shapes_dataset", "make_scenes_dataset",
    "voc_to_coco", "loss", "import_dataset", "check_dataset", "document_parameters"))}


def test_every_entry_script_is_listed_here():
    scripts = set()
    for pattern in ("*.py", "src/*.py", "tools/*.py"):
        for path in glob.glob(os.path.join(ROOT, pattern)):
            with open(path, encoding="utf-8") as file:
                if re.search(r"errors\.run\(main\)| start\(\"", file.read()):
                    scripts.add(os.path.relpath(path, ROOT))
    assert scripts == set(WITH_MINDSPORE) | WITHOUT


@pytest.fixture
def run_with(tmp_path, monkeypatch):
    """run_with(version, script, args...): run a script with this version of MindSpore apparently installed."""
    def run(version, script, *args):
        folder = tmp_path / f"mindspore-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mindspore\nVersion: {version}\n")
        (tmp_path / "in").mkdir()
        monkeypatch.syspath_prepend(tmp_path)
        return call_script(script, *args, cwd=tmp_path, check=False)

    return run


@pytest.mark.parametrize("script", WITH_MINDSPORE)
def test_an_old_mindspore_is_refused_at_the_start(script, run_with):
    done = run_with("2.2.14", script, *WITH_MINDSPORE[script])
    assert_user_error(done, "MindSpore 2.2.14", " 2.3 ")
    assert all(line.startswith("configuration: ") for line in done.stdout.splitlines())


def test_an_old_mindspore_does_not_matter_if_it_is_not_used(run_with):
    assert_user_error(run_with("2.2.14", "preprocess.py"), "--predict_dir")


def test_a_wrong_option_is_reported_first(run_with):
    assert_user_error(run_with("2.2.14", "train.py", "--epochs", "3"), "epoch_size")


@pytest.mark.parametrize("installed, warning", [
    ("1.10.1", None), ("2.0.0rc1", None), ("2.2.14", None), ("2.3.0rc2", ""), ("2.3.1", ""), ("2.4.10", ""),
    ("2.10.0", ""), ("2.11.0", "MindSpore 2.11.0"), ("3.0.0", "MindSpore 3.0.0"),
])
def test_old_versions_are_refused_and_new_ones_give_a_warning(installed, warning, monkeypatch, console):
    monkeypatch.setattr(mindspore_version, "version", lambda name: {"mindspore": installed}[name])
    if warning is None:
        with pytest.raises(UserError, match=f"MindSpore {re.escape(installed)} "):
            require_mindspore()
    else:
        require_mindspore()
        output = console.readouterr().out
        assert bool(output) == bool(warning) and warning in output and ("2.10" in output) == bool(warning)


def test_mindspore_is_missing(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(mindspore_version, "version", missing)
    with pytest.raises(UserError, match="MindSpore .*pip install"):
        require_mindspore()


def test_the_requirements_match_the_accepted_versions():
    with open(os.path.join(ROOT, "requirements.txt"), encoding="utf-8") as file:
        first, beyond = re.search(r"^mindspore>=([\d.]+),<([\d.]+)", file.read(), re.M).groups()
    assert release(first) == FIRST and release(beyond) == (LAST[0], LAST[1] + 1)


@pytest.fixture
def old_mindspore(monkeypatch):
    """MindSpore 2.3 in the adapter: without set_device, device_context, runtime. Returns the arguments of set_context.
    """
    calls = []
    hal = SimpleNamespace(is_available=lambda name: name == "Ascend", max_memory_allocated=lambda: 3 * 2**30,
                          get_device_name=lambda number, target: "Ascend910B2")
    mindspore = SimpleNamespace(GRAPH_MODE=0, hal=hal, set_context=lambda **kwargs: calls.append(kwargs))
    monkeypatch.setattr(device_adapter, "ms", mindspore)
    return calls


def test_an_old_mindspore_sets_the_device_in_its_context(old_mindspore):
    assert device_adapter.set_device("auto", 3) == "Ascend"
    device = {"device_target": "Ascend", "device_id": 3}
    precision = {"precision_mode": "must_keep_origin_dtype", "conv_allow_hf32": False}
    assert old_mindspore == [{"mode": 0}, device, {"ascend_config": precision}]
    old_mindspore.clear()
    assert device_adapter.set_device("Ascend", 0, conv_allow_hf32=True, jit_level="O1") == "Ascend"
    assert old_mindspore[2:] == [{"ascend_config": {**precision, "conv_allow_hf32": True}},
                                 {"jit_config": {"jit_level": "O1"}}]
    old_mindspore.clear()
    assert device_adapter.set_device("CPU", 3) == "CPU"
    assert old_mindspore == [{"mode": 0}, {"device_target": "CPU"}]


def test_the_devices_memory_has_two_names(old_mindspore, monkeypatch):
    assert device_adapter.peak_memory("Ascend").endswith(" GB, 3.00 GB of the device")
    runtime = SimpleNamespace(max_memory_allocated=lambda: 5 * 2**30)
    monkeypatch.setattr(device_adapter.ms, "runtime", runtime, raising=False)
    assert device_adapter.peak_memory("Ascend").endswith(" GB, 5.00 GB of the device")
    assert "of the device" not in device_adapter.peak_memory("CPU")


def test_a_version_that_cannot_read_single_rows_cannot_train(make_config, tiny_records, monkeypatch):
    import mindspore.dataset as ds

    monkeypatch.delattr(ds.MindDataset, "__getitem__")
    with pytest.raises(UserError, match="MindSpore"):
        TrainSet(make_config("--mindrecord_dir", tiny_records, "--train_config.batch_size", 4))


@pytest.mark.parametrize("allowed", [False, True])
def test_another_frameworks_float32_switch_leads_to_ours(allowed, monkeypatch, console):
    device_adapter.set_device("CPU", 0, conv_allow_hf32=allowed)
    assert "TORCH_SDAA" not in console.readouterr().out
    monkeypatch.setenv("TORCH_SDAA_CONV2D_BACKWARD_USE_FP32", "1")
    device_adapter.set_device("CPU", 0, conv_allow_hf32=allowed)
    lines = [line for line in console.readouterr().out.splitlines() if not line.startswith("without effect")]
    assert len(lines) == 1 and "TORCH_SDAA_CONV2D_BACKWARD_USE_FP32 " in lines[0]
    assert "conv_allow_hf32 false" in lines[0] and lines[0].endswith(f" {str(allowed).lower()}")
