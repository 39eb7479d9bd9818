"""Virtual environments with symbolic links to the tests' packages, which takes a second where pip takes a minute.

The requirements and their dependencies determine the packages. pip installs the others as usual.
"""
import importlib.metadata
import os
import shlex
import stat
import venv

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make(folder, requirements, without=()):
    """Create a virtual environment with pip and all installed packages that satisfy requirements, except `without`.

    Returns its bin folder.
    """
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
    """The installed distributions that satisfy requirements, and their dependencies."""
    found, seen = {}, set()
    pending = [(Requirement(text), "") for text in requirements]
    while pending:
        wanted, extra = pending.pop()
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
                pending += [(Requirement(text), extra) for text in distribution.requires or ()]
    return found.values()


def entries(distribution):
    """The paths of a distribution to link: entire packages, but only the contents of folders that distributions may
    share."""
    shared = {}
    for file in distribution.files:
        depth = 1
        while depth < len(file.parts):
            top = "/".join(file.parts[:depth])
            if top not in shared:
                is_package = os.path.exists(distribution.locate_file(f"{top}/__init__.py"))
                shared[top] = not top.endswith(".dist-info") and not is_package
            if not shared[top]:
                break
            depth += 1
        if file.parts[0] != "..":  # not scripts, which name their environment
            yield "/".join(file.parts[:depth])


def plain_compiler(path):
    """Write a wrapper of the C compiler that does not optimize, for the variable CC: it takes a quarter of the time."""
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(os.environ.get("CC", "cc"))} "$@" -O0\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
