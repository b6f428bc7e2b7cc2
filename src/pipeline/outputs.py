"""What each stage makes from what: one function an artefact.

Stages after tune work with the winner of the search: see `resolved.tuned`.
What runs share lies in runs/cache under a name made from settings and inputs; the rest in runs/NAME.
"""

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import digest_of, file_digest, read_json
from src.base.hub_models import model_digest
from src.base.signatures import PHOTO_PLUGINS
from src.pipeline import runs
from src.pipeline.artefacts import Artefact, outputs_digest, record_digest, tree_signature
from src.pipeline.resolved import DEMO, data_root, folds_of, has_networks, search_plan
from src.pipeline.trained_runs import joined
from src.settings.former_names import read_saved
from src.settings.keys import changing, defaults, flatten
from src.settings.schema import EncoderSettings, Settings

_PLANNED_BY = ("run.minutes", "run.kept", "run.jobs", "train.fold", "tune.trials", "tune.epochs", "tune.judge_folds")


def _part(settings: Settings, *sections: str) -> dict[str, Any]:
    return {k: v for k, v in changing(settings).items() if k.split(".")[0] in sections}


def differing(part: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that differ from their defaults, so that a setting that is new changes no key."""
    return {key: value for key, value in part.items() if value != defaults().get(key)}


def _cached(settings: Settings, stage: str, kind: str, part: dict, inputs: dict) -> Artefact:
    folder = runs.cache_folder(settings, kind, digest_of([differing(part), inputs])[:12])
    return Artefact(stage, folder, runs.marker_of(folder), part, inputs, shared=True)


def demo() -> Artefact:
    """The embedded demo competition, made by preprocess where it is needed."""
    return Artefact("demo.competition", DEMO, runs.marker_of(DEMO), {}, {}, shared=True)


def photos(settings: Settings) -> Artefact:
    """The table of photos, their pixels, handcrafted features and statistics, made by preprocess."""
    ours = DEMO, Path(settings.run.root), Path(settings.run.submissions)
    inputs = {"data": tree_signature(data_root(settings), *ours)}
    # what makes more photos readable: those that were refused are decoded once it is installed
    inputs |= {module: "installed" for module in _installed_plugins()}
    return _cached(settings, "preprocess", "photos", _part(settings, "data", "view"), inputs)


@cache
def _installed_plugins() -> list[str]:
    return [module for module in PHOTO_PLUGINS.values() if find_spec(module)]


def vocabulary(settings: Settings) -> Artefact:
    """The words of the training captions, made by preprocess."""
    inputs = {"photos": outputs_digest(photos(settings))}
    if weights := settings.decoder.weights:
        inputs["tokens"] = model_digest(settings.decoder.name, weights, tokens_only=True)
    return _cached(settings, "preprocess", "vocabulary", _part(settings, "vocabulary"), inputs)


def caption_words(settings: Settings) -> Path:
    """The file of the words of all captions, beside the vocabulary; runs that are joined have the first one's."""
    return vocabulary(joined(settings)[0]).folder / "words.txt"


def folds(settings: Settings) -> Artefact:
    """folds.csv, made by split."""
    return _cached(settings, "split", "folds", _part(settings, "split"), {"photos": outputs_digest(photos(settings))})


def encoder_settings(settings: Settings, name: str) -> Settings:
    """Settings by which the model `name` of ensemble.encoders is the frozen encoder of the same photos."""
    run = settings.encoder
    cache = "fp16" if run.cache == "none" else run.cache
    encoder = EncoderSettings(
        name, run.pretrained, cache=cache, long_side=run.long_side, mirrored=run.mirrored, more_levels=[]
    )
    return Settings(settings.data, settings.view, task="mos", encoder=encoder, run=settings.run)


def features(settings: Settings, for_mos_alone: bool = False) -> Artefact:
    """A frozen encoder's features of all photos, made by train where encoder.cache asks for them.

    for_mos_alone: without those of each cell, made by ensemble.
    """
    part = _part(settings, "encoder") | {"run.seed": settings.run.seed, "run.threads": settings.run.threads}
    inputs = {"photos": outputs_digest(photos(settings)), **start_weights(settings)}
    kind = "mos-features" if for_mos_alone else "features"
    return _cached(settings, "training.feature_cache", kind, part, inputs)


def teacher_captions(settings: Settings, k: int) -> Artefact:
    """What the fold `k` of decoder.distill_from writes of its training photos, made by train.

    Raises InputError where there is no such fold, or it has seen photos that this run validates on.
    """
    name = settings.decoder.distill_from or ""
    teacher = runs.fold_folder(Path(settings.run.root, name), k)
    inputs = {make.__name__: outputs_digest(make(settings)) for make in (photos, folds)}
    inputs["teacher"] = _start_digest(f"decoder.distill_from={name}", teacher, inputs, other_photos=False)
    decoding = {k: v for k, v in read_saved(runs.settings_path(teacher)).items() if k.startswith("decoding.")}
    return _cached(settings, "train", "captions", decoding, inputs)


def codebook_features(settings: Settings) -> Artefact:
    """The photos' numbers from a codebook of patches, made by ensemble; the same for every view of the photos."""
    record = photos(settings).record()
    inputs = {name: record["outputs"][name]["sha256"] for name in ("photos.jsonl", "digests.npy")} if record else {}
    limit = {"data.maximum_megapixels": settings.data.maximum_megapixels}
    return _cached(settings, "data.codebook", "codes", limit, inputs)


def start_weights(settings: Settings) -> dict[str, str]:
    """Hash of what the encoder, or a published captioner, starts from, where that is a file or folder."""
    if weights := settings.decoder.weights:
        return {"weights": model_digest(settings.decoder.name, weights), "transformers": version("transformers")}
    file = Path(settings.encoder.weights or "")
    return {"weights": file_digest(file)} if file.is_file() else {}


def fold(settings: Settings, k: int) -> Artefact:
    """Checkpoints and metrics of one fold, made by train."""
    folder = runs.fold_folder(runs.run_folder(settings), k)
    return Artefact("train", folder, runs.marker_of(folder), training_settings(settings), _training_inputs(settings, k))


def training_settings(settings: Settings) -> dict[str, Any]:
    """The settings that training depends on."""
    free = ("predict", "decoding", "ensemble", "metric.bootstrap", "metric.spice")
    return {k: v for k, v in changing(settings).items() if not k.startswith(free)}


def _training_inputs(settings: Settings, k: int) -> dict[str, str]:
    inputs = {make.__name__: outputs_digest(make(settings)) for make in (photos, vocabulary, folds)}
    inputs |= start_weights(settings)
    if settings.train.start_from:
        name = settings.train.start_from
        start = runs.fold_folder(Path(settings.run.root, name), k)
        inputs["start_from"] = _start_digest(f"train.start_from={name}", start, inputs, other_photos=True)
    if settings.decoder.distill_from:
        taught = teacher_captions(settings, k)
        inputs["distill_from"] = digest_of([taught.settings, taught.inputs])
    return inputs


def plan(settings: Settings) -> Artefact:
    """The settings chosen for run.minutes, made by plan; code has no part in them, so that a run keeps its plan."""
    reports = ("metric.bootstrap", "metric.spice")
    part = {key: value for key, value in changing(settings).items() if key not in reports}
    part |= {key: flatten(settings)[key] for key in _PLANNED_BY}
    inputs = {make.__name__: outputs_digest(make(settings)) for make in (photos, vocabulary, folds)}
    folder = runs.plan_folder(runs.run_folder(settings))
    return Artefact("plan", folder, runs.marker_of(folder), part, inputs)


def tuning(settings: Settings) -> Artefact:
    """best.yaml, the table of trials and what its judge found, made by tune.

    Raises InputError where a fold that is searched or judged on cannot be trained.
    """
    plan, run = search_plan(settings), runs.run_folder(settings)
    folder = runs.tuning_folder(run)
    part = training_settings(settings) | plan.as_settings() | {"tune.judge_folds": settings.tune.judge_folds}
    inputs = _training_inputs(settings, plan.folds[0])
    for fold in [*plan.folds[1:], *plan.judge_folds]:
        of_fold = _training_inputs(settings, fold)
        inputs |= {f"{name}.{runs.fold_name(fold)}": of_fold[name] for name in of_fold if of_fold[name] != inputs[name]}
    return Artefact("tune", folder, runs.marker_of(folder), part, inputs, guard=runs.tuned_settings(run))


def _start_digest(setting: str, start: Path, inputs: dict[str, str], other_photos: bool) -> str:
    """Hash of the fold in the folder `start`, of another run, which a setting names.

    Raises InputError where it is not finished, or was split otherwise and so has seen photos of this fold.
    other_photos: a run on other photos, whose folds mean nothing here, will do.
    """
    marker = runs.marker_of(start)
    if not marker.is_file():
        raise InputError(f"{setting}: {start} is not a finished fold")
    its = read_json(marker)["inputs"]
    if its["folds"] != inputs["folds"] and (its["photos"] == inputs["photos"] or not other_photos):
        raise InputError(
            f"{setting} was split otherwise, so it has learned photos that this run validates on; "
            "give the same split.* settings"
        )
    return record_digest(marker)


def fold_predictions(settings: Settings, k: int) -> Artefact:
    """What the networks of one fold say of its validation photos and of the test photos, made by predict."""
    folder = runs.fold_folder(runs.predictions_folder(runs.run_folder(settings)), k)
    part = _part(settings, "predict", "decoding", "task") | {"run.seed": settings.run.seed}
    del part["decoding.model_averaging"]  # a single fold's network has nothing to average with
    inputs = {"fold": outputs_digest(fold(settings, k)), "photos": outputs_digest(photos(settings))}
    return Artefact("predict", folder, runs.marker_of(folder), part, inputs)


def predictions(settings: Settings) -> Artefact:
    """Out-of-fold and test predictions of the run's networks, made by predict."""
    inputs = {runs.fold_name(k): outputs_digest(fold_predictions(settings, k)) for k in folds_of(settings)}
    folder = runs.predictions_folder(runs.run_folder(settings))
    part = _part(settings, "predict", "decoding", "task")
    return Artefact("predict", folder, runs.marker_of(folder), part, inputs)


def ensemble(settings: Settings) -> Artefact:
    """One MOS and one caption a photo from the predictions of one run or many, made by ensemble."""
    inputs, joined_runs = dict[str, str](), joined(settings)
    for run in joined_runs:
        record = predictions(run).record() or {"inputs": {}}
        inputs |= {f"{run.run.name}.{make.__name__}": outputs_digest(make(run)) for make in (predictions, folds)}
        inputs |= {f"{run.run.name}.{fold}": digest for fold, digest in record["inputs"].items()}
    for name in settings.ensemble.encoders if settings.task != "caption" else []:
        seen = features(encoder_settings(joined_runs[0], name), for_mos_alone=True)
        inputs[f"encoder.{name}"] = digest_of([seen.settings, seen.inputs])
    folder = runs.ensemble_folder(runs.run_folder(settings))
    part = _part(settings, "ensemble", "task", "metric") | {"run.seed": settings.run.seed}
    del part["metric.spice"]  # evaluate alone computes it
    if labels := photos(joined_runs[0]).record():  # the predictions of runs that are joined may be of other labels
        inputs["photos"] = labels["outputs"]["photos.jsonl"]["sha256"]
    if writers := [run for run in joined_runs if run.task != "mos"]:
        part["decoding.maximum_words"] = settings.decoding.maximum_words
        part["decoding.bad_endings"] = writers[0].decoding.bad_endings
    return Artefact("ensemble", folder, runs.marker_of(folder), part, inputs)


def score(settings: Settings) -> Artefact:
    """score.json of the run, made by evaluate."""
    labels = data_root(settings) / "test_labels.csv"
    makers = [photos, *([predictions] if has_networks(settings) else []), ensemble]
    inputs = {make.__name__: outputs_digest(make(settings)) for make in makers}
    inputs |= {"test_labels": file_digest(labels)} if labels.is_file() else {}
    folder = runs.run_folder(settings)
    return Artefact("evaluate", folder, runs.score_marker(folder), _part(settings, "metric"), inputs)


def submission(settings: Settings) -> Artefact:
    """The submission and its manifest, made by submit."""
    inputs = {"predictions": outputs_digest(ensemble(settings)), "score": outputs_digest(score(settings))}
    forms = [data_root(settings) / name for name in ("sample_submission.csv", "test.csv", "train.csv")]
    inputs |= {form.name: file_digest(form) for form in forms if form.is_file()}
    marker, folder = runs.submission_marker(runs.run_folder(settings)), Path(settings.run.submissions)
    return Artefact("submit", folder, marker, {}, inputs, guard=folder / "submission.csv")
