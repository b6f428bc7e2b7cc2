"""The stages in order, and what each makes from what.

Stages after tune work with the winner of the search: see `tuned`.
What runs share lies in runs/cache under a name made from settings and inputs; the rest in runs/NAME.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.base.errors import InputError, Stopped
from src.base.files import digest_of, file_digest, read_json
from src.pipeline.artefacts import Artefact, outdated, outputs_digest, tree_signature
from src.pipeline.runs import joined
from src.settings.load import as_arguments, changed, changing, flatten
from src.settings.schema import Settings
from src.settings.tuning import DEMO_EPOCHS, DEMO_SPACE, DEMO_TRIALS, TuneSettings
from src.settings.yaml_files import read_yaml

STAGES = ("preprocess", "split", "tune", "train", "predict", "ensemble", "evaluate", "submit")
SUBMISSIONS = Path("submissions")
DATA = Path("data")
DEMO = DATA / "demo"
_TORCHRUN = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


def data_root(settings: Settings) -> Path:
    """The folder of the data: the one given, or data, or the demo where a competition's data/train.csv is absent."""
    if settings.data.root is not None:
        return Path(settings.data.root)
    return DATA if settings.data.format != "dacon" or (DATA / "train.csv").exists() else DEMO


def run_folder(settings: Settings) -> Path:
    """runs/NAME."""
    return Path(settings.run.root) / settings.run.name


def has_networks(settings: Settings) -> bool:
    """Whether the run trains networks of its own, and does not only join other runs."""
    return settings.ensemble.runs is None or settings.run.name in settings.ensemble.runs


def folds_of(settings: Settings) -> list[int]:
    """The folds that are trained and predicted: the one asked for, or all; none where the run only joins others."""
    if not has_networks(settings):
        return []
    if settings.train.fold is not None:
        return [settings.train.fold]
    return [0] if settings.split.holdout or settings.split.official else list(range(settings.split.folds))


def _part(settings: Settings, *sections: str) -> dict[str, Any]:
    return {k: v for k, v in changing(settings).items() if k.split(".")[0] in sections}


def _cached(settings: Settings, stage: str, kind: str, part: dict, inputs: dict) -> Artefact:
    folder = Path(settings.run.root) / "cache" / f"{kind}-{digest_of([part, inputs])[:12]}"
    return Artefact(stage, folder, folder / "done.json", part, inputs, shared=True)


def demo() -> Artefact:
    """The embedded demo competition, made by preprocess where it is needed."""
    return Artefact("demo.competition", DEMO, DEMO / "done.json", {}, {}, shared=True)


def photos(settings: Settings) -> Artefact:
    """The table of photos, their pixels, handcrafted features and statistics, made by preprocess."""
    ours = DEMO, Path(settings.run.root), SUBMISSIONS
    inputs = {"data": tree_signature(data_root(settings), *ours)}
    return _cached(settings, "preprocess", "photos", _part(settings, "data", "view"), inputs)


def vocabulary(settings: Settings) -> Artefact:
    """The words of the training captions, made by preprocess."""
    inputs = {"photos": outputs_digest(photos(settings))}
    return _cached(settings, "preprocess", "vocabulary", _part(settings, "vocabulary"), inputs)


def folds(settings: Settings) -> Artefact:
    """folds.csv, made by split."""
    return _cached(settings, "split", "folds", _part(settings, "split"), {"photos": outputs_digest(photos(settings))})


def features(settings: Settings) -> Artefact:
    """A frozen encoder's features of all photos, made by train where encoder.cache asks for them."""
    part = _part(settings, "encoder") | {"run.seed": settings.run.seed, "run.threads": settings.run.threads}
    inputs = {"photos": outputs_digest(photos(settings)), **_weights(settings)}
    return _cached(settings, "train", "features", part, inputs)


def teacher_captions(settings: Settings, number: int) -> Artefact:
    """What the fold `number` of decoder.distill_from writes of its training photos, made by train.

    Raises InputError where there is no such fold, or it has seen photos that this run validates on.
    """
    name = settings.decoder.distill_from
    teacher = Path(settings.run.root) / name / f"fold-{number}"
    inputs = {made.__name__: outputs_digest(made(settings)) for made in (photos, folds)}
    inputs["teacher"] = _start_digest(f"decoder.distill_from={name}", teacher, inputs, other_photos=False)
    decoding = {k: v for k, v in read_yaml(str(teacher / "settings.yaml")) if k.startswith("decoding.")}
    return _cached(settings, "train", "captions", decoding, inputs)


def codebook_features(settings: Settings) -> Artefact:
    """The photos' numbers from a codebook of patches, made by predict; the same for every view of the photos."""
    made = photos(settings).record()
    inputs = {name: made["outputs"][name]["sha256"] for name in ("photos.jsonl", "digests.npy")} if made else {}
    return _cached(settings, "predict", "codes", {}, inputs)


def _weights(settings: Settings) -> dict[str, str]:
    """Hash of the weights file that the encoder starts from, where there is one."""
    file = Path(settings.encoder.weights or "")
    return {"weights": file_digest(file)} if file.is_file() else {}


def fold(settings: Settings, number: int) -> Artefact:
    """Checkpoints and metrics of one fold, made by train."""
    folder = run_folder(settings) / f"fold-{number}"
    return Artefact("train", folder, folder / "done.json", _learned(settings), _training_inputs(settings, number))


def _learned(settings: Settings) -> dict[str, Any]:
    """The settings that training depends on."""
    free = ("predict", "decoding", "ensemble", "metric.bootstrap", "metric.spice")
    return {k: v for k, v in changing(settings).items() if not k.startswith(free)}


def _training_inputs(settings: Settings, number: int) -> dict[str, str]:
    inputs = {made.__name__: outputs_digest(made(settings)) for made in (photos, vocabulary, folds)}
    inputs |= _weights(settings)
    if settings.train.start_from:
        name = settings.train.start_from
        start = Path(settings.run.root) / name / f"fold-{number}"
        inputs["start_from"] = _start_digest(f"train.start_from={name}", start, inputs, other_photos=True)
    if settings.decoder.distill_from:
        taught = teacher_captions(settings, number)
        inputs["distill_from"] = digest_of([taught.settings, taught.inputs])
    return inputs


def search_space(settings: Settings) -> dict[str, dict]:
    """What tune searches: tune.space, or the demo's, without what differs from its default."""
    if settings.tune.space is not None:
        return settings.tune.space
    now, default = flatten(settings), flatten(Settings())
    return {key: entry for key, entry in DEMO_SPACE.items() if now[key] == default[key]}


def search_plan(settings: Settings) -> TuneSettings:
    """The search with nothing left open: trials is 0 where there is none."""
    tune, own = settings.tune, settings.tune.trials is None
    on_demo = settings.data.root is None and data_root(settings) == DEMO
    space = search_space(settings)
    return dataclasses.replace(
        tune,
        trials=tune.trials if not own else DEMO_TRIALS if on_demo and space and has_networks(settings) else 0,
        space=space,
        objective=tune.objective or ("mean" if settings.task == "both" else settings.task),
        epochs=tune.epochs or (min(DEMO_EPOCHS, settings.train.epochs) if own else settings.train.epochs),
        folds=tune.folds or [0],
    )


def tuning(settings: Settings) -> Artefact:
    """best.yaml and the table of trials, made by tune."""
    plan, folder = search_plan(settings), run_folder(settings) / "tune"
    part = _learned(settings) | {f"tune.{k}": v for k, v in dataclasses.asdict(plan).items() if k != "storage"}
    inputs = _training_inputs(settings, plan.folds[0])
    return Artefact("tune", folder, folder / "done.json", part, inputs, guard=folder / "best.yaml")


def tuned(settings: Settings) -> Settings:
    """The settings with the winner of the search in place of what was searched, and nothing left to search.

    They are what train and later stages work with. Raises InputError where the search is still to be done.
    """
    plan = search_plan(settings)
    if not plan.trials:
        return dataclasses.replace(settings, tune=TuneSettings(trials=0))
    best = tuning(settings).folder / "best.yaml"
    if not best.is_file():
        raise InputError(f"{best} is not there yet; python -m src.tune makes it, tune.trials=0 does without")
    found, default = dict(read_yaml(str(best))), flatten(Settings())
    winner = {key: found.get(key, default[key]) for key in plan.space}
    return dataclasses.replace(changed(settings, winner, str(best)), tune=TuneSettings(trials=0))


def _start_digest(setting: str, start: Path, inputs: dict[str, str], other_photos: bool) -> str:
    """Hash of the fold in the folder `start`, of another run, which a setting names.

    Raises InputError where it is not finished, or was split otherwise and so has seen photos of this fold.
    other_photos: a run on other photos, whose folds mean nothing here, will do.
    """
    marker = start / "done.json"
    if not marker.is_file():
        raise InputError(f"{setting}: {start} is not a finished fold")
    its = read_json(marker)["inputs"]
    if its["folds"] != inputs["folds"] and (its["photos"] == inputs["photos"] or not other_photos):
        raise InputError(
            f"{setting} was split otherwise, so it has learned photos that this run validates on; "
            "give the same split.* settings"
        )
    return file_digest(marker)


def predictions(settings: Settings) -> Artefact:
    """Out-of-fold and test predictions of the run, made by predict."""
    inputs = {f"fold-{k}": outputs_digest(fold(settings, k)) for k in folds_of(settings)}
    folder = run_folder(settings) / "predictions"
    return Artefact("predict", folder, folder / "done.json", _part(settings, "predict", "decoding", "task"), inputs)


def candidates(settings: Settings, number: int) -> Artefact:
    """The captions that a fold's network proposes, and what it saw of all photos, made by ensemble."""
    folder = run_folder(settings) / "candidates" / f"fold-{number}"
    part = _part(settings, "decoding") | {"ensemble.samples": settings.ensemble.samples, "run.seed": settings.run.seed}
    inputs = {"fold": outputs_digest(fold(settings, number)), "photos": outputs_digest(photos(settings))}
    return Artefact("inference.fold_candidates", folder, folder / "done.json", part, inputs)


def has_ensemble(settings: Settings) -> bool:
    """Whether ensemble has anything to do: captions to choose, another blend, or several runs to join."""
    chosen = settings.ensemble
    alone = chosen.runs in (None, [settings.run.name])
    return chosen.captions == "mbr" or chosen.mos != "nnls" or not alone


def ensemble(settings: Settings) -> Artefact:
    """The MOS and captions of one run or many made one, made by ensemble."""
    inputs = {}
    for run in joined(settings):
        inputs |= {f"{run.run.name}.{made.__name__}": outputs_digest(made(run)) for made in (predictions, folds)}
    folder = run_folder(settings) / "ensemble"
    part = _part(settings, "ensemble", "task", "metric", "predict") | {"run.seed": settings.run.seed}
    return Artefact("ensemble", folder, folder / "done.json", part, inputs)


def final(settings: Settings) -> Artefact:
    """The predictions that are scored and submitted: the ensemble's, or the run's own where there is none."""
    return ensemble(settings) if has_ensemble(settings) else predictions(settings)


def score(settings: Settings) -> Artefact:
    """score.json of the run, made by evaluate."""
    labels = data_root(settings) / "test_labels.csv"
    makers = [
        photos,
        *([predictions] if has_networks(settings) else []),
        *([ensemble] if has_ensemble(settings) else []),
    ]
    inputs = {made.__name__: outputs_digest(made(settings)) for made in makers}
    inputs |= {"test_labels": file_digest(labels)} if labels.is_file() else {}
    folder = run_folder(settings)
    return Artefact("evaluate", folder, folder / "evaluated.json", _part(settings, "metric"), inputs)


def submission(settings: Settings) -> Artefact:
    """The submission and its manifest, made by submit."""
    inputs = {"predictions": outputs_digest(final(settings)), "score": outputs_digest(score(settings))}
    forms = [data_root(settings) / name for name in ("sample_submission.csv", "test.csv", "train.csv")]
    inputs |= {form.name: file_digest(form) for form in forms if form.is_file()}
    marker = run_folder(settings) / "submitted.json"
    return Artefact("submit", SUBMISSIONS, marker, {}, inputs, guard=SUBMISSIONS / "submission.csv")


def outputs_of(stage: str, settings: Settings) -> list[Artefact]:
    """What a stage makes with these settings; the stages after tune with its winner."""
    if STAGES.index(stage) > STAGES.index("tune"):
        settings = tuned(settings)
    makers = {
        "preprocess": (photos, vocabulary),
        "split": (folds,),
        "tune": (tuning,) if search_plan(settings).trials else (),
        "train": tuple(lambda s, k=k: fold(s, k) for k in folds_of(settings)),
        "predict": (predictions,) if has_networks(settings) else (),
        "ensemble": (ensemble,) if has_ensemble(settings) else (),
        "evaluate": (score,),
        "submit": (submission,),
    }
    return [make(settings) for make in makers[stage]]


def ensure_inputs(settings: Settings, stage: str) -> None:
    """Have every stage before `stage` that is missing what this one needs run, each as a process of its own.

    `settings` are those before tuning. An output made by other code counts as there: only its own stage, called by
    name, makes it again.
    Ends with that process's exit code where it fails; it has printed why.
    """
    tree_signature.cache_clear()
    for earlier in STAGES[: STAGES.index(stage)]:
        no_demo_yet = data_root(settings) == DEMO and settings.data.root is None and not demo().record()
        if no_demo_yet or any(outdated(artefact, code=False) for artefact in outputs_of(earlier, settings)):
            print(f"{stage}: needs {earlier} first", flush=True)
            _run_stage(earlier, settings)
            tree_signature.cache_clear()


def start_stage(
    stage: str, settings: Settings, *options: str, environment: Mapping[str, str] | None = None, **popen: Any
) -> subprocess.Popen:
    """Start a stage as a process that does not outlive this one. popen: what subprocess.Popen takes."""
    outside = {k: v for k, v in os.environ.items() if k not in _TORCHRUN}
    outside |= {"STAGES_END_WITH_PARENT": str(os.getpid()), **(environment or {})}
    command = [sys.executable, "-m", f"src.{stage}", *as_arguments(settings), *options]
    return subprocess.Popen(command, env=outside, **popen)


def _run_stage(stage: str, settings: Settings) -> None:
    """Run a stage as a process that is asked to stop when this one is. Ends as it does where it fails: it said why."""
    process = start_stage(stage, settings)
    try:
        code = process.wait()
    except Stopped:
        process.terminate()
        process.wait()
        raise
    if code:
        raise SystemExit(code)
