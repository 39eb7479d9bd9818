"""Text tables for the log."""
import unicodedata
from collections.abc import Iterable, Sequence

LONGEST = 28  # characters of a name
GAP = "    "
ROWS = 30  # of a table in one block


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of strings under a head, as lines: the first column left-aligned, the others right-aligned.

    A long table is split into two or three blocks side by side, each under the head.
    """
    rows = [[shorten_name(row[0]), *row[1:]] for row in rows]
    first, *others = (max(map(_width, cells)) for cells in zip(head, *rows))
    widths = [first, *(width + 2 for width in others)]
    lines = [line(row, widths) for row in rows]
    length = max(1, -(-len(lines) // min(3, 1 + len(lines) // ROWS)))
    blocks = [lines[start : start + length] for start in range(0, max(1, len(lines)), length)]
    blocks = [[line(head, widths), *block] for block in blocks]
    return "\n".join(GAP.join(block[number] for block in blocks if number < len(block)).rstrip()
                     for number in range(len(blocks[0])))


def truncate_middle(rows: list[list[str]], most: int, column: slice = slice(1, None)) -> list[list[str]]:
    """At most `most` rows, an even number, from the start and the end; a row between them counts the omitted classes.

    Rows with "-" in the column, of classes without objects, are omitted first; a row at the end counts them.
    """
    if len(rows) <= most:
        return rows
    kept = [row for row in rows if "-" not in row[column]]
    empty, blank = len(rows) - len(kept), [""] * (len(rows[0]) - 1)
    if len(kept) > most:
        kept = [*kept[: most // 2], [f"({len(kept) - most} more classes)", *blank], *kept[-(most // 2) :]]
    return kept + [[f"({empty} without objects)", *blank]] * bool(empty)


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells in columns of these widths, the first left-aligned, the others right-aligned; a longer cell shifts those
    after it."""
    first, *others = (" " * (width - _width(cell)) for cell, width in zip(cells, widths))
    return "".join([cells[0] + first, *(space + cell for cell, space in zip(cells[1:], others))])


def _width(text: str) -> int:
    """The columns that a string takes on a terminal: two for a Chinese, Japanese or Korean character."""
    return sum(0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
               for character in text)


def shorten_name(text: str) -> str:
    """A name for a table, shortened and without control characters."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def abbreviate(names: Iterable[object], most: int = 8) -> str:
    """The first names of a list, and the number of further ones."""
    names = list(names)
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
