"""YOLO's label files: their lines, their expected paths, and the images to which they belong."""
import collections
import os
from collections.abc import Callable, Iterable, Sequence

from ...core.errors import UserError
from ...core.tables import abbreviate
from .formats import first_line, folder_of, images_of, is_label, stem
from .keypoints import TOLERANCE
from .names import plain_name, plain_names
from .yolo_description import Keypoints

MAX_CLASS = 2**31 - 1


def parse_line(line: str, keypoints: Keypoints | None = None) -> tuple[int, list[float], list[list[float]]]:
    """Parse a label line: (class id, box [x, y, width, height], keypoints [[x, y, visibility]]).

    Box, from its upper left corner, and keypoints are in fractions of the image. A line with more than five numbers is
    a polygon, which gives its bounding box, or with Keypoints a box and these, of which absent ones are 0, 0, 0.
    Coordinates may be outside 0 to 1 by TOLERANCE, as in YOLO's own loader; the box is clipped to the image. Raises
    ValueError for an invalid label.
    """
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise ValueError("not all values are numbers") from None
    if keypoints and len(values) != 5 + keypoints.count * keypoints.values:
        raise ValueError(f"{len(values)} numbers; expected {5 + keypoints.count * keypoints.values}: a class, a box of "
                         f"4 and {keypoints.count} keypoints of {keypoints.values} (kpt_shape)")
    hint = "; keypoints need kpt_shape in data.yaml" if len(values) > 5 and not keypoints else ""
    if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0 and not keypoints):
        raise ValueError(f"{len(values)} numbers; expected a class and a box of 4, or a polygon of at least 3 "
                         f"points{hint}")
    label = values[0]
    if not 0 <= label <= MAX_CLASS or not label.is_integer():
        raise ValueError(f"class {line.split()[0][:50]}; expected an integer from 0")
    points = _read_points(values[5:], keypoints.values) if keypoints else []
    values = values[1:5] if keypoints else values[1:]
    coordinates = [*values, *(value for point in points for value in point[:2])]
    outside = next((value for value in coordinates if not -TOLERANCE <= value <= 1 + TOLERANCE), None)
    if outside is not None:
        raise ValueError(f"coordinates outside 0 to 1 ({outside:g}){hint}")
    if len(values) == 4:
        x, y, width, height = values
        return int(label), _inside(x - width / 2, y - height / 2, width, height), points
    left, top = min(values[::2]), min(values[1::2])
    return int(label), _inside(left, top, max(values[::2]) - left, max(values[1::2]) - top), points


def _read_points(values: Sequence[float], count: int) -> list[list[float]]:
    """Keypoints [x, y, visibility] of `count` values each: without visibility, those at 0, 0 are absent."""
    points = [list(values[start : start + count]) for start in range(0, len(values), count)]
    if count == 2:
        points = [[x, y, 2 if x or y else 0] for x, y in points]
    wrong = next((seen for _, _, seen in points if seen not in (0, 1, 2)), None)
    if wrong is not None:
        raise ValueError(f"visibility {wrong:g}; expected 0 (absent), 1 (hidden) or 2 (visible)")
    return [[x, y, seen] if seen else [0, 0, 0] for x, y, seen in points]


def _inside(x: float, y: float, width: float, height: float) -> list[float]:
    """Clip a box, in fractions, to the image; a box inside the image is returned exactly as it is."""
    if x < 0:
        x, width = 0.0, width + x
    if y < 0:
        y, height = 0.0, height + y
    return [x, y, min(width, 1 - x) if x + width > 1 else width, min(height, 1 - y) if y + height > 1 else height]


def label_paths(image: str) -> list[str]:
    """The expected paths of an image's label file: with folder images replaced by labels, next to the image, or in a
    subfolder labels there."""
    root = os.path.splitext(image)[0]
    components = root.split("/")
    paths: list[str] = []
    for index in range(len(components) - 2, -1, -1):
        if components[index].lower() in ("images", "jpegimages"):
            paths = ["/".join([*components[:index], name, *components[index + 1 :]]) + ".txt"
                     for name in ("labels", "Labels")]
            break
    return [*paths, f"{root}.txt", "/".join([*components[:-1], "labels", components[-1]]) + ".txt"]


def match_labels(folder: str, listed: Sequence[tuple[str, str]],
                 files: Sequence[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Match label files to images: ({image: label file}, {image: reason for skipping it}, label files without image).

    Args: listed [(split, image)], the files of the folder. An image without a label file has no objects, unless a label
    file of its name is elsewhere, or its folder holds masks or thumbnails of labeled images. Raises UserError if most
    images of a folder have their label files elsewhere: then the folder name is wrong, not the labels.
    """
    wanted = list(dict.fromkeys(image for _, image in listed))
    txt_files = [path for path in files if path.lower().endswith(".txt")]
    owned, unclear = _owners(wanted, txt_files)
    known = {path for image in images_of(files) for path in label_paths(image)}.union(owned.values())
    folders = {folder_of(path) for path in owned.values()}
    stray = [path for path in txt_files
             if path not in known and (folder_of(path) in folders or is_label(first_line(folder, path)))]
    by_stem = {plain_name(stem(path)): path for path in reversed(stray)}
    elsewhere = {image: by_stem[plain_name(stem(image))] for image in wanted
                 if image not in owned and image not in unclear and plain_name(stem(image)) in by_stem}
    _refuse_folders(folder, listed, elsewhere)
    unclear.update((image, f"its label file is not at {label_paths(image)[0]}, but {path} has its name")
                   for image, path in elsewhere.items())
    unclear.update((image, f"no image in its folder has a label file, but {twin} of the same name has one")
                   for image, twin in _twins(listed, owned).items() if image not in unclear)
    named = set(elsewhere.values())
    return owned, unclear, [path for path in stray if path not in named]


def _owners(images: Iterable[str], txt_files: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """({image: label file}, {image: reason for skipping it}).

    A label file goes to an image that expects exactly its path, else to one that expects it in another spelling
    (plain_name). If several images expect it, as a.jpg and a.png do, it goes to the one for which the path ranks
    highest in label_paths, if that is unique.
    """
    owned: dict[str, str] = {}
    unclear: dict[str, str] = {}
    used: set[str] = set()
    keys: tuple[Callable[[str], str], ...] = (str, plain_name)
    for key in keys:
        known = ({path: path for path in txt_files} if key is str
                 else plain_names(path for path in txt_files if path not in used))
        seekers = collections.defaultdict(list)
        for image in images:
            if image not in owned and image not in unclear:
                ranked = enumerate(map(key, label_paths(image)))
                found = next(((rank, known[path]) for rank, path in ranked if path in known), None)
                if found:
                    seekers[found[1]].append((found[0], image))
        used.update(seekers)
        for path, several in seekers.items():
            nearest = min(rank for rank, _ in several)
            first = [image for rank, image in several if rank == nearest]
            if len(first) == 1:
                owned[first[0]] = path
            for _, image in several:
                if image not in owned:
                    others = abbreviate((other for _, other in several if other != image), 3)
                    unclear[image] = f"its label file may be {path}, but that may also belong to {others}"
    return owned, unclear


def _images_by_folder(listed: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """{folder: images} of the training and validation images in [(split, image)]."""
    folders = collections.defaultdict(set)
    for split, image in listed:
        if split != "test":
            folders[folder_of(image)].add(image)
    return folders


def _twins(listed: Iterable[tuple[str, str]], owned: dict[str, str]) -> dict[str, str]:
    """{image: labeled image of the same name}.

    The images are those of training and validation folders without any label file, in which most images have the name
    of a labeled image elsewhere.
    """
    labeled = {plain_name(stem(image)): image for image in owned}
    twins: dict[str, str] = {}
    for images in _images_by_folder(listed).values():
        found = {image: labeled[plain_name(stem(image))] for image in images if plain_name(stem(image)) in labeled}
        if not images.intersection(owned) and 2 * len(found) > len(images):
            twins.update(found)
    return twins


def _refuse_folders(folder: str, listed: Iterable[tuple[str, str]], elsewhere: dict[str, str]) -> None:
    """Raise UserError if most images of a training or validation folder have label files elsewhere {image: file}."""
    for place, images in _images_by_folder(listed).items():
        found = sorted(images.intersection(elsewhere))
        if 2 * len(found) > len(images):
            expected = dict.fromkeys(folder_of(path) or "." for path in label_paths(found[0]))
            actual = dict.fromkeys(folder_of(elsewhere[image]) or "." for image in found)
            raise UserError(f"{folder}: {len(found)} of {len(images)} images in {place or '.'} have no label file in "
                            f"{' or '.join(expected)} where it is expected, but label files of their names are in "
                            f"{abbreviate(actual, 3)}: rename that folder, or move the files")
