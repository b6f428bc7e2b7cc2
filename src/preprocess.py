"""Read the competition's tables, decode every photo once, and count words.

Writes runs/cache/photos-KEY/ (photos.jsonl, pixels.npy, handmade.npy, phash.npy, statistics.json and .png,
rejected.csv) and runs/cache/vocabulary-KEY/ (vocabulary.json). Makes the demo competition in data/demo first where
data.root is not given and data/train.csv is absent.
"""

import os

from src.config import load
from src.errors import InputError, guarded
from src.pipeline import DEMO, Making, data_root, demo, making, photos, run_folder, tree_signature, vocabulary


def make_demo(fresh: bool) -> None:
    """Make the demo competition, or leave it where it is up to date."""
    with making(demo(), fresh) as work:
        if work:
            from src.data.demo import make

            make(work.folder)
            work.outputs += ["train.csv", "test.csv", "sample_submission.csv", "test_labels.csv"]
    tree_signature.cache_clear()


def make_photos(settings, work: Making) -> None:
    """The table, the pixels and what is computed from them."""
    import numpy as np

    from src.data.pixels import build
    from src.data.readers import read
    from src.data.statistics import describe
    from src.data.table import Rejection, save_table
    from src.files import write_json
    from src.visual.statistics import draw_statistics

    root = data_root(settings)
    table, rejections = read(root, settings.data.format)
    problems = build(work.folder, root, table["path"].tolist(), settings.view, os.cpu_count() or 1, progress=True)
    known = {rejection.photo_id for rejection in rejections}
    rejections += [
        Rejection(f"{row.part}.csv", row.photo_id, row.path, problem)
        for row, problem in zip(table.itertuples(), problems, strict=True)
        if problem and row.photo_id not in known
    ]
    report(settings, rejections, work)
    # an unusable photo keeps its row, so that the rows of table and arrays agree, but belongs to no part
    unusable = np.array([problem is not None for problem in problems]) & (table["part"] == "train").to_numpy()
    table.loc[unusable, "part"] = "rejected"
    save_table(table, work.folder / "photos.jsonl")
    pixels, handmade = np.load(work.folder / "pixels.npy", mmap_mode="r"), np.load(work.folder / "handmade.npy")
    statistics = describe(table, pixels, handmade)
    write_json(work.folder / "statistics.json", statistics)
    draw_statistics(statistics, work.folder / "statistics.png")


def report(settings, rejections: list, work: Making) -> None:
    """Write rejected.csv into the cache and the run's folder; stop with one line unless rows may be skipped."""
    from src.data.table import write_rejections

    rejected = run_folder(settings) / "rejected.csv"
    for path in (work.folder / "rejected.csv", rejected):
        write_rejections(rejections, path)
    if not rejections:
        return
    first = rejections[0]
    line = (
        f"{len(rejections)} rows or photos cannot be used (first: {first.where}: {first.photo_id} {first.path}: "
        f"{first.reason}); all are listed in {rejected}"
    )
    if settings.data.on_bad_photo == "stop":
        raise InputError(
            f"{line}; mend them, or set data.on_bad_photo=skip, which leaves out what is for training and gives test "
            "photos a fallback prediction"
        )
    print(f"preprocess: {line}", flush=True)


def main(argv=None) -> None:
    settings, chosen = load(argv, "preprocess", __doc__)
    if settings.data.root is None and data_root(settings) == DEMO:
        make_demo(chosen.fresh)
    with making(photos(settings), chosen.fresh) as work:
        if work:
            make_photos(settings, work)
            work.outputs += ["photos.jsonl", "pixels.npy", "handmade.npy", "phash.npy", "digests.npy"]
            work.outputs += ["statistics.json", "rejected.csv"]
    with making(vocabulary(settings), chosen.fresh) as work:
        if work:
            from src.data.table import load_table
            from src.data.vocabulary import Vocabulary

            table = load_table(photos(settings).folder / "photos.jsonl")
            captions = [caption for several in table["captions"] for caption in several]
            chosen_words = settings.vocabulary
            words = Vocabulary.build(captions, chosen_words.minimum_count, chosen_words.maximum_size)
            words.save(work.folder / "vocabulary.json")
            work.outputs += ["vocabulary.json"]


if __name__ == "__main__":
    guarded(main)
