"""Diversity: sets whose tokens are far from one another."""

from __future__ import annotations

import torch
from torch import Tensor

from clasp.ops.select import cosine, take, top_k, top_mask

SPANNED = 1e-5
"""Share of a token's own similarity below which float32 cannot tell it from the span of the chosen ones."""


def max_min(values: Tensor, keep: int) -> Tensor:
    """Greedy max-min diversity: adds, one by one, the token whose nearest chosen token is furthest, by cosine distance.

    The first is the token with the largest distance to its nearest neighbour. The smallest chord (Euclidean distance of
    unit vectors) within the set is at least half of the largest possible one (Ravi et al. 1994).

    Args:
        values: (batch, tokens, dim).
        keep: from 1 to tokens.

    Returns:
        (batch, keep) long, ascending.
    """
    distance = 1.0 - cosine(values)
    own = torch.eye(distance.shape[1], dtype=torch.bool, device=values.device)
    reach = distance.masked_fill(own, float("inf")).amin(dim=-1)
    taken = torch.zeros_like(reach, dtype=torch.bool)
    for step in range(keep):
        pick = reach.masked_fill(taken, float("-inf")).argmax(dim=1, keepdim=True)
        taken = taken.scatter(1, pick, True)
        to_pick = take(distance, pick).squeeze(1)
        reach = to_pick if step == 0 else torch.minimum(reach, to_pick)
    return top_k(taken.int(), keep)


def dpp_map(similarity: Tensor, quality: Tensor, keep: int) -> Tensor:
    """Greedy MAP of the determinantal point process with kernel diag(quality) similarity diag(quality).

    Each step adds the token that makes the determinant of the chosen submatrix largest. With the incremental Cholesky
    factor of Chen et al. 2018 that is the largest quality^2 x residual, the residual being what of the token's own
    similarity lies outside the span of the chosen ones. Once every token lies inside it, the rank is exhausted, all
    determinants are zero, and the tokens of highest quality fill the set up.

    Args:
        similarity: (batch, tokens, tokens) float32, positive semi-definite, diagonal at most 1.
        quality: (batch, tokens) float32, non-negative.
        keep: from 1 to tokens.

    Returns:
        (batch, keep) long, ascending.
    """
    residual = similarity.diagonal(dim1=-2, dim2=-1)
    factor = similarity.new_zeros(similarity.shape[0], keep, similarity.shape[1])
    taken = torch.zeros_like(quality, dtype=torch.bool)
    for step in range(keep):
        useful = ~taken & (residual > SPANNED)
        exhausted = ~useful.any(dim=1, keepdim=True)
        gain = (quality.square() * residual).masked_fill(~useful, -1.0)
        pick = torch.where(exhausted, quality.masked_fill(taken, -1.0), gain).argmax(dim=1, keepdim=True)
        taken = taken.scatter(1, pick, True)
        before = factor[:, :step]
        explained = take(before.transpose(1, 2), pick) @ before
        row = (take(similarity, pick) - explained).squeeze(1) / residual.gather(1, pick).clamp(min=SPANNED).sqrt()
        factor[:, step] = row
        residual = residual - row.square()
    return top_k(taken.int(), keep)


def take_least_similar(similarity: Tensor, taken: Tensor, quotas: Tensor) -> Tensor:
    """Each pivot in turn takes, of the tokens that are left, those with the lowest similarity to it.

    Args:
        similarity: (batch, pivots, tokens).
        taken: (batch, tokens) bool, tokens that are gone from the start.
        quotas: (batch, pivots) long, how many each takes; a row's sum is at most the tokens that are left.

    Returns:
        (batch, tokens) bool: ``taken`` and what the pivots took.
    """
    for pivot in range(similarity.shape[1]):
        dissimilarity = (-similarity[:, pivot]).masked_fill(taken, float("-inf"))
        taken = taken | top_mask(dissimilarity, quotas[:, pivot])
    return taken
