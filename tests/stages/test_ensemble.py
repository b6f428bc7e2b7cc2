"""The stage that joins runs: honest out of fold, resumed, and taken by evaluate and submit."""

import csv
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import compare, ensemble, evaluate, predict, preprocess, rebuild, split, submit, train
from src.base.errors import InputError
from src.base.locks import lock
from src.data.table import load_table
from src.ensembling.ablation import AblationStep, ScoredStep, ablation_rows, ablation_text, score_mos_step
from src.ensembling.caption_rules import CaptionRules
from src.ensembling.caption_selection import select_captions
from src.ensembling.caption_strategy import MIXTURES, CaptionStrategy, StrategySelection
from src.ensembling.evidence import Corpus, FoldEvidence, gather_evidence
from src.ensembling.evidence_scores import scoring_processes
from src.ensembling.mos_blend import mos_members
from src.ensembling.regressors import TEST, PhotoFeatures
from src.ensembling.run_predictions import RunCandidates, run_candidates, run_predictions
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.metrics.mos_score import mos_score
from src.pipeline import outputs
from src.pipeline.artefacts import outdated, outputs_digest, tree_signature
from src.pipeline.trained_runs import joined, load_joining
from src.settings.load import load
from src.settings.schema import CaptionWeights
from tests.conftest import TINY
from tests.helpers.in_process import inputs_in_process
from tests.helpers.small_meteor import quick_scores

pytestmark = pytest.mark.slow

RUNS = {"one": [], "two": ["view.size=40", "decoder.name=mask_predict", "decoder.feedforward=32", "run.seed=1"]}
BOTH = ["one", "two", "metric.bootstrap=100"]
CANDIDATES = ["predict.candidates=true", "predict.samples=3"]
MBR = ["ensemble.captions=mbr"]


@pytest.fixture(scope="module")
def predicted(competition, meteor, tmp_path_factory):
    """A folder with two runs, of other sizes and captioners, and what the ensembles of one and of both wrote."""
    folder = tmp_path_factory.mktemp("joined")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick_scores(patch, meteor)
        short = [f"data.root={competition}", *TINY, "train.epochs=1", *CANDIDATES]
        for run, arguments in RUNS.items():
            for stage in (preprocess, split, train, predict):
                stage.main([*short, f"run.name={run}", *arguments])
        for stage in (ensemble, evaluate):
            stage.main([*short, "run.name=one", *MBR])
        ensemble.main([*BOTH, *MBR])
    return folder


@pytest.fixture
def at_work(predicted, meteor, monkeypatch):
    monkeypatch.chdir(predicted)
    quick_scores(monkeypatch, meteor)
    return predicted


def photos_of(folder) -> pd.DataFrame:
    return load_table(next((folder / "runs" / "cache").glob("photos-*")) / "photos.jsonl")


def table_of(path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"photo_id": str}, keep_default_na=False)


def test_the_tables_have_the_rows_of_predict_and_the_members_of_all_runs(predicted):
    for name in ("oof", "test"):
        alone = table_of(predicted / "runs" / "one" / "predictions" / f"{name}.csv")
        ours = table_of(predicted / "runs" / "one+two" / "ensemble" / f"{name}.csv")
        other = table_of(predicted / "runs" / "two" / "predictions" / f"{name}.csv")
        assert list(ours["photo_id"]) == list(alone["photo_id"]) and set(ours) >= {"ridge", "boosting", "svr", "blend"}
        assert name == "test" or (ours["fold"] == alone["fold"]).all()
        labels = photos_of(predicted)["mos"].dropna().sort_values()
        for column, networks in (("network", alone), ("network two", other)):
            inside = networks["mos"].between(labels.iloc[5], labels.iloc[-6])
            assert inside.sum() > 10
            np.testing.assert_array_equal(ours[column][inside], networks["mos"][inside])
        assert (ours["mos"] == ours["blend"]).all() and ours["caption"].str.strip().all()
        confidence = table_of(predicted / "runs/one+two/ensemble/caption_confidence.csv")
        assert set(confidence["photo_id"]) >= set(ours["photo_id"]) and confidence["expected"].between(0, 46).all()
        assert not (ours["caption"] == alone["caption"]).all(), (
            "a captioner of one epoch knows less than its neighbours"
        )


def test_the_ablation_holds_what_the_exact_scorer_finds(predicted, meteor):
    folder = predicted / "runs" / "one+two" / "ensemble"
    with open(folder / "ablation.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["step"]: row for row in rows}
    assert [step.removeprefix("+ ") for step in list(found)[:5]] == [
        "network of one alone", "ridge", "boosting", "svr", "network"
    ]  # fmt: skip
    assert "+ the other runs" in found
    photos = photos_of(predicted).set_index("photo_id")
    ours, alone = (table_of(path) for path in (folder / "oof.csv", predicted / "runs/one/predictions/oof.csv"))
    truth = photos.loc[ours["photo_id"]]
    for step, mos in (("blend of the members that help", ours["mos"]), ("network of one alone", ours["network"])):
        assert float(found[step]["score"]) == pytest.approx(mos_score(mos, truth["mos"])["score"], abs=1e-9)
    known = truth["captions"].map(bool).to_numpy()
    rules = [row["step"] for row in rows][-3:]
    assert rules == ["no broken endings", "no repeated pairs", "one sentence for at most 5%"]
    for step, captions in ((rules[-1], ours["caption"]), ("one, its search", alone["caption"])):
        exact = score_captions(
            [list(c) for c in truth["captions"][known]], captions[known].tolist(), meteor=meteor
        ).totals()
        assert float(found[step]["score"]) == pytest.approx(caption_score(exact, CaptionWeights()), abs=1e-9)
    how = json.loads((folder / "blend.json").read_text())
    assert how["runs"] == ["one", "two"] and how["mos"]["used"] == "blend" and how["captions"]["strategy"]
    assert sum(member["weight"] for member in how["mos"]["members"]) == pytest.approx(1)
    # what stands behind a plus is added to the members that help before it
    for step in ("ridge", "boosting", "svr", "network", "network two"):
        assert (f"+ {step}" in found) != (step in found)
    names = list(found)[1 : list(found).index("blend of the members that help")]
    helping = [name for name in names if found[name]["on"] == "on"]
    assert [name.startswith("+ ") for name in helping] == [place > 0 for place in range(len(helping))]
    on = {name.removeprefix("+ ") for name in helping}
    members = [(each["member"], each["run"]) for each in how["mos"]["members"]]
    assert on == {f"{member} two" if run == "two" else member for member, run in members}
    assert all((run is None) == (member != "network") for member, run in members)


def test_one_run_and_many_are_written_alike(predicted):
    one, both = (
        json.loads((predicted / "runs" / name / "ensemble/blend.json").read_text()) for name in ("one", "one+two")
    )
    assert one.keys() == both.keys() and one["mos"].keys() == both["mos"].keys()
    assert one["captions"].keys() == both["captions"].keys() and one["runs"] == ["one"]


def test_no_evidence_for_a_fold_comes_from_its_own_captions(predicted, monkeypatch, tmp_path):
    """Other captions of a fold's photos change no evidence for them, and much of that for others."""
    monkeypatch.chdir(predicted)
    rng, words = np.random.default_rng(0), ["this", "photo", "is", "a", "nice", "good", "picture", "of", "the", "light"]

    def said() -> list[str]:
        return [" ".join(rng.choice(words, size=rng.integers(3, 9)))]

    fold = np.array([0] * 12 + [1] * 12 + [TEST] * 6)
    candidates = {k: {r: said() + said() for r in range(30) if fold[r] in (k, TEST)} for k in (0, 1)}
    run = RunCandidates("one", candidates, {}, {k: rng.normal(size=(30, 4)).astype(np.float32) for k in (0, 1)})
    references = [said() if row < 24 else [] for row in range(30)]
    changed = [["sharp dark shadows"] if fold[row] == 0 else group for row, group in enumerate(references)]
    corpus = Corpus(references, fold, CaptionWeights(), 0, 3, 30)

    def gathered(corpus: Corpus, number: int) -> FoldEvidence:
        with scoring_processes(len(fold)) as scoring:
            return gather_evidence(corpus, [run], number, "a constant", tmp_path, scoring)

    for number, same in ((0, True), (1, False), (TEST, False)):
        before = gathered(corpus, number)
        after = gathered(dataclasses.replace(corpus, references=changed), number)
        assert (before.candidates == after.candidates) is same and before.rows == after.rows
        scores = [next(iter(each.scores.mixture(1, (0, 0)))).caption_score for each in (before, after)]
        assert np.array_equal(*scores) is same
        own = {text for row in before.rows for k in candidates for text in candidates[k].get(row, [])}
        for mixture in MIXTURES:
            assert not same or before.select(mixture, 1) == after.select(mixture, 1)
            assert set(before.select(mixture, 1, own_candidates_only=True)) <= own
            for place, photo in enumerate(before.rank(mixture, 1, own_candidates_only=True)):
                brought_in = [caption in run.of(number, before.rows[place]) for caption in photo.captions]
                assert brought_in == sorted(brought_in, reverse=True) and brought_in[0]
                assert sorted(photo.captions) == sorted(before.candidates[place])
        barred = {text for row in np.flatnonzero(fold == number) for text in references[row]} - own
        assert not barred & {text for texts in before.candidates for text in texts}


def test_a_wider_choice_that_misleads_is_not_made(meteor):
    """Of many strategies one is the best by luck: it is not selected, and a fold's photos do not judge their own."""
    rng, fold = np.random.default_rng(0), np.arange(48) % 4
    words = ["a", "sharp", "and", "very", "bright", "photo", "of", "one", "old", "house"]
    people = [[" ".join(rng.permutation(words))] for _ in fold]
    groups = [np.flatnonzero(fold == k).tolist() for k in range(4)]
    lucky = [CaptionStrategy(runs) for runs in range(4, 44)]
    plain, good, better = (CaptionStrategy(runs) for runs in range(1, 4))
    said = {strategy: rng.random(48) < 0.3 for strategy in lucky}

    def selected(sets, silent_on=None):
        selection = StrategySelection(Corpus(people, fold, CaptionWeights(), 0, 3, 30), groups, meteor)
        for strategy, count in ((plain, 3), (good, 5), (better, 6)):
            captions = [" ".join(texts[0].split()[:count]) for texts in people]
            if strategy == better:
                captions = ["nothing" if k == silent_on else text for k, text in zip(fold, captions, strict=True)]
            selection.add(strategy, [[captions[row] for row in group] for group in groups])
        for strategy, whole in said.items():
            selection.add(
                strategy, [[people[row][0] if whole[row] else "nothing" for row in group] for group in groups]
            )
        return selection, selection.select(sets)

    selection, choice = selected([[plain, good], [plain, good, *lucky]])
    assert selection.best([plain, good, *lucky]) in lucky
    assert set(selection.best_of_photos([plain, good, *lucky])) & set(lucky)
    assert choice == (good, [good] * 48)
    sets = [[plain, good], [plain, good, better], [plain, good, better, *lucky]]
    assert selected(sets)[1] == (better, [better] * 48)
    for k in range(4):
        of_photos = selected(sets, silent_on=k)[1][1]
        assert {of_photos[row] for row in range(12 * k, 12 * k + 12)} == {better}


def test_where_no_test_photo_can_be_read_training_photos_still_get_captions(meteor, monkeypatch, tmp_path):
    quick_scores(monkeypatch, meteor)
    fold, said = np.array([0, 0, 1, 1, TEST]), [["the light is nice"], ["a nice photo"]] * 2 + [[]]
    seen = np.eye(5, dtype=np.float32)
    run = RunCandidates(
        "one", {k: {2 * k: ["the light"], 2 * k + 1: ["a photo"]} for k in (0, 1)}, {}, {0: seen, 1: seen}
    )
    constants = {}
    corpus = Corpus(said, fold, CaptionWeights(), 0, 2, 30)
    searched, rules = ["the light"] * 5, CaptionRules(frozenset({"of"}), False, 0.05)
    found = select_captions(corpus, [run], searched, {}, constants, rules, tmp_path)
    assert found.captions.keys() == {0, 1, 2, 3} and constants.keys() == {0, 1}


@pytest.mark.parametrize("truth", [np.arange(2.0), np.full(50, 4.0), np.zeros(0)], ids=["two", "equal", "none"])
def test_a_step_that_cannot_be_measured_has_no_score_and_no_gain(truth):
    predicted = np.random.default_rng(0).normal(size=len(truth))
    steps = [score_mos_step(AblationStep(name, True), predicted, truth, 100, 0) for name in ("one", "two")]
    rows = ablation_rows(steps)
    assert [(row["score"], row["low"], row["gain"], row["p"]) for row in rows] == [(None,) * 4] * 2
    lines = ablation_text(rows, 100).splitlines()[2:]
    assert all(line.split()[2:] == ["not", "measured"] for line in lines)


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
        ensemble.main([*BOTH, *MBR, *options])
    finally:
        os._exit(1)


def test_it_is_made_once_and_made_again_where_it_was_killed(at_work, capsys):
    ensemble.main([*BOTH, *MBR])
    assert "ensemble: runs/one+two/ensemble: up to date" in (printed := capsys.readouterr().out)
    assert "next: python -m src.evaluate --config runs/one+two/ensemble/ensemble.yaml" in printed
    folder = at_work / "runs/one+two/ensemble"
    with lock(folder, "ensemble", wait=False), pytest.raises(InputError, match=r"one\+two/ensemble is in use by"):
        ensemble.main([*BOTH, *MBR])
    marker = outputs.ensemble(load_joining(BOTH, "ensemble", "", ensemble.add_options)[0])
    digest = outputs_digest(marker)
    timed = {folder / "done.json", folder / "timing.json"}
    results = {*folder.glob("*.csv"), *folder.glob("*.json")} - timed
    before = {file: file.read_bytes() for file in results}
    killed_at("blend.json", "--fresh")
    assert {file.read_bytes() == before[file] for file in results if file.is_file()} == {True}
    assert not (folder / "done.json").is_file()
    ensemble.main([*BOTH, *MBR])
    assert {file: file.read_bytes() for file in results} == before and outputs_digest(marker) == digest
    assert (folder / "ablation.png").is_file()


def test_settings_that_a_stage_does_not_read_make_nothing_again(at_work, tmp_path, monkeypatch, capsys, competition):
    shutil.copytree(at_work / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    ensemble.main([*BOTH, *MBR, "metric.spice=true"])
    assert "ensemble: runs/one+two/ensemble: up to date" in capsys.readouterr().out
    assert "metric.spice: true" in (tmp_path / "runs/one+two/ensemble/ensemble.yaml").read_text()
    averaged = [*CANDIDATES, "run.name=one", "decoding.model_averaging=probabilities"]
    predict.main([f"data.root={competition}", *TINY, "train.epochs=1", *averaged])
    printed = capsys.readouterr().out
    assert all(f"predictions/fold-{k}: up to date" in printed for k in (0, 1))
    assert "predict: runs/one/predictions: decoding.model_averaging was none, is probabilities" in printed


def test_runs_are_joined_after_their_data_were_moved(at_work, tmp_path, monkeypatch, capsys, competition):
    shutil.copytree(at_work / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for saved in Path("runs").glob("*/fold-*/settings.yaml"):
        saved.write_text(saved.read_text().replace(str(competition), f"{competition}-gone"))
    with pytest.raises(InputError, match=rf"^data.root={competition}-gone: no such folder"):
        ensemble.main([*BOTH, *MBR])
    ensemble.main([*BOTH, *MBR, f"data.root={competition}"])
    assert "ensemble: runs/one+two/ensemble: up to date" in capsys.readouterr().out
    Path("runs/two/predictions/fold-1/predictions.csv").unlink()
    with pytest.raises(InputError, match=rf"src.predict --config \S+ run.name=two data.root={competition}$"):
        ensemble.main([*BOTH, *MBR, "--fresh", f"data.root={competition}"])


def test_a_killed_predict_goes_on_at_the_fold_where_it_was(at_work, tmp_path, monkeypatch, capsys, competition):
    shutil.copytree(at_work / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/one/predictions"
    results = [
        *folder.glob("*.csv"),
        *folder.glob("fold-*/*.csv"),
        *folder.glob("fold-*/*.jsonl"),
        *folder.glob("fold-*/*.npy"),
    ]
    before = {file: file.read_bytes() for file in results if file.name != "timing.csv"}
    shutil.rmtree(folder / "fold-1")
    capsys.readouterr()
    predict.main([f"data.root={competition}", *TINY, "train.epochs=1", *CANDIDATES, "run.name=one"])
    printed = capsys.readouterr().out
    assert "predictions/fold-0: up to date" in printed and "predictions/fold-1: not made yet" in printed
    assert {file: file.read_bytes() for file in before} == before


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
    assert all(manifest["runs"][name]["fold_predictions"].keys() == {"fold-0", "fold-1"} for name in RUNS)
    assert "test.csv" in manifest["ensemble"]

    inputs_in_process(monkeypatch)
    written = (at_work / "submissions" / "one+two.csv").read_bytes()
    rebuild.main(["submissions/one+two.manifest.json"])
    rebuilt = at_work / "runs" / "one+two.from-weights"
    assert (rebuilt / "one+two.csv").read_bytes() == written and (
        rebuilt / "two/predictions/fold-1/done.json"
    ).is_file()


def test_a_run_of_mos_and_one_of_captions_have_both(at_work, tmp_path, monkeypatch):
    shutil.copytree(at_work / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for name, task in (("one", "caption"), ("two", "mos")):
        saved = tmp_path / "runs" / name / "fold-0" / "settings.yaml"
        saved.write_text(saved.read_text().replace("task: both", f"task: {task}"))
        for file in (tmp_path / "runs" / name / "predictions" / f"{part}.csv" for part in ("oof", "test")):
            table_of(file).assign(**{"mos" if task == "caption" else "caption": ""}).to_csv(file, index=False)
    settings, _ = load_joining(BOTH, "ensemble", "", ensemble.add_options)
    assert settings.task == "both"
    runs, photos = joined(settings), photos_of(at_work)
    one, two = (run_predictions(run, photos["photo_id"]) for run in runs)
    assert one["mos"].isna().all() and one["caption"].map(bool).all()
    assert two["mos"].notna().all() and not two["caption"].map(bool).any()
    fold = one["fold"].fillna(TEST).to_numpy(int)
    networks, features = {"one": one["mos"], "two": two["mos"]}, PhotoFeatures(np.random.rand(len(fold), 3))
    networks = {name: mos.to_numpy(float) for name, mos in networks.items()}
    members = mos_members(networks, features, photos["mos"].to_numpy(), fold, [0, 1])
    assert list(members) == ["ridge", "boosting", "svr", "network two"]


def test_compare_still_compares_what_the_networks_wrote(at_work, tmp_path):
    compare.main(["one", "--output", str(tmp_path)])
    with open(tmp_path / "comparison.csv", encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    score = json.loads((at_work / "runs/one/score.json").read_text())
    assert float(row["caption_score"]) == score["network"]["caption"]["score"] < score["oof"]["caption"]["score"]
    assert score["network"]["mos"]["score"] == pytest.approx(float(row["mos_score"]))


def test_compare_takes_the_ensemble_of_a_run_that_joins_others(at_work, tmp_path, monkeypatch):
    evaluate.main(["--config", "runs/one+two/ensemble/ensemble.yaml"])
    compare.main(["one", "one+two", "--output", str(tmp_path / "out"), "metric.bootstrap=100"])
    with open(tmp_path / "out" / "comparison.csv", encoding="utf-8", newline="") as file:
        alone, both = csv.DictReader(file)
    score = json.loads(Path("runs/one+two/score.json").read_text())["oof"]
    for task in ("mos", "caption"):
        assert float(both[f"{task}_score"]) == float(both[f"{task}_ensemble"]) == score[task]["score"]
        difference = float(both[f"{task}_score"]) - float(alone[f"{task}_score"])
        assert float(both[f"{task}_difference"]) == pytest.approx(difference, abs=1e-12)
        assert int(both[f"{task}_photos_in_common"]) == score[task]["photos"]
    assert both["remarks"] == "joins one and two" and both["task"] == "both"
    assert not any(both[name] for name in ("encoder", "decoder", "epochs", "parameters", "training_seconds"))
    shutil.copytree("runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    again = r"python -m src.evaluate --config runs/one\+two/ensemble/ensemble.yaml$"
    Path("runs/one+two/evaluated.json").unlink()
    with pytest.raises(InputError, match=rf"^runs/one\+two: its score: not made yet; {again}"):
        compare.main(["one", "one+two"])
    Path("runs/one+two/ensemble/oof.csv").unlink()
    with pytest.raises(
        InputError, match=rf"^runs/one\+two: its ensemble: \S+/oof.csv is missing or was changed; {again}"
    ):
        compare.main(["one", "one+two"])


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
    (marker := tmp_path / "runs/two/predictions/done.json").write_text(
        (predicted := marker.read_text()).replace('"predict.candidates": true', '"predict.candidates": false')
    )
    with pytest.raises(SystemExit, match="ensemble.captions=mbr needs predict.candidates=true"):
        ensemble.main([*BOTH, *MBR])
    marker.write_text(predicted)
    (tmp_path / "runs/two/predictions/fold-1/candidates.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=r"^two: runs/two/predictions/fold-1: .*candidates.jsonl is missing or was"):
        ensemble.main([*BOTH, *MBR])
    shutil.rmtree(tmp_path / "runs" / "two" / "predictions")
    with pytest.raises(InputError, match=r"^two: not predicted yet; python -m src.predict --config runs/two/fold-0"):
        ensemble.main(BOTH)
    assert not (tmp_path / "runs/one+two/ensemble/.lock").exists()


def test_an_ensemble_depends_on_the_labels_and_on_how_long_a_caption_may_be(predicted, tmp_path, monkeypatch, meteor):
    monkeypatch.chdir(shutil.copytree(predicted, tmp_path / "copy"))
    quick_scores(monkeypatch, meteor)

    def reason(*arguments: str) -> str:
        tree_signature.cache_clear()
        return outdated(
            outputs.ensemble(load_joining([*BOTH, *MBR, *arguments], "ensemble", "", ensemble.add_options)[0])
        )

    assert not reason()
    assert "decoding.maximum_words" in reason("decoding.maximum_words=5")
    marker = outputs.photos(load_joining([*BOTH], "ensemble", "", ensemble.add_options)[0]).marker
    record = json.loads(marker.read_text())
    record["outputs"]["photos.jsonl"]["sha256"] = "0" * 64  # as where a MOS is corrected and the folds stay
    marker.write_text(json.dumps(record))
    assert "photos" in reason()


def test_a_run_predicted_without_candidates_is_named(at_work):
    settings, _ = load([*TINY, "run.name=plain", "predict.candidates=false"], "ensemble")
    with pytest.raises(InputError, match="^plain was predicted without candidates for captions; .*predict.candidates="):
        run_candidates(settings, pd.Series(["a"]))
