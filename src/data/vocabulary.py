"""The tokenizer of captions, and the vocabulary of a captioner."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.files import read_json, write_text
from src.base.hub_models import token_order

PAD, START, END, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"'})
# comments often lack the space after a full stop ("my eye.on the trees"); numbers such as 3.5 stay whole.
_PUNCTUATION = re.compile(r"(?<!\d)[.,;:!?…]+|[.,;:!?…]+(?!\d)")


_APART = re.compile(r"(?<=\w) (['-]) (?=\w)|(?<=\d) ?([.,]) (?=\d)")
"""Signs inside a word, or a number, as tokenizers of word pieces write them."""
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


def _rejoined(tokens: Iterable[str]) -> str:
    words: list[str] = []
    for word in tokens:
        if words and (word == "n't" or word.startswith("'")):
            words[-1] += word
        else:
            words.append(word)
    return " ".join(words)


def plain_text(text: str) -> str:
    """The text as captioners learn and write it: the words of `tokenize`, contractions rejoined."""
    return _rejoined(tokenize(text))


def _words_of(ids: Iterable[int]) -> Iterator[int]:
    """The ids up to END, without PAD and START."""
    for index in ids:
        if index == END:
            return
        if index not in (PAD, START):
            yield index


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
        return _rejoined(self.words[index] for index in _words_of(ids))

    def description(self) -> dict[str, Any]:
        """What `of` makes it from again, its counts apart: plain lists and texts."""
        return {"words": list(self.words)}

    def save(self, path: Path) -> None:
        """Write as JSON."""
        content = {**self.description(), "counts": self.counts}
        write_text(path, json.dumps(content, ensure_ascii=False) + "\n")

    @staticmethod
    def of(description: Mapping[str, Any]) -> "Vocabulary":
        """That of a `description`, which may hold more."""
        words = tuple(description["words"])
        counts = tuple(description.get("counts") or (0,) * len(words))
        if "tokenizer" in description:
            return Subwords(words, counts, description["tokenizer"], tuple(description["special"]))
        return Vocabulary(words, counts)

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        """Read what `save` wrote. Raises InputError where the file is something else."""
        content = read_json(path)
        try:
            vocabulary = Vocabulary.of(content)
        except (KeyError, TypeError, AttributeError):
            vocabulary = Vocabulary((), ())
        words, plain = vocabulary.words, type(vocabulary) is Vocabulary
        repeated = plain and len(set(words)) != len(words)
        if words[: len(SPECIAL)] != SPECIAL or len(words) != len(vocabulary.counts) or repeated:
            raise InputError(f"{path} is not a vocabulary; remove it and run again")
        return vocabulary


@dataclass(frozen=True)
class Subwords(Vocabulary):
    """The tokens of a published captioner: words and pieces of words, of which "##" precedes those inside a word.

    tokenizer: the content of its tokenizer.json. special: its own ids of PAD, START, END and UNK; the others keep their
    order (see `token_order`).
    """

    tokenizer: str = ""
    special: tuple[int, ...] = ()

    @classmethod
    def read(cls, tokenizer: str, special: Sequence[int], size: int, captions: Iterable[str]) -> "Subwords":
        """That of a tokenizer.json, with the counts in these captions. size: the tokens that the captioner knows."""
        inside = json.loads(tokenizer).get("decoder") or {}
        reader = cls((), (), tokenizer, tuple(special))._tokenizer
        words = [*SPECIAL]
        for token in token_order(special, size)[len(SPECIAL) :]:
            piece = reader.id_to_token(token) or f"<{token}>"
            if space := {"ByteLevel": "Ġ", "Metaspace": "▁"}.get(inside.get("type", "")):
                piece = piece[1:] if piece.startswith(space) else f"##{piece}"
            words.append(piece)
        vocabulary, counts = cls(tuple(words), (0,) * len(words), tokenizer, tuple(special)), [0] * len(words)
        for caption in captions:
            counts[START] += 1
            for index in vocabulary.encode(caption):
                counts[index] += 1
        return cls(vocabulary.words, tuple(counts), tokenizer, tuple(special))

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.tokenizer)

    @cached_property
    def own_ids(self) -> list[int]:
        """The model's id of each of our tokens."""
        return token_order(self.special, len(self.words) - len(SPECIAL) + len(set(self.special)))

    @cached_property
    def _ours(self) -> dict[int, int]:
        """Of the model's ids those that a text can hold."""
        ours = {token: index for index, token in enumerate(self.own_ids)}
        return {token: index for token, index in ours.items() if index >= UNK and token not in self.special[:UNK]}

    def encode(self, text: str) -> list[int]:
        """Ids of the `plain_text`'s tokens, then END."""
        tokens = self._tokenizer.encode(plain_text(text), add_special_tokens=False).ids
        return [self._ours[token] for token in tokens if token in self._ours] + [END]

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence up to END, without special tokens, as the tokenizer joins it."""
        text = self._tokenizer.decode([self.own_ids[index] for index in _words_of(ids) if index != UNK])
        joined = " ".join(text.split()).removeprefix("##")  # a first piece has nothing to be joined to
        return _APART.sub(lambda sign: sign.group().strip(), joined)

    def description(self) -> dict[str, Any]:
        return {**super().description(), "tokenizer": self.tokenizer, "special": list(self.special)}
