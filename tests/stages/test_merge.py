"""The model of a trained fold with its adapters merged, by the command that writes it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip("peft", reason="the packages of requirements-large.txt are not installed")

from src import preprocess, split, train
from src.base.errors import InputError
from src.base.hub_models import _digest
from src.data.vocabulary import Vocabulary
from src.inference.networks import open_network
from src.models.captioner import build_captioner
from src.models.decoder import END
from src.pipeline.trained_runs import load_run
from tests.conftest import TINY
from tests.helpers.bad_input import exit_code
from tests.helpers.tiny_captioners import tiny_captioner, whole_model
from tests.models.test_lora import weights_of

TRAINED = [each for each in TINY if not each.startswith(("encoder.", "decoder.", "vocabulary."))]
TRAINED += ["data.root=data", "encoder.frozen=false", "encoder.lora_rank=2", "--fold=0", "optim.warmup_epochs=0",
            "train.batch_size=8", "train.ema_decay=0"]  # fmt: skip


@pytest.fixture
def trained(workplace, tiny_competition, quick, seeded):
    """A function that trains a run in a folder with a competition; what it returns says how its fold is merged."""
    Path("data").symlink_to(tiny_competition)

    def train_run(name: str, *options: str) -> list[str]:
        for stage in (preprocess, split, train):
            stage.main([*TRAINED, f"run.name={name}", *options])
        return [f"run.name={name}", "--fold=0", f"--merge={name}"]

    return train_run


def test_a_captioner_is_again_one_of_transformers_and_of_ours(trained, capsys):
    tiny_captioner("git", Path("published"))
    merge = trained("git", "encoder.name=captioner", "decoder.name=git", "decoder.weights=published",
                    "decoder.lora_rank=2", "vocabulary.maximum_words=24", "optim.lr=0.03")  # fmt: skip
    train.main(merge)
    assert "the published model with the adapters of runs/git/fold-0/best-caption.pt merged" in capsys.readouterr().out
    names = {file.name for file in Path("git").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"}
    settings, _ = load_run(["run.name=git"], "caption")
    network, content = open_network(Path("runs/git/fold-0/best-caption.pt"), settings)

    def from_folder(folder: str):
        decoder = replace(settings.decoder, weights=folder, lora_rank=0)
        again = replace(settings, encoder=replace(settings.encoder, lora_rank=0), decoder=decoder)
        return build_captioner(again, 3, 0, (1.0, 9.0, 4.0), (0.5,) * 3, (0.2,) * 3).eval()

    photos = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    tokens = torch.randint(4, len(content["words"]), (3, 6))
    tokens[:, 5] = END
    with torch.no_grad():
        expected, merged, published = (
            each.decoder.log_prob(each.features(photos), tokens)
            for each in (network, from_folder("git"), from_folder("published"))
        )
        torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
        assert (published - expected).abs().max() > 1e-4, "training has changed what the model says"
        own = torch.tensor(Vocabulary.of(content).own_ids)
        inputs = torch.cat([torch.full((3, 1), 2), own[tokens]], 1)  # from its [CLS] on
        images = network.encoder.normalised(photos)
        logits = whole_model("git", Path("git"))(pixel_values=images, input_ids=inputs).logits
        said = logits[:, -inputs.shape[1] : -1].log_softmax(-1).gather(2, inputs[:, 1:, None])[..., 0]
        torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)

    for arguments, message in (
        (merge, "--merge git: there is something of that name"),
        (["run.name=git", "--merge=other"], "say which, as --fold 0"),
        (["run.name=git", "--fold=1", "--merge=other"], "runs/git/fold-1 is not a finished fold; train it first"),
        (["run.name=gti", "--fold=0", "--merge=other"], "runs/gti/fold-0 is not a finished fold"),
    ):
        with pytest.raises(InputError, match=message):
            train.main(arguments)
    config = Path("published/preprocessor_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_std": [0.3, 0.3, 0.3]}))
    _digest.cache_clear()
    with pytest.raises(InputError, match="trained beside other weights than published holds now"):
        train.main([*merge[:2], "--merge=other"])
    assert not Path("other").exists() and not list(Path().glob(".*.tmp"))


def test_an_encoder_is_again_one_of_timm(trained, capsys):
    """Also of one channel, and in the memory format that training had."""
    file = weights_of("test_convnext", Path())
    common = [*TINY[:1], "encoder.name=test_convnext", "decoder.name=recurrent", "optim.lr=0.03", "task=mos"]
    for name, weights, color in (("color", file, "rgb"), ("gray", file, "gray")):
        merge = trained(name, *common, f"encoder.weights={weights}", f"view.color={color}")
        train.main(merge)
        settings, _ = load_run([f"run.name={name}"], "caption")
        network, _ = open_network(Path(f"runs/{name}/fold-0/best-mos.pt"), settings)
        own = timm.create_model(f"local-dir:{name}", pretrained=True).eval()
        images = torch.randn(2, 1 if color == "gray" else 3, 32, 32)
        with torch.no_grad():
            expected = network.encoder.backbone.forward_features(images)
            torch.testing.assert_close(own.forward_features(images), expected, atol=1e-5, rtol=1e-5)
            published = timm.create_model("test_convnext", checkpoint_path=file).eval()
            assert color == "gray" or (published.forward_features(images) - expected).abs().max() > 1e-4
    assert exit_code(train, *trained("whole", *common, "encoder.lora_rank=0", "encoder.pretrained=false")) == 1
    assert "runs/whole/fold-0 was trained without adapters" in capsys.readouterr().err
    assert not Path("whole").exists()
