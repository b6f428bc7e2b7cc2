"""Speed and memory, each as a ratio to a named alternative in the same run: python -m tests.benchmarks [NAME ...]."""

import importlib
import sys

BENCHMARKS = (
    "busy",
    "constant",
    "decoding",
    "ensembling",
    "evaluation",
    "features",
    "freed_memory",
    "gpu",
    "latency",
    "memory",
    "padding",
    "preprocessing",
    "reward",
    "stops",
    "training",
    "utility",
)


def main() -> None:
    wanted = sys.argv[1:] or BENCHMARKS
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: unknown benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    print(f"{'what':<60}{'ours':>10}{'other':>10}{'ratio':>8}  against")
    for name in wanted:
        # only now: the processes that one of them starts import this module again
        for what, ours, other, against, *unit in importlib.import_module(f"tests.benchmarks.{name}").run():
            unit = unit[0] if unit else "s"
            print(f"{what:<60}{ours:>9.2f}{unit}{other:>9.2f}{unit}{other / ours:>8.2f}  {against}", flush=True)


if __name__ == "__main__":
    main()
