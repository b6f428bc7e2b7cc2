"""Codebook features against a loop over codewords; cut off, they go on to the same bytes."""

import dataclasses
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from src.data import codebook
from src.data.codebook import NEAREST, Codebook, _patches, learn_codebook


def textured(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    return (cv2.resize(coarse, (96, 64)) * 0.8 + rng.normal(20, 6, (64, 96, 3))).clip(0, 255).astype(np.uint8)


def test_features_equal_a_loop_over_codewords():
    book = learn_codebook([textured(i) for i in range(8)])
    rgb = textured(9)
    plain = dataclasses.replace(book, moments=np.zeros_like(book.moments))
    patches = ((_patches(rgb, 4) - book.centre) @ book.whitening).astype(float)
    weight = np.zeros((len(patches), len(book.words)))
    for i, patch in enumerate(patches):
        distance = np.square(patch - book.words).sum(1)
        near = np.argsort(distance)[:NEAREST]
        share = np.exp(-0.05 * (distance[near] - distance[near].min()))
        weight[i, near] = share / share.sum()
    statistics = plain.differences(rgb).reshape(3, len(book.words), -1)
    checked = np.argsort(-weight.sum(0))[:10]
    for word in checked:
        mean = np.average(patches, axis=0, weights=weight[:, word])
        variance = np.average(np.square(patches - mean), axis=0, weights=weight[:, word])
        np.testing.assert_allclose(statistics[0, word] ** 2, np.abs(mean), rtol=2e-2, atol=5e-3)
        np.testing.assert_allclose(statistics[1, word] ** 2, variance, rtol=2e-2, atol=2e-2)
    assert book.describe(rgb).shape == (7,)
    assert np.isfinite(book.describe(np.zeros((64, 64, 3), np.uint8))).all()


def test_an_interrupted_build_gives_the_same_bytes(tmp_path, monkeypatch):
    for i in range(24):
        Image.fromarray(textured(i)).save(tmp_path / f"{i}.png")
    paths = [f"{i}.png" for i in range(24)] + ["absent.png"]
    training = np.arange(25) < 16
    monkeypatch.setattr(codebook, "_CHUNK", 5)
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    codebook.build_codebook_features(tmp_path / "whole", tmp_path, paths, training, 2)
    describe, calls = Codebook.describe, []

    def cut(book, rgb):
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return describe(book, rgb)

    with monkeypatch.context() as patch:
        patch.setattr(Codebook, "describe", cut)
        with pytest.raises(KeyboardInterrupt):
            codebook.build_codebook_features(tmp_path / "cut", tmp_path, paths, training, 1)
    if hasattr(os, "posix_fallocate"):
        codes = tmp_path / "cut" / "codes.npy"
        assert codes.stat().st_blocks * 512 >= codes.stat().st_size, "a full disk shows at once"
    names = codebook.build_codebook_features(tmp_path / "cut", tmp_path, paths, training, 1)
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    codes = np.load(tmp_path / "cut" / "codes.npy")
    monkeypatch.setattr(Codebook, "describe", cut)
    assert codebook.build_codebook_features(tmp_path / "cut", tmp_path, paths, training, 1) == names, "nothing is left"
    assert codes.shape == (25, 15) and not codes[24].any() and codes[:24].any(1).all()
