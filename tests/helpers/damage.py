"""Random damage to a tiny competition, as plain values that can be printed and repeated.

A `Case` says what is damaged and how. Each damage is (kind, target, number): the number is the seed of its details.
"""

import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from src.settings.keys import all_settings

Damage = tuple[str, str, int]
TABLES = ["train.csv", "test.csv", "sample_submission.csv"]
PHOTOS = [*(f"train/{name}.jpg" for name in "abcdef"), *(f"test/{name}.jpg" for name in "xyz")]
CELLS = [
    "", " ", "NaN", "inf", "-inf", "1e400", "1e308", "-3", "0", "1_0", "٣", "abc", "😍", "한국어 사진", "x" * 100_000,
    "null", "=1+1", "a\u0301", "\u200b", '"', ".\\train\\a.jpg", "C:\\train\\a.jpg", "../train.csv", "/etc/passwd",
    "./train/a.jpg", "./train", "nothing.jpg", "a", "A", "x", "word " * 3000, "\x1b[31mred", "a\nb", "a,b",
    "True", "007",
]  # fmt: skip
TEXTS = ["", ".", "..", "a b", "é", "nothing", "x/y", "a" * 300, "-", "~", "~/x", "null", "data", "%s", "\t"]
WRONG = ["", "nan", "inf", "-1", "1e400", "abc", "[1", "{a: b}", "[]", "null", "é", "9" * 30, "true", "0x10", "1,5"]


@dataclass(frozen=True)
class Case:
    """A competition that is damaged, and how it is run."""

    task: str = "both"
    damages: tuple[Damage, ...] = ()
    arguments: tuple[str, ...] = ()
    """Settings of the command line."""
    yaml: str | None = None
    """The text of a file that --config names."""
    places: tuple[str, ...] = ()
    """What is odd about folders, variables and streams: see `tests/helpers/damaged_runs.py`."""

    def __str__(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value})

    @staticmethod
    def of(text: str) -> "Case":
        """The case that was printed."""
        values = json.loads(text)
        damages = tuple((kind, target, number) for kind, target, number in values.pop("damages", ()))
        return Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}, damages=damages)


def _rows(text: bytes) -> list[list[str]]:
    return [line.split(",") for line in text.decode().splitlines()]


def _text(rows: list[list[str]]) -> bytes:
    return "".join(",".join(row) + "\n" for row in rows).encode()


def _bytes(kind: str, text: bytes, rng: random.Random) -> bytes:
    """Damage that knows nothing of rows and cells."""
    at = rng.randrange(len(text) + 1)
    ends = rng.choice([b"\r\n", b"\r", b"\n\n", b"\r\r\n", "\u2028".encode()])
    delimiter = rng.choice([b";", b"\t", b"|", b", "])
    odd = rng.choice([b"\0", b'"', b"\xff", b"\xe9", b"\x1a", b"\xef\xbb\xbf", b"\r", b",", b"\n", b"\0" * 5000, b"'"])
    encoding = rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500"])
    return {
        "cut": lambda: text[:at],
        "emptied": lambda: b"",
        "bytes put in": lambda: text[:at] + odd + text[at:],
        "bytes replaced": lambda: text[:at] + odd + text[at + len(odd) :],
        "encoded": lambda: text.decode().encode(encoding),
        "delimited": lambda: text.replace(b",", delimiter),
        "line ends": lambda: text.replace(b"\n", ends),
        "first line gone": lambda: text.partition(b"\n")[2],
        "backslashes": lambda: text.replace(b"/", b"\\"),
        "binary": lambda: rng.randbytes(rng.randrange(1, 3000)),
        "last line end gone": lambda: text.rstrip(b"\n"),
    }[kind]()


BYTES = ["cut", "emptied", "bytes put in", "bytes replaced", "encoded", "delimited", "line ends", "first line gone"]
BYTES += ["backslashes", "binary", "last line end gone"]


def _cells(kind: str, rows: list[list[str]], rng: random.Random) -> list[list[str]]:
    """Damage to rows and columns; rows[0] is the header."""
    column, line = rng.randrange(len(rows[0])), rng.randrange(len(rows))
    other, value = rng.randrange(len(rows[0])), rng.choice(CELLS)
    quoted = '"' + value.replace('"', '""') + '"' if rng.random() < 0.8 else value
    if kind == "cell":
        rows[max(line, 1)][column] = quoted
    elif kind == "column of cells":
        rows[1:] = [[*row[:column], quoted, *row[column + 1 :]] for row in rows[1:]]
    elif kind == "column renamed":
        rows[0][column] = rng.choice([quoted, rows[0][column].upper(), f" {rows[0][column]} ", rows[0][other]])
    elif kind == "column gone":
        rows = [row[:column] + row[column + 1 :] for row in rows]
    elif kind == "column doubled":
        rows = [[*row, row[column]] for row in rows]
    elif kind == "columns swapped":
        for row in rows if rng.random() < 0.5 else rows[:1]:
            row[column], row[other] = row[other], row[column]
    elif kind == "column more":
        rows = [[*row, quoted if i else rng.choice(["id", "group", "", "Unnamed: 0"])] for i, row in enumerate(rows)]
    elif kind == "row doubled":
        rows.append([*rows[line]])
        rows[-1][column] = quoted if rng.random() < 0.5 else rows[-1][column]
    elif kind == "row gone":
        del rows[line]
    elif kind == "rows gone":
        rows = rows[: 1 + rng.randrange(3)]
    elif kind == "row longer":
        rows[line] += [quoted] * rng.randrange(1, 4)
    elif kind == "rows shuffled":
        rows[1:] = rng.sample(rows[1:], len(rows) - 1)
    elif kind == "names otherwise":
        spell: Callable[[str], str] = rng.choice([
            str.upper, lambda n: f"{n}.jpg", lambda n: f" {n} ", lambda n: n.replace("a", "а").replace("x", "х"),
            lambda n: f"./test/{n}.jpg", lambda n: n * 100, lambda n: f"{n}\u0301", lambda n: "007", lambda n: f"0{n}",
        ])  # fmt: skip
        rows[1:] = [[spell(row[0]), *row[1:]] for row in rows[1:]]
    return rows


ROWS = ["cell", "cell", "cell", "column of cells", "column renamed", "column gone", "column doubled", "columns swapped"]
ROWS += ["column more", "row doubled", "row gone", "rows gone", "row longer", "rows shuffled", "names otherwise"]
FILES = ["gone", "a folder", "locked", "a link in a circle", "a fifo", "a link to nothing", "a device"]
"""What may stand in place of any file."""
SIGNATURES = {
    "heic": b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiaf", "jxl": b"\xff\x0a", "pdf": b"%PDF-1.7\n", "gz": b"\x1f\x8b\x08",
    "html": b"<!DOCTYPE html><html>", "lfs": b"version https://git-lfs.github.com/spec/v1\n", "zip": b"PK\x03\x04",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "psd": b"8BPS\0\1", "raw": b"II*\0\x10\0\0\0CR\2\0",
    "bmp": b"BM" + bytes(60), "gif": b"GIF89a\xff\xff\xff\xff\0", "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    "mp4": b"\0\0\0 ftypisom",
}  # fmt: skip


def _huge_png(rng: random.Random) -> bytes:
    """A PNG whose header tells of more pixels than there are."""
    picture = BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    side = rng.choice([0, 9000, 60_000, 2**31 - 1, 2**32 - 1])
    return picture.getvalue()[:16] + struct.pack(">II", side, side) + picture.getvalue()[24:]


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _photo(kind: str, photo: bytes, rng: random.Random) -> bytes:
    picture = Image.open(BytesIO(photo))
    at = rng.randrange(len(photo))
    form = rng.choice(["PNG", "TIFF", "GIF", "WEBP", "BMP", "ICO", "PPM", "JPEG2000"])
    size = rng.choice([(1, 1), (1, 3000), (3000, 1), (3, 3), (16, 16), (1200, 900)])
    exif = Image.Exif()
    exif[0x112] = rng.choice([0, 3, 6, 8, 9, 65535])
    deep = Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 170)
    mode = rng.choice(["1", "L", "LA", "P", "RGBA", "I", "F", "I;16"])
    return {
        "cut": lambda: photo[:at],
        "emptied": lambda: b"",
        "bytes replaced": lambda: photo[:at] + rng.randbytes(rng.randrange(1, 40)) + photo[at + 20 :],
        "other format": lambda: _saved(picture, form),
        "signature": lambda: SIGNATURES[rng.choice(sorted(SIGNATURES))] + rng.randbytes(rng.choice([0, 4000])),
        "size": lambda: _saved(picture.resize(size), rng.choice(["PNG", "JPEG"])),
        "cmyk": lambda: _saved(picture.convert("CMYK"), "JPEG"),
        "deep": lambda: _saved(deep, rng.choice(["PNG", "TIFF"])),
        "mode": lambda: _saved(deep if mode == "I;16" else picture.convert(mode), "TIFF"),
        "animated": lambda: _saved(picture, "GIF", save_all=True, append_images=[picture.rotate(90)] * 3),
        "turned": lambda: _saved(picture, rng.choice(["JPEG", "PNG", "TIFF"]), exif=exif),
        "broken exif": lambda: photo[:2] + b"\xff\xe1\0\x20Exif\0\0" + rng.randbytes(24) + photo[2:],
        "huge header": lambda: _huge_png(rng),
        "one colour": lambda: _saved(Image.new("RGB", (24, 16), rng.choice([0, 255, 0x808080])), "PNG"),
        "binary": lambda: rng.randbytes(rng.randrange(1, 3000)),
    }[kind]()


PICTURES = ["cut", "emptied", "bytes replaced", "other format", "signature", "size", "cmyk", "deep", "mode", "animated"]
PICTURES += ["turned", "broken exif", "huge header", "one colour", "binary"]


def _replace(kind: str, path: Path) -> None:
    """Put something else in the place of a file."""
    if kind == "locked":
        path.chmod(0)
        return
    path.unlink()
    put: dict[str, Callable[[], None]] = {
        "gone": lambda: None,
        "a folder": path.mkdir,
        "a link in a circle": lambda: path.symlink_to(path.name),
        "a fifo": lambda: os.mkfifo(path),
        "a link to nothing": lambda: path.symlink_to("nothing"),
        "a device": lambda: path.symlink_to("/dev/zero"),
    }
    put[kind]()


def apply(damage: Damage, root: Path) -> None:
    """Damage a file of the competition in `root`; one that is no plain file any more is left as it is."""
    kind, target, number = damage
    path, rng = root / target, random.Random(number)
    if path.is_symlink() or not path.is_file() or not path.stat().st_mode & 0o400:
        return
    if kind in FILES:
        _replace(kind, path)
        return
    content = path.read_bytes()
    if target in PHOTOS:
        try:
            path.write_bytes(_photo(kind, content, rng))
        except OSError:  # damaged before
            return
    elif kind in ROWS:
        try:
            rows = _rows(content)
        except UnicodeDecodeError:  # damaged before
            return
        if len(rows) > 1 and min(map(len, rows)) >= len(rows[0]) > 0:
            path.write_bytes(_text(_cells(kind, rows, rng)))
    else:
        path.write_bytes(_bytes(kind, content, rng) if content.isascii() else content[: len(content) // 2])


_FIXED = {"train.epochs", "train.compile", "run.jobs", "run.workers", "run.threads", "data.root", "task"}
_CHOICES = {
    "encoder.name": ["test_resnet", "test_vit", "test_efficientnet", "resnet5", "nothing", "", "a/b", "hf-hub:a/b"],
    "data.format": ["dacon", "coco", "karpathy", "flickr8k", "flickr30k"],
    "encoder.weights": ["data/train.csv", "data/train/a.jpg", "nothing.pt", "data", ""],
    "split.holdout": ["0.001", "0.1", "0.5", "0.9", "null"],
    "split.folds": ["2", "3", "5", "6", "7", "1000"],
    "predict.tta_scales": ["[1]", "[0.5,1,2]", "[0]", "[-1]", "[1000]", "[]", "[1e-9]"],
    "encoder.more_levels": ["[]", "[test_vit]", "[nothing]", "[test_resnet,test_resnet]"],
    "encoder.fine_tuned": ["null", "test_resnet", "test_vit", "nothing"],
    "ensemble.runs": ["null", "[]", "[one]", "[damaged]", "[damaged,damaged]", "[../x]"],
    "view.size": ["16", "17", "32", "4096", "15"],
    "run.name": ["damaged", "a b", "é", "..", ".", "x/y", "a" * 300, "", "CON", "-x", "한국어", "cache"],
    "run.root": ["elsewhere", "data", "data/train.csv", "a" * 300, "..", "elsewhere/é/b c", "", "~/x", "~nobody"],
    "run.submissions": ["elsewhere", "data", "data/train.csv", "a" * 300, "runs", "elsewhere/é/b c", ""],
}
_SMALL = ["0", "1", "2", "3", "5", "7"]
_NUMBERS = ["0", "0.5", "1", "1e-30", "1e30", "0.01", "2.5"]


def _values(key: str) -> tuple[list[str], list[str]]:
    """Texts that the setting takes, and texts of which it takes few."""
    setting, right = all_settings()[key], []
    options = setting.expected.removeprefix("one of ").removesuffix(" or null").split(", ")
    for text in _CHOICES.get(key) or [*_SMALL, *_NUMBERS, "true", "false", "null", *options]:
        try:
            setting.value_of(text)
        except ValueError:
            continue
        right.append(text)
    wide = [*right, *WRONG, *TEXTS]
    if setting.expected.startswith("text"):
        right = _CHOICES.get(key, TEXTS)
    return right or wide, wide


@st.composite
def _settings(draw: st.DrawFn) -> str:
    """A setting with a value, mostly one that it takes."""
    keys = [key for key in all_settings() if key not in _FIXED and not key.startswith("tune.")]
    choices = [key for key in keys if all_settings()[key].expected.startswith(("one of", "true"))]
    key = draw(st.sampled_from(keys + 2 * choices))  # what is computed depends most on those
    right, wide = _values(key)
    return f"{key}={draw(st.sampled_from(right if draw(st.integers(0, 3)) else wide))}"


_YAML = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["view: {size: 16", "view:\n\tsize: 16\n", "- a\n- b\n", "view.size: 16\nview:\n  size: 32\n",
                     "view: 3\n", "&a [*a]\n", "a: &x {<<: *x}\n", "{}", "view.size: !!python/object:os.system x\n",
                     "view: {size: 32, size: 16}\n", "\ufeffview: {size: 16}\n", "view.size: 16\n---\nview.size: 32\n",
                     "? [view]\n: 3\n", "view: ~\n", "split: {folds: 2.0}\n", "[" * 2000, "task: yes\n", "1: 2\n"]),
    st.lists(_settings(), min_size=1, max_size=4).map(lambda given: "\n".join(g.replace("=", ": ", 1) for g in given)),
)  # fmt: skip
PLACES = ["no HOME", "HOME is a file", "ascii", "no TMPDIR", "long TMPDIR", "TMPDIR is a file", "LC_ALL=C",
          "runs locked", "submissions locked", "runs is a file", "submissions is a file", "data locked",
          "output to a full disk", "few open files", "small files", "no input", "own process"]  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Damaged competitions: one to four damages of all kinds."""
    number = st.integers(0, 10**6)
    form = ["sample_submission.csv"]
    table = st.tuples(st.sampled_from(BYTES + 2 * ROWS + FILES), st.sampled_from(TABLES[:2]), number)
    filled = st.tuples(st.sampled_from(BYTES + 2 * ROWS + FILES), st.sampled_from(form), number)
    photo = st.tuples(st.sampled_from(2 * PICTURES + FILES), st.sampled_from(PHOTOS), number)
    damages, arguments, places, yaml = [], [], [], None
    kinds = st.sampled_from(["table", "photo", "form", "settings", "place"])
    for kind in draw(st.lists(kinds, min_size=1, max_size=4)):
        if kind == "place":
            places.append(draw(st.sampled_from(PLACES)))
        elif kind == "settings" and draw(st.integers(0, 4)):
            arguments += draw(st.lists(_settings(), min_size=1, max_size=3))
        elif kind == "settings":
            yaml = draw(_YAML)
        else:
            damages.append(draw({"table": table, "photo": photo, "form": filled}[kind]))
    if draw(st.booleans()):
        arguments.append("data.on_bad_photo=skip")
    task = draw(st.sampled_from(["both", "mos", "caption"]))
    if any(place.endswith(" locked") for place in places):  # a process of its own would be root's again, for whom
        places = [place for place in places if place != "own process"]  # nothing is
    return Case(task, tuple(damages), tuple(arguments), yaml, tuple(dict.fromkeys(places)))
