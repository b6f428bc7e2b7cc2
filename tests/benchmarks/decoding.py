"""Beam search batched over photos and beams, against a loop over both."""

import dataclasses
import time
from collections.abc import Iterator

import torch

from src.decoding.constraints import Constraints, constrain
from src.decoding.strategy import CaptionSearch
from src.models.captioner import build_decoder
from src.models.decoder import END, START, CausalDecoder
from src.models.features import Features
from src.settings.schema import DecoderSettings, DecodingSettings

PHOTOS, WORDS, WIDTH, FEATURES = 64, 3000, 5, 512


def _captioner(cell: str) -> tuple[CausalDecoder, Features]:
    """Random weights, scaled so that predictions are not nearly uniform and captions end."""
    torch.manual_seed(0)
    decoder = build_decoder(DecoderSettings(embedding=256, hidden=512, cell=cell), WORDS, FEATURES).eval()
    decoder.output.weight.data *= 6
    decoder.output.bias.data[END] = 6
    pooled = torch.randn(PHOTOS, FEATURES)
    return decoder, Features(pooled.unsqueeze(1), torch.ones(PHOTOS, 1, dtype=torch.bool), (1, 1), pooled)


@torch.no_grad()
def _plain(decoder: CausalDecoder, features: Features, rules: Constraints, penalty: float) -> list[list[list[int]]]:
    """The same search, one hypothesis at a time."""
    captions = []
    for photo in range(len(features)):
        live, finished = [(0.0, [], decoder.start(features.select(torch.tensor([photo]))))], []
        while live and len(finished) < WIDTH:
            continued = []
            for log_prob, words, state in live:
                log_probs, after = decoder.step(torch.tensor([words[-1] if words else START]), state)
                best = constrain(log_probs, torch.tensor([words], dtype=torch.long), rules)[0].topk(2 * WIDTH)
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    continued.append((log_prob + value, [*words, token], after))
            continued.sort(key=lambda each: -each[0])
            for log_prob, tokens, _ in continued[:WIDTH]:
                if tokens[-1] == END:
                    finished.append((log_prob / len(tokens) ** penalty, tokens))
            live = [each for each in continued if each[1][-1] != END][:WIDTH]
        captions.append([tokens for _, tokens in sorted(finished, key=lambda each: -each[0])[:WIDTH]])
    return captions


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds for the captions of 64 photos on one thread: the loop gains nothing from more."""
    torch.set_num_threads(1)
    settings = dataclasses.replace(DecodingSettings(), beam=WIDTH, minimum_words=8, maximum_words=14)
    words = [*"0123", *settings.bad_endings.split()]
    search = CaptionSearch(settings, words + [str(number) for number in range(len(words), WORDS)])
    for cell in ("lstm", "gru"):
        decoder, features = _captioner(cell)
        search(decoder, features, range(PHOTOS), 0)
        began = time.perf_counter()
        candidates = search(decoder, features, range(PHOTOS), 0)
        ours = time.perf_counter() - began
        began = time.perf_counter()
        expected = _plain(decoder, features, search.constraints, settings.length_penalty)
        other = time.perf_counter() - began
        captions = [[[token for token in tokens if token] for tokens in each] for each in candidates.tokens.tolist()]
        assert captions == expected, "the two searches found different captions"
        length = sum(len(each[0]) - 1 for each in captions) / PHOTOS
        yield (
            f"beam {WIDTH}, {PHOTOS} photos, {cell}, {length:.0f} words a caption",
            ours,
            other,
            "loop over hypotheses",
        )
