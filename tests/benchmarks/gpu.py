"""Fine-tuning on one GPU: against the bare step, its stalls, its share of the card's arithmetic, its memory.

Under four minutes on one card; without a GPU it measures nothing and says so.
"""

import os
import time
from collections.abc import Iterator

import torch

from src.base.randomness import make_deterministic
from src.settings.load import load
from tests.benchmarks.training import compare

FINE_TUNING = [
    "encoder.name=resnet50",
    "encoder.pretrained=false",
    "encoder.frozen=false",
    "view.size=224",
    "train.batch_size=128",
    "train.precision=bf16",
    "loss.plcc=0",
    "optim.grad_clip_norm=0",
    "train.ema_decay=0",
]
"""Without what the bare step does not do either: two passes for the correlation, clipping, averaging."""
WHOLE = FINE_TUNING[:-3]
"""All that training does with the defaults."""
PHOTOS, SIDE, PRODUCTS = 2560, 8192, 20


def matrix_products(side: int = SIDE, products: int = PRODUCTS) -> float:
    """Operations a second of bf16 matrix products on the GPU: what its arithmetic gives at best."""
    left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for count in (3, products):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            left @ right
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return 2 * side**3 * products / seconds


def run() -> Iterator[tuple[str, float, float, str]]:
    """Seconds of an epoch of ResNet-50 with the default captioner in bf16, by the engine and by the bare step."""
    if not torch.cuda.is_available():
        print("gpu: no GPU here, nothing was measured")
        return
    workers = max(1, min(12, (os.cpu_count() or 2) - 2))
    best = matrix_products()
    for what, arguments in (("the same work", FINE_TUNING), ("with the defaults' losses, clipping, averaging", WHOLE)):
        settings, _ = load([*arguments, f"run.workers={workers}"], "train", "")
        make_deterministic(settings.run.threads)
        torch.cuda.reset_peak_memory_stats()
        found = compare(settings, torch.device("cuda"), PHOTOS)
        share, memory = found.flops / found.ours / best, torch.cuda.max_memory_allocated() / 2**30
        yield (
            f"fine-tune ResNet-50, {PHOTOS} photos, {what}",
            found.ours,
            found.bare,
            f"bare step; loader waited for {found.waited:.1%}, {share:.0%} of a matrix product's arithmetic "
            f"({best / 1e12:.0f} TFLOP/s), {memory:.1f} GiB with both networks",
        )
