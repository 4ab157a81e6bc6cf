"""VScan: patches that a shallow and a deep layer of the ViT attend to, and one more cut in the middle of the decoder.

Zhang et al., "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models", arXiv 2505.22654.
Before the decoder half of the budget goes, in equal parts, to windows of 6 x 6 patches, each keeping those that CLS
attends to most in ViT layer 5 of 22; the other half to those that CLS attends to most in the layer whose output the
projector reads. Every other token is averaged into the kept one nearest to it by the cosine of projected tokens. Before
decoder layer 16 of 32 the tokens that the last prompt token attends to most in that layer stay, in order. With T1 = 1.5
T and T2 = 0.5 T they are T on average over the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.budget import Accounting, BudgetError, Schedule, Stage, scaled_layers
from clasp.methods.base import Method
from clasp.methods.protocols import Grid, Positions, Scope, Selection, State
from clasp.ops.cluster import cluster_means
from clasp.ops.grouping import nearest_of, within
from clasp.ops.select import top_k

SHALLOW_LAYER, DEEP_LAYER = 5, 22
"""ViT layers (0-based) of CLIP-L in the official code."""
MIDDLE_LAYER = 16
"""Decoder layer of the second cut, on decoders of 32 layers."""
FIRST_SHARE = 1.5
"""Tokens that enter the decoder, for each of the budget."""


@dataclass(frozen=True, kw_only=True)
class VScan(Method):
    """VScan (arXiv 2505.22654).

    Args:
        local_share: share of the first budget that windows choose, in [0, 1]; the official code's 0.5.
        window: side of a window in tokens, at least 1; the official code's 6.
    """

    name: ClassVar[str] = "vscan"
    paper: ClassVar[str] = "2505.22654"
    inside: ClassVar[bool] = True
    convention: ClassVar[Accounting | None] = "output_average"
    scope: ClassVar[Scope] = "crop"
    reads_cls: ClassVar[bool] = True
    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average",)
    assumptions: ClassVar[tuple[str, ...]] = (
        "VScan's layers 5 of CLIP-L's 22 and 16 of 32 scale with the depth of other towers and decoders",
        "VScan's tokens that do not divide among the windows go to the global half; its code loses them",
        "VScan's windows count tokens of a crop, and are smaller at its lower and right edge",
        "VScan's first budget is split over the crops of an image in proportion to their tokens",
        "VScan's second cut ranks all visual tokens of a prompt together",
    )
    positions: Positions = "contiguous"  # as the official code re-indexes them
    local_share: float = 0.5
    window: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.local_share <= 1.0:
            raise ValueError(f"local_share={self.local_share} is outside [0, 1]; it is a share of the first budget")
        if self.window < 1:
            raise ValueError(f"window={self.window} is below 1; it is a side in tokens")

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target = self.target(visual_tokens)
        (middle,) = scaled_layers((MIDDLE_LAYER,), layers)
        if not 0 < middle < layers:
            raise BudgetError(f"a decoder of {layers} layers is too shallow for VScan, which cuts in its middle")
        room = target * layers
        first = min(round(FIRST_SHARE * target), visual_tokens, (room - (layers - middle)) // middle)
        second = min(first, round((room - first * middle) / (layers - middle)))
        return Schedule(visual_tokens, layers, (Stage(0, first), Stage(middle, second)), nominal=target)

    def scope_at(self, stage: Stage) -> Scope:
        return "crop" if stage.layer == 0 else "sample"

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (round(SHALLOW_LAYER * (feature_layer - 1) / DEEP_LAYER), feature_layer - 1)

    def select(self, state: State, keep: int) -> Selection:
        if state.stage.layer > 0:
            return Selection(top_k(state.attention("last"), keep))
        vision, tokens = state.vision(), state.tokens()
        shallow, deep = (vision.attention(layer) for layer in self.vision_states(vision.feature_layer))
        local = in_windows(shallow, state.grid(), self.window, int(self.local_share * keep))
        index = top_k(deep.masked_fill(local, float("inf")), keep)
        return Selection(index, cluster_means(tokens, nearest_of(tokens, index), keep), pivots=~local.gather(1, index))


def in_windows(scores: Tensor, grid: Grid, side: int, count: int) -> Tensor:
    """(rows, tokens) bool: the highest scores of each window, equally many of each, in all at most ``count``.

    Args:
        scores: (rows, tokens).
        side: of a window, in tokens; tokens without a place are in none.
    """
    across = [-(-frames[0][1] // side) for frames in grid.sizes]
    total = [wide * -(-frames[0][0] // side) for wide, frames in zip(across, grid.sizes, strict=True)]
    wide, quota = (
        torch.tensor(values).to(scores.device, non_blocking=True)[:, None]
        for values in (across, [count // windows for windows in total])
    )
    nowhere = grid.row < 0
    window = (grid.row // side * wide + grid.column // side).masked_fill(nowhere, max(total))
    sizes = torch.zeros(len(scores), max(total) + 1, dtype=torch.long, device=scores.device)
    sizes = sizes.scatter_add(1, window, torch.ones_like(window))
    order = scores.argsort(dim=1, descending=True, stable=True)
    return (within(window, sizes, order) < quota) & ~nowhere
