"""Shared by all tests: golden vectors, configurations, small data sets."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT]

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from src.model_utils.config import get_config  # noqa: E402

GOLDEN = os.path.join(ROOT, "tests", "golden")


def load_golden(name):
    """The arrays of a golden file, {name: array}; the README beside them says what they are."""
    with np.load(os.path.join(GOLDEN, name)) as file:
        return dict(file)


@pytest.fixture
def make_config():
    """Call it with command-line words to get a Config."""
    return lambda *argv: get_config("test", [str(word) for word in argv])
