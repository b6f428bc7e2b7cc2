"""Attention drawn over a photo: the weights lie where they belong, one panel a word."""

import matplotlib
import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from src.plots.attention_maps import BLUR, BOXES, draw_attention, heat, upsample

RNG = np.random.default_rng(0)
WORDS = ("a", "dog", "by", "the", "quiet", "harbour", "한국")


def reference(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear by torch, Gaussian by scipy."""
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(cells)[None, None], size=(height, width), mode="bilinear", align_corners=False
    )[0, 0]
    sigma = BLUR * height / cells.shape[0], BLUR * width / cells.shape[1]
    return scipy.ndimage.gaussian_filter(fine.numpy(), sigma, mode="nearest", truncate=4)


@pytest.mark.parametrize("grid, size", [((7, 7), (210, 350)), ((4, 6), (97, 61)), ((1, 1), (40, 30))])
def test_weights_are_bilinear_and_blurred(grid, size):
    cells = RNG.random(grid, dtype=np.float32)
    laid = upsample(cells, (0, 0, *size), *size)
    assert laid.shape == size and laid.dtype == np.float32
    np.testing.assert_allclose(laid, reference(cells, *size), atol=0.01)


def test_a_cell_is_brightest_over_its_own_centre():
    for row in range(4):
        for column in range(6):
            cells = np.zeros((4, 6), np.float32)
            cells[row, column] = 1
            peak = np.unravel_index(upsample(cells, (0, 0, 200, 300), 200, 300).argmax(), (200, 300))
            assert abs(peak[0] - (row + 0.5) * 50) <= 26 and abs(peak[1] - (column + 0.5) * 50) <= 26
            shown = heat(np.full((200, 300, 3), 128, np.uint8), upsample(cells, (0, 0, 200, 300), 200, 300))
            assert np.ptp(shown[peak].astype(int)) > 60, "colour where it looked"
            assert np.ptp(shown[199 - peak[0], 299 - peak[1]].astype(int)) < 10, "and grey where it did not"


def test_borders_and_crops_are_taken_into_account():
    """A padded view reaches beyond the photo, a cropped one covers a part of it."""
    cells = RNG.random((5, 5), dtype=np.float32)
    square = upsample(cells, (0, 0, 300, 300), 300, 300)
    assert (upsample(cells, (-70, 0, 300, 300), 160, 300) == square[70:230]).all()
    inside = upsample(cells, (0, 50, 300, 300), 300, 400)
    assert (inside[:, 50:350] == square).all() and not inside[:, :50].any() and not inside[:, 350:].any()


@pytest.mark.parametrize("height, width", [(120, 200), (900, 1400), (300, 60), (5, 400)])
def test_one_panel_a_word(tmp_path, drawn, height, width):
    photo = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    weights = RNG.dirichlet(np.ones(12), len(WORDS))
    weights[0] = 1 / 12
    draw_attention(photo, WORDS, weights, (3, 4), (0, 0, height, width), tmp_path / "a.png", "MOS 5.31 a dog")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.format == "PNG" and 800 <= image.size[0] <= 1601
    axes = drawn[0].axes
    assert len(axes) == 1 + len(WORDS) and all(len(each.images) == 1 for each in axes)
    titles = [[text.get_text() for text in each.texts] for each in axes]
    assert titles[0] == ["photo"] and titles[1][-1] == "×1.0", "an even look outweighs nothing"
    assert [float(title[-1][1:]) for title in titles[1:]] == pytest.approx(weights.max(axis=1) * 12, abs=0.05)
    if width >= 100 and height >= 100:
        assert [title[0] for title in titles[1:]] == list(WORDS)
    boxes = [each.get_position() for each in axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    for one, other in ((one, other) for i, one in enumerate(boxes) for other in boxes[i + 1 :]):
        assert one.x1 < other.x0 or one.y0 > other.y1, "panels do not overlap"
    words = " ".join(text.get_text() for text in drawn[0].texts)
    assert "MOS 5.31" in words and "12 cells of the grid" in words


def test_regions_are_boxes_the_stronger_the_bolder(tmp_path, drawn):
    photo = np.full((100, 200, 3), 90, np.uint8)
    boxes = np.sort(RNG.random((9, 2, 2)), axis=1).reshape(9, 4).astype(np.float32)
    weights = RNG.dirichlet(np.ones(9), 2)
    draw_attention(photo, WORDS[:2], weights, boxes, (-50, 0, 200, 200), tmp_path / "a.png", "t", "random regions")
    assert "9 random regions" in " ".join(text.get_text() for text in drawn[0].texts)
    for row, axes in zip(weights, drawn[0].axes[1:], strict=True):
        drawn_boxes = axes.findobj(matplotlib.patches.Rectangle)
        drawn_boxes = sorted(
            (each for each in drawn_boxes if each is not axes.patch), key=lambda each: -each.get_linewidth()
        )
        strongest = np.argsort(-row)[:BOXES]
        assert len(drawn_boxes) == BOXES
        for patch, (x1, y1, x2, y2) in zip(drawn_boxes, boxes[strongest], strict=True):
            corners = np.array([patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()])
            np.testing.assert_allclose(corners, [x1 * 200, y1 * 200 - 50, (x2 - x1) * 200, (y2 - y1) * 200], atol=1e-3)
        assert all(
            one.get_alpha() >= other.get_alpha() for one, other in zip(drawn_boxes, drawn_boxes[1:], strict=False)
        )
    assert not drawn[0].axes[0].findobj(lambda each: isinstance(each, matplotlib.patches.Rectangle))[1:]


def test_what_the_captioner_did_not_see_is_dark(tmp_path, drawn):
    photo = np.full((100, 200, 3), 200, np.uint8)
    draw_attention(photo, ["a"], np.ones((1, 4)) / 4, (2, 2), (0, 50, 100, 100), tmp_path / "a.png", "t")
    shown = np.asarray(drawn[0].axes[0].images[0].get_array())
    assert (shown[:, 50:150] == 200).all() and (shown[:, :50] < 100).all() and (shown[:, 150:] < 100).all()


def test_equal_content_gives_equal_bytes_and_nonsense_is_refused(tmp_path):
    photo, weights = np.zeros((40, 50, 3), np.uint8), np.ones((2, 4)) / 4
    for name in ("a.png", "b.png"):
        draw_attention(photo, ["a", "dog"], weights, (2, 2), (0, 0, 40, 50), tmp_path / name, "t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match="3 words"):
        draw_attention(photo, ["a", "b", "c"], weights, (2, 2), (0, 0, 40, 50), tmp_path / "c.png", "t")
    with pytest.raises(ValueError, match="6 parts"):
        draw_attention(photo, ["a", "b"], weights, (2, 3), (0, 0, 40, 50), tmp_path / "c.png", "t")
    with pytest.raises(ValueError, match="photo: expected uint8"):
        draw_attention(photo[:, :, 0], ["a", "b"], weights, (2, 2), (0, 0, 40, 50), tmp_path / "c.png", "t")
    assert not (tmp_path / "c.png").exists()
