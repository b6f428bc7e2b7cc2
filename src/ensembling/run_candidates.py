"""What the captioners of a finished run propose for each photo: drawn once, then read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.base.errors import InputError
from src.base.files import replacing, write_text
from src.ensembling.stacking import TEST
from src.inference.fold_candidates import PhotoCandidates, candidate_searches, generate_candidates
from src.pipeline import outputs, resolved
from src.pipeline.artefacts import making, outdated
from src.pipeline.runs import fold_folder, run_folder, settings_path
from src.settings.schema import Settings
from src.training.distributed import init_ranks
from src.training.feature_cache import cached_features
from src.training.fold_data import read_fold


@dataclass(frozen=True)
class RunCandidates:
    """What one run's captioners propose, by fold."""

    name: str
    captions: dict[int, dict[int, list[str]]]
    """Of each fold: captions by the row of the photo, those of its validation and of the test photos."""
    greedy: dict[int, dict[int, str]]
    """The same: the caption of the most probable next words."""
    pooled: dict[int, np.ndarray]
    """What each fold's network saw of all photos, float32 [N, D]; NaN for a photo that cannot be read."""

    def knows(self, fold: int, row: int) -> bool:
        """Whether they saw the photo and could propose, in words or not; arguments as for `of`."""
        return any(row in self.captions[number] for number in (self.captions if fold == TEST else [fold]))

    def of(self, fold: int, row: int) -> list[str]:
        """The captions of a photo by the captioner that never saw it: its fold's; all folds' where `fold` is TEST."""
        numbers = self.captions if fold == TEST else [fold]
        return [caption for number in numbers for caption in self.captions[number].get(row, [])]

    def seen(self, fold: int) -> np.ndarray:
        """The photos as vectors [N, D] of those captioners, side by side."""
        return np.concatenate([self.pooled[number] for number in (self.pooled if fold == TEST else [fold])], axis=1)


def load_candidates(settings: Settings, table: pd.DataFrame, fold: np.ndarray, fresh: bool) -> RunCandidates:
    """The candidates of a run for the photos of the table, drawn where they are missing; all of them where `fresh`.

    fold [N]: TEST for test photos. Raises InputError where the photos or networks are no longer there.
    """
    found = RunCandidates(settings.run.name, {}, {}, {})
    rows = {name: row for row, name in enumerate(table["photo_id"])}
    for number in resolved.folds_of(settings):
        lines, found.pooled[number] = _drawn(settings, number, table, fold, fresh)
        found.captions[number] = {rows[line["photo_id"]]: line["captions"] for line in lines}
        found.greedy[number] = {
            rows[line["photo_id"]]: line["captions"][line["sources"].index("greedy")]
            for line in lines
            if "greedy" in line["sources"]
        }
    return found


def _drawn(
    settings: Settings, number: int, table: pd.DataFrame, fold: np.ndarray, fresh: bool
) -> tuple[list[dict], np.ndarray]:
    """What a fold's network proposes, by photo, and `Proposed.pooled` of it; drawn where missing or `fresh`."""
    sources = [make(settings) for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    for artefact in (*sources, outputs.fold(settings, number)):
        if reason := outdated(artefact, code=False):
            raise InputError(
                f"{settings.run.name}: {artefact.folder}: {reason}; python -m src.{artefact.stage} "
                f"--config {settings_path(fold_folder(run_folder(settings), number))} makes it"
            )
    with making(outputs.candidates(settings, number), fresh) as work:
        if work:
            places = [artefact.folder for artefact in sources]
            ranks = init_ranks()
            features = cached_features(settings, ranks)
            data = read_fold(*places, number, settings.vocabulary.maximum_words, features)
            rejected = pd.read_csv(places[0] / "rejected.csv", dtype=str, keep_default_na=False)["photo_id"]
            readable = ~table["photo_id"].isin(rejected).to_numpy()
            rows = [*data.validation_rows.tolist(), *np.flatnonzero((fold == TEST) & readable).tolist()]
            others = np.setdiff1d(np.flatnonzero((fold != TEST) & (table["part"] != "rejected")), rows).tolist()
            label, folder = f"{settings.run.name} fold {number}", outputs.fold(settings, number).folder
            searches = candidate_searches(settings, settings.ensemble.samples)
            found = generate_candidates(folder, settings, data.labels, rows, searches, ranks, f"{label} candidates")
            seen = found | generate_candidates(folder, settings, data.labels, others, {}, ranks, f"{label} features")
            work.outputs += _write(work.folder, table["photo_id"].tolist(), found, seen)
        folder = outputs.candidates(settings, number).folder  # read while nobody else may draw otherwise
        lines = (folder / "captions.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line], np.load(folder / "pooled.npy")


def _write(
    folder: Path, names: list[str], found: dict[int, PhotoCandidates], seen: dict[int, PhotoCandidates]
) -> list[str]:
    """Write the captions and what was seen; the names of the files."""
    lines = [
        json.dumps({"photo_id": names[row], "captions": each.captions, "sources": each.sources}, ensure_ascii=False)
        for row, each in found.items()
    ]
    write_text(folder / "captions.jsonl", "".join(f"{line}\n" for line in lines))
    pooled = np.full((len(names), len(next(iter(seen.values())).pooled)), np.nan, np.float32)
    for row, each in seen.items():
        pooled[row] = each.pooled
    with replacing(folder / "pooled.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, pooled)
    return ["captions.jsonl", "pooled.npy"]
