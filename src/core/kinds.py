"""What the values in a JSON file may be: tests that are put together, such as list_of(is_number, 3).

Each takes a value and returns whether it is of that kind.
"""
import math


def is_text(value):
    """A text of at least one letter that a file can hold; JSON can also write halves of letters (\\ud800)."""
    return isinstance(value, str) and value != "" and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_string(value):
    """Any text, empty too."""
    return isinstance(value, str)


def is_boolean(value):
    """True or false."""
    return isinstance(value, bool)


def is_measure(value):
    """A number that float64 holds, or one that is not finite, as of a training that broke."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (isinstance(value, float) or abs(value) < 2**1023)


def is_number(value):
    """A finite number."""
    return is_measure(value) and math.isfinite(value)


def is_positive(value):
    """A finite number above 0."""
    return is_number(value) and value > 0


def is_int64(value):
    """A whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_count(value):
    """A whole number from 1 on, of 31 bits: a size or a number of things."""
    return is_int64(value) and 0 < value < 2**31


def one_of(*choices):
    """One of some texts."""
    return lambda value: isinstance(value, str) and value in choices


def or_none(test):
    """What a test takes, or null."""
    return lambda value: value is None or test(value)


def list_of(test, length=None, least=0):
    """A list, of one length or of at least some, all of whose items pass a test."""
    return lambda value: isinstance(value, list) and length in (None, len(value)) and len(value) >= least and all(map(test, value))


def dictionary_of(test):
    """A dictionary all of whose values pass a test."""
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def having(**tests):
    """A dictionary that has these names, with values that pass their tests."""
    return lambda value: isinstance(value, dict) and all(name in value and test(value[name]) for name, test in tests.items())
