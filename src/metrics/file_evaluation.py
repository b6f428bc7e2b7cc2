"""Scores a file of predictions against a file of references, both CSV or COCO's JSON, without a run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.base.csv_files import read_rows
from src.base.errors import InputError
from src.base.spelling import match_names, shown
from src.base.text import finite_number
from src.base.worker_pool import thread_pool
from src.metrics import meteor
from src.metrics.caption_scores import collapse, score_captions, tokenize
from src.metrics.coco_files import read_annotations, read_results
from src.metrics.competition_score import caption_score
from src.metrics.constant_caption import constant_sentence
from src.metrics.diagnostics import caption_diagnostics, mos_diagnostics
from src.metrics.report import caption_block, evaluation_report, mos_block
from src.metrics.spice import spice
from src.settings.schema import MetricSettings

NAME, MOS, COMMENT = "img_name", "mos", "comments"


@dataclass(frozen=True)
class Labels:
    """The scores and captions of a file, by photo in file order."""

    path: str
    """The file, for messages."""
    mos: dict[str, float | None]
    """None where the cell is blank or the column is absent."""
    captions: dict[str, tuple[str, ...]]
    """Empty where every cell is blank or the column is absent."""
    has_mos: bool
    """Whether the file has a column of scores."""
    has_captions: bool
    """Whether the file has a column of captions."""


@dataclass(frozen=True)
class Pairs:
    """Labelled photos that have predictions, in the order of the references."""

    mos_pred: np.ndarray
    """Predicted scores [photos with a MOS]."""
    mos_truth: np.ndarray
    """True scores [photos with a MOS]."""
    candidates: list[str]
    """Predicted captions [photos with a caption]."""
    references: list[list[str]]
    """True captions [photos with a caption], one or more each."""
    notes: list[str]
    """One sentence for each kind of label that lacks predictions."""


def read_predictions(path: str | Path) -> Labels:
    """Read predictions: CSV with `img_name` and `mos`, `comments` or both, one row per photo; or a COCO result file.

    A file is JSON if its name ends in .json. Raises InputError for a file that is unreadable, lacks columns, holds a
    MOS that is not a number, or a photo twice.
    """
    if _is_json(path):
        entries = read_results(Path(path))
        labels = _captions_only(path, {name: [text] for name, text in entries})
        rows = [(f"entry {position}", name) for position, (name, _) in enumerate(entries, 1)]
    else:
        labels, rows = _read(path)
    first: dict[str, str] = {}
    for row, name in rows:
        if name in first:
            raise InputError(f"{path}, {row}: photo {name} is there already ({first[name]}); keep one")
        first[name] = row
    return labels


def read_references(path: str | Path) -> Labels:
    """Read references: CSV with `img_name` and `mos`, `comments` or both, one or more rows per photo; or COCO
    annotations.

    Other columns are ignored. Raises InputError as `read_predictions` does, and for a photo with two different MOS.
    """
    return _captions_only(path, read_annotations(Path(path))) if _is_json(path) else _read(path)[0]


def _is_json(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".json"


def _captions_only(path: str | Path, captions: Mapping[str, list[str]]) -> Labels:
    cleaned = {name: tuple(filter(None, map(collapse, texts))) for name, texts in captions.items()}
    return Labels(str(path), dict.fromkeys(cleaned), cleaned, has_mos=False, has_captions=True)


def _read(path: str | Path) -> tuple[Labels, list[tuple[str, str]]]:
    """The labels of a CSV file, and (line, photo) of each row."""
    rows = [row for row in read_rows(Path(path), (NAME,)) if any(cell.strip() for cell in row.cells.values())]
    if not rows:
        raise InputError(f"{path} has a header but no rows; it needs one row per photo")
    columns = tuple(rows[0].cells)
    if MOS not in columns and COMMENT not in columns:
        raise InputError(f"{path} has neither column {MOS} nor {COMMENT}; its columns are {', '.join(columns)}")
    labels = Labels(str(path), {}, {}, has_mos=MOS in columns, has_captions=COMMENT in columns)
    names = []
    for row in rows:
        line, name = f"line {row.line}", row.cells[NAME].strip()
        if not name:
            raise InputError(f"{path}, {line}: {NAME} is blank; fill it in")
        mos, earlier = _mos(f"{path}, {line}", row.cells.get(MOS, "").strip()), labels.mos.get(name)
        if mos is not None and earlier is not None and mos != earlier:
            raise InputError(f"{path}, {line}: photo {name} has two different mos, {earlier:g} and {mos:g}; keep one")
        labels.mos[name] = earlier if mos is None else mos
        text = collapse(row.cells.get(COMMENT, ""))
        labels.captions[name] = labels.captions.get(name, ()) + ((text,) if text else ())
        names.append((line, name))
    return labels, names


def _mos(where: str, cell: str) -> float | None:
    if not cell:
        return None
    value = finite_number(cell)
    if value is None:
        raise InputError(f"{where}: mos is {cell[:40]!r}, not a number; correct it or leave it blank")
    return value


def pair(predictions: Labels, references: Labels) -> Pairs:
    """Match predictions with references. Blank labels are not scored, nor are blank predictions, which are noted.

    A photo's name may be spelled otherwise in the two, where both look the same and like no other. Raises InputError
    where a photo is in one of the files only, with the number and the first five names, and where nothing can be
    scored.
    """
    names = {theirs: ours for ours, theirs in match_names(references.mos, predictions.mos).items() if ours != theirs}
    if names:
        mos = {names.get(name, name): value for name, value in predictions.mos.items()}
        captions = {names.get(name, name): texts for name, texts in predictions.captions.items()}
        predictions = replace(predictions, mos=mos, captions=captions)
    _check_same_photos(predictions, references)
    labelled = [name for name, mos in references.mos.items() if mos is not None] if predictions.has_mos else []
    described = [name for name, texts in references.captions.items() if texts] if predictions.has_captions else []
    scored = [name for name in labelled if predictions.mos[name] is not None]
    captioned = [name for name in described if predictions.captions[name]]
    if not scored and not captioned:
        raise InputError(
            f"nothing to score: there is no photo for which {predictions.path} and {references.path} both give a mos, "
            "or both a caption; compare their columns"
        )
    notes = [
        f"{len(wanted) - len(present)} of {len(wanted)} photos with a label have no predicted {what} and are not scored"
        for what, wanted, present in ((MOS, labelled, scored), ("comment", described, captioned))
        if len(present) < len(wanted)
    ]
    return Pairs(
        mos_pred=np.array([predictions.mos[name] for name in scored], dtype=np.float64),
        mos_truth=np.array([references.mos[name] for name in scored], dtype=np.float64),
        candidates=[predictions.captions[name][0] for name in captioned],
        references=[list(references.captions[name]) for name in captioned],
        notes=notes,
    )


def _check_same_photos(predictions: Labels, references: Labels) -> None:
    for here, there in ((predictions, references), (references, predictions)):
        missing = [name for name in here.mos if name not in there.mos]
        if missing:
            names = ", ".join(map(shown, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise InputError(
                f"{len(missing)} {'photo' if len(missing) == 1 else 'photos'} of {here.path} not in {there.path}: "
                f"{names}; both files must hold the same photos"
            )


def evaluate_files(
    predictions: str | Path, references: str | Path, train: str | Path | None, metric: MetricSettings, seed: int
) -> dict:
    """The report of a file of predictions against a file of references (see `evaluation_report`).

    train: training captions, among which the constant sentence is searched; without it the baselines are None. There
    are no photos here, and so no baseline of the MOS.
    Raises InputError for files that cannot be read or do not match.
    """
    pairs = pair(read_predictions(predictions), read_references(references))
    training = [list(texts) for texts in read_references(train).captions.values() if texts] if train else []
    with thread_pool(1) as executor:
        # while METEOR is waited for
        waiting = executor.submit(mos_block, pairs.mos_pred, pairs.mos_truth, metric.bootstrap, seed)
        of_captions = executor.submit(caption_diagnostics, pairs.candidates) if pairs.candidates else None
        caption, baseline = _evaluate_captions(pairs, training, metric, seed)
        mos = waiting.result()
    diagnostics = {
        "captions": of_captions.result() if of_captions else None,
        "mos": mos_diagnostics(pairs.mos_pred, pairs.mos_truth) if mos else None,
    }
    return evaluation_report(mos, caption, {"mos": None, **baseline}, diagnostics, pairs.notes)


def _evaluate_captions(
    pairs: Pairs, training: list[list[str]], metric: MetricSettings, seed: int
) -> tuple[dict | None, dict]:
    """The caption block, and the baseline: score (`caption`) and words (`sentence`) of the best constant sentence."""
    unknown = {"caption": None, "sentence": None}
    if not pairs.candidates:
        return None, unknown
    meteor.shared_meteor()  # starts while the captions are tokenised
    *tokens, candidates = tokenize([*training, *pairs.references, pairs.candidates])
    training, references = tokens[: len(training)], tokens[len(training) :]
    block = caption_block(
        score_captions(references, candidates, tokenized=True), metric.weights, metric.bootstrap, seed
    )
    if block and metric.spice:
        block["spice"] = spice(references, candidates)
    if not training:
        return block, unknown
    sentence = constant_sentence(training, metric.weights, seed, tokenized=True).sentence
    constant = score_captions(references, [sentence] * len(references), tokenized=True)
    return block, {"caption": caption_score(constant.totals(), metric.weights), "sentence": sentence}
