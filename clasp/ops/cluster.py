"""Coverage: which tokens stand for what the chosen ones leave out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clasp.ops.select import cosine_between, take, top_k
from clasp.ops.similarity import HELD, Closeness, Cosines, Pairs, blocks

CUTOFF = 2.0**-20
"""How exactly the cutoff of :func:`density_centres` is found."""
SPAN = 512
"""Tokens that :func:`density_centres` looks at together where the matrix of all pairs is not held."""
LISTED = 16
"""Nearest neighbours that are searched first for a denser token, before all tokens are."""


def density_peaks(cosines: Cosines, among: Tensor, neighbours: int = 5) -> Tensor:
    """Density-peak score (DPC-KNN, Rodriguez & Laio 2014 with the kNN density of Du et al. 2016) of each token.

    Density is exp(-mean squared distance to the ``neighbours`` nearest); the score is density times the distance to the
    nearest denser token (for the densest: the largest distance). Distances are Euclidean between unit vectors, so the
    score does not depend on the tokens' norms.

    Args:
        cosines: of all pairs of (batch, tokens, dim) values.
        among: (batch, tokens) bool, the tokens that take part; the others have no score and add to no density.

    Returns:
        (batch, tokens) float32, non-negative; 0 for tokens that do not take part.
    """
    # the distance falls with the cosine, so that neighbours are found by the latter and only theirs are computed
    outside = torch.zeros_like(among, dtype=torch.float32).masked_fill(~among, float("inf"))[:, None]
    nearest, index, lowest = [], [], torch.full_like(outside[:, 0, :1], float("inf"))
    for rows, block in cosines.blocks():
        furthest = (block + outside).amin(dim=-1).masked_fill(~among[:, rows], float("inf"))
        lowest = torch.minimum(lowest, furthest.amin(dim=1, keepdim=True))
        others = block - outside
        others.diagonal(offset=rows.start, dim1=-2, dim2=-1).fill_(float("-inf"))
        best = others.topk(min(neighbours, cosines.tokens), dim=-1)
        nearest.append(best.values)
        index.append(best.indices)
    near = torch.cat(nearest, dim=1)
    count = (among.sum(dim=1) - 1).clamp(min=1, max=neighbours)

    used = torch.arange(near.shape[-1], device=near.device) < count[:, None, None]
    squares = _chord(near).square().masked_fill(~used | near.isinf(), 0.0).sum(dim=-1) / count[:, None]
    density = torch.exp(-squares).masked_fill(~among, -1.0)

    denser = _closest_denser(cosines, density, near, torch.cat(index, dim=1))
    reach = _chord(torch.where(denser.isinf(), lowest, denser))
    return (density * reach).masked_fill(~among, 0.0)


def density_peak_clusters(values: Tensor, clusters: int, neighbours: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """DPC-KNN clusters as token-merging methods use them: the tokens with the highest scores are centres.

    Every other token joins the nearest centre.

    Args:
        values: (batch, tokens, dim).
        clusters: from 1 to tokens.
        neighbours, noise: as in :func:`density_peak_scores`.

    Returns:
        (batch, clusters) long, the centres by falling score, and (batch, tokens) long, the place of each token's centre
        among them.
    """
    closeness = Closeness(values)
    score = density_peak_scores(closeness, neighbours, noise)
    centres = score.argsort(dim=1, descending=True, stable=True)[:, :clusters]
    members = _closest_of(closeness, centres)
    # a token that equals an earlier centre would join that one and leave its own cluster empty
    places = torch.arange(clusters, device=values.device).expand_as(centres)
    return centres, members.scatter(1, centres, places)


def density_peak_scores(closeness: Closeness, neighbours: int, noise: Tensor) -> Tensor:
    """Density-peak score of each token as token-merging methods use it.

    Density is exp(-mean squared distance to the ``neighbours`` nearest, the token itself among them) plus ``noise``;
    the score is density times the distance to the nearest denser token (for the densest: the largest distance).
    Distances are Euclidean over sqrt(dim), so norms count, unlike in :func:`density_peaks`.

    Args:
        closeness: of all pairs of (batch, tokens, dim) values.
        neighbours: from 1 to tokens.
        noise: (batch, tokens), small; keeps densities distinct.

    Returns:
        (batch, tokens) float32.
    """
    near, index, squares, furthest = [], [], [], []
    for _, block in closeness.blocks():
        best = block.topk(neighbours, dim=-1)
        squares.append(best.values.square().mean(dim=-1))
        furthest.append(block.amin(dim=(1, 2)))
        near.append(best.values[..., :LISTED].clone())
        index.append(best.indices[..., :LISTED].clone())
    density = torch.exp(-torch.cat(squares, dim=1)) + noise
    denser = _closest_denser(closeness, density, torch.cat(near, dim=1), torch.cat(index, dim=1))
    lowest = torch.stack(furthest).amin(dim=0)[:, None]
    return density * -torch.where(denser.isinf(), lowest, denser)


def cluster_means(values: Tensor, members: Tensor, clusters: int) -> Tensor:
    """Mean of each cluster's tokens, summed in float32.

    Args:
        values: (batch, tokens, dim).
        members: (batch, tokens) long, the cluster of each token; those of ``clusters`` or more are of none.

    Returns:
        (batch, clusters, dim) in the type of ``values``; zero where a cluster is empty.
    """
    means = []
    for part in blocks(clusters, members.shape[1]):
        numbers = torch.arange(part.start, part.stop, device=members.device)
        weights = (members[:, None] == numbers[:, None]).float()
        means.append(weights @ values.float() / weights.sum(dim=-1, keepdim=True).clamp(min=1.0))
    return torch.cat(means, dim=1).to(values.dtype)


def density_centres(cosines: Cosines, count: int, breadth: float) -> tuple[Tensor, Tensor]:
    """Centres of distance-bounded density peaks (DBDPC, arXiv 2504.08966), the cutoff being the one that yields them.

    Distance is 1 - cosine, density the sum over all tokens of exp(-(distance / breadth)^2). At a cutoff the centres are
    the tokens, taken by falling density, that are further than it from every centre before them. The cutoff is the
    largest, to within 2^-20, that has ``count`` of them; where fewer than ``count`` tokens differ from one another, the
    densest of the others fill the set up.

    The small problem that is left once densities are known is solved on the CPU. Where the matrix of all pairs is held,
    that is one wait for the device; beyond, one for each :data:`SPAN` tokens that are looked at.

    Args:
        count: from 1 to tokens.
        breadth: d_c of the density, above 0.

    Returns:
        (batch, count) long, ascending, and (batch,) float32, the cutoffs.
    """
    density = torch.cat(
        [torch.exp(-((1.0 - block).clamp(min=0.0) / breadth).square()).sum(dim=-1) for _, block in cosines.blocks()],
        dim=1,
    )
    order = density.argsort(dim=1, descending=True, stable=True)
    found, cutoffs = [], []
    for ranked in _ranked(cosines, order):
        low, high = 0.0, 2.0
        picks = ranked.apart(low, count)
        while high - low > CUTOFF and len(picks) == count:
            middle = (low + high) / 2
            tried = ranked.apart(middle, count)
            if len(tried) == count:
                low, picks = middle, tried
            else:
                high = middle
        taken = set(picks)
        picks += [rank for rank in range(cosines.tokens) if rank not in taken][: count - len(picks)]
        found.append(picks)
        cutoffs.append(low)
    device = order.device
    index = order.gather(1, torch.tensor(found).to(device, non_blocking=True)).sort(dim=1).values
    return index, torch.tensor(cutoffs).to(device, non_blocking=True)


@dataclass(frozen=True)
class _Ranked:
    """Distances, 1 - cosine, of one row's tokens in an order.

    Args:
        spans: consecutive parts of the order.
        own: of each span, the distances among its tokens, numpy.
        unit: (tokens, dim) of length one in that order, from which those between spans are computed; read where there
            are several.
    """

    spans: Sequence[slice]
    own: Sequence[Any]
    unit: Tensor

    def apart(self, cutoff: float, most: int) -> list[int]:
        """Up to ``most`` tokens, in the order, of which no later one is within ``cutoff`` of an earlier one."""
        picks: list[int] = []
        for span, own in zip(self.spans, self.own, strict=True):
            free = self._distance(span, picks) > cutoff if picks else np.ones(len(own), dtype=bool)
            while len(picks) < most:
                rank = int(free.argmax())
                if not free[rank]:
                    break
                picks.append(span.start + rank)
                free &= own[rank] > cutoff
                free[rank] = False
        return picks

    def _distance(self, span: slice, picks: list[int]) -> Any:
        """(tokens of the span,) numpy, to the nearest of the picks."""
        return (1.0 - (self.unit[span] @ self.unit[picks].T).amax(dim=1)).detach().cpu().numpy()


def _ranked(cosines: Cosines, order: Tensor) -> Iterator[_Ranked]:
    """Of each row, its tokens in (batch, tokens) long ``order``."""
    if cosines.tokens <= HELD:
        held = cosines.rows(order).gather(2, order[:, None].expand(-1, cosines.tokens, -1))
        for own in (1.0 - held).detach().cpu().numpy():
            yield _Ranked([slice(0, cosines.tokens)], [own], cosines.unit[0])
        return
    spans = list(blocks(cosines.tokens, 1, SPAN))
    for unit in take(cosines.unit, order):
        among = [(1.0 - unit[span] @ unit[span].T).detach().cpu().numpy() for span in spans]
        yield _Ranked(spans, among, unit)


def farthest_point(
    values: Tensor, cosines: Cosines, chosen: Tensor, keep: int, sizes: tuple[int, int] | None = None
) -> Tensor:
    """Greedy k-center: adds, one by one, the token with the lowest maximal cosine similarity to those chosen so far.

    Gonzalez' algorithm, hence within a factor of two of the best covering radius. With nothing chosen, the first is the
    token that is least similar to the mean token.

    Args:
        values: (batch, tokens, dim).
        cosines: of all pairs of ``values``.
        chosen: (batch, tokens) bool, the starting set; it may differ in size between batch entries.
        keep: size that every set has in the end; at least the largest starting set.
        sizes: of the smallest and the largest starting set, where known; else looked up, which waits for the device.

    Returns:
        (batch, tokens) bool with exactly ``keep`` True per batch entry.
    """
    taken = chosen.clone()
    missing = keep - taken.sum(dim=1, keepdim=True)
    least, most = (keep - int(missing.max()), keep - int(missing.min())) if sizes is None else sizes
    empty = ~taken.any(dim=1, keepdim=True)
    covered = coverage(values, cosines, taken, most).masked_fill(taken, float("inf"))
    for step in range(keep - least):
        pick = covered.argmin(dim=1, keepdim=True)
        taken.scatter_(1, pick, (missing > step) | taken.gather(1, pick))
        reach = cosines.rows(pick).squeeze(1)
        covered = torch.maximum(covered, reach) if step else torch.where(empty, reach, torch.maximum(covered, reach))
        covered.scatter_(1, pick, float("inf"))
    return taken


def similarity_to(cosines: Cosines, chosen: Tensor, most: int | None = None) -> Tensor:
    """Highest cosine similarity of each token to the chosen set; -1 where the set is empty.

    Args:
        cosines: of all pairs.
        chosen: (batch, tokens) bool.
        most: no set is larger, where that is known; else it is looked up, which waits for the device.

    Returns:
        (batch, tokens) float32 in [-1, 1].
    """
    # rows of the chosen rather than columns of all: fewer, and each in one piece of memory
    most = int(chosen.sum(dim=1).max()) if most is None else most
    index = top_k(chosen.int(), max(1, most))
    real = chosen.gather(1, index)[..., None]
    highest = torch.full(chosen.shape, -1.0, device=chosen.device)
    for part in blocks(index.shape[1], cosines.tokens):
        rows = cosines.rows(index[:, part]).masked_fill(~real[:, part], -1.0)
        highest = torch.maximum(highest, rows.amax(dim=1))
    return highest


def coverage(values: Tensor, cosines: Cosines, chosen: Tensor, most: int | None = None) -> Tensor:
    """As :func:`similarity_to`, but where the set is empty, the cosine similarity of each token to the mean token.

    Args:
        values: (batch, tokens, dim).
        cosines: of all pairs of ``values``.
        chosen: (batch, tokens) bool.
        most: as there.

    Returns:
        (batch, tokens) float32 in [-1, 1].
    """
    mean = values.float().mean(dim=1, keepdim=True)
    centre = cosine_between(values, mean).squeeze(2)
    return torch.where(chosen.any(dim=1, keepdim=True), similarity_to(cosines, chosen, most), centre)


def _chord(similarity: Tensor) -> Tensor:
    """Euclidean distance of unit vectors with that cosine similarity."""
    return (2.0 - 2.0 * similarity).clamp(min=0.0).sqrt()


def _closest_denser(pairs: Pairs, density: Tensor, near: Tensor, index: Tensor) -> Tensor:
    """Closeness of each token to the closest denser one; -inf for the densest.

    Equal densities are ordered by index, so that of two identical tokens one is the peak and the other is not.

    Args:
        pairs: closeness, higher for closer.
        density: (batch, tokens).
        near: (batch, tokens, k) closeness of each token to the k closest ones, by which the density was found.
        index: (batch, tokens, k) long, which these are.

    Returns:
        (batch, tokens).
    """
    rank = density.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    denser = (rank[:, None].expand(-1, pairs.tokens, -1).gather(2, index) < rank[..., None]) & ~near.isinf()
    closest = near.masked_fill(~denser, float("-inf")).amax(dim=-1)
    # a denser token among the k closest is the closest denser one; only the few without look at all others
    alone = ~denser.any(dim=-1)
    few = pairs.tokens if alone.is_cuda else int(alone.sum(dim=1).max())  # to count them is to wait for the device
    rows = top_k(alone.int(), few)
    for part in blocks(rows.shape[1], pairs.tokens):
        some = rows[:, part]
        others = pairs.rows(some).masked_fill(rank[:, None] >= rank.gather(1, some)[..., None], float("-inf"))
        closest = closest.scatter(1, some, torch.maximum(others.amax(dim=-1), closest.gather(1, some)))
    return closest


def _closest_of(closeness: Pairs, centres: Tensor) -> Tensor:
    """(batch, clusters) long -> (batch, tokens) long, the place among ``centres`` of each token's closest one."""
    members = centres.new_zeros(len(centres), closeness.tokens)
    highest = torch.full(members.shape, float("-inf"), device=centres.device)
    for part in blocks(centres.shape[1], closeness.tokens):
        best = closeness.rows(centres[:, part]).max(dim=1)
        members = torch.where(best.values > highest, best.indices + part.start, members)
        highest = torch.maximum(highest, best.values)
    return members
