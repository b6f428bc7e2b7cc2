"""A teacher's captions as targets of training: sequence-level knowledge distillation.

Kim and Rush 2016, "Sequence-Level Knowledge Distillation": the student learns what the teacher's search writes in place
of what people wrote. Non-autoregressive captioners need it most: a photo's human captions say different things, the
teacher's one caption says one (Gu et al. 2018, "Non-Autoregressive Neural Machine Translation").
"""

from pathlib import Path

import numpy as np

from src.base.errors import InputError
from src.base.files import read_json, write_json
from src.data.folds import load_folds
from src.data.table import for_training, load_table
from src.inference.caption_candidates import best_captions
from src.pipeline import artefacts, outputs, stages
from src.pipeline.runs import fold_folder, marker_of
from src.pipeline.trained_runs import load_run
from src.settings.schema import Settings
from src.training.distributed import Ranks
from src.training.feature_cache import cached_features
from src.training.fold_data import read_fold

_BATCHES = 32  # of photos, whose captions are written into one file: what an interrupted teacher loses


def load_teacher_captions(settings: Settings, fold: int, ranks: Ranks) -> dict[str, str] | None:
    """The caption that decoder.distill_from writes of each training photo of the fold that has captions, by photo_id.

    None without a teacher. Each fold has the teacher's fold of the same number, which has not seen the validation
    photos. Written once, by the main process, and kept in runs/cache. Call it in every process.
    """
    if settings.decoder.distill_from is None:
        return None
    captions: dict[str, str] = {}
    if ranks.main:
        artefact = outputs.teacher_captions(settings, fold)
        with artefacts.making(artefact) as work:
            if work:
                work.outputs += _write(settings, fold, work.folder, Ranks(0, 1, ranks.device))
        for name in (artefact.record() or {})["outputs"]:
            captions |= read_json(artefact.folder / name)
    return ranks.broadcast(captions)  # the others wait here


def _write(settings: Settings, fold: int, folder: Path, this_process: Ranks) -> list[str]:
    """Write the captions as JSON files of {photo_id: caption}, leaving those that are there; their names."""
    teacher = _teacher(settings, fold)
    name = str(teacher.run.name)
    photos, vocabulary, folds = (make(teacher).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds))
    features = cached_features(teacher, this_process)
    labels = read_fold(photos, vocabulary, folds, fold, teacher.vocabulary.maximum_words, features).labels
    photo_ids = load_table(photos / "photos.jsonl")["photo_id"].tolist()
    wanted = _captioned(settings, fold)
    rows = [row for row, photo in enumerate(photo_ids) if photo in wanted]
    size = _BATCHES * teacher.train.batch_size
    parts = {f"{begin // size:05d}.json": rows[begin : begin + size] for begin in range(0, len(rows), size)}
    checkpoints = fold_folder(Path(teacher.run.root, name), fold)
    for place, (file, part) in enumerate(parts.items(), 1):
        if not (folder / file).is_file():
            label = f"captions of {name}, {place} of {len(parts)}"
            captions = best_captions([checkpoints], teacher, labels, part, this_process, label)
            write_json(folder / file, {photo_ids[row]: caption for row, caption in captions.items()})
    return list(parts)


def _teacher(settings: Settings, fold: int) -> Settings:
    """The settings that the teacher was trained with, after tuning, and where the data lie now.

    Its photos are prepared again where runs/cache lost them.

    Raises InputError for a teacher without captions, and where its photos are no longer what it was trained on.
    """
    name, root = str(settings.decoder.distill_from), settings.run.root
    arguments = [f"run.name={name}", f"run.root={root}", f"train.fold={fold}", "tune.trials=0"]
    arguments += [f"data.root={settings.data.root}"] * (settings.data.root is not None)
    teacher, _ = load_run(arguments, "train")
    if teacher.task == "mos":
        raise InputError(f"decoder.distill_from={name} has learned no captions (task=mos); name another run")
    stages.ensure_inputs(teacher, "train")
    trained = read_json(marker_of(fold_folder(Path(root, name), fold)))["inputs"]
    if artefacts.outputs_digest(outputs.photos(teacher)) != trained["photos"]:
        raise InputError(f"decoder.distill_from={name}: its photos changed since it was trained; train it again")
    return teacher


def _captioned(settings: Settings, fold: int) -> set[str]:
    """The photos of the student's training part that have captions."""
    table = load_table(outputs.photos(settings).folder / "photos.jsonl")
    table = table[for_training(table)]
    fold_of = load_folds(outputs.folds(settings).folder / "folds.csv", table["photo_id"].tolist())
    return set(table["photo_id"][(np.asarray(fold_of) != fold) & (table["captions"].map(len) > 0)])
