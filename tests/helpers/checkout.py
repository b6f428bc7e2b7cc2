"""A checkout of this repository with a tiny competition as its data, for tests that run its commands as a user does."""

import os
import shutil
import sys
from pathlib import Path

from tests.helpers.small_meteor import paraphrases

REPOSITORY = Path(__file__).parents[2]


def checkout(folder: Path, competition: Path) -> Path:
    """What ./run.sh needs, and `competition` as data, in a folder.

    METEOR has a table that loads at once, and constant sentences are searched for in one step.
    """
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    metrics = folder / "src" / "metrics"
    for name, long, short in (
        ("meteor.py", 'scorer_file("meteor", "data", "paraphrase-en.gz")', f"Path({str(paraphrases(metrics))!r})"),
        ("constant_caption.py", "STEPS = 40", "STEPS = 1"),
    ):
        code = (metrics / name).read_text(encoding="utf-8")
        assert long in code
        (metrics / name).write_text(code.replace(long, short), encoding="utf-8")
    shutil.copytree(competition, folder / "data")
    for name in ("run.sh", "requirements.txt"):
        shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def environment(**more: str) -> dict[str, str]:
    """The variables of a user whose environment is active, with one thread a process."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    variables.pop("PYTHONPATH", None)
    return {**variables, **more}
