"""PruMerge and PruMerge+: tokens that CLS attends to far more than usual, each enriched by its neighbours.

Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", arXiv 2403.15388. With
a = attention of CLS to the patches in the ViT layer whose output the projector reads, the kept tokens are the outliers
a > Q3 + 1.5 (Q3 - Q1). Each kept token y_i becomes y_i + sum_j a_j y_j over the 32 other tokens, kept or not, whose
keys, all heads as one vector, are nearest to its own by cosine, before the projector. PruMerge+ keeps uniform samples
of the image besides. The most attended go first, by falling attention, then the samples in raster order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.methods.crops import PerCrop
from clasp.methods.protocols import Positions, Selection, State
from clasp.ops.matching import absorb, ragged_index
from clasp.ops.select import top_mask

_ASSUMPTIONS = (
    "PruMerge's attention is the mean over heads; its code takes query and key of all heads as one long head",
    "PruMerge reads the ViT layer before the projector, as the paper says; its code reads the last one",
    "PruMerge's code appends the weighted sum of all pruned tokens as one more token, which is left out",
    "PruMerge's fixed budget (adaptive: false) replaces its outlier count; adaptive counts stop at the budget",
)


@dataclass(frozen=True, kw_only=True)
class PruMerge(PerCrop):
    """PruMerge (arXiv 2403.15388, section 3).

    Args:
        adaptive: keep as many tokens as there are outliers, at least one and at most the budget, so that counts differ
            between images; otherwise exactly the budget, most attended first, as comparisons at one budget need.
        neighbours: tokens that each kept one absorbs, at least 0; from the official code.
    """

    name: ClassVar[str] = "prumerge"
    paper: ClassVar[str] = "2403.15388"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = _ASSUMPTIONS
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    adaptive: bool = False
    neighbours: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours < 0:
            raise ValueError(f"neighbours={self.neighbours} is negative; use 0 for no merging")

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1, feature_layer)

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        scores = vision.attention(vision.feature_layer - 1)
        outstanding, sampled = self.counts(scores, keep)
        salient = top_mask(scores, outstanding)
        index, valid = ragged_index(salient | evenly_spaced(~salient, sampled), keep)
        rank = scores.gather(1, index).masked_fill(~salient.gather(1, index), float("-inf"))
        order = rank.argsort(dim=1, descending=True, stable=True)
        index, valid = index.gather(1, order), valid.gather(1, order)
        features = vision.hidden_state(vision.feature_layer)
        keys = vision.heads(vision.feature_layer - 1, "k").transpose(1, 2).flatten(2)
        merged = vision.project(absorb(features, keys, scores, index, self.neighbours))
        return Selection(index, merged, pivots=salient.gather(1, index), valid=valid if self.adaptive else None)

    def counts(self, scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """(rows,) tokens of each row that are kept for their attention, and as uniform samples."""
        outstanding = (
            outliers(scores).clamp(min=1, max=keep) if self.adaptive else scores.new_full((len(scores),), keep)
        )
        return outstanding.long(), torch.zeros_like(outstanding).long()


@dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
    """PruMerge+ (arXiv 2403.15388, section 3.4): half of the budget goes to uniform samples.

    Args:
        adaptive: as many tokens as there are outliers and three times as many uniform samples, at most the budget.
        uniform_share: share of a fixed budget that goes to uniform samples, in [0, 1]; the official code's.
    """

    name: ClassVar[str] = "prumerge_plus"
    label: ClassVar[str] = "PruMerge+"
    assumptions: ClassVar[tuple[str, ...]] = (
        *_ASSUMPTIONS,
        "PruMerge+'s samples are evenly spaced, in raster order, among the tokens not kept for their attention",
    )
    uniform_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.uniform_share <= 1.0:
            raise ValueError(f"uniform_share={self.uniform_share} is outside [0, 1]; it is a share of the budget")

    def counts(self, scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        if self.adaptive:
            outstanding, _ = super().counts(scores, keep)
            return outstanding, torch.minimum(3 * outstanding, keep - outstanding)
        sampled = torch.full((len(scores),), int(keep * self.uniform_share), device=scores.device)
        return keep - sampled, sampled


def outliers(scores: Tensor) -> Tensor:
    """(rows,) how many of (rows, tokens) scores exceed the third quartile by over 1.5 interquartile ranges."""
    quartiles = torch.quantile(scores.float(), torch.tensor([0.25, 0.75], device=scores.device), dim=1)[..., None]
    return (scores > quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])).sum(dim=1)


def evenly_spaced(free: Tensor, counts: Tensor) -> Tensor:
    """Marks ``counts[b]`` tokens, evenly spaced, among those of (rows, tokens) bool that are free."""
    room = free.sum(dim=1, keepdim=True)
    rank = free.long().cumsum(dim=1)
    wanted = torch.minimum(counts[:, None], room)
    # a pick each time that rank * wanted / room, rounded to the nearest, steps up by one
    steps = [(r * wanted + room // 2) // room.clamp(min=1) for r in (rank - 1, rank)]
    return free & (steps[0] != steps[1])
