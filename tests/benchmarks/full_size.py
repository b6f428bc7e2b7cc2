"""A rehearsal of the real competition's size: every stage, as a process, with what it takes.

python -m tests.benchmarks.full_size [1/16 1/4 1/1 ...] [--folder FOLDER] [key.sub=value ...]

Makes the share of a drawn competition that FOLDER lacks (see full_size_competition), runs the stages on it with the
defaults, and prints seconds, those of CPU, photos a second, peak anonymous memory of the processes together and bytes
on disk, then the growth exponents log(t2 / t1) / log(n2 / n1) between neighbouring sizes. FOLDER/SIZE/NAME.json, of
run.name, is kept up while a stage runs: the same command goes on, and a stage that was cut off is timed with the
seconds of all its starts. Runs of another name share photos and caches: what one left there takes the next no time.
Photos that cannot be used are left out (data.on_bad_photo=skip), and nothing is tuned (tune.trials=0) unless asked.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.base.errors import InputError, Stopped, guarded
from src.base.files import read_json, write_json
from src.base.machine import usable_cores
from src.base.provenance import provenance
from src.pipeline import outputs
from src.pipeline.runs import run_folder
from src.pipeline.stages import STAGES, start_stage
from src.settings.load import as_arguments, changed, load
from src.settings.schema import Settings
from tests.benchmarks.full_size_competition import draw_photos, numbers, write_tables
from tests.benchmarks.memory import anonymous_memory, cpu_seconds

_LOOK_EVERY, _SAVE_EVERY = 0.2, 10.0  # seconds
_SIZES = ["1/16", "1/4", "1/1"]
_GROWTH = {"s": "seconds", "CPU s": "cpu", "MB": "peak"}
_HEAD = ("stage", "size", "photos", "s", "CPU s", "photos/s", "peak MB", "run MB", "cache MB")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.prog = "python -m tests.benchmarks.full_size"
    parser.usage = f"{parser.prog} [SIZE ...] [--folder FOLDER] [key.sub=value ...]"
    parser.add_argument("sizes", metavar="SIZE", nargs="*", help=f"shares of the competition ({' '.join(_SIZES)})")
    parser.add_argument("--folder", metavar="FOLDER", default="runs/full_size", help="its place (runs/full_size)")


def _shares(texts: list[str]) -> list[Fraction]:
    try:
        shares = sorted({Fraction(text) for text in texts})
    except (ValueError, ZeroDivisionError):
        shares = [Fraction(0)]
    if not all(0 < share <= 1 for share in shares):
        raise InputError(f"{' '.join(texts)}: sizes are shares of the competition, such as 1/16 or 1/1")
    return shares


def _label(share: Fraction) -> str:
    return f"{share.numerator}-{share.denominator}"


def _bytes_on_disk(folder: Path) -> int:
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_blocks * 512 for file in files)


class Measurement:
    """What the stages of one size have taken so far, in a file that every change is written to."""

    def __init__(self, file: Path, share: Fraction, settings: Settings):
        self._file = file
        arguments = as_arguments(settings)
        self._content: dict[str, Any] = {"size": str(share), "photos": len(numbers(share)), "arguments": arguments}
        self._content["stages"] = {}
        if file.is_file():
            self._content = read_json(file)
        if self._content["arguments"] != arguments:
            raise InputError(f"{file} was measured with other settings; choose another run.name")

    @property
    def photos(self) -> int:
        return self._content["photos"]

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        return self._content["stages"]

    def add(self, stage: str, seconds: float, cpu: float, peak: int) -> None:
        """Seconds more of time and of CPU, and a look at the memory in bytes, of a stage that runs."""
        row = self.stages.setdefault(stage, {"seconds": 0.0, "cpu": 0.0, "peak": 0, "done": False})
        row["seconds"] += seconds
        row["cpu"] += cpu
        row["peak"] = max(row["peak"], peak)

    def finish(self, stage: str, settings: Settings) -> None:
        run, cache = _bytes_on_disk(run_folder(settings)), _bytes_on_disk(Path(settings.run.root, "cache"))
        commit = provenance(version, [])["git"]
        self.stages[stage] |= {"done": True, "run_bytes": run, "cache_bytes": cache, "commit": commit}
        self.save()

    def save(self) -> None:
        write_json(self._file, self._content)

    def row(self, stage: str) -> list[str]:
        """Cells of the table up to the growth."""
        row = self.stages[stage]
        sizes = [f"{row[name] / 1e6:,.0f}" for name in ("peak", "run_bytes", "cache_bytes")]
        times = [f"{row[name]:,.0f}" for name in ("seconds", "cpu")]
        rate = f"{self.photos / row['seconds']:,.1f}"
        return [stage, self._content["size"], f"{self.photos:,}", *times, rate, *sizes]


def _watch(process: subprocess.Popen, stage: str, measured: Measurement, features: Path | None) -> None:
    """Measure until the process ends. features: the folder whose making, inside train, is a row of its own."""
    before = saved = time.monotonic()
    cpu_before = 0.0
    row = "features" if features and not features.exists() else stage
    while process.poll() is None:
        time.sleep(_LOOK_EVERY)
        now, cpu = time.monotonic(), cpu_seconds(process.pid)
        measured.add(row, now - before, max(0.0, cpu - cpu_before), anonymous_memory(process.pid) * 1024)
        before, cpu_before = now, max(cpu, cpu_before)
        if features and row == "features" and features.exists():
            row = stage
        if now - saved > _SAVE_EVERY:
            measured.save()
            saved = now


def _run_stage(stage: str, settings: Settings, measured: Measurement, log: Path) -> None:
    features = outputs.features(settings).folder if stage == "train" and settings.encoder.cached else None
    command = ["preprocess", "--check"] if stage == "check" else [stage]
    with open(log, "a", encoding="utf-8") as file:
        process = start_stage(command[0], settings, *command[1:], stdout=file, stderr=subprocess.STDOUT)
        try:
            _watch(process, stage, measured, features)
        except Stopped:
            process.terminate()
            process.wait()
            raise
        finally:
            measured.save()
    if process.returncode:
        raise InputError(f"{stage} ended with exit code {process.returncode}; what it printed is in {log}")
    for row in ("features", stage) if features and "features" in measured.stages else (stage,):
        measured.finish(row, settings)


def measure(share: Fraction, folder: Path, settings: Settings) -> Measurement:
    """Make what is missing of a share, and run what is left of its stages, a printed line each."""
    place = folder / _label(share)
    where = {"data.root": place / "data", "run.root": place / "runs", "run.submissions": place / "submissions"}
    settings = changed(settings, {key: str(path) for key, path in where.items()}, "full size")
    name = settings.run.name
    measured = Measurement(place / f"{name}.json", share, settings)
    if not (place / "data" / "train.csv").is_file():
        draw_photos(folder, share)
        write_tables(folder, place / "data", share)
    for stage in ("check", *STAGES):
        skipped = stage == "tune" and not settings.tune.trials
        if skipped or measured.stages.get(stage, {}).get("done"):
            continue
        _run_stage(stage, settings, measured, place / f"{name}-{stage}.log")
        for row in ("features", stage) if stage == "train" and "features" in measured.stages else (stage,):
            print("  ".join(f"{name} {cell}" for name, cell in zip(_HEAD, measured.row(row), strict=False)), flush=True)
    return measured


def growth(few: float, many: float, photos: tuple[int, int]) -> str:
    """The exponent e in many / few = (photos more / photos fewer) ** e."""
    return f"{math.log(many / few) / math.log(photos[1] / photos[0]):.2f}" if few and many else ""


def table(measurements: list[Measurement]) -> list[str]:
    """A Markdown table: for each stage its sizes, smallest first, and how it grew since the size before."""
    head = [*_HEAD, *(f"growth of {name}" for name in _GROWTH)]
    lines = [head, ["---"] * len(head)]
    for stage in measurements[-1].stages:
        before = None
        for measured in (m for m in measurements if stage in m.stages):
            cells = [""] * len(_GROWTH)
            if before:
                rows, photos = (before.stages[stage], measured.stages[stage]), (before.photos, measured.photos)
                cells = [growth(rows[0][name], rows[1][name], photos) for name in _GROWTH.values()]
            lines.append([*measured.row(stage), *cells])
            before = measured
    return [f"| {' | '.join(cells)} |" for cells in lines]


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    settings, options = load(["data.on_bad_photo=skip", "tune.trials=0", *given], "train", __doc__, add_options)
    folder = Path(options.folder).absolute()
    measurements = [measure(share, folder, settings) for share in _shares(options.sizes or _SIZES)]
    machine = provenance(version, ["torch"])
    print(f"\n{machine['processor']}, {usable_cores()} cores, torch {machine['packages']['torch']}, {machine['git']}\n")
    print("\n".join(table(measurements)))


if __name__ == "__main__":
    guarded(main)
