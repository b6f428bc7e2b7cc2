"""A checkout of this repository with a tiny competition as its data, for tests that run its commands as a user does."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.small_meteor import paraphrases
from tests.helpers.warm_python import FORKING

REPOSITORY = Path(__file__).parents[2]


def checkout(folder: Path, competition: Path) -> Path:
    """What ./run.sh needs, and `competition` as data, in a folder.

    METEOR has a table that loads at once, constant sentences are searched for in one step, pictures are coarse, and any
    edit counts as other code.
    """
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("*.pyc.*"))
    table = paraphrases(folder / "src" / "metrics")
    for name, long, short in (
        ("metrics/paraphrases.py", 'scorer_file("meteor", "data", "paraphrase-en.gz")', f"Path({str(table)!r})"),
        ("metrics/constant_caption.py", "STEPS = 40", "STEPS = 1"),
        ("metrics/constant_caption.py", "BEAM = 5", "BEAM = 1"),
        ("pipeline/source_code.py", "digest(_dump(_WhatComputes().visit(tree)))", "digest(text)"),
        ("plots/style.py", 'format="png", dpi=DPI', 'format="png", dpi=20'),
    ):
        code = (folder / "src" / name).read_text(encoding="utf-8")
        assert long in code
        (folder / "src" / name).write_text(code.replace(long, short), encoding="utf-8")
    shutil.copytree(competition, folder / "data")
    for name in ("run.sh", "requirements.txt"):
        shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def forking(folder: Path, more: Sequence[str] = ()) -> dict[str, str]:
    """The variables with which run.sh's stages are forked from the process that starts them. folder: an empty one.

    more: what that process imports besides the usual packages.
    """
    code = FORKING.format(modules=["src.pipeline.stages"], more=list(more))
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return environment(PYTHONPATH=str(folder))


def environment(**more: str) -> dict[str, str]:
    """The variables of a user whose environment is active, with one thread a process."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    variables.pop("PYTHONPATH", None)
    return {**variables, **more}
