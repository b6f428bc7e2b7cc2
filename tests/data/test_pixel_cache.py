"""The pixel cache is the same bytes, however often its building is cut off and by how many processes it is done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.data import pixel_cache
from src.data.handcrafted import NAMES
from src.data.image import decode
from src.data.pixel_cache import CHUNK, build_pixel_cache
from src.data.view import to_view
from src.settings.schema import ViewSettings
from tests.helpers.pictures import UNREADABLE, drawing, encoded

REPOSITORY = Path(__file__).parents[2]
ARRAYS = ("pixels.npy", "handcrafted.npy", "phash.npy", "digests.npy", "problems.json")


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
    real, calls = pixel_cache._decode_chunk, []

    def cut_off(folder, view, megapixels, begin, photos):
        calls.append(begin)
        if calls == [0, CHUNK]:
            raise KeyboardInterrupt
        return real(folder, view, megapixels, begin, photos)

    monkeypatch.setattr(pixel_cache, "_SYNC_EVERY", 1)
    monkeypatch.setattr(pixel_cache, "_decode_chunk", cut_off)
    with pytest.raises(KeyboardInterrupt):
        build_pixel_cache(tmp_path / "cut", root, paths, view, 1, False)
    build_pixel_cache(tmp_path / "cut", root, paths, view, 1, False)
    assert calls == [0, CHUNK, *range(CHUNK, 150, CHUNK)]
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    build_pixel_cache(tmp_path / "cut", root, paths, view, 1, False)
    assert len(calls) == 2 + len(range(CHUNK, 150, CHUNK))


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
    paths = sorted(path.name for path in root.iterdir()) * 8
    build_pixel_cache(Path(sys.argv[2]), root, paths, ViewSettings(size=32), 2, False)
"""


def children(pid: int) -> list[int]:
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                pids.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return pids


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


@pytest.mark.slow
def test_a_killed_build_leaves_no_process_and_resumes(album, tmp_path):
    process = start_build(album, tmp_path)
    progress = tmp_path / "out" / "problems.json"
    wait_until(progress.exists)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{worker}/cwd").exists() for worker in workers))
    assert 0 < len(json.loads(progress.read_text())["chunks"]) < 149 * 8 // CHUNK
    paths = sorted(p.name for p in album[0].iterdir()) * 8
    build_pixel_cache(tmp_path / "out", album[0], paths, ViewSettings(size=32), 2, False)
    build_pixel_cache(tmp_path / "whole", album[0], paths[:149], ViewSettings(size=32), 1, False)
    resumed, whole = (np.load(tmp_path / name / "pixels.npy") for name in ("out", "whole"))
    np.testing.assert_array_equal(resumed, np.tile(whole, (8, 1, 1, 1)))


def test_a_dead_worker_is_an_error_and_not_a_hang(album, tmp_path):
    process = start_build(album, tmp_path)
    wait_until(lambda: len(children(process.pid)) >= 2)  # a worker and the resource tracker
    time.sleep(0.3)
    for worker in children(process.pid):
        if b"spawn_main" in Path(f"/proc/{worker}/cmdline").read_bytes():
            os.kill(worker, signal.SIGKILL)
            break
    _, error = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "a process that decodes photos was ended from outside" in error
