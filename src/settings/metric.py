"""Settings of the score."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from src.settings.fields import STRICT, NonNegativeFloat


@dataclass(frozen=True, config=STRICT)
class CaptionWeights:
    """Weights of the competition's caption score (DACON 236134)."""

    cider_d: NonNegativeFloat = 4.0
    """Weight of CIDEr-D."""
    meteor: NonNegativeFloat = 3.0
    """Weight of METEOR."""
    bleu: NonNegativeFloat = 2.0
    """Weight of the mean of BLEU-3 and BLEU-4."""
    rouge_l: NonNegativeFloat = 1.0
    """Weight of ROUGE-L."""

    def __post_init__(self) -> None:
        if not (self.cider_d or self.meteor or self.bleu or self.rouge_l):
            raise ValueError("metric.weights: all are 0, so that any caption scores 0; give one more than 0")


@dataclass(frozen=True, config=STRICT)
class MetricSettings:
    """The score."""

    weights: CaptionWeights = CaptionWeights()
    """Weights of the caption score."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples behind each 95% interval."""
    spice: bool = False
    """Also compute SPICE; downloads 384 MB the first time and is slow."""
