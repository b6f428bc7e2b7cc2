"""SIGTERM and Ctrl-C end a program within seconds, whatever it is doing, and the same command goes on."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.base.locks import lock
from src.base.stopping import GRACE
from src.pipeline.stages import STAGES
from src.training import checkpoint
from tests.helpers.checkout import REPOSITORY, checkout, environment
from tests.helpers.stops import SETTINGS, Stop, fork_stage, program, stages_stopped, start, stop, stop_when_ready
from tests.helpers.warm_python import Stage, start_stage

BUSY = {
    "sleeps": ("time.sleep(60)", False),
    "computes in a library": ("hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", True),
    "a library drops the exception": (
        "while True:\n    with contextlib.suppress(BaseException):\n        time.sleep(60)",
        True,
    ),
    "a destructor waits": (
        "class Waits:\n    def __del__(self):\n        time.sleep(60)\nwaits = Waits()\ndel waits\ntime.sleep(60)",
        False,
    ),
    "waits for threads": ("with thread_pool(2) as pool:\n    list(pool.map(time.sleep, [60, 60, 60]))", True),
    "waits for processes": (
        "with worker_pool(2, 'waits', int) as pool:\n    list(pool.map(time.sleep, [60, 60, 60]))",
        False,
    ),
    "cleans up for long": ("try:\n    time.sleep(60)\nfinally:\n    time.sleep(60)", True),
    "waits for another process": (
        "from src.base.locks import lock\nwith lock('owned', 'b', wait=True):\n    time.sleep(60)",
        False,
    ),
}
"""What the main thread does, and whether only the thread that watches can end it."""


def test_a_program_stops_whatever_it_is_doing(tmp_path):
    def ended(what: str) -> Stop:
        (folder := tmp_path / what).mkdir()
        with lock(folder / "owned", "a test", wait=False):
            return stop_when_ready(program(folder, BUSY[what][0]), folder)

    with ThreadPoolExecutor(len(BUSY)) as pool:
        for what, stopped in zip(BUSY, pool.map(ended, BUSY), strict=True):
            assert stopped.code == 128 + signal.SIGTERM
            lines = [line for line in stopped.printed.splitlines() if line.startswith("stopped: ")]
            assert lines == ["stopped: the same command, without --fresh, goes on"], what
            watched = BUSY[what][1]
            assert watched or stopped.seconds < GRACE - 0.5, f"{what}: it should not have to be ended"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_them_as_one(number, tmp_path):
    body = BUSY["waits for processes"][0]
    ended = stop_when_ready(program(tmp_path, body), tmp_path, number, group=True)
    assert ended.printed.splitlines() == ["stopped: the same command, without --fresh, goes on"]


def test_more_signals_do_not_disturb_a_stop(tmp_path):
    body = (
        "try:\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "finally:\n    time.sleep(1)\n    print('cleaned up', flush=True)"
    )
    process = start(program(tmp_path, body), tmp_path)
    assert process.stdout and [process.stdout.readline() for _ in range(2)] == ["ready\n", "begun\n"]
    os.kill(process.pid, signal.SIGINT)
    for _ in range(5):
        os.kill(process.pid, signal.SIGINT)
    ended = stop(process, signal.SIGINT)
    assert ended and ended.printed.startswith("cleaned up\nstopped: ")


@pytest.mark.parametrize(("seconds", "limit", "finished"), [(GRACE + 1, 60, True), (60, 4, False)])
def test_what_takes_longer_is_finished_first_but_not_for_ever(seconds, limit, finished, tmp_path):
    body = (
        f"from src.base import stopping\nstopping.FINISHING = {limit}\n"
        "try:\n    print('begun', flush=True)\n    time.sleep(60)\n"
        f"finally:\n    with stopping.time_to_finish():\n        time.sleep({seconds})\n    open('whole', 'w').close()"
    )
    process = start(program(tmp_path, body), tmp_path)
    assert process.stdout and [process.stdout.readline() for _ in range(2)] == ["ready\n", "begun\n"]
    process.terminate()
    printed = process.communicate(timeout=40)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert printed.splitlines() == ["stopped: the same command, without --fresh, goes on"]
    assert (tmp_path / "whole").exists() == finished


@pytest.mark.slow
def test_a_checkpoint_that_takes_long_is_written_before_the_end(tiny_competition, tmp_path):
    """Of two folds side by side, by the stages as run.sh starts them."""
    (tmp_path / "first.py").write_text(
        "import time\nfrom src.training import checkpoint\nwrite = checkpoint.write_bytes\n"
        "def slowly(path, content):\n    path.with_name('begun').touch()\n"
        f"    time.sleep({GRACE + 1})\n    write(path, content)\n"
        "checkpoint.write_bytes = slowly\n"
    )
    variables = environment(PYTHONPATH=str(REPOSITORY), RUNS_FIRST=str(tmp_path / "first.py"))
    arguments = [*SETTINGS, "split.holdout=null", "tune.trials=0", "run.jobs=2", "run.workers=0"]
    arguments += ["train.checkpoint_steps=1", "train.batch_size=4", f"data.root={tiny_competition}"]
    folds = [tmp_path / "runs" / "demo" / f"fold-{fold}" for fold in (0, 1)]
    process = start_stage(tmp_path, "src.pipeline.stages", arguments, variables, tmp_path / "printed")
    while not all((fold / "begun").exists() for fold in folds):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.terminate()
    printed = "".join(process.communicate(timeout=60))
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert all(checkpoint.load(fold / "last.pt")["engine"]["steps"] == 1 for fold in folds)
    assert printed.count("is saved; the same command, without --fresh, goes on") == 2, printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_sh_stops_while_it_starts(number, tmp_path):
    for name in ("run.sh", "requirements.txt", "src"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    started = [start(["bash", "./run.sh", "--here"], tmp_path, environment()) for _ in range(4)]
    for moment, process in enumerate(started):
        time.sleep(0.2)
        os.kill(process.pid, number) if moment % 2 else os.killpg(process.pid, number)
    for process in started:
        printed = process.communicate(timeout=20)[0]
        assert process.returncode == 128 + number and "Traceback" not in printed and "error:" not in printed, printed


@pytest.mark.slow
def test_stages_stopped_at_random_moments_submit_the_same(tiny_competition, tmp_path):
    seed = int(os.environ.get("SEED", 1129))
    folders = [checkout(tmp_path / name, tiny_competition) for name in ("stopped", "undisturbed")]

    def begin(stage: str, folder: Path, arguments: list[str]) -> Stage:
        """Loaders have to be stopped, too; where nothing is stopped there need be none."""
        return fork_stage(stage, folder, arguments if folder == folders[0] else [*arguments, "run.workers=0"])

    stops = stages_stopped(*folders, SETTINGS, len(STAGES), seed, begin)
    assert stops
    submissions = [(folder / "submissions" / "submission.csv").read_bytes() for folder in folders]
    assert submissions[0] == submissions[1]
