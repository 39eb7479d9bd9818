"""tests/soak/damage.py, which no other test runs, works: a few inputs of each kind."""
import pytest

from tests.conftest import run_script
from tests.soak.damage import KINDS


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_inputs_end_well(kind):
    done = run_script("tests/soak/damage.py", "--only", kind, "--count", 12, "--seed", 12)
    outcomes = dict(zip(done.stdout.split()[1::2], map(int, done.stdout.split()[2::2])))
    assert outcomes["FAILED"] == 0 and sum(outcomes.values()) == 12
