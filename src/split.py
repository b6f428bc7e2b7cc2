"""Give every training photo a fold, once.

Folds are balanced by MOS, and photos of one group or that look alike share one. With split.official the data set's own
validation part is the one fold. Writes runs/cache/folds-KEY/folds.csv (photo_id, fold; -1: always in training) and
prints each fold's size, mean MOS and captions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.base.errors import guarded
from src.pipeline.artefacts import making
from src.pipeline.outputs import folds, photos
from src.pipeline.stages import ensure_inputs
from src.settings.load import load
from src.settings.schema import SplitSettings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def folds_of_photos(split: SplitSettings, table: "pd.DataFrame", alike: "np.ndarray") -> "np.ndarray":
    """The fold of each photo of the table, int64 [N]. alike: int [N], near-duplicates have one number."""
    from src.data.folds import assign_folds, check_folds, merge_groups, official_folds, straddling

    if split.official:
        fold = official_folds(table["part"])
        if both := straddling(fold, alike):
            print(f"split: {both} validation photos have a near-duplicate in training; official parts stay as they are")
        return fold
    group, mos, captioned = table["group"].to_numpy(), table["mos"].to_numpy(), table["captions"].map(bool).to_numpy()
    fold = assign_folds(mos, merge_groups(group, alike), split.folds, split.holdout, split.seed, captioned)
    check_folds(fold, group, alike)
    return fold


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "split", __doc__)
    ensure_inputs(settings, "split")
    with making(folds(settings), options.fresh) as work:
        if not work:
            return
        import numpy as np

        from src.data.folds import fold_summary, near_duplicates, save_folds
        from src.data.table import for_training, load_table

        source = photos(settings).folder
        table = load_table(source / "photos.jsonl")
        trainable = for_training(table)
        table, hashes = table[trainable], np.load(source / "phash.npy")[trainable]
        fold = folds_of_photos(settings.split, table, near_duplicates(hashes, settings.split.duplicate_distance))
        save_folds(work.folder / "folds.csv", table["photo_id"].tolist(), fold)
        work.outputs += ["folds.csv"]
        print(fold_summary(table, fold).to_string(index=False), flush=True)


if __name__ == "__main__":
    guarded(main)
