"""Diversity: sets whose tokens are far from one another."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clasp.ops.select import top_mask
from clasp.ops.similarity import Cosines

SPANNED = 4 * torch.finfo(torch.float32).eps
"""A token's residual outside the span of n chosen ones is rounding noise below this times sqrt(n + 1), as a share of
its own similarity. Rounding leaves about a third of that of tokens inside the span, for spans of 10 to 300."""


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
    cosines, alone = Cosines(values), []
    for rows, block in cosines.blocks():
        # in place: nobody else holds these cosines, and below no token is compared with itself
        block.diagonal(offset=rows.start, dim1=-2, dim2=-1).fill_(float("-inf"))
        alone.append(block.amax(dim=-1))
    pick = torch.cat(alone, dim=1).argmin(dim=1, keepdim=True)
    if cosines.matrix is not None and values.device.type == "cpu":
        return _max_min_on_cpu(cosines.matrix.detach().numpy(), pick, keep)
    covered, picks = cosines.rows(pick).squeeze(1), [pick]
    while len(picks) < keep:
        pick = covered.scatter_(1, pick, float("inf")).argmin(dim=1, keepdim=True)
        covered = torch.maximum(covered, cosines.rows(pick).squeeze(1))
        picks.append(pick)
    return torch.cat(picks, dim=1).sort(dim=1).values


def _max_min_on_cpu(cosines: NDArray[np.float32], first: Tensor, keep: int) -> Tensor:
    """The steps of :func:`max_min` in numpy, whose calls on few numbers take a fraction of torch's.

    Args:
        cosines: (batch, tokens, tokens).
        first: (batch, 1) long, the first token chosen.
    """
    chosen = np.empty((len(cosines), keep), dtype=np.int64)
    for row, pick, picks in zip(cosines, first[:, 0].tolist(), chosen, strict=True):
        picks[0], covered = pick, row[pick].copy()
        for step in range(1, keep):
            covered[pick] = np.inf
            picks[step] = pick = covered.argmin()
            np.maximum(covered, row[pick], out=covered)
    chosen.sort(axis=1)
    return torch.from_numpy(chosen)


def dpp_map(similarity: Cosines, quality: Tensor, keep: int) -> Tensor:
    """Greedy MAP of the determinantal point process with kernel diag(quality) similarity diag(quality).

    Each step adds the token that makes the determinant of the chosen submatrix largest. With the incremental Cholesky
    factor of Chen et al. 2018 that is the largest quality^2 x residual, the residual being what of the token's own
    similarity lies outside the span of the chosen ones. Once every token lies inside it, the rank is exhausted, all
    determinants are zero, and the tokens of highest quality fill the set up.

    Args:
        similarity: of all pairs of tokens.
        quality: (batch, tokens) float32, non-negative.
        keep: from 1 to tokens.

    Returns:
        (batch, keep) long, ascending.
    """
    residual = similarity.unit.square().sum(dim=-1)
    factor = residual.new_zeros(len(residual), keep, similarity.tokens)
    weight = quality.square()
    # below all determinants, for when these are all zero: -1 for the highest quality, -2 for the next
    spare = -1.0 - quality.argsort(dim=1, descending=True, stable=True).argsort(dim=1).to(residual.dtype)
    picks = []
    for step in range(keep):
        spanned = SPANNED * (step + 1) ** 0.5
        pick = torch.where(residual > spanned, weight * residual, spare).argmax(dim=1, keepdim=True)
        row = similarity.rows(pick)
        if step:
            before = factor[:, :step]
            known = before.gather(2, pick[:, None].expand(-1, step, 1)).transpose(1, 2)
            row = torch.baddbmm(row, known, before, alpha=-1.0)
        row = row.squeeze(1) / residual.gather(1, pick).clamp_(min=spanned).sqrt_()
        factor[:, step] = row
        residual = torch.addcmul(residual, row, row, value=-1.0).scatter_(1, pick, 0.0)
        spare.scatter_(1, pick, float("-inf"))
        picks.append(pick)
    return torch.cat(picks, dim=1).sort(dim=1).values


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
