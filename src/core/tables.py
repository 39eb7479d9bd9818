"""Tables of text for a log."""
import unicodedata
from collections.abc import Sequence

LONGEST = 28  # letters of a name
GAP = "    "
ROWS = 30  # that stand under each other without a second part


def table(head, rows):
    """Rows of texts under a head as lines: the first cells to the left, the others to the right.

    Many rows go on beside each other, in two or three parts, each under the head.
    """
    rows = [[shown(row[0]), *row[1:]] for row in rows]
    first, *others = (max(map(_width, cells)) for cells in zip(head, *rows))
    widths = [first, *(width + 2 for width in others)]
    lines = [line(row, widths) for row in rows]
    length = max(1, -(-len(lines) // min(3, 1 + len(lines) // ROWS)))
    parts = [lines[start : start + length] for start in range(0, max(1, len(lines)), length)]
    parts = [[line(head, widths), *part] for part in parts]
    return "\n".join(GAP.join(part[number] for part in parts if number < len(part)).rstrip() for number in range(len(parts[0])))


def truncate_middle(rows, most):
    """At most so many rows, an even number, of the start and of the end; a row between them says how many more classes there are.

    Rows that have "-" cells, of classes without objects, give way first: a row at the end says how many they are.
    """
    if len(rows) <= most:
        return rows
    kept = [row for row in rows if "-" not in row[1:]]
    empty, blank = len(rows) - len(kept), [""] * (len(rows[0]) - 1)
    if len(kept) > most:
        kept = [*kept[: most // 2], [f"({len(kept) - most} more classes)", *blank], *kept[-(most // 2) :]]
    return kept + [[f"({empty} without objects)", *blank]] * bool(empty)


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A row of texts in columns of so many places: the first to the left, the others to the right; a longer one moves those after it."""
    first, *others = (" " * (width - _width(cell)) for cell, width in zip(cells, widths))
    return "".join([cells[0] + first, *(space + cell for cell, space in zip(cells[1:], others))])


def _width(text):
    """The places that a text takes on a terminal: Chinese, Japanese and Korean letters take two."""
    return sum(0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def shown(text):
    """A name as one short piece of a line, without control characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def some(names, most=8):
    """The first names of a list, and how many more there are."""
    names = list(names)
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
