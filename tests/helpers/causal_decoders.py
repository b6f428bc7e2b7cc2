"""Settings, photos and captions for the tests of causal decoders."""

import torch

from src.models.captioner import build_decoder
from src.models.decoder import END, PAD, CausalDecoder, shift_right
from src.models.features import Features
from src.settings.schema import DecoderSettings

VOCABULARY, WIDTH, GRID = 15, 6, (2, 3)
SMALL = {"hidden": 16, "embedding": 8, "attention": 7, "heads": 4, "feedforward": 24}
RECURRENT = [
    DecoderSettings(name="recurrent", cell=cell, image=image, layers=layers, **SMALL)
    for cell in ("lstm", "gru")
    for image in ("first", "every")
    for layers in (1, 2)
]
ATTENTION = [
    DecoderSettings(name="attention", cell=cell, project=project, gate=gate, **SMALL)
    for cell in ("lstm", "gru")
    for project, gate in ((None, True), (5, True), (None, False))
]
UPDOWN = [DecoderSettings(name="updown", project=project, **SMALL) for project in (None, 5)]
TRANSFORMER = [
    DecoderSettings(name="transformer", layers=1, **SMALL),
    DecoderSettings(name="transformer", layers=3, **SMALL | {"hidden": 15, "heads": 5}),
]
ATTENDING = ATTENTION + UPDOWN + TRANSFORMER


def features(count: int = 4) -> Features:
    """Photos with 6, 4, 1 and no cells, and so on."""
    cells = torch.tensor([6, 4, 1, 0]).repeat(count)[:count]
    mask = torch.rand(count, 6).argsort(1) < cells.unsqueeze(1)
    return Features(torch.randn(count, 6, WIDTH), mask, GRID, torch.randn(count, WIDTH))


def captions(count: int = 4, length: int = 7) -> torch.Tensor:
    tokens = torch.randint(4, VOCABULARY, (count, length))
    for row in range(count):
        end = length - 1 - row % 3
        tokens[row, end], tokens[row, end + 1 :] = END, PAD
    return tokens


def built(settings: DecoderSettings):
    """With weights far from their initial values, so that attention is not nearly uniform."""
    decoder = build_decoder(settings, VOCABULARY, WIDTH).eval()
    for parameter in decoder.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return decoder


def captions_share_a_photo(decoder: CausalDecoder, photos: Features, tokens: torch.Tensor, tolerance: float) -> None:
    """Assert that captions of the same photos, 4 of them, are as if each caption had a photo of its own."""
    inputs = shift_right(torch.cat([tokens, tokens.flip(0), tokens.roll(1, 0)]))
    balanced = torch.arange(4).repeat_interleave(3)
    for photo in (balanced, None, torch.tensor([0, 0, 0, 0, 0, 1, 1, 3, 3, 3, 3, 3])):
        together = decoder.teacher_forced(photos, inputs, photo)
        apart = decoder.teacher_forced(photos.select(balanced if photo is None else photo), inputs)
        torch.testing.assert_close(together.logits, apart.logits, atol=tolerance, rtol=tolerance)
        if together.attention is not None:
            torch.testing.assert_close(together.attention, apart.attention, atol=tolerance, rtol=tolerance)
