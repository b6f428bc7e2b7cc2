"""The log of all submissions, submissions/log.csv; its last column, the leaderboard's score, is for the user."""

import csv
import io
import time
from pathlib import Path

from src.base.files import file_digest, write_bytes

COLUMNS = ("time", "run", "sha256", "local_mos", "local_caption", "leaderboard")


def log_submission(path: Path, submission: Path, run: str, scores: dict[str, float | None]) -> None:
    """Append a line, unless this file of this run is logged already; the bytes that are there stay as they are.

    run: its name. scores: mos and caption out of fold, None where not measured.
    """
    before = path.read_bytes() if path.is_file() else f"{','.join(COLUMNS)}\n".encode()
    text = before.decode("utf-8", "surrogateescape")  # the user may have saved it in another encoding
    entry = {"run": run, "sha256": file_digest(submission)}
    if any(entry.items() <= row.items() for row in csv.DictReader(io.StringIO(text, newline=""))):
        return
    figures = ["" if scores[name] is None else f"{scores[name]:.4f}" for name in ("mos", "caption")]
    line = io.StringIO()
    row = [time.strftime("%Y-%m-%d %H:%M:%S"), *entry.values(), *figures, ""]
    csv.writer(line, lineterminator="\n").writerow(row)
    write_bytes(path, before + (b"" if before.endswith(b"\n") else b"\n") + line.getvalue().encode())
