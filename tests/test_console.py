"""src/core/console.py: the log as scripts print it and as programs have it."""
import subprocess
import sys

import pytest

from src.core.console import LOG
from tests.conftest import ROOT

PROGRAM = """import logging, sys
sys.path[0] = {root!r}
{configured}
from src import Predictor
from src.core.console import LOG, log_skipped
LOG.info("told 100%")
log_skipped(["a.jpg"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("configured, said", [
    ("", ""), ("logging.basicConfig(level=logging.INFO)", "INFO:centernet:told 100%\nWARNING:centernet:skipped a.jpg\n"),
    ("logging.basicConfig()", "WARNING:centernet:skipped a.jpg\n"),
    ("logging.basicConfig(level=logging.INFO); logging.getLogger('centernet').setLevel(logging.ERROR)", ""),
])
def test_a_program_shows_and_silences_the_log(configured, said):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(root=ROOT, configured=configured)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and done.stdout == "" and done.stderr == said


def test_scripts_print_messages_as_they_are(console):
    for message in ("told 100% %s", "", "two\nlines\n", "a\u2028b\x0cc"):
        LOG.info(message)
    LOG.debug("details")
    assert console.readouterr() == ("told 100% %s\n\ntwo\nlines\n\na\u2028b\x0cc\n", "")


def test_an_output_that_fails_is_the_scripts_error(console, monkeypatch):
    """logging's own handlers would go on, and `| head` would train to the end."""
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(sys.stdout, "write", broken)
    with pytest.raises(BrokenPipeError):
        LOG.info("told")
