"""Train the seed systems from packaged weights: python -m tests.benchmarks.seed_systems FOLDER [NAME | KEY=VALUE ...].

FOLDER: a competition. NAME: configurations; all that one machine without a GPU trains where none is named. KEY=VALUE:
settings of all of them, such as train.precision=bf16. Each keeps its hyper-parameters but for the encoder, which is
EfficientNet-Lite2, frozen and cached, and what a cache rules out. Fold 0 is trained and scored, one thread each, as
many systems at a time as there are cores. Prints the rows of the table in docs/results.md: scores of the network alone
out of fold, CPU seconds of an epoch with its validation, and CPU minutes of the whole training. CPU time is what a calm
core takes, on a busy machine too. The runs stay in runs/seed_systems/, and the same command goes on with the systems
that are not finished.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from src.base.files import read_json, write_json
from src.base.machine import usable_cores

RUNS = Path("runs/seed_systems")
COMMON = (
    "encoder.name=tf_efficientnet_lite2", "encoder.pretrained=true", "encoder.frozen=true", "tune.trials=0",
    f"run.root={RUNS}", "run.threads=1", "run.jobs=1", "predict.candidates=false", "ensemble.captions=search",
    "ensemble.mos=network",
)  # fmt: skip
FROM_VIEWS = ("encoder.long_side=null", "encoder.levels=false", "augment.flip=0", "augment.crop=0")
"""As the others have it: the pooled features or the grid of the view, as it is."""
FROM_FC = ("train.start_from=fc", "self_critical.from_epoch=0", "train.epochs=20")
"""What 20 epochs add to a finished `fc`, as the configurations say."""
SYSTEMS = {
    "googlenet_gru_128": FROM_VIEWS,
    "mobilenet_gru_128": FROM_VIEWS,
    "mobilenet_gru_224": FROM_VIEWS,
    "mobilenet_gru_224_gray": FROM_VIEWS,
    "resnet_lstm_224": FROM_VIEWS,
    "show_attend_tell": ("encoder.frozen_epochs=0", *FROM_VIEWS),
    "attention_gru": (),
    "fc": (),
    "updown": ("view.size=224",),  # the grid in place of a detector's regions
    "transformer": (),
    "mask_predict": (),
    "ctc_mask_predict": (),
    "demo": (),
    "fc_scst": FROM_FC,
    "fc_nsc": FROM_FC,  # last: fc is finished by then
}
"""Settings of each beside those in common."""


def cpu_seconds(stage: str, arguments: list[str], log: Path) -> float:
    """Run a stage: seconds of CPU that it and its processes took. Raises RuntimeError where it fails."""
    with open(log, "a", encoding="utf-8") as file:
        command = [sys.executable, "-m", f"src.{stage}", *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{stage} failed, see {log}")
    return usage.ru_utime + usage.ru_stime


def row_of(name: str, folder: str, settings: list[str]) -> str:
    """Train and score a system; its row of the table."""
    run, log = RUNS / name, RUNS / f"{name}.log"
    arguments = ["--config", f"configs/{name}.yaml", "--fold", "0", f"run.name={name}", f"data.root={folder}"]
    arguments += [*COMMON, *SYSTEMS[name], *settings]
    try:
        if not (run / "cpu.json").is_file():
            first = [*arguments, f"run.name={name}-first", "train.epochs=1", "self_critical.from_epoch=null"]
            cpu_seconds("train", first, log)  # makes the features and all else that systems share
            of_first = cpu_seconds("train", [*first, "--fresh"], log)
            write_json(run / "cpu.json", [of_first, cpu_seconds("train", [*arguments, "--fresh"], log)])
        cpu_seconds("evaluate", arguments, log)
    except RuntimeError as error:
        return f"| `{name}` | {error} |"
    of_first, of_all = read_json(run / "cpu.json")
    epochs = len((run / "fold-0" / "metrics.csv").read_text(encoding="utf-8").splitlines()) - 1
    network = read_json(run / "score.json")["network"]
    mos, caption = network["mos"], network["caption"]
    cells = [
        f"`{name}`",
        *(f"{part['score']:.3g} [{part['interval'][0]:.3g}, {part['interval'][1]:.3g}]" for part in (mos, caption)),
        f"{caption['cider_d']:.3f}",
        f"{epochs}",
        f"{(of_all - of_first) / max(epochs - 1, 1):.1f}",
        f"{of_all / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    folder, *arguments = sys.argv[1:]
    names = [argument for argument in arguments if "=" not in argument]
    settings = [argument for argument in arguments if "=" in argument]
    RUNS.mkdir(parents=True, exist_ok=True)
    print("| configuration | MOS | captions | CIDEr-D | epochs | CPU s an epoch | CPU min |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for row in pool.map(lambda name: row_of(name, folder, settings), names or SYSTEMS):
            print(row, flush=True)


if __name__ == "__main__":
    main()
