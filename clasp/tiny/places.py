"""The ten places of the small world: colours, height of the horizon, and small elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from clasp.tiny.air import RGB, SKIES
from clasp.tiny.pen import Pen
from clasp.tiny.scene import SIDE


def _beach(pen: Pen) -> None:
    sea = float(pen.rng.uniform(22, 38))
    pen.band((84, 122, 140), 0, sea, 0.1)
    share = sea / (SIDE - pen.horizon)
    pen.waves(46, (190, 208, 212), 0.0, share * 0.95)
    pen.ridge((226, 228, 220), 2.5 + 2 * np.sin(np.linspace(0, 14, 40)), sea + 3, 0.4)
    pen.ridge((176, 158, 122), 2.5 + 2 * np.sin(np.linspace(0.4, 14.4, 40)), sea + 6, 0.5)
    pen.waves(34, (156, 136, 102), share + 0.1)
    pen.lumps(5, (136, 124, 112), 22, share + 0.1)
    pen.pebbles(26, [(214, 202, 178), (150, 128, 104), (196, 176, 156)], 2.6, share + 0.1)


def _forest(pen: Pen) -> None:
    pen.ridge((66, 88, 66), 26 + 8 * pen.rng.random(40), 0, 0.0)
    for depth, count in ((0.15, 16), (0.4, 9), (0.7, 5)):
        for x in np.sort(pen.rng.uniform(-6, SIDE + 6, size=count)).tolist():
            half, foot = 1.2 + 7 * depth, pen.level(x) + 44 * depth
            lean = float(pen.rng.uniform(-5, 5))
            top = [(x + lean - half * 0.8, -2), (x + lean + half * 0.8, -2)]
            bark = pen.ink((92, 78, 64), depth, 10)
            pen.draw.polygon(
                [*top, (x + half, foot), (x + half * 1.5, foot + 2), (x - half * 1.5, foot + 2), (x - half, foot)],
                fill=bark,
            )
            if depth > 0.2:
                ink = pen.ink((58, 48, 40), depth)
                pen.draw.line([(x + lean * 0.8, 6), (x, foot)], fill=ink)
                pen.draw.line([(x + lean * 0.6 - half * 0.5, 30), (x - half * 0.5, foot)], fill=ink)
    for x, y, size in pen.rng.uniform((-6, -8, 6), (SIDE + 6, 26, 15), size=(34, 3)).tolist():
        pen.draw.ellipse((x - size, y - size * 0.6, x + size, y + size * 0.6), fill=pen.ink((62, 84, 58), 0.4, 14))
    pen.tufts(50, [(72, 92, 58), (94, 104, 64)])
    pen.lumps(6, (78, 92, 62), 26)
    pen.pebbles(34, [(122, 96, 62), (96, 84, 54), (132, 112, 76)], 2.8)


def _desert(pen: Pen) -> None:
    phase = pen.rng.uniform(0, 6, size=3).tolist()
    xs = np.linspace(0, 1, 30)
    pen.ridge((190, 160, 124), 9 + 7 * np.sin(5 * xs + phase[0]), 2, 0.0)
    pen.ridge((184, 148, 106), 9 + 8 * np.sin(4 * xs + phase[1]), 18, 0.25)
    for step, base in enumerate((24, 34, 46, 60, 76)):
        crest = 7 + 6 * np.sin(4 * xs + phase[2] + 0.9 * step)
        pen.draw.line(pen.line(crest, base), fill=pen.ink((154, 118, 80), 0.3 + 0.1 * step), width=1 + step // 2)
    pen.waves(60, (160, 126, 88), 0.2)
    pen.lumps(7, (158, 124, 92), 26, 0.2)
    pen.pebbles(20, [(140, 112, 88), (120, 96, 78)], 3.2, 0.15)


def _snow(pen: Pen) -> None:
    pen.ridge((176, 186, 198), 12 + 8 * np.sin(np.linspace(0, 7, 30) + pen.rng.uniform(0, 6)), 1, 0.0)
    for x in pen.rng.uniform(-4, SIDE + 4, size=26).tolist():
        high, foot, ink = float(pen.rng.uniform(10, 20)), pen.level(x) + 3, pen.ink((74, 92, 94), 0.15, 10)
        for part in (0.0, 0.33, 0.66):
            half, top = high * (0.10 + 0.24 * part), foot - high * (1 - part)
            pen.draw.polygon([(x, top), (x + half + 1, top + high * 0.36), (x - half - 1, top + high * 0.36)], fill=ink)
    xs = np.linspace(0, 1, 30)
    for base in (10, 24, 44, 70):
        phase = float(pen.rng.uniform(0, 6))
        pen.ridge((206, 213, 222), 4 + 4 * np.sin(6 * xs + phase), base, base / 80)
        pen.ridge((220, 226, 232), 2.5 + 4 * np.sin(6 * xs + phase + 0.15), base + 2, base / 80)
    pen.lumps(7, (204, 212, 222), 26, 0.2)
    pen.pebbles(34, [(228, 233, 240), (210, 218, 228)], 3.4, 0.1)
    flakes = pen.rng.uniform(0, SIDE, size=(40, 2)).tolist()
    for x, y in flakes:
        pen.draw.ellipse((x - 0.6, y - 0.6, x + 0.6, y + 0.6), fill=pen.air.seen((246, 248, 252), 0.7))


def _meadow(pen: Pen) -> None:
    xs = np.linspace(0, 1, 30)
    pen.ridge((120, 140, 124), 14 + 9 * np.sin(6 * xs + pen.rng.uniform(0, 6)), 2, 0.0)
    pen.ridge((104, 130, 92), 8 + 6 * np.sin(7 * xs + pen.rng.uniform(0, 6)), 3, 0.1)
    rail = pen.ink((150, 132, 108), 0.3)
    for post in range(-4, SIDE + 8, 13):
        pen.draw.rectangle((post, pen.level(post) - 1, post + 1.6, pen.level(post) + 11), fill=rail)
    for row in (2, 6):
        pen.draw.line([(0, pen.level(0) + row), (SIDE, pen.level(SIDE) + row)], fill=rail)
    pen.tufts(110, [(84, 116, 66), (112, 142, 80), (70, 102, 58)])
    pen.lumps(6, (86, 112, 68), 28, 0.05)
    for i, (x, y, near) in enumerate(pen.below(34, 0.1)):
        size = 0.4 + 1.1 * near
        color = [(206, 200, 170), (190, 176, 110), (176, 156, 180)][i % 3]
        pen.draw.ellipse((x - size, y - size, x + size, y + size), fill=pen.ink(color, near))


def _city(pen: Pen) -> None:
    glow: RGB = (226, 194, 120)
    for depth, low, high in ((0.05, 34, 74), (0.3, 22, 54)):
        x = -8.0
        while x < SIDE:
            wide, tall = pen.rng.uniform((14, low), (30, high)).tolist()
            foot, color = pen.level(x + wide / 2) + 3, (112, 112, 120) if depth < 0.2 else (128, 116, 108)
            pen.draw.rectangle((x, foot - tall, x + wide, foot), fill=pen.ink(color, depth, 16))
            nx, ny = max(2, int(wide // 6)), max(2, int(tall // 8))
            pen.panes((x + 1, foot - tall + 2, x + wide - 1, foot - 3), nx, ny, (74, 84, 98), glow)
            x += wide + float(pen.rng.uniform(-3, 5))
    pen.band((150, 148, 144), -2, 16, 0.3)
    for seam in range(-10, SIDE + 20, 11):
        y = pen.level(seam)
        pen.draw.line([(seam, y + 2), (seam - 7, y + 16)], fill=pen.ink((120, 118, 116), 0.3))
    pen.band((92, 92, 96), -17, SIDE, 0.6)
    shift = float(pen.rng.uniform(0, 30))
    for row, length, thick in ((30, 12, 1.5), (62, 20, 3.0)):
        for dash in range(-40, SIDE + 10, 34):
            left, top = dash + shift, pen.level(dash) + row
            pen.draw.rectangle((left, top, left + length, top + thick), fill=pen.ink((176, 174, 166), 0.7))
    pen.crates(4, (124, 118, 112), 18, 0.12)
    pen.pebbles(16, [(80, 80, 84), (108, 106, 106)], 3.0, 0.3)


def _harbor(pen: Pen) -> None:
    pen.ridge((120, 130, 136), 6 + 3 * np.sin(np.linspace(0, 9, 30) + pen.rng.uniform(0, 6)), 1, 0.0)
    for x in (np.arange(7) * 28 + pen.rng.uniform(-8, 16, size=7)).tolist():
        foot, ink = pen.level(x), pen.ink((86, 84, 86), 0.15, 10)
        if pen.rng.random() < 0.45:  # a crane
            pen.draw.line([(x - 5, foot), (x, foot - 34), (x + 5, foot), (x - 3, foot - 14)], fill=ink)
            pen.draw.line([(x - 9, foot - 30), (x + 20, foot - 36), (x, foot - 42), (x, foot - 30)], fill=ink)
            pen.draw.line([(x + 17, foot - 36), (x + 17, foot - 18)], fill=ink)
        else:  # containers
            for row in range(int(pen.rng.integers(1, 4))):
                color = [(132, 96, 84), (92, 108, 120), (128, 122, 98)][int(pen.rng.integers(3))]
                pen.draw.rectangle((x - 10, foot - 7 * row - 6, x + 10, foot - 7 * row), fill=pen.ink(color, 0.2, 10))
                for rib in range(-8, 10, 4):
                    pen.draw.line([(x + rib, foot - 7 * row - 5), (x + rib, foot - 7 * row)], fill=ink)
    pen.waves(80, (132, 156, 164), 0.0, 0.72)
    top = pen.horizon + 0.72 * (SIDE - pen.horizon)
    for row, y in enumerate(np.linspace(top, SIDE, 4).tolist()):
        pen.draw.rectangle((0, y, SIDE, y + 18), fill=pen.ink((132, 116, 98), 0.9, 8))
        pen.draw.line([(0, y), (SIDE, y)], fill=pen.ink((78, 66, 56), 0.9), width=2)
        for seam in range(-20 + row * 23 % 40, SIDE, 46):
            pen.draw.line([(seam, y), (seam, y + 16)], fill=pen.ink((84, 72, 60), 0.9))
    pen.crates(4, (138, 118, 94), 20, 0.78)
    for x in (20, 84, 150):
        at = x + float(pen.rng.uniform(-14, 14))
        pen.draw.rectangle((at, top - 8, at + 7, top + 3), fill=pen.ink((88, 76, 66), 0.9))
        pen.draw.rectangle((at, top - 8, at + 7, top - 6), fill=pen.ink((150, 140, 128), 0.9))


def _mountain(pen: Pen) -> None:
    for base, color, low, high, depth, count in (
        (0, (134, 142, 156), 26, 66, 0.0, 7),
        (3, (108, 110, 114), 8, 44, 0.2, 9),
    ):
        heights = pen.rng.uniform(low, high, size=count)
        heights[::2] *= 0.45
        corners = pen.ridge(color, heights, base, depth)
        for before, (x, y), after in zip(corners, corners[1:], corners[2:], strict=False):
            if y < before[1] and y < after[1]:
                left = (x + 0.34 * (before[0] - x), y + 0.34 * (before[1] - y))
                right = (x + 0.34 * (after[0] - x), y + 0.34 * (after[1] - y))
                dent = y + 0.16 * (before[1] - y)
                pen.draw.polygon(
                    [(x, y), right, (x + 2, dent), (x - 1, right[1]), (x - 3, dent), left],
                    fill=pen.ink((214, 218, 224), depth),
                )
                pen.draw.polygon(
                    [(x, y), after, (x + 4, after[1]), (x + 1, y + 14)], fill=pen.ink((92, 96, 106), depth)
                )
    pen.pebbles(64, [(126, 124, 120), (108, 104, 100), (142, 138, 130)], 5.0)
    pen.lumps(10, (118, 116, 112), 30, 0.05)
    pen.tufts(34, [(96, 108, 76), (112, 116, 84)])


def _window(pen: Pen, left: float, top: float, wide: float, high: float) -> None:
    """A window that shows the light outside, but no weather."""
    upper, lower, _ = SKIES[pen.light, "sunny"]
    frame = pen.ink((196, 190, 178))
    pen.draw.rectangle((left - 3, top - 3, left + wide + 3, top + high + 3), fill=frame)
    for step in range(int(high)):
        r, g, b = (int(a + (z - a) * step / high) for a, z in zip(upper, lower, strict=True))
        pen.draw.line([(left, top + step), (left + wide, top + step)], fill=(r, g, b))
    pen.draw.line([(left + wide / 2, top), (left + wide / 2, top + high)], fill=frame, width=2)
    pen.draw.line([(left, top + high / 2), (left + wide, top + high / 2)], fill=frame, width=2)
    pen.draw.rectangle((left - 5, top + high + 3, left + wide + 5, top + high + 6), fill=pen.ink((170, 162, 150)))


def _kitchen(pen: Pen) -> None:
    grout, floor = pen.ink((150, 154, 152)), pen.level(0)
    counter = floor - 52
    for y in np.arange(counter % 12, counter, 12).tolist():
        pen.draw.line([(0, y), (SIDE, y)], fill=grout)
    for joint in range(int(pen.rng.integers(12)), SIDE, 12):
        pen.draw.line([(joint, 0), (joint, counter)], fill=grout)
    _window(pen, float(pen.rng.uniform(14, 130)), 12, 44, 34)
    shelf = float(pen.rng.uniform(54, 62)) if counter > 80 else 56.0
    for x in np.arange(4, SIDE - 6, 12).tolist():
        if pen.rng.random() < 0.75:
            high, color = float(pen.rng.uniform(5, 12)), [(150, 140, 124), (128, 138, 136), (164, 156, 144)][int(x) % 3]
            pen.draw.rectangle((x, shelf - high, x + 8, shelf), fill=pen.ink(color, 1, 12))
            pen.draw.rectangle((x + 1, shelf - high - 2, x + 7, shelf - high), fill=pen.ink((112, 104, 96)))
    pen.draw.rectangle((0, shelf, SIDE, shelf + 3), fill=pen.ink((120, 102, 84)))
    for x, wide, high in pen.rng.uniform((0, 9, 6), (SIDE, 20, 15), size=(5, 3)).tolist():
        pot, rim = pen.ink((124, 122, 124), 1, 20), pen.ink((92, 90, 92))
        pen.draw.rectangle((x, counter - 4 - high, x + wide, counter - 4), fill=pot)
        pen.draw.rectangle((x - 1, counter - 5 - high, x + wide + 1, counter - 3 - high), fill=rim)
    pen.draw.rectangle((0, counter - 4, SIDE, counter + 2), fill=pen.ink((112, 108, 106)))
    pen.draw.rectangle((0, counter + 2, SIDE, floor), fill=pen.ink((158, 148, 132)))
    for door in range(int(pen.rng.integers(30)) - 30, SIDE, 32):
        pen.draw.rectangle((door + 2, counter + 14, door + 29, floor - 4), outline=pen.ink((118, 106, 92)))
        pen.draw.rectangle((door + 2, counter + 5, door + 29, counter + 12), outline=pen.ink((118, 106, 92)))
        pen.draw.rectangle((door + 12, counter + 7, door + 19, counter + 9), fill=pen.ink((92, 86, 80)))
    _checks(pen, (142, 132, 122), 5, 16.0)


def _checks(pen: Pen, color: RGB, rows: int, wide: float) -> None:
    """Floor tiles in perspective, every second one painted."""
    depth = SIDE - pen.horizon
    edges = [pen.horizon + depth * (row / rows) ** 1.5 for row in range(rows + 1)]
    ink = pen.ink(color)
    for row, (top, bottom) in enumerate(pairwise(edges)):
        up, down = (0.7 + 0.9 * (y - pen.horizon) / depth for y in (top, bottom))
        for column in range(-12 + row % 2, 12, 2):
            xs = [
                SIDE / 2 + wide * c * f for c, f in ((column, up), (column + 1, up), (column + 1, down), (column, down))
            ]
            pen.draw.polygon(list(zip(xs, (top, top, bottom, bottom), strict=True)), fill=ink)


def _classroom(pen: Pen) -> None:
    left, side = pen.rng.uniform((4, -1), (28, 1)).tolist()
    if side > 0:  # the window is on the left, else on the right
        left += 60
    pen.draw.rectangle((left - 3, 15, left + 109, 69), fill=pen.ink((140, 116, 88)))
    pen.draw.rectangle((left, 18, left + 106, 66), fill=pen.ink((70, 92, 82)))
    for y in range(26, 62, 9):
        x = left + 8
        while x < left + 90:
            wide = float(pen.rng.uniform(4, 14))
            pen.draw.line(
                [(x, y), (x + wide * 0.3, y - 2), (x + wide * 0.6, y + 1), (x + wide, y - 1)],
                fill=pen.ink((140, 154, 146)),
            )
            x += wide + 4
    pen.draw.rectangle((left + 20, 67, left + 60, 69), fill=pen.ink((190, 186, 176)))
    _window(pen, left - 58 if side > 0 else left + 120, 20, 40, 44)
    for x in np.arange(3, SIDE, 17).tolist():
        high = float(pen.rng.uniform(8, 14))
        if high > 9:  # drawings pinned to the wall
            sheet, rim = pen.ink((204, 200, 186), 1, 16), pen.ink((150, 142, 124))
            pen.draw.rectangle((x, 74, x + 11, 74 + high), fill=sheet, outline=rim)
            pen.draw.line([(x + 2, 72 + high), (x + 5, 77), (x + 9, 71 + high)], fill=pen.ink((140, 132, 128), 1, 24))
    pen.draw.rectangle((0, pen.horizon - 5, SIDE, pen.horizon), fill=pen.ink((128, 112, 92)))
    for seam in np.linspace(pen.horizon, SIDE, 7).tolist():
        pen.draw.line([(0, seam), (SIDE, seam)], fill=pen.ink((122, 100, 76)))
    for row, (size, down) in enumerate(((0.7, 8.0), (1.0, 36.0))):
        wide, front = 40 * size, pen.horizon + down
        back, leg = front - 7 * size, pen.ink((92, 88, 86))
        for x in np.arange(-wide / 2 + row * 9 + float(pen.rng.uniform(0, 12)), SIDE, wide * 1.35).tolist():
            for foot in (x + 3, x + wide - 4):
                pen.draw.line([(foot, front), (foot, front + 22 * size)], fill=leg, width=2)
            top = [(x + 4, back), (x + wide - 4, back), (x + wide, front), (x, front)]
            pen.draw.polygon(top, fill=pen.ink((166, 140, 106), 1, 8))
            pen.draw.rectangle((x, front, x + wide, front + 4 * size), fill=pen.ink((124, 102, 76)))


@dataclass(frozen=True)
class Ground:
    """A place.

    Args:
        far, near: colours of the ground or floor at the horizon and at the lower edge.
        horizon: minimum and maximum row of the horizon, or of the lower edge of the wall.
        paint: draws the elements.
        wall: colour of the wall, indoors.
    """

    far: RGB
    near: RGB
    horizon: tuple[float, float]
    paint: Callable[[Pen], None]
    wall: RGB = (0, 0, 0)


GROUNDS: dict[str, Ground] = {
    "beach": Ground((188, 172, 136), (200, 182, 144), (64, 90), _beach),
    "forest": Ground((84, 92, 62), (108, 96, 66), (84, 112), _forest),
    "desert": Ground((196, 164, 122), (204, 170, 126), (56, 84), _desert),
    "snow": Ground((208, 215, 224), (224, 229, 235), (60, 88), _snow),
    "meadow": Ground((116, 140, 88), (94, 124, 70), (60, 88), _meadow),
    "city": Ground((120, 118, 116), (98, 98, 100), (88, 108), _city),
    "harbor": Ground((96, 124, 136), (72, 100, 114), (64, 84), _harbor),
    "mountain": Ground((126, 126, 112), (112, 108, 96), (84, 106), _mountain),
    "kitchen": Ground((176, 168, 158), (168, 160, 150), (132, 146), _kitchen, (196, 198, 192)),
    "classroom": Ground((160, 134, 100), (150, 124, 92), (92, 108), _classroom, (198, 190, 168)),
}
