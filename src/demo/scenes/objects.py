"""Synthetic close-ups and people of the demo competition; src.demo.scenes.landscapes says what a scene is."""

import numpy as np

from src.demo.scenes.painting import Canvas, Point, around, backdrop, fractal, hsv, soften


def flowers(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blossoms in front of leaves."""
    leaf, petal, petals = look.uniform(0.22, 0.38), look.uniform(-0.25, 0.16), int(look.integers(5, 13))
    canvas = backdrop(take, height, width, [hsv(leaf, 0.5, 0.5), hsv(leaf, 0.6, 0.2)], [0, 1])
    canvas.texture(None, canvas.noise(4, 5), 0.5)
    for _ in range(45):
        centre, size = (take.uniform(0, width), take.uniform(0, height)), take.uniform(0.06, 0.13) * width
        blade = canvas.ellipse(centre, (size, 0.28 * size), take.uniform(0, 180))
        canvas.paint(blade * np.float32(0.8), hsv(leaf + take.normal(0, 0.02), 0.6, take.uniform(0.2, 0.6)))
    for _ in range(int(take.integers(3, 7))):
        x, y, size = take.uniform(0.1, 0.9) * width, take.uniform(0.12, 0.88) * height, take.uniform(0.11, 0.2) * width
        canvas.shadow((x + 0.15 * size, y + 0.2 * size), (size, size), 0.5)
        start, tone = take.uniform(0, 360), hsv(petal + take.normal(0, 0.015), 0.72, 0.92)
        for index in range(petals):
            angle = start + 360 * index / petals
            reach = (x + 0.55 * size * np.cos(np.radians(angle)), y + 0.55 * size * np.sin(np.radians(angle)))
            half = min(0.3, 1.75 / petals) * size
            mask = canvas.ellipse(reach, (0.5 * size, half), angle)
            canvas.paint(mask, tone * np.float32(0.72 + 0.28 * ((index * 3) % 4) / 3))
            tip = (x + size * np.cos(np.radians(angle)), y + size * np.sin(np.radians(angle)))
            canvas.strokes([((x, y), tip)], tone * np.float32(0.6), 1)
        canvas.ball((x, y), 0.24 * size, hsv(look.uniform(0.1, 0.15), 0.85, 0.75))
        seeds = (x, y) + take.normal(0, 0.09, (25, 2)) * size
        canvas.strokes([((a, b), (a + 1, b)) for a, b in seeds], (0.35, 0.2, 0.05), 1)
    return canvas.pixels


def still_life(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Fruit and a vase on a wooden table."""
    wall, wood = hsv(look.random(), 0.25, 0.65), hsv(look.uniform(0.05, 0.1), 0.55, 0.55)
    fruit = look.uniform(-0.05, 0.2)
    edge = take.uniform(0.5, 0.6) * height
    canvas = backdrop(take, height, width, [wall * np.float32(0.7), wall], [0, edge / height])
    canvas.glow((0.15 * width, 0.1 * height), 0.4 * width, (1, 0.95, 0.85), 0.3)
    canvas.texture(None, canvas.noise(8, 5), 0.06)
    table = canvas.below(edge)
    canvas.paint(table, wood, canvas.noise(2, 6, 14.0), 0.35)
    x, foot, size = take.uniform(0.25, 0.75) * width, edge + 0.12 * height, take.uniform(0.3, 0.4) * height
    canvas.shadow((x + 0.35 * size, foot), (0.5 * size, 0.1 * size), 0.55)
    rows = np.linspace(0, 1, 24)
    girth = size * (0.14 + 0.16 * np.sin(np.pi * np.clip(rows * 1.15, 0, 1)) ** 2 + 0.05 * (rows < 0.08))
    side = np.stack([girth, foot - size * (1 - rows)], axis=1)
    outline = np.concatenate([side * (1, 1) + (x, 0), side[::-1] * (-1, 1) + (x, 0)])
    vase, across = canvas.polygon(outline), (np.arange(width) - x) / (0.3 * size)
    canvas.paint(vase, hsv(look.random(), 0.6, 0.8))
    canvas.scale(vase, np.broadcast_to(1.1 - 0.55 * np.clip(0.5 + across, 0, 1), (height, width)))
    canvas.texture(vase, (np.sin(np.arange(height) * 0.35)[:, None] * 0.5 + 0.5).repeat(width, 1), 0.18)
    for row in sorted(take.uniform(edge + 0.1 * height, 0.9 * height, int(take.integers(3, 6)))):
        radius, left = take.uniform(0.07, 0.12) * height, take.uniform(0.12, 0.88) * width
        canvas.shadow((left + 0.6 * radius, row + 0.75 * radius), (1.2 * radius, 0.4 * radius), 0.6)
        canvas.ball((left, row), radius, hsv(fruit + take.uniform(-0.03, 0.14), 0.75, take.uniform(0.65, 0.95)))
        canvas.strokes([((left, row - 0.8 * radius), (left + 3, row - 1.25 * radius))], (0.3, 0.2, 0.1), 3)
    return canvas.pixels


def _face(canvas: Canvas, middle: Point, size: float, tones: dict, smile: float) -> None:
    for side in (-1, 1):
        eye, cheek = around(middle, size, (0.3 * side, -0.05), (0.4 * side, 0.3))
        canvas.paint(canvas.ellipse(eye, (0.15 * size, 0.08 * size)), (0.95, 0.95, 0.93))
        canvas.ball(eye, 0.075 * size, tones["eyes"])
        canvas.strokes([around(eye, size, (-0.17, -0.2), (0.17, -0.22))], tones["hair"] * np.float32(0.7), 0.05 * size)
        blush = soften(canvas.ellipse(cheek, (0.2 * size, 0.15 * size)), 6)
        canvas.paint(blush * np.float32(0.3), (0.9, 0.4, 0.35))
    nose = around(middle, size, (0, 0), (-0.07, 0.3), (0.06, 0.32))
    canvas.strokes([nose[:2], nose[1:]], tones["skin"] * np.float32(0.65), 2)
    mouth = around(middle, size, (-0.25, 0.52), (0, 0.52 + 2 * smile), (0.25, 0.52), (0, 0.5 + smile))
    canvas.paint(canvas.polygon(mouth), (0.7, 0.25, 0.27))


def portrait(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Head and shoulders of a person before a plain wall."""
    skin = hsv(look.uniform(0.04, 0.08), look.uniform(0.3, 0.6), look.uniform(0.5, 0.95))
    hair = hsv(look.uniform(0.02, 0.12), look.uniform(0.2, 0.7), look.uniform(0.1, 0.6))
    wall = hsv(look.random(), 0.3, 0.6)
    canvas = backdrop(take, height, width, [wall, wall * np.float32(0.6)], [0, 1])
    size = take.uniform(0.23, 0.3) * height
    canvas.texture(None, canvas.noise(5, 5), 0.12)
    x, y = take.uniform(0.38, 0.62) * width, take.uniform(0.4, 0.46) * height
    body = canvas.ellipse((x, y + 2.4 * size), (1.6 * size, 1.35 * size))
    knit = (np.sin(np.arange(height) * 0.55)[:, None] * np.sin(np.arange(width) * 0.55)[None] + 1) / 2
    canvas.paint(body, hsv(look.random(), 0.55, 0.7), knit, 0.3)
    canvas.paint(canvas.ellipse((x, y - 0.12 * size), (0.92 * size, 1.2 * size)), hair)
    neck = around((x, y), size, (-0.28, 0.5), (0.28, 0.5), (0.28, 1.3), (-0.28, 1.3))
    canvas.paint(canvas.polygon(neck), skin * np.float32(0.8))
    face = canvas.ellipse((x, y + 0.08 * size), (0.72 * size, 0.98 * size))
    canvas.paint(face, skin)
    across = np.broadcast_to((np.arange(width) - x) / size, (height, width))
    canvas.scale(np.maximum(face, body), 1.05 - 0.35 * np.clip(0.4 + across, 0, 1.2))
    tones = {"skin": skin, "hair": hair, "eyes": hsv(look.uniform(0.05, 0.6), 0.5, 0.4)}
    _face(canvas, (x, y), size, tones, take.uniform(0.03, 0.1))
    locks = [around((x, y), size, (a, -1.2), (1.4 * a, -0.72)) for a in take.uniform(-0.6, 0.6, 30)]
    canvas.strokes(locks, hair * np.float32(1.3), 2)
    return canvas.pixels


def textile(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A woven striped cloth with folds."""
    palette = [hsv(hue, look.uniform(0.2, 0.8), look.uniform(0.3, 0.95)) for hue in look.random() + look.random(4)]
    widths = look.uniform(8, 34, 8)
    order = look.integers(0, 4, 8)
    angle, zoom = take.uniform(-0.5, 0.5), take.uniform(0.8, 1.4)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    bend = 26 * fractal(take, height, width, 2, 2)
    u = (columns * np.cos(angle) + rows * np.sin(angle)) * zoom + bend + 500
    v = (rows * np.cos(angle) - columns * np.sin(angle)) * zoom + bend
    stripe = order[np.searchsorted(np.cumsum(widths), u % widths.sum(), side="right").clip(0, 7)]
    canvas = Canvas(take, np.stack(palette)[stripe].astype(np.float32))
    canvas.pixels *= (0.86 + 0.14 * np.sin(u * 1.15) * np.sin(v * 1.15))[..., None]
    folds = canvas.noise(2.5, 2, 0.4)
    canvas.scale(np.ones((height, width), np.float32), np.clip(0.9 + 16 * np.gradient(folds, axis=1), 0.45, 1.25))
    canvas.texture(None, take.random((height, width), np.float32), 0.06)
    return canvas.pixels
