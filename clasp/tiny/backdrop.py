"""Complete backgrounds: sky and ground or wall and floor, the place's elements, and 1/f texture over everything."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from clasp.tiny.air import SKIES, air
from clasp.tiny.pen import Pen
from clasp.tiny.places import GROUNDS
from clasp.tiny.scene import INDOORS, SIDE, Scene

Gray = NDArray[np.int16]
_FIELDS = 24
"""Stored noise fields per kind; an image uses a window of one, randomly mirrored."""
_FIELD = SIDE + 64
_COVER = {"sunny": -90, "cloudy": 110, "rainy": 120}
"""Mean cloud cover of the sky, in 255ths; noise varies it."""


@cache
def _field(number: int, fall: float) -> Gray:
    """(256, 256) noise of standard deviation 32 whose octaves fall as 1/f to the power ``fall``.

    Pillow enlarges the octaves in integer arithmetic, so that the result is the same on every machine.
    """
    rng = np.random.default_rng((number, int(4 * fall)))
    total = np.zeros((_FIELD, _FIELD), dtype=np.int64)
    for octave in range(2, 9):
        cells = min(_FIELD, 2**octave + 1)
        coarse = rng.integers(0, 256, size=(cells, cells), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize((_FIELD, _FIELD), Image.Resampling.BICUBIC)
        total += (np.asarray(fine, dtype=np.int64) - 128) * round(65536 / 2 ** (fall * octave))
    spread = math.isqrt(int((total * total).mean()))
    return (total * 32 // spread).astype(np.int16)


def noise(rng: np.random.Generator, fall: float) -> Gray:
    """(192, 192) window of a stored field, of standard deviation about 32; 1 / f^fall."""
    number, left, top, mirror = rng.integers(0, (_FIELDS, 64, 64, 4)).tolist()
    window = _field(number, fall)[top : top + SIDE, left : left + SIDE]
    return window[:: -1 if mirror & 1 else 1, :: -1 if mirror & 2 else 1]


def backdrop(scene: Scene, rng: np.random.Generator) -> NDArray[np.int16]:
    """The empty place, (3, 192, 192), not yet clipped to 0 to 255."""
    ground, seen = GROUNDS[scene.place], air(scene.place, scene.light, scene.weather)
    inside = scene.place in INDOORS
    low, high = ground.horizon
    horizon, tilt, shift, dense = rng.uniform((low, -0.05, -9, 0.6), (high, 0.05, 9, 1.3)).tolist()
    tilt = 0.0 if inside else tilt
    image = Image.new("RGB", (SIDE, SIDE), seen.seen(ground.wall))
    if not inside:
        _sky(image, scene, rng, horizon)
    mask = Image.new("1", (SIDE, SIDE))
    left, right = horizon - tilt * SIDE / 2, horizon + tilt * SIDE / 2
    ImageDraw.Draw(mask).polygon([(0, left), (SIDE, right), (SIDE, SIDE), (0, SIDE)], fill=1)
    share = np.clip((np.arange(SIDE) - horizon) / (SIDE - horizon), 0, 1)
    floor = _gradient(seen.seen(ground.far, 0.0), seen.seen(ground.near, 1.0), share)
    image.paste(floor, mask=mask)
    ground.paint(Pen(ImageDraw.Draw(image), rng, seen, scene.light, horizon, tilt, dense))
    # texture is weaker in the sky and in the dark
    bright = sum(seen.ground) / 3
    strong, weak = (int(rough * bright) for rough in ((7, 5) if inside else (15, 3)))
    texture = noise(rng, 0.75) * np.where(np.asarray(mask), np.int16(strong), np.int16(weak))
    bands = np.stack([np.asarray(band) for band in image.split()]).astype(np.int16)
    bands += (texture >> 5) + int(shift * bright)
    return bands


def _gradient(top: tuple[int, ...], low: tuple[int, ...], share: NDArray[np.float64]) -> Image.Image:
    """An image of which row i is ``share[i]`` of the way from one colour to the other."""
    column = np.array(top) + (np.array(low) - np.array(top)) * share[:, None]
    return Image.fromarray(column.astype(np.uint8)[:, None]).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _sky(image: Image.Image, scene: Scene, rng: np.random.Generator, horizon: float) -> None:
    """Gradient, sun or moon, stars and clouds."""
    top, low, cloud = SKIES[scene.light, scene.weather]
    image.paste(_gradient(top, low, np.clip(np.arange(SIDE) / horizon, 0, 1)))
    if scene.weather == "foggy":
        return
    draw, clear, night = ImageDraw.Draw(image), scene.weather == "sunny", scene.light == "night"
    if clear and night:
        for x, y, value in rng.uniform((0, 0, 110), (SIDE, horizon, 235), size=(46, 3)).tolist():
            draw.point((x, y), fill=(int(value), int(value), int(value) + 14))
    if clear:
        x, y = rng.uniform((16, 12), (SIDE - 16, 40)).tolist()
        y += 16 if scene.light == "evening" else 0
        color, size = {"day": ((255, 246, 204), 9), "evening": ((255, 208, 128), 11), "night": ((226, 228, 216), 8)}[
            scene.light
        ]
        draw.ellipse((x - size, y - size, x + size, y + size), fill=color)
        if night:
            draw.ellipse((x - size + 6, y - size - 2, x + size + 5, y + size - 4), fill=top)
    height = min(SIDE, int(horizon) + 12)
    cover = noise(rng, 1.5)[:height] * 5 + _COVER[scene.weather] - (60 if clear and night else 0)
    image.paste(cloud, (0, 0, SIDE, height), Image.fromarray(np.clip(cover, 0, 225).astype(np.uint8)))
