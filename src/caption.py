"""MOS and caption of any photos, of a video or of a camera: python -m src.caption SOURCE… [run.name=NAME]

photo.jpg…    prints MOS and caption of each; --attention out.png draws where the captioner looked at each word
FOLDER        writes them as CSV, by default runs/NAME/captions.csv
video.mp4, 0  shows a video or a camera (by its number) with both drawn on the picture; q or Escape closes the window.
              --output out.mp4 writes it, without sound: a video's without showing it, a camera's until Ctrl-C

Uses the run's finished folds, or one with --fold K: MOS is the mean over them, the caption is that of the fold that
scored best. Settings not given are those the run was trained with.
"""

import argparse
import contextlib
from pathlib import Path

from src.base.errors import InputError, Stopped, guarded
from src.pipeline.stages import run_folder
from src.settings.load import load_run

PER_SECOND = 2
"""Captions a second of a video that is written and not shown."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} SOURCE [SOURCE ...] [options] [key.sub=value ...]"
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="photos, a folder of photos, a video or a camera")
    parser.add_argument("--attention", metavar="PNG", help="draw where the captioner looked, for one photo")
    parser.add_argument("--output", metavar="FILE", help="write the video (.mp4) or the folder's CSV there")


def kind_of(sources: list[str]) -> str:
    """What is to be captioned: "photos", "folder", "video" or "camera". Raises InputError for a mixture, or nothing."""
    from src.video.reading import SUFFIXES

    def kind(source: str) -> str:
        if source.isdecimal():
            return "camera"
        if Path(source).is_dir():
            return "folder"
        return "video" if Path(source).suffix.lower() in SUFFIXES else "photos"

    kinds = {kind(source) for source in sources}
    if not kinds:
        raise InputError("nothing to caption: give photos, a folder, a video or the number of a camera; see --help")
    if kinds == {"photos"}:
        return "photos"
    if len(sources) > 1:
        raise InputError(f"{' '.join(sources)}: give one or more photos, or one folder, video or camera at a time")
    return kinds.pop()


def check_options(kind: str, chosen: argparse.Namespace) -> None:
    """Raise InputError where --attention or --output do not fit what is captioned."""
    if chosen.attention and (kind != "photos" or len(chosen.sources) > 1):
        raise InputError("--attention draws one photo; give a single photo with it")
    if chosen.attention and Path(chosen.attention).suffix.lower() != ".png":
        raise InputError(f"--attention {chosen.attention}: pictures are written as PNG; give a name that ends in .png")
    suffix = {"folder": ".csv", "photos": None}.get(kind, ".mp4")
    if chosen.output and suffix is None:
        raise InputError("--output is for a video, a camera or a folder; photos are printed (--attention draws one)")
    if chosen.output and Path(chosen.output).suffix.lower() != suffix:
        raise InputError(f"--output {chosen.output}: give a name that ends in {suffix}")
    for out in filter(None, (chosen.attention, chosen.output)):
        if kind in ("photos", "video") and Path(out).resolve() == Path(chosen.sources[0]).resolve():
            raise InputError(f"{out} is the source itself; give another name for what is written")


def open_captioner(settings):
    """The run's networks."""
    from src.base.randomness import make_deterministic
    from src.inference.photo_captioner import PhotoCaptioner

    make_deterministic(settings.run.threads)
    return PhotoCaptioner(run_folder(settings), settings)


def caption_photos(settings, chosen) -> None:
    """Print a line a photo; draw the attention where it is asked for."""
    from src.inference.photo_captioner import describe_files, draw_attention_of

    captioner, problems = open_captioner(settings), []
    for path, said, problem in describe_files(captioner, map(Path, chosen.sources)):
        if said is None:
            problems.append(f"{path}: {problem}")
            continue
        mos = "" if said.mos is None else f"MOS {said.mos:.4f}"
        print("  ".join(filter(None, (str(path), mos, said.caption))), flush=True)
        if chosen.attention:
            draw_attention_of(captioner, path, said, Path(chosen.attention))
            print(f"caption: {chosen.attention}: written", flush=True)
    if problems:
        raise InputError(f"not readable: {'; '.join(problems)}")


def caption_folder(settings, chosen) -> None:
    """Write a row a photo; the cells of one that cannot be read stay empty."""
    from tqdm import tqdm

    from src.inference.photo_captioner import describe_files, photos_in, write_captions

    paths = photos_in(Path(chosen.sources[0]))
    captioner = open_captioner(settings)
    out = Path(chosen.output) if chosen.output else run_folder(settings) / "captions.csv"
    rows = list(tqdm(describe_files(captioner, paths), total=len(paths), unit="photo", leave=False, disable=None))
    write_captions(out, rows)
    bad = [f"{path.name}: {problem}" for path, _, problem in rows if problem]
    warning = f", {len(bad)} of them not readable and left empty (first: {bad[0]})" if bad else ""
    print(f"caption: {out}: {len(rows)} photos{warning}", flush=True)


def caption_video(settings, chosen, source) -> None:
    """Every frame is shown or written. What is shown waits for no caption: the captioner takes the newest frame when it
    is free. A video that is only written gets PER_SECOND captions a second, so that it comes out the same each time.

    Ctrl-C ends a camera's film, which has no other end.
    """
    from src.video.frames import draw_text
    from src.video.live import Beside, Every, Steadily, paced, play
    from src.video.reading import film, open_window

    shows = source.camera or not chosen.output
    window = open_window(f"{chosen.sources[0]} - {settings.run.name}") if shows else None
    if window is None and not chosen.output:
        raise InputError("there is no screen here (or Python has no tkinter); give --output FILE.mp4 to write a video")
    captioner = open_captioner(settings)

    def draw(frame, said):
        title = "" if said is None or said.mos is None else f"MOS {said.mos:.2f}"
        return draw_text(frame, title, (said and said.caption) or "")

    with contextlib.ExitStack() as stack:
        step = max(1, round(source.rate / PER_SECOND))
        answer = stack.enter_context(
            Beside(captioner.describe_frame) if shows else Every(captioner.describe_frame, step)
        )
        sinks = [window] if window else []
        if chosen.output:
            write = stack.enter_context(film(Path(chosen.output), source.rate))
            sinks.append(Steadily(write, source.rate) if source.camera else write)
        frames = source if source.camera or not shows else paced(source, source.rate)
        with contextlib.suppress(*[Stopped, KeyboardInterrupt] if source.camera else []):
            play(frames, answer, draw, sinks)
    written = f"{chosen.output}: " if chosen.output else ""
    print(f"caption: {written}{source.read} frames, {answer.described} of them described", flush=True)
    if source.shortfall():
        print(f"caption: {source.shortfall()}", flush=True)


def main(argv=None) -> None:
    settings, chosen = load_run(argv, "caption", __doc__, add_options)
    kind = kind_of(chosen.sources)
    check_options(kind, chosen)
    try:
        if kind in ("video", "camera"):
            from src.video.reading import Source

            source = Source(int(chosen.sources[0]) if kind == "camera" else Path(chosen.sources[0]))
            with contextlib.closing(source):
                caption_video(settings, chosen, source)
        else:
            (caption_folder if kind == "folder" else caption_photos)(settings, chosen)
    except Stopped as stop:
        raise Stopped("nothing half done is left; the same command starts over", stop.signal) from None


if __name__ == "__main__":
    guarded(main)
