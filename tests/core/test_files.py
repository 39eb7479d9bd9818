"""src/core/files.py and backups.py: writing, backing up and reading files."""
import functools
import os
import pathlib

import numpy as np
import pytest

from src.commands.loss import read_losses
from src.core.backups import (
    MARK,
    back_up_existing,
    contains_files,
    contains_mark,
    has_companion,
    never_ours,
    require_ours,
)
from src.core.errors import UserError
from src.core.files import atomic_folder, atomic_write, read_json, read_text
from src.core.kinds import is_text
from src.launch.rank_table import read_rank_table
from src.runs.record import read_training_log
from src.weights.checkpoints import save_weights
from src.weights.side_file import side_file
from tests.conftest import contents, user_error


def test_a_device_is_not_backed_up(tmp_path):
    """Root could otherwise rename /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"{tmp_path}/pipe"):
        back_up_existing(str(pipe), contains_files())
    assert os.listdir(tmp_path) == ["pipe"]


def test_the_current_folder_is_not_backed_up(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "other").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b")
    for path in (".", "..", str(tmp_path / "a"), str(tmp_path / "a" / "b")):
        with user_error(path):
            back_up_existing(path, lambda _: True)
    (tmp_path / "a" / "other" / "x").touch()
    back_up_existing("../other", contains_files("x"))
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "other.1"]


@pytest.mark.parametrize("read", [
    lambda path: read_json(path, "a side file", {}), read_rank_table, read_training_log,
    lambda path: read_losses(path, "a log"),
])
def test_deeply_nested_lists_are_refused(read, tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"server_list": ' + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match="x.json"):
        read(str(path))


def test_a_binary_file_is_not_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xd8")
    with pytest.raises(UserError, match="x.txt.* a list of names .*0xff"):
        read_text(str(tmp_path / "x.txt"), "a list of names")
    assert is_text("\u77e9\u5f62") and not any(map(is_text, ("", "\ud800", "a\udcff", None, 3)))


def test_a_failed_write_leaves_nothing(tmp_path):
    path = str(tmp_path / "a.json")
    with pytest.raises(KeyError), atomic_write(path) as partial:
        open(partial, "w").close()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_files_with_similar_names_stay(tmp_path):
    for name in ("a.partial.json", "a.partial.ckpt", ".a.json.partial"):
        (tmp_path / name).write_text("precious")
    for _ in range(2):
        with atomic_write(str(tmp_path / "a.json")) as partial:
            open(partial, "w").close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".a.json.partial", "a.json", "a.partial.ckpt", "a.partial.json"]
    assert (tmp_path / "a.partial.json").read_text() == "precious"


def test_files_have_a_new_files_usual_mode(tmp_path):
    """MindSpore makes its files readable by their owner only."""
    (tmp_path / "plain").touch()
    save_weights(str(tmp_path / "w.ckpt"), {"w": np.ones(3, np.float32)})
    assert (tmp_path / "w.ckpt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_backup_overwrites_nothing(tmp_path):
    for text in ("first", "second", "third"):
        path = back_up_existing(str(tmp_path / "log.txt"), contains_mark("first", "second"))
        with open(path, "w") as file:
            file.write(text)
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"log.1.txt": "first", "log.2.txt": "second", "log.txt": "third"}


def test_a_file_and_its_companion_are_backed_up_together(tmp_path):
    """Under the first number that is free for both; a companion without its file, too."""
    def companion(path):
        return f"{path}.json"

    path = str(tmp_path / "net.onnx")
    for name in ("net.onnx", "net.onnx.json", "net.1.onnx.json", "net.2.onnx"):
        (tmp_path / name).write_text(name)
    back_up_existing(path, has_companion(companion, "net.onnx"), companion)
    (tmp_path / "net.onnx.json").write_text("alone")
    back_up_existing(path, has_companion(companion, "alone"), companion)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "net.1.onnx.json": "net.1.onnx.json", "net.2.onnx": "net.2.onnx", "net.3.onnx": "net.onnx",
        "net.3.onnx.json": "net.onnx.json", "net.4.onnx.json": "alone",
    }


def test_what_is_not_ours_stays(tmp_path):
    """A file without the mark, a folder without our files, a link to it, a file instead of a folder and vice versa."""
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "val" / "images" / "1.jpg").write_text("a photo")
    (tmp_path / "loss.png").write_text("a plot")
    (tmp_path / "alone.json").write_text("{}")
    (tmp_path / "link").symlink_to("val")
    before = contents(tmp_path)
    for name, ours, companion in [
        ("val", contains_files("val_pred_result.json"), None), ("link", contains_files("*.json"), None),
        ("loss.png", contains_mark(), None), ("val", contains_mark(), None),
        ("loss.png", contains_files("*"), None), ("alone.onnx", has_companion(side_file, '"classes"'), side_file),
        ("loss.png", never_ours, None),
    ]:
        path = str(tmp_path / name)
        for act in (require_ours, back_up_existing):
            with user_error(os.path.splitext(path)[0]):
                act(path, ours, companion)
        for write in (functools.partial(atomic_write, path, ours, companion),
                      functools.partial(atomic_folder, path, ours)):
            with user_error(os.path.splitext(path)[0]), write() as partial:
                pytest.fail(partial)
            if companion:
                break
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content, ours", [
    (b"", True), (b"<html>CenterNet on MindSpore", True), (b"x" * 70_000 + b"CenterNet on MindSpore", True),
    (b"x" * 70_000 + b"CenterNet on MindSpore" + b"x" * 70_000, False), (b"CenterNet", False),
])
def test_the_mark_identifies_our_files(content, ours, tmp_path):
    (tmp_path / "f").write_bytes(content)
    assert contains_mark()(str(tmp_path / "f")) == ours


def test_earlier_results_stay_until_new_ones_are_complete(tmp_path):
    """Files and folders: neither an error nor an interrupt moves anything or leaves anything behind."""
    folder, file = tmp_path / "val", tmp_path / "r.html"
    folder.mkdir()
    (folder / "a.json").write_text("first")
    file.write_text(MARK)
    before = contents(tmp_path)
    for error in (KeyError, KeyboardInterrupt, UserError):
        with pytest.raises(error), atomic_folder(str(folder), contains_files("*.json")) as partial:
            (pathlib.Path(partial) / "a.json").write_text("half")
            raise error
        with pytest.raises(error), atomic_write(str(file), contains_mark()) as partial:
            pathlib.Path(partial).write_text("half")
            raise error
    assert contents(tmp_path) == before
    with atomic_folder(str(folder), contains_files("*.json")) as partial:
        (pathlib.Path(partial) / "a.json").write_text("second")
    with atomic_write(str(file), contains_mark()) as partial:
        pathlib.Path(partial).write_text("second")
    assert contents(tmp_path) == {"r.1.html": MARK.encode(), "r.html": b"second", "val": None, "val/a.json": b"second",
                                  "val.1": None, "val.1/a.json": b"first"}


def test_an_empty_folder_is_used_and_missing_ones_are_created(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/folder"):
        with atomic_folder(str(tmp_path / name), contains_files("a")) as partial:
            (pathlib.Path(partial) / "a").touch()
    with atomic_write(str(tmp_path / "other" / "f"), contains_mark()) as partial:
        pathlib.Path(partial).touch()
    assert set(contents(tmp_path)) == {"empty", "empty/a", "new", "new/folder", "new/folder/a", "other", "other/f"}
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "empty").stat().st_mode
