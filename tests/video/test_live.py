"""Videos: reading, writing, drawing on frames, and captions that never hold the display up."""

import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.base.errors import InputError
from src.video.frames import MOST_LINES, draw_text, wrapped_lines
from src.video.live import BackgroundCaptioner, ConstantRateWriter, PeriodicCaptioner, at_frame_rate, open_window, play
from src.video.reading import VideoSource, video_writer

LONG = "a very long caption about the warm evening light over the café by the quiet harbour " * 3


def numbered(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames that carry their number in every pixel."""
    return [np.full((height, width, 3), number, np.uint8) for number in range(count)]


def write_video(path: Path, frames: list[np.ndarray], rate: float, code: str = "mp4v") -> Path:
    size = frames[0].shape[1], frames[0].shape[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, size)
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def number_of(frame: np.ndarray) -> int:
    return int(frame[0, 0, 0])


def test_a_slow_captioner_skips_frames_and_holds_none_up():
    """While the first frame is described all others are shown; then the newest is described, not the next."""
    seen, shown = [], []
    begun, may_go_on, described_again = threading.Event(), threading.Event(), threading.Event()

    def describe(frame):
        seen.append(number_of(frame))
        if len(seen) == 1:
            begun.set()
            assert may_go_on.wait(30)
        else:
            described_again.set()
        return number_of(frame)

    def show(frame):
        shown.append(frame)
        if len(shown) == 1:
            assert begun.wait(30)
        if len(shown) == 60:
            may_go_on.set()
        if len(shown) == 99:
            assert described_again.wait(30)

    with BackgroundCaptioner(describe) as answer:
        assert play(numbered(100), answer, lambda frame, caption: (number_of(frame), caption), [show]) == 100
    assert [number for number, _ in shown] == list(range(100)), "every frame is shown"
    assert seen == sorted(set(seen)) and seen[0] == 0 and 59 <= seen[1] < 99
    assert [caption for _, caption in shown[:60]] == [None] * 60, "no caption while the first is being written"
    assert all(caption is None or (caption in seen and caption <= number) for number, caption in shown)
    assert shown[-1][1] is not None, "the last caption stays on the picture"


def test_a_fault_in_the_captioner_reaches_the_caller():
    called = threading.Event()

    def describe(frame):
        called.set()
        raise InputError("weights are broken")

    with pytest.raises(InputError, match="weights are broken"), BackgroundCaptioner(describe) as answer:
        answer(numbered(1)[0])
        assert called.wait(30)


def test_a_written_video_is_captioned_at_fixed_frames():
    answer = PeriodicCaptioner(number_of, 4)
    assert [answer(frame) for frame in numbered(10)] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert answer.captioned == 3


def test_a_closed_window_ends_playing_after_every_sink_had_the_frame():
    first, second = [], []
    sinks = [lambda frame: first.append(frame) or len(first) < 3, second.append]
    assert play(numbered(10), lambda frame: None, lambda frame, caption: frame, sinks) == 3
    assert len(first) == len(second) == 3


def test_a_file_is_shown_at_its_own_rate():
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    frames = at_frame_rate(range(5), 10.0, lambda: now[0], sleep)
    assert next(frames) == 0 and next(frames) == 1
    now[0] += 0.25  # the display was late; the next two are due
    assert [next(frames), next(frames), next(frames)] == [2, 3, 4]
    assert waits == pytest.approx([0.1, 0.05])


def test_a_cameras_recording_runs_in_real_time():
    now, written = [0.0], []
    write = ConstantRateWriter(written.append, 10.0, lambda: now[0])
    for number, now[0] in enumerate((100.0, 100.05, 100.11, 100.45)):
        write(number)
    assert written == [0, 2, 3, 3, 3], "0.45 s at 10 frames a second are 5 frames"


@pytest.mark.parametrize("rate", [25.0, 23.976, 30000 / 1001, 144.0064])
def test_a_video_reads_back_as_it_was_written(tmp_path, rate):
    out = tmp_path / "deep" / "out.mp4"
    with video_writer(out, rate) as write:
        for frame in numbered(11):
            write(frame * 20)
    source = VideoSource(out)
    frames = list(source)
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]
    assert source.rate == pytest.approx(rate, rel=1e-4) and source.expected == len(frames) == source.read == 11
    assert all(np.abs(frame.astype(int) - 20 * k).max() < 8 for k, frame in enumerate(frames))
    assert source.shortfall() == ""


def test_a_video_is_whole_or_not_there(tmp_path):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"an earlier video")
    with pytest.raises(ZeroDivisionError), video_writer(out, 25) as write:
        write(numbered(1)[0])
        raise ZeroDivisionError
    assert out.read_bytes() == b"an earlier video" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="could not be written whole"), video_writer(out, 25) as write:
        write(numbered(1)[0])
        write(np.zeros((24, 32, 3), np.uint8))  # OpenCV leaves out a frame of another size without a word
    assert out.read_bytes() == b"an earlier video" and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_video_is_one_line(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", numbered(30), 25).read_bytes()
    for name, content in {"cut.mp4": whole[: len(whole) // 2], "text.mp4": b"hello " * 99, "empty.mp4": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: not a video, or truncated or damaged; check that it plays"):
            VideoSource(tmp_path / name)
    with pytest.raises(InputError, match="none.mp4: no such file"):
        VideoSource(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="camera 97: not found, or used by another program"):
        VideoSource(97)


def test_a_video_that_ends_early_is_read_as_far_as_it_goes(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    path = write_video(tmp_path / "cut.avi", noise, 10, "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = VideoSource(path)
    next(iter(source))
    assert source.shortfall() == "", "nobody knows yet"
    source = VideoSource(path)
    frames = list(source)
    assert 20 < len(frames) < 40
    assert source.shortfall() == f"{path} ends early: {len(frames)} of its 60 frames could be read"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a screen needs no DISPLAY")
def test_without_a_screen_there_is_no_window(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    assert open_window("title") is None


@pytest.mark.parametrize("height, width", [(360, 640), (640, 360), (120, 160), (20, 30), (3, 1)])
@pytest.mark.parametrize("text", ["a quiet harbour", LONG, "사진 日本語 café", ""])
def test_text_is_drawn_in_a_band_at_the_lower_edge(height, width, text):
    frame = np.random.default_rng(0).integers(60, 256, (height, width, 3), dtype=np.uint8)
    before = frame.copy()
    drawn = draw_text(frame, "MOS 5.31", text)
    assert drawn.shape == frame.shape and drawn.dtype == np.uint8 and (frame == before).all()
    changed = (drawn != frame).any(axis=(1, 2))
    top = int(changed.argmax())
    assert changed[top:].all() and not changed[:top].any()
    if height >= 120:
        assert 0.05 * min(height, width) < height - top < 0.5 * height
        assert (drawn[top:].min(axis=2) > 240).any() == bool(text), "white letters for the text"
        blue, green, red = (drawn[top:, :, channel].astype(int) for channel in range(3))
        assert ((red - blue > 100) & (green > 100)).any(), "and amber ones for the score"
    assert (draw_text(frame, "", "") == frame).all()


def test_letters_beyond_ascii_are_drawn_and_not_replaced():
    frame = np.zeros((120, 320, 3), np.uint8)
    marks = draw_text(frame, "", "????")
    for text in ("éüñø", "한국어당", "ЖЩЮЯ"):
        drawn = draw_text(frame, "", text)
        assert (drawn != marks).sum() > 200


def test_long_text_is_broken_between_words_and_cut_in_the_end():
    def width(line):
        return cv2.getTextSize((0, 0), line, (0, 0), cv2.FontFace("sans"), 18, 400)[2]

    lines = wrapped_lines(LONG, 300, 90, 18)
    assert len(lines) == MOST_LINES and lines[-1].endswith("…")
    assert [width(line) <= room for line, room in zip(lines, (210, 300, 300, 300), strict=True)] == [True] * 4
    whole = " ".join(lines)[:-1]
    assert LONG.startswith(whole)
    assert wrapped_lines("two words", 300, 90, 18) == ("two words",)
    assert (
        " ".join(wrapped_lines("some words that need a second line", 200, 90, 18))
        == "some words that need a second line"
    )
    assert wrapped_lines("x" * 200, 300, 0, 18)[-1].endswith("…"), "a word without end is cut"
