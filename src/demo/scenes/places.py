"""Synthetic places of the demo competition; src.demo.scenes.landscapes says what a scene is."""

import numpy as np

from src.demo.scenes.painting import Canvas, Point, around, backdrop, hsv, mix, soften


def street(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A road between two rows of trees, in perspective."""
    sky, leaf = hsv(look.uniform(0.48, 0.66), look.uniform(0.1, 0.5), 0.92), look.uniform(0.04, 0.36)
    asphalt = look.uniform(0.3, 0.55)
    x, y = take.uniform(0.38, 0.62) * width, take.uniform(0.45, 0.55) * height
    canvas = backdrop(take, height, width, [sky, mix(sky, (1, 1, 1), 0.7)], [0, 0.5])
    ground, grain = canvas.below(y), canvas.noise(12, 5, 2.0)
    canvas.paint(ground, hsv(leaf + 0.03, 0.4, 0.5), grain, 0.4)
    road = canvas.polygon([(x - 3, y), (x + 3, y), (x + 0.75 * width, height), (x - 0.75 * width, height)])
    canvas.paint(road, hsv(look.random(), 0.05, asphalt), take.random((height, width), np.float32), 0.18)
    for step in range(6):
        near, far = 0.72**step, 0.72 ** (step + 0.45)
        mark = [(x - 9 * far, y + (height - y) * far), (x + 9 * far, y + (height - y) * far)]
        mark += [(x + 9 * near, y + (height - y) * near), (x - 9 * near, y + (height - y) * near)]
        canvas.paint(canvas.polygon(mark), (0.93, 0.91, 0.82))
    for step in range(6, -1, -1):
        near = 0.7**step
        for side in (-1, 1):
            foot, size = (x + side * 0.62 * width * near, y + 0.62 * (height - y) * near), 0.95 * height * near
            canvas.strokes([(foot, (foot[0], foot[1] - 0.5 * size))], (0.3, 0.22, 0.16), 0.06 * size)
            for _ in range(7):
                crown = (foot[0] + take.normal(0, 0.14) * size, foot[1] - (0.68 + take.normal(0, 0.12)) * size)
                mask = canvas.ellipse(crown, (0.19 * size, 0.15 * size), take.uniform(0, 180))
                canvas.paint(mask * np.float32(0.9), hsv(leaf + take.normal(0, 0.015), 0.6, take.uniform(0.3, 0.75)))
            spots = (foot[0], foot[1] - 0.7 * size) + take.normal(0, 0.17, (40, 2)) * size
            canvas.strokes([((a, b), (a + 1, b + 1)) for a, b in spots], hsv(leaf, 0.5, 0.9), 0.02 * size)
            canvas.shadow((foot[0] - side * 0.2 * size, foot[1] + 2), (0.3 * size, 0.05 * size), 0.45)
    return canvas.pixels


def underwater(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Fish over corals in rays of light."""
    hue, stripe = look.uniform(0.47, 0.58), look.random()
    canvas = backdrop(take, height, width, [hsv(hue, 0.45, 0.95), hsv(hue + 0.05, 0.85, 0.35)], [0, 1])
    origin = take.uniform(0.2, 0.8) * width
    for angle in take.uniform(-0.7, 0.7, 7):
        spread, end = take.uniform(0.03, 0.08) * width, origin + angle * height
        ray = [(origin + 40 * angle, -5), (end - spread, height), (end + spread, height)]
        canvas.pixels += 0.12 * soften(canvas.polygon(ray), 4)[..., None]
    canvas.texture(None, canvas.noise(6, 4, 2.0), 0.12)
    bed = canvas.below(canvas.ridge(0.86 * height, 0.05 * height, 4, 4))
    canvas.paint(bed, mix(hsv(0.11, 0.4, 0.75), hsv(hue, 0.6, 0.6), 0.35), canvas.noise(16, 5), 0.35)
    for _ in range(int(take.integers(5, 9))):
        x, tone = take.uniform(0, width), hsv(look.choice([-0.04, 0.05, 0.82, 0.93]) + take.normal(0, 0.02), 0.65, 0.85)
        tips = [(x + take.normal(0, 0.07) * width, take.uniform(0.62, 0.84) * height) for _ in range(9)]
        canvas.strokes([((x, 0.93 * height), tip) for tip in tips], tone, 0.018 * width)
        canvas.strokes([(tip, (tip[0] + 1, tip[1])) for tip in tips], mix(tone, (1, 1, 1), 0.45), 0.022 * width)
    for _ in range(int(take.integers(4, 10))):
        x, y, size = take.uniform(0.1, 0.9) * width, take.uniform(0.1, 0.7) * height, take.uniform(0.05, 0.1) * width
        side, tone = take.choice([-1, 1]), hsv(stripe + take.normal(0, 0.02), 0.75, 0.95)
        tail = around((x, y), size, (-0.8 * side, 0), (-1.6 * side, -0.5), (-1.6 * side, 0.5))
        canvas.paint(canvas.polygon(tail), tone * np.float32(0.8))
        trunk = canvas.ellipse((x, y), (size, 0.55 * size))
        canvas.paint(trunk, tone)
        bars = np.broadcast_to(0.5 + 0.5 * np.sin((np.arange(width) - x) * 7 / size), (height, width))
        canvas.texture(trunk, bars.astype(np.float32), 0.4)
        canvas.ball((x + side * 0.6 * size, y - 0.12 * size), 0.13 * size, (0.1, 0.1, 0.1))
    bubbles = take.random((18, 2)) * (width, height)
    canvas.strokes([((a, b), (a + 1, b)) for a, b in bubbles], hsv(hue, 0.15, 1.0), 5)
    return canvas.pixels


def _window(canvas: Canvas, take: np.random.Generator, left: float, edge: float) -> None:
    """A window from column `left`, and its light on the floor below row `edge`."""
    height, width = canvas.shape
    top, right, foot, white = 0.12 * height, left + 0.28 * width, 0.5 * height, (0.95, 0.94, 0.9)
    canvas.paint(canvas.box(left - 6, top - 6, right + 6, foot + 6), white)
    colours: list = [hsv(0.56, 0.4, 1.0), (0.97, 0.98, 1.0), hsv(0.3, 0.5, 0.6)]
    view = backdrop(take, height, width, colours, [0.1, 0.36, 0.42])
    view.texture(None, view.noise(9, 4), 0.15)
    canvas.paint(canvas.box(left, top, right, foot), view.pixels)
    middle, bar = (left + right) / 2, 0.3 * height
    canvas.strokes([((middle, top), (middle, foot)), ((left, bar), (right, bar))], white, 5)
    beam = [(left, edge), (right, edge), (right + 0.25 * width, height), (left + 0.2 * width, height)]
    canvas.scale(soften(canvas.polygon(beam), 5), 1.45)


def _sofa(canvas: Canvas, take: np.random.Generator, corner: Point, cloth: np.ndarray) -> None:
    """A sofa whose back begins at `corner`, its left and upper end."""
    height, width = canvas.shape
    x, y = corner
    canvas.shadow((x + 0.23 * width, y + 0.33 * height), (0.27 * width, 0.05 * height), 0.5)
    back, arms, seat = (0, 0, 0.46, 0.26), ((-0.03, 0.1, 0.04, 0.32), (0.42, 0.1, 0.49, 0.32)), (0.03, 0.16, 0.43, 0.3)
    for left, top, right, foot in (back, *arms, seat):
        mask = canvas.box(x + left * width, y + top * height, x + right * width, y + foot * height)
        canvas.paint(mask, cloth * np.float32(take.uniform(0.8, 1.1)), take.random((height, width), np.float32), 0.15)


def room(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A room with a window, a picture, a lamp and a sofa."""
    wall, cloth = hsv(look.random(), 0.22, 0.78), hsv(look.random(), 0.5, 0.6)
    edge, shift = take.uniform(0.66, 0.72) * height, take.uniform(-0.08, 0.08) * width
    canvas = backdrop(take, height, width, [wall * np.float32(0.8), wall], [0, 0.7])
    paper = (np.sin(np.arange(width) * 0.3)[None] > 0.6) * np.ones((height, 1))
    canvas.texture(None, paper.astype(np.float32), 0.06)
    canvas.paint(canvas.below(edge), hsv(look.uniform(0.05, 0.1), 0.5, 0.5), canvas.noise(2, 6, 16.0), 0.35)
    canvas.strokes([((0, edge), (width, edge))], (0.92, 0.9, 0.86), 5)
    _window(canvas, take, 0.1 * width + shift, edge)
    left, top, right, foot = 0.58 * width + shift, 0.15 * height, 0.8 * width + shift, 0.38 * height
    canvas.paint(canvas.box(left - 7, top - 7, right + 7, foot + 7), (0.3, 0.2, 0.12))
    art = hsv(look.random(), 0.6, 0.9) * canvas.noise(8, 3)[..., None] + hsv(look.random(), 0.6, 0.4)
    canvas.paint(canvas.box(left, top, right, foot), art)
    _sofa(canvas, take, (0.46 * width + shift, 0.52 * height), cloth)
    lamp = (0.43 * width + shift, 0.46 * height)
    canvas.strokes([(lamp, (lamp[0], 0.8 * height))], (0.2, 0.2, 0.2), 4)
    shade = around(lamp, 1, (-14, -26), (14, -26), (26, 0), (-26, 0))
    canvas.glow(lamp, 0.12 * width, (1, 0.85, 0.5), 0.3)
    canvas.paint(canvas.polygon(shade), (1.0, 0.93, 0.7))
    return canvas.pixels


def balloons(look: np.random.Generator, take: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Hot-air balloons over fields in the morning."""
    sky, warm = hsv(look.uniform(0.52, 0.62), 0.5, 0.95), hsv(look.uniform(0.05, 0.13), 0.3, 1.0)
    canvas = backdrop(take, height, width, [sky, warm], [0, 0.8])
    haze = np.clip(canvas.noise(2.5, 5, 3.0) - 0.5, 0, 1)
    canvas.paint(haze * np.float32(1.2), (1, 1, 1))
    land = canvas.below(canvas.ridge(0.84 * height, 0.03 * height, 3, 3))
    canvas.paint(land, hsv(look.uniform(0.15, 0.33), 0.45, 0.5), canvas.noise(10, 5, 3.0), 0.4)
    base = look.random()
    for size in sorted(take.uniform(0.06, 0.22, int(take.integers(3, 7))) * height):
        x, y = take.uniform(0.1, 0.9) * width, take.uniform(0.16, 0.6) * height
        hue, gores = base + take.choice([0, 0.12, 0.5, 0.6]), int(take.integers(5, 9))
        across = np.broadcast_to((np.arange(width) - x) / size, (height, width)).clip(-1, 1)
        bands = (np.floor(np.arcsin(across) / np.pi * gores) % 2)[..., None]
        pattern = bands * hsv(hue, 0.8, 0.95) + (1 - bands) * hsv(hue + 0.13, 0.35, 1.0)
        neck = around((x, y), size, (-0.8, 0.55), (0.8, 0.55), (0.2, 1.35), (-0.2, 1.35))
        skin = np.maximum(canvas.ellipse((x, y), (size, size)), canvas.polygon(neck))
        canvas.paint(skin, pattern * np.clip(1.05 - 0.35 * across, 0.5, 1.2)[..., None])
        ropes = [((x + a * 0.2 * size, y + 1.3 * size), (x + a * 0.14 * size, y + 1.65 * size)) for a in (-1, 1)]
        canvas.strokes(ropes, (0.2, 0.15, 0.1), 1)
        canvas.paint(canvas.box(x - 0.16 * size, y + 1.6 * size, x + 0.16 * size, y + 1.85 * size), (0.45, 0.3, 0.16))
    return canvas.pixels
