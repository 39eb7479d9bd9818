"""tests/soak/damage.py works: a few inputs of each kind."""
import queue
from unittest import mock

import pytest

from tests.conftest import run_script
from tests.soak.damage import KINDS, child

# These check the peak memory of their process, so they need a new one.
MEASURED = ("photographs", "weight_files")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in MEASURED])
def test_a_few_inputs_are_handled(kind, tmp_path, monkeypatch):
    """In this process, which has loaded the modules that the script's children load; these seeds do not crash it."""
    monkeypatch.chdir(tmp_path)  # some kinds change the folder
    results = queue.Queue()
    try:
        child(kind, range(12, 24), results)
    finally:
        mock.patch.stopall()  # stubs of slow operations
    outcomes = [results.get_nowait() for _ in range(results.qsize())]
    assert [seed for seed, *_ in outcomes] == list(range(12, 24))
    assert {outcome for _, outcome, _ in outcomes} <= {"result", "skip", "error"}, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["settings", *MEASURED])
def test_the_script_counts_the_outcomes(kind):
    done = run_script("tests/soak/damage.py", "--only", kind, "--count", 12, "--seed", 12)
    outcomes = dict(zip(done.stdout.split()[1::2], map(int, done.stdout.split()[2::2])))
    assert outcomes["FAILED"] == 0 and sum(outcomes.values()) == 12
