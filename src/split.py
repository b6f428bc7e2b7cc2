"""Give every training photo a fold, once.

Folds are balanced by MOS, and photos of one group or that look alike share one. Writes runs/cache/folds-KEY/folds.csv
(photo_id, fold; -1: always in training) and prints each fold's size, mean MOS and captions.
"""

from src.artefacts import making
from src.config import load
from src.errors import guarded
from src.pipeline import folds, photos, require


def main(argv=None) -> None:
    settings, chosen = load(argv, "split", __doc__)
    require(settings, "split")
    with making(folds(settings), chosen.fresh) as work:
        if not work:
            return
        import numpy as np

        from src.data.folds import assign, check, near_duplicates, save_folds, table, union
        from src.data.table import load_table

        source = photos(settings).folder
        frame = load_table(source / "photos.jsonl")
        train = (frame["part"] == "train").to_numpy()
        chosen_split, frame = settings.split, frame[train]
        alike = near_duplicates(np.load(source / "phash.npy")[train], chosen_split.duplicate_distance)
        group = frame["group"].to_numpy()
        number = assign(
            frame["mos"].to_numpy(),
            union(group, alike),
            chosen_split.folds,
            chosen_split.holdout,
            chosen_split.seed,
            frame["captions"].map(bool).to_numpy(),
        )
        check(number, group, alike)
        save_folds(work.folder / "folds.csv", frame["photo_id"].tolist(), number)
        work.outputs += ["folds.csv"]
        print(table(frame, number).to_string(index=False), flush=True)


if __name__ == "__main__":
    guarded(main)
