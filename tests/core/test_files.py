"""src/core/files.py and backups.py: names of results, and files that are read."""
import os
import pathlib

import numpy as np
import pytest

from src.commands.loss import read_losses
from src.core.backups import MARK, back_up_existing, contains_files, contains_mark, has_companion, require_ours, unmarked
from src.core.errors import UserError
from src.core.files import atomic_folder, atomic_write, read_json, read_text
from src.core.kinds import is_text
from src.launch.rank_table import read_rank_table
from src.runs.record import read_training_log
from src.weights.checkpoints import save_weights
from src.weights.side_file import side_file
from tests.conftest import contents, user_error


def test_a_device_is_no_earlier_result(tmp_path):
    """Whose user is root would otherwise rename /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"{tmp_path}/pipe"):
        back_up_existing(str(pipe), contains_files())
    assert os.listdir(tmp_path) == ["pipe"]


def test_the_folder_one_stands_in_is_no_earlier_result(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "other").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b")
    for path in (".", "..", str(tmp_path / "a"), str(tmp_path / "a" / "b")):
        with user_error(path):
            back_up_existing(path, lambda _: True)
    (tmp_path / "a" / "other" / "x").touch()
    back_up_existing("../other", contains_files("x"))
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "other.1"]


@pytest.mark.parametrize("read", [lambda path: read_json(path, "a side file", {}), read_rank_table, read_training_log,
                                  lambda path: read_losses(path, "a log")])
def test_lists_in_lists_without_end(read, tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"server_list": ' + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match="x.json"):
        read(str(path))


def test_what_is_no_text(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xd8")
    with pytest.raises(UserError, match="x.txt.* a list of names .*0xff"):
        read_text(str(tmp_path / "x.txt"), "a list of names")
    assert is_text("\u77e9\u5f62") and not any(map(is_text, ("", "\ud800", "a\udcff", None, 3)))


def test_files_appear_whole(tmp_path):
    path = str(tmp_path / "a.json")
    with pytest.raises(KeyError), atomic_write(path) as partial:
        open(partial, "w").close()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_neighbour_with_a_similar_name_stays(tmp_path):
    for name in ("a.partial.json", "a.partial.ckpt", ".a.json.partial"):
        (tmp_path / name).write_text("precious")
    for _ in range(2):
        with atomic_write(str(tmp_path / "a.json")) as partial:
            open(partial, "w").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.json.partial", "a.json", "a.partial.ckpt", "a.partial.json"]
    assert (tmp_path / "a.partial.json").read_text() == "precious"


def test_files_have_a_new_files_usual_mode(tmp_path):
    """MindSpore writes its files for their owner's eyes only."""
    (tmp_path / "plain").touch()
    save_weights(str(tmp_path / "w.ckpt"), {"w": np.ones(3, np.float32)})
    assert (tmp_path / "w.ckpt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_keep_earlier_never_overwrites(tmp_path):
    for text in ("first", "second", "third"):
        path = back_up_existing(str(tmp_path / "log.txt"), contains_mark("first", "second"))
        with open(path, "w") as file:
            file.write(text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"log.1.txt": "first", "log.2.txt": "second", "log.txt": "third"}


def test_a_file_and_the_one_beside_it_are_kept_as_a_pair(tmp_path):
    """Under the first number that is free for both, and the one alone where the other is missing."""
    def beside(path):
        return f"{path}.json"

    path = str(tmp_path / "net.onnx")
    for name in ("net.onnx", "net.onnx.json", "net.1.onnx.json", "net.2.onnx"):
        (tmp_path / name).write_text(name)
    back_up_existing(path, has_companion(beside, "net.onnx"), beside)
    (tmp_path / "net.onnx.json").write_text("alone")
    back_up_existing(path, has_companion(beside, "alone"), beside)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "net.1.onnx.json": "net.1.onnx.json", "net.2.onnx": "net.2.onnx", "net.3.onnx": "net.onnx", "net.3.onnx.json": "net.onnx.json",
        "net.4.onnx.json": "alone",
    }


def test_what_is_not_ours_stays(tmp_path):
    """A file without our text, a folder without our files, a link to one, a file where a folder would go, and the reverse."""
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
        ("loss.png", unmarked, None),
    ]:
        path = str(tmp_path / name)
        for act in (require_ours, back_up_existing):
            with user_error(os.path.splitext(path)[0]):
                act(path, ours, companion)
        for write in (lambda path=path, ours=ours, companion=companion: atomic_write(path, ours, companion),
                      lambda path=path, ours=ours: atomic_folder(path, ours)):
            with user_error(os.path.splitext(path)[0]), write() as partial:
                pytest.fail(partial)
            if companion:
                break
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content, ours", [
    (b"", True), (b"<html>CenterNet on MindSpore", True), (b"x" * 70_000 + b"CenterNet on MindSpore", True),
    (b"x" * 70_000 + b"CenterNet on MindSpore" + b"x" * 70_000, False), (b"CenterNet", False),
])
def test_a_file_says_whose_it_is(content, ours, tmp_path):
    (tmp_path / "f").write_bytes(content)
    assert contains_mark()(str(tmp_path / "f")) == ours


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path):
    """Files and folders: neither an error nor an interrupt in the work moves anything, or leaves anything."""
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
    assert contents(tmp_path) == {"r.1.html": MARK.encode(), "r.html": b"second", "val": None, "val/a.json": b"second", "val.1": None,
                                  "val.1/a.json": b"first"}


def test_an_empty_folder_is_filled_and_missing_ones_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/folder"):
        with atomic_folder(str(tmp_path / name), contains_files("a")) as partial:
            (pathlib.Path(partial) / "a").touch()
    with atomic_write(str(tmp_path / "other" / "f"), contains_mark()) as partial:
        pathlib.Path(partial).touch()
    assert set(contents(tmp_path)) == {"empty", "empty/a", "new", "new/folder", "new/folder/a", "other", "other/f"}
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "empty").stat().st_mode
