"""METEOR 1.5 (Denkowski & Lavie 2014) through pycocoevalcap's jar: one Java process for the life of the program.

The process matches words and answers with 23 counts per photo. The score is computed from them here, with the
jar's own formula, so that any subset or resample of photos is scored exactly without asking Java again.
"""

import contextlib
import os
import re
import subprocess
import tempfile
import threading
import weakref
import zipfile
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from src.base.errors import InputError
from src.metrics.java import scorer_file, start
from src.metrics.paraphrases import all_paraphrases, paraphrases_of, words_of

STATS = 23
"""Counts per photo: lengths and function words of candidate and reference; matched content and function words of
both, for each of exact, stem, synonym and paraphrase; chunks; matched words of both. Where all words match in one
chunk, the chunk is not counted, as in the jar's sums."""

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MODULE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
"""The jar's parameters for English, task "rank", which pycocoevalcap uses."""

_SCORE = "SCORE"
_WARM_UP = "the picture has a very nice strong colour but its sharpness and light are really poor here"


def meteor_score(stats: np.ndarray) -> np.ndarray:
    """METEOR of counts [..., 23]: of photos, or of whole corpora where the counts were summed over photos."""
    stats = np.asarray(stats, dtype=np.float64)
    lengths, functions, matches = stats[..., 0:2], stats[..., 2:4], stats[..., 4:20]
    matches = matches.reshape(*matches.shape[:-1], 4, 2, 2)
    by_class = np.einsum("...mkt,m->...kt", matches, MODULE_WEIGHTS)
    weighted = DELTA * by_class[..., 0, :] + (1 - DELTA) * by_class[..., 1, :]
    possible = DELTA * (lengths - functions) + (1 - DELTA) * functions
    chunks, words = stats[..., 20], stats[..., 21:23]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.moveaxis(weighted / possible, -1, 0)
        mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall)
        score = mean * (1.0 - GAMMA * (chunks / words.mean(axis=-1)) ** BETA)
    return np.where(np.isnan(score), 0.0, np.maximum(score, 0.0))


_shared: "Meteor | None" = None


def shared_meteor(words: Path | None = None) -> "Meteor":
    """The one METEOR process of this program; the first call starts it in the background.

    words: a file of the words that it is to match, as preprocess writes it; without one it loads all its tables.
    """
    global _shared
    if _shared is None:
        _shared = Meteor(*((words and paraphrases_of(words)) or ()))
    return _shared


def function_words() -> frozenset[str]:
    """The English words that METEOR takes for function words, which count less than content words."""
    with zipfile.ZipFile(scorer_file("meteor", "meteor-1.5.jar")) as jar:
        return frozenset(jar.read("function/english.words").decode("utf-8").split())


class MeteorCounter(Protocol):
    """What counts METEOR's matches."""

    def stats(self, references: list[list[str]], candidates: list[str]) -> np.ndarray:
        """As `Meteor.stats`."""


class Meteor:
    """The METEOR process. It starts in the background; loading all its tables takes 5 to 15 s and 0.5 GB.

    The first call of `stats` waits for it. Safe to use from several threads; a process that died is restarted
    once per call. It ends with the program, even a killed one: its standard input closes.
    """

    def __init__(self, paraphrases: Path | None = None, words: frozenset[bytes] | None = None):
        """paraphrases: a gzipped table in place of METEOR's own for English; with a small one it starts in a second.

        words: those that the table was made for; the first text with others has it loaded whole.
        """
        self._paraphrases, self._words = paraphrases or all_paraphrases(), words
        self._lock = threading.Lock()
        self._open()
        threading.Thread(target=self._warm_up, daemon=True).start()

    def _open(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (an unread pipe would fill up and block Java)
        jar = scorer_file("meteor", "meteor-1.5.jar")
        # All tables take so long to load that the optimising compiler pays (see `java`): a quarter of the time.
        options = ["-Xmx2G", *["-XX:TieredStopAtLevel=4"] * (self._paraphrases == all_paraphrases())]
        # Without -a the jar does not find its paraphrases in a folder whose name holds a blank.
        self._process = start(
            [*options, "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm", "-a", str(self._paraphrases)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())

    def _warm_up(self) -> None:
        """Let Java compile its inner loops before the first photos are scored."""
        words = _WARM_UP.split()
        sentences = [" ".join(words[(i * step) % len(words)] for i in range(12)) for step in range(1, 17)]
        with self._lock, contextlib.suppress(_Died):
            if self._finalizer.alive:
                self._ask([_line([one], other) for one in sentences for other in sentences])

    def close(self) -> None:
        """End the process; a later call of `stats` starts a new one."""
        with self._lock:
            self._finalizer()

    def stats(self, references: list[list[str]], candidates: list[str]) -> np.ndarray:
        """Counts [photos, 23] of each candidate against its best reference.

        references: tokenised captions of each photo; candidates: one tokenised caption per photo.
        Raises InputError where Java cannot run.
        """
        lines = [_line(*pair) for pair in zip(references, candidates, strict=True)]
        if not lines:
            return np.zeros((0, STATS))
        with self._lock:
            if self._words is not None and not words_of(line.removeprefix(_SCORE) for line in lines) <= self._words:
                self._paraphrases, self._words = all_paraphrases(), None
                self._finalizer()
            if not self._finalizer.alive:
                self._open()
            try:
                return self._ask(lines)
            except _Died:
                self._finalizer()
                self._open()
            try:
                return self._ask(lines)
            except _Died as death:
                reason = f"METEOR's Java process ended twice ({death}); it needs about 1 GB of memory"
                raise InputError(reason) from None

    def _ask(self, lines: list[str]) -> np.ndarray:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        writer = threading.Thread(target=_write, args=(stdin, lines), daemon=True)  # or both pipes could fill up
        writer.start()
        rows = np.empty((len(lines), STATS))
        for row in rows:
            answer = stdout.readline().split()
            if len(answer) != STATS:
                self._process.kill()
                writer.join()
                raise _Died(self._reason(answer))
            row[:] = answer
        writer.join()
        matched = rows[:, 4:20].reshape(-1, 8, 2).sum(axis=1)
        rows[(matched == rows[:, :2]).all(axis=1) & (rows[:, 20] == 1), 20] = 0
        return rows

    def _reason(self, answer: list[bytes]) -> str:
        self._process.wait()
        self._errors.seek(0)
        message = self._errors.read()[:300].decode("utf-8", "replace").split()
        unexpected = b" ".join(answer)[:100].decode("utf-8", "replace")
        return " ".join(message) or unexpected or f"exit code {self._process.returncode}, no message"


def meteor_stats(references: list[list[str]], candidates: list[str], meteor: MeteorCounter | None = None) -> np.ndarray:
    """As `Meteor.stats`, by the one process of this program unless another counter is given."""
    return (meteor or shared_meteor()).stats(references, candidates)


class CachedMeteor:
    """That process with a cache: a caption and its references are counted once, however often they are scored."""

    def __init__(self) -> None:
        self._cache: dict[tuple[str, ...], np.ndarray] = {}

    def stats(self, references: list[list[str]], candidates: list[str]) -> np.ndarray:
        """As `Meteor.stats`."""
        keys = [(caption, *group) for caption, group in zip(candidates, references, strict=True)]
        new = list(dict.fromkeys(key for key in keys if key not in self._cache))
        if new:
            counts = shared_meteor().stats([list(group) for _, *group in new], [caption for caption, *_ in new])
            self._cache |= zip(new, counts, strict=True)
        return np.stack([self._cache[key] for key in keys])


class _Died(Exception):
    """The process gave no answer."""


def _line(references: list[str], candidate: str) -> str:
    if not references:
        raise ValueError("a photo without references cannot be scored")
    return " ||| ".join([_SCORE, *(_one_field(text) for text in (*references, candidate))]) + "\n"


def _one_field(text: str) -> str:
    return re.sub(r"[\r\n]", " ", text.replace("|||", "")).encode("utf-8", "replace").decode("utf-8")


def _write(stream: IO[bytes], lines: list[str]) -> None:
    with contextlib.suppress(BrokenPipeError, ValueError):
        stream.write("".join(lines).encode("utf-8"))
        stream.flush()


def _end(process: subprocess.Popen, owner: int) -> None:
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert stream
            stream.close()
