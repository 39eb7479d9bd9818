"""data.yaml, which describes YOLO's labels: its classes and, for YOLO's pose labels, their keypoints."""
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ...core.errors import UserError
from ...core.files import read_text
from ...core.kinds import is_text, list_of

MOST_KEYPOINTS = 1000


def read_yaml(folder: str, path: str, what: str = "a description of YOLO labels") -> dict[str, Any]:
    """The content of a YAML file: a dictionary of strings, lists and dictionaries.

    Raises UserError for other files, which says that they are not `what`.
    """
    text = read_text(os.path.join(folder, path), what)
    try:
        # BaseLoader ignores tags, and keeps values as strings: a class named no or 1 must not become False or 1.
        content = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{os.path.join(folder, path)}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{os.path.join(folder, path)}: not {what} (the top level is not a mapping)")
    return content


# ---------------------------------------------------------------- classes


def class_names(description: dict[str, Any]) -> dict[int, str]:
    """{class id: name} from data.yaml, where names is a list or a dictionary by id. Raises UserError otherwise."""
    names = description.get("names") or []
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not (isinstance(names, dict)
            and all(isinstance(name, str) and _is_number(number) for number, name in names.items())):
        raise UserError("names is invalid; expected a list of class names, or a dictionary {0: name, 1: name}")
    return {int(number): name.strip() or f"class_{number}" for number, name in names.items()}


def class_count(description: dict[str, Any]) -> int:
    """nc of data.yaml, 0 if it has none. Raises UserError if it is not a number."""
    count = description.get("nc") or "0"
    if not _is_number(count):
        raise UserError("nc is invalid; expected a number of classes")
    return int(count)


def _is_number(text: object) -> bool:
    """Whether a value is a class id, or another integer from 0."""
    return str(text).isdecimal() and len(str(text)) < 10


# ---------------------------------------------------------------- keypoints


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of data.yaml.

    Attributes: count, and values of each, 2 (x, y) or 3 (x, y, visibility); names [count], or {class id: names};
    pairs, those that change places in a mirror image, None if they are not stated.
    """

    count: int
    values: int
    names: list[str] | Mapping[int, list[str]]
    pairs: list[list[int]] | None

    def fields(self, label: int) -> dict[str, list]:
        """The fields of a class's category (keypoints.py)."""
        names = self.names if isinstance(self.names, list) else self.names.get(label, default_names(self.count))
        return {"keypoints": names} if self.pairs is None else {"keypoints": names, "flip_idx": self.pairs}


def default_names(count: int) -> list[str]:
    """keypoint_1, keypoint_2, ..."""
    return [f"keypoint_{number}" for number in range(1, count + 1)]


def read_keypoints(description: dict[str, Any]) -> Keypoints | None:
    """The Keypoints of data.yaml (kpt_shape, kpt_names, flip_idx); None if it has none. Raises UserError."""
    shape = description.get("kpt_shape")
    if not shape:
        return None
    if not (list_of(_is_number, 2)(shape) and 0 < int(shape[0]) <= MOST_KEYPOINTS and int(shape[1]) in (2, 3)):
        raise UserError(f"kpt_shape is invalid; expected [number of keypoints up to {MOST_KEYPOINTS}, 2 or 3]")
    count = int(shape[0])
    return Keypoints(count, int(shape[1]), _keypoint_names(description, count), _mirror_pairs(description, count))


def _keypoint_names(description: dict[str, Any], count: int) -> list[str] | dict[int, list[str]]:
    """kpt_names of data.yaml: a list, or a dictionary of lists by class id; default_names if there are none."""
    names: Any = description.get("kpt_names") or default_names(count)
    lists = names.values() if isinstance(names, dict) else [names]
    if not (all(list_of(is_text, count)(one) and len(set(one)) == count for one in lists)
            and (isinstance(names, list) or all(map(_is_number, names)))):
        raise UserError(f"kpt_names is invalid; expected a list of {count} different names, or a dictionary of such "
                        "lists {0: [name, name]}")
    return {int(label): one for label, one in names.items()} if isinstance(names, dict) else names


def _mirror_pairs(description: dict[str, Any], count: int) -> list[list[int]] | None:
    """The pairs of flip_idx, which states the keypoint in each one's place in a mirror image; None without it."""
    order: Any = description.get("flip_idx")
    if not order:
        return None
    numbers = list(map(int, order)) if list_of(_is_number, count)(order) else []
    if len(numbers) != count or any(other >= count or numbers[other] != one for one, other in enumerate(numbers)):
        raise UserError(f"flip_idx is invalid; expected a list of {count} indices from 0: for each keypoint, the one "
                        "that takes its place in a mirror image")
    return [[one, other] for one, other in enumerate(numbers) if one < other]
