"""Photos of every kind become the same arrays, however often the work is cut off."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from src.base.errors import InputError
from src.data import pixel_cache as pixels_module
from src.data.handcrafted import NAMES
from src.data.image import Unreadable, decode, to_view
from src.data.pixel_cache import CHUNK, build_pixel_cache
from src.data.statistics import channel_statistics, dataset_statistics
from src.data.table import make_table
from src.settings.schema import ViewSettings

REPOSITORY = Path(__file__).parents[2]
ARRAYS = ("pixels.npy", "handcrafted.npy", "phash.npy", "digests.npy", "problems.json")


def drawing(width=96, height=64, seed=0) -> Image.Image:
    """Smooth colours with a red top-left corner, so that its orientation can be seen."""
    rng = np.random.default_rng(seed)
    base = Image.fromarray(rng.integers(60, 200, (4, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    ImageDraw.Draw(base).rectangle((0, 0, width // 4, height // 4), fill=(250, 10, 10))
    return base


def encoded(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def close(one, other, tolerance):
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other.astype(int)).mean() < tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(format):
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
    answer = decode(encoded(image, {"CMYK": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG")), 64)
    close(answer, np.asarray(expected), 4)


def test_cmyk_jpeg_has_the_right_colours():
    close(decode(encoded(drawing().convert("CMYK"), quality=95), 64), np.asarray(drawing()), 4)


def test_transparency_lies_over_white():
    image = drawing().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 48, 1).repeat(64, 0)))
    answer = decode(encoded(image, "PNG"), 64)
    assert (answer[:, :48] == 255).all()
    close(answer[:, 48:], np.asarray(drawing())[:, 48:], 1)
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0] * 768)
    assert (decode(encoded(palette, "PNG", transparency=3), 64) == 255).all()


def test_first_frame_of_an_animation():
    frames = [drawing(seed=1), drawing(seed=2)]
    answer = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 64)
    close(answer, np.asarray(frames[0]), 12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation):
    upright = drawing()
    transpose = Image.Transpose
    # how a camera held that way stores the picture: the inverse of what has to be done to show it
    stored = {
        1: lambda x: x,
        2: lambda x: x.transpose(transpose.FLIP_LEFT_RIGHT),
        3: lambda x: x.transpose(transpose.ROTATE_180),
        4: lambda x: x.transpose(transpose.FLIP_TOP_BOTTOM),
        5: lambda x: x.transpose(transpose.TRANSPOSE),
        6: lambda x: x.transpose(transpose.ROTATE_90),
        7: lambda x: x.transpose(transpose.TRANSVERSE),
        8: lambda x: x.transpose(transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    close(decode(encoded(stored, quality=95, exif=exif), 64), np.asarray(upright), 4)


@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff", b"junk", b"MM\0*\0\0\0\x08\xff\xff"])
def test_broken_exif_is_ignored(exif):
    close(decode(encoded(drawing(), quality=95, exif=b"Exif\0\0" + exif), 64), np.asarray(drawing()), 4)


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


UNREADABLE = {
    "empty": (b"", "empty"),
    "text": (b"this is not a photo", "not a photo in a known format"),
    "truncated": (encoded(drawing(600, 400))[:4000], "truncated"),
    "header_only": (encoded(drawing(), "PNG")[:40], "."),
    "bomb": (bomb(), "million pixels"),
    "float": (encoded(drawing().convert("F"), "TIFF"), "floating-point"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_photos_say_why(kind, recwarn):
    content, reason = UNREADABLE[kind]
    with pytest.raises(Unreadable, match=reason) as error:
        decode(content, 64)
    assert str(error.value) and "\n" not in str(error.value)
    assert not [str(w) for w in recwarn.list]


def test_fits():
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


@pytest.fixture
def album(tmp_path):
    """150 photos, some unreadable, in a root of their own."""
    root = tmp_path / "root"
    root.mkdir()
    paths = []
    for index in range(150):
        paths.append(f"{index:03d}.jpg")
        (root / paths[-1]).write_bytes(encoded(drawing(160, 120, seed=index)))
    for index, kind in zip((3, 70, 71, 140, 149), UNREADABLE, strict=False):
        (root / paths[index]).write_bytes(UNREADABLE[kind][0])
    (root / paths[20]).unlink()
    return root, paths


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def test_build_is_the_same_for_any_number_of_processes(album, tmp_path):
    root, paths = album
    view = ViewSettings(size=48)
    problems = build_pixel_cache(tmp_path / "one", root, paths, view, 1, False)
    assert build_pixel_cache(tmp_path / "two", root, paths, view, 2, False) == problems
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert sorted(bytes_of(tmp_path / "one")) == sorted(ARRAYS)
    bad = [3, 20, 70, 71, 140, 149]
    assert [i for i, problem in enumerate(problems) if problem] == bad
    pictures = np.load(tmp_path / "one" / "pixels.npy", mmap_mode="r")
    assert pictures.shape == (150, 48, 48, 3) and pictures.dtype == np.uint8
    assert not pictures[bad].any() and pictures[4].any()
    np.testing.assert_array_equal(pictures[7], to_view(decode((root / paths[7]).read_bytes(), 224), view))
    handcrafted = np.load(tmp_path / "one" / "handcrafted.npy")
    assert handcrafted.shape == (150, len(NAMES)) and np.isfinite(handcrafted).all()
    digests = np.load(tmp_path / "one" / "digests.npy")
    assert not digests[20].any() and len(np.unique(digests, axis=0)) == 150
    assert len(np.unique(np.load(tmp_path / "one" / "phash.npy"))) == 145


def test_build_goes_on_where_it_was_cut_off(album, tmp_path, monkeypatch):
    root, paths = album
    view = ViewSettings(size=32, color="gray", fit="crop")
    build_pixel_cache(tmp_path / "whole", root, paths, view, 1, False)
    real, calls = pixels_module._do_chunk, []

    def cut_off(begin):
        calls.append(begin)
        if begin == CHUNK:
            raise KeyboardInterrupt
        return real(begin)

    monkeypatch.setattr(pixels_module, "_SYNC_EVERY", 1)
    monkeypatch.setattr(pixels_module, "_do_chunk", cut_off)
    with pytest.raises(KeyboardInterrupt):
        build_pixel_cache(tmp_path / "cut", root, paths, view, 1, False)
    with open(tmp_path / "cut" / "journal.jsonl", "a") as file:
        file.write('{"begin": 64, "prob')  # a line torn by a kill
    monkeypatch.setattr(pixels_module, "_do_chunk", lambda begin: (calls.append(begin), real(begin))[1])
    build_pixel_cache(tmp_path / "cut", root, paths, view, 1, False)
    assert calls == [0, CHUNK, CHUNK, 2 * CHUNK]
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    build_pixel_cache(tmp_path / "cut", root, paths, view, 1, False)
    assert len(calls) == 4


def test_other_arguments_or_changed_photos_start_over(album, tmp_path):
    root, paths = album
    paths = paths[:10]
    folder = tmp_path / "out"
    build_pixel_cache(folder, root, paths, ViewSettings(size=32), 1, False)
    build_pixel_cache(folder, root, paths, ViewSettings(size=32, fit="pad"), 1, False)
    padded = np.load(folder / "pixels.npy")
    assert not padded[0, :4].any()
    (root / paths[5]).write_bytes(encoded(drawing(50, 90, seed=99)))
    build_pixel_cache(folder, root, paths, ViewSettings(size=32, fit="pad"), 1, False)
    assert (np.load(folder / "pixels.npy") != padded).any((1, 2, 3)).nonzero()[0].tolist() == [5]


BUILD = """
import sys
from pathlib import Path
if __name__ == "__main__":
    from src.data.pixel_cache import build_pixel_cache
    from src.settings.schema import ViewSettings
    root = Path(sys.argv[1])
    build_pixel_cache(Path(sys.argv[2]), root, sorted(p.name for p in root.iterdir()) * 8, ViewSettings(size=32), 2, False)
"""


def children(pid: int) -> list[int]:
    table = [p.read_text().rsplit(")", 1)[1].split()[1] for p in Path(f"/proc/{pid}/task").glob("*/stat")]
    assert table
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


def start_build(album, tmp_path) -> subprocess.Popen:
    script = tmp_path / "run_build.py"
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(album[0]), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def test_a_killed_build_leaves_no_process_and_resumes(album, tmp_path):
    process = start_build(album, tmp_path)
    journal = tmp_path / "out" / "journal.jsonl"
    wait_until(lambda: journal.exists() and len(journal.read_text().splitlines()) > 1)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{worker}/cwd").exists() for worker in workers))
    assert not (tmp_path / "out" / "problems.json").exists()
    paths = sorted(p.name for p in album[0].iterdir()) * 8
    build_pixel_cache(tmp_path / "out", album[0], paths, ViewSettings(size=32), 2, False)
    build_pixel_cache(tmp_path / "whole", album[0], paths[:149], ViewSettings(size=32), 1, False)
    resumed, whole = (np.load(tmp_path / name / "pixels.npy") for name in ("out", "whole"))
    np.testing.assert_array_equal(resumed, np.tile(whole, (8, 1, 1, 1)))


def test_a_dead_worker_is_an_error_and_not_a_hang(album, tmp_path):
    process = start_build(album, tmp_path)
    wait_until(lambda: len(children(process.pid)) >= 3)  # two workers and the resource tracker
    time.sleep(0.3)
    for worker in children(process.pid):
        if b"spawn_main" in Path(f"/proc/{worker}/cmdline").read_bytes():
            os.kill(worker, signal.SIGKILL)
            break
    _, error = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "a process that decodes photos was ended from outside" in error


def test_dead_worker_raises_input_error(monkeypatch, album, tmp_path):
    from concurrent.futures.process import BrokenProcessPool

    def broken(*_, **__):
        raise BrokenProcessPool

    monkeypatch.setattr(pixels_module, "wait", broken)
    with pytest.raises(InputError, match="run the same command again"):
        build_pixel_cache(tmp_path / "out", *album, ViewSettings(size=32), 2, False)


def test_channel_statistics_equal_numpy():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    mean, sd = channel_statistics(pictures, np.array([0, 2, 4]))
    np.testing.assert_allclose(mean, pictures[::2].mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(sd, pictures[::2].std((0, 1, 2)) / 255, rtol=1e-12)


def test_describe_counts_training_photos_only():
    rows = [("a", "a", 2.0, ("one two", "three"), "g", "train"), ("b", "b", 4.0, (), "g", "train")]
    rows += [("c", "c", np.nan, ("x y z",), "c", "train"), ("t", "t", np.nan, (), "t", "test")]
    rows += [("r", "r", 9.0, ("never",), "r", "rejected")]
    frame: pd.DataFrame = make_table(rows)
    pictures = np.zeros((5, 4, 4, 1), np.uint8)
    pictures[3:] = 255
    facts = dataset_statistics(frame, pictures, np.zeros((5, len(NAMES)), np.float32))
    assert facts["photos"] == {"train": 3, "test": 1}
    assert facts["channels"] == {"mean": [0.0], "sd": [0.0]}
    assert (facts["mos"]["mean"], facts["mos"]["sd"], facts["mos"]["count"]) == (3.0, 1.0, 2)
    assert facts["captions"]["count"] == 3 and facts["captions"]["words"]["max"] == 3
    assert facts["captions"]["per_photo"] == {"0": 1, "1": 1, "2": 1}
    assert facts["groups"] == 2
