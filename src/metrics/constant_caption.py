"""The caption baseline: the sentence that scores best when every photo gets it, by a local beam search over edits."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from src.base.errors import InputError
from src.base.machine import usable_processes
from src.base.randomness import fold_in
from src.base.worker_pool import worker_pool
from src.metrics.caption_scores import tokenize
from src.metrics.competition_score import caption_score
from src.metrics.constant_scores import NgramScorer, ProxyScorer, repeats
from src.metrics.meteor import MeteorCounter, meteor_score, meteor_stats
from src.metrics.meteor_proxy import proxy_formula
from src.metrics.rouge import rouge_f
from src.settings.schema import CaptionWeights

SAMPLE = 1000
"""Photos on which ROUGE-L and METEOR of a constant sentence are estimated."""
VOCABULARY = 250
"""Words that sentences consist of: those in the references of most photos."""
PHRASES = 150
"""Pairs of words that an edit may insert as a whole: those in the references of most photos."""
BEAM = 5
"""Sentences that are edited further."""
SHORTLIST = 50
"""Edits of a sentence that are scored in full, the best ones by `rough`."""
STEPS = 40
"""Rounds of edits at most; the search ends early when the beam does not change."""
STARTS = 2000
"""Training captions that are scored in full at the start."""
LENGTHS = range(1, 41)
"""Words in a sentence."""

_FEW_PHOTOS = 200  # that are searched in less time than a process takes to start

Sentence = tuple[int, ...]


@dataclass(frozen=True)
class ConstantCaption:
    """One sentence for every photo."""

    sentence: str
    """In tokens, lower case, without punctuation."""
    score: float
    """Its caption score on the references that it was searched on, ROUGE-L and METEOR from a sample of them."""


def constant_sentence(
    references: list[list[str]],
    weights: CaptionWeights,
    seed: int = 0,
    tokenized: bool = False,
    meteor: MeteorCounter | None = None,
) -> ConstantCaption:
    """The sentence that scores best by the weighted formula when every photo gets it, found by search.

    A beam search by edits starts from the captions themselves. It scores BLEU and CIDEr-D exactly over all photos,
    ROUGE-L and METEOR's proxy over at most SAMPLE photos; METEOR itself judges the final beam. Equal arguments give
    the same sentence.

    references: captions of each photo; tokenized: they are results of `tokenize`. meteor: as for `meteor_stats`.
    Raises InputError where they hold no words.
    """
    return constant_sentences([references], weights, seed, tokenized, meteor)[0]


def constant_sentences(
    references: list[list[list[str]]],
    weights: CaptionWeights,
    seed: int = 0,
    tokenized: bool = False,
    meteor: MeteorCounter | None = None,
) -> list[ConstantCaption]:
    """The `constant_sentence` of each of several sets of references, searched for side by side on several cores."""
    sets = [photos if tokenized else tokenize(photos) for photos in references]
    sets = [[texts for group in photos if (texts := [text for text in group if text])] for photos in sets]
    if not all(sets):
        raise InputError("the training captions hold no words, so there is no constant sentence; leave them out")
    processes = min(usable_processes(0.5), len(sets))
    if processes < 2 or max(map(len, sets)) < _FEW_PHOTOS:
        return [_best_of(_final_beam(photos, weights, seed), weights, meteor) for photos in sets]
    with worker_pool(processes, "searches for constant sentences") as pool:
        beams = pool.map(_final_beam, sets, [weights] * len(sets), [seed] * len(sets))
        return [_best_of(beam, weights, meteor) for beam in beams]  # while further sets are searched for


@dataclass(frozen=True)
class _FinalBeam:
    """Sentences that were found, the sample of references, and the sentences' scores but for METEOR."""

    sentences: list[str]
    sample: list[list[str]]
    terms: list[dict[str, np.ndarray]]


def _final_beam(references: list[list[str]], weights: CaptionWeights, seed: int) -> _FinalBeam:
    order = np.random.default_rng(fold_in(seed, "constant sentence")).permutation(len(references))
    sample = [references[i] for i in np.sort(order[:SAMPLE])]
    search = ConstantCaptionSearch(references, sample, weights)
    beam = search.run([caption for group in references for caption in group])
    terms = [search.terms(row := np.array([sentence])) | {"rouge_l": search.sample.rouge_l(row)} for sentence in beam]
    return _FinalBeam([search.text(sentence) for sentence in beam], sample, terms)


def _best_of(beam: _FinalBeam, weights: CaptionWeights, meteor: MeteorCounter | None) -> ConstantCaption:
    texts, sample = beam.sentences, beam.sample
    # The sentence is tokenised again when it is scored: one that changes by that would score as another sentence.
    stable = [i for i, again in enumerate(tokenize([texts])[0]) if texts[i] == again] or [0]
    finalists = []
    for i in stable:
        stats = meteor_stats(sample, [texts[i]] * len(sample), meteor).sum(axis=0)
        terms = beam.terms[i] | {"meteor": np.array([float(meteor_score(stats))])}
        finalists.append(ConstantCaption(texts[i], float(caption_score(terms, weights)[0])))
    return max(finalists, key=lambda finalist: finalist.score)


class ConstantCaptionSearch:
    """Sentences of frequent words and their scores by the weighted formula.

    BLEU and CIDEr-D are exact and over all photos; ROUGE-L and METEOR's proxy are over a sample of them.
    """

    def __init__(self, references: list[list[str]], sample: list[list[str]], weights: CaptionWeights):
        """references: tokenised, of all photos; sample: those of some photos."""
        self.weights = weights
        self.ngrams = NgramScorer(references, VOCABULARY)
        self.words = self.ngrams.words
        self.phrases = self.ngrams.frequent_pairs(PHRASES)
        self.sample = ProxyScorer(sample, self.words)
        self.scores: dict[Sentence, float] = {}
        self._mean_matched, self._mean_weight = self.sample.matched.mean(axis=2), self.sample.weight.mean(axis=2)
        self._mean_adjacent = self.sample.adjacent.mean(axis=1)

    def run(self, captions: list[str]) -> list[Sentence]:
        """The best sentences found, best first, starting from tokenised captions."""
        self._judge(self._starts(captions))
        beam, edited = self._best(), set()
        for _ in range(STEPS):
            fresh = [sentence for sentence in beam if sentence not in edited]
            if not fresh:
                break
            edited.update(fresh)
            for sentence in fresh:
                self._judge(self._shortlist(edits(np.array(sentence), len(self.words), self.phrases), SHORTLIST))
            beam = self._best()
        return beam

    def text(self, sentence: Sentence) -> str:
        """The words of a sentence."""
        return " ".join(self.words[word] for word in sentence)

    def _starts(self, captions: list[str]) -> set[Sentence]:
        """The most promising training captions, without the words outside the vocabulary."""
        index = {word: i for i, word in enumerate(self.words)}
        sentences = {tuple(index[word] for word in caption.split() if word in index) for caption in captions}
        groups = _by_length(sentence for sentence in sentences if len(sentence) in LENGTHS)
        return self._shortlist(groups, STARTS) or {(0,) * LENGTHS[0]}

    def _best(self) -> list[Sentence]:
        return sorted(self.scores, key=lambda sentence: (-self.scores[sentence], sentence))[:BEAM]

    def _judge(self, sentences: set[Sentence]) -> None:
        for block in _by_length(sentences - self.scores.keys()):
            self.scores.update(zip(map(tuple, block.tolist()), self.full(block).tolist(), strict=True))

    def _shortlist(self, blocks: list[np.ndarray], size: int) -> set[Sentence]:
        """The first `size` distinct sentences by `rough` of blocks [sentences, length]."""
        if not blocks:
            return set()
        values = np.concatenate([self.rough(block) for block in blocks])
        ends = np.cumsum([len(block) for block in blocks])
        shortlist: set[Sentence] = set()
        for row in np.argsort(-values, kind="stable"):
            block = int(np.searchsorted(ends, row, side="right"))
            shortlist.add(tuple(blocks[block][row - ends[block]].tolist()))
            if len(shortlist) == size:
                break
        return shortlist

    def full(self, sentences: np.ndarray) -> np.ndarray:
        """The formula [sentences] of sentences int [sentences, length], with METEOR's proxy."""
        return self._formula(sentences, *self.sample.score(sentences))

    def rough(self, sentences: np.ndarray) -> np.ndarray:
        """As `full`, with METEOR and ROUGE-L from mean counts, as if matches were spread evenly over the photos."""
        (times,) = repeats(sentences)
        cell = np.minimum(times, 1), sentences
        count, weight = self._mean_matched[cell].sum(axis=1), self._mean_weight[cell].sum(axis=1)
        rows = self.sample.pair_row[sentences[:, :-1], sentences[:, 1:]]
        chunks = np.maximum(count - self._mean_adjacent[rows].sum(axis=1), np.minimum(count, 0.1))
        possible, reference = self.sample.word_weights[sentences].sum(axis=1), self.sample.caption_weights.mean()
        meteor = proxy_formula(weight, possible, reference, chunks, count)
        return self._formula(sentences, meteor, rouge_f(count / sentences.shape[1], count / self.sample.lengths.mean()))

    def _formula(self, sentences: np.ndarray, meteor: np.ndarray, rouge: np.ndarray) -> np.ndarray:
        return caption_score(self.terms(sentences) | {"meteor": meteor, "rouge_l": rouge}, self.weights)

    def terms(self, sentences: np.ndarray) -> dict[str, np.ndarray]:
        """BLEU and CIDEr-D [sentences], exact."""
        bleu, cider = self.ngrams.score(sentences)
        return {"bleu3": bleu[:, 2], "bleu4": bleu[:, 3], "cider_d": cider}


def edits(sentence: np.ndarray, vocabulary: int, phrases: np.ndarray) -> list[np.ndarray]:
    """Sentences one edit away, in blocks [sentences, length] of one length each.

    An edit replaces 0 to 2 words by nothing, a word or a phrase, or moves a word. Lengths outside LENGTHS are left out.
    """
    size = len(sentence)
    groups: dict[int, list[np.ndarray]] = {}
    for removed in range(3):
        for new in (np.zeros((1, 0), dtype=np.int64), np.arange(vocabulary)[:, None], phrases):
            length = size - removed + new.shape[1]
            if length in LENGTHS and len(new) and (removed or new.shape[1]):
                positions = range(size - removed + 1)
                groups.setdefault(length, []).extend(_spliced(sentence, at, removed, new) for at in positions)
    for position in range(size):
        rest = np.delete(sentence, position)
        moved = [np.insert(rest, at, sentence[position])[None] for at in range(size)]
        groups.setdefault(size, []).extend(moved)
    return [np.concatenate(blocks) for _, blocks in sorted(groups.items())]


def _spliced(sentence: np.ndarray, at: int, removed: int, new: np.ndarray) -> np.ndarray:
    """The sentence with each row of `new` [rows, words] in place of `removed` words from position `at` on."""
    before, after = sentence[:at], sentence[at + removed :]
    return np.hstack([np.tile(before, (len(new), 1)), new, np.tile(after, (len(new), 1))])


def _by_length(sentences: Iterable[Sentence]) -> list[np.ndarray]:
    """Blocks [sentences, length], sorted, one for each length."""
    groups: dict[int, list[Sentence]] = {}
    for sentence in sorted(sentences):
        groups.setdefault(len(sentence), []).append(sentence)
    return [np.array(group) for _, group in sorted(groups.items())]
