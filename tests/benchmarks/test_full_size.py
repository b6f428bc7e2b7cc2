"""The drawn competition of the real size: the real one's facts hold on a share, which is a part of any larger one."""

import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.base.errors import InputError
from src.data.folds import near_duplicates
from src.data.image import load_photo
from src.settings.load import build
from src.settings.schema import Settings, ViewSettings
from tests.benchmarks import full_size_competition as competition
from tests.benchmarks.full_size import Measurement, growth, table
from tests.benchmarks.memory import anonymous_memory, cpu_seconds
from tests.helpers.tables import rows_of

SMALL, SIXTEENTH = Fraction(1, 512), Fraction(1, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the smallest share, its tables and its photos."""
    folder = tmp_path_factory.mktemp("full_size")
    competition.draw_photos(folder, SMALL, progress=False)
    competition.write_tables(folder, folder / "data", SMALL)
    return folder


@pytest.fixture(scope="module")
def photos() -> list[competition.Photo]:
    return [competition.plan(0, stream, number) for stream, number in competition.numbers(SIXTEENTH)]


def test_labels_and_comments_are_like_the_real_ones(photos):
    train = [photo for photo in photos if photo.stream == "train"]
    mos, counts = np.array([photo.mos for photo in train]), np.array([len(photo.comments) for photo in train])
    assert abs(mos.mean() - 5.575) < 0.05 and abs(mos.std() - 0.816) < 0.05
    assert mos.min() >= 1.81 and mos.max() <= 8.60
    words = [len(comment.split()) for photo in train for comment in photo.comments]
    assert np.median(words) == 12 and 23 <= np.quantile(words, 0.95) <= 27 and max(words) <= 61
    assert abs(np.mean(counts > 1) - 0.25) < 0.02 and 5 <= counts.max() <= 13
    assert sum(competition._comment_counts(0, block).sum() for block in range(362)) == 74_568 - 21
    names = {photo.name for photo in photos}
    assert len(names) == len(photos) and {len(name) for name in names} == {10} and "0213074526" in names
    assert "null" in train[1].comments
    vocabulary = Counter(word for photo in train for comment in photo.comments for word in comment.split())
    assert len(vocabulary) > 4000 and sum(count >= 3 for count in vocabulary.values()) > 1000


def test_numbers_are_those_of_the_real_competition():
    streams = Counter(stream for stream, _ in competition.numbers(Fraction(1)))
    assert streams == {"train": 54_662, "test": 13_012 - 2_602, "elsewhere": 2_602}
    assert set(competition.numbers(SMALL)) < set(competition.numbers(SIXTEENTH))


def test_tables_have_the_layout_of_the_real_ones(made):
    train, test = rows_of(made / "data/train.csv"), rows_of(made / "data/test.csv")
    repeated = Counter(tuple(row.values()) for row in train)
    assert sorted(repeated.values())[-2:] == [1, 2]  # one of the 21 exact duplicates
    assert list(train[0]) == ["img_name", "img_path", "mos", "comments"] and list(test[0]) == ["img_name", "img_path"]
    form = rows_of(made / "data/sample_submission.csv")
    assert [row["img_name"] for row in form] == [row["img_name"] for row in test]
    assert all((made / "data" / row["img_path"]).is_file() for row in train + test)
    sizes = [Image.open(made / "data" / row["img_path"]).size for row in test]
    elsewhere = [size == (720, 540) for size in sizes]
    assert elsewhere == [False] * 20 + [True] * 5, "the last fifth is of another camera"


def test_a_smaller_share_is_part_of_a_larger_one_and_making_goes_on(made, tmp_path):
    """A making that was cut off, of a larger share, ends with the same bytes."""
    first = {path: path.read_bytes() for path in (made / "photos").rglob("*.jpg")}
    rows = {tuple(row.values()) for row in rows_of(made / "data/train.csv")}
    for path in list(first)[::20]:
        path.unlink()
    competition.draw_photos(made, SMALL * 9 / 8, progress=False)
    competition.write_tables(made, tmp_path / "data", SMALL * 9 / 8)
    assert {path: path.read_bytes() for path in first} == first
    assert rows < {tuple(row.values()) for row in rows_of(tmp_path / "data/train.csv")}


def test_photos_differ_as_real_ones_do_and_some_are_broken(made):
    keys = [key for key in competition.numbers(SMALL) if key[0] == "train"]
    loaded = [load_photo(competition._place(made, 0, *key), ViewSettings()) for key in keys]
    groups = near_duplicates(np.array([photo.phash for photo in loaded], np.uint64), 6)
    alike = sorted(np.flatnonzero(groups != np.arange(len(groups))))
    assert alike == [competition._NEAR_COPY], "only the wanted copy is alike another photo"
    assert [number for number, photo in enumerate(loaded) if photo.problem] == [5]
    kinds = {(image := Image.open(competition._place(made, 0, *keys[n]))).mode: image.format for n in (25, 45, 65)}
    assert kinds == {"CMYK": "JPEG", "L": "JPEG", "P": "PNG"}


def test_growth_is_the_exponent_between_two_sizes():
    assert growth(10.0, 160.0, (100, 400)) == "2.00" and growth(5.0, 5.0, (100, 400)) == "0.00"
    assert growth(0.0, 5.0, (100, 400)) == ""


def test_a_stage_that_was_cut_off_is_timed_with_all_its_starts(tmp_path):
    settings = Settings()
    for share, seconds in ((SMALL, (5.0, 3.0)), (SMALL * 4, (16.0, 16.0))):
        for part, peak in zip(seconds, (2_000_000, 1_000_000), strict=True):
            measured = Measurement(tmp_path / f"{share.denominator}.json", share, settings)
            measured.add("train", part, part / 2, peak)
            measured.save()
    again = [Measurement(tmp_path / f"{size}.json", SMALL, settings) for size in (512, 128)]
    for measured in again:
        measured.finish("train", build([("run.root", str(tmp_path), "")]))
    lines = table(again)
    assert "| train | 1/512 | 132 | 8 | 4 | 16.5 | 2 | 0 | 0 |  |  |  |" in lines
    assert lines[-1].startswith("| train | 1/128 | 529 | 32 | 16 |") and lines[-1].endswith("| 1.00 | 1.00 | 0.00 |")
    with pytest.raises(InputError, match="other settings"):
        Measurement(tmp_path / "512.json", SMALL, build([("train.epochs", "3", "")]))


def test_cpu_and_memory_are_those_of_the_whole_tree_of_processes():
    """A child counts while it lives, and its CPU afterwards, too."""
    before, alone = cpu_seconds(os.getpid()), anonymous_memory(os.getpid())
    busy = "import time\nx = b'x' * 50_000_000\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline()
    assert anonymous_memory(os.getpid()) > alone + 45_000 and cpu_seconds(os.getpid()) > before + 0.25
    child.communicate(b"\n")
    assert cpu_seconds(os.getpid()) > before + 0.25 and anonymous_memory(child.pid) == 0
