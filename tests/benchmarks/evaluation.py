"""Stand-alone evaluation of 2,000 captions against pycocoevalcap's own classes."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src.metrics.file_evaluation import evaluate_files
from src.metrics.java import java
from src.settings.schema import MetricSettings

PHOTOS, WORDS = 2000, [f"word{i}" for i in range(800)]


def _captions() -> tuple[list[list[str]], list[str]]:
    rng = np.random.default_rng(0)
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


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds with METEOR warm and both bootstrap intervals, and those of pycocoevalcap, which starts METEOR anew."""
    references, candidates = _captions()
    with tempfile.TemporaryDirectory() as folder:
        files = _files(folder, references, candidates)
        evaluate_files(*files, None, MetricSettings(), 0)
        began = time.perf_counter()
        evaluate_files(*files, None, MetricSettings(), 0)
        ours = time.perf_counter() - began
    began = time.perf_counter()
    _theirs(references, candidates)
    yield "evaluate 2,000 captions, METEOR warm, intervals", ours, time.perf_counter() - began, "pycocoevalcap"
