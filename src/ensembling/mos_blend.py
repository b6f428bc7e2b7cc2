"""The MOS of an ensemble: the members of all runs, the blend of those that help, and what each of them adds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.base.machine import usable_processes
from src.data.codebook import FEWEST, NOTE, build_codebook_features
from src.data.table import for_training
from src.ensembling.ablation import AblationStep, ScoredStep, score_mos_step
from src.ensembling.regressors import TEST, PhotoFeatures, frozen_table, member_name, regressor_members
from src.ensembling.stacking import blend, clip_to_labels, helpful_members
from src.inference.fold_predictions import regressor_features
from src.pipeline import outputs, resolved
from src.pipeline.artefacts import making
from src.settings.schema import Settings


@dataclass(frozen=True)
class MosBlend:
    """What the ensemble says of MOS."""

    mos: np.ndarray
    """[N], NaN for a photo that was never left out, and for one that no network could read."""
    weights: dict[str, float]
    """Of each member that takes part in the blend of test photos."""
    steps: list[ScoredStep]


def photo_features(settings: Settings, runs: Sequence[Settings], table: pd.DataFrame) -> PhotoFeatures:
    """What the regressors learn from; codebook features are computed where they are absent, given enough labels."""
    codebook = None
    if settings.task != "caption" and table["mos"].notna().sum() >= FEWEST:
        artefact = outputs.codebook_features(runs[0])
        with making(artefact) as work:
            if work:
                root, paths = resolved.data_root(runs[0]), table["path"].tolist()
                megapixels, training = runs[0].data.maximum_megapixels, for_training(table)
                processes = usable_processes(0.5)
                work.outputs += build_codebook_features(work.folder, root, paths, training, processes, megapixels)
                work.notes += [NOTE]
        codebook = np.load(artefact.folder / "codes.npy")
    frozen = {run.run.name: regressor_features(run) for run in runs if run.encoder.cached and run.task != "caption"}
    if settings.task != "caption":
        frozen |= {name: regressor_features(runs[0], name) for name in settings.ensemble.encoders}
    tables = {name: [frozen_table(*each) for each in features] for name, features in frozen.items()}
    return PhotoFeatures(np.load(outputs.photos(runs[0]).folder / "handcrafted.npy"), codebook, tables)


def mos_members(
    networks: Mapping[str, np.ndarray],
    features: PhotoFeatures,
    mos: np.ndarray,
    fold: np.ndarray,
    folds: list[int],
    seconds: dict[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """MOS [N] of each member by its column, within the range of the labels; none where there is no label.

    networks: out-of-fold and test predictions [N] of each run by its name, NaN elsewhere; all NaN for a run without
    MOS. mos: [N], NaN where unknown. fold: [N], TEST for test photos. folds: those that are predicted. seconds: gets
    the time that each regressor takes.
    """
    if np.isnan(mos).all():
        return {}
    first, *_ = networks
    members = regressor_members(features, mos, fold, folds, first, seconds)
    members |= {
        member_name("network", run, first): predicted
        for run, predicted in networks.items()
        if not np.isnan(predicted).all()
    }
    return {name: clip_to_labels(predicted, mos, fold) for name, predicted in members.items()}


def member_used(members: Collection[str], wanted: str) -> str:
    """The column of ensemble.mos: of the first run that has such a member; the blend where none has."""
    return next((name for name in (wanted, *members) if name in members and name.split()[0] == wanted), "blend")


def blend_mos(
    members: Mapping[str, np.ndarray], mos: np.ndarray, fold: np.ndarray, first: str, used: str, settings: Settings
) -> MosBlend:
    """The mean of the members [N] that help, which are at least one, and its ablation.

    mos: [N], NaN where unknown. fold: [N], TEST for test photos. first: the name of the first run. used: the column
    whose MOS test photos get.
    """
    names, stacked = list(members), np.column_stack(list(members.values()))
    labelled = ~np.isnan(mos) & (fold != TEST) & ~np.isnan(stacked).any(1)
    kept = helpful_members(stacked[labelled], mos[labelled])

    def blended(columns: list[int]) -> np.ndarray:
        return clip_to_labels(stacked[:, columns].mean(1), mos, fold)

    whole = clip_to_labels(blend(stacked, mos, fold), mos, fold)
    steps: list[tuple[AblationStep, np.ndarray]] = []
    for column, name in enumerate(names):
        if column and name in ("network", used):
            title = f"network of {first} alone" if name == "network" else f"{name} alone"
            steps.append((AblationStep(title, used == name, side_branch=True), blended([column])))
    for column, name in enumerate(names):
        before, helps = [other for other in kept if other < column], column in kept
        on = helps if used == "blend" else name == used and not column
        step = AblationStep(f"+ {name}" if before else name, on, side_branch=not helps)
        steps.append((step, blended([*before, column])))
    steps.append((AblationStep("blend of the members that help", used == "blend"), whole))
    scored = [
        score_mos_step(step, predicted[labelled], mos[labelled], settings.metric.bootstrap, settings.run.seed)
        for step, predicted in steps
    ]
    return MosBlend(whole, {names[i]: 1 / len(kept) for i in kept}, scored)


def used_mos(
    members: Mapping[str, np.ndarray], blended: MosBlend | None, used: str, mean: float, unreadable: np.ndarray
) -> pd.DataFrame:
    """The columns mos (that of `used`), then each member and the blend, [N] rows.

    mean: what a photo gets that is `unreadable`, bool [N], of every member. Without members mos is 0.
    """
    columns = dict(members) | ({"blend": blended.mos} if blended else {})
    table = pd.DataFrame({name: np.where(unreadable, mean, predicted) for name, predicted in columns.items()})
    table.insert(0, "mos", table.get(used, np.zeros(len(unreadable))))
    return table
