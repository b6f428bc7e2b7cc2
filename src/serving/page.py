"""The page: a photo in, all that the run says of it out; a folder or an archive in, a CSV out."""

import base64
import contextlib
import csv
import functools
import html
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gradio
import numpy as np
import torch
from PIL import Image

from src.base.errors import InputError
from src.serving.answers import COVERED, Answer, RunAnswers, caption_rows
from src.serving.uploads import MEGABYTES, photos_of, removed
from src.settings.schema import Settings

_KEPT = 2  # runs in memory
_CSS = """
.cards {display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 16px}
.cards figure {margin: 0}
.cards img {width: 100%; border-radius: 4px}
.cards p {margin: 4px 0; font-size: 14px; overflow-wrap: anywhere}
h2 {font-size: 16px; font-weight: 600}
"""
_LOCK = threading.Lock()  # one answer at a time: each takes all cores


class Pages:
    """What the page's buttons do. open_run: the settings of a finished run by its name. first: one that is open."""

    def __init__(self, open_run: Callable[[str], Settings], first: RunAnswers):
        def opened(name: str) -> RunAnswers:
            return first if name == first.settings.run.name else RunAnswers(open_run(name))

        self.open_run, self.answers = open_run, functools.lru_cache(_KEPT)(opened)

    def describe(self, name: str, photo: str | None) -> list[Any]:
        """The cells of the page for a photo; the uploaded file is gone afterwards."""
        if not photo or not Path(photo).is_file():  # another run was chosen: the photo is gone since its answer
            return [None] * 5
        path = Path(photo)
        with _refused_in_a_line(), removed([path]), _LOCK, tempfile.TemporaryDirectory() as folder:
            answers = self._answers(name)
            answer, picture = answers(path), Path(folder, "attention.png")
            drawn = answer.caption is not None and answers.draw_attention(path, picture)
            return [*_cells(answer), _pixels(picture) if drawn else None, _cards(answer)]

    def table(self, name: str, uploads: list[str] | None) -> str | None:
        """A CSV of uploaded photos; these are gone afterwards."""
        if not uploads:
            return None
        paths = [Path(upload) for upload in uploads]
        with _refused_in_a_line(), removed(paths), _LOCK, tempfile.TemporaryDirectory() as folder:
            photos, names = photos_of(paths, Path(folder))
            rows = caption_rows(self._answers(name), photos, names)
            out = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]), "captions.csv")  # removed with the uploads
            with open(out, "w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([("photo", "mos", "caption", "problem"), *rows])
            return str(out)

    def _answers(self, name: str) -> RunAnswers:
        torch.set_num_threads(self.open_run(name).run.threads)  # a thread of the server has its own number
        return self.answers(name)


@contextlib.contextmanager
def _refused_in_a_line() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise gradio.Error(str(error), title="This cannot be done", print_exception=False) from None


def _cells(answer: Answer) -> list[Any]:
    mos = ""
    if answer.mos is not None:
        mos = f"{answer.mos:.4f}"
        if answer.interval:
            low, high = answer.interval
            mos += f"\n{COVERED:.0%} of the photos that were predicted like this have {low:.2f} to {high:.2f}"
        if answer.rank is not None:
            mos += f"\nhigher than {answer.rank:.0%} of the training photos"
    expected = "" if answer.expected is None else f"\nexpected score {answer.expected:.2f}"
    caption = "" if answer.caption is None else answer.caption + expected
    return [mos, caption, [[text, round(score, 2)] for text, score in answer.runners_up]]


def _pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return image.convert("RGB").copy()


def _cards(answer: Answer) -> str:
    """HTML of the training photos; what people wrote stands in it as text."""
    cards = []
    for photo in answer.neighbours:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(photo.pixels)).save(file, "JPEG", quality=85)
        source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        captions = "; ".join(photo.captions)
        lines = ["" if photo.mos is None else f"MOS {photo.mos:.2f}", *photo.captions]
        text = "".join(f"<p><bdi>{html.escape(line)}</bdi></p>" for line in lines if line)
        cards.append(f'<figure><img src="{source}" alt="{html.escape(captions or "a training photo")}">{text}</figure>')
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _photo_input() -> Any:
    sources: list[Literal["upload", "webcam", "clipboard"]] = ["upload", "clipboard", "webcam"]
    photo: Any = gradio.Image(label="A photo", sources=sources, type="filepath", height=320, alt_text="The photo")
    # as it was uploaded, byte for byte: Gradio's own way would decode it and might write it anew
    photo.preprocess = lambda payload: payload and payload.path
    return photo


def build_page(pages: Pages, names: list[tuple[str, str]], first: str) -> gradio.Blocks:
    """The page with a choice between runs; names: what is shown of each, and its name."""
    with gradio.Blocks(title="Photo quality", analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.HTML("<h1>Photo quality</h1>", padding=False)
        run = gradio.Dropdown(names, value=first, label="Run", visible=len(names) > 1)
        with gradio.Row():
            with gradio.Column():
                photo = _photo_input()
            with gradio.Column():
                mos = gradio.Textbox(label="Mean opinion score", lines=3, interactive=False)
                caption = gradio.Textbox(label="Caption", lines=2, interactive=False)
                others = gradio.Dataframe(
                    label="Other captions, with expected scores",
                    headers=["caption", "score"],
                    column_widths=["80%", "20%"],
                    interactive=False,
                    wrap=True,
                )
        gradio.HTML("<h2>Where the captioner looked at each word</h2>", padding=False)
        attention = gradio.Image(
            show_label=False, interactive=False, buttons=["fullscreen"], alt_text="Attention at each word"
        )
        gradio.HTML("<h2>Training photos like it, and what people said</h2>", padding=False)
        neighbours = gradio.HTML()
        with gradio.Accordion("Many photos: a CSV", open=False):
            many = gradio.File(label="Photos, or a zip of photos", file_count="multiple")
            folder = gradio.File(label="A folder", file_count="directory")
            out = gradio.File(label="CSV", interactive=False)
        cells = [mos, caption, others, attention, neighbours]
        for event in (photo.input, run.change):
            event(pages.describe, [run, photo], cells, concurrency_limit=2, show_progress_on=[mos])
        photo.clear(lambda: [None] * 5, None, cells)
        many.upload(pages.table, [run, many], out, concurrency_limit=2)
        folder.upload(pages.table, [run, folder], out, concurrency_limit=2)
    return page


def serve(page: gradio.Blocks, host: str, port: int) -> None:
    """Serve the page until the process is stopped. Raises InputError where the address cannot be listened on."""
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=MEGABYTES << 20,
            theme=theme,
            css=_CSS,
            footer_links=[],
        )
    except OSError:
        raise InputError(f"{host}:{port} is not free to listen on; give another with --port or --host") from None
