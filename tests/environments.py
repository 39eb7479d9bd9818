"""Virtual environments with packages that the tests' own has: linked, which takes a second where pip takes a minute.

Which packages is read from what requirements, and theirs, say. What these ask for and is not linked, pip installs as ever.
"""
import importlib.metadata
import os
import shlex
import stat
import venv

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make(folder, requirements, without=()):
    """Make a virtual environment with pip, and of what requirements name all that is installed here and fits, but for the packages
    `without`; returns its bin folder."""
    venv.create(folder, with_pip=False, symlinks=True)
    site, = folder.glob("lib/python*/site-packages")
    for distribution in closure(["pip", *requirements], {canonicalize_name(name) for name in without}):
        for path in entries(distribution):
            target = site / path
            if not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(distribution.locate_file(path))
    return folder / "bin"


def closure(requirements, without):
    """The installed distributions that requirements name, and those that these need; not those of another version than they take."""
    found, seen = {}, set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        wanted, extra = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in without or wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not wanted.specifier.contains(distribution.version, prereleases=True):
            continue
        found[name] = distribution
        for extra in {"", *wanted.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(Requirement(text), extra) for text in distribution.requires or ()]
    return found.values()


def entries(distribution):
    """The paths to link of a distribution: its packages as a whole; of folders that other distributions may share, what lies in them."""
    shared = {}
    for file in distribution.files:
        depth = 1
        while depth < len(file.parts):
            top = "/".join(file.parts[:depth])
            if top not in shared:
                shared[top] = not top.endswith(".dist-info") and not os.path.exists(distribution.locate_file(f"{top}/__init__.py"))
            if not shared[top]:
                break
            depth += 1
        if file.parts[0] != "..":  # scripts are made anew by whoever needs them
            yield "/".join(file.parts[:depth])


def plain_compiler(path):
    """Make a C compiler at path that does not optimize, for the environment variable CC: it takes a quarter of the time."""
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(os.environ.get("CC", "cc"))} "$@" -O0\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
