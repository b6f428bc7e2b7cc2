"""Compare runs: python -m src.compare RUN RUN…; each RUN is the name of an evaluated run.

Prints the networks' scores with 95% intervals and baselines beside those of the ensemble, parameters and times, and
tests each run against the first one on the photos that both predicted out of fold. A run that only joins others has no
networks: the scores of its ensemble stand in their place. Writes the same to runs/comparison/: comparison.csv (every
figure in full), comparison.txt, comparison.png and report.html, one page that can be mailed. Nothing is trained or
predicted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from src.base.errors import InputError, guarded
from src.settings.load import load


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="*", help="names of runs; the others are tested against the first")
    parser.add_argument("--output", metavar="FOLDER", help="write there instead")


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "compare", __doc__, add_options)
    if not options.runs:
        raise InputError("no run is named: python -m src.compare RUN RUN…")
    from src.reports.comparison import comparison_row, open_run, paired_tests
    from src.reports.comparison_page import write_comparison_page
    from src.reports.comparison_table import write_tables

    root = Path(settings.run.root)
    folder = Path(options.output) if options.output else root / "comparison"
    runs = [open_run(root, name) for name in options.runs]
    rows, resamples = [comparison_row(run) for run in runs], settings.metric.bootstrap
    tests = paired_tests(root, runs, resamples, settings.run.seed)
    print(write_tables(folder, rows, tests, resamples))
    write_comparison_page(folder, runs, rows, tests, resamples)
    print(f"compare: written to {folder}", flush=True)


if __name__ == "__main__":
    guarded(main)
