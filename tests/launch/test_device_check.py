"""src/launch/device_check.py, ascend_checks.py and scripts/check_ascend.sh."""
import json
import os
import subprocess
import sys
import time

import pytest

from src.commands import check_ascend
from src.launch import ascend_checks, device_check
from src.launch.device_check import FAILED, NOT_RUN, PASSED, Setting
from tests.conftest import ROOT, user_error

# As MindSpore's ascend_kernel_details_viewer.py writes it.
HEAD = "Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us)\n"


@pytest.fixture
def setting(tmp_path):
    os.makedirs(tmp_path / "logs")
    return Setting(str(tmp_path), "CPU", [0, 1], (4, 2, 64), 9, {"train_config": {"batch_size": 16}},
                   time.monotonic() + 60)


def python(code):
    return [sys.executable, "-c", code]


def test_a_failed_check_and_one_without_time_leave_the_others(setting):
    def passes(setting):
        setting.run("passes", python("print('text')"))
        return "fine", {"number": 1}

    def fails(setting):
        setting.run("fails", python("import sys; print('a reason'); sys.exit(3)"))

    def hangs(setting):
        setting.deadline = time.monotonic() + 0.5
        setting.run("hangs", python("import time; time.sleep(60)"))

    def late(setting):
        setting.run("late", python(""))

    shown = []
    results = device_check.run_checks(setting, {"passes": passes, "fails": fails, "hangs": hangs, "late": late},
                                      shown.append)
    assert results == shown
    assert [result.status for result in results] == [PASSED, FAILED, NOT_RUN, NOT_RUN]
    assert [result.note for result in results][:2] == ["fine", "exit code 3: a reason (logs/fails.txt)"]
    assert "time" in results[2].note and "time" in results[3].note
    with open(setting.path("ascend_report.json"), encoding="utf-8") as file:
        report = json.load(file)
    assert [check["status"] for check in report["checks"]] == [PASSED, FAILED, NOT_RUN, NOT_RUN]
    assert report["checks"][0]["numbers"] == {"number": 1} and report["devices"] == [0, 1]


def test_children_of_a_stopped_command_end():
    """A child holds the pipe open until it ends."""
    reader, writer = os.pipe()
    child = f"import os, time; os.write({writer}, b'x'); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], pass_fds=[{writer}])"
    process = subprocess.Popen(python(parent), pass_fds=[writer], start_new_session=True)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    device_check.end(process)
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("text, ids", [("0-7", list(range(8))), ("3", [3]), ("0,2,4-5", [0, 2, 4, 5]), (None, [0, 1])])
def test_device_ids(text, ids):
    assert check_ascend.device_ids(text, "CPU") == ids


@pytest.mark.parametrize("text", ["", "a", "1-0", "0,0", "0-", "-1", "0-9999", "²"])
def test_wrong_device_ids(text):
    with user_error("--devices"):
        check_ascend.device_ids(text, "CPU")


def test_a_version_is_read_from_the_first_file_found(tmp_path, monkeypatch):
    """The form of CANN's version.cfg and of the driver's version.info."""
    (tmp_path / "version.cfg").write_text("# comment\nruntime_running_version=[8.5.0.100:8.5.0]\n")
    (tmp_path / "version.info").write_text("Version=25.2.0\nascendhal_version=7.35.23\n")
    monkeypatch.setenv("SOME_HOME", str(tmp_path))
    assert ascend_checks.first_version(["{OTHER_HOME}/version.cfg", "{SOME_HOME}/version.cfg"]) == "8.5.0.100:8.5.0"
    assert ascend_checks.first_version([str(tmp_path / "version.info")]) == "25.2.0"
    assert ascend_checks.first_version(["/nowhere"]) == "not found"


def test_operators_on_the_ai_cpu(tmp_path):
    folder = tmp_path / "profile" / "rank0" / "ASCEND_PROFILER_OUTPUT"
    os.makedirs(folder)
    (folder / "kernel_details.csv").write_text(
        f"{HEAD}a,DeformableOffsets,AI_CPU,0,1500,0\nb,DeformableOffsets,AI_CPU,0,500,0\n"
        "c,TopK,AI_CPU,0,2500,0\nd,Conv2D,AI_CORE,0,9000,0\ne,HcomAllReduce,HCCL,0,10,0\n")
    assert ascend_checks.ai_cpu_times(str(tmp_path / "profile")) == {"TopK": 2.5, "DeformableOffsets": 2.0}
    with pytest.raises(device_check.Failed, match="kernel_details"):
        ascend_checks.ai_cpu_times(str(tmp_path / "nothing"))


def test_advice(setting):
    setting.found.update(native=100.0, composite=80.0, sink=101.0, all_devices=700.0, all_devices_sink=800.0,
                         device_memory=4.0, total_memory=32 * 2**30)
    texts = ascend_checks.advice(setting)
    assert texts[0].startswith("--net_config.dcn_impl native")
    assert texts[1].startswith("--enable_data_sink false") and texts[2].startswith("--enable_data_sink true")
    assert "up to 115" in texts[3]  # 16 x 0.9 x 32 / 4
    setting.found.clear()
    assert ascend_checks.advice(setting) == []


def test_users_mistakes(tmp_path):
    """A folder of the user's is neither moved nor filled."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with user_error("mine"):
        check_ascend.main(["--device_target", "CPU", "--output", str(mine)])
    assert os.listdir(mine) == ["letter.txt"]
    with user_error("no Ascend device"):
        check_ascend.main(["--device_target", "Ascend"])
    with user_error("--minutes"):
        check_ascend.main(["--device_target", "CPU", "--minutes", "0"])


@pytest.mark.slow
def test_the_whole_check_on_a_cpu(tmp_path):
    """What an owner of NPUs runs, on a CPU: every check that applies passes, and the report says so."""
    output = tmp_path / "a check"
    environment = {**os.environ, "DEVICE_TARGET": "CPU"}
    script = os.path.join(ROOT, "scripts", "check_ascend.sh")
    done = subprocess.run(["bash", script, "--output", output, "--minutes", "15"], env=environment,
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(output / "ascend_report.json", encoding="utf-8") as file:
        report = json.load(file)
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    not_run = {name for name, status in statuses.items() if status == NOT_RUN}
    assert not_run == {"training, data sink", "all devices, data sink"} and FAILED not in statuses.values()
    assert list(statuses) == list(ascend_checks.CHECKS)
    assert report["advice"][0].startswith("--net_config.dcn_impl") and "advice: " in done.stdout
    numbers = {check["name"]: check["numbers"] for check in report["checks"]}
    assert numbers["training, one device"]["images_per_second"] > 0
    assert len(numbers["parity with golden vectors"]["rows"]) == 25
    assert {path.name for path in (output / "logs").glob("*.txt")} >= {"parity.txt", "native.txt", "rank_table.txt"}
