"""Runs damaged competitions through all stages, each in a process forked from one that has imported everything.

`python -m tests.helpers.damaged_runs` reads a case a line and answers each with a line of what was wrong.
"""

import contextlib
import csv
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from src.pipeline.source_code import code_digest
from tests.helpers.bad_input import LONGEST_LINE, exit_code, hurry, small_competition
from tests.helpers.checkout import REPOSITORY
from tests.helpers.damage import Case, apply
from tests.helpers.warm_python import PACKAGES

LONGEST = 60
"""Seconds that a stage may take."""
MEMORY = 6 << 30
"""Bytes of address space beyond what the imported packages take."""
STAGES = ["preprocess", "split", "train", "predict", "ensemble", "evaluate", "submit"]
SETTINGS = [
    "data.root=data", "view.size=16", "encoder.name=test_resnet", "encoder.pretrained=false", "encoder.frozen=false",
    "encoder.more_levels=[]", "mos_head.hidden=0", "decoder.name=recurrent", "decoder.embedding=8", "decoder.hidden=8",
    "decoder.project=8", "decoder.attention=8", "decoder.feedforward=8", "decoder.heads=2",
    "vocabulary.minimum_count=1", "split.folds=2", "train.epochs=1", "train.captions_per_photo=1", "train.batch_size=4",
    "decoding.beam=2", "decoding.maximum_words=5", "metric.bootstrap=100", "predict.samples=2",
    "run.name=damaged", "run.jobs=1",
]  # fmt: skip


@dataclass
class Ended:
    """How a case ended."""

    codes: dict[str, int]
    """Exit codes of the stages that ran; "check" is that of preprocess --check."""
    problems: list[str]
    """What must not be, each beginning with its kind: traceback, hang, half-written, changed, exit, line."""
    error: str
    """The last error line."""
    seconds: float

    @property
    def unforeseen(self) -> bool:
        """Whether --check found nothing, and a stage failed."""
        decoded = "rows or photos cannot be used" in self.error  # --check reads but the headers of photos
        return not self.codes.get("check") and any(self.codes.values()) and not decoded

    @property
    def false_alarm(self) -> bool:
        """Whether only --check found a fault."""
        return [stage for stage, code in self.codes.items() if code] == ["check"] and "submit" in self.codes


_VARIABLES = {
    "no HOME": ("HOME", None), "HOME is a file": ("HOME", "a file"), "no TMPDIR": ("TMPDIR", "nothing"),
    "long TMPDIR": ("TMPDIR", "t" * 120), "TMPDIR is a file": ("TMPDIR", "a file"),
}  # fmt: skip


def _make(case: Case, here: Path) -> None:
    """Make the damaged competition in `here`, and what is odd about the folders there."""
    small_competition(here / "data")
    for damage in case.damages:
        apply(damage, here / "data")
    if case.yaml is not None:
        (here / "mine.yaml").write_bytes(case.yaml.encode("utf-8", "replace"))
    (here / "a file").write_text("mine")
    (here / "submissions").mkdir()
    (here / ("t" * 120)).mkdir()
    for place in case.places:
        target = here / place.split()[0]
        if place in ("runs is a file", "submissions is a file"):
            shutil.rmtree(target, ignore_errors=True)
            target.write_text("mine")
        elif place.endswith(" locked") and not target.is_file():
            target.mkdir(exist_ok=True)
            target.chmod(0o555)


def _variables(case: Case) -> None:
    os.environ["HOME"] = str(Path().absolute())
    for name, value in (_VARIABLES[place] for place in case.places if place in _VARIABLES):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = str(Path(value).absolute())
    if "LC_ALL=C" in case.places:
        os.environ["LC_ALL"] = "C"
    if "ascii" in case.places:
        os.environ["PYTHONIOENCODING"] = "ascii"
    tempfile.tempdir = None


def _streams(case: Case, folder: Path) -> None:
    """Have this process read and print where the case says, as a new one would."""
    full = "output to a full disk" in case.places
    encoding = "ascii" if "ascii" in case.places else "utf-8"
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.close()
    for number, path in enumerate(["/dev/full" if full else folder / "output", folder / "errors"], 1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _limits(case: Case) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    if "few open files" in case.places:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    if "small files" in case.places:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def _run(stage: str, arguments: list[str], own_process: bool) -> int:
    module = importlib.import_module(f"src.{stage}")
    if not own_process:
        return exit_code(module, *arguments)
    command = [sys.executable, "-m", f"src.{stage}", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}).returncode


def _go_through(case: Case, folder: Path) -> None:
    """Run the stages until one fails, and note their exit codes; the present folder is the user's."""
    arguments = [*SETTINGS, f"task={case.task}", *case.arguments]
    if case.yaml is not None:
        arguments += ["--config", "mine.yaml"]
    codes = os.open(folder / "codes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _limits(case)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if "no input" in case.places:
        os.close(0)
    for stage in ["check", *STAGES]:
        _streams(case, folder)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST)
        if stage == "check":
            code = _run("preprocess", [*arguments, "--check"], "own process" in case.places)
        else:
            code = _run(stage, arguments, "own process" in case.places and stage == "preprocess")
        signal.alarm(0)
        os.write(codes, f"{stage} {code}\n".encode())
        if code and stage != "check":
            return


def seen(root: Path) -> dict[str, object]:
    """Everything below a folder: kind, size, time and content."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns * (not path.is_dir()), status.st_ino, content)
    return found


def _broken(path: Path) -> str:
    """Why an output is not whole, or ""."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                widths = {len(row) for row in csv.reader(file, strict=True)}
            return "" if len(widths) == 1 else f"rows of {widths} cells"
        elif path.suffix == ".npy":
            np.load(path, mmap_mode="r", allow_pickle=False)
        elif path.suffix in (".pt", ".npz"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() or ""
        elif path.suffix == ".tmp":
            return "left behind"
    except Exception as error:
        return repr(error)
    return ""


def problems(case: Case, folder: Path, before: dict[str, object], status: int) -> Iterator[str]:
    """What must not be after a case."""
    printed = (folder / "output").read_text(errors="replace") if (folder / "output").exists() else ""
    errors = (folder / "errors").read_text(errors="replace") if (folder / "errors").exists() else ""
    codes = _codes(folder)
    if status == -signal.SIGALRM:
        yield f"hang: more than {LONGEST} s after {list(codes)}"
    elif status:
        yield f"exit: the process ended with {status} after {list(codes)}"
    if "Traceback" in errors + printed:
        yield f"traceback: {errors[errors.find('Traceback') :][-1500:]}"
    for stage, code in codes.items():
        if code not in (0, 1, 2):
            yield f"exit: {stage} with {code}: {errors[-300:]}"
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    if any(codes.values()) and not lines:
        yield f"line: none says why: {errors[-300:]}"
    yield from (f"line: {len(line)} characters: {line}" for line in lines if len(line) > LONGEST_LINE)
    after = seen(folder / "here")
    yield from (f"changed: {path}" for path, was in before.items() if after.get(path) != was)
    data = str(folder / "here" / "data")
    if not any(given.startswith(("run.root=", "run.submissions=")) for given in (*case.arguments, case.yaml or "")):
        yield from (f"changed: {path} is new" for path in after if path.startswith(data) and path not in before)
    for path in map(Path, after.keys() - before.keys()):
        if ".cache" in path.parts:  # of libraries, in the user's home
            continue
        if path.is_file() and (reason := _broken(path)):
            yield f"half-written: {path}: {reason}"


def _codes(folder: Path) -> dict[str, int]:
    lines = (folder / "codes").read_text().splitlines() if (folder / "codes").exists() else []
    return {stage: int(code) for stage, code in (line.split() for line in lines)}


def _child(case: Case, folder: Path) -> None:
    """The process of a case: it ends here."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder / "here")
        _variables(case)
        _go_through(case, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def run_case(case: Case, folder: Path) -> Ended:
    """Run a case in an empty folder, by a process of its own."""
    began = time.monotonic()
    _make(case, folder / "here")
    before = seen(folder / "here")
    if not (process := os.fork()):
        _child(case, folder)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # what it has left running
    errors = folder / "errors"
    lines = [line for line in errors.read_text(errors="replace").splitlines() if line] if errors.exists() else []
    harm = list(problems(case, folder, before, status))
    return Ended(_codes(folder), harm, lines[-1] if lines else "", time.monotonic() - began)


def _serve() -> None:
    from tests.helpers.small_meteor import quick_scores, small_meteor

    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"))
    for package in PACKAGES:
        importlib.import_module(package)
    for stage in STAGES:
        code_digest(stage)
    gc.freeze()
    answers, sys.stdout = sys.stdout, sys.stderr
    with (
        tempfile.TemporaryDirectory() as place,
        pytest.MonkeyPatch.context() as patch,
        contextlib.closing(small_meteor(Path(place))) as meteor,
    ):
        quick_scores(patch, meteor)
        hurry(patch)
        for number, line in enumerate(sys.stdin):
            meteor.stats([["a photo"]], ["a photo"])  # starts it again where it died with a case
            folder = Path(place, str(number))
            ended = run_case(Case.of(line), folder)
            print(json.dumps(asdict(ended)), file=answers, flush=True)
            shutil.rmtree(folder, ignore_errors=True)


class Runner:
    """A process that runs cases; it ends with the block."""

    def __enter__(self) -> "Runner":
        command = [sys.executable, "-m", "tests.helpers.damaged_runs"]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=variables, cwd=REPOSITORY, start_new_session=True
        )
        return self

    def run(self, case: Case) -> Ended:
        assert self._process.stdin and self._process.stdout
        print(case, file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(2 * LONGEST)


if __name__ == "__main__":
    _serve()
