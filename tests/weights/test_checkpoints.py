"""Checkpoint files, and the checkpoint folder of a run."""
import errno
import json
import os
import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore.train import checkpoint_pb2

from src.core.errors import UserError
from src.weights import checkpoints
from src.weights.checkpoints import CheckpointFolder, newest_checkpoint, read_checkpoint, read_parameters, save_weights
from src.weights.run_folder import find_checkpoints, resolve_checkpoint_alias
from tests.conftest import ROOT, assert_user_error


def save(folder, step, epoch=0, **options):
    """Save a checkpoint with one weight, whose value is the step."""
    return folder.save({"w": Parameter(Tensor([float(step)]), name="w")}, epoch, step, {"images_per_step": 4},
                       **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_folder_keeps_the_newest(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 2, {"classes": []})
    for step in (5, 10, 100):
        save(folder, step)
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["centernet-1_10.ckpt", "centernet-1_10.json", "centernet-1_100.ckpt", "centernet-1_100.json"]
    assert read_checkpoint(str(tmp_path / "c" / "centernet-1_100.ckpt"))["w"].asnumpy() == [100]
    CheckpointFolder(str(tmp_path / "c"), 2, {})
    assert len(list((tmp_path / "c.1").iterdir())) == 4


def test_resuming_skips_a_damaged_newest_checkpoint(tmp_path, console):
    folder = CheckpointFolder(str(tmp_path / "c"), 5, {})
    paths = [save(folder, step) for step in (5, 10)]
    assert newest_checkpoint(str(tmp_path / "c")) == paths[1]
    with open(paths[1], "r+b") as file:
        file.truncate(30)
    assert newest_checkpoint(str(tmp_path / "c")) == paths[0]
    assert f"{paths[1]}: " in console.readouterr().out
    os.remove(paths[0])
    with pytest.raises(UserError, match=f"{tmp_path / 'c'}"):
        newest_checkpoint(str(tmp_path / "c"))


def test_resuming_removes_the_remains_of_a_killed_save(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 5, {})
    first = save(folder, 5)
    for name in ("centernet-1_10.json", "notes.json", "centernet-1_5.partial.ckpt"):
        (tmp_path / "c" / name).write_text("")
    for ending in ("json", "ckpt"):
        (tmp_path / "c" / f".centernet-1_10.{ending}.x8_f.partial").mkdir()
    (tmp_path / "c" / ".centernet-1_10.ckpt.x8_f.partial" / "centernet-1_10.ckpt.tmp").write_text("")
    CheckpointFolder(str(tmp_path / "c"), 5, {}, resumed=first)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "centernet-1_5.ckpt", "centernet-1_5.json", "centernet-1_5.partial.ckpt", "notes.json"]


def test_a_flipped_bit_in_the_weights_is_detected(tmp_path):
    path = tmp_path / "w.ckpt"
    save_weights(str(path), {"w": np.ones(1000, np.float32)})
    data = bytearray(path.read_bytes())
    assert read_checkpoint(str(path))["w"].asnumpy().sum() == 1000
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="w.ckpt: .*crc"):
        read_checkpoint(str(path))


def test_checkpoints_without_a_checksum_load_quietly(tmp_path, capfd):
    ms.save_checkpoint([{"name": "w", "data": Tensor(np.ones(9, np.float32))}], str(tmp_path / "w.ckpt"))
    assert read_checkpoint(str(tmp_path / "w.ckpt"))["w"].size == 9
    assert capfd.readouterr() == ("", "")
    (tmp_path / "short.ckpt").write_bytes(b"crc")
    with pytest.raises(UserError, match="short.ckpt"):
        read_checkpoint(str(tmp_path / "short.ckpt"))


DISK_FULL = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import mindspore as ms, numpy as np
from src.core import errors
from src.weights.checkpoints import CheckpointFolder

def main():
    folder = CheckpointFolder(sys.argv[2], 1, {"classes": []})
    weight = {"w": ms.Parameter(ms.Tensor(np.zeros(10000, np.float32)), name="w")}
    folder.save(weight, 0, 1, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # a file may not grow further, as on a full disk
    folder.save(weight, 0, 2, {})

errors.run(main)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", DISK_FULL, ROOT, str(tmp_path / "c")], capture_output=True, text=True)
    assert_user_error(done, "centernet-1_2.ckpt ", "centernet-1_1.ckpt")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["centernet-1_1.ckpt", "centernet-1_1.json"]
    assert read_checkpoint(str(tmp_path / "c" / "centernet-1_1.ckpt"))["w"].size == 10000


def test_the_checkpoint_written_last_is_the_newest(tmp_path):
    """Renumbered steps have lower numbers: 12 steps of 2 images, then 3 to 9 of 4."""
    folder = CheckpointFolder(str(tmp_path / "c"), 1, {})
    last = save(folder, 12, epoch=1)
    resumed = CheckpointFolder(str(tmp_path / "c"), 1, {}, resumed=last)
    for step in (8, 9):
        path = save(resumed, step, epoch=2)
        assert find_checkpoints(str(tmp_path / "c")) == [path] and newest_checkpoint(str(tmp_path / "c")) == path
    assert resumed.aside == "" and names(tmp_path) == ["c"]


def test_copies_keep_their_order(tmp_path):
    """The order does not depend on file times, which copying changes."""
    folder = CheckpointFolder(str(tmp_path / "c"), 9, {})
    paths = [save(folder, step) for step in (12, 8, 9)]
    for number, path in enumerate(paths):
        os.utime(path, (1000 - number, 1000 - number))
    assert find_checkpoints(str(tmp_path / "c")) == paths


def test_checkpoints_of_an_older_version_come_first_in_order_of_steps(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 9, {})
    old = [save(folder, step) for step in (100, 20)]
    for path in old:
        os.remove(path.replace(".ckpt", ".json"))
    new = save(folder, 7)
    assert find_checkpoints(str(tmp_path / "c")) == [old[1], old[0], new]


def test_an_abandoned_branch_is_backed_up(tmp_path, console):
    folder = CheckpointFolder(str(tmp_path / "c"), 9, {})
    paths = [save(folder, step) for step in (5, 10, 15)]
    resumed = CheckpointFolder(str(tmp_path / "c"), 9, {}, resumed=paths[0])
    assert names(tmp_path / "c") == ["centernet-1_5.ckpt", "centernet-1_5.json"]
    assert resumed.aside == str(tmp_path / "c.1")
    assert names(tmp_path / "c.1") == [f"centernet-1_{step}.{ending}" for step in (10, 15)
                                       for ending in ("ckpt", "json")]
    logged = console.readouterr().out
    assert str(tmp_path / "c.1") in logged and "centernet-1_10.ckpt, centernet-1_15.ckpt" in logged
    save(resumed, 10)
    assert read_checkpoint(str(tmp_path / "c.1" / "centernet-1_15.ckpt"))["w"].asnumpy() == [15]


def test_resuming_from_another_folder_starts_another_branch(tmp_path):
    elsewhere = save(CheckpointFolder(str(tmp_path / "other"), 9, {}), 3)
    save(CheckpointFolder(str(tmp_path / "c"), 9, {}), 5)
    assert CheckpointFolder(str(tmp_path / "c"), 9, {}, resumed=elsewhere).aside == str(tmp_path / "c.1")
    assert names(tmp_path / "c") == [] and len(names(tmp_path / "c.1")) == 2


def test_the_best_is_copied_from_another_folder(tmp_path):
    """Unless it was written after the checkpoint that the run resumes from."""
    other = CheckpointFolder(str(tmp_path / "other"), 9, {})
    paths = [save(other, step) for step in (3, 4, 5)]
    other.keep_best(paths[1])
    save(CheckpointFolder(str(tmp_path / "late"), 9, {}), 1)
    for name, resumed in (("late", paths[2]), ("same", paths[1]), ("itself", other.best), ("early", paths[0])):
        folder = CheckpointFolder(str(tmp_path / name), 9, {}, resumed=resumed)
        assert folder.best_step() == (0 if name == "early" else 4), name
    assert other.best_step() == 4


def test_a_name_in_use_is_not_overwritten(tmp_path):
    """Renumbered steps may reach the step of the checkpoint that they resume from."""
    folder = CheckpointFolder(str(tmp_path / "c"), 2, {})
    save(folder, 4)
    resumed = CheckpointFolder(str(tmp_path / "c"), 2, {}, resumed=str(tmp_path / "c" / "centernet-1_4.ckpt"))
    resumed.save({"w": Parameter(Tensor([44.0]), name="w")}, 0, 4, {})
    found = find_checkpoints(str(tmp_path / "c"))
    assert [float(read_checkpoint(path)["w"].asnumpy()[0]) for path in found] == [4, 44]
    save(resumed, 5)
    found = [os.path.basename(path) for path in find_checkpoints(str(tmp_path / "c"))]
    assert found == ["centernet-1_4.ckpt", "centernet-1_5.ckpt"]
    assert len(names(tmp_path / "c")) == 4


def test_rotation_tolerates_missing_files(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 1, {})
    first = save(folder, 1)
    os.remove(first.replace(".ckpt", ".json"))
    save(folder, 2)
    assert names(tmp_path / "c") == ["centernet-1_2.ckpt", "centernet-1_2.json"]


def test_rotation_tolerates_files_that_cannot_be_removed(tmp_path, monkeypatch, console):
    folder = CheckpointFolder(str(tmp_path / "c"), 1, {})
    first = save(folder, 1)

    remove = os.remove

    def refuse(path):
        if path == first:
            raise PermissionError(13, "Permission denied", path)
        remove(path)

    monkeypatch.setattr(os, "remove", refuse)
    second = save(folder, 2)
    assert find_checkpoints(str(tmp_path / "c")) == [first, second]
    logged = console.readouterr().out
    assert f"{first} " in logged and "Permission denied" in logged


def test_older_checkpoints_stay_without_rotation(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 1, {})
    for step, rotate in ((1, True), (2, False), (3, False)):
        save(folder, step, rotate=rotate)
    assert len(find_checkpoints(str(tmp_path / "c"))) == 3
    save(folder, 4)
    assert len(find_checkpoints(str(tmp_path / "c"))) == 1
    assert json.loads((tmp_path / "c" / "centernet-1_4.json").read_text())["written"] == 4


def test_the_best_checkpoint_is_exempt_from_rotation(tmp_path):
    folder = CheckpointFolder(str(tmp_path / "c"), 1, {})
    folder.keep_best(save(folder, 3))
    assert folder.best_step() == 3
    save(folder, 4)
    folder.keep_best(save(folder, 5))
    save(folder, 6)
    assert names(tmp_path / "c") == ["centernet-1_6.ckpt", "centernet-1_6.json", "centernet-best.ckpt",
                                     "centernet-best.json"]
    assert read_checkpoint(folder.best)["w"].asnumpy() == [5] and folder.best_step() == 5
    assert newest_checkpoint(folder.folder).endswith("centernet-1_6.ckpt")
    assert find_checkpoints(str(tmp_path / "c")) == [str(tmp_path / "c" / "centernet-1_6.ckpt")]
    os.remove(tmp_path / "c" / "centernet-1_6.ckpt")
    assert newest_checkpoint(folder.folder) == folder.best


def test_a_full_disk_while_the_best_is_written_loses_nothing(tmp_path, monkeypatch):
    """On a file system without hard links the best is a copy, which may not fit."""
    folder = CheckpointFolder(str(tmp_path / "c"), 1, {})
    folder.keep_best(save(folder, 3))
    last = save(folder, 4)

    def fail(number):
        def call(*_):
            raise OSError(number, os.strerror(number))
        return call

    monkeypatch.setattr(os, "link", fail(errno.EPERM))
    monkeypatch.setattr(shutil, "copy", fail(errno.ENOSPC))
    with pytest.raises(UserError, match=r"centernet-best\.ckpt .*No space left on device"):
        folder.keep_best(last)
    monkeypatch.undo()
    assert names(tmp_path / "c") == ["centernet-1_4.ckpt", "centernet-1_4.json", "centernet-best.ckpt",
                                     "centernet-best.json"]
    assert read_checkpoint(folder.best)["w"].asnumpy() == [3] and read_checkpoint(last)["w"].asnumpy() == [4]


@pytest.mark.parametrize("start, stays", [(4, []), (5, ["best"]), (6, ["best"]), ("best", ["best"])])
def test_a_resumed_run_keeps_the_best_of_its_past(start, stays, tmp_path):
    """A best written later belongs to the abandoned branch. A run may resume from the best itself."""
    folder = CheckpointFolder(str(tmp_path / "c"), 9, {})
    for step in (4, 5, 6, 7):
        path = save(folder, step)
        if step == 5:
            folder.keep_best(path)
    resumed = tmp_path / "c" / ("centernet-best.ckpt" if start == "best" else f"centernet-1_{start}.ckpt")
    again = CheckpointFolder(str(tmp_path / "c"), 9, {}, resumed=str(resumed))
    kept = [step for step in (4, 5, 6, 7) if step <= (5 if start == "best" else start)]
    expected = [f"centernet-{name}.{ending}" for name in [*(f"1_{step}" for step in kept), *stays]
                for ending in ("ckpt", "json")]
    assert names(tmp_path / "c") == expected
    assert again.best_step() == (5 if stays else 0)
    assert ("centernet-best.ckpt" in names(tmp_path / "c.1")) == (not stays)
    last = save(again, 8)
    assert last.endswith("centernet-1_8.ckpt") and find_checkpoints(str(tmp_path / "c"))[-1] == last


def test_best_and_last_name_checkpoints(tmp_path, monkeypatch):
    folder = CheckpointFolder(str(tmp_path / "run" / "ckpt_0"), 9, {})
    folder.keep_best(save(folder, 3))
    last = save(folder, 4)
    for place in ("run", "run/ckpt_0"):
        assert resolve_checkpoint_alias(str(tmp_path / place / "best")) == folder.best
        assert resolve_checkpoint_alias(str(tmp_path / place / "last")) == last
    monkeypatch.chdir(tmp_path / "run")
    assert resolve_checkpoint_alias("last") == "ckpt_0/centernet-1_4.ckpt"
    assert resolve_checkpoint_alias("a/best.ckpt") == "a/best.ckpt"
    with pytest.raises(UserError, match="nowhere/best .*nowhere.*ckpt_0"):
        resolve_checkpoint_alias("nowhere/best")
    os.remove(folder.best)
    with pytest.raises(UserError, match=r"best .*\beval_epochs\b.*\blast\b"):
        resolve_checkpoint_alias("best")


def test_the_error_for_a_pytorch_file_names_its_converter(tmp_path):
    (tmp_path / "my net.pth").touch()
    with pytest.raises(UserError, match="convert_centernet.py --ckpt_file '.*/my net.pth' --output_file NAME.ckpt"):
        read_checkpoint(str(tmp_path / "my net.pth"))


# ---------------------------------------------------------------- hostile files


def write_entries(path, *entries, end=b""):
    """Write a checkpoint with MindSpore's Protobuf classes: entries (name, dims, type, bytes)."""
    content = checkpoint_pb2.Checkpoint()
    for name, dims, kind, data in entries:
        entry = content.value.add()
        entry.tag, entry.tensor.tensor_type, entry.tensor.tensor_content = name, kind, data
        entry.tensor.dims.extend(dims)
    path.write_bytes(content.SerializeToString() + end)
    return str(path)


@pytest.mark.parametrize("dims, kind, data, part", [
    ([1 << 28], "Float32", bytes(4), r"a .*\b4 bytes.*\b1073741824\b"), ([4], "Float32", b"", r"a .*\b0 bytes.*\b16\b"),
    ([1], "Float32", bytes(400), r"a .*\b400 bytes.*\b4\b"), ([-2, -2], "Float32", bytes(16), r"a .*\b16 bytes"),
    ([1 << 62, 8], "Float32", bytes(4), r"a .*\b4 bytes"), ([2**31 - 1, 0], "Float32", b"", "a .*empty"),
    ([], "Float32", b"", r"a .*\b0 bytes"), ([0], "Float32", b"", r"a .*\b0 bytes"),
    ([1], "Float32", bytes(3), r"a .*\b3 bytes"),
    ([8], "Int4", bytes(4), "a .*'Int4'"),
    ([1] * 100, "Float32", bytes(4), "a .*type"),
])
def test_shapes_that_do_not_match_the_bytes(dims, kind, data, part, tmp_path):
    """MindSpore would allocate the shape's memory, and return numbers that are not in the file."""
    path = write_entries(tmp_path / "x.ckpt", ("a", dims, kind, data))
    with pytest.raises(UserError, match=rf"x.ckpt: .*\b{part}"):
        read_parameters(path)


def test_refused_entries(tmp_path):
    a, b = ("a", [2], "Float32", bytes(4)), ("b", [1], "Float32", bytes(4))
    for entries, end, part in (([a, b, a], b"", r"x.ckpt: .*\ba\b.*twice"), ([b], b"crc_num" + bytes(11), "x.ckpt: "),
                               ([b], b"\x12\x00", "x.ckpt: "),
                               ([("n" * 1001, [1], "Int8", b"1")], b"", "x.ckpt: .*long")):
        with pytest.raises(UserError, match=part):
            read_parameters(write_entries(tmp_path / "x.ckpt", *entries, end=end))


def test_slices_numbers_and_strings_are_read(tmp_path):
    """Consecutive entries of a large tensor; MindSpore's entries besides weights."""
    slices = [("a", [4], "Float16", number.tobytes()) for number in np.array([[1, 1], [2, 2]], np.float16)]
    read = read_parameters(write_entries(tmp_path / "x.ckpt", *slices, ("n", [0], "Int8", b"7")))
    np.testing.assert_array_equal(read["a"].asnumpy(), [1, 1, 2, 2])
    assert read["n"].asnumpy() == ord("7")
    values = {"w": ms.Tensor(np.arange(300_000, dtype=np.float32)), "half": ms.Tensor([1.5], ms.bfloat16)}
    state = [{"name": name, "data": value} for name, value in values.items()]
    ms.save_checkpoint(state, str(tmp_path / "y.ckpt"), append_dict={"lr": 0.5, "n": 3, "yes": True, "text": "words"},
                       crc_check=True)
    read = read_parameters(str(tmp_path / "y.ckpt"))
    assert list(read) == ["w", "half", "lr", "n", "yes", "text"]
    assert read["text"] == "words" and read["w"].asnumpy()[-1] == 299_999


def test_a_best_checkpoint_that_cannot_be_read_is_not_taken_as_missing(tmp_path, monkeypatch, console):
    """A read that fails once is repeated; one that keeps failing ends the resume, and the file stays."""
    folder = CheckpointFolder(str(tmp_path / "c"), 9, {})
    assert folder.best_step() == 0
    folder.keep_best(save(folder, 3))
    reads = iter([UserError("busy"), None])

    def read(path):
        if problem := next(reads):
            raise problem
        return read_checkpoint(path)

    monkeypatch.setattr(checkpoints, "read_checkpoint", read)
    assert folder.best_step(pause=0) == 3
    output = console.readouterr().out
    assert folder.best in output and "busy" in output and "again" in output
    monkeypatch.undo()
    with open(folder.best, "r+b") as file:
        file.truncate(20)
    with pytest.raises(UserError, match=r"centernet-best\.ckpt.*move it away"):
        folder.best_step(pause=0)
    assert os.path.getsize(folder.best) == 20
