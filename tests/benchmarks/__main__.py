"""Speed and memory, each as a ratio to a named alternative in the same run: python -m tests.benchmarks [NAME ...]."""

import sys

from tests.benchmarks import (
    busy,
    constant,
    decoding,
    ensembling,
    evaluation,
    features,
    latency,
    memory,
    preprocessing,
    reward,
    stops,
    training,
    utility,
)

BENCHMARKS = {
    "busy": busy.run,
    "constant": constant.run,
    "decoding": decoding.run,
    "ensembling": ensembling.run,
    "evaluation": evaluation.run,
    "features": features.run,
    "latency": latency.run,
    "memory": memory.run,
    "preprocessing": preprocessing.run,
    "reward": reward.run,
    "stops": stops.run,
    "training": training.run,
    "utility": utility.run,
}


def main() -> None:
    wanted = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: unknown benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    print(f"{'what':<60}{'ours':>10}{'other':>10}{'ratio':>8}  against")
    for name in wanted:
        for what, ours, other, against, *unit in BENCHMARKS[name]():
            unit = unit[0] if unit else "s"
            print(f"{what:<60}{ours:>9.2f}{unit}{other:>9.2f}{unit}{other / ours:>8.2f}  {against}", flush=True)


if __name__ == "__main__":
    main()
