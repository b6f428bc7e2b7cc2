"""The log of all submissions, submissions/log.csv; its last column, the leaderboard's score, is for the user."""

import csv
import io
import time
from pathlib import Path

from src.base.files import file_digest, write_text

COLUMNS = ("time", "run", "sha256", "local_mos", "local_caption", "leaderboard")


def log_submission(path: Path, submission: Path, run: str, scores: dict[str, float | None]) -> None:
    """Append a line, unless this file of this run is logged already; the text that is there stays as it is.

    run: its name. scores: mos and caption out of fold, None where not measured.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ",".join(COLUMNS) + "\n"
    entry = {"run": run, "sha256": file_digest(submission)}
    if any(entry.items() <= row.items() for row in csv.DictReader(io.StringIO(text))):
        return
    figures = ["" if scores[name] is None else f"{scores[name]:.4f}" for name in ("mos", "caption")]
    line = io.StringIO()
    row = [time.strftime("%Y-%m-%d %H:%M:%S"), *entry.values(), *figures, ""]
    csv.writer(line, lineterminator="\n").writerow(row)
    write_text(path, text + ("" if text.endswith("\n") else "\n") + line.getvalue())
