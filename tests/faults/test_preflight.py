"""preprocess --check names all that would end a run later, at once, in seconds, and writes nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src import preprocess, split, train
from src.settings.load import load
from src.training.distributed import Ranks
from src.training.feature_cache import ensemble_features
from tests.conftest import TINY
from tests.helpers.bad_input import LONGEST_LINE, exit_code, small_competition

HEADER, HEIC = "img_name,img_path,mos,comments\n", b"\0\0\0\x24ftypheic" + bytes(400)


@pytest.fixture
def place(workplace) -> Path:
    small_competition(workplace / "data")
    return workplace


def told(capsys, *arguments: str) -> list[str]:
    """The lines of the check, after it has failed and written nothing."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert exit_code(preprocess, "--check", "data.root=data", *TINY, *arguments) == 1
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("weights of")]
    assert all(line.startswith("error: ") and len(line) <= LONGEST_LINE for line in lines)
    return lines


def test_what_is_whole_passes(place, capsys):
    assert exit_code(preprocess, "--check", "data.root=data", *TINY) == 0
    assert "nothing was found that would end this run" in capsys.readouterr().out
    assert not Path("runs").exists() and not any(Path("submissions").iterdir())


def test_all_faults_are_told_at_once(place, capsys):
    train = Path("data/train.csv").read_text().replace("./train/b.jpg", "./train/none.jpg")
    Path("data/train.csv").write_text(train)
    Path("data/train/a.jpg").write_bytes(HEIC)
    Path("data/test/z.jpg").write_bytes(b"")
    Path("data/sample_submission.csv").write_text("img_name,mos,comments\nx,5,a\ny,5,a\n")
    Path("here").write_text("a file")
    names = ("split.folds=5", "encoder.name=resnet5", "run.submissions=here/below", "train.start_from=gone")
    lines = "\n".join(told(capsys, *names))
    for part in (
        "here/below cannot be written",
        "3 rows or photos cannot be used",
        "no such file",
        "HEIC",
        "the file is empty",
        "do not list the same photos (1 differ, such as z)",
        "form 4 groups, too few for 5 folds",
        "train.start_from=gone: runs/gone/fold-0 is not a finished fold",
        "encoder.name=resnet5 is not a model of timm",
    ):
        assert part in lines, part


LABELS = {
    "no column of captions": (HEADER.replace(",comments", ""), "", "has no column comments; task=mos works"),
    "no MOS": (HEADER, ",a word", "task=both needs MOS: no photo for training"),
    "one MOS": (HEADER, "3.5,a word", "task=both needs MOS: all photos for training have the same; task=caption works"),
    "emoji": (HEADER, "{i}.5,😍", "none of the 6 holds a letter or digit"),
    "nothing": (HEADER, ",", "no task works with these data"),
    "another column": (HEADER.replace("img_path", "file"), "1,a", "column img_path is missing"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_the_task_lacks(place, capsys, name):
    header, cells, message = LABELS[name]
    labels = cells or "{i}.5"
    rows = "".join(f"{n},./train/{n}.jpg,{labels.format(i=i + 2)}\n" for i, n in enumerate("abcdef"))
    Path("data/train.csv").write_text(header + rows, encoding="utf-8")
    assert message in "\n".join(told(capsys))


@pytest.mark.parametrize(("arguments", "message"), [
    (["encoder.weights=none.pth"], "encoder.weights=none.pth"),
    (["encoder.weights=data/train.csv"], "encoder.weights=data/train.csv"),
    (["decoder.name=attention", "decoder.layers=2"], "decoder.layers=2"),
    (["decoder.distill_from=teacher", "decoder.name=mask_predict"], "decoder.distill_from=teacher"),
    (["ensemble.runs=[one, two]"], "one: no such run"),
    (["data.format=coco"], "annotations"),
    (["run.root=data"], "run.root=data is the folder of the data"),
    (["split.official=true"], "split.official: this data set has no validation part"),
    (["predict.tta_scales=[0.5,1]", "encoder.name=test_vit"], "predict.tta_scales=[0.5, 1.0]"),
    (["split.holdout=0.5", "data.maximum_megapixels=1", "run.root=data/train.csv"], "cannot be written"),
])  # fmt: skip
def test_settings_that_would_end_a_stage(place, capsys, arguments, message):
    assert message in "\n".join(told(capsys, *arguments))


def test_folds_that_were_trained_on_other_photos(place, capsys):
    for stage in (preprocess, split, train):
        assert exit_code(stage, "data.root=data", *TINY, "task=mos") == 0
    assert exit_code(preprocess, "--check", "data.root=data", *TINY, "task=mos") == 0
    Path("data/train/f.jpg").rename("data/train/g.jpg")
    table = Path("data/train.csv")
    table.write_text(table.read_text().replace("train/f.jpg", "train/g.jpg"))
    capsys.readouterr()  # the progress of the stages
    assert "fold-0 was trained on other photos; keep it and choose another run" in "".join(told(capsys, "task=mos"))
    assert exit_code(preprocess, "--check", "--fresh", "data.root=data", *TINY, "task=mos") == 0
    assert exit_code(preprocess, "--check", "data.root=data", *TINY, "task=mos", "run.name=other") == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
@pytest.mark.parametrize("setting", ["train.precision=fp16", "train.sync_batchnorm=true"])
def test_settings_that_need_a_gpu(place, capsys, setting):
    assert f"{setting} needs" in "\n".join(told(capsys, setting))


@pytest.mark.parametrize(("task", "cells", "lacking"), [
    ("both", "{mos},a word", "no two different MOS"),
    ("caption", "{i}.5,{words}", "no caption"),
])  # fmt: skip
def test_a_fold_that_would_be_trained_without_labels(place, capsys, task, cells, lacking):
    rows = [f"{n},./train/{n}.jpg," + cells.format(i=i, mos=3 + (i > 4), words="a word" * (i > 4))
            for i, n in enumerate("abcdef")]  # fmt: skip
    Path("data/train.csv").write_text("\n".join([HEADER.strip(), *rows, ""]))
    assert f"on hold {lacking}; give more photos" in "\n".join(told(capsys, f"task={task}"))


def test_a_disk_without_room_for_what_a_run_writes(place, capsys, monkeypatch):
    settings = ["encoder.frozen=true", "encoder.more_levels=[]", "task=mos", "mos_head.hidden=1024"]
    settings += ["ensemble.encoders=[test_vit]", "encoder.cache=fp32", "encoder.long_side=null"]
    arguments = ["data.root=data", *TINY, *settings]
    for stage in (preprocess, split, train):
        assert exit_code(stage, *arguments) == 0
    of_the_ensemble = ensemble_features(load(arguments, "ensemble")[0], "test_vit", Ranks(0, 1, torch.device("cpu")))
    written = [path for path in Path("runs").rglob("*") if path.suffix in (".npy", ".pt")]
    needed = sum(path.stat().st_size for path in written)
    assert sum(path.stat().st_size for path in written if path.suffix == ".pt") > needed / 2
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    free = 0
    assert exit_code(preprocess, "--check", *arguments) == 0, "all is there"
    shutil.rmtree(of_the_ensemble)
    capsys.readouterr()
    assert "pixels, features and checkpoints take" in told(capsys, *settings)[0]
    shutil.rmtree("runs")
    free = round(0.97 * needed)
    (line,) = told(capsys, *settings)
    assert "run.root=runs: pixels, features and checkpoints take" in line and "make room" in line
    free = round(1.03 * needed)
    assert exit_code(preprocess, "--check", *arguments) == 0
    monkeypatch.chdir(place / "submissions")  # where there is only the demo, which is not made yet
    free = 10**9
    assert exit_code(preprocess, "--check", *TINY) == 0
    free = 0
    assert exit_code(preprocess, "--check", *TINY) == 1 and "make room" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "size", "largest"), [(6000, 1024, "0.0283"), (100, 32, "0.00606")])
def test_a_limit_of_a_file_s_size_that_is_too_small(place, limit, size, largest):
    check = [sys.executable, "-m", "src.preprocess", "--check", "data.root=data", *TINY, f"view.size={size}"]
    answer = subprocess.run(["bash", "-c", f'ulimit -f {limit}; "$@"', "", *check], capture_output=True, text=True)
    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    assert f"files of {largest} GB are written, larger than they may be here; raise the limit" in answer.stderr
