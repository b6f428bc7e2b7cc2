"""The folder for a machine without a network: made, moved, and run with the package index and the hub switched off."""

import os
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from src.base.files import file_digest
from tests.conftest import TINY
from tests.helpers.checkout import REPOSITORY, checkout, environment, forking
from tests.helpers.tables import rows_of
from tests.helpers.tiny_captioners import tiny_captioner

NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}


HUB = ["peft", "transformers.models.git.modeling_git"]
"""What each stage with such a captioner would import, too."""


def wheel(folder: Path, name: str) -> Path:
    """A package of one line."""
    folder.mkdir()
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "ready = True\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def in_the_hubs_cache(model: Path, hub: Path, name: str) -> None:
    """Put a model's files there as the hub's client does: links to files that are named after their hashes."""
    place = hub / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / "0123abcd"
    for folder in (snapshot, place / "blobs", place / "refs"):
        folder.mkdir(parents=True)
    (place / "refs" / "main").write_text("0123abcd")
    for file in model.iterdir():
        blob = place / "blobs" / file_digest(file)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))


def run(command: list[str], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(**NO_NETWORK, **variables), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_folder_runs_without_network(tiny_competition, tmp_path):
    pytest.importorskip("transformers", reason="the packages of requirements-large.txt are not installed")
    home = checkout(tmp_path / "home", tiny_competition)
    (home / "docs").mkdir()
    shutil.copy2(REPOSITORY / "docs" / "offline.sh", home / "docs")
    wheels = wheel(tmp_path / "index", "tinywheel").parent
    (home / "requirements.txt").write_text("tinywheel==1.0\n")
    texts = [row["comments"] for row in rows_of(tiny_competition / "train.csv")]
    made = tmp_path / "made"
    in_the_hubs_cache(tiny_captioner("git", tmp_path / "git", texts), made / "hub" / "hub", "somebody/git")
    settings = [each for each in TINY if not each.startswith(("encoder.", "decoder.", "vocabulary."))]
    settings += ["encoder.name=captioner", "decoder.name=git", "decoder.weights=somebody/git", "decoder.lora_rank=2",
                 "vocabulary.maximum_words=12", "decoding.maximum_words=12", "split.holdout=0.4", "train.epochs=1",
                 "decoding.bad_endings=a an"]  # fmt: skip
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    assert "is complete" in run(["docs/offline.sh", str(made), *settings], home, **index)
    shutil.rmtree(home / "src" / "models")
    shutil.rmtree(wheels)
    moved, place = made.rename(tmp_path / "moved here"), tmp_path / "place"
    place.mkdir()
    assert not [path for path in moved.rglob("*") if path.is_symlink()] and (moved / "wheels").is_dir()
    for path in moved.rglob("*"):  # as notebooks mount a data set
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    (start := tmp_path / "start").mkdir()
    found = f"{tmp_path / 'site'}{os.pathsep}{forking(start, HUB)['PYTHONPATH']}"
    installed = {"PIP_TARGET": str(tmp_path / "site"), "PYTHONPATH": found}
    printed = run(["bash", str(moved / "start.sh"), f"data.root={tiny_competition}"], place, **installed)
    assert "valid and ready to upload" in printed and "fetching" not in printed
    assert (tmp_path / "site" / "tinywheel.py").is_file()
    assert len(rows_of(place / "submissions" / "submission.csv")) == 10


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "message"), [
    (["encoder.name=captioner", "decoder.name=git", "decoder.weights=somebody/git"],
     "decoder.weights=somebody/git is no folder here and could not be fetched"),
    (["encoder.name=tf_efficientnet_lite0", "encoder.more_levels=[]", "ensemble.encoders=[resnet10t]"],
     "the weights of resnet10t could not be fetched"),
])  # fmt: skip
def test_what_cannot_be_fetched_ends_in_one_line(tmp_path, settings, message):
    pytest.importorskip("transformers", reason="the packages of requirements-large.txt are not installed")
    (tmp_path / "docs").mkdir()
    shutil.copy2(REPOSITORY / "docs" / "offline.sh", tmp_path / "docs")
    command = ["docs/offline.sh", str(tmp_path / "made"), "--no-wheels", *settings]
    variables = environment(**NO_NETWORK, HF_HUB_OFFLINE="1", PYTHONPATH=str(REPOSITORY))
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(errors) == 1 and "Traceback" not in done.stderr
    assert message in errors[0]
    assert not (tmp_path / "made" / "start.sh").exists()
