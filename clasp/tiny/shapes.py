"""The shapes of the small world's things: a short list of parts per name.

A part is a line ``role form numbers`` in a square of 100 x 100 units, x to the right, y down, painted in order:

    poly x y x y ...        a polygon
    oval x y rx ry [turn]   an ellipse, rotated by degrees
    line width x y x y ...  a stroke with round joints

Roles: ``m`` main colour with the material's pattern, ``s`` its shade and ``h`` its tint without pattern,
``d`` dark, ``w`` light, ``g`` glass, ``l`` leaf, ``t`` wood, ``-`` a hole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ROLES = "-mshdwglt"

SHAPES: dict[str, str] = {
    # vehicles
    "car": """
        m poly 2 66 4 50 22 45 36 27 70 27 84 45 97 49 98 66
        g poly 29 45 39 32 51 32 51 45
        g poly 56 45 56 32 67 32 76 45
        d oval 25 67 12 12
        d oval 76 67 12 12
        w oval 25 67 5 5
        w oval 76 67 5 5""",
    "bus": """
        m poly 3 24 8 18 94 18 98 24 98 76 3 76
        g poly 10 28 25 28 25 46 10 46
        g poly 31 28 46 28 46 46 31 46
        g poly 52 28 67 28 67 46 52 46
        g poly 74 28 92 28 92 46 74 46
        s poly 3 54 98 54 98 60 3 60
        d oval 23 77 11 11
        d oval 76 77 11 11""",
    "truck": """
        m poly 2 18 60 18 60 70 2 70
        s poly 63 34 82 34 96 50 98 54 98 70 63 70
        g poly 69 39 80 39 89 51 69 51
        d poly 2 67 98 67 98 73 2 73
        d oval 18 74 11 11
        d oval 43 74 11 11
        d oval 80 74 11 11""",
    "boat": """
        m poly 2 64 98 64 82 88 18 88
        t line 4 48 66 48 8
        h poly 53 8 53 58 92 58
        w poly 43 22 43 58 18 58
        s poly 8 72 92 72 95 66 5 66""",
    "plane": """
        s poly 30 46 12 14 22 14 52 46
        s poly 8 44 2 22 12 22 26 44
        m poly 6 42 74 40 90 44 98 52 90 60 30 62 14 56
        g poly 80 43 88 45 93 50 80 50
        d poly 44 60 62 56 36 88 26 88
        s poly 46 58 62 56 38 86 29 86""",
    "train": """
        m poly 6 18 40 18 40 40 94 40 94 70 6 70
        s poly 2 12 44 12 44 19 2 19
        g poly 13 26 32 26 32 42 13 42
        s poly 74 18 90 18 86 40 78 40
        d poly 94 56 100 78 84 78 84 66
        d oval 20 76 12 12
        d oval 52 78 10 10
        d oval 76 78 10 10""",
    "rocket": """
        s poly 34 56 16 78 16 92 38 80
        s poly 66 56 84 78 84 92 62 80
        d poly 40 82 60 82 50 99
        m poly 50 1 60 12 67 30 68 56 63 84 37 84 32 56 33 30 40 12
        g oval 50 36 9 9""",
    "balloon": """
        m oval 50 36 35 34
        m poly 18 48 82 48 58 76 42 76
        h oval 50 36 10 33
        t line 2 40 74 43 86
        t line 2 60 74 57 86
        t poly 39 85 61 85 59 99 41 99""",
    # animals
    "fish": """
        s poly 40 30 58 12 66 32
        s poly 42 70 54 86 62 68
        m poly 72 50 98 26 92 50 98 74
        m oval 44 50 40 23
        w oval 21 44 6 6
        d oval 20 44 3 3
        s line 3 34 34 38 50 34 66""",
    "bird": """
        m poly 62 50 98 44 98 60 64 66
        m oval 48 54 28 20 -12
        m oval 26 36 15 15
        d poly 13 32 0 39 14 42
        s poly 38 50 70 52 62 68 46 66
        w oval 22 33 4 4
        d oval 22 33 2 2
        d line 3 46 72 44 90 36 90
        d line 3 54 72 54 90 46 90""",
    "cat": """
        m line 8 70 90 94 84 94 56 88 44
        m oval 52 74 28 24
        m poly 20 34 20 4 40 20
        m poly 80 34 80 4 60 20
        m oval 50 36 31 24
        w oval 38 33 6 7
        w oval 62 33 6 7
        d oval 38 33 3 6
        d oval 62 33 3 6
        d poly 46 43 54 43 50 48""",
    "dog": """
        m line 8 76 46 92 26
        m poly 22 42 80 42 84 60 84 92 73 92 72 68 38 68 37 92 25 92
        m poly 10 16 34 14 42 30 40 48 22 50 4 38 2 28
        s poly 30 14 44 18 46 44 36 46 32 30
        d oval 4 30 5 5
        d oval 18 24 3 3""",
    "snail": """
        h line 3 12 48 4 30
        h line 3 20 48 20 28
        h poly 4 58 12 46 24 48 28 70 80 74 98 86 16 88 6 78
        m oval 56 48 32 32
        s line 5 56 48 62 42 68 50 62 62 48 62 40 48 48 32 64 30
        d oval 12 54 3 3""",
    "turtle": """
        h line 10 70 62 84 50 90 42
        h oval 91 38 9 8
        h poly 8 64 28 64 22 78 6 78
        h poly 54 64 74 64 76 78 60 78
        h poly 10 58 -4 68 12 66
        m poly 2 64 8 46 22 32 40 27 58 32 72 46 78 64
        s poly 2 60 78 60 80 66 0 66
        s line 3 26 60 30 46 40 28
        s line 3 54 60 50 46 40 28
        d oval 94 36 3 3""",
    "butterfly": """
        m oval 25 32 25 24 35
        m oval 75 32 25 24 -35
        m oval 31 70 18 17
        m oval 69 70 18 17
        h oval 25 31 9 9
        h oval 75 31 9 9
        d oval 50 52 5 30
        d line 2 50 26 40 8
        d line 2 50 26 60 8""",
    "duck": """
        m poly 58 60 98 46 92 70 76 88 34 88 16 74 18 58 36 56
        m oval 32 30 19 19
        m poly 22 40 46 40 50 66 20 66
        d poly 16 28 0 34 4 42 18 40
        s poly 44 62 78 60 66 78 50 76
        w oval 27 26 4 4
        d oval 27 26 2 2""",
    # plants
    "tree": """
        t poly 43 60 57 60 60 99 40 99
        m oval 50 22 22 21
        m oval 30 42 25 21
        m oval 70 42 25 21
        m oval 50 50 26 19""",
    "flower": """
        l line 5 50 50 50 98
        l oval 66 80 16 6 30
        l oval 34 86 16 6 -30
        m oval 50 14 13 13
        m oval 70 28 13 13
        m oval 63 50 13 13
        m oval 37 50 13 13
        m oval 30 28 13 13
        m oval 50 33 16 16
        d oval 50 33 9 9""",
    "cactus": """
        t poly 28 84 72 84 66 99 34 99
        m line 18 50 14 50 84
        m line 13 50 62 20 62 20 36
        m line 13 50 52 80 52 80 24
        s line 2 50 10 50 82""",
    "mushroom": """
        w poly 40 48 60 48 63 96 37 96
        m poly 2 56 6 36 20 16 40 6 60 6 80 16 94 36 98 56
        h oval 30 34 7 6
        h oval 56 22 7 6
        h oval 76 42 7 6""",
    # food
    "apple": """
        m oval 34 54 25 27
        m oval 66 54 25 27
        m poly 10 60 90 60 78 86 62 98 50 94 38 98 22 86
        t line 6 50 36 52 20 46 2
        l oval 72 14 19 9 -20""",
    "pear": """
        m oval 50 70 32 28
        m oval 50 36 18 22
        m poly 32 40 68 40 78 60 22 60
        t line 5 50 16 56 1
        h oval 38 68 7 10""",
    "carrot": """
        l poly 46 28 24 2 38 6 46 16
        l poly 54 28 76 2 62 6 54 16
        l poly 45 28 50 0 55 28
        m poly 34 30 42 25 58 25 66 30 64 46 52 99 48 99 36 46
        s line 3 36 42 48 42
        s line 3 50 56 60 56
        s line 3 42 68 50 68""",
    "cake": """
        d line 5 50 26 50 12
        w poly 47 0 54 0 53 10 47 10
        h poly 22 26 78 26 78 52 22 52
        m poly 6 52 94 52 94 90 6 90
        w poly 22 26 78 26 78 33 70 39 62 33 54 39 46 33 38 39 30 33 22 39
        w poly 6 52 94 52 94 60 84 67 74 60 62 67 50 60 38 67 26 60 16 67 6 60
        d poly 0 90 100 90 96 96 4 96""",
    "cherry": """
        l line 4 28 70 56 6 74 72
        l oval 74 14 20 8 15
        m oval 26 76 22 22
        m oval 75 76 22 22
        h oval 18 68 5 5
        h oval 67 68 5 5""",
    # objects
    "cup": """
        m oval 76 48 20 22
        - oval 76 48 11 12
        m poly 8 18 76 18 72 82 64 90 20 90 12 82
        s oval 42 18 34 7""",
    "lamp": """
        t line 7 50 40 50 90
        d poly 24 90 76 90 80 98 20 98
        m poly 32 4 68 4 94 54 6 54
        h poly 40 8 48 8 34 50 20 50""",
    "chair": """
        m poly 18 2 30 2 30 50 18 50
        m poly 18 6 30 6 30 44 18 44
        m poly 14 48 84 48 84 62 14 62
        m poly 18 60 28 60 28 98 18 98
        m poly 72 60 82 60 82 98 72 98
        s poly 14 57 84 57 84 62 14 62""",
    "table": """
        m poly 2 26 98 26 98 42 2 42
        m poly 10 40 22 40 22 86 10 86
        m poly 78 40 90 40 90 86 78 86
        s poly 22 42 78 42 78 48 22 48""",
    "clock": """
        d oval 24 14 14 12
        d oval 76 14 14 12
        d line 9 28 84 18 97
        d line 9 72 84 82 97
        m oval 50 54 41 41
        w oval 50 54 25 25
        d line 5 50 54 50 35
        d line 5 50 54 63 60""",
    "key": """
        m oval 22 50 22 22
        - oval 20 50 10 10
        m poly 40 43 98 43 98 74 86 74 86 57 78 57 78 68 68 68 68 57 40 57""",
    "umbrella": """
        t line 6 50 44 50 88 58 95 66 88
        m poly 0 54 4 34 18 16 38 7 50 2 62 7 82 16 96 34 100 54 88 48 76 54 63 48 50 54 37 48 24 54 12 48
        s line 3 50 6 37 48
        s line 3 50 6 63 48""",
    "bottle": """
        d poly 42 0 58 0 58 12 42 12
        m poly 42 11 58 11 58 30 72 42 74 52 74 98 26 98 26 52 28 42 42 30
        w poly 26 58 74 58 74 80 26 80""",
    "book": """
        m poly 2 14 50 38 98 14 98 66 50 92 2 66
        w poly 50 34 70 16 92 10 92 60 70 66 50 84
        m poly 50 34 30 16 8 10 8 60 30 66 50 84
        w line 3 17 25 29 29 40 38
        w line 3 17 39 29 43 40 52
        d line 2 60 38 71 29 84 25
        d line 2 60 50 71 41 84 37
        d line 2 60 62 71 53 84 49
        s line 3 50 34 50 88""",
    "hat": """
        m oval 50 78 49 12
        m poly 26 12 74 12 72 76 28 76
        d poly 28 58 72 58 72 68 28 68
        s line 3 16 83 50 87 84 83
        h oval 50 12 24 5""",
    "ball": """
        m oval 50 50 48 48
        h poly 50 30 68 43 61 64 39 64 32 43
        s line 4 50 30 50 3
        s line 4 68 43 95 36
        s line 4 61 64 78 88
        s line 4 39 64 22 88
        s line 4 32 43 5 36""",
    "kite": """
        m poly 54 2 92 36 54 76 22 30
        s poly 54 2 92 36 48 35
        s line 2 54 2 54 76
        d line 3 54 76 42 84 46 92 28 98
        d poly 48 78 38 76 38 90
        d poly 34 90 28 86 30 99""",
    # buildings
    "house": """
        d poly 70 8 82 8 82 30 70 30
        s poly 50 4 98 44 2 44
        m poly 10 44 90 44 90 96 10 96
        g poly 18 54 36 54 36 72 18 72
        g poly 64 54 82 54 82 72 64 72
        d poly 42 62 58 62 58 96 42 96""",
    "castle": """
        m poly 2 14 10 14 10 22 15 22 15 14 21 14 21 22 26 22 26 14 34 14 34 96 2 96
        m poly 66 14 74 14 74 22 79 22 79 14 85 14 85 22 90 22 90 14 98 14 98 96 66 96
        m poly 32 42 39 42 39 49 46 49 46 42 54 42 54 49 61 49 61 42 68 42 68 96 32 96
        s line 3 34 26 34 96
        s line 3 66 26 66 96
        d poly 40 96 40 70 50 60 60 70 60 96
        d poly 14 36 22 36 22 50 14 50
        d poly 78 36 86 36 86 50 78 50""",
    "tent": """
        m poly 50 8 99 90 1 90
        d poly 50 40 66 90 34 90
        h poly 50 40 34 90 26 90
        t line 4 50 12 44 2
        t line 4 50 12 56 2""",
}
"""Parts of every name in ``scene.NAMES``."""


@dataclass(frozen=True)
class Outline:
    """A thing's parts as polygons around the middle of its box, whose longer side is 1.

    Args:
        x, y: corners of all polygons, one after the other.
        parts: for each polygon, the number of its role and the range of its corners.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    parts: tuple[tuple[int, int, int], ...]


@cache
def outline(name: str) -> Outline:
    """The outline of a name of ``scene.NAMES``."""
    corners: list[tuple[float, float]] = []
    parts = []
    for line in SHAPES[name].strip().splitlines():
        role, form, *words = line.split()
        for polygon in _polygons(form, [float(word) for word in words]):
            parts.append((ROLES.index(role), len(corners), len(corners) + len(polygon)))
            corners += polygon
    points = np.array(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high - low).max()
    return Outline(points[:, 0].copy(), points[:, 1].copy(), tuple(parts))


def _polygons(form: str, numbers: list[float]) -> list[list[tuple[float, float]]]:
    """A part as polygons."""
    if form == "oval":
        x, y, rx, ry, *turn = numbers
        return [_oval(x, y, rx, ry, *turn)]
    if form == "poly":
        return [list(zip(numbers[0::2], numbers[1::2], strict=True))]
    half, joints = numbers[0] / 2, list(zip(numbers[1::2], numbers[2::2], strict=True))
    polygons = [_oval(x, y, half, half, corners=10) for x, y in joints[1:-1]]
    for (x, y), (to_x, to_y) in pairwise(joints):
        length = math.hypot(to_x - x, to_y - y)
        dx, dy = (to_y - y) / length * half, (x - to_x) / length * half
        polygons.append([(x + dx, y + dy), (to_x + dx, to_y + dy), (to_x - dx, to_y - dy), (x - dx, y - dy)])
    return polygons


def _oval(
    x: float, y: float, rx: float, ry: float, turn: float = 0.0, *, corners: int = 24
) -> list[tuple[float, float]]:
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    around = [(rx * math.cos(t), ry * math.sin(t)) for t in (math.tau * i / corners for i in range(corners))]
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in around]
