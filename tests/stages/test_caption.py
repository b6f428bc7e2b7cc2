"""The stage that captions any photo, a folder, a video or a camera, on tiny trained runs."""

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src import caption, predict, preprocess, split, train
from src.base.errors import InputError
from src.data.dataset import cached_inputs
from src.data.image import load_photo
from src.data.table import load_table
from src.data.view import to_view
from src.data.vocabulary import Vocabulary
from src.inference.captioner_attention import attention_maps_of, attention_of_row
from src.inference.networks import open_captioners, open_network
from src.inference.photo_captioner import PhotoCaptioner, Prediction, attention_of_file, describe_files, view_box
from src.models.decoder import END, START
from src.pipeline import outputs, resolved
from src.pipeline.trained_runs import load_run
from src.settings.schema import ViewSettings
from src.settings.yaml_files import ConfigError
from src.video import live, reading
from src.video.frames import draw_text
from tests.conftest import TINY
from tests.helpers.plain_decoding import teacher_forced_log_probs
from tests.helpers.small_meteor import quick_scores
from tests.helpers.tables import rows_of
from tests.video.test_live import number_of, write_video

SHORT = [*TINY, "train.epochs=1", "decoding.maximum_words=8"]
ATTENTION = [
    "run.name=attending",
    "decoder.name=attention",
    "decoder.attention=8",
    "task=caption",
    "encoder.output_stride=8",
]
CACHED = [
    "run.name=cached",
    "encoder.frozen=true",
    "encoder.cache=fp32",
    "encoder.more_levels=[]",
    "encoder.long_side=140",
    "encoder.fine_tuned=test_resnet",
    "encoder.frozen_stages=2",
    "encoder.fine_tuned_size=48",
]
HALF = ["run.name=half", "train.precision=bf16"]


@pytest.fixture(scope="module")
def finished(competition, meteor, tmp_path_factory):
    """A folder with the runs demo, cached, half (two folds, predicted), attending and cached_attending (one)."""
    folder = tmp_path_factory.mktemp("captioned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick_scores(patch, meteor)
        for stage in (preprocess, split, train, predict):
            stage.main([f"data.root={competition}", *SHORT])
        for more in ([], HALF):
            for stage in (train, predict):
                stage.main([f"data.root={competition}", *SHORT, *CACHED, *more])
        for more in ([], [*CACHED, "encoder.output_stride=32", "run.name=cached_attending"]):
            train.main([f"data.root={competition}", *SHORT, *ATTENTION, *more, "--fold=0"])
    return folder


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
    """No window opens on the screen of whoever runs the tests."""
    monkeypatch.setattr(live, "open_window", lambda title: None)


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """The folder of the runs to work in; what a test writes belongs into tmp_path."""
    monkeypatch.chdir(finished)
    return tmp_path


def photos_of(competition):
    """The test photos' files by their names."""
    return {row["img_name"]: competition / row["img_path"] for row in rows_of(competition / "test.csv")}


def moving(count=50, height=120, width=160):
    """Frames of a bright scene that moves."""
    wide = np.random.default_rng(0).integers(120, 256, (height // 20, width // 10, 3), dtype=np.uint8)
    wide = cv2.resize(wide, (width + count, height), interpolation=cv2.INTER_NEAREST)
    return [np.ascontiguousarray(wide[:, number : number + width]) for number in range(count)]


def read_video(path):
    source = reading.VideoSource(path)
    return list(source), source.rate


@pytest.mark.parametrize("run", ["demo", "cached", "half"])
def test_photos_get_the_answers_of_predict(run, place, competition, capsys):
    """The table's MOS of the networks and its captions, from the photo files alone."""
    files = photos_of(competition)
    caption.main([*map(str, files.values()), f"run.name={run}"])
    printed = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    predicted = {row["photo_id"]: row for row in rows_of(f"runs/{run}/predictions/test.csv")}
    assert [path for path, _, _ in printed] == list(map(str, files.values()))
    for name, (_, mos, text) in zip(files, printed, strict=True):
        assert float(mos.removeprefix("MOS ")) == pytest.approx(float(predicted[name]["mos"]), abs=1e-4)
        assert text == predicted[name]["caption"]


def test_a_random_caption_depends_on_no_other_photo(place, competition):
    settings, _ = load_run(["run.name=demo", "decoding.search=sample"], "caption")
    captioner, files = PhotoCaptioner(Path("runs/demo"), settings), list(photos_of(competition).values())[:6]
    together = [prediction.caption for _, prediction, _ in describe_files(captioner, files)]
    alone = [next(iter(describe_files(captioner, [file])))[1].caption for file in files]
    assert alone == together


def test_networks_on_cached_features_share_their_encoder(place):
    captioner = PhotoCaptioner(Path("runs/cached"), load_run(["run.name=cached"], "caption")[0])
    assert len(captioner.networks) == 3 and len({id(network.encoder) for network in captioner.networks}) == 1


def test_the_command_line_chooses_fold_and_search_but_not_the_network(place, competition, capsys):
    photo = next(iter(photos_of(competition).values()))
    alone = pd.read_csv("runs/demo/predictions/test_folds.csv", dtype={"photo_id": str})
    row = alone[(alone["photo_id"] == photo.stem) & (alone["fold"] == 1)].iloc[0]
    caption.main([str(photo), "--fold", "1"])
    _, mos, text = capsys.readouterr().out.strip().split("  ")
    assert text == row["caption"] and float(mos.split()[1]) == pytest.approx(row["mos"], abs=1e-4)
    caption.main(["decoding.maximum_words=3", str(photo), "predict.tta_flips=false"])
    assert len(capsys.readouterr().out.strip().split("  ")[2].split()) <= 3
    caption.main([str(photo), "run.name=attending"])
    assert "MOS" not in capsys.readouterr().out, "that run learned captions only"
    with pytest.raises(ConfigError) as error:
        caption.main([str(photo), "view.size=64"])
    assert str(error.value) == "command line: view.size=64: the run demo was trained with 32; leave it out"
    assert load_run(["view.size=32", "decoding.beam=3"], "caption")[0].decoding.beam == 3
    assert load_run([], "caption")[0].decoding.beam == 2, "as it was trained, not the default of 3"


def test_model_averaging_decodes_with_the_mean_of_all_folds(place, competition, capsys):
    """The greedy caption of the mean of their probabilities, computed one word at a time."""
    photo = next(iter(photos_of(competition).values()))
    caption.main(
        [str(photo), "decoding.model_averaging=probabilities", "decoding.beam=1", "decoding.no_repeat_ngram_size=0"]
    )
    text = capsys.readouterr().out.strip().split("  ")[2]
    settings = load_run([], "caption")[0]
    pixels = torch.from_numpy(load_photo(photo, settings.view).pixels[None])
    opened = [open_network(Path(f"runs/demo/fold-{fold}/best-caption.pt"), settings) for fold in (0, 1)]
    words = opened[0][1]["words"]
    bad = [words.index(word) for word in settings.decoding.bad_endings.split() if word in words]
    written = []
    while not written or written[-1] != END:
        tokens = torch.tensor([[*written, END]])
        with torch.inference_mode():
            seen = [
                teacher_forced_log_probs(network.decoder, network.features(pixels), tokens)[0, -1].exp()
                for network, _ in opened
            ]
        mean = sum(seen)
        mean[[0, 1, 3]] = 0
        if len(written) == 8:
            written.append(END)
            continue
        if len(written) < settings.decoding.minimum_words or (written and written[-1] in bad):
            mean[END] = 0
        if len(written) == 7:
            mean[bad] = 0
        written.append(int(mean.argmax()))
    assert text == Vocabulary(tuple(words), (0,) * len(words)).decode(written)


def test_a_folder_becomes_a_table(place, competition, capsys):
    folder = place / "photos"
    folder.mkdir()
    files = photos_of(competition)
    for name in sorted(files, reverse=True)[:5]:
        shutil.copy(files[name], folder)
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (folder / "notes.txt").write_text("no photo either")
    before = sorted(folder.iterdir())
    caption.main([str(folder), "train.batch_size=4"])
    out = capsys.readouterr().out
    rows = rows_of("runs/demo/captions.csv")
    assert "runs/demo/captions.csv: 7 photos, 2 of them not readable and left empty (first: broken.jpg:" in out
    assert [row["photo"] for row in rows] == sorted(path.name for path in before if path.suffix != ".txt")
    predicted = {row["photo_id"]: row for row in rows_of("runs/demo/predictions/test.csv")}
    for row in rows:
        if row["photo"] in ("broken.jpg", "phone.HEIC"):
            assert row["mos"] == row["caption"] == ""
            continue
        wanted = predicted[row["photo"].removesuffix(".jpg")]
        assert float(row["mos"]) == pytest.approx(float(wanted["mos"]), abs=1e-4)
        assert row["caption"] == wanted["caption"]
    caption.main([str(folder), "--output", str(place / "deep" / "out.csv"), "run.name=attending"])
    assert {row["mos"] for row in rows_of(place / "deep" / "out.csv")} == {""}
    assert sorted(folder.iterdir()) == before, "nothing is written among the photos"


def test_attention_is_that_of_the_words_written_one_by_one(place, competition):
    photo = next(iter(photos_of(competition).values()))
    settings = load_run(["run.name=attending"], "caption")[0]
    pixels = load_photo(photo, settings.view).pixels
    captioner = PhotoCaptioner(Path("runs/attending"), settings)
    looks, text = captioner.attention_maps(pixels), captioner.describe(pixels[None])[0].caption
    network, portrait = open_network(Path("runs/attending/fold-0/best-caption.pt"), settings)
    state, fed = network.decoder.start(network.features(torch.from_numpy(pixels[None]))), START
    assert looks.layout == (4, 4) and looks.weights.shape == (len(looks.words), 16)
    for word, weights in zip(looks.words, looks.weights, strict=True):
        with torch.inference_mode():
            _, state = network.decoder.step(torch.tensor([fed]), state)
        np.testing.assert_allclose(weights, state.attention[0].numpy(), atol=1e-5)
        fed = portrait["words"].index(word)
    assert " ".join(looks.words).replace(" '", "'").replace(" n't", "n't") == text


def test_a_caption_without_words_has_no_attention_to_draw(place):
    settings = load_run(["run.name=cached_attending"], "caption")[0]
    folder = outputs.features(settings).folder
    (network,), vocabulary = open_captioners([Path("runs/cached_attending/fold-0")], settings, folder)
    with torch.inference_mode():
        maps = attention_maps_of(network, cached_inputs(folder, 0), torch.tensor([[END]]), vocabulary, settings)
    assert maps.words == () and len(maps.weights) == 0


@pytest.mark.parametrize("search", ["beam", "sample"])
def test_attention_by_cached_features_is_that_of_the_photo(search, place):
    settings = load_run(["run.name=cached_attending", f"decoding.search={search}"], "caption")[0]
    captioner = PhotoCaptioner(Path("runs/cached_attending"), settings)
    table = load_table(outputs.photos(settings).folder / "photos.jsonl")
    for row in (0, len(table) - 1):
        by_file, _, _ = attention_of_file(captioner, resolved.data_root(settings) / table["path"].iloc[row], row)
        by_row = attention_of_row(settings, 0, row)
        assert by_row.words == by_file.words and by_row.layout == by_file.layout and by_row.parts == by_file.parts
        np.testing.assert_allclose(by_row.weights, by_file.weights, atol=1e-5)


def test_attention_picture(place, competition, capsys):
    photo = str(next(iter(photos_of(competition).values())))
    caption.main([photo, "--attention", str(place / "a.png"), "run.name=attending"])
    assert f"{place / 'a.png'}: written" in capsys.readouterr().out
    with Image.open(place / "a.png") as image:
        image.load()
        assert image.format == "PNG" and image.size[0] == 1600
    with pytest.raises(InputError, match="decoder.name=recurrent does not attend to parts of the photo.*attention,"):
        caption.main([photo, "--attention", str(place / "b.png")])
    assert not (place / "b.png").exists()


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("height, width", [(90, 150), (150, 90)])
def test_the_view_lies_over_the_photo_where_to_view_takes_it_from(fit, height, width):
    """A white spot of the photo is found in the view where `view_box` says."""
    top, left, high, wide = view_box(height, width, ViewSettings(size=48, fit=fit))
    for y, x in ((45, 45), (60, 75), (75, 60)):
        photo = np.zeros((height, width, 3), np.uint8)
        photo[y - 6 : y + 6, x - 6 : x + 6] = 255
        view = to_view(photo, ViewSettings(size=48, fit=fit))[:, :, 0].astype(float)
        rows, columns = np.indices(view.shape)
        centre = [(axis * view).sum() / view.sum() + 0.5 for axis in (rows, columns)]
        assert centre == pytest.approx([(y - top) / high * 48, (x - left) / wide * 48], abs=0.6)


def test_a_video_gets_mos_and_caption_drawn_on_every_frame(place, capsys):
    source = write_video(place / "in.mp4", moving(), 20)
    before, _ = read_video(source)
    for out in ("out.mp4", "again.mp4"):
        caption.main([str(source), "--output", str(place / out), "--fold=0"])
    assert f"{place / 'out.mp4'}: 50 frames, 5 of them captioned" in capsys.readouterr().out
    after, rate = read_video(place / "out.mp4")
    assert rate == 20 and len(after) == len(before) == 50
    assert {frame.shape for frame in after} == {frame.shape for frame in before} == {(120, 160, 3)}
    for one, other in zip(before, after, strict=True):
        difference = np.abs(one.astype(int) - other).mean(axis=(1, 2))
        assert difference[:50].max() < 12, "the picture above is that of the source"
        assert difference[-10:].min() > 60, "the band below is not"
    assert all((one == other).all() for one, other in zip(after, read_video(place / "again.mp4")[0], strict=True))
    assert sorted(path.name for path in place.iterdir()) == ["again.mp4", "in.mp4", "out.mp4"]


def test_a_frame_shows_the_caption_of_its_own_period(place, capsys):
    """Frame for frame as drawn by hand from the captions of every tenth frame."""
    frames = [frame // 4 * 4 for frame in moving(21)]
    source = write_video(place / "in.mp4", frames, 20)
    drawn, text = [], []
    captioner = PhotoCaptioner(Path("runs/demo"), load_run([], "caption")[0])
    for number, frame in enumerate(read_video(source)[0]):
        if number % 10 == 0:
            cv2.imwrite(str(place / "frame.png"), frame)
            text.append(captioner.describe(load_photo(place / "frame.png", captioner.view).pixels[None])[0])
        drawn.append(draw_text(frame, f"MOS {text[-1].mos:.2f}", text[-1].caption))
    caption.main([str(source), "--output", str(place / "out.mp4")])
    after, _ = read_video(place / "out.mp4")
    assert max(np.abs(one.astype(int) - other).mean() for one, other in zip(drawn, after, strict=True)) < 6


class Camera:
    """Stands in for cv2.VideoCapture: numbered frames; Ctrl-C is pressed after `frames` of them."""

    def __init__(self, frames: int):
        self.frames, self.number = frames, -1

    def __call__(self, source):
        assert source == 3
        return self

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def read(self):
        self.number += 1
        if self.number == self.frames:
            raise KeyboardInterrupt
        return True, np.full((48, 64, 3), self.number, np.uint8)

    def release(self):
        pass


def test_ctrl_c_ends_a_cameras_recording_properly(place, monkeypatch, capsys):
    opened = cv2.VideoCapture
    camera = Camera(60)
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: camera(source) if source == 3 else opened(source))
    caption.main(["3", "--output", str(place / "out.mp4"), "--fold=0"])
    assert "60 frames" in capsys.readouterr().out
    frames, rate = read_video(place / "out.mp4")
    assert frames and rate == reading.DEFAULT_RATE
    assert [path.name for path in place.iterdir()] == ["out.mp4"]


def test_the_window_gets_every_frame_while_a_caption_is_written(place, monkeypatch, capsys):
    """The captioner answers only when 40 frames were shown; the window closes after 80."""
    shown, seen, forty, answered = [], [], threading.Event(), threading.Event()

    def describe(self, frame):
        seen.append(number_of(frame))
        assert forty.wait(30)
        answered.set()
        return Prediction(5.0, "a caption")

    def window(frame):
        shown.append(frame)
        if len(shown) == 40:
            forty.set()
            assert answered.wait(30)
        return len(shown) < 80

    monkeypatch.setattr(PhotoCaptioner, "describe_frame", describe)
    monkeypatch.setattr(live, "open_window", lambda title: window)
    monkeypatch.setattr(cv2, "VideoCapture", Camera(1000))
    caption.main(["3", "--fold=0"])
    assert [number_of(frame) for frame in shown] == list(range(80)), "upper left corner: the frame's own number"
    assert all((frame == number).all() for number, frame in enumerate(shown[:40])), "without a caption"
    assert seen == sorted(set(seen)) and len(seen) < 80
    assert "80 frames" in capsys.readouterr().out


ONE_LINE = {
    "nothing to caption: give photos": [],
    "none.mp4: no such file": ["none.mp4"],
    "cut.mp4: not a video, or truncated or damaged": ["cut.mp4", "--output", "out.mp4"],
    "camera 97: not found, or used by another program": ["97", "--output", "out.mp4"],
    "camera 99999999999: not found, or used by another program": ["99999999999", "--output", "out.mp4"],
    "there is no screen here": ["in.mp4"],
    "give one or more photos, or one folder, video or camera at a time": ["in.mp4", "a.jpg"],
    "in.mp4 is the source itself": ["in.mp4", "--output", "in.mp4"],
    "--output out.avi: give a name that ends in .mp4": ["in.mp4", "--output", "out.avi"],
    "--attention draws one photo": ["a.jpg", "b.jpg", "--attention", "a.png"],
    "--attention a.jpg: pictures are written as PNG": ["b.jpg", "--attention", "a.jpg"],
    "--output is for a video, a camera or a folder": ["b.jpg", "--output", "a.csv"],
    "not readable: absent.jpg: No such file or directory; cut.mp4.jpg: not a photo": ["absent.jpg", "cut.mp4.jpg"],
    "empty: no photos in it": ["empty"],
    "data/absent: no such file or folder": ["data/absent", "--output", "a.csv"],
    "runs/absent: no fold trained to its end; python -m src.train": ["in.mp4", "--output", "o.mp4", "run.name=absent"],
    "runs/attending: fold 1 is not trained to its end (finished: 0)": ["cut.mp4.jpg", "run.name=attending", "--fold=1"],
}


@pytest.mark.parametrize("line, arguments", ONE_LINE.items(), ids=ONE_LINE)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(line, arguments, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(finished / "runs")
    (tmp_path / "empty").mkdir()
    whole = write_video(tmp_path / "in.mp4", moving(20), 20).read_bytes()
    for name in ("cut.mp4", "cut.mp4.jpg"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=re.escape(line)) as error:
        caption.main(arguments)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "in.mp4").read_bytes() == whole


@pytest.mark.parametrize("source", ["cut.mp4", "97"])
def test_the_program_says_one_line_and_nothing_else(source, tmp_path):
    """Neither OpenCV nor FFmpeg add lines of their own."""
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x1cftypisom" + bytes(500))
    command = [sys.executable, "-m", "src.caption", source, "--output", "out.mp4"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 1 and answer.stdout == ""
    assert answer.stderr.count("\n") == 1 and answer.stderr.startswith("error: ")
