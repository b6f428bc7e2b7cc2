"""Stages that have a missing input made first do that in the same process, where no test looks at how it is begun."""

from importlib import import_module

import pytest

from src.settings.load import as_arguments
from src.settings.schema import Settings


def run_stage(stage: str, settings: Settings) -> None:
    """As a process that is given these settings, but in this one."""
    import_module(f"src.{stage}").main(as_arguments(settings))


def inputs_in_process(patch: pytest.MonkeyPatch) -> None:
    """Have inputs made by `run_stage`."""
    patch.setattr("src.pipeline.stages._run_stage", run_stage)
