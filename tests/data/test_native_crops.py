"""Native crops: where they lie, which of them training sees, and that the MOS is the mean over all."""

import numpy as np
import pytest
import torch

from src.data.dataset import BatchDataset, BatchSlice
from src.data.image import decode, load_photo
from src.data.table import load_table
from src.data.view import native_crops, to_view
from src.inference.mos_prediction import predict_mos
from src.inference.networks import open_network
from src.inference.photo_captioner import view_box
from src.settings.load import load
from src.settings.schema import ViewSettings
from src.training.fit import Fit
from tests.conftest import TINY
from tests.training.test_training import ONE, prepared  # noqa: F401

NATIVE = ["task=mos", "view.fit=native", "view.crops=3", "train.epochs=1"]


def test_pieces_are_pixels_of_the_photo_from_its_centre_on():
    rgb = np.random.default_rng(0).integers(0, 256, (70, 111, 3), dtype=np.uint8)
    view = ViewSettings(size=32, fit="native", crops=6)
    crops = native_crops(rgb, view)
    assert crops.shape == (6, 32, 32, 3)
    places = {
        tuple(np.argwhere((rgb == crop[0, 0]).all(2))[0]) for crop in crops
    }  # of random pixels each is found once
    assert len(places) == 6 and (19, 40) in places
    assert all((rgb[top : top + 32, left : left + 32] == crops).all((1, 2, 3)).any() for top, left in places)
    assert (to_view(rgb, view) == rgb[19:51, 40:72]).all()
    assert np.ptp([top for top, _ in places]) > 20 and np.ptp([left for _, left in places]) > 50, "they spread"
    assert view_box(70, 111, view) == (19, 39, 32, 32)


def test_a_photo_smaller_than_a_piece_is_enlarged():
    assert native_crops(np.zeros((9, 50, 3), np.uint8), ViewSettings(size=32, fit="native", crops=2)).shape == (
        2,
        32,
        32,
        3,
    )
    assert (
        native_crops(np.zeros((40, 50, 3), np.uint8), ViewSettings(size=64, fit="native", color="gray")).shape[3] == 1
    )


@pytest.mark.parametrize("refused", [["view.crops=2"], [*NATIVE, "encoder.cache=fp16", "encoder.frozen=true"]])
def test_settings_that_contradict_are_refused(refused, capsys):
    with pytest.raises(SystemExit):
        load([*TINY, *refused, "augment.flip=0", "augment.crop=0"], "train")
    assert "view.crops" in capsys.readouterr().err


def test_training_draws_a_piece_and_the_score_is_the_mean_of_all(prepared, tmp_path):  # noqa: F811
    settings, data = prepared(*NATIVE, "train.ema_decay=0")
    labels, rows = data.labels, data.validation_rows[:6]
    others = np.load(labels.crops)
    pieces = [np.load(labels.pixels)[rows], *(others[rows, i] for i in range(2))]
    batches = BatchDataset(labels, None, 7, 1)
    for crop, piece in enumerate(pieces):
        assert (batches[BatchSlice(-1, rows, crop=crop)]["images"].numpy() == piece).all()
    images = np.stack([batches[BatchSlice(epoch, rows)]["images"].numpy() for epoch in range(40)])
    drawn = np.stack([(images == piece).all((2, 3, 4)) for piece in pieces])
    assert drawn.any(1).all(), "every piece of every photo comes up"
    assert drawn.any(0).all() and (images[3] == batches[BatchSlice(3, rows)]["images"].numpy()).all()

    Fit(settings, data, 0, tmp_path, ONE).run()
    predicted = predict_mos(tmp_path, settings, labels, rows.tolist(), ONE, "fold 0")
    network, _ = open_network(tmp_path / "best-mos.pt", settings)
    with torch.inference_mode():
        views = [torch.from_numpy(v) for piece in pieces for v in (piece, piece[:, :, ::-1].copy())]
        slow = torch.stack([network.mos(network.features(view)) for view in views]).mean(0)
    assert [predicted[row] for row in rows] == pytest.approx(slow.tolist(), abs=1e-4)


def test_a_photo_is_cut_as_preprocess_cuts_it(prepared, competition):  # noqa: F811
    settings, data = prepared(*NATIVE)
    table = load_table(data.labels.pixels.with_name("photos.jsonl"))
    path = competition / table["path"][5]
    photo = load_photo(path, settings.view)
    whole = decode(path.read_bytes(), 1 << 20)
    assert (photo.pixels == np.load(data.labels.pixels)[5]).all()
    assert (photo.crops == np.load(data.labels.crops)[5]).all()
    assert (np.concatenate([photo.pixels[None], photo.crops]) == native_crops(whole, settings.view)).all()
