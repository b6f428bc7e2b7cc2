"""Damaged checkpoints, full disks and locked folders lose nothing of a finished run."""

import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src import ensemble, evaluate, predict, preprocess, split, submit, train
from src.training import checkpoint
from tests.conftest import TINY
from tests.helpers.bad_input import Malicious, exit_code, hurry, refused
from tests.training.test_training import equal

pytestmark = pytest.mark.slow

QUICK = ["data.root=data", *TINY, "split.holdout=0.3"]
STAGES = (preprocess, split, train, predict, ensemble, evaluate, submit)
FOLD = Path("runs/demo/fold-0")
MOS = {"score": 0.25, "plcc": 0.2, "srcc": 0.3, "interval": None, "photos": 18}
BASELINE = {"mos": None, "caption": None, "sentence": None, "measures": None}
OOF = {"mos": MOS, "caption": None, "baseline": BASELINE, "warnings": [], "members": {}, "folds": []}
SCORE = {"oof": OOF | {"diagnostics": {"captions": None, "mos": None}}, "test": None, "network": None}


def odd_competition(source: Path, root: Path) -> None:
    """A copy with a byte order mark, a test photo called =1+1, and test photos of odd kinds."""
    shutil.copytree(source, root)
    (root / "train.csv").write_bytes(b"\xef\xbb\xbf" + (root / "train.csv").read_bytes())
    tests = pd.read_csv(root / "test.csv")
    for name in ("test.csv", "sample_submission.csv"):
        text = (root / name).read_text()
        (root / name).write_text(text.replace(f"\n{tests['img_name'][0]},", "\n=1+1,"))
    photos = [root / path for path in tests["img_path"][1:5]]
    pictures = [Image.open(photo).convert("RGB") for photo in photos]
    pictures[0].convert("CMYK").save(photos[0], "JPEG", quality=95)
    pictures[1].quantize(256).save(photos[1], "PNG")
    pictures[2].save(photos[2], "GIF", save_all=True, append_images=pictures[:1])
    photos[3].write_bytes(cv2.imencode(".png", np.asarray(pictures[3])[:, :, ::-1].astype(np.uint16) * 257)[1])


@pytest.fixture(scope="module")
def quick(meteor):
    """Stages hurry, METEOR's process starts within a second, and a run's score is a fixed one."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        patch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)
        patch.setattr("src.reports.run_report.score_run", lambda *_: (SCORE, None))
        patch.setattr("src.reports.figures.draw_run", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def finished(quick, competition, tmp_path_factory):
    """A folder in which the whole pipeline has run once."""
    folder = tmp_path_factory.mktemp("finished")
    odd_competition(competition, folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES:
            assert exit_code(stage, *QUICK) == 0
    return folder


@pytest.fixture
def place(finished, workplace):
    """A copy of it to work in."""
    return Path(shutil.copytree(finished, workplace, dirs_exist_ok=True))


def test_odd_photos_and_names_are_answered_like_all_others(finished):
    submitted = pd.read_csv(finished / "submissions" / "submission.csv", keep_default_na=False)
    sample = pd.read_csv(finished / "data" / "sample_submission.csv")
    assert submitted["img_name"].tolist() == sample["img_name"].tolist()
    assert submitted["img_name"][0] == "=1+1" and submitted["comments"].str.len().min() > 0
    predicted = pd.read_csv(finished / "runs" / "demo" / "predictions" / "test.csv", keep_default_na=False)
    assert not predicted["fallback"].any()


def behind_a_valid_header(body: bytes, layout: int = checkpoint.LAYOUT) -> bytes:
    header = {"format": f"photo-quality checkpoint {layout}", "sha256": checkpoint.digest(body)}
    return json.dumps(header).encode() + b"\n" + body


def pickled() -> bytes:
    return pickle.dumps(Malicious(), protocol=2)


def executing() -> bytes:
    buffer = io.BytesIO()
    torch.save({"engine": Malicious()}, buffer)
    return buffer.getvalue()


def of_another_network(path: Path) -> bytes:
    state = checkpoint.load(path)
    state["engine"]["model"] = {"foreign": torch.ones(3)}
    checkpoint.save(path, dict(state))
    return path.read_bytes()


TOUCHED, FOREIGN = "is truncated or was changed", "is not a checkpoint of this program"
# what becomes of the last.pt of a fold that was cut off, and what is said of it
LAST = {
    "cut short": (lambda path: path.read_bytes()[:-1000], TOUCHED, "train its fold with --fresh"),
    "one byte changed": (lambda path: path.read_bytes()[:-1] + b"?", TOUCHED, "train its fold with --fresh"),
    "empty": (lambda path: b"", FOREIGN, "--fresh"),
    "text": (lambda path: b"weights\n", FOREIGN, "--fresh"),
    "a list": (lambda path: b"[1]\n", FOREIGN, "--fresh"),
    "nested without end": (lambda path: b"[" * 100_000, FOREIGN, "--fresh"),
    "without its hash": (lambda path: b'{"format": "photo-quality checkpoint 2"}\n', FOREIGN, "--fresh"),
    "a pickle that executes": (lambda path: pickled(), FOREIGN, "--fresh"),
    "torch's file that executes": (lambda path: executing(), FOREIGN, "--fresh"),
    "the same, well sealed": (lambda path: behind_a_valid_header(executing()), "holds more than data", "--fresh"),
    "a pickle, well sealed": (lambda path: behind_a_valid_header(pickled()), "holds more than data", "--fresh"),
    "of an older layout": (
        lambda path: behind_a_valid_header(path.read_bytes().partition(b"\n")[2], layout=1),
        f"is a checkpoint of layout 1, this program reads layout {checkpoint.LAYOUT}",
        "train its fold with --fresh, or use the commit that wrote it",
    ),
    "another of the fold": (lambda path: (path.parent / "best-mos.pt").read_bytes(), "holds no engine", "--fresh"),
    "of another network": (of_another_network, "is of another network", "--fresh"),
}


@pytest.mark.parametrize("kind", LAST)
def test_a_bad_checkpoint_is_not_gone_on_from(kind, place, capfd):
    change, *words = LAST[kind]
    (FOLD / "done.json").unlink()  # as if cut off before its end
    (FOLD / "last.pt").write_bytes(change(FOLD / "last.pt"))
    line = refused(capfd, train, QUICK, tuple(words))
    assert "last.pt" in line or kind == "of another network"
    assert not (place / "executed").exists()


FINISHED = {
    "a checkpoint cut short": ("best-mos.pt", lambda path: path.read_bytes()[:-1000], "is missing or was changed"),
    "a checkpoint changed": ("best-caption.pt", lambda path: path.read_bytes()[:-1] + b"?", "was changed"),
    "a checkpoint that executes": ("best-mos.pt", lambda path: executing(), "is missing or was changed"),
    "a checkpoint lost": ("best-mos.pt", None, "is missing or was changed"),
    "a marker cut short": ("done.json", lambda path: path.read_bytes()[:100], "is not readable JSON"),
    "a marker of something else": ("done.json", lambda path: b"{}", "is not what this program wrote"),
    "a beginning of something else": ("started.json", lambda path: b"[]", "is not what this program wrote"),
}


@pytest.mark.parametrize("kind", FINISHED)
def test_a_damaged_fold_is_not_passed_off_as_whole(kind, place, capfd):
    name, change, what = FINISHED[kind]
    if change:
        (FOLD / name).write_bytes(change(FOLD / name))
    else:
        (FOLD / name).unlink()
    arguments = [*QUICK, "train.epochs=3"] if name == "started.json" else QUICK
    line = refused(capfd, train, arguments, (str(FOLD / name), what))
    assert "--fresh" in line or "remove it and run again" in line
    assert not (place / "executed").exists()


START = {
    "cut short": (lambda path: path.read_bytes()[:-1000], TOUCHED),
    "that executes": (lambda path: executing(), FOREIGN),
    "of another kind": (lambda path: (path.parent / "last.pt").read_bytes(), "holds no"),
}


@pytest.mark.parametrize("kind", START)
def test_training_does_not_start_from_a_bad_checkpoint(kind, place, capfd):
    change, what = START[kind]
    (FOLD / "best-caption.pt").write_bytes(change(FOLD / "best-caption.pt"))
    arguments = [*QUICK, "run.name=next", "train.start_from=demo"]
    refused(capfd, train, arguments, (what, str(FOLD / "best-caption.pt"), "--fresh"))
    assert not (place / "executed").exists()


def test_starting_from_a_run_of_another_network_is_refused(place, capfd):
    arguments = [*QUICK, "run.name=next", "train.start_from=demo", "decoder.hidden=8"]
    refused(capfd, train, arguments, (str(FOLD / "best-caption.pt"), "does not fit the network of these settings"))


def test_a_damaged_cache_is_made_again(place, finished):
    for number, name in enumerate(("photos.jsonl", "pixels.npy")):
        (file,) = place.glob(f"runs/cache/photos-*/{name}")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if number else b"")
        assert exit_code(preprocess, *QUICK) == 0
        assert file.read_bytes() == whole


def fill_disk(patch: pytest.MonkeyPatch, name: str, spared: int = 0) -> None:
    """Have the kernel answer that the disk is full when a file of that name is written, after so many times."""
    write, seen = Path.write_bytes, []

    def write_bytes(path: Path, content: bytes) -> int:
        if f".{name}." in path.name:
            seen.append(path)
            if len(seen) > spared:
                path.symlink_to("/dev/full")
        return write(path, content)

    patch.setattr(Path, "write_bytes", write_bytes)


FULL = {
    "photos.jsonl": (preprocess, ["view.size=16"]),
    "vocabulary.json": (preprocess, ["vocabulary.minimum_count=1"]),
    "folds.csv": (split, ["split.seed=1"]),
    "oof.csv": (predict, ["--fresh"]),
    "blend.json": (ensemble, ["--fresh"]),
    "score.json": (evaluate, ["--fresh"]),
    "report.html": (evaluate, []),
    "demo.csv": (submit, ["--fresh"]),
    "submission.csv": (submit, ["--fresh"]),
    "submitted.json": (submit, ["--fresh"]),
    "settings.yaml": (train, ["run.name=next"]),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_loses_nothing(name, place, capfd, monkeypatch):
    stage, arguments = FULL[name]
    Path("runs/demo/report.html").unlink()  # one that would not change is not written
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        refused(capfd, stage, [*QUICK, *arguments], (name, "the disk is full", "make room and run the same command"))
    if stage is not train:
        assert exit_code(stage, *QUICK, *arguments) == 0, "with room again the same command goes through"


def test_training_on_a_disk_that_fills_goes_on_from_its_last_checkpoint(place, finished, capfd, monkeypatch):
    shutil.rmtree("runs/demo")
    with monkeypatch.context() as patch:
        patch.setattr("src.training.fit._SAVE_AFTER", 0)  # a checkpoint after every epoch
        fill_disk(patch, "last.pt", spared=1)
        capfd.readouterr()
        assert exit_code(train, *QUICK) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == f"error: {FOLD / 'last.pt'}: the disk is full: make room and run the same command again"
    assert checkpoint.load(FOLD / "last.pt")["train_state"]["epoch"] == 1
    assert exit_code(train, *QUICK) == 0
    for name in ("best-mos.pt", "best-caption.pt", "metrics.csv"):
        assert (FOLD / name).read_bytes() == (finished / FOLD / name).read_bytes()
    assert equal(checkpoint.load(FOLD / "last.pt"), checkpoint.load(finished / FOLD / "last.pt"))


class Full(io.FileIO):
    """A file on a full disk; the error names no file, as the kernel's does not."""

    def write(self, content) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_pixels_on_a_full_disk_lose_nothing(place, capfd, monkeypatch):
    def opened(path, mode="r", **options):
        return Full(path, mode) if mode == "r+b" else open(path, mode, **options)

    arguments = [*QUICK, "view.size=16"]
    with monkeypatch.context() as patch:
        patch.setattr("src.data.pixel_cache.open", opened, raising=False)
        refused(capfd, preprocess, arguments, ("pixels.npy", "the disk is full"))
    assert exit_code(preprocess, *arguments) == 0


def test_output_that_cannot_be_printed_is_one_line(place):
    command = [sys.executable, "-m", "src.submit", *QUICK]
    with open("/dev/full", "w") as full:
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert answer.returncode and answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1, answer.stderr
    assert "the disk is full" in answer.stderr


LOCKED = {
    "data/train.csv": (preprocess, ["view.size=16"], "cannot be read (Permission denied)", "who may read it"),
    "runs/cache": (preprocess, ["view.size=16"], "permission denied", "run.root=FOLDER"),
    "runs/demo": (evaluate, ["--fresh"], "permission denied", "run.root=FOLDER"),
    "runs/demo/predictions": (predict, ["--fresh"], "permission denied", "run.root=FOLDER"),
    "runs/demo/fold-0/last.pt": (train, [], "permission denied", "check who owns it"),
    "submissions": (submit, ["--fresh"], "permission denied", "check who owns it"),
}


@pytest.mark.parametrize("path", LOCKED)
def test_what_may_not_be_read_or_written_is_named(path, place, capfd):
    stage, arguments, *words = LOCKED[path]
    if stage is train:
        (FOLD / "done.json").unlink()
    Path(path).chmod(0o555 if Path(path).is_dir() else 0)
    try:
        refused(capfd, stage, [*QUICK, *arguments], (path, *words))
    finally:
        Path(path).chmod(0o755)


def test_a_read_only_data_folder_is_no_fault(place):
    for folder in ("data", "data/train", "data/test"):
        Path(folder).chmod(0o555)
    assert exit_code(preprocess, *QUICK, "view.size=16") == 0
