"""Captions against references: BLEU, METEOR, ROUGE-L and CIDEr-D as pycocoevalcap computes them, and faster; and WER.

Tokens come from pycocoevalcap's PTB tokenizer and METEOR's word matches from its jar. What pycocoevalcap counts
in Python (BLEU, ROUGE-L, CIDEr-D) is counted with numpy here, and equal to it.
"""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from src.base.errors import InputError
from src.metrics.bleu_cider import bleu_scores, compare
from src.metrics.java import scorer_file, start
from src.metrics.meteor import Meteor, meteor_score
from src.metrics.rouge import rouge_l
from src.metrics.word_error_rate import error_rate, word_errors

_BLANKS = re.compile(r"\s+")


def collapse(text: str) -> str:
    """Every run of white space (line breaks of all kinds included) as one blank, none at the ends.

    The tokenizer works line by line: a caption that holds a line break would shift all later ones.
    """
    return _BLANKS.sub(" ", text).strip()


def tokenize(captions: list[list[str]]) -> list[list[str]]:
    """Captions as the metrics see them: PTB tokens in lower case without punctuation, joined by blanks.

    One Java call for all of them, with the options and the punctuation list of pycocoevalcap's PTBTokenizer.
    Raises InputError where Java cannot run.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    flat = [collapse(text) for group in captions for text in group]
    removed = frozenset(PUNCTUATIONS)
    lines = iter(_ptb(flat) if flat else [])
    return [
        [" ".join(word for word in next(lines).rstrip().split(" ") if word not in removed) for _ in group]
        for group in captions
    ]


def _ptb(lines: list[str]) -> list[str]:
    """Stanford's PTBTokenizer on lines without line breaks: as many lines of tokens."""
    process = start(
        [
            "-cp",
            str(scorer_file("tokenizer", "stanford-corenlp-3.4.1.jar")),
            "edu.stanford.nlp.process.PTBTokenizer",
            "-preserveLines",
            "-lowerCase",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = process.communicate("\n".join([*lines, ""]).encode("utf-8", "replace"))
    if process.returncode != 0:
        said = " ".join(errors.decode("utf-8", "replace").split())[-300:]
        raise InputError(f"the caption tokenizer (Java) failed: {said or f'exit code {process.returncode}'}")
    tokens = output.decode("utf-8").split("\n")[:-1]
    if len(tokens) != len(lines):
        raise RuntimeError(f"the tokenizer made {len(tokens)} lines of {len(lines)} captions")
    return tokens


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one caption per photo, and what they are computed from, photo by photo."""

    bleu: np.ndarray
    """Counts [photos, 10]: matches and n-grams of order 1..4 each, words of the candidate, closest reference length."""
    meteor_stats: np.ndarray
    """METEOR's counts [photos, 23]."""
    rouge: np.ndarray
    """ROUGE-L [photos]."""
    cider: np.ndarray
    """CIDEr-D [photos], with the document frequencies of all evaluated references."""
    errors: np.ndarray
    """Edits from the nearest reference, and its words [photos, 2]."""

    @property
    def photos(self) -> int:
        return len(self.rouge)

    def totals(self) -> dict[str, float]:
        """Corpus scores bleu1, bleu2, bleu3, bleu4, meteor, rouge_l, cider_d, and wer, of which less is better."""
        return {name: float(value[0]) for name, value in self.resampled(np.ones((1, self.photos))).items()}

    def subset(self, rows) -> "CaptionScores":
        """The same for some photos (indices or mask); CIDEr-D keeps the document frequencies of all."""
        parts = (self.bleu, self.meteor_stats, self.rouge, self.cider, self.errors)
        return CaptionScores(*(part[rows] for part in parts))

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Corpus scores [samples] of samples in which photo i stands counts[:, i] times; counts [samples, photos]."""
        counts = np.asarray(counts, dtype=np.float64)
        bleu = bleu_scores(counts @ self.bleu)
        size = counts.sum(axis=1)
        return {
            **{f"bleu{order + 1}": bleu[:, order] for order in range(4)},
            "meteor": meteor_score(counts @ self.meteor_stats),
            "rouge_l": counts @ self.rouge / size,
            "cider_d": counts @ self.cider / size,
            "wer": error_rate(counts @ self.errors),
        }


def score_captions(
    references: list[list[str]], candidates: list[str], meteor: Meteor, tokenized: bool = False
) -> CaptionScores:
    """Score one caption per photo against that photo's references (one or more each).

    tokenized: both went through `tokenize` already. CIDEr-D of a single photo is 0 by its definition.
    """
    if len(references) != len(candidates) or not candidates:
        raise ValueError(f"{len(candidates)} captions for {len(references)} photos")
    if not tokenized:
        *references, last = tokenize([*references, candidates])
        candidates = last
    with ThreadPoolExecutor(max_workers=1) as beside:
        stats = beside.submit(meteor.stats, references, candidates)
        ngrams, rouge = compare(references, candidates), rouge_l(references, candidates)
        bleu, cider = ngrams.bleu_counts, ngrams.cider_d()
        errors = word_errors(references, candidates)
        return CaptionScores(bleu, stats.result(), rouge, cider, errors)
