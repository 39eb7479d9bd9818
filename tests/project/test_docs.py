"""docs/: each page says for whom it is, is in the index and in the site, and its Markdown means there what it means on
GitHub."""
import os
import re

import pytest

from docs import hooks
from tests.conftest import ROOT
from tests.project.test_readme import PAGES, anchors_of, read

DOCS = [page for page in PAGES if page.startswith("docs/")]
ITEM = re.compile(r"( *)(?:[-*+]|\d+\.) ")


def first_line(page):
    """What is wrong with the line below a page's title, or None."""
    opening = [*read(page).split("\n"), "", "", ""][:4]
    if opening[0].startswith("# ") and re.fullmatch(r"For [^.]+\.", opening[2]) and not opening[3]:
        return None
    return f"{page}: the paragraph below its title must be one line that says for whom it is: For everyone who ... ."


def wrong_lists(name, text):
    """Lists that Python-Markdown, the site's, would show as text: [sentence]."""
    wrong, before, in_list = [], "", False
    for number, line in enumerate(re.sub(r"^```.*?^```$", blanked, text, flags=re.M | re.S).split("\n"), 1):
        item = ITEM.match(line)
        if item and len(item[1]) % 4:
            wrong.append(f"{name}, line {number}: indent a list in a list by 4 spaces, else the site joins them")
        if item and before and not in_list and not before.startswith("#"):
            wrong.append(f"{name}, line {number}: put an empty line before the list, else the site shows it as text")
        in_list = bool(item) or in_list and (not line or line.startswith(" ") or bool(before))
        before = line
    return wrong


def blanked(match):
    """As many empty lines as the match has."""
    return "\n" * match[0].count("\n")


def test_each_page_says_for_whom_it_is():
    wrong = list(filter(None, map(first_line, DOCS)))
    assert not wrong, "\n".join(wrong)


def test_each_page_is_in_the_index_and_in_the_sites_navigation():
    index, site, names = read("docs/index.md"), read("mkdocs.yml"), set(map(os.path.basename, DOCS))
    wrong = [f"docs/index.md: add a line that says for which job docs/{name} is"
             for name in names - {"index.md"} if f"]({name}" not in index]
    wrong += [f"mkdocs.yml: add docs/{name} to nav" for name in names if f": {name}\n" not in site]
    assert not wrong, "\n".join(wrong)


def test_each_label_format_is_in_the_index():
    layouts = read("docs/datasets.md").split("\n## Recognized layouts\n")[1].split("\n## ")[0]
    index = read("docs/index.md")
    wrong = [f"docs/index.md: add a line to `I have labels` that links to datasets.md#{anchor}"
             for anchor in anchors_of(layouts) if f"](datasets.md#{anchor})" not in index]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README_CN.md"])
def test_lists_and_tables_look_alike_on_github_and_in_the_site(page):
    wrong = wrong_lists(page, read(page))
    wrong += [f"{page}: the site shows the backslash of {code}; write it without |"
              for code in re.findall(r"^\|.*(`[^`]*\\\|[^`]*`)", read(page), re.M)]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_list_is_found():
    assert len(wrong_lists("a.md", "Text:\n- one\n- two\n")) == 1
    assert len(wrong_lists("a.md", "- one\n  - two\n")) == 1
    assert not wrong_lists("a.md", "# A\n- one\n  more\n\n    - two\n- three\n\n```text\nx\n- no list\n```\n\n1. one\n")


@pytest.mark.parametrize("place, text, in_site", [
    ("voc.md", "[a](training.md#x) ![b](ddd.jpg) [c](#d)", "[a](training.md#x) ![b](ddd.jpg) [c](#d)"),
    ("voc.md", "[a](../README.md#x) [b](https://x.org/a.md)", "[a](repository/README.md#x) [b](https://x.org/a.md)"),
    ("voc.md", "`f[0](../a)` [`c`](../a)\n\n```python\nf[0](../a)\n```", "`f[0](../a)` [`c`](repository/a)\n\n"
                                                                      "```python\nf[0](../a)\n```"),
    ("repository/README.md", "[a](docs/voc.md) [b](CONTRIBUTING.md)", "[a](../voc.md) [b](CONTRIBUTING.md)"),
    ("repository/examples/c/README.md", "[a](../../docs/onnx.md) [b](detect.c)", "[a](../../../onnx.md) [b](detect.c)"),
])
def test_links_of_the_repository_become_links_of_the_site(place, text, in_site):
    assert hooks.with_site_links(text, place) == in_site


def test_linked_files_are_paths_in_the_repository():
    found = set(hooks.linked_files("docs/onnx.md"))
    assert {"examples/c/README.md", "docs/benchmarks.md"} <= found
    assert all(os.path.exists(os.path.join(ROOT, path)) for path in found)


def test_continuous_integration_builds_the_site_and_checks_its_links():
    """Strictly: with --quiet, MkDocs does not count warnings."""
    assert re.search(r"^\.venv/bin/python -m mkdocs build --strict$", read(".ci/run"), re.M)
    settings = read("mkdocs.yml")
    for name in ("omitted_files", "not_found", "anchors", "absolute_links", "unrecognized_links"):
        assert f"{name}: warn" in settings
