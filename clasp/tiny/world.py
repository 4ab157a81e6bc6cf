"""The picture world: seeded scenes of small objects on a two-part textured background.

A scene is a value computed from ``(split, index)`` alone. Each split draws from its own random stream, so the splits
are disjoint by construction. Positions and sizes are counted in patches of 8 pixels; a picture is 24 x 24 patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

GRID = 24
"""Patches per side."""
PATCH = 8
"""Pixels per patch side."""

SPLITS = ("train", "calibration", "test")
SHAPES = ("circle", "triangle", "cross", "ring", "diamond", "moon")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
LETTERS = ("A", "C", "E", "H", "K", "L", "M", "P", "S", "T", "X", "Z")
DIGITS = tuple("0123456789")
WORDS = ("cat", "dog", "sun", "map", "key", "box", "cup", "hat", "pen", "bus", "fox", "owl")
SIZES = ("small", "medium", "large")
TEXTURES = ("plain", "stripes", "dots", "checks", "bricks")
SEASONS = ("spring", "summer", "autumn", "winter")
KINDS = ("shape", "letter", "digit", "word")

NAMES = SHAPES + LETTERS + DIGITS + WORDS
"""Everything an object can be; the position in this tuple plus one is its class in the label map."""

_SIZE_OF_SIDE = {2: "small", 3: "medium", 4: "medium", 5: "large", 6: "large"}
_PLACEMENT_TRIES = 80


@dataclass(frozen=True)
class Item:
    """One object: what it is, and the box of patches that it fills."""

    kind: str
    name: str
    color: str
    row: int
    column: int
    height: int
    width: int

    @property
    def size(self) -> str:
        """``small`` (2 patches), ``medium`` (3 or 4) or ``large`` (5 or 6), by height."""
        return _SIZE_OF_SIDE[self.height]

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box as (row, column), in patches."""
        return self.row + self.height / 2, self.column + self.width / 2


@dataclass(frozen=True)
class Scene:
    """One picture: its objects and its background, which changes texture at ``horizon`` (a patch row)."""

    split: str
    index: int
    items: tuple[Item, ...]
    upper: str
    lower: str
    season: str
    horizon: int

    @cached_property
    def shapes(self) -> tuple[Item, ...]:
        """The items that are shapes."""
        return tuple(item for item in self.items if item.kind == "shape")

    def of_kind(self, kind: str) -> tuple[Item, ...]:
        """The items of one kind."""
        return tuple(item for item in self.items if item.kind == kind)


def generator(split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """The random stream of ``(split, index)``; ``purpose`` separates layout (0), drawing (1) and questions (2)."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: use one of {', '.join(SPLITS)}.")
    if index < 0:
        raise ValueError(f"Scene index {index} is negative: use 0 or above.")
    return np.random.default_rng([SPLITS.index(split), index, purpose])


def scene(split: str, index: int) -> Scene:
    """The scene number ``index`` of ``split``; the same value on every call and machine."""
    rng = generator(split, index)
    upper, lower = rng.choice(len(TEXTURES), 2, replace=False)
    items = _place(rng, _shopping_list(rng))
    return Scene(
        split=split,
        index=index,
        items=items,
        upper=TEXTURES[upper],
        lower=TEXTURES[lower],
        season=SEASONS[rng.integers(len(SEASONS))],
        horizon=int(rng.integers(9, 16)),
    )


def _shopping_list(rng: np.random.Generator) -> list[tuple[str, str, str, int, int]]:
    """What is to be placed: (kind, name, color, height, width), largest first.

    One shape is repeated up to four times and one color is preferred, so that different counts occur; the
    other shapes occur once, so that they can be named in a question.
    """
    names = list(rng.permutation(len(SHAPES)))
    repeats = int(rng.integers(1, 5))
    chosen = [names[0]] * repeats + names[1 : 1 + int(rng.integers(2, 4))]
    large = int(rng.integers(len(chosen))) if rng.random() < 0.6 else -1
    theme = int(rng.integers(len(COLORS)))

    def color() -> str:
        return COLORS[theme if rng.random() < 0.25 else int(rng.integers(len(COLORS)))]

    wanted = []
    for position, name in enumerate(chosen):
        side = int(rng.integers(5, 7)) if position == large else int(rng.choice([2, 2, 3, 4]))
        wanted.append(("shape", SHAPES[name], color(), side, side))
    for kind, values in (("letter", LETTERS), ("digit", DIGITS)):
        chosen_values = rng.choice(len(values), int(rng.integers(1, 3)), replace=False)
        wanted += [(kind, values[value], color(), 3, 3) for value in chosen_values]
    wanted.append(("word", WORDS[rng.integers(len(WORDS))], color(), 2, 6))
    return sorted(wanted, key=lambda entry: -entry[3] * entry[4])


def _place(rng: np.random.Generator, wanted: list[tuple[str, str, str, int, int]]) -> tuple[Item, ...]:
    """Boxes that keep one patch of distance; what finds no room after the tries is left out."""
    taken = np.zeros((GRID + 2, GRID + 2), dtype=bool)
    items = []
    for kind, name, color, height, width in wanted:
        for _ in range(_PLACEMENT_TRIES):
            row = int(rng.integers(0, GRID - height + 1))
            column = int(rng.integers(0, GRID - width + 1))
            # The margin of the padded map is one patch, so the box with its surroundings starts at (row, column).
            if not taken[row : row + height + 2, column : column + width + 2].any():
                taken[row + 1 : row + 1 + height, column + 1 : column + 1 + width] = True
                items.append(Item(kind, name, color, row, column, height, width))
                break
    return tuple(items)


def label_map(picture: Scene) -> dict[str, NDArray[np.int64]]:
    """What covers each patch, as ``(24, 24)`` class maps; class 0 of the object maps means background.

    ``name`` (index in NAMES + 1), ``color`` (in COLORS + 1), ``size`` (in SIZES + 1), ``part`` (1 for the object's
    first patch, 2 for its others), ``character`` (position in the alphabet or digit, see :func:`character_class`),
    ``texture`` (of the background part the patch lies in), ``season``.
    """
    maps = {key: np.zeros((GRID, GRID), dtype=np.int64) for key in ("name", "color", "size", "part", "character")}
    for item in picture.items:
        box = (slice(item.row, item.row + item.height), slice(item.column, item.column + item.width))
        maps["name"][box] = NAMES.index(item.name) + 1
        maps["color"][box] = COLORS.index(item.color) + 1
        maps["size"][box] = SIZES.index(item.size) + 1
        maps["part"][box] = 2
        maps["part"][item.row, item.column] = 1
        if item.kind != "shape":
            step = item.width // len(item.name)
            for position, character in enumerate(item.name):
                start = item.column + position * step
                maps["character"][box[0], start : start + step] = character_class(character)
    texture = np.full((GRID, GRID), TEXTURES.index(picture.upper), dtype=np.int64)
    texture[picture.horizon :] = TEXTURES.index(picture.lower)
    maps["texture"] = texture
    maps["season"] = np.full((GRID, GRID), SEASONS.index(picture.season), dtype=np.int64)
    return maps


def character_class(character: str) -> int:
    """1 to 26 for A to Z in either case, 27 to 36 for the digits."""
    return 27 + int(character) if character.isdigit() else ord(character.upper()) - ord("A") + 1
