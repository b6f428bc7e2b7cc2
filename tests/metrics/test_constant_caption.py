"""The best constant sentence, and the scores of constant sentences against pycocoevalcap."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.base.errors import InputError
from src.metrics.caption_scores import score_captions, tokenize
from src.metrics.competition_score import caption_score
from src.metrics.constant_caption import constant_sentence, constant_sentences, edits
from src.metrics.constant_scores import NgramScorer, ProxyScorer, repeats
from src.metrics.meteor import Meteor, meteor_score, shared_meteor
from src.settings.schema import CaptionWeights
from tests.helpers.official_scores import official_scores

COMMENTS = Path(__file__).parents[3] / "shared" / "data" / "dacon_comments.csv"
WORDS = ["fo", "ba", "qux", "zed", "mip", "tak", "lor"]


def made_up(photos: int, most: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [
        [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(rng.integers(1, most + 1))]
        for _ in range(photos)
    ]


def test_repeats_are_the_earlier_occurrences_in_the_sentence():
    words, pairs, triples = repeats(np.array([[4, 4, 7, 4, 4], [1, 2, 3, 1, 300]]), 3)
    assert words.tolist() == [[0, 1, 0, 2, 3], [0, 0, 0, 1, 0]]
    assert pairs.tolist() == [[0, 0, 0, 1], [0] * 4] and triples.tolist() == [[0] * 3] * 2


def test_constant_sentences_are_scored_as_pycocoevalcap_does():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references, rng = made_up(40, 3, seed=1), np.random.default_rng(2)
    scorer = NgramScorer(references, vocabulary=5)
    assert len(scorer.words) == 5
    sample = ProxyScorer(references, scorer.words)
    for length in (1, 2, 4, 9):
        # No word more often than the tables can count.
        rows = np.array([rng.permutation(np.repeat(np.arange(5), 3))[:length] for _ in range(6)])
        bleu, cider = scorer.score(rows)
        rouge = sample.score(rows)[1]
        for row, *ours in zip(rows, bleu, cider, rouge, strict=True):
            sentence = " ".join(scorer.words[word] for word in row)
            assert ours[0] == pytest.approx(official_scores(Bleu(4), references, [sentence] * 40)[0], abs=1e-9)
            assert ours[1] == pytest.approx(official_scores(Cider(), references, [sentence] * 40)[0], abs=1e-9)
            assert ours[2] == pytest.approx(official_scores(Rouge(), references, [sentence] * 40)[0], abs=1e-6)


def test_the_proxy_is_meteor_where_words_only_match_themselves(meteor):
    rng = np.random.default_rng(0)
    references = [[" ".join(rng.permutation(WORDS)[: rng.integers(1, 7)]) for _ in range(2)] for _ in range(30)]
    sample = ProxyScorer(references, WORDS)
    rows = np.array([rng.permutation(len(WORDS))[:4] for _ in range(5)])
    for row, ours in zip(rows, sample.score(rows)[0], strict=True):
        counts = meteor.stats(references, [" ".join(WORDS[word] for word in row)] * len(references))
        # Of two references that score the same METEOR may count the other.
        assert ours == pytest.approx(float(meteor_score(counts.sum(axis=0))), rel=0.02)


def test_edits_insert_remove_replace_and_move():
    edited = {tuple(row) for block in edits(np.array([0, 1, 2, 3, 4]), 6, np.array([[5, 5]])) for row in block.tolist()}
    assert {(0, 1, 2, 3), (5, 0, 1, 2, 3, 4), (0, 1, 5, 3, 4), (1, 2, 3, 4, 0)} <= edited
    assert {(0, 1, 5, 5, 2, 3, 4), (0, 5, 5, 3, 4)} <= edited
    assert () not in {tuple(row) for block in edits(np.array([0]), 6, np.array([[5, 5]])) for row in block.tolist()}


def test_where_people_write_two_words_so_does_the_constant_sentence(meteor):
    rng = np.random.default_rng(0)
    said = ["nice photo"] * 4 + ["blurry", "very dark", "sky", "good light", "nice light", "dark photo"]
    references = [[str(rng.choice(said))] for _ in range(60)]
    assert constant_sentence(references, CaptionWeights(), tokenized=True, meteor=meteor).sentence == "nice photo"


def exact(sentence: str, references: list[list[str]], meteor: Meteor) -> float:
    scores = score_captions(references, [sentence] * len(references), tokenized=True, meteor=meteor)
    return caption_score(scores.totals(), CaptionWeights())


@pytest.mark.slow
def test_constant_sentence_beats_every_training_caption(meteor, monkeypatch):
    references = made_up(25, 2, seed=4)
    constant = constant_sentence(references, CaptionWeights(), tokenized=True, meteor=meteor)
    monkeypatch.setattr("src.metrics.constant_caption.usable_processes", lambda _: 2)
    monkeypatch.setattr("src.metrics.constant_caption._FEW_PHOTOS", 0)
    several = constant_sentences([references[:12], references], CaptionWeights(), tokenized=True, meteor=meteor)
    monkeypatch.setattr("src.metrics.constant_caption.usable_processes", lambda _: 1)
    alone = constant_sentence(references[:12], CaptionWeights(), tokenized=True, meteor=meteor)
    assert several == [alone, constant], "side by side as one by one"
    score = exact(constant.sentence, references, meteor)
    assert score == pytest.approx(constant.score, abs=1e-6)
    assert score > max(exact(caption, references, meteor) for group in references for caption in group)


@pytest.mark.parametrize("references", [[["fo"]], [["fo ba", "fo"]], [["fo ba qux zed mip"], [""]]])
def test_constant_sentence_of_next_to_nothing(meteor, references):
    constant = constant_sentence(references, CaptionWeights(), tokenized=True, meteor=meteor)
    assert set(constant.sentence.split()) <= set(WORDS) and constant.sentence and np.isfinite(constant.score)


def test_captions_without_words_are_refused(meteor):
    with pytest.raises(InputError, match="hold no words"):
        constant_sentence([["..."], [""]], CaptionWeights(), meteor=meteor)


@pytest.mark.slow
@pytest.mark.skipif(not COMMENTS.exists(), reason="the real comments are not here")
def test_constant_sentence_of_real_comments_holds_on_unseen_photos():
    frame = pd.read_csv(COMMENTS, dtype=str, keep_default_na=False)
    references = tokenize([list(group) for _, group in frame.groupby("img_name").comments])
    order = np.random.default_rng(0).permutation(len(references))
    seen, unseen = ([references[i] for i in half] for half in np.array_split(order, 2))
    constant = constant_sentence(seen, CaptionWeights(), tokenized=True)
    assert exact(constant.sentence, unseen, shared_meteor()) >= 1.20
