"""A METEOR that starts within a second, and a fixed constant sentence, for tests of other things."""

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
    """Let stages score with this METEOR, and take a fixed constant sentence instead of searching for the best."""
    patch.setattr("src.metrics.meteor.shared_meteor", lambda: meteor)
    for user in ("metrics.constant_caption", "reports.run_report", "ensembling.caption_selection"):
        patch.setattr(f"src.{user}.constant_sentence", lambda *_, **__: ConstantCaption("the light is nice", 1.0))
