"""HoloV: a budget for each strip of the image, by attention and by how much its tokens differ.

Zou et al., "Don't Just Chase Highlighted Tokens in MLLMs: Revisiting Visual Holistic Context Retention", arXiv
2510.02912. Before the decoder, on projected tokens: the raster sequence is cut into P = max(1, floor(1024/576 N/T))
strips of equal length. A token scores 1000 a_i + 0.09 k v_i, with a its CLS attention in the ViT layer whose output the
projector reads, v_i the variance of its cosines to the others of its strip, and k the ratio of the strip's mean 1000 a
to its mean v. Strips share T by their mean scores, and each keeps its tokens of largest a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clasp.budget import PUBLISHED_TOKENS, Accounting
from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.ops.select import top_k
from clasp.ops.similarity import blocks

STRIPS = 1024 / PUBLISHED_TOKENS
"""Strips for each time that the tokens are more than the budget: 16 where 64 of 576 stay, as published."""
ATTENTION_SCALE, EPSILON = 1000.0, 1e-6
"""Of the official code."""


@dataclass(frozen=True, kw_only=True)
class HoloV(Method):
    """HoloV (arXiv 2510.02912).

    Args:
        variance_weight: weight of the variance beside the attention, non-negative; the official code's 0.09.
    """

    name: ClassVar[str] = "holov"
    paper: ClassVar[str] = "2510.02912"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "HoloV's number of strips follows the rule of its Qwen code, which gives the published one at 64 of 576 tokens",
        "HoloV's budget is split over the crops of an image in proportion to their tokens",
        "HoloV's kept tokens stay in raster order; its LLaVA code orders each strip's by attention",
        "HoloV's tokens that full strips cannot take go to the most attended of the others; its code pads with zeros",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    variance_weight: float = 0.09

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance_weight < 0:
            raise ValueError(f"variance_weight={self.variance_weight} is negative; use 0 for attention alone")

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1,)

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        attention = vision.attention(vision.feature_layer - 1).float()
        strips = Strips(state.visual_tokens, int(STRIPS * state.visual_tokens / keep), attention.device)
        scaled = ATTENTION_SCALE * attention[:, strips.places].masked_fill(~strips.real, 0.0)
        variance = strips.variance(state.tokens())
        balance = strips.mean(scaled) / (strips.mean(variance) + EPSILON)
        quotas = apportion(strips.mean(scaled + self.variance_weight * variance * balance[..., None]), keep)
        falling = scaled.masked_fill(~strips.real, -1.0).argsort(dim=2, descending=True, stable=True)
        chosen = strips.flat(falling.argsort(dim=2) < quotas[..., None])
        return Selection(top_k(attention.masked_fill(chosen, float("inf")), keep))


class Strips:
    """A sequence cut into runs of equal length; the first ones are one longer where it does not divide.

    Args:
        tokens: its length.
        count: runs asked for; at least one and at most one a token are made.

    Attributes:
        places: (strips, longest) long, the tokens of each.
        real: (strips, longest) bool, which entries are not padding.
    """

    def __init__(self, tokens: int, count: int, device: torch.device) -> None:
        count = min(max(count, 1), tokens)
        short, longer = divmod(tokens, count)
        numbers = torch.arange(count)
        starts, sizes = numbers * short + numbers.clamp(max=longer), short + (numbers < longer).long()
        within = torch.arange(short + bool(longer))
        strip = numbers.repeat_interleave(sizes)
        self.real = (within < sizes[:, None]).to(device, non_blocking=True)
        self.places = (starts[:, None] + within).clamp(max=tokens - 1).to(device, non_blocking=True)
        self._sizes = sizes.to(device, non_blocking=True)
        self._entry = (strip * len(within) + torch.arange(tokens) - starts[strip]).to(device, non_blocking=True)

    def flat(self, values: Tensor) -> Tensor:
        """(rows, strips, longest) -> (rows, tokens), without the padding."""
        return values.flatten(1)[:, self._entry]

    def mean(self, values: Tensor) -> Tensor:
        """(rows, strips, longest), zero at padding -> (rows, strips)."""
        return values.sum(dim=2) / self._sizes

    def variance(self, values: Tensor) -> Tensor:
        """(rows, tokens, dim) -> (rows, strips, longest) float32, zero at padding: the variance of each token's
        cosines to the tokens of its strip, that to itself being taken as zero but counted, as in the official code."""
        unit = normalize(values.float(), dim=-1)[:, self.places] * self.real[..., None]
        others = (self._sizes - 1).clamp(min=1)[:, None]
        longest = unit.shape[2]
        found = []
        for rows in blocks(longest, self.real.numel()):
            cosines = unit[:, :, rows] @ unit.transpose(-1, -2)
            cosines.diagonal(offset=rows.start, dim1=-2, dim2=-1).fill_(0.0)
            apart = cosines - (cosines.sum(dim=-1) / others)[..., None]
            found.append(apart.square_().mul_(self.real[:, None]).sum(dim=-1) / others)
        return torch.cat(found, dim=2) * self.real


def apportion(scores: Tensor, total: int) -> Tensor:
    """(rows, strips) non-negative scores -> long parts of ``total`` in proportion, rounded down; what is left goes, one
    each, to the largest scores."""
    weight = scores / (scores.sum(dim=1, keepdim=True) + EPSILON)
    parts = (weight * total).long()
    rank = weight.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return parts + (rank < total - parts.sum(dim=1, keepdim=True))
