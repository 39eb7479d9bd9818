"""Both READMEs list every parameter with its default, and name only files that exist."""
import os
import re

import pytest

from src.model_utils.config import load_defaults
from tests.conftest import ROOT


@pytest.mark.parametrize("readme", ["README.md", "README_CN.md"])
def test_every_parameter_is_listed(readme):
    with open(os.path.join(ROOT, readme), encoding="utf-8") as file:
        text = file.read()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", text, re.M))
    values = load_defaults()[0]
    assert list(rows) == list(values)
    for name, value in values.items():
        if isinstance(value, bool):
            assert rows[name] == str(value).lower(), name
        elif isinstance(value, (int, float)):
            assert float(rows[name]) == value, name
        elif isinstance(value, str):
            assert rows[name] == (value or '""'), name


@pytest.mark.parametrize("readme", ["README.md", "README_CN.md", "CONTRIBUTING.md"])
def test_named_files_exist(readme):
    with open(os.path.join(ROOT, readme), encoding="utf-8") as file:
        text = file.read()
    names = set(re.findall(r"(?:scripts|tools|src|tests|docs|configs)/[\w/]+\.(?:pyx|py|sh|yaml|jpg)", text)) - {"configs/mine.yaml"}
    assert names
    for name in names:
        assert os.path.exists(os.path.join(ROOT, name)), name
