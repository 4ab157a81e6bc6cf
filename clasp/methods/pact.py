"""PACT: the less important visual tokens are dropped, the others merged in clusters, at one layer of the decoder.

Dhouib et al., "PACT: Pruning and Clustering-Based Token Reduction for Faster Visual Language Models", arXiv 2504.08966.
At the input of decoder layer 4 of 28. (1) Of q the mean query, before rotation, of all tokens up to the last visual
one, a token's score is softmax(q . k) over these, mean over heads, times |h|; the best 55 % stay. (2) By distance 1 -
cosine of rotated keys, heads concatenated, they are clustered around density peaks further than a cutoff apart. (3) All
tokens, the dropped ones included, within 1.5 times the cutoff of their nearest centre join it, and it becomes their
mean, at its own position. (4) In this and all later layers, and in decoding, the logarithm of a cluster's size is added
to the logits of attention to its token. No attention map is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clasp.methods.one_layer import OneLayer
from clasp.methods.protocols import Decoder, Selection, State
from clasp.ops.attention import masked_mean
from clasp.ops.cluster import cluster_means, density_centres
from clasp.ops.grouping import nearest_of
from clasp.ops.select import take, top_k
from clasp.ops.similarity import Cosines

BREADTH = 2.0
"""d_c of the density, official code."""


@dataclass(frozen=True, kw_only=True)
class PACT(OneLayer):
    """PACT (arXiv 2504.08966).

    Args:
        layer: the first decoder layer that computes on the reduced set; None: 4 of 28 layers, moved to the same
            relative depth of other decoders.
        important: share of the tokens that is clustered, in (0, 1], or the budget where that is more; the paper's 0.55.
        reach: how many times the cutoff a token may be from its centre, at least 1; the paper's 1.5.
        proportional: add the logarithm of the clusters' sizes to attention, which flash attention does not take.
    """

    name: ClassVar[str] = "pact"
    paper: ClassVar[str] = "2504.08966"
    inside: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "PACT's layer 4 of 28 scales with the decoder's depth",
        "PACT's cutoff is the one that yields the budget; its code's is fixed, 0.21, and the count follows from it",
        "PACT's densities that are equal are ordered by place",
    )
    published_layer: ClassVar[int] = 4
    published_depth: ClassVar[int] = 28  # of LLaVA-OneVision-7B, which the official settings are for
    important: float = 0.55
    reach: float = 1.5
    proportional: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.important <= 1.0:
            raise ValueError(f"important={self.important} is outside (0, 1]; it is a share of the visual tokens")
        if self.reach < 1.0:
            raise ValueError(f"reach={self.reach} is below 1; clusters reach at least as far as the cutoff")

    def weighs(self) -> bool:
        return self.proportional

    def select(self, state: State, keep: int) -> Selection:
        tokens, layer = state.tokens(), state.decoder()
        scores = importance(layer) * tokens.float().norm(dim=2)
        best = top_k(scores, max(keep, int(self.important * state.visual_tokens)))
        keys = layer.heads("k").float().transpose(1, 2).flatten(2)
        centres, cutoff = density_centres(Cosines(take(keys, best)), keep, BREADTH)
        index = best.gather(1, centres)

        unit, nearest = normalize(keys, dim=-1), nearest_of(keys, index)
        distance = 1.0 - (unit * take(unit, index.gather(1, nearest))).sum(dim=-1)
        far = (distance > self.reach * cutoff[:, None]).scatter(1, index, False)
        members = nearest.masked_fill(far, keep)
        counts = torch.zeros(len(index), keep + 1, device=index.device)
        sizes = counts.scatter_add(1, members, torch.ones_like(members, dtype=counts.dtype))[:, :keep]
        return Selection(index, cluster_means(tokens, members, keep), sizes=sizes if self.proportional else None)


def importance(layer: Decoder) -> Tensor:
    """(rows, visual) float32: softmax, over all tokens up to the last visual one, of their keys' products with the mean
    of their queries, before rotation, mean over heads."""
    query, key = (layer.heads(kind, "start", rotated=False).float() for kind in ("q", "k"))
    real = layer.real("start")
    mean = masked_mean(query.permute(0, 2, 1, 3).flatten(2), real).unflatten(1, query.shape[1::2]) * layer.scaling()
    grouped = mean.unflatten(1, (key.shape[1], -1))  # query heads that share a key head
    whole = torch.einsum("bkgd,bknd->bkgn", grouped, key).masked_fill(~real[:, None, None], float("-inf"))
    visual = layer.heads("k", rotated=False).float()
    own = torch.einsum("bkgd,bknd->bkgn", grouped, visual)
    return torch.exp(own - whole.logsumexp(dim=-1, keepdim=True)).mean(dim=(1, 2))
