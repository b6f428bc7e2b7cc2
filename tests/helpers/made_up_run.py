"""The files of an evaluated run with made-up figures, any number of photos and any names, for tests of its page."""

import csv
import json
from pathlib import Path

import numpy as np

from src.base.csv_files import write_csv
from src.base.files import write_json
from src.pipeline import outputs, resolved, runs
from src.settings.load import load
from src.settings.schema import Settings

SIDE = 16
"""Pixels of a photo's side."""


def made_up_run(
    root: Path,
    photos: int,
    names: list[str] | None = None,
    captions: list[str] | None = None,
    task: str = "both",
    warnings: list[str] | None = None,
) -> Settings:
    """Write a run below `root` and return its settings, as after tuning.

    photos: for training, as many again are test photos; every other one has a MOS, all have two captions.
    names, captions: of the first photos; a caption is predicted, and is the first reference as well.
    """
    (root / "data").mkdir(parents=True)
    (root / "data" / "train.csv").write_text("img_name,img_path,mos,comments\n")
    arguments = [f"data.root={root / 'data'}", f"run.root={root / 'runs'}", f"run.submissions={root / 'submissions'}"]
    settings = resolved.tuned(
        load([*arguments, "tune.trials=0", f"task={task}", "run.name=made up"], "evaluate", "")[0]
    )
    rng = np.random.default_rng(0)
    names = [*(names or []), *(f"photo-{i:06d}" for i in range(len(names or []), photos))]
    said = captions or []
    written = [said[i] if i < len(said) else f"a picture of thing {i % (photos // 3 + 1)}" for i in range(photos)]
    truth = rng.uniform(1, 9, photos)
    _write_photos(settings, names, written, truth)
    predicted = np.clip(truth + rng.normal(0, 0.8, photos), 1, 9)
    _write_ensemble(settings, names, written, predicted, rng)
    _write_scores(settings, photos, warnings or [])
    run = runs.run_folder(settings)
    if task != "mos":
        rows = ([name, score, 0.5, 3, 5] for name, score in zip(names, rng.gamma(1, 0.5, photos), strict=True))
        header = ("photo_id", "cider_d", "rouge_l", "edits", "words")
        write_csv(runs.caption_scores_path(run), header, rows)
    for fold in range(3):
        header = ("epoch", "lr", "mos_loss", "val_mos_score", "val_plcc", "val_srcc")
        rows = [[e, 0.01 / e, 1 / e, 0.6 + 0.01 * e, 0.6, 0.5] for e in range(1, 13)]
        write_csv(runs.fold_folder(run, fold) / "metrics.csv", header, rows)
        write_csv(runs.fold_folder(run, fold) / "timing.csv", ("epoch", "seconds"), [[e, 60] for e in range(1, 13)])
    write_csv(runs.rejected_path(run), ("where", "photo_id", "path", "reason"), [])
    return settings


def _write_photos(settings: Settings, names: list[str], captions: list[str], mos: np.ndarray) -> None:
    folder, photos = outputs.photos(settings).folder, len(names)
    folder.mkdir(parents=True)
    with open(folder / "photos.jsonl", "w", encoding="utf-8") as file:
        for i in range(2 * photos):
            part = "train" if i < photos else "test"
            name = names[i] if i < photos else f"test-{i}"
            told = [captions[i], "another way to say it"] if i < photos and settings.task != "mos" else []
            label = float(mos[i]) if i < photos and i % 2 == 0 and settings.task != "caption" else None
            row = {"photo_id": name, "path": f"{part}/{i}.jpg", "mos": label, "captions": told, "group": name}
            file.write(json.dumps(row | {"part": part}, ensure_ascii=False) + "\n")
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (2 * photos, SIDE, SIDE, 3))
    pixels[: min(photos, 100)] = np.arange(SIDE, dtype=np.uint8)[:, None, None] * 12
    np.save(folder / "handcrafted.npy", np.zeros((2 * photos, 40), np.float32))
    np.save(folder / "phash.npy", np.arange(2 * photos, dtype=np.uint64))
    digests = np.arange(2 * photos, dtype="<u8")[:, None].view(np.uint8)
    np.save(folder / "digests.npy", np.concatenate([digests + 1, digests], axis=1))
    statistics: dict = {"groups": photos, "mos": None, "captions": {"words": None}}
    if settings.task != "caption":
        counts, edges = np.histogram(mos[::2], 30)
        figures = {"count": len(mos[::2]), "mean": mos.mean(), "sd": mos.std(), "min": mos.min(), "max": mos.max()}
        figures["histogram"] = {"edges": edges.tolist(), "counts": counts.tolist()}
        statistics["mos"] = figures
    if settings.task != "mos":
        words = {"median": 5.0, "p95": 5.0, "max": 5, "histogram": {"5": 2 * photos}}
        statistics["captions"] = {"words": words}
    write_json(folder / "statistics.json", statistics)


def _write_ensemble(
    settings: Settings, names: list[str], captions: list[str], mos: np.ndarray, rng: np.random.Generator
) -> None:
    folder = outputs.ensemble(settings).folder
    folder.mkdir(parents=True)
    members = [mos, mos + rng.normal(0, 0.3, len(mos)), mos]
    with open(folder / "oof.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("photo_id", "fold", "mos", "ridge", "network", "blend", "caption"))
        for i, (name, *figures) in enumerate(zip(names, mos, *members, strict=True)):
            writer.writerow((name, i % 3, *figures, "" if settings.task == "mos" else captions[i]))
    (folder / "test.csv").write_text("photo_id,mos,caption,fallback\n")
    members = [{"member": "ridge", "run": None, "weight": 0.5}, {"member": "network", "run": "made up", "weight": 0.5}]
    write_json(folder / "blend.json", {"runs": ["made up"], "mos": {"used": "blend", "members": members}})
    header = ("kind", "step", "on", "photos", "score", "low", "high", "gain", "gain_low", "gain_high", "p", "distinct")
    steps = [["MOS", "ridge", "off", 50, 0.6, 0.5, 0.7, "", "", "", "", ""],
             ["MOS", "+ network", "on", 50, 0.8, 0.7, 0.9, 0.2, 0.1, 0.3, 0.01, ""]]  # fmt: skip
    write_csv(folder / "ablation.csv", header, steps)
    write_json(folder / "timing.json", {"ridge": 83.2})
    if settings.task != "mos":
        write_csv(
            folder / "caption_confidence.csv",
            ("photo_id", "expected"),
            zip(names, np.arange(len(names)) / 100, strict=True),
        )


def _write_scores(settings: Settings, photos: int, warnings: list[str]) -> None:
    mos = {"plcc": 0.81, "srcc": 0.79, "score": 0.8, "interval": [0.75, 0.85], "photos": photos // 2}
    measures = {"bleu1": 0.5, "bleu2": 0.4, "bleu3": 0.3, "bleu4": 0.2, "meteor": 0.2, "rouge_l": 0.4}
    measures |= {"cider_d": 0.3, "wer": 0.7}
    caption = {**measures, "score": 2.7, "interval": [2.6, 2.8], "photos": photos}
    told = {"photos": photos, "distinct": photos // 3, "most_frequent": "a picture", "most_frequent_share": 0.01}
    told |= {"empty": 0, "unk_share": 0.0, "mean_words": 5.0, "adjacent_repeats": 0.0, "repeated_pairs": 0.0}
    has_mos, has_captions = settings.task != "caption", settings.task != "mos"
    baseline = {"mos": 0.6, "caption": 1.7, "sentence": "a thing", "measures": measures}
    none = {"mos": None, "caption": None, "sentence": None, "measures": None}
    oof = {
        "mos": mos if has_mos else None,
        "caption": caption if has_captions else None,
        "baseline": baseline if has_captions else none | {"mos": 0.6},
        "warnings": warnings,
        "diagnostics": {"captions": told | {"dangling": 0.0} if has_captions else None, "mos": None},
        "members": {"ridge": mos | {"score": 0.6}, "network": mos, "blend": mos} if has_mos else {},
        "folds": [{"fold": k, "mos": 0.8 if has_mos else None, "caption": None} for k in (0, 1, 2)],
    }  # fmt: skip
    write_json(runs.score_path(runs.run_folder(settings)), {"oof": oof, "test": None, "network": None})
