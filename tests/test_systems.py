"""Every configuration, one short run at its own size and with its own network: it trains and submits."""

import csv
from pathlib import Path

import pytest

from src import evaluate, predict, preprocess, split, submit, train

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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_trains_and_submits(path, competition, workplace, capsys):
    short = ["--fold=0", "train.epochs=1", "metric.bootstrap=100", "run.workers=0", "encoder.pretrained=false"]
    for stage in (preprocess, split, train, predict, evaluate, submit):
        stage.main(["--config", str(path), f"data.root={competition}", *short])
    printed = capsys.readouterr().out
    with open(workplace / "submissions" / "submission.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 20
    assert (workplace / "runs" / path.stem / "score.json").is_file()
    assert printed.count("everything runs on one device") == path.stem.endswith("parallel")
