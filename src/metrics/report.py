"""A report as text: each score with its interval, beside its baseline."""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _line(
    name: str, block: dict | None, parts: dict[str, str], baseline: float | None, baseline_name: str
) -> list[str]:
    if block is None:
        return [f"  {name:<14} no labels"]
    low, high = block["interval"] or (None, None)
    shown = "  ".join(f"{title} {_number(block[key])}" for key, title in parts.items())
    verdict = (
        ""
        if baseline is None
        else f"   {'ABOVE' if block['score'] >= baseline else 'UNDER'} {baseline_name} {baseline:.4f}"
    )
    score = f"{_number(block['score'])} [{_number(low)}, {_number(high)}]"
    return [f"  {name:<14} {score}{verdict}   ({block['photos']} photos)", f"  {'':<14} {shown}"]


def summary(title: str, report: dict) -> str:
    """Lines for people: scores with 95% intervals beside their baselines, members, spread over folds, warnings."""
    baseline = report["baseline"]
    lines = [title]
    lines += _line(
        "MOS score", report["mos"], {"plcc": "PLCC", "srcc": "SRCC"}, baseline["mos"], "ridge baseline"
    )  # fmt: skip
    parts = {"cider_d": "CIDEr-D", "meteor": "METEOR", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "rouge_l": "ROUGE-L",
             "wer": "WER"}  # fmt: skip
    lines += _line("caption score", report["caption"], parts, baseline["caption"], "constant sentence")
    if baseline["sentence"]:
        lines.append(f"  {'':<14} constant: {baseline['sentence']}")
    for name, block in report.get("members", {}).items():
        low, high = block["interval"] or (None, None)
        lines.append(f"  {'MOS ' + name:<14} {_number(block['score'])} [{_number(low)}, {_number(high)}]")
    for fold in report.get("folds", []):
        name = f"fold {fold['fold']}"
        lines.append(f"  {name:<14} MOS {_number(fold['mos'])}  caption {_number(fold['caption'])}")
    captions = (report.get("diagnostics") or {}).get("captions")
    if captions:
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
