"""A pen for the repeated small elements of backgrounds, with perspective, light and weather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from clasp.tiny.air import RGB, Air
from clasp.tiny.scene import SIDE


@dataclass
class Pen:
    """Drawing tools of a place.

    Args:
        draw: Pillow's drawing object for the 192 x 192 image.
        rng: the scene's random generator.
        air: light and weather.
        light: one of ``scene.LIGHTS``.
        horizon: row of the horizon in the middle.
        tilt: slope of the horizon, rows down per column.
        dense: factor on the number of small elements.
    """

    draw: ImageDraw.ImageDraw
    rng: np.random.Generator
    air: Air
    light: str
    horizon: float
    tilt: float
    dense: float
    rolls: Iterator[float] = field(init=False)

    def __post_init__(self) -> None:
        self.rolls = cycle(self.rng.uniform(-1, 1, size=257).tolist())

    def level(self, x: float) -> float:
        """Row of the horizon at a column."""
        return self.horizon + self.tilt * (x - SIDE / 2)

    def ink(self, color: RGB, nearness: float = 1.0, spread: int = 0) -> RGB:
        """The visible colour at a nearness, 0 at the horizon to 1 at the lower edge, with random brightness."""
        if spread:
            shift = int(spread * next(self.rolls))
            color = (color[0] + shift, color[1] + shift, color[2] + shift)
        return self.air.seen(color, nearness)

    def below(self, count: int, start: float = 0.0, end: float = 1.0) -> list[tuple[float, float, float]]:
        """About ``count`` places on the ground as (x, y, nearness from ``start`` to ``end``), far ones first."""
        count = int(count * self.dense)
        x = self.rng.uniform(-4, SIDE + 4, size=count)
        near = np.sort(start + (end - start) * self.rng.random(count))
        low = self.horizon + self.tilt * (x - SIDE / 2)
        y = low + near * (SIDE - low)
        return list(zip(x.tolist(), y.tolist(), near.tolist(), strict=True))

    def band(self, color: RGB, above: float, below: float, nearness: float) -> None:
        """Draws a band along the horizon from ``above`` rows over it to ``below`` rows under it."""
        left, right = self.level(0), self.level(SIDE)
        corners = [(0, left - above), (SIDE, right - above), (SIDE, right + below), (0, left + below)]
        self.draw.polygon(corners, fill=self.ink(color, nearness))

    def ridge(
        self, color: RGB, heights: NDArray[np.float64], base: float, nearness: float
    ) -> list[tuple[float, float]]:
        """Fills the outline of ``heights`` over the horizon shifted by ``base`` rows; returns its corners."""
        corners = self.line(heights, base)
        bottom = [(SIDE + 2.0, self.level(SIDE) + base + 2), (-2.0, self.level(0) + base + 2)]
        self.draw.polygon(corners + bottom, fill=self.ink(color, nearness))
        return corners

    def line(self, heights: NDArray[np.float64], base: float) -> list[tuple[float, float]]:
        """Corners over the whole width, ``heights`` over the horizon shifted by ``base`` rows."""
        xs = np.linspace(-2, SIDE + 2, len(heights)).tolist()
        # rounded, so that rounding errors of a sine cannot move a pixel
        return [(x, self.level(x) + base - h) for x, h in zip(xs, np.round(heights, 2).tolist(), strict=True)]

    def waves(self, count: int, color: RGB, start: float = 0.0, end: float = 1.0) -> None:
        """Short wave crests on water."""
        for x, y, near in self.below(count, start, end):
            half, rise = 2 + 7 * near, 0.6 + 1.6 * near
            points = [(x - half, y), (x - half / 2, y - rise), (x, y), (x + half / 2, y - rise), (x + half, y)]
            self.draw.line(points, fill=self.ink(color, near, 14))

    def tufts(self, count: int, colors: list[RGB], start: float = 0.0) -> None:
        """Blades of grass."""
        for i, (x, y, near) in enumerate(self.below(count, start)):
            size, ink = 1.5 + 5 * near, self.ink(colors[i % len(colors)], near, 12)
            middle, right = (x + size * 0.1, y - size * 1.3), (x + size * 0.6, y - size)
            self.draw.line([(x - size * 0.5, y - size), (x, y), middle, (x, y), right], fill=ink)

    def pebbles(self, count: int, colors: list[RGB], size: float = 2.5, start: float = 0.0) -> None:
        """Flat stones, shells or leaves, each with a shaded lower edge."""
        for i, (x, y, near) in enumerate(self.below(count, start)):
            rx, color = size * (0.3 + 0.7 * near), colors[i % len(colors)]
            r, g, b = (value * 2 // 3 for value in color)
            self.draw.ellipse((x - rx, y - rx * 0.5 + 1, x + rx, y + rx * 0.6 + 1), fill=self.ink((r, g, b), near))
            self.draw.ellipse((x - rx, y - rx * 0.6, x + rx, y + rx * 0.5), fill=self.ink(color, near, 14))

    def lumps(self, count: int, color: RGB, size: float, start: float = 0.1) -> None:
        """Boulders or bushes, ``size`` wide in the foreground, each with a dark outline, a middle and a bright top. No
        question is about them."""
        for x, y, near in self.below(count, start):
            wide, bumps = size * (0.25 + 0.75 * near), [0.75 + 0.25 * next(self.rolls) for _ in range(5)]
            for scale, tone in ((1.0, -22), (0.84, 0), (0.5, 14)):
                left, high = wide * scale / 2, wide * scale * 0.6
                foot = y - (wide * 0.6 - high) * 0.7
                crest = [
                    (x + left * (i / 2 - 1), foot - high * bump * (0.5, 0.9, 1, 0.85, 0.4)[i])
                    for i, bump in enumerate(bumps)
                ]
                shade = (color[0] + tone, color[1] + tone, color[2] + tone)
                self.draw.polygon([(x - left, foot), *crest, (x + left, foot)], fill=self.ink(shade, near, 5))

    def crates(self, count: int, color: RGB, size: float, start: float = 0.1) -> None:
        """Boxes with slats."""
        for x, y, near in self.below(count, start):
            wide, ink = size * (0.25 + 0.75 * near), self.ink((color[0] - 44, color[1] - 44, color[2] - 44), near)
            self.draw.rectangle((x, y - wide * 0.8, x + wide, y), fill=self.ink(color, near, 12), outline=ink)
            self.draw.line([(x, y), (x + wide, y - wide * 0.8)], fill=ink)
            self.draw.line([(x, y - wide * 0.4), (x + wide, y - wide * 0.4)], fill=ink)

    def panes(self, box: tuple[float, float, float, float], nx: int, ny: int, off: RGB, on: RGB) -> None:
        """Small windows in rows inside a box; some are lit at night and in the evening."""
        left, top, right, bottom = box
        wide, high = (right - left) / nx, (bottom - top) / ny
        share = {"day": 0.0, "evening": 0.3, "night": 0.45}[self.light]
        lit = (self.rng.random((ny, nx)) < share).tolist()
        dark, on = self.ink(off, 0.2), self.air.close(on)
        for row in range(ny):
            for column in range(nx):
                x, y = left + (column + 0.25) * wide, top + (row + 0.25) * high
                self.draw.rectangle((x, y, x + wide * 0.5, y + high * 0.5), fill=on if lit[row][column] else dark)
