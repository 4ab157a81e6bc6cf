"""Groups of tokens: by principal components, by the nearest of some, by runs; and what of a group stays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from clasp.ops.select import take
from clasp.ops.similarity import HELD, Cosines, blocks

ITERATIONS = 2
"""Rounds of power iteration, as in torch.pca_lowrank."""
SPANNED = 1e-5
"""Share of the largest singular value below which a component is rounding noise in float32."""


def principal_groups(values: Tensor, groups: int, seeds: Sequence[int]) -> Tensor:
    """The principal component that each token loads on most, by absolute value.

    Components are those of the tokens as variables and the channels as samples: of (dim, tokens) with each token's
    mean over its channels taken off. They are found as in torch.pca_lowrank, from a random start (Halko et al. 2011,
    algorithm 4.4), but with a seed, and with ten more directions than are asked for, so that the start matters less.

    The small problem that is left is solved on the CPU: one wait for the device.

    Args:
        values: (batch, tokens, dim).
        groups: components, at least 1; no more are made than the tokens span.
        seeds: one per batch entry, for the random start.

    Returns:
        (batch, tokens) long on the CPU, each below ``groups``; not every number need occur.
    """
    centred = values.float() - values.float().mean(dim=2, keepdim=True)
    tokens, dim = centred.shape[1:]
    wide = min(groups + 10, tokens, dim)
    draws = [torch.randn(tokens, wide, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    start = torch.stack(draws).to(centred.device, non_blocking=True)
    basis = torch.linalg.qr(centred.transpose(1, 2) @ start).Q  # (batch, dim, wide)
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(centred.transpose(1, 2) @ torch.linalg.qr(centred @ basis).Q).Q
    loads = (centred @ basis).cpu().double()  # (batch, tokens, wide): V diag(s) W^T of the singular values s
    directions, strengths, _ = torch.linalg.svd(loads, full_matrices=False)
    spanned = strengths > SPANNED * strengths[:, :1]
    return (directions.abs() * spanned[:, None])[..., :groups].argmax(dim=2)


def suppress(cosines: Cosines, group: Tensor, sizes: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
    """Non-maximum suppression: in each group the best token that is left is kept, and those like it are left out.

    Where the matrix of all pairs is held, rounds update all tokens at once until nothing changes (Cluster-NMS, Zheng et
    al. 2022). For more tokens, a round takes one token of each group.

    Args:
        cosines: of all pairs of tokens.
        group: (batch, tokens) long, each below the number of groups.
        sizes: (batch, groups) long on the CPU, tokens of each group.
        scores: (batch, tokens); ties go to the lower index.
        threshold: (batch,); tokens of the group whose cosine to a kept one is higher are left out.

    Returns:
        (batch, tokens) bool, the kept.
    """
    tokens, device = cosines.tokens, scores.device
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    if tokens <= HELD:
        return _suppress_at_once(cosines, group, int(sizes.max()), rank, threshold)
    left = torch.ones_like(scores, dtype=torch.bool)
    kept = torch.zeros(len(scores), tokens + 1, dtype=torch.bool, device=device)  # the last: of groups without any left
    no_token = torch.full(sizes.shape, tokens, device=device)
    for _ in range(int(sizes.max())):  # a round takes one token of each group that has any left
        if not left.is_cuda and not bool(left.any()):
            break
        best = no_token.scatter_reduce(1, group, rank.masked_fill(~left, tokens), "amin")
        pick = order.gather(1, best.clamp(max=tokens - 1))
        kept.scatter_(1, pick.masked_fill(best == tokens, tokens), True)
        alike = cosines.rows(pick).gather(1, group[:, None]).squeeze(1) > threshold[:, None]
        left = left & ~alike & (rank != best.gather(1, group))
    return kept[:, :-1]


def _suppress_at_once(cosines: Cosines, group: Tensor, rounds: int, rank: Tensor, threshold: Tensor) -> Tensor:
    """:func:`suppress` in as many rounds as the largest group has tokens, or until one changes nothing.

    Args:
        rank: (batch, tokens) long, 0 for the best.
    """
    beats = torch.cat([block > threshold[:, None, None] for _, block in cosines.blocks()], dim=1)
    beats &= (group[:, :, None] == group[:, None]) & (rank[:, :, None] < rank[:, None])
    above, kept = beats.float(), torch.ones(rank.shape, device=rank.device)
    for _ in range(rounds):
        before, kept = kept, ((kept[:, None] @ above).squeeze(1) == 0).float()
        if not kept.is_cuda and torch.equal(before, kept):
            break
    return kept.bool()


def mean_cosine(cosines: Cosines) -> Tensor:
    """(batch,) mean cosine of all pairs of different tokens; zero where there is one token."""
    unit, tokens = cosines.unit, cosines.tokens
    # the squared length of the sum holds every ordered pair, and each token with itself
    pairs = unit.sum(dim=1).square().sum(dim=1) - unit.square().sum(dim=(1, 2))
    return pairs / max(1, tokens * (tokens - 1))


def within(group: Tensor, sizes: Tensor, order: Tensor) -> Tensor:
    """(batch, tokens) long: the place of each token among those of its group.

    Args:
        group: (batch, tokens) long.
        sizes: (batch, groups) long, tokens of each.
        order: (batch, tokens) long, all tokens in the order in which places are given.
    """
    sorting = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))  # by group, then by the given order
    starts = sizes.cumsum(dim=1) - sizes
    return sorting.argsort(dim=1) - starts.gather(1, group)


def nearest_of(values: Tensor, chosen: Tensor) -> Tensor:
    """(batch, tokens) long: the place, among the chosen, of the one with the highest cosine to each token; a chosen one
    is its own, and of equals the lower place is taken.

    Args:
        values: (batch, tokens, dim).
        chosen: (batch, k) long, distinct.
    """
    unit = normalize(values.float(), dim=-1)
    centres = take(unit, chosen).transpose(-1, -2)
    parts = blocks(values.shape[1], chosen.shape[1])
    nearest = torch.cat([(unit[:, part] @ centres).argmax(dim=-1) for part in parts], dim=1)
    places = torch.arange(chosen.shape[1], device=values.device)
    return nearest.scatter(1, chosen, places.expand_as(chosen))


def run_means(values: Tensor, joins: Tensor, longest: int) -> Tensor:
    """Mean of each run of tokens, in float32, at its first token; the other entries are of no use.

    Args:
        values: (batch, tokens, dim).
        joins: (batch, tokens) bool, whether a token belongs to the run of the one before it.
        longest: no run has more tokens.

    Returns:
        (batch, tokens, dim) float32.
    """
    run = (~joins).long().cumsum(dim=1)
    sums, sizes = values.float(), torch.ones_like(run)
    step = 1
    while step < longest:  # an entry sums up to ``step`` tokens from itself on, those of its run alone
        same = run[:, step:] == run[:, :-step]
        sums = sums + pad(sums[:, step:] * same[..., None], (0, 0, 0, step))
        sizes = sizes + pad(sizes[:, step:] * same, (0, step))
        step *= 2
    return sums / sizes[..., None]


def halved_into(values: Tensor, chosen: Tensor) -> Tensor:
    """Merges every other token, in order, into the chosen token of highest cosine to it. Each merge takes the mean of
    the two, so that the last token merged has half of the weight.

    Args:
        values: (batch, tokens, dim).
        chosen: (batch, k) long, distinct and ascending.

    Returns:
        (batch, k, dim) float32.
    """
    count = chosen.shape[1]
    group = nearest_of(values, chosen)
    stays = torch.zeros_like(group, dtype=torch.bool).scatter(1, chosen, True)
    # by falling place within a group, the chosen token last: it was there before all others
    order = torch.arange(values.shape[1] - 1, -1, -1, device=values.device).expand_as(group)
    order = order.gather(1, stays.gather(1, order).int().argsort(dim=1, stable=True))
    sizes = torch.zeros_like(chosen).scatter_add(1, group, torch.ones_like(group))
    later = within(group, sizes, order)
    weight = torch.exp2(-(later + 1 - stays.long()).float())
    means = []
    for part in blocks(count, values.shape[1]):
        numbers = torch.arange(part.start, part.stop, device=values.device)
        means.append((group[:, None] == numbers[:, None]) * weight[:, None] @ values.float())
    return torch.cat(means, dim=1)
