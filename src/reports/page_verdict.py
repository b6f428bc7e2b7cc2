"""The top of a run's page: the score beside what it is to be read against, and what to look at first."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.base.files import digest_of, file_digest, read_json
from src.metrics.diagnostics import COMMON_SHARE
from src.pipeline import runs
from src.reports.page_charts import strip
from src.reports.page_parts import Caution, Fact, Verdict, between, number, shown, within
from src.reports.page_photos import Labels, rows_of
from src.settings.schema import Settings
from src.submission.log import read_log

KINDS = {"mos": ("MOS score", "ridge baseline"), "caption": ("Caption score", "constant sentence")}
"""By score: title, the baseline's name."""
_FORM = ".4f"
"""As evaluate prints scores and submit logs them."""
_NEARLY_PERFECT = 0.99
"""MOS score above which labels are more likely among the inputs than learned: two groups of people agree less well."""
_RETURNS_OFTEN = 0.1
"""Share of the photos above which one sentence is told of."""

_ADVICE = {
    "have the same caption": "The captioner has collapsed. Train longer or with a lower optim.lr, check that "
    "people's captions differ, and look at the caption loss below.",
    "one caption stands on": "The captioner says the same of different photos. Lower ensemble.maximum_share, train "
    "longer, or try another decoder.",
    "captions are empty": "A submission with an empty caption is invalid. Raise decoding.minimum_words, train longer.",
    "<unk>": "An unknown word counts as wrong, and makes a submission invalid. Lower vocabulary.minimum_count.",
    "words on average": "Captions this short miss what people describe. Raise decoding.length_penalty.",
    "a word twice running": "Set decoding.no_repeat_ngram_size, or ensemble.repeats=false.",
    "a pair of words twice": "Set decoding.no_repeat_ngram_size=2, or ensemble.repeats=false.",
    "break off": "Forbid these endings: decoding.bad_endings, ensemble.broken_endings=false.",
    "same predicted MOS": "The MOS head has learned nothing. Lower optim.lr, and check that the labels differ.",
    "hardly vary": "Predictions shrink to the mean. Train longer, or raise loss.plcc.",
    "under its baseline": "A simple rule does better than this run. Do not submit it before the training curves below "
    "are understood.",
}  # fmt: skip
"""What to do, by words of the warnings of metrics/diagnostics.py and metrics/report.py."""


@dataclass(frozen=True)
class FormerRun:
    """An earlier result: when it was made, of which run ("": this one), and its scores out of fold."""

    time: float
    run: str
    mos: float | None
    caption: float | None

    @property
    def told(self) -> str:
        """What it is, in words that the run's name follows."""
        return "last run," if self.run else "last submission"


def former_run(settings: Settings) -> FormerRun | None:
    """The latest result before this one on the same photos: of another run, or an earlier submission of this one."""
    run, root = runs.run_folder(settings), Path(settings.run.root)
    results, same = [], runs_on_same_photos(root, run)
    for name in same:
        if name != run.name:
            scores = read_json(runs.score_path(root / name))["oof"]
            figures = [scores[kind] and scores[kind]["score"] for kind in KINDS]
            results.append(FormerRun(runs.score_marker(root / name).stat().st_mtime, name, *figures))
    log, submitted = (Path(settings.run.submissions, name) for name in ("log.csv", f"{run.name}.csv"))
    submitted_digest = file_digest(submitted) if submitted.is_file() else ""
    for row in read_log(log):
        with contextlib.suppress(KeyError, ValueError):  # a line that the user has edited may not be one any more
            if row["run"] in same and (row["sha256"] != submitted_digest or row["run"] != run.name):
                figures = [float(row[f"local_{kind}"]) if row[f"local_{kind}"] else None for kind in KINDS]
                name = "" if row["run"] == run.name else row["run"]
                results.append(FormerRun(_seconds(row["time"]), name, *figures))
    marker = runs.score_marker(run)
    before = [former for former in results if not marker.is_file() or former.time < marker.stat().st_mtime]
    return max(before, key=lambda former: former.time, default=None)


def runs_on_same_photos(root: Path, run: Path) -> list[str]:
    """The names of the evaluated runs on the photos and labels of a run, itself included; the view may differ."""
    tables = {}
    for folder in runs.cached_folders(root, "photos"):
        outputs = read_json(runs.marker_of(folder))["outputs"]
        tables[digest_of({name: output["sha256"] for name, output in outputs.items()})] = outputs["photos.jsonl"][
            "sha256"
        ]

    def table(name: str) -> str | None:
        marker = runs.score_marker(root / name)
        return tables.get(read_json(marker)["inputs"].get("photos")) if marker.is_file() else None

    photos = table(run.name)
    return [name for name in runs.evaluated_runs(root) if name == run.name or (photos and table(name) == photos)]


def _seconds(written: str) -> float:
    """The time that the log of submissions says; the beginning of time where somebody wrote it otherwise."""
    try:
        return time.mktime(time.strptime(written, "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return 0.0


def verdicts(scores: dict, former: FormerRun | None) -> list[Verdict]:
    """A verdict for each score that was measured. scores: of score.json."""
    results = []
    for kind, (title, baseline_name) in KINDS.items():
        block, baseline = scores["oof"][kind], scores["oof"]["baseline"][kind]
        if block is None:
            continue
        score, (low, high) = block["score"], block["interval"] or (None, None)
        network, test = ((scores[part] or {}).get(kind) for part in ("network", "test"))
        last = getattr(former, kind) if former else None
        facts, marks = [], []
        folds = [fold[kind] for fold in scores["oof"]["folds"] if fold[kind] is not None]
        if len(folds) > 1:
            spread = f"{number(min(folds), _FORM)} to {number(max(folds), _FORM)}, ± {np.std(folds, ddof=1):.3f}"
            facts.append(Fact(f"over {len(folds)} folds", spread))
        if baseline is not None:
            side = "above" if score > baseline else "under" if score < baseline else "equal to"
            facts.append(Fact(f"{side} the {baseline_name}", _against(score, baseline), "base"))
            marks.append(("base", baseline))
        if network:
            facts.append(Fact("networks alone", _against(score, network["score"]), "net"))
            marks.append(("net", network["score"]))
        if former and last is not None:
            facts.append(Fact(former.told, _against(score, last), "last", shown(former.run)))
            marks.append(("last", last))
        if test:
            least, most = test["interval"] or (None, None)
            facts.append(Fact("on the test photos", f"{number(test['score'], _FORM)} {between(least, most, _FORM)}"))
        facts.append(Fact("photos", f"{block['photos']:,}"))
        text = f"{title} {score:.3f} {between(low, high)}" + "".join(
            f"; {fact.name}{f' {within(fact.run)}' if fact.run else ''}: {fact.value}" for fact in facts
        )
        results.append(
            Verdict(title, number(score, _FORM), between(low, high, _FORM), strip(score, low, high, marks, text), facts)
        )
    return results


def _against(score: float, other: float) -> str:
    return f"{number(other, _FORM)} ({number(score - other, '+.4f')})"


def cautions(settings: Settings, scores: dict, shift: dict, leaks: list[Caution]) -> Iterator[Caution]:
    """What to look at before the score is believed. shift: of covariate_shift.json."""
    for part, name in (("oof", ""), ("test", "on the test photos, ")):
        report = scores[part] or {"warnings": []}
        for warning in report["warnings"]:
            advice = next((text for words, text in _ADVICE.items() if words in warning), "Look at the sections below.")
            what, quote = warning, ""
            frequent_caption = (report["diagnostics"]["captions"] or {}).get("most_frequent")
            if frequent_caption and warning.endswith(f": {frequent_caption!r}"):
                what, quote = warning.partition(": ")[0], frequent_caption
            yield Caution(name + what, advice, shown(quote))
    captions = scores["oof"]["diagnostics"]["captions"]
    if captions and captions["photos"] >= 20 and _RETURNS_OFTEN < captions["most_frequent_share"] <= COMMON_SHARE:
        yield Caution(
            f"one sentence returns on {captions['most_frequent_share']:.0%} of the photos",
            "Lower ensemble.maximum_share, or look below at what these photos have in common.",
            shown(captions["most_frequent"] or ""),
        )
    yield from leaks
    mos = scores["oof"]["mos"]
    if mos and mos["score"] > _NEARLY_PERFECT and mos["photos"] >= 20:
        yield Caution(
            f"the MOS score {mos['score']:.3f} is higher than people reach among themselves",
            "Look for the label among the inputs: names, folders, duplicates, or a column that gives it away.",
        )
    if shift.get("shifted"):
        likely = shift.get("test_like")
        told = f"; on the training photos most like them the MOS score is {likely['score']:.3f}" if likely else ""
        yield Caution(
            f"the test photos differ from the training photos (AUC {shift['overall']['auc']:.3f}){told}",
            "Expect another score on the test photos. covariate_shift.png shows those that differ most, "
            "covariate_shift.csv holds weights for training.",
        )
    yield from _unreadable(settings)


def _unreadable(settings: Settings) -> Iterator[Caution]:
    run = runs.run_folder(settings)
    rejected = sum(1 for _ in rows_of(runs.rejected_path(run))) if runs.rejected_path(run).is_file() else 0
    if rejected:
        what = f"{rejected:,} rows or photos {'was' if rejected == 1 else 'were'} left out"
        yield Caution(what, "rejected.csv says of each what is wrong with it: mend them, or live without them.")
    table = runs.ensemble_folder(run) / "test.csv"
    fallback = sum(bool(row.get("fallback")) for row in rows_of(table)) if table.is_file() else 0
    if fallback:
        what = f"{fallback:,} test photos could not be read and get the mean MOS and the constant sentence"
        yield Caution(what, "Get these files again: each costs score.")


def leak_cautions(labels: Labels, fold_of: np.ndarray, digests: np.ndarray) -> list[Caution]:
    """Photos that are the same byte for byte where they must not be.

    fold_of: int [N], -1 where unknown. digests: uint8 [N, B] of the photos' files, all 0 where there is none.
    """
    present = digests.any(axis=1)
    rows = np.flatnonzero(present)
    same = np.ascontiguousarray(digests[rows]).view(f"V{digests.shape[1]}").ravel()
    _, group = np.unique(same, return_inverse=True)
    groups = int(group.max(initial=-1)) + 1
    test, labelled = labels.test[rows], ~labels.test[rows] & (~np.isnan(labels.mos[rows]) | (labels.captions[rows] > 0))
    both = np.bincount(group[test], minlength=groups).astype(bool) & np.bincount(
        group[labelled], minlength=groups
    ).astype(bool)
    cautions = []
    if both.any():
        what = f"{int(both.sum()):,} photos are in the test part and, with a label, in the training part as well"
        cautions.append(
            Caution(what, "Their test predictions are known answers: whether that is allowed, the rules say.")
        )
    fold = fold_of[rows]
    least, most = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
    np.minimum.at(least, group[fold >= 0], fold[fold >= 0])
    np.maximum.at(most, group[fold >= 0], fold[fold >= 0])
    if count := int(((most >= 0) & (least < most)).sum()):
        what = f"{count:,} photos occur in more than one fold, so that a network is scored on photos it has learned"
        cautions.append(
            Caution(what, "The score is too high. Split by duplicates (split.official=false), or remove them.")
        )
    return cautions
