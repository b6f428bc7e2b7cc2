"""Kernel machines against scikit-learn's on plain arrays, and what they do where there are many photos."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVR

from src.ensembling import kernel_machines
from src.ensembling.kernel_machines import (
    KernelFeatures,
    Table,
    block_kernel,
    kernel_ridge,
    landmark_features,
    landmark_ridge,
    predict_svr,
    svr,
)
from src.ensembling.regressors import TEST, PhotoFeatures, frozen_table, regressor_members

PHOTOS = 900
FITTED, WANTED = np.arange(0, PHOTOS, 2), np.arange(1, PHOTOS, 2)


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """float16 features of two views, plain and codebook features of PHOTOS photos, some far away, and their MOS."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(PHOTOS, 4))
    views = np.stack([np.tanh(hidden @ rng.normal(size=(4, 30))) + 0.3 * rng.normal(size=(PHOTOS, 30)) + 50] * 2, 1)
    views += 0.1 * rng.normal(size=views.shape)
    views[7, :, 3], views[8] = 900, 0
    plain, codes = hidden @ rng.normal(size=(4, 10)) * 1e3 - 1e5, rng.normal(size=(PHOTOS, 20)).astype(np.float32)
    mos = 5 + hidden[:, 0] + np.sin(2 * hidden[:, 1]) + 0.3 * rng.normal(size=PHOTOS)
    return views.astype(np.float16), plain, codes, mos


def by_hand(views, plain, codes, fitted) -> np.ndarray:
    """The same features as one array, all at once."""

    def standardised(values):
        return (values - values[fitted].mean(0)) / (values[fitted].std(0) + 1e-6)

    blocks = [standardised(views.mean(1, dtype=np.float64)).clip(-8, 8), standardised(plain), codes.astype(np.float64)]
    blocks = [block - block[fitted].mean(0) for block in blocks]
    parts = [np.square(block[fitted]).sum(1).mean() for block in blocks]
    return np.concatenate(
        [block / np.sqrt(part / share) for block, part, share in zip(blocks, parts, (0.5, 0.25, 0.25), strict=True)], 1
    )


def tables(views, plain, codes) -> list[Table]:
    return [Table(views, 2.0, cut=True), Table(plain), Table(codes, standardise=False)]


def exact_kernel_ridge(features, fitted, labels, wanted) -> np.ndarray:
    return kernel_ridge(block_kernel(features, np.arange(PHOTOS), fitted), fitted, fitted, labels, wanted)


def nystroem(features, landmarks) -> np.ndarray:
    return landmark_features(block_kernel(features, np.arange(PHOTOS), landmarks), landmarks)


def test_features_are_read_in_blocks_and_are_the_same(monkeypatch, tmp_path):
    views, plain, codes, _ = made()
    np.save(tmp_path / "levels.npy", views)
    mapped = np.load(tmp_path / "levels.npy", mmap_mode="r")
    expected = by_hand(views, plain, codes, FITTED)
    for block in (7, kernel_machines._BLOCK):
        monkeypatch.setattr(kernel_machines, "_BLOCK", block)
        features = KernelFeatures(tables(mapped, plain, codes), FITTED)
        np.testing.assert_allclose(features.rows(np.arange(PHOTOS)), expected, atol=1e-10)
        np.testing.assert_array_equal(features.rows(WANTED[::-1]), features.rows(np.arange(PHOTOS))[WANTED[::-1]])


@pytest.mark.parametrize("block", [13, kernel_machines._BLOCK])
def test_few_photos_are_fitted_exactly(monkeypatch, block):
    monkeypatch.setattr(kernel_machines, "_BLOCK", block)
    views, plain, codes, mos = made()
    plain_features, labels = by_hand(views, plain, codes, FITTED), mos[FITTED]
    mean, deviation = labels.mean(), labels.std()
    features = KernelFeatures(tables(views, plain, codes), FITTED)

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        parts = np.square(one - other)
        of_tables = zip((parts[:30], parts[30:40], parts[40:]), (0.5, 0.25, 0.25), strict=True)
        return (np.exp(-0.3 * parts.sum()) + sum(share * np.exp(-0.5 * d.sum() / share) for d, share in of_tables)) / 2

    for ours, theirs, tolerance in (
        (exact_kernel_ridge, KernelRidge(alpha=0.05, kernel=kernel), 1e-4),  # ours is float32
        (svr, SVR(C=3.0, gamma=0.3, epsilon=0.2), 1e-6),
    ):
        theirs.fit(plain_features[FITTED], (labels - mean) / deviation)
        expected = theirs.predict(plain_features[WANTED]) * deviation + mean
        np.testing.assert_allclose(ours(features, FITTED, labels, WANTED), expected, atol=tolerance)
    np.testing.assert_allclose(
        predict_svr(theirs, plain_features), theirs.predict(plain_features), rtol=1e-10, atol=1e-10
    )
    no_vectors = SVR().fit(plain_features[FITTED], np.full(len(FITTED), 3.0))
    np.testing.assert_array_equal(predict_svr(no_vectors, plain_features), np.full(PHOTOS, 3.0))


def test_many_photos_have_landmarks_and_a_bounded_number_of_machines(monkeypatch):
    views, plain, codes, mos = made()
    features, labels = KernelFeatures(tables(views, plain, codes), FITTED), mos[FITTED]
    exact = {fit: fit(features, FITTED, labels, WANTED) for fit in (exact_kernel_ridge, svr)}
    # with every fitted photo for a landmark it is the exact machine
    mapped = nystroem(features, FITTED)
    np.testing.assert_allclose(
        landmark_ridge(mapped, FITTED, labels, WANTED), exact[exact_kernel_ridge], atol=1e-3 * labels.std()
    )
    some = landmark_ridge(nystroem(features, FITTED[::4]), FITTED, labels, WANTED)
    assert np.corrcoef(some, mos[WANTED])[0, 1] > np.corrcoef(exact[exact_kernel_ridge], mos[WANTED])[0, 1] - 0.03
    sizes = []
    fit = SVR.fit
    monkeypatch.setattr(SVR, "fit", lambda self, x, y: (sizes.append(len(x)), fit(self, x, y))[1])
    monkeypatch.setattr(kernel_machines, "KERNEL_PHOTOS", 50)
    parts = svr(features, FITTED, labels, WANTED)
    assert len(sizes) == kernel_machines.MACHINES and max(sizes) <= 50
    assert np.corrcoef(parts, mos[WANTED])[0, 1] > 0.8 * np.corrcoef(exact[svr], mos[WANTED])[0, 1]


def test_alike_photos_and_constant_features_do_no_harm():
    """Equal landmarks have a kernel that cannot be inverted, and a constant feature no spread."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=(30, 1, 5)), 10, axis=0)
    values[:, :, 4] = 3
    mos, rows = values[:, 0, 0] + 5, np.arange(300)
    features = KernelFeatures([Table(values, cut=True), Table(np.zeros((300, 2)))], rows)
    mapped = landmark_features(block_kernel(features, rows, rows[::2]), rows[::2])
    found = landmark_ridge(mapped, rows, mos, rows)
    exact = kernel_ridge(block_kernel(features, rows, rows), rows, rows, mos, rows)
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_a_fold_s_labels_have_no_part_in_its_predictions_with_landmarks(monkeypatch, capsys):
    views, plain, codes, mos = made()
    fold = np.r_[np.arange(PHOTOS - 60) % 3, np.full(60, TEST)]
    monkeypatch.setattr(kernel_machines, "KERNEL_PHOTOS", 200)
    labels = np.where(fold == TEST, np.nan, mos)

    def members(labels):
        features = PhotoFeatures(plain, codes, {"one": [frozen_table(views, [range(2), range(2, views.shape[2])])]})
        return regressor_members(features, labels, fold, [0, 1, 2], "one")["kernel_ridge"]

    before, after = members(labels), members(np.where(fold == 1, 10 - labels, labels))
    assert "SVR by up to 5 machines of at most 200 photos, kernel ridge regression by 200 l" in capsys.readouterr().out
    np.testing.assert_array_equal(before[fold == 1], after[fold == 1])
    assert np.abs(before[fold != 1] - after[fold != 1]).max() > 0.1
    assert all(np.corrcoef(before[part], mos[part])[0, 1] > 0.7 for part in (fold != TEST, fold == TEST))
