"""Predict every training photo out of fold, and every test photo with all folds.

Writes runs/NAME/predictions/: oof.csv and test.csv (MOS of each member, the MOS chosen by predict.mos, a caption),
test_folds.csv (each fold's own test predictions), blend.json (the members' weights) and timing.csv (photos and
seconds of each fold). A test photo that cannot be read gets the mean MOS and the constant sentence, and is marked in
the column `fallback`.
"""

import contextlib
import os
import time

from src.base.errors import guarded
from src.base.machine import usable_cores
from src.pipeline import artefacts, outputs, resolved, stages
from src.pipeline.runs import run_folder
from src.settings.load import load


def sources(settings) -> list:
    """The folders of photos, vocabulary and folds, then that of each fold's checkpoints."""
    shared = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    return [*shared, *(outputs.fold(settings, number).folder for number in resolved.folds_of(settings))]


def predict_networks(settings, places, table, ranks) -> tuple:
    """Each fold's predictions of its validation photos and of the readable test photos, by fold, then by row.

    places: what `sources` returns.

    Besides, the captions that test photos get, by row, and how many photos each fold's networks predicted in how many
    seconds.
    """
    import numpy as np
    import pandas as pd

    from src.inference.fold_predictions import best_fold, predict_fold, write_captions_of
    from src.training.feature_cache import cached_features
    from src.training.fold_data import read_fold

    source, words, assigned, *folders = places
    rejected = pd.read_csv(source / "rejected.csv", dtype=str, keep_default_na=False)["photo_id"]
    tested = np.flatnonzero((table["part"] == "test") & ~table["photo_id"].isin(rejected)).tolist()
    features = cached_features(settings, ranks)
    found, times = {}, []
    for number, folder in zip(resolved.folds_of(settings), folders, strict=True):
        data = read_fold(source, words, assigned, number, settings.vocabulary.maximum_words, features)
        rows = data.validation_rows.tolist() + tested
        began = time.perf_counter()
        found[number] = predict_fold(folder, settings, data.labels, rows, ranks, f"fold {number}")
        times.append({"fold": number, "photos": len(rows), "seconds": round(time.perf_counter() - began, 3)})
    if settings.decoding.model_averaging != "none" and settings.task != "mos":
        captions = write_captions_of(folders, settings, data.labels, tested, ranks, "all folds")
    else:
        best = best_fold(run_folder(settings), list(found))
        captions = {row: found[best][row].caption for row in tested}
    return found, captions, pd.DataFrame(times)


def photo_codes(settings, table):
    """The photos' numbers from the codebook [N, C], computed where they are absent; None without enough labels."""
    import numpy as np

    from src.data.codebook import FEWEST, build_codebook_features
    from src.data.table import for_training

    if settings.task == "caption" or table["mos"].notna().sum() < FEWEST:
        return None
    artefact = outputs.codebook_features(settings)
    with artefacts.making(artefact) as work:
        if work:
            threads = usable_cores()
            root, paths = resolved.data_root(settings), table["path"].tolist()
            work.outputs += build_codebook_features(work.folder, root, paths, for_training(table), threads)
    return np.load(artefact.folder / "codes.npy")


def write_tables(settings, table, found: dict, test_captions: dict, folder) -> list[str]:
    """Write what the run predicts; the names of the files."""
    import numpy as np

    from src.base.files import write_json, write_text
    from src.data.folds import load_folds
    from src.data.table import for_training
    from src.ensembling.regressors import PhotoFeatures
    from src.ensembling.stacking import TEST
    from src.ensembling.tables import fold_table, folds_of_rows, prediction_tables
    from src.metrics.constant_caption import constant_sentence
    from src.metrics.meteor import shared_meteor

    source, train = outputs.photos(settings).folder, table[for_training(table)]
    number = load_folds(outputs.folds(settings).folder / "folds.csv", train["photo_id"].tolist())
    fold = folds_of_rows(table, number)
    captions = [list(several) for several in train["captions"] if several]
    unanswered = settings.task == "mos" or not set(np.flatnonzero(fold == TEST)) <= set(found[min(found)])
    sentence = "no comment"
    if captions and unanswered:
        sentence = constant_sentence(captions, settings.metric.weights, shared_meteor()).sentence
    frozen = None
    if settings.encoder.cache != "none" and settings.task != "caption":
        frozen = np.load(outputs.features(settings).folder / "pooled.npy")
    described = PhotoFeatures(np.load(source / "handcrafted.npy"), photo_codes(settings, table), frozen)
    tables = prediction_tables(settings, table, fold, described, found, test_captions, sentence)
    write_json(folder / "blend.json", tables[2])
    frames = {"oof.csv": tables[0], "test.csv": tables[1], "test_folds.csv": fold_table(table, fold, found)}
    for name, frame in frames.items():
        write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
    return [*frames, "blend.json"]


def main(argv=None) -> None:
    settings, chosen = load(argv, "predict", __doc__)
    if os.environ.get("RANK", "0") == "0":
        stages.ensure_inputs(settings, "predict")
        settings = resolved.tuned(settings)
    if not resolved.folds_of(settings):
        print(f"predict: nothing to do: {settings.run.name} joins other runs", flush=True)
        return
    if "RANK" not in os.environ and not chosen.fresh and not artefacts.outdated(outputs.predictions(settings)):
        print(f"predict: {outputs.predictions(settings).folder}: up to date", flush=True)
        return
    from src.base.files import write_text
    from src.base.randomness import make_deterministic
    from src.data.table import load_table
    from src.training.distributed import init_ranks, shutdown

    make_deterministic(settings.run.threads)
    ranks = init_ranks()
    settings = ranks.broadcast(settings)
    with contextlib.ExitStack() as stack:
        work = None
        if ranks.main:
            work = stack.enter_context(artefacts.making(outputs.predictions(settings), chosen.fresh))
        if places := ranks.shared_paths(lambda: sources(settings) if work else []):
            table = load_table(places[0] / "photos.jsonl")
            found, captions, times = predict_networks(settings, places, table, ranks)
            if work:
                work.outputs += write_tables(settings, table, found, captions, work.folder)
                write_text(work.folder / "timing.csv", times.to_csv(index=False, lineterminator="\n"))
    shutdown(ranks)


if __name__ == "__main__":
    guarded(main)
