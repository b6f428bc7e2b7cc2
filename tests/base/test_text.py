"""Text that is shown: on one line, in aligned columns."""

import pytest

from src.base.text import LONGEST_LINE, LONGEST_WORD, finite_number, one_line
from src.base.text_table import text_table


def test_one_line_has_no_control_characters_and_an_end():
    assert one_line("a\n  b\tc\x1b[31m") == "a b c\N{REPLACEMENT CHARACTER}[31m"
    assert len(one_line("x" * 10_000)) == LONGEST_WORD
    assert len(one_line("word " * 10_000)) <= LONGEST_LINE


def test_columns_are_aligned_and_empty_ones_left_out():
    rows = [["run", "score", "remarks", "p"], ["a", "0.5", "", "1"], ["long name", "10.25", "", ""]]
    assert text_table(rows, "<><>", "  ") == "  run        score  p\n  a            0.5  1\n  long name  10.25"
    assert text_table([["run", "p"]]) == "run  p", "a header alone"


def test_a_table_must_be_rectangular():
    with pytest.raises(ValueError):
        text_table([["a", "b"], ["c"]])
    with pytest.raises(ValueError):
        text_table([["a", "b"]], "<")


@pytest.mark.parametrize(
    ("text", "number"),
    [("5", 5), (" -1e3 ", -1000), ("", None), ("nan", None), ("-inf", None), ("1_0", None), ("x", None)],
)
def test_a_number_is_finite_and_written_as_people_do(text, number):
    assert finite_number(text) == number
