"""Choose settings with which the whole run takes no more than run.minutes; without that there is nothing to do.

Measures in seconds what features, training, prediction and the ensemble cost on this machine, and takes the best of an
ordered list of plans that fits: the settings as they are with some trials of tune, then without, then with fewer
samples of captions, fewer epochs, one backbone, smaller photos, one fold. A setting that is given stays (run.kept).
Writes runs/NAME/plan/plan.json: what was chosen, the seconds of each part, and the measured costs. tune and later
stages work with what was chosen, and so does the same command again; --fresh measures anew. Where the run is late,
train, predict and ensemble choose what takes less time as far as they have not begun (late-STAGE.json beside it).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from src.base.errors import InputError, guarded
from src.base.files import write_json
from src.pipeline import budget, outputs, resolved
from src.pipeline.artefacts import making, outdated
from src.pipeline.runs import planned_settings, run_folder
from src.pipeline.stages import ensure_inputs
from src.settings.keys import flatten
from src.settings.load import changed, load
from src.settings.planning import Choice, plans_of
from src.settings.schema import Settings


def possible_plans(settings: Settings) -> list[list[Choice]]:
    """Every plan for these settings, the best first, without what they keep and what tune could not search."""
    kept = {*(settings.run.kept or []), *([] if resolved.search_space(settings) else ["tune.trials"])}
    return plans_of(flatten(settings), kept)


def feature_variants(settings: Settings, plans: Sequence[Sequence[Choice]]) -> dict[str, Settings]:
    """Settings of all kinds of features in the plans, by `budget.features_key`, as they are first."""
    flat, variants = flatten(settings), dict[str, Settings]()
    for plan in ([], *plans):
        values = {k: v for k, v in budget.values_of(plan).items() if k in budget.FEATURES}
        key = budget.features_key(flat | values)
        if key not in variants:
            variants[key] = changed(settings, values, "the plan")
    return variants


def in_words(seconds: Mapping[str, float]) -> str:
    """The parts of a run with their minutes."""
    return ", ".join(f"{part} {_minutes(value)}" for part, value in seconds.items() if value >= 1)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"


def choose(settings: Settings) -> dict[str, Any]:
    """The content of plan.json; prints what was chosen."""
    began = time.monotonic()
    from src.base.randomness import make_deterministic
    from src.reports.costs import measured_costs  # takes as long as to start any stage

    make_deterministic(settings.run.threads)  # with as many threads as the stages that are measured
    start = 1 + time.monotonic() - began
    assert settings.run.minutes is not None
    flat, plans = flatten(settings), possible_plans(settings)
    flat["tune.trials"] = resolved.search_plan(settings).trials
    costs = measured_costs(settings, feature_variants(settings, plans), start)
    spent, limit = budget.spent(), 60 * settings.run.minutes
    plan, seconds, fits = budget.best_plan(plans, flat, costs, budget.MARGIN * limit - spent)
    total = spent + sum(seconds.values())
    print(f"plan: {in_words(seconds)}; with {_minutes(spent)} so far {_minutes(total)} of {settings.run.minutes:g} min")
    left_out = [choice.name for choice in plan if choice.loss]
    if left_out:
        print(f"plan: for want of time it leaves out {', '.join(left_out)}")
    if not fits:
        stays = f"; {', '.join(settings.run.kept)} stay as given" if settings.run.kept else ""
        print(f"plan: nothing that can be chosen takes less; the run will be late by {_minutes(total - limit)}{stays}")
    return {
        "settings": budget.values_of(plan),
        "seconds": {part: round(value, 1) for part, value in seconds.items()},
        "spent": round(spent, 1),
        "costs": asdict(costs),
    }


def main(argv: Sequence[str] | None = None) -> None:
    settings, options = load(argv, "plan", __doc__)
    if settings.run.minutes is None:
        print("plan: nothing to do (run.minutes is not given)", flush=True)
        return
    if not resolved.has_networks(settings):
        raise InputError(
            "run.minutes plans a run with networks of its own; leave it out where ensemble.runs joins others"
        )
    ensure_inputs(settings, "plan")
    artefact = outputs.plan(settings)
    if not options.fresh and not outdated(artefact, code=False):
        print(f"plan: {artefact.folder}: up to date", flush=True)
        return
    with making(artefact, options.fresh) as work:
        if work:
            for stage in resolved.LATE:
                planned_settings(run_folder(settings), stage).unlink(missing_ok=True)
            write_json(work.folder / "plan.json", choose(settings))
            work.outputs += ["plan.json"]


if __name__ == "__main__":
    guarded(main)
