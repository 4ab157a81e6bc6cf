"""Which tokens are merged into which others, and index sets of unequal size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clasp.ops.select import argmax, take, top_k
from clasp.ops.similarity import Cosines, blocks, nearest

LISTED = 32
"""Nearest neighbours of each token that are searched first, before all tokens are."""
EPSILON = 1e-12
"""Least length by which a token is divided, so that one of zeros has cosine 0 to everything."""


def merge_most_similar(values: Tensor, counts: Sequence[int], real: Tensor | None = None) -> Tensor:
    """One step of bipartite soft matching (Bolya et al. 2022): the ``counts[b]`` most similar pairs become one token.

    Tokens 0, 2, ... are one side, tokens 1, 3, ... the other; a pair is a token of the first side and the one of the
    second with the highest cosine to it, the lower index of equal ones.

    Args:
        values: (batch, tokens, dim).
        counts: one a row, non-negative; at most every token of the first side is merged.
        real: (batch, tokens) bool, False at padding, which is on the right; None: no padding.

    Returns:
        (batch, tokens) long: what each token is merged into, itself where it stays; that one always stays.
    """
    itself = torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
    most = min(max(counts), (values.shape[1] + 1) // 2)
    if most == 0 or values.shape[1] < 2:
        return itself
    values = values.float()
    unit = values / values.norm(dim=-1, keepdim=True).clamp_(min=EPSILON)
    first, second = unit[:, ::2], unit[:, 1::2].transpose(-1, -2)
    order, partner, alike = _closest_pairs(first, second, most, real)
    partner, order = partner.mul_(2).add_(1), 2 * order
    if real is not None or min(counts) < most:
        ranks = torch.arange(most, device=values.device)
        pairs = ranks < torch.tensor(counts, device=values.device)[:, None]
        if real is not None:
            pairs &= real.gather(1, order) & (alike > float("-inf"))
        partner = torch.where(pairs, partner, order)
    return itself.scatter(1, order, partner)


def _closest_pairs(first: Tensor, second: Tensor, most: int, real: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, most) each: the tokens of the first side with the highest cosine to any of the second,
    the index of that one, and the cosine.

    Args:
        first: (batch, m, dim) unit vectors.
        second: (batch, dim, n) unit vectors.
        real: (batch, m + n) bool, False at padding.
    """
    absent = None if real is None else torch.zeros(real.shape, device=real.device).masked_fill_(~real, float("-inf"))
    highest, partners = [], []
    for part in blocks(first.shape[1], second.shape[2]):
        cosines = first[:, part] @ second
        if absent is not None:
            cosines = cosines.add_(absent[:, None, 1::2])
        partner = argmax(cosines)
        partners.append(partner)
        highest.append(cosines.gather(2, partner[..., None])[..., 0])
    similarity, partner = (torch.cat(part, dim=1) if len(part) > 1 else part[0] for part in (highest, partners))
    if absent is not None:
        similarity = similarity + absent[:, ::2]
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, partner.gather(1, order), similarity.gather(1, order)


def thin(values: Tensor, keep: int, step: int) -> Tensor:
    """Drops near-duplicates in rounds of bipartite matching until ``keep`` tokens are left.

    Each round drops the ``step`` tokens of the first side that are most similar to their partners. The next round sees
    the rest of the first side by falling similarity, then the second side.

    Args:
        values: (batch, tokens, dim); their order decides the sides of the first round.
        keep: 0 to tokens.
        step: at least 1.

    Returns:
        (batch, keep) long, not in order.
    """
    left = torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
    if keep == 0:
        return left[:, :0]
    partners = _Partners(values, left)
    while left.shape[1] > keep:
        drop = min(step, left.shape[1] - keep, left.shape[1] // 2)
        first, second = left[:, ::2], left[:, 1::2]
        order = partners.closest(first, second).argsort(dim=1, descending=True, stable=True)
        left = torch.cat([first.gather(1, order[:, drop:]), second], dim=1)
        if 2 * left.shape[1] < partners.tokens and left.shape[1] > keep:
            partners = _Partners(values, left)
    return left


class _Partners:
    """The closest of some tokens to others, from lists of each one's neighbours.

    Args:
        values: (batch, tokens, dim).
        among: (batch, m) long, the tokens that are listed.
    """

    def __init__(self, values: Tensor, among: Tensor) -> None:
        self.tokens = among.shape[1]
        self._cosines = Cosines(take(values, among))
        self._near, index = nearest(self._cosines, min(LISTED, self.tokens))
        self._listed = index.flatten(1)
        places = torch.arange(self.tokens, device=among.device).expand_as(among)
        self._place = torch.zeros(values.shape[:2], dtype=torch.long, device=among.device).scatter(1, among, places)

    def closest(self, first: Tensor, second: Tensor) -> Tensor:
        """(batch, k), (batch, n) long, listed tokens -> (batch, k) highest cosine of each first to any second one."""
        first, second = self._place.gather(1, first), self._place.gather(1, second)
        # zero at partners and -inf elsewhere, to be added to cosines
        absent = torch.full_like(self._near[..., 0], float("-inf")).scatter_(1, second, 0.0)
        listed = (self._near + absent.gather(1, self._listed).view_as(self._near)).amax(dim=-1)
        return self._of_all(listed.gather(1, first), first, absent)

    def _of_all(self, best: Tensor, first: Tensor, absent: Tensor) -> Tensor:
        """``best`` with those that have no partner in their list looked up among all."""
        if not best.is_cuda and float(best.detach().amin()) > float("-inf"):
            return best
        alone = best.isinf()
        few = first.shape[1] if best.is_cuda else int(alone.sum(dim=1).max())  # to count them is to wait for the device
        rows = top_k(alone.int(), few)
        for part in blocks(few, self.tokens):
            some = rows[:, part]
            found = (self._cosines.rows(first.gather(1, some)) + absent[:, None]).amax(dim=-1)
            best = best.scatter(1, some, torch.maximum(found, best.gather(1, some)))
        return best


def merge_windows(
    values: Tensor, real: Tensor, places: Tensor, grid: tuple[int, int], side: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """Merges each square window of the grid whose tokens are alike into the window's first token.

    Args:
        values: (batch, tokens, dim).
        real: (batch, tokens) bool; the others belong to no window.
        places: (batch, tokens) long, row-major places in ``grid`` (rows, columns).
        side: of a window, in tokens; windows at the lower and right edge may be smaller.
        threshold: lowest mean cosine, over the window's pairs of distinct tokens, at which it is merged.

    Returns:
        (batch, tokens) long: what each token is merged into, itself where it stays; and (batch, tokens) float32: that
        mean cosine of its window where it is merged, else -inf.
    """
    rows, columns = grid
    across = -(-columns // side)
    window = places // columns // side * across + places % columns // side
    unit = normalize(values.float(), dim=-1)
    lengths = unit.square().sum(dim=-1, keepdim=True)
    itself = torch.arange(real.shape[1], device=values.device).expand_as(places)
    alike, first = [], []
    for part in blocks(-(-rows // side) * across, real.shape[1]):
        numbers = torch.arange(part.start, part.stop, device=values.device)
        member = (window[:, None] == numbers[:, None]) & real[:, None]
        weight = member.float()
        # the cosines of all ordered pairs, each token's with itself included, add up to the squared length of the sum
        total = (weight @ unit).square().sum(dim=-1) - (weight @ lengths).squeeze(-1)
        count = weight.sum(dim=-1)
        mean = total / (count * (count - 1)).clamp(min=1.0)
        alike.append(mean.masked_fill((count < 2) | (mean < threshold), float("-inf")))
        first.append(torch.where(member, itself[:, None], real.shape[1]).amin(dim=-1))
    similarity = torch.cat(alike, dim=1).gather(1, window).masked_fill(~real, float("-inf"))
    merged = torch.where(similarity > float("-inf"), torch.cat(first, dim=1).gather(1, window), itself)
    return merged, similarity


def absorb(features: Tensor, keys: Tensor, weights: Tensor, index: Tensor, neighbours: int) -> Tensor:
    """Adds to each indexed token the weighted sum of its nearest other tokens.

    Args:
        features: (batch, tokens, dim).
        keys: (batch, tokens, key_dim); nearest by their cosine, ties to the lower index.
        weights: (batch, tokens) of the tokens that are added.
        index: (batch, k) long.
        neighbours: how many are added; all others where there are fewer.

    Returns:
        (batch, k, dim) in the dtype of ``features``.
    """
    unit = normalize(keys.float(), dim=-1)
    count = min(neighbours, features.shape[1] - 1)
    added = []
    for part in blocks(index.shape[1], features.shape[1]):
        some = index[:, part]
        similarity = take(unit, some) @ unit.transpose(-1, -2)
        similarity = similarity.scatter_(-1, some[..., None], float("-inf"))
        nearest = similarity.argsort(dim=-1, descending=True, stable=True)[..., :count]
        near = torch.zeros_like(similarity).scatter_(-1, nearest, 1.0)
        added.append((near * weights.float()[:, None]) @ features.float())
    return (take(features, index).float() + torch.cat(added, dim=1)).to(features.dtype)


def ragged_index(kept: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Sets of unequal size as one index tensor.

    Args:
        kept: (batch, tokens) bool; of a set with more than ``width`` members the first ones are taken.
        width: at most tokens.

    Returns:
        (batch, width) long, ascending, filled up with tokens that are not in the set, and (batch, width) bool which
        entries are in it.
    """
    index = top_k(kept.int(), width)
    return index, kept.gather(1, index)
