"""Score a run out of fold, beside its baselines and 95% intervals; or any predictions against any references.

For a run, writes to runs/NAME/: score.json (`oof`; `test` where data.root holds test_labels.csv or the data set has
captions of its test part; `network`: what the run reaches out of fold without the ensemble), covariate_shift.json and
.csv (whether test photos can be told from training photos; with a .png of those that differ most), curves.png and
examples.png. With --coco FOLDER also the captions as COCO result files.
Stand-alone: --predictions P.csv --references R.csv [--train T.csv] [--json FILE]. Instead of CSV, predictions may be
a COCO result file (.json) and references COCO annotations such as captions_val2017.json.

Baseline of the captions: the constant sentence that scores best, found by search over the training captions of the
other folds (stand-alone: of --train). Baseline of the MOS: ridge regression on handcrafted features.
"""

import argparse
from pathlib import Path

from src.base.errors import InputError, guarded
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import making
from src.pipeline.runs import fold_folder, run_folder
from src.settings.load import load


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", metavar="FILE", help="img_name with mos, comments or both; or COCO results")
    parser.add_argument("--references", metavar="FILE", help="the same with the labels; or COCO annotations")
    parser.add_argument("--train", metavar="FILE", help="training captions, for the constant sentence")
    parser.add_argument("--json", metavar="FILE", help="write the report here as well")
    parser.add_argument("--coco", metavar="FOLDER", help="write the run's captions as oof.json and test.json there")


def evaluate_alone(settings, chosen) -> None:
    """Score a file against a file."""
    from src.base.files import write_json
    from src.metrics.file_evaluation import evaluate_files
    from src.metrics.report import summary

    if not (chosen.predictions and chosen.references):
        raise InputError("--predictions and --references go together; give both files")
    if chosen.coco:
        raise InputError("--coco writes the captions of a run; leave it out where files are scored")
    report = evaluate_files(chosen.predictions, chosen.references, chosen.train, settings.metric, settings.run.seed)
    print(summary(f"{chosen.predictions} against {chosen.references}", report))
    if chosen.json:
        write_json(Path(chosen.json), report)


def main(argv=None) -> None:
    settings, chosen = load(argv, "evaluate", __doc__, add_options)
    if any((chosen.predictions, chosen.references, chosen.train, chosen.json)):
        evaluate_alone(settings, chosen)
        return
    stages.ensure_inputs(settings, "evaluate")
    settings = resolved.tuned(settings)
    with making(outputs.score(settings), chosen.fresh) as work:
        if work:
            from src.base.files import write_json

            write_json(work.folder / "score.json", score_run(settings))
            work.outputs += ["score.json", *write_covariate_shift(settings, work.folder)]
            draw_run(settings)
    if chosen.coco:
        write_coco(settings, Path(chosen.coco))


def write_covariate_shift(settings, folder: Path) -> list[str]:
    """Write whether the test photos come from where the training photos do, and say it; the names of the files."""
    import numpy as np

    from src.base.files import write_json, write_text
    from src.data.table import for_training, load_table
    from src.ensembling.tables import read_predictions
    from src.reports import covariate_shift

    source, codes = outputs.photos(settings).folder, outputs.codebook_features(settings)
    table = load_table(source / "photos.jsonl")
    features = np.load(source / "handcrafted.npy")
    if codes.record():
        features = np.concatenate([features, np.load(codes.folder / "codes.npy")], axis=1)
    train, test = np.flatnonzero(for_training(table)), np.flatnonzero(table["part"] == "test")
    groups = table["group"].iloc[np.concatenate([train, test])].to_numpy(str)
    shift = covariate_shift.detect_covariate_shift(features[train], features[test], groups, settings.run.seed)
    print(covariate_shift.summary(shift), flush=True)
    if shift is None:
        write_json(folder / "covariate_shift.json", {"shifted": None, "overall": None, "blocks": []})
        return ["covariate_shift.json"]
    photos = table.iloc[train].set_index("photo_id")
    predictions = read_predictions(outputs.final(settings).folder / "oof.csv").set_index("photo_id")
    predicted, mos = predictions["mos"].reindex(photos.index).to_numpy(float), photos["mos"].to_numpy(float)
    probability = shift.overall.test_probability[: len(train)]
    report = {
        "shifted": bool(shift.shifted),
        "overall": shift.overall.report(),
        "blocks": [block.report() for block in shift.blocks],
        "test_like": covariate_shift.score_test_like(
            probability, predicted, mos, settings.metric.bootstrap, settings.run.seed
        ),
    }
    columns = {"test_probability": probability, "weight": shift.overall.weights}
    columns |= {f"weight_{index}": block.weights for index, block in enumerate(shift.blocks, 1)}
    write_json(folder / "covariate_shift.json", report)
    write_text(folder / "covariate_shift.csv", photos[[]].assign(**columns).to_csv(lineterminator="\n"))
    if shift.shifted:
        rows = covariate_shift.most_shifted_rows(shift, 12)
        draw_covariate_shift(rows, table.iloc[test], source, folder / "covariate_shift.png")
    return ["covariate_shift.json", "covariate_shift.csv"]


def draw_covariate_shift(shifted: list[tuple[int, float]], tested, source: Path, out: Path) -> None:
    """The test photos that are most unlike the training photos. tested: the table of test photos."""
    import numpy as np

    from src.plots.example_photos import draw_examples

    shown = tested.iloc[[row for row, _ in shifted]]
    pixels = np.load(source / "pixels.npy", mmap_mode="r")[shown.index.to_numpy()]
    titles = [f"test row {row + 1}: {likeness:.0%}" for row, likeness in shifted]
    draw_examples(pixels, titles, shown["photo_id"].tolist(), out)


def write_coco(settings, folder: Path) -> None:
    """The captions of the run as COCO result files; no test.json where there is no test photo."""
    from src.ensembling.tables import read_predictions
    from src.metrics.coco_files import write_results

    if settings.task == "mos":
        raise InputError("--coco: task=mos has no captions; leave it out")
    for name in ("oof", "test"):
        predicted = read_predictions(outputs.final(settings).folder / f"{name}.csv")
        if len(predicted):
            write_results(folder / f"{name}.json", dict(zip(predicted["photo_id"], predicted["caption"], strict=True)))
            print(f"evaluate: {folder / f'{name}.json'}: captions of {len(predicted)} photos", flush=True)


def draw_run(settings) -> None:
    """Pictures of the run: the folds' curves, and some photos with what was predicted of them out of fold."""
    import numpy as np

    from src.data.table import load_table
    from src.ensembling.tables import read_predictions
    from src.plots.example_photos import draw_examples
    from src.plots.training_curves import draw_run_curves
    from src.reports.run_report import predicted_mos

    folder, source = run_folder(settings), outputs.photos(settings).folder
    metrics = {f"fold {k}": fold_folder(folder, k) / "metrics.csv" for k in resolved.folds_of(settings)}
    if metrics:
        draw_run_curves(metrics, folder / "curves.png")
    table = load_table(source / "photos.jsonl").reset_index().set_index("photo_id")
    shown = read_predictions(outputs.final(settings).folder / "oof.csv")
    shown = shown.iloc[np.random.default_rng(settings.run.seed).permutation(len(shown))[:12]]
    truth = table.loc[shown["photo_id"]]
    said = ["" if np.isnan(mos) else f", people say {mos:.1f}" for mos in truth["mos"]]
    titles = [f"MOS {mos:.1f}{words}" for mos, words in zip(shown["mos"], said, strict=True)]
    if not predicted_mos(shown):
        titles = shown["photo_id"].tolist()
    pixels = np.load(source / "pixels.npy", mmap_mode="r")[truth["index"].to_numpy()]
    draw_examples(pixels, titles, shown["caption"].tolist(), folder / "examples.png")


def score_run(settings) -> dict:
    """The reports `oof` and `test` of a run, printed too, and `single` of what it predicted before the ensemble."""
    from src.base.files import read_json
    from src.data.table import load_table
    from src.ensembling.tables import read_predictions
    from src.metrics.meteor import shared_meteor
    from src.metrics.report import summary
    from src.reports.run_report import score_out_of_fold, score_test, test_labels

    table = load_table(outputs.photos(settings).folder / "photos.jsonl").set_index("photo_id")
    folder, own = outputs.final(settings).folder, outputs.predictions(settings).folder
    labels = test_labels(table, resolved.data_root(settings) / "test_labels.csv")
    meteor = shared_meteor()
    several = [folder] if folder == own or not resolved.has_networks(settings) else [folder, own]
    predicted = [read_predictions(each / "oof.csv") for each in several]
    found = read_json(folder / "constants.json") if outputs.has_ensemble(settings) else {}
    constants = {int(fold): sentence for fold, sentence in found.items()}
    reports = score_out_of_fold(settings, table, predicted, constants, meteor)
    scores = dict(zip(("oof", "single"), reports, strict=False))
    scores["test"] = None
    if labels is not None:
        scores["test"] = score_test(settings, table, read_predictions(folder / "test.csv"), labels, constants, meteor)
    for name, report in scores.items():
        if report and name != "single":
            print(summary(f"{settings.run.name}, {'out of fold' if name == 'oof' else 'test'}", report), flush=True)
    return scores


if __name__ == "__main__":
    guarded(main)
