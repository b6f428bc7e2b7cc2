"""The stage that joins runs: honest out of fold, resumed, and taken by evaluate and submit."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from src import compare, ensemble, evaluate, predict, preprocess, rebuild, split, submit, train
from src.base.errors import InputError
from src.base.locks import lock
from src.data.table import load_table
from src.ensembling.ablation import AblationStep, ScoredStep, ablation_rows, score_mos_step
from src.ensembling.caption_selection import MIXTURES, CaptionStrategy, StrategySelection, select_captions
from src.ensembling.evidence import Corpus, gather_evidence
from src.ensembling.mos_blend import MEMBERS, blend_mos, read_together
from src.ensembling.run_candidates import RunCandidates
from src.ensembling.stacking import TEST, helpful
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.mos_score import mos_score
from src.pipeline import outputs, stages
from src.pipeline.trained_runs import joined, load_joining
from src.settings.load import as_arguments, load
from src.settings.schema import CaptionWeights
from tests.conftest import TINY
from tests.helpers.small_meteor import quick_scores

RUNS = {"one": [], "two": ["view.size=40", "decoder.name=mask_predict", "decoder.feedforward=32", "run.seed=1"]}
BOTH = ["one", "two", "metric.bootstrap=100"]
CHOOSING = ["ensemble.captions=mbr", "ensemble.samples=3", "ensemble.rewriting=true"]


@pytest.fixture(scope="module")
def predicted(competition, meteor, tmp_path_factory):
    """A folder with two runs, of other sizes and captioners, and what the ensembles of one and of both wrote."""
    folder = tmp_path_factory.mktemp("joined")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick_scores(patch, meteor)
        patch.setattr("src.evaluate.draw_run", lambda *_: None)
        short = [f"data.root={competition}", *TINY, "train.epochs=1"]
        for run, arguments in RUNS.items():
            for stage in (preprocess, split, train, predict):
                stage.main([*short, f"run.name={run}", *arguments])
        for stage in (ensemble, evaluate):
            stage.main([*short, "run.name=one", *CHOOSING])
        ensemble.main([*BOTH, *CHOOSING])
    return folder


@pytest.fixture
def at_work(predicted, meteor, monkeypatch):
    monkeypatch.chdir(predicted)
    quick_scores(monkeypatch, meteor)
    return predicted


def table_of(path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"photo_id": str}, keep_default_na=False)


def test_the_tables_have_the_rows_of_predict_and_the_members_of_all_runs(predicted):
    for name in ("oof", "test"):
        alone = table_of(predicted / "runs" / "one" / "predictions" / f"{name}.csv")
        ours = table_of(predicted / "runs" / "one+two" / "ensemble" / f"{name}.csv")
        other = table_of(predicted / "runs" / "two" / "predictions" / f"{name}.csv")
        assert list(ours["photo_id"]) == list(alone["photo_id"]) and not set(alone.columns) - set(ours.columns)
        kept = [column for column in alone if column not in ("mos", "blend", "caption")]
        pd.testing.assert_frame_equal(ours[kept], alone[kept])
        np.testing.assert_allclose(ours["network two"], other["network"])
        assert (ours["mos"] == ours["blend"]).all() and ours["caption"].str.strip().all()
        assert not (ours["caption"] == alone["caption"]).all(), (
            "a captioner of one epoch knows less than its neighbours"
        )


def test_the_ladder_holds_what_the_exact_scorer_finds(predicted, meteor):
    folder = predicted / "runs" / "one+two" / "ensemble"
    with open(folder / "ablation.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["step"]: row for row in rows}
    assert list(found)[:5] == ["network of one alone", "ridge", "+ boosting", "+ svr", "+ network"]
    assert "+ network two" in found and "+ the other runs" in found
    photos = load_table(next((predicted / "runs" / "cache").glob("photos-*")) / "photos.jsonl").set_index("photo_id")
    ours, alone = (table_of(path) for path in (folder / "oof.csv", predicted / "runs/one/predictions/oof.csv"))
    truth = photos.loc[ours["photo_id"]]
    for step, mos in (("nonnegative blend of what helps", ours["mos"]), ("network of one alone", alone["network"])):
        assert float(found[step]["score"]) == pytest.approx(mos_score(mos, truth["mos"])["score"], abs=1e-9)
    known = truth["captions"].map(bool).to_numpy()
    for step, captions in (("chosen on the other folds", ours["caption"]), ("one, its search", alone["caption"])):
        exact = score_captions([list(c) for c in truth["captions"][known]], captions[known].tolist(), meteor).totals()
        assert float(found[step]["score"]) == pytest.approx(caption_score(exact, CaptionWeights()), abs=1e-9)
    assert "+ rewriting" in found
    how = json.loads((folder / "blend.json").read_text())
    assert sum(how["weights"].values()) == pytest.approx(1) and how["captions"]
    on = {step for step in ("ridge", "+ boosting", "+ svr", "+ network", "+ network two") if found[step]["on"] == "on"}
    assert {step.removeprefix("+ ") for step in on} == how["weights"].keys()


def test_nothing_said_of_a_fold_comes_from_its_own_captions(predicted, monkeypatch):
    """Other captions of a fold's photos change nothing of what is said of them, and much of what is said of others."""
    monkeypatch.chdir(predicted)
    rng, words = np.random.default_rng(0), ["this", "photo", "is", "a", "nice", "good", "picture", "of", "the", "light"]

    def said() -> list[str]:
        return [" ".join(rng.choice(words, size=rng.integers(3, 9)))]

    fold = np.array([0] * 12 + [1] * 12 + [TEST] * 6)
    candidates = {k: {r: said() + said() for r in range(30) if fold[r] in (k, TEST)} for k in (0, 1)}
    run = RunCandidates("one", candidates, {}, {k: rng.normal(size=(30, 4)).astype(np.float32) for k in (0, 1)})
    references = [said() if row < 24 else [] for row in range(30)]
    changed = [["sharp dark shadows"] if fold[row] == 0 else group for row, group in enumerate(references)]
    corpus = Corpus(references, fold, CaptionWeights(), 0, 3)
    for number, same in ((0, True), (1, False), (TEST, False)):
        before = gather_evidence(corpus, [run], number, "a constant")
        after = gather_evidence(dataclasses.replace(corpus, references=changed), [run], number, "a constant")
        assert (before.candidates == after.candidates) is same and before.rows == after.rows
        assert (before.training == after.training) is same
        own = {text for row in before.rows for k in candidates for text in candidates[k].get(row, [])}
        for mixture in MIXTURES:
            assert not same or before.choice(mixture, 1) == after.choice(mixture, 1)
            assert set(before.choice(mixture, 1, own_candidates_only=True)) <= own
        barred = {text for row in np.flatnonzero(fold == number) for text in references[row]} - own
        assert not barred & {text for texts in before.candidates for text in texts}


def test_a_wider_choice_that_misleads_is_not_made(meteor):
    rng, fold = np.random.default_rng(0), np.repeat([0, 1, 2], 10)
    words = ["a", "sharp", "and", "very", "bright", "photo", "of", "one", "old", "house"]
    people = [[" ".join(rng.permutation(words))] for _ in fold]
    groups = [SimpleNamespace(rows=np.flatnonzero(fold == number).tolist()) for number in range(3)]
    contest = StrategySelection(Corpus(people, fold, CaptionWeights(), 0, 3), groups, meteor)
    plain, good, *clever = (CaptionStrategy(1, mixture) for mixture in MIXTURES[:5])

    def enter(way, write):
        contest.enter(way, [[write(row) for row in group.rows] for group in groups])

    enter(plain, lambda row: " ".join(people[row][0].split()[:5]))
    enter(good, lambda row: " ".join(people[row][0].split()[:7]))
    for number, way in enumerate(clever):  # perfect on all folds but one, so that the other folds ask for it there
        enter(way, lambda row, number=number: "nothing" if fold[row] == number else people[row][0])
    assert contest.winner([plain, *clever]) in clever
    assert contest.best([plain, *clever]) == [clever[number] for number in fold]
    assert contest.settled([[plain], [plain, *clever]]) == (plain, [plain] * 30)
    assert contest.settled([[plain], [plain, good], [plain, good, *clever]]) == (good, [good] * 30)


def test_where_no_test_photo_can_be_read_training_photos_still_get_captions(meteor, monkeypatch):
    quick_scores(monkeypatch, meteor)
    fold, said = np.array([0, 0, 1, 1, TEST]), [["the light is nice"], ["a nice photo"]] * 2 + [[]]
    seen = np.eye(5, dtype=np.float32)
    run = RunCandidates(
        "one", {k: {2 * k: ["the light"], 2 * k + 1: ["a photo"]} for k in (0, 1)}, {}, {0: seen, 1: seen}
    )
    found = select_captions(
        Corpus(said, fold, CaptionWeights(), 0, 2), [run], dict.fromkeys(range(5), "the light"), {}, meteor
    )
    assert found.chosen.keys() == {0, 1, 2, 3} and found.constants.keys() == {0, 1}
    assert "+ rewriting" not in [step.name for step, _ in found.steps], "only where it is asked for"


def test_a_fold_s_blend_does_not_know_its_labels_and_useless_members_are_left_out():
    rng = np.random.default_rng(0)
    truth = rng.normal(5, 1, 120)
    members = {"ridge": truth + rng.normal(0, 1, 120), "boosting": rng.normal(5, 1, 120),
               "network": truth + rng.normal(0, 1, 120)}  # fmt: skip
    table = pd.DataFrame({**members, "fold": np.arange(120) % 3})
    settings, _ = load(["run.name=x", "metric.bootstrap=100"], "ensemble")
    found = blend_mos(table, truth, settings)
    assert found.weights.keys() == {"ridge", "network"} == {name for i, name in enumerate(members) if i in helpful(
        np.column_stack(list(members.values())), truth)}  # fmt: skip
    other = np.where(table["fold"] == 1, 3 * rng.permutation(truth), truth)
    again = blend_mos(table, other, settings)
    own = (table["fold"] == 1).to_numpy()
    np.testing.assert_array_equal(found.mos[own], again.mos[own])
    assert not np.allclose(found.mos[~own], again.mos[~own])


def test_gains_are_over_the_step_that_one_starts_from():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=50)
    made = [
        score_mos_step(AblationStep(str(i), True, side_branch=i == 1), truth + rng.normal(0, 3 - i, 50), truth, 100, 0)
        for i in range(3)
    ]
    rows = ablation_rows([*made, ScoredStep("caption", "3", True, 1.0, np.ones(100), 50)])
    assert [row["gain"] for row in rows] == [
        None,
        pytest.approx(made[1].score - made[0].score),
        pytest.approx(made[2].score - made[0].score),
        None,
    ]
    assert rows[2]["gain_low"] <= rows[2]["gain"] <= rows[2]["gain_high"]


def killed_at(name: str, *options: str) -> None:
    """Have a process ensemble both runs and be killed just before it has written a file."""
    if process := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        return
    try:
        replace = os.replace
        os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL) if new.name == name else replace(old, new)
        ensemble.main([*BOTH, *CHOOSING, *options])
    finally:
        os._exit(1)


def test_it_is_made_once_and_goes_on_where_it_was_killed(at_work, capsys):
    ensemble.main([*BOTH, *CHOOSING])
    assert "ensemble: runs/one+two/ensemble: up to date" in (printed := capsys.readouterr().out)
    assert "next: python -m src.evaluate --config runs/one+two/ensemble/ensemble.yaml" in printed
    folder = at_work / "runs/one+two/ensemble"
    with lock(folder, "ensemble", wait=False), pytest.raises(InputError, match=r"one\+two/ensemble is in use by"):
        ensemble.main([*BOTH, *CHOOSING])
    candidates = at_work / "runs/one/candidates/fold-0"
    results = [*folder.glob("*.csv"), *folder.glob("*.json"), *candidates.glob("*.json*"), candidates / "pooled.npy"]
    before = {file: file.read_bytes() for file in results}
    for moment, options in (("pooled.npy", ["--fresh"]), ("blend.json", [])):
        killed_at(moment, *options)
        assert {file.read_bytes() == before[file] for file in results if file.is_file()} == {True}
        assert not (folder / "done.json").is_file()
        assert (candidates / "done.json").is_file() is not bool(options), "only --fresh has networks propose anew"
    capsys.readouterr()
    ensemble.main([*BOTH, *CHOOSING])
    assert capsys.readouterr().out.count("up to date") == 4, "what was proposed before it was killed"
    assert {file: file.read_bytes() for file in results} == before
    assert (folder / "ablation.png").is_file()


def test_evaluate_submit_and_rebuild_take_it_by_its_own_config(at_work, competition, monkeypatch):
    config = ["--config", "runs/one+two/ensemble/ensemble.yaml"]
    for stage in (train, predict, ensemble, evaluate, submit):
        stage.main(config)
    assert not list((at_work / "runs" / "one+two").glob("fold-*")), "it has no networks of its own"
    submit.main(["--check", "submissions/one+two.csv", f"data.root={competition}"])
    submitted = table_of(at_work / "submissions" / "one+two.csv").set_index("img_name")
    ours = table_of(at_work / "runs/one+two/ensemble/test.csv").set_index("photo_id")
    assert list(submitted["comments"]) == list(ours.loc[submitted.index, "caption"])
    np.testing.assert_allclose(submitted["mos"], ours.loc[submitted.index, "mos"], atol=1e-4)
    score = json.loads((at_work / "runs/one+two/score.json").read_text())
    with open(at_work / "runs/one+two/ensemble/ablation.csv", encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert score["oof"]["caption"]["score"] == pytest.approx(float(last["score"]))
    manifest = json.loads((at_work / "submissions" / "one+two.manifest.json").read_text())
    assert manifest["runs"].keys() == {"one+two", *RUNS} and manifest["runs"]["two"]["settings"]["view.size"] == 40
    assert all(manifest["runs"][name]["candidates"].keys() == {"fold-0", "fold-1"} for name in RUNS)
    assert "test.csv" in manifest["ensemble"]

    begin = lambda stage, settings: import_module(f"src.{stage}").main(as_arguments(settings))  # noqa: E731
    monkeypatch.setattr(stages, "_run_stage", begin)
    written = (at_work / "submissions" / "one+two.csv").read_bytes()
    rebuild.main(["submissions/one+two.manifest.json"])
    rebuilt = at_work / "runs" / "one+two.from-weights"
    assert (rebuilt / "one+two.csv").read_bytes() == written and (rebuilt / "two/candidates/fold-1/done.json").is_file()


def test_a_run_of_mos_and_one_of_captions_have_both(at_work, tmp_path, monkeypatch):
    shutil.copytree(at_work / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for name, task in (("one", "caption"), ("two", "mos")):
        saved = tmp_path / "runs" / name / "fold-0" / "settings.yaml"
        saved.write_text(saved.read_text().replace("task: both", f"task: {task}"))
        for file in (tmp_path / "runs" / name / "predictions" / f"{part}.csv" for part in ("oof", "test")):
            table = table_of(file)
            gone = [column for column in table if column in MEMBERS] if task == "caption" else []
            table.drop(columns=gone).to_csv(file, index=False)
    settings, _ = load_joining(BOTH, "ensemble", "", ensemble.add_options)
    assert settings.task == "both"
    table, theirs = read_together(joined(settings)), table_of(tmp_path / "runs/two/predictions/oof.csv")
    assert set(table) & {"network", "ridge", "network two"} == {"ridge", "network two"}
    assert table["ridge"][: len(theirs)].tolist() == theirs["ridge"].tolist()


def test_compare_still_compares_what_the_networks_wrote(at_work, tmp_path):
    compare.main(["one", "--output", str(tmp_path)])
    with open(tmp_path / "comparison.csv", encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    score = json.loads((at_work / "runs/one/score.json").read_text())
    assert float(row["caption_score"]) == score["network"]["caption"]["score"] < score["oof"]["caption"]["score"]


def test_what_cannot_be_joined_is_one_line(at_work, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="^twoo: no such run in runs; did you mean two"):
        ensemble.main(["one", "twoo"])
    with pytest.raises(SystemExit, match="name each run once"):
        ensemble.main(["one", "one"])
    shutil.copytree(at_work / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    folds = next(path for path in (tmp_path / "runs" / "two").glob("fold-1"))
    settings, _ = load_joining(BOTH, "ensemble", "", ensemble.add_options)
    assert [run.view.size for run in joined(settings)] == [32, 40], "a run's own settings are its own"
    (own := tmp_path / "runs/one+two/fold-0").mkdir()
    shutil.copy2(folds / "settings.yaml", own)
    with pytest.raises(InputError, match=r"^runs/one\+two is a trained run; join one, two under another name"):
        ensemble.main(BOTH)
    shutil.rmtree(own)
    other = folds.with_name("fold-0") / "settings.yaml"
    other.write_text((saved := other.read_text()).replace("duplicate_distance: 6", "duplicate_distance: 5"))
    with pytest.raises(InputError, match="^two cannot be joined with one: other folds"):
        ensemble.main(BOTH)
    other.write_text(saved)
    (folds / "best-mos.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"^two: runs/two/fold-1: .*best-mos.pt is missing or was changed; python -m"):
        ensemble.main([*BOTH, "ensemble.captions=mbr", "ensemble.samples=4"])
    shutil.rmtree(tmp_path / "runs" / "two" / "predictions")
    with pytest.raises(InputError, match=r"^two: not predicted yet; python -m src.predict --config runs/two/fold-0"):
        ensemble.main(BOTH)
    assert not (tmp_path / "runs/one+two/ensemble/.lock").exists() and outputs.has_ensemble(settings)
