"""Wrong settings files, arguments, places and encoders end any stage with one clear line."""

import os
import pickle
import shutil
from pathlib import Path

import pytest

from src import evaluate, preprocess, split, submit, train, tune
from src.settings import load
from tests.helpers.bad_input import SMALL, Malicious, exit_code, hurry, preprocessed_competition, refused


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small competition that has gone through preprocess and split."""
    folder = preprocessed_competition(tmp_path_factory.mktemp("prepared"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        hurry(patch)
        assert exit_code(split, *SMALL) == 0
    return folder


@pytest.fixture
def place(prepared, workplace, monkeypatch):
    """A copy of it to work in."""
    hurry(monkeypatch)
    return Path(shutil.copytree(prepared, workplace, dirs_exist_ok=True))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)
YAML = {
    "tab": (b"optim:\n\tlr: 1\n", "not valid YAML", "line 2"),
    "open bracket": (b"optim: {lr: 1\n", "not valid YAML", "expected ',' or '}'"),
    "doubled key": (b"task: mos\ntask: both\n", "task is given twice", "keep one"),
    "doubled in two ways of writing": (b"optim: {lr: 1}\noptim.lr: 2\n", "optim.lr is given twice", "keep one"),
    "unknown key": (b"optim: {lrr: 1}\n", "unknown setting optim.lrr", "did you mean optim.lr?"),
    "key that is no text": (b"3: 4\n", "unknown setting 3", "--help lists all settings"),
    "key that is a list": (b"? [task]\n: mos\n", "not valid YAML", "unhashable key"),
    "list": (b"- task\n- mos\n", "expected lines of 'key: value'", "found list"),
    "text": (b"task mos\n", "expected lines of 'key: value'", "found str"),
    "list for a value": (b"optim: {lr: [1, 2]}\n", 'optim.lr=["1", "2"]', "expected a number, at least 0"),
    "list for a group": (b"optim: [1, 2]\n", "optim is a group of settings", "set one of optim.name, optim.lr"),
    "group for a value": (b"view: {size: {side: 3}}\n", "unknown setting view.size.side", "did you mean view.size?"),
    "wrong type": (b"view: {size: big}\n", "view.size=big", "expected a whole number, at least 16"),
    "fraction for a whole number": (b"train: {epochs: 1.5}\n", "train.epochs=1.5", "expected a whole number"),
    "date for a number": (b"view: {size: 2024-01-01}\n", "view.size=2024-01-01", "expected a whole number"),
    "former name": (b"train: {ema: 0.9}\n", "train.ema=0.9", "is train.ema_decay=0.9 now"),
    "former group": (b"quality.dropout: 0.1\n", "quality.dropout=0.1", "is mos_head.dropout=0.1 now"),
    "value of several lines": (b"view:\n  size: |\n    1\n    2\n", "view.size=1 2", "expected a whole number"),
    "alias": (b"optim: &a {lr: 1}\nloss: *a\n", "*a", "write the value out"),
    "a group that holds itself": (b"optim: &a {lr: *a}\n", "*a", "write the value out"),
    "a billion laughs": (LAUGHS.encode(), "*a", "write the value out"),
    "nested without end": (b"task: " + b"[" * 2_000, "nested too deeply", "key: value"),
    "code": (b"task: !!python/object/apply:os.mkdir ['executed']\n", "not valid YAML", "could not determine"),
    "several documents": (b"task: mos\n---\ntask: both\n", "not valid YAML", "single document"),
    "UTF-16": ("task: mos\n".encode("utf-16"), "not UTF-8 text", "save it as UTF-8"),
    "Latin-1": ("run: {name: café}\n".encode("latin-1"), "not UTF-8 text", "save it as UTF-8"),
    "NUL byte": (b"task: m\0os\n", "not valid YAML", "special characters are not allowed"),
    "a photo": (b"\xff\xd8\xff\xe0\0\x10JFIF", "not UTF-8 text", "save it as UTF-8"),
}


@pytest.mark.parametrize("kind", YAML)
def test_a_bad_settings_file_is_refused(kind, place, capfd):
    content, *words = YAML[kind]
    (place / "mine.yaml").write_bytes(content)
    refused(capfd, split, ["--config", "mine.yaml"], ("mine.yaml", *words))
    assert not (place / "executed").exists()


def test_a_settings_file_that_cannot_be_opened_is_refused(place, capfd):
    refused(capfd, split, ["--config", "none.yaml"], ("--config none.yaml: no such file",))
    (place / "configs").mkdir()
    (place / "configs" / "demo.yaml").write_text("task: mos\n")
    refused(capfd, split, ["--config=configs/dem.yaml"], ("no such file; did you mean configs/demo.yaml?",))
    refused(capfd, split, ["--config", "configs"], ("--config configs", "Is a directory"))
    os.mkfifo("pipe.yaml")
    refused(capfd, split, ["--config", "pipe.yaml"], ("--config pipe.yaml", "a pipe or device in place of a file"))
    (place / "configs" / "demo.yaml").chmod(0)
    refused(capfd, split, ["--config", "configs/demo.yaml"], ("--config configs/demo.yaml", "Permission denied"))


def test_numbers_and_dates_of_a_settings_file_are_read_as_they_stand(place):
    """YAML 1.1 would take 0123 for 83, 12:30 for 750 and 2024-01-01 for a date."""
    for text in ("0123", "12:30", "2024-01-01", "1_000", "1e3"):
        (place / "mine.yaml").write_text(f"\ufeffrun: {{name: {text}}}\noptim: {{lr: 1e-3}}\nencoder.weights:\n")
        settings, _ = load.load(["--config", "mine.yaml"], "split")
        assert (settings.run.name, settings.optim.lr, settings.encoder.weights) == (text, 1e-3, None)


ARGUMENTS = {
    "unknown flag": (["--flod", "1"], "--flod is not understood", "did you mean --fold?"),
    "a word": (["resnet18"], "resnet18 is not understood", "settings are written key.sub=value"),
    "a flag without its value": (["--config"], "--config", "expected one argument"),
    "an empty name of a file": (["--config="], "--config (nothing)", "give a YAML file"),
    "a setting without its value": (["--optim.lr"], "--optim.lr", "needs a value"),
    "an empty value": (["optim.lr="], "optim.lr=", "expected a number, at least 0"),
    "unknown setting": (["optim.lrr=1"], "unknown setting optim.lrr", "did you mean optim.lr?"),
    "not a number": (["optim.lr=nan"], "optim.lr=nan", "expected a number, at least 0"),
    "without end": (["optim.lr=1e999"], "optim.lr=1e999", "expected a number, at least 0"),
    "too small": (["view.size=-1"], "view.size=-1", "at least 16"),
    "too large": (["view.size=5000"], "view.size=5000", "at most 4096"),
    "no choice": (["decoder.cell=gro"], "decoder.cell=gro", "expected one of lstm, gru"),
    "several lines": (["optim.lr=1\n2"], "optim.lr=1 2", "expected a number, at least 0"),
    "endless": (["optim.lr=" + "9" * 100_000], "optim.lr=999", "expected a number"),
    "not UTF-8": (["run.name=caf\udce9"], "run.name=caf", "UTF-8"),
    "fold out of range": (["--fold", "4"], "--fold 4", "there are folds 0 to 3"),
    "negative fold": (["--fold=-1"], "train.fold=-1", "expected a whole number or null, at least 0"),
    "fold that is no number": (["--fold", "all"], "train.fold=all", "expected a whole number"),
    "uneven parts": (["train.batch_size=10", "train.accumulation_steps=3"], "train.batch_size=10", "cannot be divided"),
    "mbr without candidates": (["predict.candidates=false"], "needs predict.candidates=true", "captions=search"),
    "shortest above longest": (["decoding.minimum_words=31"], "decoding.minimum_words", "decoding.maximum_words"),
    "two ways of splitting": (["split.official=true", "split.holdout=0.1"], "exclude each other", "keep one"),
    "a teacher of no captions": (["decoder.distill_from=x", "task=mos"], "task=mos has no captions", "leave it out"),
    "a run that teaches itself": (["decoder.distill_from=x", "run.name=x"], "x is this run itself", "another"),
    "a teacher within a time": (["decoder.distill_from=x", "run.minutes=9"], "decoder.distill_from=x", "leave out one"),
    "former name": (["optim.clip=1"], "optim.clip=1", "is optim.grad_clip_norm=1 now"),
    "former name as two words": (["--train.ema", "0.9"], "is train.ema_decay=0.9 now"),
    "former name and value": (["loss.quality=squared"], "is loss.mos=mse now"),
    "former value": (["ensemble.captions=consensus"], "is ensemble.captions=mbr now"),
    "another word for true": (["encoder.frozen=yes"], "encoder.frozen=yes", "expected true or false"),
    "a number for true": (["encoder.frozen=1"], "encoder.frozen=1", "expected true or false"),
    "null for a number": (["optim.lr=null"], "optim.lr=null", "expected a number, at least 0"),
    "true for a number": (["train.epochs=true"], "train.epochs=true", "expected a whole number"),
    "whole number written as a fraction": (["train.epochs=3.0"], "train.epochs=3.0", "expected a whole number"),
    "an open list": (["tune.folds=[0"], "tune.folds=[0", "expected null or a list, each a whole number"),
    "a list of other things": (
        ["tune.folds=[0, a]"],
        "tune.folds=[0, a]",
        "expected null or a list, each a whole number",
    ),
    "a list of mappings": (["tune.folds=[{a: 1}]"], "tune.folds=[{a: 1}]", "a list, each a whole number"),
    "a list that names itself": (["tune.folds=&a [*a]"], "tune.folds=&a [*a]", "a list, each a whole number"),
    "a run's name with a slash": (["run.name=a/b"], "run.name='a/b'", "expected the plain name of a folder"),
    "a run's name that climbs": (["run.name=.."], "run.name='..'", "expected the plain name of a folder"),
    "a run's name that is taken": (["run.name=cache"], "run.name=cache", "taken by the pipeline's own files"),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_bad_argument_is_refused(kind, place, capfd):
    arguments, *words = ARGUMENTS[kind]
    refused(capfd, split, arguments, tuple(words))


PLACES = {
    "no data folder": (["data.root=nowhere"], "nowhere: no such folder", "must hold train.csv and test.csv"),
    "data.root is a file": (["data.root=data/train.csv"], "data/train.csv: not a folder", "must hold train.csv"),
    "data.root without tables": (["data.root=data/train"], "data/train/train.csv is absent", "put it there"),
    "run.root is a file": (["run.root=data/train.csv"], "a file is where a folder is needed", "run.root=FOLDER"),
    "run.root below a file": (["run.root=data/train.csv/x"], "a file is where a folder", "run.root=FOLDER"),
    "run.root is read-only": (["run.root=locked"], "locked", "choose another place with run.root=FOLDER"),
    "a run's name too long": (["run.name=" + "é" * 101], "longer than 200 bytes", "choose a shorter one"),
    "runs among the data": (["run.root=data"], "run.root=data is the folder of the data", "another place"),
    "submissions among the data": (["run.submissions=./train/../data"], "is the folder of the data", "another place"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_place_that_cannot_be_used_is_refused(kind, place, capfd):
    (place / "locked").mkdir(mode=0o555)
    arguments, *words = PLACES[kind]
    refused(capfd, preprocess, [*SMALL, *arguments], tuple(words))


def test_the_malicious_pickle_would_execute(place):
    pickle.loads(pickle.dumps(Malicious()))
    assert Path("executed").exists()


LR = "tune.space={optim.lr: {low: 1e-4, high: 1e-2}}"
SEARCHES = {
    "unknown setting": (["tune.space={optim.lrr: {low: 1, high: 2}}"], "unknown setting optim.lrr", "mean optim.lr?"),
    "upside down": (["tune.space={optim.lr: {low: 2, high: 1}}"], "low=2.0 is not below high=1.0"),
    "out of bounds": (["tune.space={view.size: {low: 1, high: 64}}"], "view.size=1", "at least 16"),
    "unknown choice": (["tune.space={decoder.cell: {choices: [lstm, gro]}}"], "cell=gro", "expected one of lstm, gru"),
    "one choice": (["tune.space={decoder.cell: {choices: [gru]}}"], "decoder.cell", "two different values or more"),
    "range of words": (["tune.space={decoder.cell: {low: gru, high: lstm}}"], "no number", "write {choices"),
    "neither range nor choices": (["tune.space={optim.lr: {lowest: 1}}"], "optim.lr", "expected {low"),
    "step and log": (["tune.space={optim.lr: {low: 1, high: 2, step: 1, log: true}}"], "step=1", "none where log"),
    "no mapping": (["tune.space=optim.lr"], "tune.space=optim.lr", "expected {SETTING"),
    "not YAML": (["tune.space={optim.lr: {"], "tune.space: not valid YAML"),
    "contradiction": (
        ["tune.space={train.accumulation_steps: {choices: [1, 3]}}"],
        "train.accumulation_steps=3",
        "cannot be divided",
    ),
    "what it is judged by": (["tune.space={split.folds: {low: 2, high: 5}}"], "split.folds", "cannot be searched"),
    "nothing": (["tune.space={}"], "tune.space", "nothing to search"),
    "all of it given": (["--config", "searching.yaml", "optim.lr=1e-3"], "nothing to search", "command line"),
    "decoding in training": (["tune.space={decoding.beam: {low: 1, high: 3}}"], "decoding.beam", "--stage decode"),
    "training in decoding": ([LR, "--stage=decode", "task=both"], "optim.lr", "searches decoding.* alone"),
    "decoding before training": (["--stage=decode", "task=both"], "not made yet", "src.train run.name=demo trains it"),
    "the same, a name with a blank": (
        ["--stage=decode", "task=both", "run.name=my run"],
        "src.train 'run.name=my run' trains it",
    ),
    "another task's score": ([LR, "tune.objective=caption"], "tune.objective=caption", "task=mos has no such score"),
    "pruning of two scores": (
        [LR, "task=both", "tune.objective=both", "tune.pruner=median"],
        "no order in which to prune",
        "tune.pruner=none",
    ),
    "fold out of range": ([LR, "tune.folds=[0, 4]"], "tune.folds=[0, 4]", "the folds 0 to 3"),
    "fold to search twice": ([LR, "tune.folds=[0, 0]"], "tune.folds=[0, 0]", "each once"),
    "fold to judge out of range": ([LR, "tune.judge_folds=[4]"], "tune.judge_folds=[4]", "the folds 0 to 3"),
    "fold to judge twice": ([LR, "tune.judge_folds=[1, 1]"], "tune.judge_folds=[1, 1]", "each once"),
    "another kind of storage": ([LR, "tune.storage=mysql://x/y"], "tune.storage", "expected postgresql://"),
    "storage out of reach": (
        [LR, "tune.storage=postgresql://me:secret@127.0.0.1:1/x"],
        "tune.storage=postgresql://me:***@127.0.0.1:1/x cannot be used",
        "start it, or give another",
    ),
    "storage that is no database": ([LR, "tune.storage=sqlite:///data/train.csv"], "cannot be used", "give another"),
}


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_bad_search_is_refused_before_the_first_trial(kind, place, capfd):
    (place / "searching.yaml").write_text("tune.space: {optim.lr: {low: 1e-4, high: 1e-2}}\nrun.name: demo\n")
    arguments, *words = SEARCHES[kind]
    refused(capfd, tune, [*SMALL, "task=mos", "tune.trials=2", *arguments], tuple(words))


TRAINING = {
    "unknown encoder": (["encoder.name=resnet81"], "encoder.name=resnet81 is not a model", "did you mean"),
    "encoder for larger photos": (["encoder.name=test_vit", "encoder.output_stride=8"], "cannot be built", "change"),
    "unknown start": (["train.start_from=none"], "train.start_from=none", "is not a finished fold"),
    "unknown teacher": (["task=both", "decoder.distill_from=none"], "distill_from=none", "is not a finished fold"),
    "start outside the runs": (["train.start_from=../x"], "train.start_from=../x", "is not a finished fold"),
    "a network beyond all memory": (["decoder.hidden=100000000", "task=both"], "memory", "view.size"),
    "half precision without GPU": (["train.precision=fp16"], "train.precision=fp16 needs a GPU", "use bf16 or fp32"),
}


@pytest.mark.parametrize("kind", TRAINING)
def test_training_that_cannot_begin_is_refused(kind, place, capfd, monkeypatch):
    monkeypatch.setattr("src.metrics.meteor.shared_meteor", lambda *_: None)
    arguments, *words = TRAINING[kind]
    refused(capfd, train, [*SMALL, "task=mos", "--fold=0", *arguments], tuple(words))


def test_more_folds_than_photos_are_refused(place, capfd):
    refused(capfd, split, [*SMALL, "split.folds=7"], ("6 photos", "too few for 7 folds", "give more photos"))


def test_options_that_belong_together_are_refused_apart(place, capfd):
    refused(capfd, evaluate, ["--predictions", "P.csv"], ("--predictions and --references", "give both"))
    refused(capfd, submit, ["--check"], ("--check", "expected one argument"))
