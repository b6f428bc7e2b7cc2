"""What a page is made of: plain values that report.html.j2 shows in order."""

import base64
from dataclasses import dataclass, field

from markupsafe import Markup

LONGEST_TEXT = 300
"""Characters of a stranger's text; a damaged table may hold a megabyte in one cell."""


@dataclass(frozen=True)
class Chart:
    """A picture drawn as SVG. text: the same in words, for those who do not see it. note: shown below it.

    legend: labels and colours (classes of the style) of its lines.
    """

    title: str
    svg: Markup
    text: str
    note: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as many as the width has room for."""

    charts: list[Chart]
    kind: str = "charts"


@dataclass(frozen=True)
class Column:
    """A column of a table. numeric: figures, flush right. stranger: text that people or files brought."""

    title: str
    numeric: bool = False
    stranger: bool = False


@dataclass(frozen=True)
class Table:
    """rows: as many cells as columns, "" where there is nothing. strong, faint: the numbers of rows set apart."""

    title: str
    columns: list[Column]
    rows: list[list[str | Markup]]
    note: str = ""
    folded: bool = False
    strong: tuple[int, ...] = ()
    faint: tuple[int, ...] = ()
    kind: str = "table"


@dataclass(frozen=True)
class Photo:
    """A photo with its thumbnail, JPEG as a data address. facts: short lines. references: what people wrote."""

    name: str
    picture: str
    text: str
    facts: list[str]
    caption: str = ""
    references: list[str] = field(default_factory=list)
    more_references: int = 0


@dataclass(frozen=True)
class Photos:
    """A group of photos with what they have in common."""

    title: str
    note: str
    photos: list[Photo]
    kind: str = "photos"


@dataclass(frozen=True)
class Picture:
    """A picture as a data address, with the same in words."""

    title: str
    picture: str
    text: str
    note: str = ""
    kind: str = "picture"


@dataclass(frozen=True)
class Code:
    """Lines to be read or copied as they are."""

    title: str
    lines: list[str]
    note: str = ""
    folded: bool = False
    kind: str = "code"


@dataclass(frozen=True)
class Sentence:
    """A sentence. quote: a stranger's words after it."""

    text: str
    quote: str = ""
    kind: str = "sentence"


Part = Charts | Table | Photos | Picture | Code | Sentence


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading. name: its address within the page."""

    name: str
    title: str
    parts: list[Part]


@dataclass(frozen=True)
class Caution:
    """Something to look at before the score is believed. quote: a stranger's words that it is about."""

    what: str
    advice: str
    quote: str = ""


@dataclass(frozen=True)
class Fact:
    """What a score is read against. run: a stranger's name after the fact's. mark: its mark on the score's strip."""

    name: str
    value: str
    mark: str = ""
    run: str = ""


@dataclass(frozen=True)
class Verdict:
    """A score with what it is to be read against. strip: score, interval and marks on one line, with its text."""

    name: str
    score: str
    interval: str
    strip: Markup
    facts: list[Fact]


@dataclass(frozen=True)
class Page:
    """A whole page. about: facts under the title. looked_for: said where there is no caution."""

    kind: str
    name: str
    about: list[str]
    verdicts: list[Verdict]
    cautions: list[Caution]
    looked_for: str
    sections: list[Section]


def shown(text: str) -> str:
    """A stranger's text of bearable length, without what no file in UTF-8 and no page can hold."""
    text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    kept = (
        c if c >= " " and c != "\x7f" and not "\ud800" <= c <= "\udfff" else " " if c in "\t\n\r" else "�" for c in text
    )
    return "".join(kept)


def within(name: str) -> str:
    """A stranger's name within a sentence, between marks that keep its direction of writing from the rest."""
    return f"\u2068{shown(name)}\u2069"


def data_address(content: bytes, kind: str) -> str:
    """The address that holds a picture itself. kind: jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def number(value: float | None, form: str = ".3f") -> str:
    """A figure, with a minus of full width, and no sign where all its digits are 0; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:{form}}".replace("-", "−")
    return text if any(digit in text for digit in "123456789") else text.lstrip("+−")


def between(low: float | None, high: float | None, form: str = ".3f") -> str:
    """An interval; nothing where there is none."""
    return "" if low is None or high is None else f"[{number(low, form)}, {number(high, form)}]"


def duration(seconds: float) -> str:
    """Seconds as people say them: 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if seconds < 3600:
        return f"{int(seconds // 60)} min" + (f" {int(seconds % 60)} s" if seconds % 60 >= 1 else "")
    return f"{minutes // 60} h {minutes % 60} min"
