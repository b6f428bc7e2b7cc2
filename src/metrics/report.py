"""A report as text: each score with its interval, beside its floor."""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _line(name: str, block: dict | None, parts: dict[str, str], floor: float | None, floor_name: str) -> list[str]:
    if block is None:
        return [f"  {name:<14} no labels"]
    low, high = block["interval"] or (None, None)
    shown = "  ".join(f"{title} {_number(block[key])}" for key, title in parts.items())
    verdict = "" if floor is None else f"   {'ABOVE' if block['score'] >= floor else 'UNDER'} {floor_name} {floor:.4f}"
    score = f"{_number(block['score'])} [{_number(low)}, {_number(high)}]"
    return [f"  {name:<14} {score}{verdict}   ({block['photos']} photos)", f"  {'':<14} {shown}"]


def summary(title: str, report: dict) -> str:
    """Lines for people: scores with 95% intervals beside their floors, members, spread over folds, alarms."""
    floor = report["floor"]
    lines = [title]
    lines += _line(
        "MOS score", report["quality"], {"plcc": "PLCC", "srcc": "SRCC"}, floor["quality"], "ridge floor"
    )  # fmt: skip
    parts = {"cider_d": "CIDEr-D", "meteor": "METEOR", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "rouge_l": "ROUGE-L",
             "wer": "WER"}  # fmt: skip
    lines += _line("caption score", report["caption"], parts, floor["caption"], "constant sentence")
    if floor["sentence"]:
        lines.append(f"  {'':<14} constant: {floor['sentence']}")
    for name, block in report.get("members", {}).items():
        low, high = block["interval"] or (None, None)
        lines.append(f"  {'MOS ' + name:<14} {_number(block['score'])} [{_number(low)}, {_number(high)}]")
    for fold in report.get("folds", []):
        name = f"fold {fold['fold']}"
        lines.append(f"  {name:<14} MOS {_number(fold['quality'])}  caption {_number(fold['caption'])}")
    captions = (report.get("health") or {}).get("captions")
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
    return "\n".join(lines + [f"  ALARM: {alarm}" for alarm in report["alarms"]])
