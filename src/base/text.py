"""Text that a terminal can show, and text that is a number."""

import math

LONGEST_WORD, LONGEST_LINE = 120, 390
"""Characters of a reported line and of its words; a damaged file may have put a megabyte into a message."""


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]}…{text[1 - longest // 3 :]}"


def one_line(text: str) -> str:
    """The text on one line that a terminal can show: no control characters, nothing endless."""
    shown = "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return _shortened(" ".join(_shortened(word, LONGEST_WORD) for word in shown.split()), LONGEST_LINE)


def said_by(error: Exception) -> str:
    """What an error says on one line, its kind where it says nothing: at most 160 characters."""
    return _shortened(one_line(str(error)), 160) or type(error).__name__


def finite_number(text: str) -> float | None:
    """The finite number that the text is; None for any other text, and for 1_0, which Python alone would take."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
