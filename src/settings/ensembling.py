"""Settings of the ensemble."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from src.settings.fields import STRICT
from src.settings.model import OWN_TOWER


@dataclass(frozen=True, config=STRICT)
class EnsembleSettings:
    """How the predictions of one run or many become one MOS and one caption a photo."""

    runs: list[str] | None = None
    """Names of finished runs, on the same photos and folds, that are joined. Not given: the run itself alone."""
    captions: Literal["mbr", "search"] = "mbr"
    """Captions with the highest expected score among those of all searches, runs and nearest training photos, or as the
    first run's own search wrote them."""
    mos: Literal["blend", "network", "ridge", "boosting", "svr"] = "blend"
    """Member whose MOS is submitted: the mean of those that help, or one alone. Every member's score is
    printed."""
    encoders: list[str] = Field(default_factory=list)
    """Further frozen timm models, started like the encoder, on whose levels, or pooled output where a model has none, a
    kernel ridge regression of MOS each is fitted; members of the blend as the others are."""
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 40
    """Nearest training photos whose captions are proposed for a photo."""
    broken_endings: bool = False
    """mbr: choose captions whose last word is one of decoding.bad_endings, or one that people hardly ever end with."""
    repeats: bool = False
    """mbr: choose captions that say a word twice running or a pair of words twice, as a few of people's do."""
    maximum_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """mbr: no sentence is chosen for more than this share of the photos; 1 allows all."""

    def __post_init__(self) -> None:
        if self.runs is not None and (not self.runs or len(set(self.runs)) < len(self.runs)):
            raise ValueError(f"ensemble.runs={self.runs}: name each run once; leave it out for the run itself")
        for name, count in Counter([*self.encoders, *(self.runs or [])]).items():
            if name in self.encoders and (count > 1 or name == OWN_TOWER or name.startswith("fasterrcnn_")):
                raise ValueError(f"ensemble.encoders: {name}: name models of timm, each once, none as a run is named")
