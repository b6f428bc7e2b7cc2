"""Tables of text for terminals and reports."""

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], sides: str = "", indent: str = "") -> str:
    """Rows of as many cells each, as lines of aligned columns two blanks apart; the first row is the header.

    sides: "<" or ">" for each column, its cells to the left or to the right; all to the left where it is not given.
    A column all of whose cells below the header are empty is left out.
    """
    header, *body = rows
    sides = sides or "<" * len(header)
    if len(sides) != len(header):
        raise ValueError(f"{len(sides)} sides for {len(header)} columns")
    columns = []
    for side, *cells in zip(sides, *rows, strict=True):
        if any(cells[1:]) or not body:
            width = max(map(len, cells))
            columns.append([f"{cell:{side}{width}}" for cell in cells])
    return "\n".join(f"{indent}{'  '.join(line)}".rstrip() for line in zip(*columns, strict=True))
