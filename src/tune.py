"""Search for good settings: tune.space says where, tune.trials how often; train and later stages use the winner.

A trial trains as always, on fold 0 or tune.folds, and is scored on the validation photos. The best one and the settings
as they are are then trained to the end on other folds (tune.judge_folds), and it wins only where it is better there
beyond chance; else the settings stay as they are. Writes runs/NAME/tune/: best.yaml (which train --config takes too),
judge.json, trials.csv, history.png, importance.png, slices.png; for two scores a history and slices of each, and
pareto.png; and fold-K/ of what was trained to the end with the settings that won, which train takes over. The same
command again goes on where it was cut off; started several times, here or on other machines with one tune.storage, it
shares the trainings out, and one of them judges. Random trials, the first five, need no other's score: where there are
no more, as many run side by side as there are cores (run.jobs). --show prints the table of trials.

--stage decode searches decoding.* on the checkpoints of a finished run, out of fold, without training, judges on the
finished folds outside tune.folds, and writes runs/NAME/tune-decode/.
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import InputError, guarded
from src.base.files import digest_of
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import Artefact, making, mark_unfinished, outdated, outputs_digest
from src.pipeline.fold_jobs import jobs_of
from src.pipeline.resolved import SearchPlan
from src.pipeline.runs import fold_name, marker_of, run_folder, tuning_folder
from src.pipeline.source_code import code_digest
from src.pipeline.trained_runs import load_run
from src.settings.keys import changing, flatten
from src.settings.load import changed, load, read_arguments
from src.settings.schema import Settings
from src.settings.tuning import TuneSettings

if TYPE_CHECKING:
    from src.tuning.study import Study
    from src.tuning.trials import DecodingObjective, TrainingObjective


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=["train", "decode"], default="train", help="what is searched; train")
    parser.add_argument("--show", action="store_true", help="print the trials so far and do nothing else")


def decoding_artefact(settings: Settings, plan: SearchPlan) -> Artefact:
    """What --stage decode writes. Raises InputError where a fold is not trained, or with other settings."""
    folder, inputs = tuning_folder(run_folder(settings), "decode"), {}
    for k in [*plan.folds, *plan.judge_folds]:
        fold = outputs.fold(settings, k)
        if reason := outdated(fold, code=False):
            how = shlex.join(["python", "-m", "src.train", f"run.name={settings.run.name}"])
            raise InputError(f"{fold.folder}: {reason}; {how} trains it")
        inputs[fold_name(k)] = outputs_digest(fold)
    part = changing(settings) | plan.as_settings() | {"tune.judge_folds": settings.tune.judge_folds}
    return Artefact("tune", folder, marker_of(folder), part, inputs, guard=folder / "best.yaml")


def check(settings: Settings, plan: SearchPlan, stage: str) -> None:
    """Raise InputError for what cannot be searched at this stage, and where there is nothing to search."""
    if "RANK" in os.environ:
        raise InputError("tune is one process; start the same command several times instead of torchrun")
    if stage == "decode" and settings.task == "mos":
        raise InputError("--stage decode: task=mos has no captions")
    if not plan.space:
        raise InputError("tune.space: nothing to search: it is empty, or all of it is given on the command line")
    for key in plan.space:
        if key.startswith("decoding.") and stage == "train":
            raise InputError(f"tune.space: {key} changes no training; python -m src.tune --stage decode searches it")
        if not key.startswith("decoding.") and stage == "decode":
            raise InputError(f"tune.space: {key}: --stage decode searches decoding.* alone, on networks as they are")


def open_study(settings: Settings, plan: SearchPlan, artefact: Artefact, fresh: bool) -> "Study":
    """The study of these settings, data and code, which other workers may share."""
    import optuna
    from sqlalchemy.engine import URL

    from src.tuning.study import Study, StudyPlan

    pruners = {
        "none": None,
        "median": optuna.pruners.MedianPruner,
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=plan.epochs),
    }
    apart = ("tune.trials", "tune.judge_folds")
    searched = outputs.differing({key: value for key, value in artefact.settings.items() if key not in apart})
    key = digest_of([searched, artefact.inputs, code_digest("tune")])[:12]
    file = artefact.folder.absolute() / "study.db"
    url = plan.storage or URL.create("sqlite", database=str(file)).render_as_string()
    initial = {name: value for name, value in flatten(settings).items() if name in plan.space}
    objectives = 2 if plan.objective == "both" else 1
    study_plan = StudyPlan(plan.trials, plan.space, initial, settings.run.seed, objectives, pruners[plan.pruner])
    return Study(url, f"{settings.run.name}-{artefact.folder.name}-{key}", study_plan, fresh)


def objective_of(
    settings: Settings, plan: SearchPlan, stage: str, folder: Path
) -> "TrainingObjective | DecodingObjective":
    """What a trial does with its settings."""
    from src.tuning.trials import DecodingObjective, TrainingObjective

    if stage == "decode":
        return DecodingObjective(settings, plan.folds)
    trial = changed(settings, {"train.epochs": plan.epochs}, "tune.epochs")
    return TrainingObjective(trial, plan.objective, plan.folds, folder)


@contextlib.contextmanager
def workers_beside(settings: Settings, trainings: int) -> Iterator[None]:
    """Further workers on the study, for so many trainings in all, stopped in the end."""
    import torch

    count = min(jobs_of(settings, int(torch.cuda.is_available())), trainings) - 1
    alone = dataclasses.replace(settings, run=dataclasses.replace(settings.run, jobs=1))
    workers = [
        stages.start_stage("tune", alone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()


def search(settings: Settings, plan: SearchPlan, artefact: Artefact, options: argparse.Namespace) -> None:
    """Work on the study until it has its trials, judge the best, and write the results."""
    from src.base.randomness import make_deterministic
    from src.plots.tuning_plots import draw_search
    from src.tuning.judged_networks import JudgedNetworks
    from src.tuning.judgement import Verdict, judge, systems_to_judge
    from src.tuning.results import as_table, best_trial, finished_study, table_rows, write_results
    from src.tuning.space import RANDOM_TRIALS
    from src.tuning.trials import DecodingObjective, TrainingObjective
    from src.tuning.worker import run_worker

    study = open_study(settings, plan, artefact, options.fresh and not options.show)
    if options.show:
        print(as_table(table_rows(study, plan.objective)), flush=True)
        return
    make_deterministic(settings.run.threads)
    if plan.objective == "both":
        print("tune: two scores have no order, so no trial is pruned", flush=True)
    folder = artefact.folder / study.name.rpartition("-")[2]
    if options.fresh:
        mark_unfinished(artefact)  # else further workers take the search for finished
        shutil.rmtree(folder, ignore_errors=True)
    as_they_are = dataclasses.replace(settings, tune=TuneSettings(trials=0))
    objective = objective_of(as_they_are, plan, options.stage, folder)
    networks: JudgedNetworks | DecodingObjective
    if isinstance(objective, TrainingObjective):
        networks = JudgedNetworks(as_they_are, plan.folds, folder)
    else:
        networks = objective
    # a random trial needs no other's score
    alike = networks is not objective and plan.trials <= RANDOM_TRIALS and plan.pruner == "none"
    with workers_beside(settings, plan.trials) if alike else contextlib.nullcontext():
        run_worker(study, objective, artefact.folder.name)
        best = best_trial(study, plan.objective)
        systems = systems_to_judge(as_they_are, plan, best, study.trials()[0])
        if isinstance(networks, JudgedNetworks) and not isinstance(systems, Verdict):
            with contextlib.nullcontext() if alike else workers_beside(settings, 2 * len(plan.judge_folds)):
                networks.train(systems, plan.judge_folds)
    with making(artefact) as written:
        if written:
            verdict = systems if isinstance(systems, Verdict) else judge(systems, plan, networks)
            written.outputs += write_results(study, settings, plan.objective, artefact.folder, verdict)
            draw_search(finished_study(study, plan.objective), artefact.folder)
            if isinstance(networks, JudgedNetworks):
                winner = changed(as_they_are, best.params if verdict.won else {}, "the winner")
                networks.hand_over(winner, artefact.folder)
    title = (artefact.folder / "best.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    scores, _, sentence = title.partition("; ")
    print(f"tune: {sentence.removesuffix('.')}\ntune: {artefact.folder / 'best.yaml'}: {scores}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    if read_arguments(argv, "tune", __doc__, add_options).options.stage == "decode":
        settings, options = load_run(argv, "tune", __doc__, add_options)
        plan = resolved.decoding_plan(settings)
    else:
        settings, options = load(argv, "tune", __doc__, add_options)
        if settings.run.minutes:
            stages.ensure_inputs(settings, "tune")
            settings = resolved.planned(settings)
        plan = resolved.search_plan(settings)
    if not plan.trials:
        print("tune: nothing to do (tune.trials=0, which is the default outside the demo)", flush=True)
        return
    check(settings, plan, options.stage)
    if options.stage == "train":
        stages.ensure_inputs(settings, "tune")
    artefact = outputs.tuning(settings) if options.stage == "train" else decoding_artefact(settings, plan)
    if not (options.fresh or options.show or outdated(artefact)):
        print(f"tune: {artefact.folder}: up to date", flush=True)
        return
    search(settings, plan, artefact, options)


if __name__ == "__main__":
    guarded(main)
