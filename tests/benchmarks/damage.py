"""Random damage to a tiny competition: `python -m tests.benchmarks.damage 500` runs 500 cases and prints what broke.

Beside harm it prints where --check found nothing and a stage failed ("unforeseen"), and where it alone found a fault
("false alarm"). SEED=n draws the same cases again; CASE='{...}', as it is printed, runs that case alone.
"""

import os
import random
import sys
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.helpers.damage import Case, cases
from tests.helpers.damaged_runs import Runner

KINDS = ["traceback", "hang", "half-written", "changed", "exit", "line", "unforeseen", "false alarm"]


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


def main() -> None:
    start = int(os.environ.get("SEED", random.randrange(10**6)))
    alone = os.environ.get("CASE")
    chosen = [Case.of(alone)] if alone else drawn(int(sys.argv[1]) if len(sys.argv) > 1 else 50, start)
    counts: Counter[str] = Counter()
    with Runner() as runner:
        for case in chosen:
            ended = runner.run(case)
            told = ended.problems + ["unforeseen"] * ended.unforeseen + ["false alarm"] * ended.false_alarm
            counts.update({problem.partition(":")[0] for problem in told} | ended.codes.keys() & {"submit"})
            if told or alone:
                print(f"CASE='{case}'\n  {ended.codes} in {ended.seconds:.1f} s: {ended.error}")
                print(*(f"  {line}" for line in told), sep="\n", flush=True)
    print(f"SEED={start}: {len(chosen)} cases, {counts['submit']} to submit,", end=" ")
    print(*(f"{counts[kind]} {kind}" for kind in KINDS), sep=", ")


if __name__ == "__main__":
    main()
