"""Random damage to a tiny competition: `python -m tests.benchmarks damage 500` runs 500 cases and prints what broke.

SEED=n draws the same cases again; CASE='{...}', as it is printed, runs that case alone.
"""

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.helpers.damage import Case, cases
from tests.helpers.damaged_runs import Runner

KINDS = ["traceback", "hang", "half-written", "changed", "exit", "line"]


def drawn(number: int, start: int) -> list[Case]:
    """That many different cases."""
    found: list[Case] = []

    @seed(start)
    @settings(max_examples=number, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(cases())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return found


def run(number: int = 50) -> Iterator[tuple[str, float, float, str, str]]:
    """Counts of what must not be, over all cases; each that has some is printed."""
    start = int(os.environ.get("SEED", random.randrange(10**6)))
    chosen = [Case.of(os.environ["CASE"])] if "CASE" in os.environ else drawn(number, start)
    counts: Counter[str] = Counter()
    with Runner() as runner:
        for case in chosen:
            ended = runner.run(case)
            counts.update({problem.partition(":")[0] for problem in ended.problems})
            stages = [stage for stage, code in ended.codes.items() if not code]
            counts.update(["through"] * ("submit" in stages) + ["unforeseen"] * ended.unforeseen)
            counts.update(["false alarm"] * ended.false_alarm)
            told = ended.problems + ["unforeseen"] * ended.unforeseen + ["false alarm"] * ended.false_alarm
            if told or "CASE" in os.environ:
                print(f"CASE='{case}'\n  {ended.codes} in {ended.seconds:.1f} s: {ended.error}", file=sys.stderr)
                print(*(f"  {line}" for line in told), sep="\n", file=sys.stderr, flush=True)
    for kind in [*KINDS, "unforeseen", "false alarm", "through"]:
        yield f"{kind}: of {len(chosen)} cases (SEED={start})", counts[kind], len(chosen), "all cases", ""
