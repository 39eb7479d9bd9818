"""Distributed training: processes on the CPU through the public launcher, and tests without processes."""
import json
import os
import re
import shlex
import signal
import subprocess

import numpy as np
import psutil
import pytest

from src.commands import make_rank_table
from src.core.errors import UserError
from src.data import epochs
from src.launch.ports import free_port
from src.model_utils.local_adapter import (
    RANK_TABLE,
    clear_launcher_variables,
    get_device_id,
    get_rank_id,
    launcher_variable,
)
from src.runs.record import read_scores, read_training_log
from src.weights.checkpoints import read_checkpoint
from src.weights.run_folder import find_checkpoints
from tests.conftest import (
    ROOT,
    TINY,
    assert_user_error,
    call_script,
    idle_project,
    run_script,
    small_project,
    wait_until,
)

pytestmark = pytest.mark.slow
INI = """[config]
dataset_config.input_res_train = [96, 96]
dataset_config.input_res_test = [96, 96]
train_config.batch_size = 4
net_config.num_stacks = [1, 1, 1, 1]
net_config.head_conv = 16
net_config.dcn_impl = native
train_config.MultiDecay.warmup_steps = 2
"""


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("images, batch, ranks", [(20, 4, 2), (21, 4, 2), (103, 8, 3), (64, 16, 4), (1000, 16, 8)])
def test_shards_of_an_epoch(images, batch, ranks):
    """No image twice; less than one global batch left out, others in each epoch; the order changes on every rank."""
    left_out = []
    for epoch in range(4):
        order = epochs.epoch_order(images, 1, epoch, True)
        shares = [epochs.rank_share(order, batch, rank, ranks) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        read = np.concatenate(shares)
        assert len(set(read)) == len(read) > images - batch * ranks
        left_out.append(frozenset(range(images)) - frozenset(read))
        again = epochs.rank_share(epochs.epoch_order(images, 1, epoch + 1, True), batch, 0, ranks)
        assert (again != shares[0]).any()
    if images % (batch * ranks):
        assert len(set(left_out)) > 1
    # Each global batch is that of a single rank.
    alone = epochs.rank_share(order, batch * ranks, 0, 1).reshape(-1, batch * ranks)
    together = np.concatenate([share.reshape(-1, batch) for share in shares], 1)
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("steps, then, now, images, expected", [
    (5, 8, 8, 20, 5),  # 2 per epoch: epoch 2, step 1
    (2, 8, 4, 20, 5),  # one complete epoch: 5 of the shorter steps
    (3, 8, 4, 20, 7),  # and 8 images of the next: 2 more
    (1, 4, 8, 20, 1),  # 4 images read, steps of 8: the first is left out rather than read twice
    (9, 4, 8, 20, 4),  # 4 steps of the second epoch: 16 images
])
def test_steps_renumbered_for_another_number_of_ranks(steps, then, now, images, expected):
    assert epochs.convert_steps(steps, (then, images), (now, images)) == expected


@pytest.mark.parametrize("steps, then, now, expected", [
    (10, (4, 20), (4, 12), 6),  # two complete epochs: of 5 steps then, of 3 now
    (10, (4, 20), (4, 40), 20),  # and not the second one again
    (12, (4, 20), (4, 40), 24),  # two fifths of the third, of 10 steps
    (12, (4, 20), (4, 12), 8),  # of 3 steps: two fifths are more than one
    (12, (4, 20), (8, 40), 12), (3, (16, 50), (4, 10), 2), (7, (1, 7), (1, 7), 7),
])
def test_steps_renumbered_for_another_number_of_images(steps, then, now, expected):
    """At the same fraction of the same epoch."""
    assert epochs.convert_steps(steps, then, now) == expected


@pytest.mark.parametrize("environment, expected", [
    ({}, False), ({"RANK_SIZE": "1"}, False), ({"RANK_SIZE": ""}, False), ({"RANK_SIZE": "8", "RANK_ID": "0"}, True),
    ({"MS_ROLE": "MS_WORKER"}, True), ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
])
def test_every_launcher_is_recognized(environment, expected):
    assert bool(launcher_variable(environment)) == expected


@pytest.mark.parametrize("environment, names", [
    ({}, []), ({"DEVICE_ID": "3"}, []), ({"RANK_SIZE": "1", "RANK_ID": "0"}, []),
    ({"RANK_SIZE": "8", "RANK_ID": "3", "RANK_TABLE_FILE": "hccl.json", "DEVICE_ID": "3"}, list(RANK_TABLE)),
])
def test_training_alone_removes_a_launchers_variables(environment, names):
    variables = {**environment, "HOME": "x"}
    assert clear_launcher_variables(variables) == names and variables == {"HOME": "x", **({} if names else environment)}


@pytest.mark.parametrize("name, value", [("MS_ROLE", "MS_WORKER"), ("OMPI_COMM_WORLD_SIZE", "2")])
def test_a_process_of_several_does_not_train_alone(name, value):
    with pytest.raises(UserError, match=f"distribute is false .*{name}={value}"):
        clear_launcher_variables({name: value, "RANK_SIZE": "2"})


def test_the_launcher_chooses_the_device(monkeypatch):
    monkeypatch.setenv("DEVICE_ID", "5")
    assert get_device_id(2) == 2
    monkeypatch.setenv("RANK_SIZE", "8")
    assert get_device_id(2) == 5


def test_with_mpirun_the_local_rank_is_the_device(monkeypatch):
    """mpirun sets no DEVICE_ID."""
    for name, value in (("SIZE", "8"), ("RANK", "7"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    assert get_device_id(0) == 3 and get_rank_id() == 7
    monkeypatch.setenv("DEVICE_ID", "6")
    assert get_device_id(0) == 6


# ---------------------------------------------------------------- processes


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project with the network LEAST."""
    return small_project(tmp_path_factory.mktemp("least") / "p")


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """The project with a stand-in for training that does not load MindSpore."""
    return idle_project(tmp_path_factory.mktemp("idle") / "p")


def launch(project, folder, records, *args, ini=INI, table="hccl.json", wait=True):
    """Start a project's public launcher in a folder; returns its Popen, output in launcher.txt."""
    (folder / "hp.ini").write_text(ini)
    environment = {**os.environ, "DEVICE_TARGET": "CPU", "HYPER_PARAMETERS": "hp.ini", "GLOG_v": "3"}
    script = os.path.join(project, "scripts", "run_distributed_train_ascend.sh")
    command = ["bash", script, *(["--wait"] if wait else []), str(records), str(table), *map(str, args)]
    with open(folder / "launcher.txt", "w") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)


def cpu_table(path, servers=("127.0.0.1",), devices="0-1"):
    """Write a rank table of CPU processes on loopback addresses."""
    tables = []
    for index, server in enumerate(servers):
        tables.append(f"{path}.{index}")
        make_rank_table.main(["--cpu", "--devices", devices, "--server_id", server, "--output", tables[-1]])
    make_rank_table.main(["--merge", *tables, "--output", str(path)])
    return path


def all_output(folder):
    """The output of the launcher and its processes, for a failed assertion."""
    paths = [folder / "launcher.txt", *folder.glob("LOG*/training_log.txt")]
    return "\n".join(f"== {path}\n{path.read_text()[-2000:]}" for path in paths)


def processes_in(folder):
    """The processes with their current folder in a folder."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        cwd = process.info["cwd"] or ""
        if cwd.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_two_ranks_are_interrupted_and_one_resumes(tiny_records, tiny_data, project, least, tmp_path):
    """The public script with two ranks: scores, Ctrl-C, output files; then a single process resumes.

    Both ranks end after the same step, and rank 0 has saved it. Slow: three processes load MindSpore.
    """
    cpu_table(tmp_path / "hccl.json")
    (tmp_path / "LOG0").mkdir()
    (tmp_path / "LOG0" / "precious.txt").write_text("keep me")
    (tmp_path / "LOG0" / "env.log").write_text("of an earlier launch")
    scored = f"eval_epochs = 1\ndata_dir = {tiny_data}\neval_config.keep_res = false\n"
    process = launch(project, tmp_path, tiny_records, ini=f"{INI}epoch_size = 1000\n{scored}")
    logs = [tmp_path / f"LOG{rank}" / "training_log.txt" for rank in (0, 1)]
    wait_until(lambda: (logs[1].exists() and "step: 3 " in logs[1].read_text()) or process.poll() is not None, 600,
               "the third step")
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130, all_output(tmp_path)
    all_ended(tmp_path)
    assert (tmp_path / "LOG0.1" / "precious.txt").read_text() == "keep me"
    for rank, log in enumerate(path.parent for path in logs):
        environment = dict(line.split("=", 1) for line in (log / "env.log").read_text().splitlines() if "=" in line)
        expected = {"RANK_ID": str(rank), "RANK_SIZE": "2", "DEVICE_ID": str(rank), "HCCL_CONNECT_TIMEOUT": "1200",
                    "RANK_TABLE_FILE": str(tmp_path / "hccl.json"), "CENTERNET_LAUNCHED_IN": str(tmp_path)}
        assert {name: environment[name] for name in expected} == expected
        assert (log / "ms_log").is_dir()
        assert (log / "ckpt_0").exists() == (rank == 0)
    texts = [log.read_text() for log in logs]
    ended = [re.search(r"^interrupted: (\d+) of 2000 steps done", text, re.M) for text in texts]
    assert all(ended) and ended[0][1] == ended[1][1], all_output(tmp_path)
    done = int(ended[0][1])
    checkpoint = find_checkpoints(str(tmp_path / "LOG0" / "ckpt_0"))[-1]
    assert int(read_checkpoint(checkpoint)["step"].asnumpy()) == done
    assert f"--resume true --load_checkpoint_path {checkpoint}" in (tmp_path / "launcher.txt").read_text()
    # Every rank logs the mean loss of all.
    losses = [re.findall(r"\| (loss \S+) \|", text) for text in texts]
    assert len(losses[0]) == done and losses[0] == losses[1]
    # They shared the validation images; a single process gets the same scores.
    best = json.loads((tmp_path / "LOG0" / "ckpt_0" / "centernet-best.json").read_text())["scores"]["best"]["step"]
    scores = {step: values for step, _, values in read_scores(str(tmp_path / "LOG0" / "train_record.jsonl"))}
    call_script("eval.py", "--device_target", "CPU", "--net_config.dcn_impl", "native", "--data_dir", tiny_data,
                "--load_checkpoint_path", tmp_path / "LOG0" / "best", cwd=tmp_path)
    metrics = json.loads((tmp_path / "LOG0" / "val" / "metrics.json").read_text())
    assert min(scores) == 2 and scores[best] == {name: metrics[name] for name in scores[best]}

    # An epoch is two steps of 8, with four images left out, or five steps of 4; half an epoch is two steps of 4.
    start = done // 2 * 5 + done % 2 * 2
    args = ["--epoch_size", 1000, "--resume", "true", "--load_checkpoint_path", checkpoint, "--train_steps", start + 2]
    output = call_script("train.py", *TINY, *args, "--mindrecord_dir", tiny_records, cwd=tmp_path).stdout
    assert re.search(rf"steps had 8 images.* 4: resuming after step {start}$", output, re.M)
    records = read_training_log(str(tmp_path / "train_record.jsonl"))
    assert [record["step"] for record in records] == [start + 1, start + 2]


def test_two_servers_train_like_one_rank(tiny_records, tmp_path):
    """Two ranks of batch 4 on two loopback addresses, with a shared folder, have the loss of one rank of batch 8.

    With batch norm frozen. Slow: four processes load MindSpore, three of them compile.
    """
    table = cpu_table(tmp_path / "hccl.json", ("127.0.0.1", "127.0.0.2"), "0")
    launcher = os.path.join("scripts", "ascend_distributed_launcher", "get_distribute_train_cmd.py")
    port = free_port()
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "hp.ini").write_text(INI + "epoch_size = 3\n")
    servers = []
    for server, script in (("127.0.0.1", "distributed_cmd.sh"), ("127.0.0.2", "distributed_cmd_rank1.sh")):
        call_script(launcher, "--run_script_dir", os.path.join(ROOT, "tests", "frozen_train.py"),
                    "--hyper_parameter_config_dir", "hp.ini", "--mindrecord_dir", tiny_records,
                    "--hccl_config_dir", table, "--server_id", server, "--sched_port", port, "--device_target", "CPU",
                    "--keep_earlier", "--cmd_file", "distributed_cmd{rank}.sh", cwd=shared)
        output = open(shared / "launcher.txt", "a")
        servers.append(subprocess.Popen(["bash", script], cwd=shared, stdout=output, stderr=subprocess.STDOUT))
    for process in servers:
        assert process.wait(600) == 0, all_output(shared)
    args = ["--train_config.batch_size", 8, "--epoch_size", 3]
    run_script("tests/frozen_train.py", *TINY, "--mindrecord_dir", tiny_records, *args, cwd=tmp_path)
    together = read_training_log(str(shared / "LOG0" / "train_record.jsonl"))
    alone = read_training_log(str(tmp_path / "train_record.jsonl"))
    assert len(alone) == len(together) == 6
    for a, b in zip(alone, together):
        for name in ("loss", "hm_loss", "wh_loss", "off_loss", "lr", "step"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), name
    assert sorted(path.name for path in shared.glob("LOG*")) == ["LOG0", "LOG1", "LOG_scheduler"]
    assert not (shared / "LOG1" / "train_record.jsonl").exists()


def test_a_killed_rank_stops_the_others(tiny_records, project, tmp_path):
    """The others wait for it in a step; the last checkpoint is complete. Slow: three processes load MindSpore."""
    cpu_table(tmp_path / "hccl.json")
    process = launch(project, tmp_path, tiny_records, ini=f"{INI}epoch_size = 1000\nsave_checkpoint_steps = 1\n")
    folder = str(tmp_path / "LOG0" / "ckpt_0")
    wait_until(lambda: find_checkpoints(folder) or process.poll() is not None, 600, "the first checkpoint")
    assert process.poll() is None, all_output(tmp_path)
    os.kill(int((tmp_path / "launcher.txt").read_text().split("LOG1: process ")[1].split()[0]), signal.SIGKILL)
    assert process.wait(300) == 137
    assert re.search(r"LOG1 ended with 137", (tmp_path / "launcher.txt").read_text())
    all_ended(tmp_path)
    assert "global_step" in read_checkpoint(find_checkpoints(folder)[-1])


# ---------------------------------------------------------------- starting and supervising processes


def all_ended(folder):
    """Wait until no process works in a folder."""
    wait_until(lambda: not processes_in(folder), 120, "all processes to end")


def script_of(*lines):
    """The command that sources processes.sh and runs lines of bash."""
    source = f"source {shlex.quote(ROOT)}/scripts/ascend_distributed_launcher/processes.sh"
    return ["bash", "-c", "\n".join([source, *lines])]


def run_processes(folder, *lines):
    """Source processes.sh and run lines of bash in a folder."""
    return subprocess.run(script_of(*lines), cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_killed_launcher_stops_all_processes(tmp_path):
    lines = ["start LOG0 -- tail -f /dev/null", "start LOG1 -- tail -f /dev/null", "supervise"]
    process = subprocess.Popen(script_of(*lines), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    started = [process.stdout.readline().split(": ")[0] for _ in range(2)]
    working = processes_in(tmp_path)
    process.kill()
    process.communicate()
    assert started == ["LOG0", "LOG1"] and len(working) >= 3
    all_ended(tmp_path)


@pytest.mark.parametrize("number", ["INT", "TERM"])
def test_a_signal_is_passed_on_and_the_interrupts_are_reported(number, tmp_path):
    """The processes get SIGTERM in both cases, and time to finish."""
    process = """trap 'echo "interrupted: $0 of 9"; echo "more output"; exit 130' TERM; echo ready
while :; do sleep 0.1; done"""
    lines = [f"start LOG{number} -- bash -c {shlex.quote(process)} {number + 6}" for number in (0, 1)]
    ready = "until grep -q ready LOG0/training_log.txt && grep -q ready LOG1/training_log.txt; do sleep 0.1; done"
    done = run_processes(tmp_path, *lines, ready, f"kill -{number} $$", "supervise")
    assert done.returncode == 130
    assert sorted(done.stderr.splitlines()) == ["LOG0: interrupted: 6 of 9", "LOG1: interrupted: 7 of 9"]
    all_ended(tmp_path)


def test_an_interrupt_while_a_process_starts(tmp_path):
    """Before the first process has written env.log: the signal is passed on later, and the second does not start."""
    done = run_processes(
        tmp_path, "LAUNCHER=$$ TICKS=$PWD/ticks", ": > ticks",
        'sleep() { command sleep "$@"; echo >> "$TICKS"; }',  # the launcher's, while it waits
        'ticks() { wc -l < "$TICKS"; }',
        'cd() { kill -TERM "$LAUNCHER"; n=$(ticks)',
        'until [ "$(ticks)" -gt $((n + 3)) ]; do command sleep 0.01; done; builtin cd "$@"; }',
        "start LOG0 -- tail -f /dev/null", "start LOG1 -- tail -f /dev/null", "supervise")
    assert done.returncode == 130 and "LOG0: " in done.stderr, done.stderr
    assert (tmp_path / "LOG0" / "env.log").exists() and not (tmp_path / "LOG1").exists()
    all_ended(tmp_path)


def test_an_unwritable_env_log_ends_all(tmp_path):
    """For example, on a full disk: the launcher does not wait forever."""
    done = run_processes(tmp_path, 'cd() { builtin cd "$@"; ln -s /nowhere/env.log env.log; }',
                         "start LOG0 -- tail -f /dev/null", "supervise")
    assert done.returncode == 1 and "the process in LOG0 ended with 1" in done.stderr, done.stderr
    assert "env.log" in done.stderr, done.stderr
    all_ended(tmp_path)


WORK = """
import atexit, os, signal, subprocess, sys
sys.path[0] = {root!r}
from src.core import errors

def main():
    child = "import sys; sys.path[0] = sys.argv[1]; from src.core import errors; errors.run(lambda: 7)"
    subprocess.run([sys.executable, "-c", child, sys.path[0]])
    {body}

atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
errors.run(main)
"""


@pytest.mark.parametrize("body, code", [("", 0), ("return 130", 130), ("os.abort()", 134)])
def test_a_crash_after_the_work_does_not_change_the_exit_code(body, code, tmp_path):
    """MindSpore may crash when a process disconnects: the exit code is the work's; with 0 the other processes continue.

    Exit codes of other runs in a folder of the same name, and of child processes, are ignored.
    """
    (tmp_path / "work.py").write_text(WORK.format(root=ROOT, body=body))
    other = "bash -c 'tail --pid $1 -f /dev/null; echo complete > file' - $!"
    done = run_processes(tmp_path, 'start LOG0 -- "$PYTHON" "$PWD/work.py"', "echo 9 > LOG0/exit_code",
                         "echo 9 > LOG0/exit_code.1", f"start LOG1 -- {'tail -f /dev/null' if code else other}",
                         "supervise")
    assert done.returncode == code, done.stderr
    assert ("its work ended with" in done.stderr) == (code != 134)
    assert (tmp_path / "LOG1" / "file").exists() == (code == 0)
    assert [path.name for path in sorted(tmp_path.glob("LOG*/exit_code*"))] == ["exit_code", "exit_code.1"]


def test_a_rank_that_cannot_start_ends_all(tmp_path):
    """The launcher exits with the rank's code and prints the end of its log."""
    done = run_processes(tmp_path, "start LOG0 -- tail -f /dev/null",
                         "start LOG1 -- sh -c 'echo error: why >&2; exit 2'", "supervise")
    assert done.returncode == 2 and "LOG1 ended with 2" in done.stderr and "error: why" in done.stderr.splitlines()
    all_ended(tmp_path)


@pytest.mark.parametrize("args", [["LOG0/ckpt_0/centernet-1_2.ckpt"], ["LOG0/last"],
                                  ["--load_checkpoint_path", "LOG0/last"], []])
def test_a_checkpoint_is_found_in_the_backup_of_its_folder(args, tiny_records, idle, tmp_path, monkeypatch):
    """LOG0 of the earlier run becomes LOG0.1, and the checkpoint's path changes with it."""
    cpu_table(tmp_path / "hccl.json", devices="0")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "centernet-1_2.ckpt").write_text("the checkpoint")
    (tmp_path / "LOG0").mkdir()
    (tmp_path / "LOG0" / "ckpt_0").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine.yaml").write_text("" if args else f"load_checkpoint_path: {tmp_path}/LOG0/last\n")
    monkeypatch.setenv("CONFIG_PATH", str(tmp_path / "mine.yaml"))
    process = launch(idle, tmp_path, tiny_records, *args, ini=f"{INI}train_steps = 1\n")
    assert process.wait(300) == 0, all_output(tmp_path)
    read = f"from {tmp_path}/LOG0.1/ckpt_0/centernet-1_2.ckpt: the checkpoint"
    assert read in (tmp_path / "LOG0" / "training_log.txt").read_text().splitlines()


def generate(folder, records, *args, **options):
    """Run get_distribute_train_cmd.py in a folder."""
    cpu_table(folder / "hccl.json", devices="0")
    (folder / "hp.ini").write_text(INI)
    return call_script("scripts/ascend_distributed_launcher/get_distribute_train_cmd.py", "--mindrecord_dir", records,
                       "--hccl_config_dir", "hccl.json", "--hyper_parameter_config_dir", "hp.ini",
                       "--device_target", "CPU", *args, cwd=folder, **options)


def test_a_launch_leaves_the_open_script_of_an_earlier_one(tiny_records, tmp_path):
    """A shell reads its script while running it: the new script is a new file. Links are followed, pipes written to."""
    earlier_script = "# written by get_distribute_train_cmd.py\n"
    (tmp_path / "script").write_text(earlier_script)
    (tmp_path / "distributed_cmd.sh").symlink_to("script")
    with open(tmp_path / "script") as earlier:
        generate(tmp_path, tiny_records)
        assert earlier.read() == earlier_script
    assert "supervise" in (tmp_path / "script").read_text() and (tmp_path / "distributed_cmd.sh").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    generate(tmp_path, tiny_records, "--cmd_file", "pipe")
    assert reader.communicate(timeout=60)[0].endswith("supervise\n")


def test_the_processes_have_the_given_interpreter(tiny_records, tmp_path):
    generate(tmp_path, tiny_records, "--python", "/opt/other python")
    line, = re.findall(r"^start LOG0 .*$", (tmp_path / "distributed_cmd.sh").read_text(), re.M)
    assert "/opt/other python" in shlex.split(line)


def test_nothing_is_renamed_before_the_script_is_written(tiny_records, tmp_path):
    (tmp_path / "LOG0").mkdir()
    done = generate(tmp_path, tiny_records, "--keep_earlier", "--cmd_file", "nowhere/x", check=False)
    assert_user_error(done, "nowhere/x")
    done = generate(tmp_path, tiny_records, "--", "--resume", "true", "--save_checkpoint_path", tmp_path / "LOG0",
                    check=False)
    assert_user_error(done, "resume", "LOG<device>/", "LOG0/last", "run_dir")
    assert (tmp_path / "LOG0").is_dir() and not (tmp_path / "LOG0.1").exists()
    (tmp_path / "LOG0" / "logarithms.csv").write_text("mine")
    (tmp_path / "distributed_cmd.sh").write_text("echo mine")
    assert_user_error(generate(tmp_path, tiny_records, "--keep_earlier", check=False), " LOG0 ")
    (tmp_path / "LOG0").rename(tmp_path / "logs")
    assert_user_error(generate(tmp_path, tiny_records, check=False), "distributed_cmd.sh ")
    assert (tmp_path / "distributed_cmd.sh").read_text() == "echo mine"


def test_the_launcher_in_the_background_and_its_mistakes(tiny_records, idle, tmp_path):
    cpu_table(tmp_path / "hccl.json")
    launch(idle, tmp_path, "/nowhere", wait=False).wait(300)
    text = (tmp_path / "launcher.txt").read_text()
    assert "MINDRECORD_DATASET_PATH" in text and ": /nowhere\n" in text
    assert "scripts/convert_dataset_to_mindrecord.sh" in text
    assert launch(idle, tmp_path, tiny_records, table="/nowhere.json").wait(300) == 2
    assert launch(idle, tmp_path, tiny_records, "/nowhere.ckpt").wait(300) == 2
    assert launch(idle, tmp_path, tiny_records, ini="[config]\ndevice_num = 2\n").wait(300) == 2
    assert not list(tmp_path.glob("LOG*"))
    # In the background it returns immediately, while the processes train; a signal ends them.
    assert launch(idle, tmp_path, tiny_records, wait=False).wait(300) == 0
    number = int((tmp_path / "launcher.txt").read_text().split("started process ")[1].split(";")[0])
    log = tmp_path / "LOG1" / "training_log.txt"
    wait_until(lambda: log.exists() and "rank 1 of 2: 20 images, 8 a step, " in log.read_text(), 120, "rank 1 to train")
    os.kill(number, signal.SIGTERM)
    all_ended(tmp_path)


def test_a_launched_process_joins_the_others(monkeypatch):
    """Even with distribute false; here there are none."""
    from mindspore import communication

    from src.model_utils.device_adapter import init_ranks

    def init():
        raise RuntimeError("no scheduler")

    monkeypatch.setattr(communication, "init", init)
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    with pytest.raises(UserError, match="MS_ROLE=MS_WORKER .*--distribute false.*no scheduler"):
        init_ranks(False, 1)


def test_a_process_waiting_for_the_others_ends_on_a_signal(monkeypatch, interrupts):
    """Python's handlers cannot run during the wait; they are restored afterwards."""
    from mindspore import communication

    from src.model_utils import device_adapter

    during = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    monkeypatch.setattr(communication, "init", lambda: during.extend(map(signal.getsignal, numbers)))
    monkeypatch.setattr(communication, "get_rank", lambda: 1)
    monkeypatch.setattr(communication, "get_group_size", lambda: 2)
    monkeypatch.setattr(device_adapter.ms, "set_auto_parallel_context", lambda **settings: None)
    before = [signal.getsignal(number) for number in numbers]
    assert device_adapter.init_ranks(True, 2) == (1, 2)
    assert during == [signal.SIG_DFL] * 2 and [signal.getsignal(number) for number in numbers] == before != during
