"""The statistics of a data set against numpy, of its training photos only."""

import numpy as np
import pytest

from src.data.handcrafted import NAMES
from src.data.statistics import channel_statistics, dataset_statistics
from src.data.table import make_table


def test_channel_statistics_equal_numpy():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    mean, sd = channel_statistics(pictures, np.array([0, 2, 4]))
    np.testing.assert_allclose(mean, pictures[::2].mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(sd, pictures[::2].std((0, 1, 2)) / 255, rtol=1e-12)


def test_training_photos_alone_are_counted():
    rows = [("a", "a", 2.0, ("one two", "three"), "g", "train"), ("b", "b", 4.0, (), "g", "train")]
    rows += [("c", "c", np.nan, ("x y z",), "c", "train"), ("t", "t", np.nan, (), "t", "test")]
    rows += [("r", "r", 9.0, ("never",), "r", "rejected")]
    frame = make_table(rows)
    pictures = np.zeros((5, 4, 4, 1), np.uint8)
    pictures[3:] = 255
    facts = dataset_statistics(frame, pictures, np.zeros((5, len(NAMES)), np.float32))
    assert facts["photos"] == {"train": 3, "test": 1}
    assert facts["channels"] == {"mean": [0.0], "sd": [0.0]}
    assert (facts["mos"]["mean"], facts["mos"]["sd"], facts["mos"]["count"]) == (3.0, 1.0, 2)
    assert facts["captions"]["count"] == 3 and facts["captions"]["words"]["max"] == 3
    assert facts["captions"]["per_photo"] == {"0": 1, "1": 1, "2": 1}
    assert facts["groups"] == 2


@pytest.mark.parametrize("mos", [(5.1, 5.1000000000000005), (5.1, 5.1), (1e17, 1e17)])
def test_mos_that_differ_by_rounding_only_have_a_histogram(mos):
    frame = make_table([(name, name, value, (), name, "train") for name, value in zip("ab", mos, strict=True)])
    pictures, features = np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, len(NAMES)), np.float32)
    facts = dataset_statistics(frame, pictures, features)["mos"]
    assert (facts["min"], facts["max"], sum(facts["histogram"]["counts"])) == (*mos, 2)
    assert np.all(np.diff(facts["histogram"]["edges"]) > 0)
