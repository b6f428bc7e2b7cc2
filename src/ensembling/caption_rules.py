"""Rules for the captions of all photos together: what nobody says is chosen only where a photo has nothing else.

A caption that breaks off ("a photo of the") or says a word twice running or a pair of words twice may have the highest
expected score: the formula counts matches of single words and pairs too. And the safest sentence may be the best for
many photos, of which it says little. Each rule replaces such captions by the photo's next best candidates.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from src.ensembling.mbr import RankedCandidates
from src.metrics.diagnostics import breaks_off, repeats

SHARED = 2
"""A sentence may always stand under so many photos, however few there are."""


@dataclass(frozen=True)
class CaptionRules:
    """What captions may not be."""

    bad_endings: frozenset[str] = frozenset()
    """Words that may not be the last; none: any may."""
    repeats: bool = True
    """Whether a word may stand twice running, and a pair of words twice."""
    maximum_share: float = 1.0
    """Of the photos that may have the same sentence; SHARED of them may in any case."""

    def apply(self, photos: Sequence[RankedCandidates]) -> list[tuple[str, list[str]]]:
        """What each rule in force is called, and the captions of the photos after it, one rule upon the other."""
        steps: list[tuple[str, list[str]]] = []
        if self.bad_endings:
            photos = _without(photos, lambda caption: breaks_off(caption, self.bad_endings))
            steps.append(("no caption breaks off", [photo.captions[0] for photo in photos]))
        if not self.repeats:
            photos = _without(photos, lambda caption: any(repeats(caption)))
            steps.append(("no pair of words twice", [photo.captions[0] for photo in photos]))
        if self.maximum_share < 1:
            limit = max(SHARED, int(self.maximum_share * len(photos) + 1e-9))
            name = f"no sentence under over {100 * self.maximum_share:g}%"
            steps.append((name, limit_sharing(photos, limit)))
        return steps


def _without(photos: Sequence[RankedCandidates], faulty: Callable[[str], bool]) -> list[RankedCandidates]:
    """The photos' candidates without faulty ones; a photo that has no other keeps them."""
    faulty = cache(faulty)
    return [photo.where([not faulty(caption) for caption in photo.captions]) for photo in photos]


def limit_sharing(photos: Sequence[RankedCandidates], limit: int) -> list[str]:
    """The caption of each photo, none more often than `limit` times where the photos have enough others.

    Every photo begins with its first. Of all photos whose caption is too frequent the one that loses least takes its
    next best whose limit is not reached, of equal ones the first photo, until no caption is too frequent.
    """
    captions = [photo.captions[0] for photo in photos]
    counts = Counter(captions)
    moves: list[tuple[float, int, int]] = []  # what it loses, photo, place of its next best

    def propose(photo: int, place: int) -> None:
        own = photos[photo]
        while place < len(own.captions) and counts[own.captions[place]] >= limit:
            place += 1
        if place < len(own.captions):
            heapq.heappush(moves, (float(own.values[0] - own.values[place]), photo, place))

    for photo, caption in enumerate(captions):
        if counts[caption] > limit:
            propose(photo, 1)
    # A caption whose limit is reached stays so, and values fall from place to place: a proposal that is out of date can
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
