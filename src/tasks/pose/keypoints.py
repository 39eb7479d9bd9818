"""The keypoints of a data set: names, skeleton, mirror pairs, and those of each class.

metainfo["keypoints"] is a dictionary: names [J]; skeleton [[a, b]], the joined keypoints; flip_idx [[a, b]], those that
change places in a mirror image; of_class, the keypoints of each class, in label order. All are indices from 0.
"""
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.kinds import is_int64, is_text, list_of
from ...core.tables import abbreviate

LEFT_RIGHT = (  # (pattern of a left side in a name, the right side): left_eye, leftEye, l_eye, eye_l, LEye, EyeL
    (r"left", "right"), (r"Left", "Right"), (r"LEFT", "RIGHT"), (r"(?<![A-Za-z])l(?![A-Za-z])", "r"),
    (r"(?<![A-Za-z])L(?![A-Za-z])", "R"), (r"^l(?=[A-Z])", "r"), (r"^L(?=[A-Z][a-z])", "R"), (r"(?<=[a-z])L$", "R"),
)
RIGHT = r"right|Right|RIGHT|(?<![A-Za-z])[rR](?![A-Za-z])|^r(?=[A-Z])|^R(?=[A-Z][a-z])|(?<=[a-z])R$"
COCO_NAMES = ("nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow "
              "left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle").split()
COCO_SIGMAS = dict(zip(COCO_NAMES, (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107,
                                    0.107, 0.087, 0.087, 0.089, 0.089)))
COCO_SKELETON = [[15, 13], [13, 11], [16, 14], [14, 12], [11, 12], [5, 11], [6, 12], [5, 6], [5, 7], [6, 8], [7, 9],
                 [8, 10], [1, 2], [0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6]]
USUAL_SIGMA = 0.05  # of keypoints other than COCO's


def is_keypoints(value: Any) -> bool:
    """Whether a value is metainfo["keypoints"], consistent in itself."""
    if not isinstance(value, dict) or not list_of(is_text, least=1)(value.get("names")):
        return False
    indices = list_of(lambda index: is_int64(index) and 0 <= index < len(value["names"]))
    return (all(list_of(lambda pair: indices(pair) and len(pair) == 2)(value.get(name))
                for name in ("skeleton", "flip_idx"))
            and list_of(indices)(value.get("of_class")) and len(set(value["names"])) == len(value["names"])
            and not _pair_problem(value["flip_idx"], value["names"]))


METAINFO = {"keypoints": is_keypoints}


def is_consistent(metainfo: dict) -> bool:
    """Whether each class of metainfo has its keypoints."""
    return len(metainfo["keypoints"]["of_class"]) == len(metainfo["classes"])


def read_metainfo(categories: list[dict], images: Sequence[dict] = ()) -> dict:
    """{"keypoints": ...} of the categories of an annotation file: the union of their keypoints, by name.

    Mirror pairs are each category's flip_idx (pairs of its keypoints, from 0), and those found in other names. Raises
    UserError if no category has keypoints, or for invalid ones.
    """
    names: list[str] = []
    skeleton: list[list[int]] = []
    stated: list[list[int]] = []
    of_class = []
    for category in sorted(categories, key=lambda category: category["id"]):
        own = _names_of(category)
        names += [name for name in own if name not in names]
        index = [names.index(name) for name in own]
        of_class.append(index)
        skeleton += [[index[a - 1], index[b - 1]] for a, b in _pairs_of(category, "skeleton", 1)]
        stated += [[index[a], index[b]] for a, b in _pairs_of(category, "flip_idx", 0)]
    if not names:
        raise UserError("no category has keypoints, so it fits the task detection (net_config.task), not pose")
    stated = _unique([_left_first(pair, names) for pair in stated])
    _check_pairs(stated, names, "flip_idx of its categories")
    taken = {index for pair in stated for index in pair}
    pairs = stated + [pair for pair in mirror_pairs(names) if not taken & set(pair)]
    return {"keypoints": {"names": names, "skeleton": _unique(skeleton), "flip_idx": pairs, "of_class": of_class}}


def fits(content: dict) -> bool:
    """Whether an annotation file, unchecked, names keypoints and has a labeled one."""
    def entries(section: str) -> list[dict]:
        found = content.get(section)
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    def labeled(values: Any) -> bool:
        return isinstance(values, list) and any(values[2::3])

    return (any(category.get("keypoints") for category in entries("categories"))
            and any(labeled(entry.get("keypoints")) for entry in entries("annotations")))


def configured(metainfo: dict, config: Any) -> dict:
    """metainfo with dataset_config.flip_idx, if that is set. Raises UserError if it is invalid."""
    pairs = config.dataset_config.flip_idx
    if not pairs:
        return metainfo
    _check_pairs(pairs, metainfo["keypoints"]["names"],
                 f"dataset_config.flip_idx ({config.origin('dataset_config.flip_idx')})",
                 "; --dataset_config.flip_idx [] takes those of the annotation file")
    pairs = [_left_first(pair, metainfo["keypoints"]["names"]) for pair in pairs]
    return {**metainfo, "keypoints": {**metainfo["keypoints"], "flip_idx": pairs}}


def observed(metainfo: dict, labels: np.ndarray, keypoints: np.ndarray) -> dict:
    """metainfo in which a class has only those keypoints that one of its objects has, so that no other is predicted.

    labels [M] and keypoints [M, 3J] of all objects. Raises UserError if there is no labeled keypoint.
    """
    facts = metainfo["keypoints"]
    seen = keypoints.reshape(len(keypoints), len(facts["names"]), 3)[:, :, 2] > 0
    if not seen.any():
        raise UserError("no object has a labeled keypoint, so the data fits the task detection (net_config.task), not "
                        "pose")
    of_class = [[index for index in own if seen[labels == label, index].any()]
                for label, own in enumerate(facts["of_class"])]
    return {**metainfo, "keypoints": {**facts, "of_class": of_class}}


def check_same(ours: dict, theirs: dict) -> None:
    """Raise UserError unless a data set's metainfo, `theirs`, has a model's keypoints in the same order."""
    names, others = (metainfo["keypoints"]["names"] for metainfo in (ours, theirs))
    if names != others:
        raise UserError(f"its keypoints are {abbreviate(others, 20)}, but the model was trained on "
                        f"{abbreviate(names, 20)}; both files need the same ones in the same order")


def notes(metainfo: dict) -> tuple[list[str], list[str]]:
    """(remarks, warnings) about a data set's `observed` metainfo: mirror pairs, and missing keypoints."""
    facts = metainfo["keypoints"]
    names, pairs = facts["names"], facts["flip_idx"]
    shown = ", ".join(f"{names[a]}/{names[b]}" for a, b in pairs) or "none"
    remarks = [f"{len(names)} keypoints ({abbreviate(names, 20)}); in a mirror image these change places: {shown}"]
    paired = {index for pair in pairs for index in pair}
    left = [name for index, name in enumerate(names) if index not in paired and is_sided(name)]
    warnings = [f"keypoints with a side but without a counterpart, which keep their name in a mirror image: "
                f"{abbreviate(left, 8)}; set dataset_config.flip_idx to pairs of indices"] if left else []
    known = {index for own in facts["of_class"] for index in own}
    if absent := [name for index, name in enumerate(names) if index not in known]:
        remarks.append(f"no object has {abbreviate(absent, 20)}: these are neither predicted nor scored")
    return remarks, warnings


def mirror_pairs(names: Sequence[str]) -> list[list[int]]:
    """The keypoints that change places in a mirror image, by their names: [[left, right], ...].

    Two names that differ only in one letter, l in one and r in the other, are a pair, too: Lhip and Rhip.

    >>> mirror_pairs(["nose", "left_eye", "right_eye", "ear_l", "ear_r"])
    [[1, 2], [3, 4]]
    """
    pairs: list[list[int]] = []
    for by_word in (True, False):
        for index, name in enumerate(names):
            others = _right_of(name) if by_word else [
                name[:place] + "r" * (letter == "l") + "R" * (letter == "L") + name[place + 1 :]
                for place, letter in enumerate(name) if letter in "lL"]
            taken = {number for pair in pairs for number in pair}
            found = [names.index(other) for other in others if other in names]
            pairs += [[index, other] for other in found if not taken & {index, other}][:1]
    return sorted(pairs)


def _right_of(name: str) -> list[str]:
    """The names that a left keypoint's counterpart may have, [] for another keypoint."""
    return [re.sub(pattern, right, name, count=1) for pattern, right in LEFT_RIGHT if re.search(pattern, name)]


def is_sided(name: str) -> bool:
    """Whether a name says left or right."""
    name = re.sub("bright|upright|cleft", "", name)
    return bool(re.search(RIGHT, name)) or bool(_right_of(name))


def _left_first(pair: Sequence[int], names: Sequence[str]) -> list[int]:
    """A pair with its left keypoint first, if the names tell it; drawings color by this."""
    is_left = [0 <= index < len(names) and bool(_right_of(names[index])) for index in pair]
    return list(pair)[::-1] if is_left == [False, True] else list(pair)


def sigmas_of(names: Sequence[str], given: Sequence[float]) -> np.ndarray:
    """The OKS sigmas of keypoints [J]: the given ones, COCO's for its 17, else USUAL_SIGMA. Raises UserError."""
    if given:
        if len(given) not in (1, len(names)):
            raise UserError(f"eval_config.kpt_oks_sigmas has {len(given)} numbers, and there are {len(names)} "
                            "keypoints; give one for each, or one for all")
        return np.broadcast_to(np.array(given, float), len(names)).copy()
    return np.array([COCO_SIGMAS[name] if is_coco(names) else USUAL_SIGMA for name in names])


def is_coco(names: Sequence[str]) -> bool:
    """Whether these are COCO's 17 keypoints, in any order."""
    return sorted(names) == sorted(COCO_NAMES)


def chosen(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Which keypoints count in scores, bool [J]: those wanted, or all. Raises UserError for an unknown name."""
    if unknown := [name for name in wanted if name not in names]:
        raise UserError(f"eval_config.keypoints names {abbreviate(unknown, 4)}; choose from {', '.join(names)}")
    return np.array([not wanted or name in wanted for name in names])


def _names_of(category: dict) -> list[str]:
    """A category's keypoint names, [] if it has none. Raises UserError."""
    names = category.get("keypoints") or []
    if not list_of(is_text)(names):
        raise UserError(f"the keypoints of category {category['name']} are not a list of names")
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise UserError(f"category {category['name']} has the keypoint {twice[0]} twice; each needs a unique name")
    return names


def _pairs_of(category: dict, field: str, first: int) -> list[list[int]]:
    """A category's pairs of keypoint numbers, counted from `first`. Raises UserError."""
    count = len(category.get("keypoints") or [])
    pairs = count and category.get(field) or []
    number = list_of(lambda value: is_int64(value) and first <= value < count + first, 2)
    if not isinstance(pairs, list) or (wrong := [pair for pair in pairs if not number(pair)]):
        shown = wrong[0] if isinstance(pairs, list) else pairs
        raise UserError(f"the {field} of category {category['name']} has {shown!r}; expected pairs of its keypoints, "
                        f"such as [[{first}, {first + 1}]], counted from {first} to {count + first - 1}")
    return pairs


def _check_pairs(pairs: Sequence[Sequence[int]], names: Sequence[str], what: str, advice: str = "") -> None:
    if problem := _pair_problem(pairs, names):
        raise UserError(f"{what}: {problem}; expected pairs of indices from 0 to {len(names) - 1}, each index once"
                        f"{advice}")


def _pair_problem(pairs: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """What is wrong with mirror pairs, or ""."""
    seen: set[int] = set()
    for pair in pairs:
        if len(pair) != 2 or len(set(pair)) != 2 or not all(0 <= index < len(names) for index in pair):
            return f"{list(pair)} is not a pair of keypoints"
        if seen & set(pair):
            return f"keypoint {min(seen & set(pair))} is in two pairs"
        seen |= set(pair)
    return ""


def _unique(pairs: list[list[int]]) -> list[list[int]]:
    """Pairs without duplicates, in order."""
    return [list(pair) for pair in dict.fromkeys(map(tuple, pairs))]
