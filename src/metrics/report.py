"""The report of an evaluation: scores with 95% intervals beside their baselines, and warnings; as JSON and as text."""

import math
from typing import Any

import numpy as np

from src.metrics.bootstrap import interval
from src.metrics.caption_scores import CaptionScores
from src.metrics.competition_score import caption_score, resampled_caption_scores
from src.metrics.diagnostics import diagnostic_warnings
from src.metrics.mos_score import FEWEST, is_measurable, mos_score, resampled_mos_scores
from src.settings.schema import CaptionWeights

_CAPTION_PARTS = {"cider_d": "CIDEr-D", "meteor": "METEOR", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "rouge_l": "ROUGE-L",
                  "wer": "WER"}  # fmt: skip


def mos_block(predicted: np.ndarray, truth: np.ndarray, resamples: int, seed: int) -> dict | None:
    """plcc, srcc, score, interval, photos; None below FEWEST photos and where the labels are constant.

    Constant predictions have no correlation: plcc and srcc are None and the score, as in the competition, 0.
    """
    if not is_measurable(truth):
        return None
    bounds = list(interval(resampled_mos_scores(predicted, truth, resamples, seed))) if resamples else None
    return _plain({**mos_score(predicted, truth), "interval": bounds, "photos": len(truth)})


def caption_block(scores: CaptionScores | None, weights: CaptionWeights, resamples: int, seed: int) -> dict | None:
    """bleu1..4, meteor, rouge_l, cider_d, wer, score, interval, photos; None without photos."""
    if scores is None:
        return None
    totals = scores.totals()
    enough = resamples and scores.photos >= FEWEST
    bounds = list(interval(resampled_caption_scores(scores, weights, resamples, seed))) if enough else None
    score = caption_score(totals, weights)
    return _plain({**totals, "score": score, "interval": bounds, "photos": scores.photos})


def _plain(block: dict[str, Any]) -> dict[str, Any]:
    """The same with Python's numbers, and None for NaN."""
    numbers = {name: float(value) for name, value in block.items() if isinstance(value, (float, np.floating))}
    return block | {name: None if math.isnan(value) else value for name, value in numbers.items()}


def evaluation_report(
    mos: dict | None, caption: dict | None, baseline: dict[str, Any], diagnostics: dict[str, Any], notes: list[str]
) -> dict:
    """mos and caption (the blocks above), baseline, and warnings: notes, diagnostics, scores under their baselines.

    baseline: `mos`, `caption` and `sentence`, each None where there is none. diagnostics: `captions` and `mos`, as the
    functions of metrics/diagnostics.py return them.
    """
    warnings = [*notes, *diagnostic_warnings(**diagnostics)]
    for name, block, reached in (("MOS", mos, baseline["mos"]), ("caption", caption, baseline["caption"])):
        if block is not None and reached is not None and block["photos"] >= FEWEST and block["score"] < reached:
            warnings.append(f"the {name} score {block['score']:.4f} is under its baseline {reached:.4f}")
    return {"mos": mos, "caption": caption, "baseline": _plain(baseline), "warnings": warnings}


def summary(title: str, report: dict) -> str:
    """Lines for people: scores with 95% intervals beside their baselines, members, folds, diagnostics, warnings."""
    baseline = report["baseline"]
    lines = [title]
    lines += _score_lines(
        "MOS score", report["mos"], {"plcc": "PLCC", "srcc": "SRCC"}, "ridge baseline", baseline["mos"]
    )
    lines += _score_lines("caption score", report["caption"], _CAPTION_PARTS, "constant sentence", baseline["caption"])
    if baseline["sentence"]:
        lines.append(f"  {'':<14} constant: {baseline['sentence']}")
    for name, block in report.get("members", {}).items():
        lines.append(f"  {'MOS ' + name:<14} {_with_interval(block)}")
    for fold in report.get("folds", []):
        scores = f"MOS {_figure(fold['mos'])}  caption {_figure(fold['caption'])}"
        lines.append(f"  {'fold ' + str(fold['fold']):<14} {scores}")
    if captions := report.get("diagnostics", {}).get("captions"):
        lines.append(
            f"  {'captions':<14} {captions['distinct']} distinct of {captions['photos']}, "
            f"{captions['mean_words']:.1f} words on average, most frequent on {captions['most_frequent_share']:.1%}: "
            f"{captions['most_frequent']}"
        )
        lines.append(
            f"  {'':<14} a word twice running in {captions['adjacent_repeats']:.1%}, a pair of words twice in "
            f"{captions['repeated_pairs']:.1%}, broken off in {captions['dangling']:.1%}"
        )
    return "\n".join(lines + [f"  WARNING: {warning}" for warning in report["warnings"]])


def _score_lines(
    name: str, block: dict | None, parts: dict[str, str], baseline_name: str, baseline: float | None
) -> list[str]:
    if block is None:
        return [f"  {name:<14} not measured: no predictions, or too few or equal labels"]
    verdict = ""
    if baseline is not None and block["photos"] < FEWEST:
        verdict = f"   {baseline_name} {baseline:.4f}, too few photos to compare"
    elif baseline is not None:
        side = "ABOVE" if block["score"] > baseline else "UNDER" if block["score"] < baseline else "EQUAL TO"
        verdict = f"   {side} {baseline_name} {baseline:.4f}"
    shown = "  ".join(f"{title} {_figure(block[key])}" for key, title in parts.items())
    return [f"  {name:<14} {_with_interval(block)}{verdict}   ({block['photos']} photos)", f"  {'':<14} {shown}"]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _with_interval(block: dict) -> str:
    low, high = block["interval"] or (None, None)
    return f"{_figure(block['score'])} [{_figure(low)}, {_figure(high)}]"
