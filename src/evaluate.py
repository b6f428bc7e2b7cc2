"""Score a run out of fold, beside its floors and 95% intervals; or any predictions against any references.

For a run: writes runs/NAME/score.json (`oof`, and `test` where data.root holds test_labels.csv), curves.png and
examples.png.
Stand-alone: --predictions P.csv --references R.csv [--train T.csv] [--json FILE].

The floor of the captions is one sentence given to every photo: the best for the formula, found by search over the
captions of the other folds (stand-alone: of --train). The floor of the MOS is ridge regression on hand-made features.
"""

import argparse
from pathlib import Path

from src import pipeline
from src.artefacts import making
from src.config import load
from src.errors import InputError, guarded


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", metavar="CSV", help="img_name with mos, comments or both; one row per photo")
    parser.add_argument("--references", metavar="CSV", help="the same with the labels; one or more rows per photo")
    parser.add_argument("--train", metavar="CSV", help="training captions, for the constant sentence")
    parser.add_argument("--json", metavar="FILE", help="write the report here as well")


def evaluate_alone(settings, chosen) -> None:
    """Score a file against a file."""
    from src.files import write_json
    from src.metrics.pairing import evaluate_files
    from src.metrics.summary import summary

    if not (chosen.predictions and chosen.references):
        raise InputError("--predictions and --references go together; give both files")
    report = evaluate_files(chosen.predictions, chosen.references, chosen.train, settings.metric, settings.run.seed)
    print(summary(f"{chosen.predictions} against {chosen.references}", report))
    if chosen.json:
        write_json(Path(chosen.json), report)


def read_predictions(path: Path):
    """A table that predict wrote."""
    import pandas as pd

    text = {"photo_id": str, "caption": str, "fallback": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"mos": [""]})


def main(argv=None) -> None:
    settings, chosen = load(argv, "evaluate", __doc__, add_options)
    if any((chosen.predictions, chosen.references, chosen.train, chosen.json)):
        evaluate_alone(settings, chosen)
        return
    pipeline.require(settings, "evaluate")
    with making(pipeline.score(settings), chosen.fresh) as work:
        if work:
            from src.files import write_json

            write_json(work.folder / "score.json", score_run(settings))
            work.outputs += ["score.json"]
            draw_run(settings)


def draw_run(settings) -> None:
    """Pictures of the run: the folds' curves, and some photos with what was predicted of them out of fold."""
    import numpy as np

    from src.data.table import load_table
    from src.visual.curves import draw_run_curves
    from src.visual.examples import draw_examples

    folder, source = pipeline.run_folder(settings), pipeline.photos(settings).folder
    metrics = {f"fold {k}": folder / f"fold-{k}" / "metrics.csv" for k in pipeline.folds_of(settings)}
    draw_run_curves(metrics, folder / "curves.png")
    table = load_table(source / "photos.jsonl").reset_index().set_index("photo_id")
    shown = read_predictions(pipeline.predictions(settings).folder / "oof.csv")
    shown = shown.iloc[np.random.default_rng(settings.run.seed).permutation(len(shown))[:12]]
    truth = table.loc[shown["photo_id"]]
    said = ["" if np.isnan(mos) else f", people say {mos:.1f}" for mos in truth["mos"]]
    titles = [f"MOS {mos:.1f}{words}" for mos, words in zip(shown["mos"], said, strict=True)]
    pixels = np.load(source / "pixels.npy", mmap_mode="r")[truth["index"].to_numpy()]
    draw_examples(pixels, titles, shown["caption"].tolist(), folder / "examples.png")


def score_run(settings) -> dict:
    """The reports `oof` and `test` of a run, printed too."""
    from src.blending.scoring import score_out_of_fold, score_test
    from src.data.table import load_table
    from src.metrics.meteor import shared_meteor
    from src.metrics.summary import summary

    table = load_table(pipeline.photos(settings).folder / "photos.jsonl").set_index("photo_id")
    folder, labels = pipeline.predictions(settings).folder, pipeline.data_root(settings) / "test_labels.csv"
    meteor = shared_meteor()
    scores = {"oof": score_out_of_fold(settings, table, read_predictions(folder / "oof.csv"), meteor), "test": None}
    if labels.is_file():
        scores["test"] = score_test(settings, table, read_predictions(folder / "test.csv"), labels, meteor)
    for name, report in scores.items():
        if report:
            print(summary(f"{settings.run.name}, {'out of fold' if name == 'oof' else 'test'}", report), flush=True)
    return scores


if __name__ == "__main__":
    guarded(main)
