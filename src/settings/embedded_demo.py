"""What differs on the embedded demo, which takes the place of a competition's data where there are none."""

from pathlib import Path

from src.settings.schema import Settings

DATA = Path("data")
DEMO = DATA / "demo"
DEMO_FOLDS = 3
"""Where split does not say otherwise: two cores train the two that the search leaves side by side."""
DEMO_SPACE = {
    "optim.lr": {"low": 5e-4, "high": 3e-3, "log": True},
    "decoder.dropout": {"low": 0.1, "high": 0.5},
    "loss.mos_weight": {"low": 0.5, "high": 4.0, "log": True},
}
"""Searched where tune.space is not given, on other data too."""
DEMO_TRIALS = 2
"""Where tune.trials is not given; the first has the settings as they are."""


def on_demo(settings: Settings) -> bool:
    """Whether the data are the demo's: data.root is not given, and a competition's data/train.csv is absent."""
    return settings.data.root is None and settings.data.format == "dacon" and not (DATA / "train.csv").exists()
