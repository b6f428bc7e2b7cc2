"""Figures of a run: its training curves, some predictions, where it looked, and the test photos least like training."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from src.base.errors import InputError
from src.base.files import replacing
from src.pipeline import outputs, resolved, runs
from src.pipeline.artefacts import outdated
from src.plots.attention_maps import draw_attention
from src.plots.example_photos import draw_examples
from src.plots.training_curves import draw_run_curves
from src.settings.schema import Settings

EXAMPLES = 12
"""Photos on a contact sheet."""
ATTENDING = ("attention", "updown", "transformer", "blip", "git", "vit_gpt2")
"""Names of the decoders that attend to parts of a photo."""


def draw_run(settings: Settings, table: pd.DataFrame, predictions: pd.DataFrame, has_mos: bool) -> None:
    """Draw the folds' training curves, and random photos with their out-of-fold MOS, their label and their caption.

    table: the photos. has_mos: the predicted MOS were measured.
    """
    run = runs.run_folder(settings)
    metrics = {f"fold {k}": runs.fold_folder(run, k) / "metrics.csv" for k in resolved.folds_of(settings)}
    if metrics:
        draw_run_curves(metrics, run / "curves.png")
    pixels = np.load(outputs.photos(settings).folder / "pixels.npy", mmap_mode="r")
    shown = predictions.iloc[np.random.default_rng(settings.run.seed).permutation(len(predictions))[:EXAMPLES]]
    rows = table.reset_index(drop=True).reset_index().set_index("photo_id").loc[shown["photo_id"]]
    labels = ["" if np.isnan(mos) else f", label {mos:.1f}" for mos in rows["mos"]]
    titles = shown["photo_id"].tolist()
    if has_mos:
        titles = [f"MOS {mos:.1f}{label}" for mos, label in zip(shown["mos"], labels, strict=True)]
    draw_examples(pixels[rows["index"].to_numpy()], titles, shown["caption"].tolist(), run / "examples.png")


def draw_run_attention(
    settings: Settings, table: pd.DataFrame, predictions: pd.DataFrame, captions: pd.DataFrame
) -> None:
    """Draw where the captioner looks while it writes of the photo whose caption scores highest.

    The network is that of the fold that has not seen the photo. Nothing is drawn, and an earlier picture removed, for a
    run without networks or with a captioner that does not attend. table: the photos. predictions: out of fold.
    captions: of `RunEvaluation.caption_scores`.
    """
    run = runs.run_folder(settings)
    out = runs.attention_path(run)
    out.unlink(missing_ok=True)
    if not resolved.has_networks(settings) or settings.decoder.name not in ATTENDING or not len(captions):
        return
    from src.inference.captioner_attention import attention_of_row
    from src.inference.photo_captioner import PhotoCaptioner, attention_of_file, photo_to_draw_on

    photo = captions["photo_id"].iloc[int(captions["cider_d"].to_numpy().argmax())]
    fold = int(predictions.set_index("photo_id")["fold"].loc[photo])
    row = table["photo_id"].tolist().index(photo)
    path = resolved.data_root(settings) / table["path"].iloc[row]
    try:
        if settings.encoder.cached and not outdated(outputs.features(settings), code=False):
            maps, (picture, box) = attention_of_row(settings, fold, row), photo_to_draw_on(settings, path)
        else:
            one_fold = dataclasses.replace(settings, train=dataclasses.replace(settings.train, fold=fold))
            maps, picture, box = attention_of_file(PhotoCaptioner(run, one_fold), path, row)
    except InputError as error:
        print(f"evaluate: attention is not drawn: {error}", flush=True)
        return
    if not maps.words:
        return
    title = " ".join(maps.words)
    draw_attention(picture, maps.words, maps.weights, maps.layout, box, out, title, maps.parts)
    told = PngInfo()
    told.add_itxt("Title", f"photo {photo}, fold {fold}: {title}")
    with replacing(out) as temporary, Image.open(out) as image:
        image.save(temporary, "png", pnginfo=told)


def draw_shifted_photos(shifted: list[tuple[int, float]], test: pd.DataFrame, pixels: np.ndarray, out: Path) -> None:
    """Draw test photos with their probability of being test photos rather than training photos.

    shifted: (row among the test photos, probability). test: their table, whose index is the row in `pixels`.
    """
    shown = test.iloc[[row for row, _ in shifted]]
    titles = [f"test row {row + 1}: {probability:.0%}" for row, probability in shifted]
    draw_examples(pixels[shown.index.to_numpy()], titles, shown["photo_id"].tolist(), out)
