"""What the names in label files mean: files that may be called otherwise, on another machine, and classes."""
import collections
import re
import unicodedata
import urllib.parse

from ..summary import sample_evenly
from .formats import SAMPLE, folder_of, name_of, part_of


def plain_name(path):
    """What a path has in common with the ways to write it: macOS takes letters and their accents apart, exports write a space as %20, and
    Windows does not tell capitals apart."""
    return unicodedata.normalize("NFC", urllib.parse.unquote(path)).casefold()


def plain_names(paths):
    """{plain_name: path} of those paths that share theirs with no other."""
    groups = collections.defaultdict(list)
    for path in paths:
        groups[plain_name(path)].append(path)
    return {name: group[0] for name, group in groups.items() if len(group) == 1}


def alike(names):
    """Sentences about class names that differ in capitals and spaces alone."""
    groups = collections.defaultdict(list)
    for name in names:
        groups[" ".join(re.split(r"[\s_-]+", name.strip().casefold()))].append(name)
    return [f"the classes {' and '.join(map(repr, group))} differ in capitals, spaces or hyphens alone: they count as {len(group)}; "
            "if they are one, give them one name" for group in groups.values() if len(group) > 1]


def normalized(name):
    """A path as a label file names it, with / and without "." and ".."; one that leads out of the folder begins there."""
    kept = []
    for component in name.replace("\\", "/").split("/"):
        if component == "..":
            kept[-1:] = []
        elif component not in ("", "."):
            kept.append(component)
    return "/".join(kept)


def shared(path, other):
    """How many folders of a path another path has, too."""
    return sum((collections.Counter(path.split("/")[:-1]) & collections.Counter(other.split("/")[:-1])).values())


def match_names(names, files, owner):
    """The file that each of the names means, or None; the names stand in the file `owner`, and were perhaps written on another machine.

    What is not found by its very letters is what is only written in another way (plain_name), if no other name means it.
    """
    found = _match_exactly(names, files, owner)
    if None in found:
        taken, plain = set(found), plain_names(files)
        again = map(plain.get, _match_exactly(list(map(plain_name, names)), list(plain), owner))
        found = [path or (other if other not in taken else None) for path, other in zip(found, again)]
    return found


def _match_exactly(names, files, owner):
    """match_names, by the very letters.

    All are taken alike: the folder that they begin in and the number of their first folders that are left out are those that most of them
    are found with. Of several such, the part of the data set decides that the folder and `owner` belong to. What then is not found is the
    only file of its name, unless that is of another part.
    """
    by_name = collections.defaultdict(list)
    for path in files:
        by_name[name_of(path)].append(path)
    votes, known = collections.Counter(), set(files)
    cleaned = [normalized(name) for name in names]
    for name in sample_evenly([name for name in cleaned if name_of(name) in by_name], SAMPLE * 10):
        for path in by_name[name_of(name)]:
            for strip, tail in _tails(name):
                if path == tail or path.endswith(f"/{tail}"):
                    votes[path[: len(path) - len(tail)], strip] += 1
    if not votes:
        return [None] * len(names)
    most = max(votes.values())

    def rank(choice):
        begin, strip = choice
        return votes[choice] * 2 >= most, -strip, part_of(begin) == part_of(owner), shared(begin, owner), votes[choice], begin

    begin, strip = max(votes, key=rank)
    found = []
    for name in cleaned:
        path = begin + dict(_tails(name)).get(strip, "")
        others = [] if path in known else [other for other in by_name[name_of(name)] if f"/{other}".endswith(f"/{name}")]
        alone = len(others) == 1 and None in (part_of(owner), part_of(folder_of(others[0])))
        found.append(path if path in known else others[0] if alone else None)
    return found


def _tails(name):
    """[(folders left out, the rest of a name)]"""
    components = name.split("/")[-16:]  # no honest path is deeper
    return [(strip, "/".join(components[strip:])) for strip in range(len(components))]
