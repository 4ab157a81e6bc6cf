"""Draws the scenes of the picture world: textures, shapes and a 5 x 7 bitmap font, all defined here."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clasp.tiny.world import COLORS, GRID, PATCH, Item, Scene, generator

SIDE = GRID * PATCH
"""Pixels per picture side (192)."""

_INK = {
    "red": (215, 40, 40),
    "green": (35, 165, 55),
    "blue": (45, 80, 220),
    "yellow": (238, 218, 40),
    "purple": (150, 45, 180),
    "orange": (245, 135, 20),
}
_TINT = {"spring": (176, 205, 176), "summer": (214, 206, 160), "autumn": (200, 172, 150), "winter": (184, 196, 214)}
_PLATE = 28
_NOISE = 5.0
_INK_JITTER = 14

# One row of the glyph per group, top to bottom, five columns each.
_GLYPHS = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "F": "11111 10000 10000 11110 10000 10000 10000",
    "G": "01111 10000 10000 10011 10001 10001 01111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "N": "10001 11001 10101 10101 10011 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "W": "10001 10001 10001 10101 10101 11011 10001",
    "X": "10001 01010 01010 00100 01010 01010 10001",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
    "Z": "11111 00001 00010 00100 01000 10000 11111",
    "0": "01110 10011 10101 10101 10101 11001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "01110 10000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 00100 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00001 01110",
}


def render(picture: Scene) -> NDArray[np.uint8]:
    """The picture as ``(192, 192, 3)`` RGB bytes; the same bytes for the same scene."""
    rng = generator(picture.split, picture.index, purpose=1)
    shade = rng.uniform(-12, 12)
    phase = rng.integers(0, PATCH, size=2)
    canvas = np.empty((SIDE, SIDE, 3), dtype=np.float32)
    canvas[:] = np.asarray(_TINT[picture.season], dtype=np.float32) + shade
    split = picture.horizon * PATCH
    canvas[:split] += 9.0 + _texture(picture.upper, int(phase[0]))[:split, :, None]
    canvas[split:] += _texture(picture.lower, int(phase[1]))[split:, :, None] - 9.0
    for item in picture.items:
        _draw(canvas, item, rng)
    canvas += rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * _NOISE
    return np.clip(canvas, 0, 255).astype(np.uint8)


def blank() -> NDArray[np.uint8]:
    """A picture that shows nothing: ``(192, 192, 3)`` of one middle gray."""
    return np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)


def _draw(canvas: NDArray[np.float32], item: Item, rng: np.random.Generator) -> None:
    top, left = item.row * PATCH, item.column * PATCH
    box = canvas[top : top + item.height * PATCH, left : left + item.width * PATCH]
    ink = np.asarray(_INK[item.color], dtype=np.float32) + rng.uniform(-_INK_JITTER, _INK_JITTER, 3)
    if item.kind == "shape":
        box[shape_mask(item.name, item.height * PATCH)] = ink
        return
    box[:] = _PLATE
    box[text_mask(item.name.upper(), item.height * PATCH, item.width * PATCH)] = ink


@lru_cache(maxsize=256)
def _texture(name: str, phase: int) -> NDArray[np.float32]:
    """Brightness offsets ``(192, 192)`` of a texture whose period is one patch, shifted by ``phase`` pixels."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    rows, columns = rows + phase, columns + phase
    pattern = np.zeros((SIDE, SIDE), dtype=bool)
    if name == "stripes":
        pattern = (rows + columns) % PATCH < 3
    elif name == "dots":
        pattern = (rows % PATCH - 3) ** 2 + (columns % PATCH - 3) ** 2 <= 4
    elif name == "checks":
        pattern = (rows // 4 + columns // 4) % 2 == 0
    elif name == "bricks":
        offset = (rows // PATCH % 2) * 4
        pattern = (rows % PATCH == 0) | ((columns + offset) % PATCH == 0)
    return np.where(pattern, np.float32(-34), np.float32(0))


@lru_cache(maxsize=256)
def shape_mask(name: str, side: int) -> NDArray[np.bool_]:
    """Which pixels of a ``(side, side)`` box the shape covers."""
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1
    radius = np.hypot(x, y)
    masks = {
        "circle": radius <= 0.9,
        "ring": (radius <= 0.95) & (radius >= 0.55),
        "triangle": (y <= 0.85) & (np.abs(x) <= (y + 0.95) / 1.9),
        "cross": ((np.abs(x) <= 0.3) | (np.abs(y) <= 0.3)) & (np.maximum(np.abs(x), np.abs(y)) <= 0.95),
        "diamond": np.abs(x) + np.abs(y) <= 0.97,
        "moon": (radius <= 0.95) & (np.hypot(x - 0.45, y) >= 0.75),
    }
    return masks[name]


@lru_cache(maxsize=256)
def text_mask(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """Which pixels of a ``(height, width)`` plate the text covers, each character centered in its share."""
    mask = np.zeros((height, width), dtype=bool)
    share = width // len(text)
    scale = min((height - 2) // 7, (share - 2) // 5)
    for position, character in enumerate(text):
        glyph = np.asarray([[bit == "1" for bit in row] for row in _GLYPHS[character].split()])
        glyph = glyph.repeat(scale, axis=0).repeat(scale, axis=1)
        top = (height - glyph.shape[0]) // 2
        left = position * share + (share - glyph.shape[1]) // 2
        mask[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    return mask


assert set(_INK) == set(COLORS)
