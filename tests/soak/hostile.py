"""Hostile but well-formed inputs: annotation files, configurations and command lines with some invalid or odd entries.

Used by damage.py. Does not need MindSpore.
"""
import copy
import json

import yaml

from src.core.kinds import is_measure

TEXTS = ("", " ", "a", "1", "-1", "1e3", "nan", "true", "null", "名前", "e\u0301\u202eabc", "\U0001f600", "\udcff",
         "\ud800", "a\nb", "a\0b", "..", "../../x", "a/b", "US$_$", "$^{", "%s", "{0}", "<script>", "&amp;", "\\",
         "x" * 300, "x" * 5000)
NUMBERS = (0, 1, 2, 3, -1, 0.5, -0.0, 255, 10_000, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30,
           10**400, 1e-320, 1e18, 1e38, 1e39, 1e308, float("inf"), float("-inf"), float("nan"))
SHAPES = (None, True, False, [], {}, [[]], [{}], [None], [1, 2], [0, 0, 0, 0], [1, 2, 3, 4], [-5, -5, 1e9, 1e9],
          [5, 5, 1e-9, 3], {"id": 1}, [1] * 1000)


def nested(depth):
    """Nested lists."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


def anything(rng):
    """A random value of a random type."""
    kind = rng.integers(10)
    if kind < 4:
        return TEXTS[rng.integers(len(TEXTS))]
    if kind < 7:
        return NUMBERS[rng.integers(len(NUMBERS))]
    return copy.deepcopy(SHAPES[rng.integers(len(SHAPES))]) if kind < 9 else nested(int(rng.choice([3, 60, 500])))


def entries_of(tree):
    """All (container, key) of a tree of dictionaries and lists."""
    found, left = [], [tree]
    while left:
        container = left.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                left.append(container[key])
    return found


def number_of_changes(rng):
    """The number of changes to an input: mostly one, since an input with many errors is rejected for the first."""
    return int(rng.choice([1, 1, 1, 1, 2, 3]))


def change(tree, rng):
    """Change one entry of a tree: replace, scale, delete, duplicate or rename it, or add another."""
    found = entries_of(tree)
    if not found:
        return
    depth = rng.integers(len(found))
    container, key = found[min(depth, rng.integers(len(found)))]  # prefers the upper levels
    kind = rng.integers(8)
    if kind < 4:
        container[key] = anything(rng)
    elif kind == 4:
        del container[key]
    elif kind == 5 and isinstance(container, list):
        container.insert(int(rng.integers(len(container) + 1)), copy.deepcopy(container[key]))
    elif kind == 6 and is_measure(container[key]):
        container[key] = float(container[key]) * float(rng.choice([-1, 0, 0.001, 1000, 1e9, 1e20]))
    elif isinstance(container, dict):
        name = str(TEXTS[rng.integers(len(TEXTS))]) if kind == 7 else str(key).upper()
        container[name] = container[key] if kind == 6 else anything(rng)
    else:
        other, other_key = found[rng.integers(len(found))]
        container[key] = copy.deepcopy(other[other_key])


def hostile_json(data, rng):
    """The bytes of a JSON file with one to three changes."""
    tree = {"": json.loads(data)}
    for _ in range(number_of_changes(rng)):
        change(tree[""] if isinstance(tree.get(""), (dict, list)) else tree, rng)
    return json.dumps(tree.get("")).encode()


def mixed_ids(data, rng):
    """The bytes of a COCO file with one to three mistakes in ids, names or boxes, as exporters make them."""
    content = json.loads(data)
    images, annotations, categories = (content[name] for name in ("images", "annotations", "categories"))

    def one(entries):
        return entries[rng.integers(len(entries))]

    def variant(value):
        return [str(value), float(value), f" {value} ", f"{value}.0", value][rng.integers(5)]

    boxes = [[3, 3, 0, 5], [900, 3, 9, 9], [9, 9, -4, -4], ["1", "2", "3", "4.5"], [1, 2, 3], None]
    mistakes = [
        lambda: one(images).update(id=one(images)["id"]),
        lambda: one(images).update(file_name=one(images)["file_name"]),
        lambda: images.append({**one(images), "id": 9000}),
        lambda: images.append({**one(images), "file_name": "gone.jpg"}),
        lambda: images.append({**(entry := one(images)), "file_name": f"./{entry['file_name']}"}),
        lambda: (entry := one(images)).update(id=variant(entry["id"])),
        lambda: one(images).pop("width", None),
        lambda: (entry := one(annotations)).update(image_id=variant(entry["image_id"])),
        lambda: one(annotations).update(image_id=one(images)["id"]),
        lambda: one(annotations).update(image_id=77_777),
        lambda: one(annotations).update(id=one([0, one(annotations)["id"], "x", None])),
        lambda: annotations.append(dict(one(annotations))),
        lambda: annotations.extend({**entry, "id": entry["id"]} for entry in list(annotations)),
        lambda: annotations.append({**one(annotations), "id": 8000, "image_id": one(images)["id"]}),
        lambda: one(annotations).update(bbox=one(boxes)),
        lambda: one(annotations).update(segmentation=[], attributes={"rotation": one([90, 45.0, "30", 360, "left"])}),
        lambda: (entry := one(annotations)).update(category_id=one([variant(entry["category_id"]), 7777, None])),
        lambda: one(categories).update(id=variant(one(categories)["id"])),
        lambda: one(annotations).update(area=one([0, -1, 1e9, "9", None])),
        lambda: one(annotations).update(iscrowd=one([1, "1", True, 2])),
        lambda: content.update(annotations=[entry for entry in annotations if entry["image_id"] != one(images)["id"]]),
    ]
    for _ in range(number_of_changes(rng)):
        one(mistakes)()
    return json.dumps(content).encode()


def hostile_yaml(data, rng):
    """The first document of a YAML file with one to three changes, as bytes."""
    tree = next(yaml.safe_load_all(data))
    for _ in range(number_of_changes(rng)):
        change(tree, rng)
    return yaml.safe_dump(tree, allow_unicode=bool(rng.integers(2))).encode("utf-8", "surrogatepass")


ARGUMENTS = ("", " ", "-1", "0", "1", "2", "0.5", "1e400", "nan", "inf", "-0", "0x10", "1_0", "1e12",
             "99999999999999999999", "true", "None", "[]", "[1,", "{}", "[1, 2]", "[0, 0]", "[64, 64]", "[nan, 1]",
             "{a: 1}", "!!python/none", "名前", "\udcff", "e\u0301", "a\nb", ".", "..", "../x", "no/where", "no.json",
             "text.txt", "empty", "pipe", "image.jpg", "broken.json", "a" * 300, "a/" * 200, "%s", "$HOME", "~", "*",
             "[", "?", "--", "-", "-h1", "=", "a,b", ",", "1-0", "0-99999999999", "auto", "CPU")


def plausible(value, rng):
    """A value of the same type as a parameter's, as a command-line argument."""
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, (int, float)):
        return str(type(value)(value * rng.choice([0, 1, 2, 10, 0.5, -1])))
    return str(value)


def hostile_arguments(data, rng, defaults):
    """A JSON command line [script, argument, ...] with one to three changes; defaults: default_config.yaml's values."""
    script, *args = json.loads(data)
    for _ in range(number_of_changes(rng)):
        kind, place = rng.integers(8), int(rng.integers(max(len(args), 1)))
        argument = ARGUMENTS[rng.integers(len(ARGUMENTS))]
        options = [number for number, text in enumerate(args[:-1]) if text.startswith("--")]
        if kind < 4 and options:
            args[options[rng.integers(len(options))] + 1] = argument
        elif kind == 4 and not script.startswith("tools."):
            name = list(defaults)[rng.integers(len(defaults))]
            args += [f"--{name}", rng.choice([argument, plausible(defaults[name], rng)])]
        elif kind == 5 and args:
            del args[place]
        elif kind == 6 and args:
            args[place] = args[place][:-1] if len(args[place]) > 3 else argument
        else:
            args.insert(place, argument)
    return json.dumps([script, *args]).encode()
