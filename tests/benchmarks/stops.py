"""How long the stages take to stop, asked at 50 random moments over all of them. STOPS=8 asks less often."""

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from src.demo.competition import make_competition
from tests.helpers.checkout import checkout
from tests.helpers.stops import LONGEST, SETTINGS, stages_stopped

STOPS = int(os.environ.get("STOPS", 50))


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds of the longest stop of each stage; the submission is that of an undisturbed run."""
    seed = int(os.environ.get("SEED", random.randrange(10**6)))
    with tempfile.TemporaryDirectory() as place:
        make_competition(Path(place, "data"), progress=False, train=60, test=20)
        folders = [checkout(Path(place, name), Path(place, "data")) for name in ("stopped", "undisturbed")]
        stops = stages_stopped(*folders, SETTINGS, STOPS, seed)
        submissions = {(folder / "submissions" / "submission.csv").read_bytes() for folder in folders}
    assert len(submissions) == 1, "the submissions differ"
    for stage in dict.fromkeys(stage for stage, _ in stops):
        seconds = [ended.seconds for name, ended in stops if name == stage]
        yield f"{stage}: longest of {len(seconds)} stops (SEED={seed})", max(seconds), LONGEST, "the seconds allowed"
