"""src/launch/device_check.py, ascend_checks.py and scripts/check_ascend.sh."""
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from src.commands import check_ascend
from src.launch import ascend_checks, device_check
from src.launch.device_check import FAILED, NO_TIME, NOT_RUN, PASSED, Failed, NotRun, Setting
from tests.conftest import ROOT, small_project, user_error, wait_until

# As MindSpore's ascend_kernel_details_viewer.py writes it.
HEAD = "Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us)\n"


@pytest.fixture
def setting(tmp_path):
    os.makedirs(tmp_path / "logs")
    os.makedirs(tmp_path / "work")
    return Setting(str(tmp_path), "CPU", [0, 1], (4, 2, 64), 9, {"train_config": {"batch_size": 16}},
                   time.monotonic() + 60, limit=60)


def python(code):
    return [sys.executable, "-c", code]


def test_a_failed_check_and_one_without_time_leave_the_others(setting):
    def passes(setting):
        setting.run("passes", python("print('text')"))
        return "fine", {"number": 1}

    def fails(setting):
        setting.run("fails", python("import sys; print('a reason'); sys.exit(3)"))

    def hangs(setting):
        setting.limit = 0.5
        setting.run("hangs", python("import time; print('busy', flush=True); time.sleep(60)"))

    def breaks(setting):
        return json.loads("{"), {}

    def late(setting):
        setting.deadline = time.monotonic()
        setting.run("late", python(""))

    def elsewhere(setting):
        raise NotRun("elsewhere only")

    shown = []
    checks = {"passes": passes, "fails": fails, "hangs": hangs, "breaks": breaks, "late": late, "elsewhere": elsewhere}
    results = device_check.run_checks(setting, checks, shown.append)
    assert results == shown
    expected = [PASSED, FAILED, FAILED, FAILED, NO_TIME, NOT_RUN]
    assert [result.status for result in results] == expected
    notes = [result.note for result in results]
    assert notes[:2] == ["fine", "exit code 3: a reason (logs/fails.txt)"]
    assert "no end" in notes[2] and "busy" in notes[2] and "JSONDecodeError" in notes[3] and "elsewhere" in notes[5]
    with open(setting.path("ascend_report.json"), encoding="utf-8") as file:
        report = json.load(file)
    assert [check["status"] for check in report["checks"]] == expected
    assert report["checks"][0]["numbers"] == {"number": 1} and report["devices"] == [0, 1] and report["date"]


def test_the_speed_of_a_training_run(setting):
    """Throughput, not a median of rates; a run that skips most steps, or whose loss is not finite, has failed."""
    os.makedirs(setting.work("run"))

    def write(steps):
        with open(setting.work("run", "train_record.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(step) + "\n" for step in steps)

    step = {"epoch": 0, "step": 1, "lr": 1e-4, "hm_loss": 1.0, "wh_loss": 1.0, "off_loss": 0.9, "loss": 2.0,
            "overflow": False, "images_per_second": 10.0}
    slow = {**step, "images_per_second": 5.0}
    write([slow, step, step, step, slow, step, slow, step, {**slow, "overflow": True, "loss": 1.0}])
    assert setting.speed("run") == {"images_per_second": round(6 / (3 / 10 + 3 / 5), 1), "overflows": 1,
                                    "first_loss": 2.0, "last_loss": 1.0}
    assert os.path.exists(setting.path("logs", "run_record.jsonl"))
    write([step] * 8)
    with pytest.raises(Failed, match="8 of 9"):
        setting.speed("run")
    write([{**step, "overflow": True}] * 5 + [step] * 4)
    with pytest.raises(Failed, match="5 of 9 steps overflowed"):
        setting.speed("run")
    write([step] * 8 + [{**step, "loss": float("nan")}])
    with pytest.raises(Failed, match="1 losses are not finite"):
        setting.speed("run")


@pytest.mark.parametrize("stubborn", [False, True])
def test_children_of_a_stopped_command_end(stubborn):
    """Also one in a session of its own, as msrun's workers are, that ignores SIGTERM. It holds a pipe open."""
    reader, writer = os.pipe()
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else "pass"
    child = f"{ignore}\nimport os, time; os.write({writer}, b'x'); time.sleep(60)"
    parent = ("import subprocess, sys; subprocess.run([sys.executable, '-c', "
              f"{child!r}], pass_fds=[{writer}], start_new_session=True)")
    process = subprocess.Popen(python(parent), pass_fds=[writer], start_new_session=True)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    device_check.end(process, seconds=2)
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("text, ids", [("0-7", list(range(8))), ("3", [3]), ("0,2,4-5", [0, 2, 4, 5]), (None, [0, 1])])
def test_device_ids(text, ids, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert check_ascend.device_ids(text, "CPU") == ids


def test_device_ids_of_an_ascend(monkeypatch):
    """All, those in the environment, or those that are named, which must exist."""
    monkeypatch.setattr(check_ascend.glob, "glob", lambda _: [f"/dev/davinci{number}" for number in (10, 2, 3)])
    assert check_ascend.device_ids(None, "Ascend") == [2, 3, 10]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "3, 10")
    assert check_ascend.device_ids(None, "Ascend") == [3, 10]
    assert check_ascend.device_ids("2", "Ascend") == [2]
    with user_error("no device 4", "2, 3, 10"):
        check_ascend.device_ids("2-4", "Ascend")


def test_the_commands_see_the_chosen_devices_only(setting, monkeypatch):
    monkeypatch.setenv("RANK_TABLE_FILE", "hccl.json")
    show = python("import os; print(os.environ.get('ASCEND_RT_VISIBLE_DEVICES'), os.environ.get('RANK_TABLE_FILE'))")
    setting.target, setting.devices = "Ascend", [4, 5]
    assert setting.run("show", show).endswith("4,5 None\n")
    setting.target = "CPU"
    assert setting.run("show_cpu", show).endswith("None None\n")


@pytest.mark.parametrize("text", ["", "a", "1-0", "0,0", "0-", "-1", "0-9999", "0-999", "²"])
def test_wrong_device_ids(text):
    with user_error("--devices"):
        check_ascend.device_ids(text, "CPU")


def test_a_version_is_read_from_the_first_file_found(tmp_path, monkeypatch):
    """The form of CANN's version.cfg and of the driver's version.info."""
    (tmp_path / "version.cfg").write_text("# version: 1.0\nruntime_running_version=[7.6.0.1.220:8.0.0]\n")
    (tmp_path / "version.info").write_text("Version=25.2.0\nascendhal_version=7.35.23\n")
    monkeypatch.setenv("SOME_HOME", str(tmp_path))
    assert ascend_checks.first_version(["{OTHER_HOME}/version.cfg", "{SOME_HOME}/version.cfg"]) == "8.0.0"
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
    assert check_ascend.advice(setting) == []  # a CPU
    setting.target = "Ascend"
    texts = check_ascend.advice(setting)
    assert texts[0].startswith("--net_config.dcn_impl native")
    assert "no clear difference" in texts[1] and texts[2].startswith("--enable_data_sink true")
    assert "up to 115" in texts[3]  # 16 x 0.9 x 32 / 4
    setting.found.clear()
    assert check_ascend.advice(setting) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_check_that_is_interrupted_leaves_nothing_running(number, tmp_path):
    """As with Ctrl-C, or when the terminal closes."""
    script = os.path.join(ROOT, "tools", "check_ascend.py")
    process = subprocess.Popen([sys.executable, script, "--device_target", "CPU"], cwd=tmp_path, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: (tmp_path / "ascend_check" / "logs" / "parity.txt").exists(), 60, "the first checks")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the checks so far: ascend_check" in output and "Traceback" not in output
    assert children and psutil.wait_procs(children, timeout=10)[1] == []  # a busy machine ends them a little later
    assert not (tmp_path / "ascend_check" / "work").exists()


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
    for minutes in ("0", "nan", "inf", "-1"):
        with user_error("--minutes"):
            check_ascend.main(["--device_target", "CPU", "--minutes", minutes])


@pytest.mark.slow
def test_the_whole_check_on_a_cpu(tmp_path):
    """What an owner of NPUs runs, on a CPU: every check that applies passes, and the report says so. The network is
    small, since each check compiles it, but for the parity, which is the checkout's."""
    project = small_project(tmp_path / "project")
    os.mkdir(project / "tests")
    (project / "tests" / "device_parity.py").write_text(
        f"import runpy, sys\nsys.path[0] = {ROOT!r}\n"
        "runpy.run_path(sys.path[0] + '/tests/device_parity.py', run_name='__main__')\n")
    output = tmp_path / "a check"
    environment = {**os.environ, "DEVICE_TARGET": "CPU"}
    script = project / "scripts" / "check_ascend.sh"
    done = subprocess.run(["bash", script, "--output", output, "--minutes", "15"], env=environment,
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(output / "ascend_report.json", encoding="utf-8") as file:
        report = json.load(file)
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    not_run = {name for name, status in statuses.items() if status == NOT_RUN}
    assert not_run == {"operators on the AI CPU", "training, data sink", "all devices, data sink"}
    assert {statuses[name] for name in set(statuses) - not_run} == {PASSED}
    assert list(statuses) == list(ascend_checks.CHECKS)
    numbers = {check["name"]: check["numbers"] for check in report["checks"]}
    assert numbers["training, one device"]["images_per_second"] > 0
    assert len(numbers["parity with golden vectors"]["rows"]) == 25
    assert {path.name for path in (output / "logs").glob("*.txt")} >= {"parity.txt", "native.txt", "rank_table_0.txt"}
    assert {path.name for path in output.iterdir()} == {"ascend_report.json", "check.yaml", "logs"}
    assert sum(path.stat().st_size for path in output.rglob("*")) < 2**22
