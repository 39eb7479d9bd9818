"""src/core/locks.py: one training in a folder."""
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
from tests.conftest import ROOT, TINY, assert_user_error, call_script

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
    """A process that works in tmp_path/run until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_told_who_is_there_until_that_is_killed(holder, tmp_path):
    (tmp_path / "link").symlink_to("run")
    for folder in (tmp_path / "run", tmp_path / "link", os.path.relpath(tmp_path / "run")):
        for attempt in (require_free, lambda *words: locked(*words).__enter__()):
            with pytest.raises(UserError, match=rf"/run.*process {holder.pid} on .+, since 20"):
                attempt([str(tmp_path / "other"), str(folder)], "training")
    assert not (tmp_path / "other").exists() or not os.listdir(tmp_path / "other")
    with locked([str(tmp_path / "run")], "evaluation"):  # other work
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    left = lock_file(str(tmp_path / "run"), "training")
    assert os.path.exists(left)  # which holds nothing
    require_free([str(tmp_path / "run")], "training")
    with locked([str(tmp_path / "run")], "training"):
        assert json.load(open(left))["process"] == os.getpid()
    assert os.listdir(tmp_path / "run") == []


def test_the_folders_of_one_run_may_be_one(tmp_path):
    with locked([str(tmp_path), f"{tmp_path}/."], "training"):
        assert os.listdir(tmp_path) == [".centernet-training.lock"]
    with pytest.raises(ZeroDivisionError), locked([str(tmp_path)], "training"):
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_where_nothing_can_be_locked_the_work_goes_on(number, tmp_path, monkeypatch, console):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    require_free([str(tmp_path)], "training")
    with locked([str(tmp_path)], "training"), locked([str(tmp_path)], "training"):
        assert os.listdir(tmp_path) == []
    warning = f"warning: {tmp_path} cannot be locked ({os.strerror(number)}): nothing keeps a second training from it\n"
    assert console.readouterr().out == 2 * warning


def test_a_lock_whose_file_was_removed_as_it_was_taken(tmp_path, monkeypatch):
    """Between opening and locking it, its holder ended: it is another file then, and the next one's lock would be on a third."""
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


@pytest.mark.parametrize("words", [[], ["--resume", "true"], ["--save_checkpoint_path", "elsewhere"], ["--enable_save_ckpt", "false"]])
def test_a_second_training_is_refused_before_it_touches_anything(words, tiny_records, tmp_path):
    with locked([str(tmp_path)], "training"):
        before = os.listdir(tmp_path)
        done = call_script("train.py", *TINY, "--mindrecord_dir", tiny_records, *words, cwd=tmp_path, check=False)
        assert_user_error(done, f"error: {tmp_path}: ", f"process {os.getpid()} on ")
        assert os.listdir(tmp_path) == before


@pytest.mark.slow
def test_the_launcher_says_so_before_it_moves_the_log(tiny_records, tmp_path):
    (tmp_path / "training_log.txt").write_text("of the run that goes on")
    with locked([str(tmp_path)], "training"):
        launcher = os.path.join(ROOT, "scripts", "run_standalone_train_ascend.sh")
        done = subprocess.run(["bash", launcher, "0", tiny_records], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "DEVICE_TARGET": "CPU"})
    assert_user_error(done, tmp_path.name, "process ")
    assert os.listdir(tmp_path) == ["training_log.txt"]


@pytest.mark.slow
def test_other_work_in_the_same_folder_is_refused(tiny_data, least, least_checkpoint, tmp_path):
    """Two conversions, two evaluations; an evaluation beside a training goes on."""
    os.mkdir(tmp_path / "m")
    with locked([str(tmp_path), str(tmp_path / "m")], "conversion"), locked([str(tmp_path)], "val evaluation"):
        done = call_script("src/dataset.py", "--coco_data_dir", tiny_data, "--mindrecord_dir", "m", cwd=tmp_path, check=False)
        assert_user_error(done, ": another conversion ")
        words = ["--device_target", "CPU", "--data_dir", tiny_data, "--load_checkpoint_path", least_checkpoint]
        assert_user_error(call_script("eval.py", *words, cwd=tmp_path, check=False), ": another val evaluation ")
    with locked([str(tmp_path)], "training"):
        call_script("eval.py", *words, cwd=tmp_path)
    assert os.listdir(tmp_path / "m") == [] and "val" in os.listdir(tmp_path)
