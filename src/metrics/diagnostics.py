"""Diagnostics: signs that a captioner or a MOS predictor has collapsed, which a score alone may hide."""

import string
from collections import Counter
from itertools import pairwise

import numpy as np

from src.metrics.caption_scores import collapse
from src.settings.schema import DecodingSettings

UNKNOWN = "<unk>"
COMMON_SHARE = 0.5
"""A caption on more than this share of the photos gives a warning."""
NARROW_SPREAD = 0.1
"""Predicted MOS with less than this share of the labels' standard deviation give a warning."""
SHORT_WORDS = 3.0
"""Captions with fewer words than this on average give a warning."""
ADJACENT_SHARE, PAIRS_SHARE, DANGLING_SHARE = 0.03, 0.15, 0.03
"""Shares of captions above which repeats and endings give a warning: about three times those of people. Of the
comments of DACON 236134 and the captions of COCO and Flickr8k at most 1.1% repeat a word ("very very"), 5.8% repeat a
pair of words ("in a … in a"), and 1.0% end as if broken off."""
ENDINGS = frozenset(DecodingSettings.bad_endings.split())
"""Words that end no sentence: the default of decoding.bad_endings."""


def caption_diagnostics(captions: list[str]) -> dict:
    """photos, distinct, most_frequent, most_frequent_share, empty, unk_share (of captions), mean_words, and repeats.

    Captions that differ in white space alone count as the same. `most_frequent` is None without captions. Shares of
    captions: adjacent_repeats ("giraffes giraffes"), repeated_pairs (two adjacent words that occur again) and dangling
    (the last word is one of ENDINGS), counted on lower-case words without punctuation at their ends.
    """
    captions = [collapse(caption) for caption in captions]
    photos = len(captions)
    # Of equally frequent captions the first in the alphabet, whatever the order of the photos.
    counts = sorted(Counter(captions).items(), key=lambda item: (-item[1], item[0]))
    frequent, times = counts[0] if counts else (None, 0)
    return {
        "photos": photos,
        "distinct": len(set(captions)),
        "most_frequent": frequent,
        "most_frequent_share": times / photos if photos else 0.0,
        "empty": sum(not caption for caption in captions),
        "unk_share": sum(UNKNOWN in caption.lower() for caption in captions) / photos if photos else 0.0,
        "mean_words": sum(len(caption.split()) for caption in captions) / photos if photos else 0.0,
        **_faults(captions),
    }


def _faults(captions: list[str]) -> dict[str, float]:
    signs = np.array([(*repeats(caption), breaks_off(caption)) for caption in captions], float).reshape(-1, 3)
    shares = signs.mean(axis=0).tolist() if len(captions) else [0.0] * 3
    return dict(zip(("adjacent_repeats", "repeated_pairs", "dangling"), shares, strict=True))


def repeats(caption: str) -> tuple[bool, bool]:
    """Whether a word stands twice running ("giraffes giraffes"), and whether two adjacent words occur again."""
    pairs = list(pairwise(_words(caption)))
    return any(a == b for a, b in pairs), len(set(pairs)) < len(pairs)


def breaks_off(caption: str, endings: frozenset[str] = ENDINGS) -> bool:
    """Whether the last word is one of the endings."""
    words = _words(caption)
    return bool(words) and words[-1] in endings


def _words(caption: str) -> list[str]:
    """In lower case, without punctuation at their ends."""
    return [word for word in (word.strip(string.punctuation) for word in caption.lower().split()) if word]


def mos_diagnostics(pred: np.ndarray, truth: np.ndarray | None = None) -> dict:
    """pred_std, truth_std and ratio of the two (None where unknown or where the labels are constant)."""
    pred_std = float(np.std(np.asarray(pred, dtype=np.float64))) if len(pred) else None
    truth_std = float(np.std(np.asarray(truth, dtype=np.float64))) if truth is not None and len(truth) else None
    ratio = pred_std / truth_std if pred_std is not None and truth_std else None
    return {"pred_std": pred_std, "truth_std": truth_std, "ratio": ratio}


def diagnostic_warnings(captions: dict | None = None, mos: dict | None = None) -> list[str]:
    """A sentence for each sign of a collapse. captions, mos: what the two functions above return."""
    return [*(_caption_warnings(captions) if captions else ()), *(_mos_warnings(mos) if mos else ())]


def _caption_warnings(diagnostics: dict) -> list[str]:
    photos = diagnostics["photos"]
    warnings: list[str] = []
    if photos < 2:
        return warnings
    if diagnostics["distinct"] == 1:
        warnings.append(f"all {photos} photos have the same caption: {diagnostics['most_frequent']!r}")
    elif diagnostics["most_frequent_share"] > COMMON_SHARE:
        share = diagnostics["most_frequent_share"]
        warnings.append(f"one caption stands on {share:.0%} of the photos: {diagnostics['most_frequent']!r}")
    if diagnostics["empty"]:
        warnings.append(f"{diagnostics['empty']} of {photos} captions are empty")
    if diagnostics["unk_share"]:
        warnings.append(f"{diagnostics['unk_share']:.1%} of the captions contain {UNKNOWN}")
    if diagnostics["mean_words"] < SHORT_WORDS:
        warnings.append(f"captions have {diagnostics['mean_words']:.1f} words on average")
    if diagnostics["adjacent_repeats"] > ADJACENT_SHARE:
        warnings.append(f"{diagnostics['adjacent_repeats']:.1%} of the captions say a word twice running")
    if diagnostics["repeated_pairs"] > PAIRS_SHARE:
        warnings.append(f"{diagnostics['repeated_pairs']:.1%} of the captions say a pair of words twice")
    if diagnostics["dangling"] > DANGLING_SHARE:
        warnings.append(
            f"{diagnostics['dangling']:.1%} of the captions break off, at a word such as 'a', 'and' or 'with'"
        )
    return warnings


def _mos_warnings(diagnostics: dict) -> list[str]:
    if diagnostics["pred_std"] == 0:
        return ["every photo has the same predicted MOS"]
    if diagnostics["ratio"] is not None and diagnostics["ratio"] < NARROW_SPREAD:
        return [
            f"predicted MOS hardly vary: their standard deviation is {diagnostics['pred_std']:.3f}, "
            f"that of the labels {diagnostics['truth_std']:.3f}"
        ]
    return []
