"""Runs of published captioners, from train.csv to submission.csv, and what ends them in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from src import ensemble, evaluate, predict, preprocess, split, submit, train
from src.base import hub_models
from src.base.errors import InputError
from src.data.vocabulary import Vocabulary, plain_text
from src.inference.networks import open_network
from src.inference.photo_captioner import PhotoCaptioner
from src.pipeline.trained_runs import load_run
from src.training import checkpoint
from tests.conftest import TINY
from tests.helpers.bad_input import LONGEST_LINE, exit_code, small_competition
from tests.helpers.cuts import train_whole_and_in_pieces
from tests.helpers.tables import rows_of
from tests.helpers.tiny_captioners import tiny_captioner

LARGE = ("encoder.", "decoder.", "vocabulary.")
SETTINGS = [each for each in TINY if not each.startswith(LARGE)]
SETTINGS += ["--fold=0", "encoder.name=captioner", "vocabulary.maximum_words=24", "decoding.maximum_words=16"]
STAGES = (preprocess, split, train, predict, ensemble, evaluate, submit)


def of(name: str, *more: str) -> list[str]:
    return [*SETTINGS, f"decoder.name={name}", f"decoder.weights=models/{name}", f"run.name={name}", *more]


@pytest.fixture(scope="module")
def families(tiny_competition, tmp_path_factory) -> Path:
    """A model of each family that knows the words of the competition."""
    pytest.importorskip("transformers", reason="the packages of requirements-large.txt are not installed")
    folder = tmp_path_factory.mktemp("families")
    texts = [row["comments"] for row in rows_of(tiny_competition / "train.csv")]
    for name in (*hub_models.MODEL_TYPES, "blip2_t5"):
        tiny_captioner(name, folder / name, texts)
    return folder


@pytest.fixture
def models(workplace, tiny_competition, families) -> Path:
    """A folder to work in with the competition and copies of the models."""
    Path("data").symlink_to(tiny_competition)
    shutil.copytree(families, "models")
    return workplace


@pytest.mark.slow
def test_every_family_goes_from_table_to_submission(models, quick, capsys):
    """BLIP's tower frozen and cached, GIT trained for its reward, ViT and GPT-2 averaged over the folds."""
    candidates = ["predict.candidates=true", "predict.samples=2"]
    special = {
        "blip": ["encoder.cache=fp32", *candidates, "ensemble.captions=mbr"],
        "git": ["encoder.frozen=false", "self_critical.from_epoch=1", "self_critical.meteor=1", *candidates],
        "vit_gpt2": ["encoder.cache=none", "decoding.search=sample", "augment.flip=0"],
    }
    for name, more in special.items():
        for stage in STAGES:
            stage.main(of(name, "data.root=data", *more))
        rows = rows_of("submissions/submission.csv")
        assert len(rows) == 10 and all(row["comments"] for row in rows)
        assert ("reward" in rows_of(f"runs/{name}/fold-0/metrics.csv")[-1]) == (name == "git")
        origin = json.loads(Path(f"runs/{name}/fold-0/provenance.json").read_text())
        assert origin["weights"] == {name: f"models/{name}"} and "transformers" in origin["packages"]
        settings, _ = load_run([f"run.name={name}"], "caption")
        captioner = PhotoCaptioner(Path("runs", name), settings)
        photo = captioner.seen(torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8).numpy())
        maps = captioner.attention_maps(photo)
        caption = captioner.describe([photo])[0].caption
        assert caption and maps.layout == (4, 4) and maps.weights.shape == (len(maps.words), 16)
        assert "##" not in "".join(maps.words) and np.allclose(maps.weights.sum(1), 1, atol=1e-5)
        # the caption's last piece may be a space
        assert "".join(maps.words).strip().replace("'", "") == "".join(caption.split()).replace("'", "")
    assert len(list(Path("runs/cache").glob("vocabulary-*"))) == 3
    capsys.readouterr()
    joined_with_an_attention_run([*TINY, "--fold=0", "data.root=data", *candidates, "ensemble.captions=mbr"])
    assert "valid and ready to upload" in capsys.readouterr().out


def joined_with_an_attention_run(options: list[str]) -> None:
    """Captions of runs whose captioners have other words are joined by minimum Bayes risk, up to a submission.

    The run blip and one of another encoder, captioner and vocabulary, in either order, and between them the run git.
    """
    for stage in (preprocess, split, train, predict):
        stage.main([*options, "run.name=attention", "decoder.name=attention"])
    proposed = {plain_text(row["comments"]) for row in rows_of("data/train.csv")}
    for run in ("blip", "git", "attention"):
        for line in Path(f"runs/{run}/predictions/fold-0/candidates.jsonl").read_text(encoding="utf-8").splitlines():
            proposed |= set(json.loads(line)["captions"])
    for names in (["attention", "blip"], ["blip", "git", "attention"]):
        ensemble.main([*names, "metric.bootstrap=100"])
        folder = Path("runs", "+".join(names), "ensemble")
        assert json.loads((folder / "blend.json").read_text())["runs"] == names
        assert "+ the other runs" in (folder / "ablation.csv").read_text()
        captions = [row["caption"] for row in rows_of(folder / "oof.csv")]
        assert len(set(captions)) > 3 and {plain_text(caption) for caption in captions} <= proposed
    for stage in (evaluate, submit):
        stage.main(["--config", str(folder / "ensemble.yaml")])
    assert len([row for row in rows_of("submissions/blip+git+attention.csv") if row["comments"]]) == 10


def parts_with_adapters_alone(fold: Path) -> set[str]:
    """The parts of the published model of which the fold's files hold adapters, and nothing else."""
    held = checkpoint.load(fold / "best-mos.pt")["model"]
    learned = [key for key in held if key.startswith(("decoder.", "encoder.tower."))]
    state = checkpoint.load(fold / "last.pt")["engine"]
    kept = [key for part in ("model", "ema") for key in state[part] if key.startswith("model.decoder.")]
    assert kept and all("lora_" in key for key in (*learned, *kept))
    return {key.partition(".")[0] for key in learned}


ADAPTED = ["encoder.frozen=false", "encoder.lora_rank=2", "decoder.lora_rank=2"]
SPARING = ["train.gradient_checkpointing=true", "train.precision=bf16"]


@pytest.mark.parametrize(("name", "options"), [
    ("blip", ["encoder.cache=fp32", "decoder.lora_rank=2"]),
    ("vit_gpt2", ["encoder.frozen=false", "encoder.frozen_epochs=1"]),
    ("blip2", ["encoder.cache=none", "decoder.lora_rank=2"]),
    ("blip2", ["encoder.cache=fp32", "decoder.lora_rank=2", "decoder.weights=models/blip2_t5"]),
    ("git", [*ADAPTED, *SPARING]),
])  # fmt: skip
@pytest.mark.slow
def test_every_family_goes_on_at_the_same_bit(models, quick, name, options):
    options = of(name, "data.root=data", "train.batch_size=8", "train.checkpoint_steps=1", *options)
    for stage in STAGES[:2]:
        stage.main(options)
    train_whole_and_in_pieces(options)
    for file in ("best-mos.pt", "best-caption.pt", "metrics.csv"):
        assert Path("runs/whole/fold-0", file).read_bytes() == Path("runs", name, "fold-0", file).read_bytes()
    if "decoder.lora_rank=2" in options:
        adapted = {"decoder", "encoder"} if name == "git" else {"decoder"}
        assert parts_with_adapters_alone(Path("runs", name, "fold-0")) == adapted
    if name == "git":
        train.main([*options, "run.name=next", "train.start_from=git", "self_critical.from_epoch=0"])
    if name in ("blip2", "git"):
        predict.main(options)
    if "decoder.weights=models/blip2_t5" in options:
        for stage in STAGES[4:]:
            stage.main(options)


def test_an_adapted_encoder_of_timm_in_a_run(workplace, competition, quick):
    """Its folds hold adapters and heads alone, and the network that is opened has them merged."""
    pytest.importorskip("peft", reason="the packages of requirements-large.txt are not installed")
    save_file(timm.create_model("test_vit").state_dict(), "vit.safetensors")
    options = [
        *TINY,
        "--fold=0",
        f"data.root={competition}",
        "encoder.name=test_vit",
        "encoder.weights=vit.safetensors",
    ]
    options += ["encoder.lora_rank=2", "train.gradient_checkpointing=true", "optim.layer_decay=0.7"]
    for stage in STAGES:
        stage.main(options)
    settings, _ = load_run(["run.name=demo"], "caption")
    network, content = open_network(Path("runs/demo/fold-0/best-caption.pt"), settings)
    encoder = [key for key in content["model"] if key.startswith("encoder.backbone.")]
    assert encoder and all("lora_" in key for key in encoder)
    assert not [key for key in network.state_dict() if "lora_" in key]
    assert any(value.any() for key, value in content["model"].items() if "lora_B" in key)
    Path("vit.safetensors").unlink()
    with pytest.raises(InputError, match="encoder.weights=vit.safetensors does not exist"):
        open_network(Path("runs/demo/fold-0/best-caption.pt"), settings)


@pytest.fixture
def place(workplace, monkeypatch) -> Path:
    """A folder with a small competition, in which no photo may be decoded."""
    small_competition(workplace / "data")
    monkeypatch.setattr("src.data.pixel_cache.load_photo", lambda *_: pytest.fail("a photo was decoded"))
    return workplace


def told(capsys, *arguments: str) -> str:
    """The one line of both the look before a run and preprocess itself."""
    lines = []
    for check in (["--check"], []):
        hub_models.model_folder.cache_clear()
        hub_models.described_folder.cache_clear()
        assert exit_code(preprocess, *check, "data.root=data", *arguments) in (1, 2)
        lines += [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(set(lines)) == 1 and len(lines[0]) <= LONGEST_LINE, lines
    return lines[0]


def test_without_transformers_one_line_says_what_to_install(place, capsys, monkeypatch):
    monkeypatch.setattr(hub_models, "find_spec", lambda _: None)
    assert "decoder.name=git needs transformers: .venv/bin/python -m pip install -r requirements-large.txt" in told(
        capsys, *of("git")
    )


@pytest.mark.parametrize(("arguments", "message"), [
    (["decoder.weights=null"], "decoder.name=git needs decoder.weights=FOLDER or a name on the hub"),
    (["encoder.name=resnet18"], "decoder.name=git and encoder.name=resnet18 do not go together"),
    (["decoder.name=attention"], "decoder.name=attention and encoder.name=captioner do not go together"),
    (["decoder.name=attention", "encoder.name=resnet18"], "decoder.name=attention has no decoder.weights"),
    (["encoder.output_stride=16"], "leave out encoder.weights, encoder.output_stride"),
    (["decoder.name=blip2", "loss.attention_weight=1"], "decoder.name=blip2 does not attend to cells; give 0"),
    (["encoder.lora_rank=4"], "give encoder.frozen=false and encoder.pretrained=true"),
    (["decoder.lora_rank=4", "encoder.pretrained=false"], "decoder.lora_rank=4 trains adapters beside published"),
    (["decoder.lora_rank=4", "decoder.name=attention", "encoder.name=resnet18", "decoder.weights=null"],
     "give decoder.name=blip, blip2, git, vit_gpt2 and"),
])  # fmt: skip
def test_settings_that_contradict_each_other(place, capsys, arguments, message):
    assert message in told(capsys, *of("git"), *arguments)


def test_models_that_cannot_be_used(models, capsys, monkeypatch):
    monkeypatch.setattr("src.data.pixel_cache.load_photo", lambda *_: pytest.fail("a photo was decoded"))
    faults = {
        ("decoder.weights=nobody/nothing",): "nobody/nothing is no folder here and could not be fetched",
        ("decoder.weights=a/b/c",): "a/b/c is neither a folder nor a name on the hub",
        ("decoder.weights=models/blip",): "models/blip is a model of type blip, not one for decoder.name=git; give",
        ("decoder.weights=data",): "data holds no config.json",
    }
    git = Path("models/git")
    for name, spoil, message in (
        ("pickled", lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
         "holds no *.safetensors"),
        ("halved", lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}'),
         "or not all"),
        ("wordless", lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer.json"),
        ("garbled", lambda folder: (folder / "config.json").write_text("{"), "config.json is not readable JSON"),
    ):  # fmt: skip
        shutil.copytree(git, name)
        spoil(Path(name))
        faults[(f"decoder.weights={name}",)] = message
    for arguments, message in faults.items():
        assert message in told(capsys, *of("git"), *arguments), arguments
    for name, parts, message in (
        (
            "blip2",
            {"model_type": "blip-2", "text_config": {"model_type": "bert"}},
            "writes by bert; decoder.name=blip2 takes",
        ),
        (
            "vit_gpt2",
            {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "swin"}},
            "joins swin and None",
        ),
    ):
        Path("pickled/config.json").write_text(json.dumps(parts))
        assert message in told(capsys, *of(name), "decoder.weights=pickled")


def test_models_that_cannot_be_built(models, capsys):
    """What only building the network can tell is told by the look before a run."""
    git = Path("models/git")
    shutil.copytree(git, "short")
    content = (git / "model.safetensors").read_bytes()
    Path("short/model.safetensors").write_bytes(content[: len(content) // 2])
    shutil.copytree(git, "other")
    config = json.loads(Path("other/config.json").read_text())
    Path("other/config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    shutil.copytree(git, "colourless")
    Path("colourless/preprocessor_config.json").unlink()
    for arguments, message in {
        ("decoder.weights=short",): "decoder.weights=short cannot be built",
        ("decoder.weights=other",): "tensors are missing or of another shape",
        ("decoder.weights=colourless",): "holds no preprocessor_config.json with image_mean",
        ("view.size=48",): "sees photos of 32 pixels; give view.size=32",
        ("view.color=gray",): "sees photos in colour; give view.color=rgb",
        ("vocabulary.maximum_words=48",): "writes at most 47 tokens",
        ("predict.tta_scales=[1, 2]", "encoder.cache=none"): "this encoder sees photos of one size only",
    }.items():
        assert exit_code(preprocess, "--check", "data.root=data", *of("git"), *arguments) == 1
        errors = capsys.readouterr().err.splitlines()
        assert [line for line in errors if message in line] and len(errors) == 1, errors


def test_nothing_in_a_models_folder_is_executed(models, capsys):
    """Neither a program that its configuration names, nor one in a pickle beside the weights."""
    folder = Path("models/git")
    (folder / "program.py").write_text("open('executed', 'w')\nGitConfig = None\n")
    config = json.loads((folder / "config.json").read_text())
    named = {"AutoConfig": "program.GitConfig", "AutoModelForCausalLM": "program.GitForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": named}))
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert exit_code(preprocess, "--check", "data.root=data", *of("git")) == 0
    assert "nothing was found" in capsys.readouterr().out and not Path("executed").exists()


def test_captions_in_pieces_of_words(models):
    folder = Path("models/git")
    preprocess.main(of("git", "data.root=data"))
    file = next(Path("runs/cache").glob("vocabulary-*/vocabulary.json"))
    words = Vocabulary.load(file)
    assert sum(words.counts[4:]) > 0 and any(word.startswith("##") for word in words.words)
    said = "Isn't the 3.5 m well-lit <harbour>, [SEP] [PAD] at dusk?"
    assert words.decode(words.encode("The photo isn't 3.5 m BAD!")) == "the photo isn't 3.5 m bad"
    assert words.encode(said)[-1] == 2 and 2 not in words.encode(said)[:-1] and not {0, 1} & set(words.encode(said))
    assert Vocabulary.of(words.description()).words == words.words
    before = file.stat().st_mtime_ns
    preprocess.main(of("git", "data.root=data"))
    assert file.stat().st_mtime_ns == before
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    hub_models._digest.cache_clear()
    preprocess.main(of("git", "data.root=data"))
    assert len(list(Path("runs/cache").glob("vocabulary-*"))) == 2, "another tokenizer makes another vocabulary"
