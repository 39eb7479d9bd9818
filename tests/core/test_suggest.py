"""src/core/suggest.py."""
import pytest

from src.core.suggest import suggest


@pytest.mark.parametrize("name, nearest", [
    ("bicicle", "bicycle"), ("CAR", "car"), ("--Batch_sise", "--batch_size"), ("giraffe", None), ("", None),
])
def test_the_closest_name_is_suggested(name, nearest):
    assert suggest(name, ["car", "Car", "bicycle", "--batch_size"]) == nearest
    assert suggest(name, []) is None
