"""Statistics of a data set for statistics.json: MOS, captions, channels and handcrafted features."""

from collections import Counter

import cv2
import numpy as np
import pandas as pd

from src.data.handcrafted import NAMES
from src.data.table import for_training
from src.data.vocabulary import tokenize

MOS_HISTOGRAM_BINS = 30


def channel_statistics(pixels: np.ndarray, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel on the scale 0 to 1, over the photos in `rows`.

    pixels: uint8 [N, H, W, C], read one photo at a time. Counted in whole numbers, so the order of rows is irrelevant.
    """
    channels = pixels.shape[3]
    counts = np.zeros((channels, 256), np.int64)
    for row in rows:
        photo = np.ascontiguousarray(pixels[row])
        for channel in range(channels):
            counts[channel] += cv2.calcHist([photo], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
    total = np.maximum(counts.sum(1), 1)
    levels = np.arange(256)
    mean = (counts * levels).sum(1) / total
    square = (counts * levels**2).sum(1) / total
    sd = np.sqrt(np.maximum(square - mean**2, 0))
    return [float(value) / 255 for value in mean], [float(value) / 255 for value in sd]


def _mos(values: np.ndarray) -> dict | None:
    if len(values) == 0:
        return None
    lowest, highest = float(values.min()), float(values.max())
    try:
        counts, edges = np.histogram(values, MOS_HISTOGRAM_BINS)
    except ValueError:  # they differ by rounding only
        margin = max(0.5, 1e-9 * abs(highest))
        counts, edges = np.histogram(values, MOS_HISTOGRAM_BINS, (lowest - margin, highest + margin))
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "min": lowest,
        "max": highest,
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _histogram(values: list[int]) -> dict[str, int]:
    """How often each whole number occurs, in rising order."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def dataset_statistics(
    frame: pd.DataFrame, pixels: np.ndarray, handcrafted: np.ndarray, rows: np.ndarray | None = None
) -> dict:
    """Statistics of the photos for training, the validation part included.

    frame: the table. pixels: uint8 [N, H, W, C]. handcrafted: float32 [N, F]. rows: int [len(frame)], the row of each
    photo in both arrays; without it they are in the table's order.
    """
    rows = np.arange(len(frame)) if rows is None else np.asarray(rows)
    train = for_training(frame)
    photos = frame[train]
    mean, sd = channel_statistics(pixels, rows[train])
    captions = [caption for of_photo in photos["captions"] for caption in of_photo]
    lengths = [len(tokenize(caption)) for caption in captions]
    features = np.asarray(handcrafted[rows[train]], np.float64)
    return {
        "photos": {"train": int(train.sum()), "test": int((frame["part"] == "test").sum())},
        "groups": int(photos["group"].nunique()),
        "channels": {"mean": mean, "sd": sd},
        "mos": _mos(photos["mos"].dropna().to_numpy()),
        "captions": {
            "count": len(captions),
            "distinct": len(set(captions)),
            "words": {"median": float(np.median(lengths)), "p95": float(np.quantile(lengths, 0.95)),
                      "max": max(lengths), "histogram": _histogram(lengths)} if lengths else None,
            "per_photo": _histogram(photos["captions"].map(len).tolist()),
        },
        "handcrafted": {
            name: {"mean": float(column.mean()), "sd": float(column.std())}
            for name, column in zip(NAMES, features.T, strict=True)
        } if len(features) else None,
    }  # fmt: skip
