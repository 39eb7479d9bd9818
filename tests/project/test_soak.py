"""tests/soak/damage.py, which no other test runs, works: a few inputs of each kind."""
import queue
from unittest import mock

import pytest

from tests.conftest import run_script
from tests.soak.damage import KINDS, child

MEASURED = ("photographs", "weight_files")  # the memory that a process has had at most says nothing of what runs late in it


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in MEASURED])
def test_a_few_inputs_end_well(kind, tmp_path, monkeypatch):
    """In this process, which has loaded what the script's children load: these seeds' inputs are known not to end it."""
    monkeypatch.chdir(tmp_path)  # some kinds go elsewhere
    told = queue.Queue()
    try:
        child(kind, range(12, 24), told)
    finally:
        mock.patch.stopall()  # what takes the place of long work there
    outcomes = [told.get_nowait() for _ in range(told.qsize())]
    assert [seed for seed, *_ in outcomes] == list(range(12, 24))
    assert {outcome for _, outcome, _ in outcomes} <= {"result", "skip", "error"}, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["settings", *MEASURED])
def test_the_script_counts_what_its_processes_tell(kind):
    done = run_script("tests/soak/damage.py", "--only", kind, "--count", 12, "--seed", 12)
    outcomes = dict(zip(done.stdout.split()[1::2], map(int, done.stdout.split()[2::2])))
    assert outcomes["FAILED"] == 0 and sum(outcomes.values()) == 12
