"""src/model_utils/device_adapter.py."""
import numpy as np
import pytest
from mindspore import Tensor

from src.core.errors import UserError
from src.model_utils import device_adapter
from src.model_utils.device_adapter import init_ranks, profiling, set_device


def test_ascend_is_used_if_available(monkeypatch):
    """The calls to MindSpore on a machine with an NPU, by stand-ins."""
    calls = []
    monkeypatch.setattr(device_adapter.ms.hal, "is_available", lambda name: name == "Ascend")
    monkeypatch.setattr(device_adapter.ms, "set_device", lambda *args: calls.append(args))
    precision = device_adapter.ms.device_context.ascend.op_precision
    monkeypatch.setattr(device_adapter.ms.hal, "get_device_name", lambda number, target: "Ascend910A")
    monkeypatch.setattr(precision, "precision_mode", lambda value: calls.append(value))
    monkeypatch.setattr(precision, "conv_allow_hf32", lambda value: calls.append(value))
    monkeypatch.setattr(device_adapter.ms, "set_context", lambda **kwargs: calls.append(kwargs.get("jit_config")))
    assert [set_device("auto", 3), set_device("Ascend", 3, True, "O1")] == ["Ascend", "Ascend"]
    assert set_device("CPU", 3) == "CPU"
    monkeypatch.setenv("RANK_SIZE", "8")
    monkeypatch.setenv("DEVICE_ID", "5")  # of another job: only train.py reads a launcher's variables
    assert set_device("Ascend", 3) == "Ascend"
    mode = "allow_fp32_to_fp16"
    assert calls == [None, ("Ascend", 3), mode, False, None, ("Ascend", 3), mode, True, {"jit_level": "O1"},
                     None, ("CPU",), None, ("Ascend", 3), mode, False]


@pytest.mark.parametrize("name, mode", [
    *((name, "allow_fp32_to_fp16") for name in ("Ascend910", "Ascend910A", "Ascend910ProB", "Ascend910PremiumA")),
    *((name, "must_keep_origin_dtype") for name in ("Ascend910B1", "Ascend910B4", "Ascend910_9391", "Ascend950")),
])
def test_the_precision_a_device_can_keep(name, mode):
    """Convolutions on the first generation's cube unit are float16 whatever is asked for."""
    assert device_adapter.precision_mode_of(name) == mode
    assert ("float16" in device_adapter.PRECISION[mode]) == (mode == "allow_fp32_to_fp16")


@pytest.mark.parametrize("name, asked, environment, level", [
    ("Ascend910A", "", {}, "O2"), ("Ascend910B1", "", {}, "O0"), ("Ascend910A", "O0", {}, "O0"),
    ("Ascend910B1", "", {"RANK_TABLE_FILE": "hccl.json"}, "O2"),
    ("Ascend910B1", "O1", {"RANK_TABLE_FILE": "hccl.json"}, "O2"),
    ("Ascend910B1", "O1", {"RANK_TABLE_FILE": "hccl.json", "MS_ROLE": "MS_WORKER"}, "O1"),
    ("Ascend910B1", "O1", {"MINDSPORE_HCCL_CONFIG_PATH": "hccl.json"}, "O2"),
    ("Ascend910B1", "", {"RANK_TABLE_FILE": "", "MS_ROLE": ""}, "O0"),
])
def test_the_jit_level_that_holds(name, asked, environment, level):
    """MindSpore's rules, mindspore/core/utils/ms_context.cc."""
    found, reason = device_adapter.jit_level_on(name, asked, environment)
    assert found == level and ("not O1" in reason) == (bool(asked) and asked != level)


@pytest.mark.parametrize("name, expected", [("Ascend910A", True), ("Ascend910B2", False)])
def test_the_device_that_saturates(name, expected, monkeypatch):
    monkeypatch.setattr(device_adapter.ms, "get_context", {"device_id": 5}.__getitem__)
    monkeypatch.setattr(device_adapter.ms.hal, "get_device_name", lambda number, target: {5: name}[number])
    assert device_adapter.saturates("Ascend") is expected
    assert device_adapter.saturates("CPU") is False


def test_device_num_must_match_the_processes(monkeypatch):
    from mindspore import communication

    monkeypatch.setattr(communication, "init", lambda: None)
    monkeypatch.setattr(communication, "get_rank", lambda: 1)
    monkeypatch.setattr(communication, "get_group_size", lambda: 2)
    monkeypatch.setattr(device_adapter.ms, "set_auto_parallel_context", lambda **_: None)
    assert init_ranks(True, 2) == (1, 2)
    assert init_ranks(True, 1) == (1, 2)
    assert init_ranks(False, 8) == (0, 1)
    with pytest.raises(UserError, match="device_num.* 4.* 2"):
        init_ranks(True, 4)


def test_device_selection():
    assert set_device("auto", 0) == "CPU"
    with pytest.raises(UserError, match="Ascend"):
        set_device("Ascend", 0)


@pytest.mark.slow
def test_profiling_leaves_files(tmp_path):
    with profiling(True, str(tmp_path / "profile")):
        (Tensor(np.ones((8, 8), np.float32)) * 2).asnumpy()
    assert [path for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    with profiling(False, str(tmp_path / "none")):
        pass
    assert not (tmp_path / "none").exists()
