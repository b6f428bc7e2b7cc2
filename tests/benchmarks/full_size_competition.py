"""A drawn competition of the real one's size (DACON 236134) and shape, whole or a share of it, for rehearsals.

Every photo is a function of (seed, stream, number), so that a smaller share is a part of a larger one and an
interrupted making goes on. Photos lie once in FOLDER/photos; each share's data folder holds hard links to its own.
Scenes, distortions and comments are those of the demo. Eight photos share a scene, whose view, light, size and
distortions differ, so that only wanted copies are near-duplicates.
"""

import functools
import io
import os
import string
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from src.base.csv_files import write_csv
from src.base.machine import usable_cores
from src.base.randomness import fold_in
from src.base.worker_pool import worker_pool
from src.demo.comments import write_comments
from src.demo.distortions import Distortion, distort, draw_distortions
from src.demo.rating import impairment, level
from src.demo.sources import _SCENES

TRAIN, TEST, ROWS, REPEATED_ROWS = 54_662, 13_012, 74_568, 21
MOS_MEAN, MOS_SD, MOS_RANGE, LONGEST_COMMENT = 5.575, 0.816, (1.81, 8.60), 61
DIGITS_ONLY = "0213074526"
FILE_KINDS = {5: "truncated", 25: "cmyk", 45: "gray", 65: "palette", 85: "broken exif"}
"""By number modulo 1000, in every stream."""
_COPY, _NEAR_COPY, _COPIES_EVERY = 199, 99, 400  # of the photo before: the same bytes; smaller and compressed again
_BLOCK = TRAIN // 362  # photos whose comments are counted together: 151 divides TRAIN
_MOST_COMMENTS = 13
_PER_SCENE, _MASTER = 8, (600, 800)
_SIZES = ((480, 640), (640, 480), (427, 640), (640, 427), (360, 640), (512, 512), (512, 640), (600, 600))
_ELSEWHERE = ("underwater", "textile", "balloons")  # what the test photos of another source show, and nothing else
_ELSEWHERE_SIZE = (540, 720)
_LETTERS = string.ascii_lowercase + string.digits
_BOILERPLATE = ("nice photo", "good composition and good colors", "i like it very much", "great shot, well done")


@dataclass(frozen=True)
class Photo:
    """What is known of a photo before it is drawn. stream: train, test, or elsewhere (test photos too)."""

    stream: str
    number: int
    name: str
    distortions: tuple[Distortion, ...]
    mos: float
    comments: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"./{'train' if self.stream == 'train' else 'test'}/{self.name}.jpg"


def numbers(share: Fraction) -> list[tuple[str, int]]:
    """Stream and number of every photo of a share of the competition. A fifth of the test photos are from elsewhere."""
    test = round(TEST * share)
    counts = {"train": round(TRAIN * share), "test": test - test // 5, "elsewhere": test // 5}
    return [(stream, number) for stream, count in counts.items() for number in range(count)]


def _rng(seed: int, *keys: int | str) -> np.random.Generator:
    return np.random.default_rng(fold_in(seed, "full size", *keys))


def _name(seed: int, stream: str, number: int) -> str:
    if (stream, number) == ("train", 0):
        return DIGITS_ONLY
    value, letters = fold_in(seed, "full size", "name", stream, number), []
    for _ in range(10):
        value, letter = divmod(value, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)


@functools.lru_cache(16)
def _comment_counts(seed: int, block: int) -> np.ndarray:
    """How many comments each photo of a block has: a quarter have several, and all blocks together the real number."""
    rng, different = _rng(seed, "counts", block), ROWS - REPEATED_ROWS
    total = (block + 1) * different // (TRAIN // _BLOCK) - block * different // (TRAIN // _BLOCK)
    counts = np.ones(_BLOCK, int)
    several = rng.permutation(_BLOCK)[: round(_BLOCK / 4)]
    counts[several] += 1
    while counts.sum() < total:  # who has many gets more
        chosen = rng.choice(several, p=(weights := counts[several] ** 2.0) / weights.sum())
        counts[chosen] += counts[chosen] < _MOST_COMMENTS
    return counts


@functools.cache
def _lexicon(seed: int) -> tuple[list[str], np.ndarray]:
    """Rare words, made of syllables, and their cumulative probabilities (Zipf): the demo's grammar knows few words."""
    rng = _rng(seed, "lexicon")
    syllables = [c + v + e for c in "bdfgklmnprstvw" for v in "aeiou" for e in ("", "n", "r", "l", "st")]
    words = sorted({"".join(rng.choice(syllables, rng.integers(2, 4))) for _ in range(16_000)})
    words = [words[index] for index in rng.permutation(len(words))]
    shares = 1 / (np.arange(len(words)) + 20)
    return words, np.cumsum(shares / shares.sum())


def _misspelt(word: str, rng: np.random.Generator) -> str:
    place = int(rng.integers(len(word)))
    return (
        word[:place] + word[place + 1 :] if rng.random() < 0.5 else word[:place] + word[place] + word[place:]
    ) or "a"


def _comment(seed: int, noun: str, faults: list[tuple[str, int]], rng: np.random.Generator) -> str:
    """A comment of about 12 words, some of them rare, misspelt or fused with the next."""
    if rng.random() < 0.03:
        return _BOILERPLATE[rng.integers(len(_BOILERPLATE))]
    length = int(np.clip(round(np.exp(rng.normal(np.log(12), 0.49))), 2, LONGEST_COMMENT))
    words: list[str] = []
    while len(words) < length:
        words += write_comments(noun, faults, rng)[0].split()
    lexicon, cumulative = _lexicon(seed)
    text = ""
    for word, kind in zip(words[:length], rng.random(length), strict=True):
        if kind < 0.15:
            word = lexicon[int(np.searchsorted(cumulative, rng.random()).clip(0, len(lexicon) - 1))]
        elif kind < 0.17:
            word = _misspelt(word, rng)
        text += word + ("" if 0.17 <= kind < 0.18 else " ")
    return text.strip().rstrip(",")


def _scene(seed: int, stream: str, number: int) -> str:
    kinds = sorted(_ELSEWHERE if stream == "elsewhere" else set(_SCENES) - set(_ELSEWHERE))
    return kinds[fold_in(seed, "full size", "scene", stream, number // _PER_SCENE) % len(kinds)]


def plan(seed: int, stream: str, number: int) -> Photo:
    """Name, distortions, MOS and comments of a photo; test photos have labels, too, which no table holds."""
    rng = _rng(seed, "plan", stream, number)
    distortions = tuple(sorted(draw_distortions(rng), key=lambda item: -item.impairment))
    # -log(1 + J) of `draw_distortions` has mean -0.463 and standard deviation 0.316
    seen = (0.463 - np.log1p(impairment(distortions))) / 0.316
    score = MOS_MEAN + MOS_SD * (0.75 * seen + np.sqrt(1 - 0.75**2) * rng.normal())
    count = _comment_counts(seed, number // _BLOCK)[number % _BLOCK]
    faults, noun = [(item.kind, level(item)) for item in distortions], _SCENES[_scene(seed, stream, number)][0]
    comments: dict[str, None] = {"null": None} if number == 1 else {}
    while len(comments) < count:
        comments[_comment(seed, noun, faults, rng)] = None
    name, mos = _name(seed, stream, number), round(float(np.clip(score, *MOS_RANGE)), 4)
    return Photo(stream, number, name, distortions, mos, tuple(comments))


@functools.lru_cache(2)
def _master(seed: int, stream: str, scene: int) -> np.ndarray:
    draw = _SCENES[_scene(seed, stream, scene * _PER_SCENE)][1]
    canvas = draw(_rng(seed, "look", stream, scene), _rng(seed, "take", stream, scene), *_MASTER)
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _view(master: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A turned and perhaps mirrored part of a scene under a light of its own, uint8 RGB [H, W, 3]."""
    height, width = size
    scale = rng.uniform(0.5, 1.0) * min(_MASTER[0] / height, _MASTER[1] / width)  # pixels of the scene for one
    turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-12, 12), scale)
    middle = [rng.uniform(scale * s / 2, m - scale * s / 2) for s, m in ((width, _MASTER[1]), (height, _MASTER[0]))]
    turn[:, 2] = middle - turn[:, :2] @ (width / 2, height / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(master, turn, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    light = cv2.resize(
        rng.uniform(0.35, 1.3, (6, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    lit = np.clip(part * light[..., None], 0, 255).astype(np.uint8)
    return lit[:, ::-1] if rng.random() < 0.5 else lit


def _pixels(seed: int, photo: Photo) -> np.ndarray:
    rng = _rng(seed, "pixels", photo.stream, photo.number)
    size = _ELSEWHERE_SIZE if photo.stream == "elsewhere" else _SIZES[rng.integers(len(_SIZES))]
    view = _view(_master(seed, photo.stream, photo.number // _PER_SCENE), size, rng)
    return distort(view, photo.distortions, rng)


def _encoded(pixels: np.ndarray, kind: str | None, quality: int) -> bytes:
    """The photo's file: a JPEG, or what is named one."""
    image, stream = Image.fromarray(pixels), io.BytesIO()
    if kind == "palette":
        image.quantize(64).save(stream, "PNG")
        return stream.getvalue()
    image = image.convert({"cmyk": "CMYK", "gray": "L"}.get(kind or "", "RGB"))
    image.save(stream, "JPEG", quality=quality, exif=b"Exif\0\0MM\0*\0\0\0\xff" * (kind == "broken exif"))
    content = stream.getvalue()
    return content[: len(content) // 2] if kind == "truncated" else content


def photo_bytes(seed: int, stream: str, number: int) -> bytes:
    """The photo's file."""
    copied = number % _COPIES_EVERY in (_COPY, _NEAR_COPY)
    photo = plan(seed, stream, number - copied)
    pixels = _pixels(seed, photo)
    if number % _COPIES_EVERY == _NEAR_COPY:
        pixels = cv2.resize(pixels, None, fx=0.9, fy=0.9, interpolation=cv2.INTER_AREA)
        return _encoded(pixels, None, 75)
    return _encoded(pixels, FILE_KINDS.get(photo.number % 1000), 80 if stream == "elsewhere" else 88)


def _draw_scene(folder: Path, seed: int, missing: list[tuple[str, int]]) -> int:
    """Write photos of one scene; returns how many."""
    for stream, number in missing:
        path = _place(folder, seed, stream, number)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(photo_bytes(seed, stream, number))
        os.replace(temporary, path)
    return len(missing)


def _place(folder: Path, seed: int, stream: str, number: int) -> Path:
    return folder / "photos" / ("train" if stream == "train" else "test") / f"{_name(seed, stream, number)}.jpg"


def draw_photos(folder: Path, share: Fraction, seed: int = 0, progress: bool = True) -> None:
    """Draw the photos of a share that FOLDER/photos lacks, in processes. Raises InputError where one is killed."""
    for part in ("train", "test"):
        (folder / "photos" / part).mkdir(parents=True, exist_ok=True)
    there = {entry.name for part in ("train", "test") for entry in os.scandir(folder / "photos" / part)}
    missing = [key for key in numbers(share) if f"{_name(seed, *key)}.jpg" not in there]
    scenes = [list(keys) for _, keys in groupby(missing, lambda key: (key[0], key[1] // _PER_SCENE))]
    draw = partial(_draw_scene, folder, seed)
    bar = tqdm(desc="draw", total=len(missing), unit="photo", disable=not progress, mininterval=5)
    with bar:
        if len(missing) < 200:  # drawn in less time than the processes take to start
            for scene in scenes:
                bar.update(draw(scene))
            return
        with worker_pool(usable_cores(), "draws the photos", cv2.setNumThreads, 1) as pool:
            for drawn in pool.map(draw, scenes):
                bar.update(drawn)


def _rows(seed: int, photos: list[Photo]) -> Iterator[tuple[int, tuple[str, str, float, str]]]:
    """Rows of train.csv with a random place each, so that a photo's rows lie apart."""
    every = -(-TRAIN // REPEATED_ROWS)
    for photo in photos:
        repeated = photo.comments[:1] if photo.number % every == 17 else ()
        for index, comment in enumerate((*photo.comments, *repeated)):
            yield fold_in(seed, "row", photo.number, index), (photo.name, photo.path, photo.mos, comment)


def write_tables(folder: Path, data: Path, share: Fraction, seed: int = 0) -> None:
    """Write a share's train.csv, test.csv and sample_submission.csv to `data`, and link its photos there."""
    by_stream: dict[str, list[Photo]] = {"train": [], "test": [], "elsewhere": []}
    for stream, number in numbers(share):
        by_stream[stream].append(plan(seed, stream, number))
    for part in ("train", "test"):
        (data / part).mkdir(parents=True, exist_ok=True)
    for photo in (photo for photos in by_stream.values() for photo in photos):
        if not (data / photo.path).exists():
            os.link(folder / "photos" / photo.path, data / photo.path)
    test = [photo for stream in ("test", "elsewhere") for photo in sorted(by_stream[stream], key=lambda p: p.name)]
    write_csv(data / "test.csv", ["img_name", "img_path"], ([p.name, p.path] for p in test))
    sample = ([p.name, 5.0, "a photo with a comment"] for p in test)
    write_csv(data / "sample_submission.csv", ["img_name", "mos", "comments"], sample)
    rows = (row for _, row in sorted(_rows(seed, by_stream["train"])))
    write_csv(data / "train.csv", ["img_name", "img_path", "mos", "comments"], rows)
