"""Batches hold what the table says, whoever loads them and in whichever process."""

import multiprocessing

import numpy as np
import pandas as pd
import pytest
import torch

from src.data import loading
from src.data.dataset import BatchDataset, BatchSlice, epoch_batches, rank_slice
from src.data.labels import EncodedCaptions
from src.data.loading import load_batches
from src.data.vocabulary import END, PAD, Vocabulary

CAPTIONS = [("dark sky", "a sharp tree"), (), ("blue", "!!!", "dark blue sky", "sharp"), ("tree",)]


@pytest.fixture
def labels(tmp_path):
    """Four photos of 2 × 2 pixels, with two, no, three and one captions that hold a word."""
    np.save(tmp_path / "pixels.npy", np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3))
    table = pd.DataFrame({"mos": [1.0, np.nan, 3.0, 4.0], "captions": CAPTIONS})
    words = Vocabulary.build(caption for captions in CAPTIONS for caption in captions)
    EncodedCaptions.of(table["captions"], words).save(tmp_path / "captions.npz")
    encoded = EncodedCaptions.load(tmp_path / "captions.npz")
    return encoded.labels(table["mos"].to_numpy(), tmp_path / "pixels.npy", 9), words


def test_captions_come_back_by_photo_and_those_without_a_word_are_left_out(labels):
    encoded, words = labels
    for row, captions in enumerate(CAPTIONS):
        decoded = [words.decode(tokens.tolist()) for tokens in encoded.captions(row)]
        assert decoded == [caption for caption in captions if caption != "!!!"]
        assert all(tokens[-1] == END for tokens in encoded.captions(row))


def test_long_captions_are_cut_as_in_a_loop(labels, tmp_path):
    words = labels[1]
    encoded = EncodedCaptions.load(tmp_path / "captions.npz")
    for limit in (1, 2, 9):
        cut = encoded.labels(np.zeros(4), tmp_path / "pixels.npy", limit)
        for row, captions in enumerate(CAPTIONS):
            ids = [words.encode(caption)[:-1] for caption in captions]
            assert [tokens.tolist() for tokens in cut.captions(row)] == [[*own[:limit], END] for own in ids if own]


def test_a_batch_holds_the_rows_of_its_slice(labels):
    encoded, words = labels
    batch = BatchDataset(encoded, None, 0, 3)[BatchSlice(-1, np.array([2, 1]))]
    assert batch["row"].tolist() == [2, 1]
    assert (batch["images"].numpy() == np.load(encoded.pixels)[[2, 1]]).all()
    np.testing.assert_array_equal(batch["mos"], [3.0, np.nan])
    assert batch["captions"].shape == (2, 3, 4) and (batch["captions"][1] == PAD).all()
    assert [words.decode(caption.tolist()) for caption in batch["captions"][0]] == ["blue", "dark blue sky", "sharp"]


def test_captions_are_drawn_anew_each_epoch_and_the_same_again(labels):
    batches = BatchDataset(labels[0], None, 5, 1)
    drawn = [batches[BatchSlice(epoch, np.array([2]))]["captions"].flatten().tolist() for epoch in range(20)]
    assert len(set(map(tuple, drawn))) == 3
    assert drawn[7] == batches[BatchSlice(7, np.array([2]))]["captions"].flatten().tolist()


def test_the_slices_of_all_ranks_are_the_batch_and_a_dummy_has_no_labels(labels):
    rows = np.array([3, 0, 2])
    slices = [rank_slice(rows, rank, 5, 0) for rank in range(5)]
    assert np.concatenate([part.rows for part in slices if not part.dummy]).tolist() == rows.tolist()
    assert [part.dummy for part in slices] == [False] * 3 + [True] * 2
    batch = BatchDataset(labels[0], None, 0, 2)[slices[4]]
    assert batch["mos"].isnan().all() and (batch["captions"] == PAD).all() and len(batch["row"]) == 1


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 17])
def test_an_epoch_has_each_row_once_and_no_batch_of_one(count):
    batches = epoch_batches(np.arange(count), 4, 0, 1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert max(map(len, batches)) <= 4 and (count == 1 or min(map(len, batches)) > 1)


@pytest.mark.slow
def test_a_process_started_by_spawn_loads_the_same_batches(labels, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    batches = BatchDataset(labels[0], None, 0, 2, uniforms_per_token=1)
    slices = [BatchSlice(epoch, np.array([epoch, 2])) for epoch in range(4)]
    for loaded, part in zip(load_batches(batches, slices, 1, False), slices, strict=True):
        assert all(torch.equal(loaded[name].nan_to_num(), value.nan_to_num()) for name, value in batches[part].items())


def test_where_no_process_can_be_started_this_one_loads(labels, monkeypatch, capsys):
    start = loading.DataLoader.__iter__

    def refused(loader):
        if loader.num_workers:
            raise OSError("Function not implemented")
        return start(loader)

    monkeypatch.setattr(loading.DataLoader, "__iter__", refused)
    slices = [BatchSlice(-1, np.array([row])) for row in range(4)]
    loaded = load_batches(BatchDataset(labels[0], None, 0, 1), slices, 2, False)
    assert [batch["row"].item() for batch in loaded] == [0, 1, 2, 3]
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "run.workers=2" in printed and "Function not implemented" in printed
