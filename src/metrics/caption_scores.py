"""Captions against references: BLEU, METEOR, ROUGE-L and CIDEr-D, equal to pycocoevalcap's but faster; and WER.

Tokens come from pycocoevalcap's PTB tokenizer and METEOR's word matches from its jar. BLEU, ROUGE-L and CIDEr-D, which
pycocoevalcap counts in Python, are counted with numpy.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from src.base.errors import InputError
from src.base.worker_pool import thread_pool
from src.metrics.bleu_cider import bleu_scores, compare
from src.metrics.java import run, scorer_file
from src.metrics.meteor import MeteorCounter, meteor_score, meteor_stats
from src.metrics.rouge import rouge_l
from src.metrics.word_error_rate import error_rate, word_errors

_BLANKS = re.compile(r"\s+")
_PLAIN = re.compile(r"[a-z]+(?: [a-z]+)*")
_MOST_ANSWERS = 200_000
_answers: dict[str, str] = {}  # of the tokenizer, by line


def collapse(text: str) -> str:
    """Every run of white space (line breaks of all kinds included) as one blank, none at the ends.

    The tokenizer works line by line: a line break within a caption would assign all later captions to wrong photos.
    """
    return _BLANKS.sub(" ", text).strip()


def tokenize(captions: list[list[str]]) -> list[list[str]]:
    """Captions as the metrics see them: PTB tokens in lower case without punctuation, joined by blanks.

    With the options and the punctuation list of pycocoevalcap's PTBTokenizer; Java is asked for what it has not
    answered before. Raises InputError where Java cannot run.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    removed = frozenset(PUNCTUATIONS)
    lines = iter(_tokenized_lines([collapse(text) for group in captions for text in group]))
    return [
        [" ".join(word for word in next(lines).rstrip().split(" ") if word not in removed) for _ in group]
        for group in captions
    ]


def _tokenized_lines(lines: list[str]) -> list[str]:
    """As `_ptb`. What captioners write is made of plain words, which the tokenizer leaves as they are in any sentence
    where it does so with each alone ("cannot" is none of them): it is asked once for each word."""
    if len(_answers) > _MOST_ANSWERS:
        _answers.clear()
    plain = {line: line.split(" ") for line in lines if _PLAIN.fullmatch(line)}
    asked = dict.fromkeys(word for words in plain.values() for word in words)
    asked |= dict.fromkeys(line for line in lines if line not in plain)
    answers = {text: tokens for text in asked if (tokens := _answers.get(text)) is not None}

    def ask(texts: list[str]) -> None:
        answers.update(zip(texts, _ptb(texts) if texts else [], strict=True))

    ask([text for text in asked if text not in answers])
    answers |= {line: line for line, words in plain.items() if all(answers[word].rstrip() == word for word in words)}
    ask([line for line in plain if line not in answers])
    _answers.update({text: answers[text] for text in asked})
    return [answers[line] for line in lines]


def _ptb(lines: list[str]) -> list[str]:
    """Stanford's PTBTokenizer on lines without line breaks: as many lines of tokens."""
    process = run(
        [
            "-cp",
            str(scorer_file("tokenizer", "stanford-corenlp-3.4.1.jar")),
            "edu.stanford.nlp.process.PTBTokenizer",
            "-preserveLines",
            "-lowerCase",
        ],
        input="\n".join([*lines, ""]).encode("utf-8", "replace"),
        capture_output=True,
    )
    if process.returncode != 0:
        message = " ".join(process.stderr.decode("utf-8", "replace").split())[-300:]
        raise InputError(f"the caption tokenizer (Java) failed: {message or f'exit code {process.returncode}'}")
    tokens = process.stdout.decode("utf-8").split("\n")[:-1]
    if len(tokens) != len(lines):
        raise RuntimeError(f"the tokenizer made {len(tokens)} lines of {len(lines)} captions")
    return tokens


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one caption per photo and the counts that corpus scores are computed from, by photo."""

    bleu: np.ndarray
    """BLEU's counts [photos, 10] (`NgramComparison.bleu_counts`)."""
    meteor_stats: np.ndarray
    """METEOR's counts [photos, 23] (`meteor.STATS`)."""
    rouge: np.ndarray
    """ROUGE-L [photos]."""
    cider: np.ndarray
    """CIDEr-D [photos], with the document frequencies of all references that were evaluated."""
    errors: np.ndarray
    """Word edits from the nearest reference, and its words [photos, 2]."""

    @property
    def photos(self) -> int:
        return len(self.rouge)

    def totals(self) -> dict[str, float]:
        """Corpus scores bleu1, bleu2, bleu3, bleu4, meteor, rouge_l, cider_d, and wer (lower is better)."""
        return {name: float(value[0]) for name, value in self.resampled(np.ones((1, self.photos))).items()}

    def subset(self, rows: np.ndarray) -> "CaptionScores":
        """Of some photos (indices or mask); CIDEr-D keeps the document frequencies of all."""
        parts = (self.bleu, self.meteor_stats, self.rouge, self.cider, self.errors)
        return CaptionScores(*(part[rows] for part in parts))

    @classmethod
    def concatenated(cls, parts: Sequence["CaptionScores"]) -> "CaptionScores":
        """Of the photos of all parts, one after another."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Corpus scores [resamples] where photo i occurs counts[:, i] times; counts [resamples, photos]."""
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
    references: list[list[str]],
    candidates: list[str],
    tokenized: bool = False,
    meteor: MeteorCounter | None = None,
) -> CaptionScores:
    """Score one caption per photo against that photo's references (one or more each).

    tokenized: both are results of `tokenize`. meteor: as for `meteor_stats`. CIDEr-D of a single photo is 0 by its
    definition.
    """
    if len(references) != len(candidates) or not candidates:
        raise ValueError(f"{len(candidates)} captions for {len(references)} photos")
    if not tokenized:
        *references, candidates = tokenize([*references, candidates])
    with thread_pool(1) as executor:
        stats = executor.submit(meteor_stats, references, candidates, meteor)
        ngrams, rouge = compare(references, candidates), rouge_l(references, candidates)
        bleu, cider = ngrams.bleu_counts, ngrams.cider_d()
        errors = word_errors(references, candidates)
        return CaptionScores(bleu, stats.result(), rouge, cider, errors)
