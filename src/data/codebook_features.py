"""Every photo's numbers from the codebook, as an array on disk: computed by several threads, resumed where cut off."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from src.base.files import read_json, replacing, write_json
from src.base.randomness import fold_in
from src.data.codebook import Codebook, learn
from src.data.handcrafted import DECODED_SHORT_SIDE, measured
from src.data.image import Unreadable, decode

LEARNED = 400
"""Photos that the codebook is learned from at most."""
FEWEST = 200
"""Labelled photos below which the codes are not worth their time: there are more of them than photos."""
_CHUNK = 128


def _seen(path: Path) -> np.ndarray | None:
    """The photo as it is measured; None where it cannot be read."""
    try:
        return measured(decode(path.read_bytes(), DECODED_SHORT_SIDE))
    except (OSError, ValueError, Unreadable):
        return None


def _codebook(file: Path, photos: Sequence[Path]) -> Codebook:
    """The codebook in the file, or a new one of some of the photos. Equal photos give equal bytes."""
    if not file.is_file():
        order = np.random.default_rng(fold_in(0, "codebook photos")).permutation(len(photos))[:LEARNED]
        seen = [photo for i in np.sort(order) if (photo := _seen(photos[i])) is not None]
        with replacing(file) as temporary, open(temporary, "wb") as out:
            np.savez(out, **asdict(learn(seen)))
    with np.load(file) as arrays:
        return Codebook(**arrays)


def build_codebook_features(
    folder: Path, root: Path, paths: Sequence[str], training: np.ndarray, threads: int
) -> list[str]:
    """Write codebook.npz and codes.npy (float32 [N, F], zeros for a photo that cannot be read); returns their names.

    paths: of all N photos under root; training: bool [N], those that the codebook may be learned from. Called again
    after it was cut off it goes on. The caller holds the folder's lock.
    """
    places = [Path(root, path) for path in paths]
    noted, out = folder / "noted.json", folder / "codes.npy"
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        book = _codebook(folder / "codebook.npz", [places[i] for i in np.flatnonzero(training)])
        width = book.basis.shape[1]

        def described(place: Path) -> np.ndarray:
            seen = _seen(place)
            return np.zeros(width, np.float32) if seen is None else book.describe(seen)

        done = read_json(noted)["photos"] if noted.is_file() and out.is_file() else 0
        shape = (len(places), width)
        codes = np.lib.format.open_memmap(out, "r+" if done else "w+", None if done else np.float32, shape)
        with tqdm(total=len(places), initial=done, desc="codes", unit=" photos") as bar:
            for begin in range(done, len(places), _CHUNK):
                chunk = places[begin : begin + _CHUNK]
                codes[begin : begin + len(chunk)] = list(pool.map(described, chunk))
                codes.flush()
                write_json(noted, {"photos": begin + len(chunk)})
                bar.update(len(chunk))
    noted.unlink(missing_ok=True)
    return ["codebook.npz", "codes.npy"]
