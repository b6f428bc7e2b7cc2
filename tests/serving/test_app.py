"""The page to try photos on: its answers, and the page itself in a browser."""

import csv
import html
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import app, caption, predict, preprocess, split, train
from src.base.errors import InputError
from src.data.table import load_table
from src.pipeline import outputs
from src.pipeline.trained_runs import load_run
from src.serving.answers import Answer, RunAnswers, TrainingPhoto
from tests.conftest import TINY
from tests.helpers.browser import browser_of_width
from tests.helpers.checkout import environment
from tests.helpers.small_meteor import quick_scores

SETTINGS = [*TINY, "train.epochs=1", "decoding.maximum_words=8", "decoder.name=attention", "decoder.attention=8"]
SETTINGS += ["predict.candidates=true", "predict.samples=2", "encoder.output_stride=8"]


@pytest.fixture(scope="module")
def finished(competition, meteor, tmp_path_factory) -> Path:
    """A folder with the finished run demo."""
    folder = tmp_path_factory.mktemp("tried")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick_scores(patch, meteor)
        for stage in (preprocess, split, train, predict):
            stage.main([f"data.root={competition}", *SETTINGS])
    return folder


@pytest.fixture
def photos(finished, competition, monkeypatch) -> list[Path]:
    """Photo files; the folder of the run is the place to work in."""
    monkeypatch.chdir(finished)
    return sorted((competition / "test").iterdir())[:3]


def told(photo: Path, capsys) -> tuple[str, str]:
    """MOS and caption as `src.caption` prints them."""
    capsys.readouterr()
    caption.main([str(photo), "run.name=demo"])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    mos, written = re.fullmatch(r".*  MOS ([0-9.]+)  (.*)", line).groups()
    return mos, written


def test_the_answers_are_those_of_caption_and_of_the_training_photos(photos, competition, capsys):
    settings = load_run(["run.name=demo"], "app")[0]
    answers = RunAnswers(settings)
    table = load_table(outputs.photos(settings).folder / "photos.jsonl")
    rated = table.loc[table["part"] == "train", "mos"].to_numpy(float)
    predicted = answers.predicted
    for photo in photos:
        answer = answers(photo)
        assert (f"{answer.mos:.4f}", answer.caption) == told(photo, capsys)
        low, high = answer.interval
        errors = np.sort(answers.error)  # of all photos, as there are fewer than give an interval
        within = (errors >= low - answer.mos) & (errors <= high - answer.mos)
        assert len(predicted) == len(rated) and abs(within.mean() - 0.8) < 0.05
        assert answer.rank == (rated < answer.mos).mean()
        scores = [score for _, score in answer.runners_up]
        assert scores == sorted(scores, reverse=True) and answer.caption not in dict(answer.runners_up)
        assert all(other.captions and other.pixels.dtype == np.uint8 for other in answer.neighbours)
    own = answers(competition / table["path"][int(answers.training[0])])
    assert own.neighbours[0].captions == table["captions"][int(answers.training[0])]


def test_what_is_no_photo_is_refused_in_a_line(photos, tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    with pytest.raises(InputError, match="not a photo that can be read") as caught:
        RunAnswers(load_run(["run.name=demo"], "app")[0])(tmp_path / "text.jpg")
    assert "\n" not in str(caught.value)


def test_a_damaged_run_is_no_choice_and_keeps_nobody_from_another(finished, competition, tmp_path, monkeypatch, capsys):
    page = pytest.importorskip("src.serving.page")
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "copy"))
    for name in ("damaged", "whole"):
        shutil.copytree("runs/demo", f"runs/{name}")
    Path("runs/damaged/fold-0/settings.yaml").write_text("optim: {")
    choices = []
    monkeypatch.setattr(page, "build_page", lambda pages, labels, first: choices.extend(labels))
    monkeypatch.setattr(page, "serve", lambda *_: None)
    app.main(["run.name=demo"])
    assert choices == [("demo", "demo"), ("whole", "whole")]
    printed = capsys.readouterr()
    assert "app: the run damaged is left out: " in printed.out and not printed.err


def test_what_strangers_wrote_is_text_on_the_page():
    page = pytest.importorskip("src.serving.page", reason="pip install -r requirements-app.txt", exc_type=ImportError)
    strange = "<script>alert('x')</script> \"사진\" \u202egnp"
    photo = TrainingPhoto(np.zeros((4, 4, 3), np.uint8), 5.0, (strange,))
    cards = page._cards(Answer(None, None, None, None, None, [], [photo]))
    texts = [text for _, text in re.findall(r"<(bdi)>(.*?)</bdi>", cards)]
    assert "<script>" not in cards and [html.unescape(text) for text in texts] == ["MOS 5.00", strange]
    assert html.unescape(re.search(r'alt="([^"]*)"', cards).group(1)) == strange


@pytest.fixture(scope="module")
def address(finished):
    """Where the page is served."""
    pytest.importorskip("gradio", reason="pip install -r requirements-app.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "src.app", "run.name=demo", f"--port={port}"]
    variables = environment() | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    with subprocess.Popen(
        command, cwd=finished, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = []
        while not (lines and "Running on" in lines[-1]):
            line = process.stdout.readline()
            assert line, "".join(lines)
            lines.append(line)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.communicate(timeout=20)[0]


CAMERA_SHOWS = "return Array.from(document.querySelectorAll('video')).some(video => video.videoWidth > 0)"
"""Before its first picture the button takes none, and says nothing."""


class Page:
    """The page in a browser."""

    def __init__(self, driver, address: str):
        self.driver = driver
        driver.get(address)
        self.wait(lambda: len(self.all("textarea")) == 2)

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition):
        deadline = time.monotonic() + 60
        while not (value := condition()):
            assert time.monotonic() < deadline, self.driver.page_source[-2000:]
            time.sleep(0.1)
        return value

    def texts(self) -> tuple[str, str]:
        """MOS and caption."""
        mos, written = (area.get_attribute("value").partition("\n")[0] for area in self.all("textarea"))
        return mos, written

    def upload(self, photo: Path) -> None:
        self.all("input[type=file]")[0].send_keys(str(photo))

    def answer(self, photo: Path) -> tuple[str, str]:
        self.upload(photo)
        self.wait(lambda: all(self.texts()))
        return self.texts()

    def refusal(self, photo: Path) -> str:
        self.upload(photo)
        return self.wait(self.toast)

    def toast(self) -> str:
        """The message that the page shows, once it can be seen."""
        return "".join(toast.text for toast in self.all(".toast-body"))

    def upload_many(self, archive: Path) -> None:
        self.wait(lambda: [button for button in self.all("button") if "Many photos" in button.text])[0].click()
        self.wait(lambda: len(self.all("input[type=file]")) > 2)
        any_file = [field for field in self.all("input[type=file]") if not field.get_attribute("accept")]
        any_file[0].send_keys(str(archive))


@pytest.mark.slow
def test_two_people_get_the_answers_of_caption(address, photos, capsys):
    expected = [told(photo, capsys) for photo in photos[:2]]
    with browser_of_width(1280) as one, browser_of_width(390) as other:
        pages = [Page(driver, address) for driver in (one, other)]
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda page, photo: page.answer(photo), pages, photos)) == expected
        for page in pages:
            page.wait(lambda page=page: len(page.all(".cards img")) > 1)
            assert all(image.get_attribute("alt") for image in page.all("img") if image.is_displayed())
            width = page.driver.execute_script("return [document.body.scrollWidth, window.innerWidth]")
            assert width[0] <= width[1]
            outside = page.driver.execute_script(
                "return performance.getEntriesByType('resource').map(entry => entry.name)"
            )
            assert not [name for name in outside if not name.startswith((address, "data:", "blob:"))]


@pytest.mark.slow
def test_a_picture_by_the_camera_is_answered(address):
    with browser_of_width(1280) as driver:
        page = Page(driver, address)
        page.wait(lambda: page.all("button[aria-label='Capture from camera']"))[0].click()
        page.wait(lambda: [button for button in page.all("button") if "Webcam" in button.text])[0].click()
        page.wait(lambda: driver.execute_script(CAMERA_SHOWS))
        page.wait(lambda: page.all("button[aria-label='capture photo']"))[0].click()
        page.wait(lambda: all(page.texts()))
        assert 0 < float(page.texts()[0].split()[0]) < 10


@pytest.mark.slow
def test_what_is_no_photo_is_refused_on_the_page(address, tmp_path):
    (text := tmp_path / "text.jpg").write_text("no photo")
    Image.new("L", (10000, 20000)).save(large := tmp_path / "large.png")
    with browser_of_width(1280) as driver:
        assert "not a photo in a known format" in Page(driver, address).refusal(text)
        assert "megapixels" in Page(driver, address).refusal(large)


@pytest.mark.slow
def test_a_zip_becomes_a_csv_and_one_that_climbs_out_is_refused(address, photos, tmp_path, capsys):
    for name, prefix in (("fine.zip", "within/"), ("climbs.zip", "../../")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for photo in photos:
                archive.write(photo, prefix + photo.name)
    with browser_of_width(1280) as driver:
        page = Page(driver, address)
        page.upload_many(tmp_path / "fine.zip")
        link = page.wait(lambda: page.all("a[download$='.csv']"))[0].get_attribute("href")
        with urllib.request.urlopen(link) as answer:
            rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
        page = Page(driver, address)
        page.upload_many(tmp_path / "climbs.zip")
        assert "leads out of the archive" in page.wait(page.toast)
    assert [row["photo"] for row in rows] == [f"within/{photo.name}" for photo in photos]
    assert [row["caption"] for row in rows] == [told(photo, capsys)[1] for photo in photos]


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_in_a_line(address, photos):
    with pytest.raises(InputError, match="is not free to listen on; give another with --port"):
        app.main(["run.name=demo", f"--port={address.rpartition(':')[2]}"])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/etc/passwd", "runs/demo/fold-0/best-mos.pt", "../../etc/passwd"])
def test_the_page_serves_no_file_of_the_machine(address, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/gradio_api/file={path}")
    assert caught.value.code in (403, 404)
