"""Write submissions/submission.csv after checking it, or check any file: --check FILE.

Writes submissions/submission.csv and the same as submissions/RUN.csv, submissions/RUN.manifest.json (all that is needed
to rebuild it) and a line in submissions/log.csv, whose last column is yours: the leaderboard's score. A data set of
captions alone has no organiser's form: img_name and comments of all test photos; without test photos nothing.
"""

import argparse
from pathlib import Path

from src.base.errors import InputError, guarded
from src.pipeline.artefacts import making
from src.pipeline.outputs import final, submission
from src.pipeline.resolved import SUBMISSIONS, data_root, tuned
from src.pipeline.stages import ensure_inputs
from src.settings.load import load


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", metavar="FILE", help="check this submission file and write nothing")


def check(file: Path, form, name: str) -> None:
    """Raise InputError with every fault where the file is not a valid submission."""
    from src.submission.form import faults

    found = faults(file, form)
    if found:
        raise InputError(f"{name} is not a valid submission: {'; '.join(found)}")


def main(argv=None) -> None:
    settings, chosen = load(argv, "submit", __doc__, add_options)
    from src.base.files import replacing, write_bytes
    from src.submission.form import read_form

    if chosen.check:
        check(Path(chosen.check), read_form(data_root(settings), settings.data.format), chosen.check)
        print(f"{chosen.check}: a valid submission for {data_root(settings)}")
        return
    ensure_inputs(settings, "submit")
    settings = tuned(settings)
    form = read_form(data_root(settings), settings.data.format)
    if not form.names:
        print("submit: this data set has no test photos, so there is nothing to submit", flush=True)
        return
    with making(submission(settings), chosen.fresh) as work:
        if not work:
            return
        from src.ensembling.tables import submit_predictions
        from src.submission.manifest import log_submission, write_manifest

        own = SUBMISSIONS / f"{settings.run.name}.csv"
        with replacing(own) as temporary:
            submit_predictions(temporary, final(settings).folder / "test.csv", form)
            check(temporary, form, str(own))
        write_manifest(own.with_suffix(".manifest.json"), own, form, settings)
        write_bytes(SUBMISSIONS / "submission.csv", own.read_bytes())
        log_submission(SUBMISSIONS / "log.csv", own, settings)
        work.outputs += ["submission.csv", own.name, own.with_suffix(".manifest.json").name]
    print(f"submit: {SUBMISSIONS / 'submission.csv'} is valid and ready to upload", flush=True)


if __name__ == "__main__":
    guarded(main)
