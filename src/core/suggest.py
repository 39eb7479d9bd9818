"""What a name that nobody knows may have meant."""
import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a name, capitals aside, the first of equal ones; None if none is near."""
    lower = {other.lower(): other for other in reversed([*known])}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return lower[near[0]] if near else None
