"""Runs compared: every figure is the one that the files and the network of the run give."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from src import compare, ensemble, evaluate, predict, preprocess, split, train
from src.base.errors import InputError
from src.data.table import load_table
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.mos_score import mos_score
from src.models.captioner import build_captioner
from src.settings.load import load
from src.settings.schema import CaptionWeights
from src.settings.yaml_files import ConfigError
from src.training import checkpoint
from src.training.metrics_log import write_parameters
from tests.conftest import TINY
from tests.helpers.small_meteor import quick_scores
from tests.helpers.tables import rows_of

pytestmark = pytest.mark.slow

STAGES = (preprocess, split, train, predict, ensemble, evaluate)
TWO = ["run.seed=1", "view.size=40", "decoder.cell=lstm"]
RUNS = {"one": [], "two": TWO, "part": [*TWO, "--fold=0"], "mos": ["task=mos", "split.seed=1", "--fold=0"]}


@pytest.fixture(scope="module")
def compared(competition, meteor, tmp_path_factory):
    """A folder with four runs: one and two on the same folds, part (two's fold 0 alone) and mos, split otherwise."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick_scores(patch, meteor)
        short = [f"data.root={competition}", *TINY, "train.epochs=1"]
        for run, arguments in RUNS.items():
            if run == "part":
                shutil.copytree(folder / "runs" / "two", folder / "runs" / "part")
            for stage in STAGES[3:] if run == "part" else STAGES:
                stage.main([*short, f"run.name={run}", *arguments])
    return folder


@pytest.fixture
def at_work(compared, meteor, monkeypatch):
    """In that folder."""
    monkeypatch.chdir(compared)
    monkeypatch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)


@pytest.fixture(scope="module")
def comparison(compared, meteor) -> tuple[list[dict], str]:
    """All four compared: the rows of the CSV, and what was printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(compared)
        patch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)
        compare.main([*RUNS, "metric.bootstrap=100"])
    return rows_of(compared / "runs" / "comparison" / "comparison.csv"), printed.getvalue()


def score_of(compared, run: str, part: str = "network") -> dict:
    return json.loads((compared / "runs" / run / "score.json").read_text())[part]


def column(path, name: str) -> list[float]:
    return [float(cells[name]) for cells in rows_of(path)]


def test_the_table_holds_what_the_runs_files_hold(comparison, compared):
    rows, printed = comparison
    assert [row["run"] for row in rows] == list(RUNS)
    for row in rows:
        report = score_of(compared, row["run"])
        for name, block in (("mos", report["mos"]), ("caption", report["caption"])):
            if block is None:
                assert row["run"] == "mos" and not any(row[key] for key in row if key.startswith(name))
                continue
            low, high = block["interval"]
            shown = [float(row[f"{name}_{key}"]) for key in ("score", "low", "high", "photos")]
            assert shown == [block["score"], low, high, block["photos"]]
        baselines = {"mos": report["baseline"]["mos"], "caption": report["baseline"]["caption"]}
        assert [row[f"{name}_baseline"] for name in baselines] == [
            "" if f is None else str(f) for f in baselines.values()
        ]
        ensemble = score_of(compared, row["run"], "oof")
        assert float(row["mos_ensemble"]) == ensemble["mos"]["score"]
        assert row["caption_ensemble"] == (str(ensemble["caption"]["score"]) if ensemble["caption"] else "")
        folds = [compared / "runs" / row["run"] / f"fold-{number}" for number in range(int(row["folds"]))]
        times = [column(fold / "timing.csv", "seconds") for fold in folds]
        assert len(folds) == (1 if "--fold=0" in RUNS[row["run"]] else 2)
        assert float(row["training_seconds"]) == pytest.approx(sum(map(sum, times)))
        assert float(row["seconds_per_epoch"]) == pytest.approx(np.median(times)) and float(row["epochs"]) == 1
    report = score_of(compared, "two")
    for key in ("cider_d", "meteor", "bleu3", "bleu4", "rouge_l", "wer"):
        assert float(rows[1][key]) == report["caption"][key] and rows[3][key] == ""
    for key in ("mean_words", "adjacent_repeats", "repeated_pairs", "dangling"):
        assert float(rows[1][key]) == report["diagnostics"]["captions"][key] and rows[3][key] == ""
    lines = printed.split("Captions out of fold", 1)[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["one", "two", "part"], "mos wrote none"
    assert f"{float(rows[0]['adjacent_repeats']):.1%}" in lines[2] and "a word twice running" in lines[1]
    assert [row["decoder"] for row in rows] == ["recurrent"] * 3 + [""]
    assert "mos is not tested against one: it has other folds" in printed
    assert max(map(len, printed.splitlines())) <= 160
    folder = compared / "runs" / "comparison"
    assert (folder / "comparison.txt").read_text() in printed
    with Image.open(folder / "comparison.png") as image:
        assert image.width == 1600
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f"<bdi>{run}</bdi>" in page for run in RUNS) and "Settings that differ" in page
    assert "is not tested against" in page and "view.size" in page and "<script" not in page


def test_seconds_per_photo_are_those_of_predict_and_count_for_no_hash(comparison, compared):
    folder, row = compared / "runs" / "two" / "predictions", comparison[0][1]
    photos, seconds = column(folder / "timing.csv", "photos"), column(folder / "timing.csv", "seconds")
    assert sum(photos) == 60 + 2 * 20 and min(seconds) > 0, "each training photo once, each test photo by both folds"
    assert float(row["seconds_per_photo"]) == pytest.approx(sum(seconds) / sum(photos))
    assert "timing.csv" not in json.loads((folder / "done.json").read_text())["outputs"]


def test_parameters_are_those_of_the_network_and_not_its_buffers(comparison, compared, tmp_path):
    rows = [row for row in comparison[0] if row["run"] != "part"]  # which is two's
    for row in rows:
        path = compared / "runs" / row["run"] / "fold-0"
        portrait = checkpoint.load(path / "best-mos.pt")
        settings, _ = load([*TINY, *RUNS[row["run"]]], "train")
        network = build_captioner(settings, 3, len(portrait["words"]), (1.0, 9.0, 5.0), (0.5,) * 3, (0.25,) * 3)
        expected = sum(parameter.numel() for parameter in network.parameters())
        assert int(row["parameters"]) == int(row["trainable_parameters"]) == expected
        assert expected < sum(tensor.numel() for tensor in portrait["model"].values())
    assert len({row["parameters"] for row in rows}) == 3
    frozen = torch.nn.Linear(7, 3).requires_grad_(False)
    write_parameters(tmp_path / "p.json", torch.nn.Sequential(frozen, frozen, torch.nn.BatchNorm1d(3)))
    assert json.loads((tmp_path / "p.json").read_text()) == {"total": 24 + 6, "trainable": 6}


def test_a_run_does_not_differ_from_itself(at_work, tmp_path):
    compare.main(["two", "two", "--output", str(tmp_path), "metric.bootstrap=100"])
    rows = rows_of(tmp_path / "comparison.csv")
    for name in ("mos", "caption"):
        keys = [f"{name}_{key}" for key in ("difference", "difference_low", "difference_high", "p")]
        assert [float(rows[1][key]) for key in keys] == [0, 0, 0, 1]
        assert rows[0][f"{name}_p"] == ""


def test_runs_are_tested_on_the_photos_that_both_predicted(comparison, compared, meteor):
    rows = comparison[0]
    table = load_table(next((compared / "runs" / "cache").glob("photos-*")) / "photos.jsonl").set_index("photo_id")
    tables = {run: rows_of(compared / "runs" / run / "predictions" / "oof.csv") for run in RUNS}
    oof = {run: {cells["photo_id"]: cells for cells in table} for run, table in tables.items()}
    whole = [score_of(compared, run) for run in ("two", "one")]
    for name, block in (("mos", "mos"), ("caption", "caption")):
        difference = whole[0][block]["score"] - whole[1][block]["score"]
        assert float(rows[1][f"{name}_difference"]) == pytest.approx(difference, abs=1e-12)
        assert int(rows[1][f"{name}_photos_in_common"]) == whole[0][block]["photos"]
    common = list(oof["part"])
    assert 20 < len(common) < 40 and set(common) < set(oof["one"])
    labelled = [photo for photo in common if not np.isnan(table["mos"][photo])]
    truth = table["mos"][labelled].to_numpy()
    mos = [mos_score([float(oof[run][photo]["mos"]) for photo in labelled], truth) for run in ("part", "one")]
    assert float(rows[2]["mos_difference"]) == pytest.approx(mos[0]["score"] - mos[1]["score"], abs=1e-12)
    told = [photo for photo in common if table["captions"][photo]]
    references = [list(table["captions"][photo]) for photo in told]
    both = [
        score_captions(references, [oof[run][photo]["caption"] for photo in told], meteor=meteor)
        for run in ("part", "one")
    ]
    ours, theirs = (caption_score(one.totals(), CaptionWeights()) for one in both)
    assert float(rows[2]["caption_difference"]) == pytest.approx(ours - theirs, abs=1e-12)
    assert int(rows[2]["caption_photos_in_common"]) == len(told)


def test_what_cannot_be_compared_is_one_line(compared, at_work, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"^no run is named: python -m src.compare RUN"):
        compare.main([])
    with pytest.raises(InputError, match=r"^twoo: no such run in runs; did you mean two; .*src.evaluate run.name=twoo"):
        compare.main(["one", "twoo"])
    with pytest.raises(InputError, match=r"^cache: no such run in runs; evaluated there: mos, one, part, two; "):
        compare.main(["one", "cache"])
    with pytest.raises(ConfigError, match="run.name=comparison: that name is taken"):
        compare.main(["one", "run.name=comparison"])
    shutil.copytree(compared / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    command = "python -m src.evaluate --config runs/two/fold-0/settings.yaml"
    (tmp_path / "runs/two/evaluated.json").unlink()
    with pytest.raises(InputError, match=f"^runs/two: its score: not made yet; {command}"):
        compare.main(["one", "two"])
    (tmp_path / "runs/two/predictions/done.json").unlink()
    with pytest.raises(InputError, match=f"^runs/two: its predictions: not made yet; {command}"):
        compare.main(["one", "two"])
    shutil.copytree(compared / "runs/two/predictions", tmp_path / "runs/one/predictions", dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"^runs/one: its predictions: its input changed \(fold\); "):
        compare.main(["one", "part"])
    shutil.rmtree(tmp_path / "runs/cache")
    compare.main(["part", "mos"])
    assert "mos is not tested against part: it has other photos or labels and other folds" in capsys.readouterr().out
