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

from src.base.errors import InputError, guarded
from src.pipeline import outputs, resolved, runs, stages
from src.pipeline.artefacts import making
from src.settings.load import load
from src.settings.schema import Settings


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


def write_coco(settings: Settings, folder: Path) -> None:
    """Write the captions of the run as COCO result files; no test.json where there is no test photo."""
    from src.metrics.coco_files import write_results
    from src.reports.run_report import read_tables

    if settings.task == "mos":
        raise InputError("--coco: task=mos has no captions; leave it out")
    tables = read_tables(settings)
    for name, predictions in (("oof", tables.oof), ("test", tables.test)):
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
            from src.reports.covariate_shift import write_covariate_shift
            from src.reports.figures import draw_run, draw_run_attention
            from src.reports.run_report import read_tables, score_run

            tables = read_tables(settings)
            scores, captions = score_run(settings, tables)
            write_json(runs.score_path(work.folder), scores)
            if captions is not None:
                path = runs.caption_scores_path(work.folder)
                write_text(path, captions.to_csv(index=False, lineterminator="\n"))
                work.outputs.append(path.name)
            has_mos = scores["oof"]["mos"] is not None
            shift_files = write_covariate_shift(settings, tables.photos, tables.oof, has_mos, work.folder)
            work.outputs += [runs.score_path(work.folder).name, *shift_files]
            draw_run(settings, tables.photos, tables.oof, has_mos)
            if captions is not None:
                draw_run_attention(settings, tables.photos, tables.oof, captions)
    from src.reports.run_page import write_report

    print(f"evaluate: the report: {write_report(settings)}", flush=True)
    if options.coco:
        write_coco(settings, Path(options.coco))


if __name__ == "__main__":
    guarded(main)
