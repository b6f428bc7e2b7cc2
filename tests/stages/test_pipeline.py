"""Every stage through its main, on a tiny competition, from the tables to a submission that passes its check."""

import csv
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest

from src import ensemble, evaluate, predict, preprocess, split, submit, train
from src.base.errors import InputError
from src.pipeline import stages
from src.training import checkpoint
from tests.conftest import TINY
from tests.helpers.small_meteor import fixed_constant, quick_java
from tests.helpers.tables import rows_of
from tests.helpers.warm_python import start_stage
from tests.training.test_training import equal

pytestmark = pytest.mark.slow

STAGES = (preprocess, split, train, predict, ensemble, evaluate, submit)
REPOSITORY = Path(__file__).parents[2]


def run_all(root, *extra):
    for stage in STAGES:
        stage.main([f"data.root={root}", *TINY, *extra])


@pytest.fixture(scope="module", autouse=True)
def small(meteor):
    """All stages of this file score by the small METEOR, and do not search long for constant sentences."""
    with pytest.MonkeyPatch.context() as patch:
        quick_java(patch, meteor)
        patch.setattr("src.metrics.constant_caption.STEPS", 2)
        yield


@pytest.fixture(scope="module")
def finished(competition, small, tmp_path_factory):
    """A folder in which the whole pipeline has run once."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "submissions").mkdir()
        run_all(competition)
    return folder


def test_submission_has_the_sample_s_form(finished, competition):
    submitted = rows_of(finished / "submissions" / "submission.csv")
    sample = rows_of(competition / "sample_submission.csv")
    labels = [float(row["mos"]) for row in rows_of(competition / "train.csv") if row["mos"]]
    assert [row["img_name"] for row in submitted] == [row["img_name"] for row in sample]
    assert list(submitted[0]) == ["img_name", "mos", "comments"]
    assert all(min(labels) <= float(row["mos"]) <= max(labels) for row in submitted)
    assert all(row["comments"].strip() and "<unk>" not in row["comments"] for row in submitted)
    assert (finished / "submissions" / "demo.csv").read_bytes() == (
        finished / "submissions" / "submission.csv"
    ).read_bytes()


def test_every_stage_leaves_its_files(finished):
    run = finished / "runs" / "demo"
    for name in ("best-mos.pt", "best-caption.pt", "last.pt", "metrics.csv", "curves.png", "settings.yaml"):
        assert (run / "fold-0" / name).is_file() and (run / "fold-1" / name).is_file()
    assert len(rows_of(run / "fold-0" / "metrics.csv")) == 2
    assert list((run / "fold-0" / "tensorboard").iterdir())
    for name in ("curves.png", "examples.png", "score.json", "report.html", "predictions/oof.csv", "ensemble/test.csv"):
        assert (run / name).is_file()
    assert not [path for path in finished.rglob("*.tmp")], "no temporary file is left"


def test_every_run_is_tested_for_covariate_shift(finished):
    run = finished / "runs" / "demo"
    report = json.loads((run / "covariate_shift.json").read_text())
    assert report["overall"]["rows"] == [0, 20] and report["test_like"]["photos"] == 15
    weights = pd.read_csv(run / "covariate_shift.csv", dtype={"photo_id": str})
    assert len(weights) == 60 and weights["weight"].mean() == pytest.approx(1)
    assert (run / "covariate_shift.png").is_file() == report["shifted"]


def test_every_score_stands_beside_its_baseline_and_interval(finished):
    score = json.loads((finished / "runs" / "demo" / "score.json").read_text())
    assert score.keys() == {"oof", "test", "network"}
    for part in ("oof", "test"):
        report = score[part]
        assert report["mos"].keys() == {"plcc", "srcc", "score", "interval", "photos"}
        assert {"bleu1", "bleu4", "meteor", "rouge_l", "cider_d", "score", "interval", "photos"} <= report[
            "caption"
        ].keys()
        assert report["baseline"]["mos"] == report["members"]["ridge"]["score"]
        assert report["baseline"]["caption"] > 0 and report["baseline"]["sentence"]
        assert report["mos"]["interval"][0] <= report["mos"]["score"] <= report["mos"]["interval"][1]
    assert score["oof"]["mos"]["photos"] == 60 and score["test"]["mos"]["photos"] == 20
    assert [fold["fold"] for fold in score["oof"]["folds"]] == [0, 1]


def test_out_of_fold_predictions_cover_every_training_photo_once(finished, competition):
    table = pd.read_csv(finished / "runs" / "demo" / "predictions" / "oof.csv", dtype={"photo_id": str})
    names = {row["img_name"] for row in rows_of(competition / "train.csv")}
    assert set(table["photo_id"]) == names and len(table) == len(names)
    folds = pd.read_csv(next((finished / "runs" / "cache").glob("folds-*")) / "folds.csv", dtype={"photo_id": str})
    merged = table.merge(folds, on="photo_id", suffixes=("", "_split"))
    assert (merged["fold"] == merged["fold_split"]).all()


def test_the_same_in_another_folder_with_two_workers_is_the_same_file(finished, competition, workplace, monkeypatch):
    fixed_constant(monkeypatch)  # no photo of this competition gets it
    root = shutil.copytree(competition, workplace / "moved")
    run_all(root, "run.workers=2", "run.name=other")
    assert (workplace / "submissions" / "submission.csv").read_bytes() == (
        finished / "submissions" / "submission.csv"
    ).read_bytes()
    for name in ("metrics.csv", "best-mos.pt"):
        here, there = (f / "runs" / n / "fold-1" / name for f, n in ((workplace, "other"), (finished, "demo")))
        if name == "metrics.csv":
            assert here.read_bytes() == there.read_bytes()
        else:  # the settings in it differ by run.name
            assert equal(checkpoint.load(here)["model"], checkpoint.load(there)["model"])


def test_finished_stages_are_skipped_and_say_so(finished, competition, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    run_all(competition)
    printed = capsys.readouterr().out
    assert printed.count("up to date") == 9  # two of preprocess and one per fold
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert {p for p in after if before.get(p) != after[p] and not p.name.endswith(".lock")} == set()


def test_the_report_is_there_after_every_evaluate_and_submit(finished, competition, monkeypatch):
    monkeypatch.chdir(finished)
    report = finished / "runs" / "demo" / "report.html"
    whole = report.read_bytes()
    score = json.loads((finished / "runs" / "demo" / "score.json").read_text())["oof"]
    for shown in (f"{score['mos']['score']:.4f}", f"{score['caption']['score']:.4f}", "Checks of the submission, all"):
        assert shown in whole.decode()
    for stage in (evaluate, submit):
        report.unlink()
        stage.main([f"data.root={competition}", *TINY])
        assert report.read_bytes() == whole
    measures = score["baseline"]["measures"]
    assert measures.keys() == {*(f"bleu{n}" for n in (1, 2, 3, 4)), "meteor", "rouge_l", "cider_d", "wer"}
    by_photo = rows_of(finished / "runs" / "demo" / "caption_scores.csv")
    mean = sum(float(row["cider_d"]) for row in by_photo) / len(by_photo)
    assert mean == pytest.approx(score["caption"]["cider_d"]) and len(by_photo) == score["caption"]["photos"]
    errors, words = (sum(float(row[name]) for row in by_photo) for name in ("edits", "words"))
    assert errors / words == pytest.approx(score["caption"]["wer"])


def test_a_fold_trained_otherwise_is_never_overwritten(finished, competition, monkeypatch):
    monkeypatch.chdir(finished)
    kept = (finished / "runs" / "demo" / "fold-0" / "best-mos.pt").read_bytes()
    with pytest.raises(InputError, match=r"optim.lr was 0.003, is 0.1.*run.name=NAME.*--fresh"):
        train.main([f"data.root={competition}", *TINY, "optim.lr=0.1"])
    assert (finished / "runs" / "demo" / "fold-0" / "best-mos.pt").read_bytes() == kept


def test_check_finds_every_fault_at_once(finished, competition, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(finished)
    submit.main(["--check", "submissions/submission.csv", f"data.root={competition}"])
    assert "a valid submission" in capsys.readouterr().out
    rows = rows_of(finished / "submissions" / "submission.csv")
    rows[0]["mos"], rows[1]["mos"], rows[2]["comments"], rows[3]["comments"] = "nan", "99", " ", "a <unk> b"
    rows[4]["img_name"] = rows[5]["img_name"]
    broken = tmp_path / "broken.csv"
    with open(broken, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[:-1])
    with pytest.raises(InputError) as error:
        submit.main(["--check", str(broken), f"data.root={competition}"])
    for words in (
        "19 rows, not 20",
        "1 photos twice",
        "2 photos missing",
        "2 wrong MOS",
        "outside the labels' range",
        "1 empty captions",
        "1 captions with <unk>",
    ):
        assert words in str(error.value)


def test_submissions_log_keeps_what_the_user_wrote(finished, competition, monkeypatch):
    monkeypatch.chdir(finished)
    log = finished / "submissions" / "log.csv"
    text = log.read_text().rstrip("\n") + "0.8123\n"
    log.write_text(text)
    submit.main([f"data.root={competition}", *TINY, "--fresh"])
    assert log.read_text() == text
    assert rows_of(log)[0]["leaderboard"] == "0.8123"


def test_manifest_names_all_that_the_file_was_made_from(finished):
    manifest = json.loads((finished / "submissions" / "demo.manifest.json").read_text())
    score = json.loads((finished / "runs" / "demo" / "score.json").read_text())
    assert manifest["local_score"]["mos"] == score["oof"]["mos"]["score"]
    run = manifest["runs"]["demo"]
    assert run["settings"]["view.size"] == 32
    assert run["checkpoints"].keys() == {"fold-0", "fold-1"}
    for part in ("photos", "folds", "vocabulary", "predictions"):
        assert all(len(sha) == 64 for sha in run[part].values())
    assert manifest["made_with"]["packages"]["torch"]


def test_train_alone_makes_what_is_missing_first(competition, workplace):
    """The first command of README's second way in: no stage has run, one fold is asked for."""
    arguments = ["--fold", "0", f"data.root={competition}", *TINY, "task=mos"]
    variables = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    process = start_stage(workplace, "src.train", arguments, variables, workplace / "printed")
    printed, errors = process.communicate(300)
    assert process.returncode == 0, errors
    assert "needs preprocess first" in printed and "needs split first" in printed
    assert (workplace / "runs" / "demo" / "fold-0" / "best-mos.pt").is_file()
    assert not (workplace / "runs" / "demo" / "fold-1").exists()
    assert not (workplace / "runs" / "demo" / "fold-0" / "best-caption.pt").exists(), "task=mos learns no captions"


def test_a_given_root_without_train_csv_is_an_error(workplace):
    with pytest.raises(InputError, match="no such folder"):
        preprocess.main(["data.root=nowhere"])
    (workplace / "empty").mkdir()
    with pytest.raises(InputError, match="train.csv"):
        preprocess.main(["data.root=empty"])


def test_unusable_photos_stop_the_run_or_are_left_out(competition, quick, workplace):
    root = shutil.copytree(competition, workplace / "data1")
    rows, tests = rows_of(root / "train.csv"), rows_of(root / "test.csv")
    (root / rows[0]["img_path"]).write_bytes(b"no photo")
    absent = next(row for row in rows if row["img_name"] != rows[0]["img_name"])
    (root / absent["img_path"]).unlink()
    (root / tests[0]["img_path"]).write_bytes(b"")
    arguments = [f"data.root={root}", *TINY, "run.name=dirty"]
    with pytest.raises(InputError, match="3 rows or photos cannot be used.*data.on_bad_photo=skip"):
        preprocess.main(arguments)
    listed = {row["photo_id"] for row in rows_of(workplace / "runs" / "dirty" / "rejected.csv")}
    assert listed == {rows[0]["img_name"], absent["img_name"], tests[0]["img_name"]}
    skip = [*arguments, "data.on_bad_photo=skip", "--fold=0"]
    for stage in STAGES:
        stage.main(skip)
    predicted = rows_of(workplace / "runs" / "dirty" / "ensemble" / "test.csv")
    assert len(predicted) == len(tests)
    marked = [row for row in predicted if row["fallback"]]
    assert [row["photo_id"] for row in marked] == [tests[0]["img_name"]]
    means = {row["img_name"]: float(row["mos"]) for row in rows if row["img_name"] not in listed}
    assert float(marked[0]["mos"]) == pytest.approx(sum(means.values()) / len(means))
    assert marked[0]["caption"] == "the light is nice", "the constant sentence of the training captions"
    with pytest.raises(InputError, match="3 rows or photos"):
        preprocess.main(arguments)


@pytest.mark.parametrize(
    "arguments, absent, own, quality, caption",
    [
        (["task=mos", "view.color=gray", "split.holdout=0.3"], "comments", "mos", True, False),
        (["task=caption", "--fold=1", "decoder.cell=lstm", "decoder.image=first"], "mos", "comments", False, True),
    ],
    ids=["no captions", "no MOS"],
)
def test_a_competition_of_one_task(
    arguments, absent, own, quality, caption, tiny_competition, quick, workplace, capsys, monkeypatch
):
    """Its tables have no column of the other task. The form may have; what it has besides stays as it is."""
    if not caption:

        def refuse(*_: object) -> None:
            pytest.fail("METEOR started without captions")

        monkeypatch.setattr("src.metrics.meteor.shared_meteor", refuse)
    root = shutil.copytree(tiny_competition, workplace / "data1")
    for name in ("train.csv", "test_labels.csv"):
        table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        table.drop(columns=absent).to_csv(root / name, index=False)
    run_all(root, *arguments)
    score = json.loads((workplace / "runs" / "demo" / "score.json").read_text())
    for part in ("oof", "test"):
        assert (score[part]["mos"] is not None, score[part]["caption"] is not None) == (quality, caption)
    whole = rows_of(workplace / "submissions" / "submission.csv")
    assert len(whole) == 10 and all(row["mos"] and row["comments"] for row in whole)

    sample = pd.read_csv(root / "sample_submission.csv", dtype=str).drop(columns=absent)[::-1].reset_index(drop=True)
    sample.assign(note=[f"{i}.50" for i in range(10)]).to_csv(root / "sample_submission.csv")  # an index without a name
    submit.main([f"data.root={root}", *TINY, *arguments])
    filled = rows_of(workplace / "submissions" / "submission.csv")
    by_name = {row["img_name"]: row for row in whole}
    expected = [
        {"": str(i), "img_name": name, own: by_name[name][own], "note": f"{i}.50"}
        for i, name in enumerate(sample["img_name"])
    ]
    assert [{column: row[column] for column in expected[0]} for row in filled] == expected
    assert list(filled[0]) == ["", *sample, "note"]
    submit.main(["--check", "submissions/submission.csv", f"data.root={root}"])

    (root / "sample_submission.csv").unlink()
    submit.main([f"data.root={root}", *TINY, *arguments])
    alone = rows_of(workplace / "submissions" / "submission.csv")
    assert list(alone[0]) == ["img_name", own]
    assert {row["img_name"]: row[own] for row in alone} == {name: row[own] for name, row in by_name.items()}
    submit.main(["--check", "submissions/submission.csv", f"data.root={root}"])
    assert capsys.readouterr().out.count("a valid submission") == 2


def test_a_stage_makes_the_demo_first_where_nothing_is_there(workplace, monkeypatch):
    """Without data.root and data/train.csv every stage begins with preprocess, which makes the demo."""
    begun = []

    def begin(stage, settings):
        begun.append(stage)
        raise InputError("far enough")

    monkeypatch.setattr(stages, "_run_stage", begin)
    for stage in (split, train, predict, evaluate, submit):
        with pytest.raises(InputError, match="far enough"):
            stage.main(["--fold", "0"])
    assert begun == ["preprocess"] * 5


def test_a_damaged_fold_is_not_passed_off_as_whole(finished, competition, workplace):
    copy = shutil.copytree(finished / "runs", workplace / "runs")
    path = copy / "demo" / "fold-0" / "best-mos.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="best-mos.pt was changed after training had finished; --fresh"):
        train.main([f"data.root={competition}", *TINY])


def test_what_fresh_replaces_is_gone_before_it_trains(finished, competition, workplace, monkeypatch):
    """So that the same command without --fresh goes on, whatever stopped it."""
    shutil.copytree(finished / "runs", workplace / "runs")
    arguments = [f"data.root={competition}", *TINY, "optim.lr=0.002", "train.epochs=1"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_fold", stopped := Mock(side_effect=InputError("stopped")))
        with pytest.raises(InputError, match="stopped"):
            train.main([*arguments, "--fresh"])
    assert stopped.call_count == 1 and not list((workplace / "runs" / "demo").glob("fold-*/*.pt"))
    train.main(arguments)
    assert len(list((workplace / "runs" / "demo").glob("fold-*/best-mos.pt"))) == 2


def test_a_second_run_does_not_do_without_photos_unsaid(tiny_competition, workplace):
    root = Path(shutil.copytree(tiny_competition, workplace / "data2"))
    photo = root / rows_of(root / "train.csv")[0]["img_path"]
    photo.write_bytes(photo.read_bytes()[:300])
    arguments = [f"data.root={root}", *TINY]
    skip = "data.on_bad_photo=skip"
    split.main([*arguments, "run.name=one", skip])
    with pytest.raises(SystemExit):
        split.main([*arguments, "run.name=two"])
    split.main([*arguments, "run.name=three", skip])
    assert len(rows_of(workplace / "runs" / "three" / "rejected.csv")) == 1


def test_starting_from_a_run_that_was_split_otherwise_is_refused(finished, competition, monkeypatch):
    monkeypatch.chdir(finished)
    arguments = [f"data.root={competition}", *TINY, "run.name=next", "train.start_from=demo", "--fold=0"]
    train.main([*arguments, "train.epochs=1"])
    with pytest.raises(InputError, match="was split otherwise"):
        train.main([*arguments, "split.seed=1", "run.name=leak"])
