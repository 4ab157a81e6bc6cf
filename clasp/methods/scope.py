"""SCOPE: visual tokens that are salient and cover what the chosen ones do not.

Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs", arXiv 2510.24214. Before
the decoder: with C the cosine similarities of the ViT features before the projector and s the attention of CLS in the
ViT layer whose output the projector reads, summed over heads, T times the token j of largest s_j^alpha sum_i max(0,
C_ij - m_i) is added, m_i being the highest similarity of i to a chosen token, 0 at first. Order is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clasp.budget import Accounting, Geometry
from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.ops.covering import CosineCoverage, cover


@dataclass(frozen=True, kw_only=True)
class SCOPE(Method):
    """SCOPE (arXiv 2510.24214).

    Args:
        alpha: exponent of the saliency, non-negative; 1 in the official run scripts. 0 leaves coverage alone.
        features: whose similarities are covered: the ViT's before the projector (``vision``), as in the paper, or the
            ``projected`` ones, which with alpha=0 is all that is read (assumption; for servers, :mod:`clasp.serving`).
    """

    name: ClassVar[str] = "scope"
    paper: ClassVar[str] = "2510.24214"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "SCOPE's budget is split over the crops of an image in proportion to their tokens; its code splits it equally",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    alpha: float = 1.0
    features: Literal["vision", "projected"] = "vision"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise ValueError(f"alpha={self.alpha} is negative; use 0 for coverage alone, 1 for the published rule")

    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]:
        notes = super().fallbacks(geometry)
        return notes if self.alpha else tuple(note for note in notes if "CLS" not in note)

    def assumed(self) -> tuple[str, ...]:
        own = ("SCOPE covers projected features instead of the ViT's",) if self.features == "projected" else ()
        return (*super().assumed(), *own)

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        read = [feature_layer - 1] if self.alpha else []
        return tuple(read + [feature_layer] * (self.features == "vision"))

    def select(self, state: State, keep: int) -> Selection:
        if self.features == "vision":
            vision = state.vision()
            similar = vision.hidden_state(vision.feature_layer)
        else:
            similar = state.tokens()
        return Selection(cover(CosineCoverage(similar), self._saliency(state, similar), keep))

    def _saliency(self, state: State, features: Tensor) -> Tensor:
        """(rows, tokens) float32."""
        if not self.alpha:
            return torch.ones(features.shape[:2], device=features.device)
        vision = state.vision()
        # the mean over heads orders products as their sum does
        return vision.attention(vision.feature_layer - 1).float() ** self.alpha
