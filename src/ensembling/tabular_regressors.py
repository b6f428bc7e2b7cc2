"""Ridge regression, the baseline of the MOS, and gradient-boosted trees on tables of features."""

import numpy as np

from src.base.errors import InputError
from src.base.randomness import fold_in


def ridge(features_train: np.ndarray, mos_train: np.ndarray, features_test: np.ndarray) -> np.ndarray:
    """MOS [test photos] by ridge regression on standardised features, its penalty chosen by leave-one-out validation.

    features: [photos, features]; NaN is replaced by the median. Training photos without a MOS are left out.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, mos, wanted = _usable(features_train, mos_train, features_test)
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), RidgeCV(np.logspace(-2, 4, 25))
    )
    return model.fit(features, mos).predict(wanted)


def boosting(features_train: np.ndarray, mos_train: np.ndarray, features_test: np.ndarray, seed: int = 0) -> np.ndarray:
    """MOS [test photos] by gradient-boosted trees on the same features; arguments as for `ridge`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    features, mos, wanted = _usable(features_train, mos_train, features_test)
    model = HistGradientBoostingRegressor(
        learning_rate=0.05,
        max_iter=300,
        max_leaf_nodes=12,
        min_samples_leaf=20,
        l2_regularization=5.0,
        max_features=0.4,
        early_stopping=False,
        random_state=fold_in(seed, "boosting") % 2**32,
    )
    return model.fit(features, mos).predict(wanted)


def _usable(
    features_train: np.ndarray, mos_train: np.ndarray, features_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, wanted = (np.array(values, dtype=np.float64) for values in (features_train, features_test))
    for values in (features, wanted):
        values[~np.isfinite(values)] = np.nan
    mos = np.asarray(mos_train, dtype=np.float64)
    labelled = np.isfinite(mos)
    if labelled.sum() < 2:
        raise InputError(
            f"{labelled.sum()} training photos with a MOS are too few for a baseline; at least 2 are needed"
        )
    return features[labelled], mos[labelled], wanted
