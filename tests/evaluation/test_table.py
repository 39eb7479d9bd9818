"""src/evaluation/table.py: results.csv, a row for each evaluation."""
import csv
import os
import threading

import pytest

from src.core.errors import UserError
from src.evaluation import table
from src.evaluation.table import TABLE, add_row, is_table
from src.tasks.ddd import DDD
from src.tasks.detection import DETECTION

METRICS = {**dict.fromkeys(DETECTION.metrics, 0.5), "AP_small": -1.0, "precision": 0.25, "threshold": None,
           "AP_per_class": {"a": 0.5}}


def rows_of(folder):
    with open(folder / TABLE, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_different_tasks(tmp_path):
    """The earlier cells stay, also a user's own column and a name with a comma, quotes and bytes that are not UTF-8."""
    name = 'my "run", gr\udcfc.ckpt'
    add_row(str(tmp_path), DETECTION, METRICS, {"split": "val", "checkpoint": name, "images": 3})
    text = (tmp_path / TABLE).read_bytes().decode(errors="surrogateescape").splitlines()
    with open(tmp_path / TABLE, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"\ufeff{text[0]},note\n{text[1]},good")  # with a byte order mark, without an end of the line
    assert is_table(str(tmp_path / TABLE))
    add_row(str(tmp_path), DDD, {**dict.fromkeys(DDD.metrics, 0.75), "F1": 1}, {"split": "train", "step": 7})
    first, second = rows_of(tmp_path)
    assert first["time"] and {**first, "time": ""} == {
        **dict.fromkeys(second, ""), **dict.fromkeys(DETECTION.metrics, "0.500000"), "split": "val",
        "checkpoint": name, "images": "3", "AP_small": "", "precision": "0.250000", "note": "good"}
    assert second["step"] == "7" and second["AOS"] == second["AP50"] == "0.750000" and second["AR_1"] == ""
    assert list(second)[:6] == ["time", "split", "checkpoint", "epoch", "step", "images"]
    assert "AP_per_class" not in second


def test_rows_added_at_the_same_time_are_all_there(tmp_path):
    threads = [threading.Thread(target=lambda: [add_row(str(tmp_path), DETECTION, METRICS, {"step": number})
                                                for number in range(10)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(row["step"]) for row in rows_of(tmp_path)) == sorted([*range(10)] * 6)
    assert os.listdir(tmp_path) == [TABLE]


def test_an_interrupted_write_leaves_the_earlier_table(tmp_path, monkeypatch):
    add_row(str(tmp_path), DETECTION, METRICS, {})
    before = (tmp_path / TABLE).read_bytes()

    class Writer:
        def __init__(self, file):
            self.file = file

        def writerows(self, rows):
            self.file.write("time,split,ch")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(table.csv, "writer", Writer)
    with pytest.raises(UserError, match=r"results.csv.*[Nn]o space"):
        add_row(str(tmp_path), DETECTION, METRICS, {})
    assert (tmp_path / TABLE).read_bytes() == before and os.listdir(tmp_path) == [TABLE]


@pytest.mark.parametrize("content, ours", [("epoch,loss\n1,2\n", False), ("", True), ("split,time\n", False)])
def test_a_table_is_recognized_by_its_header(content, ours, tmp_path):
    (tmp_path / TABLE).write_text(content)
    assert is_table(str(tmp_path / TABLE)) == ours
    assert not is_table(str(tmp_path))
