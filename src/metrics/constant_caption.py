"""The sentence that scores best when every photo gets it: a beam search by edits, from the training captions on."""

import numpy as np

from src.metrics.competition_score import caption_score
from src.metrics.meteor_proxy import Sample, meteor_formula
from src.metrics.ngrams import rouge_f
from src.metrics.reference_tables import ReferenceTables, repeats

VOCABULARY = 250
"""Words, those in most photos, that sentences are made of."""
PHRASES = 150
"""Pairs of such words, those in most photos, that an edit may put in as a whole."""
BEAM = 10
"""Sentences that are edited further."""
SHORTLIST = 50
"""Edits of a sentence that are scored in full; the others are sorted out by `rough`."""
STEPS = 40
"""Rounds of edits at most; the search ends before, when the beam stays as it is."""
STARTS = 2000
"""Training captions scored in full to begin with."""
LENGTHS = range(4, 31)
"""Words in a sentence."""

Sentence = tuple[int, ...]


class ConstantCaptionSearch:
    """Sentences over frequent words and their scores by the weighted formula.

    BLEU and CIDEr-D are exact and over all photos; ROUGE-L and the stand-in for METEOR are over a sample of them.
    """

    def __init__(self, references: list[list[str]], sample: list[list[str]], weights):
        """references: tokenised, of all photos; sample: those of some photos."""
        self.weights = weights
        self.tables = ReferenceTables(references, VOCABULARY)
        self.words = self.tables.words
        self.sample = Sample(sample, self.words)
        self.phrases = self._frequent_pairs()
        self.scores: dict[Sentence, float] = {}
        self._matched, self._weight = self.sample.matched.mean(axis=2), self.sample.weight.mean(axis=2)
        self._follows = self.sample.adjacent.mean(axis=1)

    def _frequent_pairs(self) -> np.ndarray:
        pairs = self.tables.orders[1]
        common = np.lexsort((pairs.keys, -pairs.photos[0]))[:PHRASES]
        return np.column_stack(np.divmod(pairs.keys[common], len(self.words)))

    def run(self, captions: list[str]) -> list[Sentence]:
        """The best sentences found, best first, starting from tokenised captions."""
        self._judge(self._starts(captions))
        beam, edited = self._best(), set()
        for _ in range(STEPS):
            fresh = [sentence for sentence in beam if sentence not in edited]
            if not fresh:
                break
            edited.update(fresh)
            self._judge({edit for sentence in fresh for edit in self._promising(sentence)})
            beam = self._best()
        return beam

    def text(self, sentence: Sentence) -> str:
        """The words of a sentence."""
        return " ".join(self.words[word] for word in sentence)

    def _starts(self, captions: list[str]) -> set[Sentence]:
        """Training captions less the words outside the vocabulary, the most promising of each length."""
        number = {word: i for i, word in enumerate(self.words)}
        known = {tuple(number[word] for word in caption.split() if word in number) for caption in captions}
        groups = _by_length(sentence for sentence in known if len(sentence) in LENGTHS)
        return self._shortlist(groups, STARTS) or {(0,) * LENGTHS[0]}

    def _best(self) -> list[Sentence]:
        return sorted(self.scores, key=lambda sentence: (-self.scores[sentence], sentence))[:BEAM]

    def _judge(self, sentences: set[Sentence]) -> None:
        for block in _by_length(sentences - self.scores.keys()):
            self.scores.update(zip(map(tuple, block.tolist()), self.full(block).tolist(), strict=True))

    def _promising(self, sentence: Sentence) -> set[Sentence]:
        return self._shortlist(edits(np.array(sentence), len(self.words), self.phrases), SHORTLIST)

    def _shortlist(self, blocks: list[np.ndarray], size: int) -> set[Sentence]:
        """The first `size` distinct sentences by `rough` of blocks [sentences, length]."""
        if not blocks:
            return set()
        values = np.concatenate([self.rough(block) for block in blocks])
        ends = np.cumsum([len(block) for block in blocks])
        chosen: dict[Sentence, None] = {}
        for place in np.argsort(-values, kind="stable"):
            block = int(np.searchsorted(ends, place, side="right"))
            chosen[tuple(blocks[block][place - ends[block]].tolist())] = None
            if len(chosen) == size:
                break
        return set(chosen)

    def full(self, sentences: np.ndarray) -> np.ndarray:
        """The formula [sentences] of word numbers [sentences, length], METEOR by its stand-in."""
        return self._formula(sentences, *self.sample.score(sentences))

    def judged(self, sentence: Sentence, meteor: float) -> float:
        """The formula of one sentence with a METEOR that is known."""
        row = np.array([sentence])
        return float(self._formula(row, np.array([meteor]), self.sample.score(row)[1])[0])

    def rough(self, sentences: np.ndarray) -> np.ndarray:
        """The same with METEOR and ROUGE-L from mean counts, as if words were spread evenly over the photos."""
        at = np.minimum(repeats(sentences), 1), sentences
        count, weight = self._matched[at].sum(axis=1), self._weight[at].sum(axis=1)
        rows = self.sample.pair_row[sentences[:, :-1], sentences[:, 1:]]
        chunks = np.maximum(count - self._follows[rows].sum(axis=1), np.minimum(count, 0.1))
        possible, wanted = self.sample.worth[sentences].sum(axis=1), self.sample.possible.mean()
        meteor = meteor_formula(weight, possible, wanted, chunks, count)
        return self._formula(sentences, meteor, rouge_f(count / sentences.shape[1], count / self.sample.lengths.mean()))

    def _formula(self, sentences: np.ndarray, meteor: np.ndarray, rouge: np.ndarray) -> np.ndarray:
        bleu, cider = self.tables.score(sentences)
        terms = {"bleu3": bleu[:, 2], "bleu4": bleu[:, 3], "cider_d": cider, "meteor": meteor, "rouge_l": rouge}
        return caption_score(terms, self.weights)


def edits(sentence: np.ndarray, vocabulary: int, phrases: np.ndarray) -> list[np.ndarray]:
    """Sentences one edit away, in blocks of one length: nothing, a word or a phrase in the place of 0 to 2 words,
    or one word moved. Lengths outside LENGTHS are left out."""
    size = len(sentence)
    put = [np.zeros((1, 0), dtype=np.int64), np.arange(vocabulary)[:, None], phrases]
    groups: dict[int, list[np.ndarray]] = {}
    for drop in range(3):
        for new in put:
            length = size - drop + new.shape[1]
            if length in LENGTHS and len(new) and (drop or new.shape[1]):
                groups.setdefault(length, []).extend(_spliced(sentence, at, drop, new) for at in range(size - drop + 1))
    for here in range(size):
        rest = np.delete(sentence, here)
        groups.setdefault(size, []).extend(np.insert(rest, at, sentence[here])[None] for at in range(size))
    return [np.concatenate(blocks) for _, blocks in sorted(groups.items())]


def _spliced(sentence: np.ndarray, at: int, drop: int, new: np.ndarray) -> np.ndarray:
    """The sentence with each row of `new` [rows, words] at a place, where `drop` words go."""
    before, after = sentence[:at], sentence[at + drop :]
    rows = len(new)
    return np.hstack([np.tile(before, (rows, 1)), new, np.tile(after, (rows, 1))])


def _by_length(sentences) -> list[np.ndarray]:
    """Blocks [sentences, length], sorted, one for each length."""
    groups: dict[int, list[Sentence]] = {}
    for sentence in sorted(sentences):
        groups.setdefault(len(sentence), []).append(sentence)
    return [np.array(group) for _, group in sorted(groups.items())]
