"""Suggestions for misspelled names."""
import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a name, ignoring case, the first of several equal ones; None if none is close."""
    lower = {other.lower(): other for other in reversed([*known])}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return lower[near[0]] if near else None
