"""Handcrafted features move with the damage they are meant to measure, and predict the MOS of real photos."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from src.data.handcrafted import NAMES, SHORT_SIDE, handcrafted_features

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"


def scene(seed=0, height=192, width=256):
    """A coloured picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        coarse = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 60 / cells**0.5
    return (128 + total).clip(0, 255).astype(np.uint8)


def value(rgb, name):
    return float(handcrafted_features(rgb)[NAMES.index(name)])


def noisy(rgb, sd):
    return (rgb + np.random.default_rng(9).normal(0, sd, rgb.shape)).clip(0, 255).astype(np.uint8)


def motion(rgb, length):
    return cv2.filter2D(rgb, -1, np.full((1, length), 1 / length))


def jpeg(rgb, quality):
    return cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def contrast(rgb, factor):
    return (128 + (rgb.astype(np.float32) - 128) * factor).clip(0, 255).astype(np.uint8)


def saturation(rgb, factor):
    gray = rgb.astype(np.float32).mean(2, keepdims=True)
    return (gray + (rgb - gray) * factor).clip(0, 255).astype(np.uint8)


DAMAGE = [
    ("sharpness_p90", lambda x, k: cv2.GaussianBlur(x, (0, 0), 0.4 + k), -1),
    ("sharpness_p90_half", lambda x, k: cv2.GaussianBlur(x, (0, 0), 0.4 + k), -1),
    ("gradient", lambda x, k: cv2.GaussianBlur(x, (0, 0), 0.4 + k), -1),
    ("horizontal_correlation", lambda x, k: noisy(x, 8 * k), -1),
    ("anisotropy", lambda x, k: motion(x, 2 * k + 1), 1),
    ("noise", lambda x, k: noisy(x, 8 * k), 1),
    ("chroma_noise", lambda x, k: noisy(x, 8 * k), 1),
    ("blockiness", lambda x, k: jpeg(x, (95, 40, 15, 5)[k]), 1),
    ("brightness", lambda x, k: (x * (1 - 0.2 * k)).astype(np.uint8), -1),
    ("dark_share", lambda x, k: contrast(x, 1.5 + k), 1),
    ("bright_share", lambda x, k: contrast(x, 1.5 + k), 1),
    ("contrast", lambda x, k: contrast(x, 1 - 0.25 * k), -1),
    ("structure_p90", lambda x, k: contrast(x, 1 - 0.25 * k), -1),
    ("green_entropy", lambda x, k: x >> (2 * k) << (2 * k), -1),
    ("colourfulness", lambda x, k: saturation(x, 1 - 0.3 * k), -1),
    ("saturation", lambda x, k: saturation(x, 1 - 0.3 * k), -1),
    ("chroma", lambda x, k: saturation(x, 1 - 0.3 * k), -1),
    ("colour_cast", lambda x, k: (x * [1, 1, 1 - 0.25 * k]).astype(np.uint8), 1),
]


@pytest.mark.parametrize("name, damage, sign", DAMAGE, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(DAMAGE)])
def test_a_feature_moves_steadily_with_its_damage(name, damage, sign):
    for seed in range(3):
        base = scene(seed)
        steps = np.diff([value(damage(base, k), name) for k in range(4)])
        assert (sign * steps > 0).all(), (name, steps)


def test_against_definitions_computed_slowly():
    rgb = scene()
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(float)
    assert value(rgb, "brightness") == pytest.approx(gray.mean(), rel=1e-5)
    assert value(rgb, "contrast") == pytest.approx(gray.std(), rel=1e-5)
    assert value(rgb, "skewness") == pytest.approx(((gray - gray.mean()) ** 3).mean() / gray.std() ** 3, rel=1e-3)
    assert value(rgb, "aspect") == pytest.approx(np.log(256 / 192), rel=1e-5)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    window = np.lib.stride_tricks.sliding_window_view(np.pad(gray, 1, mode="reflect"), (3, 3))
    sigma = np.sqrt(np.pi / 2) / 6 * np.abs((window * kernel).sum((2, 3))).mean()
    assert value(rgb, "noise") == pytest.approx(np.log(sigma + 0.05), rel=1e-4)
    padded = np.pad(gray, 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * gray
    blocks = np.sort((laplacian**2).reshape(12, 16, 16, 16).mean((1, 3)).ravel())
    assert value(rgb, "sharpness_p90") == pytest.approx(np.log(blocks[round(0.9 * 191)] + 0.1), rel=1e-4)


def test_the_shape_parameter_tells_a_gaussian_from_sparse_impulses():
    """Contrast-normalised white noise is near a Gaussian, whose ratio is 2/π; sparse impulses are far below it."""
    rng = np.random.default_rng(0)
    white = np.repeat(rng.normal(128, 20, (256, 256, 1)).clip(0, 255), 3, axis=2).astype(np.uint8)
    assert value(white, "mscn_shape") == pytest.approx(np.log(2 / np.pi), abs=0.1)
    impulses = np.where(rng.random((256, 256, 1)) < 0.003, 255, 100).repeat(3, axis=2).astype(np.uint8)
    assert value(impulses, "mscn_shape") < -1


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 2), (17, 9), (64, 2000), (700, 500)])
@pytest.mark.parametrize("fill", [0, 255, None])
def test_always_finite(shape, fill):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3)) if fill is None else np.full((*shape, 3), fill)
    features = handcrafted_features(rgb.astype(np.uint8))
    assert features.shape == (len(NAMES),) and features.dtype == np.float32
    assert np.isfinite(features).all()


def test_large_photos_are_measured_at_one_size():
    rgb = scene(height=2 * SHORT_SIDE, width=3 * SHORT_SIDE)
    small = cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(handcrafted_features(rgb), handcrafted_features(small), rtol=1e-5, atol=1e-5)


def test_names_are_distinct():
    assert len(set(NAMES)) == len(NAMES) <= 40


@pytest.mark.skipif(not REAL.exists(), reason="the real photos are not here")
def test_ridge_predicts_the_scores_of_real_photos():
    from src.data.image import decode
    from src.data.readers.registry import read_dataset

    frame, _ = read_dataset(REAL, "dacon")
    frame = frame[frame["mos"].notna()][::2]
    x = np.stack([handcrafted_features(decode((REAL / path).read_bytes(), SHORT_SIDE)) for path in frame["path"]])
    y = frame["mos"].to_numpy()
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
    predicted = cross_val_predict(model, x, y, cv=KFold(5, shuffle=True, random_state=0))
    assert (pearsonr(y, predicted)[0] + spearmanr(y, predicted)[0]) / 2 > 0.63
