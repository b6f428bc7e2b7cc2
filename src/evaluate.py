"""Score a run out of fold, beside its baselines and 95% intervals; or any predictions against any references.

For a run, writes to runs/NAME/: score.json (`oof`; `test` where data.root holds test_labels.csv or the data set has
captions of its test part; `network`: what the run reaches out of fold without the ensemble), covariate_shift.json and
.csv (whether test photos can be told from training photos; with a .png of those that differ most), curves.png,
examples.png, caption_scores.csv (each caption's own scores), attention.png (where the captioner looked, if it attends),
and report.html, one page that tells how the run went, whenever it is called.
With --coco FOLDER also the captions as COCO result files.
Stand-alone: --predictions P.csv --references R.csv [--train T.csv] [--json FILE]. Instead of CSV, predictions may be
a COCO result file (.json) and references COCO annotations such as captions_val2017.json.

Baseline of the captions: the constant sentence that scores best, found by search over the training captions of the
other folds (stand-alone: of --train). Baseline of the MOS: ridge regression on handcrafted features.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import InputError, guarded
from src.pipeline import outputs, resolved, runs, stages
from src.pipeline.artefacts import making
from src.settings.load import load
from src.settings.schema import Settings

if TYPE_CHECKING:
    import pandas as pd


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", metavar="FILE", help="img_name with mos, comments or both; or COCO results")
    parser.add_argument("--references", metavar="FILE", help="the same with the labels; or COCO annotations")
    parser.add_argument("--train", metavar="FILE", help="training captions, for the constant sentence")
    parser.add_argument("--json", metavar="FILE", help="write the report here as well")
    parser.add_argument("--coco", metavar="FOLDER", help="write the run's captions as oof.json and test.json there")


def score_files(settings: Settings, options: argparse.Namespace) -> None:
    """Score a file of predictions against a file of references."""
    from src.base.files import write_json
    from src.metrics.file_evaluation import evaluate_files
    from src.metrics.report import summary

    if not (options.predictions and options.references):
        raise InputError("--predictions and --references go together; give both files")
    if options.coco:
        raise InputError("--coco writes the captions of a run; leave it out where files are scored")
    report = evaluate_files(options.predictions, options.references, options.train, settings.metric, settings.run.seed)
    print(summary(f"{options.predictions} against {options.references}", report))
    if options.json:
        write_json(Path(options.json), report)


def score_run(
    settings: Settings, table: "pd.DataFrame", predictions: "pd.DataFrame"
) -> tuple[dict, "pd.DataFrame | None"]:
    """The reports `oof`, `test` and `network`, each None where there is none; the first two are printed.

    And the scores of each out-of-fold caption, None without captions. table: the photos. predictions: the ensemble's,
    out of fold.
    """
    from src.base.files import read_json
    from src.data.prediction_tables import read_predictions
    from src.metrics.report import summary
    from src.reports.run_report import RunEvaluation, test_labels

    table, ensemble = table.set_index("photo_id"), outputs.ensemble(settings).folder
    constants = {int(fold): sentence for fold, sentence in read_json(ensemble / "constants.json").items()}
    evaluation = RunEvaluation(settings, table, predictions, constants)
    scores: dict = {"oof": evaluation.out_of_fold(), "test": None, "network": None}
    print(summary(f"{settings.run.name}, out of fold", scores["oof"]), flush=True)
    labels = test_labels(table, resolved.data_root(settings) / "test_labels.csv")
    if labels is not None:
        scores["test"] = evaluation.test(read_predictions(ensemble / "test.csv"), labels)
        print(summary(f"{settings.run.name}, test", scores["test"]), flush=True)
    if resolved.has_networks(settings):
        networks = read_predictions(outputs.predictions(settings).folder / "oof.csv")
        scores["network"] = evaluation.networks(networks, scores["oof"])
    return scores, evaluation.caption_scores()


def report_covariate_shift(
    settings: Settings, table: "pd.DataFrame", predictions: "pd.DataFrame", has_mos: bool, folder: Path
) -> list[str]:
    """Test whether the test photos differ from the training photos, print and write it; the names of the files.

    Arguments as for `score_run`. has_mos: the MOS were measured; then the score of the training photos that are most
    like the test photos stands beside it.
    """
    import numpy as np

    from src.base.files import write_json, write_text
    from src.data.table import for_training
    from src.reports.covariate_shift import detect_covariate_shift, most_shifted_rows, score_test_like, summary
    from src.reports.figures import draw_shifted_photos

    photos, codebook = outputs.photos(settings).folder, outputs.codebook_features(settings)
    features = np.load(photos / "handcrafted.npy")
    if codebook.record():
        features = np.concatenate([features, np.load(codebook.folder / "codes.npy")], axis=1)
    train, test = np.flatnonzero(for_training(table)), np.flatnonzero(table["part"] == "test")
    groups = table["group"].iloc[np.concatenate([train, test])].to_numpy(str)
    shift = detect_covariate_shift(features[train], features[test], groups, settings.run.seed)
    print(summary(shift), flush=True)
    if shift is None:
        write_json(folder / "covariate_shift.json", {"shifted": None, "overall": None, "blocks": []})
        return ["covariate_shift.json"]
    training = table.iloc[train].set_index("photo_id")
    predicted = predictions.set_index("photo_id")["mos"].reindex(training.index).to_numpy(float)
    probability, mos = shift.overall.test_probability[: len(train)], training["mos"].to_numpy(float)
    report: dict = {
        "shifted": bool(shift.shifted),
        "overall": shift.overall.report(),
        "blocks": [block.report() for block in shift.blocks],
        "test_like": None,
    }
    if has_mos:
        bootstrap, seed = settings.metric.bootstrap, settings.run.seed
        report["test_like"] = score_test_like(probability, predicted, mos, bootstrap, seed)
    columns = {"test_probability": probability, "weight": shift.overall.weights}
    columns |= {f"weight_{index}": block.weights for index, block in enumerate(shift.blocks, 1)}
    write_json(folder / "covariate_shift.json", report)
    write_text(folder / "covariate_shift.csv", training[[]].assign(**columns).to_csv(lineterminator="\n"))
    if shift.shifted:
        pixels = np.load(photos / "pixels.npy", mmap_mode="r")
        draw_shifted_photos(most_shifted_rows(shift, 12), table.iloc[test], pixels, folder / "covariate_shift.png")
    return ["covariate_shift.json", "covariate_shift.csv"]


def write_coco(settings: Settings, folder: Path) -> None:
    """Write the captions of the run as COCO result files; no test.json where there is no test photo."""
    from src.data.prediction_tables import read_predictions
    from src.metrics.coco_files import write_results

    if settings.task == "mos":
        raise InputError("--coco: task=mos has no captions; leave it out")
    for name in ("oof", "test"):
        predictions = read_predictions(outputs.ensemble(settings).folder / f"{name}.csv")
        if len(predictions):
            captions = dict(zip(predictions["photo_id"], predictions["caption"], strict=True))
            write_results(folder / f"{name}.json", captions)
            print(f"evaluate: {folder / f'{name}.json'}: captions of {len(predictions)} photos", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "evaluate", __doc__, add_options)
    if any((options.predictions, options.references, options.train, options.json)):
        score_files(settings, options)
        return
    stages.ensure_inputs(settings, "evaluate")
    settings = resolved.tuned(settings)
    with making(outputs.score(settings), options.fresh) as work:
        if work:
            from src.base.files import write_json, write_text
            from src.data.prediction_tables import read_predictions
            from src.data.table import load_table
            from src.reports.figures import draw_run, draw_run_attention

            table = load_table(outputs.photos(settings).folder / "photos.jsonl")
            predictions = read_predictions(outputs.ensemble(settings).folder / "oof.csv")
            scores, captions = score_run(settings, table, predictions)
            write_json(runs.score_path(work.folder), scores)
            if captions is not None:
                path = runs.caption_scores_path(work.folder)
                write_text(path, captions.to_csv(index=False, lineterminator="\n"))
                work.outputs.append(path.name)
            has_mos = scores["oof"]["mos"] is not None
            shift_files = report_covariate_shift(settings, table, predictions, has_mos, work.folder)
            work.outputs += [runs.score_path(work.folder).name, *shift_files]
            draw_run(settings, table, predictions, has_mos)
            if captions is not None:
                draw_run_attention(settings, table, predictions, captions)
    from src.reports.run_page import write_report

    print(f"evaluate: the report: {write_report(settings)}", flush=True)
    if options.coco:
        write_coco(settings, Path(options.coco))


if __name__ == "__main__":
    guarded(main)
