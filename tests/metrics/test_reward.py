"""Rewards against pycocoevalcap's scorers, which get the token ids as words."""

import contextlib
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from src.base.errors import InputError
from src.metrics.meteor import meteor_score
from src.metrics.ngrams import CaptionTokens, encode, inverse_document_frequencies, ngram_tables
from src.metrics.reward import Reward, RewardWeights
from tests.helpers.official_scores import official_scores
from tests.helpers.small_meteor import small_meteor

END = 2
ALL = RewardWeights(cider_d=1.0, bleu3=0.75, bleu4=0.5, rouge_l=0.25)
PHOTOS, SAMPLES = 40, 5


def caption(rng, longest: int) -> list[int]:
    """Nothing but <end> to `longest` words and it, of few words, so that they repeat; now and then never ended."""
    words = (rng.zipf(1.5, size=rng.integers(0, longest + 1)) % 30 + 3).tolist()
    return words if len(words) == longest else [*words, END]


def labels(references: list[list[list[int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, starts and firsts of the references [photos][captions][tokens]."""
    captions = [caption for group in references for caption in group]
    starts = np.cumsum([0, *map(len, captions)])
    firsts = np.cumsum([0, *map(len, references)])
    return np.array([token for caption in captions for token in caption], np.int32), starts, firsts


def padded(captions: list[list[int]], width: int = 30) -> np.ndarray:
    return np.array([[*caption, *[0] * (width - len(caption))] for caption in captions], np.int64)


def text(caption: list[int]) -> str:
    return " ".join(f"w{token}" for token in caption)


def made_up(seed: int):
    """References [photos], 1 to 5 each, and samples [photos][SAMPLES], some of them references cut or copied."""
    rng = np.random.default_rng(seed)
    references = [[caption(rng, 14) for _ in range(rng.integers(1, 6))] for _ in range(PHOTOS)]
    samples = [[caption(rng, 24), caption(rng, 3), [END], group[-1], group[0][2:8] * 2] for group in references]
    return references, samples


def theirs(scorer, references, samples) -> np.ndarray:
    """Scores [photos, SAMPLES] of a class of pycocoevalcap, one sample of each photo at a time."""
    truth = [[text(one) for one in group] for group in references]
    columns = [official_scores(scorer, truth, [text(one) for one in each])[1] for each in zip(*samples, strict=True)]
    return np.array([scores[-1] if isinstance(scorer, Bleu) else scores for scores in columns]).T


@pytest.mark.parametrize("seed", [0, 1])
def test_every_metric_equals_pycocoevalcap_and_the_reward_is_their_weighted_sum(seed):
    references, samples = made_up(seed)
    reward = Reward(*labels(references), np.arange(PHOTOS), ALL)
    rows, tokens = np.repeat(np.arange(PHOTOS), SAMPLES), padded([one for group in samples for one in group])
    parts = reward.parts(rows, tokens)
    expected = {"cider_d": Cider(), "bleu3": Bleu(3), "bleu4": Bleu(4), "rouge_l": Rouge()}
    expected = {name: theirs(scorer, references, samples).ravel() for name, scorer in expected.items()}
    for name, value in expected.items():
        assert np.ptp(value) > 0.5
        np.testing.assert_allclose(parts[name], value, rtol=0, atol=1e-12, err_msg=name)
    total = expected["cider_d"] + 0.75 * expected["bleu3"] + 0.5 * expected["bleu4"] + 0.25 * expected["rouge_l"]
    np.testing.assert_allclose(reward(rows, tokens), total, rtol=0, atol=1e-12)
    for name in expected:
        alone = Reward(
            *labels(references), np.arange(PHOTOS), RewardWeights(**{n: 2.0 * (n == name) for n in expected})
        )
        assert list(alone.parts(rows, tokens)) == [name]
        np.testing.assert_array_equal(alone(rows, tokens), 2 * parts[name])


def test_meteor_is_that_of_the_best_reference(tmp_path):
    """Words that stand once in a caption and match themselves alone leave METEOR itself no choice."""
    rng, words = np.random.default_rng(5), ["", "", "", "", "the", "of", "fo", "ba", "qux", "zed", "mip"]
    orders = rng.permuted(np.tile(np.arange(4, len(words)), (60, 3, 1)), axis=2).tolist()
    captions = [[order[: rng.integers(2, 7)] for order in three] for three in orders]
    references, samples = [group[1:] for group in captions], padded([group[0] for group in captions])
    reward = Reward(*labels(references), np.arange(60), RewardWeights(meteor=2.0), words)
    with contextlib.closing(small_meteor(tmp_path)) as meteor:
        spelt = [[" ".join(words[token] for token in caption) for caption in group] for group in captions]
        counts = meteor.stats([group[1:] for group in spelt], [group[0] for group in spelt])
    expected = meteor_score(counts)
    assert np.ptp(expected) > 0.3
    np.testing.assert_allclose(reward(np.arange(60), samples), 2 * expected, atol=1e-9)


def test_document_frequencies_come_from_the_training_photos_alone():
    references, samples = made_up(2)
    references[0] = []
    training, others = np.arange(PHOTOS // 2), np.arange(PHOTOS // 2, PHOTOS)
    captions = CaptionTokens(*labels(references))
    tables = ngram_tables(captions, inverse_document_frequencies(captions, training))
    for order, table in enumerate(tables, start=1):
        spread: Counter = Counter()
        occurring = set()
        for photo, group in enumerate(references):
            ngrams = {tuple(one[i : i + order]) for one in group for i in range(len(one) - order + 1)}
            spread.update(ngrams if photo in training else ())
            occurring |= ngrams
        packed = {sum(token << 16 * (order - 1 - i) for i, token in enumerate(ngram)): ngram for ngram in occurring}
        assert table.keys.tolist() == sorted(packed)
        expected = [np.log((len(training) - 1) / max(spread[packed[key]], 1)) for key in table.keys.tolist()]
        idf = table.idf.of(np.append(table.keys, np.uint64(2**64 - 1)))
        np.testing.assert_allclose(idf, [*expected, np.log(len(training) - 1)], atol=1e-12)
    scorer = CiderScorer()
    for photo in training[1:]:
        scorer += (None, [text(one) for one in references[photo]])
    scorer.compute_doc_freq()
    scorer.crefs, scorer.ctest = [], []
    for photo in others[1:]:  # as many as documents, whose number the scorer takes from here
        scorer += (text(samples[photo][0]), [text(one) for one in references[photo]])
    ours = Reward(*labels(references), training, ALL).parts(others[1:], padded([samples[i][0] for i in others[1:]]))
    np.testing.assert_allclose(ours["cider_d"], scorer.compute_cider(), rtol=0, atol=1e-12)


def test_a_reward_depends_neither_on_the_batch_nor_on_order_padding_or_numbering():
    references, samples = made_up(3)
    reward = Reward(*labels(references), np.arange(PHOTOS), ALL)
    rows, tokens = np.repeat(np.arange(PHOTOS), SAMPLES), padded([one for group in samples for one in group])
    whole = reward(rows, tokens)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(reward(rows[order], tokens[order]), whole[order], atol=1e-12)
    single = [reward(rows[i : i + 1], tokens[i : i + 1, : (tokens[i] > 0).sum()])[0] for i in range(len(rows))]
    np.testing.assert_allclose(single, whole, atol=1e-12)
    numbers = np.concatenate([[0], 65_535 - np.random.default_rng(1).permutation(40)])  # the largest ids there are
    flat, starts, firsts = labels(references)
    renumbered = Reward(numbers[flat].astype(np.int32), starts, firsts, np.arange(PHOTOS), ALL)
    np.testing.assert_allclose(renumbered(rows, numbers[tokens]), whole, atol=1e-12)


def test_photos_without_references_are_rewarded_0():
    references = [[], [[5, 6, 7, 8, END]], [], [[9, END]], []]
    reward = Reward(*labels(references), np.arange(5), ALL)
    tokens = padded([[5, 6, 7, 8, END]] * 5)
    rewards = reward(np.arange(5), tokens)
    assert rewards[1] == pytest.approx(10 + 0.75 + 0.5 + 0.25) and rewards[3] > 0
    assert rewards[[0, 2, 4]].tolist() == [0, 0, 0]
    assert reward(np.array([4, 0]), tokens[:2]).tolist() == [0, 0]
    empty = Reward(*labels([[], []]), np.arange(2), ALL)
    assert empty(np.arange(2), tokens[:2]).tolist() == [0, 0]
    assert reward(np.array([1, 3]), np.zeros((2, 4), np.int64)).tolist() == [0, 0]  # captions without words


def test_ids_too_large_to_pack_are_refused():
    tokens, starts, firsts = labels([[[5, 6, END]]])
    with pytest.raises(InputError, match=r"65535, but one holds 65536: set vocabulary.maximum_size=65532"):
        Reward(np.array([5, 65_536, END], np.int32), starts, firsts, np.arange(1), ALL)
    reward = Reward(tokens, starts, firsts, np.arange(1), ALL)
    with pytest.raises(InputError, match="70000"):
        reward(np.zeros(1, np.int64), padded([[70_000, END]]))


def test_words_past_the_largest_id_count_as_one():
    ids = {f"w{i}": i + 1 for i in range(65_535)}
    captions = encode([["w0 w65533"], ["new w0", "newer"]], ids)
    assert captions.tokens.tolist() == [1, 65_534, 65_535, 1, 65_535] and captions.photo.tolist() == [0, 1, 1]


@pytest.mark.slow
def test_memory_does_not_grow_from_call_to_call():
    references, samples = made_up(4)
    reward = Reward(*labels(references), np.arange(PHOTOS), ALL)
    rows, tokens = np.arange(4), padded([group[0] for group in samples[:4]])
    for _ in range(100):
        reward(rows, tokens)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(1000):
            reward(rows, np.where(tokens > 2, (tokens + i) % 60_000 + 3, tokens))  # never the same n-grams
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000  # lists of free blocks fill up; an array that each call leaves behind is more
