"""Every configuration, one short run with its own network: it trains and submits."""

import csv
from pathlib import Path

import pytest

from src import evaluate, predict, preprocess, split, submit, train
from src.config import flatten, load

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_the_nine_first_systems_are_there():
    parallel = {"mobilenet_gru_128_parallel", "googlenet_gru_128_parallel"}
    single = {
        "resnet_lstm_224",
        "mobilenet_gru_128",
        "mobilenet_gru_224",
        "mobilenet_gru_224_gray",
        "googlenet_gru_128",
    }
    assert {path.stem for path in CONFIGS} >= parallel | single | {"dacon", "demo"}


def test_the_parallel_ones_differ_in_nothing_else():
    for path in CONFIGS:
        if path.stem.endswith("_parallel"):
            single = path.with_name(path.name.replace("_parallel", ""))
            ours, other = (flatten(load(["--config", str(p), "run.name=x"], "train")[0]) for p in (path, single))
            assert ours == {**other, "parallel": "dp"}


# of the parallel ones one is enough: the other is the same but for its encoder, as the test above shows
@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem != "googlenet_gru_128_parallel"], ids=lambda p: p.stem)
def test_trains_and_submits(path, competition, workplace, capsys):
    short = ["--fold=0", "train.epochs=1", "metric.bootstrap=100", "run.workers=0", "encoder.pretrained=false"]
    if path.stem == "dacon":
        short.append("view.size=96")  # a network of that size takes a minute on two cores
    for stage in (preprocess, split, train, predict, evaluate, submit):
        stage.main(["--config", str(path), f"data.root={competition}", *short])
    printed = capsys.readouterr().out
    with open(workplace / "submissions" / "submission.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 20
    assert (workplace / "runs" / path.stem / "score.json").is_file()
    assert printed.count("everything runs on one device") == path.stem.endswith("parallel")
