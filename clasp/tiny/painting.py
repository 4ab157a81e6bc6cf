"""Paints a scene: background, things in order, signs, rain, camera noise; also returns what each pixel shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clasp.tiny.air import RGB, Air, air
from clasp.tiny.backdrop import backdrop, noise
from clasp.tiny.scene import FONTS, INDOORS, MARGIN, SIDE, Scene, Sign
from clasp.tiny.things import INK, luma, sprite

Box = tuple[int, int, int, int]
_LARGE = 64
_JITTER = 8
_RAINS = 24


@dataclass(frozen=True)
class Painting:
    """A painted scene.

    Args:
        pixels: (192, 192, 3) uint8, RGB.
        owner: (192, 192) int16, the object visible at each pixel: 0 background, i + 1 for ``things[i]``,
            ``len(things) + j + 1`` for ``signs[j]``.
    """

    pixels: NDArray[np.uint8]
    owner: NDArray[np.int16]


def paint(scene: Scene) -> Painting:
    """The image of a scene, deterministic to the byte."""
    rng = np.random.default_rng(scene.seed)
    seen = air(scene.place, scene.light, scene.weather)
    canvas = backdrop(scene, rng)
    # random values of the whole image are drawn before the things, so that an added thing changes nothing else
    grain, drops = noise(rng, 0.0) >> 3, int(rng.integers(_RAINS))
    owner = np.zeros((SIDE, SIDE), dtype=np.int16)
    shifts = rng.integers(-_JITTER, _JITTER + 1, size=len(scene.things)).tolist()
    for number, (thing, shift) in enumerate(zip(scene.things, shifts, strict=True), start=1):
        one = sprite(thing, seen, shift)
        rows, columns, window = _inside(one.left, one.top, one.cover.shape)
        cover = one.cover[window]
        under = canvas[:, rows, columns]
        under *= 4 - cover
        under += one.paint[:, *window]
        under >>= 2
        owner[rows, columns][cover >= 2] = number
    for number, sign in enumerate(scene.signs, start=len(scene.things) + 1):
        left, top, right, bottom = sign_box(sign)
        rows, columns, window = _inside(left, top, (bottom - top, right - left))
        canvas[:, rows, columns] = _plate(sign, seen)[:, *window]
        owner[rows, columns] = number
    if scene.weather == "rainy" and scene.place not in INDOORS:
        _rain(canvas, drops, seen)
    canvas += grain
    pixels = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    for channel, band in enumerate(np.clip(canvas, 0, 255, out=canvas)):
        pixels[:, :, channel] = band
    return Painting(pixels, owner)


def _inside(left: int, top: int, shape: tuple[int, ...]) -> tuple[slice, slice, tuple[slice, slice]]:
    """Rows and columns of the image under a block, and the part of the block inside the image."""
    first, start = max(0, top), max(0, left)
    last, stop = max(first, min(SIDE, top + shape[0])), max(start, min(SIDE, left + shape[1]))
    window = slice(first - top, last - top), slice(start - left, stop - left)
    return slice(first, last), slice(start, stop), window


def _height(sign: Sign) -> int:
    """Height of a capital in pixels."""
    return round(1.2 * sign.pitch)


def sign_box(sign: Sign) -> Box:
    """(left, top, right, bottom) of the plate in pixels, right and bottom exclusive; may extend outside the image."""
    wide, high = round(len(sign.text) * sign.pitch) + 2 * MARGIN, _height(sign) + 2 * MARGIN
    left, top = round(sign.x - wide / 2), round(sign.y - high / 2)
    return left, top, left + wide, top + high


def character_boxes(sign: Sign) -> list[Box]:
    """(left, top, right, bottom) of each character's cell in pixels, right and bottom exclusive."""
    left, top, _, bottom = sign_box(sign)
    edges = [left + MARGIN + round(i * sign.pitch) for i in range(len(sign.text) + 1)]
    return [(a, top + MARGIN, b, bottom - MARGIN) for a, b in pairwise(edges)]


def _plate(sign: Sign, seen: Air) -> NDArray[np.int16]:
    """The plate with its letters, (3, height, width)."""
    left, top, right, bottom = sign_box(sign)
    plate = INK[sign.color]
    bright = luma(plate) > 120
    letter: RGB = (18, 18, 24) if bright else (248, 248, 244)
    colors: list[RGB] = [plate, letter, (150, 150, 150)]
    face, ink, rim = (np.array(seen.close(color), dtype=np.int16)[:, None, None] for color in colors)
    board = np.empty((3, bottom - top, right - left), dtype=np.int16)
    board[:] = rim
    board[:, 1:-1, 1:-1] = face
    for character, box in zip(sign.text, character_boxes(sign), strict=True):
        cell = board[:, box[1] - top : box[3] - top, box[0] - left : box[2] - left]
        glyph = _glyph(character, sign.font, cell.shape[2], cell.shape[1])
        cell += ((ink - face) * glyph) >> 7
    return board


@cache
def _font(number: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{FONTS[number]}.ttf")
    return ImageFont.truetype(path, _LARGE, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def _glyph(character: str, font: int, wide: int, high: int) -> NDArray[np.int16]:
    """(high, wide) ink of a character, 0 to 128; as high as its cell, narrowed if it is too wide."""
    face = _font(font)
    left, top, right, bottom = face.getbbox(character)
    large = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(large).text((-left, -top), character, fill=255, font=face)
    fit = min(wide - 1, max(1, round(large.width * high / large.height)))
    small = np.asarray(large.resize((fit, high), Image.Resampling.BOX)).astype(np.int16)
    cell = np.zeros((high, wide), dtype=np.int16)
    start = (wide - fit) // 2
    cell[:, start : start + fit] = (small + 1) >> 1
    return cell


@cache
def _streaks(number: int) -> NDArray[np.int16]:
    """(192, 192) rain coverage of each pixel, in 64ths."""
    rng = np.random.default_rng((number, 7))
    image = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    slant = float(rng.uniform(0.15, 0.45))
    for x, y, length in rng.uniform((-20, -12, 7), (SIDE + 20, SIDE, 17), size=(110, 3)).tolist():
        draw.line([(x, y), (x - slant * length, y + length)], fill=int(rng.integers(14, 30)))
    return np.asarray(image).astype(np.int16)


def _rain(canvas: NDArray[np.int16], number: int, seen: Air) -> None:
    """Draws streaks of rain over the whole image, with a brightness between the veil's and white."""
    bright = np.array([min(255, value + 70) for value in seen.veil], dtype=np.int16)[:, None, None]
    canvas += ((bright - canvas) * _streaks(number)) >> 6
