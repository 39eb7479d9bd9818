"""results.csv in a folder of results: a row for each evaluation, by eval.py, by postprocess.py or during training."""
import csv
import datetime
import os
from collections.abc import Mapping
from typing import Any

from ..core.errors import UserError
from ..core.files import atomic_write
from ..core.kinds import is_number
from ..core.locks import waiting_lock
from ..tasks import Task
from ..tasks.detection.thresholds import POINT

TABLE = "results.csv"
FIRST = ("time", "split", "checkpoint", "epoch", "step", "images")  # columns before the scores
VOC = ("VOC_mAP_07", "VOC_mAP_area")


def is_table(path: str) -> bool:
    """A test for back_up_existing: whether a file is an earlier table, by its first line; an empty file is."""
    if not os.path.isfile(path):
        return False
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
    return not first or first.startswith(",".join(FIRST))


def add_row(folder: str, task: Task, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Append a row to a folder's table: the time, facts {column: value} and a Task's metrics.

    Columns that the table lacks, as those of another task, are added at its end. The file is replaced as a whole, so
    that an interrupt leaves the earlier one; other processes that append wait. Raises UserError if it cannot be
    written.
    """
    path = os.path.join(folder, TABLE)
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    scores = {name: metrics[name] for name in (*task.metrics, *POINT, *VOC) if name in metrics}
    row = {"time": now, **facts, **{name: _text(value) for name, value in scores.items()}}
    with waiting_lock(folder or "."):
        try:
            head, *rows = _read(path) or [[*FIRST]]
        except csv.Error as error:
            raise UserError(f"{path}: not a table of evaluations ({error}); move it away") from error
        head += [name for name in row if name not in head]
        rows.append([row.get(name, "") for name in head])
        with (atomic_write(path) as partial,
              open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file):
            csv.writer(file).writerows([head, *(cells + [""] * (len(head) - len(cells)) for cells in rows)])


def _read(path: str) -> list[list[str]]:
    """The rows of a table without empty ones, the header first; [] if the file is missing."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        return [row for row in csv.reader(file) if row]


def _text(value: Any) -> str:
    """A score with six digits; "" if there is none, which COCO writes as -1."""
    return f"{value:.6f}" if is_number(value) and value >= 0 else ""
