"""Read the data set's tables, decode every photo once, and count words.

Writes runs/cache/photos-KEY/ (photos.jsonl, pixels.npy, handcrafted.npy, phash.npy, statistics.json and .png,
rejected.csv) and runs/cache/vocabulary-KEY/ (vocabulary.json). Makes the demo competition in data/demo first where
data.root is not given and data/train.csv is absent.
"""

from collections.abc import Sequence
from pathlib import Path

from src.base.csv_files import read_rows
from src.base.errors import InputError, guarded
from src.base.files import write_bytes
from src.base.machine import usable_cores
from src.pipeline.artefacts import Making, making, tree_signature
from src.pipeline.outputs import demo, photos, vocabulary
from src.pipeline.resolved import DEMO, data_root
from src.pipeline.runs import rejected_path, run_folder
from src.settings.load import load
from src.settings.schema import Settings


def make_demo(fresh: bool) -> None:
    """Make the demo competition, or leave it where it is up to date."""
    with making(demo(), fresh) as work:
        if work:
            from src.demo.competition import make_competition

            make_competition(work.folder)
            work.outputs += ["train.csv", "test.csv", "sample_submission.csv", "test_labels.csv"]
    tree_signature.cache_clear()


def make_photos(settings: Settings, work: Making) -> None:
    """The table, the pixels, what is computed from them, and the list of what cannot be used."""
    import numpy as np

    from src.base.files import write_json
    from src.data.pixel_cache import build_pixel_cache
    from src.data.readers.registry import read_dataset
    from src.data.statistics import dataset_statistics
    from src.data.table import Rejection, for_training, save_table, write_rejections
    from src.plots.data_histograms import draw_statistics

    root = data_root(settings)
    table, rejections = read_dataset(root, settings.data.format)
    paths, megapixels = table["path"].tolist(), settings.data.maximum_megapixels
    problems = build_pixel_cache(
        work.folder, root, paths, settings.view, usable_cores(), progress=True, megapixels=megapixels
    )
    rejections += [
        Rejection(f"{row.part} photo", row.photo_id, row.path, problem)
        for row, problem in zip(table.itertuples(), problems, strict=True)
        if problem and row.path  # the reader has listed a test photo without a path
    ]
    write_rejections(rejections, work.folder / "rejected.csv")
    # an unusable photo keeps its row, so that the rows of table and arrays agree, but belongs to no part
    unusable = np.array([problem is not None for problem in problems]) & for_training(table)
    table.loc[unusable, "part"] = "rejected"
    table.loc[unusable, "mos"] = np.nan
    table["captions"] = [() if bad else captions for bad, captions in zip(unusable, table["captions"], strict=True)]
    save_table(table, work.folder / "photos.jsonl")
    pixels, handcrafted = np.load(work.folder / "pixels.npy", mmap_mode="r"), np.load(work.folder / "handcrafted.npy")
    statistics = dataset_statistics(table, pixels, handcrafted)
    write_json(work.folder / "statistics.json", statistics)
    draw_statistics(statistics, work.folder / "statistics.png")


def report_rejected(settings: Settings, source: Path) -> None:
    """Copy rejected.csv into the run's folder. Raises InputError where it has rows that may not be left out."""
    rejected = rejected_path(run_folder(settings))
    if not rejected.is_file() or rejected.read_bytes() != source.read_bytes():
        write_bytes(rejected, source.read_bytes())
    rows = read_rows(rejected, ("where", "photo_id", "path", "reason"))
    if not rows:
        return
    first = rows[0].cells
    photo = " ".join(filter(None, (first["photo_id"], first["path"])))
    example = ": ".join(filter(None, (first["where"], photo, first["reason"])))
    line = f"{len(rows)} rows or photos cannot be used (first: {example}); all are listed in {rejected}"
    if settings.data.on_bad_photo == "stop":
        raise InputError(
            f"{line}; mend them, or set data.on_bad_photo=skip, which leaves out what is for training and gives test "
            "photos a fallback prediction"
        )
    print(f"preprocess: {line}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "preprocess", __doc__)
    if settings.data.root is None and data_root(settings) == DEMO:
        make_demo(options.fresh)
    with making(photos(settings), options.fresh) as work:
        if work:
            make_photos(settings, work)
            work.outputs += ["photos.jsonl", "pixels.npy", "handcrafted.npy", "phash.npy", "digests.npy"]
            work.outputs += ["statistics.json", "rejected.csv"] + ["crops.npy"] * (settings.view.crops > 1)
    report_rejected(settings, photos(settings).folder / "rejected.csv")
    with making(vocabulary(settings), options.fresh) as work:
        if work:
            from src.data.table import load_table
            from src.data.vocabulary import Vocabulary

            table = load_table(photos(settings).folder / "photos.jsonl")
            # of the training part alone: words that only validation or test photos have are <unk> to every captioner
            captions = table["captions"][table["part"] == "train"].explode().dropna().tolist()
            minimum_count, maximum_size = settings.vocabulary.minimum_count, settings.vocabulary.maximum_size
            Vocabulary.build(captions, minimum_count, maximum_size).save(work.folder / "vocabulary.json")
            work.outputs += ["vocabulary.json"]


if __name__ == "__main__":
    guarded(main)
