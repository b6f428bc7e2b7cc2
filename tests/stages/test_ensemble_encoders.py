"""Regressors on the frozen features of further models in the ensemble, from the look before a run to the rebuild."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from src import ensemble, evaluate, predict, preprocess, rebuild, split, submit, train
from src.base.files import read_json
from src.models.encoder import views_of
from src.pipeline import outputs
from src.settings.load import load
from src.training import feature_cache
from tests.conftest import TINY
from tests.helpers.bad_input import exit_code
from tests.helpers.in_process import inputs_in_process

MODELS = ("test_resnet", "test_vit")
MEMBERS = [f"kernel_ridge {name}" for name in MODELS]
ENCODERS = f"ensemble.encoders=[{', '.join(MODELS)}]"
SHORT = [*TINY, "task=mos", "train.epochs=1", "data.root=data", "view.size=48", "encoder.long_side=80"]


@pytest.fixture
def at_work(workplace, tiny_competition, quick, monkeypatch) -> Path:
    """A folder with a competition and a predicted run, whose own encoder is trained."""
    Path("data").symlink_to(tiny_competition)
    for stage in (preprocess, split, train, predict):
        stage.main(SHORT)
    monkeypatch.setattr(feature_cache, "_BLOCK", 8)
    monkeypatch.setattr(feature_cache, "_SAVE_EVERY", 1)
    return workplace


def columns(name: str) -> dict[str, list[str]]:
    with open(f"runs/{name}/ensemble/oof.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [row[key] for row in rows] for key in rows[0]}


@pytest.mark.slow
def test_they_are_members_from_the_check_to_the_rebuilt_submission(at_work, monkeypatch, capsys):
    preprocess.main(["--check", *SHORT, ENCODERS])
    assert "nothing was found" in capsys.readouterr().out and not list(Path("runs/cache").glob("mos-features-*"))
    seen, original = [], feature_cache._features

    def counted(encoder, photos, settings):
        seen.append((settings.encoder.name, len(photos)))
        if cut and photos_of("test_vit") > 20:
            raise KeyboardInterrupt
        return original(encoder, photos, settings)

    def photos_of(name: str) -> int:
        return sum(count for model, count in seen if model == name)

    monkeypatch.setattr(feature_cache, "_features", counted)
    cut = True
    with pytest.raises(KeyboardInterrupt):
        ensemble.main([*SHORT, ENCODERS])
    cut = False
    for stage in (ensemble, evaluate, submit):
        stage.main([*SHORT, ENCODERS])
    assert photos_of("test_resnet") == 40 and 40 < photos_of("test_vit") < 40 + 3 * 8, "nothing is done again"
    assert len(list(Path("runs/cache").glob("mos-features-*"))) == 2 and not list(Path("runs/cache").glob("features-*"))
    capsys.readouterr()
    ensemble.main([*SHORT, ENCODERS])
    assert "ensemble: runs/demo/ensemble: up to date" in capsys.readouterr().out
    written = columns("demo")
    assert {*MEMBERS, "ridge", "network", "blend"} <= written.keys() and "kernel_ridge" not in written
    assert len({tuple(written[member]) for member in (*MEMBERS, "ridge", "svr")}) == 4
    ablation = Path("runs/demo/ensemble/ablation.csv").read_text()
    assert all(member in ablation for member in MEMBERS)
    blended = json.loads(Path("runs/demo/ensemble/blend.json").read_text())["mos"]["members"]
    models = [entry["run"] for entry in blended if entry["member"] == "kernel_ridge"]
    assert blended and set(models) <= set(MODELS)
    submitted = Path("submissions/demo.csv").read_bytes()
    inputs_in_process(monkeypatch)
    before = len(seen)
    rebuild.main(["submissions/demo.manifest.json"])
    assert Path("runs/demo.from-weights/demo.csv").read_bytes() == submitted and len(seen) == before
    # another run on the same photos shares them; without the setting it has no such member
    for name, more in (("second", [ENCODERS]), ("plain", [])):
        for stage in (train, predict, ensemble):
            stage.main([*SHORT, f"run.name={name}", "optim.lr=0.01", *more])
        assert (set(MEMBERS) <= columns(name).keys()) == bool(more)
    assert len(seen) == before


def test_features_are_levels_of_the_photo_as_it_is_and_mirrored(at_work):
    """Of a model that takes one size they are those of the view, of others those of the photo at its own aspect."""
    settings, _ = load([*SHORT, "encoder.cache=none", "encoder.mirrored=true"], "ensemble")
    ranks = feature_cache.Ranks(0, 1, torch.device("cpu"))
    channels = read_json(outputs.photos(settings).folder / "statistics.json")["channels"]
    views = torch.from_numpy(np.load(outputs.photos(settings).folder / "pixels.npy"))
    for name in MODELS:
        folder = feature_cache.ensemble_features(settings, name, ranks)
        wider_inside = {"maxima.npy"} if name != "test_vit" else set()
        assert {path.name for path in folder.glob("*.npy")} == {"levels.npy", "pooled.npy"} | wider_inside
        levels, alone = np.load(folder / "levels.npy"), outputs.encoder_settings(settings, name)
        statistics = tuple(channels["mean"]), tuple(channels["sd"])
        encoder = feature_cache.frozen_encoder(alone, *statistics, for_mos_alone=True)
        expected = views_of(encoder, views, mirrored=True)["levels"].numpy()
        assert levels.shape == expected.shape and levels.shape[:2] == (40, 2)
        assert not np.array_equal(levels[:, 0], levels[:, 1])
        same = np.abs(levels - expected).max() < 1e-2 * np.abs(expected).max()
        assert same == (name == "test_vit")


def test_models_that_cannot_be_had_are_told_by_the_look_before_a_run(workplace, tiny_competition, capsys, monkeypatch):
    monkeypatch.setattr("src.data.pixel_cache.load_photo", lambda *_: pytest.fail("a photo was decoded"))

    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr("src.models.weights.ask_hub_once", no_network)
    Path("data").symlink_to(tiny_competition)
    for arguments, message in {
        ("ensemble.encoders=[test_rasnet]",): "ensemble.encoders=test_rasnet is not a model of timm",
        ("ensemble.encoders=[test_vit]", "view.size=40"): "ensemble.encoders=test_vit cannot be ",
        (
            "ensemble.encoders=[resnet10t]",
            "encoder.pretrained=true",
            "encoder.weights=w.pt",
        ): "ensemble.encoders: encoder.pretrained=true: the weights of resnet10t",
        ("ensemble.encoders=[test_vit, test_vit]",): "test_vit: name models of timm, each once",
        ("ensemble.encoders=[captioner]",): "captioner: name models of timm",
        ("ensemble.encoders=[demo]",): "demo is the name of the run",
        (
            "ensemble.encoders=[test_vit]",
            "view.fit=native",
            "view.crops=2",
        ): "see one crop of a photo, not view.crops=2",
    }.items():
        assert exit_code(preprocess, "--check", *SHORT, *arguments) in (1, 2), arguments
        assert message in capsys.readouterr().err, arguments


@pytest.mark.slow
def test_features_that_were_cut_short_are_named(workplace, tiny_competition, quick, capsys):
    cached = [*TINY, "task=mos", "train.epochs=1", f"data.root={tiny_competition}", "encoder.frozen=true"]
    cached += ["encoder.cache=fp32"]
    for stage in (preprocess, split, train, predict):
        stage.main(cached)
    (file,) = Path("runs/cache").glob("features-*/pooled.npy")
    file.write_bytes(file.read_bytes()[:500])
    capsys.readouterr()
    assert exit_code(ensemble, *cached) == 1
    assert f"{file} is missing or was changed" in capsys.readouterr().err
