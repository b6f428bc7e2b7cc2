"""Photo files of every kind become upright RGB pixels, and these the view that was asked for."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

from src.base.signatures import PHOTO_PLUGINS
from src.data.image import FORMATS, MAX_FILE_BYTES, Unreadable, decode, header_fault, load_photo
from src.data.view import NEVER_REDUCED, to_view
from src.settings.schema import ViewSettings
from tests.helpers.pictures import UNREADABLE, drawing, encoded, resized


def close(one, other, tolerance):
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other.astype(int)).mean() < tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_is_decoded(format):
    close(decode(encoded(drawing(), format), 64), np.asarray(drawing()), 12)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "LA", "RGBA", "YCbCr", "I;16"])
def test_colour_modes_become_rgb(mode):
    source = drawing()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
        expected = source.convert("L").convert("RGB")
    else:
        image = source.convert(mode)
        expected = image.convert("RGB")
    rgb = decode(encoded(image, {"CMYK": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG")), 64)
    close(rgb, np.asarray(expected), 4)


def test_cmyk_jpeg_has_the_right_colours():
    close(decode(encoded(drawing().convert("CMYK"), quality=95), 64), np.asarray(drawing()), 4)


def test_transparency_lies_over_white():
    image = drawing().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 48, 1).repeat(64, 0)))
    rgb = decode(encoded(image, "PNG"), 64)
    assert (rgb[:, :48] == 255).all()
    close(rgb[:, 48:], np.asarray(drawing())[:, 48:], 1)
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0] * 768)
    assert (decode(encoded(palette, "PNG", transparency=3), 64) == 255).all()


def test_an_animation_gives_its_first_frame():
    frames = [drawing(seed=1), drawing(seed=2)]
    rgb = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 64)
    close(rgb, np.asarray(frames[0]), 12)


STORED = {
    1: lambda picture: picture,
    2: lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    4: lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
    6: lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    7: lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
    8: lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
}
"""How a camera held that way stores the picture: the inverse of what has to be done to show it."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied_once(format, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(STORED[orientation](drawing()), format, quality=95, exif=exif)
    close(decode(content, 64), np.asarray(drawing()), 4)


def test_orientation_behind_the_pixels_of_a_png_is_applied():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encoded(STORED[6](drawing()), "PNG", exif=exif)
    begin = content.index(b"eXIf") - 4
    chunk = content[begin : begin + 12 + int.from_bytes(content[begin : begin + 4])]
    end = content.index(b"IEND") - 4
    assert begin < content.index(b"IDAT")
    moved = content[:begin] + content[begin + len(chunk) : end] + chunk + content[end:]
    close(decode(moved, 64), np.asarray(drawing()), 1)


@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff", b"junk", b"MM\0*\0\0\0\x08\xff\xff"])
def test_broken_exif_is_ignored(exif):
    close(decode(encoded(drawing(), quality=95, exif=b"Exif\0\0" + exif), 64), np.asarray(drawing()), 4)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_photos_say_why(kind, recwarn):
    content, reason = UNREADABLE[kind]
    with pytest.raises(Unreadable, match=reason) as error:
        decode(content, 64)
    assert str(error.value) and "\n" not in str(error.value)
    assert not [str(w) for w in recwarn.list]


def test_squash_pad_and_crop_keep_what_they_promise():
    rgb = np.asarray(drawing(96, 64))
    for fit in ("squash", "pad", "crop"):
        assert to_view(rgb, ViewSettings(size=48, fit=fit)).shape == (48, 48, 3)
    close(to_view(rgb, ViewSettings(size=48)), np.asarray(drawing(96, 64).resize((48, 48), Image.BOX)), 6)
    padded = to_view(rgb, ViewSettings(size=48, fit="pad"))
    assert not padded[:8].any() and not padded[40:].any()
    close(padded[8:40], rgb.reshape(32, 2, 48, 2, 3).mean((1, 3)), 1)
    close(to_view(rgb, ViewSettings(size=64, fit="crop")), rgb[:, 16:80], 0.01)
    for size in ((1, 300), (300, 1), (40, 90), (1, 1)):
        assert to_view(np.zeros((*size, 3), np.uint8), ViewSettings(size=64, fit="pad")).shape == (64, 64, 3)


def test_near_duplicates_are_the_same_whatever_the_view(tmp_path):
    hashes = []
    grain = np.random.default_rng(0).integers(0, 256, (1100, 960, 3), dtype=np.uint8)
    large = Image.blend(drawing(960, 1100), Image.fromarray(grain), 0.3)  # read at another scale for other views
    for name, picture in (("a", drawing(150, 100)), ("b", drawing(150, 100).rotate(90)), ("c", large)):
        (path := tmp_path / f"{name}.jpg").write_bytes(encoded(picture, "JPEG"))
        views = [ViewSettings(), ViewSettings(32), ViewSettings(64, "gray"), ViewSettings(300, fit="pad")]
        views += [ViewSettings(48, fit="crop"), ViewSettings(48, fit="native", crops=2), ViewSettings(512)]
        photos = [load_photo(path, view) for view in views]
        hashes.append({photo.phash for photo in photos})
        for photo in photos:
            np.testing.assert_array_equal(photo.handcrafted, photos[0].handcrafted)
    assert [len(each) for each in hashes] == [1, 1, 1] and hashes[0] != hashes[1]


def test_a_jpeg_of_several_pictures_is_its_first_in_the_look_before_as_well(tmp_path):
    drawing().save(path := tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[drawing(32, 24)])
    assert header_fault(path, 64) is None
    close(decode(path.read_bytes(), 64), np.asarray(drawing()), 12)


def test_the_look_before_refuses_a_file_that_is_not_read(tmp_path):
    (path := tmp_path / "large.jpg").write_bytes(encoded(drawing()))
    os.truncate(path, MAX_FILE_BYTES + 1)
    assert header_fault(path, 64) == load_photo(path, ViewSettings()).problem == "a file of more than 512 MiB"


def test_gray_is_bt601_luma():
    rgb = np.asarray(drawing(64, 64))
    gray = to_view(rgb, ViewSettings(size=64, color="gray"))
    assert gray.shape == (64, 64, 1)
    np.testing.assert_allclose(gray[..., 0], rgb @ [0.299, 0.587, 0.114], atol=0.51)


def test_reduced_decoding_loses_next_to_nothing():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).resize((1440, 960), Image.BICUBIC)
    content = encoded(coarse, quality=92)
    reduced, full = decode(content, 224), decode(content, 10_000)
    assert reduced.shape == (240, 360, 3) and full.shape == (960, 1440, 3)
    one, other = (to_view(rgb, ViewSettings(size=128)).astype(float) for rgb in (reduced, full))
    assert 10 * np.log10(255**2 / ((one - other) ** 2).mean()) > 40


def non_interleaved(jpeg: bytes) -> bytes:
    """The JPEG with the header of a scan of its first colour alone."""
    begin = jpeg.index(b"\xff\xda")
    end = begin + 2 + int.from_bytes(jpeg[begin + 2 : begin + 4])
    return jpeg[:begin] + b"\xff\xda\0\x08\1" + jpeg[begin + 5 : begin + 7] + b"\0\x3f\0" + jpeg[end:]


def test_what_is_held_whole_in_memory_counts_whole():
    """A JPEG of one scan is small at reduced scale. Of one with several libjpeg keeps all coefficients."""
    gray = drawing().convert("L")
    plain, progressive = (resized(encoded(gray, progressive=several), 12_000, 9_000) for several in (False, True))
    assert decode(plain, 300, 10).shape == decode(progressive, 300, 55).shape == (1125, 1500, 3)
    separate = resized(non_interleaved(encoded(drawing())), 12_000, 9_000)
    for content, short_side in ((progressive, 300), (separate, 300), (plain, NEVER_REDUCED)):
        assert "12000 × 9000 pixels, more than 53 million" in reason(content, short_side, 53)


def reason(content: bytes, short_side: int, megapixels: int) -> str:
    with pytest.raises(Unreadable) as error:
        decode(content, short_side, megapixels)
    return str(error.value)


LARGE = """
import resource, sys
from pathlib import Path
from src.data.image import load_photo
from src.settings.schema import ViewSettings
load_photo(Path(sys.argv[1]), ViewSettings())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
photo = load_photo(Path(sys.argv[2]), ViewSettings())
print(photo.problem, photo.pixels.shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_photo_of_108_megapixels_takes_little_memory(tmp_path):
    drawing().save(tmp_path / "small.jpg")
    Image.new("RGB", (12_000, 9_000), (90, 120, 60)).save(tmp_path / "large.jpg", quality=60)
    command = [sys.executable, "-c", LARGE, tmp_path / "small.jpg", tmp_path / "large.jpg"]
    problem, *shape, megabytes = subprocess.check_output(command, text=True).split()
    assert problem == "None" and "".join(shape) == "(224,224,3)" and int(megabytes) < 100


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", PHOTO_PLUGINS)
def test_formats_of_optional_packages_are_turned_once(name, orientation):
    if name not in FORMATS:
        pytest.skip(f"{PHOTO_PLUGINS[name]} is not installed (requirements-optional.txt)")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(STORED[orientation](drawing()), name, quality=95, exif=exif.tobytes())
    close(decode(content, 64), np.asarray(drawing()), 4)
