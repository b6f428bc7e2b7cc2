"""What is reached without looking at photos properly: the best constant sentence, and a MOS from handcrafted features."""

from dataclasses import dataclass

import numpy as np

from src.base.errors import InputError
from src.base.randomness import fold_in
from src.metrics.caption_scores import tokenize
from src.metrics.constant_caption import ConstantCaptionSearch
from src.metrics.meteor import Meteor, meteor_score

SAMPLE = 1000
"""Photos on which ROUGE-L and METEOR of a constant sentence are estimated."""


@dataclass(frozen=True)
class ConstantCaption:
    """One sentence for every photo."""

    sentence: str
    """In tokens, lower case, without punctuation."""
    score: float
    """Its caption score on the references that it was searched on, ROUGE-L and METEOR from a sample of them."""


def constant_sentence(
    references: list[list[str]], weights, meteor: Meteor, seed: int = 0, tokenized: bool = False
) -> ConstantCaption:
    """The sentence that scores best by the weighted formula when every photo gets it, found by search.

    A beam search by edits starts from the captions themselves. It knows BLEU and CIDEr-D of any sentence exactly
    from n-gram statistics of all references, ROUGE-L exactly on at most SAMPLE photos, and METEOR there by a
    stand-in; METEOR itself judges the sentences that come out best. Equal arguments give the same sentence.

    references: captions of each photo; tokenized: they went through `tokenize` already.
    Raises InputError where they hold no words.
    """
    references = references if tokenized else tokenize(references)
    references = [group for group in ([text for text in texts if text] for texts in references) if group]
    if not references:
        raise InputError("the training captions hold no words, so there is no constant sentence; leave them out")
    order = np.random.default_rng(fold_in(seed, "constant sentence")).permutation(len(references))
    sample = [references[i] for i in np.sort(order[:SAMPLE])]
    search = ConstantCaptionSearch(references, sample, weights)
    beam = search.run([caption for group in references for caption in group])
    texts = [search.text(sentence) for sentence in beam]
    stable = [text == again for text, again in zip(texts, tokenize([texts])[0], strict=True)]
    finalists = [sentence for sentence, kept in zip(beam, stable, strict=True) if kept] or beam[:1]
    scores = [search.judged(sentence, _meteor_of(search.text(sentence), sample, meteor)) for sentence in finalists]
    best = int(np.argmax(scores))
    return ConstantCaption(search.text(finalists[best]), scores[best])


def _meteor_of(sentence: str, references: list[list[str]], meteor: Meteor) -> float:
    return float(meteor_score(meteor.stats(references, [sentence] * len(references)).sum(axis=0)))


def ridge(features_train, mos_train, features_test) -> np.ndarray:
    """MOS [test photos] by ridge regression on standardised features, its strength by leave-one-out validation.

    features: [photos, features], NaN allowed (the median takes its place); training photos without MOS are left out.
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


def boosting(features_train, mos_train, features_test, seed: int = 0) -> np.ndarray:
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


def _usable(features_train, mos_train, features_test) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
