"""Features of photos where freed memory is kept, as every command keeps it, against glibc's defaults."""

import time
from collections.abc import Iterator
from multiprocessing import get_context

import torch

from src.base.machine import keep_freed_memory
from src.base.worker_pool import thread_pool
from src.models.captioner import encoder_of
from src.models.encoder import views_of
from src.settings.schema import Settings

PHOTOS, ROUNDS = 64, 3


def _seconds(keep: bool) -> float:
    """CPU seconds of this process for the features of photos of 341 x 256 pixels and their mirror images."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    encoder = encoder_of(Settings(), 3, (0.5,) * 3, (0.5,) * 3).eval()
    photos = torch.randint(0, 256, (2, 256, 341, 3), dtype=torch.uint8)
    with thread_pool(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda _: views_of(encoder, photos, True), range(2)))
        began = time.process_time()
        list(pool.map(lambda _: views_of(encoder, photos, True), range(PHOTOS // 2)))
    return time.process_time() - began


def run() -> Iterator[tuple[str, float, float, str]]:
    """CPU seconds of two threads, the least of rounds taken in turn, each in a process of its own."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for keep, taken in seconds.items():
            with get_context("spawn").Pool(1) as pool:
                taken.append(pool.apply(_seconds, (keep,)))
    kept, by_default = min(seconds[True]), min(seconds[False])
    yield f"features of {PHOTOS} photos and their mirror images", kept, by_default, "memory as glibc manages it"
