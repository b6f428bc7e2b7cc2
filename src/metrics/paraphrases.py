"""METEOR's table of paraphrases without what the captions of a data set cannot match.

All 5 million entries take 7 s of CPU in every process that scores captions, those of some hundred words half a second.
An entry matters only where all words of its two phrases occur, so that the counts are the same.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from src.base.files import digest, write_bytes
from src.metrics.java import scorer_file

_BLOCK = 1 << 22
_WORD = re.compile(rb"[a-z0-9]+")
"""METEOR lower-cases, and divides words at nothing but other characters."""


def words_of(texts: Iterable[str]) -> frozenset[bytes]:
    """The words of all texts, as far as they are ASCII letters and digits."""
    return frozenset(chain.from_iterable(_WORD.findall(text.lower().encode("utf-8", "replace")) for text in texts))


def all_paraphrases() -> Path:
    """METEOR's own table for English."""
    return scorer_file("meteor", "data", "paraphrase-en.gz")


def paraphrases_of(word_file: Path) -> tuple[Path, frozenset[bytes]] | None:
    """The table for the words in a file, beside it, and these words; None where there is no such file.

    The first call makes it, in 3 s.
    """
    if not word_file.is_file():
        return None
    words = words_of([word_file.read_text(encoding="utf-8", errors="replace")])
    path = word_file.with_name(f"paraphrases-{digest(b' '.join(sorted(words)))[:12]}.gz")
    if not _is_whole(path):
        table = io.BytesIO()
        with gzip.GzipFile(fileobj=table, mode="wb", compresslevel=1, mtime=0) as file:
            file.writelines(_entries_of(words))
        write_bytes(path, table.getvalue())
    return path, words


def _is_whole(path: Path) -> bool:
    """Whether the file is there, and is what its checksum says."""
    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def _entries_of(words: frozenset[bytes]) -> Iterator[bytes]:
    """Those entries of METEOR's table of which every word is among these: three lines of a weight and two phrases."""
    written, others = set(words), set[bytes]()  # the table's own words: "'s" is written with "s"

    def is_written(phrase: bytes) -> bool:
        each = phrase.split()
        if not others.isdisjoint(each):
            return False
        for word in each:
            if word not in written and not words.issuperset(_WORD.findall(word)):
                others.add(word)
                return False
        written.update(each)
        return True

    before, of_first = b"", False
    for weight, first, second in _entries():
        if first != before:
            before, of_first = first, is_written(first)
        if of_first and is_written(second):
            yield b"%b\n%b\n%b\n" % (weight, first, second)


def _entries() -> Iterator[tuple[bytes, bytes, bytes]]:
    """The entries of METEOR's table. Read in blocks: line by line takes twice as long."""
    with gzip.open(all_paraphrases()) as file:
        rest = b""
        while block := file.read(_BLOCK):
            lines = (rest + block).split(b"\n")
            whole = (len(lines) - 1) // 3 * 3
            rest = b"\n".join(lines[whole:])
            yield from zip(lines[0:whole:3], lines[1:whole:3], lines[2:whole:3], strict=True)
