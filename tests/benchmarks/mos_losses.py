"""Compare the MOS losses: python -m tests.benchmarks.mos_losses FOLDER [key.sub=value ...].

For each loss and each of three seeds, a network is trained on the labelled photos of one fold for the same number of
epochs and scored on the validation photos after the last one. Prints each score, then mean and standard deviation over
the seeds.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np

from src import preprocess, split
from src.base.randomness import make_deterministic
from src.pipeline import outputs
from src.settings.load import load
from src.training.distributed import init_ranks
from src.training.fit import Fit
from src.training.fold_data import read_fold

LOSSES = {
    "mse": [],
    "huber": ["loss.mos=huber"],
    "distribution": ["loss.mos=distribution"],
    "plcc": ["loss.mos=none", "loss.plcc=1"],
    "rank": ["loss.mos=none", "loss.rank=1"],
    "srcc": ["loss.mos=none", "loss.srcc=1"],
    "huber + plcc": ["loss.mos=huber", "loss.plcc=1"],
}
SEEDS = (0, 1, 2)


def score(common: list[str], loss: list[str], seed: int, runs: Path) -> float:
    """The validation score after the last epoch."""
    settings, _ = load([*common, *loss, f"run.seed={seed}"], "train")
    places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    data = read_fold(*places, 0, settings.vocabulary.maximum_words)
    labelled = [rows[~np.isnan(data.labels.mos[rows])] for rows in (data.train_rows, data.validation_rows)]
    data = dataclasses.replace(data, train_rows=labelled[0], validation_rows=labelled[1])
    make_deterministic(settings.run.threads)
    with tempfile.TemporaryDirectory(dir=runs) as folder:
        return Fit(settings, data, 0, Path(folder), init_ranks()).run().rows[-1]["val_mos_score"]


def main() -> None:
    root, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as runs:
        common = [f"data.root={root}", f"run.root={runs}", "task=mos", "train.epochs=8", *arguments]
        for stage in (preprocess, split):
            stage.main(common)
        scores = {name: [] for name in LOSSES}
        for seed in SEEDS:
            for name, loss in LOSSES.items():
                scores[name].append(score(common, loss, seed, Path(runs)))
                print(f"seed {seed}, {name}: {scores[name][-1]:.4f}", flush=True)
    for name, values in scores.items():
        print(f"{name:<14} mean {np.mean(values):.3f}, sd {np.std(values, ddof=1):.3f}")


if __name__ == "__main__":
    main()
