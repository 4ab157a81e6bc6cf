"""Pool: average pooling of the projected grid, before the decoder: a baseline that looks at nothing.

The grid of an image, or of a crop or frame of it, is averaged down to h x w tokens with h w = T, by windows as in
adaptive average pooling. Where T has no such factors near the grid's own shape, rows have unequally many windows.
Reviewers and VTC-Bench (arXiv 2510.07143) ask for it: downsampled images beat many designed methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.ops.select import take, top_k
from clasp.ops.similarity import blocks

DISTORTION = 2.0
"""How much wider or taller than the grid's own shape that of the windows may be."""


@dataclass(frozen=True, kw_only=True)
class Pool(Method):
    """Adaptive average pooling of each crop's projected tokens; no parameters of its own."""

    name: ClassVar[str] = "pool"
    label: ClassVar[str] = "Pooling"
    scope: ClassVar[Scope] = "crop"
    assumptions: ClassVar[tuple[str, ...]] = (
        "Pool's budget is split over the crops of an image in proportion to their tokens",
        f"Pool's h x w is the pair of factors of T nearest to the grid's shape; where none is within a factor of "
        f"{DISTORTION:.0f} of it, rows of windows are cut into unequally many",
        "Pool's windows stand at the place of their middle token; CLS tokens of frames are in none and dropped first",
    )
    positions: Positions = "contiguous"  # it hands the decoder a smaller image

    def select(self, state: State, keep: int) -> Selection:
        tokens, grid = state.tokens(), state.grid()
        pooled = tokens.float().clone()
        rank = (grid.row < 0).int()  # places of no window go after the windows, before all other tokens
        for number, ((high, wide), *_) in enumerate(grid.sizes):
            cells = torch.tensor(windows(min(keep, high * wide), high, wide)).to(tokens.device, non_blocking=True)
            row, column = grid.row[number], grid.column[number]
            middle = (row == cells[:, 4, None]) & (column == cells[:, 5, None])
            middle = middle.int().argmax(dim=1)
            means = []
            for part in blocks(len(cells), len(row)):
                top, bottom, left, right = cells[part, :4, None].unbind(1)
                inside = ((row >= top) & (row < bottom) & (column >= left) & (column < right)).float()
                means.append(inside @ tokens[number].float() / inside.sum(dim=1, keepdim=True))
            pooled[number, middle] = torch.cat(means)
            rank[number, middle] = 2
        index = top_k(rank, keep)
        return Selection(index, take(pooled, index).to(tokens.dtype))


def windows(count: int, high: int, wide: int) -> list[tuple[int, ...]]:
    """Windows of a grid in raster order: first row and the one after the last, first column and the one after the last,
    row and column of the middle token. Neighbours overlap by one where a side does not divide.

    Args:
        count: from 1 to high x wide.
    """
    found: list[tuple[int, ...]] = []
    across = columns(count, high, wide)
    for i, parts in enumerate(across):
        for j in range(parts):
            rows, sides = _window(i, len(across), high), _window(j, parts, wide)
            found.append((*rows[:2], *sides[:2], rows[2], sides[2]))
    return found


def columns(count: int, high: int, wide: int) -> list[int]:
    """How many windows each row of windows has, together ``count``."""
    exact = [(h, count // h) for h in range(1, high + 1) if count % h == 0 and count // h <= wide]
    # of two shapes that are equally near the one with fewer rows
    best = min(exact, key=lambda pair: (round(_distortion(pair, high, wide), 9), pair[0]), default=None)
    if best is not None and _distortion(best, high, wide) <= math.log(DISTORTION) + 1e-9:
        return [best[1]] * best[0]
    rows = max(round(math.sqrt(count * high / wide)), -(-count // wide), 1)
    rows = min(rows, high, count)
    return [(i + 1) * count // rows - i * count // rows for i in range(rows)]


def _distortion(shape: tuple[int, int], high: int, wide: int) -> float:
    """How far a shape, rows and columns, is from the grid's: the logarithm of the factor between their proportions."""
    return abs(math.log(shape[0] * wide / (shape[1] * high)))


def _window(number: int, parts: int, length: int) -> tuple[int, int, int]:
    """First, one after the last, and middle of the ``number``-th of ``parts`` windows of a side."""
    start, stop = number * length // parts, -(-(number + 1) * length // parts)
    return start, stop, (2 * number + 1) * length // (2 * parts)
