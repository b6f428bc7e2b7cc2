"""A METEOR that starts within a second, a fixed constant sentence, and no pictures, for tests of other things."""

import gzip
from pathlib import Path

import pytest

from src.metrics.constant_caption import ConstantCaption
from src.metrics.meteor import Meteor


def paraphrases(folder: Path) -> Path:
    """A table of one paraphrase in METEOR's format."""
    path = folder / "paraphrases.gz"
    path.write_bytes(gzip.compress(b"0.5\nnice\nlovely\n"))
    return path


def small_meteor(folder: Path) -> Meteor:
    """Its process; close it after use. It matches words, stems and synonyms, and hardly a paraphrase."""
    return Meteor(paraphrases(folder))


def quick_scores(patch: pytest.MonkeyPatch, meteor: Meteor) -> None:
    """Let stages score with this METEOR, without a search for constant sentences and without pictures of a run."""
    patch.setattr("src.metrics.meteor.shared_meteor", lambda: meteor)
    fixed_constant(patch)
    for drawing in ("plots.data_histograms.draw_statistics", "plots.training_curves.draw_curves", "evaluate.draw_run"):
        patch.setattr(f"src.{drawing}", lambda *_, **__: None)


def fixed_constant(patch: pytest.MonkeyPatch) -> None:
    """Let stages take a fixed constant sentence instead of searching for the best."""
    constant = ConstantCaption("the light is nice", 1.0)
    for user in ("metrics.constant_caption", "reports.run_report", "ensembling.caption_selection"):
        patch.setattr(f"src.{user}.constant_sentence", lambda *_, **__: constant)
    patch.setattr("src.ensembling.caption_selection.constant_sentences", lambda sets, *_, **__: [constant] * len(sets))
