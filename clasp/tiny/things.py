"""Painting of a thing: colour, material, size, rotation and outline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from clasp.tiny.air import RGB, Air
from clasp.tiny.scene import Thing
from clasp.tiny.shapes import ROLES, outline

INK: dict[str, RGB] = {
    "red": (208, 34, 38),
    "orange": (244, 130, 16),
    "yellow": (248, 216, 36),
    "green": (40, 150, 52),
    "blue": (34, 86, 214),
    "purple": (128, 48, 172),
    "pink": (248, 142, 188),
    "brown": (134, 82, 40),
    "black": (30, 30, 34),
    "white": (246, 246, 246),
}
"""The colours in neutral light."""

_MAIN, _PATTERN, _EDGE = ROLES.index("m"), len(ROLES), len(ROLES) + 1
_DARK, _LIGHT, _GLASS, _LEAF, _WOOD = (46, 46, 54), (236, 236, 228), (178, 208, 226), (58, 126, 50), (122, 84, 50)
_FINE = 2
"""Samples per pixel side."""


@dataclass(frozen=True)
class Sprite:
    """A painted thing and its position.

    Args:
        left, top: pixel of its upper left corner.
        cover: (height, width) number of samples of each pixel that it covers, 0 to 4.
        paint: (3, height, width) sum of the colours of those samples.
    """

    left: int
    top: int
    cover: NDArray[np.int16]
    paint: NDArray[np.int16]


def _corners(thing: Thing) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[tuple[int, int, int], ...]]:
    """x and y of all corners in samples, and their parts, see ``Outline``."""
    shape = outline(thing.name)
    turn, scale = math.radians(thing.angle), thing.size * _FINE
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    # rounded, so that the last bit of a product cannot move an edge
    x = np.round(shape.x * cos + shape.y * sin + thing.x * _FINE, 2)
    y = np.round(shape.y * cos - shape.x * sin + thing.y * _FINE, 2)
    return x, y, shape.parts


def extent(thing: Thing) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the pixels that a thing may touch, outline included, right and bottom exclusive."""
    return _extent(thing, *_corners(thing)[:2])


def _extent(thing: Thing, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[int, int, int, int]:
    width = _width(thing)
    left, top = (int((values.min() - width) // _FINE) for values in (x, y))
    right, bottom = (int((values.max() + width) // _FINE) + 1 for values in (x, y))
    return left, top, right, bottom


def _width(thing: Thing) -> int:
    """Width of the outline in samples."""
    return 2 if thing.size < 44 else 3


def sprite(thing: Thing, air: Air, shift: int = 0) -> Sprite:
    """The thing as seen in the scene's air, its ink brighter by ``shift``."""
    x, y, parts = _corners(thing)
    left, top, right, bottom = _extent(thing, x, y)
    image = Image.new("L", ((right - left) * _FINE, (bottom - top) * _FINE))
    draw = ImageDraw.Draw(image)
    points = np.stack([x - left * _FINE, y - top * _FINE], axis=1).ravel().tolist()
    for role, start, stop in parts:
        draw.polygon(points[2 * start : 2 * stop], fill=role)
    index = np.array(image)
    if thing.material != "plain":
        _pattern(index, thing, (thing.x - left) * _FINE, (thing.y - top) * _FINE)
    index[(index == 0) & _grown(index > 0, _width(thing))] = _EDGE
    packed = _palette(thing.color, air, shift).take(index)
    rows = packed[0::2] + packed[1::2]
    total = rows[:, 0::2] + rows[:, 1::2]
    paint = np.stack([total >> bits & 2047 for bits in (0, 11, 22)]).astype(np.int16)
    return Sprite(left, top, (total >> 33).astype(np.int16), paint)


def _pattern(index: NDArray[np.uint8], thing: Thing, x: float, y: float) -> None:
    """Marks the main parts' samples that lie on a stripe or a dot; both rotate with the thing."""
    period = max(5.5, thing.size / 6) * _FINE
    turn = math.radians(thing.angle)
    cos, sin = round(math.cos(turn) * 4096 / period), round(math.sin(turn) * 4096 / period)
    across = np.arange(index.shape[1], dtype=np.int32) - int(x)
    down = np.arange(index.shape[0], dtype=np.int32)[:, None] - int(y)
    # coordinates in the thing's own frame, in 4096ths of a period
    u = (across * cos - down * sin) & 4095
    v = (across * sin + down * cos) & 4095
    mark = v < 1700 if thing.material == "striped" else (u - 2048) ** 2 + (v - 2048) ** 2 < 1350**2
    index[mark & (index == _MAIN)] = _PATTERN


def _grown(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask dilated by about ``steps`` samples, with an octagon."""
    for step in range(steps):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        source = wide.copy() if step % 2 else mask
        wide[:, 1:] |= source[:, :-1]
        wide[:, :-1] |= source[:, 1:]
        mask = wide
    return mask


def luma(color: RGB) -> float:
    """Brightness of a colour, 0 to 255."""
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def toward(color: RGB, other: RGB, share: float) -> RGB:
    """Mix of two colours: ``share`` of the way from the first to the second."""
    r, g, b = (int(a + (z - a) * share) for a, z in zip(color, other, strict=True))
    return r, g, b


@lru_cache(maxsize=4096)
def _palette(color: str, air: Air, shift: int) -> NDArray[np.int64]:
    """Colours of the roles, of the pattern and of the outline, in that order.

    Each is packed into one integer, 11 bits per channel and a 1 above them, so that integer addition sums the colours
    and the number of four samples.
    """
    r, g, b = (min(255, max(0, value + shift)) for value in INK[color])
    ink = (r, g, b)
    dark = luma(ink) < 60
    shade = toward(ink, (0, 0, 0), 0.24) if not dark else toward(ink, (255, 255, 255), 0.16)
    tint = toward(ink, (255, 255, 255), 0.42 if not dark else 0.28)
    if color == "white":
        tint = toward(ink, (0, 0, 0), 0.10)
    mark = toward(ink, (0, 0, 0), 0.62) if luma(ink) > 165 else toward(ink, (255, 255, 255), 0.66)
    if color in ("black", "white"):  # close to the ink, so that striped black and white things differ
        mark = toward(ink, (128, 128, 128), 0.92)
    light = _LIGHT if color != "white" else (172, 182, 196)
    glass = _GLASS if color != "white" else (128, 160, 188)
    roles = [ink, shade, tint, (92, 92, 100) if dark else _DARK, light, glass, _LEAF, _WOOD, mark]
    seen = [air.close(one) for one in roles]
    edge = (16, 16, 20) if luma(air.close(ink)) > 72 else air.close((226, 226, 226))
    return np.array([0, *(r | g << 11 | b << 22 | 1 << 33 for r, g, b in [*seen, edge])], dtype=np.int64)
