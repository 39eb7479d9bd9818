"""The checks of check_ascend.py: functions of a Setting that return (note for the table, numbers for the report)."""
import csv
import glob
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

from ..core.project import ROOT
from ..core.version import version
from .device_check import Failed, NotRun, Setting, end, free_port

PUBLISHED = 590  # images/s, the model zoo's, on eight Ascend 910 at 512x512
# Files with CANN's and the driver's version, in the places where their installers put them.
VERSION_FILES = {
    "CANN": ("{ASCEND_HOME_PATH}/compiler/version.info", "{ASCEND_TOOLKIT_HOME}/version.cfg",
             "/usr/local/Ascend/ascend-toolkit/latest/version.cfg", "/usr/local/Ascend/latest/version.cfg"),
    "driver": ("/usr/local/Ascend/driver/version.info",),
}
DEVICE = """
import json, mindspore as ms
from src.model_utils.device_adapter import set_device
target = set_device({target!r}, 0)
found = {{"MindSpore": ms.__version__, "device": "CPU"}}
if target == "Ascend":
    properties = ms.hal.get_device_properties(0, target)
    found.update(device=ms.hal.get_device_name(0, target), total_memory=int(properties.total_memory))
print(json.dumps(found))
"""


def versions(setting: Setting) -> tuple[str, dict]:
    setting.run("versions", [sys.executable, "-c", DEVICE.format(target=setting.target)], {"PYTHONPATH": ROOT})
    found = json.loads(setting.log("versions").splitlines()[-1])
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
    """The version that the first existing file of several states, or "not found"."""
    for pattern in patterns:
        path = os.path.expandvars(pattern.replace("{", "${"))
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file if "ersion" in line]
            return lines[0].rpartition("=")[2].strip(" []") if lines else path
    return "not found"


def data(setting: Setting) -> tuple[str, dict]:
    train, val, size = setting.images
    setting.run("data", ["tools/make_shapes_dataset.py", "--output", setting.path("shapes"), "--train", str(train),
                         "--val", str(val), "--size", str(size), "--smallest", str(size * 3 // 8),
                         "--largest", str(size * 9 // 16)])
    setting.run("data", ["src/dataset.py", *setting.configuration(), "--coco_data_dir", setting.path("shapes"),
                         "--mindrecord_dir", setting.path("mindrecord")])
    return f"{train} + {val} generated images of {size}x{size}", {}


def parity(setting: Setting) -> tuple[str, dict]:
    output = setting.path("parity.json")
    try:
        setting.run("parity", ["tests/device_parity.py", "--device_target", setting.target, "--device_id",
                               str(setting.devices[0]), "--json", output])
        failure = ""
    except Failed as error:
        if not os.path.exists(output):
            raise
        failure = str(error)
    with open(output, encoding="utf-8") as file:
        rows = json.load(file)
    wrong = [row["component"] for row in rows if not row["passed"]]
    if wrong or failure:
        raise Failed(f"{len(wrong)} of {len(rows)} differ: {', '.join(wrong)} (logs/parity.txt)")
    worst = max(rows, key=lambda row: row["relative"])
    return f"{len(rows)} comparisons, the largest {worst['relative']:.1e}: {worst['component']}", {"rows": rows}


def native(setting: Setting) -> tuple[str, dict]:
    return speed_alone(setting, "native", "--net_config.dcn_impl", "native")


def composite(setting: Setting) -> tuple[str, dict]:
    return speed_alone(setting, "composite", "--net_config.dcn_impl", "composite")


def sink(setting: Setting) -> tuple[str, dict]:
    if setting.target == "CPU":
        raise NotRun("Ascend only")
    return speed_alone(setting, "sink", "--enable_data_sink", "true", "--data_sink_steps", 10)


def speed_alone(setting: Setting, name: str, *options: object) -> tuple[str, dict]:
    """Train on one device."""
    text = setting.run(name, setting.training(name, "--device_id", setting.devices[0], "--distribute", "false",
                                              *options))
    memory = next((line.partition("peak memory: ")[2] for line in text.splitlines() if "peak memory: " in line), "")
    rate = setting.speed(name)
    setting.found[name] = rate
    if name == "native" and (used := re.search(r"([\d.]+) GB of the device", memory)):
        setting.found["device_memory"] = float(used[1])
    return f"{rate} images/s; peak memory {memory}", {"images_per_second": rate, "peak_memory": memory}


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
    command = [os.path.join(programs, "msrun"), f"--worker_num={count}",
               f"--local_worker_num={count}", f"--master_port={free_port()}", "--join=True",
               f"--log_dir={setting.path('logs', name)}", os.path.join(ROOT, script), *arguments]
    environment = {"PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])}  # msrun calls "python"
    if setting.target == "Ascend":
        environment["ASCEND_RT_VISIBLE_DEVICES"] = ",".join(map(str, setting.devices))
    setting.run(name, command, environment)
    rate = setting.speed(name)
    setting.found[name] = rate
    single = setting.found.get("native")
    scaling = f", {rate / single / count:.0%} of {count} times one" if single else ""
    published = f" (published for eight 910: {PUBLISHED})" if setting.target == "Ascend" else ""
    return f"{rate} images/s on {count} devices{scaling}{published}", {"images_per_second": rate}


def rank_table(setting: Setting) -> tuple[str, dict]:
    """Two processes through the project's launcher and a rank table."""
    if len(setting.devices) == 1:
        raise NotRun("one device")
    folder = setting.path("rank_table")
    os.makedirs(folder)
    ids = ",".join(map(str, setting.devices[:2]))
    here = ["--cpu", "--server_id", "127.0.0.1"] if setting.target == "CPU" else []
    setting.run("rank_table", ["tools/make_rank_table.py", "--devices", ids, *here, "--output", "hccl.json"],
                cwd=folder)
    setting.run("rank_table", ["bash", os.path.join(ROOT, "scripts/run_distributed_train_ascend.sh"), "--wait",
                               setting.path("mindrecord"), "hccl.json", "--train_steps", "5"],
                {"DEVICE_TARGET": setting.target, "CONFIG_PATH": setting.path("check.yaml"),
                 "MS_SCHED_PORT": str(free_port())}, cwd=folder)
    steps = setting.records(os.path.join("rank_table", f"LOG{setting.devices[0]}"))
    if [step["step"] for step in steps] != list(range(1, 6)):
        raise Failed(f"{len(steps)} of 5 steps done (logs/rank_table.txt)")
    return f"2 processes, 5 steps, the last loss {steps[-1]['loss']:.3g}", {}


def resume(setting: Setting) -> tuple[str, dict]:
    """End a training run with SIGTERM, and resume it."""
    options = ["--device_id", setting.devices[0], "--distribute", "false"]
    process = setting.start("resume", setting.training("resume", *options, steps=1000))
    try:
        while len(setting.records("resume")) < 4:
            if process.poll() is not None or time.monotonic() > setting.deadline:
                raise Failed("training ended by itself, or took too long (logs/resume.txt)")
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        code = process.wait(max(1.0, setting.deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise Failed("SIGTERM did not end the training (logs/resume.txt)") from None
    finally:
        end(process)
    done = len(setting.records("resume"))
    if code not in (130, 143) or not glob.glob(setting.path("resume", "ckpt_0", "*.ckpt")):
        raise Failed(f"SIGTERM: exit code {code}, or no checkpoint (logs/resume.txt)")
    setting.run("resume", setting.training("resume", *options, "--resume", "true", steps=done + 3))
    steps = [step["step"] for step in setting.records("resume")]
    if steps != list(range(1, done + 4)):
        raise Failed(f"the steps of the resumed run are {steps} (logs/resume.txt)")
    return f"ended after {done} steps, resumed for 3", {}


def ai_cpu(setting: Setting) -> tuple[str, dict]:
    """Profile a few steps with native deformable convolutions."""
    profile = setting.path("profile")
    setting.run("profile", setting.training("profiled", "--device_id", setting.devices[0], "--distribute", "false",
                                            "--net_config.dcn_impl", "native", "--need_profiler", "true",
                                            "--profiler_path", profile, steps=6))
    if setting.target == "CPU":
        return "profiled; a CPU has no AI CPU", {}
    times = ai_cpu_times(profile)
    setting.found["ai_cpu"] = times
    return ", ".join(f"{name} {spent:.1f} ms" for name, spent in times.items()) or "none", {"milliseconds": times}


def ai_cpu_times(profile: str) -> dict[str, float]:
    """{operator type: milliseconds} of a profile's operators that ran on the AI CPU, the costliest first."""
    times: dict[str, float] = {}
    files = glob.glob(os.path.join(profile, "**", "kernel_details.csv"), recursive=True)
    if not files:
        raise Failed("the profile has no kernel_details.csv (logs/profile.txt)")
    for path in files:
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                if "CPU" in line["Accelerator Core"].upper():
                    times[line["Type"]] = times.get(line["Type"], 0.0) + float(line["Duration(us)"]) / 1000
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def evaluation(setting: Setting) -> tuple[str, dict]:
    return evaluated(setting, "evaluation", setting.path("native", "last"))


def mindir(setting: Setting) -> tuple[str, dict]:
    setting.run("mindir", ["export.py", *setting.configuration(), "--export_config.ckpt_file",
                           setting.path("native", "last"), "--export_config.export_name", setting.path("centernet")])
    return evaluated(setting, "mindir", setting.path("centernet.mindir"))


def evaluated(setting: Setting, name: str, model: str) -> tuple[str, dict]:
    """Evaluate a checkpoint or exported file."""
    setting.run(name, ["eval.py", *setting.configuration(), "--data_dir", setting.path("shapes"),
                       "--load_checkpoint_path", model, "--device_id", str(setting.devices[0]),
                       "--save_result_dir", setting.path(name)])
    with open(setting.path(name, "val", "metrics.json"), encoding="utf-8") as file:
        rate = round(json.load(file)["images_per_second"], 1)
    return f"{rate} images/s", {"images_per_second": rate}


CHECKS = {
    "versions": versions, "data": data, "parity with golden vectors": parity, "training, one device": native,
    "training, all devices": all_devices, "operators on the AI CPU": ai_cpu, "training, composite": composite,
    "resume after SIGTERM": resume, "two processes, rank table": rank_table, "evaluation": evaluation,
    "MindIR": mindir, "training, data sink": sink, "all devices, data sink": all_devices_sink,
}


def advice(setting: Setting) -> list[str]:
    """What the results recommend for this machine."""
    found, lines = setting.found, []
    if "native" in found and "composite" in found:
        faster = max(("native", "composite"), key=found.__getitem__)
        lines.append(f"--net_config.dcn_impl {faster}: native {found['native']}, composite {found['composite']} "
                     "images/s")
    for alone, sunk in (("native", "sink"), ("all_devices", "all_devices_sink")):
        if alone in found and sunk in found:
            lines.append(f"--enable_data_sink {str(found[sunk] > 1.03 * found[alone]).lower()}: {found[alone]} "
                         f"images/s without, {found[sunk]} with it")
    used, total = found.get("device_memory"), found.get("total_memory")
    if used and total:
        batch = setting.config["train_config"]["batch_size"]
        lines.append(f"--train_config.batch_size up to {int(batch * 0.9 * total / 2**30 / used)}: {batch} take {used} "
                     f"of {total / 2**30:.0f} GB, if all of it grows with the batch")
    return lines
