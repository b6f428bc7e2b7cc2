"""The report of a run: its predictions of photos that it was not trained on, beside the baselines of the same folds."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.base.files import read_json
from src.base.spelling import match_names
from src.data.prediction_tables import read_predictions
from src.data.table import for_training, load_table
from src.ensembling.regressors import TEST
from src.metrics import meteor
from src.metrics.caption_scores import CaptionScores, score_captions, tokenize
from src.metrics.competition_score import caption_score
from src.metrics.constant_caption import constant_sentence
from src.metrics.diagnostics import caption_diagnostics, mos_diagnostics
from src.metrics.file_evaluation import read_references
from src.metrics.report import caption_block, evaluation_report, mos_block, summary
from src.metrics.spice import spice
from src.pipeline import outputs, resolved
from src.settings.schema import Settings

BASELINE = "ridge"
"""The member that is the baseline of the MOS: ridge regression on handcrafted features."""


def members(predictions: pd.DataFrame) -> list[str]:
    """The columns that hold the MOS of an ensemble's members."""
    return [name for name in predictions if name not in ("photo_id", "fold", "mos", "caption", "fallback")]


def test_labels(table: pd.DataFrame, file: Path) -> pd.DataFrame | None:
    """mos (NaN: unknown) and captions (empty: unknown) of the test photos by photo_id; None where all are unknown.

    table: the photos by photo_id. file: CSV with img_name, mos and comments, one or more rows per photo; without it
    the data set's own labels of its test part are taken.
    """
    labels = table.loc[table["part"] == "test", ["mos", "captions"]]
    if file.is_file():
        truth = read_references(file)
        names = match_names(labels.index, truth.mos)
        mos = pd.Series({name: truth.mos[names[name]] for name in names}, dtype=float).reindex(labels.index)
        captions = [truth.captions[names[name]] if name in names else () for name in labels.index]
        labels = labels.assign(mos=mos, captions=captions)
    return labels if labels["mos"].notna().any() or labels["captions"].map(bool).any() else None


class RunTables(NamedTuple):
    """The photos of a run, and what its ensemble says of them out of fold and of the test photos."""

    photos: pd.DataFrame
    oof: pd.DataFrame
    test: pd.DataFrame


def read_tables(settings: Settings) -> RunTables:
    """The tables that preprocess and ensemble wrote."""
    ensemble = outputs.ensemble(settings).folder
    photos = load_table(outputs.photos(settings).folder / "photos.jsonl")
    return RunTables(photos, *(read_predictions(ensemble / f"{name}.csv") for name in ("oof", "test")))


def score_run(settings: Settings, tables: RunTables) -> tuple[dict, pd.DataFrame | None]:
    """The reports `oof`, `test` and `network`, each None where there is none; the first two are printed.

    And the scores of each out-of-fold caption, None without captions.
    """
    if settings.task != "mos":
        meteor.shared_meteor(outputs.caption_words(settings))  # starts while the MOS are scored
    table, written = (
        tables.photos.set_index("photo_id"),
        read_json(outputs.ensemble(settings).folder / "constants.json"),
    )
    constants = {int(fold): sentence for fold, sentence in written.items()}
    evaluation = RunEvaluation(settings, table, tables.oof, constants)
    scores: dict = {"oof": evaluation.out_of_fold(), "test": None, "network": None}
    print(summary(f"{settings.run.name}, out of fold", scores["oof"]), flush=True)
    labels = test_labels(table, resolved.data_root(settings) / "test_labels.csv")
    if labels is not None:
        scores["test"] = evaluation.test(tables.test, labels)
        print(summary(f"{settings.run.name}, test", scores["test"]), flush=True)
    if resolved.has_networks(settings):
        networks = read_predictions(outputs.predictions(settings).folder / "oof.csv")
        scores["network"] = evaluation.networks(networks, scores["oof"])
    return scores, evaluation.caption_scores()


class RunEvaluation:
    """Scores prediction tables of one run.

    table: the photos by photo_id. predictions: what `ensemble` wrote as oof.csv. constants: constant sentences by fold
    that are known already (TEST: of all training photos); others are searched for.
    """

    def __init__(self, settings: Settings, table: pd.DataFrame, predictions: pd.DataFrame, constants: dict[int, str]):
        self.settings, self.predictions = settings, predictions
        self.training = table[for_training(table)]
        self.constants: dict[int, str | None] = dict(constants)
        self._scored: CaptionScores | None = None

    def out_of_fold(self) -> dict:
        """The report of the out-of-fold predictions, with each fold's own scores."""
        labels = self.training.loc[self.predictions["photo_id"]]
        return self._report(self.predictions, labels, self.predictions["fold"].to_numpy())

    def caption_scores(self) -> pd.DataFrame | None:
        """photo_id, cider_d, rouge_l, word edits and words of each photo that `out_of_fold` scored; None without."""
        if self._scored is None:
            return None
        captioned = self.training["captions"].loc[self.predictions["photo_id"]].map(bool).to_numpy()
        edits, words = self._scored.errors.T
        scores = {"cider_d": self._scored.cider, "rouge_l": self._scored.rouge, "edits": edits, "words": words}
        return pd.DataFrame({"photo_id": self.predictions["photo_id"].to_numpy()[captioned], **scores})

    def networks(self, predictions: pd.DataFrame, out_of_fold: dict) -> dict:
        """The report of what the networks alone predict. predictions: what `predict` wrote as oof.csv.

        out_of_fold: the report of the same photos whose baseline is taken.
        """
        labels = self.training.loc[predictions["photo_id"]]
        return self._report(predictions, labels, predictions["fold"].to_numpy(), out_of_fold["baseline"])

    def test(self, predictions: pd.DataFrame, labels: pd.DataFrame) -> dict:
        """The report of the test predictions. labels: as `test_labels` returns them."""
        return self._report(predictions, labels.loc[predictions["photo_id"]], np.full(len(predictions), TEST))

    def constant_caption(self, fold: int) -> str | None:
        """The best constant sentence of the training captions outside a fold, TEST: of all; None without captions."""
        if fold not in self.constants and self.settings.task != "mos":
            folds = self.predictions.set_index("photo_id")["fold"].reindex(self.training.index)
            outside = [list(texts) for texts in self.training["captions"][folds.to_numpy() != fold] if texts]
            weights = self.settings.metric.weights
            self.constants[fold] = constant_sentence(outside, weights).sentence if outside else None
        return self.constants.get(fold)

    def _report(
        self, predictions: pd.DataFrame, labels: pd.DataFrame, fold: np.ndarray, baseline: dict | None = None
    ) -> dict:
        """labels: mos and captions, row by row. fold: of each row, TEST for test photos."""
        metric, seed = self.settings.metric, self.settings.run.seed
        truth, references = labels["mos"].to_numpy(float), labels["captions"].tolist()
        labelled = ~np.isnan(truth)

        def block(column: str) -> dict | None:
            predicted = predictions[column].to_numpy(float)
            return mos_block(predicted[labelled], truth[labelled], metric.bootstrap, seed)

        names, mos = members(predictions), predictions["mos"].to_numpy(float)
        # A photo that no member predicts has the MOS 0, which the form of a submission asks for and which is no score.
        learned = self.settings.task != "caption" or bool(names)
        mos_scores = block("mos") if learned and not np.isnan(mos[labelled]).any() else None
        blocks = {name: member for name in names if (member := block(name))}
        captions = None if self.settings.task == "mos" else predictions["caption"].tolist()
        scores = None if captions is None else self._caption_scores(captions, references)
        if predictions is self.predictions:
            self._scored = scores
        caption = caption_block(scores, metric.weights, metric.bootstrap, seed)
        if caption and captions and metric.spice:
            caption["spice"] = _spice(captions, references)
        baseline = baseline or self._baseline(blocks, scores, references, fold)
        # the ensemble chooses captions for photos that people captioned; the others keep what the search wrote
        judged = captions and [text for text, texts in zip(captions, references, strict=True) if texts]
        diagnostics = {
            "captions": None if captions is None else caption_diagnostics(judged or captions),
            "mos": mos_diagnostics(mos[labelled], truth[labelled]) if mos_scores else None,
        }
        report = evaluation_report(mos_scores, caption, baseline, diagnostics, [])
        report |= {"diagnostics": diagnostics, "members": blocks, "folds": []}
        captioned = np.array([bool(texts) for texts in references], bool)
        for k in np.unique(fold[fold >= 0]).tolist():
            rows = labelled & (fold == k)
            fold_mos = mos_block(mos[rows], truth[rows], 0, seed) if mos_scores else None
            text = None
            if scores is not None and (captioned & (fold == k)).any():
                text = caption_score(scores.subset(fold[captioned] == k).totals(), metric.weights)
            report["folds"].append({"fold": k, "mos": fold_mos and fold_mos["score"], "caption": text})
        return report

    def _caption_scores(self, captions: list[str], references: list[tuple[str, ...]]) -> CaptionScores | None:
        """Scores of the photos that have references; None where none has."""
        pairs = [(text, list(texts)) for text, texts in zip(captions, references, strict=True) if texts]
        return score_captions([r for _, r in pairs], [c for c, _ in pairs]) if pairs else None

    def _baseline(
        self, blocks: dict[str, dict], scores: CaptionScores | None, references: list[tuple[str, ...]], fold: np.ndarray
    ) -> dict:
        """mos, caption, sentence (all folds' sentences), measures (of the caption, by name).

        The constant sentence of a photo's fold has not seen it.
        """
        by_fold = {k: self.constant_caption(k) for k in np.unique(fold).tolist()} if scores is not None else {}
        sentences = [sentence for sentence in dict.fromkeys(by_fold.values()) if sentence]
        caption = measures = None
        if by_fold and all(by_fold.values()):
            constants = self._caption_scores([by_fold[k] or "" for k in fold.tolist()], references)
            measures = constants and constants.totals()
            caption = measures and caption_score(measures, self.settings.metric.weights)
        mos = blocks[BASELINE]["score"] if BASELINE in blocks else None
        return {"mos": mos, "caption": caption, "sentence": " | ".join(sentences) or None, "measures": measures}


def _spice(captions: list[str], references: list[tuple[str, ...]]) -> float:
    pairs = [(text, list(texts)) for text, texts in zip(captions, references, strict=True) if texts]
    *truth, candidates = tokenize([*(texts for _, texts in pairs), [text for text, _ in pairs]])
    return spice(truth, candidates)
