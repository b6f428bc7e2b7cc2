"""The report of a run: what it predicted for photos that it was not trained on, beside the floors of the same folds."""

import numpy as np

from src.metrics.baselines import constant_sentence
from src.metrics.caption_scores import CaptionScores, Meteor, scores, tokenize
from src.metrics.competition_score import caption_block, caption_score, quality_block, report
from src.metrics.diagnostics import alarms, caption_health, mos_health
from src.metrics.mos_score import quality_score
from src.metrics.spice import spice
from src.settings.schema import Metric

FLOOR = "ridge"
"""The member that is the floor of the MOS score: ridge regression on hand-made features."""


def constant_of_folds(references: list[tuple[str, ...]], fold: np.ndarray, weights, meteor: Meteor) -> dict[int, str]:
    """For each fold the best constant sentence of the captions outside it. references: by photo, some empty."""
    sentences = {}
    for number in np.unique(fold[fold >= 0]).tolist():
        outside = [list(captions) for captions, own in zip(references, fold, strict=True) if captions and own != number]
        if outside:
            sentences[number] = constant_sentence(outside, weights, meteor).sentence
    return sentences


def mos_part(members: dict[str, np.ndarray], mos: np.ndarray, metric: Metric, seed: int) -> dict[str, dict]:
    """The quality block of each member by name, over the photos with a label. members: [N] each, mos: [N]."""
    known = ~np.isnan(mos)
    if not known.any():
        return {}
    return {name: quality_block(pred[known], mos[known], metric.bootstrap, seed) for name, pred in members.items()}


def caption_scores(candidates: list[str], references: list[tuple[str, ...]], meteor: Meteor) -> CaptionScores | None:
    """Scores of the photos that have references; None where none has."""
    pairs = [(c, list(r)) for c, r in zip(candidates, references, strict=True) if r]
    return scores([r for _, r in pairs], [c for c, _ in pairs], meteor) if pairs else None


def run_report(
    mos_pred: np.ndarray | None,
    members: dict[str, np.ndarray],
    mos: np.ndarray,
    candidates: list[str] | None,
    references: list[tuple[str, ...]],
    constants: list[str | None],
    fold: np.ndarray,
    metric: Metric,
    meteor: Meteor | None,
    seed: int,
) -> dict:
    """Scores, floors, alarms, members and each fold's own scores, as a JSON-able dict.

    mos_pred [N]: the submitted MOS; members: each member's. candidates: the captions; constants: each photo's floor
    caption, found on other photos. fold [N]. mos [N] is NaN and references [N] empty where there is no label. Captions
    of a fold are scored with the document frequencies of all photos, so that folds compare with each other.
    """
    known = ~np.isnan(mos)
    blocks = mos_part(members, mos, metric, seed)
    quality = quality_block(mos_pred[known], mos[known], metric.bootstrap, seed) if mos_pred is not None else None
    caption = floor = None
    if candidates is not None:
        caption = caption_scores(candidates, references, meteor)
    block = caption_block(caption, metric.weights, metric.bootstrap, seed)
    if block and metric.spice:
        pairs = [(c, list(r)) for c, r in zip(candidates, references, strict=True) if r]
        *truth, said = tokenize([*(r for _, r in pairs), [c for c, _ in pairs]])
        block["spice"] = spice(truth, said)
    if caption is not None and all(constants):
        floor = caption_score(caption_scores(constants, references, meteor).totals(), metric.weights)
    health = {
        "captions": caption_health(candidates) if candidates is not None else None,
        "mos": mos_health(mos_pred[known], mos[known]) if quality else None,
    }
    floor_quality = blocks[FLOOR]["score"] if FLOOR in blocks else None
    distinct = list(dict.fromkeys(c for c in constants if c))
    out = report(quality, block, floor_quality, floor, " | ".join(distinct) or None, alarms(**health))
    out |= {"health": health, "members": blocks}
    captioned = np.array([bool(r) for r in references], bool)
    out["folds"] = [
        _fold_scores(number, mos_pred, mos, caption, fold[captioned] == number, (fold == number) & known, metric)
        for number in np.unique(fold[fold >= 0]).tolist()
    ]
    return out


def _fold_scores(number: int, mos_pred, mos, caption, captioned, labelled, metric: Metric) -> dict:
    quality = text = None
    if mos_pred is not None and labelled.any():
        quality = quality_score(mos_pred[labelled], mos[labelled])["score"]
    if caption is not None and captioned.any():
        text = caption_score(caption.subset(captioned).totals(), metric.weights)
    return {"fold": number, "quality": quality, "caption": text}
