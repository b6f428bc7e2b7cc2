"""Every path inside runs/. `run` is always the folder of a run, runs/NAME."""

from collections.abc import Iterable
from pathlib import Path

from src.settings.schema import Settings

_FOLD, _SETTINGS, _DONE = "fold-", "settings.yaml", "done.json"


def run_folder(settings: Settings) -> Path:
    """The run's own folder, runs/NAME."""
    return Path(settings.run.root) / settings.run.name


def cache_folder(settings: Settings, kind: str, key: str) -> Path:
    """What runs share, by a key of its content."""
    return Path(settings.run.root) / "cache" / f"{kind}-{key}"


def cached_folders(root: Path, kind: str) -> list[Path]:
    """Every finished folder of that kind below the folder of all runs."""
    return sorted(path.parent for path in (root / "cache").glob(f"{kind}-*/{_DONE}"))


def marker_of(folder: Path) -> Path:
    """The file that is written last, once a folder holds all that it should."""
    return folder / _DONE


def fold_name(fold: int | str) -> str:
    """A fold's name: of its folder, and in records."""
    return f"{_FOLD}{fold}"


def fold_number(name: str) -> int:
    """The fold that a name stands for."""
    return int(name.removeprefix(_FOLD))


def folds_named(names: Iterable[str]) -> list[int]:
    """The folds among the names of files, or of the inputs in a record."""
    suffixes = [name.removeprefix(_FOLD) for name in names if name.startswith(_FOLD)]
    return sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())


def fold_folder(run: Path, fold: int | str) -> Path:
    """Checkpoints and metrics of one fold."""
    return run / fold_name(fold)


def fold_folders(run: Path) -> list[Path]:
    """The folders of all folds that were begun."""
    return [fold_folder(run, fold) for fold in folds_named(path.name for path in run.glob(f"{_FOLD}*"))]


def finished_folds(run: Path) -> list[int]:
    """The folds that were trained to their end."""
    return [fold_number(folder.name) for folder in fold_folders(run) if marker_of(folder).is_file()]


def fold_log(run: Path, fold: int | str, stage: str) -> Path:
    """What a stage prints of a fold that has a process of its own."""
    return run / f"{stage}-{fold_name(fold)}.log"


def best_checkpoint(fold: Path, task: str) -> Path:
    """The weights of the epoch whose MOS, or whose captions, were best, in the fold's folder. task: mos or caption."""
    return fold / f"best-{task}.pt"


def last_checkpoint(fold: Path) -> Path:
    """The whole state of the training of a fold, from which it goes on."""
    return fold / "last.pt"


def settings_path(fold: Path) -> Path:
    """The settings that a fold was trained with, in the fold's folder."""
    return fold / _SETTINGS


def trained_settings(run: Path, fold: int | str = "*") -> list[Path]:
    """The settings of every fold of a run, or of one, where there are any."""
    folders = fold_folders(run) if fold == "*" else [fold_folder(run, fold)]
    return [path for path in map(settings_path, folders) if path.is_file()]


def trained_runs(root: Path) -> list[str]:
    """The names of all runs that were trained below the folder of all runs."""
    return sorted({path.parent.parent.name for path in root.glob(f"*/{_FOLD}*/{_SETTINGS}")})


def evaluated_runs(root: Path) -> list[str]:
    """The names of all runs that were evaluated below the folder of all runs."""
    return sorted(path.parent.name for path in root.glob(f"*/{score_marker(Path()).name}"))


def tuning_folder(run: Path, stage: str = "train") -> Path:
    """What the search found: over settings of training, or of decoding."""
    return run / ("tune" if stage == "train" else "tune-decode")


def tuned_settings(run: Path) -> Path:
    """The winner of the search over settings of training."""
    return tuning_folder(run) / "best.yaml"


def plan_folder(run: Path) -> Path:
    """What was chosen for run.minutes."""
    return run / "plan"


def planned_settings(run: Path, late: str = "") -> Path:
    """The settings that were chosen for run.minutes; late: those that this stage chose in their place."""
    return plan_folder(run) / (f"late-{late}.json" if late else "plan.json")


def clock_path(run: Path) -> Path:
    """The seconds that the stages of a run that is not finished have worked."""
    return run / "clock.json"


def predictions_folder(run: Path) -> Path:
    """What predict writes."""
    return run / "predictions"


def ensemble_folder(run: Path) -> Path:
    """What ensemble writes."""
    return run / "ensemble"


def score_path(run: Path) -> Path:
    """The score beside its baselines."""
    return run / "score.json"


def score_marker(run: Path) -> Path:
    """Written once the score and its report are."""
    return run / "evaluated.json"


def submission_marker(run: Path) -> Path:
    """Written once the run's submission is."""
    return run / "submitted.json"


def report_path(run: Path) -> Path:
    """The page that tells how the run, or a comparison of runs in a folder of its own, went."""
    return run / "report.html"


def caption_scores_path(run: Path) -> Path:
    """The scores of each out-of-fold caption."""
    return run / "caption_scores.csv"


def attention_path(run: Path) -> Path:
    """Where the captioner looked in one photo."""
    return run / "attention.png"


def rejected_path(run: Path) -> Path:
    """The rows and photos that cannot be used."""
    return run / "rejected.csv"
