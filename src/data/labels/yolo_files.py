"""YOLO's label files: where the one of an image is looked for, and which image one belongs to."""
import collections
import os

from ...core.errors import UserError
from ...core.tables import some
from .formats import first_line, folder_of, images_of, is_label, stem
from .names import plain_name, plain_names


def label_paths(image):
    """Where the label file of an image may be: in the folder labels for its folder images, beside it, or in a folder labels there."""
    root = os.path.splitext(image)[0]
    components, paths = root.split("/"), []
    for index in range(len(components) - 2, -1, -1):
        if components[index].lower() in ("images", "jpegimages"):
            paths = ["/".join([*components[:index], name, *components[index + 1 :]]) + ".txt" for name in ("labels", "Labels")]
            break
    return [*paths, f"{root}.txt", "/".join([*components[:-1], "labels", components[-1]]) + ".txt"]


def match_labels(folder, parts, files):
    """Which label file is whose: ({image: its label file}, {image: why it is left out}, label files of no image).

    Args: parts [(part, image)], the files of the folder. An image without a label file has no objects, unless a label file of its name lies
    elsewhere, or its folder is one of masks or thumbnails of labelled images. Raises UserError if most images of a folder have theirs
    elsewhere: that is the folder's name, not the labels.
    """
    wanted, texts = list(dict.fromkeys(image for _, image in parts)), [path for path in files if path.lower().endswith(".txt")]
    owned, unclear = _owners(wanted, texts)
    known = {path for image in images_of(files) for path in label_paths(image)}.union(owned.values())
    folders = {folder_of(path) for path in owned.values()}
    stray = [path for path in texts if path not in known and (folder_of(path) in folders or is_label(first_line(folder, path)))]
    by_stem = {plain_name(stem(path)): path for path in reversed(stray)}
    elsewhere = {image: by_stem[plain_name(stem(image))] for image in wanted
                 if image not in owned and image not in unclear and plain_name(stem(image)) in by_stem}
    _refuse_folders(folder, parts, elsewhere)
    unclear.update((image, f"its label file is not where it is looked for ({label_paths(image)[0]}), and {path} has its name")
                   for image, path in elsewhere.items())
    unclear.update((image, f"it has no label file, as none of its folder has, and {twin} of its name has one")
                   for image, twin in _twins(parts, owned).items() if image not in unclear)
    named = set(elsewhere.values())
    return owned, unclear, [path for path in stray if path not in named]


def _owners(images, texts):
    """({image: its label file}, {image: why it is left out}).

    A file goes to the image that looks for it by its very letters, then to one whose name is only written in another way (plain_name).
    What several images look for, a.jpg and a.png, goes to the one that looks there first, if it is one.
    """
    owned, unclear, taken = {}, {}, set()
    for key in (str, plain_name):
        known = dict(zip(texts, texts)) if key is str else plain_names(path for path in texts if path not in taken)
        seekers = collections.defaultdict(list)
        for image in images:
            if image not in owned and image not in unclear:
                found = next(((rank, known[key(path)]) for rank, path in enumerate(label_paths(image)) if key(path) in known), None)
                if found:
                    seekers[found[1]].append((found[0], image))
        taken.update(seekers)
        for path, several in seekers.items():
            nearest = min(rank for rank, _ in several)
            first = [image for rank, image in several if rank == nearest]
            if len(first) == 1:
                owned[first[0]] = path
            unclear.update((image, f"its label file may be {path}, which may also be that of "
                            f"{some((other for _, other in several if other != image), 3)}") for _, image in several if image not in owned)
    return owned, unclear


def _twins(parts, owned):
    """{image: the labelled image of its name} of the folders for training or validation without any label file, most of whose images have
    the name of a labelled one elsewhere."""
    labelled, folders = {plain_name(stem(image)): image for image in owned}, collections.defaultdict(set)
    for part, image in parts:
        if part != "test":
            folders[folder_of(image)].add(image)
    twins = {}
    for images in folders.values():
        found = {image: labelled[plain_name(stem(image))] for image in images if plain_name(stem(image)) in labelled}
        if not images.intersection(owned) and 2 * len(found) > len(images):
            twins.update(found)
    return twins


def _refuse_folders(folder, parts, elsewhere):
    """Raise UserError if most images of a folder for training or validation have their label files elsewhere, {image: label file}."""
    places = collections.defaultdict(set)
    for part, image in parts:
        if part != "test":
            places[folder_of(image)].add(image)
    for place, images in places.items():
        found = sorted(images.intersection(elsewhere))
        if 2 * len(found) > len(images):
            expected = dict.fromkeys(folder_of(path) or "." for path in label_paths(found[0]))
            there = dict.fromkeys(folder_of(elsewhere[image]) or "." for image in found)
            raise UserError(f"{folder}: {len(found)} of {len(images)} images in {place or '.'} have no label file in "
                            f"{' or '.join(expected)}, where it is looked for, and label files of their names are in {some(there, 3)}: "
                            "rename that folder, or move them")
