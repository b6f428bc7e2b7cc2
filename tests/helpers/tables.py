"""Tables that the pipeline reads and writes."""

import csv
from pathlib import Path


def rows_of(path: str | Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
