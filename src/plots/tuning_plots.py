"""Optuna's figures of a hyperparameter search: history, scores by setting, importance, and the Pareto front.

They alone are drawn by pyplot, which Optuna uses.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib.style
import optuna
from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial
from optuna.visualization import matplotlib as figures

from src.base.files import replacing
from src.plots.style import DPI


def draw_search(study: optuna.Study, folder: Path) -> None:
    """Draw history.png, slices.png and importance.png; for two scores history and slices of each, and pareto.png.

    study: the finished trials, at least one of which has a score; the scores have names.
    """
    pyplot.switch_backend("agg")  # whatever MPLBACKEND says: there may be no screen
    names = study.metric_names or []
    completed = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    for place, name in enumerate(names):
        suffix = f"-{name.split()[0].lower()}" if len(names) > 1 else ""

        def score(trial: FrozenTrial, place: int = place) -> float:
            return trial.values[place]

        with _picture(folder / f"history{suffix}.png"):
            # with a target Optuna leaves out the best score so far
            target = score if len(names) > 1 else None
            axes = figures.plot_optimization_history(study, target=target, target_name=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        with _picture(folder / f"slices{suffix}.png"):
            figures.plot_slice(study, target=score, target_name=name)
    with _picture(folder / "importance.png"):
        by_score = zip(*(trial.values for trial in completed), strict=True)
        if len(completed) > 3 and all(len(set(scores)) > 1 for scores in by_score):
            figures.plot_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        else:
            pyplot.figure().text(0.5, 0.5, "too few different scores to say which setting mattered", ha="center")
    if len(names) > 1:
        with _picture(folder / "pareto.png"):
            figures.plot_pareto_front(study)


@contextlib.contextmanager
def _picture(out: Path) -> Iterator[None]:
    """Save what is drawn in the block as the PNG file `out`, whole or not, whatever the user's own style."""
    with matplotlib.style.context(["default", {"axes.formatter.min_exponent": 3}]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that Optuna's figures are experimental, that a single value has no range
        yield
        with replacing(out) as temporary:
            pyplot.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        pyplot.close()
