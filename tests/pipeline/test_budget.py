"""run.minutes: the plan as a function of costs, budget and settings, and the clock."""

import os
import threading
import time

import pytest

from src.base.files import read_json, write_json
from src.pipeline import budget
from src.pipeline.budget import (
    MARGIN,
    SIDE_BY_SIDE,
    STARTED,
    Costs,
    best_plan,
    clock,
    features_key,
    spent,
    stage_seconds,
    values_of,
)
from src.pipeline.runs import clock_path, run_folder
from src.settings.keys import flatten
from src.settings.load import build, load
from src.settings.planning import TRIALS, choices_of, plans_of
from src.settings.schema import Settings
from src.tuning.space import RANDOM_TRIALS

FLAT = flatten(Settings())


def calm_costs(**changes) -> Costs:
    """What the real photos cost on two calm cores at commit 21a40cb, a photo's features with its mirror image."""
    sides, backbones = (512, 384, 256, 128), {"tf_efficientnet_lite2": 0.05, "tf_efficientnet_lite0": 0.03}
    features = {}
    for side in sides:
        share = min(1.0, (side / 384) ** 2)
        for names in (list(backbones), ["tf_efficientnet_lite2"], ["tf_efficientnet_lite0"]):
            features[f"{'+'.join(names)} at {side}"] = share * sum(backbones[name] for name in names)
    costs = {
        "photos": 2991, "trained": 1569, "validated": 784, "tested": 638, "folds": 3, "jobs": 2, "gpu": False,
        "start": 6.0, "features": features, "trained_photo": 0.0055, "validated_photo": 0.003,
        "searched_photo": 0.005, "other_searches": 0.006, "sample": 0.0003, "regressors": 50.0, "choice": 0.00049,
        "rest": 30.0,
    }  # fmt: skip
    return Costs(**costs | changes)


def test_the_parts_of_a_calm_run_are_those_that_were_measured():
    seconds = stage_seconds({**FLAT, "tune.trials": 0}, calm_costs())
    measured = {"features": 250, "folds": 327, "prediction": 88, "ensemble": 180, "evaluation": 26}
    assert seconds.keys() == measured.keys()
    for part, expected in measured.items():
        assert seconds[part] == pytest.approx(expected, rel=0.2), part


def test_an_epoch_is_validated_on_a_bounded_number_of_photos():
    few, many = (stage_seconds(FLAT, calm_costs(validated=count))["folds"] for count in (5000, 50_000))
    assert few == many


def test_epochs_of_self_critical_training_have_a_cost_of_their_own():
    flat = FLAT | {"tune.trials": 0, "self_critical.from_epoch": 8}
    ordinary, dear = (stage_seconds(flat, calm_costs(rewarded_photo=seconds)) for seconds in (0.0, 0.0155))
    added = 4 * 1569 * (0.0155 - 0.0055)
    assert dear["folds"] - ordinary["folds"] == pytest.approx(SIDE_BY_SIDE * added * 3 / 2)
    searched = stage_seconds(flat | {"tune.trials": 4, "tune.epochs": 8}, calm_costs(rewarded_photo=9.0))["search"]
    assert searched > 4 * SIDE_BY_SIDE / 2 * 4 * 1569 * 9.0, "the judge trains to the end"


def test_all_trials_of_a_plan_can_run_side_by_side():
    assert max(TRIALS) <= budget.RANDOM_TRIALS == RANDOM_TRIALS


@pytest.mark.parametrize(
    ("given", "machine", "search", "folds"),
    [
        ({}, {}, (2 + 2) * SIDE_BY_SIDE, 1),
        ({"tune.trials": 6}, {}, 6 + 2 * SIDE_BY_SIDE, 1),
        ({"tune.pruner": "median"}, {}, 4 + 2 * SIDE_BY_SIDE, 1),
        ({"tune.epochs": 6}, {}, (1 + 2) * SIDE_BY_SIDE, 1),
        ({"tune.folds": [0, 1]}, {}, (2 * 2 + 1) * SIDE_BY_SIDE, SIDE_BY_SIDE),
        ({"tune.judge_folds": [0, 1]}, {}, (2 + 2) * SIDE_BY_SIDE, SIDE_BY_SIDE),
        ({"tune.objective": "both"}, {}, 2 * SIDE_BY_SIDE, 1.5 * SIDE_BY_SIDE),
        ({"tune.trials": 2}, {"jobs": 4}, (1 + 2) * SIDE_BY_SIDE, 1),
        ({"train.fold": 1}, {}, (2 + 2) * SIDE_BY_SIDE, 0),
        ({}, {"folds": 1, "jobs": 1}, 4 + 2, 1),
        ({}, {"gpu": True}, 4 + 4, 1),
        ({"tune.trials": 0}, {}, 0, 1.5 * SIDE_BY_SIDE),
        ({"tune.trials": 0}, {"shares_cores": False}, 0, SIDE_BY_SIDE + 1),
    ],
    ids=str,
)
def test_the_search_and_the_folds_take_so_many_trainings(given, machine, search, folds):
    costs = calm_costs(start=0.0, **machine)
    training = stage_seconds(FLAT | {"train.fold": 0, "tune.trials": 0}, costs)["folds"]
    seconds = stage_seconds(FLAT | {"tune.trials": 4} | given, costs)
    assert seconds.get("search", 0) == pytest.approx(search * training)
    assert seconds["folds"] == pytest.approx(folds * training)


@pytest.mark.parametrize("changes", [{}, {"photos": 60000, "trained": 40000}, {"start": 40.0}], ids=str)
def test_more_minutes_never_choose_a_worse_plan(changes):
    plans, costs, losses = plans_of(FLAT, []), calm_costs(**changes), []
    for minutes in (0.5, 2, 5, 10, 15, 20, 60, 500):
        plan, seconds, fits = best_plan(plans, FLAT, costs, MARGIN * 60 * minutes)
        assert seconds == stage_seconds(FLAT | values_of(plan), costs)
        assert fits == (sum(seconds.values()) <= MARGIN * 60 * minutes)
        losses.append(sum(choice.loss for choice in plan))
        build([(key, str(value).lower(), "plan") for key, value in values_of(plan).items() if value != []])
    assert losses[2:] == sorted(losses[2:], reverse=True)
    if not changes:
        assert [losses[-1], losses[5] > losses[6]] == [0, True]
        assert values_of(best_plan(plans, FLAT, costs, 60 * 17)[0]) == {"tune.trials": 0}, "the defaults"


def test_where_nothing_fits_the_shortest_plan_is_taken():
    plans, costs = plans_of(FLAT, []), calm_costs()
    plan, seconds, fits = best_plan(plans, FLAT, costs, 1)
    assert not fits
    assert sum(seconds.values()) == min(sum(stage_seconds(FLAT | values_of(p), costs).values()) for p in plans)
    assert values_of(plan)["train.fold"] == 0 and values_of(plan)["train.epochs"] == 1


def test_no_plan_contradicts_what_is_given():
    flat = FLAT | {"self_critical.from_epoch": 8}
    plan, _, fits = best_plan(plans_of(flat, []), flat, calm_costs(), 1)
    assert not fits and values_of(plan)["train.fold"] == 0 and "train.epochs" not in values_of(plan)


@pytest.mark.parametrize("kept", [["train.epochs"], ["encoder.long_side", "ensemble.captions"], ["predict.samples"]])
def test_what_is_kept_stays_in_every_plan(kept):
    plans = plans_of(FLAT, kept)
    assert plans and not any(values_of(plan).keys() & set(kept) for plan in plans)


def test_given_settings_are_kept_also_at_their_defaults():
    arguments = ["run.minutes=5", "train.epochs=12", "--fold", "1", "optim.lr=0.1"]
    settings, _ = load(arguments, "plan")
    assert settings.run.kept == ["train.epochs", "train.fold"]
    assert load([*arguments, "run.kept=[train.fold]"], "plan")[0].run.kept == ["train.fold"]
    assert load(arguments[1:], "plan")[0].run.kept is None


def test_no_choice_is_the_same_as_another():
    small = FLAT | {"train.epochs": 2, "predict.samples": 2, "encoder.more_levels": [], "encoder.frozen": False}
    for flat in (FLAT, small, FLAT | {"train.epochs": 1, "predict.samples": 1}):
        for choices in choices_of(flat):
            values = [dict(choice.values) for choice in choices]
            assert len({str(sorted(v.items(), key=str)) for v in values}) == len(values)
            assert all(v["train.epochs"] < flat["train.epochs"] for v in values if "train.epochs" in v)


def test_the_same_features_have_one_key():
    assert features_key(FLAT) == "tf_efficientnet_lite2+tf_efficientnet_lite0 at 512"
    assert features_key(FLAT | {"encoder.levels": False, "train.epochs": 1}) == features_key(FLAT)


def test_a_run_that_goes_on_counts_what_it_worked_and_no_pause(workplace, monkeypatch):
    settings = build([("run.minutes", "5", "test")])
    path = clock_path(run_folder(settings))
    monkeypatch.setattr(budget, "_NOTE_EVERY", 0.02)
    monkeypatch.setenv(STARTED, "")
    with pytest.raises(KeyboardInterrupt), clock(settings, False):
        time.sleep(0.3)
        raise KeyboardInterrupt
    noted = read_json(path)["seconds"]
    assert 0.1 <= noted < 5
    with clock(settings, False):
        assert noted <= spent() < noted + 0.2, "the pause between the two does not count"
        assert budget.started_environment() == {STARTED: os.environ[STARTED]}
    assert not path.exists(), "a run that has ended leaves no time to the next one"
    with clock(settings, True):
        assert spent() < 0.2


def test_a_late_note_does_not_bring_the_clock_back(workplace, monkeypatch):
    settings, begun = build([("run.minutes", "5", "test")]), threading.Event()

    def slow(path, value):
        begun.set()
        time.sleep(0.2)
        write_json(path, value)

    monkeypatch.setattr(budget, "_NOTE_EVERY", 0.01)
    monkeypatch.setattr(budget, "write_json", slow)
    monkeypatch.setenv(STARTED, "")
    with clock(settings, False):
        begun.wait()
    time.sleep(0.3)
    assert not clock_path(run_folder(settings)).exists()
