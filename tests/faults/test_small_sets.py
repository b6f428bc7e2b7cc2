"""Very few photos: every stage runs, and of what cannot be measured it is said that it was not."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from src import compare, ensemble, evaluate, predict, preprocess, split, submit, train
from src.base.files import read_json
from src.reports import figures
from src.training.distributed import accept_single_values
from tests.conftest import TINY
from tests.helpers.bad_input import exit_code, hurry
from tests.helpers.ranks import run as run_in_processes
from tests.helpers.small_meteor import quick_scores

SMALL = ["data.root=data", *TINY, "metric.bootstrap=100"]
PHOTOS = 12
VALIDATED = {1: "split.folds=12", 2: "split.folds=6"}
"""How many photos a fold validates, by the setting."""


def small_competition(root: Path) -> None:
    """Twelve training photos with a MOS and a caption each, four test photos."""
    rng, rows = np.random.default_rng(0), {"train": "", "test": ""}
    words = ("a", "nice", "photo", "of", "the", "sea", "with", "soft", "light", "and", "some", "noise")
    for part, count in (("train", PHOTOS), ("test", 4)):
        (root / part).mkdir(parents=True)
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
            coarse.resize((96, 64), Image.BICUBIC).save(root / part / f"{i}.jpg")
            labels = f",{2 + i / 2},{' '.join(rng.choice(words, 8))}" if part == "train" else ""
            rows[part] += f"{part}{i},{part}/{i}.jpg{labels}\n"
    (root / "train.csv").write_text("img_name,img_path,mos,comments\n" + rows["train"])
    (root / "test.csv").write_text("img_name,img_path\n" + rows["test"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with that competition, preprocessed."""
    folder = tmp_path_factory.mktemp("small")
    small_competition(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        hurry(patch)
        preprocess.main(SMALL)
    return folder


@pytest.fixture
def at_work(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def printed(folder, meteor):
    """What the stages print of a run whose one fold validates so many photos, and at last of their comparison."""
    texts = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_run = figures.draw_run
        quick_scores(patch, meteor)
        patch.setattr(figures, "draw_run", draw_run)
        (folder / "submissions").mkdir()
        for photos, folds in VALIDATED.items():
            with contextlib.redirect_stdout(io.StringIO()) as out:
                for stage in (split, train, predict, ensemble, evaluate, submit):
                    stage.main([*SMALL, folds, "--fold=0", f"run.name=of{photos}"])
            texts[photos] = out.getvalue()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            compare.main(["of1", "of2", "of1", "metric.bootstrap=100"])
        texts["compared"] = out.getvalue()
    return texts


@pytest.mark.parametrize("folds", range(2, PHOTOS + 1))
def test_there_may_be_as_many_folds_as_photos(folds, at_work):
    split.main([*SMALL, f"split.folds={folds}", f"run.name=f{folds}"])
    newest = max(at_work.glob("runs/cache/folds-*/folds.csv"), key=lambda path: path.stat().st_mtime_ns)
    sizes = pd.read_csv(newest)["fold"].value_counts()
    assert len(sizes) == folds and sizes.max() - sizes.min() <= 3


@pytest.mark.slow
@pytest.mark.parametrize("photos", VALIDATED)
def test_a_score_of_too_few_photos_is_not_measured(photos, printed, folder):
    text, run = printed[photos], folder / "runs" / f"of{photos}"
    report = read_json(run / "score.json")
    for block in (report["oof"], report["network"]):
        assert block["mos"] is None and block["baseline"]["mos"] is None and not block["members"]
        assert block["folds"][0]["mos"] is None and block["caption"]["photos"] == photos
        assert not [warning for warning in block["warnings"] if "under its baseline" in warning]
    assert "MOS score      not measured" in text and "too few photos to compare" in text
    assert not [words for words in ("ABOVE", "UNDER", "EQUAL", "MOS 0.0000", "score 0.0000") if words in text], text
    ablation = pd.read_csv(run / "ensemble" / "ablation.csv")
    of_mos = ablation[ablation["kind"] == "MOS"]
    assert len(of_mos) > 1 and of_mos[["score", "low", "gain", "p"]].isna().all(axis=None)
    steps = [line for line in text.splitlines() if line.startswith("  MOS  ")]
    assert len(steps) == len(of_mos) and all("not measured" in line for line in steps)
    for picture in ("ensemble/ablation.png", "curves.png", "examples.png"):
        assert (run / picture).is_file()
    assert (folder / "submissions" / f"of{photos}.csv").is_file()


@pytest.mark.slow
def test_a_comparison_says_what_was_not_measured(printed, folder):
    text = printed["compared"]
    rows = pd.read_csv(folder / "runs" / "comparison" / "comparison.csv")
    assert rows["mos_score"].isna().all() and rows["mos_baseline"].isna().all()
    assert text.count("not measured") == 3 and "UNDER" not in text and "0.000 [" not in text
    assert "of2 is not tested against of1: it has other folds" in text
    assert "of1 is not tested against of1: too few photos, or equal labels" in text


SINGLE = {
    "micro-batches of one photo": "train.batch_size=6 train.accumulation_steps=6",
    "a micro-batch of one at an epoch's end": "train.batch_size=4 train.accumulation_steps=2 split.folds=12",
    "batches of one photo": "train.batch_size=1",
    "a last batch of one photo": "train.batch_size=2 split.folds=12",
    "micro-batches of one, compared over the batch": "train.batch_size=3 train.accumulation_steps=3 loss.plcc=1",
}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_network_trains_on_a_single_photo(kind, at_work):
    """At 32 pixels its last feature map is one cell, of which BatchNorm has no statistics."""
    name = f"run.name=single{list(SINGLE).index(kind)}"
    assert exit_code(train, *SMALL, "task=mos", "--fold=0", name, *SINGLE[kind].split()) == 0
    losses = pd.read_csv(at_work / "runs" / name.partition("=")[2] / "fold-0" / "metrics.csv")["mos_loss"]
    assert len(losses) == 2 and np.isfinite(losses).all()


@pytest.mark.slow
def test_each_process_trains_on_a_single_photo(folder):
    arguments = [*SMALL, "task=mos", "--fold=0", "train.batch_size=3", "split.folds=12", "train.epochs=1"]
    run_in_processes(2, folder, "train", [*arguments, "run.name=ranks"])
    assert len(pd.read_csv(folder / "runs" / "ranks" / "fold-0" / "metrics.csv")) == 1


@pytest.mark.parametrize("replicated", [False, True], ids=["itself", "a replica of DataParallel"])
def test_a_single_value_is_normalised_by_running_statistics(replicated):
    own, twin = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        own.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        own.weight.fill_(2.0)
    twin.load_state_dict(own.state_dict())
    norm = accept_single_values(nn.Sequential(own))[0]
    if replicated:
        norm = norm._replicate_for_data_parallel()
        norm.weight, norm.bias, norm.running_mean, norm.running_var = own.weight, own.bias, *list(own.buffers())[:2]
    one, two = torch.rand(1, 3, 1, 1, requires_grad=True), torch.rand(2, 3, 1, 1)
    assert torch.equal(norm(one), twin.eval()(one)) and norm.training
    norm(one).sum().backward()
    assert one.grad.abs().sum() > 0 and own.weight.grad is not None
    assert own.running_mean.tolist() == [1, 2, 3] and own.num_batches_tracked == 0, "it teaches no statistics"
    assert torch.equal(norm(two), twin.train()(two)) and torch.equal(own.running_mean, twin.running_mean)
    norm.eval()
    norm(one)
    assert not norm.training


def test_a_fold_without_labels_to_learn_from_is_named_before_any_is_trained(workplace, monkeypatch, capsys):
    hurry(monkeypatch)
    small_competition(workplace / "data")
    train_csv = Path("data/train.csv")
    labels = pd.read_csv(train_csv)
    labels.loc[1:, "comments"] = np.nan
    labels.to_csv(train_csv, index=False)
    for stage in (preprocess, split):
        assert exit_code(stage, *SMALL, "split.folds=3") == 0
    capsys.readouterr()
    assert exit_code(train, *SMALL, "split.folds=3", "tune.trials=0") == 1
    printed = capsys.readouterr().err
    assert "error: fold " in printed and "task=both: its training photos hold no caption; use task=mos" in printed
    assert not list(Path("runs").glob("*/fold-*"))
