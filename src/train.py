"""Train the network on each fold, or on one with --fold K.

Writes runs/NAME/fold-K/: best-mos.pt, best-caption.pt, last.pt, metrics.csv, timing.csv, curves.png, tensorboard/,
parameters.json and settings.yaml. A run that was cut off goes on at the same step. Where there are several GPUs each
fold has one, and several are trained side by side (run.jobs); what they print is in runs/NAME/fold-K.log. Several
processes for one fold: torchrun --nproc-per-node=N -m src.train --fold K.
"""

import contextlib
import os
from importlib.metadata import version

from src.base.errors import guarded
from src.base.files import write_json
from src.base.provenance import provenance
from src.pipeline.artefacts import making, outdated
from src.pipeline.outputs import fold, folds, photos, vocabulary
from src.pipeline.resolved import folds_of, tuned
from src.pipeline.runs import settings_path
from src.pipeline.stages import ensure_inputs
from src.settings.load import load, save

PACKAGES = ["torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "albumentations", "pycocoevalcap"]


def train_fold(settings, number: int, folder, places, ranks, meteor, features) -> list[str]:
    """Train one fold in its folder, from the data in `places`; the names of the files that count."""
    from src.inference.teacher_captions import load_teacher_captions
    from src.plots.training_curves import draw_curves
    from src.training.fit import Fit
    from src.training.fold_data import read_fold
    from src.training.metrics_log import write_parameters

    teacher = load_teacher_captions(settings, number, ranks)
    data = read_fold(*places, number, settings.vocabulary.maximum_words, features, teacher)
    if ranks.main:
        save(settings, settings_path(folder))
        write_json(folder / "provenance.json", provenance(version, PACKAGES))
    fit = Fit(settings, data, number, folder, ranks, meteor)
    fit.run()
    if ranks.main:
        write_parameters(folder / "parameters.json", fit.engine.task.model)
        draw_curves(folder / "metrics.csv", folder / "curves.png")
    kept = {"both": ["best-mos.pt", "best-caption.pt"], "mos": ["best-mos.pt"], "caption": ["best-caption.pt"]}
    return [*kept[settings.task], "metrics.csv"]


def start_jobs(settings, numbers: list[int], fresh: bool) -> bool:
    """Train the folds side by side, where there is more than one and the machine or the settings give the means."""
    if len(numbers) < 2 or settings.run.jobs == 1 or settings.parallel != "none":
        return False
    import torch

    from src.pipeline.fold_jobs import train_side_by_side

    gpus = torch.cuda.device_count()
    jobs = min(settings.run.jobs or gpus, len(numbers))
    if jobs > 1:
        train_side_by_side(settings, numbers, jobs, gpus, fresh)
    return jobs > 1


def main(argv=None) -> None:
    settings, chosen = load(argv, "train", __doc__)
    if os.environ.get("RANK", "0") == "0":
        ensure_inputs(settings, "train")
        settings = tuned(settings)
    if "RANK" not in os.environ:
        missing = [number for number in folds_of(settings) if chosen.fresh or outdated(fold(settings, number))]
        if not missing or start_jobs(settings, missing, chosen.fresh):
            for number in folds_of(settings):
                if number not in missing:
                    print(f"train: {fold(settings, number).folder}: up to date", flush=True)
            return
    from src.base.randomness import make_deterministic
    from src.metrics.meteor import shared_meteor
    from src.training.distributed import init_ranks, notice, shutdown
    from src.training.feature_cache import cached_features

    make_deterministic(settings.run.threads)
    ranks = init_ranks()
    settings = ranks.broadcast(settings)
    if ranks.main and notice(settings, ranks):
        print(f"train: {notice(settings, ranks)}", flush=True)
    meteor = shared_meteor() if ranks.main and settings.task != "mos" else None
    features = cached_features(settings, ranks)
    places = ranks.shared_paths(lambda: [made(settings).folder for made in (photos, vocabulary, folds)])
    for number in folds_of(settings):
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(making(fold(settings, number), chosen.fresh)) if ranks.main else None
            for folder in ranks.shared_paths(lambda work=work: [work.folder] if work else []):
                outputs = train_fold(settings, number, folder, places, ranks, meteor, features)
                if work:
                    work.outputs += outputs
    shutdown(ranks)


if __name__ == "__main__":
    guarded(main)
