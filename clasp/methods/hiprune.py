"""HiPrune: tokens that a middle layer of the ViT attends to, their neighbours, and tokens that its last ones attend to.

Liu et al., "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models", arXiv
2508.00553. Before the decoder, by the attention that a patch receives, mean over heads and over all queries, in an
object layer (m) and in the layer whose output the projector reads (d): round(alpha T / 5) anchors of largest m, the
patches before, after, above and below each, and for the rest of T the largest d. Order is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clasp.budget import Accounting, Geometry, Schedule
from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.ops.select import top_k

OBJECT_LAYER, OUTPUT_LAYER = 8, 22
"""ViT layers (0-based) of CLIP-L that the official code reads with LLaVA."""


@dataclass(frozen=True, kw_only=True)
class HiPrune(Method):
    """HiPrune (arXiv 2508.00553).

    Args:
        alpha: share of the budget that goes to anchors and their neighbours, in [0, 1]; the paper's 0.1.
        object_layer: ViT layer (0-based) that finds anchors; None: 8 where the projector reads the output of layer 22,
            and moved to the same relative depth of other towers.
    """

    name: ClassVar[str] = "hiprune"
    paper: ClassVar[str] = "2508.00553"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    assumptions: ClassVar[tuple[str, ...]] = (
        "HiPrune's object layer, 8 of CLIP-L's 22 before the projector, scales with other towers' depth; its code for "
        "Qwen2.5-VL takes 15 of 31",
        "HiPrune's budget is split over an image's crops in proportion to their tokens; its code splits it equally",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    alpha: float = 0.1
    object_layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha={self.alpha} is outside [0, 1]; it is a share of the budget")

    def check(self, geometry: Geometry) -> Schedule:
        if self.object_layer is not None and not 0 <= self.object_layer < geometry.feature_layer:
            raise ValueError(
                f"object_layer={self.object_layer} is no ViT layer before the projector; use 0 to "
                f"{geometry.feature_layer - 1}"
            )
        return super().check(geometry)

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (self._object_layer(feature_layer), feature_layer - 1)

    def _object_layer(self, feature_layer: int) -> int:
        if self.object_layer is not None:
            return self.object_layer
        return round(OBJECT_LAYER * (feature_layer - 1) / OUTPUT_LAYER)

    def select(self, state: State, keep: int) -> Selection:
        vision, grid = state.vision(), state.grid()
        objects = vision.received(self._object_layer(vision.feature_layer))
        output = vision.received(vision.feature_layer - 1)
        count = round(keep * self.alpha / 5)
        # those of the largest m, which need not be in order
        anchors = objects.argsort(dim=1, descending=True, stable=True)[:, :count]
        wide = torch.tensor([frames[0][1] for frames in grid.sizes]).to(anchors.device, non_blocking=True)[:, None]
        around = torch.cat([anchors + step for step in (-1, 1, -wide, wide)], dim=1).clamp(0, state.visual_tokens - 1)
        first = torch.zeros_like(output).scatter(1, around, 1.0).scatter(1, anchors, 2.0)
        return Selection(top_k(first + output, keep))
