"""Which loss of the score teaches best: python -m tests.benchmarks.quality_losses FOLDER [key.sub=value ...].

For each loss and each of three seeds the network alone is trained on the labelled photos of one fold, equally long,
and scored on the photos left out after its last epoch. Prints each score, then the mean and spread over the seeds.
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
        return Fit(settings, data, 0, Path(folder), init_ranks(), None).run().rows[-1]["val_mos_score"]


def main() -> None:
    root, *chosen = sys.argv[1:]
    with tempfile.TemporaryDirectory() as runs:
        common = [f"data.root={root}", f"run.root={runs}", "task=mos", "train.epochs=8", *chosen]
        for stage in (preprocess, split):
            stage.main(common)
        found = {name: [] for name in LOSSES}
        for seed in SEEDS:
            for name, loss in LOSSES.items():
                found[name].append(score(common, loss, seed, Path(runs)))
                print(f"seed {seed}, {name}: {found[name][-1]:.4f}", flush=True)
    for name, scores in found.items():
        print(f"{name:<14} mean {np.mean(scores):.3f}, sd {np.std(scores, ddof=1):.3f}")


if __name__ == "__main__":
    main()
