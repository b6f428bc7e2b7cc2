"""The report of a run: what it predicted for photos that it was not trained on, beside the baselines of the same folds."""

import numpy as np

from src.metrics.caption_scores import CaptionScores, score_captions, tokenize
from src.metrics.competition_score import caption_block, caption_score, mos_block, report
from src.metrics.constant_caption import constant_sentence
from src.metrics.diagnostics import caption_diagnostics, diagnostic_warnings, mos_diagnostics
from src.metrics.meteor import Meteor
from src.metrics.mos_score import mos_score
from src.metrics.spice import spice
from src.settings.schema import MetricSettings

BASELINE = "ridge"
"""The member that is the baseline of the MOS score: ridge regression on handcrafted features."""


def constant_of_folds(references: list[tuple[str, ...]], fold: np.ndarray, weights, meteor: Meteor) -> dict[int, str]:
    """For each fold the best constant sentence of the captions outside it. references: by photo, some empty."""
    sentences = {}
    for number in np.unique(fold[fold >= 0]).tolist():
        outside = [list(captions) for captions, own in zip(references, fold, strict=True) if captions and own != number]
        if outside:
            sentences[number] = constant_sentence(outside, weights, meteor).sentence
    return sentences


def mos_part(members: dict[str, np.ndarray], mos: np.ndarray, metric: MetricSettings, seed: int) -> dict[str, dict]:
    """The quality block of each member by name, over the photos with a label. members: [N] each, mos: [N]."""
    known = ~np.isnan(mos)
    if not known.any():
        return {}
    return {name: mos_block(pred[known], mos[known], metric.bootstrap, seed) for name, pred in members.items()}


def caption_scores(candidates: list[str], references: list[tuple[str, ...]], meteor: Meteor) -> CaptionScores | None:
    """Scores of the photos that have references; None where none has."""
    pairs = [(c, list(r)) for c, r in zip(candidates, references, strict=True) if r]
    return score_captions([r for _, r in pairs], [c for c, _ in pairs], meteor) if pairs else None


def run_report(
    mos_pred: np.ndarray | None,
    members: dict[str, np.ndarray],
    mos: np.ndarray,
    candidates: list[str] | None,
    references: list[tuple[str, ...]],
    constants: list[str | None],
    fold: np.ndarray,
    metric: MetricSettings,
    meteor: Meteor | None,
    seed: int,
) -> dict:
    """Scores, baselines, warnings, members and each fold's own scores, as a JSON-able dict.

    mos_pred [N]: the submitted MOS; members: each member's. candidates: the captions; constants: each photo's baseline
    caption, found on other photos. fold [N]. mos [N] is NaN and references [N] empty where there is no label. Captions
    of a fold are scored with the document frequencies of all photos, so that folds compare with each other.
    """
    known = ~np.isnan(mos)
    blocks = mos_part(members, mos, metric, seed)
    quality = mos_block(mos_pred[known], mos[known], metric.bootstrap, seed) if mos_pred is not None else None
    caption = baseline = None
    if candidates is not None:
        caption = caption_scores(candidates, references, meteor)
    block = caption_block(caption, metric.weights, metric.bootstrap, seed)
    if block and metric.spice:
        pairs = [(c, list(r)) for c, r in zip(candidates, references, strict=True) if r]
        *truth, said = tokenize([*(r for _, r in pairs), [c for c, _ in pairs]])
        block["spice"] = spice(truth, said)
    if caption is not None and all(constants):
        baseline = caption_score(caption_scores(constants, references, meteor).totals(), metric.weights)
    diagnostics = {
        "captions": caption_diagnostics(candidates) if candidates is not None else None,
        "mos": mos_diagnostics(mos_pred[known], mos[known]) if quality else None,
    }
    baseline_quality = blocks[BASELINE]["score"] if BASELINE in blocks else None
    distinct = list(dict.fromkeys(c for c in constants if c))
    out = report(
        quality, block, baseline_quality, baseline, " | ".join(distinct) or None, diagnostic_warnings(**diagnostics)
    )
    out |= {"diagnostics": diagnostics, "members": blocks}
    captioned = np.array([bool(r) for r in references], bool)
    out["folds"] = [
        _fold_scores(number, mos_pred, mos, caption, fold[captioned] == number, (fold == number) & known, metric)
        for number in np.unique(fold[fold >= 0]).tolist()
    ]
    return out


def _fold_scores(number: int, mos_pred, mos, caption, captioned, labelled, metric: MetricSettings) -> dict:
    quality = text = None
    if mos_pred is not None and labelled.any():
        quality = mos_score(mos_pred[labelled], mos[labelled])["score"]
    if caption is not None and captioned.any():
        text = caption_score(caption.subset(captioned).totals(), metric.weights)
    return {"fold": number, "mos": quality, "caption": text}
