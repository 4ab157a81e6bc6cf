"""All pairs of tokens, without holding all of them at once where they are many."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clasp.ops.select import take

HELD = 4096
"""Up to so many tokens the matrix of all pairs is kept; beyond, its rows are computed when they are read."""
BLOCK = 1 << 22
"""Numbers per batch entry that one step of a computation over many rows may hold."""

STRIPS = 6
"""Strips of rows in which a CPU computes a product of tokens with themselves, each pair once."""

RESOLUTION = 8 * torch.finfo(torch.float32).eps
"""Distance of two tokens, as a share of their length, below which they count as identical."""


def blocks(rows: int, width: int, held: int | None = None) -> Iterator[slice]:
    """Consecutive slices of ``rows``, each of as many rows of ``width`` numbers as ``held`` allows, at least one.

    Args:
        held: numbers; None: :data:`BLOCK`.
    """
    step = max(1, (BLOCK if held is None else held) // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def products(values: Tensor) -> Tensor:
    """(batch, tokens, dim) -> (batch, tokens, tokens), the scalar products of all pairs."""
    tokens, other = values.shape[1], values.transpose(-1, -2)
    if values.is_cuda or tokens < STRIPS**2:
        return values @ other
    whole = values.new_empty(len(values), tokens, tokens)
    for part in blocks(tokens, 1, -(-tokens // STRIPS)):
        rows = values[:, part] @ other[:, :, part.start :]
        whole[:, part, part.start :] = rows
        whole[:, part.stop :, part] = rows[:, :, rows.shape[1] :].transpose(-1, -2)
    return whole


class Pairs(Protocol):
    """A value for each pair of tokens, read by rows."""

    tokens: int

    def rows(self, index: Tensor) -> Tensor:
        """(batch, k) long -> (batch, k, tokens)."""
        ...

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order: which, and (batch, rows, tokens)."""
        ...


class Cosines:
    """Cosine similarities in float32; a zero vector has similarity 0 to everything.

    Args:
        values: (batch, tokens, dim).

    Attributes:
        unit: (batch, tokens, dim) float32, of length one.
    """

    def __init__(self, values: Tensor) -> None:
        self.unit = normalize(values.float(), dim=-1)
        self.tokens = values.shape[1]

    @cached_property
    def matrix(self) -> Tensor | None:
        """(batch, tokens, tokens), computed when it is first read; None where tokens are too many to keep it."""
        return products(self.unit) if self.tokens <= HELD else None

    def rows(self, index: Tensor) -> Tensor:
        if self.matrix is not None:
            return take(self.matrix, index)
        return take(self.unit, index) @ self.unit.transpose(-1, -2)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in blocks(self.tokens, self.tokens):
            whole = self.matrix
            yield rows, whole[:, rows] if whole is not None else self.unit[:, rows] @ self.unit.transpose(-1, -2)


class Closeness:
    """Negative Euclidean distances over sqrt(dim); identical tokens are at distance zero.

    On a CPU the products are summed in float64, since in float32 identical tokens would get a distance, and distances
    below float32's resolution of the tokens are set to zero.

    Args:
        values: (batch, tokens, dim).
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.float() if values.is_cuda else values.double()
        self._squares = self._values.square().sum(dim=-1)
        self._scale = values.shape[-1] ** -0.5
        self.tokens = values.shape[1]
        self._held = self.tokens <= HELD

    @cached_property
    def _matrix(self) -> Tensor:
        own = None if self._values.is_cuda else products(self._values)
        return self._from(self._values, self._squares, own)

    def rows(self, index: Tensor) -> Tensor:
        if self._held:
            return take(self._matrix, index)
        return self._from(take(self._values, index), self._squares.gather(1, index))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in blocks(self.tokens, self.tokens):
            own = self._matrix[:, rows] if self._held else self._from(self._values[:, rows], self._squares[:, rows])
            yield rows, own

    def _from(self, values: Tensor, squares: Tensor, own: Tensor | None = None) -> Tensor:
        """(batch, k, tokens) float32 from (batch, k, dim) and their squared lengths; on a CPU also from their products
        with all tokens (batch, k, tokens), where these are there."""
        if values.is_cuda:  # where float64 is slow on many cards, and differences are not
            distance = torch.cdist(values, self._values, compute_mode="donot_use_mm_for_euclid_dist")
            return distance * -self._scale
        own = values @ self._values.transpose(-1, -2) if own is None else own
        apart = own.mul_(-2.0).add_(squares[..., None]).add_(self._squares[:, None])
        apart.masked_fill_(apart <= 2.0 * RESOLUTION**2 * squares[..., None], 0.0)
        return apart.float().sqrt_().mul_(-self._scale)


def nearest(pairs: Pairs, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest values of each token with any other, by falling value, and the indices of those others.

    Returns:
        (batch, tokens, count) float32 and long; where there are fewer others, -inf.
    """
    found = []
    for rows, block in pairs.blocks():
        others = block.clone()
        others.diagonal(offset=rows.start, dim1=-2, dim2=-1).fill_(float("-inf"))
        found.append(others.topk(count, dim=-1))
    return torch.cat([best.values for best in found], dim=1), torch.cat([best.indices for best in found], dim=1)
