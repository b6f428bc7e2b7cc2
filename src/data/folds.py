"""Folds: which photos validate which model. A photo, its near-duplicates and its group share one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.base.csv_files import read_rows, write_csv
from src.base.errors import InputError
from src.base.randomness import fold_in

MOS_BINS = 10
LARGEST_DISTANCE = 7
_BANDS, _BAND_BITS = 4, 16
_PAIRS_AT_ONCE = 2_000_000


class Leak(ValueError):
    """Photos of one group are in two folds, which makes scores too good. A fault of the program."""


def _first_members(labels: np.ndarray) -> np.ndarray:
    """Groups renamed to the index of their first member: int64 [N]."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def merge_groups(*labelings: Sequence | np.ndarray) -> np.ndarray:
    """The smallest groups that keep together whatever shares a label in any labeling: int64 [N], first member's index.

    labelings: each [N], numbers or strings.
    """
    edges = [_first_members(np.asarray(labels)) for labels in labelings]
    starts = np.tile(np.arange(len(labelings[0])), len(edges))
    return _components(starts, np.concatenate(edges), len(labelings[0]))


def _components(starts: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
    """Connected components of an undirected graph of `count` nodes: int64 [count], first member's index."""
    graph = coo_array((np.ones(len(ends), np.int8), (starts, ends)), shape=(count, count))
    return _first_members(connected_components(graph, directed=False)[1])


def _matches(keys: np.ndarray, wanted: np.ndarray, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (i, j) with wanted[i] == keys[j], in blocks of bounded size. order: sorts `keys`."""
    ranked = keys[order]
    first = np.searchsorted(ranked, wanted, "left")
    counts = np.searchsorted(ranked, wanted, "right") - first
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(wanted):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
        block = counts[begin:stop]
        left = np.repeat(np.arange(begin, stop), block)
        offset = np.arange(len(left)) - np.repeat(ends[begin:stop] - block - done, block)
        yield left, order[np.repeat(first[begin:stop], block) + offset]
        begin = stop


def near_duplicates(phash: np.ndarray, distance: int) -> np.ndarray:
    """Groups of photos linked by pairs whose hashes differ in at most `distance` bits: int64 [N], first member's index.

    phash: uint64 [N]. distance: 0 to 7, or -1 to leave every photo in a group of its own.
    Where two hashes differ in at most seven bits, one of their four 16-bit bands differs in at most one, so only hashes
    with such a band are compared (multi-index hashing: Norouzi et al., Fast Search in Hamming Space, CVPR 2012); equal
    hashes are compared once. Raises InputError for another distance.
    """
    if not -1 <= distance <= LARGEST_DISTANCE:
        raise InputError(f"split.duplicate_distance={distance} is not between -1 and {LARGEST_DISTANCE}")
    if distance == -1 or len(phash) == 0:
        return np.arange(len(phash), dtype=np.int64)
    hashes, inverse = np.unique(np.asarray(phash, np.uint64), return_inverse=True)
    flips = [0] if distance < _BANDS else [0, *(1 << bit for bit in range(_BAND_BITS))]
    links = [(np.arange(len(hashes)), np.arange(len(hashes)))]
    for band in range(_BANDS):
        keys = ((hashes >> np.uint64(band * _BAND_BITS)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        for flip in flips:
            # each pair once: of two keys that differ in a bit, one has it
            rows = np.flatnonzero(keys & flip) if flip else np.arange(len(keys))
            for index, right in _matches(keys, keys[rows] ^ flip, order):
                left = rows[index]
                near = np.bitwise_count(hashes[left] ^ hashes[right]) <= distance
                if not flip:
                    near &= left < right
                links.append((left[near], right[near]))
    starts, ends = (np.concatenate(side) for side in zip(*links, strict=True))
    return _first_members(_components(starts, ends, len(hashes))[inverse])


def _balanced_columns(mos: np.ndarray, has_caption: np.ndarray) -> np.ndarray:
    """What folds have in equal shares, float64 [N, columns]: photos, MOS bins (one of them: no MOS), captions, MOS.

    Each column is divided by the root of its sum of squares, so that a rare bin weighs as much as a common one.
    """
    labelled = np.isfinite(mos)
    bins = np.full(len(mos), MOS_BINS)
    centred = np.zeros(len(mos))
    if labelled.any():
        edges = np.quantile(mos[labelled], np.linspace(0, 1, MOS_BINS + 1)[1:-1])
        bins[labelled] = np.searchsorted(edges, mos[labelled], "right")
        centred[labelled] = mos[labelled] - mos[labelled].mean()
    one_hot = np.eye(MOS_BINS + 1)[bins]
    columns = np.column_stack([np.ones(len(mos)), one_hot, has_caption.astype(float), centred])
    scale = np.sqrt((columns**2).sum(0))
    return columns / np.where(scale > 0, scale, 1.0)


def _assign_groups(loads: np.ndarray, shares: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The fold of each group, int64 [groups]: in `order`, each goes where the squared imbalance grows least.

    loads: [groups, columns]. shares: [folds], which sum to 1. No fold stays empty where there are enough groups.
    """
    folds = np.empty(len(loads), np.int64)
    excess = -shares[:, None] * loads.sum(0)
    empty = np.ones(len(shares), bool)
    for position, group in enumerate(order):
        load = loads[group]
        cost = (2 * excess @ load + load @ load) / shares
        if len(order) - position <= empty.sum():  # every group left is needed for an empty fold
            cost = np.where(empty, cost, np.inf)
        folds[group] = best = int(np.argmin(cost))
        excess[best] += load
        empty[best] = False
    return folds


def assign_folds(
    mos: np.ndarray,
    groups: np.ndarray,
    folds: int,
    holdout: float | None,
    seed: int,
    has_caption: np.ndarray,
) -> np.ndarray:
    """The fold of each photo, int64 [N]: 0 … folds-1; with `holdout` 0 for that share of photos and -1 for the rest.

    mos: float [N], NaN where missing. groups: int [N], photos of one group share a fold. has_caption: bool [N].
    Folds are alike in size, MOS distribution and captions: largest groups first, equal ones in an order drawn from
    `seed`, each to where it fits best. (StratifiedGroupKFold of scikit-learn balances the counts of a single label, and
    knows neither the mean MOS nor a holdout.) Raises InputError where there are too few groups.
    """
    if holdout is None and folds < 2:
        raise InputError(f"split.folds={folds}: at least 2 are needed; for a single validation part use split.holdout")
    if holdout is not None and not 0 < holdout < 1:
        raise InputError(f"split.holdout={holdout} is not a share between 0 and 1")
    labels, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shares = np.full(folds, 1 / folds) if holdout is None else np.array([holdout, 1 - holdout])
    if len(labels) < len(shares):
        raise InputError(
            f"{len(mos)} photos form {len(labels)} groups, too few for {len(shares)} folds; give more photos, fewer "
            "split.folds or a smaller split.duplicate_distance"
        )
    columns = _balanced_columns(np.asarray(mos, float), np.asarray(has_caption, bool))
    loads = np.zeros((len(labels), columns.shape[1]))
    np.add.at(loads, inverse, columns)
    ties = np.random.default_rng(fold_in(seed, "folds")).random(len(labels))
    fold_of_group = _assign_groups(loads, shares, np.lexsort((ties, -sizes)))
    return (fold_of_group if holdout is None else -fold_of_group)[inverse]


def official_folds(part: Sequence[str]) -> np.ndarray:
    """The data set's official parts as folds, int64 [N]: 0 for validation, -1 (always in training) for the rest.

    part: [N], "train" or "validation". Raises InputError where one of them is missing.
    """
    validation = np.asarray(part) == "validation"
    if not validation.any():
        raise InputError("split.official: this data set has no validation part; take split.holdout=0.1 for 90/10")
    if validation.all():
        raise InputError("split.official: none of this data set's training photos can be used; see rejected.csv")
    return np.where(validation, 0, -1).astype(np.int64)


def straddling(folds: np.ndarray, groups: np.ndarray) -> int:
    """How many photos of fold 0 have a photo of their group in another fold. folds, groups: int [N]."""
    return int(np.isin(groups[folds == 0], groups[folds != 0]).sum())


def check_folds(folds: np.ndarray, *labelings: Sequence | np.ndarray) -> None:
    """Raise Leak where photos with the same label are in two folds. labelings: each [N], such as groups or names."""
    folds = np.asarray(folds)
    for labels in labelings:
        first = _first_members(np.asarray(labels))
        leaks = np.flatnonzero(folds != folds[first])
        if len(leaks):
            row = int(leaks[0])
            raise Leak(
                f"{len(leaks)} photos are in another fold than photos of their group, for example row {row} "
                f"(fold {folds[row]}) and row {first[row]} (fold {folds[first[row]]})"
            )


def fold_summary(frame: pd.DataFrame, folds: np.ndarray) -> pd.DataFrame:
    """One row per fold: photos, those with a MOS, its mean and sd, captioned photos, captions."""
    counts = frame["captions"].map(len).to_numpy()
    by_fold = pd.DataFrame({"fold": folds, "mos": frame["mos"].to_numpy(), "n": counts}).groupby("fold", sort=True)
    return pd.DataFrame(
        {
            "photos": by_fold.size(),
            "with_mos": by_fold["mos"].count(),
            "mean_mos": by_fold["mos"].mean(),
            "sd_mos": by_fold["mos"].std(ddof=0),
            "captioned": by_fold["n"].agg(lambda n: int((n > 0).sum())),
            "captions": by_fold["n"].sum(),
        }
    ).reset_index()


def save_folds(path: Path, photo_ids: Sequence[str], folds: np.ndarray) -> None:
    """Write folds.csv with the columns photo_id, fold."""
    write_csv(path, ("photo_id", "fold"), zip(photo_ids, folds.tolist(), strict=True))


def load_folds(path: Path, photo_ids: Sequence[str]) -> np.ndarray:
    """The folds of these photos, int64 [N]. Raises InputError where the file is of other photos."""
    try:
        by_id = {row.cells["photo_id"]: int(row.cells["fold"]) for row in read_rows(path, ("photo_id", "fold"))}
        folds = np.array([by_id[photo_id] for photo_id in photo_ids], np.int64)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} does not fit the photos ({error}); remove it and run split again") from None
    if len(by_id) != len(folds):
        raise InputError(f"{path} lists {len(by_id)} photos, there are {len(folds)}; remove it and run split again")
    return folds
