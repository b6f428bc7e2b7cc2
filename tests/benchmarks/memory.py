"""Anonymous resident memory of preprocess and train with 50,000 photos, against the same with 1,000.

Mapped file pages (the cached pixels) are not counted: the system reclaims them whenever it needs memory.
"""

import contextlib
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = 1_000, 50_000
DISTINCT = 1_000
ARGUMENTS = ["run.root=runs", "split.holdout=0.02", "train.epochs=1", "train.batch_size=64", "decoder.hidden=32"]


def _competition(root: Path, count: int) -> None:
    """`count` photos of 128 pixels, DISTINCT different ones and hard links to them."""
    rng = np.random.default_rng(0)
    (root / "train").mkdir(parents=True)
    words = [f"word{i}" for i in range(400)]
    with open(root / "train.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("img_name", "img_path", "mos", "comments"))
        for number in range(count):
            path = root / "train" / f"{number}.jpg"
            if number < DISTINCT:
                noise = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                noise.resize((128, 128), Image.Resampling.BICUBIC).save(path, quality=90)
            else:
                os.link(root / "train" / f"{number % DISTINCT}.jpg", path)
            comment = " ".join(rng.choice(words, 12))
            writer.writerow((f"p{number}", f"train/{number}.jpg", f"{rng.normal(5, 1):.4f}", comment))
    (root / "test.csv").write_text("img_name,img_path\nq0,train/0.jpg\n")


def process_tree(process: int) -> list[int]:
    """A process and its descendants, those that live."""
    try:
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [process, *(one for child in below for one in process_tree(int(child)))]


def anonymous_memory(process: int) -> int:
    """RssAnon of a process and its descendants in kB."""
    anonymous = 0
    for one in process_tree(process):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
            anonymous += next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
    return anonymous


def cpu_seconds(process: int) -> float:
    """Seconds of CPU that a process and its descendants have taken, also those that have ended and were waited for."""
    ticks = 0
    for one in process_tree(process):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak(folder: Path, stage: str) -> float:
    """The greatest anonymous memory in MB while a stage runs."""
    command = [sys.executable, "-m", f"src.{stage}", f"data.root={folder / 'data'}", *ARGUMENTS]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment["STAGES_END_WITH_PARENT"] = str(os.getpid())
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"error: {stage} failed")
    return peak / 1024


def run() -> Iterator[tuple[str, float, float, str, str]]:
    """MB at both sizes, stage by stage."""
    peaks: dict[str, list[float]] = {"preprocess": [], "split": [], "train": []}
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            _competition(Path(folder) / "data", count)
            for stage, sizes in peaks.items():
                sizes.append(_peak(Path(folder), stage))
    for stage, (few, many) in peaks.items():
        grown = f"{SIZES[0]:,} photos; grew by {many - few:.0f} MB"
        yield f"{stage} {SIZES[1]:,} photos of 128 px, peak memory", many, few, grown, "MB"
