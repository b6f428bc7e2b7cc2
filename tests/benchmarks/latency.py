"""One photo at a time: all words at once in four passes, against word by word with a network of the same size."""

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
    """Milliseconds for a caption of 12 words, the encoder left out: median over photos, taken in turn.

    On the GPU where there is one, else on one thread, so that the time it computes is the time it takes, whatever else
    the machine does.
    """
    torch.set_num_threads(1)
    gpu = torch.cuda.is_available()
    device, clock = ("cuda", time.perf_counter) if gpu else ("cpu", time.process_time)
    words = [str(number) for number in range(VOCABULARY)]
    rules = {"minimum_words": WORDS, "maximum_words": WORDS}
    chosen = DecodingSettings(passes=PASSES, beam=1, **rules)
    searches = {
        "greedy": ("transformer", chosen),
        "beam 5": ("transformer", dataclasses.replace(chosen, beam=5)),
        "mask_predict": ("mask_predict", chosen),
        "ctc_mask_predict, greedy": ("ctc_mask_predict", chosen),
        "ctc_mask_predict, prefix beam 5": ("ctc_mask_predict", dataclasses.replace(chosen, ctc="prefix", beam=5)),
    }
    torch.manual_seed(0)
    decoders = {
        name: build_decoder(dataclasses.replace(SIZE, name=name), VOCABULARY, FEATURES).eval().to(device)
        for name in ("transformer", "mask_predict", "ctc_mask_predict")
    }
    taken = {label: [] for label in searches}
    with torch.inference_mode():
        for number in range(PHOTOS + 1):
            photo = _photo(number, device)
            for label, (name, settings) in searches.items():
                search = CaptionSearch(settings, words)
                began = clock()
                found = search(decoders[name], photo, [number], 0)
                assert found.lengths()[0, 0] == WORDS + 1  # which waits for the GPU
                if number:  # the first is to warm up
                    taken[label].append(1000 * (clock() - began))
    median = {label: sorted(times)[len(times) // 2] for label, times in taken.items()}
    for label in list(searches)[2:]:
        for other in ("greedy", "beam 5"):
            what = f"{label}, {PASSES} passes, 1 photo, {WORDS} words"
            yield what, median[label], median[other], f"transformer, {other}", "ms"
