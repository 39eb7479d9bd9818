"""An option or a parameter without help, documentation or a test fails, with a sentence that says what to do."""
import os
import re

import pytest

from src.model_utils.config import load_defaults
from tests.conftest import ROOT, call_script
from tests.project.test_readme import read
from tests.project.test_structure import is_script, paths

PAGES = ("docs/*.md", "*.md", "scripts/**/*.md", "examples/**/*.md")
LISTS = ("README.md", "README_CN.md", "CONTRIBUTING.md", "docs/index.md", "docs/scripts.md")  # name many tools
COMMON = {"help", "version", "quiet"}  # options of every tool


# ---------------------------------------------------------------- options of the tools


def options_in(listed):
    """{option: (whether it has help, its choices)} of a --help text, without those of every tool and the parameters of
    train.py."""
    found, known = {}, COMMON | set(load_defaults()[0])
    for block in re.split(r"^  (?=--?\w)", listed, flags=re.M)[1:]:
        names, explained = re.match(r"(.*?)(\s{2,}\S|$)", block, re.S).groups()
        choices = [choice for group in re.findall(r" \{(.*?)\}", names) for choice in group.split(",")]
        names = re.findall(r"(?<!\S)--([\w-]+)", names)
        found |= {f"--{name}": (bool(explained), choices) for name in names if not known & set(names)}
    return found


def neglected(tool, options, pages, tests):
    """What the options of a tool lack: [sentence]; pages and tests {path: text}. Texts that name the tool count."""
    name, wrong = os.path.splitext(os.path.basename(tool))[0], []
    for path in LISTS:
        lines = [line for line in pages.get(path, "").splitlines() if name in line]
        pages = {**pages, path: "\n".join(lines)}
    explained, tried = ({word for text in texts.values() if name in text for word in re.findall(r"-*\w[\w-]*", text)}
                        for texts in (pages, tests))
    for option, (has_help, choices) in options.items():
        wrong += [] if has_help else [f"{tool}: {option} needs help, which --help prints"]
        for word in (option, *(choice for choice in choices if choice != "auto")):
            what = f"{tool}: {option}" if word == option else f"{tool}: {option} {word}"
            wrong += [] if word in explained else [
                f"{what} is not documented: explain it in a page of docs/ that names {name}, or in the table Further "
                "options of docs/scripts.md"]
            wrong += [] if word in tried else [
                f"{what} is not tested: add a test in which it has an effect, to a file of tests/ that names {name}"]
    return wrong


def test_each_option_of_a_tool_has_help_documentation_and_a_test():
    pages, tests = {path: read(path) for path in paths(*PAGES)}, {path: read(path) for path in paths("tests/**/*.py")}
    tools = [path for path in paths("tools/*.py", "scripts/*/*.py") if is_script(path) and path != "tools/eval.py"]
    options = {tool: options_in(call_script(tool, "--help").stdout) for tool in tools}
    assert len(tools) > 20 and sum(map(len, options.values())) > 100
    wrong = [text for tool, found in options.items() for text in neglected(tool, found, pages, tests)]
    assert not wrong, "\n".join(wrong)


HELP = """usage: draw.py [-h] [--color NAME] [--onnx FILE | --seed N]

positional arguments:
  -- --PARAMETER VALUE ...
                        --width and the like

options:
  -h, --help            show this help message and exit
  --color NAME          of the lines, not --fill
  --kind {thin,thick}   of lines
  --map FILE, --chart FILE
                        of the country
  --bare
  --seed N              of the parameter of this name
"""


def test_options_are_found_in_help():
    assert options_in(HELP) == {"--color": (True, []), "--kind": (True, ["thin", "thick"]), "--map": (True, []),
                                "--chart": (True, []), "--bare": (False, [])}


@pytest.mark.parametrize("page, test, lacks", [
    ("`tools/draw.py --color red`", "call('tools/draw.py', '--color', 'red')", []),
    ("`tools/draw.py --colors`", "call('tools/draw.py', '--color', 'red')", ["is not documented: explain it in"]),
    ("`tools/print.py --color red`", "call('tools/draw.py', '--color=red')", ["is not documented: explain it in"]),
    ("`tools/draw.py --color red`", "call('tools/draw.py', '--colors')", ["is not tested: add a test in"]),
])
def test_a_neglected_option_is_named(page, test, lacks):
    found = neglected("tools/draw.py", {"--color": (True, [])}, {"docs/a.md": page}, {"tests/a.py": test})
    assert len(found) == len(lacks) and all("--color" in text and part in text for text, part in zip(found, lacks))
    without_help = neglected("tools/draw.py", {"--color": (False, [])}, {"docs/a.md": page}, {"tests/a.py": test})
    assert without_help[0].endswith("--color needs help, which --help prints") and without_help[1:] == found


def test_a_neglected_choice_is_named():
    options = {"--kind": (True, ["thin", "thick"])}
    found = neglected("tools/draw.py", options, {"a.md": "draw --kind thin"}, {"a.py": "draw, '--kind', 'thick'"})
    assert [text.split(":")[1] for text in found] == [" --kind thin is not tested", " --kind thick is not documented"]


def test_a_list_of_tools_documents_an_option_in_the_tools_own_line():
    pages = {"docs/scripts.md": "| `tools/draw.py` | draws |\n| `tools/print.py` | prints; `--color` |\n"}
    assert neglected("tools/draw.py", {"--color": (True, [])}, pages, {"a.py": "draw --color"})
    assert not neglected("tools/print.py", {"--color": (True, [])}, pages, {"a.py": "print --color"})


# ---------------------------------------------------------------- parameters of default_config.yaml


def names_in(text):
    """The parameters in the code of tests: (names, patterns of names): "--a.b", "a.b", config.a.b, f"--a.{name}.b"."""
    written = set(re.findall(r"[\"'](?:--)?((?:[\w{}]+\.)*[\w{}]+)", text))
    made = [re.sub(r"\{\w+\}", r"\\w+", name.replace(".", r"\.")) for name in written
            if "{" in name and not name.endswith("}")]
    read_there = {".".join(parts[start:]) for path in re.findall(r"\w((?:\.\w+)+)", text)
                  for parts in [path[1:].split(".")] for start in range(len(parts))}
    return written | read_there, re.compile("|".join(made) or "(?!)")


def untested(parameters, text):
    """[sentence] about the parameters that the code of tests does not name."""
    names, made = names_in(text)
    return [f"default_config.yaml: {name} is not tested: add a test in which it has an effect"
            for name in parameters
            if name not in names and not made.fullmatch(name)]


def test_each_parameter_is_tested():
    """By tests of its effect: those of messages do not count."""
    messages = {f"tests/model_utils/test_{name}.py" for name in ("combinations", "config", "options")}
    files = set(paths("tests/**/*.py")) - messages - {os.path.relpath(__file__, ROOT)}
    wrong = untested(load_defaults()[0], "\n".join(map(read, sorted(files))))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name, text, is_tested", [
    ("train_config.SGD.momentum", '"--train_config.SGD.momentum", 1', True),
    ("train_config.SGD.momentum", 'f"--train_config.{name}.momentum"', True),
    ("train_config.SGD.momentum", 'f"--{name}"', False),
    ("train_config.SGD.momentum", '"--train_config.SGD.momentum_2"', False),
    ("train_config.SGD.momentum", '"--train_config.Adam.momentum"', False),
    ("eval_config.K", "config.eval_config.K = 3", True), ("seed", '"--seed"', True), ("seed", "seed", False),
    ("net_config.dep_weight", 'f"{name}_weight"', False), ("net_config.dep_weight", "'net_config.dep_weight'", True),
    ("dataset_config.val_image_dir", 'f"--dataset_config.{split}_image_dir"', True),
])
def test_how_tests_name_parameters(name, text, is_tested):
    assert (not untested([name], text)) == is_tested
