"""Caption scores against pycocoevalcap and numbers worked out by hand."""

import contextlib
import gzip
import math

import numpy as np
import pytest

from src.base.errors import InputError
from src.metrics import caption_scores, java
from src.metrics.bleu_cider import bleu_scores, compare
from src.metrics.bootstrap import interval
from src.metrics.caption_scores import collapse, score_captions, tokenize
from src.metrics.competition_score import caption_score, resampled_caption_scores
from src.metrics.meteor import STATS, Meteor, meteor_score, shared_meteor
from src.metrics.paraphrases import all_paraphrases, paraphrases_of
from src.metrics.rouge import rouge_l
from src.settings.schema import CaptionWeights
from tests.helpers.official_scores import official_scores
from tests.helpers.small_meteor import paraphrases, standing_tokenizer

WORDS = ["the", "a", "colour", "of", "light", "is", "nice", "very", "photo", "sharp", "but", "i", "like", "blur"]


def made_up(photos: int, seed: int) -> tuple[list[list[str]], list[str]]:
    """Tokenised references (1 to 4 a photo) and candidates of 0 to 14 words, with many repeats."""
    rng = np.random.default_rng(seed)

    def caption(shortest: int) -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(shortest, 15)))

    references = [[caption(1) for _ in range(rng.integers(1, 5))] for _ in range(photos)]
    return references, [caption(0) for _ in range(photos)]


@pytest.fixture
def meteor():
    return shared_meteor()


@pytest.fixture
def java_on_path(monkeypatch):
    """The environment in which pycocoevalcap's own wrappers find Java."""
    for name, value in java.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=UTF-8 -Dstdout.encoding=UTF-8")


def test_bleu_by_hand():
    comparison = compare([["the cat sat on the mat", "a cat was on the mat today"]], ["the the cat on the mat"])
    # Matches: the 2 of 3, cat, on, mat; the-cat, on-the, the-mat; on-the-mat; none of four. Lengths 6 and 6.
    counts = comparison.bleu_counts
    assert counts.tolist() == [[5, 3, 1, 0, 6, 5, 4, 3, 6, 6]]
    bleu = bleu_scores(counts.sum(axis=0))
    assert bleu[:3] == pytest.approx([5 / 6, (5 / 6 * 3 / 5) ** (1 / 2), (5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3)], abs=1e-6)
    short = compare([["a b c d e f"]], ["a b c d"]).bleu_counts.sum(axis=0)
    assert bleu_scores(short)[3] == pytest.approx(math.exp(1 - 6 / 4), abs=1e-6)


def test_of_two_equally_close_references_the_shorter_counts():
    assert compare([["a b c d e f", "a b"]], ["a b c d"]).bleu_counts[0, -1] == 2


def test_rouge_by_hand():
    # Longest common subsequence "a c d": precision 3/4, recall 3/5.
    expected = (1 + 1.44) * 0.75 * 0.6 / (0.6 + 1.44 * 0.75)
    assert rouge_l([["a b c x d"]], ["a c y d"]) == pytest.approx([expected])
    # The best precision and the best recall may come from different references.
    assert rouge_l([["a", "b c d e"]], ["a b c"])[0] == pytest.approx((1 + 1.44) * 2 / 3 / (1 + 1.44 * 2 / 3))


def test_cider_d_by_hand():
    # Two photos; "a", "b" and "c" occur in one each and weigh log 2. First photo: unigrams of candidate
    # b, of reference b b: 1*2 / (1*2) = 1; bigrams: none against "b b", 0; one bigram apart in length.
    got = compare([["b b"], ["a c"]], ["b", "a c"]).cider_d()
    first = 10 / 4 * 1 * math.exp(-1 / 72)
    second = 10 / 4 * (1 + 1)
    assert got == pytest.approx([first, second])
    assert compare([["a b c"]], ["a b c"]).cider_d() == pytest.approx([0])


def test_formula_and_its_weights():
    parts = {"cider_d": 0.1, "meteor": 0.2, "bleu3": 0.3, "bleu4": 0.1, "rouge_l": 0.5}
    assert caption_score(parts, CaptionWeights()) == pytest.approx(4 * 0.1 + 3 * 0.2 + 2 * (0.3 + 0.1) / 2 + 0.5)
    assert caption_score(parts, CaptionWeights(cider_d=1, meteor=0, bleu=0, rouge_l=0)) == pytest.approx(0.1)


ODD = [["", "a"], [""], ["5\u00a01/2 stars", "a b"]], ["", "", "1/2 stars"]
"""Captions without words, and a token with a no-break space, as the tokenizer makes of fractions."""


@pytest.mark.parametrize("captions", [made_up(1, 0), made_up(2, 1), made_up(60, 2), made_up(150, 3), ODD])
def test_counted_metrics_equal_pycocoevalcap(captions):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    comparison = compare(*captions)
    bleu, bleu_by_photo = official_scores(Bleu(4), *captions)
    assert bleu_scores(comparison.bleu_counts.sum(axis=0)) == pytest.approx(bleu, abs=1e-9)
    assert pytest.approx(bleu_by_photo, abs=1e-9) == bleu_scores(comparison.bleu_counts).T
    assert comparison.cider_d() == pytest.approx(official_scores(Cider(), *captions)[1], abs=1e-9)
    assert rouge_l(*captions) == pytest.approx(official_scores(Rouge(), *captions)[1], abs=1e-9)


NASTY = [
    "It's a NICE photo -- isn't it? (yes!) ...",
    "colour and Colours, grey/gray; can't cannot gonna wanna",
    "  blanks   everywhere\t. ",
    "naïve café “quoted” – 5½ €20 & #hashtag @name http://a.b/c?d=e <b>bold</b> :-) 😀",
    "",
    "...",
    "U.S. vs. e.g. 3.14 1,000 12:30 a.m.",
    "the ||| bar |||",
    "[square] {curly} don`t ``quote'' 'single'",
]


def test_tokens_equal_pycocoevalcap(java_on_path):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    try:
        expected = PTBTokenizer().tokenize({i: [{"caption": collapse(text)}] for i, text in enumerate(NASTY)})
    except PermissionError:
        pytest.skip("pycocoevalcap's tokenizer writes into its own folder, which is read-only here")
    assert tokenize([NASTY[:3], [], NASTY[3:]]) == [
        [expected[i][0] for i in range(3)],
        [],
        [expected[i][0] for i in range(3, len(NASTY))],
    ]


@pytest.mark.parametrize("blank", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_line_break_moves_a_caption_to_another_photo(blank):
    assert collapse(f" a{blank}{blank} b{blank}") == "a b"
    assert tokenize([[f"one{blank}two"], ["three"]]) == [["one two"], ["three"]]


@pytest.mark.slow
@pytest.mark.java
def test_meteor_equals_pycocoevalcap(java_on_path, meteor):
    from pycocoevalcap.meteor.meteor import Meteor as Theirs

    references, candidates = made_up(30, seed=5)
    references += [["a lovely picture of colors"], ["great shot"], ["the sea is calm"], ["sharp"], ["nice try"]]
    candidates += ["beautiful photo with a color", "great shot", "ocean was quiet", "sharpness", ""]
    score, by_photo = official_scores(Theirs(), references, candidates)
    counts = meteor.stats(references, candidates)
    assert counts.shape == (35, STATS)
    assert meteor_score(counts) == pytest.approx(by_photo, abs=1e-6)
    assert float(meteor_score(counts.sum(axis=0))) == pytest.approx(score, abs=1e-6)
    assert meteor_score(counts)[31] == 1 and 0 < meteor_score(counts)[30] < 1


@pytest.mark.slow
@pytest.mark.java
def test_scores_resample_and_subset_exactly(meteor):
    references, candidates = made_up(25, seed=8)
    scores = score_captions(references, candidates, meteor=meteor)
    drawn = np.array([3, 3, 7, 11, 20, 20, 20])
    sample = score_captions([references[i] for i in drawn], [candidates[i] for i in drawn], meteor=meteor)
    counts = np.bincount(drawn, minlength=25)[None]
    ours, anew = scores.resampled(counts), sample.totals()
    for name in ("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "wer"):
        assert ours[name][0] == pytest.approx(anew[name], abs=1e-12)
    assert ours["cider_d"][0] == pytest.approx(scores.cider[drawn].mean())
    assert scores.subset(drawn).totals()["cider_d"] == pytest.approx(scores.cider[drawn].mean())
    low, high = interval(resampled_caption_scores(scores, CaptionWeights(), 300, seed=0))
    assert low < caption_score(scores.totals(), CaptionWeights()) < high
    assert interval(resampled_caption_scores(scores, CaptionWeights(), 300, seed=0)) == (low, high)


def test_spice_without_its_models_is_one_clear_line(monkeypatch):
    from src.metrics.spice import spice

    def refused():
        raise OSError("no network")

    monkeypatch.setattr("pycocoevalcap.spice.get_stanford_models.get_stanford_models", refused)
    with pytest.raises(InputError, match="384 MB.*no network.*metric.spice=false"):
        spice([["a"]], ["a"])


def test_the_tokenizer_that_stays_answers_as_the_one_that_ends():
    """What most tests of stages tokenise by."""
    lines = ["Can't won't cannot, 'tis a Photo... of (something) & é 한국어", "", "hello", "\udcff", "<unk> a", ""]
    assert [standing_tokenizer(asked) for asked in (lines, lines[:1], [], lines)] == [
        caption_scores._ptb(asked) if asked else [] for asked in (lines, lines[:1], [], lines)
    ]


def test_java_is_asked_for_nothing_twice_and_not_for_sentences_of_words_that_it_leaves_as_they_are(monkeypatch):
    asked = []

    def ask(lines):
        asked.append(lines)
        return standing_tokenizer(lines)

    monkeypatch.setattr(caption_scores, "_ptb", ask)
    monkeypatch.setattr(caption_scores, "_answers", {})
    spoken = ["a dog cannot swim", "a dog swims", "We're gonna see: it's 3.5 m high!", "gimme the dog", "no mr dog etc"]
    assert tokenize([spoken[:3]]) == [["a dog can not swim", "a dog swims", "we 're gon na see it 's 3.5 m high"]]
    assert asked == [["a", "dog", "cannot", "swim", "swims", spoken[2]], spoken[:1]]
    expected = [line.rstrip() for line in standing_tokenizer(spoken)]
    assert [line.rstrip() for line in caption_scores._tokenized_lines(spoken)] == expected
    asked.clear()
    assert tokenize([["the dog swims", spoken[2], "a dog swims etc"]])[0][0] == "the dog swims" and asked == []


SENTENCES = [
    "a big house near the water, isn't it?",
    "a large building close to the sea",
    "two kids are playing in the snow",
    "a couple of children play on snow",
    "i'm not gonna say that the picture is bad",
    "i will not say that this photo is poor",
    "the café's lights are too bright at night",
    "lights of a cafe are very bright during the night",
    "it looks as though the man were about to leave",
    "it seems the man is going to leave soon",
]


@pytest.mark.slow
@pytest.mark.java
def test_a_table_for_the_words_of_captions_gives_the_counts_of_the_whole_one(meteor, tmp_path, monkeypatch):
    tokens = tokenize([SENTENCES])[0]
    pairs = [([one], other) for one in tokens for other in tokens]
    references, candidates = [list(each) for each in zip(*pairs, strict=True)]
    expected = meteor.stats(references, candidates)
    (file := tmp_path / "words.txt").write_text("\n".join([*SENTENCES, "gon na"]))
    table, words = paraphrases_of(file)
    assert table.stat().st_size < all_paraphrases().stat().st_size / 100
    with contextlib.closing(Meteor(table, words)) as quick:
        assert np.array_equal(quick.stats(references, candidates), expected)
        assert expected[:, 16:20].any(), "paraphrases are matched"
        # a word that the table was not made for: the whole table is loaded, here another small one
        monkeypatch.setattr("src.metrics.meteor.all_paraphrases", lambda: paraphrases(tmp_path))
        assert quick.stats([["a nice zymurgy"]], ["a lovely zymurgy"])[0, 16:20].any()


def test_a_table_is_made_once_and_again_where_it_is_damaged_or_for_other_words(tmp_path, monkeypatch):
    whole = paraphrases(tmp_path)
    monkeypatch.setattr("src.metrics.paraphrases.all_paraphrases", lambda: whole)
    file = tmp_path / "words.txt"
    assert paraphrases_of(file) is None
    file.write_text("A nice photo,\nthat's lovely\n")
    table, words = paraphrases_of(file)
    assert words == {b"a", b"nice", b"photo", b"that", b"s", b"lovely"}
    made, content = table.stat().st_mtime_ns, table.read_bytes()
    assert gzip.decompress(content) == gzip.decompress(whole.read_bytes())
    assert paraphrases_of(file)[0].stat().st_mtime_ns == made
    table.write_bytes(content[:-9])
    assert paraphrases_of(file)[0].read_bytes() == content
    file.write_text("a nice photo")
    other = paraphrases_of(file)[0]
    assert other != table and not gzip.decompress(other.read_bytes())
