"""The winner of a search against the settings as they are, on folds that no trial was scored on."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image
from scipy.stats import pearsonr, spearmanr

from src import predict, train, tune
from src.base.errors import InputError
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.mos_score import mos_score
from src.pipeline import resolved
from src.settings.load import load
from src.settings.schema import CaptionWeights
from src.settings.tuning import TuneSettings
from src.settings.yaml_files import read_yaml
from src.training import checkpoint
from src.tuning.judgement import (
    ValidationLabels,
    Verdict,
    judge,
    objective_of_counts,
    scored_photos,
    systems_to_judge,
)
from tests.conftest import TINY
from tests.helpers.tables import rows_of

BETTER = ["optim.lr=1e-8", "tune.space={optim.lr: {choices: [1e-8, 1e-6, 3e-3]}}"]
"""The settings as they are learn nothing."""
NOISE = ["optim.lr=2.99e-3", "tune.space={optim.lr: {choices: [2.99e-3, 3e-3, 3.01e-3]}}"]
"""All learn the same but for luck."""
RESULTS = ("trials.csv", "best.yaml", "judge.json")


@pytest.fixture(scope="module")
def bright(tmp_path_factory) -> Path:
    """A competition in which photos are the better the brighter, which a network learns at once."""
    root, noise = tmp_path_factory.mktemp("bright"), np.random.default_rng(0)
    lines = ["img_name,img_path,mos,comments"]
    for i, brightness in enumerate(noise.uniform(40, 215, 120)):
        pixels = np.clip(noise.normal(brightness, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
        (root / "train").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "train" / f"{i}.png")
        lines.append(f"p{i},./train/{i}.png,{1 + brightness / 32 + noise.normal(0, 0.5):.3f},a comment")
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    (root / "test.csv").write_text("img_name,img_path\nt,./train/0.png\n")
    (root / "sample_submission.csv").write_text("img_name,mos,comments\nt,5,a comment\n")
    return root


def arguments(bright: Path, name: str, *more: str) -> list[str]:
    own = ["task=mos", "train.ema_decay=0", "augment.flip=0.5", "split.folds=3", "tune.trials=3", f"run.name={name}"]
    return [f"data.root={bright}", *TINY, *own, *more]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch) -> None:
    for drawing in ("tuning_plots.draw_search", "training_curves.draw_curves", "data_histograms.draw_statistics"):
        monkeypatch.setattr(f"src.plots.{drawing}", lambda *_, **__: None)


def out_of_fold(bright: Path, name: str, lr: str) -> dict[str, tuple[float, float]]:
    """MOS of folds 1 and 2 and the labels, as train and predict give them with that learning rate, by photo_id."""
    own = arguments(bright, name, "tune.trials=0", f"optim.lr={lr}", "predict.tta_flips=false")
    train.main(own)
    predict.main(own)
    truth = {row["img_name"]: float(row["mos"]) for row in rows_of(bright / "train.csv")}
    rows = rows_of(Path("runs", name, "predictions", "oof.csv"))
    return {r["photo_id"]: (float(r["mos"]), truth[r["photo_id"]]) for r in rows if r["fold"] != "0"}


def score(mos: np.ndarray, truth: np.ndarray) -> float:
    return (max(pearsonr(mos, truth)[0], 0) + max(spearmanr(mos, truth)[0], 0)) / 2


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(("name", "given", "wins"), [("better", BETTER, True), ("noise", NOISE, False)])
def test_the_winner_wins_only_where_two_runs_of_train_and_predict_tell_them_apart(
    bright, place, name, given, wins, monkeypatch, capsys
):
    monkeypatch.chdir(place)
    tune.main(arguments(bright, name, *given))
    printed = capsys.readouterr().out
    results = Path("runs", name, "tune")
    scored = [(float(row["MOS score"]), row["optim.lr"]) for row in rows_of(results / "trials.csv")]
    best, initial = max(scored)[1], scored[0][1]
    assert float(best) != float(initial) == float(given[0].partition("=")[2])
    ours, theirs = (out_of_fold(bright, f"{name}{lr}", lr) for lr in (best, initial))
    system, truth = np.array(list(ours.values())).T
    reference = np.array([theirs[photo][0] for photo in ours])
    verdict = json.loads((results / "judge.json").read_text())
    assert verdict["difference"] == pytest.approx(score(system, truth) - score(reference, truth), abs=1e-5)
    draws = np.random.default_rng(5).integers(len(truth), size=(1000, len(truth)))
    differences = [score(system[d], truth[d]) - score(reference[d], truth[d]) for d in draws]
    spread = np.std(differences)
    assert [verdict["low"], verdict["high"]] == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=spread / 3)
    assert (verdict["photos"], verdict["won"], verdict["low"] > 0) == (80, wins, wins)
    interval = f"{verdict['difference']:+.3f} [{verdict['low']:.3f}, {verdict['high']:.3f}]"
    who = f"trial {verdict['trial']}" if wins else "the defaults"
    assert f"tune: {who} won (difference {interval} on folds 1, 2)\n" in printed
    assert f"{who} won (difference {interval} on folds 1, 2)." in (results / "best.yaml").read_text().splitlines()[0]
    assert float(dict(read_yaml(str(results / "best.yaml")))["optim.lr"]) == float(best if wins else initial)
    folds = {1, 2} if wins else {0, 1, 2}
    left = {path.relative_to(results).parts[0] for path in results.rglob("*.pt")}
    assert left == {f"fold-{k}" for k in folds}, "what train takes over, and no other checkpoint"
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr("src.training.distributed.init_ranks", interrupt)
        train.main(arguments(bright, name, *given))
    taken_over = capsys.readouterr().out
    with pytest.raises(InputError, match="fold-1 was trained otherwise .optim.lr was"):
        train.main(arguments(bright, name, *given, "tune.trials=0", "optim.lr=0.5", "--fold", "1"))
    train.main(arguments(bright, name, *given))
    for k in range(3):
        fold, alone = (Path("runs", run, f"fold-{k}") for run in (name, f"{name}{best if wins else initial}"))
        assert (f"{fold}: trained by tune" in taken_over) == (k in folds)
        metrics = [(path / "metrics.csv").read_text() for path in (fold, alone)]
        weights = [checkpoint.load(path / "best-mos.pt")["model"] for path in (fold, alone)]
        assert metrics[0] == metrics[1]
        assert {path.name for path in fold.iterdir()} == {path.name for path in alone.iterdir()}
        assert (fold / "parameters.json").read_bytes() == (alone / "parameters.json").read_bytes()
        assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.slow
def test_networks_on_cached_features_are_judged(bright, place, monkeypatch):
    monkeypatch.chdir(place)
    cached = ["encoder.frozen=true", "encoder.more_levels=[]", "encoder.long_side=null", "encoder.mirrored=true"]
    worse = ["optim.lr=1", "tune.space={optim.lr: {choices: [1, 1e-3, 3e-3]}}"]
    tune.main(arguments(bright, "cached", *cached, *worse))
    verdict = json.loads(Path("runs", "cached", "tune", "judge.json").read_text())
    assert verdict["photos"] == 80 and verdict["low"] < verdict["difference"] < verdict["high"]


class Stub:
    """Predicts the labels, worse with the settings as they are; fails with the settings of the given names."""

    def __init__(self, *failing: str, rated: int = 9):
        self.failing, self.mos = failing, {row: float(row) for row in range(rated)}

    def labels(self, folds):
        return ValidationLabels(self.mos, {})

    def predictions(self, settings, folds, system):
        if system in self.failing:
            raise InputError("the loss is not finite")
        return {row: (mos if system == "trial 2" else mos % 4, "") for row, mos in self.mos.items()}


def trial(number: int, state: TrialState, lr: float) -> FrozenTrial:
    params, ranges = {"optim.lr": lr}, {"optim.lr": FloatDistribution(0, 1)}
    value = 0.5 if state == TrialState.COMPLETE else None
    made = create_trial(
        state=state, value=value, params=params, distributions=ranges, user_attrs={"reason": "no memory"}
    )
    made.number = number
    return made


@pytest.mark.parametrize(("given", "stub", "first", "won", "sentence"), [
    ([], Stub(), "complete", True, "trial 2 won (difference +0.8"),
    ([], Stub("trial 2"), "complete", False, "the defaults won (trial 2 failed on folds 1, 2: the loss is not finite)"),
    ([], Stub("the defaults"), "pruned", True, "trial 2 won (the defaults failed on folds 1, 2"),
    ([], Stub("the defaults"), "fail", True, "trial 2 won (the defaults failed: no memory)"),
    ([], Stub(rated=2), "complete", False, "the defaults won (too few photos with labels on folds 1, 2)"),
    (["tune.judge_folds=[]"], Stub(), "complete", True, "trial 2 is taken unjudged (tune.judge_folds leaves no fold"),
    (["task=both", "tune.objective=both"], Stub(), "complete", True, "trial 2 is taken unjudged (two scores have no"),
])  # fmt: skip
def test_a_verdict_says_what_it_rests_on(given, stub, first, won, sentence):
    settings = load(["task=mos", *given], "tune")[0]
    plan, as_they_are = resolved.search_plan(settings), dataclasses.replace(settings, tune=TuneSettings(trials=0))
    initial = trial(0, TrialState[first.upper()], settings.optim.lr)
    verdict = systems_to_judge(as_they_are, plan, trial(2, TrialState.COMPLETE, 0.5), initial)
    if not isinstance(verdict, Verdict):
        verdict = judge(verdict, plan, stub)
    assert (verdict.won, verdict.sentence[: len(sentence)]) == (won, sentence)


def search(place: Path, own: list[str]) -> None:
    os.chdir(place)
    with open(f"log-{os.getpid()}.txt", "w") as log, contextlib.redirect_stdout(log):
        tune.main(own)


def started(place: Path, own: list[str]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=search, args=(place, own))
    process.start()
    return process


@pytest.mark.slow
def test_a_judge_that_is_killed_is_followed_by_one_of_two_workers_to_the_same_verdict(bright, place, one_thread):
    whole, killed = (arguments(bright, name, *NOISE, "train.checkpoint_steps=1") for name in ("whole", "killed"))
    process = started(place, whole)
    process.join()
    results = {name: place / "runs" / name / "tune" for name in ("whole", "killed")}
    for moment in ("the-defaults/fold-1/metrics.csv", "the-defaults/fold-1/predictions.csv", "trial-*/fold-2/last.pt"):
        process = started(place, killed)
        while process.is_alive() and not list(results["killed"].glob(f"*/judge/{moment}")):
            time.sleep(0.002)
        assert process.is_alive(), "killed while it judges"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not (results["killed"] / "judge.json").exists()
    workers = [started(place, killed) for _ in range(2)]
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0, 0]
    judges = [(place / f"log-{process.pid}.txt").read_text().count("tune: judging") for process in workers]
    assert sorted(judges) == [0, 1], "the other waits and takes the verdict"
    predictions = [f"judge/{s}/fold-{k}/predictions.csv" for s in ("the-defaults", "trial-*") for k in (1, 2)]
    for name in [*RESULTS, *(f"*/{path}" for path in predictions)]:
        first, second = (
            [path.read_bytes().replace(f"run.name: {run}".encode(), b"") for path in results[run].glob(name)]
            for run in ("whole", "killed")
        )
        assert len(first) == 1 and first == second, name


def test_the_mean_objective_counts_each_label_where_it_is(shared_meteor):
    """Against the scores of a list in which each photo stands as often as it was drawn."""
    rng, words = (
        np.random.default_rng(0),
        ["a nice sea", "the light is nice", "much grain in the sky", "a sea of light"],
    )
    mos = {row: float(rng.normal()) for row in range(9) if row % 3}
    references = {row: [words[row % 4], words[row % 3]] for row in range(1, 9)}
    predicted = {row: (float(rng.normal()), words[(row + 1) % 4]) for row in range(12)}
    labels, weights = ValidationLabels(mos, references), CaptionWeights()
    rows = scored_photos(labels, "mean")
    assert rows == list(range(1, 9))
    counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=4).astype(float)
    found = objective_of_counts("mean", predicted, labels, rows, weights)(counts)
    captions = score_captions([references[row] for row in rows], [predicted[row][1] for row in rows])
    for drawn, value in zip(counts.astype(int), found, strict=True):
        places = np.repeat(np.arange(len(rows)), drawn)
        rated = [rows[i] for i in places if rows[i] in mos]
        linear = mos_score([predicted[row][0] for row in rated], [mos[row] for row in rated])["score"]
        assert value == pytest.approx((linear + caption_score(captions.subset(places).totals(), weights) / 10) / 2)
    assert scored_photos(ValidationLabels(dict.fromkeys(range(2), 1.0), references), "mean") == []
    equal = ValidationLabels(dict.fromkeys(range(9), 1.0), references)
    assert scored_photos(equal, "mos") == scored_photos(equal, "mean") == [], "equal MOS have no correlation"
