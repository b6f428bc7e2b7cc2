"""Losses of the score: each against an independent computation, and those over a batch however it is divided."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, rankdata, spearmanr, wasserstein_distance

from src.models.mos_head import DistributionHead
from src.settings.schema import LossSettings, MosHeadSettings
from src.training.batch_losses import BatchLossExchange, batch_loss, plcc_loss, rank_loss, soft_ranks, srcc_loss
from src.training.distributed import Ranks
from src.training.engine import Engine
from src.training.fold_task import build_task
from src.training.losses import distribution_loss
from tests.training.test_training import EXACT, ONE, PLAIN, prepared  # noqa: F401

THIRDS = ["train.batch_size=12", "train.accumulation_steps=3"]
WEIGHTS = ["loss.mos=huber", "loss.plcc=0.5", "loss.rank=0.7", "loss.srcc=0.3"]


def scores(photos: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    mos = rng.normal(5, 1, photos).round(1)
    return torch.tensor(mos + rng.normal(0, 1, photos), dtype=torch.float32), torch.tensor(mos, dtype=torch.float32)


def test_losses_of_a_batch_against_scipy_and_a_loop():
    predicted, mos = scores()
    every = torch.ones(40, dtype=torch.bool)
    assert plcc_loss(predicted, mos, every, 1.0).item() == pytest.approx(1 - pearsonr(predicted, mos)[0], abs=1e-3)
    np.testing.assert_allclose(soft_ranks(mos, every, 0), rankdata(mos))
    np.testing.assert_allclose(soft_ranks(predicted, every, 1e-6), rankdata(predicted), atol=1e-3)
    assert srcc_loss(predicted, mos, every, 1.0).item() == pytest.approx(1 - spearmanr(predicted, mos)[0], abs=0.01)
    pairs = [(i, j) for i, j in itertools.permutations(range(len(mos)), 2) if mos[i] > mos[j]]
    slow = np.mean([np.log1p(np.exp(-(predicted[i] - predicted[j]).item() / 1.5)) for i, j in pairs])
    assert rank_loss(predicted, mos, every, 1.5).item() == pytest.approx(slow, rel=1e-5)


def plain_batch_loss(predicted: torch.Tensor, mos: torch.Tensor, std: float) -> torch.Tensor:
    """The three losses of photos that all have a label, each with weight 1, from their formulas."""

    def correlation(x: torch.Tensor, y: torch.Tensor, unit: float) -> torch.Tensor:
        x, y = (x - x.mean()) / unit, (y - y.mean()) / unit
        return (x * y).mean() / ((x.square().mean() + 1e-4) * (y.square().mean() + 1e-4)).sqrt()

    pairs = [(i, j) for i, j in itertools.permutations(range(len(mos)), 2) if mos[i] > mos[j]]
    ordered = [torch.log1p(torch.exp((predicted[j] - predicted[i]) / std)) for i, j in pairs]
    ranks = torch.stack([torch.sigmoid((value - predicted) / (0.1 * std)).sum() for value in predicted])
    spearman = correlation(ranks, torch.from_numpy(rankdata(mos)).float(), len(mos) / 12**0.5)
    return 2 - correlation(predicted, mos, std) - spearman + torch.stack(ordered).mean()


@pytest.mark.parametrize("unlabelled", [[], [0], [11], [2, 3, 7], list(range(2, 12)), list(range(11)), list(range(12))])
def test_a_photo_without_a_label_takes_no_part(unlabelled):
    predicted, mos = scores(12)
    mos[unlabelled] = torch.nan
    predicted[unlabelled[:1]] = 1e4  # nor does its prediction count
    rows = torch.nonzero(~mos.isnan()).flatten()
    leaf, alone = predicted.clone().requires_grad_(), predicted[rows].requires_grad_()
    loss = batch_loss(leaf, mos, 1.3, LossSettings(plcc=1, rank=1, srcc=1))
    loss.backward()
    assert not leaf.grad[unlabelled].any()
    if len(rows) < 2:
        assert loss == 0 and not leaf.grad.any()
        return
    expected = plain_batch_loss(alone, mos[rows], 1.3)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and loss > 0
    torch.testing.assert_close(leaf.grad[rows], alone.grad, rtol=1e-4, atol=1e-6)
    pearson = batch_loss(predicted, mos, 1.3, LossSettings(plcc=1)).item()
    assert pearson == pytest.approx(1 - pearsonr(predicted[rows], mos[rows])[0], abs=0.01)


def test_equal_predictions_have_a_gradient_towards_the_labels_order():
    """As where training begins."""
    mos = torch.tensor([4.0, 5.0, 7.0])
    for loss in (plcc_loss, rank_loss, srcc_loss):
        predicted = torch.full((3,), 5.0, requires_grad=True)
        loss(predicted, mos, torch.ones(3, dtype=torch.bool), 1.0).backward()
        assert predicted.grad.isfinite().all() and (predicted.grad.diff() < 0).all(), loss


def test_distribution_head_and_its_loss():
    head = DistributionHead(6, MosHeadSettings(), low=1.81, high=8.6, mean=5.575)
    assert head.bins.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    pooled = torch.randn(3, 6)
    np.testing.assert_allclose(head(pooled).detach(), 5.575, rtol=1e-5)
    torch.nn.init.normal_(head.linear.weight)
    shares = head.probabilities(pooled).detach()
    mos = torch.tensor([1.81, 6.0, torch.nan])
    loss = distribution_loss(shares, mos, head.bins[0])
    assert loss[2] == 0
    own = torch.zeros(2, 9)
    own[0, :2], own[1, 5] = torch.tensor([0.19, 0.81]), 1.0
    for i in range(2):
        np.testing.assert_allclose(own[i] @ head.bins, mos[i], rtol=1e-6)
        by_hand = np.sqrt(np.mean((np.cumsum(shares[i].numpy()) - np.cumsum(own[i].numpy())) ** 2))
        assert loss[i].item() == pytest.approx(by_hand, rel=1e-4)
    np.testing.assert_allclose(distribution_loss(own, mos[:2], head.bins[0]), 0, atol=1e-3)
    # all mass one bin off is moved by one bin: the plain distance is 1, and one of nine cumulative shares differs
    off = own[1].roll(1)
    assert wasserstein_distance(head.bins, head.bins, own[1], off) == pytest.approx(1)
    assert distribution_loss(off[None], mos[1:2], head.bins[0]).item() == pytest.approx(1 / 3, rel=1e-5)
    assert DistributionHead(6, MosHeadSettings(), 4.0, 4.0, 4.0)(pooled).shape == (3,)


def step(settings, data) -> tuple[dict, dict[str, torch.Tensor]]:
    """The means and the weights after one step of the engine on one batch."""
    engine = Engine(build_task(settings, data, 0), settings, ONE)
    engine.forward.train()
    engine._step(batch())
    return engine.means(0, 0), {name: value.detach() for name, value in engine.task.named_parameters()}


def batch(photos: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (photos, 32, 32, 3), generator=generator, dtype=torch.uint8)
    mos = torch.randn(photos, generator=generator) + 5
    mos[3] = torch.nan
    return {"row": torch.arange(photos), "images": images, "mos": mos, "captions": torch.zeros(photos, 1, 1).long()}


@pytest.mark.parametrize("extra", [["loss.balance=uncertainty"], ["loss.mos=none"]])
def test_micro_batches_step_like_the_whole_batch(prepared, extra):  # noqa: F811
    whole = prepared("task=mos", *EXACT, *PLAIN, *WEIGHTS, *extra)
    parts = prepared("task=mos", *EXACT, *PLAIN, *WEIGHTS, *extra, "train.accumulation_steps=4")
    start = dict(build_task(*whole, 0).named_parameters())
    (one, ours), (other, theirs) = step(*whole), step(*parts)
    assert one["mos_loss"] == pytest.approx(other["mos_loss"], abs=1e-6)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6)
    assert max((weight - start[name]).abs().max() for name, weight in ours.items()) > 1e-4


def test_both_passes_drop_the_same_and_leave_statistics_alone(prepared):  # noqa: F811
    """With dropout and batch norms: the gradient is that of one graph over all micro-batches."""
    settings, data = prepared("task=mos", *PLAIN, *WEIGHTS, *THIRDS, "mos_head.dropout=0.5", "optim.momentum=0")
    whole = batch()
    engine = Engine(build_task(settings, data, 0), settings, ONE)
    torch.nn.init.normal_(engine.task.model.mos_head.linear.weight)
    engine.forward.train()
    task, pieces = engine.task, [slice(0, 4), slice(4, 8), slice(8, 12)]
    start = {name: value.clone() for name, value in task.state_dict().items()}

    predicted = []
    for part, piece in enumerate(pieces):
        engine._seed_dropout(part)
        out = task(whole["images"][piece], mos=whole["mos"][piece], captions=whole["captions"][piece])
        predicted.append(out["mos"])
    known = ~whole["mos"].isnan()
    predicted = torch.cat(predicted)
    error = (predicted - whole["mos"])[known] / task.scale.std
    huber = torch.nn.functional.huber_loss(error, torch.zeros_like(error))
    loss = huber + batch_loss(predicted, whole["mos"], task.scale.std, settings.loss)
    loss.backward()
    slow = {name: start[name] - settings.optim.lr * p.grad for name, p in task.named_parameters()}
    statistics = {name: value.clone() for name, value in task.named_buffers()}

    task.load_state_dict(start)
    engine.optimizer.zero_grad(set_to_none=True)
    engine._step(whole)
    assert engine.means(0, 0)["mos_loss"] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(dict(task.named_parameters()), slow, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dict(task.named_buffers()), statistics)


def test_cached_gradients_are_those_of_one_graph(prepared):  # noqa: F811
    settings, _ = prepared("task=mos", *WEIGHTS)
    predicted, mos = scores(16)
    mos[5] = torch.nan
    first, second = BatchLossExchange(settings, 1.2, ONE)([(predicted[:10], mos[:10]), (predicted[10:], mos[10:])])
    leaf = predicted.clone().requires_grad_()
    batch_loss(leaf, mos, 1.2, settings.loss).backward()
    torch.testing.assert_close(torch.cat([first.gradient, second.gradient]), leaf.grad)
    assert first.gradient[5] == 0 and first.loss == second.loss


def agree(rank: int, address: str, settings, predicted: torch.Tensor, mos: torch.Tensor, folder) -> None:
    """One of two processes, in which each process has every second photo."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    part = predicted[rank::2], mos[rank::2]
    (result,) = BatchLossExchange(settings, 1.2, Ranks(rank, 2, torch.device("cpu")))([part])
    torch.save((result.loss, result.gradient), folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_agree_with_one(prepared, tmp_path):  # noqa: F811
    settings, _ = prepared("task=mos", *WEIGHTS)
    predicted, mos = scores(17)
    mos[5] = torch.nan
    address = f"file://{tmp_path / 'meeting'}"
    torch.multiprocessing.start_processes(
        agree, (address, settings, predicted, mos, tmp_path), nprocs=2, start_method="forkserver"
    )
    leaf = predicted.clone().requires_grad_()
    loss = batch_loss(leaf, mos, 1.2, settings.loss)
    loss.backward()
    for rank in (0, 1):
        there = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(there, (loss.detach(), leaf.grad[rank::2]))
