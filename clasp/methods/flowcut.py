"""FlowCut: patches are dropped inside the ViT, layer by layer, by how information flows between them and CLS.

Tong et al., "FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models", arXiv
2505.19536. In ViT layer l a patch's score is (r + e) |v|_1: r the attention of CLS, mean over heads, and e the softmax
over tokens of the products of CLS's value with theirs, mean over heads, both normalised to sum to one over the patches
that are left, and v its value, mean over heads. Scores are accumulated with weight 0.5 from layer to layer. After every
second layer (n - T) / sqrt(m) (1 - (H(r) / log n)^2) of the n patches leave, those of the lowest scores, H being
entropy and m the layers until the last such one; after that one exactly T are left, and the decoder gets these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.budget import Accounting, Geometry
from clasp.methods.base import Method
from clasp.methods.protocols import Patches, Positions, Scope, Selection, State
from clasp.ops.attention import attention_rows
from clasp.ops.matching import ragged_index
from clasp.ops.select import top_mask
from clasp.ops.similarity import blocks

OLD = 0.5
"""Weight of the scores of all layers before, official code."""


@dataclass(frozen=True, kw_only=True)
class FlowCut(Method):
    """FlowCut (arXiv 2505.19536); the budget sets how many patches leave, so it has no parameters of its own."""

    name: ClassVar[str] = "flowcut"
    paper: ClassVar[str] = "2505.19536"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "FlowCut's number of patches that leave is each image's own; its code takes the largest of a batch",
        "FlowCut's second cut at decoder layer 1, which its code adds for LLaVA-NeXT, is not made: every crop ends "
        "with its share of the budget",
    )
    positions: Positions = "contiguous"  # what leaves inside the ViT never enters a sequence

    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]:
        notes = super().fallbacks(geometry)
        if not geometry.cls:
            notes += ("flowcut: no CLS value; scores are attention times |v|_1 alone, as its code has it for Qwen2-VL",)
        return notes

    def merge_layers(self, feature_layer: int) -> tuple[int, ...]:
        return tuple(range(feature_layer - 1))

    def merge(self, layer: int, patches: Patches) -> Tensor | None:
        real, until = patches.sizes > 0, patches.remaining - 1
        value = patches.heads("v").float()
        relation = normalised(cls_attention(patches, real), real)
        flow = relation
        if patches.cls:
            everyone = torch.cat([torch.ones_like(real[:, :1]), real], dim=1)
            probabilities = attention_rows(value[:, :, :1], value, everyone[:, None], 1.0)[:, 0, 1:]
            flow = relation + normalised(probabilities, real)
        score = flow * value.mean(dim=1)[:, -real.shape[1] :].norm(p=1, dim=-1)
        known = patches.scratch.get("scores")
        if known is not None:
            score = OLD * known.gather(1, patches.places) + (1 - OLD) * score
        everywhere = score.new_zeros(len(score), math.prod(patches.grid)) if known is None else known
        patches.scratch["scores"] = everywhere.scatter(1, patches.places, torch.where(real, score, 0.0))
        if until % 2:
            return None
        stay = top_mask(score.masked_fill(~real, float("-inf")), patches_left(relation, real, until, patches.keep))
        itself = torch.arange(real.shape[1], device=real.device).expand_as(patches.places)
        return itself.masked_fill(real & ~stay, -1)

    def select(self, state: State, keep: int) -> Selection:
        index, valid = ragged_index(state.vision().representatives(), keep)
        return Selection(index, valid=valid)


def patches_left(relation: Tensor, real: Tensor, until: int, keep: int) -> Tensor:
    """(crops,) long: how many patches go on.

    Args:
        relation: (crops, patches) probabilities, zero at padding.
        until: layers until the last one after which patches leave.
        keep: how many are left then.
    """
    count = real.sum(dim=1)
    if until == 0:
        return count.clamp(max=keep)
    even = count.double().log().clamp(min=1e-12)
    entropy = torch.special.entr(relation.double()).sum(dim=1)
    leaving = ((count - keep) / until**0.5 * (1.0 - (entropy / even).square())).round().long()
    return torch.minimum(count, (count - leaving).clamp(min=keep))


def normalised(weights: Tensor, real: Tensor) -> Tensor:
    """(crops, patches) weights that sum to one over the patches that are no padding."""
    weights = weights.masked_fill(~real, 0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def cls_attention(patches: Patches, real: Tensor) -> Tensor:
    """(crops, patches) float32 attention of CLS, mean over heads; without CLS that received from all patches."""
    query, key = patches.heads("q"), patches.heads("k")
    if patches.cls:
        everyone = torch.cat([torch.ones_like(real[:, :1]), real], dim=1)
        return attention_rows(query[:, :, :1], key, everyone[:, None], patches.scaling)[:, 0, 1:]
    total = torch.zeros(real.shape, device=real.device)
    for rows in blocks(query.shape[2], query.shape[1] * key.shape[2]):
        probabilities = attention_rows(query[:, :, rows], key, real[:, None], patches.scaling)
        total += (probabilities * real[:, rows, None]).sum(dim=1)
    return total
