"""Predictions and references of the stand-alone evaluation: from CSV or COCO's JSON, checked, laid side by side."""

import contextlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.metrics.caption_scores import Meteor, collapse, score_captions, tokenize
from src.metrics.coco_files import read_annotations, read_results
from src.metrics.competition_score import caption_block, caption_score, mos_block, report
from src.metrics.constant_caption import constant_sentence
from src.metrics.diagnostics import caption_diagnostics, diagnostic_warnings, mos_diagnostics
from src.metrics.spice import spice
from src.settings.schema import MetricSettings

NAME, MOS, COMMENT = "img_name", "mos", "comments"


@dataclass(frozen=True)
class Labels:
    """What a file says about photos, in file order."""

    path: str
    """The file, for messages."""
    mos: dict[str, float | None]
    """By photo; None where the cell is blank or the column absent."""
    captions: dict[str, tuple[str, ...]]
    """By photo, in file order; empty where every cell is blank or the column absent."""
    has_mos: bool
    """Whether the file has a column of scores."""
    has_captions: bool
    """Whether the file has a column of captions."""


@dataclass(frozen=True)
class Pairs:
    """What can be scored: labelled photos with predictions, in the order of the references."""

    mos_pred: np.ndarray
    """Predicted scores [photos with a MOS]."""
    mos_truth: np.ndarray
    """True scores [photos with a MOS]."""
    candidates: list[str]
    """Predicted captions [photos with a caption]."""
    references: list[list[str]]
    """True captions [photos with a caption], one or more each."""
    notes: list[str]
    """What was left out, in plain sentences."""


def read_predictions(path: str | Path) -> Labels:
    """Read predictions: CSV with `img_name` and `mos`, `comments` or both, one row per photo; or a COCO result file.

    A file is JSON where its name ends so. Raises InputError for a file that is unreadable, lacks columns, holds a MOS
    that is no number, or a photo twice.
    """
    if _is_json(path):
        entries = read_results(Path(path))
        labels = _captions_only(path, {name: [text] for name, text in entries})
        rows = [(f"entry {number}", name) for number, (name, _) in enumerate(entries, 1)]
    else:
        labels, rows = _read(path)
    first: dict[str, str] = {}
    for place, name in rows:
        if name in first:
            raise InputError(f"{path}, {place}: photo {name} is there already ({first[name]}); keep one")
        first[name] = place
    return labels


def read_references(path: str | Path) -> Labels:
    """Read references: CSV with `img_name` and `mos`, `comments` or both, one or more rows a photo; or COCO's captions.

    Other columns are ignored. Raises InputError as `read_predictions` does, and for a photo with two different MOS.
    """
    return _captions_only(path, read_annotations(Path(path))) if _is_json(path) else _read(path)[0]


def _is_json(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".json"


def _captions_only(path: str | Path, captions: Mapping[str, list[str]]) -> Labels:
    cleaned = {name: tuple(filter(None, map(collapse, texts))) for name, texts in captions.items()}
    return Labels(str(path), dict.fromkeys(cleaned), cleaned, has_mos=False, has_captions=True)


def pair(predictions: Labels, references: Labels) -> Pairs:
    """Lay both side by side. A blank cell, label or prediction, is not scored; blank predictions are told of.

    Raises InputError where a photo is in one of the files only, with the number and the first five names, and where
    nothing can be scored.
    """
    _same_photos(predictions, references)
    labelled = [name for name, mos in references.mos.items() if mos is not None] if predictions.has_mos else []
    described = [name for name, texts in references.captions.items() if texts] if predictions.has_captions else []
    scored = [name for name in labelled if predictions.mos[name] is not None]
    told = [name for name in described if predictions.captions[name]]
    if not scored and not told:
        raise InputError(
            f"nothing to score: there is no photo for which {predictions.path} and {references.path} both give a mos, "
            "or both a caption; compare their columns"
        )
    notes = [
        f"{len(wanted) - len(given)} of {len(wanted)} photos with a label have no predicted {what} and are not scored"
        for what, wanted, given in ((MOS, labelled, scored), ("comment", described, told))
        if len(given) < len(wanted)
    ]
    return Pairs(
        mos_pred=np.array([predictions.mos[name] for name in scored], dtype=np.float64),
        mos_truth=np.array([references.mos[name] for name in scored], dtype=np.float64),
        candidates=[predictions.captions[name][0] for name in told],
        references=[list(references.captions[name]) for name in told],
        notes=notes,
    )


def _same_photos(predictions: Labels, references: Labels) -> None:
    for here, there in ((predictions, references), (references, predictions)):
        lonely = [name for name in here.mos if name not in there.mos]
        if lonely:
            names = ", ".join(lonely[:5]) + (", ..." if len(lonely) > 5 else "")
            raise InputError(
                f"{len(lonely)} {'photo' if len(lonely) == 1 else 'photos'} of {here.path} not in {there.path}: "
                f"{names}; both files must hold the same photos"
            )


def _read(path: str | Path) -> tuple[Labels, list[tuple[str, str]]]:
    """The labels of a CSV file, and (line, photo) of each row."""
    rows = [row for row in read_rows(Path(path), (NAME,)) if any(cell.strip() for cell in row.cells.values())]
    if not rows:
        raise InputError(f"{path} has a header but no rows; it needs one row per photo")
    columns = tuple(rows[0].cells)
    if MOS not in columns and COMMENT not in columns:
        raise InputError(f"{path} has neither column {MOS} nor {COMMENT}; its columns are {', '.join(columns)}")
    mos: dict[str, float | None] = {}
    captions: dict[str, tuple[str, ...]] = {}
    seen = []
    for row in rows:
        name = row.cells[NAME].strip()
        if not name:
            raise InputError(f"{path}, line {row.line}: {NAME} is blank; fill it in")
        value = _number(path, row.line, row.cells.get(MOS, ""))
        known = mos.setdefault(name, value)
        if value is not None and known is not None and value != known:
            two = f"{known:g} and {value:g}"
            raise InputError(f"{path}, line {row.line}: photo {name} has two different mos, {two}; keep one")
        mos[name] = known if value is None else value
        text = collapse(row.cells.get(COMMENT, ""))
        captions[name] = captions.get(name, ()) + ((text,) if text else ())
        seen.append((f"line {row.line}", name))
    return Labels(str(path), mos, captions, MOS in columns, COMMENT in columns), seen


def _number(path: str | Path, line: int, cell: str) -> float | None:
    cell = cell.strip()
    if not cell:
        return None
    try:
        value = float(cell.replace("_", "?"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}, line {line}: mos is {cell[:40]!r}, not a number; correct it or leave it blank")
    return value


def evaluate_files(
    predictions: str | Path,
    references: str | Path,
    train: str | Path | None,
    metric: MetricSettings,
    seed: int,
    meteor: Meteor | None = None,
) -> dict:
    """The report of a file of predictions against a file of references (see `competition.report`).

    train: training captions, among which the constant sentence is searched; without it the baselines are None. There
    are no photos here, and so no baseline of the MOS. meteor: a running process; not given, one is started if needed.
    Raises InputError for files that cannot be read or do not fit each other.
    """
    pairs = pair(read_predictions(predictions), read_references(references))
    training = [list(texts) for texts in read_references(train).captions.values() if texts] if train else []
    with ThreadPoolExecutor(max_workers=1) as beside:
        waiting = beside.submit(mos_block, pairs.mos_pred, pairs.mos_truth, metric.bootstrap, seed)
        caption, baseline, sentence = _caption_part(pairs, training, metric, seed, meteor)
        quality = waiting.result()
    diagnostics = {
        "captions": caption_diagnostics(pairs.candidates) if caption else None,
        "mos": mos_diagnostics(pairs.mos_pred, pairs.mos_truth) if quality else None,
    }
    return report(quality, caption, None, baseline, sentence, [*pairs.notes, *diagnostic_warnings(**diagnostics)])


def _caption_part(
    pairs: Pairs, training: list[list[str]], metric: MetricSettings, seed: int, meteor: Meteor | None
) -> tuple[dict | None, float | None, str | None]:
    """The caption block, and the score and words of the constant sentence of the training captions."""
    if not pairs.candidates:
        return None, None, None
    with contextlib.nullcontext(meteor) if meteor else contextlib.closing(Meteor()) as running:
        *tokens, candidates = tokenize([*training, *pairs.references, pairs.candidates])
        training, truth = tokens[: len(training)], tokens[len(training) :]
        block = caption_block(
            score_captions(truth, candidates, running, tokenized=True), metric.weights, metric.bootstrap, seed
        )
        if metric.spice:
            block["spice"] = spice(truth, candidates)
        if not training:
            return block, None, None
        sentence = constant_sentence(training, metric.weights, running, seed, tokenized=True).sentence
        constant = score_captions(truth, [sentence] * len(truth), running, tokenized=True)
        return block, caption_score(constant.totals(), metric.weights), sentence
