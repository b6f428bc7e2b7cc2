"""The tokenizer of captions, and the vocabulary of a captioner."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import read_json, write_text

PAD, START, END, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"'})
# comments often lack the space after a full stop ("my eye.on the trees"); numbers such as 3.5 stay whole.
_PUNCTUATION = re.compile(r"(?<!\d)[.,;:!?…]+|[.,;:!?…]+(?!\d)")


_PLAIN = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
"""A word that the tokenizer divides in the same way in any sentence: "gonna" → "gon", "na"; "don't" → "do", "n't"."""


@cache
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer  # takes seconds, and only preprocess tokenises

    return NLTKWordTokenizer()


@lru_cache(maxsize=1 << 16)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(token for token in _tokenizer().tokenize(text) if any(character.isalnum() for character in token))


def tokenize(text: str) -> list[str]:
    """Lower-cased Penn Treebank tokens that contain a letter or digit ("don't" → "do", "n't").

    Punctuation is dropped because the scorer drops it, so that a captioner need not learn it. Needs no download.
    """
    text = unicodedata.normalize("NFC", text).lower().translate(_APOSTROPHES)
    words = _PUNCTUATION.sub(" ", text).split()
    if all(map(_PLAIN.fullmatch, words)):
        return [token for word in words for token in _tokens(word)]
    return list(_tokens.__wrapped__(" ".join(words)))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a captioner; a token's id is its index in `words`.

    words: the four special tokens, then by falling count, equal counts alphabetically.
    counts: how often each occurs in the training captions; for <start> and <end> the number of captions, for <unk> that
    of out-of-vocabulary tokens.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def build(cls, captions: Iterable[str], minimum_count: int = 1, maximum_size: int | None = None) -> "Vocabulary":
        """From training captions. maximum_size: of the most frequent words, special tokens not counted."""
        counter: Counter[str] = Counter()
        total = 0
        for caption in captions:
            counter.update(tokenize(caption))
            total += 1
        ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        kept = [(word, count) for word, count in ranked if count >= minimum_count][:maximum_size]
        unknown = sum(counter.values()) - sum(count for _, count in kept)
        words, counts = zip(*kept, strict=True) if kept else ((), ())
        return cls(SPECIAL + words, (0, total, total, unknown, *counts))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token → id."""
        return {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Ids of the tokens, then END; out-of-vocabulary tokens become UNK."""
        return [self.ids.get(token, UNK) for token in tokenize(text)] + [END]

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence up to END, without PAD and START; contractions are rejoined ("do n't" → "don't")."""
        words: list[str] = []
        for index in ids:
            if index == END:
                break
            if index in (PAD, START):
                continue
            word = self.words[index]
            if words and (word == "n't" or word.startswith("'")):
                words[-1] += word
            else:
                words.append(word)
        return " ".join(words)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, json.dumps({"words": self.words, "counts": self.counts}, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote. Raises InputError where the file is something else."""
        content = read_json(path)
        try:
            words, counts = tuple(content["words"]), tuple(content["counts"])
        except (KeyError, TypeError):
            words, counts = (), ()
        if words[: len(SPECIAL)] != SPECIAL or len(words) != len(counts) or len(set(words)) != len(words):
            raise InputError(f"{path} is not a vocabulary; remove it and run again")
        return cls(words, counts)
