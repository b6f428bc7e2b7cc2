"""Trainings that are cut off after a step, as by a kill, in whose place this is quicker."""

import pytest

from src import train
from src.training.fit import Fit


class Cut(BaseException):
    """Ends training as a kill does."""


def train_one_step(options: list[str]) -> None:
    """Train, or go on, until the next step is saved; train.checkpoint_steps is 1 among the options."""
    save = Fit._save_step

    def save_and_end(fit: Fit) -> None:
        save(fit)
        raise Cut

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Fit, "_save_step", save_and_end)
        train.main(options)


def train_whole_and_in_pieces(options: list[str]) -> None:
    """Train the run `whole` at once, and that of the options cut off twice."""
    train.main([*options, "run.name=whole"])
    for _ in range(2):
        train_one_step(options)
    train.main(options)
