"""Published captioners of transformers behind the protocol: tiny random ones, made and saved here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="the packages of requirements-large.txt are not installed")

from src.base.hub_models import captioner_tokens
from src.data.vocabulary import Subwords, Vocabulary
from src.decoding.beam import beam, greedy
from src.decoding.constraints import Constraints
from src.models.captioner import build_captioner
from src.models.decoder import END, PAD, START, UNK, shift_right
from src.models.large_decoders import LargeDecoder
from src.models.large_models import save_captioner
from src.models.lora import merge_adapters
from src.settings.schema import DecoderSettings, EncoderSettings, Settings, ViewSettings
from tests.helpers.causal_decoders import captions_share_a_photo
from tests.helpers.plain_decoding import teacher_forced_log_probs
from tests.helpers.tiny_captioners import SIZE, TEXTS, tiny_captioner, whole_model

FAMILIES = ("blip", "blip2", "blip2_t5", "git", "vit_gpt2")
pytestmark = pytest.mark.usefixtures("seeded")
every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with one model of each family."""
    root = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        tiny_captioner(name, root / name)
    return root


def settings_of(name: str, models: Path, **encoder) -> Settings:
    decoder = DecoderSettings(name=name.removesuffix("_t5"), weights=str(models / name))
    return Settings(view=ViewSettings(size=SIZE), encoder=EncoderSettings(name="captioner", **encoder), decoder=decoder)


def built(name: str, models: Path, **encoder):
    """The network and its vocabulary."""
    words = Subwords.read(*captioner_tokens(name.removesuffix("_t5"), str(models / name)), TEXTS)
    statistics = (0.5,) * 3, (0.2,) * 3
    network = build_captioner(settings_of(name, models, **encoder), 3, len(words), (1.0, 9.0, 4.0), *statistics)
    return network.eval(), words


def photos(count: int = 3) -> torch.Tensor:
    """Photos of different colours, uneven in each of 4 x 4 squares."""
    squares = torch.rand(count, 4, 4, 3).repeat_interleave(SIZE // 4, 1).repeat_interleave(SIZE // 4, 2)
    return (255 * (0.8 * squares + 0.2 * torch.rand(count, SIZE, SIZE, 3))).byte()


def captions(words: Vocabulary, count: int = 3) -> torch.Tensor:
    """Random captions of several lengths."""
    tokens = torch.randint(4, len(words), (count, 7))
    for row in range(count):
        tokens[row, 6 - row % 3], tokens[row, 7 - row % 3 :] = END, PAD
    return tokens


def own_ids(words: Subwords, tokens: torch.Tensor) -> torch.Tensor:
    return torch.tensor(words.own_ids)[tokens]


@every_family
@torch.no_grad()
def test_the_loss_is_that_of_transformers(models, name):
    network, words = built(name, models)
    model, pixels, tokens = whole_model(name, models / name), photos(), captions(words)
    ours = -network.decoder.log_prob(network.features(pixels), tokens).sum() / (tokens != PAD).sum()
    images, own = network.encoder.normalised(pixels), own_ids(words, tokens)
    labels = own.masked_fill(tokens == PAD, -100)
    if name == "vit_gpt2":
        inputs = own_ids(words, shift_right(tokens))
        theirs = model(pixel_values=images, decoder_input_ids=inputs, labels=labels)
    elif name == "blip2_t5":
        prompt = torch.tensor([[*[model.config.image_token_index] * 6, 1]]).expand(3, -1)
        inputs = own_ids(words, shift_right(tokens))
        theirs = model(pixel_values=images, input_ids=prompt, decoder_input_ids=inputs, labels=labels)
    else:
        start = own_ids(words, torch.full((3, 1), START))
        if name == "blip2":  # the queries stand in place of tokens of their own
            start = torch.cat([torch.full((3, 6), model.config.image_token_index), start], 1)
        inputs, labels = torch.cat([start, own], 1), torch.cat([start * 0 - 100, labels], 1)
        theirs = model(pixel_values=images, input_ids=inputs, labels=labels)
    torch.testing.assert_close(ours, theirs.loss, atol=1e-5, rtol=1e-5)


@every_family
@pytest.mark.parametrize("width", [1, 3])
@torch.no_grad()
def test_captions_are_those_of_generate(models, name, width):
    network, words = built(name, models)
    model, pixels, longest = whole_model(name, models / name), photos(8), 20
    forbidden = sorted({words.special[index] for index in (PAD, START, UNK)} - {words.special[END]})
    options = {"suppress_tokens": forbidden} if forbidden else {}
    written = model.generate(
        pixel_values=network.encoder.normalised(pixels),
        num_beams=width,
        do_sample=False,
        length_penalty=1.0,
        early_stopping=width > 1,
        min_new_tokens=3,
        max_new_tokens=longest + 1,
        **options,
    )
    rules, features = Constraints(minimum_words=3, maximum_words=longest), network.features(pixels)
    search = (lambda *arguments: beam(*arguments, width, 1.0)) if width > 1 else greedy
    found = search(network.decoder, features, rules)
    ended = 0
    prompt = 7 if name == "blip2" else 1
    for ours, theirs in zip(found.tokens[:, 0], written[:, prompt:].tolist(), strict=True):
        if words.special[END] in theirs:  # the others are cut off at the limit, where ours end with END
            ended += 1
            assert own_ids(words, ours[ours != PAD]).tolist() == theirs[: theirs.index(words.special[END]) + 1]
    assert ended >= 3, "too few captions end by themselves to compare"
    assert len({tuple(tokens) for tokens in found.tokens[:, 0].tolist()}) > 2, "captions do not depend on the photo"


@every_family
def test_a_model_with_merged_adapters_is_again_one_of_transformers(models, name, tmp_path):
    """Saved, it writes by transformers' own `generate` what the network with adapters writes, with equal numbers."""
    pytest.importorskip("peft")
    settings = settings_of(name, models, frozen=False, lora_rank=4)
    settings = replace(settings, decoder=replace(settings.decoder, lora_rank=4))
    network = build_captioner(settings, 3, 0, (1.0, 9.0, 4.0), (0.5,) * 3, (0.2,) * 3).eval()
    for key, parameter in network.named_parameters():
        if "lora_B" in key:
            parameter.data = 0.01 * torch.randn_like(parameter)
    published, words = built(name, models)
    pixels, tokens = photos(), captions(words)
    with torch.no_grad():
        expected = network.decoder.log_prob(network.features(pixels), tokens)
        assert (published.decoder.log_prob(published.features(pixels), tokens) - expected).abs().max() > 1e-3
        merge_adapters(network)
        save_captioner(settings.decoder, network.encoder, network.decoder, tmp_path / name)
        merged, _ = built(name, tmp_path)
        torch.testing.assert_close(
            merged.decoder.log_prob(merged.features(pixels), tokens), expected, atol=1e-5, rtol=1e-5
        )
    test_the_loss_is_that_of_transformers(tmp_path, name)
    test_captions_are_those_of_generate(tmp_path, name, 1)
    assert {file.name for file in (models / name).iterdir()} <= {file.name for file in (tmp_path / name).iterdir()}


@every_family
@torch.no_grad()
def test_steps_give_the_numbers_of_teacher_forcing(models, name):
    """After every kind of reorder: repeated, swapped within a photo, dropped, unequally many per photo, any order."""
    network, words = built(name, models)
    decoder, features = network.decoder, network.features(photos(4))
    orders = [[0, 0, 1, 1, 2, 2, 3, 3], [1, 0, 2, 2, 5, 4, 7, 6], [0, 1, 4, 5, 7, 7], [0, 1, 1, 2, 4], [4, 0, 3, 0]]
    photo, state, tokens = torch.arange(4), decoder.start(features), torch.empty(4, 0, dtype=torch.long)
    log_probs, inputs, weights = torch.empty(4, 0, len(words)), torch.full((4,), START), torch.empty(4, 0, 16)
    for order in [*orders, None]:
        step, state = decoder.step(inputs, state)
        log_probs, weights = torch.cat([log_probs, step[:, None]], 1), torch.cat([weights, state.attention[:, None]], 1)
        if order is not None:
            index = torch.tensor(order)
            photo, log_probs, weights, tokens = photo[index], log_probs[index], weights[index], tokens[index]
            state, inputs = decoder.reorder(state, index), torch.randint(4, len(words), (len(index),))
            tokens = torch.cat([tokens, inputs[:, None]], 1)
    tokens = torch.cat([tokens, torch.full((4, 1), END)], 1)
    selected = features.select(photo)
    torch.testing.assert_close(log_probs, teacher_forced_log_probs(decoder, selected, tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4, 6))
    attention = decoder.teacher_forced(selected, shift_right(tokens)).attention
    assert (attention is None) == name.startswith("blip2") and (attention is not None or not weights.any())
    if attention is not None:
        torch.testing.assert_close(weights, attention, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(attention.sum(2), torch.ones(4, 6))
        assert attention.std(2).min() > 1e-3, "it attends to all cells alike"


@every_family
def test_several_captions_of_a_photo_share_its_memory(models, name):
    network, words = built(name, models)
    decoder, features, tokens = network.decoder, network.features(photos(4)), captions(words, 4)
    captions_share_a_photo(decoder, features, tokens, 1e-5)
    state = decoder.reorder(decoder.start(features), torch.arange(4).repeat_interleave(5))
    assert all(len(each) == 4 for each in state.memory)


@every_family
def test_a_token_depends_on_the_photo_and_the_tokens_before_it_only(models, name):
    network, words = built(name, models, frozen=False)
    decoder, features, tokens = network.decoder, network.features(photos(4)), captions(words, 4)
    log_probs = teacher_forced_log_probs(decoder, features, tokens)
    for position in range(tokens.shape[1] - 1):
        changed = tokens.clone()
        changed[:, position] = 4 + (tokens[:, position] - 3) % (len(words) - 4)
        other = teacher_forced_log_probs(decoder, features, changed)
        torch.testing.assert_close(other[:, : position + 1], log_probs[:, : position + 1], atol=1e-5, rtol=1e-5)
        assert ((other - log_probs)[:, position + 1].abs().amax(1) > 1e-4).all()
    other = decoder.log_prob(network.features(photos(4)), tokens)
    assert ((other - decoder.log_prob(features, tokens)).abs().amax(1) > 1e-4).all(), "the photo has no influence"
    (decoder.log_prob(features, tokens).sum() + network.mos(features).sum()).backward()
    without = {n for n, p in network.named_parameters() if p.requires_grad and p.grad is None}
    assert not without, "parameters that nothing depends on"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = decoder.log_prob(network.features(photos(4)), tokens)
        step, _ = decoder.step(torch.full((4,), START), decoder.start(features))
    assert half.dtype == step.dtype == torch.float32 and half.isfinite().all()


@every_family
def test_the_tower_is_frozen_or_trained_and_starts_from_its_weights(models, name):
    frozen, words = built(name, models)
    frozen.train()
    assert not any(p.requires_grad for p in frozen.encoder.parameters()) and not frozen.encoder.tower.training
    random = build_captioner(
        replace(settings_of(name, models), encoder=EncoderSettings(name="captioner", pretrained=False)),
        3, len(words), (1.0, 9.0, 4.0), (0.5,) * 3, (0.2,) * 3,
    )  # fmt: skip
    assert random.encoder.warning and not frozen.encoder.warning
    random.load_state_dict(frozen.state_dict())
    again, _ = built(name, models, frozen=False)
    pixels, tokens = photos(), captions(words)
    for network in (random, again):
        expected = frozen.eval().decoder.log_prob(frozen.features(pixels), tokens)
        torch.testing.assert_close(network.eval().decoder.log_prob(network.features(pixels), tokens), expected)
    layers = again.encoder.layers()
    assert len(layers) >= 4 and {id(p) for group in layers for p in group} == set(map(id, again.encoder.parameters()))


def test_a_token_that_stands_for_several_counts_once():
    """Whichever of PAD, START, END and UNK they are, the probabilities are those of the model's own tokens."""

    class Only(LargeDecoder):
        def own_logits(self, words):
            return words

        embed = layer = memory = own_logits

    own = torch.randn(5, 9)
    for special in ((0, 1, 2, 3), (7, 7, 7, 7), (1, 1, 2, 2), (4, 0, 0, 4), (3, 5, 3, 8)):
        decoder = Only(special, 9)
        ours = decoder.logits(own).log_softmax(-1)
        assert ours.shape[1] == 9 + 4 - len(set(special)) and ours.isfinite().all()
        words = [END, *range(4, ours.shape[1])]
        torch.testing.assert_close(ours[:, words], own.log_softmax(-1)[:, decoder.published_ids[words]])
