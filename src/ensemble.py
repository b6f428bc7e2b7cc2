"""One MOS and one caption a photo from the run, or from many: python -m src.ensemble [RUN RUN …]

Each RUN is the name of a predicted run on the same photos and folds; their sizes, networks and captioners may differ.
Without names the run itself. MOS: the blend of all members that help on the other folds. Captions: of what all
captioners, searches, random samples and the nearest training photos propose, the one with the highest expected score;
for each fold in the way that was best on the other folds.

Writes runs/NAME/ensemble/: oof.csv and test.csv, which evaluate and submit take, blend.json (weights, and how captions
are chosen), constants.json (the folds' constant sentences), ablation.csv, ablation.txt and ablation.png (what each step adds
out of fold) and ensemble.yaml, a --config for evaluate and submit; and runs/RUN/candidates/, which is kept for the next
ensemble unless --fresh is given. NAME is all names joined by +, or run.name.
"""

import argparse
import os

from src.base.errors import InputError, guarded
from src.pipeline import outputs, resolved, stages
from src.pipeline.artefacts import making
from src.pipeline.trained_runs import joined, load_joining


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="*", help="names of runs to join; the same as ensemble.runs")


def blended(settings, table, labels):
    """The table with the ensemble's MOS in it; and the blend, None where nothing is known of MOS."""
    from src.ensembling.mos_blend import blend_mos

    mos = labels["mos"].where(labels["part"] != "test").reindex(table["photo_id"]).to_numpy(float)
    found = blend_mos(table, mos, settings)
    if found:
        readable = table["fallback"] == ""
        table.loc[readable, "blend"] = found.mos[readable]
        table["mos"] = table[settings.predict.mos if settings.predict.mos in table else "blend"]
    return found


def mbr_captions(settings, runs, table, labels, number, fresh):
    """The table's captions become the ensemble's; what was chosen, and the steps to it."""
    from src.ensembling.captions import ensemble_captions
    from src.metrics.meteor import shared_meteor

    meteor = shared_meteor()
    searched = table.set_index("photo_id")["caption"]
    found, steps = ensemble_captions(settings, runs, labels.reset_index(), number, searched, meteor, fresh)
    chosen = {labels.index[row]: text for row, text in found.chosen.items()}
    table["caption"] = [chosen.get(name) or own for name, own in zip(table["photo_id"], table["caption"], strict=True)]
    return found, steps


def make(settings, runs, folder, fresh) -> list[str]:
    """Write the ensemble of the runs; the names of the files. fresh: what they propose is made anew."""
    from src.data.folds import load_folds
    from src.data.table import for_training, load_table
    from src.ensembling.ablation import ablation_rows, ablation_text
    from src.ensembling.mos_blend import check_alike, read_together, write_ensemble
    from src.plots.ablation_plot import draw_ablation

    check_alike(runs)
    labels = load_table(outputs.photos(runs[0]).folder / "photos.jsonl").set_index("photo_id")
    number = load_folds(outputs.folds(runs[0]).folder / "folds.csv", labels.index[for_training(labels)].tolist())
    table = read_together(runs)
    blend, speakers = blended(settings, table, labels), [run for run in runs if run.task != "mos"]
    steps, captions = blend.steps if blend else [], None
    if settings.task != "mos" and settings.ensemble.captions == "mbr" and speakers:
        captions, caption_steps = mbr_captions(settings, speakers, table, labels, number, fresh)
        steps = [*steps, *caption_steps]
    rows = ablation_rows(steps)
    if rows:
        print(ablation_text(rows, settings.metric.bootstrap), flush=True)
        draw_ablation(rows, folder / "ablation.png")
    return write_ensemble(folder, settings, table, blend, captions, rows)


def main(argv=None) -> None:
    settings, chosen = load_joining(argv, "ensemble", __doc__, add_options)
    if "RANK" in os.environ:
        raise InputError("ensemble is one process; start it without torchrun")
    stages.ensure_inputs(settings, "ensemble")
    settings = resolved.tuned(settings)
    if not outputs.has_ensemble(settings):
        print("ensemble: nothing to do (one run, with the captions of its own search and the usual blend)", flush=True)
        return
    from src.base.randomness import make_deterministic

    make_deterministic(settings.run.threads)
    with making(outputs.ensemble(settings), chosen.fresh) as work:
        if work:
            work.outputs += make(settings, joined(settings), work.folder, chosen.fresh)
    config = outputs.ensemble(settings).folder / "ensemble.yaml"
    print(f"ensemble: next: python -m src.evaluate --config {config}, then src.submit with the same", flush=True)


if __name__ == "__main__":
    guarded(main)
