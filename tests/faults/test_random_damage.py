"""A tiny competition, damaged at random: each stage ends well or with one clear line, and nothing is harmed.

`python -m tests.benchmarks.damage 500` tries many more, other ones each time.
"""

import os
import signal

import pytest

from tests.benchmarks.damage import drawn
from tests.helpers.damage import Case
from tests.helpers.damaged_runs import Runner, problems, seen

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("SEED", 1129))
"""SEED=n draws other cases."""
NUMBER = 12
FOUND = [
    Case("both", (("a fifo", "train.csv", 0), ("cut", "test/x.jpg", 5))),
    Case("mos", (("names otherwise", "train.csv", 131073), ("column of cells", "train.csv", 1917))),
    Case("mos", (("a device", "test.csv", 0), ("huge header", "train/a.jpg", 2)), places=("no HOME", "long TMPDIR")),
    Case(
        "caption",
        (("cell", "test.csv", 1000000), ("animated", "train/d.jpg", 1281), ("column of cells", "train.csv", 9090)),
        ("data.on_bad_photo=skip",),
    ),
]
"""Cases that once did harm."""


@pytest.fixture(scope="module")
def runner():
    with Runner() as runner:
        yield runner


def test_random_damage_does_no_harm(runner):
    cases = FOUND + drawn(NUMBER, SEED)
    harm = [(case, problem) for case in cases for problem in runner.run(case).problems]
    lines = [f"{problem}\nCASE='{case}' python -m tests.benchmarks.damage" for case, problem in harm]
    assert not harm, "\n".join([f"SEED={SEED}", *lines])


def test_harm_is_seen(runner, tmp_path):
    ended = runner.run(Case(yaml="run.root: ~/elsewhere\n"))
    assert list(ended.codes.values()) == [0] * 8 and not ended.problems, "an undamaged one goes through all stages"
    data = tmp_path / "here" / "data"
    data.mkdir(parents=True)
    (data / "train.csv").write_text("mine")
    before = seen(tmp_path / "here")
    assert not list(problems(Case(), tmp_path, before, 0))
    for name in ("train.csv", "half.json", "half.npy", ".x.1.tmp"):
        (data / name).write_text("{")
    (tmp_path / "codes").write_text("check 0\npreprocess 1\nsplit 3\n")
    (tmp_path / "errors").write_text("Traceback (most recent call last)\n")
    kinds = [problem.split(":")[0] for problem in problems(Case(), tmp_path, before, -signal.SIGALRM)]
    assert kinds == ["hang", "traceback", "exit", "line", *["changed"] * 4, *["half-written"] * 3]
