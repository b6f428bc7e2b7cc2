"""Expected scores of many photos: the same by any number of processes and in any blocks, kept in files."""

import dataclasses
import itertools
import os

import numpy as np
import pytest

from src.base.worker_pool import few_ahead, thread_pool
from src.ensembling import caption_strategy, evidence, evidence_scores
from src.ensembling.caption_strategy import MIXTURES, CaptionStrategy, StrategySelection
from src.ensembling.evidence import Corpus
from src.ensembling.expected_score import FIELDS, ExpectedScorer, mixed
from src.ensembling.mbr import EvidenceSource, best_candidates
from src.ensembling.regressors import TEST
from src.ensembling.run_predictions import RunCandidates
from src.settings.schema import CaptionWeights

WORDS = [
    "this",
    "photo",
    "is",
    "a",
    "nice",
    "good",
    "lovely",
    "picture",
    "of",
    "the",
    "light",
    "colour",
    "shadow",
    "sky",
    "with",
    "dark",
    "sea",
    "and",
    "hills",
]


def competition(photos: int = 40):
    """A corpus of two folds and test photos, and two runs, whose captioners know words that people never say."""
    rng = np.random.default_rng(0)

    def said(words=WORDS) -> str:
        return " ".join(rng.choice(words, size=rng.integers(2, 9)))

    fold = np.r_[np.arange(photos - 8) % 2, np.full(8, TEST)]
    runs = []
    for name in ("one", "two"):
        own = [*WORDS, f"of {name} alone", "unheard"]
        captions = {k: {int(r): [said(own) for _ in range(r % 5)] for r in np.flatnonzero((fold == k) | (fold == TEST))}
                    for k in (0, 1)}  # fmt: skip
        encoded = {k: rng.normal(size=(photos, 6)).astype(np.float32) for k in (0, 1)}
        runs.append(RunCandidates(name, captions, {}, encoded))
    references = [[said() for _ in range(1 + row % 3)] if fold[row] != TEST else [] for row in range(photos)]
    return Corpus(references, fold, CaptionWeights(), 0, 3, 30), runs


def gathered_evidence(corpus, runs, fold, tmp_path):
    with evidence_scores.scoring_processes(len(corpus.fold)) as scoring:
        return evidence.gather_evidence(corpus, runs, fold, "a constant", tmp_path, scoring)


def everything(gathered):
    """What may be seen of the evidence: numbers, captions, ranks."""
    numbers = [gathered.scores.block(0, sum(gathered.scores.sizes), 0.2, (0.4, 0.1, 0.2, 0.1)).as_table()]
    chosen = []
    for mixture, runs, own in itertools.product(MIXTURES[::2], (1, 2), (True, False)):
        ranked = gathered.rank(mixture, runs, own)
        numbers += [photo.values for photo in ranked]
        chosen.append([gathered.select(mixture, runs, own), [photo.captions for photo in ranked]])
    return gathered.candidates, chosen, np.concatenate([values.ravel() for values in numbers])


@pytest.mark.parametrize("fold", [0, TEST])
def test_blocks_and_processes_change_nothing(fold, monkeypatch, tmp_path):
    corpus, runs = competition()
    captions, chosen, numbers = everything(gathered_evidence(corpus, runs, fold, tmp_path))
    assert {word for texts in captions for text in texts for word in text.split()} > {"unheard", "constant"}
    monkeypatch.setattr(evidence_scores, "_PART", 3)
    monkeypatch.setattr(evidence_scores, "_CAPTIONS", 7)
    monkeypatch.setattr(evidence_scores, "PHOTOS", 5)
    monkeypatch.setattr(evidence, "PHOTOS", 5)
    if fold == 0:  # starting processes takes seconds
        monkeypatch.setattr(evidence_scores, "_FEW", 4)
        monkeypatch.setattr(evidence_scores, "usable_processes", lambda _: 2)
    again = everything(gathered_evidence(corpus, runs, fold, tmp_path))
    assert again[0] == captions and again[1] == chosen
    np.testing.assert_allclose(again[2], numbers, rtol=1e-9, atol=1e-9)
    assert not list(tmp_path.iterdir()), "the files have no name"


def test_kept_scores_are_those_of_the_scorer(tmp_path):
    """Under each kind of evidence and under a mixture, and the best are found in them as in memory."""
    corpus, runs = competition()
    gathered = gathered_evidence(corpus, runs[:1], 0, tmp_path)
    scorer = ExpectedScorer([corpus.references[row] for row in corpus.training_rows(0)], corpus.weights)
    sources = [EvidenceSource(runs[0].of(0, row) or ["a constant"]) for row in gathered.rows]
    left_out = [source.leaving_one_out(texts) for texts, source in zip(gathered.candidates, sources, strict=True)]
    expected = scorer.expected(gathered.candidates, left_out)
    kept = gathered.scores.block(0, sum(gathered.scores.sizes), 0, (1, 0))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(kept, name), getattr(expected, name), atol=1e-12)
    parts = [gathered.scores.block(0, sum(gathered.scores.sizes), *weights) for weights in ((1, (0, 0)), (0, (0, 1)))]
    by_hand = mixed([parts[0], expected, parts[1]], [0.5, 0.375, 0.125])
    (mixture,) = gathered.scores.mixture(0.5, (0.375, 0.125))
    np.testing.assert_allclose(mixture.as_table(), by_hand.as_table(), atol=1e-12)
    chosen = best_candidates([by_hand], gathered.scores.sizes, corpus.weights)
    assert gathered.select(MIXTURES[3], 1) == [
        texts[place - first]
        for texts, place, first in zip(
            gathered.candidates, chosen, np.cumsum([0, *gathered.scores.sizes[:-1]]), strict=True
        )
    ]


def test_a_fold_without_any_captioned_photo_has_no_evidence(tmp_path):
    corpus, runs = competition()
    for row in np.flatnonzero(corpus.fold == 0):
        corpus.references[row] = []
    gathered = gathered_evidence(corpus, runs, 0, tmp_path)
    assert gathered.rows == [] and gathered.select(MIXTURES[0], 1) == []


def test_a_full_disk_is_an_error_and_not_a_signal(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    file = evidence_scores._File(tmp_path)
    file._file = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        file.append(np.zeros((10_000, 18)))


def test_arguments_are_taken_only_a_few_ahead():
    taken = []

    def arguments():
        for number in range(20):
            taken.append(number)
            yield (number,)

    with thread_pool(2) as pool:
        for place, result in enumerate(few_ahead(pool, lambda number: number * 10, arguments(), 3)):
            assert result == place * 10 and len(taken) <= place + 4


def test_a_neighbours_long_caption_is_evidence_alone(tmp_path):
    corpus, runs = competition()
    whole = gathered_evidence(corpus, runs, 0, tmp_path)
    gathered = gathered_evidence(dataclasses.replace(corpus, maximum_words=4), runs, 0, tmp_path)
    kept = []
    for row, texts in zip(whole.rows, whole.candidates, strict=True):
        own = {text for run in runs for text in run.of(0, row)}
        kept.append([text in own or len(text.split()) <= 4 for text in texts])
    assert not all(itertools.chain(*kept))
    assert gathered.candidates == [
        list(itertools.compress(texts, flags)) for texts, flags in zip(whole.candidates, kept, strict=True)
    ]
    of_all, of_kept = (
        each.scores.block(0, sum(each.scores.sizes), 0.2, (0.4, 0.1, 0.2, 0.1)).as_table() for each in (whole, gathered)
    )
    np.testing.assert_array_equal(of_all[list(itertools.chain(*kept))], of_kept)


class CountingMeteor:
    """METEOR's counts of nothing, and how many captions were asked for."""

    def __init__(self):
        self.asked = 0

    def stats(self, references, candidates):
        self.asked += len(candidates)
        return np.ones((len(candidates), 23))


def test_of_many_photos_a_sample_judges(monkeypatch, capsys):
    """The better strategy is still chosen, by a bounded number of photos, alike each time; below the bound by all."""
    rng, fold = np.random.default_rng(0), np.arange(600) % 3
    people = [[" ".join(rng.permutation(WORDS)[:10])] for _ in fold]
    groups = [np.flatnonzero(fold == number).tolist() for number in range(3)]
    corpus = Corpus(people, fold, CaptionWeights(), 0, 3, 30)
    poor, good = (CaptionStrategy(1, mixture) for mixture in MIXTURES[:2])

    def select():
        meteor = CountingMeteor()
        selection = StrategySelection(corpus, groups, meteor)
        for strategy, words in ((poor, 4), (good, 8)):
            selection.add(strategy, [[" ".join(people[r][0].split()[:words]) for r in group] for group in groups])
        assert selection.select([[poor], [poor, good]]) == (good, [good] * 600)
        return meteor.asked, selection.judging.tolist()

    whole = select()
    assert whole == (1200, list(range(600))) and "judged" not in capsys.readouterr().out
    monkeypatch.setattr(caption_strategy, "JUDGING", 90)
    asked, judging = select()
    assert "caption strategies are judged on 90 of 600 photos" in capsys.readouterr().out
    assert asked == 180 and len(set(judging)) == 90 and select() == (asked, judging)
    assert set(fold[sum(groups, [])][judging]) == {0, 1, 2}
