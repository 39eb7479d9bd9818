"""READMEs and docs: short, name only what exists, say the same in both languages; the table of parameters is the generated one."""
import functools
import glob
import os
import re

import pytest

from tests.conftest import ROOT, call_script
from tests.weights.test_zoo import ZOO_FILES
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
        names = {name for name in names if name not in ZOO_FILES}  # which tests/weights/test_zoo.py looks for
    folder = os.path.dirname(os.path.join(ROOT, page))
    links = set(re.findall(r"\]\(([^)#:]+)\)", re.sub(r"`[^`]*`", "", text)))
    for path in [*(os.path.join(ROOT, name) for name in names), *(os.path.join(folder, name) for name in links)]:
        assert os.path.exists(path), path


def test_who_comes_first_finds_quick_start_set_up_and_tests():
    """In this order, the test command being the one that continuous integration runs."""
    text = read("README.md")
    places = [text.index(command) for command in ("](#quick-start)", "\nbash scripts/quick_start.sh ", "\nbash scripts/setup_env.sh ",
                                                  "\nbash scripts/run_tests.sh ")]
    assert places == sorted(places) and "\nbash scripts/run_tests.sh " in read(".ci/run")


@functools.cache
def options_of(script):
    """The options that a script's --help names."""
    return set(re.findall(r"--[\w.-]+", call_script(script, "--help").stdout))


def test_commands_have_the_options_that_pages_give_them():
    """Of every `python SCRIPT --option ...` in a block of commands; some tools take train.py's, too."""
    checked, takes_trains = 0, ("tools/check_dataset.py", "tools/train_full.py")
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", read(page), re.S):
            lines = re.sub(r"\s#.*", "", block.replace("\\\n", " ")).splitlines()
            for script, words in re.findall(r"^(?:\w+=\S+ )*python ((?:tools/|src/)?\w+\.py)(.*)$", "\n".join(lines), re.M):
                takes = options_of(script) | (options_of("train.py") if script in takes_trains else set())
                assert set(re.findall(r"(?<=\s)--[\w.-]+", words)) <= takes, (page, script, words)
                checked += 1
    assert checked > 40


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_headings(page):
    """As GitHub names them: without punctuation, in lower case, with - for spaces."""
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", read(page)):
        text = read(os.path.normpath(os.path.join(os.path.dirname(page), target)) if target else page)
        headings = [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)]
        assert anchor in headings, (page, target, anchor)


@pytest.mark.parametrize("page", PAGES)
def test_no_command_needs_what_users_do_not_have(page):
    assert "../shared" not in read(page)
