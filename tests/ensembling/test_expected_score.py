"""Expected scores against pycocoevalcap's classes, minimum Bayes risk decoding against brute force."""

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge
from scipy.stats import spearmanr

from src.ensembling.expected_score import ExpectedScorer, ExpectedScores, PseudoReferences, gain_in_corpus
from src.ensembling.mbr import EvidenceSource, best_candidates, first_largest
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


def pairs(scorer: ExpectedScorer, candidates, evidence) -> list[np.ndarray]:
    """The formula of each candidate against each piece of evidence, by photo: [candidates, evidence]."""
    one = np.ones(1)
    return [
        np.stack([scorer.expected([texts], [PseudoReferences([each], one)]).caption_score for each in references], 1)
        for texts, references in zip(candidates, evidence, strict=True)
    ]


def corpus_score(expected: ExpectedScores, weights) -> float:
    """The formula of a corpus of such captions, one a photo, BLEU and METEOR from their summed counts."""
    bleu = bleu_scores(expected.bleu.sum(axis=0))
    terms = {"cider_d": expected.cider_d.mean(), "rouge_l": expected.rouge_l.mean(), "bleu3": bleu[2], "bleu4": bleu[3]}
    return float(caption_score({**terms, "meteor": proxy_score(expected.meteor.sum(axis=0))}, weights))


def test_pairs_are_the_exact_formula_without_meteor():
    training, candidates, evidence = made_up(0)
    found = pairs(ExpectedScorer(training, WITHOUT_METEOR), candidates, evidence)
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
    exact = score_captions(training, [group[0] for group in said], tokenized=True, meteor=meteor).totals()
    assert corpus_score(expected, WITHOUT_METEOR) == pytest.approx(caption_score(exact, WITHOUT_METEOR), abs=1e-9)
    monkeypatch.setattr("src.ensembling.expected_score._PAIRS", 3)
    again = utility.expected(said, references)
    np.testing.assert_allclose(again.caption_score, expected.caption_score, atol=1e-12)
    np.testing.assert_allclose(again.bleu, expected.bleu)


def test_the_proxy_ranks_captions_as_meteor_does(meteor):
    _, candidates, evidence = made_up(2, photos=40)
    only = CaptionWeights(cider_d=0, meteor=1, bleu=0, rouge_l=0)
    found = pairs(ExpectedScorer(evidence, only), candidates, evidence)
    both = [(c, r) for said, group in zip(candidates, evidence, strict=True) for c in said for r in group]
    exact = meteor_score(meteor.stats([[reference] for _, reference in both], [one for one, _ in both]))
    assert spearmanr(exact, np.concatenate([matrix.ravel() for matrix in found])).statistic > 0.94
    similar = [["a dark sky"], ["the dark shadows"]], [["a dark sky"], ["the dark shadow"]]
    alike = pairs(ExpectedScorer(evidence, only), *similar)
    counts = meteor.stats([["a dark sky"], ["the dark shadow"]], ["a dark sky", "the dark shadows"])
    np.testing.assert_allclose([alike[0][0, 0], alike[1][0, 0]], meteor_score(counts), atol=1e-9)


def test_expected_scores_are_weighted_means():
    training, candidates, evidence = made_up(3)
    utility, rng = ExpectedScorer(training, CaptionWeights()), np.random.default_rng(0)
    shared = [rng.random(len(group)) for group in evidence]
    own = [rng.random((len(said), len(group))) for said, group in zip(candidates, evidence, strict=True)]
    matrices = pairs(utility, candidates, evidence)
    for weights in (shared, own):
        given = [PseudoReferences(*each) for each in zip(evidence, weights, strict=True)]
        means = [
            (matrix * w).sum(1) / (w * np.ones_like(matrix)).sum(1) for matrix, w in zip(matrices, weights, strict=True)
        ]
        np.testing.assert_allclose(utility.expected(candidates, given).caption_score, np.concatenate(means), atol=1e-12)


def test_the_gain_in_a_corpus_is_what_a_caption_changes_in_it():
    """Exchange one caption in a large corpus: the score moves by the difference of their gains."""
    training, candidates, evidence = made_up(4, photos=30)
    utility = ExpectedScorer(training, CaptionWeights())
    expected = utility.expected(candidates, [PseudoReferences(group, np.ones(len(group))) for group in evidence])
    firsts = np.cumsum([0, *map(len, candidates)])[:-1]
    many = np.tile(firsts, 200)
    corpus = expected.select(many)
    gain = gain_in_corpus(expected, corpus, CaptionWeights())
    for photo, first in enumerate(firsts.tolist()):
        other = many.copy()
        other[photo] = first + 1
        change = corpus_score(expected.select(other), CaptionWeights()) - corpus_score(corpus, CaptionWeights())
        assert change * len(many) == pytest.approx(gain[first + 1] - gain[first], abs=0.02)


# --- minimum Bayes risk ------------------------------------------------------------------------------------------


def test_the_evidence_leaves_a_candidate_s_own_group_out():
    own = EvidenceSource(["a", "c", "d"], weights=[1, 1, 2]).leaving_one_out(["b", "a", "c", "d"])
    assert own.captions == ["a", "c", "d"]
    whole = [0.25, 0.25, 0.5]
    np.testing.assert_allclose(own.weights, [whole, [0, 0.25, 0.5], [0.25, 0, 0.5], [0.25, 0.25, 0]])
    grouped = EvidenceSource(["e", "f", "g"], groups=[7, 7, 8]).leaving_one_out(["e", "f", "g"]).weights
    np.testing.assert_allclose(grouped, np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]]) / 3)
    np.testing.assert_allclose(EvidenceSource(["e"]).leaving_one_out(["e"]).weights, [[1]])


def test_a_caption_that_was_drawn_twice_is_evidence_for_itself_once():
    drawn = EvidenceSource(["a", "b", "a", "a"]).leaving_one_out(["a", "b"])
    np.testing.assert_allclose(drawn.weights, np.array([[0, 1, 1, 1], [1, 0, 1, 1]]) / 4)


def problems_of(seed: int, photos: int = 12):
    """Training captions, and by photo the candidates and the evidence for them."""
    training, candidates, evidence = made_up(seed, photos)
    candidates = [list(dict.fromkeys(texts)) for texts in candidates]
    pairs = zip(candidates, evidence, strict=True)
    return training, candidates, [EvidenceSource(group).leaving_one_out(texts) for texts, group in pairs]


def test_expected_scores_of_candidates_are_those_under_their_own_evidence():
    training, candidates, evidence = problems_of(5)
    scorer = ExpectedScorer(training, CaptionWeights())
    scores = scorer.expected(candidates, evidence).caption_score
    one_by_one = [
        scorer.expected([[text]], [PseudoReferences(references.captions, references.weights[i])]).caption_score[0]
        for texts, references in zip(candidates, evidence, strict=True)
        for i, text in enumerate(texts)
    ]
    np.testing.assert_allclose(scores, one_by_one, atol=1e-12)


def test_the_choice_for_the_corpus_expects_more_of_the_corpus():
    training, candidates, evidence = problems_of(6, photos=60)
    weights = CaptionWeights(cider_d=0.0)  # which would decide alone
    expected, sizes = ExpectedScorer(training, weights).expected(candidates, evidence), list(map(len, candidates))
    by_itself = first_largest(expected.caption_score, np.cumsum(sizes))
    for_corpus = best_candidates([expected], sizes, weights)
    reached = [corpus_score(expected.select(places), weights) for places in (by_itself, for_corpus)]
    assert reached[1] > reached[0]


def test_only_allowed_candidates_are_chosen():
    training, candidates, evidence = problems_of(7)
    scorer = ExpectedScorer(training, CaptionWeights())
    sizes = list(map(len, candidates))
    allowed = np.random.default_rng(0).random(sum(sizes)) < 0.5
    allowed[np.cumsum([0, *sizes])[:-1]] |= True
    chosen = best_candidates([scorer.expected(candidates, evidence)], sizes, scorer.weights, allowed)
    assert allowed[chosen].all() and len(chosen) == len(candidates)
