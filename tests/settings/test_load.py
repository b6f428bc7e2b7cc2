"""The settings, and the one door to them."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from src import caption
from src.settings.former_names import FORMER_KEYS, FORMER_VALUES, REMOVED, read_saved, translated
from src.settings.keys import all_settings, changing, flatten
from src.settings.load import as_arguments, as_yaml, load, read_arguments, save
from src.settings.reference import markdown
from src.settings.schema import OptimSettings, Settings
from src.settings.yaml_files import ConfigError, as_text, read_tree, read_yaml
from tests.test_architecture import HEAVY

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
STAGES = ("preprocess", "split", "tune", "train", "predict", "evaluate", "submit", "compare", "caption")


def read(*argv):
    return load(list(argv), "train")[0]


def test_command_line_wins_wherever_the_config_stands(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 0.5}\ntrain.epochs: 3\ntask: mos\n")
    for argv in (["optim.lr=1e-3", "--config", str(file)], ["--config", str(file), "--optim.lr=1e-3"]):
        settings = read(*argv)
        assert (settings.optim.lr, settings.train.epochs, settings.task) == (1e-3, 3, "mos")
        assert settings.run.name == "mine"
    assert read("--fold", "1", "train.fold=2").train.fold == 2
    assert read().run.name == "demo"


@pytest.mark.parametrize(
    "argv, words",
    [
        (["optim.lrr=1"], "unknown setting optim.lrr; did you mean optim.lr?"),
        (["sise=3"], "unknown setting sise"),
        (["optim.lr=fast"], "optim.lr=fast: expected a number, at least 0"),
        (["optim.lr=nan"], "expected a number"),
        (["train.epochs=1.5"], "expected a whole number, at least 1"),
        (["decoder.cell=gro"], "expected one of lstm, gru"),
        (["encoder=resnet18"], "encoder is a group of settings"),
        (["run.name=../up"], "plain name of a folder"),
        (["run.name=Cache"], "that name is taken"),
        (["train.batch_size=10", "train.accumulation_steps=3"], "cannot be divided"),
        (["train.compile=true", "parallel=dp"], "give parallel=ddp, or leave one out"),
        (["--fold", "4"], "there are folds 0 to 3"),
        (["--fold", "x"], "train.fold=x: expected a whole number"),
        (
            ["decoder.name=mask_predict", "decoding.search=sample"],
            "decoding.search=sample is for captioners that write",
        ),
        (
            ["decoder.name=mask_predict", "decoding.model_averaging=probabilities"],
            "decoding.model_averaging=probabilities is for",
        ),
        (["decoder.name=ctc_mask_predict", "self_critical.from_epoch=1"], "self_critical.from_epoch is for captioners"),
        (["loss.balance=uncertainty", "self_critical.from_epoch=1"], "weighs likelihoods, not rewards: give fixed"),
        (["run.name=fc", "train.start_from=fc"], "train.start_from: fc is this run itself"),
        (
            [f"metric.weights.{name}=0" for name in ("cider_d", "meteor", "bleu", "rouge_l")],
            "all are 0",
        ),
        (["decoder.name=mask_predict", "scheduled_sampling.probability=0.2"], "not for decoder.name=mask_predict"),
        (["decoder.name=ctc_mask_predict", "loss.attention_weight=1"], "not for decoder.name=ctc_mask_predict"),
        (["decoder.name=mask_predict", "vocabulary.maximum_words=101"], "writes at most 100 words"),
        (["decoding.search=diverse"], "decoding.beam_groups=3 equal groups; give decoding.beam=6"),
        (["run.kept=[train.epoch]"], "run.kept: unknown setting train.epoch; did you mean train.epochs?"),
        (["--flod", "1"], "did you mean --fold?"),
        (["resnet18"], "resnet18 is not understood"),
        (["--config", "configs/none.yaml"], "no such file"),
        (["--config", "."], "Is a directory"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(argv, words, capsys):
    with pytest.raises(ConfigError) as error:
        read(*argv)
    printed = capsys.readouterr().err
    assert error.value.code == 2
    assert words in printed and printed.count("\n") == 1 and printed.startswith("error: ")


@pytest.mark.parametrize(
    "text, words",
    [
        ("optim: {lr: 1\n", "not valid YAML"),
        ("- 1\n", "expected lines of 'key: value'"),
        ("task: mos\ntask: both\n", "task is given twice"),
        ("optim: {lr: {a: 1}}\n", "unknown setting optim.lr.a"),
        ("optim: 3\n", "optim is a group of settings"),
        ("view: {size: big}\n", "expected a whole number"),
        ("task: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(text, words, tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read("--config", str(file))
    printed = capsys.readouterr().err
    assert words in printed and str(file) in printed and printed.count("\n") == 1


def test_a_file_whose_name_holds_an_equals_sign_is_no_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.jpg").touch()
    arguments = read_arguments(["a=b.jpg", "run.name=c"], "caption", "", caption.add_options)
    assert arguments.options.sources == ["a=b.jpg"] and arguments.line == [("run.name", "c", "command line")]


def test_saved_settings_and_arguments_come_back_equal(tmp_path):
    settings = read("optim.lr=3e-4", "split.holdout=0.1", "run.name=0123", "encoder.name=null", "task=mos", "--fold=0")
    save(settings, tmp_path / "settings.yaml")
    assert read("--config", str(tmp_path / "settings.yaml")) == settings
    assert read(*as_arguments(settings)) == settings
    (tmp_path / "another.yaml").write_text(as_yaml(Settings()))
    assert read("--config", str(tmp_path / "another.yaml")).run.name == "demo", "not the name of the file"


def test_what_changes_results_is_marked():
    keys = changing(Settings()).keys()
    assert {"optim.lr", "run.seed", "run.threads", "view.size", "split.folds"} <= keys
    assert not {"run.name", "run.root", "run.workers", "data.root", "train.fold", "parallel"} & keys


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_holds_only_what_differs(path):
    settings, default = flatten(read("--config", str(path))), flatten(Settings())
    text = path.read_text()
    assert settings["run.name"] == path.stem
    assert "ublished figure" in text and text.startswith("# ")
    if path.stem == "demo":
        assert settings == default
    else:
        assert not [key for key, _ in read_yaml(str(path)) if settings[key] == default[key]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optim.lr=1e-3", 1e-3),
        ("optim.lr=.5", 0.5),
        ("optim.lr=1", 1.0),
        ("encoder.frozen=true", True),
        ("encoder.output_stride=null", None),
        ("run.name=1e3", "1e3"),
        ("encoder.weights=true", "true"),
        ("ensemble.runs=[0123, true, 1.0]", ["0123", "true", "1.0"]),
        ('ensemble.runs=["a, b", c]', ["a, b", "c"]),
        ("predict.tta_scales=[1, 0.5]", [1.0, 0.5]),
        ("tune.folds=[0, 2]", [0, 2]),
    ],
)
def test_text_is_read_as_its_setting_says(text, value):
    key = text.partition("=")[0]
    trained = "encoder.frozen=false"  # cached features are of one size
    read_value = flatten(read(trained, text))[key]
    assert read_value == value and type(read_value) is type(value)
    assert flatten(read(trained, f"--{text}"))[key] == flatten(read(trained, *f"--{text}".split("=", 1)))[key] == value


@pytest.mark.parametrize(
    "name",
    ["😍최고", "a\u2028b\u2029c\x85d", "'\"\\", "".join(map(chr, range(32))), "\x7f\x9b\xa0\ufeff\ufffe", "null", "~"],
    ids=ascii,
)
def test_any_text_comes_back_as_it_was_written(name):
    assert read_tree(as_text([name])) == [name] and read_tree(as_text({name: name})) == {name: name}
    assert read(f"ensemble.runs={as_text([name])}").ensemble.runs == [name]


def test_commands_offer_what_they_use(capsys):
    for stage, options in (
        ("compare", set()),
        ("caption", {"--fold"}),
        ("app", {"--fold"}),
        ("train", {"--fold", "--fresh"}),
    ):
        with pytest.raises(SystemExit):
            load(["--help"], stage)
        printed = capsys.readouterr().out
        assert {option for option in ("--fold", "--fresh") if f"\n  {option} " in printed} == options
    with pytest.raises(ConfigError, match="--fresh is not understood"):
        load(["--fresh"], "compare")


def test_settings_cannot_be_assigned_and_changes_are_checked():
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.optim.lr = 1.0
    assert dataclasses.replace(settings.optim, lr=1.0) == OptimSettings(lr=1.0)
    for section, wrong in (("optim", {"lr": -1.0}), ("train", {"epochs": 1.0}), ("decoder", {"cell": "gro"})):
        with pytest.raises(ValueError):
            dataclasses.replace(getattr(settings, section), **wrong)
    with pytest.raises(ValueError, match="needs view.fit=native"):
        dataclasses.replace(settings.view, crops=2)
    with pytest.raises(ValueError, match="there are folds 0 to 3"):
        dataclasses.replace(settings, train=dataclasses.replace(settings.train, fold=4))


def test_what_an_earlier_version_saved_is_read_under_its_present_names(tmp_path):
    file = tmp_path / "saved.yaml"
    file.write_text("train: {ema: 0.9, epochs: 3}\nloss: {quality: squared}\nquality: {dropout: 0.1}\ngone: {x: 1}\n")
    assert read_saved(file) == {
        "train.ema_decay": "0.9",
        "train.epochs": "3",
        "loss.mos": "mse",
        "mos_head.dropout": "0.1",
    }


def test_a_setting_that_is_gone_is_left_out_of_what_was_saved_and_refused_where_it_is_asked_for(tmp_path, capsys):
    file = tmp_path / "saved.yaml"
    file.write_text("ensemble: {captions: search, rewriting: true}\n")
    assert read_saved(file) == {"ensemble.captions": "search"}
    assert translated({"ensemble.rewriting": True, "run.seed": 3}) == {"run.seed": 3}
    for argv in (["ensemble.rewriting=false"], ["--ensemble.rewriting", "true"], ["--config", str(file)]):
        with pytest.raises(ConfigError, match="ensemble.rewriting=(true|false): that setting is gone; leave it out"):
            read(*argv)
        assert capsys.readouterr().err.count("\n") == 1
    file.write_text("ensemble: {captions: search, rewriting: false}\n")
    assert read("--config", str(file)).ensemble.captions == "search"


def test_the_member_that_was_submitted_counts_more_than_the_former_kinds_of_blend():
    assert translated({"ensemble.mos": "ridge", "predict.mos": "blend"}) == {"ensemble.mos": "blend"}
    assert translated({"predict.mos": "svr", "ensemble.mos": "nonnegative"}) == {"ensemble.mos": "svr"}
    assert translated({"ensemble.mos": "boosted", "ensemble.samples": 3}) == {
        "ensemble.mos": "blend",
        "predict.samples": 3,
    }


def test_former_names_lead_to_settings_and_are_none_themselves():
    assert set(FORMER_KEYS.values()) <= all_settings().keys()
    assert not (FORMER_KEYS.keys() | REMOVED) & all_settings().keys()
    for key, names in FORMER_VALUES.items():
        for value in names.values():
            all_settings()[key].value_of(value)


def test_the_reference_is_that_of_the_settings():
    path = Path(__file__).parents[2] / "docs" / "settings.md"
    assert path.read_text(encoding="utf-8") == markdown(), (
        "python -m src.settings.reference > docs/settings.md renews it"
    )


def test_every_setting_says_what_it_is_for():
    assert not [key for key, setting in all_settings().items() if not setting.description.endswith(".")]


@pytest.mark.parametrize("stage", STAGES)
def test_help_imports_nothing_heavy_and_explains_every_setting(stage):
    command = [sys.executable, "-X", "importtime", "-m", f"src.{stage}", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0
    words = " ".join(answer.stdout.split())
    for setting in all_settings().values():
        line = f"{setting.key}={as_text(setting.default)} {setting.description} ({setting.expected})"
        assert line in words, setting.key
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in answer.stderr.splitlines()}
    assert "pydantic" in imported and not imported & HEAVY


def test_a_tilde_is_the_home_folder_also_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("run:\n  root: ~/runs\nencoder.weights: ~/a.pt\n")
    given = ["--config", str(tmp_path / "mine.yaml"), "data.root=~/data", "run.submissions=a~b"]
    settings, _ = load(given, "split")
    places = settings.run.root, settings.encoder.weights, settings.data.root, settings.run.submissions
    assert places == (f"{tmp_path}/runs", f"{tmp_path}/a.pt", f"{tmp_path}/data", "a~b")
