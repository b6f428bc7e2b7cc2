"""Read the data set's tables, decode every photo once, and count words.

Writes runs/cache/photos-KEY/ (photos.jsonl, pixels.npy, handcrafted.npy, phash.npy, statistics.json and .png,
rejected.csv) and runs/cache/vocabulary-KEY/ (vocabulary.json, captions.npz). Makes the demo competition in data/demo
first where data.root is not given and data/train.csv is absent. --check looks, in seconds and all at once, for what
would end this run in any stage: the tables, photo files, labels, form, folds, places, the network and its weights.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.base.csv_files import read_rows
from src.base.errors import InputError, guarded
from src.base.files import read_json, require_writable, write_if_different, write_text
from src.base.hub_models import captioner_tokens, model_folder
from src.base.machine import usable_processes
from src.base.text import one_line
from src.pipeline.artefacts import Making, making, tree_signature
from src.pipeline.outputs import demo, photos, vocabulary
from src.pipeline.resolved import DEMO, data_root
from src.pipeline.runs import rejected_path, run_folder
from src.settings.load import load
from src.settings.schema import Settings


def make_demo(fresh: bool) -> None:
    """Make the demo competition, or leave it where it is up to date."""
    require_writable(DEMO, "data.root")
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
    from src.base.spelling import by_look
    from src.data.pixel_cache import build_pixel_cache
    from src.data.readers.registry import read_dataset
    from src.data.statistics import dataset_statistics
    from src.data.table import Rejection, drop_wordless, for_training, save_table, write_rejections
    from src.plots.data_histograms import draw_statistics
    from src.reports.preflight import check_labels

    root = data_root(settings)
    table, rejections = read_dataset(root, settings.data.format)
    table, wordless = drop_wordless(table)
    alike = [names[:2] for names in by_look(table["photo_id"]).values() if len(names) > 1]
    if not rejections:
        labels = table[for_training(table)]
        check_labels(settings, len(labels), labels["mos"].nunique(), labels["captions"].map(len).sum(), wordless)
    paths, megapixels = table["path"].tolist(), settings.data.maximum_megapixels
    problems = build_pixel_cache(
        work.folder, root, paths, settings.view, usable_processes(0.5), progress=True, megapixels=megapixels
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
    # only where there are some: what runs of other data were made from keeps its hash
    statistics["photos"] |= {"look_alikes": alike} if alike else {}
    statistics["captions"] |= {"wordless": wordless} if wordless else {}
    write_json(work.folder / "statistics.json", statistics)
    draw_statistics(statistics, work.folder / "statistics.png")


def make_vocabulary(settings: Settings, work: Making) -> None:
    """Write the captioner's vocabulary, all captions in its tokens, and all words of the captions."""
    from src.data.labels import EncodedCaptions
    from src.data.table import load_table
    from src.data.vocabulary import SPECIAL, Subwords, Vocabulary, tokenize

    table = load_table(photos(settings).folder / "photos.jsonl")
    # of the training part alone: words that only validation or test photos have are <unk> to every captioner
    captions = table["captions"][table["part"] == "train"].explode().dropna().tolist()
    if weights := settings.decoder.weights:
        words: Vocabulary = Subwords.read(*captioner_tokens(settings.decoder.name, weights), captions)
    else:
        minimum_count, maximum_size = settings.vocabulary.minimum_count, settings.vocabulary.maximum_size
        words = Vocabulary.build(captions, minimum_count, maximum_size)
        if captions and len(words) == len(SPECIAL):
            print(
                f"preprocess: no word stands {minimum_count} times in the training captions, so the captioner knows "
                "none; give a smaller vocabulary.minimum_count",
                flush=True,
            )
    words.save(work.folder / "vocabulary.json")
    EncodedCaptions.of(table["captions"], words).save(work.folder / "captions.npz")
    # references of any part are scored, divided at apostrophes and into "gon na" as here
    scored = table["captions"].explode().dropna()
    distinct = {word for caption in scored for word in [*caption.split(), *tokenize(caption)]}
    write_text(work.folder / "words.txt", "\n".join(sorted(distinct)) + "\n")


def report_rejected(settings: Settings, source: Path) -> None:
    """Copy rejected.csv into the run's folder. Raises InputError where it has rows that may not be left out."""
    rejected = rejected_path(run_folder(settings))
    write_if_different(rejected, source.read_bytes())
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


def report_statistics(settings: Settings, file: Path) -> None:
    """Say what of the labels was left out or may be a mistake. Raises InputError as `check_labels`."""
    from src.reports.preflight import check_labels, wordless_example

    statistics = read_json(file)
    alike, wordless = statistics["photos"].get("look_alikes"), statistics["captions"].get("wordless", [])
    if alike:
        example = " and ".join(map(ascii, alike[0]))
        line = f"{len(alike)} names are written in several ways, such as {example}: they count as different photos"
        print(f"preprocess: {line}", flush=True)
    if wordless:
        line = f"{len(wordless)} captions without a letter or digit are left out ({wordless_example(wordless)})"
        print(f"preprocess: {line}", flush=True)
    mos = statistics["mos"]
    scores = 0 if mos is None else 1 + (mos["min"] < mos["max"])
    check_labels(settings, statistics["photos"]["train"], scores, statistics["captions"]["count"], wordless)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="look for all that would end the run later, and stop")


def check(settings: Settings, fresh: bool) -> None:
    """Print all that would end the run later, a line each, of which the last is raised as InputError."""
    from src.reports.preflight import preflight_faults

    faults = preflight_faults(settings, fresh)
    for fault in faults[:-1]:
        print(f"error: {one_line(fault)}", file=sys.stderr, flush=True)
    if faults:
        raise InputError(faults[-1])
    print("preprocess: nothing was found that would end this run", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "preprocess", __doc__, add_options)
    if options.check:
        check(settings, options.fresh)
        return
    require_writable(Path(settings.run.root), "run.root")
    require_writable(Path(settings.run.submissions), "run.submissions")  # else hours of training would end in a refusal
    if settings.decoder.weights:
        model_folder(settings.decoder.name, settings.decoder.weights)  # fetched now, or its absence told
    if settings.data.root is None and data_root(settings) == DEMO:
        make_demo(options.fresh)
    with making(photos(settings), options.fresh) as work:
        if work:
            make_photos(settings, work)
            work.outputs += ["photos.jsonl", "pixels.npy", "handcrafted.npy", "phash.npy", "digests.npy"]
            work.outputs += ["statistics.json", "rejected.csv"] + ["crops.npy"] * (settings.view.crops > 1)
    report_rejected(settings, photos(settings).folder / "rejected.csv")
    report_statistics(settings, photos(settings).folder / "statistics.json")
    with making(vocabulary(settings), options.fresh) as work:
        if work:
            make_vocabulary(settings, work)
            work.outputs += ["vocabulary.json", "captions.npz"]


if __name__ == "__main__":
    guarded(main)
