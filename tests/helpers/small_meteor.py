"""Scorers that start once or at once, a fixed constant sentence, and no pictures, for tests of other things."""

import gzip
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from src.metrics import java
from src.metrics.constant_caption import ConstantCaption
from src.metrics.meteor import Meteor


def paraphrases(folder: Path) -> Path:
    """A table of one paraphrase in METEOR's format."""
    path = folder / "paraphrases.gz"
    path.write_bytes(gzip.compress(b"0.5\nnice\nlovely\n"))
    return path


def small_meteor(folder: Path) -> Meteor:
    """Its process; close it after use. It matches words, stems and synonyms, and hardly a paraphrase."""
    return Meteor(paraphrases(folder))


class StandingTokenizer:
    """The tokenizer of `src.metrics.caption_scores`, with the same options, in a process that stays."""

    FILLING = ["a" * 1000] * 40
    """Lines that push those before them through all buffers; what they become is read before the next answer."""

    def __init__(self) -> None:
        jar = str(java.scorer_file("tokenizer", "stanford-corenlp-3.4.1.jar"))
        arguments = ["-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = java.start(arguments, stdin=pipe, stdout=pipe, stderr=null)
        self._filled = 0

    def __call__(self, lines: list[str]) -> list[str]:
        """As many lines of tokens."""
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self._write, "\n".join([*lines, *self.FILLING, ""]).encode("utf-8", "replace"))
            for _ in range(self._filled):
                self._read()
            self._filled = len(self.FILLING)
            return [self._read() for _ in lines]

    def _write(self, text: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line.endswith(b"\n"), "the tokenizer has ended"
        return line[:-1].decode()


@cache
def _tokenizer_of(process: int) -> StandingTokenizer:
    return StandingTokenizer()


def standing_tokenizer(lines: list[str]) -> list[str]:
    """Tokenise by the one of this process."""
    return _tokenizer_of(os.getpid())(lines)


def quick_scores(patch: pytest.MonkeyPatch, meteor: Meteor) -> None:
    """Let stages score by `quick_java`, search for no constant sentences, draw coarsely, and no pictures of a run."""
    quick_java(patch, meteor)
    patch.setattr("src.plots.style.DPI", 40)
    fixed_constant(patch)
    for drawing in ("plots.data_histograms.draw_statistics", "plots.training_curves.draw_curves"):
        patch.setattr(f"src.{drawing}", lambda *_, **__: None)
    patch.setattr("src.reports.figures.draw_run", lambda *_: None)


def quick_java(patch: pytest.MonkeyPatch, meteor: Meteor) -> None:
    """Let stages score with this METEOR and a tokenizer that stays."""
    patch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)
    patch.setattr("src.metrics.caption_scores._ptb", standing_tokenizer)


def fixed_constant(patch: pytest.MonkeyPatch) -> None:
    """Let stages take a fixed constant sentence instead of searching for the best."""
    constant = ConstantCaption("the light is nice", 1.0)
    for user in ("metrics.constant_caption", "reports.run_report", "ensembling.caption_selection"):
        patch.setattr(f"src.{user}.constant_sentence", lambda *_, **__: constant)
    patch.setattr("src.ensembling.caption_selection.constant_sentences", lambda sets, *_, **__: [constant] * len(sets))
