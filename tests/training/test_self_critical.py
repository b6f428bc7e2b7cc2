"""Training for rewards, the captioner fed with its own words, and encoders that wait or are computed before."""

import csv
import os
import signal

import numpy as np
import pytest
import torch

from src import preprocess, split
from src.base.errors import Stopped
from src.base.randomness import fold_in, make_deterministic
from src.data.dataset import BatchDataset, rank_slice
from src.decoding.sampling import uniforms_for
from src.models.decoder import END, PAD, START
from src.pipeline import outputs
from src.settings.load import load
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.fit import Fit
from src.training.fold_data import read_fold
from src.training.fold_task import build_task
from src.training.interrupt import Interrupt
from src.training.self_critical import SelfCritical
from tests.conftest import TINY

ONE = Ranks(0, 1, torch.device("cpu"))
EXACT = ["encoder.name=test_convnext", "decoder.dropout=0", "mos_head.dropout=0", "train.ema_decay=0", "task=caption"]
FORMULA = {"cider_d": 4, "meteor": 3, "bleu3": 1, "bleu4": 1, "rouge_l": 1}
REWARDED = ["self_critical.from_epoch=0", "self_critical.samples=3", "self_critical.lr=0.05"]


@pytest.fixture(scope="module")
def prepared(competition, tmp_path_factory):
    """Preprocessed and split; returns a function from settings to (settings, data of fold 0)."""
    folder = tmp_path_factory.mktemp("rewards")

    def data_of(*arguments):
        arguments = [f"data.root={competition}", *TINY, f"run.root={folder}/runs", *arguments]
        settings, _ = load(arguments, "train")
        preprocess.main(arguments)
        split.main(arguments)
        places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
        return settings, read_fold(*places, 0, settings.vocabulary.maximum_words)

    make_deterministic(1)
    return data_of


def engine_of(settings, data) -> Engine:
    critic = SelfCritical(settings, data.labels, data.train_rows, data.vocabulary)
    return Engine(build_task(settings, data, 0), settings, ONE, critic)


def batch_of(data, rows) -> dict:
    return BatchDataset(data.labels, None, 0, 5)[rank_slice(rows, 0, 1, 0)]


@pytest.mark.parametrize(
    ("baseline", "network"),
    [("greedy", EXACT), ("leave_one_out", EXACT), ("greedy", [*EXACT, "encoder.name=test_resnet", "decoder.dropout=0.5",
                                                       "decoder.layers=2"])],
    ids=["greedy", "leave_one_out", "with-dropout-and-batchnorm"],
)  # fmt: skip
def test_a_step_is_the_policy_gradient(prepared, baseline, network):
    """REINFORCE by hand: each sample by itself, its log-probability from the step-by-step decoder that drew it."""
    settings, data = prepared(*network, *REWARDED, f"self_critical.baseline={baseline}", "optim.grad_clip_norm=0",
                              "optim.name=sgd", "optim.momentum=0", "optim.weight_decay=0",
                              "train.batch_size=6", "vocabulary.maximum_words=16")  # fmt: skip
    engine, rows = engine_of(settings, data), data.train_rows[:6]
    task, critic = build_task(settings, data, 0).eval(), engine.self_critical
    seen = task.model.features(batch_of(data, rows)["images"])
    uniforms = uniforms_for(fold_in(0, "self-critical", 0), rows, 3, 17)
    drawn = task.sample(seen, uniforms, 1.0, True).detach()
    assert (drawn[:, :3, 16] == END).any() and (drawn[:, :3, 16] == PAD).any(), "some have no room for another word"
    drawn[:, :, 16] = PAD  # that END is forced, and no choice of the captioner
    loss, tokens = 0.0, 0
    for photo, row in enumerate(rows):
        rewards = [critic.reward(np.array([row]), caption[None].numpy())[0] for caption in drawn[photo]]
        for number in range(3):
            others = [rewards[other] for other in range(3) if other != number]
            compared = rewards[3] if baseline == "greedy" else sum(others) / 2
            state, fed = task.model.decoder.start(seen.select(torch.tensor([photo]))), START
            for token in drawn[photo, number].tolist():
                if token == PAD:
                    break
                log_probs, state = task.model.decoder.step(torch.tensor([fed]), state)
                loss = loss - (rewards[number] - compared) * log_probs[0, token]
                tokens, fed = tokens + 1, token
    (loss / tokens).backward()
    expected = {name: p - 0.05 * p.grad for name, p in task.named_parameters() if p.grad is not None}
    engine.train_one_epoch(iter([batch_of(data, rows)]), 0, 0, 1, Interrupt(), lambda done: None, shown=False)
    found = dict(engine.task.named_parameters())
    moved = max((found[name] - p).abs().max().item() for name, p in build_task(settings, data, 0).named_parameters())
    assert moved > 1e-5, "the comparison below means something"
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=2e-6), name


def test_replicas_have_no_dropout_where_rewards_are_learned(prepared, monkeypatch):
    """Under DataParallel, which calls the task itself on a CPU, the sampler is a wrapper of its own."""
    for user in ("distributed", "engine"):
        monkeypatch.setattr(f"src.training.{user}.replicate", lambda module, *_: torch.nn.DataParallel(module))
    settings, data = prepared("task=caption", "decoder.dropout=0.5", "train.epochs=2", "self_critical.samples=2",
                              "self_critical.from_epoch=1")  # fmt: skip
    engine, passes = engine_of(settings, data), []
    engine.task.model.decoder.dropout.register_forward_hook(
        lambda module, *_: passes.append((torch.is_grad_enabled(), module.training))
    )
    for epoch in (0, 1):
        batches = [batch_of(data, data.train_rows[:6]), batch_of(data, data.train_rows[6:12])]
        engine.train_one_epoch(iter(batches), epoch, 0, 2, Interrupt(), lambda done: None, shown=False)
        assert {training for gradient, training in passes if gradient} == {epoch == 0}
        assert not any(training for gradient, training in passes if not gradient)
        passes.clear()


def test_samples_do_not_depend_on_the_batch(prepared):
    settings, data = prepared(*EXACT, *REWARDED, "self_critical.baseline=leave_one_out")
    engine, rows = engine_of(settings, data), data.train_rows[:7]
    whole, _ = engine.self_critical(engine.task, batch_of(data, rows), 4)
    for part in (0, 1):
        piece = np.array_split(rows, 2)[part]
        half, _ = engine.self_critical(engine.task, batch_of(data, piece), 4)
        assert torch.equal(half["captions"], torch.tensor_split(whole["captions"], 2)[part])
        assert torch.allclose(half["advantages"], torch.tensor_split(whole["advantages"], 2)[part])
    other, _ = engine.self_critical(engine.task, batch_of(data, rows), 5)
    assert not torch.equal(other["captions"], whole["captions"])
    assert whole["advantages"].sum(1).abs().max() < 1e-6, "against the others' mean the advantages of a photo cancel"
    assert ((whole["captions"] == END).sum(2) <= 1).all()


def test_activations_computed_again_leave_batch_statistics_as_they_are(prepared):
    """With train.gradient_checkpointing weights and running statistics are those without it."""
    states = []
    for checkpointing in ("false", "true"):
        settings, data = prepared("encoder.name=test_resnet", f"train.gradient_checkpointing={checkpointing}")
        engine, batch = engine_of(settings, data), batch_of(data, data.train_rows[:6])
        engine.train_one_epoch(iter([batch]), 0, 0, 1, Interrupt(), lambda done: None, shown=False)
        states.append(engine.task.state_dict())
    assert any("running_mean" in name for name in states[0])
    for name, value in states[0].items():
        assert torch.allclose(states[1][name], value, atol=1e-6), name


@pytest.mark.slow
def test_rewards_rise_and_are_logged_and_a_cut_changes_nothing(prepared, tmp_path, shared_meteor, capsys):
    arguments = [*EXACT, "train.epochs=7", "optim.lr=0.02", "self_critical.from_epoch=2", "self_critical.samples=5",
                 "self_critical.baseline=leave_one_out", "self_critical.lr=0.01", "train.captions_per_photo=2",
                 "self_critical.cider_d=0", "self_critical.rouge_l=1", "train.batch_size=8",
                 "augment.flip=0.5"]  # fmt: skip
    settings, data = prepared(*arguments)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    Fit(settings, data, 0, whole, ONE).run()
    with open(whole / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["reward"]) for row in rows] == [False, False, True, True, True, True, True]
    assert [bool(row["caption_loss"]) for row in rows] == [True, True, False, False, False, False, False]
    assert float(rows[-1]["reward"]) > 1.2 * float(rows[2]["reward"]) > 0
    assert float(rows[2]["advantage"]) > 0 and 1 < float(rows[2]["sample_words"]) < 40
    fit = Fit(settings, data, 0, cut, ONE)
    update = fit.engine.ema.update

    def stop_at(module, step):
        update(module, step)
        if step == 14:  # in the midst of the rewarded epochs
            os.kill(os.getpid(), signal.SIGTERM)

    fit.engine.ema.update = stop_at
    with pytest.raises(Stopped):
        fit.run()
    Fit(settings, data, 0, cut, ONE).run()
    assert (cut / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_a_run_that_falls_below_its_start_says_so(prepared, tmp_path, shared_meteor, capsys):
    settings, data = prepared(*EXACT, "train.epochs=6", "optim.lr=0.01", "self_critical.from_epoch=5",
                              "self_critical.lr=3")  # fmt: skip
    Fit(settings, data, 0, tmp_path, ONE).run()
    assert "self-critical training ended at a validation caption score of" in capsys.readouterr().out


def test_patience_begins_with_the_rewards_of_the_whole_formula(prepared, tmp_path, shared_meteor):
    """Nothing is learned, so no epoch is better than the first; the run still comes to the rewards."""
    formula = [f"self_critical.{name}={weight}" for name, weight in FORMULA.items()]
    settings, data = prepared(*EXACT, *formula, "train.epochs=9", "train.patience=1", "optim.lr=0",
                              "self_critical.from_epoch=2", "self_critical.lr=0", "train.batch_size=30")  # fmt: skip
    rows = Fit(settings, data, 0, tmp_path, ONE).run().rows
    assert len(rows) == 3 and "reward" in rows[2] and "reward" not in rows[1]
    penalised, _ = prepared(*EXACT, *formula, "self_critical.from_epoch=0", "self_critical.length_penalty=0.5")
    engines, drawn = [engine_of(each, data) for each in (settings, penalised)], torch.randint(4, 30, (6, 9)).numpy()
    plain, less = (engine.self_critical.reward(data.train_rows[:6], drawn) for engine in engines)
    lengths = [np.mean([len(caption) for caption in data.labels.captions(row)]) for row in data.train_rows[:6]]
    np.testing.assert_allclose(plain - less, 0.5 * np.abs(9 - np.array(lengths)))


def test_scheduled_sampling_replaces_input_words_by_the_model_s(prepared):
    settings, data = prepared(*EXACT, "scheduled_sampling.probability=0.5", "scheduled_sampling.increase=0.2",
                              "scheduled_sampling.every_epochs=2", "scheduled_sampling.from_epoch=1")  # fmt: skip
    engine = engine_of(*prepared(*EXACT, *REWARDED))
    engine.settings = settings
    grown = []
    for epoch in range(7):
        engine.begin_epoch(epoch)
        grown.append(engine.task.sampling_probability)
    assert grown == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.5, 0.5])
    task, batch = engine.task, batch_of(data, data.train_rows[:16])
    inputs = torch.cat([torch.full((16, 1), START), batch["captions"][:, 0, :-1]], 1)
    seen = task.model.features(batch["images"])
    with torch.no_grad():
        certain = task.model.decoder.output.bias
        certain.zero_()[7] = 1e4  # it says nothing but word 7
    mixed = task._scheduled_sampling(seen, inputs, torch.arange(16))
    later = inputs[:, 1:] != PAD
    assert torch.equal(mixed[:, 0], inputs[:, 0]) and torch.equal(mixed[:, 1:][~later], inputs[:, 1:][~later])
    own = (mixed[:, 1:] == 7)[later].float().mean()
    assert 0.35 < own < 0.65
    assert torch.equal(mixed[mixed != 7], inputs[mixed != 7])


def test_the_encoder_is_frozen_for_the_first_epochs(prepared, tmp_path):
    settings, data = prepared("task=mos", "encoder.frozen_epochs=1", "train.epochs=2", "train.ema_decay=0")
    fit = Fit(settings, data, 0, tmp_path, ONE)
    encoder = fit.engine.task.model.encoder
    before, after = [p.clone() for p in encoder.parameters()], []
    fit.run(lambda row: after.append([p.detach().clone() for p in encoder.parameters()]))
    assert all(map(torch.equal, before, after[0]))
    assert not all(map(torch.equal, before, after[1]))
