"""Tests of the values in a JSON file, which can be combined, such as list_of(is_number, 3).

Each takes a value and returns whether it is of that kind.
"""
import math
from collections.abc import Callable
from typing import Any

Test = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    """A non-empty string that a file can hold; JSON can also encode lone surrogates (\\ud800)."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= character <= "\udfff" for character in value)


def is_string(value: Any) -> bool:
    """Any string, including an empty one."""
    return isinstance(value, str)


def is_boolean(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_measure(value: Any) -> bool:
    """A number that fits float64, or NaN or infinity, as from a diverged training."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) < 2**1023


def is_number(value: Any) -> bool:
    """A finite number."""
    return is_measure(value) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    """A finite number above 0."""
    return is_number(value) and value > 0


def is_int64(value: Any) -> bool:
    """A 64-bit integer."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_count(value: Any) -> bool:
    """A positive integer below 2^31: a size or a count."""
    return is_int64(value) and 0 < value < 2**31


def one_of(*choices: str) -> Test:
    """One of the given strings."""
    return lambda value: isinstance(value, str) and value in choices


def or_none(test: Test) -> Test:
    """A value that passes a test, or null."""
    return lambda value: value is None or test(value)


def list_of(test: Test, length: int | None = None, least: int = 0) -> Test:
    """A list of the given length, or of at least `least` items, all of which pass a test."""
    def check(value: Any) -> bool:
        return (isinstance(value, list) and length in (None, len(value)) and len(value) >= least
                and all(map(test, value)))

    return check


def dictionary_of(test: Test) -> Test:
    """A dictionary all of whose values pass a test."""
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def dict_with(**tests: Test) -> Test:
    """A dictionary that has these keys, with values that pass their tests."""
    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(name in value and test(value[name]) for name, test in tests.items())

    return check
