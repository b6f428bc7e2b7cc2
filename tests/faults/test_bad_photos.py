"""Photos that cannot be used stop preprocess with one clear line; odd ones become the right pixels."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, TiffImagePlugin

from src import preprocess
from src.base.signatures import PHOTO_PLUGINS
from src.data.image import FORMATS
from src.data.table import load_table
from tests.helpers.bad_input import SMALL, exit_code, hurry, refused
from tests.helpers.pictures import drawing, encoded, png, resized

WHOLE = encoded(drawing(600, 400))
# the file that takes the place of train/b.jpg, and why it is refused
UNREADABLE = {
    "no byte": (b"", "the file is empty"),
    "zero bytes only": (bytes(5000), "not a photo in a known format"),
    "text": (b"this is not a photo\n", "not a photo in a known format (it begins with b'this is not ')"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "not a photo in a known format"),
    "a video": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "not a photo in a known format"),
    "cut off": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "cut off in the header": (WHOLE[:20], "not a photo"),
    "second half zeros": (encoded(drawing(), "PNG")[:3000] + bytes(3000), "broken PNG"),
    "PNG without pixels": (png(40, 40), "truncated"),
    "a bomb": (png(20_000, 20_000, bytes(1000)), "20000 × 20000 pixels, more than 89 million"),
    "a larger bomb": (png(2**31 - 1, 2**31 - 1), "raise data.maximum_megapixels"),
    "a bomb of a JPEG": (resized(encoded(drawing(), progressive=True), 60_000, 60_000), "60000 × 60000 pixels"),
    "floating-point pixels": (encoded(drawing().convert("F"), "TIFF"), "save it with 8 or 16 bits"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_photo_stops_preprocess(kind, competition_copy, capfd):
    content, reason = UNREADABLE[kind]
    (competition_copy / "data" / "train" / "b.jpg").write_bytes(content)
    refused(capfd, preprocess, SMALL, (reason, "b train/b.jpg:", "mend them, or set data.on_bad_photo=skip"))


def huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate((1 << 29) + 1)


# what takes the place of train/b.jpg
NO_FILE = {
    "a folder": (Path.mkdir, "not a file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere.jpg"), "no such file"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
    "a pipe": (os.mkfifo, "not a file"),
    "half a gigabyte": (huge, "a file of more than 512 MiB"),
    "a file of others": (lambda path: path.touch(mode=0), "Permission denied"),
}


@pytest.mark.parametrize("kind", NO_FILE)
def test_what_is_no_photo_file_stops_preprocess(kind, competition_copy, capfd):
    make, reason = NO_FILE[kind]
    path = competition_copy / "data" / "train" / "b.jpg"
    path.unlink()
    make(path)
    refused(capfd, preprocess, SMALL, (reason, "b train/b.jpg", "data.on_bad_photo=skip"))


PATHS = {
    "absolute": ("/etc/passwd", "absolute; give it relative to data.root"),
    "of Windows": ("C:\\\\photos\\\\b.jpg", "absolute; give it relative"),
    "of a share": ("\\\\\\\\server\\\\b.jpg", "absolute; give it relative"),
    "climbing": ("train/../../b.jpg", "climbs out of data.root with '..'"),
    "climbing by backslashes": ("train\\\\..\\\\..\\\\b.jpg", "climbs out of data.root with '..'"),
    "with backslashes, to nothing": (".\\\\train\\\\none.jpg", "no such file"),
    "with a blank of another kind": ("train/b\u00a0c.jpg", "no such file; did you mean 'train/b c.jpg'?"),
    "with an invisible character": ("train/\ufeffb\u200b.jpg", "no such file; did you mean 'train/b.jpg'?"),
    "without the blank at its end": ("train/s.jpg", "no such file; did you mean 'train/s.jpg '?"),
    "in full width": ("train/\uff42.jpg", "no such file; did you mean 'train/b.jpg'?"),
    "with a Cyrillic letter": ("train/\u0430.jpg", "no such file; did you mean 'train/a.jpg'?"),
    "alike to two files": ("train/T.jpg", "no such file; 'train/T.JPG' and 'train/t.jpg' differ from it in case"),
    "of another photo": (
        "train/A.jpg",
        "'train/a.jpg', which is alike but for case or Unicode form, is 'train/a.jpg' too",
    ),
    "of the home folder": ("~/b.jpg", "no such file"),
    "of the web": ("https://example.org/b.jpg", "no such file"),
    "of a folder": ("train", "not a file"),
    "through a file": ("train/a.jpg/b.jpg", "Not a directory"),
    "too long": ("b" * 300 + ".jpg", "name too long"),
}


@pytest.mark.parametrize("kind", PATHS)
def test_a_path_that_leads_nowhere_stops_preprocess(kind, competition_copy, capfd):
    path, reason = PATHS[kind]
    for name in ("b c.jpg", "s.jpg ", "t.jpg", "T.JPG"):
        shutil.copy("data/train/b.jpg", Path("data/train", name))
    file = competition_copy / "data" / "train.csv"
    file.write_text(file.read_text().replace("./train/b.jpg", path.replace("\\\\", "\\")))
    refused(capfd, preprocess, SMALL, (reason.replace("\\\\", "\\"), "train.csv, line 3", "data.on_bad_photo=skip"))


# a path in train.csv, and the file that it means
SPELLINGS = {
    "train\\a.jpg": "train/a.jpg",
    ".\\train\\b.jpg": "train/b.jpg",
    "\\train\\c.jpg": "train/c.jpg",
    "train\\sub/d.jpg": "train/sub/d.jpg",
    "train\\literal.jpg": "train\\literal.jpg",  # a file of that very name, beside train/literal.jpg
    "Train/SUB/E.JPG": "train/sub/e.jpg",
    "TRAIN\\f.Jpg": "train/f.jpg",
    "train/cafe\u0301.jpg": "train/caf\u00e9.jpg",
    "train/\uc0ac\uc9c4.jpg": "train/\u1109\u1161\u110c\u1175\u11ab.jpg",  # Korean, as macOS unpacks it
    "train/STRASSE.jpg": "train/stra\u00dfe.jpg",
    "train/g.jpg": "train/g.jpg",  # literally, beside G.jpg
    "train/G.jpg": "train/G.jpg",
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_path_in_another_spelling_finds_its_photo(line_end, competition_copy):
    rows = ["img_name,img_path,mos,comments"]
    for i, (path, file) in enumerate(SPELLINGS.items()):
        for name in (file, file.replace("\\", "/")):
            Path("data", name).parent.mkdir(exist_ok=True)
            shutil.copy("data/test/x.jpg", Path("data", name))
        rows.append(f"{i},{path},{i},x")
    for file, table in (("train.csv", rows), ("test.csv", ["img_name,img_path", "x,Test\\x.JPG"])):
        Path("data", file).write_bytes("".join(row + line_end for row in table).encode())
    before = set(Path().glob("runs/cache/photos-*"))
    assert exit_code(preprocess, *SMALL) == 0
    (folder,) = set(Path().glob("runs/cache/photos-*")) - before
    assert load_table(folder / "photos.jsonl")["path"].tolist() == [*SPELLINGS.values(), "test/x.jpg"]


def test_one_file_is_not_two_photos_by_two_spellings(competition_copy, capfd):
    """As where an archive with a.jpg and A.jpg was unpacked on a system that takes them for one file."""
    file = competition_copy / "data" / "train.csv"
    file.write_text(file.read_text().replace("./train/b.jpg", "train/C.JPG").replace("./train/c.jpg", "train/C.jpg"))
    refused(capfd, preprocess, SMALL, ("2 rows", "line 3", "'train/c.jpg', which is alike", "is 'train/C.jpg' too"))


HEADER = "img_name,img_path,mos,comments\n"
# train.csv, of whose photos d is unreadable, and words of the error
LEFT = {
    "no photo": ("a,none/a.jpg,5,x\nd,train/d.jpg,5,x\n", "no photo is left for training; runs/demo/rejected.csv says"),
    "no row": ("a,train/a.jpg,five,x\nb,/train/b.jpg,4,y\n", "no photo is left for training"),
    "no captions": ("a,train/a.jpg,5,\nb,train/b.jpg,4,\nd,train/d.jpg,5,x\n", "task=mos works with these data"),
    "no MOS": ("a,train/a.jpg,,x\nb,train/b.jpg,4.x,y\nd,train/d.jpg,5,x\n", "MOS: no photo for training that can"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_leaving_out_what_cannot_be_used_must_leave_something(kind, competition_copy, capfd):
    rows, words = LEFT[kind]
    (competition_copy / "data" / "train.csv").write_text(HEADER + rows)
    (competition_copy / "data" / "train" / "d.jpg").write_bytes(b"no photo")
    refused(capfd, preprocess, [*SMALL, "data.on_bad_photo=skip"], (words,))


def frames(format: str) -> bytes:
    return encoded(drawing(), format, save_all=True, append_images=[drawing(seed=1)], duration=50, lossless=True)


def oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(drawing().transpose(Image.Transpose.ROTATE_90), quality=95, exif=exif)


def sixteen_bits() -> bytes:
    return cv2.imencode(".png", np.asarray(drawing())[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()


def sixteen_bits_grey() -> bytes:
    return encoded(Image.fromarray(np.asarray(drawing().convert("L")).astype(np.uint16) * 257), "PNG")


def half_transparent() -> tuple[bytes, Image.Image]:
    image = drawing().convert("RGBA")
    image.putalpha(128)
    return encoded(image, "PNG"), Image.blend(Image.new("RGB", image.size, "white"), drawing(), 128 / 255)


GREY = drawing().convert("L").convert("RGB")
# a photo file, and the picture that it shows
ODD = {
    "CMYK": (encoded(drawing().convert("CMYK"), quality=95), drawing()),
    "16 bits": (sixteen_bits(), drawing()),
    "16 bits, grey": (sixteen_bits_grey(), GREY),
    "grey": (encoded(drawing().convert("L"), quality=95), GREY),
    "one bit": (encoded(drawing().convert("1"), "PNG"), drawing().convert("1").convert("RGB")),
    "palette": (encoded(drawing().quantize(256), "PNG"), drawing()),
    "animated GIF": (frames("GIF"), drawing()),
    "animated PNG": (frames("PNG"), drawing()),
    "animated WebP": (frames("WEBP"), drawing()),
    "half transparent": half_transparent(),
    "lying on its side": (oriented(), drawing()),
    "broken EXIF": (encoded(drawing(), quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), drawing()),
    "progressive": (encoded(drawing(), quality=95, progressive=True), drawing()),
    "bytes behind its end": (encoded(drawing(), quality=95) + bytes(500), drawing()),
    "BMP": (encoded(drawing(), "BMP"), drawing()),
    "TIFF": (encoded(drawing(), "TIFF"), drawing()),
    "one pixel": (encoded(Image.new("RGB", (1, 1), (10, 200, 30)), "PNG"), Image.new("RGB", (96, 64), (10, 200, 30))),
}


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory):
    """The pixels of a competition whose training photos are all odd, and one more behind a link with an odd name."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "data").mkdir()
    table = "img_name,img_path,mos,comments\n"
    for index, (content, _) in enumerate(ODD.values()):
        (folder / "data" / f"{index}.jpg").write_bytes(content)
        table += f"{index},{index}.jpg,{3 + index % 4},x\n"
    (folder / "data" / "사진 1.jpeg").symlink_to("0.jpg")
    (folder / "data" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"not listed, and no UTF-8 in its name")
    (folder / "data" / "train.csv").write_text(table + "link,사진 1.jpeg,5,x\n")
    (folder / "data" / "test.csv").write_text("img_name,img_path\nt,0.jpg\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        hurry(patch)
        assert exit_code(preprocess, "data.root=data", "view.size=32") == 0
        assert len(Path("runs/demo/rejected.csv").read_text().splitlines()) == 1, "none is rejected"
        return np.load(next(Path().glob("runs/cache/photos-*/pixels.npy")))


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_photo_becomes_the_right_pixels(kind, odd_photos):
    shown = np.asarray(ODD[kind][1]).astype(float).reshape(32, 2, 32, 3, 3).mean((1, 3))
    assert np.abs(odd_photos[list(ODD).index(kind)] - shown).mean() < 4


def test_links_and_names_that_are_no_ascii_are_followed(odd_photos):
    np.testing.assert_array_equal(odd_photos[len(ODD)], odd_photos[0])


def tiff(**tags: int) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[254] = tags["subfile"]
    return encoded(drawing(), "TIFF", tiffinfo=info)


# a file that is called .jpg, what it is, and what to do about it
FOREIGN = {
    "HEIC": (b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiaf" + bytes(4000), "HEIC; convert it", "pip install pillow-heif"),
    "HEIC of an odd brand": (b"\0\0\0\x18ftypMiHE\0\0\0\0mif1miaf" + bytes(400), "HEIC", "pillow-heif"),
    "JPEG XL": (b"\xff\x0a" + bytes(400), "JPEG XL; convert it", "pip install pillow-jxl-plugin"),
    "JPEG XL, boxed": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(400), "JPEG XL", "pillow-jxl-plugin"),
    "a video": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video", "give a photo"),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(400), "a raw photo of Canon", "develop it"),
    "RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(400), "a raw photo of Fujifilm", "develop it"),
    "NEF, a TIFF with a preview": (tiff(subfile=1), "a raw photo", "develop it"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\n", "PDF", "export its picture"),
    "SVG": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg xmlns="x"/>', "SVG", "convert it"),
    "a web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page", "get the file itself again"),
    "an answer": (b'{"error": "rate limit"}', "JSON", "get the file itself again"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS", "git lfs pull"),
    "an annex pointer": (b"/annex/objects/SHA256E-s1--2.jpg\n", "git-annex", "git annex get"),
    "a broken download": (bytes(5000), "empty space", "get the file itself again"),
    "saved as text": (b"\xff\xd8\xff\xe0\0\x10JFIF".decode("utf-8", "replace").encode(), "saved as text", "again"),
    "base64": (b"data:image/jpeg;base64,/9j/4AAQ", "base64", "decode it"),
    "a companion": (b"\0\x05\x16\x07\0\2\0\0Mac OS X" + bytes(90), "macOS", "leave it out"),
    "an archive": (b"PK\3\4" + bytes(90), "an archive", "unpack it"),
    "too large": (
        png(10_000, 9_000),
        "10000 × 9000 pixels, more than 89 million; make it smaller",
        "maximum_megapixels",
    ),
}


@pytest.fixture(scope="module")
def foreign_photos(tmp_path_factory):
    """Why preprocess refuses each of the photos of FOREIGN, and the pixels of two large ones behind them."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "data").mkdir()
    large = Image.new("L", (12_000, 9_000), 90)
    contents = [content for content, *_ in FOREIGN.values()]
    contents += [encoded(large, quality=60), encoded(large, quality=60, progressive=True)]
    for index, content in enumerate(contents):
        (folder / "data" / f"{index}.jpg").write_bytes(content)
    rows = "".join(f"{index},{index}.jpg,{index / 5},x\n" for index in range(len(contents)))
    (folder / "data" / "train.csv").write_text("img_name,img_path,mos,comments\n" + rows)
    (folder / "data" / "test.csv").write_text(f"img_name,img_path\nt,{len(contents) - 1}.jpg\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("src.data.image.FORMATS", tuple(name for name in FORMATS if name not in PHOTO_PLUGINS))
        hurry(patch)
        assert exit_code(preprocess, "data.root=data", "view.size=32", "data.on_bad_photo=skip") == 0
        rejected = pd.read_csv("runs/demo/rejected.csv").set_index("path")["reason"]
        return rejected, np.load(next(Path().glob("runs/cache/photos-*/pixels.npy")))[len(FOREIGN) :]


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_pillow_cannot_read_is_named(kind, foreign_photos):
    reason = foreign_photos[0][f"{list(FOREIGN).index(kind)}.jpg"]
    assert not [word for word in FOREIGN[kind][1:] if word not in reason], reason
    assert len(reason) < 160


def test_a_jpeg_of_108_megapixels_is_used(foreign_photos):
    rejected, pixels = foreign_photos
    assert len(rejected) == len(FOREIGN) and np.abs(pixels.astype(int) - 90).max() <= 1


def test_the_limit_of_pixels_is_a_setting(competition_copy, capfd):
    (competition_copy / "data" / "train" / "b.jpg").write_bytes(encoded(Image.new("L", (1200, 1000)), "PNG"))
    arguments = [*SMALL, "data.maximum_megapixels=1"]
    refused(capfd, preprocess, arguments, ("1200 × 1000 pixels, more than 1 million", "data.maximum_megapixels"))
    assert exit_code(preprocess, *SMALL, "data.maximum_megapixels=2") == 0


def test_photos_of_an_optional_package_are_read_once_it_is_there(competition_copy, capfd, monkeypatch):
    """Refused first, and not for good: what was decoded before does not count once the package is installed."""
    photo = competition_copy / "data" / "train" / "b.jpg"
    photo.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    monkeypatch.setattr("src.data.image.FORMATS", tuple(name for name in FORMATS if name not in PHOTO_PLUGINS))
    monkeypatch.setattr("src.pipeline.outputs._installed_plugins", lambda: [])
    refused(capfd, preprocess, SMALL, ("HEIC", "pip install pillow-heif"))

    monkeypatch.setattr("src.pipeline.outputs._installed_plugins", lambda: ["pillow_heif"])
    monkeypatch.setitem(Image.OPEN, "HEIF", (lambda *_: drawing(), lambda prefix: prefix[4:12] == b"ftypheic"))
    monkeypatch.setattr("src.data.image.FORMATS", (*FORMATS, "HEIF"))
    assert exit_code(preprocess, *SMALL) == 0
