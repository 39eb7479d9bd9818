"""Matching names in label files to files, which may be spelled differently on another machine; similar class names."""
import collections
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Sequence

from ..summary import sample_evenly
from .formats import SAMPLE, folder_of, name_of, split_of


def plain_name(path: str) -> str:
    """Normalize the spelling of a path: macOS decomposes accented characters, exports write a space as %20, and Windows
    ignores case."""
    return unicodedata.normalize("NFC", urllib.parse.unquote(path)).casefold()


def plain_names(paths: Iterable[str]) -> dict[str, str]:
    """{plain_name: path} of the paths whose plain_name is unique."""
    groups = collections.defaultdict(list)
    for path in paths:
        groups[plain_name(path)].append(path)
    return {name: group[0] for name, group in groups.items() if len(group) == 1}


def alike(names: Iterable[str]) -> list[str]:
    """Messages about class names that differ only in case, spaces or hyphens."""
    groups = collections.defaultdict(list)
    for name in names:
        groups[" ".join(re.split(r"[\s_-]+", name.strip().casefold()))].append(name)
    return [f"the classes {' and '.join(map(repr, group))} differ only in case, spaces or hyphens: they count as "
            f"{len(group)}; if they are the same class, give them one name"
            for group in groups.values() if len(group) > 1]


def normalized(name: str) -> str:
    """A path from a label file, with / and without "." and ".."; one that would leave the folder starts at its top."""
    kept: list[str] = []
    for component in name.replace("\\", "/").split("/"):
        if component == "..":
            kept[-1:] = []
        elif component not in ("", "."):
            kept.append(component)
    return "/".join(kept)


def shared(path: str, other: str) -> int:
    """The number of folder names that two paths share."""
    return sum((collections.Counter(path.split("/")[:-1]) & collections.Counter(other.split("/")[:-1])).values())


def match_names(names: Sequence[str], files: Sequence[str], owner: str) -> list[str | None]:
    """The file, or None, of each name in the file `owner`, which may have been written on another machine.

    Names without an exact match are matched by plain_name, to files that no other name matches.
    """
    found = _match_exactly(names, files, owner)
    if None in found:
        used, plain = set(found), plain_names(files)
        again = [plain[name] if name is not None else None
                 for name in _match_exactly(list(map(plain_name, names)), list(plain), owner)]
        found = [path or (other if other not in used else None) for path, other in zip(found, again)]
    return found


def _match_exactly(names: Sequence[str], files: Sequence[str], owner: str) -> list[str | None]:
    """match_names by exact spelling.

    All names share a base folder and a number of leading folders to strip: the pair that matches the most names. Among
    similar pairs, the base folder of owner's split wins. A name that is still unmatched gets the only file of that
    name, unless it is in another split.
    """
    by_name = collections.defaultdict(list)
    for path in files:
        by_name[name_of(path)].append(path)
    votes: collections.Counter[tuple[str, int]] = collections.Counter()
    known = set(files)
    cleaned = [normalized(name) for name in names]
    for name in sample_evenly([name for name in cleaned if name_of(name) in by_name], SAMPLE * 10):
        for path in by_name[name_of(name)]:
            for strip, tail in _tails(name):
                if path == tail or path.endswith(f"/{tail}"):
                    votes[path[: len(path) - len(tail)], strip] += 1
    if not votes:
        return [None] * len(names)
    most = max(votes.values())

    def rank(choice: tuple[str, int]) -> tuple:
        base, strip = choice
        same_split = split_of(base) == split_of(owner)
        return votes[choice] * 2 >= most, -strip, same_split, shared(base, owner), votes[choice], base

    base, strip = max(votes, key=rank)
    found: list[str | None] = []
    for name in cleaned:
        path = base + dict(_tails(name)).get(strip, "")
        others = [] if path in known else [other for other in by_name[name_of(name)]
                                           if f"/{other}".endswith(f"/{name}")]
        alone = len(others) == 1 and None in (split_of(owner), split_of(folder_of(others[0])))
        found.append(path if path in known else others[0] if alone else None)
    return found


def _tails(name: str) -> list[tuple[int, str]]:
    """[(number of leading folders stripped, remainder of a name)]"""
    components = name.split("/")[-16:]  # no real path is deeper
    return [(strip, "/".join(components[strip:])) for strip in range(len(components))]
