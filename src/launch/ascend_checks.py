"""The checks of check_ascend.py: functions of a Setting that return (note for the table, numbers for the report)."""
import csv
import glob
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

from ..core.project import ROOT
from ..core.version import version
from .device_check import VISIBLE, Failed, NotRun, Setting, end, last_line
from .ports import free_port

PUBLISHED = 590  # images/s, the model zoo's, on eight Ascend 910 at 512x512
# Files with CANN's and the driver's version, in the places where their installers put them.
VERSION_FILES = {
    "CANN": ("{ASCEND_TOOLKIT_HOME}/version.cfg", "{ASCEND_HOME_PATH}/version.cfg",
             "/usr/local/Ascend/ascend-toolkit/latest/version.cfg", "/usr/local/Ascend/latest/version.cfg",
             "{ASCEND_HOME_PATH}/compiler/version.info"),
    "driver": ("/usr/local/Ascend/driver/version.info",),
}
DEVICE = """
import json, sys
import mindspore as ms
from src.model_utils.device_adapter import set_device
target = set_device(sys.argv[1], 0)
found = {"MindSpore": ms.__version__, "device": "CPU"}
if target == "Ascend":
    (ms.ops.ones((2, 2)) + 1).asnumpy()  # before the first operator the device states no memory
    found.update(device=ms.hal.get_device_name(0, target),
                 total_memory=int(ms.hal.get_device_properties(0, target).total_memory))
with open("device.json", "w") as file:
    json.dump(found, file)
"""


def versions(setting: Setting) -> tuple[str, dict]:
    setting.run("versions", [sys.executable, "-c", DEVICE, setting.target], {"PYTHONPATH": ROOT})
    with open(setting.work("device.json"), encoding="utf-8") as file:
        found = json.load(file)
    found.update(Python=platform.python_version(), project=version(), system=platform.platform(),
                 processors=os.cpu_count(), **{name: first_version(paths) for name, paths in VERSION_FILES.items()})
    if setting.target == "Ascend":
        try:
            setting.run("npu-smi", ["npu-smi", "info"])
        except (Failed, OSError):
            pass  # its log says why
    setting.found.update(found)
    return f"{found['device']}, MindSpore {found['MindSpore']}, CANN {found['CANN']}, driver {found['driver']}", found


def first_version(patterns: Iterable[str]) -> str:
    """The version that the first existing file of several states, or "not found".

    version.cfg has lines such as "toolkit_running_version=[7.6.0.1.220:8.0.0]", where the second number is CANN's.
    """
    for pattern in patterns:
        path = os.path.expandvars(pattern.replace("{", "${"))
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file if "ersion" in line and not line.lstrip().startswith("#")]
            return lines[0].rpartition("=")[2].strip(" []").rpartition(":")[2] if lines else path
    return "not found"


def data(setting: Setting) -> tuple[str, dict]:
    train, val, size = setting.images
    setting.run("data", ["tools/make_shapes_dataset.py", "--output", setting.work("shapes"), "--train", str(train),
                         "--val", str(val), "--size", str(size), "--smallest", str(size * 3 // 8),
                         "--largest", str(size * 9 // 16)])
    setting.run("data", ["src/dataset.py", *setting.configuration(), "--coco_data_dir", setting.work("shapes"),
                         "--mindrecord_dir", setting.work("mindrecord")])
    return f"{train} + {val} generated images of {size}x{size}", {}


def parity(setting: Setting) -> tuple[str, dict]:
    output = setting.path("logs", "parity.json")
    failure = ""
    try:
        setting.run("parity", ["tests/device_parity.py", "--device_target", setting.target, "--json", output])
    except Failed as error:
        failure = str(error)
        if not os.path.exists(output):
            raise
    with open(output, encoding="utf-8") as file:
        rows = json.load(file)
    wrong = [row["component"] for row in rows if not row["passed"]]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(rows)} differ: {', '.join(wrong)} (logs/parity.txt)", {"rows": rows})
    if failure:
        raise Failed(failure, {"rows": rows})
    worst = max(rows, key=lambda row: row["relative"])
    return f"{len(rows)} comparisons, the largest {worst['relative']:.1e}: {worst['component']}", {"rows": rows}


def native(setting: Setting) -> tuple[str, dict]:
    return speed_alone(setting, "native", "--net_config.dcn_impl", "native", save=True)


def composite(setting: Setting) -> tuple[str, dict]:
    return speed_alone(setting, "composite", "--net_config.dcn_impl", "composite")


def sink(setting: Setting) -> tuple[str, dict]:
    if setting.target == "CPU":
        raise NotRun("Ascend only")
    return speed_alone(setting, "sink", "--enable_data_sink", "true", "--data_sink_steps", 10)


def speed_alone(setting: Setting, name: str, *options: object, save: bool = False) -> tuple[str, dict]:
    """Train on one device."""
    text = setting.run(name, setting.training(name, "--distribute", "false", *options, save=save))
    memory, numbers = peak_memory(text), setting.speed(name)
    setting.found[name] = numbers["images_per_second"]
    if name == "native" and (used := re.search(r"([\d.]+) GB of the device", memory)):
        setting.found["device_memory"] = float(used[1])
    return described(numbers, memory), {**numbers, "peak_memory": memory}


def described(numbers: dict[str, float], memory: str, text: str = "") -> str:
    """A training run in words."""
    skipped = f"; {numbers['overflows']} steps overflowed" if numbers["overflows"] else ""
    return f"{numbers['images_per_second']} images/s{text}{skipped}; peak memory {memory}"


def peak_memory(log: str) -> str:
    """The peak memory that a training log states, for example "3.10 GB, 12.50 GB of the device"."""
    return next((line.partition("peak memory: ")[2] for line in log.splitlines() if "peak memory: " in line), "unknown")


def all_devices(setting: Setting) -> tuple[str, dict]:
    return speed_together(setting, "all_devices")


def all_devices_sink(setting: Setting) -> tuple[str, dict]:
    if setting.target == "CPU":
        raise NotRun("Ascend only")
    return speed_together(setting, "all_devices_sink", "--enable_data_sink", "true", "--data_sink_steps", 10)


def speed_together(setting: Setting, name: str, *options: object) -> tuple[str, dict]:
    """Train on all devices, started by msrun."""
    count = len(setting.devices)
    if count == 1:
        raise NotRun("one device")
    script, *arguments = setting.training(name, *options)
    programs = os.path.dirname(sys.executable)
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])  # msrun calls "python"
    msrun = shutil.which("msrun", path=path)
    if not msrun:
        raise Failed("no msrun beside this Python or on PATH; it belongs to MindSpore")
    logs = setting.path("logs", name)
    command = [msrun, f"--worker_num={count}", f"--local_worker_num={count}", f"--master_port={free_port()}",
               "--join=True", f"--log_dir={logs}", os.path.join(ROOT, script), *arguments]
    setting.run(name, command, {"PATH": path})
    with open(os.path.join(logs, "worker_0.log"), encoding="utf-8", errors="replace") as file:
        memory = peak_memory(file.read())
    numbers = setting.speed(name)
    setting.found[name] = rate = numbers["images_per_second"]
    single = setting.found.get("native")
    scaling = f", {rate / single / count:.0%} of {count} times one" if single else ""
    published = f" (published for eight 910: {PUBLISHED})" if setting.target == "Ascend" else ""
    return (described(numbers, f"{memory} per device", f" on {count} devices{scaling}{published}"),
            {**numbers, "peak_memory": memory})


def rank_table(setting: Setting) -> tuple[str, dict]:
    """Two processes through the project's launcher and a rank table, which has the machine's device ids."""
    if len(setting.devices) == 1:
        raise NotRun("one device")
    folder = setting.work("rank_table")
    os.makedirs(folder)
    ids = ",".join(map(str, setting.devices[:2]))
    here = ["--cpu", "--server_id", "127.0.0.1"] if setting.target == "CPU" else []
    setting.run("rank_table", ["tools/make_rank_table.py", "--devices", ids, *here, "--output", "hccl.json"],
                cwd=folder)
    script = os.path.join(ROOT, "scripts", "run_distributed_train_ascend.sh")
    command = ["env", "-u", VISIBLE, "bash", script, "--wait", setting.work("mindrecord"), "hccl.json",
               "--train_steps", "5", "--enable_save_ckpt", "false"]
    first = f"LOG{setting.devices[0]}"
    try:
        setting.run("rank_table", command, {"DEVICE_TARGET": setting.target, "CONFIG_PATH": setting.path("check.yaml"),
                                            "MS_SCHED_PORT": str(free_port())}, cwd=folder)
    finally:
        for device in setting.devices[:2]:
            setting.keep(os.path.join("rank_table", f"LOG{device}", "training_log.txt"), f"rank_table_{device}.txt")
    steps = setting.records(os.path.join("rank_table", first))
    if [step["step"] for step in steps] != list(range(1, 6)):
        raise Failed(f"{len(steps)} of 5 steps done (logs/rank_table.txt)")
    return f"2 processes, 5 steps, the last loss {steps[-1]['loss']:.3g}", {}


def resume(setting: Setting) -> tuple[str, dict]:
    """End a training run with SIGTERM, and resume it."""
    process = setting.start("resume", setting.training("resume", "--distribute", "false", steps=1000, save=True))
    latest = min(setting.deadline, time.monotonic() + setting.limit)
    try:
        while len(setting.records("resume")) < 4:
            if process.poll() is not None:
                raise Failed(f"training ended by itself: {last_line(setting.log('resume'))} (logs/resume.txt)")
            if time.monotonic() > latest:
                raise Failed("fewer than 4 steps in time (logs/resume.txt)")
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    except subprocess.TimeoutExpired:
        raise Failed("SIGTERM did not end the training within 60 s (logs/resume.txt)") from None
    finally:
        end(process)
    done = len(setting.records("resume"))
    if code not in (130, 143) or not glob.glob(setting.work("resume", "ckpt_0", "*.ckpt")):
        raise Failed(f"SIGTERM: exit code {code}, or no checkpoint (logs/resume.txt)")
    setting.run("resume", setting.training("resume", "--distribute", "false", "--resume", "true", steps=done + 3,
                                           save=True))
    steps = [step["step"] for step in setting.records("resume")]
    if steps != list(range(1, done + 4)):
        raise Failed(f"the steps of the resumed run are {steps} (logs/resume.txt)")
    return f"ended after {done} steps, resumed for 3", {}


def ai_cpu(setting: Setting) -> tuple[str, dict]:
    """Profile a few steps with native deformable convolutions."""
    if setting.target == "CPU":
        raise NotRun("Ascend only")
    profile, steps = setting.work("profile"), 6
    setting.run("profile", setting.training("profiled", "--distribute", "false", "--net_config.dcn_impl", "native",
                                            "--need_profiler", "true", "--profiler_path", profile, steps=steps))
    for number, path in enumerate(kernel_tables(profile)):
        setting.keep(os.path.relpath(path, setting.work()), f"kernel_details_{number}.csv")
    times = {name: round(spent / steps, 2) for name, spent in ai_cpu_times(profile).items()}
    texts = [f"{name} {spent} ms" for name, spent in times.items()]
    return f"{', '.join(texts) or 'none'} a step, of {steps} steps", {"milliseconds_per_step": times}


def kernel_tables(profile: str) -> list[str]:
    """The profiler's tables of operators, one per device. Raises Failed if there is none."""
    paths = glob.glob(os.path.join(profile, "**", "kernel_details.csv"), recursive=True)
    if not paths:
        raise Failed("the profile has no kernel_details.csv (logs/profile.txt)")
    return paths


def ai_cpu_times(profile: str) -> dict[str, float]:
    """{operator type: milliseconds} of a profile's operators that ran on the AI CPU, the costliest first."""
    times: dict[str, float] = {}
    for path in kernel_tables(profile):
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                if "CPU" in line["Accelerator Core"].upper():
                    times[line["Type"]] = times.get(line["Type"], 0.0) + float(line["Duration(us)"]) / 1000
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def evaluation(setting: Setting) -> tuple[str, dict]:
    return evaluated(setting, "evaluation", setting.work("native", "last"))


def mindir(setting: Setting) -> tuple[str, dict]:
    setting.run("mindir", ["export.py", *setting.configuration(), "--export_config.ckpt_file",
                           setting.work("native", "last"), "--export_config.export_name", setting.work("centernet")])
    return evaluated(setting, "mindir", setting.work("centernet.mindir"))


def evaluated(setting: Setting, name: str, model: str) -> tuple[str, dict]:
    """Evaluate a checkpoint or exported file."""
    setting.run(name, ["eval.py", *setting.configuration(), "--data_dir", setting.work("shapes"),
                       "--load_checkpoint_path", model, "--save_result_dir", setting.work(name)])
    with open(setting.work(name, "val", "metrics.json"), encoding="utf-8") as file:
        rate = round(json.load(file)["images_per_second"], 1)
    return f"{rate} images/s", {"images_per_second": rate}


CHECKS = {
    "versions": versions, "data": data, "parity with golden vectors": parity, "training, one device": native,
    "training, all devices": all_devices, "operators on the AI CPU": ai_cpu, "training, composite": composite,
    "resume after SIGTERM": resume, "two processes, rank table": rank_table, "evaluation": evaluation,
    "MindIR": mindir, "training, data sink": sink, "all devices, data sink": all_devices_sink,
}
