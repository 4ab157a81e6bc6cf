"""PruneSID: groups of tokens by principal component, and the important, distinct ones of each.

Fang et al., "Synergistic Intra- and Inter-Group Redundancy Reduction for Visual Tokens", arXiv 2603.09480. Before the
decoder: a token's group is the one of the floor(T/4) principal components of sigmoid(ViT features) that it loads on
most. With s the attention of CLS in the ViT layer whose output the projector reads, non-maximum suppression keeps, in
each group, the tokens of largest s, less those whose cosine to a kept one exceeds (T/32) times the mean cosine of all
pairs. Groups share T by how many are kept in them, and take those first, then others of large s. CLS itself is one of
the T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.budget import Accounting
from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.ops.grouping import mean_cosine, principal_groups, suppress, within
from clasp.ops.select import top_k
from clasp.ops.similarity import Cosines

GROUP_TOKENS = 4
"""Tokens of the budget for each group."""
REFERENCE = 32
"""Budget at which the threshold is the mean cosine of all pairs."""
MOST, MOST_BUDGET = 5, 64
"""A group takes at most :data:`MOST` tokens for each :data:`MOST_BUDGET` of the budget, rounded up, unless all groups
together could not meet the budget then."""


@dataclass(frozen=True, kw_only=True)
class PruneSID(Method):
    """PruneSID (arXiv 2603.09480).

    Args:
        with_cls: count the CLS token among those kept and hand it to the decoder, as the official code does. It takes
            the place of the first visual token that is not kept otherwise.
    """

    name: ClassVar[str] = "prunesid"
    paper: ClassVar[str] = "2603.09480"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "PruneSID's components start from ten more random directions than its code's, seeded by the image",
        "PruneSID's kept tokens stay in raster order, CLS in the first free place; its code orders them by group",
        "PruneSID's budget is split over the crops of an image in proportion to their tokens",
        "PruneSID's suppression keeps every token, each once, where the threshold is above 1, which no cosine exceeds",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    with_cls: bool = True

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1, feature_layer)

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        features, scores = vision.hidden_state(vision.feature_layer), vision.attention(vision.feature_layer - 1)
        patches = keep - int(self.with_cls and vision.has_cls and keep > 1)
        count = max(1, keep // GROUP_TOKENS)
        found = principal_groups(features.float().sigmoid(), count, state.seeds())
        held = torch.zeros(len(found), count, dtype=torch.long).scatter_add(1, found, torch.ones_like(found))
        group, sizes = (part.to(scores.device, non_blocking=True) for part in (found, held))

        cosines = Cosines(features)
        distinct = suppress(cosines, group, held, scores, keep / REFERENCE * mean_cosine(cosines))
        quotas = shares(torch.zeros_like(sizes).scatter_add(1, group, distinct.long()), sizes, keep, patches)
        falling = scores.argsort(dim=1, descending=True, stable=True)
        order = falling.gather(1, (~distinct).int().gather(1, falling).argsort(dim=1, stable=True))
        chosen = within(group, sizes, order) < quotas.gather(1, group)
        if patches == keep:
            return Selection(top_k(chosen.int(), keep))
        slot = chosen.int().argmin(dim=1, keepdim=True)
        index = top_k(chosen.scatter(1, slot, True).int(), keep)
        cls = vision.project(vision.cls_state(vision.feature_layer)[:, None])
        return Selection(index, cls.expand(-1, keep, -1), replaced=index == slot, pivots=index != slot)


def shares(distinct: Tensor, sizes: Tensor, budget: int, patches: int) -> Tensor:
    """How many tokens each group keeps: in proportion to its distinct ones, at least one, within bounds.

    Args:
        distinct: (rows, groups) long, tokens that suppression kept, at least one where the group has any.
        sizes: (rows, groups) long, tokens in all.
        budget: T, which the bounds depend on; at most all tokens.
        patches: what the quotas add up to: T, or T - 1 with CLS.

    Returns:
        (rows, groups) long.
    """
    least = sizes.clamp(max=1)
    most = torch.minimum(distinct, sizes).clamp(max=MOST * math.ceil(budget / MOST_BUDGET))
    # every bound rises by one until together they leave room for the budget
    raised = torch.minimum(most[..., None] + torch.arange(budget + 1, device=sizes.device), sizes[..., None])
    level = (raised.sum(dim=1) >= budget).int().argmax(dim=1)
    most = raised.gather(2, level[:, None, None].expand(-1, sizes.shape[1], 1)).squeeze(2)

    spare = patches - least.sum(dim=1, keepdim=True)
    upto = (distinct.cumsum(dim=1).double() / distinct.sum(dim=1, keepdim=True) * spare).round().long()
    quotas = torch.minimum(least + upto.diff(dim=1, prepend=torch.zeros_like(spare)), most)
    order = distinct.argsort(dim=1, descending=True, stable=True)
    room = (most - quotas).gather(1, order)
    before = room.cumsum(dim=1) - room
    missing = patches - quotas.sum(dim=1, keepdim=True)
    return quotas.scatter_add(1, order, torch.minimum((missing - before).clamp(min=0), room))
