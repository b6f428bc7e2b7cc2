"""Rebuild a submission byte for byte from its manifest: python -m src.rebuild submissions/NAME.manifest.json.

--from weights predicts anew with the checkpoints in runs/NAME/fold-K/; --from training also decodes the photos and
trains all folds anew. Differences of versions, machine, threads and code are printed first; other data are an error.
Works in runs/NAME.from-weights/ or runs/NAME.from-training/, which in the end holds NAME.csv, and changes no file of
the run; submissions/NAME.csv is written where it is missing. Exit code 1 where the rebuilt file differs. Takes only
settings that change no result, such as data.root and run.root.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from src.base.errors import InputError, guarded
from src.base.files import file_digest, write_bytes
from src.base.locks import lock
from src.pipeline.outputs import ensemble
from src.pipeline.resolved import data_root
from src.pipeline.runs import run_folder
from src.pipeline.stages import ensure_inputs
from src.settings.load import moved, read_arguments


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", nargs="?", help="the manifest that submit wrote")
    parser.add_argument(
        "--from", dest="start", choices=("weights", "training"), default="weights", help="not given: weights"
    )


def publish(rebuilt: Path, sha: str, folder: Path) -> None:
    """Put the rebuilt file in `folder` where it is missing there. Raises InputError where its hash is not `sha`."""
    from src.submission.rebuilding import describe_differences

    place = folder / rebuilt.name
    present = file_digest(place) if place.is_file() else None
    if file_digest(rebuilt) != sha:
        what = describe_differences(place, rebuilt) if present == sha else f"{place} is not there to compare"
        raise InputError(f"{rebuilt} is not the submission of the manifest: {what}")
    print(f"rebuild: {rebuilt} is the submission of the manifest, byte for byte (SHA-256 {sha})", flush=True)
    if present is None:
        write_bytes(place, rebuilt.read_bytes())
    state = "written" if present is None else "the same" if present == sha else "another file, left as it is"
    print(f"rebuild: {place}: {state}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = read_arguments(argv, "rebuild", __doc__, add_options)
    options = arguments.options
    if not options.manifest:
        raise InputError("no manifest is named: python -m src.rebuild submissions/NAME.manifest.json")
    from src.submission import rebuilding
    from src.submission.form import read_form, write_submission
    from src.submission.manifest import read_manifest, settings_of

    path = Path(options.manifest)
    manifest = read_manifest(path)
    runs = {
        run: moved(settings, arguments.config + arguments.line) for run, settings in settings_of(manifest, path).items()
    }
    submission = manifest["submission"]
    name = Path(submission["file"]).stem
    root = Path(runs[name].run.root) / f"{name}.from-{options.start}"
    if options.start == "weights":
        for run, settings in runs.items():
            rebuilding.check_checkpoints(run_folder(settings), manifest["runs"][run]["checkpoints"])
    for line in rebuilding.environment_differences(manifest, options.start):
        print(f"rebuild: {line}; the bytes may differ", flush=True)
    with lock(root, "rebuild", wait=False):
        rebuilding.prepare_folder(root, manifest, options.fresh)
        for run, old in sorted(runs.items(), key=lambda item: item[0] == name):  # the ensemble of the others comes last
            recorded = manifest["runs"][run]
            settings = rebuilding.relocate(old, root, options.start, set(runs))
            ensure_inputs(settings, "train")
            rebuilding.check_data(settings, recorded, submission["form"])
            if options.start == "weights":
                rebuilding.link_checkpoints(settings, recorded["checkpoints"], run_folder(old))
            else:
                rebuilding.check_sources(settings, recorded)
            ensure_inputs(settings, "evaluate" if run == name else "ensemble")
            if run == name:
                form = read_form(data_root(settings), settings.data.format, settings.task)
                write_submission(root / submission["file"], form, ensemble(settings).folder / "test.csv")
        publish(root / submission["file"], submission["sha256"], Path(runs[name].run.submissions))


if __name__ == "__main__":
    guarded(main)
