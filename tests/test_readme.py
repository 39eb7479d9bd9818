"""READMEs and docs: short, name only what exists, say the same in both languages; the table of parameters is the generated one."""
import glob
import os
import re

import pytest

from tests.conftest import ROOT
from tests.test_zoo import ZOO_FILES
from tools import document_parameters

PAGES = ["README.md", "README_CN.md", "CONTRIBUTING.md", *sorted(os.path.relpath(path, ROOT) for path in glob.glob(f"{ROOT}/docs/*.md"))]


def read(page):
    """The text of a page."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        return file.read()


def test_the_table_of_parameters_is_generated():
    """python tools/document_parameters.py writes it anew."""
    assert read("docs/parameters.md") == document_parameters.page()


@pytest.mark.parametrize("readme", ["README.md", "README_CN.md"])
def test_the_readmes_are_short(readme):
    lines = read(readme).splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 100


def test_both_readmes_say_the_same():
    """The same commands (but for comments), links to pages, and figures in their tables."""
    def commands(text):
        blocks = re.findall(r"```(?:bash|python|text|bibtex)\n(.*?)```", text, re.S)
        return [re.sub(r"\s*#.*", "", block).split() for block in blocks]

    def figures(text):
        return [re.findall(r"\d+(?:\.\d+)?", line) for line in text.splitlines() if line.startswith("|")]

    english, chinese = read("README.md"), read("README_CN.md")
    assert commands(english) == commands(chinese)
    assert re.findall(r"\]\(([\w/.-]+)\)", english)[1:] == re.findall(r"\]\(([\w/.-]+)\)", chinese)[1:]
    assert figures(english) == figures(chinese)
    assert english.count("\n## ") == chinese.count("\n## ")


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    text = read(page)
    names = set(re.findall(r"(?:scripts|tools|src|tests|docs|configs)/[\w/-]+\.(?:pyx|py|sh|yaml|jpg|svg|md)", text))
    names -= {"configs/mine.yaml"}  # the reader's
    if page == "docs/differences.md":
        names = {name for name in names if name not in ZOO_FILES}  # which tests/test_zoo.py looks for
    folder = os.path.dirname(os.path.join(ROOT, page))
    links = set(re.findall(r"\]\(([^)#:]+)\)", re.sub(r"`[^`]*`", "", text)))
    for path in [*(os.path.join(ROOT, name) for name in names), *(os.path.join(folder, name) for name in links)]:
        assert os.path.exists(path), path


@pytest.mark.parametrize("page", PAGES)
def test_no_command_needs_what_users_do_not_have(page):
    assert "../shared" not in read(page)
