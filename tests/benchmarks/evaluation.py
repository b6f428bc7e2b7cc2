"""Evaluation of 2,000 captions against pycocoevalcap's own classes; METEOR's start against that with all tables."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.metrics.file_evaluation import evaluate_files
from src.metrics.java import java
from src.metrics.meteor import Meteor, function_words
from src.metrics.paraphrases import paraphrases_of
from src.settings.schema import MetricSettings

PHOTOS, WORDS = 2000, [f"word{i}" for i in range(800)]


def _captions(seed: int) -> tuple[list[list[str]], list[str]]:
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, len(WORDS) + 1)
    frequency /= frequency.sum()

    def caption() -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(5, 20), p=frequency))

    return [[caption() for _ in range(rng.integers(1, 4))] for _ in range(PHOTOS)], [caption() for _ in range(PHOTOS)]


def _files(folder: str, references: list[list[str]], candidates: list[str]) -> tuple[Path, Path]:
    predicted, truth = Path(folder, "P.csv"), Path(folder, "R.csv")
    predicted.write_text("img_name,mos,comments\n" + "".join(f"p{i},{i},{c}\n" for i, c in enumerate(candidates)))
    rows = (f"p{i},{i % 7},{text}\n" for i, group in enumerate(references) for text in group)
    truth.write_text("img_name,mos,comments\n" + "".join(rows))
    return predicted, truth


def _theirs(references: list[list[str]], candidates: list[str]) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    os.environ["PATH"] = f"{java().parent}{os.pathsep}{os.environ['PATH']}"
    truth = PTBTokenizer().tokenize({i: [{"caption": c} for c in group] for i, group in enumerate(references)})
    captions = PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(candidates)})
    for scorer in (Bleu(4), Meteor(), Rouge(), Cider()):
        scorer.compute_score(truth, captions)


def _first_answer(*arguments: Any) -> float:
    """Seconds from the start of METEOR to its first answer."""
    began = time.perf_counter()
    with contextlib.closing(Meteor(*arguments)) as meteor:
        meteor.stats([["the photo is nice"]], ["the photo is nice"])
        return time.perf_counter() - began


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds with METEOR warm and both bootstrap intervals, and those of pycocoevalcap, which starts METEOR anew."""
    references, candidates = _captions(0)
    with tempfile.TemporaryDirectory() as folder:
        evaluate_files(*_files(folder, *_captions(1)), None, MetricSettings(), 0)
        files = _files(folder, references, candidates)
        began = time.perf_counter()
        evaluate_files(*files, None, MetricSettings(), 0)
        ours = time.perf_counter() - began
    began = time.perf_counter()
    _theirs(references, candidates)
    yield "evaluate 2,000 captions, METEOR warm, intervals", ours, time.perf_counter() - began, "pycocoevalcap"
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder, "words.txt")
        words.write_text(" ".join(["the photo is nice", *function_words()]), encoding="utf-8")
        began = time.perf_counter()
        table = paraphrases_of(words)
        made = time.perf_counter() - began
        assert table
        few, whole = _first_answer(*table), _first_answer()
    yield "METEOR's first answer, paraphrases of some words", few, whole, "with all of its paraphrases"
    yield "the same, making the table included", made + few, whole, "with all of its paraphrases"
