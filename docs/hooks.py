"""MkDocs hooks: the repository's files that pages link to are part of the site, in its folder repository/.

So a link such as ../README.md or ../examples/c/README.md leads to a page on GitHub and in the site, and MkDocs checks
it. A page of docs/ is at the site's top; another file has its path in the repository, below repository/.
"""
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = "repository/"
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.M | re.S)
LINK = re.compile(r"(?<=\]\()[^)#\s]+(?=[)#])")  # without its anchor


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside docs/ that the pages link to, directly or through each other."""
    from mkdocs.structure.files import File, InclusionLevel

    waiting = [source_of(file.src_uri) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        for path in sorted(set(linked_files(waiting.pop())) - seen):
            seen.add(path)
            absolute = os.path.join(ROOT, path)
            if not path.startswith("docs/") and os.path.isfile(absolute):
                files.append(File.generated(config, place_of(path), abs_src_path=absolute,
                                            inclusion=InclusionLevel.NOT_IN_NAV))
                waiting += [path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with the links that the site needs."""
    return with_site_links(markdown, page.file.src_uri)


def with_site_links(markdown: str, place: str) -> str:
    """The text of the page at a place of the site, with the links that the site needs; code stays."""
    def mapped(match: re.Match) -> str:
        link = match[0]
        if is_url(link):
            return link
        return os.path.relpath(place_of(target(source_of(place), link)), os.path.dirname(place) or ".")

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(mapped, text) for text in parts[::2]]
    return "".join(parts)


def linked_files(path: str) -> Iterator[str]:
    """The paths in the repository that a page of the repository links to."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        text = CODE.sub("", file.read())
    return (target(path, link) for link in LINK.findall(text) if not is_url(link))


def is_url(link: str) -> bool:
    """Whether a link leads out of the repository."""
    return bool(urlsplit(link).scheme)


def target(source: str, link: str) -> str:
    """The path in the repository of a link in its file source."""
    return os.path.normpath(os.path.join(os.path.dirname(source), link))


def place_of(path: str) -> str:
    """The place in the site of a path in the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else FOLDER + path


def source_of(place: str) -> str:
    """The path in the repository of a place in the site."""
    return place.removeprefix(FOLDER) if place.startswith(FOLDER) else f"docs/{place}"
