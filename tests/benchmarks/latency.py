"""Latency of one caption: non-autoregressive decoding in four passes, against autoregressive decoding of equal size."""

import dataclasses
import time
from collections.abc import Iterator

import torch

from src.decoding.strategy import CaptionSearch
from src.models.captioner import build_decoder
from src.models.features import Features
from src.settings.schema import DecoderSettings, DecodingSettings

SIZE = DecoderSettings(hidden=512, layers=6, heads=8, feedforward=2048, dropout=0.0)
VOCABULARY, FEATURES, GRID, WORDS, PASSES, PHOTOS = 10_000, 2048, (7, 7), 12, 4, 12


def _photo(seed: int, device: str) -> Features:
    generator = torch.Generator().manual_seed(seed)
    cells = GRID[0] * GRID[1]
    grid = torch.randn(1, cells, FEATURES, generator=generator).to(device)
    return Features(grid, torch.ones(1, cells, dtype=torch.bool, device=device), GRID, grid.mean(1))


def run() -> Iterator[tuple[str, float, float, str, str]]:
    """Milliseconds per caption of 12 words without the encoder: medians over photos, in alternation.

    On the GPU where there is one. Otherwise on one thread in process time, which other load on the machine does not
    change.
    """
    torch.set_num_threads(1)
    gpu = torch.cuda.is_available()
    device, clock = ("cuda", time.perf_counter) if gpu else ("cpu", time.process_time)
    words = [str(number) for number in range(VOCABULARY)]
    rules = {"minimum_words": WORDS, "maximum_words": WORDS}
    settings = DecodingSettings(passes=PASSES, beam=1, **rules)
    searches = {
        "greedy": ("transformer", settings),
        "beam 5": ("transformer", dataclasses.replace(settings, beam=5)),
        "mask_predict": ("mask_predict", settings),
        "ctc_mask_predict, greedy": ("ctc_mask_predict", settings),
        "ctc_mask_predict, prefix beam 5": ("ctc_mask_predict", dataclasses.replace(settings, ctc="prefix", beam=5)),
    }
    torch.manual_seed(0)
    decoders = {
        name: build_decoder(dataclasses.replace(SIZE, name=name), VOCABULARY, FEATURES).eval().to(device)
        for name in ("transformer", "mask_predict", "ctc_mask_predict")
    }
    times = {label: [] for label in searches}
    with torch.inference_mode():
        for photo in range(PHOTOS + 1):
            features = _photo(photo, device)
            for label, (name, each) in searches.items():
                search = CaptionSearch(each, words)
                began = clock()
                candidates = search(decoders[name], features, [photo], 0)
                assert candidates.lengths()[0, 0] == WORDS + 1  # waits for the GPU
                if photo:  # the first is a warm-up
                    times[label].append(1000 * (clock() - began))
    median = {label: sorted(each)[len(each) // 2] for label, each in times.items()}
    for label in list(searches)[2:]:
        for other in ("greedy", "beam 5"):
            what = f"{label}, {PASSES} passes, 1 photo, {WORDS} words"
            yield what, median[label], median[other], f"transformer, {other}", "ms"
