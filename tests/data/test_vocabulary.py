"""Tokens as the scorer counts them, ids that are stable, captions that come back."""

import json
import random
from pathlib import Path

import pytest
from nltk.tokenize import NLTKWordTokenizer

from src.base.errors import InputError
from src.data.vocabulary import END, PAD, SPECIAL, START, UNK, Vocabulary, tokenize

COMMENTS = Path(__file__).parents[2].parent / "shared" / "data" / "dacon_comments.csv"


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("I don't like it. The photo's TOO dark!", "i do n't like it the photo 's too dark"),
        ("to my eye.on the trees,and shore", "to my eye on the trees and shore"),
        ("f/2.8 at 5:30, 3.5 stars...", "f/2.8 at 5:30 3.5 stars"),
        ("well-lit  (almost)\t“perfect” it’s", "well-lit almost perfect it 's"),
        ("!!! ... -- ", ""),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens.split()


WORDS = ["a", "don't", "it's", "rock'n'roll", "d'ye", "'tis", "dogs'", "well-lit", "cannot", "gonna", "--", "n't", "(a"]


def test_a_word_at_a_time_gives_the_tokens_of_the_whole_sentence():
    rng = random.Random(0)
    for _ in range(500):
        sentence = " ".join(rng.choices(WORDS, k=6))
        whole = NLTKWordTokenizer().tokenize(sentence)
        assert tokenize(sentence) == [token for token in whole if any(map(str.isalnum, token))], sentence


def test_words_are_ranked_and_counted():
    vocabulary = Vocabulary.build(["b a a", "c b a", "d"], minimum_count=1)
    assert vocabulary.words == (*SPECIAL, "a", "b", "c", "d")
    assert vocabulary.counts == (0, 3, 3, 0, 3, 2, 1, 1)
    assert len(vocabulary) == 8
    rare = Vocabulary.build(["b a a", "c b a", "d"], minimum_count=2)
    assert (rare.words[4:], rare.counts[UNK]) == (("a", "b"), 2)
    assert Vocabulary.build(["b a a", "c b a", "d"], 1, maximum_size=1).words[4:] == ("a",)
    assert Vocabulary.build([], 1).words == SPECIAL


def test_order_of_captions_does_not_matter():
    captions = ["sharp and clear", "dark sky", "sharp sky"]
    assert Vocabulary.build(captions, 1) == Vocabulary.build(captions[::-1], 1)


def test_encode_and_decode():
    vocabulary = Vocabulary.build(["it doesn't look sharp", "the sky's blue"], 1)
    ids = vocabulary.encode("The sky doesn't look unknown.")
    assert ids[-1] == END and ids.count(UNK) == 1
    assert vocabulary.decode([START, *ids, 7, PAD]) == "the sky doesn't look <unk>"
    assert vocabulary.encode("") == [END]


def test_file_round_trip_and_foreign_files(tmp_path):
    vocabulary = Vocabulary.build(["naïve café"], 1)
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary
    for content in ("[]", "{", json.dumps({"words": ["a"], "counts": [1]})):
        (tmp_path / "v.json").write_text(content)
        with pytest.raises(InputError):
            Vocabulary.load(tmp_path / "v.json")


@pytest.mark.skipif(not COMMENTS.exists(), reason="the real comments are not here")
def test_real_comments_come_back_as_the_same_tokens():
    captions = [line.split(",", 1)[1] for line in COMMENTS.read_text(encoding="utf-8").splitlines()[1:1001]]
    vocabulary = Vocabulary.build(captions, 1)
    for caption in captions:
        tokens = tokenize(caption)
        assert [vocabulary.words[i] for i in vocabulary.encode(caption)[:-1]] == tokens
        again = tokenize(vocabulary.decode(vocabulary.encode(caption)))
        assert "".join(again) == "".join(tokens)
