"""What lies in runs/ is found under the names it was written under."""

from src.pipeline import runs


def test_folds_are_found_in_order_and_what_was_kept_of_an_earlier_one_is_not(tmp_path):
    run = tmp_path / "demo"
    for name in ("fold-10", "fold-2", "fold-2.earlier", "fold-x", "tune"):
        (run / name).mkdir(parents=True)
        (run / name / "settings.yaml").touch()
    runs.fold_log(run, 3, "train").touch()
    assert [folder.name for folder in runs.fold_folders(run)] == ["fold-2", "fold-10"]
    assert runs.trained_settings(run) == [run / "fold-2" / "settings.yaml", run / "fold-10" / "settings.yaml"]
    assert runs.trained_settings(run, 10) == [runs.settings_path(runs.fold_folder(run, 10))]
    assert runs.trained_settings(run, 3) == runs.finished_folds(run) == []
    runs.marker_of(runs.fold_folder(run, 10)).touch()
    assert runs.finished_folds(run) == [10]
    assert runs.trained_runs(tmp_path) == ["demo"]


def test_folds_are_told_from_other_inputs_of_a_record():
    inputs = {runs.fold_name(11): "a", "photos": "b", runs.fold_name(2): "c", "folds": "d"}
    assert runs.folds_named(inputs) == [2, 11] and runs.fold_number(runs.fold_name(11)) == 11
