"""Losses, schedules, checkpoints, and training that can be cut anywhere."""

import dataclasses
import math
import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src import preprocess, split
from src.base.errors import InputError, Stopped
from src.base.randomness import fold_in, make_deterministic
from src.data import vocabulary as words
from src.data.dataset import BatchDataset, epoch_batches, rank_slice
from src.data.loading import load_batches
from src.models import decoder as tokens
from src.models.decoder import token_log_probs
from src.pipeline import outputs
from src.settings.load import load
from src.settings.schema import OptimSettings
from src.training import checkpoint
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.fit import Fit
from src.training.fold_data import read_fold
from src.training.fold_task import build_task
from src.training.infer import infer
from src.training.interrupt import Interrupt
from src.training.losses import attention_loss, mos_loss, token_losses
from src.training.optimizer import ExponentialMovingAverage, learning_rate, parameter_groups
from tests.conftest import TINY
from tests.helpers.plain_decoding import teacher_forced_log_probs

ONE = Ranks(0, 1, torch.device("cpu"))
# steps in proportion to the gradient: AdamW and clipping would hide a gradient of the wrong size
PLAIN = ["optim.name=sgd", "optim.lr=0.01", "optim.grad_clip_norm=0", "optim.warmup_epochs=0", "optim.weight_decay=0"]
# no batch statistics and no dropout: then a batch and its parts must agree
EXACT = ["encoder.name=test_convnext", "decoder.dropout=0", "mos_head.dropout=0", "train.ema_decay=0"]


@pytest.fixture(scope="module")
def prepared(competition, tmp_path_factory):
    """Preprocessed and split; returns a function from settings to (settings, data of fold 0)."""
    folder = tmp_path_factory.mktemp("training")

    def data_of(*arguments):
        settings, _ = load([f"data.root={competition}", *TINY, f"run.root={folder}/runs", *arguments], "train")
        preprocess.main([f"data.root={competition}", *TINY, f"run.root={folder}/runs", *arguments])
        split.main([f"data.root={competition}", *TINY, f"run.root={folder}/runs", *arguments])
        places = [make(settings).folder for make in (outputs.photos, outputs.vocabulary, outputs.folds)]
        return settings, read_fold(*places, 0, settings.vocabulary.maximum_words)

    make_deterministic(1)
    return data_of


def test_vocabulary_and_decoders_agree_on_the_special_tokens():
    assert (words.PAD, words.START, words.END, words.UNK) == (tokens.PAD, tokens.START, tokens.END, tokens.UNK)


def test_mos_loss_by_hand():
    predicted, mos = torch.tensor([5.0, 9.0, 1.0]), torch.tensor([4.0, 5.0, math.nan])
    assert mos_loss(predicted, mos, 2.0, "mse").tolist() == [0.125, 2.0, 0.0]
    assert mos_loss(predicted, mos, 2.0, "huber").tolist() == [0.125, 1.5, 0.0]


def test_token_losses_are_torch_s_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(6, 5, 11, generator=generator).log_softmax(-1)
    captions = torch.randint(1, 11, (6, 5), generator=generator)
    captions[1] = 0
    captions[2, 3:] = 0
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(
            log_probs.flatten(0, 1), captions.flatten(), ignore_index=0, reduction="none", label_smoothing=smoothing
        )
        assert torch.allclose(token_losses(log_probs, captions, smoothing), expected.view(6, 5), atol=1e-5)
    assert torch.allclose(-token_log_probs(log_probs, captions), token_losses(log_probs, captions, 0.0))


def test_attention_loss_by_hand():
    attention = torch.tensor([[[0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]]).expand(2, 3, 3)
    captions, mask = torch.tensor([[5, 2, 0], [0, 0, 0]]), torch.tensor([[True, True, False]] * 2)
    assert attention_loss(attention, captions, mask).tolist() == [(0.25**2 + 0.25**2) / 2, 0.0]


def test_learning_rate_is_a_function_of_the_fractional_epoch():
    cosine = OptimSettings(warmup_epochs=1.0, schedule="cosine")
    assert [learning_rate(cosine, e, 11) for e in (0, 0.5, 1, 6, 11)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    step = OptimSettings(warmup_epochs=0, schedule="step", step_epochs=2, step_factor=0.1)
    assert [learning_rate(step, e, 9) for e in (0, 1.9, 2, 4.5)] == pytest.approx([1, 1, 0.1, 0.01])
    plateau = OptimSettings(warmup_epochs=0, schedule="plateau", step_factor=0.5)
    assert learning_rate(plateau, 3, 9, drops=2) == 0.25


def test_an_epoch_is_every_photo_once_in_an_order_of_its_own():
    rows = np.array([9, 3, 5, 7, 1])
    steps = epoch_batches(rows, 2, 0, 4)
    assert sorted(np.concatenate(steps)) == [1, 3, 5, 7, 9] and [len(s) for s in steps] == [2, 2, 1]
    again = np.concatenate(epoch_batches(rows[::-1], 2, 0, 4))
    assert (np.concatenate(steps) == again).all(), "the order in which rows are given does not matter"
    orders = {tuple(np.concatenate(epoch_batches(rows, 2, 0, e))) for e in range(30)}
    assert len(orders) > 10
    shares = [rank_slice(rows[:3], part, 4, 0) for part in range(4)]
    assert [len(s.rows) for s in shares if not s.dummy] == [1, 1, 1] and shares[3].dummy


def test_fold_in_separates_uses():
    assert fold_in(0, "a", 1) == fold_in(0, "a", 1)
    seeds = {fold_in(s, *k) for s in range(20) for k in [("a", 1), ("a", 2), ("b", 1), ("a1",), (1, "a"), ("1",), (1,)]}
    assert len(seeds) == 140 and all(0 <= s < 2**63 for s in seeds)


def test_captions_of_a_batch_are_those_of_the_table(prepared):
    _, data = prepared()
    batch = BatchDataset(data.labels, None, 0, 50)[rank_slice(data.validation_rows, 0, 1, -1)]
    for i, references in enumerate(data.references):
        found = [data.vocabulary.decode(row) for row in batch["captions"][i].tolist() if any(row)]
        expected = [data.vocabulary.decode(data.vocabulary.encode(text)) for text in references]
        assert found == expected


def test_lower_layers_of_the_encoder_learn_more_slowly(prepared):
    settings, data = prepared("optim.encoder_lr_mult=0.5", "optim.layer_decay=0.5", "encoder.name=test_convnext")
    task = build_task(settings, data, 0)
    groups = parameter_groups(task, settings.optim)
    everything = [p for group in groups for p in group["params"]]
    assert len({id(p) for p in everything}) == len(everything) == len([p for p in task.parameters() if p.requires_grad])
    factor = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    depths = [{factor[id(p)] for p in layer} for layer in task.model.encoder.layers() if layer]
    flat = [next(iter(values)) for values in depths]
    assert all(len(values) == 1 for values in depths) and flat == sorted(flat) and flat[-1] == 0.5 and flat[0] < 0.5
    decoder = {id(p) for p in task.model.decoder.parameters()}
    assert {factor[key] for key in decoder} == {1.0}


def test_averaged_weights_follow_the_warm_up_of_their_decay():
    module = torch.nn.Linear(1, 1, bias=False)
    values, ema = [0.0, 1.0, 4.0, 2.0], None
    for step, value in enumerate(values):
        torch.nn.init.constant_(module.weight, value)
        if ema is None:
            ema, expected = ExponentialMovingAverage(module, 0.9), value
            continue
        ema.update(module, step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
    assert ema.module.weight.item() == pytest.approx(expected)


def test_without_a_decay_the_averaged_weights_are_the_weights_with_their_batch_statistics():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ema = ExponentialMovingAverage(module, 0.0)
    for step in range(3):
        module(torch.randn(8, 3))
        torch.nn.init.normal_(module[0].weight)
        ema.update(module, step)
        for name, value in module.state_dict().items():
            assert torch.equal(ema.module.state_dict()[name], value), name
    slow = ExponentialMovingAverage(module, 0.5)
    before = module[1].running_mean.clone()
    module(torch.randn(8, 3) + 5)
    slow.update(module, 100)
    torch.testing.assert_close(slow.module[1].running_mean, (before + module[1].running_mean) / 2)
    assert slow.module[1].num_batches_tracked == module[1].num_batches_tracked


def test_a_weight_of_two_layers_is_averaged_once_a_step():
    module = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 3, bias=False))
    module[1].weight = module[0].weight
    ema = ExponentialMovingAverage(module, 0.9)
    before = module[0].weight.detach().clone()
    torch.nn.init.constant_(module[0].weight, 1.0)
    ema.update(module, 1000)
    torch.testing.assert_close(ema.module[0].weight, 0.9 * before + 0.1)
    assert ema.module[1].weight is ema.module[0].weight


def losses_of(settings, data, steps):
    engine = Engine(build_task(settings, data, 0), settings, ONE)
    plan = epoch_batches(data.train_rows, settings.train.batch_size, 0, 0)[:steps]
    batches = BatchDataset(data.labels, None, 0, 2, engine.task.uniforms_per_token)
    seen = []
    stream = (batches[rank_slice(rows, 0, 1, 0)] for rows in plan)
    note = lambda _: seen.append(engine.sums.tolist())  # noqa: E731
    engine.train_one_epoch(stream, 0, 0, len(plan), Interrupt(), note, shown=False)
    return np.array(seen), engine


@pytest.mark.parametrize("decoder", ["recurrent", "mask_predict", "ctc_mask_predict"])
def test_a_batch_and_its_parts_give_the_same_gradient(prepared, decoder):
    settings = [*EXACT, *PLAIN, f"decoder.name={decoder}", "loss.length_weight=0.3"]
    whole, one = losses_of(*prepared(*settings), steps=2)
    parts, two = losses_of(*prepared(*settings, "train.accumulation_steps=4"), steps=2)
    start = build_task(*prepared(*settings), 0)
    means = one.means(0, 2)
    assert ("loss" in means) == (decoder != "recurrent")
    if "loss" in means:
        weighed = means["mos_loss"] + means["caption_loss"] + 0.3 * means["length_loss"]
        assert means["loss"] == pytest.approx(weighed, rel=1e-5)
    moved = max((a - b).abs().max().item() for a, b in zip(one.task.parameters(), start.parameters(), strict=True))
    assert moved > 1e-3, "the comparison below means something"
    assert np.allclose(whole, parts, rtol=1e-5)
    for a, b in zip(one.task.parameters(), two.task.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_loss_is_that_of_every_caption_by_itself(prepared):
    settings, data = prepared(*EXACT, "loss.label_smoothing=0.1")
    task = build_task(settings, data, 0).eval()
    batch = BatchDataset(data.labels, None, 0, 3)[rank_slice(data.train_rows[:8], 0, 1, 0)]
    out = task(**{k: v for k, v in batch.items() if k != "row"})
    seen, expected = task.model.features(batch["images"]), torch.zeros(8)
    for slot in range(3):
        captions = batch["captions"][:, slot]
        log_probs = teacher_forced_log_probs(task.model.decoder, seen, captions).flatten(0, 1)
        each = F.cross_entropy(log_probs, captions.flatten(), ignore_index=0, reduction="none", label_smoothing=0.1)
        expected += each.view(8, -1).sum(1)
    assert torch.allclose(out["losses"][:, 1], expected, rtol=1e-5)
    assert torch.equal(out["counts"][:, 1], (batch["captions"] != 0).sum((1, 2)).float())


@pytest.mark.parametrize("balance", ["fixed", "uncertainty"])
def test_training_learns(prepared, balance):
    settings, data = prepared("train.epochs=40", "optim.lr=0.01", f"loss.balance={balance}", "train.ema_decay=0")
    engine = Engine(build_task(settings, data, 0), settings, ONE)
    batches = BatchDataset(data.labels, None, 0, 2)
    first = last = None
    for epoch in range(30):
        plan = epoch_batches(data.train_rows, 16, 0, epoch)
        stream = (batches[rank_slice(rows, 0, 1, epoch)] for rows in plan)
        last = engine.train_one_epoch(stream, epoch, 0, len(plan), Interrupt(), lambda _: None, shown=False)
        first = first or last
    assert last["caption_loss"] < 0.7 * first["caption_loss"]


def test_random_numbers_of_a_caption_are_its_own(prepared):
    _, data = prepared()
    batches, rows = BatchDataset(data.labels, None, 5, 2, 3), data.train_rows[:6]
    whole, part = batches[rank_slice(rows, 0, 1, 4)], batches[rank_slice(rows, 1, 3, 4)]
    numbers = whole["uniforms"]
    assert numbers.shape == (6, 2, 3 * (whole["captions"].shape[2] + 1)) and numbers.unique().numel() > 100
    assert torch.equal(part["uniforms"], numbers[2:4, :, : part["uniforms"].shape[2]])
    assert not torch.equal(batches[rank_slice(rows, 0, 1, 5)]["uniforms"][:, :, :9], numbers[:, :, :9])
    assert "uniforms" not in BatchDataset(data.labels, None, 5, 2)[rank_slice(rows, 0, 1, 4)]


def test_epochs_are_validated_on_photos_from_all_over_the_table(prepared):
    _, data = prepared()
    count = len(data.validation_rows)
    few = data.validated_on(7)
    places = np.searchsorted(data.validation_rows, few.validation_rows)
    assert (data.validation_rows[places] == few.validation_rows).all() and len(set(places.tolist())) == 7
    assert set(np.diff(places)) <= {count // 7, count // 7 + 1}
    assert few.references == [data.references[place] for place in places.tolist()]
    whole = data.validated_on(count + 1)
    assert (whole.validation_rows == data.validation_rows).all() and whole.references == data.references


@pytest.mark.parametrize("decoder", ["mask_predict", "ctc_mask_predict"])
def test_non_autoregressive_captions_do_not_depend_on_the_reference(prepared, shared_meteor, decoder, tmp_path):
    """Validation writes the same whatever the references say; with visible words it does not."""
    settings, data = prepared(f"decoder.name={decoder}", "decoding.passes=3")
    fit = Fit(settings, data, 0, tmp_path, ONE)
    task = fit.engine.ema.module
    rows, taken = data.validation_rows.tolist(), fit.engine.task.uniforms_per_token
    shuffled = dataclasses.replace(data.labels, tokens=np.where(data.labels.tokens > 3, 4, data.labels.tokens))

    def visible(batch):
        return task(batch["images"], mode="fill_masked", captions=batch["captions"], uniforms=batch["uniforms"])

    def free(batch):
        return [(mos, tokens) for mos, tokens, *_ in fit.validate.read(batch)]

    for read, same in ((free, True), (lambda batch: visible(batch).tolist(), False)):
        found = [infer(read, labels, rows, settings, ONE, "", taken) for labels in (data.labels, shuffled)]
        assert found[0].keys() == set(rows) and (found[0] == found[1]) == same


def equal(a, b) -> bool:
    """Whether two checkpoints hold the same numbers, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


class AtStep:
    """Sends this process SIGTERM after a number of optimiser steps."""

    def __init__(self, fit, steps):
        original = fit.engine.ema.update

        def update(module, averaged):
            original(module, averaged)
            if averaged + 1 == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        fit.engine.ema.update = update


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_training_cut_at_any_step_goes_on_at_the_same_bit(prepared, tmp_path, cut):
    settings, data = prepared("task=mos", "augment.crop=0.1")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir(), pieces.mkdir()
    Fit(settings, data, 0, whole, ONE).run()
    fit = Fit(settings, data, 0, pieces, ONE)
    AtStep(fit, cut)
    with pytest.raises(Stopped, match="the same command, without --fresh, goes on"):
        fit.run()
    assert (pieces / "last.pt").is_file()
    Fit(settings, data, 0, pieces, ONE).run()
    assert (pieces / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert (pieces / "best-mos.pt").read_bytes() == (whole / "best-mos.pt").read_bytes()
    assert equal(checkpoint.load(pieces / "last.pt"), checkpoint.load(whole / "last.pt"))


class SlowMeteor:
    """Sends this process SIGTERM when it is asked for the second time, and then does not answer for long."""

    def __init__(self, meteor):
        self.meteor, self.calls, self.sent = meteor, 0, math.inf

    def stats(self, references, candidates):
        self.calls += 1
        if self.calls == 2:
            self.sent = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        return self.meteor.stats(references, candidates)


@pytest.mark.parametrize("moment", ["scoring", "last step of an epoch"])
def test_training_stopped_in_validation_stops_at_once_and_validates_again(
    prepared, tmp_path, shared_meteor, monkeypatch, moment
):
    settings, data = prepared("train.epochs=3")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir(), pieces.mkdir()
    Fit(settings, data, 0, whole, ONE).run()
    slow = SlowMeteor(shared_meteor)
    fit = Fit(settings, data, 0, pieces, ONE)
    if moment == "scoring":
        monkeypatch.setattr("src.metrics.meteor.shared_meteor", lambda *_: slow)
    else:
        AtStep(fit, 2 * fit.steps)
    with pytest.raises(Stopped, match=f"fold 0, epoch 2 of 3, step {fit.steps} of {fit.steps}, is saved"):
        fit.run()
    assert time.monotonic() - slow.sent < 5
    monkeypatch.setattr("src.metrics.meteor.shared_meteor", lambda *_: shared_meteor)
    Fit(settings, data, 0, pieces, ONE).run()
    for name in ("metrics.csv", "best-mos.pt", "best-caption.pt"):
        assert (pieces / name).read_bytes() == (whole / name).read_bytes(), name
    assert equal(checkpoint.load(pieces / "last.pt"), checkpoint.load(whole / "last.pt"))


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_training_stopped_while_it_waits_for_a_batch_saves_what_it_has(prepared, tmp_path, monkeypatch, cut):
    settings, data = prepared("task=mos")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir(), pieces.mkdir()
    Fit(settings, data, 0, whole, ONE).run()

    def slow(*arguments):
        for number, batch in enumerate(load_batches(*arguments)):
            if number == cut:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr("src.training.fit.load_batches", slow)
        fit = Fit(settings, data, 0, pieces, ONE)
        epoch, step = divmod(cut, fit.steps)
        with pytest.raises(Stopped, match=f"epoch {epoch + 1} of 2, step {step} of {fit.steps}, is saved"):
            fit.run()
    Fit(settings, data, 0, pieces, ONE).run()
    assert (pieces / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert equal(checkpoint.load(pieces / "last.pt"), checkpoint.load(whole / "last.pt"))


def test_a_loss_that_is_not_finite_stops_with_a_reason(prepared, tmp_path):
    settings, data = prepared("task=mos")
    fit = Fit(settings, data, 0, tmp_path, ONE)
    with torch.no_grad():
        next(fit.engine.task.model.mos_head.parameters()).fill_(math.nan)
    with pytest.raises(InputError, match="not finite in epoch 1.*lower optim.lr"):
        fit.run()
    assert not (tmp_path / "last.pt").exists()


def test_photos_without_a_label_of_the_task_are_not_trained_on(prepared, tmp_path):
    settings, data = prepared("task=mos")
    gone, kept = np.split(np.random.default_rng(0).permutation(data.train_rows), 2)
    mos = data.labels.mos.copy()
    mos[gone] = np.nan
    labels = dataclasses.replace(data.labels, mos=mos)
    fewer = dataclasses.replace(data, labels=labels, targets=labels)
    for name, rows in (("all", data.train_rows), ("kept", np.sort(kept))):
        (tmp_path / name).mkdir()
        Fit(settings, dataclasses.replace(fewer, train_rows=rows), 0, tmp_path / name, ONE).run()
    metrics = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("all", "kept")]
    assert metrics[0] == metrics[1]
    assert len(fewer.labelled("mos")) < len(fewer.labelled("both")) == len(data.train_rows)


def test_training_starts_from_another_run_and_keeps_its_own_range_of_mos(prepared, tmp_path):
    settings, data = prepared("task=mos", "train.epochs=1")
    settings = dataclasses.replace(settings, run=dataclasses.replace(settings.run, root=str(tmp_path)))
    first = tmp_path / "first" / "fold-0"
    first.mkdir(parents=True)
    Fit(settings, data, 0, first, ONE).run()
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, start_from="first"))
    wider = dataclasses.replace(data.labels, mos=data.labels.mos * 2)
    second = Fit(settings, dataclasses.replace(data, labels=wider, targets=wider), 0, tmp_path / "second", ONE)
    start = checkpoint.load(first / "best-mos.pt")["model"]
    for name, value in second.engine.task.model.state_dict().items():
        factor = 2 if name in ("mos_head.low", "mos_head.high") else 1
        torch.testing.assert_close(value, factor * start[name])


def test_checkpoints_that_were_touched_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"model": {"w": torch.arange(3.0)}, "epoch": 2, "rows": [{"x": None}]})
    assert checkpoint.load(path)["model"]["w"].tolist() == [0, 1, 2]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="truncated or was changed"):
        checkpoint.load(path)
    path.write_bytes(whole[:-10] + bytes(10))
    with pytest.raises(InputError, match="truncated or was changed"):
        checkpoint.load(path)
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not a checkpoint of this program"):
        checkpoint.load(path)


def test_labels_with_nothing_to_learn_are_refused(prepared):
    settings, data = prepared()
    blank = dataclasses.replace(data.labels, mos=np.full_like(data.labels.mos, np.nan))
    with pytest.raises(InputError, match="no two different MOS"):
        dataclasses.replace(data, labels=blank).scale("both")
    silent = dataclasses.replace(data.labels, photo_offsets=np.zeros_like(data.labels.photo_offsets))
    with pytest.raises(InputError, match="no caption"):
        dataclasses.replace(data, labels=silent).scale("caption")
