"""The choice among captions of a photo that no run has seen."""

import numpy as np
import pytest

from src.ensembling.new_photo import NewPhotoRanking
from src.settings.load import load


def test_captions_are_ranked_by_the_tokens_that_the_metric_sees():
    settings, _ = load([], "ensemble")
    people = [["it's a pity the light isn't right"] * 20, ["a dark photo of the sky"], ["the sky is blue"]]
    ranking = NewPhotoRanking(settings, people, None)
    written = ["It's a pity the light isn't right.", "it is a pity that the light isn't right", "The light isn't."]
    as_tokens = ["it 's a pity the light is n't right", "it is a pity that the light is n't right", "the light is n't"]
    (rows, ranked), (_, tokens) = (ranking("a dark photo", captions, np.zeros(1)) for captions in (written, as_tokens))
    assert rows == [] and len(ranked) == 3  # nobody ends with the token "n't"
    assert dict(zip(written, as_tokens, strict=True))[ranked[0][0]] == tokens[0][0]
    assert [score for _, score in ranked] == pytest.approx([score for _, score in tokens])
