"""The stage tune through its main, on the tiny competition: what it finds, writes and hands on; and killed again."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from src import predict, preprocess, split, train, tune
from src.base.errors import InputError
from src.base.files import read_json
from src.metrics.caption_scores import score_captions
from src.metrics.competition_score import caption_score
from src.pipeline import resolved, stages
from src.settings.keys import flatten
from src.settings.load import as_arguments, load, save
from src.settings.schema import Settings
from src.settings.yaml_files import read_yaml
from src.tuning.trials import TrainingObjective
from tests.conftest import TINY
from tests.helpers.in_process import inputs_in_process
from tests.helpers.tables import rows_of

pytestmark = pytest.mark.slow

SPACE = "tune.space={optim.lr: {low: 1e-4, high: 1e-1, log: true}, train.batch_size: {choices: [8, 16, 20]}}"
QUICK = [*TINY, "task=mos", "train.ema_decay=0", "split.holdout=0.4"]


def test_a_java_that_cannot_start_ends_the_search_before_its_first_trial(monkeypatch, tmp_path, competition):
    def refuse(*_):
        raise InputError("Java cannot be started")

    monkeypatch.setattr("src.metrics.meteor.shared_meteor", refuse)
    with pytest.raises(InputError, match="Java cannot be started"):
        TrainingObjective(load([*QUICK, "task=both", f"data.root={competition}"], "tune")[0], "mean", [0], tmp_path)
    TrainingObjective(load(QUICK, "tune")[0], "mos", [0], tmp_path)


@pytest.fixture(scope="module")
def searched(competition, tmp_path_factory):
    """A folder in which `train` alone was started, with a search to do first; and the arguments that it got."""
    folder = tmp_path_factory.mktemp("searched")
    space = "tune.space={optim.lr: {choices: [1e-3, 3e-2, 1e30]}, train.batch_size: {choices: [8, 16, 20]}}"
    arguments = [f"data.root={competition}", *QUICK, space, "tune.trials=5", "optim.lr=1e30", "optim.grad_clip_norm=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        inputs_in_process(patch)
        for stage in (preprocess, split, train):
            stage.main(arguments)
    return folder, arguments


def test_train_has_the_search_done_and_trains_the_winner(searched):
    folder, arguments = searched
    run = folder / "runs" / "demo"
    rows = rows_of(run / "tune" / "trials.csv")
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4"]
    scored = {row["trial"]: float(row["MOS score"]) for row in rows if row["state"] == "complete"}
    best = max(rows, key=lambda row: scored.get(row["trial"], -1))
    trained = dict(read_yaml(str(run / "fold-0" / "settings.yaml")))
    assert float(trained["optim.lr"]) == float(best["optim.lr"])
    assert trained["train.batch_size"] == best["train.batch_size"]
    assert trained["tune.trials"] == "0" and trained["tune.space"] == "null", "nothing is left to search"
    own = next((run / "tune").glob("*/1")).parent
    for number, score in scored.items():
        metrics = rows_of(own / number / "fold-0" / "metrics.csv")
        assert max(float(row["val_mos_score"]) for row in metrics) == score
    left = {path.name for path in own.rglob("*") if path.is_file()}
    assert left == {"metrics.csv"}, "no checkpoint of a trial is left"
    for name in ("history.png", "slices.png", "importance.png"):
        assert (run / "tune" / name).read_bytes().startswith(b"\x89PNG")
    # the same settings give the same epochs, in a trial and in the fold
    chosen = rows_of(own / best["trial"] / "fold-0" / "metrics.csv")
    assert chosen == rows_of(run / "fold-0" / "metrics.csv")


def test_settings_as_they_are_come_first_and_a_loss_that_is_not_finite_fails_its_trial_alone(searched):
    first = rows_of(searched[0] / "runs" / "demo" / "tune" / "trials.csv")[0]
    assert float(first["optim.lr"]) == 1e30 and first["train.batch_size"] == "16"
    assert first["state"] == "fail" and "the loss is not finite" in first["reason"]


def test_best_yaml_is_a_config_that_gives_the_same_run(searched, monkeypatch, capsys):
    folder, arguments = searched
    monkeypatch.chdir(folder)
    train.main(["--config", "runs/demo/tune/best.yaml"])
    tune.main(["--config", "runs/demo/tune/best.yaml"])
    tune.main(arguments)
    printed = capsys.readouterr().out
    assert printed.count("up to date") == 2 and "nothing to do" in printed
    tune.main([*arguments, "--show"])
    assert "the loss is not finite" in capsys.readouterr().out
    settings = load(arguments, "train")[0]
    found, winner = flatten(resolved.tuned(settings)), flatten(load(["--config", "runs/demo/tune/best.yaml"], "x")[0])
    assert found == winner and found["train.epochs"] == 2


@pytest.fixture
def workers(monkeypatch) -> list[subprocess.Popen]:
    """The processes that tune has started beside itself."""
    started: list[subprocess.Popen] = []

    def start(*given, **named):
        started.append(stages.start_stage(*given, **named))
        return started[-1]

    monkeypatch.setattr(tune, "stages", SimpleNamespace(start_stage=start, ensure_inputs=stages.ensure_inputs))
    return started


def test_random_trials_side_by_side_are_those_one_after_another(searched, monkeypatch, workers):
    folder, arguments = searched
    monkeypatch.chdir(folder)
    tune.main([*arguments, "run.name=beside", "run.jobs=2"])
    assert len(workers) == 1 and workers[0].poll() is not None
    columns = ("trial", "state", "MOS score", "optim.lr", "train.batch_size")
    tables = [rows_of(folder / "runs" / name / "tune" / "trials.csv") for name in ("demo", "beside")]
    assert [[row[column] for column in columns] for row in tables[0]] == [
        [row[column] for column in columns] for row in tables[1]
    ]


def test_a_finished_search_made_afresh_is_shared_out_too(searched, monkeypatch, workers):
    folder, arguments = searched
    monkeypatch.chdir(shutil.copytree(folder, folder.with_name("afresh"), symlinks=True))
    results = [Path("runs/demo/tune", name) for name in ("trials.csv", "judge.json")]
    before = [path.read_bytes() for path in results]

    def leave_to_the_other(study, *_):
        while len(study.finished()) < study.plan.trials:
            assert workers[0].poll() is None, "it has left the trials to this one"
            time.sleep(0.1)

    monkeypatch.setattr("src.tuning.worker.run_worker", leave_to_the_other)
    tune.main([*arguments, "run.jobs=2", "--fresh"])
    assert [path.read_bytes() for path in results] == before


def test_another_winner_never_overwrites_a_trained_fold(searched, monkeypatch):
    folder, arguments = searched
    monkeypatch.chdir(shutil.copytree(folder, folder.with_name("other"), symlinks=True))
    best = Path("runs/demo/tune/best.yaml")
    best.write_text(best.read_text().replace("optim.lr: ", "optim.lr: 9"))
    monkeypatch.setattr(train, "ensure_inputs", lambda *_: None)
    with pytest.raises(InputError, match=r"optim.lr was .* is .*run.name=NAME.*--fresh"):
        train.main(arguments)


def search(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    with open("log.txt", "a") as log:
        os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
        tune.main(arguments)


def started(folder: Path, arguments: list[str]) -> multiprocessing.Process:
    """The stage as a process of its own, with what it imports already imported."""
    process = multiprocessing.get_context("fork").Process(target=search, args=(folder, arguments))
    process.start()
    return process


def epochs_of(folder: Path) -> int:
    """How many epochs all trials together have trained."""
    files = (folder / "runs" / "demo" / "tune").glob("*/*/fold-0/metrics.csv")
    return sum(len(file.read_text().splitlines()) - 1 for file in files)


def test_a_search_killed_again_and_again_tries_the_same_and_finds_the_same(searched, competition, tmp_path, one_thread):
    cache, moments = searched[0] / "runs" / "cache", random.Random(1)
    arguments = [f"data.root={competition}", *QUICK, SPACE, "tune.trials=5", "tune.pruner=halving"]
    found = {}
    for name, kills in (("whole", ()), ("killed", (1, 2, 4, 7))):
        shutil.copytree(cache, tmp_path / name / "runs" / "cache")
        for epochs in kills:  # of 10: in the middle of a trial, or between two
            process = started(tmp_path / name, arguments)
            while process.is_alive() and epochs_of(tmp_path / name) < epochs:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.2))
            assert process.is_alive()
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        process = started(tmp_path / name, arguments)
        process.join()
        assert process.exitcode == 0, (tmp_path / name / "log.txt").read_text()[-2000:]
        results = tmp_path / name / "runs" / "demo" / "tune"
        found[name] = [(results / file).read_bytes() for file in ("trials.csv", "best.yaml", "judge.json")]
    assert found["killed"] == found["whole"]
    rows = rows_of(results / "trials.csv")
    assert len(rows) == 5 and len({row["optim.lr"] for row in rows}) == 5, "no trial is a copy of another"
    assert "on fold 0 with another seed" in found["whole"][2].decode(), "there is one fold only"


def test_decoding_is_searched_out_of_fold_without_training(competition, workplace, meteor, quick, capsys):
    arguments = [f"data.root={competition}", *TINY, "task=caption", "vocabulary.minimum_count=1", "train.epochs=1"]
    arguments.append("augment.flip=0.5")
    for stage in (preprocess, split, train, predict):
        stage.main(arguments)
    tune.main(["--stage", "decode", "tune.trials=4", f"data.root={competition}", "decoding.no_repeat_ngram_size=0"])
    rows = rows_of(Path("runs/demo/tune-decode/trials.csv"))
    searched = {"decoding.beam", "decoding.length_penalty", "decoding.minimum_words"}
    assert {key for key in rows[0] if key.startswith("decoding.")} == searched, "what the command line gives is not"
    own = ["decoding.beam=1", "tune.space={decoding.beam: {low: 1, high: 4}}", "tune.folds=[0]"]
    tune.main(["--stage", "decode", "tune.trials=4", f"data.root={competition}", *own])
    assert "on fold 1)" in read_json(Path("runs/demo/tune-decode/judge.json"))["verdict"], "the fold that is left"
    tune.main(["--stage", "decode", "tune.trials=4", f"data.root={competition}", "decoding.no_repeat_ngram_size=0"])
    arguments.append("decoding.no_repeat_ngram_size=0")
    predict.main(arguments)
    said = {row["photo_id"]: row["caption"] for row in rows_of(Path("runs/demo/predictions/oof.csv"))}
    references: dict[str, list[str]] = {name: [] for name in said}
    for row in rows_of(competition / "train.csv"):
        references[row["img_name"]] += [row["comments"]] * bool(row["comments"])
    names = [name for name in said if references[name]]
    totals = score_captions([references[name] for name in names], [said[name] for name in names]).totals()
    assert float(rows[0]["caption score"]) == pytest.approx(caption_score(totals, Settings().metric.weights))
    capsys.readouterr()
    train.main(["--config", "runs/demo/tune-decode/best.yaml"])
    assert capsys.readouterr().out.count("up to date") == 2, "a decoding config leaves the folds as they are"


@pytest.mark.parametrize("fold", [["tune.folds=[4]"], ["tune.folds=[0]", "tune.judge_folds=[4]"], ["--fold", "4"]])
def test_folds_of_a_run_are_judged_by_its_own_settings(competition, workplace, fold):
    trained, _ = load([f"data.root={competition}", *TINY, "run.name=five", "split.folds=5"], "train")
    for name in ("fold-0", "fold-4"):
        save(trained, workplace / "runs" / "five" / name / "settings.yaml")
    with pytest.raises(InputError, match=r"^runs/five/fold-[04]: not made yet; python -m src.train run.name=five"):
        tune.main(["--stage", "decode", "run.name=five", "tune.trials=4", *fold])


def test_the_demo_alone_is_tuned_unasked(workplace):
    def plan(*argv):
        return resolved.search_plan(load(list(argv), "train")[0])

    assert plan("tune.folds=[1]").judge_folds == [0, 2], "those that were not searched"
    assert plan("tune.folds=[2, 0, 1, 3]").judge_folds == [2, 0], "with another seed"
    assert plan("tune.judge_folds=[]").judge_folds == [] and plan("split.holdout=0.1").judge_folds == [0]
    assert (plan().trials, plan().objective, plan().folds) == (2, "mean", [0])
    assert plan().epochs == Settings().train.epochs, "a trial is trained as its winner will be"
    assert plan("task=mos").objective == "mos"
    assert plan("tune.trials=0").trials == plan("data.root=elsewhere").trials == 0
    assert "optim.lr" not in plan("optim.lr=3e-3").space, "what the command line gives is not searched"
    (workplace / "data").mkdir()
    (workplace / "data" / "train.csv").write_text("a competition's own")
    assert plan().trials == 0


def test_the_search_space_goes_through_arguments_and_files(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tune:\n  trials: 3\n  space:\n    optim.lr: {low: 1e-5, high: 1e-2, log: true}\n"
                    "    decoder.project: {choices: [null, 64]}\n")  # fmt: skip
    settings = load(["--config", str(file)], "train")[0]
    assert settings.tune.space == {
        "optim.lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "decoder.project": {"choices": [None, 64]},
    }
    assert load(as_arguments(settings), "train")[0] == settings
    given = load(["--config", str(file), "optim.lr=1e-3"], "train")[0]
    assert list(given.tune.space) == ["decoder.project"] and load(as_arguments(given), "train")[0] == given
