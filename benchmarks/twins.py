"""Selection rules reimplemented after their authors' code, as references for the speed of our ops.

A twin serves only to measure the ratio of its time to the op's time in one process; above 1 the op is faster. Both give
the same result for inputs without ties.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bipartite_matching(metric: Tensor, merged: int) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe's matching: even tokens that stay, even tokens that merge, and the odd tokens that these merge into.

    Args:
        metric: (batch, tokens, dim).
    """
    unit = metric / metric.norm(dim=-1, keepdim=True)
    best, whose = (unit[:, ::2] @ unit[:, 1::2].transpose(-1, -2)).max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    source = order[:, :merged]
    return order[:, merged:], source, whose.gather(1, source)


def top_tokens(scores: Tensor, values: Tensor, keep: int) -> Tensor:
    """Selection in FastV and later methods: sorted indices of the highest scores, and the hidden states there.

    Args:
        scores: (1, tokens).
        values: (1, tokens, dim).
    """
    index = torch.topk(scores[0], keep).indices.sort().values
    return values[:, index]


def greedy_coverage(features: Tensor, saliency: Tensor, keep: int) -> Tensor:
    """SCOPE's greedy loop, which processes all pairs in each step.

    Args:
        features: (1, tokens, dim).
        saliency: (1, tokens).
    """
    unit = torch.nn.functional.normalize(features[0], dim=-1)
    similarity = unit @ unit.T
    covered = torch.zeros_like(similarity[0])
    taken: list[Tensor] = []
    left = saliency[0].clone()
    for _ in range(keep):
        gains = left * (similarity - covered[:, None]).clamp(min=0).sum(dim=0)
        pick = gains.argmax()
        covered = torch.maximum(covered, similarity[:, pick])
        left[pick] = 0.0
        taken.append(pick)
    return torch.stack(taken).sort().values[None]


def farthest_tokens(values: Tensor, keep: int) -> Tensor:
    """DivPrune's loop over rows of the distance matrix.

    Args:
        values: (1, tokens, dim).
    """
    unit = values[0] / values[0].norm(dim=-1, keepdim=True)
    distance = 1.0 - unit @ unit.T
    first = (distance + torch.eye(len(distance), device=values.device) * 4).amin(dim=1).argmax()
    taken, nearest = [first], distance[first].clone()
    for _ in range(keep - 1):
        nearest[taken[-1]] = -1.0
        pick = nearest.argmax()
        nearest = torch.minimum(nearest, distance[pick])
        taken.append(pick)
    return torch.stack(taken).sort().values[None]
