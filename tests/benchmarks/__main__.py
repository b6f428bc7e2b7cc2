"""Speeds as ratios, each against a named alternative in the same run: python -m tests.benchmarks [NAME ...]."""

import sys

from tests.benchmarks import evaluation, preprocessing, training

BENCHMARKS = {"evaluation": evaluation.run, "preprocessing": preprocessing.run, "training": training.run}


def main() -> None:
    wanted = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: unknown benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    print(f"{'what':<52}{'ours':>10}{'other':>10}{'ratio':>8}  against")
    for name in wanted:
        for what, ours, other, against in BENCHMARKS[name]():
            print(f"{what:<52}{ours:>9.2f}s{other:>9.2f}s{other / ours:>8.2f}  {against}", flush=True)


if __name__ == "__main__":
    main()
