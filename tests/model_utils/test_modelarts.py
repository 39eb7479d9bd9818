"""src/model_utils/moxing_adapter.py, with a stand-in for moxing that copies local folders."""
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types

import pytest

from src.commands import make_rank_table
from src.core.errors import UserError
from src.data.manifest import read_manifest
from src.model_utils import moxing_adapter
from src.model_utils.config import get_config
from src.model_utils.moxing_adapter import Barrier, modelarts
from src.runs.record import read_scores, read_training_log
from tests.conftest import ROOT, TINY, assert_user_error, call_script, idle_project, train_least

MOXING = """
import os, shutil

class file:
    @staticmethod
    def copy_parallel(source, target):
        with open(os.environ["MOXING_LOG"], "a") as log:
            log.write(f"{source} -> {target}\\n")
        shutil.copytree(source, target, dirs_exist_ok=True)
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder as object storage. This process and its children have moxing, and temporary files in tmp_path/tmp."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "moxing.py").write_text(MOXING)
    moxing = types.ModuleType("moxing")
    exec(MOXING, vars(moxing))
    monkeypatch.setitem(sys.modules, "moxing", moxing)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("MOXING_LOG", str(tmp_path / "copies.txt"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def job_options(bucket, data):
    """The options of a ModelArts job."""
    return ["--enable_modelarts", "true", "--data_url", data, "--train_url", bucket / "results",
            "--modelarts_local_path", bucket.parent / "cache"]


def test_a_job_from_bucket_to_bucket(bucket, tiny_records, tiny_data, least_run, least, light_steps, tmp_path):
    """Training from a checkpoint with evaluation, then evaluation and export, all with paths in the bucket."""
    checkpoint = ["--checkpoint_url", least_run / "ckpt_0", "--load_checkpoint_path", "last"]
    shutil.copytree(tiny_records, bucket / "data")
    shutil.copytree(tiny_data, bucket / "data" / "shapes")
    options = ["--train_steps", 2, "--data_dir", "shapes", "--eval_epochs", 1]
    done = train_least(*job_options(bucket, bucket / "data"), *checkpoint, *options, cwd=tmp_path)
    assert "centernet-2_7.ckpt" in done.stdout
    assert len(read_scores(str(bucket / "results" / "train_record.jsonl"))) == 1
    names = {path.name for path in (bucket / "results").rglob("*")}
    assert {"ckpt_0", "centernet-1_2.ckpt", "centernet-1_2.json", "train_record.jsonl", "loss.png"} <= names
    assert len((tmp_path / "copies.txt").read_text().splitlines()) == 3
    assert list((tmp_path / "tmp").glob("modelarts-*")) == []
    call_script("eval.py", *TINY, *job_options(bucket, tiny_data), *checkpoint, cwd=tmp_path)
    assert (bucket / "results" / "val" / "metrics.json").exists()
    call_script("export.py", *TINY, "--enable_modelarts", "true", "--train_url", bucket / "results",
                "--modelarts_local_path", tmp_path / "cache", "--checkpoint_url", least_run / "ckpt_0",
                "--export_config.ckpt_file", "centernet-2_7.ckpt", "--export_config.input_res", "[64, 64]",
                cwd=tmp_path)
    assert (bucket / "results" / "centernet.mindir").exists()


def test_a_conversion_from_bucket_to_bucket(bucket, tiny_data, tmp_path):
    """Download the data set and upload its MindRecord files, whatever mindrecord_dir is, without partial files."""
    job = [*job_options(bucket, tiny_data), "--mindrecord_dir", "/nowhere/records"]
    call_script("src/dataset.py", *job, cwd=tmp_path)
    assert read_manifest(get_config("", ["--mindrecord_dir", str(bucket / "results")]))["images"] == 20
    assert (tmp_path / "copies.txt").read_text().splitlines() == [
        f"{tiny_data} -> {tmp_path}/cache/data", f"{tmp_path}/cache/output -> {bucket}/results"]
    assert not list((bucket / "results").glob(".*"))


def test_the_job_sets_the_device(bucket, monkeypatch, tmp_path):
    config = get_config("", ["--enable_modelarts", "true", "--modelarts_local_path", str(tmp_path / "cache"),
                             "--device_id", "1"])
    for environment, expected in (("", 1), ("3", 3)):
        monkeypatch.setenv("DEVICE_ID", environment)
        with modelarts(config, "data_dir"):
            assert config.device_id == expected


def test_a_job_waits_as_long_as_configured(bucket, tmp_path, monkeypatch):
    timeouts = []
    monkeypatch.setattr(moxing_adapter, "Barrier", lambda folder, timeout: timeouts.append(timeout) or
                        Barrier(folder, timeout))
    config = get_config("", ["--enable_modelarts", "true", "--modelarts_local_path", str(tmp_path / "cache"),
                             "--modelarts_timeout", "7"])
    with modelarts(config, "data_dir"):
        assert timeouts == [7]


@pytest.mark.slow
def test_a_job_of_several_processes_with_a_scheduler(bucket, tiny_records, tmp_path):
    """The scheduler of MindSpore's own cluster copies nothing and is not waited for; rank 0's outputs are uploaded."""
    make_rank_table.main(["--cpu", "--devices", "0-1", "--server_id", "127.0.0.1",
                          "--output", str(tmp_path / "hccl.json")])
    (tmp_path / "hp.ini").write_text("[config]\n")
    options = [*job_options(bucket, tiny_records), "--train_steps", 1]
    launcher = os.path.join(idle_project(tmp_path / "p"), "scripts", "run_distributed_train_ascend.sh")
    command = ["bash", launcher, "--wait", str(tiny_records), "hccl.json", *map(str, options)]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=300,
                          env={**os.environ, "DEVICE_TARGET": "CPU", "HYPER_PARAMETERS": "hp.ini"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (bucket / "results" / "train_record.jsonl").exists()
    assert list((bucket / "results").rglob("centernet-1_1.ckpt"))
    assert len((tmp_path / "copies.txt").read_text().splitlines()) == 2  # one download and one upload for all ranks
    assert list((tmp_path / "tmp").glob("modelarts-*")) == []


@pytest.mark.slow
def test_the_outputs_of_a_failed_training_are_saved(bucket, tiny_records, tmp_path):
    options = ["--train_config.MultiDecay.learning_rate", 1e25, "--train_config.MultiDecay.warmup_steps", 0,
               "--save_checkpoint_steps", 1]
    done = train_least(*options, *job_options(bucket, tiny_records), cwd=tmp_path, check=False)
    assert_user_error(done, "the loss is ")
    assert list((bucket / "results" / "ckpt_0").glob("*.ckpt"))
    assert read_training_log(str(bucket / "results" / "train_record.jsonl"))


def test_data_that_cannot_be_copied(bucket, tmp_path):
    done = call_script("train.py", *TINY, *job_options(bucket, "/nowhere"), cwd=tmp_path, check=False)
    assert_user_error(done, "copying /nowhere to", "failed")


def test_without_moxing(tmp_path, tiny_records):
    job = ["--enable_modelarts", "true", "--data_url", tiny_records, "--modelarts_local_path", tmp_path]
    assert_user_error(call_script("train.py", *TINY, *job, cwd=tmp_path, check=False), "needs moxing")


PROCESS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from src.model_utils.moxing_adapter import Barrier

barrier = Barrier(sys.argv[2], 60)
def action():
    time.sleep(0.5)
    print("copied")
barrier.once("fetch", action)
print("ready", flush=True)
sys.stdin.readline()
print("last" if barrier.leave() else "not last")
"""


@pytest.mark.slow
def test_one_of_several_processes_copies(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, ROOT, str(tmp_path / "barrier")], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        line = process.stdout.readline()
        process.copied = line == "copied\n"
        assert line == "ready\n" or process.stdout.readline() == "ready\n"
    assert sum(process.copied for process in processes) == 1
    last = []
    for process in processes:
        last.append(process.communicate("\n", 60)[0])
    assert last == ["not last\n", "not last\n", "last\n"]
    assert not (tmp_path / "barrier").exists()


@pytest.mark.slow
def test_processes_that_join_and_leave_at_the_same_time(tmp_path):
    """Each does so repeatedly: no folder is removed while another process has joined."""
    program = f"""import sys; sys.path[0] = {ROOT!r}
from src.model_utils.moxing_adapter import Barrier
for _ in range(300):
    Barrier({str(tmp_path / "barrier")!r}, 60).leave()
"""
    processes = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert not (tmp_path / "barrier").exists()


def test_waiting_times_out_and_a_failure_is_passed_on(tmp_path):
    (tmp_path / "barrier" / "fetch").mkdir(parents=True)
    (tmp_path / "barrier" / "member-1").touch()  # a live process that never finishes
    start = time.monotonic()
    with pytest.raises(UserError, match="waited 0.3 s"):
        Barrier(str(tmp_path / "barrier"), 0.3).once("fetch", None)
    assert time.monotonic() - start < 30
    (tmp_path / "barrier" / "fetch.failed").touch()
    with pytest.raises(UserError, match="failed"):
        Barrier(str(tmp_path / "barrier"), 0.3).once("fetch", None)


def test_waiting_for_the_lock_times_out(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=f"0.3 s .*{tmp_path.name}"):
        Barrier(str(tmp_path / "barrier"), 0.3)
    os.close(folder)
    assert Barrier(str(tmp_path / "barrier"), 0.3).leave()


def test_the_folder_of_a_killed_run_is_not_reused(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "barrier" / "fetch").mkdir(parents=True)
    (tmp_path / "barrier" / "fetch.done").touch()
    (tmp_path / "barrier" / f"member-{dead.pid}").touch()
    calls = []
    barrier = Barrier(str(tmp_path / "barrier"), 1)
    barrier.once("fetch", lambda: calls.append(1))
    assert calls == [1] and barrier.leave()
    assert os.listdir(tmp_path) == []
