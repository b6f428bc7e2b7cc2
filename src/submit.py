"""Write submissions/submission.csv after checking it, or check any file: --check FILE. run.submissions moves them.

Writes submissions/submission.csv and the same as submissions/RUN.csv, submissions/RUN.manifest.json (what `rebuild`
needs), a line in submissions/log.csv, whose last column, the leaderboard's score, is for you to fill in, and the run's
report, runs/NAME/report.html, again. A data set
of captions alone has no organiser's form: img_name and comments of all test photos; without test photos nothing.
Cells of the form's other columns stay as they are. Without a form, a competition's is img_name and the task's columns.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import guarded
from src.pipeline.artefacts import Making, making
from src.pipeline.outputs import ensemble, submission
from src.pipeline.resolved import data_root, tuned
from src.pipeline.stages import ensure_inputs
from src.settings.load import load
from src.settings.schema import Settings

if TYPE_CHECKING:
    from src.submission.form import Form


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", metavar="FILE", help="check this submission file and write nothing")


def submit_run(settings: Settings, form: "Form", work: Making) -> None:
    """Write the submission, check it, and write its manifest and its line of the log."""
    from src.base.files import replacing, write_bytes
    from src.submission.form import check_submission, write_submission
    from src.submission.log import log_submission
    from src.submission.manifest import local_scores, write_manifest

    file = work.folder / f"{settings.run.name}.csv"
    with replacing(file) as temporary:
        write_submission(temporary, form, ensemble(settings).folder / "test.csv")
        check_submission(temporary, form, str(file))
    manifest = file.with_suffix(".manifest.json")
    write_manifest(manifest, file, form, settings)
    write_bytes(work.folder / "submission.csv", file.read_bytes())
    log_submission(work.folder / "log.csv", file, settings.run.name, local_scores(settings))
    work.outputs += ["submission.csv", file.name, manifest.name]


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "submit", __doc__, add_options)
    from src.submission.form import check_submission, read_form

    if options.check:
        form = read_form(data_root(settings), settings.data.format, settings.task)
        check_submission(Path(options.check), form, options.check)
        print(f"{options.check}: a valid submission for {data_root(settings)}")
        return
    ensure_inputs(settings, "submit")
    settings = tuned(settings)
    form = read_form(data_root(settings), settings.data.format, settings.task)
    if not form.names:
        print("submit: this data set has no test photos, so there is nothing to submit", flush=True)
        return
    with making(submission(settings), options.fresh) as work:
        if work:
            submit_run(settings, form, work)
    from src.reports.run_page import write_report

    print(f"submit: the report: {write_report(settings)}", flush=True)
    if work:
        print(f"submit: {work.folder / 'submission.csv'} is valid and ready to upload", flush=True)


if __name__ == "__main__":
    guarded(main)
