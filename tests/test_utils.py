"""src/utils.py: names of results, and files that are read."""
import os

import numpy as np
import pytest

from src.checkpoint import save_weights
from src.errors import UserError
from src.kinds import is_text
from src.rank_table import read_rank_table
from src.training_log import read_training_log
from src.utils import keep_earlier, read_json, read_text, whole_file
from tools.loss import read_losses


def test_a_device_is_no_earlier_result(tmp_path):
    """Whose user is root would otherwise rename /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe is a device or a pipe"):
        keep_earlier(str(pipe))
    assert os.listdir(tmp_path) == ["pipe"]


def test_the_folder_one_stands_in_is_no_earlier_result(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "other").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b")
    for path in (".", "..", str(tmp_path / "a"), str(tmp_path / "a" / "b")):
        with pytest.raises(UserError, match="the current folder or one that it lies in"):
            keep_earlier(path)
    keep_earlier("../other")
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
    with pytest.raises(UserError, match="x.txt: not a list of names .*0xff"):
        read_text(str(tmp_path / "x.txt"), "a list of names")
    assert is_text("\u77e9\u5f62") and not any(map(is_text, ("", "\ud800", "a\udcff", None, 3)))


def test_files_appear_whole(tmp_path):
    path = str(tmp_path / "a.json")
    with pytest.raises(KeyError), whole_file(path) as partial:
        open(partial, "w").close()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_neighbour_with_a_similar_name_stays(tmp_path):
    for name in ("a.partial.json", "a.partial.ckpt", ".a.json.partial"):
        (tmp_path / name).write_text("precious")
    for _ in range(2):
        with whole_file(str(tmp_path / "a.json")) as partial:
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
        path = keep_earlier(str(tmp_path / "log.txt"))
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
    keep_earlier(path, beside)
    (tmp_path / "net.onnx.json").write_text("alone")
    keep_earlier(path, beside)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "net.1.onnx.json": "net.1.onnx.json", "net.2.onnx": "net.2.onnx", "net.3.onnx": "net.onnx", "net.3.onnx.json": "net.onnx.json",
        "net.4.onnx.json": "alone",
    }
