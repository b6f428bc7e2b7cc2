"""Give every training photo a fold, once.

Folds are balanced by MOS, and photos of one group or that look alike share one. With split.official the data set's own
validation part is the one fold. Writes runs/cache/folds-KEY/folds.csv (photo_id, fold; -1: always in training) and
prints each fold's size, mean MOS and captions.
"""

from src.base.errors import guarded
from src.pipeline.artefacts import making
from src.pipeline.outputs import folds, photos
from src.pipeline.stages import ensure_inputs
from src.settings.load import load


def folds_of_photos(settings, frame, alike):
    """The fold of each photo of the table, int64 [N]. alike: int [N], near-duplicates have one number."""
    from src.data.folds import assign_folds, check_folds, merge_groups, official_folds, straddling

    chosen = settings.split
    if chosen.official:
        number = official_folds(frame["part"])
        if both := straddling(number, alike):
            print(f"split: {both} validation photos have a near-duplicate in training; official parts stay as they are")
        return number
    group = frame["group"].to_numpy()
    captioned = frame["captions"].map(bool).to_numpy()
    mos = frame["mos"].to_numpy()
    number = assign_folds(mos, merge_groups(group, alike), chosen.folds, chosen.holdout, chosen.seed, captioned)
    check_folds(number, group, alike)
    return number


def main(argv=None) -> None:
    settings, chosen = load(argv, "split", __doc__)
    ensure_inputs(settings, "split")
    with making(folds(settings), chosen.fresh) as work:
        if not work:
            return
        import numpy as np

        from src.data.folds import fold_summary, near_duplicates, save_folds
        from src.data.table import for_training, load_table

        source = photos(settings).folder
        frame = load_table(source / "photos.jsonl")
        train = for_training(frame)
        frame = frame[train]
        alike = near_duplicates(np.load(source / "phash.npy")[train], settings.split.duplicate_distance)
        number = folds_of_photos(settings, frame, alike)
        save_folds(work.folder / "folds.csv", frame["photo_id"].tolist(), number)
        work.outputs += ["folds.csv"]
        print(fold_summary(frame, number).to_string(index=False), flush=True)


if __name__ == "__main__":
    guarded(main)
