"""Forward and backward of the default captioner on captions of uneven length: padding left out, against all of it."""

import time
from collections.abc import Iterator
from statistics import median
from unittest.mock import patch

import numpy as np
import torch

from src.base.randomness import make_deterministic
from src.models.captioner import Captioner, build_decoder
from src.models.decoder import END, PAD
from src.models.features import Features
from src.settings.load import build
from src.training import task as task_module
from src.training.task import Scale, Task

PHOTOS, CELLS, WIDTH, STEPS = 32, 49, 320, 15
CAPTIONS = {  # words known, captions of a photo, and their words: median, spread of the logarithm, most
    "the competition's comments": (11_020, 1, 12, 0.5, 39),
    "Flickr8k's captions": (1_900, 5, 11, 0.33, 30),
}


def made_up_captions(rng: np.random.Generator, vocabulary: int, each: int, *lengths: float) -> torch.Tensor:
    """Captions of random words, int64 [PHOTOS, each, T]."""
    middle, spread, most = lengths
    words = np.exp(rng.normal(np.log(middle), spread, PHOTOS * each)).round().clip(3, most).astype(int)
    captions = np.full((PHOTOS * each, words.max() + 1), PAD)
    for caption, count in zip(captions, words, strict=True):
        caption[:count], caption[count] = rng.integers(4, vocabulary, count), END
    return torch.from_numpy(captions).view(PHOTOS, each, -1)


def run() -> Iterator[tuple[str, float, float, str]]:
    settings, rng = build([]), np.random.default_rng(0)
    make_deterministic(settings.run.threads)
    cells = torch.randn(PHOTOS, CELLS, WIDTH), torch.ones(PHOTOS, CELLS, dtype=torch.bool)
    features = Features(*cells, (7, 7), torch.randn(PHOTOS, WIDTH))
    for name, (vocabulary, each, *lengths) in CAPTIONS.items():
        decoder = build_decoder(settings.decoder, vocabulary, WIDTH)
        network = Captioner(torch.nn.Identity(), None, decoder)  # the features are there
        task = Task(network, settings.loss, Scale(1.0, 9.0, 5.0, 1.0), settings.vocabulary.maximum_words)

        def step(captions: torch.Tensor, task: Task = task) -> float:
            began = time.process_time()
            task.losses(features, torch.full((PHOTOS,), torch.nan), captions)["losses"].sum().backward()
            return time.process_time() - began

        left_out, padded = [], []
        for _ in range(STEPS):
            captions = made_up_captions(rng, vocabulary, each, *lengths)
            left_out.append(step(captions))
            with patch.object(task_module, "_longest_first", lambda _: None):
                padded.append(step(captions))
        yield f"training step, {name}", median(left_out[2:]), median(padded[2:]), "the same with all padding"
