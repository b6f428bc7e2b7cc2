"""A photo described by how its small patches differ from a codebook of typical patches, learned without any label.

After HOSA (Xu, Ye, Li, Du, Liu and Doermann, Blind Image Quality Assessment Based on High Order Statistics Aggregation,
TIP 2016): patches are normalised and whitened, each is assigned to its nearest codewords, and the photo is described by
how the mean, variance and skewness of each codeword's patches differ from those of the patches it was learned from.
Here patches are of opponent colours, and the 3 × CODEWORDS × COMPONENTS numbers are reduced to principal components.

The codebook comes from pixels of the training photos alone: no test photo and no label has a part in it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from src.base.files import naming, read_json, replacing, write_json
from src.base.machine import reserve_space
from src.base.randomness import fold_in
from src.base.worker_pool import thread_pool
from src.data.handcrafted import DECODED_SHORT_SIDE, measured
from src.data.image import DEFAULT_MEGAPIXELS, Unreadable, decode

PATCH, STRIDE = 7, 4
CODEWORDS, NEAREST = 100, 5
COMPONENTS = 60
"""Of the 147 numbers of a patch, after whitening."""
FEATURES = 256
"""Numbers that describe a photo in the end, or fewer where there are fewer photos to learn from."""
LEARNED_PHOTOS, LEARNED_PATCHES = 400, 60
"""At most that many photos, and patches of each, are used to learn the codebook."""
FEWEST = 200
"""Labelled photos below which the features are not worth their time: there are more of them than photos."""
NOTE = "noted.json"
"""Beside the features: how many photos were described."""
_NOISE = 10.0  # grey levels squared: a flat patch is not blown up
_NARROW = 0.05  # how fast the weight of a codeword falls with the squared distance
_RARE = 0.5  # patches: below that a codeword says nothing of the photo
_CHUNK = 128


@dataclass(frozen=True)
class Codebook:
    """centre [147], whitening [147, C]; words [CODEWORDS, C], moments [3, CODEWORDS, C]; offset [D], basis [D, F]."""

    centre: np.ndarray
    whitening: np.ndarray
    words: np.ndarray
    moments: np.ndarray
    offset: np.ndarray
    basis: np.ndarray

    def describe(self, rgb: np.ndarray) -> np.ndarray:
        """float32 [F] of a photo, uint8 [H, W, 3] with sides of at least PATCH."""
        return (self.differences(rgb) - self.offset) @ self.basis

    def differences(self, rgb: np.ndarray) -> np.ndarray:
        """The aggregated statistics of a photo's patches before they are reduced: float32 [3 × CODEWORDS × C]."""
        patches = (_patches(rgb, STRIDE) - self.centre) @ self.whitening
        assignment = _soft_assignment(patches, self.words)
        weight = assignment.sum(0)[:, None] + 1e-3
        squares = np.square(patches)
        first, second, third = (assignment.T @ powers / weight for powers in (patches, squares, squares * patches))
        variance = np.maximum(second - first**2, 1e-6)
        skewness = (third - 3 * first * second + 2 * first**3) / variance**1.5
        differences = (np.stack([first, variance, skewness]) - self.moments) * (weight > _RARE)
        # the power normalisation of Fisher vectors
        return (np.sign(differences) * np.sqrt(np.abs(differences))).ravel()


def learn_codebook(photos: Sequence[np.ndarray]) -> Codebook:
    """A codebook from photos, uint8 [H, W, 3] each, at least 2; the same for equal photos in equal order."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(fold_in(0, "codebook"))
    patches = np.concatenate([_sample(_patches(photo, 2 * STRIDE), rng) for photo in photos])
    centre = patches.mean(0)
    # not PCA(whiten=True), which has no floor under small eigenvalues
    values, vectors = np.linalg.eigh(np.cov((patches - centre).T))
    whitening = (vectors / np.sqrt(values.clip(0) + 0.1))[:, ::-1][:, :COMPONENTS].astype(np.float32)
    white = (patches - centre) @ whitening
    clusters = MiniBatchKMeans(
        min(CODEWORDS, len(white)), batch_size=4096, n_init=1, max_iter=10, random_state=fold_in(0, "words") % 2**32
    ).fit(white)
    words = clusters.cluster_centers_.astype(np.float32)
    moments = _moments(white, clusters.labels_, words)
    unreduced = Codebook(centre, whitening, words, moments, np.zeros(1, np.float32), np.zeros((1, 1), np.float32))
    rows = np.stack([unreduced.differences(photo) for photo in photos])
    offset, spread = rows.mean(0), rows.std(0) + 1e-3
    # the full solver: the default one is randomised
    pca = PCA(min(FEATURES, len(rows) - 1), svd_solver="full").fit((rows - offset) / spread)
    return Codebook(centre, whitening, words, moments, offset, (pca.components_ / spread).T.astype(np.float32))


def _sample(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return patches[rng.permutation(len(patches))[:LEARNED_PATCHES]]


def _patches(rgb: np.ndarray, stride: int) -> np.ndarray:
    """Patches of brightness, red-green and blue-yellow: float32 [P, 147]; each channel's mean is subtracted, and all
    are divided by the standard deviation of brightness."""
    red, green, blue = cv2.split(rgb.astype(np.float32))
    planes = np.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue])
    windows = sliding_window_view(planes, (PATCH, PATCH), (1, 2))[:, ::stride, ::stride]
    patches = windows.reshape(3, -1, PATCH * PATCH)
    patches -= patches.mean(2, keepdims=True)
    patches /= np.sqrt(np.square(patches[0]).mean(1, keepdims=True) + _NOISE)
    return np.concatenate(list(patches), axis=1)


def _soft_assignment(patches: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Each patch's weights on its nearest codewords: float32 [P, CODEWORDS], rows sum to 1."""
    distance = np.square(words).sum(1) - 2 * patches @ words.T
    nearest = np.argpartition(distance, min(NEAREST, len(words)) - 1, axis=1)[:, :NEAREST]
    near_distance = np.take_along_axis(distance, nearest, 1)
    weights = np.exp(-_NARROW * (near_distance - near_distance.min(1, keepdims=True)))
    assignment = np.zeros_like(distance)
    np.put_along_axis(assignment, nearest, weights / weights.sum(1, keepdims=True), 1)
    return assignment


def _moments(patches: np.ndarray, labels: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Mean, variance and skewness of each codeword's patches: float32 [3, CODEWORDS, C]. labels: int [P]."""
    moments = np.stack([words, np.ones_like(words), np.zeros_like(words)])
    for word in range(len(words)):
        members = patches[labels == word]
        if len(members) > 3:
            variance = members.var(0)
            skewness = ((members - members.mean(0)) ** 3).mean(0) / (variance**1.5 + 1e-6)
            moments[:, word] = members.mean(0), variance, skewness
    return moments


def _load_rgb(path: Path, megapixels: int) -> np.ndarray | None:
    """The photo as handcrafted features see it; None where it cannot be read."""
    try:
        return measured(decode(path.read_bytes(), DECODED_SHORT_SIDE, megapixels))
    except (OSError, ValueError, Unreadable):
        return None


def _load_codebook(file: Path, photos: Sequence[Path], megapixels: int) -> Codebook:
    """The codebook in the file, which is learned from some of the photos first where it is absent."""
    if not file.is_file():
        order = np.random.default_rng(fold_in(0, "codebook photos")).permutation(len(photos))[:LEARNED_PHOTOS]
        pictures = [rgb for i in np.sort(order) if (rgb := _load_rgb(photos[i], megapixels)) is not None]
        with replacing(file) as temporary, open(temporary, "wb") as out:
            np.savez(out, **asdict(learn_codebook(pictures)))
    with np.load(file) as arrays:
        return Codebook(**arrays)


def build_codebook_features(
    folder: Path,
    root: Path,
    paths: Sequence[str],
    training: np.ndarray,
    threads: int,
    megapixels: int = DEFAULT_MEGAPIXELS,
) -> list[str]:
    """Write codebook.npz and codes.npy (float32 [N, F], zeros for a photo that cannot be read); returns their names.

    paths: of all N photos under root; training: bool [N], those that the codebook may be learned from.
    megapixels: as for `decode`. Called again after it was cut off it goes on. The caller holds the folder's lock.
    """
    files = [Path(root, path) for path in paths]
    progress, codes_file = folder / NOTE, folder / "codes.npy"
    with threadpool_limits(1), thread_pool(threads) as pool:
        learned_from = [files[i] for i in np.flatnonzero(training)]
        book = _load_codebook(folder / "codebook.npz", learned_from, megapixels)
        width = book.basis.shape[1]

        def describe(file: Path) -> np.ndarray:
            rgb = _load_rgb(file, megapixels)
            return np.zeros(width, np.float32) if rgb is None else book.describe(rgb)

        done = read_json(progress)["photos"] if progress.is_file() and codes_file.is_file() else 0
        shape = (len(files), width)
        with naming(codes_file):
            codes = np.lib.format.open_memmap(codes_file, "r+" if done else "w+", None if done else np.float32, shape)
            reserve_space(codes_file)
        with tqdm(total=len(files), initial=done, desc="codebook features", unit=" photos") as bar:
            for begin in range(done, len(files), _CHUNK):
                chunk = files[begin : begin + _CHUNK]
                codes[begin : begin + len(chunk)] = list(pool.map(describe, chunk))
                codes.flush()
                write_json(progress, {"photos": begin + len(chunk)})
                bar.update(len(chunk))
    return ["codebook.npz", "codes.npy"]
