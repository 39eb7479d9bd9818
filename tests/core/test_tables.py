"""src/core/tables.py."""
import unicodedata

from src.core.tables import ROWS, abbreviate, line, shorten_name, table, truncate_middle


def width(text):
    """The columns that a string takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def test_columns_are_aligned():
    lines = table(["class", "AP"], [["a", "0.5"], ["blue car", "-"]]).splitlines()
    assert lines == ["class      AP", "a         0.5", "blue car    -"]


def test_a_line_with_given_widths():
    assert line(["a", "1", "22"], (3, 4, 4)) == "a     1  22"
    assert line(["a longer name", "1"], (3, 4, 4)) == "a longer name   1"


def test_unusual_names_keep_the_columns_aligned():
    rows = [["红细胞", "1"], ["line\nbreak\x1b[31m", "22"], ["x" * 500, "333"]]
    lines = table(["class", "boxes"], rows).splitlines()
    assert len(lines) == 4 and len({width(line) for line in lines}) == 1 and "\x1b" not in "".join(lines)
    assert shorten_name("x" * 500).endswith("...") and len(shorten_name("x" * 500)) < 30


def test_80_classes_are_split_into_three_blocks_that_fit_a_terminal():
    rows = [[f"baseball gl {number:02d}", "0.123", "0.456", "12345"] for number in range(80)]
    lines = table(["class", "AP", "AP50", "objects"], rows).splitlines()
    assert len(lines) == 1 + 27 and max(map(len, lines)) <= 120
    assert lines[0].count("AP50") == 3 and [line.split()[2] for line in lines[1:4]] == ["00", "01", "02"]
    assert sum(line.count("baseball") for line in lines) == 80
    assert len(table(["class", "AP"], [["a", "1"]] * (ROWS - 1)).splitlines()) == ROWS


def test_a_table_without_rows_is_its_head():
    assert table(["class", "AP"], []) == "class  AP"


def test_omitted_rows_are_counted():
    rows = [[str(number), "x"] for number in range(10)]
    assert truncate_middle(rows, 10) == rows
    assert truncate_middle(rows, 4) == [["0", "x"], ["1", "x"], ["(6 more classes)", ""], ["8", "x"], ["9", "x"]]
    assert abbreviate("abc", 2) == "a, b and 1 more" and abbreviate([1, 2], 2) == "1, 2"
    rows[1:4] = [[number, "-"] for number in "123"]
    empty = ["(3 without objects)", ""]
    assert truncate_middle(rows, 4) == [["0", "x"], ["4", "x"], ["(3 more classes)", ""], ["8", "x"], ["9", "x"], empty]
    assert truncate_middle(rows, 8) == [["0", "x"], *([number, "x"] for number in "456789"), empty]
