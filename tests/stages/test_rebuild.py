"""A submission rebuilt from its manifest is the same bytes, or one line says why it is not."""

import hashlib
import json
import shutil
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from src import rebuild
from src.base.errors import InputError
from src.pipeline import stages
from src.settings.yaml_files import ConfigError
from src.submission.manifest import read_manifest
from src.submission.rebuilding import describe_differences, environment_differences
from tests.conftest import TINY
from tests.helpers.in_process import inputs_in_process
from tests.helpers.small_meteor import quick_scores

pytestmark = pytest.mark.slow

MANIFEST = "submissions/demo.manifest.json"


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, without locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", autouse=True)
def quick(meteor):
    """Stages run in this process, with a small METEOR and without searching for baselines and drawing."""
    with pytest.MonkeyPatch.context() as patch:
        quick_scores(patch, meteor)
        inputs_in_process(patch)
        yield


@pytest.fixture(scope="module")
def submitted(competition, tmp_path_factory, quick):
    """A folder in which a fold, started from another run and taught by it, was trained and submitted."""
    folder = tmp_path_factory.mktemp("submitted")
    shutil.copytree(competition, folder / "photos")
    sample = pd.read_csv(competition / "sample_submission.csv", dtype=str)
    sample.to_csv(folder / "photos" / "sample_submission.csv", index_label="id")  # which rebuilding must keep
    arguments = ["data.root=photos", *TINY, "split.holdout=0.4", "train.epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        import_module("src.train").main([*arguments, "run.name=base"])
        import_module("src.submit").main([*arguments, "train.start_from=base", "decoder.distill_from=base"])
    return folder


@pytest.fixture
def elsewhere(submitted, tmp_path, monkeypatch):
    """A copy of that folder at another path, without the submission, and with its data at a third."""
    place = shutil.copytree(submitted, tmp_path / "elsewhere")
    shutil.move(place / "photos", tmp_path / "photos")
    (place / "submissions" / "demo.csv").unlink()
    monkeypatch.chdir(place)
    return place


def changed(place: Path, change) -> None:
    """Have the manifest in a folder changed by a function."""
    manifest = json.loads((place / MANIFEST).read_text())
    change(manifest)
    (place / MANIFEST).write_text(json.dumps(manifest))


def test_from_weights_the_file_is_the_same_and_the_run_untouched(submitted, elsewhere, capsys, monkeypatch):
    shutil.rmtree(elsewhere / "runs" / "base")  # what the checkpoints learned from is no longer needed
    before = tree(elsewhere)
    rebuild.main([MANIFEST, "data.root=../photos"])
    expected = (submitted / "submissions" / "demo.csv").read_bytes()
    assert (elsewhere / "runs" / "demo.from-weights" / "demo.csv").read_bytes() == expected
    assert (elsewhere / "submissions" / "demo.csv").read_bytes() == expected
    after = tree(elsewhere)
    assert {name: after.get(name) for name in before} == before
    new = {name for name in after if name not in before}
    assert all(name.startswith("runs/demo.from-weights/") or name == "submissions/demo.csv" for name in new)
    printed = capsys.readouterr().out
    assert "byte for byte" in printed and "submissions/demo.csv: written" in printed and "needs train" not in printed
    assert "may differ" not in printed

    started = []
    monkeypatch.setattr(stages, "_run_stage", lambda stage, settings: started.append(stage))
    rebuild.main([MANIFEST, "data.root=../photos"])  # goes on from what is there, which is all
    assert not started and "submissions/demo.csv: the same" in capsys.readouterr().out


def test_from_training_the_file_is_the_same(submitted, elsewhere, capsys):
    shutil.rmtree(elsewhere / "runs" / "demo")
    shutil.rmtree(elsewhere / "runs" / "cache")
    (elsewhere / "submissions" / "demo.csv").write_text("mine\n")
    rebuild.main([MANIFEST, "--from", "training", "data.root=../photos"])
    rebuilt = elsewhere / "runs" / "demo.from-training" / "demo.csv"
    assert rebuilt.read_bytes() == (submitted / "submissions" / "demo.csv").read_bytes()
    assert (elsewhere / "submissions" / "demo.csv").read_text() == "mine\n"
    assert "submissions/demo.csv: another file, left as it is" in capsys.readouterr().out
    assert not (elsewhere / "runs" / "cache").exists() and not (elsewhere / "runs" / "demo").exists()

    marker = elsewhere / "runs" / "base" / "fold-0" / "done.json"
    marker.write_text(marker.read_text().replace('"sha256": "', '"sha256": "0', 1))
    with pytest.raises(InputError, match="fold 0 of demo learned from another train.start_from, decoder.distill_from"):
        rebuild.main([MANIFEST, "--from", "training", "data.root=../photos"])


def test_a_changed_checkpoint_is_refused(elsewhere):
    path = elsewhere / "runs" / "demo" / "fold-0" / "best-mos.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="best-mos.pt was changed; get it again, or .* --from training"):
        rebuild.main([MANIFEST, "data.root=../photos"])


def test_other_data_are_refused(elsewhere):
    sample = pd.read_csv("../photos/sample_submission.csv", dtype=str)
    sample.assign(id=sample["id"][::-1].to_numpy()).to_csv("../photos/sample_submission.csv", index=False)
    with pytest.raises(InputError, match=r"photos gives other data than .*\(the submission's form\)"):
        rebuild.main([MANIFEST, "data.root=../photos"])
    table = pd.read_csv("../photos/train.csv", dtype=str, keep_default_na=False)
    table.loc[0, "comments"] += " indeed"
    table.to_csv("../photos/train.csv", index=False)
    with pytest.raises(InputError, match=r"photos gives other data than .*photos/photos.jsonl.*data.root=FOLDER"):
        rebuild.main([MANIFEST, "data.root=../photos"])


def test_a_rebuilt_file_that_differs_is_an_error_that_says_how(submitted, elsewhere):
    original = submitted / "submissions" / "demo.csv"
    table = pd.read_csv(original, dtype=str, keep_default_na=False)
    table.loc[3, "mos"], table.loc[4, "comments"] = f"{float(table.loc[3, 'mos']) + 0.25:.4f}", "another"
    file = elsewhere / "submissions" / "demo.csv"
    table.to_csv(file, index=False, lineterminator="\n")
    assert describe_differences(original, file) == "2 of 20 rows differ, MOS by 0.2500 at most, 1 captions"
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    changed(elsewhere, lambda manifest: manifest["submission"].update(sha256=sha))
    with pytest.raises(InputError, match=r"from-weights/demo.csv is not the submission of .*: 2 of 20 rows differ"):
        rebuild.main([MANIFEST, "data.root=../photos"])
    assert hashlib.sha256(file.read_bytes()).hexdigest() == sha


def test_differences_of_the_environment_are_listed(submitted):
    manifest = read_manifest(submitted / MANIFEST)
    assert (
        list(environment_differences(manifest, "weights")) == list(environment_differences(manifest, "training")) == []
    )
    manifest["made_with"] |= {"processor": "Abacus", "packages": {**manifest["made_with"]["packages"], "torch": "0.1"}}
    manifest["code"] |= {"train": "0" * 64, "predict": "1" * 64}
    manifest["runs"]["demo"]["trained_with"]["fold-0"]["threads"] = "7"
    weights, training = (list(environment_differences(manifest, start)) for start in ("weights", "training"))
    assert weights[0].startswith("processor was Abacus, is ") and "(was 0.1)" in weights[1] and len(weights) == 3
    assert "the code of predict is not that of git commit" in weights[2]
    assert any(line.startswith("threads was 7") for line in training)
    assert "the code of train, predict is" in training[-1]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda m: m.pop("made_with"), "is not the manifest of a submission"),
        (lambda m: m.update(version=1), "version 1, this program reads version 2"),
        (lambda m: m["runs"]["demo"]["photos"].update({"pixels.npy": "12"}), "runs.demo.photos.pixels.npy is not as"),
        (lambda m: m["runs"]["demo"]["checkpoints"].update({"../x": {}}), r"runs.demo.checkpoints.\.\./x is not as"),
        (lambda m: m["submission"].update(file="other.csv"), "submission.file is not as it was written"),
        (lambda m: m["runs"]["demo"]["settings"].update({"run.name": "x"}), "settings of demo are not those"),
        (
            lambda m: m["runs"]["demo"]["settings"].update({"train.start_from": "../x"}),
            "settings of demo are not those",
        ),
        (lambda m: m["runs"]["demo"]["learned_from"].clear(), "settings of demo are not those"),
    ],
    ids=["another file", "version", "hash", "path", "name", "run", "start", "folds"],
)
def test_a_damaged_manifest_is_one_line(change, words, elsewhere):
    changed(elsewhere, change)
    with pytest.raises(InputError, match=words) as error:
        rebuild.main([MANIFEST])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", ["view.size=64", "train.fold=0", "run.name=x", "tune.trials=3", "--fold=0"])
def test_settings_that_change_the_result_are_refused(given, submitted, monkeypatch, capsys):
    monkeypatch.chdir(submitted)
    with pytest.raises(ConfigError):
        rebuild.main([MANIFEST, given])
    assert "the run was made with" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(elsewhere):
    (elsewhere / "runs" / "demo.from-weights" / "fold-0").mkdir(parents=True)
    with pytest.raises(InputError, match="is not the folder of a rebuild"):
        rebuild.main([MANIFEST, "data.root=../photos"])
