"""Randomness as a function of what it is for, so that any piece of work can be repeated on its own."""

import hashlib
import os


def fold_in(seed: int, *keys: int | str) -> int:
    """A seed in [0, 2**63) derived from `seed` and the keys that name its use.

    Equal arguments give equal seeds in every process and version; any other key gives an unrelated one.
    The name follows jax.random.fold_in.
    """
    text = "/".join([str(int(seed)), *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_deterministic(threads: int) -> None:
    """Have torch compute the same bits each time on the same kind of machine with `threads` threads.

    An exception is the gradient of scaled dot-product attention on a GPU. Call before the first use of a GPU: cuBLAS
    reads its setting only once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    torch.set_num_threads(threads)
    # to warn: a few GPU operations have no exact form. The gradient of attention has one, in any precision, but torch
    # takes it only where the others are errors. torch.use_deterministic_algorithms would import the compiler, which
    # takes longer than the rest of torch
    torch.set_deterministic_debug_mode("warn")
    # slow, and nothing reads what was never written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def seed_torch(seed: int) -> None:
    """Seed the generators that dropout reads: the CPU's, and each GPU's with a seed of its own."""
    import torch

    torch.default_generator.manual_seed(seed)
    for index, generator in enumerate(torch.cuda.default_generators if torch.cuda.is_initialized() else ()):
        generator.manual_seed(fold_in(seed, "replica", index))
