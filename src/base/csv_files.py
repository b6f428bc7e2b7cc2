"""Strict reading of CSV files, every fault of the file itself in one clear line, and writing. Standard library only."""

import csv
import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import InputError
from src.base.files import write_text
from src.base.text_files import read_text

LARGEST_CELL = 1 << 20
"""Characters; a comment never comes near it, a quotation mark that is never closed does."""

_LIMIT_LOCK = threading.Lock()


@dataclass(frozen=True)
class Row:
    """One record: the line of the file on which it begins (the header is on line 1) and its cells by column."""

    line: int
    cells: dict[str, str]


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Non-empty records with the line on which each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{path}, line {line}: {error}; a quotation mark that is not closed or not doubled, "
                f"or a cell of more than {LARGEST_CELL} characters"
            ) from None
        if cells:
            yield line, cells
        line = reader.line_num + 1


def _header(path: Path, cells: list[str], required: tuple[str, ...], any_of: tuple[str, ...]) -> list[str]:
    names = [cell.strip() for cell in cells]
    columns = ", ".join(names)
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{path}: column {', '.join(map(repr, doubled))} is there twice; found: {columns}")
    missing = [name for name in required if name not in names]
    if any_of and not set(any_of) & set(names):
        missing.append(" or ".join(any_of))
    if missing:
        hint = "; are the columns separated by commas?" if len(names) == 1 else ""
        raise InputError(f"{path}: column {', '.join(missing)} is missing; found: {columns}{hint}")
    return names


def read_rows(path: Path, required: tuple[str, ...], any_of: tuple[str, ...] = ()) -> list[Row]:
    """All records of a CSV file with a header, in file order; cells are text as it stands.

    path: file. required: columns that must be there; any_of: of these at least one; others are passed on too.
    Raises InputError: no such file, not UTF-8, no header, missing or doubled columns, broken quotes, a record with
    more or fewer cells than the header, a cell above LARGEST_CELL.
    """
    path = Path(path)
    text = read_text(path, "CSV")
    with _LIMIT_LOCK:
        previous = csv.field_size_limit(LARGEST_CELL)
        try:
            records = list(_records(path, text))
        finally:
            csv.field_size_limit(previous)
    if not records:
        raise InputError(f"{path} is empty; expected the columns {', '.join(required + any_of)}")
    names = _header(path, records[0][1], required, any_of)
    for line, cells in records[1:]:
        if len(cells) != len(names):
            raise InputError(
                f"{path}, line {line}: {len(cells)} cells where the header has {len(names)}; "
                "put a cell that contains a comma in quotation marks"
            )
    return [Row(line, dict(zip(names, cells, strict=True))) for line, cells in records[1:]]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a whole CSV file or none."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
