"""VisPruner: half the budget by CLS attention, the other half by thinning near-duplicates among the rest.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", arXiv
2412.01818. Important tokens are the int(r T) of largest head-mean CLS attention in the ViT layer whose output the
projector reads. The others, by falling attention, are dealt alternately to two sides; the 8 tokens of the first side
that are most similar to one of the second (cosine of ViT features, before the projector) are dropped, and so on until
T - int(r T) diverse tokens remain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clasp.budget import Accounting
from clasp.methods.crops import PerCrop
from clasp.methods.protocols import Positions, Selection, State
from clasp.ops.matching import thin
from clasp.ops.select import take


@dataclass(frozen=True, kw_only=True)
class VisPruner(PerCrop):
    """VisPruner (arXiv 2412.01818, section 3).

    Args:
        important_share: r, share of the budget that goes to the most attended tokens, in [0, 1]; the paper's default.
        drop_each_round: tokens dropped in each round of matching, at least 1; from the official code.
    """

    name: ClassVar[str] = "vispruner"
    paper: ClassVar[str] = "2412.01818"
    convention: ClassVar[Accounting | None] = "nominal"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "VisPruner's order between rounds (first side by falling similarity, then the second side) is its code's",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    important_share: float = 0.5
    drop_each_round: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.important_share <= 1.0:
            raise ValueError(f"important_share={self.important_share} is outside [0, 1]; it is a share of the budget")
        if self.drop_each_round < 1:
            raise ValueError(f"drop_each_round={self.drop_each_round} is below 1; nothing would ever be dropped")

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1, feature_layer)

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        scores = vision.attention(vision.feature_layer - 1)
        order = scores.argsort(dim=1, descending=True, stable=True)
        count = int(keep * self.important_share)
        important, rest = order[:, :count], order[:, count:]
        features = vision.hidden_state(vision.feature_layer)
        diverse = rest.gather(1, thin(take(features, rest), keep - count, self.drop_each_round))
        index = torch.cat([important, diverse], dim=1).sort(dim=1).values
        pivots = torch.zeros_like(scores, dtype=torch.bool).scatter(1, important, True)
        return Selection(index, pivots=pivots.gather(1, index))
