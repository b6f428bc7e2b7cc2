"""Figures of a run: some of its predictions, and the test photos least like the training photos."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.plots.example_photos import draw_examples

EXAMPLES = 12
"""Photos on a contact sheet."""


def draw_run_examples(
    table: pd.DataFrame, pixels: np.ndarray, predictions: pd.DataFrame, has_mos: bool, seed: int, out: Path
) -> None:
    """Draw random photos with their out-of-fold MOS, their label and their caption.

    table: the photos, as uint8 [N, H, W, C] in `pixels`. has_mos: the predicted MOS were measured.
    """
    shown = predictions.iloc[np.random.default_rng(seed).permutation(len(predictions))[:EXAMPLES]]
    rows = table.reset_index(drop=True).reset_index().set_index("photo_id").loc[shown["photo_id"]]
    labels = ["" if np.isnan(mos) else f", label {mos:.1f}" for mos in rows["mos"]]
    titles = shown["photo_id"].tolist()
    if has_mos:
        titles = [f"MOS {mos:.1f}{label}" for mos, label in zip(shown["mos"], labels, strict=True)]
    draw_examples(pixels[rows["index"].to_numpy()], titles, shown["caption"].tolist(), out)


def draw_shifted_photos(shifted: list[tuple[int, float]], test: pd.DataFrame, pixels: np.ndarray, out: Path) -> None:
    """Draw test photos with their probability of being test photos rather than training photos.

    shifted: (row among the test photos, probability). test: their table, whose index is the row in `pixels`.
    """
    shown = test.iloc[[row for row, _ in shifted]]
    titles = [f"test row {row + 1}: {probability:.0%}" for row, probability in shifted]
    draw_examples(pixels[shown.index.to_numpy()], titles, shown["photo_id"].tolist(), out)
