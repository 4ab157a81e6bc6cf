"""The small world: scenes generated from a seed, one for each ``(split, index)``.

Every split has its own random stream, so the splits are disjoint by construction. As in photographs, each place favours
some things, and some things are common everywhere. Questions about absent things can therefore be random (any thing),
popular (a common thing) or adversarial (a thing that is usual at the place).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clasp.tiny.scene import (
    COLORS,
    FONTS,
    LIGHTS,
    MARGIN,
    MATERIALS,
    NAMES,
    PLACES,
    SIDE,
    WEATHERS,
    Scene,
    Sign,
    Thing,
)
from clasp.tiny.words import WORDS

SPLITS = ("train", "calibration", "test")
MOST = 6
"""Maximum size of a deliberate group of things with one name or color, and the largest count in a question."""

USUAL: dict[str, tuple[str, ...]] = {
    "beach": ("boat", "turtle", "umbrella", "ball", "kite"),
    "forest": ("tree", "mushroom", "tent", "bird", "snail"),
    "desert": ("cactus", "plane", "tent", "truck", "bottle"),
    "snow": ("house", "hat", "train", "dog", "rocket"),
    "meadow": ("flower", "butterfly", "balloon", "castle", "dog"),
    "city": ("car", "bus", "truck", "clock", "house"),
    "harbor": ("boat", "fish", "duck", "train", "lamp"),
    "mountain": ("castle", "balloon", "plane", "tree", "bird"),
    "kitchen": ("cup", "apple", "cake", "table", "carrot"),
    "classroom": ("book", "chair", "key", "clock", "lamp"),
}
"""Things that are five times as frequent at a place as others."""
COMMON = ("car", "tree", "cat", "cup", "bird", "flower", "ball", "house")
"""Things that are three times as frequent as others at every place."""

_PLACEMENT_TRIES = 40
_OVERLAP = 0.15  # maximum share of the smaller of two boxes that the other may cover


def generator(split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """The random stream of ``(split, index)``; ``purpose`` separates the scene (0) from questions (1 and above)."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: use one of {', '.join(SPLITS)}.")
    if index < 0:
        raise ValueError(f"Scene index {index} is negative: use 0 or above.")
    return np.random.default_rng([SPLITS.index(split), index, purpose])


@lru_cache(maxsize=4096)
def scene(split: str, index: int) -> Scene:
    """The scene number ``index`` of ``split``; the same value on every call and machine."""
    rng = generator(split, index)
    place = _pick(rng, PLACES)
    light, weather = _pick(rng, LIGHTS), _pick(rng, WEATHERS)
    taken: list[tuple[float, float, float, float]] = []
    signs = _signs(rng, taken)
    things = _things(rng, place, taken)
    things.sort(key=lambda thing: -thing.size)  # small things are in front
    return Scene(place, light, weather, tuple(things), tuple(signs), (SPLITS.index(split), index))


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def name_weights(place: str) -> NDArray[np.float64]:
    """Probability of each of NAMES at ``place``; sums to 1."""
    weights = np.array([5.0 if n in USUAL[place] else 3.0 if n in COMMON else 1.0 for n in NAMES])
    return weights / weights.sum()


def _signs(rng: np.random.Generator, taken: list[tuple[float, float, float, float]]) -> list[Sign]:
    signs: list[Sign] = []
    colors = rng.permutation(len(COLORS))
    for number in range(int(rng.choice(3, p=[0.25, 0.5, 0.25]))):
        text = str(int(rng.integers(1, 100))) if rng.random() < 0.3 else WORDS[int(rng.integers(len(WORDS)))]
        pitch = float(rng.uniform(10, 16))
        width, height = len(text) * pitch + 2 * MARGIN, 1.2 * pitch + 2 * MARGIN
        spot = _spot(rng, width, height, taken)
        if spot is not None:
            signs.append(Sign(text, COLORS[colors[number]], *spot, pitch, int(rng.integers(len(FONTS)))))
    return signs


def _things(rng: np.random.Generator, place: str, taken: list[tuple[float, float, float, float]]) -> list[Thing]:
    """A large thing in most scenes, a group of things with one name in many, and a few others."""
    names = [NAMES[n] for n in rng.choice(len(NAMES), 8, replace=False, p=name_weights(place))]
    theme = _pick(rng, COLORS)
    wanted: list[tuple[str, float]] = []
    if rng.random() < 0.75:
        wanted.append((names[0], float(rng.uniform(54, 96))))
    if rng.random() < 0.6:
        side = float(rng.uniform(17, 30))
        wanted += [(names[1], side * float(rng.uniform(0.9, 1.15))) for _ in range(int(rng.integers(2, MOST + 1)))]
    for name in names[2 : 2 + int(rng.integers(2, 5))]:
        wanted.append((name, float(np.exp(rng.uniform(np.log(18), np.log(46))))))
    shared = _pick(rng, COLORS) if rng.random() < 0.5 else None  # color of the group, if shared
    things = []
    for name, size in wanted:
        color = theme if rng.random() < 0.2 else _pick(rng, COLORS)
        if shared and name == names[1]:
            color = shared
        material = MATERIALS[int(rng.choice(3, p=[0.5, 0.25, 0.25]))]
        spot = _spot(rng, size, size, taken)
        if spot is not None:
            angle = float(np.clip(rng.normal(0, 10), -25, 25))
            things.append(Thing(name, color, material, *spot, size, angle))
    return things


def _spot(
    rng: np.random.Generator, width: float, height: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float] | None:
    """The middle of a box with little overlap with those ``taken``, or None if there is no room."""
    for _ in range(_PLACEMENT_TRIES):
        x, y = float(rng.uniform(width / 2, SIDE - width / 2)), float(rng.uniform(height / 2, SIDE - height / 2))
        if all(_covered((x, y, width, height), box) <= _OVERLAP for box in taken):
            taken.append((x, y, width, height))
            return x, y
    return None


def _covered(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Overlap of two boxes as a share of the smaller one; boxes are (middle x, middle y, width, height)."""
    across = min(one[0] + one[2] / 2, other[0] + other[2] / 2) - max(one[0] - one[2] / 2, other[0] - other[2] / 2)
    down = min(one[1] + one[3] / 2, other[1] + other[3] / 2) - max(one[1] - one[3] / 2, other[1] - other[3] / 2)
    return max(0.0, across) * max(0.0, down) / min(one[2] * one[3], other[2] * other[3])
