"""Groups of tokens: by principal components, by the nearest of some, by runs; and what of a group stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from clasp.ops.select import take
from clasp.ops.similarity import Cosines, blocks

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

    Only pairs of one group are compared. Groups of like size are computed together, large ones in parts. A part is
    computed in rounds until nothing changes: whether a token stays is settled once it is settled for all better ones
    (Zheng et al. 2022, Cluster-NMS).

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
    falling = scores.argsort(dim=1, descending=True, stable=True)
    sorting = falling.gather(1, group.gather(1, falling).argsort(dim=1, stable=True))  # by group, the best first
    starts = sizes.cumsum(dim=1) - sizes
    kept = torch.zeros(len(scores), tokens + 1, dtype=torch.bool, device=device)  # the last: of padding
    for rows, groups in _alike_in_size(sizes):
        held = sizes[rows, groups]
        place = torch.arange(int(held.max()))
        real = place < held[:, None]
        within = (starts[rows, groups][:, None] + place).where(real, 0)
        rows, within, real = (part.to(device, non_blocking=True) for part in (rows, within, real))
        index = sorting[rows[:, None], within]
        stays = _suppress_in_order(cosines.unit[rows[:, None], index], real, threshold[rows])
        kept[rows[:, None], index.masked_fill(~real, tokens)] = stays
    return kept[:, :-1]


def _alike_in_size(sizes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(batch, groups) long on the CPU -> row and number of all groups that have tokens, those together whose sizes are
    within a factor of two, as many as fit into a block."""
    rows, groups = sizes.nonzero(as_tuple=True)
    scale = torch.log2(sizes[rows, groups].double()).floor().long()
    for level in scale.unique().tolist():
        some = (scale == level).nonzero().squeeze(1)
        for part in blocks(len(some), int(sizes[rows[some], groups[some]].max()) ** 2):
            yield rows[some[part]], groups[some[part]]


def _suppress_in_order(unit: Tensor, real: Tensor, threshold: Tensor) -> Tensor:
    """(groups, tokens) bool, which of the tokens stay, the best first.

    Args:
        unit: (groups, tokens, dim) of length one.
        real: (groups, tokens) bool; the others are padding, behind the real ones.
        threshold: (groups,).
    """
    kept = torch.zeros_like(real)
    for part in blocks(real.shape[1], real.numel()):
        alike = unit[:, part] @ unit[:, : part.stop].transpose(-1, -2) > threshold[:, None, None]
        free = real[:, part] & ~(alike[..., : part.start] & kept[:, None, : part.start]).any(dim=-1)
        above, stays = alike[..., part.start :].tril(-1).float(), free
        for _ in range(free.shape[1]):
            before, stays = stays, free & ((above @ stays.float()[..., None]).squeeze(2) == 0)
            if not stays.is_cuda and torch.equal(before, stays):
                break
        kept[:, part] = stays
    return kept


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
