"""Predict every training photo out of fold, and every test photo with all folds.

Writes runs/NAME/predictions/: oof.csv and test.csv (MOS of each member, the MOS chosen by predict.mos, a caption),
test_folds.csv (each fold's own test predictions) and blend.json (the members' weights). A test photo that cannot be
read gets the mean MOS and the constant sentence, and is marked in the column `fallback`.
"""

import contextlib
import os

from src import artefacts, pipeline
from src.config import load
from src.errors import guarded


def predict_networks(settings, table, ranks) -> dict:
    """Each fold's predictions of its validation photos and of the readable test photos, by fold, then by row."""
    import numpy as np
    import pandas as pd

    from src.training.fold_data import read_fold
    from src.training.predicting import predict_fold

    source = pipeline.photos(settings).folder
    rejected = pd.read_csv(source / "rejected.csv", dtype=str, keep_default_na=False)["photo_id"]
    tested = np.flatnonzero((table["part"] == "test") & ~table["photo_id"].isin(rejected)).tolist()
    places = source, pipeline.vocabulary(settings).folder, pipeline.folds(settings).folder
    found = {}
    for number in pipeline.folds_of(settings):
        data = read_fold(*places, number, settings.vocabulary.maximum_words)
        rows = data.validation_rows.tolist() + tested
        folder = pipeline.run_folder(settings) / f"fold-{number}"
        found[number] = predict_fold(folder, settings, data.labels, rows, ranks, f"fold {number}")
    return found


def best_fold(settings) -> int:
    """The fold whose captions scored best on its own validation photos; the first where none was scored."""
    import pandas as pd

    def score(number: int) -> float:
        metrics = pd.read_csv(pipeline.run_folder(settings) / f"fold-{number}" / "metrics.csv")
        return float(metrics["val_caption_score"].max()) if "val_caption_score" in metrics else 0.0

    return max(pipeline.folds_of(settings), key=score)


def write_tables(settings, table, found: dict, folder) -> list[str]:
    """Write what the run predicts; the names of the files."""
    import numpy as np

    from src.blending.stacking import TEST
    from src.blending.tables import fold_table, folds_of_rows, prediction_tables
    from src.data.folds import load_folds
    from src.files import write_json, write_text
    from src.metrics.floors import constant_sentence
    from src.metrics.meteor import shared_meteor

    source, train = pipeline.photos(settings).folder, table[table["part"] == "train"]
    number = load_folds(pipeline.folds(settings).folder / "folds.csv", train["photo_id"].tolist())
    fold = folds_of_rows(table, number)
    captions = [list(several) for several in train["captions"] if several]
    unanswered = settings.task == "mos" or not set(np.flatnonzero(fold == TEST)) <= set(found[min(found)])
    sentence = "no comment"
    if captions and unanswered:
        sentence = constant_sentence(captions, settings.metric.weights, shared_meteor()).sentence
    handmade = np.load(source / "handmade.npy")
    tables = prediction_tables(settings, table, fold, handmade, found, best_fold(settings), sentence)
    write_json(folder / "blend.json", tables[2])
    frames = {"oof.csv": tables[0], "test.csv": tables[1], "test_folds.csv": fold_table(table, fold, found)}
    for name, frame in frames.items():
        write_text(folder / name, frame.to_csv(index=False, lineterminator="\n"))
    return [*frames, "blend.json"]


def main(argv=None) -> None:
    settings, chosen = load(argv, "predict", __doc__)
    if os.environ.get("RANK", "0") == "0":
        pipeline.require(settings, "predict")
    if "RANK" not in os.environ and not chosen.fresh and not artefacts.outdated(pipeline.predictions(settings)):
        print(f"predict: {pipeline.predictions(settings).folder}: up to date", flush=True)
        return
    from src.data.table import load_table
    from src.randomness import make_deterministic
    from src.training.parallel import join, leave

    make_deterministic(settings.run.threads)
    ranks = join()
    with contextlib.ExitStack() as stack:
        making = artefacts.making(pipeline.predictions(settings), chosen.fresh)
        work = stack.enter_context(making) if ranks.main else None
        if ranks.share(work is not None):
            table = load_table(pipeline.photos(settings).folder / "photos.jsonl")
            found = predict_networks(settings, table, ranks)
            if work:
                work.outputs += write_tables(settings, table, found, work.folder)
    leave()


if __name__ == "__main__":
    guarded(main)
