"""Rules for captions: against a plain search for the cheapest exchange, and on captions that break them."""

import numpy as np

from src.ensembling.caption_rules import SHARED, CaptionRules, limit_sharing, rare_endings
from src.ensembling.mbr import RankedCandidates, ranked_candidates

ALL = CaptionRules(bad_endings=frozenset({"of", "the"}), repeats=False, maximum_share=0.05)


def candidates_of(seed: int, photos: int = 60, sentences: int = 12) -> list[RankedCandidates]:
    """Sentences of which a few are favourites, with whole values, so that many are equal."""
    rng = np.random.default_rng(seed)
    bonus = np.arange(sentences)[::-1] // 2
    groups, values = [], []
    for _ in range(photos):
        places = rng.permutation(sentences)[: rng.integers(1, sentences)]
        groups.append([f"sentence {place}" for place in places])
        values.append(bonus[places] + rng.integers(0, 4, len(places)))
    ranked = ranked_candidates(groups, np.concatenate(values).astype(float), np.ones(sum(map(len, groups)), bool))
    # some begin with another than the best, as where a search wrote them
    return [photo.starting_with(photo.captions[-1]) if i % 5 == 0 else photo for i, photo in enumerate(ranked)]


def exchanged_one_by_one(photos: list[RankedCandidates], limit: int) -> list[str]:
    """The cheapest exchange of all, looked for anew each time."""
    captions = [photo.captions[0] for photo in photos]
    while True:
        cheapest = min(
            (
                (photo.values[0] - value, i, -value, place)
                for i, photo in enumerate(photos)
                if captions.count(captions[i]) > limit
                for place, (caption, value) in enumerate(zip(photo.captions, photo.values, strict=True))
                if captions.count(caption) < limit
            ),
            default=None,
        )
        if cheapest is None:
            return captions
        captions[cheapest[1]] = photos[cheapest[1]].captions[cheapest[3]]


def test_frequent_sentences_are_given_up_where_they_gain_least():
    changed = 0
    for seed in range(12):
        for limit in (2, 5, 8):
            photos = candidates_of(seed)
            captions = limit_sharing(photos, limit)
            assert captions == exchanged_one_by_one(photos, limit) == limit_sharing(photos, limit)
            changed += captions != [photo.captions[0] for photo in photos]
            moved = {photo.captions[0] for photo, caption in zip(photos, captions, strict=True)
                     if caption != photo.captions[0]}  # fmt: skip
            assert all(captions.count(sentence) >= limit for sentence in moved)
    assert changed > 20


def test_a_photo_without_another_caption_keeps_its_own():
    only = RankedCandidates(["a photo of the"], np.zeros(1), np.ones(1, bool))
    assert limit_sharing([only] * 5, 2) == ["a photo of the"] * 5
    assert [captions for _, captions in ALL.apply([only] * 5, [frozenset()] * 5)] == [["a photo of the"] * 5] * 3
    photos = [RankedCandidates(["a photo", f"photo {i}"], np.array([1.0, 0.0]), np.ones(2, bool)) for i in range(5)]
    assert ALL.apply(photos, [frozenset()] * 5)[-1][1] == ["photo 0", "photo 1", "photo 2", "a photo", "a photo"]
    assert ALL.apply(photos, [frozenset()] * 5)[-1][1].count("a photo") == SHARED


def test_a_chosen_last_resort_counts_for_what_it_adds():
    groups = [["of one", "the constant"], ["of two", "the constant"]]
    ranked = ranked_candidates(groups, np.array([1.0, 2.0, 1.9, 2.0]), np.array([True, False] * 2))
    assert [photo.captions for photo in ranked] == groups
    chosen = [photo.starting_with("the constant") for photo in ranked]
    assert [photo.value_of("the constant") for photo in chosen] == [2.0, 2.0]
    assert limit_sharing(chosen, 1) == ["the constant", "of two"]


def test_captions_that_break_off_or_say_things_twice_are_not_chosen_where_there_are_others():
    faulty = [
        "a photo of",
        "so clear",
        "the light of the .",
        "very very dark",
        "the photo and the photo",
        "the sky the sky",
    ]
    good = ["a dark photo", "of the light"]
    rng = np.random.default_rng(0)
    groups = [list(rng.permutation(faulty + good)) for _ in range(40)]
    values = np.concatenate([[caption in faulty for caption in group] + rng.random(8) for group in groups])
    photos = ranked_candidates(groups, values, np.ones(len(values), bool))
    assert {photo.captions[0] for photo in photos} == set(faulty)
    rules, endings = CaptionRules(ALL.bad_endings, repeats=False), [frozenset({"clear"})] * 40
    (_, ended), (_, told) = rules.apply(photos, endings)
    assert {*ended} == {*faulty[3:]} and {*told} == {*good}
    # a candidate that the strategy may not choose comes before a faulty one
    allowed = np.array([caption in faulty for group in groups for caption in group])
    last = ranked_candidates(groups, values, allowed)
    assert {*rules.apply(last, endings)[-1][1]} == {*good}
    assert CaptionRules().apply(photos, endings) == []


def test_words_that_people_hardly_ever_end_with_are_learned_from_their_captions():
    people = ["a blue ball"] * 100 + ["the ball is red"] * 30 + ["a dark sky", "an odd sky"] * 15
    assert rare_endings(people) == {"a", "the", "is", "blue"}
    assert rare_endings([*people, "it is blue"]) == {"a", "the", "is", "blue"}
    assert rare_endings([*people, *["it is blue", "the sky is dark"] * 5]) == {"a", "the", "is"}
    assert rare_endings([]) == frozenset()
