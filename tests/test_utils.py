"""src/utils.py: names of results, and files that are read."""
import os

import pytest

from src.errors import UserError
from src.kinds import is_text
from src.rank_table import read_rank_table
from src.training_log import read_training_log
from src.utils import keep_earlier, read_json, read_text
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
