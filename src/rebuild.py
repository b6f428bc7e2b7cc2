"""Rebuild a submission byte for byte from its manifest: python -m src.rebuild submissions/NAME.manifest.json.

--from weights predicts anew with the checkpoints in runs/NAME/fold-K/; --from training decodes the photos and trains
all folds anew as well. What is not as it was (versions, machine, threads, code) is told first; other data end it. Works
in runs/NAME.from-weights/ or runs/NAME.from-training/, where the rebuilt NAME.csv lies in the end, and changes no file
of the run; submissions/NAME.csv is written where it is missing. Exit code 1 where the rebuilt file is another. Of the
settings only those that change no result are taken, such as data.root and run.root.
"""

import argparse
from pathlib import Path

from src.base.errors import InputError, guarded
from src.base.files import file_digest, lock, write_bytes
from src.pipeline.outputs import final
from src.pipeline.resolved import SUBMISSIONS, data_root
from src.pipeline.runs import run_folder
from src.pipeline.stages import ensure_inputs
from src.settings.load import moved, read_arguments


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", nargs="?", help="the manifest that submit wrote")
    parser.add_argument(
        "--from", dest="start", choices=("weights", "training"), default="weights", help="not given: weights"
    )


def compare(rebuilt: Path, sha: str) -> None:
    """Say that the rebuilt file is the submission, and put it in its place. Raises InputError where it is another."""
    from src.submission.rebuilding import how_far

    place = SUBMISSIONS / rebuilt.name
    there = file_digest(place) if place.is_file() else None
    if file_digest(rebuilt) != sha:
        distance = how_far(place, rebuilt) if there == sha else f"{place} is not there to compare"
        raise InputError(f"{rebuilt} is not the submission of the manifest: {distance}")
    print(f"rebuild: {rebuilt} is the submission of the manifest, byte for byte (SHA-256 {sha})", flush=True)
    if there is None:
        write_bytes(place, rebuilt.read_bytes())
    what = "written" if there is None else "the same" if there == sha else "another file, left as it is"
    print(f"rebuild: {place}: {what}", flush=True)


def main(argv=None) -> None:
    arguments = read_arguments(argv, "rebuild", __doc__, add_options)
    chosen = arguments.options
    if not chosen.manifest:
        raise InputError("no manifest is named: python -m src.rebuild submissions/NAME.manifest.json")
    from src.ensembling.tables import submit_predictions
    from src.submission import rebuilding
    from src.submission.form import read_form
    from src.submission.manifest import read_manifest, settings_of

    manifest = read_manifest(Path(chosen.manifest))
    runs = {
        name: moved(own, arguments.config + arguments.line)
        for name, own in settings_of(manifest, Path(chosen.manifest)).items()
    }
    submitted = manifest["submission"]
    name = Path(submitted["file"]).stem
    root = Path(runs[name].run.root) / f"{name}.from-{chosen.start}"
    if chosen.start == "weights":
        for run, settings in runs.items():
            rebuilding.check_checkpoints(run_folder(settings), manifest["runs"][run]["checkpoints"])
    for line in rebuilding.differences(manifest, chosen.start):
        print(f"rebuild: {line}; the bytes may differ", flush=True)
    with lock(root, "rebuild", wait=False):
        rebuilding.begin(root, manifest, chosen.fresh)
        for run, old in sorted(runs.items(), key=lambda item: item[0] == name):  # what joins the others comes last
            recorded = manifest["runs"][run]
            settings = rebuilding.settle(old, root, chosen.start, set(runs))
            ensure_inputs(settings, "train")
            rebuilding.check_data(settings, recorded, submitted["form"])
            if chosen.start == "weights":
                rebuilding.place_checkpoints(settings, recorded["checkpoints"], run_folder(old))
            else:
                rebuilding.check_sources(settings, recorded)
            ensure_inputs(settings, "evaluate" if run == name else "ensemble")
            if run == name:
                form = read_form(data_root(settings), settings.data.format)
                submit_predictions(root / submitted["file"], final(settings).folder / "test.csv", form)
        compare(root / submitted["file"], submitted["sha256"])


if __name__ == "__main__":
    guarded(main)
