"""src/core/locks.py: one training per folder."""
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from src.core.errors import UserError
from src.core.locks import lock_file, locked, require_free
from tests.conftest import ROOT, TINY, assert_user_error, call_script, lines_with

HOLD = """
import sys
import time

from src.core.locks import locked

with locked(sys.argv[1:], "training"):
    print("locked", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that locks tmp_path/run until it is killed."""
    command = [sys.executable, "-c", HOLD, tmp_path / "run"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_the_holder_is_named_until_it_is_killed(holder, tmp_path):
    (tmp_path / "link").symlink_to("run")
    for folder in (tmp_path / "run", tmp_path / "link", os.path.relpath(tmp_path / "run")):
        for attempt in (require_free, lambda *args: locked(*args).__enter__()):
            with pytest.raises(UserError, match=rf"/run.*process {holder.pid} on .+, since 20"):
                attempt([str(tmp_path / "other"), str(folder)], "training")
    assert not (tmp_path / "other").exists() or not os.listdir(tmp_path / "other")
    with locked([str(tmp_path / "run")], "evaluation"):  # other work
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    left = lock_file(str(tmp_path / "run"), "training")
    assert os.path.exists(left)  # without a lock
    require_free([str(tmp_path / "run")], "training")
    with locked([str(tmp_path / "run")], "training"):
        assert json.load(open(left))["process"] == os.getpid()
    assert os.listdir(tmp_path / "run") == []


def test_the_folders_of_a_run_may_be_the_same(tmp_path):
    with locked([str(tmp_path), f"{tmp_path}/."], "training"):
        assert os.listdir(tmp_path) == [".centernet-training.lock"]
    with pytest.raises(ZeroDivisionError), locked([str(tmp_path)], "training"):
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_work_continues_where_locking_is_impossible(number, tmp_path, monkeypatch, console):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    require_free([str(tmp_path)], "training")
    with locked([str(tmp_path)], "training"), locked([str(tmp_path)], "training"):
        assert os.listdir(tmp_path) == []
    lines = console.readouterr().out.splitlines()
    assert len(lines) == len(lines_with(lines, "warning: ", tmp_path, os.strerror(number), "training")) == 2


def test_a_lock_file_that_is_removed_while_it_is_locked(tmp_path, monkeypatch):
    """Its holder ends between open and lock: the lock would be on a deleted file, and another process could lock a new
    one."""
    path, flock, removed = lock_file(str(tmp_path), "training"), fcntl.flock, []

    def end_holder(descriptor, operation):
        if not removed:
            removed.append(path)
            os.remove(path)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", end_holder)
    with locked([str(tmp_path)], "training"):
        monkeypatch.undo()
        with pytest.raises(UserError, match=re.escape(str(tmp_path))):
            require_free([str(tmp_path)], "training")


@pytest.mark.parametrize("args", [
    [], ["--resume", "true"], ["--save_checkpoint_path", "elsewhere"], ["--enable_save_ckpt", "false"],
])
def test_a_second_training_is_refused_before_it_changes_anything(args, tiny_records, tmp_path):
    with locked([str(tmp_path)], "training"):
        before = os.listdir(tmp_path)
        done = call_script("train.py", *TINY, "--mindrecord_dir", tiny_records, *args, cwd=tmp_path, check=False)
        assert_user_error(done, f"error: {tmp_path}: ", f"process {os.getpid()} on ")
        assert os.listdir(tmp_path) == before


@pytest.mark.slow
def test_the_launcher_refuses_before_it_moves_the_log(tiny_records, tmp_path):
    (tmp_path / "training_log.txt").write_text("of the run in progress")
    with locked([str(tmp_path)], "training"):
        launcher = os.path.join(ROOT, "scripts", "run_standalone_train_ascend.sh")
        done = subprocess.run(["bash", launcher, "0", tiny_records], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "DEVICE_TARGET": "CPU"})
    assert_user_error(done, tmp_path.name, "process ")
    assert os.listdir(tmp_path) == ["training_log.txt"]


@pytest.mark.slow
def test_other_work_in_the_same_folder_is_refused(tiny_data, least, least_checkpoint, tmp_path):
    """Two conversions, two evaluations; an evaluation during a training is allowed."""
    os.mkdir(tmp_path / "m")
    with locked([str(tmp_path), str(tmp_path / "m")], "conversion"), locked([str(tmp_path)], "val evaluation"):
        done = call_script("src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", "m", cwd=tmp_path,
                           check=False)
        assert_user_error(done, ": another conversion ")
        args = ["--device_target", "CPU", "--data_dir", tiny_data, "--load_checkpoint_path", least_checkpoint,
                "--run_dir", "."]
        assert_user_error(call_script("eval.py", *args, cwd=tmp_path, check=False), ": another val evaluation ")
    with locked([str(tmp_path)], "training"):
        call_script("eval.py", *args, cwd=tmp_path)
    assert os.listdir(tmp_path / "m") == [] and "val" in os.listdir(tmp_path)
