"""MOS and caption of any photos, of a video or of a camera: python -m src.caption SOURCE… [run.name=NAME]

photo.jpg…    prints MOS and caption of each; --attention out.png draws where the captioner attended at each word
FOLDER        writes them as CSV, by default runs/NAME/captions.csv
video.mp4, 0  shows a video or a camera (by its index) with both drawn on the frames; q or Escape closes the window.
              --output out.mp4 writes it, without sound: a video without showing it, a camera until Ctrl-C

Uses the run's finished folds, or one with --fold K: MOS is the mean over them, the caption is that of the fold that
scored best. Settings not given are those the run was trained with.
"""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import InputError, Stopped, guarded
from src.pipeline.runs import run_folder
from src.pipeline.trained_runs import load_run
from src.settings.schema import Settings

if TYPE_CHECKING:
    from src.inference.photo_captioner import PhotoCaptioner, Prediction
    from src.video.reading import VideoSource

CAPTIONS_PER_SECOND = 2
"""Of a video that is written and not shown."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} SOURCE [SOURCE ...] [options] [key.sub=value ...]"
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="photos, a folder of photos, a video or a camera")
    parser.add_argument("--attention", metavar="PNG", help="draw where the captioner attended, for one photo")
    parser.add_argument("--output", metavar="FILE", help="write the video (.mp4) or the folder's CSV there")


def kind_of(sources: list[str]) -> str:
    """What is to be captioned: "photos", "folder", "video" or "camera". Raises InputError for a mixture, or nothing."""
    from src.video.reading import SUFFIXES

    def kind(source: str) -> str:
        if Path(source).is_dir():
            return "folder"
        if source.isdecimal():
            return "camera"
        if not Path(source).suffix and not Path(source).exists():
            raise InputError(f"{source}: no such file or folder")
        return "video" if Path(source).suffix.lower() in SUFFIXES else "photos"

    kinds = {kind(source) for source in sources}
    if not kinds:
        raise InputError("nothing to caption: give photos, a folder, a video or the number of a camera; see --help")
    if kinds == {"photos"}:
        return "photos"
    if len(sources) > 1:
        raise InputError(f"{' '.join(sources)}: give one or more photos, or one folder, video or camera at a time")
    return kinds.pop()


def check_options(kind: str, options: argparse.Namespace) -> None:
    """Raise InputError where --attention or --output do not fit what is captioned."""
    if options.attention and (kind != "photos" or len(options.sources) > 1):
        raise InputError("--attention draws one photo; give a single photo with it")
    if options.attention and Path(options.attention).suffix.lower() != ".png":
        raise InputError(f"--attention {options.attention}: pictures are written as PNG; give a name that ends in .png")
    suffix = {"folder": ".csv", "photos": None}.get(kind, ".mp4")
    if options.output and suffix is None:
        raise InputError("--output is for a video, a camera or a folder; photos are printed (--attention draws one)")
    if options.output and Path(options.output).suffix.lower() != suffix:
        raise InputError(f"--output {options.output}: give a name that ends in {suffix}")
    for out in filter(None, (options.attention, options.output)):
        if kind in ("photos", "video") and Path(out).resolve() == Path(options.sources[0]).resolve():
            raise InputError(f"{out} is the source itself; give another name for what is written")


def load_captioner(settings: Settings) -> "PhotoCaptioner":
    """The run's networks."""
    from src.base.randomness import make_deterministic
    from src.inference.photo_captioner import PhotoCaptioner

    make_deterministic(settings.run.threads)
    return PhotoCaptioner(run_folder(settings), settings)


def caption_photos(settings: Settings, options: argparse.Namespace) -> None:
    """Print a line per photo; draw the attention where asked for."""
    from src.inference.photo_captioner import describe_files

    captioner, problems = load_captioner(settings), []
    for path, prediction, problem in describe_files(captioner, map(Path, options.sources)):
        if prediction is None:
            problems.append(f"{path}: {problem}")
            continue
        mos = "" if prediction.mos is None else f"MOS {prediction.mos:.4f}"
        print("  ".join(filter(None, (str(path), mos, prediction.caption))), flush=True)
        if options.attention:
            draw_attention_maps(captioner, path, prediction, Path(options.attention))
    if problems:
        raise InputError(f"not readable: {'; '.join(problems)}")


def draw_attention_maps(captioner: "PhotoCaptioner", path: Path, prediction: "Prediction", out: Path) -> None:
    """Draw where the captioner attended at each word. Raises InputError as `PhotoCaptioner.attention_maps` does."""
    from src.inference.photo_captioner import attention_of_file
    from src.plots.attention_maps import draw_attention

    maps, photo, view_box = attention_of_file(captioner, path)
    mos = "" if prediction.mos is None else f"MOS {prediction.mos:.2f}"
    title = " ".join(filter(None, (mos, prediction.caption)))
    draw_attention(photo, maps.words, maps.weights, maps.layout, view_box, out, title, maps.parts)
    print(f"caption: {out}: written", flush=True)


def caption_folder(settings: Settings, options: argparse.Namespace) -> None:
    """Write a row per photo; the cells of an unreadable one stay empty."""
    from tqdm import tqdm

    from src.inference.photo_captioner import describe_files, file_name, photos_in, write_captions

    paths = photos_in(Path(options.sources[0]))
    captioner = load_captioner(settings)
    out = Path(options.output) if options.output else run_folder(settings) / "captions.csv"
    rows = list(tqdm(describe_files(captioner, paths), total=len(paths), unit="photo", leave=False, disable=None))
    write_captions(out, rows)
    unreadable = [f"{file_name(path)}: {problem}" for path, _, problem in rows if problem]
    warning = f", {len(unreadable)} of them not readable and left empty (first: {unreadable[0]})" if unreadable else ""
    print(f"caption: {out}: {len(rows)} photos{warning}", flush=True)


def caption_video(settings: Settings, options: argparse.Namespace, source: "VideoSource") -> None:
    """Show or write every frame of a `VideoSource` with MOS and caption drawn on it.

    A display never waits: the captioner takes the newest frame whenever it is free. A video that is only written gets
    CAPTIONS_PER_SECOND, so that it is the same each time. A camera's recording ends with Ctrl-C, or with the window.
    """
    from src.video.frames import draw_text
    from src.video.live import (
        BackgroundCaptioner,
        ConstantRateWriter,
        PeriodicCaptioner,
        at_frame_rate,
        open_window,
        play,
    )
    from src.video.reading import video_writer

    live = source.camera or not options.output
    window = open_window(f"{options.sources[0]} - {settings.run.name}") if live else None
    if window is None and not options.output:
        raise InputError("there is no screen here (or Python has no tkinter); give --output FILE.mp4 to write a video")
    describe = load_captioner(settings).describe_frame

    def draw(frame, prediction):
        title = "" if prediction is None or prediction.mos is None else f"MOS {prediction.mos:.2f}"
        return draw_text(frame, title, (prediction and prediction.caption) or "")

    with contextlib.ExitStack() as stack:
        captioner: BackgroundCaptioner | PeriodicCaptioner
        if live:
            captioner = stack.enter_context(BackgroundCaptioner(describe))
        else:
            captioner = PeriodicCaptioner(describe, max(1, round(source.rate / CAPTIONS_PER_SECOND)))
        sinks: list = [window] if window else []
        if options.output:
            write = stack.enter_context(video_writer(Path(options.output), source.rate))
            sinks.append(ConstantRateWriter(write, source.rate) if source.camera else write)
        frames = at_frame_rate(source, source.rate) if live and not source.camera else source
        with contextlib.suppress(*[Stopped, KeyboardInterrupt] if source.camera else []):
            play(frames, captioner, draw, sinks)
    written = f"{options.output}: " if options.output else ""
    print(f"caption: {written}{source.read} frames, {captioner.captioned} of them captioned", flush=True)
    if source.shortfall():
        print(f"caption: {source.shortfall()}", flush=True)


def main(argv: list[str] | None = None) -> None:
    settings, options = load_run(argv, "caption", __doc__, add_options)
    kind = kind_of(options.sources)
    check_options(kind, options)
    try:
        if kind in ("video", "camera"):
            from src.video.reading import VideoSource

            source = VideoSource(int(options.sources[0]) if kind == "camera" else Path(options.sources[0]))
            with contextlib.closing(source):
                caption_video(settings, options, source)
        else:
            (caption_folder if kind == "folder" else caption_photos)(settings, options)
    except Stopped as stop:
        raise Stopped("nothing half done is left; the same command starts over", stop.signal) from None


if __name__ == "__main__":
    guarded(main)
