"""run.minutes through the stages' mains, on a tiny competition: the plan, what follows it, and what stays."""

import dataclasses
import shutil
import time

import pytest
import torch

from src import ensemble, evaluate, plan, predict, preprocess, rebuild, split, submit, train, tune
from src.base.files import read_json, write_json
from src.base.machine import usable_cores
from src.pipeline.budget import STARTED, keep_pace, stage_seconds
from src.pipeline.resolved import planned
from src.pipeline.runs import fold_folder, planned_settings, run_folder
from src.reports import costs
from src.settings.keys import flatten
from src.settings.load import load
from src.training.engine import Engine
from tests.conftest import TINY
from tests.helpers.in_process import inputs_in_process
from tests.pipeline.test_budget import calm_costs

pytestmark = pytest.mark.slow

STAGES = (preprocess, split, plan, tune, train, predict, ensemble, evaluate, submit)
GIVEN = ("train.epochs", "ensemble.captions", "predict.candidates")
FREE = [argument for argument in TINY if not argument.startswith(GIVEN)]


@pytest.fixture
def begun(workplace, monkeypatch, quick):
    """A run that has just begun, on the machine of `calm_costs`."""
    monkeypatch.setenv(STARTED, repr(time.monotonic()))
    monkeypatch.setattr(costs, "measured_costs", lambda *_: calm_costs())
    inputs_in_process(monkeypatch)
    return workplace


def run_all(root, *arguments, stages=STAGES):
    for stage in stages:
        stage.main([f"data.root={root}", *arguments])


def test_a_tiny_budget_ends_in_a_valid_submission_and_keeps_its_plan(competition, begun, monkeypatch, capsys):
    arguments = [*FREE, "run.minutes=0.05", "run.name=short", "train.epochs=2"]
    run_all(competition, *arguments)
    printed = capsys.readouterr().out
    assert "plan: features" not in printed and "plan: folds" in printed and "of 0.05 min" in printed
    assert "leaves out the search for settings" in printed and "late by" in printed and "train.epochs" in printed
    run, submissions = begun / "runs" / "short", begun / "submissions"
    chosen = read_json(run / "plan" / "plan.json")["settings"]
    assert chosen["train.fold"] == 0 and chosen["ensemble.captions"] == "search" and "train.epochs" not in chosen
    assert len((run / "fold-0" / "metrics.csv").read_text().splitlines()) == 3, "what is given stays"
    assert not (run / "fold-1").exists() and not list(run.rglob("candidates.jsonl"))
    submit.main([f"data.root={competition}", "--check", str(submissions / "short.csv")])

    def fail(*_):
        raise AssertionError("the plan is made again")

    monkeypatch.setattr(costs, "measured_costs", fail)
    before, manifest = (submissions / "short.csv").read_bytes(), read_json(submissions / "short.manifest.json")
    recorded = manifest["runs"]["short"]["settings"]
    assert recorded["run.minutes"] is None and chosen.items() <= recorded.items()
    shutil.rmtree(run / "predictions")
    monkeypatch.setenv(STARTED, repr(time.monotonic()))
    run_all(competition, *arguments, stages=(submit,))
    assert (submissions / "short.csv").read_bytes() == before
    monkeypatch.delenv(STARTED)
    (submissions / "short.csv").unlink()
    rebuild.main([str(submissions / "short.manifest.json")])
    assert (submissions / "short.csv").read_bytes() == before, "without a clock"


def test_a_generous_budget_gives_the_bytes_of_none(competition, begun):
    given = [*TINY, "train.epochs=1", "tune.trials=0", "--fold", "0"]
    run_all(competition, *given, "run.name=timed", "run.minutes=600")
    run_all(competition, *given, "run.name=untimed")
    assert read_json(begun / "runs" / "timed" / "plan" / "plan.json")["settings"] == {}
    assert not (begun / "runs" / "untimed" / "plan").exists()
    written = [(begun / "submissions" / f"{name}.csv").read_bytes() for name in ("timed", "untimed")]
    assert written[0] == written[1]


def late_run(arguments, stage, minutes_gone, monkeypatch):
    """Settings of a run, planned for without a search, as a stage of it begins on the machine of `calm_costs`."""
    settings, _ = load(["run.minutes=20", "run.name=late", *arguments], stage)
    seconds = stage_seconds({**flatten(settings), "tune.trials": 0}, calm_costs())
    content = {"seconds": seconds, "spent": 30.0, "costs": dataclasses.asdict(calm_costs())}
    write_json(planned_settings(run_folder(settings)), {"settings": {"tune.trials": 0}, **content})
    monkeypatch.setenv(STARTED, repr(time.monotonic() - 60 * minutes_gone))
    return settings


@pytest.mark.parametrize(
    ("stage", "kept", "minutes_gone", "chosen"),
    [
        ("predict", "", 1, None),
        ("predict", "", 13, None),
        ("predict", "", 13.75, {"predict.samples": 5}),
        ("predict", "", 19, {"predict.candidates": False, "ensemble.captions": "search"}),
        ("predict", "ensemble.captions", 19, {"predict.samples": 2, "ensemble.neighbours": 10}),
        ("ensemble", "", 19, {"ensemble.captions": "search"}),
        ("ensemble", "ensemble.captions", 19, {"ensemble.neighbours": 10}),
        ("ensemble", "ensemble.captions, ensemble.neighbours", 19, None),
        ("train", "", 19, {"predict.candidates": False, "ensemble.captions": "search", "train.epochs": 1}),
    ],
)
def test_a_late_stage_chooses_what_takes_less(workplace, monkeypatch, stage, kept, minutes_gone, chosen):
    settings = late_run([f"run.kept=[{kept}]"], stage, minutes_gone, monkeypatch)
    assert keep_pace(settings, stage) == settings
    late = planned_settings(run_folder(settings), stage)
    assert (read_json(late)["settings"] if late.is_file() else None) == chosen
    now = flatten(planned(settings))
    assert ({"tune.trials": 0} | (chosen or {})).items() <= now.items() and now["run.minutes"] is None
    monkeypatch.setenv(STARTED, repr(time.monotonic()))
    keep_pace(settings, stage)
    assert flatten(planned(settings)) == now, "what was chosen stays"


@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_begun_leaves_no_choice_unless_it_starts_over(workplace, monkeypatch, fresh):
    settings = late_run([], "train", 19, monkeypatch)
    (folder := fold_folder(run_folder(settings), 0)).mkdir(parents=True)
    (folder / "last.pt").touch()
    keep_pace(settings, "train", fresh)
    assert planned_settings(run_folder(settings), "train").is_file() == fresh


def test_a_late_stage_makes_no_choice_that_contradicts_what_is_given(workplace, monkeypatch):
    settings = late_run(["self_critical.from_epoch=8"], "train", 17, monkeypatch)
    keep_pace(settings, "train")
    late = read_json(planned_settings(run_folder(settings), "train"))["settings"]
    assert late == {"predict.candidates": False, "ensemble.captions": "search"}, "no epochs: 8 must come before the end"
    assert planned(settings).ensemble.captions == "search"


def test_costs_are_measured_in_pieces_of_the_run_itself(competition, workplace, monkeypatch, quick, capsys):
    monkeypatch.setenv(STARTED, repr(time.monotonic()))
    cached = [argument for argument in FREE if not argument.startswith("encoder.frozen")]
    arguments = [*cached, "encoder.more_levels=[]", "run.minutes=600", "run.name=measured", "tune.trials=0"]
    arguments += ["run.jobs=64"]
    run_all(competition, *arguments, stages=(preprocess, split, plan))
    assert capsys.readouterr().out.count("of 600 min") == 1
    written = read_json(workplace / "runs" / "measured" / "plan" / "plan.json")
    assert written["settings"] == {} and written["seconds"].keys() >= {"features", "folds", "prediction", "ensemble"}
    measured = written["costs"]
    assert (measured["photos"], measured["tested"], measured["folds"]) == (80, 20, 2)
    assert measured["jobs"] == (torch.cuda.device_count() or usable_cores()) and not measured["shares_cores"]
    assert measured["trained"] + measured["validated"] == 60
    assert measured["features"].keys() == {f"test_resnet at {side}" for side in (512, 384, 256, 128)}
    times = [*measured["features"].values(), *(measured[k] for k in ("trained_photo", "regressors", "choice"))]
    assert all(0 < seconds < 20 for seconds in times) and measured["searched_photo"] >= 0
    left = {path.name for path in (workplace / "runs" / "measured").iterdir() if not path.name.startswith(".")}
    assert left == {"plan", "rejected.csv"}, "the measurement leaves nothing"


def test_the_dearest_epochs_of_a_run_are_measured(competition, workplace, monkeypatch, quick):
    kinds, begin_epoch = [], Engine.begin_epoch

    def recorded(engine, epoch):
        begin_epoch(engine, epoch)
        sampling = engine.task.sampling_probability > 0
        kinds.append((engine.task.model.encoder.frozen, sampling, engine.rewarded(epoch)))

    monkeypatch.setenv(STARTED, repr(time.monotonic()))
    monkeypatch.setattr(Engine, "begin_epoch", recorded)
    run = [*FREE, "run.minutes=600", "tune.trials=0", "train.patience=1", "train.epochs=6"]
    late = ["encoder.frozen_epochs=3", "scheduled_sampling.probability=0.1", "scheduled_sampling.from_epoch=2"]
    rewarded = ["self_critical.from_epoch=4", "vocabulary.maximum_words=8"]
    run_all(competition, *run, stages=(preprocess, split))
    measured = {}
    for name, given, expected in (
        ("late", late, [(False, True, False)] * 2),
        ("never", [*late, "train.epochs=2"], [(True, False, False)] * 2),
        ("rewarded", rewarded, [(False, False, False)] * 2 + [(False, False, True)] * 2),
    ):
        plan.main([f"data.root={competition}", *run, *given, f"run.name={name}"])
        assert kinds == expected, name
        measured[name] = read_json(workplace / "runs" / name / "plan" / "plan.json")["costs"]
        kinds.clear()
    assert measured["late"]["rewarded_photo"] == 0 < measured["late"]["trained_photo"]
    assert measured["rewarded"]["rewarded_photo"] > 0


def test_further_encoders_cost_what_their_features_take(competition, workplace, monkeypatch, quick):
    monkeypatch.setenv(STARTED, repr(time.monotonic()))
    monkeypatch.setattr(costs, "_pace", lambda: 1.0)
    shared = [*FREE, "task=mos", "encoder.more_levels=[]", "run.minutes=600", "tune.trials=0"]
    run_all(competition, *shared, stages=(preprocess, split))
    seconds = []
    for name, encoders in (("none", []), ("one", ["test_resnet"])):
        plan.main([f"data.root={competition}", *shared, f"run.name={name}", f"ensemble.encoders={encoders}"])
        seconds.append(read_json(workplace / "runs" / name / "plan" / "plan.json")["costs"]["regressors"])
    assert 0 < seconds[0] < 0.02 and seconds[1] > seconds[0] + 80 * 0.0005


def test_a_budget_that_no_machine_keeps_is_refused_before_anything_is_made(competition, workplace, capsys):
    with pytest.raises(Exception, match=r"run.minutes=0.1: 80 photos take at least 0.3"):
        preprocess.main([f"data.root={competition}", *TINY, "run.minutes=0.1", "--check"])
    with pytest.raises(Exception, match="leave it out where ensemble.runs"):
        plan.main(["run.minutes=5", "ensemble.runs=[one,two]", "run.name=both"])
    plan.main([])
    assert "nothing to do" in capsys.readouterr().out and not (workplace / "runs").exists()
