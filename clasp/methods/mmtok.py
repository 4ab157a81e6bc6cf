"""MMTok: visual tokens that cover both the question's words and the image.

Dong et al., "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", arXiv 2508.18264. Before the
decoder: rows P = softmax_i(cos(z_a, x_i) / 0.02) / m of the m words, z being their embeddings in the decoder and x the
projected tokens, stand over rows 0.5 softmax_i(cos(u_b, u_i) / 0.2) / N of the N tokens, u being their ViT features
before the projector. T times the token is added that covers the rows best, by the sum over rows of how far its value
exceeds the largest value of those chosen. Order is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clasp.budget import Accounting
from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.ops.covering import SoftmaxCoverage, cover


@dataclass(frozen=True, kw_only=True)
class MMTok(Method):
    """MMTok (arXiv 2508.18264).

    Args:
        text_temperature: of the softmax over cosines to words, above 0; the official code's 0.02.
        vision_temperature: of the softmax over cosines of tokens, above 0; the official code's 0.2.
        vision_weight: alpha, weight of the tokens' rows beside the words', non-negative; the official code's 0.5.
    """

    name: ClassVar[str] = "mmtok"
    paper: ClassVar[str] = "2508.18264"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    assumptions: ClassVar[tuple[str, ...]] = (
        "MMTok's words are all tokens of the instruction; its code leaves out 50 function words and format prompts",
        "MMTok's patches in the padding of a square image are candidates, which its code for LLaVA-1.5 leaves out",
        "MMTok's budget is split over the crops of an image in proportion to their tokens",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    vision_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text_temperature", "vision_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not above 0; it divides cosines in a softmax")
        if self.vision_weight < 0:
            raise ValueError(f"vision_weight={self.vision_weight} is negative; use 0 for the words alone")

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer,)

    def select(self, state: State, keep: int) -> Selection:
        vision, (_, words, real) = state.vision(), state.embeddings()
        coverage = SoftmaxCoverage(
            words,
            real,
            state.tokens(),
            vision.hidden_state(vision.feature_layer),
            sharp=self.text_temperature,
            soft=self.vision_temperature,
            share=self.vision_weight,
        )
        return Selection(cover(coverage, torch.ones_like(state.tokens()[..., 0], dtype=torch.float32), keep))
