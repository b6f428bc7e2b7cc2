"""Covariate shift between training and test photos, found by adversarial validation.

A classifier learns to tell test photos from training photos. Where it does so out of fold better than with shuffled
labels, the two sets differ: the classifier two-sample test (Lopez-Paz and Oquab 2017). The classifier is ridge
regression on the labels, which ranks photos as Fisher's linear discriminant does; one solve serves the true labels and
all shuffled ones. It sees the features and, as a spread can shift without the mean, the squares of the first of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from src.base.files import write_json, write_text
from src.base.randomness import fold_in
from src.data.table import for_training
from src.metrics.report import mos_block
from src.pipeline import outputs
from src.reports.figures import draw_shifted_photos
from src.settings.schema import Settings

BLOCKS = 5
"""Blocks of consecutive test rows that are tested besides all of them together."""
SHUFFLES = 199
LEVEL = 0.05
"""Significance level of all tests together."""
FEWEST = 20
"""Photos of either side below which there is no test."""
_FOLDS = 5
_SQUARED = 40
_LARGEST_WEIGHT = 20.0
"""Of a training photo, before the weights are scaled to mean 1."""


@dataclass(frozen=True)
class ShiftTest:
    """Training photos against one block of test rows.

    rows: the block's first test row, and the one after its last. auc_interval: 95%. p_value: share of the labellings,
    the true one and SHUFFLES others, with an AUC at least as high. shifted: p_value is below LEVEL, corrected for the
    number of tests. test_probability: float64 [training photos + test photos of the block], out of fold. weights:
    importance weights of the training photos, mean 1 (Shimodaira 2000); all 1 where nothing has shifted.
    """

    rows: tuple[int, int]
    auc: float
    auc_interval: tuple[float, float]
    p_value: float
    shifted: bool
    test_probability: np.ndarray
    weights: np.ndarray

    def report(self) -> dict:
        """The JSON-able part."""
        return {name: getattr(self, name) for name in ("rows", "auc", "auc_interval", "p_value", "shifted")}


@dataclass(frozen=True)
class CovariateShift:
    """The test of all test photos together, and that of each block of rows."""

    overall: ShiftTest
    blocks: tuple[ShiftTest, ...]

    @property
    def shifted(self) -> list[ShiftTest]:
        """The tests that found a shift."""
        return [test for test in (self.overall, *self.blocks) if test.shifted]


def detect_covariate_shift(
    train: np.ndarray, test: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> CovariateShift | None:
    """Test features of training photos [N, F] against those of test photos [M, F] in the order of their rows.

    groups: [N + M], photos that are never divided between fitting and predicting; not given: each photo by itself.
    None where a side has fewer than FEWEST photos, or all are of one group; a block of which that is true is left out.
    """
    if min(len(train), len(test)) < FEWEST:
        return None
    groups = np.arange(len(train) + len(test)) if groups is None else groups
    features = _standardised(np.concatenate([train, test]))
    ends = np.linspace(0, len(test), BLOCKS + 1).round().astype(int).tolist()
    places = [(0, len(test)), *zip(ends[:-1], ends[1:], strict=True)]
    places = [(first, end) for first, end in places if end - first >= FEWEST]
    tests = []
    for index, (first, end) in enumerate(places):
        rows = np.concatenate([np.arange(len(train)), len(train) + np.arange(first, end)])
        groups_of_rows = np.unique(groups[rows], return_inverse=True)[1]
        if groups_of_rows.max() == 0:
            continue
        level = LEVEL / (2 * max(len(places) - 1, 1) if index else 2)  # Bonferroni: half of it for all rows together
        rng = np.random.default_rng(fold_in(seed, "shift", index))
        tests.append(_shift_test(features[rows], len(train), groups_of_rows, (first, end), level, rng))
    return CovariateShift(tests[0], tuple(tests[1:])) if tests else None


def _standardised(features: np.ndarray) -> np.ndarray:
    """Features and squares of the first _SQUARED, standardised, cut at 4 standard deviations: float32."""
    features = ((features - features.mean(0)) / (features.std(0) + 1e-6)).clip(-4, 4)
    squares = np.square(features[:, :_SQUARED])
    return np.concatenate([features, (squares - squares.mean(0)) / (squares.std(0) + 1e-6)], 1).astype(np.float32)


def _shift_test(
    features: np.ndarray, train: int, groups: np.ndarray, rows: tuple[int, int], level: float, rng: np.random.Generator
) -> ShiftTest:
    """features: the first `train` rows are training photos, the others the block `rows` of the test photos."""
    is_test = np.arange(len(features)) >= train
    labels = np.stack([is_test, *(_shuffled(is_test, groups, rng) for _ in range(SHUFFLES))], 1)
    scores = _out_of_fold_scores(features, labels, groups, rng)
    rank_sums = (rankdata(scores, axis=0) * labels).sum(0)  # rises with the AUC (Mann-Whitney), in one pass for all
    p_value = float((rank_sums >= rank_sums[0]).mean())
    scores = scores[:, 0]
    standardised = ((scores - scores.mean()) / (scores.std() + 1e-9))[:, None]
    platt = LogisticRegression(C=1e3).fit(standardised, is_test)
    probability = platt.predict_proba(standardised)[:, 1].clip(1e-6, 1 - 1e-6)
    weights = np.ones(train)
    if p_value <= level:
        odds = probability[:train] / (1 - probability[:train]) * train / (len(features) - train)
        weights = odds.clip(1 / _LARGEST_WEIGHT, _LARGEST_WEIGHT)
        weights /= weights.mean()
    auc, interval = float(roc_auc_score(is_test, scores)), auc_interval(scores[~is_test], scores[is_test])
    return ShiftTest(rows, auc, interval, p_value, p_value <= level, probability, weights)


def _shuffled(is_test: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many labels, dealt out anew: to whole groups, and among the photos of each group that is on both sides."""
    both = (np.bincount(groups, is_test) > 0) & (np.bincount(groups, ~is_test) > 0)
    labels, whole, mixed = np.zeros(len(is_test), bool), np.flatnonzero(~both[groups]), np.flatnonzero(both[groups])
    order = np.argsort(rng.permutation(groups.max() + 1)[groups[whole]], kind="stable")
    labels[whole[order[: is_test[whole].sum()]]] = True
    shuffled = np.lexsort((rng.random(len(mixed)), groups[mixed]))
    labels[mixed[shuffled]] = is_test[mixed[np.argsort(groups[mixed], kind="stable")]]
    return labels


def _out_of_fold_scores(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Score of each photo for each column of labels, by a classifier fitted on other groups: float64 [N, L].

    groups: [N], numbered from 0, at least two.
    """
    fold = rng.permutation(groups.max() + 1)[groups] % _FOLDS
    scores = np.zeros(labels.shape)
    for held_out in (fold == k for k in np.unique(fold)):
        fitted = Ridge(alpha=0.1 * (~held_out).sum(), solver="cholesky")
        fitted.fit(features[~held_out].astype(np.float64), labels[~held_out].astype(np.float64))
        scores[held_out] = fitted.predict(features[held_out].astype(np.float64))
    return scores


def auc_interval(negative: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """95% interval of the AUC, by the variance of each photo's share in it (DeLong et al. 1988)."""
    ranks = rankdata(np.concatenate([negative, positive]))
    below = (ranks[len(negative) :] - rankdata(positive)) / len(negative)
    above = 1 - (ranks[: len(negative)] - rankdata(negative)) / len(positive)
    half = 1.96 * np.sqrt(below.var(ddof=1) / len(positive) + above.var(ddof=1) / len(negative))
    return float(max(0, below.mean() - half)), float(min(1, below.mean() + half))


def summary(shift: CovariateShift | None) -> str:
    """One line: no shift, or which test rows differ by how much."""
    if shift is None:
        return "covariate shift: not tested, too few photos or groups of photos"

    def figures(test: ShiftTest) -> str:
        low, high = test.auc_interval
        return f"AUC {test.auc:.3f} [{low:.3f}, {high:.3f}], p {test.p_value:.3f}"

    if not shift.shifted:
        return f"covariate shift: none, test photos cannot be told from training photos ({figures(shift.overall)})"
    parts = [f"rows {test.rows[0] + 1} to {test.rows[1]} ({figures(test)})" for test in shift.shifted]
    return f"covariate shift: test photos differ from training photos: {'; '.join(parts)}"


def most_shifted_rows(shift: CovariateShift, count: int) -> list[tuple[int, float]]:
    """The test rows (from 0) most unlike the training photos, with their probability of being test photos.

    Of the blocks that have shifted; where none has, of all rows.
    """
    rows: list[tuple[int, float]] = []
    for test in [block for block in shift.blocks if block.shifted] or [shift.overall]:
        rows += zip(range(*test.rows), test.test_probability[len(test.weights) :].tolist(), strict=True)
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:count]


def score_test_like(
    probability: np.ndarray, predicted: np.ndarray, mos: np.ndarray, resamples: int, seed: int
) -> dict | None:
    """The MOS block of the quarter of the labelled training photos with the highest probability of being test photos.

    probability, predicted (out of fold), mos (NaN: no label): float [N].
    """
    labelled = np.flatnonzero(~np.isnan(mos) & ~np.isnan(predicted))
    test_like = labelled[np.argsort(-probability[labelled], kind="stable")[: round(len(labelled) / 4)]]
    return mos_block(predicted[test_like], mos[test_like], resamples, seed)


def write_covariate_shift(
    settings: Settings, table: pd.DataFrame, predictions: pd.DataFrame, has_mos: bool, folder: Path
) -> list[str]:
    """Test whether the test photos differ from the training photos, print and write it; the names of the files.

    table: the photos. predictions: the ensemble's, out of fold. has_mos: the MOS were measured; then the score of the
    training photos that are most like the test photos stands beside it.
    """
    photos, codebook = outputs.photos(settings).folder, outputs.codebook_features(settings)
    features = np.load(photos / "handcrafted.npy")
    if codebook.record():
        features = np.concatenate([features, np.load(codebook.folder / "codes.npy")], axis=1)
    rejected = pd.read_csv(photos / "rejected.csv", dtype=str, keep_default_na=False)["photo_id"]
    readable = ~table["photo_id"].isin(rejected)  # the features of the others are those of a black picture
    train, test = np.flatnonzero(for_training(table)), np.flatnonzero((table["part"] == "test") & readable)
    groups = table["group"].iloc[np.concatenate([train, test])].to_numpy(str)
    shift = detect_covariate_shift(features[train], features[test], groups, settings.run.seed)
    print(summary(shift), flush=True)
    if shift is None:
        write_json(folder / "covariate_shift.json", {"shifted": None, "overall": None, "blocks": []})
        return ["covariate_shift.json"]
    training = table.iloc[train].set_index("photo_id")
    predicted = predictions.set_index("photo_id")["mos"].reindex(training.index).to_numpy(float)
    probability, mos = shift.overall.test_probability[: len(train)], training["mos"].to_numpy(float)
    report: dict = {
        "shifted": bool(shift.shifted),
        "overall": shift.overall.report(),
        "blocks": [block.report() for block in shift.blocks],
        "test_like": None,
    }
    if has_mos:
        bootstrap, seed = settings.metric.bootstrap, settings.run.seed
        report["test_like"] = score_test_like(probability, predicted, mos, bootstrap, seed)
    columns = {"test_probability": probability, "weight": shift.overall.weights}
    columns |= {f"weight_{index}": block.weights for index, block in enumerate(shift.blocks, 1)}
    write_json(folder / "covariate_shift.json", report)
    write_text(folder / "covariate_shift.csv", training[[]].assign(**columns).to_csv(lineterminator="\n"))
    if shift.shifted:
        pixels = np.load(photos / "pixels.npy", mmap_mode="r")
        draw_shifted_photos(most_shifted_rows(shift, 12), table.iloc[test], pixels, folder / "covariate_shift.png")
    return ["covariate_shift.json", "covariate_shift.csv"]
