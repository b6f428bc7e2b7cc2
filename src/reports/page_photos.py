"""What a page says of single photos: read from a run's tables row by row, so that memory hardly grows with them.

Of each photo a few numbers are kept; the texts of those that are shown are fetched in a second pass.
"""

import csv
import io
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.reports.page_parts import Photo, Photos, data_address, number, shown

SHOWN = 12
"""Photos of a group."""
THUMBNAIL = 160
"""Pixels of a thumbnail's long side."""
FREQUENT = 8
"""Captions listed as the most frequent."""
_REFERENCES = 5
_MOST_WORDS = 60
_NO_MEMBERS = {"photo_id", "fold", "mos", "caption", "fallback", "blend"}


def _key(text: str) -> int:
    """Stands for a text within this process."""
    return hash(text)


def _words(caption: str) -> int:
    return min(len(caption.split()), _MOST_WORDS)


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that a stage wrote, one at a time."""
    with open(path, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _photos_of(table: Path) -> Iterator[dict[str, Any]]:
    with open(table, encoding="utf-8", newline="\n") as file:
        yield from (json.loads(line) for line in file if line.strip())


@dataclass
class Labels:
    """The photos of a data set, [N] each, in the order of the table: what they are called (`_key`) and labelled."""

    key: np.ndarray
    part: np.ndarray
    mos: np.ndarray
    captions: np.ndarray

    @classmethod
    def of(cls, table: Path) -> "Labels":
        """From photos.jsonl; part: the first letter of the part's name, as a number."""
        key, part, mos, captions = array("q"), array("b"), array("d"), array("i")
        for photo in _photos_of(table):
            key.append(_key(photo["photo_id"]))
            part.append(ord(photo["part"][0]) if photo["part"] != "test" else 0)
            mos.append(np.nan if photo["mos"] is None else photo["mos"])
            captions.append(len(photo["captions"]))
        return cls(*(np.array(column) for column in (key, part, mos, captions)))

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """The rows of photos by their keys [K]; -1 where there is no such photo."""
        if not len(self.key):
            return np.full(len(keys), -1)
        order = np.argsort(self.key, kind="stable")
        places = order[np.searchsorted(self.key, keys, sorter=order).clip(max=len(order) - 1)]
        return np.where(self.key[places] == keys, places, -1)

    @property
    def test(self) -> np.ndarray:
        """The test photos, bool [N]."""
        return self.part == 0


@dataclass
class Answers:
    """Out-of-fold predictions [K]: row among `Labels`, fold, MOS, spread of the members, key of the caption.

    lengths: captions by their number of words [W].
    """

    row: np.ndarray
    fold: np.ndarray
    mos: np.ndarray
    spread: np.ndarray
    caption: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, predictions: Path, labels: Labels) -> "Answers":
        """From the ensemble's oof.csv."""
        key, fold, mos, spread, caption = array("q"), array("i"), array("d"), array("d"), array("q")
        lengths = np.zeros(_MOST_WORDS + 1, int)
        for row in rows_of(predictions):
            members = [float(cell) for name, cell in row.items() if name not in _NO_MEMBERS and cell]
            key.append(_key(row["photo_id"]))
            fold.append(int(row["fold"]))
            mos.append(float(row["mos"] or "nan"))
            spread.append(float(np.std(members)) if len(members) > 1 else np.nan)
            caption.append(_key(row["caption"]))
            lengths[_words(row["caption"])] += 1
        rows = labels.rows(np.array(key))
        return cls(rows, np.array(fold), np.array(mos), np.array(spread), np.array(caption), lengths)


@dataclass
class Texts:
    """The texts of the photos that are shown, by their row among `Labels`."""

    name: dict[int, str] = field(default_factory=dict)
    references: dict[int, list[str]] = field(default_factory=dict)
    caption: dict[int, str] = field(default_factory=dict)


def fetch_texts(rows: set[int], answers: Answers, table: Path, predictions: Path) -> Texts:
    """Names, references and predicted captions of some photos, given by their rows."""
    texts = Texts()
    with open(table, encoding="utf-8", newline="\n") as file:
        for row, line in enumerate(line for line in file if line.strip()):
            if row in rows:
                photo = json.loads(line)
                texts.name[row], texts.references[row] = photo["photo_id"], photo["captions"]
    for row, answer in zip(answers.row.tolist(), rows_of(predictions), strict=True):
        if row in rows:
            texts.caption[row] = answer["caption"]
    return texts


def frequent_captions(answers: Answers, which: np.ndarray, predictions: Path) -> list[tuple[str, int]]:
    """The captions that most photos have, of those in `which`, bool [K], with how many."""
    keys, counts = np.unique(answers.caption[which], return_counts=True)
    most = np.argsort(-counts, kind="stable")
    least = counts[most[:FREQUENT][-1]] if len(most) else 0
    wanted = {int(keys[i]): int(counts[i]) for i in most if counts[i] >= least > 1}
    frequent: dict[str, int] = {}
    for key, row in zip(answers.caption.tolist(), rows_of(predictions) if wanted else (), strict=False):
        if key in wanted and (wanted[key] > least or len(frequent) < 10 * FREQUENT):
            frequent[row["caption"]] = wanted[key]
    return sorted(frequent.items(), key=lambda item: (-item[1], item[0]))[:FREQUENT]


def reference_lengths(statistics: dict) -> np.ndarray:
    """People's captions by their number of words [W], from statistics.json."""
    lengths = np.zeros(_MOST_WORDS + 1, int)
    for words, count in (statistics["captions"]["words"] or {"histogram": {}})["histogram"].items():
        lengths[min(int(words), _MOST_WORDS)] += count
    return lengths


def photo_values(path: Path, column: str, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the photos in a CSV file, and what a column says of each; none where there is no such file."""
    key, value = array("q"), array("d")
    for row in rows_of(path) if path.is_file() else ():
        key.append(_key(row["photo_id"]))
        value.append(float(row[column]))
    return labels.rows(np.array(key)), np.array(value)


def extremes(values: np.ndarray, lowest: bool) -> np.ndarray:
    """Where the lowest or highest values are, SHOWN at most; of equals the first."""
    return np.argsort(values if lowest else -values, kind="stable")[:SHOWN]


class Thumbnails:
    """Thumbnails of photos from pixels.npy, in the photos' own shape where the view gave it up."""

    def __init__(self, folder: Path, squashed: bool):
        self.pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        self.aspect = np.load(folder / "handcrafted.npy", mmap_mode="r")[:, 0] if squashed else None

    def __call__(self, row: int) -> str:
        """The photo's address as a JPEG."""
        pixels = np.ascontiguousarray(self.pixels[row])
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        ratio = float(np.exp(self.aspect[row])) if self.aspect is not None else image.width / image.height
        size = (THUMBNAIL, THUMBNAIL / ratio) if ratio >= 1 else (THUMBNAIL * ratio, THUMBNAIL)
        image = image.resize((max(8, round(size[0])), max(8, round(size[1]))), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        image.save(content, "jpeg", quality=80, optimize=True)
        return data_address(content.getvalue(), "jpeg")


@dataclass(frozen=True)
class Group:
    """Photos to show together, by their rows, with short lines of facts on each."""

    title: str
    note: str
    rows: list[int]
    facts: dict[int, list[str]]


def mos_groups(labels: Labels, answers: Answers) -> list[Group]:
    """Those whose MOS is nearest to the label and farthest from it, and those on which the members differ most."""
    error = np.abs(answers.mos - labels.mos[answers.row])
    scored = np.flatnonzero(~np.isnan(error) & (answers.row >= 0))
    doubt = answers.spread[scored]

    def group(title: str, note: str, places: np.ndarray) -> Group:
        facts = {}
        for place in scored[places].tolist():
            row = int(answers.row[place])
            spread = "" if np.isnan(answers.spread[place]) else f" ± {number(answers.spread[place], '.2f')}"
            told = f"predicted {number(answers.mos[place], '.2f')}{spread}"
            facts[row] = [f"label {number(labels.mos[row], '.2f')}", told]
        return Group(title, note, list(facts), facts)

    groups = [
        group("MOS: nearest to the label", "", extremes(error[scored], lowest=True)),
        group("MOS: farthest from the label", "", extremes(error[scored], lowest=False)),
    ]
    if len(scored) and not np.isnan(doubt).all():
        note = "±: the standard deviation over the members, which differ most on these"
        groups.append(group("MOS: least certain", note, extremes(np.nan_to_num(doubt), lowest=False)))
    return [group for group in groups if group.rows]


def caption_groups(scores: Path, confidence: Path, answers: Answers, labels: Labels) -> list[Group]:
    """Those whose captions score highest and lowest, and those out of fold of which the ensemble expects least.

    scores: caption_scores.csv. confidence: the ensemble's caption_confidence.csv, where there is one.
    """
    groups = []
    rows, cider = photo_values(scores, "cider_d", labels)
    for title, lowest in (("Captions: highest CIDEr-D", False), ("Captions: lowest CIDEr-D", True)):
        places = extremes(cider, lowest)
        facts = {int(rows[i]): [f"CIDEr-D {number(cider[i], '.2f')}"] for i in places if rows[i] >= 0}
        groups.append(Group(title, "of the photos that people described", list(facts), facts))
    rows, expected = photo_values(confidence, "expected", labels)
    scored = np.isin(rows, answers.row[answers.row >= 0])
    rows, expected = rows[scored], expected[scored]
    facts = {int(rows[i]): [f"expected {number(expected[i], '.2f')}"] for i in extremes(expected, lowest=True)}
    note = "expected: what the caption should add to the score, which is least for these"
    groups.append(Group("Captions: least certain", note, list(facts), facts))
    return [group for group in groups if group.rows]


def shown_photos(group: Group, texts: Texts, thumbnail: Thumbnails) -> Photos:
    """The group with pictures and texts."""
    photos = []
    for row in group.rows:
        references = texts.references[row]
        told = references[0] if references else texts.caption.get(row, "")
        photos.append(
            Photo(
                name=shown(texts.name[row]),
                picture=thumbnail(row),
                text=shown(f"Photo {texts.name[row]}" + (f": {told}" if told else "")),
                facts=group.facts[row],
                caption=shown(texts.caption.get(row, "")),
                references=[shown(text) for text in references[:_REFERENCES]],
                more_references=max(len(references) - _REFERENCES, 0),
            )
        )
    return Photos(group.title, group.note, photos)
