"""Settings of the search for good settings."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from src.settings.fields import STRICT, PositiveInt, RuntimeOnly

DEMO_SPACE = {
    "optim.lr": {"low": 5e-4, "high": 3e-3, "log": True},
    "decoder.dropout": {"low": 0.1, "high": 0.5},
    "loss.mos_weight": {"low": 0.5, "high": 4.0, "log": True},
}
"""Searched where tune.space is not given."""
DEMO_TRIALS = 2
"""Of the demo where tune.trials is not given; the first has the settings as they are."""
DECODING_SPACE: dict[str, dict] = {
    "decoding.beam": {"low": 1, "high": 6},
    "decoding.length_penalty": {"low": 0.0, "high": 1.5},
    "decoding.minimum_words": {"low": 1, "high": 8},
    "decoding.no_repeat_ngram_size": {"choices": [0, 2, 3, 4]},
}
"""Searched by --stage decode where tune.space is not given."""


@dataclass(frozen=True, config=STRICT)
class TuneSettings:
    """The search for good settings. None of these changes what training with given settings computes."""

    trials: RuntimeOnly[Annotated[int, Field(ge=0, le=10**6)] | None] = None
    """Settings tried; 0 skips tuning. Not given: 2 on the embedded demo, else 0 (20 with --stage decode)."""
    space: RuntimeOnly[dict[str, dict] | None] = None
    """What is searched: {optim.lr: {low: 1e-4, high: 1e-2, log: true}, train.batch_size: {low: 16, high: 64, step: 16},
    decoder.cell: {choices: [lstm, gru]}}. Not given: a small space for the demo, without what differs from defaults."""
    objective: RuntimeOnly[Literal["mos", "caption", "mean", "both"] | None] = None
    """Validation score of a trial: mean is that of the MOS score and the caption score over the sum of metric.weights;
    both searches for the Pareto front of the two. Not given: mean, or the one that task learns."""
    pruner: RuntimeOnly[Literal["none", "median", "halving", "hyperband"]] = "none"
    """Ends trials early that fall behind: under the median, by successive halving, by Hyperband."""
    epochs: RuntimeOnly[PositiveInt | None] = None
    """Epochs of a trial. Not given: train.epochs. Fewer of them favour settings that learn fast."""
    folds: RuntimeOnly[list[int] | None] = None
    """Folds whose mean score counts. Not given: fold 0; all finished folds with --stage decode."""
    judge_folds: RuntimeOnly[list[int] | None] = None
    """Folds on which the winner must beat the settings as they are, both trained there for train.epochs, on one of
    tune.folds with another seed; []: it wins unjudged. Not given: two outside tune.folds, or two of tune.folds where
    there is none outside; all finished folds outside tune.folds with --stage decode."""
    storage: RuntimeOnly[str | None] = None
    """Where the trials are kept: postgresql://HOST/DATABASE for workers on many machines, or sqlite:///FILE. Not given:
    study.db in the run's folder tune."""

    def __post_init__(self) -> None:
        if self.objective == "both" and self.pruner != "none":
            raise ValueError("tune.objective=both has no order in which to prune; give tune.pruner=none")
        if self.space == {} and self.trials:
            raise ValueError("tune.space: nothing to search: it is empty, or all of it is given on the command line")
        if self.storage is not None and not self.storage.startswith(("sqlite:///", "postgresql:", "postgresql+")):
            raise ValueError("tune.storage: expected postgresql://USER@HOST/DATABASE or sqlite:///FILE")
