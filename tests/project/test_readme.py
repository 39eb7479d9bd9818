"""READMEs and docs: short, with valid names and links, equal in both languages; the parameter table is up to date."""
import functools
import glob
import os
import re

import pytest

from tests.conftest import ROOT, call_script
from tests.weights.test_zoo import ZOO_FILES
from tools import document_parameters

PAGES = ["README.md", "README_CN.md", "CONTRIBUTING.md",
         *sorted(os.path.relpath(path, ROOT) for path in glob.glob(f"{ROOT}/docs/*.md"))]


def read(page):
    """The text of a page."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        return file.read()


def test_the_parameter_table_is_up_to_date():
    up_to_date = read("docs/parameters.md") == document_parameters.page()
    assert up_to_date, "docs/parameters.md differs from default_config.yaml: run python tools/document_parameters.py"


@pytest.mark.parametrize("readme", ["README.md", "README_CN.md"])
def test_the_readmes_are_short(readme):
    lines = read(readme).splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 100


def test_both_readmes_correspond():
    """Same commands (except comments), links to pages, and figures in tables."""
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
    names -= {"configs/mine.yaml"}  # an example of a user's file
    if page == "docs/differences.md":
        names = {name for name in names if name not in ZOO_FILES}  # checked by tests/weights/test_zoo.py
    folder = os.path.dirname(os.path.join(ROOT, page))
    links = set(re.findall(r"\]\(([^)#:]+)\)", re.sub(r"`[^`]*`", "", text)))
    for path in [*(os.path.join(ROOT, name) for name in names), *(os.path.join(folder, name) for name in links)]:
        assert os.path.exists(path), path


def test_the_readme_leads_from_quick_start_to_setup_to_tests():
    """The test command is the one that continuous integration runs."""
    text = read("README.md")
    commands = [f"\nbash scripts/{name}.sh " for name in ("quick_start", "setup_env", "run_tests")]
    places = [text.index(wanted) for wanted in ("](#quick-start)", *commands)]
    assert places == sorted(places) and "\nbash scripts/run_tests.sh " in read(".ci/run")


@functools.cache
def options_of(script):
    """The options in a script's --help text."""
    return set(re.findall(r"--[\w.-]+", call_script(script, "--help").stdout))


def test_documented_options_exist():
    """In each `python SCRIPT --option ...` of a command block; some tools accept train.py's options, too."""
    checked, takes_parameters = 0, ("tools/check_dataset.py", "tools/train_full.py")
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", read(page), re.S):
            lines = re.sub(r"\s#.*", "", block.replace("\\\n", " ")).splitlines()
            commands = re.findall(r"^(?:\w+=\S+ )*python ((?:tools/|src/)?\w+\.py)(.*)$", "\n".join(lines), re.M)
            for script, arguments in commands:
                options = options_of(script) | (options_of("train.py") if script in takes_parameters else set())
                assert set(re.findall(r"(?<=\s)--[\w.-]+", arguments)) <= options, (page, script, arguments)
                checked += 1
    assert checked > 40


def anchors_of(text):
    """GitHub's anchors of a text's headings: lower case, without punctuation, with - for spaces."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", read(page)):
        text = read(os.path.normpath(os.path.join(os.path.dirname(page), target)) if target else page)
        assert anchor in anchors_of(text), (page, target, anchor)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_refers_to_unpublished_files(page):
    assert "../shared" not in read(page)
