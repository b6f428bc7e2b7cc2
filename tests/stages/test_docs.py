"""Every command of README and docs does what it is shown for, on a tiny competition.

A block that begins with ```bash is run as written. A second word says why one is not: gpu, network, cluster, or dev,
which runs these very tests.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from tests.helpers.checkout import REPOSITORY, checkout, environment
from tests.helpers.warm_python import CLIENT, warm_python

DOCUMENTS = ["README.md", "data/README.md", *(f"docs/{path.name}" for path in sorted(REPOSITORY.glob("docs/*.md")))]
BLOCK = re.compile(r"^```bash([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
NOT_RUN = {"gpu", "network", "cluster", "dev"}
SMALL = [
    "view.size=32", "encoder.name=test_resnet", "encoder.pretrained=false", "encoder.cache=fp32",
    "encoder.more_levels=[]", "mos_head.hidden=16", "decoder.embedding=16", "decoder.hidden=24", "decoder.project=16",
    "decoder.attention=16", "vocabulary.minimum_count=2", "split.folds=2", "train.epochs=1", "train.batch_size=16",
    "train.captions_per_photo=1", "decoding.beam=2", "predict.samples=2", "metric.bootstrap=100", "run.threads=1",
]  # fmt: skip
"""What a command is given besides, before its own settings, which win; tune leaves out the judge, who trains more. A
rebuild has the settings of its manifest."""
SMALLER = f"""
import itertools
import sys
options = list(itertools.takewhile(lambda word: word.startswith("-"), sys.orig_argv[1:]))
module = sys.orig_argv[1 + len(options)] if "-m" in options else ""
if module.startswith("src."):
    if not module.startswith(("src.settings", "src.pipeline", "src.rebuild")):
        sys.argv[1:1] = {SMALL!r} + ["tune.judge_folds=[]"] * (module == "src.tune")
"""


def blocks(document: str) -> list[tuple[str, str]]:
    """The second word and the commands of every block of a document."""
    return [(why.strip(), code) for why, code in BLOCK.findall((REPOSITORY / document).read_text(encoding="utf-8"))]


def not_yet_run(code: str, done: set[str]) -> str:
    """The code without what was started by the same words before: stages, and ./run.sh; adds its own to them."""
    commands = code.replace("\\\n", " ").splitlines()
    started = {command for command in commands if command.startswith(("python -m src.", "./run.sh"))}
    again = started & done
    done |= started
    return "\n".join(command for command in commands if command not in again)


def run(folder: Path, code: str) -> None:
    # the tests' own command is only asked which tests it would run
    variables = environment(PYTHONPATH=str(folder / "start"), PYTEST_ADDOPTS="--collect-only -n 0 -p no:cacheprovider")
    command = ["bash", "-euo", "pipefail", "-c", code]
    process = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, f"{code}\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}"


def installed(folder: Path) -> None:
    """Make this Python environment the checkout's .venv, as ./run.sh would have made it."""
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        (folder / ".venv" / path.name).symlink_to(path)
    marker = folder / ".venv" / "installed"
    marker.unlink(missing_ok=True)
    requirements = (folder / "requirements.txt").read_bytes()
    marker.write_bytes(subprocess.run(["cksum"], input=requirements, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def done() -> set[str]:
    """The commands that were run in the folder."""
    return set()


@pytest.fixture(scope="module")
def folder(tiny_competition, tmp_path_factory, done) -> Iterator[Path]:
    """A checkout in which the runs that the documents name are finished; its data is also where the demo's would be."""
    folder = checkout(tmp_path_factory.mktemp("docs") / "checkout", tiny_competition)
    (folder / "data" / "demo").symlink_to(tiny_competition)
    for name in ("configs", "docs", "tests/helpers", "tests/settings"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for path in (REPOSITORY / "tests").glob("*.py"):
        shutil.copy2(path, folder / "tests" / path.name)
    for name in ("README.md", "data/README.md", "pyproject.toml"):
        shutil.copy2(REPOSITORY / name, folder / name)
    installed(folder)
    (folder / "start").mkdir()
    socket = folder.parent / "warm"
    hand_over = indent(CLIENT.format(socket=str(socket)), "    ")
    (folder / "start" / "sitecustomize.py").write_text(SMALLER + hand_over)
    with warm_python(socket):
        for command in ("./run.sh", "./run.sh --config configs/mobilenet_gru_128.yaml train.epochs=2"):
            run(folder, not_yet_run(command, done))
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if any(not why for why, _ in blocks(name))])
def test_commands_run_as_written(document, folder, done):
    for why, code in blocks(document):
        if not why and (code := not_yet_run(code, done)):
            run(folder, code)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_not_run_says_why(document):
    assert {why for why, _ in blocks(document)} <= {"", *NOT_RUN}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    place = (REPOSITORY / document).parent
    missing = [link for link in LINK.findall(text) if not (place / link).exists()]
    assert not [link for link in missing if not link.startswith("http")]


def test_readme_has_few_lines_and_run_sh_can_be_started():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert os.access(REPOSITORY / "run.sh", os.X_OK)
