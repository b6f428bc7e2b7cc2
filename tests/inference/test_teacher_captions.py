"""A student of a tiny teacher: what it learns, what it is judged by, and what is kept."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from src import preprocess, split, train
from src.base.errors import InputError
from src.data.vocabulary import Vocabulary
from src.inference import teacher_captions
from src.inference.caption_candidates import best_captions
from src.pipeline import outputs
from src.pipeline.trained_runs import load_run
from src.settings.load import load
from src.training import checkpoint
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.fit import Fit
from src.training.fold_data import read_fold
from src.training.self_critical import SelfCritical
from tests.conftest import TINY

pytestmark = pytest.mark.slow

ONE = Ranks(0, 1, torch.device("cpu"))
TEACHER = ["run.name=teacher", "view.size=40", "train.epochs=1", "optim.lr=0.02", "optim.warmup_epochs=0",
           "decoding.beam=3", "decoding.maximum_words=9"]  # fmt: skip
STUDENT = ["run.name=student", "decoder.distill_from=teacher", "vocabulary.minimum_count=4", "decoder.cell=lstm",
           "train.captions_per_photo=2", "self_critical.from_epoch=1"]  # fmt: skip


@pytest.fixture(scope="module")
def common(competition) -> list[str]:
    return [f"data.root={competition}", *TINY, "task=caption", "--fold=0"]


@pytest.fixture(scope="module")
def taught(common, meteor, tmp_path_factory):
    """A folder with both trained through main, the batches and references that the student saw, and its fold's data."""
    folder, steps, rewarded = tmp_path_factory.mktemp("taught"), [], []
    step, prepare = Engine._step, SelfCritical.__init__

    def stepped(engine, batch, rewards=False):
        steps.append((batch["row"].tolist(), batch["captions"].clone(), rewards))
        step(engine, batch, rewards)

    def prepared(critic, settings, labels, *given):
        rewarded.append(labels)
        prepare(critic, settings, labels, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("src.metrics.meteor.shared_meteor", lambda *_: meteor)
        for stage in (preprocess, split, train):
            stage.main([*common, *TEACHER])
        patch.setattr(Engine, "_step", stepped)
        patch.setattr(SelfCritical, "__init__", prepared)
        for stage in (preprocess, split, train):
            stage.main([*common, *STUDENT])
        data = data_of(load([*common, *STUDENT], "train")[0])
    return folder, steps, rewarded[0], data


def data_of(settings):
    places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
    said = teacher_captions.load_teacher_captions(settings, 0, ONE)
    return read_fold(*places, 0, settings.vocabulary.maximum_words, teacher_captions=said)


@pytest.fixture
def place(taught, workplace) -> Path:
    """A copy of the folder to work in."""
    return Path(shutil.copytree(taught[0], workplace, dirs_exist_ok=True))


def test_the_student_sees_what_the_teacher_writes_and_nothing_else(taught, common, monkeypatch):
    folder, steps, _, data = taught
    monkeypatch.chdir(folder)
    teacher, _ = load([*common, *TEACHER], "train")
    its = data_of(teacher)
    rows = its.train_rows.tolist()
    said = best_captions([folder / "runs" / "teacher" / "fold-0"], teacher, its.labels, rows, ONE, "")
    assert len(set(said.values())) > 1, "the teacher does not say one thing to all"
    own: Vocabulary = data.vocabulary
    assert len(own) < len(its.vocabulary), "the student knows fewer words than its teacher"
    captioned = np.diff(data.labels.photo_offsets) > 0
    assert sorted(row for seen, _, rewards in steps for row in seen if not rewards) == sorted(rows)
    for seen, captions, _ in steps:
        for row, (caption, second) in zip(seen, captions.tolist(), strict=True):
            expected = own.encode(said[row]) if captioned[row] else []
            assert caption == expected + [0] * (len(caption) - len(expected)) and not any(second)
    assert any(captioned[row] and len(data.labels.captions(row)) > 1 for row in rows)


def test_the_student_is_judged_and_rewarded_by_what_people_wrote(taught, common, monkeypatch):
    folder, steps, rewarded, data = taught
    monkeypatch.chdir(folder)
    plain = data_of(load([*common, *(a for a in STUDENT if "distill" not in a)], "train")[0])
    assert plain.targets is plain.labels and any(rewards for *_, rewards in steps)
    for labels in (rewarded, data.labels):
        assert np.array_equal(labels.tokens, plain.labels.tokens) and np.array_equal(
            labels.photo_offsets, plain.labels.photo_offsets
        )
    assert data.references == plain.references and any(len(several) > 1 for several in data.references)
    assert all(not data.targets.captions(row) for row in data.validation_rows)


def test_what_the_teacher_wrote_is_kept_and_what_was_cut_off_goes_on(place, common, monkeypatch, capsys):
    settings, _ = load([*common, *STUDENT, "run.name=other", "decoder.hidden=16"], "train")
    kept = outputs.teacher_captions(settings, 0)
    files = {path.name: path.read_bytes() for path in kept.folder.glob("0*.json")}
    write, calls = teacher_captions.best_captions, []

    def cut(*arguments):
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(teacher_captions, "best_captions", cut)
    whole = teacher_captions.load_teacher_captions(settings, 0, ONE)
    assert not calls and "up to date" in capsys.readouterr().out and len(files) == 1
    shutil.rmtree(kept.folder)
    monkeypatch.setattr(teacher_captions, "_BATCHES", 1)
    with pytest.raises(KeyboardInterrupt):
        teacher_captions.load_teacher_captions(settings, 0, ONE)
    assert teacher_captions.load_teacher_captions(settings, 0, ONE) == whole
    assert [len(rows) for rows in calls] == [16, 14, 14] and calls[1] == calls[2], "what was done is not done again"


def test_another_teacher_is_another_fold(place, common):
    arguments = [*common, *STUDENT]
    settings, _ = load(arguments, "train")
    train.main(arguments)  # up to date: the student needs nothing
    teacher = place / "runs" / "teacher" / "fold-0"
    before = outputs.fold(settings, 0).inputs
    saved = teacher / "settings.yaml"
    saved.write_text(saved.read_text().replace("beam: 3", "beam: 1"))
    other = outputs.fold(settings, 0).inputs
    assert {name for name in before if before[name] != other[name]} == {"distill_from"}
    with pytest.raises(InputError, match=r"its distill_from changed.*run.name=NAME"):
        train.main(arguments)
    assert load_run(["run.name=teacher", "--fold=0"], "train")[0].decoding.beam == 1
    marker = teacher / "done.json"
    marker.write_text(marker.read_text().replace('"sha256": "', '"sha256": "0', 1))
    assert outputs.fold(settings, 0).inputs["distill_from"] not in (before["distill_from"], other["distill_from"])


def test_a_teacher_that_may_not_teach_is_one_line(place, common):
    arguments = [*common, *STUDENT, "run.name=other"]
    split.main([*arguments, "split.seed=1"])
    with pytest.raises(InputError, match=r"^decoder.distill_from=teacher was split otherwise.* same split\.\* set"):
        train.main([*arguments, "split.seed=1"])
    settings, _ = load(arguments, "train")
    saved = place / "runs" / "teacher" / "fold-0" / "settings.yaml"
    saved.write_text(saved.read_text().replace("task: caption", "task: mos"))
    with pytest.raises(InputError, match=r"^decoder.distill_from=teacher has learned no captions \(task=mos\)"):
        teacher_captions._teacher(settings, 0)
    assert not (place / "runs" / "other").exists()


def test_a_student_that_is_cut_off_goes_on_at_the_same_bit(place, common, monkeypatch):
    settings, _ = load([*common, *STUDENT], "train")
    done = place / "runs" / "student" / "fold-0"
    monkeypatch.setattr("src.metrics.meteor.shared_meteor", lambda *_: None)
    fit = Fit(settings, data_of(settings), 0, place, ONE)
    monkeypatch.setattr(fit, "validate", dict)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.run(stop)
    again = Fit(settings, data_of(settings), 0, place, ONE)
    monkeypatch.setattr(again, "validate", dict)
    again.run()
    ours, theirs = (checkpoint.load(folder / "last.pt")["engine"]["model"] for folder in (place, done))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
