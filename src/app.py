"""A page to try photos on: python -m src.app [run.name=NAME], then open the address that it prints.

Drop, paste or photograph a picture: its MOS with an interval and its place among the training photos, its caption with
other captions and their expected scores, where the captioner looked at each word, and the training photos most like it.
A zip or a folder of photos becomes a CSV. MOS and caption are those of `python -m src.caption`. Needs the packages of
requirements-app.txt. Uploaded photos are removed as soon as they are answered.
"""

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from src.base.errors import InputError, guarded
from src.pipeline.runs import finished_folds, trained_runs
from src.pipeline.trained_runs import load_run
from src.settings.schema import Settings
from src.settings.yaml_files import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="listen there (127.0.0.1: this machine)")
    parser.add_argument("--port", metavar="N", type=int, default=7860, help="of the page's address (7860)")


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load_run(argv, "app", __doc__, add_options)
    root = Path(settings.run.root)
    with tempfile.TemporaryDirectory() as uploads:
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}  # read when it is imported
        serve_run(settings, root, options.host, options.port)


def serve_run(settings: Settings, root: Path, host: str, port: int) -> None:
    """Serve the page for the run and all other finished ones in `root`, until the process is stopped."""
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("the page needs Gradio: .venv/bin/python -m pip install -r requirements-app.txt") from None
    from src.base.randomness import make_deterministic
    from src.serving.answers import RunAnswers, score_of
    from src.serving.page import Pages, build_page, serve

    def open_run(name: str) -> Settings:
        return settings if name == settings.run.name else load_run([f"run.name={name}", f"run.root={root}"], "app")[0]

    make_deterministic(settings.run.threads)
    first = settings.run.name
    others = [name for name in trained_runs(root) if name != first and finished_folds(root / name)]
    pages = Pages(open_run, RunAnswers(settings))
    scores = {first: score_of(settings)}
    for name in others:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the reason is told below
                scores[name] = score_of(open_run(name))
        except (InputError, ConfigError) as error:
            print(f"app: the run {name} is left out: {error}", flush=True)
    labels = [(" · ".join(filter(None, pair)), pair[0]) for pair in scores.items()]
    serve(build_page(pages, labels, first), host, port)


if __name__ == "__main__":
    guarded(main)
