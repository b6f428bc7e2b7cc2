"""One run or many made one: the tables of what they predicted, and the blend of their MOS."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.base.errors import InputError
from src.base.files import write_json, write_text
from src.ensembling.ablation import AblationStep, ScoredStep, ablation_csv, ablation_text, score_mos_step
from src.ensembling.caption_selection import CaptionStrategy, SelectedCaptions
from src.ensembling.stacking import BLENDS, TEST, blend, final_weights, helpful, nnls_blend, selective, within
from src.ensembling.tables import read_predictions
from src.pipeline import outputs, resolved
from src.pipeline.artefacts import outdated, outputs_digest
from src.pipeline.runs import fold_folder, run_folder, settings_path
from src.settings.load import as_yaml
from src.settings.schema import Settings

MEMBERS = ("network", "ridge", "boosting", "svr", "frozen_ridge", "frozen_boosting", "frozen_svr", "blend")
REGRESSORS = tuple(name for name in MEMBERS if name not in ("network", "blend"))
"""The regressors on features."""


def check_alike(runs: Sequence[Settings]) -> None:
    """Raise InputError where a run is not predicted, or works on other photos, labels or folds than the first."""
    bases = []
    for run in runs:
        name, photos = run.run.name, outputs.photos(run)
        trained = settings_path(fold_folder(run_folder(run), resolved.folds_of(run)[0]))
        how = f"--config {trained} run.name={name}"
        for artefact in (photos, outputs.predictions(run)):
            if reason := outdated(artefact, code=False):
                raise InputError(f"{name}: {artefact.folder}: {reason}; python -m src.{artefact.stage} {how}")
        bases.append({
            "photos or labels": photos.record()["outputs"]["photos.jsonl"]["sha256"],
            "folds": outputs_digest(outputs.folds(run)),
            "folds predicted (train.fold)": resolved.folds_of(run),
        })  # fmt: skip
    for run, basis in zip(runs, bases, strict=True):
        if other := [what for what, value in basis.items() if value != bases[0][what]]:
            raise InputError(
                f"{run.run.name} cannot be joined with {runs[0].run.name}: other {' and other '.join(other)}; "
                "join runs of one data set with equal split.*"
            )


def read_together(runs: Sequence[Settings]) -> pd.DataFrame:
    """What the first run predicted, out of fold and then of test photos (fold TEST), beside the others' networks.

    The captions are those of the first run that writes any.

    Raises InputError where they did not predict the same photos.
    """
    tables = []
    for run in runs:
        folder = outputs.predictions(run).folder
        parts = [read_predictions(folder / "oof.csv"), read_predictions(folder / "test.csv").assign(fold=TEST)]
        tables.append(pd.concat([part for part in parts if len(part)], ignore_index=True))
    first, *others = tables
    writer = next((table for run, table in zip(runs, tables, strict=True) if run.task != "mos"), first)
    first["caption"] = writer["caption"]
    first["fallback"] = first["fallback"].fillna("") if "fallback" in first else ""
    for run, table in zip(runs[1:], others, strict=True):
        if list(table["photo_id"]) != list(first["photo_id"]):
            raise InputError(f"{run.run.name} predicted other photos than {runs[0].run.name}; predict both again")
        own = [name for name in table if name == "network" or name.startswith("frozen_")]
        common = [name for name in REGRESSORS if name in table and name not in (*own, *first)]
        first = first.assign(**table[common], **{f"{name} {run.run.name}": table[name] for name in own})
    return first


@dataclass(frozen=True)
class Blended:
    """The blend [N] of a table's members, the weight of each that takes part in that of test photos, and the steps."""

    mos: np.ndarray
    weights: dict[str, float]
    steps: list[ScoredStep]


def _members(table: pd.DataFrame) -> list[str]:
    """The columns of the members: regressors on features, the first run's network, and what other runs bring in."""
    others = [name for name in table if name.partition(" ")[0] in MEMBERS and " " in name]
    return [name for name in (*REGRESSORS, "network", *others) if name in table]


def blend_mos(table: pd.DataFrame, mos: np.ndarray, settings: Settings) -> Blended | None:
    """The blend of what the runs predicted, each photo's fitted on other folds, members that do not help left out.

    table: of `read_together`. mos [N]: labels, NaN where unknown. None where there is no member.
    """
    names = _members(table)
    if not names:
        return None
    fold, known = table["fold"].to_numpy(), ~np.isnan(mos) & (table["fold"] != TEST).to_numpy()
    stacked = table[names].to_numpy(float)

    def blended(columns: list[int], regressor=nnls_blend) -> np.ndarray:
        return within(blend(stacked[:, columns], mos, fold, regressor), mos, fold)

    kept = helpful(stacked[known], mos[known])
    chosen = blended(list(range(len(names))), selective(BLENDS[settings.ensemble.mos]))
    weights = dict(zip([names[i] for i in kept], final_weights(stacked[:, kept], mos, fold).tolist(), strict=True))
    steps = _steps(names, kept, blended, settings)
    steps.append(
        (AblationStep(f"{settings.ensemble.mos} blend of what helps", settings.predict.mos == "blend"), chosen)
    )
    metric, seed = settings.metric, settings.run.seed
    steps = [score_mos_step(step, mos_of[known], mos[known], metric.bootstrap, seed) for step, mos_of in steps]
    return Blended(chosen, weights, steps)


def _steps(names: list[str], kept: list[int], blended, settings: Settings) -> list[tuple[AblationStep, np.ndarray]]:
    """Steps with the MOS [N] after each: a network, member by member onto those that help, and other blends of all."""
    steps, submitted = [], settings.predict.mos
    if names[0] in REGRESSORS and "network" in names:
        first = (settings.ensemble.runs or [settings.run.name])[0]
        alone = AblationStep(f"network of {first} alone", submitted == "network")
        steps.append((alone, blended([names.index("network")])))
    for place, name in enumerate(names):
        title, helps = f"+ {name}" if place else name, place in kept
        step = AblationStep(title, helps if submitted == "blend" else title == submitted, side_branch=not helps)
        steps.append((step, blended([*(other for other in kept if other < place), place])))
    for kind in BLENDS:
        if kind not in ("nnls", settings.ensemble.mos):
            other = blended(list(range(len(names))), BLENDS[kind])
            steps.append((AblationStep(f"{kind} blend instead", False, side_branch=True), other))
    return steps


def write_ensemble(
    folder: Path,
    settings: Settings,
    table: pd.DataFrame,
    blend: Blended | None,
    captions: SelectedCaptions | None,
    rows: list[dict],
) -> list[str]:
    """Write the tables, how they came about, the ablation's rows, and a config for what comes after; the files' names."""
    way, constants = (captions.way, captions.constants) if captions else (None, {})
    members = [name for name in ("network", *REGRESSORS, *_members(table), "blend") if name in table]
    columns = ["photo_id", "fold", "mos", *dict.fromkeys(members), "caption", "fallback"]
    whole, tested = table[columns], table["fold"] == TEST
    frames = {"oof": whole[~tested].drop(columns="fallback"), "test": whole[tested].drop(columns="fold")}
    for name, frame in frames.items():
        write_text(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    kind = settings.ensemble.mos if settings.predict.mos == "blend" else settings.predict.mos
    how = {"mos": kind, "weights": blend.weights if blend else {}, "captions": str(way or CaptionStrategy())}
    write_json(folder / "blend.json", how | (dataclasses.asdict(way) if way else {}))
    write_json(folder / "constants.json", constants)
    write_text(folder / "ablation.csv", ablation_csv(rows))
    write_text(folder / "ablation.txt", ablation_text(rows, settings.metric.bootstrap) + "\n")
    write_text(folder / "ensemble.yaml", as_yaml(settings))
    return ["oof.csv", "test.csv", "blend.json", "constants.json", "ablation.csv", "ablation.txt"]
