"""Cached features: what the encoder gives in training, computed once, whole or not at all."""

import contextlib
import csv
import dataclasses
import errno
import io
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from src import preprocess, split, train
from src.base.files import read_json
from src.base.randomness import make_deterministic
from src.data.augment import Augmenter
from src.data.dataset import BatchDataset, BatchSlice
from src.data.image import decode
from src.data.labels import Labels
from src.data.table import load_table
from src.data.view import at_own_aspect
from src.models.encoder import views_of
from src.pipeline import artefacts, outputs
from src.settings.load import load
from src.settings.schema import AugmentSettings
from src.training import checkpoint, feature_cache
from src.training.distributed import Ranks
from src.training.fold_data import read_fold
from src.training.fold_task import build_task
from tests.conftest import TINY
from tests.helpers.checkout import REPOSITORY, environment

ONE = Ranks(0, 1, torch.device("cpu"))
FROZEN = ["encoder.frozen=true", "encoder.cache=fp32", "encoder.more_levels=[]", "encoder.mirrored=true"]


def fold_labels(settings, features) -> Labels:
    """The labels of fold 0 with the folder of its cached features."""
    places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    return read_fold(*places, 0, settings.vocabulary.maximum_words, features).labels


@pytest.fixture
def prepared(competition, tmp_path):
    """A function from settings to settings whose photos are preprocessed."""

    def settings_of(*arguments):
        arguments = [f"data.root={competition}", *TINY, f"run.root={tmp_path}/runs", *arguments]
        settings, _ = load(arguments, "train")
        preprocess.main(arguments)
        split.main(arguments)
        return settings

    make_deterministic(1)
    return settings_of


def test_they_are_those_of_the_encoder_in_training(prepared):
    settings = prepared(*FROZEN, "encoder.long_side=null")
    folder = feature_cache.cached_features(settings, ONE)
    pixels = torch.from_numpy(np.load(outputs.photos(settings).folder / "pixels.npy"))
    channels = read_json(outputs.photos(settings).folder / "statistics.json")["channels"]
    encoder = feature_cache.frozen_encoder(settings, tuple(channels["mean"]), tuple(channels["sd"]))
    for view, photos in enumerate((pixels, pixels.flip(2))):
        with torch.inference_mode():
            features = encoder(photos)
        for name in ("grid", "pooled", "levels", "maxima"):
            cached, looped = np.load(folder / f"{name}.npy")[:, view], getattr(features, name).numpy()
            assert cached.shape == looped.shape and np.abs(cached - looped).max() <= 1e-5 * max(1, np.abs(looped).max())
    (levels, means), (maxima, inside) = feature_cache.regressor_tables(folder)
    output = np.load(folder / "grid.npy").mean(2)
    np.testing.assert_allclose(levels[:, :, means[-1]], output, atol=1e-5 * max(1, np.abs(output).max()))
    assert [2 * len(block) for block in means] == list(encoder.block_widths.levels)
    assert np.concatenate(inside).tolist() == list(range(maxima.shape[2]))


def test_at_their_own_aspect_ratio_each_photo_is_as_if_alone(prepared, competition):
    settings = prepared(*FROZEN, "encoder.long_side=120")
    folder = feature_cache.cached_features(settings, ONE)
    photos = outputs.photos(settings).folder
    channels = read_json(photos / "statistics.json")["channels"]
    encoder = feature_cache.frozen_encoder(settings, tuple(channels["mean"]), tuple(channels["sd"]))
    shapes = set()
    for row, path in enumerate(load_table(photos / "photos.jsonl")["path"].tolist()[:12]):
        photo = at_own_aspect(decode((competition / path).read_bytes(), 120), 120, settings.view)
        shapes.add(photo.shape)
        alone = views_of(encoder, torch.from_numpy(photo)[None], mirrored=True)
        for name in ("grid", "levels", "maxima"):
            assert np.abs(np.load(folder / f"{name}.npy")[row] - alone[name][0].numpy()).max() < 1e-4
    assert len(shapes) > 2 and all(max(shape) == 120 for shape in shapes)


def test_each_head_has_the_statistics_of_the_photos_that_it_learns_from(prepared):
    settings = prepared(*FROZEN, "encoder.long_side=null")
    folder = feature_cache.cached_features(settings, ONE)
    places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    data = read_fold(*places, 0, settings.vocabulary.maximum_words, folder)
    unrated = data.train_rows[::3]
    labels = dataclasses.replace(data.labels, mos=data.labels.mos.copy())
    labels.mos[unrated] = np.nan
    network = build_task(settings, dataclasses.replace(data, labels=labels), 0).model
    captioned, levels = data.labelled("caption"), np.load(folder / "levels.npy").astype(np.float64)
    for head, rows in (
        (network.mos_head, np.setdiff1d(data.train_rows, unrated)),
        (network.levels_in_grid, captioned),
    ):
        of_rows = levels[rows].reshape(-1, levels.shape[2])
        np.testing.assert_allclose(head.standardiser.mean, of_rows.mean(0), atol=1e-4)
        np.testing.assert_allclose(head.standardiser.std, of_rows.std(0).clip(1e-6), atol=1e-4)


@pytest.mark.slow
def test_cached_features_train_as_the_frozen_encoder_does(competition, workplace):
    common = [f"data.root={competition}", *TINY, "task=mos", "--fold=0", "encoder.frozen=true"]
    common += ["encoder.levels=false", "encoder.long_side=null", "optim.lr=0.01"]
    for stage in (preprocess, split):
        stage.main(common)
    for cache in ("none", "fp32", "fp16"):
        train.main([*common, f"encoder.cache={cache}", f"run.name={cache}"])
    rows = {}
    for cache in ("none", "fp32", "fp16"):
        with open(workplace / "runs" / cache / "fold-0" / "metrics.csv", newline="") as file:
            rows[cache] = [float(row["mos_loss"]) for row in csv.DictReader(file)]
    assert np.abs(np.array(rows["none"]) - rows["fp32"]).max() < 1e-5
    assert np.abs(np.array(rows["none"]) - rows["fp16"]).max() < 1e-2
    kept = {str(np.load(file).dtype): len(np.load(file)) for file in workplace.glob("runs/cache/features-*/pooled.npy")}
    assert kept == {"float16": 80, "float32": 80}
    network = checkpoint.load(workplace / "runs" / "fp32" / "fold-0" / "best-mos.pt")["model"]
    looped = checkpoint.load(workplace / "runs" / "none" / "fold-0" / "best-mos.pt")["model"]
    assert all(torch.equal(network[k], looped[k]) for k in network if k.startswith("encoder"))


@pytest.mark.slow
def test_folds_on_cached_features_neither_build_the_encoder_nor_import_what_builds_it(competition, workplace):
    """Processes of folds come and go; to import timm takes as long as all else that they import."""
    arguments = [f"data.root={competition}", *TINY, "--fold=0", *FROZEN, "predict.candidates=true"]
    for stage in (preprocess, split, train):
        stage.main([*arguments, "run.name=first"])
    code = (
        "import sys\n"
        "from src import predict, train\n"
        "for stage in (train, predict):\n"
        "    stage.main(sys.argv[1:])\n"
        "assert not {'timm', 'torchvision'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, *arguments, "run.name=second"]
    subprocess.run(command, check=True, env=environment(PYTHONPATH=str(REPOSITORY)))
    networks = [checkpoint.load(workplace / f"runs/{name}/fold-0/best-mos.pt")["model"] for name in ("first", "second")]
    assert networks[0].keys() == networks[1].keys() and any(
        name.startswith("encoder.backbone.") for name in networks[0]
    )
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())


def test_an_interrupted_feature_cache_is_resumed(prepared, tmp_path, monkeypatch):
    settings = prepared(*FROZEN)
    monkeypatch.setattr(feature_cache, "_BLOCK", 8)
    monkeypatch.setattr(feature_cache, "_SAVE_EVERY", 2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    names = feature_cache._compute(settings, whole, ONE.device)
    computed, original = [], feature_cache._features

    def fail_late(encoder, photos, *how):
        computed.append(len(photos))
        if 48 < sum(computed) <= 50:
            raise KeyboardInterrupt
        return original(encoder, photos, *how)

    monkeypatch.setattr(feature_cache, "_features", fail_late)
    with pytest.raises(KeyboardInterrupt):
        feature_cache._compute(settings, cut, ONE.device)
    assert feature_cache._compute(settings, cut, ONE.device) == names
    assert sum(computed) < 80 + 3 * 8, "what was done is not done again"
    for name in names:
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_kill_while_finished_features_are_hashed_or_moved_in_loses_none(prepared, monkeypatch):
    settings = prepared(*FROZEN)
    folder, computed = outputs.features(settings).folder, []
    original = feature_cache._features

    def counted(encoder, photos, *how):
        computed.append(len(photos))
        return original(encoder, photos, *how)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "_features", counted)
    for moment in ("file_digest", "_move_in"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(artefacts, moment, killed)
            feature_cache.cached_features(settings, ONE)
        assert not folder.exists()
    assert feature_cache.cached_features(settings, ONE) == folder
    assert sum(computed) == 80, "each photo once"
    outputs_of_it = {"grid.npy", "pooled.npy", "levels.npy", "maxima.npy", "mask.npy", "encoder.json", "encoder.pt"}
    outputs_of_it.add("blocks.json")
    assert {path.name for path in folder.iterdir()} == {*outputs_of_it, "done.json"}
    assert outputs.features(settings).record()["outputs"].keys() == outputs_of_it


def test_a_disk_that_is_too_small_is_told_before_the_first_photo_is_kept(prepared, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = prepared(*FROZEN)
    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OSError) as error:
        feature_cache.cached_features(settings, ONE)
    assert error.value.errno == errno.ENOSPC and error.value.filename.endswith(".npy")


def test_training_sees_the_mirrored_photo_as_often_as_asked(prepared):
    settings = prepared(*FROZEN)
    folder = feature_cache.cached_features(settings, ONE)
    labels = fold_labels(settings, folder)
    grid, rows = np.load(folder / "grid.npy"), np.arange(80)
    for flip in (0.0, 0.5, 0.8, 1.0):
        dataset = BatchDataset(labels, Augmenter(AugmentSettings(flip=flip), 32), 0, 1)
        mirrored = []
        for epoch in range(10):
            seen = dataset[BatchSlice(epoch, rows)]["images"]["grid"].numpy()
            mirrored += [np.array_equal(photo, views[1]) for photo, views in zip(seen, grid, strict=True)]
        assert abs(np.mean(mirrored) - flip) < 0.05
    for view in (0, 1):
        seen = BatchDataset(labels, None, 0, 1)[BatchSlice(-1, rows, crop=view)]["images"]["grid"].numpy()
        assert np.array_equal(seen, grid[:, view])


def cached_by(arguments: list[str]) -> list[str]:
    """The lines that a process prints while it caches features, and at the end where they are."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        folder = feature_cache.cached_features(load(arguments, "train")[0], ONE)
    return [*printed.getvalue().splitlines(), str(folder)]


@pytest.mark.slow
def test_two_runs_at_once_share_one_pass(prepared, tmp_path):
    settings = prepared(*FROZEN)
    arguments = [f"data.root={settings.data.root}", *TINY, *FROZEN, f"run.root={tmp_path}/runs"]
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        said = list(pool.map(cached_by, [[*arguments, f"run.name={name}"] for name in ("first", "second")]))
    assert said[0][-1] == said[1][-1] and sum("not made yet" in line for lines in said for line in lines) == 1
    assert len(list(tmp_path.glob("runs/cache/features-*"))) == 1
