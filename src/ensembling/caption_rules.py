"""Rules for the captions of all photos together: what nobody says is chosen only where a photo has nothing else.

A caption that breaks off ("a photo of the", "a man in a red") or says a word twice running or a pair of words twice may
have the highest expected score: the formula counts matches of single words and pairs too. And the safest sentence may
be the best for many photos, of which it says little. Each rule replaces such captions by the photo's next best
candidates.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from src.ensembling.mbr import RankedCandidates
from src.metrics.diagnostics import breaks_off, repeats

SHARED = 2
"""A sentence may always stand under so many photos, however few there are."""
_KNOWN = 20
_CAPTIONS = 100_000  # whose repeats are remembered
_RARELY = 0.05  # of how often words in general are the last; on Flickr8k colours reach 0 to 0.04 of it, "man" 0.16


@dataclass(frozen=True)
class CaptionRules:
    """What captions may not be."""

    bad_endings: frozenset[str] | None = None
    """Words that may not be the last, nor those that people hardly ever end with; None: any may."""
    repeats: bool = True
    """Whether a word may stand twice running, and a pair of words twice."""
    maximum_share: float = 1.0
    """Of the photos that may have the same sentence; SHARED of them may in any case."""

    def apply(self, photos: Sequence[RankedCandidates], rare: Sequence[frozenset[str]]) -> list[tuple[str, list[str]]]:
        """What each rule in force is called, and the captions of the photos after it, one rule upon the other.

        rare: of each photo, the words that people hardly ever end with.
        """
        steps: list[tuple[str, list[str]]] = []
        if self.bad_endings is not None:
            endings = {words: self.bad_endings | words for words in set(rare)}  # one set a fold
            photos = [
                photo.where([not breaks_off(caption, endings[words]) for caption in photo.captions])
                for photo, words in zip(photos, rare, strict=True)
            ]
            steps.append(("no broken endings", [photo.captions[0] for photo in photos]))
        if not self.repeats:
            repeating = lru_cache(_CAPTIONS)(lambda caption: any(repeats(caption)))
            photos = [photo.where([not repeating(caption) for caption in photo.captions]) for photo in photos]
            steps.append(("no repeated pairs", [photo.captions[0] for photo in photos]))
        if self.maximum_share < 1:
            limit = max(SHARED, int(self.maximum_share * len(photos) + 1e-9))
            name = f"one sentence for at most {100 * self.maximum_share:g}%"
            steps.append((name, limit_sharing(photos, limit)))
        return steps


def rare_endings(captions: Sequence[str]) -> frozenset[str]:
    """Words that people hardly ever end a caption with, such as adjectives; of those that they say often enough."""
    used = Counter(word for caption in captions for word in caption.split())
    last = Counter(caption.split()[-1] for caption in captions if caption)
    rarely = _RARELY * last.total() / max(used.total(), 1)
    return frozenset(word for word, times in used.items() if times >= _KNOWN and last[word] < rarely * times)


def limit_sharing(photos: Sequence[RankedCandidates], limit: int) -> list[str]:
    """The caption of each photo, none more often than `limit` times where the photos have enough others.

    Every photo begins with its first. Of all photos whose caption is too frequent the one that loses least takes its
    next best whose limit is not reached, of equal ones the first photo, until no caption is too frequent.
    """
    captions = [photo.captions[0] for photo in photos]
    counts = Counter(captions)
    moves: list[tuple[float, int, int]] = []  # what it loses, photo, place of its next best

    def propose(photo: int, place: int) -> None:
        ranked = photos[photo].captions
        while place < len(ranked) and counts[ranked[place]] >= limit:
            place += 1
        if place < len(ranked):
            heapq.heappush(moves, (photos[photo].loss(place), photo, place))

    for photo, caption in enumerate(captions):
        if counts[caption] > limit:
            propose(photo, 1)
    # A caption whose limit is reached stays so, and losses grow from place to place: a proposal that is out of date can
    # only have become dearer, and comes up again in its turn.
    while moves:
        _, photo, place = heapq.heappop(moves)
        caption, other = captions[photo], photos[photo].captions[place]
        if counts[caption] <= limit:
            continue
        if counts[other] >= limit:
            propose(photo, place + 1)
            continue
        counts[caption] -= 1
        counts[other] += 1
        captions[photo] = other
    return captions
