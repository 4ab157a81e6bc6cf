"""Class maps of the content of each patch of a scene: dense training labels for the vision tower."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clasp.tiny.painting import Painting, character_boxes
from clasp.tiny.scene import COLORS, GRID, LIGHTS, MATERIALS, NAMES, PATCH, PLACES, WEATHERS, Scene

SIGN = len(NAMES) + 1
"""Class of signs in the map ``name``."""

FACTORS: dict[str, int] = {
    "name": len(NAMES) + 2,
    "color": len(COLORS) + 1,
    "material": len(MATERIALS) + 1,
    "middle": 2,
    "character": 37,
    "place": len(PLACES),
    "light": len(LIGHTS),
    "weather": len(WEATHERS),
    "row": GRID,
    "column": GRID,
}
"""Classes of each label map. 0 means background in the first five; ``middle`` marks a thing's middle patch."""


def label_maps(shown: Scene, painting: Painting) -> NDArray[np.int64]:
    """Content of each patch: ``(factors, 576)`` classes in the order of FACTORS.

    A patch belongs to the thing or sign that covers most of its pixels, if that is at least a fifth of them.
    """
    count = len(shown.things) + len(shown.signs) + 1
    owner = painting.owner.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(GRID * GRID, PATCH * PATCH)
    share = (owner[..., None] == np.arange(1, count)).mean(1) if count > 1 else np.zeros((GRID * GRID, 0))
    covered = (share.argmax(1) + 1) * (share.max(1) >= 0.2) if count > 1 else np.zeros(GRID * GRID, dtype=np.int64)
    names = [0, *(NAMES.index(thing.name) + 1 for thing in shown.things), *(SIGN for _ in shown.signs)]
    painted = [*(thing.color for thing in shown.things), *(sign.color for sign in shown.signs)]
    colors = [0, *(COLORS.index(color) + 1 for color in painted)]
    materials = [0, *(MATERIALS.index(thing.material) + 1 for thing in shown.things), *(0 for _ in shown.signs)]
    maps = {key: np.array(values)[covered] for key, values in zip(FACTORS, (names, colors, materials), strict=False)}
    maps["middle"] = np.zeros(GRID * GRID, dtype=np.int64)
    for thing in shown.things:
        maps["middle"][_patch(thing.x, thing.y)] = 1
    maps["character"] = np.zeros(GRID * GRID, dtype=np.int64)
    for sign in shown.signs:
        for character, (left, top, right, bottom) in zip(sign.text, character_boxes(sign), strict=True):
            for x in range(int(left) // PATCH, int(right - 1) // PATCH + 1):
                if min(right, (x + 1) * PATCH) - max(left, x * PATCH) >= 0.5 * min(PATCH, right - left):
                    for y in range(int(top) // PATCH, int(bottom - 1) // PATCH + 1):
                        maps["character"][min(y, GRID - 1) * GRID + min(x, GRID - 1)] = character_class(character)
    whole = {"place": PLACES.index(shown.place), "light": LIGHTS.index(shown.light)}
    whole["weather"] = WEATHERS.index(shown.weather)
    maps |= {key: np.full(GRID * GRID, value) for key, value in whole.items()}
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    maps |= {"row": rows.reshape(-1), "column": columns.reshape(-1)}
    return np.stack([maps[key].astype(np.int64) for key in FACTORS])


def _patch(x: float, y: float) -> int:
    """Index of the patch that contains a point given in pixels."""
    return min(int(y) // PATCH, GRID - 1) * GRID + min(int(x) // PATCH, GRID - 1)


def character_class(character: str) -> int:
    """1 to 26 for A to Z in either case, 27 to 36 for the digits."""
    return 27 + int(character) if character.isdigit() else ord(character.upper()) - ord("A") + 1
