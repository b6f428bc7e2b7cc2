"""SPICE (Anderson et al. 2016), optional, through pycocoevalcap's jar; its models are a download of 384 MB."""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from src.base.errors import InputError
from src.metrics.java import run, scorer_file


def spice(references: list[list[str]], candidates: list[str]) -> float:
    """Mean SPICE of one tokenised caption per photo against that photo's references.

    The first call downloads Stanford's models into pycocoevalcap's own folder.
    Raises InputError where that fails, or where the jar does.
    """
    fetch_models()
    photos = [
        {"image_id": photo, "test": candidate, "refs": group}
        for photo, (group, candidate) in enumerate(zip(references, candidates, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        captions, scores = Path(folder, "captions.json"), Path(folder, "scores.json")
        captions.write_text(json.dumps(photos), encoding="utf-8")
        jar = str(scorer_file("spice", "spice-1.0.jar"))
        process = run(
            ["-Xmx8G", "-jar", jar, str(captions), "-out", str(scores), "-subset", "-silent"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        errors = process.stderr.decode("utf-8", "replace")
        if process.returncode != 0 or not scores.exists():
            raise InputError(f"SPICE failed ({' '.join(errors.split())[-200:]}); leave it out with metric.spice=false")
        results = json.loads(scores.read_text(encoding="utf-8"))
    values = [result["scores"]["All"]["f"] for result in results]
    return float(np.nanmean([np.nan if value is None else float(value) for value in values]))


def fetch_models() -> None:
    """Download the models where they are absent. Raises InputError where that fails."""
    from pycocoevalcap.spice.get_stanford_models import get_stanford_models

    try:
        get_stanford_models()
    except Exception as error:
        raise InputError(
            f"SPICE's models (384 MB) cannot be fetched ({type(error).__name__}: {error}); "
            "check the network, or leave it out with metric.spice=false"
        ) from None
