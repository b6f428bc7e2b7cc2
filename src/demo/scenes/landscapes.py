"""Synthetic outdoor scenes of the demo competition.

A scene is a function (look, take, height, width) -> canvas. The generator `look` fixes what all photos of one group
share (palette, weather, kind of objects), `take` what differs between them (viewpoint, positions). A change in the
order of draws changes the demo's bytes.
"""

import numpy as np

from src.demo.scenes.painting import Canvas, Colour, Point, around, backdrop, hsv, mix


def _clouds(canvas: Canvas, horizon: float, amount: float, colour: Colour = (1, 1, 1)) -> None:
    height = canvas.shape[0]
    cover = np.clip((canvas.noise(2.5, 5, 2.2) - 0.52) * 4, 0, 1)
    fade = np.clip((horizon - np.arange(height)) / max(horizon, 1), 0, 1).astype(np.float32)[:, None] ** 0.6
    canvas.paint((cover * fade * amount).astype(np.float32), colour)


def _tree(canvas: Canvas, take: np.random.Generator, foot: Point, size: float, leaf: np.ndarray) -> None:
    x, y = foot
    canvas.strokes([((x, y), (x + take.normal(0, 0.04) * size, y - 0.6 * size))], (0.26, 0.18, 0.12), 0.09 * size)
    for _ in range(9):
        centre = (x + take.normal(0, 0.17) * size, y - (0.72 + take.normal(0, 0.13)) * size)
        crown = canvas.ellipse(centre, (0.2 * size, 0.16 * size)) * np.float32(0.9)
        canvas.paint(crown, leaf * np.float32(take.uniform(0.55, 1.25)))
    spots = [(x + take.normal(0, 0.2) * size, y - (0.75 + take.normal(0, 0.15)) * size) for _ in range(24)]
    canvas.strokes([((a, b), (a + 2, b - 2)) for a, b in spots], leaf * np.float32(1.5), 0.03 * size)


def sea(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The sun low over the sea, its path on the waves, clouds."""
    warm, deep = hsv(look.uniform(0.02, 0.13), 0.75, 1.0), hsv(look.uniform(0.55, 0.75), 0.6, look.uniform(0.4, 0.7))
    horizon = take.uniform(0.42, 0.6) * height
    sun = (take.uniform(0.25, 0.75) * width, horizon - take.uniform(0.06, 0.22) * height)
    canvas = backdrop(take, height, width, [deep, mix(deep, warm, 0.55), warm], [0, 0.3, horizon / height])
    _clouds(canvas, horizon, 0.65, mix(warm, (1, 0.8, 0.8), 0.5))
    canvas.glow(sun, 0.16 * width, warm, 0.5)
    canvas.paint(canvas.ellipse(sun, (0.05 * width, 0.05 * width)), (1.0, 0.96, 0.78))
    water = canvas.below(horizon)
    depth = np.clip((np.arange(height) - horizon) / (height - horizon), 0, 1).astype(np.float32)[:, None]
    canvas.paint(water, mix(warm, deep, 0.5) * (1 - depth[..., None]) + 0.55 * deep * depth[..., None])
    waves = canvas.noise(5, 5, 7.0)
    canvas.texture(water, waves, 0.45)
    path = np.exp(-(((np.arange(width) - sun[0]) / (0.05 * width + 0.14 * width * depth)) ** 2))
    canvas.paint((water * path * (waves > 0.5) * 0.85).astype(np.float32), warm * 1.05)
    return canvas.pixels


def boat(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A sailing boat on a lake by day."""
    sky, sail = hsv(look.uniform(0.53, 0.62), 0.5, 0.95), hsv(look.random(), look.uniform(0.1, 0.85), 0.95)
    lake, hull = hsv(look.uniform(0.48, 0.6), 0.65, 0.6), hsv(look.random(), 0.7, 0.5)
    horizon = take.uniform(0.4, 0.55) * height
    canvas = backdrop(take, height, width, [sky, mix(sky, (1, 1, 1), 0.7)], [0, horizon / height])
    _clouds(canvas, horizon, 0.9)
    shore = canvas.below(canvas.ridge(horizon - 0.03 * height, 0.05 * height, 4, 4))
    canvas.paint(shore, hsv(look.uniform(0.25, 0.4), 0.35, 0.5))
    canvas.paint(canvas.below(horizon), lake, canvas.noise(6, 5, 6.0), 0.35)
    size, x, y = take.uniform(0.45, 0.65) * height, take.uniform(0.3, 0.7) * width, horizon + 0.22 * height
    lean, side = take.uniform(-0.06, 0.06) * size, take.choice([-1, 1])
    top = (x + lean, y - 0.95 * size)
    for reach, shade in ((0.36, 1.0), (-0.26, 0.82)):
        sheet = canvas.polygon([top, (x + side * reach * size, y - 0.14 * size), (x, y - 0.12 * size)])
        canvas.paint(sheet, sail * np.float32(shade), canvas.noise(3, 2, 0.3), 0.12)
    canvas.strokes([((x, y - 0.05 * size), top)], (0.25, 0.18, 0.12), 0.02 * size)
    canvas.paint(canvas.polygon(around((x, y), size, (-0.34, -0.1), (0.36, -0.1), (0.24, 0), (-0.24, 0))), hull)
    mirror = canvas.box(x - 0.22 * size, y, x + 0.22 * size, min(height, y + 0.3 * size))
    canvas.scale(mirror * canvas.noise(4, 3, 9.0), 0.45)
    return canvas.pixels


def hills(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Rolling hills with fields, trees and the sun."""
    sky, grass = hsv(look.uniform(0.5, 0.62), 0.45, 0.95), look.uniform(0.15, 0.36)
    canvas = backdrop(take, height, width, [sky, mix(sky, (1, 0.97, 0.88), 0.8)], [0, 0.6])
    _clouds(canvas, 0.5 * height, 0.85)
    sun = (take.uniform(0.1, 0.9) * width, take.uniform(0.1, 0.25) * height)
    canvas.glow(sun, 0.06 * width, (1, 0.9, 0.6), 0.4)
    for layer in range(4):
        near = layer / 3
        edge = canvas.ridge((0.42 + 0.15 * layer) * height, (0.09 - 0.01 * layer) * height, 2 + layer / 2, 2)
        colour = hsv(grass + 0.05 * look.normal(), 0.3 + 0.35 * near, 0.72 - 0.18 * near)
        grain = canvas.noise(6 + 10 * near, 5, 2.5)
        canvas.paint(canvas.below(edge), mix(colour, sky, 0.45 * (1 - near)), grain, 0.15 + 0.25 * near)
        for _ in range(int(take.integers(1, 4))):
            column = int(take.uniform(0.03, 0.97) * width)
            _tree(canvas, take, (column, edge[column] + 4), (0.1 + 0.16 * near) * height, hsv(grass + 0.04, 0.55, 0.4))
    return canvas.pixels


def mountains(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Snowy mountains above a white valley with firs."""
    sky = hsv(look.uniform(0.48, 0.72), look.uniform(0.3, 0.75), look.uniform(0.5, 0.95))
    rock = hsv(look.random(), 0.2, 0.45)
    snow = mix((0.95, 0.96, 1.0), hsv(look.uniform(-0.15, 0.15), 0.4, 1.0), look.uniform(0.0, 0.35))
    canvas = backdrop(take, height, width, [sky, mix(sky, snow, 0.75)], [0, 0.6])
    for layer in range(2):
        edge = canvas.ridge((0.4 + 0.14 * layer) * height, 0.2 * height, 2.5, 6)
        mask, relief = canvas.below(edge), canvas.noise(5, 6, 0.8)
        line = edge[None] + (0.05 + 0.28 * relief) * height
        white = np.clip((line - np.arange(height)[:, None]) / 3, 0, 1).astype(np.float32)
        canvas.paint(mask, mix(rock, sky, 0.4 * (1 - layer)))
        canvas.paint(mask * white, snow)
        canvas.texture(mask, np.clip(0.5 + 14 * np.gradient(relief, axis=1), 0, 1), 0.35)
    valley = canvas.below(canvas.ridge(0.75 * height, 0.04 * height, 3, 3))
    canvas.paint(valley, snow * np.float32(0.96), canvas.noise(8, 5, 3.0), 0.12)
    for _ in range(int(take.integers(5, 12))):
        x, y, size = take.uniform(0, width), take.uniform(0.74, 0.95) * height, take.uniform(0.1, 0.22) * height
        for tier in range(3):
            top, half = 0.4 + 0.3 * tier, 0.24 - 0.06 * tier
            fir = around((x, y), size, (0, -top - 0.3), (-half, 0.25 - top), (half, 0.25 - top))
            canvas.paint(canvas.polygon(fir), hsv(0.4, 0.45, 0.2 + 0.06 * tier))
    return canvas.pixels


def desert(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Sand dunes with ripples and long shadows."""
    sand = hsv(look.uniform(0.03, 0.13), look.uniform(0.3, 0.7), look.uniform(0.75, 0.98))
    sky = hsv(look.uniform(0.48, 0.68), look.uniform(0.3, 0.75), look.uniform(0.6, 0.95))
    canvas = backdrop(take, height, width, [sky, mix(sky, sand, 0.6)], [0, 0.5])
    canvas.glow((take.uniform(0, 1) * width, 0.12 * height), 0.06 * width, (1, 0.9, 0.7), 0.5)
    for layer in range(3):
        edge = canvas.ridge((0.42 + 0.18 * layer) * height, 0.12 * height, 1.6 + 0.4 * layer, 1)
        dune, slope = canvas.below(edge), np.gradient(edge)
        canvas.paint(dune, sand * np.float32(0.82 + 0.09 * layer))
        lee = np.clip(slope * 3, 0, 1)[None] * np.exp(-(np.arange(height)[:, None] - edge[None]) / (0.22 * height))
        canvas.scale(dune * np.clip(lee, 0, 1).astype(np.float32), 0.45)
        phase = np.arange(height)[:, None] - edge[None] + 14 * canvas.noise(3, 3)
        canvas.texture(dune, (0.5 + 0.5 * np.sin(phase * (1.4 - 0.3 * layer))).astype(np.float32), 0.09)
        canvas.texture(dune, take.random((height, width), np.float32), 0.08)
    return canvas.pixels


def skyline(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A city at dusk: towers with lit windows, mirrored in a river."""
    top = hsv(look.uniform(0.5, 0.85), look.uniform(0.35, 0.75), look.uniform(0.3, 0.65))
    low = hsv(look.uniform(-0.12, 0.14), look.uniform(0.3, 0.75), look.uniform(0.75, 1.0))
    shore = take.uniform(0.72, 0.82) * height
    canvas = backdrop(take, height, width, [top, low], [0, shore / height])
    _clouds(canvas, shore, 0.35, mix(low, (1, 1, 1), 0.3))
    for layer in range(2):
        x, tone = -take.uniform(0, 0.1) * width, mix(top, (0.07, 0.07, 0.1), 0.35 + 0.5 * layer)
        while x < width:
            wide, tall = take.uniform(0.07, 0.15) * width, take.uniform(0.2, 0.62 - 0.15 * layer) * height
            canvas.paint(canvas.box(x, shore - tall, x + wide, shore), tone * np.float32(take.uniform(0.8, 1.25)))
            across, rows = max(2, int(wide / 9)), max(3, int(tall / 11))
            lit = np.argwhere(take.random((across, rows)) < 0.45 + 0.15 * layer)
            cells = [(x + (a + 0.5) * wide / across, shore - tall + (r + 0.5) * tall / rows) for a, r in lit]
            lamp = hsv(take.uniform(0.09, 0.16), take.uniform(0.2, 0.6), 1.0)
            canvas.strokes([((a - 1, b), (a + 1, b)) for a, b in cells], mix(tone, lamp, 0.55 + 0.4 * layer), 4)
            x += wide * take.uniform(0.95, 1.15)
    first = round(shore)
    river = canvas.pixels[max(0, 2 * first - height) : first][::-1][: height - first]
    canvas.pixels[first : first + len(river)] = river * np.float32(0.6)
    canvas.texture(canvas.below(shore), canvas.noise(6, 4, 9.0), 0.45)
    return canvas.pixels


def night(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Stars, the milky way and the moon over dark hills, one of them with a lit hut."""
    top, low = hsv(look.uniform(0.58, 0.75), 0.75, 0.16), hsv(look.uniform(0.5, 0.85), 0.55, 0.45)
    canvas = backdrop(take, height, width, [top, low], [0, 0.8])
    tilt = take.uniform(-0.8, 0.8)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    band = np.exp(-((((columns - width / 2) * tilt + rows - 0.35 * height) / (0.14 * height)) ** 2))
    canvas.pixels += (0.35 * band * canvas.noise(5, 5))[..., None] * mix(low, (1, 0.95, 0.9), 0.6)
    for size, count in ((1, 150), (2, 50), (4, 12)):
        stars = take.random((count, 2)) * (width, 0.75 * height)
        canvas.strokes([((x, y), (x + 0.3, y)) for x, y in stars], (1.0, 0.97, 0.9), size)
    if look.random() < 0.6:
        moon = (take.uniform(0.15, 0.85) * width, take.uniform(0.12, 0.35) * height)
        canvas.glow(moon, 0.12 * width, (0.8, 0.85, 1.0), 0.35)
        canvas.paint(canvas.ellipse(moon, (0.06 * width, 0.06 * width)), (0.97, 0.95, 0.86), canvas.noise(14, 3), 0.22)
    for layer in range(2):
        edge = canvas.ridge((0.76 + 0.1 * layer) * height, 0.07 * height, 3, 4)
        canvas.paint(canvas.below(edge), low * np.float32(0.42 - 0.2 * layer), canvas.noise(12, 4), 0.4)
    x, y = take.uniform(0.15, 0.85) * width, 0.87 * height
    canvas.glow((x, y), 0.05 * width, (1.0, 0.7, 0.3), 0.35)
    canvas.strokes([((x, y), (x + 5, y)), ((x + 11, y), (x + 16, y))], (1.0, 0.85, 0.45), 6)
    return canvas.pixels
