"""Choosing and gathering tokens by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` highest scores, in ascending index order; ties go to the lower index.

    Args:
        scores: (batch, tokens).

    Returns:
        (batch, k) long.
    """
    if scores.device.type == "cpu" and scores.is_floating_point() and 0 < k < scores.shape[1]:
        partitioned = _partitioned(scores, k)
        if partitioned is not None:
            return partitioned
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    return order[:, :k].sort(dim=1).values


def _partitioned(scores: Tensor, k: int) -> Tensor | None:
    """:func:`top_k` on the CPU, several times faster than sorting; None where the k-th score is tied with the next."""
    values = scores.detach().float().numpy()
    last = values.shape[1] - k
    places = values.argpartition((last - 1, last))
    # NaN is above everything to both, and no comparison with it holds
    if not all(row[order[last]] > row[order[last - 1]] for row, order in zip(values, places, strict=True)):
        return None
    index = places[:, last:]
    index.sort()
    return torch.from_numpy(index)


def argmax(values: Tensor) -> Tensor:
    """(..., n) -> (...) long, the index of the highest value, the lowest one of equal ones; by numpy on a CPU, where
    torch takes several times longer."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.detach().float().numpy().argmax(axis=-1))
    return values.argmax(dim=-1)


def top_mask(scores: Tensor, counts: Tensor) -> Tensor:
    """Marks the ``counts[b]`` highest scores of each batch entry; ties go to the lower index.

    Args:
        scores: (batch, tokens).
        counts: (batch,) long, each between 0 and tokens.

    Returns:
        (batch, tokens) bool.
    """
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    chosen = torch.arange(scores.shape[1], device=scores.device)[None] < counts[:, None]
    return torch.zeros_like(chosen).scatter(1, order, chosen)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Gathers along dim 1.

    Args:
        values: (batch, tokens, ...).
        index: (batch, k) long.

    Returns:
        (batch, k, ...).
    """
    if len(values) == 1:  # copies whole rows, which is several times faster
        return values[0].index_select(0, index[0])[None]
    rows = torch.arange(values.shape[0], device=values.device)[:, None]
    return values[rows, index]


def cosine_between(values: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity in float32; a zero vector has similarity 0 to everything.

    Args:
        values: (batch, tokens, dim).
        others: (batch, any, dim).

    Returns:
        (batch, tokens, any) in [-1, 1].
    """
    unit = torch.nn.functional.normalize(values.float(), dim=-1)
    return unit @ torch.nn.functional.normalize(others.float(), dim=-1).transpose(-1, -2)


def uniform(seeds: Sequence[int], count: int) -> Tensor:
    """Uniform draws from [0, 1), each row by a generator of its own, on the CPU.

    Args:
        seeds: one a row; only their lowest 32 bits count.

    Returns:
        (seeds, count) float32.
    """
    return torch.stack([torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
