"""Expected scores against pycocoevalcap's classes, the choice by consensus against brute force."""

from collections import Counter

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge
from scipy.stats import spearmanr

from src.ensembling.expected_score import ExpectedScorer, ExpectedScores, PseudoReferences, corpus_worth
from src.ensembling.mbr import EvidenceSource, consensus, pool
from src.ensembling.rewriting import rewrite
from src.metrics.bleu_cider import bleu_scores
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.meteor import meteor_score
from src.metrics.meteor_proxy import proxy_score
from src.settings.schema import CaptionWeights

WITHOUT_METEOR = CaptionWeights(meteor=0.0)
TEXT = "this photo is a nice good lovely picture of the light colors colour shadows shadow sky with dark"
WORDS = TEXT.split()


FREQUENCIES = 1 / np.arange(1, len(WORDS) + 1)


def caption(rng, longest: int = 14) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(1, longest), p=FREQUENCIES / FREQUENCIES.sum()))


def made_up(seed: int, photos: int = 12):
    """Training captions by photo, candidates and evidence by photo, of uneven numbers."""
    rng = np.random.default_rng(seed)
    groups = [[[caption(rng) for _ in range(rng.integers(1, most))] for _ in range(photos)] for most in (4, 6, 7)]
    return groups[0], [[*group, "unheard of", group[0]] for group in groups[1]], groups[2]


def theirs(training, candidate: str, reference: str) -> float:
    """The formula without METEOR of one caption and one reference by pycocoevalcap's scorers."""
    truth, said = {0: [reference]}, {0: [candidate]}
    bleu = Bleu(4).compute_score(truth, said, verbose=0)[0]
    rouge = Rouge().compute_score(truth, said)[0]
    scorer = CiderScorer()
    for group in training:
        scorer += (None, group)
    scorer.compute_doc_freq()
    documents = len(scorer.crefs)
    scorer.crefs, scorer.ctest = [], []
    scorer += (candidate, [reference])
    scorer.crefs *= documents  # their number comes from here
    scorer.ctest *= documents
    cider = scorer.compute_cider()[0]
    return 4 * cider + 2 * (bleu[3] + bleu[2]) / 2 + rouge


def corpus_score(expected: ExpectedScores, weights) -> float:
    """The formula of a corpus of such captions, one a photo, BLEU and METEOR from their summed counts."""
    bleu = bleu_scores(expected.bleu.sum(axis=0))
    terms = {"cider_d": expected.cider_d.mean(), "rouge_l": expected.rouge_l.mean(), "bleu3": bleu[2], "bleu4": bleu[3]}
    return float(caption_score({**terms, "meteor": proxy_score(expected.meteor.sum(axis=0))}, weights))


def test_pairs_are_the_exact_formula_without_meteor():
    training, candidates, evidence = made_up(0)
    found = ExpectedScorer(training, WITHOUT_METEOR).pairs(candidates, evidence)
    for ours, said, references in zip(found, candidates, evidence, strict=True):
        expected = [[theirs(training, one, other) for other in references] for one in said]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
    assert max(matrix.max() for matrix in found) > 10 and len({matrix.shape for matrix in found}) > 3


def test_a_corpus_scores_as_the_exact_scorer_says_and_blocks_change_nothing(meteor, monkeypatch):
    _, candidates, evidence = made_up(1, photos=30)
    training = [group[:1] for group in evidence]  # the scorer's own documents
    utility = ExpectedScorer(training, WITHOUT_METEOR)
    said, references = [group[:1] for group in candidates], [PseudoReferences(each, np.ones(1)) for each in training]
    expected = utility.expected(said, references)
    exact = score_captions(training, [group[0] for group in said], meteor, tokenized=True).totals()
    assert corpus_score(expected, WITHOUT_METEOR) == pytest.approx(caption_score(exact, WITHOUT_METEOR), abs=1e-9)
    monkeypatch.setattr("src.ensembling.expected_score._AT_ONCE", 3)
    again = utility.expected(said, references)
    np.testing.assert_allclose(again.sentence, expected.sentence, atol=1e-12)
    np.testing.assert_allclose(again.bleu, expected.bleu)


def test_the_proxy_ranks_captions_as_meteor_does(meteor):
    _, candidates, evidence = made_up(2, photos=40)
    only = CaptionWeights(cider_d=0, meteor=1, bleu=0, rouge_l=0)
    found = ExpectedScorer(evidence, only).pairs(candidates, evidence)
    pairs = [(c, r) for said, group in zip(candidates, evidence, strict=True) for c in said for r in group]
    exact = meteor_score(meteor.stats([[reference] for _, reference in pairs], [one for one, _ in pairs]))
    assert spearmanr(exact, np.concatenate([matrix.ravel() for matrix in found])).statistic > 0.94
    alike = ExpectedScorer(evidence, only).pairs(
        [["a dark sky"], ["the dark shadows"]], [["a dark sky"], ["the dark shadow"]]
    )
    counts = meteor.stats([["a dark sky"], ["the dark shadow"]], ["a dark sky", "the dark shadows"])
    np.testing.assert_allclose([alike[0][0, 0], alike[1][0, 0]], meteor_score(counts), atol=1e-9)


def test_expected_scores_are_weighted_means():
    training, candidates, evidence = made_up(3)
    utility, rng = ExpectedScorer(training, CaptionWeights()), np.random.default_rng(0)
    shared = [rng.random(len(group)) for group in evidence]
    own = [rng.random((len(said), len(group))) for said, group in zip(candidates, evidence, strict=True)]
    matrices = utility.pairs(candidates, evidence)
    for weights in (shared, own):
        given = [PseudoReferences(*each) for each in zip(evidence, weights, strict=True)]
        means = [
            (matrix * w).sum(1) / (w * np.ones_like(matrix)).sum(1) for matrix, w in zip(matrices, weights, strict=True)
        ]
        np.testing.assert_allclose(utility.expected(candidates, given).sentence, np.concatenate(means), atol=1e-12)


def test_worth_in_a_corpus_is_what_a_caption_changes_in_it():
    """Exchange one caption in a large corpus: the score moves by the difference of their worths."""
    training, candidates, evidence = made_up(4, photos=30)
    utility = ExpectedScorer(training, CaptionWeights())
    expected = utility.expected(candidates, [PseudoReferences(group, np.ones(len(group))) for group in evidence])
    firsts = np.cumsum([0, *map(len, candidates)])[:-1]
    many = np.tile(firsts, 200)
    corpus = expected.select(many)
    worth = corpus_worth(expected, corpus, CaptionWeights())
    for photo, first in enumerate(firsts.tolist()):
        other = many.copy()
        other[photo] = first + 1
        change = corpus_score(expected.select(other), CaptionWeights()) - corpus_score(corpus, CaptionWeights())
        assert change * len(many) == pytest.approx(worth[first + 1] - worth[first], abs=0.02)


# --- consensus ---------------------------------------------------------------------------------------------------


def test_a_pool_holds_what_voices_say_and_no_candidate_speaks_for_itself():
    said = pool([
        EvidenceSource(["b", "a", "", "a"]),
        EvidenceSource(["a", "c", "d"], share=0.5, weights=[1, 1, 2]),
        EvidenceSource(["e", "f", "g"], share=1.5, sources=[7, 7, 8], candidates=False),
    ])  # fmt: skip
    assert said.candidates == ["b", "a", "c", "d"] and said.evidence.captions == ["a", "c", "d", "e", "f", "g"]
    whole = [0.125, 0.125, 0.25, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(said.evidence.weights[0], whole)
    for candidate, own in ((1, 0), (2, 1), (3, 2)):
        np.testing.assert_allclose(said.evidence.weights[candidate], np.where(np.arange(6) == own, 0, whole))
    together = pool([EvidenceSource(["e", "f", "g"], share=1, sources=[7, 7, 8])]).evidence.weights
    np.testing.assert_allclose(together, np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]) / 3)
    np.testing.assert_allclose(pool([EvidenceSource(["e"], share=1)]).evidence.weights, [[1]])
    with pytest.raises(ValueError, match="no candidate or no evidence"):
        pool([EvidenceSource(["e"])])


def pools_of(seed: int, photos: int = 12):
    training, candidates, evidence = made_up(seed, photos)
    voices = zip(candidates, evidence, strict=True)
    return training, [
        pool([EvidenceSource(said), EvidenceSource(group, 1, candidates=False)]) for said, group in voices
    ]


def test_consensus_is_the_caption_with_the_highest_expected_score():
    training, pools = pools_of(5)
    utility = ExpectedScorer(training, CaptionWeights())
    choice = consensus(pools, utility, corpus=False)
    for each, caption, reached in zip(pools, choice.captions, choice.expected.sentence, strict=True):
        own = [utility.expected([[one]], [PseudoReferences(each.evidence.captions, each.evidence.weights[i])]).sentence[0]
               for i, one in enumerate(each.candidates)]  # fmt: skip
        assert caption == each.candidates[int(np.argmax(own))] and reached == pytest.approx(max(own))


def test_consensus_for_the_corpus_expects_more_of_the_corpus_and_rewriting_more_still():
    training, pools = pools_of(6, photos=60)
    weights = CaptionWeights(cider_d=0.0)  # which would decide alone
    utility = ExpectedScorer(training, weights)
    alone, together = (consensus(pools, utility, corpus) for corpus in (False, True))
    rewritten = rewrite(together, pools, utility)
    reached = [corpus_score(each.expected, weights) for each in (alone, together)]
    assert reached[1] > reached[0]
    everything = [PseudoReferences(each.evidence.captions, each.evidence.weights.max(axis=0)) for each in pools]
    start = corpus_score(utility.expected([[one] for one in together.captions], everything), weights)
    assert corpus_score(rewritten.expected, weights) > start
    assert rewritten.captions == rewrite(together, pools, utility).captions != together.captions
    for each, caption in zip(pools, rewritten.captions, strict=True):
        words = Counter(word for one in [*each.evidence.captions, *each.candidates] for word in one.split())
        assert caption and set(caption.split()) <= set(words)
