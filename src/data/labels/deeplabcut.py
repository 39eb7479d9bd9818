"""DeepLabCut's labels: CollectedData_<scorer>.csv, a table of keypoints for each video, next to its frames.

The first rows name the scorer, in projects with several animals the individuals, the bodyparts and coords; the first
column, or the first three, the image: labeled-data/<video>/<file>. An empty cell is an absent keypoint.
"""
import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...core import errors
from ...core.console import progress
from ...core.errors import UserError
from ...core.files import read_text
from ...core.kinds import is_number
from ...core.tables import abbreviate
from ..objects import MAX_SIDE
from .common import Labels
from .formats import deeplabcut_files, images_of
from .names import match_names
from .yolo_description import read_yaml

CLASS = "animal"
UNIQUE = "single"  # stands for an individual: bodyparts that occur once in an image, such as the corners of a cage
HEADERS = ("scorer", "individuals", "bodyparts", "coords")


@dataclass
class Table:
    """A table: columns {individual: {bodypart: {"x": column, "y": column}}}, rows [(image, cells)]."""

    columns: dict[str, dict[str, dict[str, int]]]
    rows: list[tuple[str, list[str]]]


def read(folder: str, files: list[str]) -> Labels:
    """The Labels of a folder with DeepLabCut's labels: one class, animal, with the bodyparts of all tables.

    There are no boxes and no splits. An image without a keypoint is skipped: it may not have been labeled.
    """
    labels, images = Labels(folder), images_of(files)
    paths = deeplabcut_files(folder, files)
    if not paths:
        raise UserError(f"{folder}: no CollectedData_*.csv of DeepLabCut")
    tables: dict[str, Table] = {}
    for path in paths:
        try:
            tables[path] = read_table(read_text(os.path.join(folder, path), "a table of DeepLabCut"))
        except (UserError, OSError, ValueError) as error:
            labels.skipped.append(f"{path}: {errors.reason(error)}")
    _drop_unique(tables, labels)
    parts = list(dict.fromkeys(part for table in tables.values() for columns in table.columns.values()
                               for part in columns))
    listed: set[str | None] = set()
    for path, table in tables.items():
        listed.update(_read_rows(path, table, parts, images, labels))
    labels.note_unused(images, listed)
    labels.categories = {CLASS: 1}
    if parts:
        edges = _skeleton(folder, files, tables, parts, labels)
        labels.keypoints = {CLASS: {"keypoints": parts, **({"skeleton": edges} if edges else {})}}
    return labels


def read_table(text: str) -> Table:
    """Parse a table. Raises ValueError if it is not one of DeepLabCut's."""
    heads: dict[str, list[str]] = {}
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text)):
            if not rows and row and row[0] in HEADERS:
                heads[row[0]] = row
            elif any(row):
                rows.append(row)
    except csv.Error as error:
        raise ValueError(f"not a table ({error})") from error
    coords, names = heads.get("coords", []), heads.get("bodyparts", [])
    individuals = heads.get("individuals", [CLASS] * len(coords))
    columns: dict[str, dict[str, dict[str, int]]] = {}
    for number, (individual, name, coordinate) in enumerate(zip(individuals, names, coords)):
        if number and coordinate in ("x", "y") and name:
            column = columns.setdefault(individual, {}).setdefault(name, {})
            if coordinate in column:
                raise ValueError(f"two columns {coordinate} of the bodypart {name}")
            column[coordinate] = number
    if not columns or any(len(column) < 2 for parts in columns.values() for column in parts.values()):
        raise ValueError("not a table of DeepLabCut; expected rows scorer, bodyparts and coords, and columns x and "
                         "y of every bodypart")
    first = min(number for parts in columns.values() for column in parts.values() for number in column.values())
    return Table(columns, [("/".join(row[:first]), row) for row in rows])


def _drop_unique(tables: dict[str, Table], labels: Labels) -> None:
    """Drop the bodyparts that are not those of an animal, and add a note."""
    dropped: dict[str, bool] = {}
    for table in tables.values():
        if len(table.columns) > 1:
            dropped |= dict.fromkeys(table.columns.pop(UNIQUE, {}), True)
    if dropped:
        labels.notes.append(f"bodyparts that occur once in an image are not those of an animal, and are not imported: "
                            f"{abbreviate(dropped)}")


def _read_rows(path: str, table: Table, parts: list[str], images: list[str], labels: Labels) -> list[str | None]:
    """Add the images of the table at a path; returns their files, None for missing ones."""
    found = match_names([name for name, _ in table.rows], images, path)
    for (name, row), image in progress(list(zip(table.rows, found)), "reading labels"):
        if image is None:
            labels.skipped.append(f"image {name[:200]} of {path}: not in {labels.folder}")
            continue
        objects, lost = [], 0
        for individual, columns in table.columns.items():
            where = f"{image}, {individual}"
            try:
                points = [_read_point(row, columns.get(part)) for part in parts]
            except ValueError as error:
                labels.skipped.append(f"{where}: {error}")
                lost += 1
                continue
            if any(seen for _, _, seen in points):
                keypoints = [value for point in points for value in point]
                objects.append((where, CLASS, {"bbox": [], "area": 0, "iscrowd": 0, "keypoints": keypoints}))
        if not objects and not lost:
            labels.skipped.append(f"image {image}: no keypoint is labeled, which may mean that it is not labeled yet")
            continue
        size = labels.size_of(image)
        if size is not None:
            labels.add("train", image, size, objects, lost)
    return found


def _read_point(row: list[str], column: dict[str, int] | None) -> list[float]:
    """x, y and visibility of a keypoint in a row; 0, 0, 0 if it is absent. Raises ValueError."""
    if column is None:
        return [0, 0, 0]
    cells = [row[column[axis]].strip() if column[axis] < len(row) else "" for axis in ("x", "y")]
    if all(cell.lower() in ("", "nan") for cell in cells):
        return [0, 0, 0]
    try:
        x, y = map(float, cells)
    except ValueError:
        x = y = float("nan")
    if not all(is_number(value) and abs(value) <= MAX_SIDE for value in (x, y)):
        raise ValueError(f"a keypoint at {', '.join(cell[:50] or 'nothing' for cell in cells)}; expected two numbers")
    return [x, y, 2]


def _skeleton(folder: str, files: list[str], paths: Iterable[str], parts: list[str],
              labels: Labels) -> list[list[int]]:
    """The skeleton in the project's config.yaml, above the tables, as pairs of keypoint numbers from 1; [] without one.
    """
    above = {f"{'/'.join(path.split('/')[:depth])}/config.yaml".lstrip("/")
             for path in paths for depth in range(path.count("/") + 1)}
    pairs: list[Any] = []
    for path in sorted(above.intersection(files)):
        skeleton: Any = read_yaml(folder, path, "a configuration of DeepLabCut").get("skeleton")
        pairs += skeleton if isinstance(skeleton, list) else []
    edges = [[parts.index(name) + 1 for name in pair] for pair in pairs
             if isinstance(pair, list) and len(pair) == 2 and all(name in parts for name in pair)]
    if len(edges) < len(pairs):
        labels.notes.append(f"{len(pairs) - len(edges)} of {len(pairs)} lines in the skeleton of config.yaml do not "
                            "join two bodyparts, and are not imported")
    return [list(edge) for edge in dict.fromkeys(map(tuple, edges))]
