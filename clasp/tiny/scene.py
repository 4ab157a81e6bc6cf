"""Content of an image of the small world as a value: things and signs at a place, with light and weather.

Lengths are pixels of a 192 x 192 image; the vision tower reads it as 24 x 24 patches of 8 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

GRID = 24
"""Patches per side."""
PATCH = 8
"""Pixels per patch side."""
SIDE = GRID * PATCH
"""Pixels per image side."""

KINDS: dict[str, tuple[str, ...]] = {
    "vehicle": ("car", "bus", "truck", "boat", "plane", "train", "rocket", "balloon"),
    "animal": ("fish", "bird", "cat", "dog", "snail", "turtle", "butterfly", "duck"),
    "plant": ("tree", "flower", "cactus", "mushroom"),
    "food": ("apple", "pear", "carrot", "cake", "cherry"),
    "object": ("cup", "lamp", "chair", "table", "clock", "key", "umbrella", "bottle", "book", "hat", "ball", "kite"),
    "building": ("house", "castle", "tent"),
}
"""The things by their kind."""
NAMES: tuple[str, ...] = tuple(name for names in KINDS.values() for name in names)
KIND_OF: dict[str, str] = {name: kind for kind, names in KINDS.items() for name in names}
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
MATERIALS = ("plain", "striped", "dotted")
"""Surfaces of things."""
PLACES = ("beach", "forest", "desert", "snow", "meadow", "city", "harbor", "mountain", "kitchen", "classroom")
INDOORS = ("kitchen", "classroom")
"""Indoor places, without weather; their windows show the light."""
LIGHTS = ("day", "evening", "night")
WEATHERS = ("sunny", "cloudy", "rainy", "foggy")
FONTS: tuple[str, ...] = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif",
)
"""Fonts of signs, files of matplotlib's package data."""
MARGIN = 4
"""Pixels between the letters of a sign and the edge of its plate."""


@dataclass(frozen=True)
class Thing:
    """One thing.

    Args:
        name: one of NAMES.
        color: one of COLORS, of its main body.
        material: one of MATERIALS.
        x, y: middle of its box.
        size: side of its square box before rotation.
        angle: rotation in degrees, counter-clockwise.
    """

    name: str
    color: str
    material: str
    x: float
    y: float
    size: float
    angle: float = 0.0


@dataclass(frozen=True)
class Sign:
    """A plate with a word or a number in a real font.

    Args:
        text: 1 to 8 letters or digits.
        color: one of COLORS, of the plate; the letters are dark or light, whichever has more contrast.
        x, y: middle of the plate.
        pitch: width of each character; the plate is ``len(text) * pitch`` wide plus a margin.
        font: number of the font in FONTS.
    """

    text: str
    color: str
    x: float
    y: float
    pitch: float
    font: int = 0


@dataclass(frozen=True)
class Scene:
    """One image: ``things`` are painted in order, later ones over earlier ones, and ``signs`` last.

    ``seed`` determines all details that no question is about: clouds, waves, bushes, texture, tilt of the horizon.
    """

    place: str
    light: str
    weather: str
    things: tuple[Thing, ...]
    signs: tuple[Sign, ...]
    seed: tuple[int, ...]
