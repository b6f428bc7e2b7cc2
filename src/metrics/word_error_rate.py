"""Word error rate (WER): insertions, deletions and substitutions per word of the nearest reference.

Levenshtein distance over words, as jiwer counts it. Of a photo's references the nearest counts, as in speech
recognition with several transcripts; the rate of a corpus is the sum of edits over the sum of words, not a mean.
"""

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

_FIRST_CODE = 0x10000  # beyond the surrogates, which are not characters


def word_errors(references: list[list[str]], candidates: list[str]) -> np.ndarray:
    """Edits from the nearest reference to the caption, and that reference's words: int64 [photos, 2].

    Words are separated by blanks. Nearest is the reference with the fewest edits per word, of equals the shortest. One
    without words counts only if no other has any; then every word of the caption is an edit.
    """
    codes: dict[str, str] = {}
    flat = [_coded(text, codes) for group in references for text in group]
    sizes = [len(group) for group in references]
    ours = [code for text, size in zip(candidates, sizes, strict=True) for code in [_coded(text, codes)] * size]
    edits = process.cpdist(flat, ours, scorer=Levenshtein.distance, dtype=np.int64)
    words = np.array([len(code) for code in flat])
    rate = np.divide(edits, words, out=np.full(len(flat), np.inf), where=words > 0)
    photo = np.repeat(np.arange(len(sizes)), sizes)
    nearest = np.lexsort((words, rate, photo))[np.cumsum(sizes) - sizes]
    return np.column_stack([edits, words])[nearest]


def error_rate(errors: np.ndarray) -> np.ndarray:
    """Edits per word of summed errors [..., 2]; the edits themselves where there are no words, as in jiwer."""
    return errors[..., 0] / np.maximum(errors[..., 1], 1)


def _coded(text: str, codes: dict[str, str]) -> str:
    """The caption with one character per word."""
    return "".join(codes.setdefault(word, chr(_FIRST_CODE + len(codes))) for word in text.split())
