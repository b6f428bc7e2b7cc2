"""Settings of the search for good settings."""

from dataclasses import dataclass
from typing import Literal

from src.settings.fields import number, runtime_only

DEMO_SPACE = {
    "optim.lr": {"low": 1e-3, "high": 1e-2, "log": True},
    "decoder.dropout": {"low": 0.1, "high": 0.5},
    "loss.mos_weight": {"low": 0.5, "high": 4.0, "log": True},
}
"""Searched where tune.space is not given."""
DEMO_TRIALS, DEMO_EPOCHS = 3, 2
"""How the demo is tuned where tune.trials is not given: trials, and epochs of each."""
DECODING_SPACE = {
    "decoding.beam": {"low": 1, "high": 6},
    "decoding.length_penalty": {"low": 0.0, "high": 1.5},
    "decoding.minimum_words": {"low": 1, "high": 8},
    "decoding.no_repeat_ngram_size": {"choices": [0, 2, 3, 4]},
}
"""Searched by --stage decode where tune.space is not given."""


@dataclass(frozen=True)
class TuneSettings:
    """The search for good settings. None of these changes what training with given settings computes."""

    trials: int | None = number(None, low=0, high=10**6, runtime_only=True)
    """Settings tried; 0 skips tuning. Not given: 3 on the embedded demo, else 0 (20 with --stage decode)."""
    space: dict[str, dict] | None = runtime_only(None)
    """What is searched: {optim.lr: {low: 1e-4, high: 1e-2, log: true}, train.batch_size: {low: 16, high: 64, step: 16},
    decoder.cell: {choices: [lstm, gru]}}. Not given: a small space for the demo, without what differs from defaults."""
    objective: Literal["mos", "caption", "mean", "both"] | None = runtime_only(None)
    """Validation score of a trial: mean is that of the MOS score and the caption score over the sum of metric.weights;
    both searches for the Pareto front of the two. Not given: mean, or the one that task learns."""
    pruner: Literal["none", "median", "halving", "hyperband"] = runtime_only("none")
    """Ends trials early that fall behind: under the median, by successive halving, by Hyperband."""
    epochs: int | None = number(None, low=1, runtime_only=True)
    """Epochs of a trial. Not given: train.epochs; 2 where tune.trials is not given either."""
    folds: list[int] | None = runtime_only(None)
    """Folds whose mean score counts. Not given: fold 0; all finished folds with --stage decode."""
    storage: str | None = runtime_only(None)
    """Where the trials are kept: postgresql://HOST/DATABASE for workers on many machines, or sqlite:///FILE. Not given:
    study.db in the run's folder tune."""
