"""One MOS and one caption a photo from the run, or from many: python -m src.ensemble [RUN RUN …]

Each RUN is the name of a predicted run on the same photos and folds; their sizes, networks and captioners may differ.
Without names the run itself. All that learns from predictions is fitted here. MOS: regressors on features of the
photos, also of further frozen models (ensemble.encoders), and the mean of the members that help on the other folds
(ensemble.mos). Captions: of what all captioners' searches and random samples wrote and people wrote of the nearest
training photos, the one with the highest expected score, for each fold by the strategy that was best on the other
folds, without what nobody says (ensemble.broken_endings, ensemble.repeats, ensemble.maximum_share); or as the first
run's search wrote them (ensemble.captions).

Writes runs/NAME/ensemble/: oof.csv and test.csv, which evaluate and submit read, blend.json (the members' weights, and
how captions are chosen), constants.json (the folds' constant sentences), caption_confidence.csv (what each caption is
expected to add to the score), ablation.csv, ablation.txt and ablation.png (what each step adds out of fold),
timing.json (seconds of each regressor) and ensemble.yaml, a --config for evaluate and submit. A test photo that cannot
be read gets the mean MOS and the constant sentence. NAME is all names joined by +, or run.name.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import InputError, guarded
from src.base.files import write_if_different
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import making
from src.pipeline.budget import keep_pace
from src.pipeline.trained_runs import joined, load_joining
from src.settings.load import as_yaml
from src.settings.schema import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from src.ensembling.ablation import ScoredStep
    from src.ensembling.caption_selection import CaptionChoice
    from src.ensembling.mos_blend import MosBlend


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="*", help="names of runs to join; the same as ensemble.runs")


def ensemble_runs(settings: Settings, runs: Sequence[Settings], folder: Path) -> list[str]:
    """Write the ensemble of the runs to the folder; the names of the files."""
    import pandas as pd

    from src.base.files import write_json, write_text
    from src.ensembling.mos_blend import blend_mos, member_used, mos_members, photo_features, used_mos
    from src.ensembling.regressors import TEST
    from src.ensembling.run_predictions import check_alike, photos_with_folds, run_predictions

    check_alike(runs)
    first, folds = runs[0], resolved.folds_of(runs[0])
    (table, training, _), fold = photos_with_folds(first)
    predicted = [run_predictions(run, table["photo_id"]) for run in runs]

    mos = table["mos"].iloc[training].reindex(table.index).to_numpy(float)
    networks = {run.run.name: answers["mos"].to_numpy(float) for run, answers in zip(runs, predicted, strict=True)}
    seconds: dict[str, float] = {}
    members = mos_members(networks, photo_features(settings, runs, table), mos, fold, folds, seconds)
    used = member_used(members, settings.ensemble.mos)
    blended = blend_mos(members, mos, fold, first.run.name, used, settings) if members else None
    mean, unreadable = table["mos"].iloc[training].mean(), (predicted[0]["fallback"] != "").to_numpy()
    columns = used_mos(members, blended, used, mean, unreadable)

    searched = [answers["caption"].tolist() for run, answers in zip(runs, predicted, strict=True) if run.task != "mos"]
    choice = choose_captions(settings, runs, table, fold, searched, folder)

    output = columns.assign(caption=choice.captions, fallback=predicted[0]["fallback"])
    output.insert(0, "photo_id", table["photo_id"])
    output.insert(1, "fold", fold)
    parts = {"oof.csv": output[output["fold"].isin(folds)].drop(columns="fallback")}
    parts["test.csv"] = output[output["fold"] == TEST].drop(columns="fold")
    for name, part in parts.items():
        write_text(folder / name, part.to_csv(index=False, lineterminator="\n"))
    rows = list(choice.expected)
    confidence = pd.DataFrame({"photo_id": table["photo_id"][rows], "expected": [choice.expected[row] for row in rows]})
    write_text(folder / "caption_confidence.csv", confidence.to_csv(index=False, lineterminator="\n"))
    write_json(folder / "timing.json", {name: round(took, 3) for name, took in seconds.items()})
    record = {
        "runs": [run.run.name for run in runs],
        "mos": mos_record(used, first, blended),
        "captions": choice.record,
    }
    write_json(folder / "blend.json", record)
    write_json(folder / "constants.json", choice.constants)
    steps = [*(blended.steps if blended else []), *choice.steps]
    return [*parts, "caption_confidence.csv", "blend.json", "constants.json", *write_ablation(settings, steps, folder)]


def choose_captions(
    settings: Settings,
    runs: Sequence[Settings],
    table: "pd.DataFrame",
    fold: "np.ndarray",
    searched: list[list[str]],
    scratch: Path,
) -> "CaptionChoice":
    """The captions of all photos.

    fold: [N], TEST for test photos. searched: of each run with captions, those of its own search [N], "" where none.
    scratch: the folder of files without a name.
    """
    from src.ensembling.caption_rules import CaptionRules
    from src.ensembling.caption_selection import CaptionChoice, ensemble_captions, fill_empty
    from src.ensembling.caption_strategy import CaptionStrategy
    from src.ensembling.regressors import TEST
    from src.ensembling.run_predictions import run_candidates

    constants: dict[int, str] = {}
    captions = searched[0] if searched else [""] * len(table)
    needed = [TEST] if settings.task == "mos" else [*resolved.folds_of(runs[0]), TEST]
    captions = fill_empty(captions, table, fold, needed, settings.metric.weights, constants)
    writers = [run for run in runs if run.task != "mos"]
    if settings.task == "mos" or settings.ensemble.captions == "search" or not writers:
        return CaptionChoice(captions, CaptionStrategy().record(), constants)
    candidates = [run_candidates(run, table["photo_id"]) for run in writers]
    options, endings = settings.ensemble, frozenset(writers[0].decoding.bad_endings.lower().split())
    rules = CaptionRules(None if options.broken_endings else endings, options.repeats, options.maximum_share)
    selected, steps = ensemble_captions(settings, candidates, table, fold, captions, constants, rules, scratch)
    captions = [selected.captions.get(row, caption) for row, caption in enumerate(captions)]
    return CaptionChoice(captions, selected.strategy.record(), constants, steps, selected.expected)


def mos_record(used: str, first: Settings, blended: "MosBlend | None") -> dict:
    """Which member's MOS is used, and the weights of the blend.

    A regressor on handcrafted features is of no run; one of ensemble.encoders stands where others have their run.
    """
    from src.ensembling.regressors import REGRESSORS

    members = []
    for name, weight in (blended.weights if blended else {}).items():
        member, _, other = name.partition(" ")
        run = None if member in REGRESSORS else other or first.run.name
        members.append({"member": member, "run": run, "weight": weight})
    return {"used": used, "members": members}


def write_ablation(settings: Settings, steps: Sequence["ScoredStep"], folder: Path) -> list[str]:
    """Write, print and draw what each step adds; the names of the files that count."""
    from src.base.files import write_text
    from src.ensembling.ablation import ablation_rows, ablation_text, write_ablation_csv
    from src.plots.ablation_plot import draw_ablation

    rows = ablation_rows(steps)
    text = ablation_text(rows, settings.metric.bootstrap)
    write_ablation_csv(folder / "ablation.csv", rows)
    write_text(folder / "ablation.txt", text + "\n")
    if rows:
        print(text, flush=True)
        draw_ablation(rows, folder / "ablation.png")
    return ["ablation.csv", "ablation.txt"]


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load_joining(argv, "ensemble", __doc__, add_options)
    if "RANK" in os.environ:
        raise InputError("ensemble is one process; start it without torchrun")
    stages.ensure_inputs(settings, "ensemble")
    settings = resolved.tuned(keep_pace(settings, "ensemble", options.fresh))
    with making(outputs.ensemble(settings), options.fresh) as work:
        if work:
            from src.base.randomness import make_deterministic

            make_deterministic(settings.run.threads)
            work.outputs += ensemble_runs(settings, joined(settings), work.folder)
        config = outputs.ensemble(settings).folder / "ensemble.yaml"
        # also beside an ensemble that is up to date: the settings may differ in what it does not depend on
        write_if_different(config, as_yaml(settings).encode())
    how = f"python -m src.evaluate --config {shlex.quote(str(config))}"
    print(f"ensemble: next: {how}, then src.submit with the same", flush=True)


if __name__ == "__main__":
    guarded(main)
