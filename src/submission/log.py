"""The log of all submissions, submissions/log.csv; its last column, the leaderboard's score, is for the user."""

import csv
import io
import time
from pathlib import Path

from src.base.files import file_digest, write_bytes

COLUMNS = ("time", "run", "sha256", "local_mos", "local_caption", "leaderboard")


def read_log(path: Path) -> list[dict[str, str]]:
    """The lines of the log by column, none without a file; what the user broke or took out is empty or absent."""
    content = path.read_bytes() if path.is_file() else b""
    text = content.decode("utf-8-sig", "surrogateescape")  # the user may have saved it in another encoding
    return list(csv.DictReader(io.StringIO(text, newline=""), restval=""))


def log_submission(path: Path, submission: Path, run: str, scores: dict[str, float | None]) -> None:
    """Append a line, unless this file of this run is logged already; the bytes that are there stay as they are.

    run: its name. scores: mos and caption out of fold, None where not measured.
    """
    entry = {"run": run, "sha256": file_digest(submission)}
    if any(entry.items() <= row.items() for row in read_log(path)):
        return
    before = path.read_bytes() if path.is_file() else f"{','.join(COLUMNS)}\n".encode()
    figures = ["" if scores[name] is None else f"{scores[name]:.4f}" for name in ("mos", "caption")]
    line = io.StringIO()
    row = [time.strftime("%Y-%m-%d %H:%M:%S"), *entry.values(), *figures, ""]
    csv.writer(line, lineterminator="\n").writerow(row)
    write_bytes(path, before + (b"" if before.endswith(b"\n") else b"\n") + line.getvalue().encode())
