"""Every configuration: its own network sees a photo, and a small sibling of it trains, predicts and submits."""

from pathlib import Path

import pytest
import torch

from src import ensemble, evaluate, predict, preprocess, split, submit, train
from src.models.captioner import build_captioner
from src.models.decoder import END, PAD
from src.reports.figures import ATTENDING
from src.settings.keys import flatten
from src.settings.load import load
from tests.helpers.tables import rows_of
from tests.helpers.tiny_captioners import tiny_captioner

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SIBLINGS = {
    "resnet50": "resnet10t",
    "resnet101": "resnet10t",
    "inception_v3": "resnet10t",
    "convnext_tiny.fb_in22k_ft_in1k": "convnext_atto",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn",
}
FROM_SCRATCH = {"attention_gru", "fc_scst", "fc_nsc", "transformer", "mask_predict", "ctc_mask_predict"}
FC = ("fc", "fc_scst", "fc_nsc")
SAME_NETWORK = {*FC[1:], *(path.stem for path in CONFIGS if "_parallel" in path.stem)}
LARGE = {"blip_24gb", "blip2_80gb", "git_eight_cards"}
SHORT = [
    "--fold=0",
    "train.epochs=1",
    "metric.bootstrap=100",
    "ensemble.captions=search",
    "predict.candidates=false",
    "run.workers=0",
    "encoder.pretrained=false",
    "encoder.regions=8",
    "decoder.embedding=32",
    "decoder.hidden=64",
    "decoder.attention=32",
    "decoder.feedforward=64",
    "vocabulary.maximum_words=8",
    "decoding.maximum_words=8",
    "view.size=64",
    "run.threads=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all, so that configurations with the same photos share them."""
    return tmp_path_factory.mktemp("systems")


def test_the_systems_are_there():
    first = {"resnet_lstm_224", "mobilenet_gru_128", "mobilenet_gru_224", "mobilenet_gru_224_gray", "googlenet_gru_128"}
    parallel = {"mobilenet_gru_128_parallel", "googlenet_gru_128_parallel"}
    captioners = {"show_attend_tell", "attention_gru", "fc", "fc_scst", "fc_nsc", "transformer", "updown"}
    captioners |= {"mask_predict", "ctc_mask_predict", *LARGE}
    assert {path.stem for path in CONFIGS} >= first | parallel | captioners | {"dacon", "demo"}


def test_the_parallel_ones_differ_in_nothing_else():
    for path in CONFIGS:
        if path.stem.endswith("_parallel"):
            single = path.with_name(path.name.replace("_parallel", ""))
            ours, other = (flatten(load(["--config", str(p), "run.name=x"], "train")[0]) for p in (path, single))
            assert ours == {**other, "parallel": "dp"}


def small_captioner(path: Path, competition: Path) -> list[str]:
    """Settings that replace a published captioner, which only the hub has, by a tiny one of its family."""
    settings = load(["--config", str(path)], "train")[0]
    pytest.importorskip("peft", reason="the packages of requirements-large.txt are not installed")
    texts = [row["comments"] for row in rows_of(competition / "train.csv")]
    folder = tiny_captioner(settings.decoder.name, Path(path.stem).absolute(), texts)
    small = ["view.size=32", "vocabulary.maximum_words=8", "decoding.maximum_words=8"]
    return [f"decoder.weights={folder}", "encoder.pretrained=true", *small]


def test_those_that_are_trained_in_other_ways_have_the_network_of_fc():
    fc, *others = (load(["--config", str(CONFIGS[0].with_name(f"{stem}.yaml"))], "train")[0] for stem in FC)
    for other in others:
        of_network = ("view", "encoder", "mos_head", "decoder", "vocabulary", "decoding", "task")
        assert all(getattr(other, part) == getattr(fc, part) for part in of_network) and other.loss.mos == fc.loss.mos


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem not in SAME_NETWORK], ids=lambda p: p.stem)
def test_its_own_network_sees_a_photo(path, tiny_competition, workplace):
    more = small_captioner(path, tiny_competition) if path.stem in LARGE else ["encoder.pretrained=false"]
    settings, _ = load(["--config", str(path), *more], "train")
    channels = 1 if settings.view.color == "gray" else 3
    network = build_captioner(settings, channels, 50, (1.0, 9.0, 5.0), (0.5,) * channels, (0.25,) * channels).eval()
    pixels = torch.randint(0, 256, (1, settings.view.size, settings.view.size, channels), dtype=torch.uint8)
    with torch.no_grad():
        seen = network.features(pixels)
        caption = torch.tensor([[7, 8, END, PAD]])
        assert network.decoder.log_prob(seen, caption)[0, :3].lt(0).all()
        assert network.mos(seen).shape == (1,)
    cells = {"show_attend_tell": 14 * 14, "attention_gru": 8 * 8, "transformer": 7 * 7, "updown": 36}
    if path.stem in cells:
        assert seen.grid.shape[1] == cells[path.stem]


# of those that differ in encoder, size and cell alone one is enough, the one in one channel, and one in parallel
ALIKE = {"resnet_lstm_224", "mobilenet_gru_128", "mobilenet_gru_224", "googlenet_gru_128"}
ALIKE |= {"googlenet_gru_128_parallel"}


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem not in ALIKE], ids=lambda p: p.stem)
def test_trains_and_submits(path, tiny_competition, folder, quick, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    settings = load(["--config", str(path)], "train")[0]
    name = settings.encoder.name
    short = [*SHORT, f"encoder.name={SIBLINGS.get(name, name)}"]
    if path.stem in LARGE:
        short += small_captioner(path, tiny_competition)
    if path.stem in FROM_SCRATCH:
        short += ["encoder.frozen=false"]
    if path.stem == "demo":  # its weights are a package
        short += ["encoder.pretrained=true"]
    if path.stem == "fc":  # what a random network makes of photos is beyond half precision
        short += ["encoder.cache=fp32"]
    short += ["self_critical.from_epoch=1", "train.epochs=2"] if path.stem in ("fc_scst", "fc_nsc") else []
    for stage in (preprocess, split, train, predict, ensemble, evaluate, submit):
        stage.main(["--config", str(path), f"data.root={tiny_competition}", *short])
    printed = capsys.readouterr().out
    run = folder / "runs" / path.stem
    assert len(rows_of(folder / "submissions" / f"{path.stem}.csv")) == 10
    assert (run / "score.json").is_file()
    attends = settings.decoder.name in ATTENDING
    assert (run / "attention.png").is_file() == attends
    report = (run / "report.html").read_text(encoding="utf-8")
    assert ("Where the captioner looked" in report) == attends and "all passed" in report
    assert printed.count("everything runs on one device") == path.stem.endswith("parallel")
    assert ("random regions" in printed) == (path.stem == "updown")
    last = rows_of(run / "fold-0" / "metrics.csv")[-1]
    assert ("reward" in last) == (path.stem in ("fc_scst", "fc_nsc"))
    at_once = {"length_loss", "loss", "val_wer_visible"}
    assert at_once & last.keys() == (at_once if path.stem.endswith("mask_predict") else set())
    assert ("attention_loss" in last) == (path.stem == "show_attend_tell")
    assert ("kernel_ridge" in rows_of(run / "ensemble" / "oof.csv")[0]) == (path.stem in ("demo", "fc", "updown"))
